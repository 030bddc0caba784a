use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::bench::{Server, database};
use super::*;
use crate::database::Reached;
use crate::process::Cancel;
use crate::python::bench::watched;

fn sqlite_database(path: &Path) -> Database {
    let name = path.display().to_string();
    let reached = match fs::metadata(path) {
        Ok(meta) => Reached::File { path: path.to_owned(), device: meta.dev(), inode: meta.ino() },
        Err(_) => Reached::File { path: path.to_owned(), device: 0, inode: 0 },
    };
    let empty = String::new;
    Database {
        alias: "default".into(),
        vendor: "sqlite".into(),
        name,
        host: empty(),
        port: empty(),
        user: empty(),
        password: empty(),
        options: Default::default(),
        reached,
    }
}

/// As a release makes it.
fn backup(kind: DatabaseKind, database: &Database, to: &Path, watch: &Watch<'_>) -> Result<Dump, DatabaseError> {
    let part = Part::create(to)?;
    dump(kind, database, &part.file(), Path::new("/none"), watch)?;
    part.keep(kind, watch)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_dump_of_postgres_is_verified_and_private() {
    let server = Server::start();
    let backups = tempfile::tempdir().unwrap();
    let to = backups.path().join("empty.dump");
    watched(|watch| backup(DatabaseKind::Postgres, &database(&server), &to, watch)).unwrap();

    server.sql(
        "CREATE TABLE stock (id int primary key, name text); INSERT INTO stock SELECT n, md5(n::text) FROM generate_series(1, 50000) n",
    );
    let to = backups.path().join("it's.dump");
    let dump = watched(|watch| backup(DatabaseKind::Postgres, &database(&server), &to, watch)).unwrap();
    assert_eq!(names(backups.path()), ["empty.dump", "it's.dump"]);
    let metadata = fs::metadata(&to).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.len()), (0o600, dump.bytes));
    assert!(matches!(watched(|watch| backup(DatabaseKind::Postgres, &database(&server), &to, watch)), Err(DatabaseError::AlreadyThere(_))));

    // What is cut short must not pass, although the list of its contents is whole.
    let whole = fs::read(&to).unwrap();
    for length in [whole.len() / 2, whole.len() - 40, 300, 0] {
        let cut = backups.path().join("cut");
        fs::write(&cut, &whole[..length]).unwrap();
        assert!(watched(|watch| postgres::verify(&cut, watch)).is_err(), "{length}");
    }
}

#[test]
fn a_dump_that_fails_leaves_nothing_and_says_why() {
    let server = Server::start();
    let backups = tempfile::tempdir().unwrap();
    let to = backups.path().join("a.dump");
    let with = |name: &str, value: &str| {
        let mut database = database(&server);
        let Reached::Server(reached) = &mut database.reached else { panic!("{:?}", database.reached) };
        reached.parameters.insert(name.to_owned(), value.to_owned());
        database
    };
    let wrong = with("password", "wrong");
    let err = watched(|watch| backup(DatabaseKind::Postgres, &wrong, &to, watch)).unwrap_err();
    assert!(err.hint().unwrap().contains("password") && !err.tail().is_empty(), "{err:?}");
    let gone = with("host", "/no/such");
    let err = watched(|watch| backup(DatabaseKind::Postgres, &gone, &to, watch)).unwrap_err();
    assert!(err.hint().unwrap().contains("does not answer"), "{err:?}");
    assert!(names(backups.path()).is_empty());
    assert!(!format!("{:?}", database(&server)).contains("pass"));
}

#[test]
fn kinds_that_disagree_are_told() {
    let err = watched(|watch| backup(DatabaseKind::Postgres, &sqlite_database(Path::new("/x")), Path::new("/x.dump"), watch)).unwrap_err();
    assert_eq!(err.to_string(), r#"[backup] database is "postgres", but the database "default" of the settings is sqlite"#);
    let mysql = Database { vendor: "mysql".into(), ..sqlite_database(Path::new("shop")) };
    assert!(matches!(
        watched(|watch| backup(DatabaseKind::Sqlite, &mysql, Path::new("/x.dump"), watch)),
        Err(DatabaseError::OtherKind { .. })
    ));
}

/// Backs up while a writer commits without pause; the copy must be one state, and not a mixture.
fn backup_under_writes(journal: &str) {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("db ü?.sqlite3");
    let connection = Connection::open(&live).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode={journal}; PRAGMA synchronous=OFF; CREATE TABLE a (n int, pad text); CREATE TABLE b (n int, pad text)"
        ))
        .unwrap();
    connection.execute_batch("BEGIN; WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n < 30000) INSERT INTO a SELECT n, hex(randomblob(200)) FROM c; INSERT INTO b SELECT * FROM a; COMMIT").unwrap();
    let done = AtomicBool::new(false);
    let to = dir.path().join("backups/copy.sqlite3");
    fs::create_dir(to.parent().unwrap()).unwrap();
    let dump = std::thread::scope(|scope| {
        scope.spawn(|| {
            let connection = Connection::open(&live).unwrap();
            connection.busy_timeout(Duration::from_secs(10)).unwrap();
            while !done.load(Ordering::Acquire) {
                connection.execute_batch("BEGIN IMMEDIATE; INSERT INTO a VALUES (0, 'x'); INSERT INTO b VALUES (0, 'x'); COMMIT").unwrap();
                // Without a gap nobody else ever gets a lock.
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        let dump = watched(|watch| backup(DatabaseKind::Sqlite, &sqlite_database(&live), &to, watch));
        done.store(true, Ordering::Release);
        dump.unwrap()
    });
    assert_eq!(names(to.parent().unwrap()), ["copy.sqlite3"]);
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(dump.bytes > 10_000_000);
    let copy = Connection::open(&to).unwrap();
    let counts: (i64, i64) =
        copy.query_row("SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert!(counts.0 == counts.1 && counts.0 >= 30_000, "{counts:?}");
}

#[test]
fn sqlite_is_copied_while_others_write_with_a_log() {
    backup_under_writes("wal");
}

#[test]
fn sqlite_is_copied_while_others_write_without_a_log() {
    backup_under_writes("delete");
}

#[test]
fn a_damaged_copy_of_sqlite_is_refused_and_a_missing_one_told() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("db");
    Connection::open(&live).unwrap().execute_batch("CREATE TABLE a (n int, pad text); CREATE INDEX i ON a (pad); WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n < 5000) INSERT INTO a SELECT n, hex(randomblob(50)) FROM c").unwrap();
    let mut bytes = fs::read(&live).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4096].fill(7);
    fs::write(&live, bytes).unwrap();
    let to = dir.path().join("copy");
    assert!(matches!(watched(|watch| backup(DatabaseKind::Sqlite, &sqlite_database(&live), &to, watch)), Err(DatabaseError::Unsound(_))));
    let missing = watched(|watch| backup(DatabaseKind::Sqlite, &sqlite_database(Path::new("/no/such/db")), &to, watch)).unwrap_err();
    assert_eq!(missing.to_string(), "cannot open /no/such/db");
    assert_eq!(names(dir.path()), ["db"]);
}

#[test]
fn a_backup_ends_when_it_is_cancelled_or_late() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("db");
    Connection::open(&live).unwrap().execute_batch("CREATE TABLE a (n int)").unwrap();
    let lines = |_, _: &str| {};
    let cancel = Cancel::default();
    let late = Watch { marker: "t:late", deadline: Instant::now(), cancel: &cancel, lines: &lines };
    assert!(matches!(backup(DatabaseKind::Sqlite, &sqlite_database(&live), &dir.path().join("copy"), &late), Err(DatabaseError::TimedOut)));
    cancel.ask();
    let watch = Watch { deadline: Instant::now() + Duration::from_secs(60), ..late };
    assert!(matches!(
        backup(DatabaseKind::Sqlite, &sqlite_database(&live), &dir.path().join("copy"), &watch),
        Err(DatabaseError::Cancelled)
    ));
    assert_eq!(names(dir.path()), ["db"]);
}

#[test]
fn words_are_quoted_for_the_shell() {
    assert_eq!(quoted("/var/x-1.dump"), "/var/x-1.dump");
    assert_eq!(quoted("it's"), r"'it'\''s'");
    assert_eq!(quoted(""), "''");
}

#[test]
fn a_dump_of_nothing_verifies_and_one_that_was_cut_to_nothing_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("empty.db"), dir.path().join("empty.sqlite3"));
    fs::write(&from, "").unwrap();
    watched(|watch| backup(DatabaseKind::Sqlite, &sqlite_database(&from), &to, watch)).unwrap();
    assert_eq!(DatabaseKind::of(&to), Some(DatabaseKind::Sqlite));
    watched(|watch| verify(DatabaseKind::Sqlite, &to, watch)).unwrap();
    fs::write(&to, "").unwrap();
    assert!(matches!(watched(|watch| verify(DatabaseKind::Sqlite, &to, watch)), Err(DatabaseError::Unsound(_))));
}

#[test]
fn a_dump_of_postgres_is_put_back_whole_or_not_at_all_and_what_was_made_since_is_in_nobody_s_way() {
    let server = Server::start();
    let backups = tempfile::tempdir().unwrap();
    server.sql("CREATE EXTENSION pg_trgm");
    server.sql(
        "CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE SCHEMA \"of it\"; CREATE TABLE \"of it\".a (id int primary key, m mood);
         INSERT INTO \"of it\".a VALUES (1, 'good'); CREATE TABLE stock (id int GENERATED ALWAYS AS IDENTITY primary key, name text);
         CREATE INDEX ON stock USING gin (name gin_trgm_ops); INSERT INTO stock (name) SELECT md5(n::text) FROM generate_series(1, 20000) n;
         CREATE VIEW seen AS SELECT * FROM stock; CREATE FUNCTION two() RETURNS int LANGUAGE sql AS 'SELECT 2'",
    );
    let to = backups.path().join("a.dump");
    watched(|watch| backup(DatabaseKind::Postgres, &database(&server), &to, watch)).unwrap();
    // What refers to the tables of before, and would keep them from being replaced.
    server.sql(
        "DELETE FROM stock; ALTER TABLE stock ADD COLUMN price int; CREATE TABLE made_since (stock int REFERENCES stock);
         CREATE VIEW also AS SELECT name FROM seen; CREATE TYPE new AS ENUM ('x'); DROP FUNCTION two(); CREATE TABLE \"of it\".b (a int REFERENCES \"of it\".a);
         CREATE FUNCTION three() RETURNS SETOF stock LANGUAGE sql AS 'SELECT * FROM stock'",
    );
    let dump = Arc::new(File::open(&to).unwrap());
    watched(|watch| restore(DatabaseKind::Postgres, &database(&server), &dump, watch))
        .unwrap_or_else(|err| panic!("{err:?} {:?}", err.tail()));
    assert_eq!(server.sql("SELECT count(*), max(name) IS NOT NULL FROM stock"), "20000|t");
    assert_eq!(server.sql("SELECT two(), (SELECT count(*) FROM seen), (SELECT m FROM \"of it\".a)"), "2|20000|good");
    let left = server.sql("SELECT count(*) FROM pg_class WHERE relname IN ('made_since', 'also', 'b')");
    assert_eq!((left.as_str(), server.sql("SELECT count(*) FROM pg_type WHERE typname = 'new'").as_str()), ("0", "0"));

    // One that is cut short changes nothing.
    let whole = fs::read(&to).unwrap();
    let cut = backups.path().join("cut.dump");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    server.sql("CREATE TABLE made_since (n int)");
    let cut = Arc::new(File::open(&cut).unwrap());
    watched(|watch| restore(DatabaseKind::Postgres, &database(&server), &cut, watch)).unwrap_err();
    assert_eq!(server.sql("SELECT count(*) FROM made_since, (SELECT count(*) FROM stock) s"), "0");
    assert_eq!(server.sql("SELECT count(*) FROM stock"), "20000");
}

#[test]
fn a_copy_of_sqlite_is_put_back_under_those_who_have_it_open() {
    for journal in ["wal", "delete"] {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("db");
        let connection = Connection::open(&live).unwrap();
        connection.execute_batch(&format!("PRAGMA journal_mode={journal}; CREATE TABLE a (n int); INSERT INTO a VALUES (7)")).unwrap();
        let to = dir.path().join("a.sqlite3");
        watched(|watch| backup(DatabaseKind::Sqlite, &sqlite_database(&live), &to, watch)).unwrap();
        connection.execute_batch("DELETE FROM a; ALTER TABLE a ADD COLUMN more; CREATE TABLE made_since (n int)").unwrap();
        let dump = Arc::new(File::open(&to).unwrap());
        watched(|watch| restore(DatabaseKind::Sqlite, &sqlite_database(&live), &dump, watch)).unwrap();
        let seen: (i64, i64) = connection
            .query_row("SELECT (SELECT n FROM a), (SELECT count(*) FROM sqlite_schema WHERE name = 'made_since')", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .unwrap();
        assert_eq!(seen, (7, 0), "{journal}");
    }
}
