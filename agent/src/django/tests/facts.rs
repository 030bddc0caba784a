//! Which database a project really uses, and what it keeps in its release.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::facts::What;
use super::{Project, SETTINGS, new, old};
use crate::database::bench::{PASSWORD, Server};
use crate::database::{Database, DatabaseError, DatabaseKind, Part, Reached, dump};
use crate::process::{Program, Watch};
use crate::python::bench::{environment, watched};

/// The settings of the project, with other databases.
fn with_databases(project: &Project, databases: &str) {
    project.file("shop/settings.py", &format!("{SETTINGS}\n{databases}\n"));
}

fn database(project: &Project, python: &Path) -> Database {
    project.inspect(python).unwrap().databases.remove("default").unwrap()
}

fn dumped(database: &Database, to: &Path, watch: &Watch<'_>) -> Result<(), DatabaseError> {
    let kind = if database.vendor == "sqlite" { DatabaseKind::Sqlite } else { DatabaseKind::Postgres };
    let part = Part::create(to)?;
    dump(kind, database, &part.file(), Path::new("/none"), watch)?;
    part.keep(kind, watch).map(|_| ())
}

/// The tables in a dump.
fn tables(to: &Path) -> String {
    let list = watched(|watch| Program::new("pg_restore").arg("--list").arg(to).quiet().capture(watch)).unwrap().text();
    list.lines().filter(|line| line.contains(" TABLE ")).collect::<Vec<_>>().join("\n")
}

/// The right server, and another one with a database of the same name.
fn servers() -> (Server, Server) {
    let (right, other) = (Server::start(), Server::start());
    right.sql("CREATE TABLE of_django (n int)");
    other.sql("CREATE TABLE of_somebody_else (n int)");
    (right, other)
}

fn assert_dumps_the_right_one(project: &Project, python: &Path, way: &str) {
    let backups = tempfile::tempdir().unwrap();
    let to = backups.path().join("a.dump");
    let database = database(project, python);
    watched(|watch| dumped(&database, &to, watch)).unwrap_or_else(|err| panic!("{way}: {err:?} {:?}", err.tail()));
    assert!(tables(&to).contains("of_django") && !tables(&to).contains("of_somebody_else"), "{way}: {}", tables(&to));
}

#[test]
fn wherever_libpq_is_told_of_its_server_the_dump_is_of_the_database_that_django_reached() {
    let (right, other) = servers();
    let (host, wrong) = (right.socket().display().to_string(), other.socket().display().to_string());
    let bare = "DATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'shop'}}";

    // Variables in [env].
    let mut project = Project::new();
    with_databases(&project, bare);
    [("PGHOST", &*host), ("PGUSER", "shop"), ("PGPASSWORD", PASSWORD)].iter().for_each(|(name, value)| project.set(name, value));
    assert_dumps_the_right_one(&project, &new(), "[env]");
    assert_dumps_the_right_one(&project, &old(), "[env], an old Django");
    assert_dumps_the_right_one(&project, &environment("django-4.2-psycopg2", &["django==4.2.*", "psycopg2-binary"]), "[env], psycopg2");

    // Variables that the settings set themselves, against those of [env].
    let mut project = Project::new();
    with_databases(&project, &format!("os.environ.update(PGHOST={host:?}, PGUSER='shop', PGPASSWORD={PASSWORD:?})\n{bare}"));
    project.set("PGHOST", &wrong);
    assert_dumps_the_right_one(&project, &new(), "os.environ");

    // A service, whose file names another database than the settings, and which counts more than variables; and a file of passwords.
    let mut project = Project::new();
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    project.file("pgpass", &format!("*:*:*:shop:{escaped}\n"));
    let set_mode = |file: &str| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(project.dir.path().join(file), fs::Permissions::from_mode(0o600)).unwrap();
    };
    set_mode("pgpass");
    project.file("services", &format!("[right]\nhost={host}\nuser=shop\ndbname=postgres\n"));
    let passfile = project.dir.path().join("pgpass").display().to_string();
    with_databases(&project, &bare.replace("'shop'}", &format!("'shop', 'OPTIONS': {{'service': 'right', 'passfile': {passfile:?}}}}}")));
    let services = project.dir.path().join("services").display().to_string();
    [("PGSERVICEFILE", &*services), ("PGHOST", &*wrong)].iter().for_each(|(name, value)| project.set(name, value));
    assert_dumps_the_right_one(&project, &new(), "a service");

    // The same, by variables and by the home directory.
    let mut project = Project::new();
    with_databases(&project, bare);
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(".pg_service.conf"), format!("[right]\nhost={host}\nuser=shop\npassword={PASSWORD}\n")).unwrap();
    let home = home.path().display().to_string();
    [("HOME", &*home), ("PGSERVICE", "right"), ("PGHOST", &*wrong)].iter().for_each(|(name, value)| project.set(name, value));
    assert_dumps_the_right_one(&project, &new(), "the service of the home directory");
}

#[test]
fn nothing_is_dumped_that_is_not_the_database_of_django_and_both_are_named() {
    let (right, other) = servers();
    let mut project = Project::new();
    project.set("DB_HOST", &right.socket().display().to_string());
    project.set("DB_PASSWORD", PASSWORD);
    let mut database = database(&project, &new());
    let Reached::Server(server) = &mut database.reached else { panic!("{:?}", database.reached) };
    let identity = server.identity.clone();
    server.parameters.insert("host".into(), other.socket().display().to_string());
    let backups = tempfile::tempdir().unwrap();
    let to = backups.path().join("a.dump");
    let err = watched(|watch| dumped(&database, &to, watch)).unwrap_err();
    let said = err.to_string();
    let there = other.sql("SELECT system_identifier FROM pg_control_system()");
    assert!(said.contains(&identity) && said.contains(&there) && said.contains(&other.socket().display().to_string()), "{said}");
    assert_eq!(fs::read_dir(backups.path()).unwrap().count(), 0, "no dump is left");
    // The same server, and another database of it.
    right.sql("CREATE DATABASE second");
    let Reached::Server(server) = &mut database.reached else { panic!("{:?}", database.reached) };
    server.parameters.insert("host".into(), right.socket().display().to_string());
    server.parameters.insert("dbname".into(), "second".into());
    assert!(matches!(watched(|watch| dumped(&database, &to, watch)), Err(DatabaseError::Another { .. })));
}

#[test]
fn a_file_of_sqlite_that_took_the_place_of_django_s_is_not_dumped() {
    let mut project = Project::new();
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("db.sqlite3");
    project.set("DB", &file.display().to_string());
    assert_eq!(database(&project, &new()).reached, Reached::Absent, "asking makes no file");
    let err = watched(|watch| dumped(&database(&project, &new()), &data.path().join("a"), watch)).unwrap_err();
    assert!(matches!(err, DatabaseError::NotThere { .. }), "{err:?}");
    project.migrate().unwrap();
    // By a link, as people move their data to another disk.
    let link = data.path().join("link.sqlite3");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    project.set("DB", &link.display().to_string());
    let before = database(&project, &new());
    watched(|watch| dumped(&before, &data.path().join("a.dump"), watch)).unwrap();
    fs::copy(&file, data.path().join("copy")).unwrap();
    fs::rename(data.path().join("copy"), &file).unwrap();
    let err = watched(|watch| dumped(&before, &data.path().join("b.dump"), watch)).unwrap_err();
    assert!(matches!(&err, DatabaseError::Another { .. }) && err.to_string().matches("inode").count() == 2, "{err}");
}

#[test]
fn what_changes_while_the_site_serves_and_lies_in_the_release_is_told() {
    let mut project = Project::new();
    let kept = |project: &Project| {
        let kept = project.inspect(&new()).unwrap().kept;
        kept.into_iter().map(|kept| (kept.what, kept.path)).collect::<Vec<_>>()
    };
    let file = |what, path: &str| (what, PathBuf::from(path));
    assert_eq!(kept(&project), [file(What::Database, "db.sqlite3")]);
    // Nothing is written there that would be missed: no migration is applied, and the file is no part of the commit.
    project.settings.migrate = false;
    assert_eq!(kept(&project), []);
    project.file("db.sqlite3", "not empty");
    assert_eq!(kept(&project), [file(What::Database, "db.sqlite3")]);
    fs::remove_file(project.dir.path().join("db.sqlite3")).unwrap();
    project.settings.migrate = true;

    let more = "MEDIA_ROOT = BASE_DIR / 'media'\n\
                LOGGING = {'version': 1, 'handlers': {'file': {'class': 'logging.handlers.RotatingFileHandler', 'filename': BASE_DIR / 'a.log'},\n\
                'late': {'class': 'logging.FileHandler', 'filename': '/dev/null'}}, 'root': {'handlers': ['file', 'late']}}\n\
                DATABASES['maps'] = {'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'file:%s?mode=ro' % (BASE_DIR / 'maps'), 'OPTIONS': {'uri': True}}\n\
                DATABASES['unused'] = {'ENGINE': 'django.db.backends.sqlite3', 'NAME': BASE_DIR / 'unused'}";
    with_databases(&project, more);
    project.file("maps", "read only");
    assert_eq!(kept(&project), [file(What::Database, "db.sqlite3"), file(What::Media, "media"), file(What::Log, "a.log")]);

    // What is shared is reached by links.
    let shared = tempfile::tempdir().unwrap();
    fs::create_dir(shared.path().join("data")).unwrap();
    for dir in ["data", "media"] {
        std::os::unix::fs::symlink(shared.path().join("data"), project.dir.path().join(dir)).unwrap();
    }
    project.set("DB", &project.dir.path().join("data/db.sqlite3").display().to_string());
    with_databases(&project, "MEDIA_ROOT = BASE_DIR / 'media'");
    assert_eq!(kept(&project), []);
    // Uploads that go elsewhere.
    let elsewhere = "MEDIA_ROOT = BASE_DIR / 'uploads'\nSTORAGES = {'default': {'BACKEND': 'django.core.files.storage.InMemoryStorage'},\n\
                     'staticfiles': {'BACKEND': 'django.contrib.staticfiles.storage.StaticFilesStorage'}}";
    with_databases(&project, elsewhere);
    assert_eq!(kept(&project), []);
}
