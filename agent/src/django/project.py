"""Has a Django project do things in one process that has loaded it once, and tells what came of them. Runs with every Django from 3.2 on.

Arguments: mode, path of manage.py, settings module or "", alias of the database or "", which other databases are migrated ("*" for those that a router
keeps for some apps alone, else their aliases with commas between them), and for collect the places where static files may go.

  inspect   what the project is, and how its database and its code stand to each other; changes nothing
  contract  whether the models fit the tables that are there; changes nothing
  reversal  what reversing migrations would take, by the names in the last arguments; changes nothing
  load      imports what a server imports
  examine   `check` and `makemigrations --check`, and then what inspect tells
  collect   `collectstatic`, and what it went by

The answer is one line of JSON on standard output. What the project prints goes to standard error.
"""

import functools
import importlib.abc
import importlib.util
import json
import os
import pkgutil
import runpy
import sys
import tempfile
import threading
import traceback

answer_to = os.dup(1)
os.dup2(2, 1)
mode, manage, wanted_settings, alias, wanted_others = sys.argv[1:6]
places = sys.argv[6:]


class Seen:
    """What the project's code went by, as the interpreter tells of it (PEP 578)."""

    def __init__(self):
        # Paths that were opened for reading or listed; those that were written or removed; those that lines were only added to, as to a log; and why
        # nobody can tell what else it went by.
        self.read, self.written, self.added_to, self.unsure = set(), set(), set(), None
        self.on = hasattr(sys, "addaudithook")
        if self.on:
            sys.addaudithook(self.hear)
            Variables.hear(self)
        else:
            self.unsure = "the interpreter is older than Python 3.8"

    def hear(self, event, args):
        if not self.on:
            return
        if event == "open":
            path, mode, flags = args
            flags = flags if isinstance(flags, int) else 0
            writes = flags & (os.O_WRONLY | os.O_RDWR) or isinstance(mode, str) and set(mode) & set("wax+")
            adds = flags & os.O_APPEND and not flags & (os.O_RDWR | os.O_TRUNC)
            self.note(self.added_to if adds else self.written if writes else self.read, path)
        elif event in ("os.listdir", "os.scandir"):
            self.note(self.read, args[0] if args[0] is not None else ".")
        elif event in ("os.rename", "os.link", "os.symlink"):
            self.note(self.written, args[0])
            self.note(self.written, args[1])
        elif event == "os.mkdir":
            # Where a directory is, nothing is made.
            if not os.path.isdir(args[0]):
                self.note(self.written, args[0])
        elif event in ("os.remove", "os.rmdir", "os.truncate", "os.utime", "os.chmod"):
            self.note(self.written, args[0])
        elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"):
            self.doubt("it starts programs")
        elif event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            self.doubt("it uses the network")
        elif event == "sqlite3.connect":
            self.doubt("it opens a database")

    def note(self, paths, path):
        if isinstance(path, (str, bytes, os.PathLike)):
            paths.add(os.path.abspath(os.fsdecode(path)))

    def doubt(self, why):
        self.unsure = self.unsure or why

    def told(self, release, root, connections):
        """What was read of the release, by paths within it; and what was read elsewhere, with what tells whether it is the same later."""
        self.on = False
        # The environment and the standard library: another one has another key.
        homes = {os.path.realpath(home) for home in (sys.prefix, os.path.dirname(os.__file__))}
        scratch = os.path.realpath(tempfile.gettempdir())
        within = lambda path, *dirs: any(path == dir or path.startswith(dir + os.sep) for dir in dirs)
        is_cache = lambda path: os.sep + "__pycache__" in path
        parents = {}

        def real(path):
            # A link at the end is followed as well.
            dir, name = os.path.split(path)
            if dir not in parents:
                parents[dir] = os.path.realpath(dir)
            whole = os.path.join(parents[dir], name)
            return os.path.realpath(whole) if os.path.islink(whole) else whole

        # A log elsewhere is nobody's but its own; one that is read as well counts by that.
        added_to = [path for path in map(real, self.added_to) if within(path, release)]
        for path in sorted([*map(real, self.written), *added_to]):
            own = within(path, root) if within(path, release) else within(path, scratch, "/dev")
            if not own and not is_cache(path):
                self.doubt("it writes " + path)
        read, elsewhere = set(), []
        for path in sorted(set(map(real, self.read))):
            if within(path, root, *homes):
                continue
            if within(path, "/proc", "/sys"):
                self.doubt("it reads " + path)
            elif not within(path, release):
                if within(path, scratch, "/dev/null", "/dev/urandom"):
                    continue
                if not is_text(path):
                    self.doubt("it reads a file whose name is not UTF-8")
                    continue
                try:
                    stat = os.stat(path)
                    elsewhere.append([path, "%d %d %d" % (stat.st_ino, stat.st_size, stat.st_mtime_ns)])
                except OSError:
                    elsewhere.append([path, ""])
            # What was looked for in vain comes to be there only by a new file of the commit.
            elif os.path.exists(path) and not os.path.isdir(path):
                if not is_text(path):
                    self.doubt("it reads a file whose name is not UTF-8")
                    continue
                if is_cache(path):
                    dir, name = os.path.split(path)
                    path = os.path.join(os.path.dirname(dir), name.split(".")[0] + ".py")
                read.add(os.path.relpath(path, release))
        if any(connection.connection is not None for connection in connections):
            self.doubt("it opens a database")
        return {"read": sorted(read), "elsewhere": elsewhere, "unsure": self.unsure}


class Variables(type(os.environ)):
    """The environment, which tells when somebody asks for what is another in each release."""

    seen = None

    @classmethod
    def hear(cls, seen):
        cls.seen = seen
        os.environ.__class__ = cls

    def __getitem__(self, name):
        if isinstance(name, str) and (name.startswith("RELEASE_") or name in ("REVISION", "PREVIOUS_REVISION")):
            self.seen.doubt("it reads the variable " + name)
        return super().__getitem__(name)


if mode == "collect":
    seen = Seen()


def is_text(path):
    """Whether a path can stand in JSON: Python has surrogates for bytes that are no UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def answer(value):
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            # The project replaced or closed it.
            pass
    data = (json.dumps(value, ensure_ascii=False) + "\n").encode(errors="replace")
    while data:
        data = data[os.write(answer_to, data):]
    # A thread that the project started must not keep this process.
    os._exit(0)


def fail(stage, err):
    lines = traceback.format_exception(type(err), err, err.__traceback__)
    text = "".join(lines)
    os.write(2, text.encode(errors="replace"))
    answer({
        "failed": {
            "stage": stage,
            "kind": type(err).__name__,
            "message": str(err),
            "missing": getattr(err, "name", None) if isinstance(err, ImportError) else None,
            "trace": text.splitlines()[-20:],
            "settings": no_such_settings(err),
        }
    })


def no_such_settings(err):
    """Where the settings module itself is not there, what its package has instead; nothing where something else is missing."""
    wanted = wanted_settings or os.environ.get("DJANGO_SETTINGS_MODULE", "")
    missing = err.name if isinstance(err, ModuleNotFoundError) else None
    if not missing or not (wanted + ".").startswith(missing + "."):
        return None
    package = missing.rpartition(".")[0]
    try:
        places = importlib.util.find_spec(package).submodule_search_locations or [] if package else [os.path.dirname(manage)]
        there = sorted(found.name for found in pkgutil.iter_modules(places))
    except Exception:
        there = []
    return {"module": wanted, "missing": missing.rpartition(".")[2], "package": package, "there": there}


class Stop(BaseException):
    pass


class HandingOver(importlib.abc.MetaPathFinder):
    """Changes django.core.management right after it is loaded, and loads nothing by itself: manage.py may patch Django before, or change sys.path."""

    found, on = False, True

    def find_spec(self, name, path=None, target=None):
        if name != "django.core.management" or self.found:
            return None
        self.found = True
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            self.stop_in(module)

        spec.loader.exec_module = exec_module
        return spec

    def stop_in(self, module):
        module.execute_from_command_line = self.stopping(module.execute_from_command_line)
        module.ManagementUtility.execute = self.stopping(module.ManagementUtility.execute)

    def stopping(self, real):
        """Stops while manage.py runs, and is the real one afterwards: what manage.py wraps around it stays, and works."""

        @functools.wraps(real)
        def stop(*args, **kwargs):
            if self.on:
                raise Stop
            return real(*args, **kwargs)

        return stop

    def undo(self):
        self.on = False
        sys.meta_path.remove(self)


def find_settings():
    """Runs manage.py up to the point where it hands over to Django: only it knows how it chooses its settings, and what it does before."""
    handing_over = HandingOver()
    sys.meta_path.insert(0, handing_over)
    if "django.core.management" in sys.modules:
        handing_over.stop_in(sys.modules["django.core.management"])
    sys.path[0] = os.path.dirname(manage)
    sys.argv = [manage, "version"]
    if wanted_settings:
        os.environ["DJANGO_SETTINGS_MODULE"] = wanted_settings
    try:
        runpy.run_path(manage, run_name="__main__")
    except Stop:
        pass
    handing_over.undo()
    if wanted_settings:
        os.environ["DJANGO_SETTINGS_MODULE"] = wanted_settings


def run(*words):
    """Runs a command of manage.py as manage.py would; its exit status."""
    from django.core.management import ManagementUtility

    sys.argv = [manage, *words] + (["--settings=" + wanted_settings] if wanted_settings else [])
    try:
        ManagementUtility(sys.argv).execute()
    except SystemExit as err:
        if isinstance(err.code, int) or err.code is None:
            return err.code or 0
        print(err.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def apart(act):
    """Does something in a process that has loaded the project and done nothing else; its exit status, and what it said."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(ours)
            os.dup2(theirs, 1)
            os.dup2(theirs, 2)
            status = act()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        finally:
            os._exit(status)
    os.close(theirs)
    said = b""
    with open(ours, "rb", 0) as pipe:
        while True:
            chunk = pipe.read(65536)
            if not chunk:
                break
            os.write(2, chunk)
            said += chunk
    _, status = os.waitpid(child, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status), said.decode(errors="replace")


def is_migrated():
    """Whether the database has a migration: 0 where it has none, as the exit status of a process."""
    from django.db import connections
    from django.db.migrations.recorder import MigrationRecorder

    connection = connections[alias]
    name = str(connection.settings_dict["NAME"])
    if connection.vendor == "sqlite" and not connection.is_in_memory_db():
        # Connecting would make the file; and what a URI names is not looked for here.
        if name.startswith("file:"):
            return 1
        if not os.path.exists(name):
            return 0
    return 1 if MigrationRecorder(connection).applied_migrations() else 0


def settings_text(settings, name):
    value = getattr(settings, name, None)
    return str(value) if value else None


def chosen_by_default(settings):
    """The settings module that the WSGI or ASGI module chooses where none is set, by its source: to import it would do more than to look."""
    import ast

    for name in ("WSGI_APPLICATION", "ASGI_APPLICATION"):
        try:
            spec = importlib.util.find_spec(settings_text(settings, name).rpartition(".")[0])
            with open(spec.origin, "rb") as source:
                tree = ast.parse(source.read())
        except Exception:
            # Whoever starts the server is told why it cannot be read.
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setdefault" and len(node.args) == 2:
                try:
                    key, value = map(ast.literal_eval, node.args)
                except ValueError:
                    continue
                if key == "DJANGO_SETTINGS_MODULE" and isinstance(value, str):
                    return value
    return None


LIBPQ = [
    "service", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "options", "target_session_attrs",
    "channel_binding", "gssencmode", "krbsrvname", "connect_timeout", "hostaddr",
]


def database(connection):
    settings = connection.settings_dict
    name = str(settings.get("NAME") or "")
    if connection.vendor == "sqlite" and name and not connection.is_in_memory_db():
        name = os.path.abspath(name)
    options = settings.get("OPTIONS") or {}
    return {
        "vendor": connection.vendor,
        "name": name,
        "host": str(settings.get("HOST") or ""),
        "port": str(settings.get("PORT") or ""),
        "user": str(settings.get("USER") or ""),
        "password": str(settings.get("PASSWORD") or ""),
        "options": {key: str(options[key]) for key in LIBPQ if options.get(key) is not None} if connection.vendor == "postgresql" else {},
    }


def inspect(settings, **more):
    import django
    from django.db import connections

    try:
        databases = {name: database(connections[name]) for name in connections}
    except BaseException as err:
        fail("databases", err)
    kept = kept_within(settings, connections, places, alias)
    if alias not in databases:
        told = {
            "failed": "there is no database %r in DATABASES; there is %s" % (alias, ", ".join(sorted(databases)) or "none"),
            "hint": "name under [django] database what DATABASES has",
        }
    else:
        try:
            told = all_schemas(connections)
        except Exception as err:
            os.write(2, traceback.format_exc().encode(errors="replace"))
            told = {"failed": "%s: %s" % (type(err).__name__, " ".join(str(err).split()))}
    answer({
        "version": django.get_version(),
        "settings_module": os.environ["DJANGO_SETTINGS_MODULE"],
        "wsgi_application": settings_text(settings, "WSGI_APPLICATION"),
        "chosen_by_default": chosen_by_default(settings),
        "databases": databases,
        "schema": told,
        "facts": {"alias": alias, "kept": kept, **facts_of(connections, alias, told)},
        **more,
    })


def contract(settings):
    from django.db import connections

    answer({"contract": contract_of_project(connections, alias)})


def reversal(settings):
    from django.db import connections

    answer({"reversal": reversal_of(connections[alias], places)})


def examine(settings):
    """Each command begins with the project as it was when it was loaded; where it has threads or connections, no copy of it would be the same."""
    from django.db import connections

    if threading.active_count() > 1 or any(connection.connection is not None for connection in connections.all()):
        answer({"alone": True})
    status, said = apart(lambda: run("check", "--deploy", "--fail-level=ERROR"))
    # Checks for deployment may ask for tables, which the first migrate makes.
    not_deployed = None
    if status != 0 and apart(is_migrated)[0] == 0:
        not_deployed = sorted(set(re.findall(r"\(([\w.]+\.[EC]\d+)\)", said)))
        status, _ = apart(lambda: run("check", "--fail-level=ERROR"))
    if status:
        os._exit(status)
    status, said = apart(lambda: run("makemigrations", "--check", "--dry-run", "--noinput"))
    inspect(settings, unmade={"status": status, "lines": said.splitlines()}, not_deployed=not_deployed)


def collect(settings):
    from django.apps import apps
    from django.db import connections

    if not apps.is_installed("django.contrib.staticfiles"):
        answer({"nothing": "django.contrib.staticfiles is not installed"})
    root = settings_text(settings, "STATIC_ROOT")
    if not root:
        answer({"nothing": "STATIC_ROOT is not set"})
    root = os.path.realpath(root)
    release, *others = map(os.path.realpath, places)
    within = lambda place: root.startswith(place + os.sep)
    if not within(release) and not any(within(place) or root == place for place in others):
        answer({"outside": root})
    status = run("collectstatic", "--noinput")
    if status:
        os._exit(status)
    told = seen.told(release, root, connections.all())
    answer({"root": os.path.relpath(root, release) if within(release) else None, **told})


def load(settings):
    """Imports what a server imports. WSGI modules choose their settings by setdefault; which ones they would choose is worth knowing."""
    from django.utils.module_loading import import_string

    chosen = []
    real = os.environ.setdefault

    def setdefault(key, value):
        if key == "DJANGO_SETTINGS_MODULE":
            chosen.append(value)
        return real(key, value)

    os.environ.setdefault = setdefault
    application = settings_text(settings, "WSGI_APPLICATION")
    warnings = []
    if application:
        try:
            import_string(application)
        except BaseException as err:
            fail("wsgi", err)
        module = os.environ["DJANGO_SETTINGS_MODULE"]
        if chosen and chosen[-1] != module:
            warnings.append(
                "%s names the settings %s, and not %s: the server must set DJANGO_SETTINGS_MODULE itself"
                % (application.rpartition(".")[0], chosen[-1], module)
            )
    if settings_text(settings, "ROOT_URLCONF"):
        try:
            from django.urls import get_resolver

            get_resolver().url_patterns
        except BaseException as err:
            fail("urls", err)
    answer({"warnings": warnings})


try:
    find_settings()
except BaseException as err:
    try:
        import django
    except BaseException as missing:
        fail("django", missing)
    fail("manage", err)
try:
    import django
except BaseException as err:
    fail("django", err)
if not os.environ.get("DJANGO_SETTINGS_MODULE"):
    answer({"failed": {"stage": "unset", "kind": "", "message": "", "missing": None, "trace": []}})
try:
    from django.conf import settings

    settings.INSTALLED_APPS
    django.setup()
except BaseException as err:
    fail("settings", err)
try:
    {"inspect": inspect, "contract": contract, "reversal": reversal, "load": load, "examine": examine, "collect": collect}[mode](settings)
except BaseException as err:
    fail("inspect", err)
