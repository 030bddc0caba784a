"""The two projects that are released: the demo that the repository carries, and a real one from the package index."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

from building import PROJECT
from processes import Trouble

HERE = Path(__file__).resolve().parent
SECRET = "not-a-secret-not-a-secret-not-a-secret-not-a-secret-0123456789"

VIEWS = 12  # releases in which only a view is changed

# The pages are for the visitors who come while one release takes over from another.
VISITED = """

import time

from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def visit(request):
    return HttpResponse("welcome", content_type="text/plain")


def slow(request):
    time.sleep(2)
    return HttpResponse("at last", content_type="text/plain")
"""

MIGRATION = """from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("common", "0009_activitylog_migrate_to_jsonfield")]
    operations = [migrations.AlterField("activitylog", "action_type", models.CharField(db_index=True, max_length=200))]
"""


class Project:
    """A repository with the tags `first`, `same` (a migration more, the requirements as they were), `pin` (one requirement's pin changed) and `views-0` to
    `views-11` (in each only a view changed). `code` is where the code is within the project, `manage` where manage.py is, `module` what the server loads and
    `page` what proves that it serves."""

    def __init__(self, bench):
        self.environment, self.repository = bench.environment, bench.directory / f"repository-{self.name}"

    def variables(self, place):
        """What the project's settings want to know."""
        raise NotImplementedError

    def git(self, *words):
        name = {"GIT_AUTHOR_NAME": "Bench", "GIT_AUTHOR_EMAIL": "bench@example.com", "GIT_CONFIG_GLOBAL": "/dev/null",
                "GIT_COMMITTER_NAME": "Bench", "GIT_COMMITTER_EMAIL": "bench@example.com"}
        return subprocess.run(["git", "-C", self.repository, *words], env={**self.environment, **name}, check=True, capture_output=True, text=True).stdout

    def replace(self, file, old, new):
        path = self.repository / file
        text = path.read_text()
        if old not in text:
            raise Trouble(f"{file} of {self.title} is not what it was: there is no {old!r} in it")
        path.write_text(text.replace(old, new, 1))

    def tag(self, tag, message):
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        self.git("tag", tag)

    def commit(self, ref):
        return self.git("rev-parse", f"{ref}^{{commit}}").strip()

    def change_views(self, views):
        file = self.repository / views
        for number in range(VIEWS):
            self.tag(f"views-{number}", "Change a view")
            file.write_text(file.read_text() + f"\n# {number}: only a comment.\n")

    def size(self):
        pins = [line for line in self.git("show", "first:requirements.txt").splitlines() if re.match(r"\w", line)]
        return f"{len(pins)} pinned requirements, {len(self.git('ls-tree', '-r', '--name-only', 'first').splitlines()):,} files"


class Demo(Project):
    name, title = "demo", "The demo project"
    code, manage, module, page = ".", "manage.py", "noticeboard.wsgi", "/healthz"

    def variables(self, place):
        return {"SECRET_KEY": SECRET, "ALLOWED_HOSTS": "localhost", "DATABASE_PATH": str(place.database)}

    def make(self):
        make = [PROJECT / "packaging/demo/make-repository", self.repository, "--upto", "2"]
        subprocess.run(make, env=self.environment, check=True, stdout=subprocess.DEVNULL)
        self.git("tag", "first", "v1")
        self.git("tag", "same", "v2")
        self.replace("requirements.txt", "whitenoise==6.12.0", "whitenoise==6.11.0")
        self.tag("pin", "Take a requirement back")
        views = self.repository / "board/views.py"
        views.write_text(views.read_text() + VISITED)
        self.replace("noticeboard/urls.py", "]\n", '    path("visit", views.visit),\n    path("slow", views.slow),\n]\n')
        self.change_views("board/views.py")


class Pretalx(Project):
    """pretalx, the conference software, as its authors publish it; with SQLite."""

    name, title = "pretalx", "pretalx 2025.2.2"
    code, manage, module, page = "src", "src/manage.py", "served", "/orga/login/"
    recipe = HERE / "pretalx"

    def variables(self, place):
        return {"PRETALX_DATA_DIR": str(place.app / "shared"), "PRETALX_DB_NAME": str(place.database), "PRETALX_SITE_URL": "http://localhost",
                "PRETALX_NO_INITIAL_LOG": "1", "DATABASE_PATH": str(place.database)}

    def download(self, pip):
        """The published source, held to its hash: by pip when it comes, and by us when it was there already."""
        words = (self.recipe / "sdist.txt").read_text()
        wanted = re.search(r"sha256:(\w+)", words)[1]
        directory = PROJECT / "target/bench"
        archive = directory / f"{re.match(r'[^ ]+', words)[0].replace('==', '-')}.tar.gz"
        if not archive.exists():
            directory.mkdir(parents=True, exist_ok=True)
            done = subprocess.run([*pip, "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--require-hashes", "--dest", directory,
                                   "--requirement", self.recipe / "sdist.txt"], env=self.environment, stdin=subprocess.DEVNULL)
            if done.returncode or not archive.exists():
                raise Trouble(f"{archive.name} could not be downloaded")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != wanted:
            raise Trouble(f"{archive} is not what it should be; remove it")
        return archive

    def make(self, pip):
        archive = self.download(pip)
        self.repository.mkdir()
        subprocess.run(["tar", "--extract", "--no-same-owner", "--strip-components=1", "--file", archive, "--directory", self.repository], check=True)
        shutil.copy(self.recipe / "requirements.txt", self.repository)
        shutil.copy(self.recipe / "served.py", self.repository / "src")
        self.git("init", "--quiet", "--initial-branch=main")
        self.tag("first", "Begin with what was published")
        self.replace("src/pretalx/common/models/log.py", "action_type = models.CharField(max_length=200)",
                     "action_type = models.CharField(max_length=200, db_index=True)")
        (self.repository / "src/pretalx/common/migrations/0010_index_of_actions.py").write_text(MIGRATION)
        self.tag("same", "Find what was done by its kind")
        self.replace("requirements.txt", "sqlparse==0.6.1", "sqlparse==0.6.0")
        self.tag("pin", "Take a requirement back")
        self.replace("src/pretalx/orga/views/auth.py", "        logout(request)\n", "        # Nobody is left logged in.\n        logout(request)\n")
        self.change_views("src/pretalx/orga/views/auth.py")
