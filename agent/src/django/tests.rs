mod facts;

use std::fs;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::database::bench::{PASSWORD, Server};
use crate::process::{Cancel, identity};
use crate::python::bench::{environment, heard as heard_lines, watched, write};

/// The oldest and the newest Django that the interpreter runs.
fn djangos() -> [PathBuf; 2] {
    [old(), new()]
}

fn old() -> PathBuf {
    environment("django-4.2", &["django==4.2.*", "psycopg[binary]"])
}

fn new() -> PathBuf {
    environment("django-5.2", &["django==5.2.*", "psycopg[binary]"])
}

const MANAGE: &str = "#!/usr/bin/env python3\nimport os\nimport sys\n\n\ndef main():\n    os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\n    from django.core.management import execute_from_command_line\n    execute_from_command_line(sys.argv)\n\n\nif __name__ == '__main__':\n    main()\n";

const SETTINGS: &str = "
import os
from pathlib import Path
BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = os.environ.get('SECRET_KEY', 'x' * 30 + 'abcdefghijklmnopqrstuvwxyz0123456789')
DEBUG = False
ALLOWED_HOSTS = ['*']
ROOT_URLCONF = 'shop.urls'
WSGI_APPLICATION = 'shop.wsgi.application'
INSTALLED_APPS = ['django.contrib.staticfiles', 'stock']
STATIC_URL = '/static/'
STATIC_ROOT = BASE_DIR / 'static'
DEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'
if os.environ.get('DB_HOST'):
    DATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'shop', 'USER': 'shop', 'PASSWORD': os.environ['DB_PASSWORD'],
                             'HOST': os.environ['DB_HOST'], 'OPTIONS': {'sslmode': 'prefer'}}}
    if os.environ.get('DB_OPTIONS'):
        DATABASES['default']['OPTIONS']['options'] = os.environ['DB_OPTIONS']
else:
    DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': os.environ.get('DB', BASE_DIR / 'db.sqlite3')}}
";

const WSGI: &str = "import os\nfrom django.core.wsgi import get_wsgi_application\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')\napplication = get_wsgi_application()\n";

const FIRST: &str = "from django.db import migrations, models\nclass Migration(migrations.Migration):\n    initial = True\n    dependencies = []\n    operations = [migrations.CreateModel('Item', [('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')), ('name', models.CharField(max_length=9))])]\n";

const SECOND: &str = "from django.db import migrations, models\nclass Migration(migrations.Migration):\n    dependencies = [('stock', '0001_initial')]\n    operations = [migrations.AddField('Item', 'price', models.IntegerField(null=True)), migrations.RunPython(lambda apps, editor: None)]\n";

const MODELS: &str = "from django.db import models\nclass Item(models.Model):\n    name = models.CharField(max_length=9)\n    price = models.IntegerField(null=True)\n";

struct Project {
    dir: TempDir,
    settings: Settings,
    env: Vec<(String, String)>,
    tree: Tree,
}

impl Project {
    fn new() -> Self {
        let project = Self { dir: tempfile::tempdir().unwrap(), settings: settings(), env: Vec::new(), tree: Tree::Open };
        project.write_into("");
        project
    }

    fn write_into(&self, sub: &str) {
        let files = [
            ("manage.py", MANAGE),
            ("shop/__init__.py", ""),
            ("shop/settings.py", SETTINGS),
            ("shop/urls.py", "urlpatterns = []\n"),
            ("shop/wsgi.py", WSGI),
            ("stock/__init__.py", ""),
            ("stock/models.py", MODELS),
            ("stock/static/stock/a.css", "a {}\n"),
            ("stock/migrations/__init__.py", ""),
            ("stock/migrations/0001_initial.py", FIRST),
            ("stock/migrations/0002_price.py", SECOND),
        ];
        files.iter().for_each(|(file, text)| write(self.dir.path(), &format!("{sub}{file}"), text));
    }

    fn file(&self, file: &str, text: &str) -> &Self {
        write(self.dir.path(), file, text);
        self
    }

    fn set(&mut self, name: &str, value: &str) {
        self.env.push((name.into(), value.into()));
    }

    fn django<'a>(&'a self, python: &'a Path) -> Django<'a> {
        Django { settings: &self.settings, release: self.dir.path(), python, env: &self.env, tree: self.tree }
    }

    fn inspect(&self, python: &Path) -> Result<Inspection, ManageError> {
        watched(|watch| self.django(python).inspect(watch))
    }

    fn examine(&self, python: &Path) -> Result<(Inspection, Vec<String>), ManageError> {
        watched(|watch| self.django(python).examine(watch))
    }

    /// What collectstatic goes by.
    fn collected(&self) -> Grounds {
        match watched(|watch| self.django(&new()).collect(&[], watch)).unwrap() {
            Collected::Within(grounds) => grounds,
            other => panic!("{other:?}"),
        }
    }

    fn schema(&self) -> Schema {
        self.inspect(&new()).unwrap().schema.unwrap()
    }

    fn migrate(&self) -> Result<Migrated, ManageError> {
        let inspection = self.inspect(&new()).unwrap();
        watched(|watch| self.migrating(&new(), watch, &inspection))
    }

    /// Migrates; what it did, or why it failed.
    fn migrating(&self, python: &Path, watch: &Watch<'_>, inspection: &Inspection) -> Result<Migrated, ManageError> {
        let (migrated, ended) = self.django(python).migrate(watch, inspection, &self.report());
        ended.map(|()| migrated)
    }

    /// Where the process that migrates writes down what it begins.
    fn report(&self) -> PathBuf {
        self.dir.path().join("report")
    }

    /// Puts a migration in the place of the second one.
    fn second(&self, name: &str, text: &str) -> &Self {
        fs::remove_file(self.dir.path().join("stock/migrations/0002_price.py")).unwrap_or_default();
        self.file(&format!("stock/migrations/{name}.py"), text)
    }
}

fn settings() -> Settings {
    Settings {
        manage: "manage.py".into(),
        settings: None,
        check: true,
        collectstatic: true,
        migrate: true,
        database: "default".into(),
        others: Others::Kept,
        post_migrate: PostMigrate::Runs,
        lock_timeout: Duration::from_millis(300),
    }
}

#[test]
fn a_project_says_what_it_is() {
    let project = Project::new();
    for python in djangos() {
        let inspection = project.inspect(&python).unwrap();
        assert!(inspection.version.starts_with("4.2.") || inspection.version.starts_with("5.2."));
        assert_eq!(inspection.settings_module, "shop.settings");
        assert_eq!(inspection.wsgi_application.as_deref(), Some("shop.wsgi.application"));
        let database = &inspection.databases["default"];
        assert_eq!((database.vendor.as_str(), Path::new(&database.name)), ("sqlite", project.dir.path().join("db.sqlite3").as_path()));
        let schema = inspection.schema.unwrap();
        assert_eq!(schema.pending, ["stock.0001_initial", "stock.0002_price"]);
        assert_eq!(schema.irreversible, ["stock.0002_price"]);
        assert!(!project.dir.path().join("db.sqlite3").exists(), "asking changes nothing");
    }
}

#[test]
fn what_a_project_prints_and_starts_disturbs_nothing() {
    let project = Project::new();
    let noise = "import sys, threading, time, os\nprint('{\"version\": \"0\"}')\nsys.stdout.flush()\nos.system('echo from a child')\nthreading.Thread(target=time.sleep, args=(300,)).start()\n";
    project.file("shop/settings.py", &format!("{noise}{SETTINGS}\nprint('no newline', end='')\nsys.stdout = sys.stderr = None\n"));
    let begun = Instant::now();
    let (inspection, lines) = heard_lines(|watch| project.django(&new()).inspect(watch));
    assert!(inspection.unwrap().version.starts_with("5.2."));
    assert!(lines.contains(&"from a child".to_owned()), "{lines:?}");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn manage_py_may_be_odd() {
    let mut project = Project::new();
    project.file("manage.py", &MANAGE.replace('\n', "\r\n"));
    assert_eq!(project.inspect(&new()).unwrap().settings_module, "shop.settings");
    project.examine(&new()).unwrap();

    project.write_into("backend/");
    project.settings.manage = "backend/manage.py".into();
    project.collected();
    assert!(project.dir.path().join("backend/static/stock/a.css").exists());

    project.settings.manage = "manage.py".into();
    project.file(
        "manage.py",
        "import sys\nfrom django.core.management import execute_from_command_line\nexecute_from_command_line(sys.argv)\n",
    );
    let err = project.inspect(&new()).unwrap_err();
    assert!(matches!(err, ManageError::NoSettings) && err.hint().unwrap().contains("[django] settings"), "{err:?}");
    project.settings.settings = Some("shop.settings".into());
    assert_eq!(project.inspect(&new()).unwrap().settings_module, "shop.settings");

    // One that insists on other settings is overruled, for all commands alike.
    project.file(
        "manage.py",
        &MANAGE.replace(".setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings')", "['DJANGO_SETTINGS_MODULE'] = 'no.such'"),
    );
    assert_eq!(project.inspect(&new()).unwrap().settings_module, "shop.settings");
    project.examine(&new()).unwrap();

    project.settings.manage = "no/manage.py".into();
    assert_eq!(project.inspect(&new()).unwrap_err().to_string(), "no/manage.py is not in the release");
}

#[test]
fn settings_that_fail_are_told_with_their_trace() {
    let fail = |settings: &str| {
        let project = Project::new();
        project.file("shop/settings.py", settings);
        project.inspect(&new()).unwrap_err()
    };
    let err = fail("import os\nSECRET = os.environ['SHOP_SECRET']\n");
    assert_eq!(err.to_string(), "loading the settings failed: KeyError: 'SHOP_SECRET'");
    assert!(err.hint().unwrap().contains("the variable SHOP_SECRET"), "{err:?}");
    assert!(err.tail().iter().any(|line| line.contains("settings.py\", line 2")), "{:?}", err.tail());
    let err = fail("import celery.schedules\n");
    assert!(err.hint().unwrap().starts_with("celery is neither"), "{err:?}");
    let err = fail("raise SystemExit('no')\n");
    assert_eq!(err.to_string(), "loading the settings failed: SystemExit: no");
    let err = fail("import os\nos._exit(0)\n");
    assert!(matches!(err, ManageError::NoAnswer { source: None }), "{err:?}");
    let err = fail("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n");
    assert!(matches!(err, ManageError::NoAnswer { source: Some(_) }), "{err:?}");
    let err = fail("def broken(:\n");
    assert!(err.to_string().contains("SyntaxError"), "{err}");
}

/// As a project does that has an old fault of Django's to mend, or its apps in a directory of their own.
#[test]
fn what_manage_py_does_before_django_is_there_is_done_for_every_command() {
    let project = Project::new();
    let settings = format!("{SETTINGS}USE_I18N = False\nLANGUAGES = [('en-us', 'English'), ('en-7.0.x', 'Seven')]\n");
    project.file("shop/settings.py", &settings);
    let refused = |err: ManageError| err.tail().iter().any(|line| line.contains("translation.E002"));
    assert!(refused(project.examine(&new()).unwrap_err()), "without a patch the check finds that");
    let patch = "import re\nfrom django.utils.translation import trans_real\ntrans_real.language_code_re = re.compile('^[a-z0-9.-]+$')\n";
    project.file("manage.py", &format!("{patch}{MANAGE}"));
    for python in djangos() {
        project.examine(&python).unwrap();
    }
    // One that puts something around Django's own entry point keeps it.
    let wraps = "from django.core import management\nreal = management.ManagementUtility.execute\ndef execute(self):\n    print('wrapped')\n    return real(self)\nmanagement.ManagementUtility.execute = execute\n";
    project.file("manage.py", &format!("{patch}{wraps}{MANAGE}"));
    project.examine(&new()).unwrap();
    project.file("manage.py", &format!("{patch}{MANAGE}"));
    // The check itself, in a process of its own.
    project.file("stock/__init__.py", "import threading, time\nthreading.Thread(target=time.sleep, args=(3,), daemon=True).start()\n");
    project.examine(&new()).unwrap();

    let project = Project::new();
    let path = "import sys, os\nsys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'apps'))\n";
    project.file("manage.py", &format!("{path}{MANAGE}")).file("apps/extra/__init__.py", "");
    project.file("shop/settings.py", &format!("{SETTINGS}INSTALLED_APPS += ['extra']\n"));
    project.examine(&new()).unwrap();
    assert_eq!(project.migrate().unwrap().begun, Begun::Ended);
}

#[test]
fn a_settings_module_that_is_not_there_is_told_with_those_that_are() {
    let hint_of = |settings: &str| {
        let mut project = Project::new();
        project.file("shop/prod.py", "from .settings import *\n").file("shop/broken.py", "import nosuch\n");
        project.settings.settings = Some(settings.into());
        project.inspect(&new()).unwrap_err().hint().unwrap().to_owned()
    };
    let has =
        "shop has broken, prod, settings, urls, wsgi; no prd: correct the settings module shop.prd in [django] settings, or in manage.py";
    assert_eq!(hint_of("shop.prd"), has);
    assert!(hint_of("shpo.prod").starts_with("the directory of manage.py has "), "{}", hint_of("shpo.prod"));
    let of_a_module = "shop.settings is a module, and no package; no prod: correct the settings module";
    assert!(hint_of("shop.settings.prod").starts_with(of_a_module), "{}", hint_of("shop.settings.prod"));
    assert!(hint_of("shop.broken").starts_with("nosuch is neither in the release"), "{}", hint_of("shop.broken"));
}

/// Checks for deployment may ask for tables, which the first migrate makes.
#[test]
fn checks_for_deployment_that_need_tables_do_not_fail_the_first_release() {
    const CHECK: &str = "from django.core.checks import Error, register\n@register(deploy=True)\ndef of_items(**kwargs):\n    try:\n        Item.objects.count()\n    except Exception as err:\n        return [Error(str(err), id='stock.E001')]\n    return []\n";
    for threads in ["", "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"] {
        let project = Project::new();
        project.file("stock/models.py", &format!("{MODELS}\n{CHECK}{threads}"));
        let (_, warnings) = project.examine(&new()).unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("no migration is applied yet, which may be why"), "{warnings:?}");
        assert!(!threads.is_empty() || warnings[0].starts_with("check --deploy fails (stock.E001),"), "{warnings:?}");
        project.migrate().unwrap();
        assert_eq!(project.examine(&new()).unwrap().1, [""; 0]);
        // Once there are tables, what fails is an error.
        project.file("stock/models.py", &format!("{MODELS}\n{}", CHECK.replace("Item.objects.count()", "1 / 0")));
        project.examine(&new()).unwrap_err();
    }
}

#[test]
fn migrations_that_contradict_each_other_are_told_with_their_names() {
    let project = Project::new();
    project.file("stock/migrations/0002_other.py", &SECOND.replace("price", "other"));
    let (inspection, warnings) = project.examine(&new()).unwrap();
    assert!(warnings[0].contains("0002_other, 0002_price in stock") && warnings[0].contains("makemigrations --merge"), "{warnings:?}");
    assert!(inspection.schema.unwrap_err().why.contains("stock: 0002_other, 0002_price"));
}

#[test]
fn static_files_with_odd_names_are_collected() {
    use std::os::unix::ffi::OsStrExt;
    let project = Project::new();
    let name = std::ffi::OsStr::from_bytes(b"stock/static/stock/gr\xfcn.css");
    std::fs::write(project.dir.path().join(name), "a {}").unwrap();
    let grounds = project.collected();
    assert!(grounds.unsure.unwrap().contains("a file whose name is not UTF-8"));
    assert!(project.dir.path().join(std::ffi::OsStr::from_bytes(b"static/stock/gr\xfcn.css")).exists());
}

#[test]
fn a_missing_django_is_told() {
    let bare = environment("bare", &["six"]);
    let project = Project::new();
    let err = project.inspect(&bare).unwrap_err();
    assert!(err.hint().unwrap().starts_with("Django is not in the environment"), "{err:?}");
    let err = project.examine(&bare).unwrap_err();
    assert!(err.hint().unwrap().starts_with("Django is not in the environment"), "{err:?}");
}

#[test]
fn a_check_that_finds_an_error_fails_and_a_warning_does_not() {
    let project = Project::new();
    for python in djangos() {
        project.examine(&python).unwrap();
    }
    project.file("shop/settings.py", &format!("{SETTINGS}\nSTATICFILES_DIRS = [STATIC_ROOT]\n"));
    let err = project.examine(&new()).unwrap_err();
    assert!(err.tail().iter().any(|line| line.contains("staticfiles.E002")), "{:?}", err.tail());
}

#[test]
fn models_without_migrations_are_a_warning() {
    let project = Project::new();
    for python in djangos() {
        assert_eq!(project.examine(&python).unwrap().1, [""; 0]);
    }
    project.file("stock/models.py", &format!("{MODELS}    colour = models.CharField(max_length=3)\n"));
    for python in djangos() {
        let warning = project.examine(&python).unwrap().1.remove(0);
        assert!(warning.contains("models of stock") || warning.contains("could not tell"), "{warning}");
    }
    project.file("stock/models.py", &format!("{MODELS}    colour = models.CharField(max_length=3, default='red')\n"));
    let warning = project.examine(&new()).unwrap().1.remove(0);
    assert_eq!(warning, "models of stock have changed without a migration (makemigrations)");
    assert!(!project.dir.path().join("stock/migrations/0003_item_colour.py").exists());
}

#[test]
fn static_files_that_would_land_elsewhere_are_not_collected() {
    let (elsewhere, project) = (tempfile::tempdir().unwrap(), Project::new());
    std::os::unix::fs::symlink(elsewhere.path(), project.dir.path().join("static")).unwrap();
    let collect = |others: &[PathBuf]| watched(|watch| project.django(&new()).collect(others, watch));
    let err = collect(&[]).unwrap_err();
    assert!(matches!(&err, ManageError::Outside(place) if *place == elsewhere.path().canonicalize().unwrap()), "{err:?}");
    assert!(!elsewhere.path().join("stock").exists());
    assert_eq!(collect(&[elsewhere.path().to_owned()]).unwrap(), Collected::Elsewhere);
    assert!(elsewhere.path().join("stock/a.css").exists());

    let project = Project::new();
    project.file("shop/settings.py", &SETTINGS.replace("'django.contrib.staticfiles', ", ""));
    let nothing = watched(|watch| project.django(&new()).collect(&[], watch)).unwrap();
    assert_eq!(nothing, Collected::Nothing("django.contrib.staticfiles is not installed".to_owned()));
}

#[test]
fn what_collectstatic_goes_by_is_told() {
    let project = Project::new();
    project.file("stock/views.py", "raise SystemExit('nobody collects me')\n").file("shop/apps.html", "");
    for round in 0..2 {
        // With bytecode, the second time, as without.
        let Grounds { root, read, elsewhere, unsure } = project.collected();
        assert_eq!((root.as_path(), &unsure), (Path::new("static"), &None), "{round}");
        for wanted in ["manage.py", "shop/settings.py", "stock/models.py", "stock/static/stock/a.css"] {
            assert!(read.contains(Path::new(wanted)), "{round} {wanted} {read:?}");
        }
        assert!(!read.contains(Path::new("stock/views.py")) && !read.contains(Path::new("shop/urls.py")), "{read:?}");
        assert!(elsewhere.iter().all(|(path, was)| identity(path) == *was), "{elsewhere:?}");
        fs::remove_dir_all(project.dir.path().join("static")).unwrap();
    }

    // What is read elsewhere is told with what tells whether it has changed.
    let outside = tempfile::NamedTempFile::new().unwrap();
    let outside = outside.path();
    let with = |more: &str| {
        project.file("shop/settings.py", &format!("{SETTINGS}\n{more}\n"));
        project.collected()
    };
    let told = with(&format!("open({outside:?}).read()\ntry:\n    open('/etc/no-such-file')\nexcept OSError:\n    pass"));
    // A temporary directory is nobody's but the process's own.
    assert_eq!(told.unsure, None);
    assert!(told.elsewhere.contains(&(PathBuf::from("/etc/no-such-file"), String::new())), "{told:?}");
    let told = with("open('/etc/hostname').read()");
    let (_, was) = told.elsewhere.iter().find(|(path, _)| path == Path::new("/etc/hostname")).unwrap();
    assert!(!was.is_empty());

    // Settings make sure of their directories, and open their logs, each time.
    let elsewhere = PathBuf::from("/var/tmp").join(project.dir.path().file_name().unwrap());
    let log =
        format!("import logging\nBASE_DIR.mkdir(exist_ok=True)\nlogging.getLogger('x').addHandler(logging.FileHandler({elsewhere:?}))");
    let told = with(&format!("{log}\nimport configparser\nconfigparser.ConfigParser().read([BASE_DIR / 'no.cfg'])"));
    assert!(told.unsure.is_none() && !told.read.contains(Path::new("no.cfg")), "{told:?}");
    fs::remove_file(elsewhere).unwrap();
}

#[test]
fn a_collectstatic_that_may_make_something_else_each_time_says_so() {
    let mut project = Project::new();
    project.set("REVISION", "1a2b3c");
    for (more, why) in [
        ("print(os.environ.get('REVISION'))", "it reads the variable REVISION"),
        ("import subprocess\nsubprocess.run(['true'])", "it starts programs"),
        ("import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9))\nexcept OSError:\n    pass", "it uses the network"),
        ("import sqlite3\nsqlite3.connect(':memory:')", "it opens a database"),
        ("open('/proc/uptime').read()", "it reads /proc/uptime"),
        ("open(BASE_DIR / 'made', 'w').close()", "it writes "),
        ("open(BASE_DIR / 'log', 'a').close()", "it writes "),
        ("(BASE_DIR / 'new').mkdir()", "it writes "),
        ("os.rename(BASE_DIR / 'shop/urls.py', BASE_DIR / 'shop/urls.was.py')", "it writes "),
    ] {
        project.file("shop/settings.py", &format!("{SETTINGS}\n{more}\n"));
        let grounds = project.collected();
        assert!(grounds.unsure.as_ref().is_some_and(|unsure| unsure.starts_with(why)), "{more}: {grounds:?}");
    }
}

#[test]
fn a_project_with_threads_is_examined_command_by_command() {
    let project = Project::new();
    let loads = project.dir.path().join("loads");
    let count = || fs::read_to_string(&loads).unwrap().lines().count();
    project.file("shop/settings.py", &format!("{SETTINGS}\nwith open({loads:?}, 'a') as file:\n    print('once', file=file)\n"));
    let (alone, _) = project.examine(&new()).unwrap();
    assert_eq!(count(), 1, "all in one process");
    let thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n";
    project.file("stock/__init__.py", thread);
    let (threaded, _) = project.examine(&new()).unwrap();
    assert_eq!(count(), 5, "it was seen that it has a thread, and each of three had a process of its own");
    assert_eq!(alone, threaded);
}

#[test]
fn bytecode_is_written_before_the_seal_and_not_after() {
    let mut project = Project::new();
    let cache = project.dir.path().join("shop/__pycache__");
    project.tree = Tree::Sealed;
    project.examine(&new()).unwrap();
    assert!(!cache.exists());
    project.tree = Tree::Open;
    project.examine(&new()).unwrap();
    assert!(cache.exists());
}

#[test]
fn what_a_server_imports_is_imported() {
    let project = Project::new();
    let load = |python: &Path| watched(|watch| project.django(python).load(watch));
    for python in djangos() {
        assert!(load(&python).unwrap().is_empty());
    }
    project.file("shop/wsgi.py", &WSGI.replace("shop.settings", "shop.settings.development"));
    let warnings = load(&new()).unwrap();
    assert!(warnings[0].starts_with("shop.wsgi names the settings shop.settings.development, and not shop.settings"), "{warnings:?}");
    project.file("shop/wsgi.py", "import newrelic.agent\n");
    let err = load(&new()).unwrap_err();
    assert!(
        err.to_string().starts_with("importing WSGI_APPLICATION failed: ImportError")
            || err.hint().is_some_and(|hint| hint.contains("newrelic")),
        "{err}"
    );
    project.file("shop/wsgi.py", WSGI);
    project.file("shop/urls.py", "from stock import views\nurlpatterns = []\n");
    let err = load(&new()).unwrap_err();
    assert_eq!(
        err.to_string(),
        "importing the URLs of ROOT_URLCONF failed: ImportError: cannot import name 'views' from 'stock' (".to_owned()
            + &project.dir.path().join("stock/__init__.py").display().to_string()
            + ")"
    );
}

#[test]
fn a_schema_that_is_ahead_is_seen() {
    let mut project = Project::new();
    let data = tempfile::tempdir().unwrap();
    project.set("DB", &data.path().join("db.sqlite3").display().to_string());
    assert_eq!(project.migrate().unwrap(), Migrated { attempts: 1, warnings: Vec::new(), begun: Begun::Ended });
    assert!(project.schema().pending.is_empty() && project.schema().ahead.is_empty());
    fs::remove_file(project.dir.path().join("stock/migrations/0002_price.py")).unwrap();
    let schema = project.schema();
    assert_eq!((schema.ahead.as_slice(), schema.pending.len()), (["stock.0002_price".to_owned()].as_slice(), 0));
    // What stands in the table from before a squash is no sign of newer code.
    project.file("stock/migrations/0003_more.py", &SECOND.replace("'price'", "'more'"));
    project.migrate().unwrap();
    assert_eq!((project.schema().ahead.len(), project.schema().strangers), (0, vec!["stock.0002_price".to_owned()]));
    project.file("stock/migrations/0003_other.py", SECOND);
    let told = project.inspect(&new()).unwrap().schema.unwrap_err();
    assert!(told.why.contains("0003_more") && told.why.contains("0003_other"), "{told:?}");
    assert!(told.hint.as_ref().unwrap().contains("makemigrations --merge"), "{told:?}");
}

#[test]
fn a_database_that_is_out_of_reach_does_not_hide_the_rest() {
    let mut project = Project::new();
    project.set("DB_HOST", "/no/such/directory");
    project.set("DB_PASSWORD", PASSWORD);
    let inspection = project.inspect(&new()).unwrap();
    assert!(inspection.schema.as_ref().unwrap_err().why.starts_with("OperationalError: "), "{:?}", inspection.schema);
    assert_eq!(inspection.databases["default"].password, PASSWORD);
    assert!(!format!("{inspection:?}").contains("pass'word"));
    project.settings.database = "replica".into();
    assert!(project.inspect(&new()).unwrap().schema.unwrap_err().why.contains("no database 'replica' in DATABASES; there is default"));
}

mod contract;
mod databases;
mod migrations;
