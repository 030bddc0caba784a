//! Migrations on a real PostgreSQL: locks, limits, what is tried again and what is not.

use super::*;

#[test]
fn a_migration_does_not_wait_long_for_a_lock_and_is_tried_again() {
    let server = Server::start();
    let mut project = Project::new();
    project.set("DB_HOST", &server.socket().display().to_string());
    project.set("DB_PASSWORD", PASSWORD);
    project.set("PGOPTIONS", "-c work_mem=8MB");
    project.set("RELEASE_NAME", "2026-11-20-22-45-23-1a2b3c4d5e6f");
    let second = project.dir.path().join("stock/migrations/0002_price.py");
    fs::remove_file(&second).unwrap();
    project.migrate().unwrap();
    fs::write(&second, SECOND.replace("lambda apps, editor: None", "seen").replace("class Migration", SEEN)).unwrap();

    let inspection = project.inspect(&new()).unwrap();
    let schema = inspection.schema.clone().unwrap();
    assert_eq!((schema.pending.as_slice(), schema.server_version / 10_000 >= 13), (["stock.0002_price".to_owned()].as_slice(), true));
    assert_eq!(inspection.databases["default"].options["sslmode"], "prefer");

    // Held for good: it gives up after three tries, and says what to look at.
    let holder = server.hold("LOCK TABLE stock_item IN ACCESS SHARE MODE");
    let begun = Instant::now();
    let (migrated, lines) = heard_lines(|watch| project.migrating(&new(), watch, &inspection));
    let err = migrated.unwrap_err();
    assert_eq!(err.to_string(), "stock.0002_price did not get a lock in time, and was given up", "the lock is named first");
    assert!(err.hint().unwrap().contains("pg_stat_activity"), "{err:?}");
    assert_eq!(lines.iter().filter(|line| line.contains("trying again in")).count(), 2);
    assert!(begun.elapsed() < Duration::from_secs(60));

    // Held for a while: a later try passes.
    let waiting = std::cell::RefCell::new(Some(holder));
    let cancel = Cancel::default();
    let lines = |_: Stream, line: &str| {
        if line.contains("trying again in") {
            waiting.borrow_mut().take();
        }
    };
    let watch = Watch { marker: "t:lock", deadline: Instant::now() + Duration::from_secs(120), cancel: &cancel, lines: &lines };
    let migrated = project.migrating(&new(), &watch, &inspection).unwrap();
    assert_eq!(migrated, Migrated { attempts: 2, warnings: Vec::new(), begun: Begun::Ended });
    assert_eq!(server.sql("SELECT * FROM seen"), "300ms|8MB|1s|release-agent migrate 2026-11-20-22-45-23-1a2b3c4d5e6f");
    assert!(project.schema().pending.is_empty());
}

#[test]
fn options_of_the_settings_do_not_lift_the_limit() {
    let server = Server::start();
    let mut project = Project::new();
    project.set("DB_HOST", &server.socket().display().to_string());
    project.set("DB_PASSWORD", PASSWORD);
    project.set("DB_OPTIONS", "-c work_mem=9MB");
    project.settings.settings = Some("shop.settings".into());
    project.file("stock/migrations/0002_price.py", &SECOND.replace("lambda apps, editor: None", "seen").replace("class Migration", SEEN));
    for python in djangos() {
        let inspection = project.inspect(&python).unwrap();
        let migrated = watched(|watch| project.migrating(&python, watch, &inspection)).unwrap();
        assert_eq!(migrated, Migrated { attempts: 1, warnings: Vec::new(), begun: Begun::Ended });
        assert_eq!(server.sql("SELECT * FROM seen"), "300ms|9MB|1s|release-agent migrate");
        server.sql("DROP TABLE seen, stock_item, django_migrations");
    }
}

/// A migration that writes down what PostgreSQL was told.
const SEEN: &str = "def seen(apps, editor):\n    names = ['lock_timeout', 'work_mem', 'client_connection_check_interval', 'application_name']\n    editor.execute('CREATE TABLE seen AS SELECT ' + ', '.join(\"current_setting('%s') AS %s\" % (name, name) for name in names))\n\n\nclass Migration";

#[test]
fn a_migration_that_is_cancelled_leaves_no_backend_behind() {
    let server = Server::start();
    let mut project = Project::new();
    project.settings.lock_timeout = Duration::from_secs(600);
    project.set("DB_HOST", &server.socket().display().to_string());
    project.set("DB_PASSWORD", PASSWORD);
    let second = project.dir.path().join("stock/migrations/0002_price.py");
    fs::remove_file(&second).unwrap();
    project.migrate().unwrap();
    fs::write(&second, SECOND).unwrap();
    let inspection = project.inspect(&new()).unwrap();
    let _holder = server.hold("LOCK TABLE stock_item IN ACCESS SHARE MODE");
    let server = &server;
    let waiting = move || {
        server.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'release-agent migrate' AND wait_event_type = 'Lock'")
    };
    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        let asking = cancel.clone();
        let watcher = scope.spawn(move || {
            while waiting() == "0" {
                std::thread::sleep(Duration::from_millis(50));
            }
            asking.ask();
        });
        let lines = |_: Stream, _: &str| {};
        let watch = Watch { marker: "t:cancel", deadline: Instant::now() + Duration::from_secs(120), cancel: &cancel, lines: &lines };
        let err = project.migrating(&new(), &watch, &inspection).unwrap_err();
        assert!(matches!(err, ManageError::Command { source: ProgramError::Cancelled(_), .. }), "{err:?}");
        watcher.join().unwrap();
    });
    let end = Instant::now() + Duration::from_secs(30);
    while waiting() != "0" {
        assert!(Instant::now() < end, "the server still waits for the lock on behalf of a client that is gone");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A project on that server whose first migration is applied.
fn on(server: &Server) -> Project {
    let mut project = Project::new();
    project.set("DB_HOST", &server.socket().display().to_string());
    project.set("DB_PASSWORD", PASSWORD);
    let second = project.dir.path().join("stock/migrations/0002_price.py");
    fs::remove_file(&second).unwrap();
    project.migrate().unwrap();
    project
}

/// A migration with these operations.
fn with(atomic: &str, operations: &str) -> String {
    format!(
        "from django.contrib.postgres.operations import AddIndexConcurrently\nfrom django.db import migrations, models\n\
         def mark(apps, editor):\n    editor.execute(\"UPDATE stock_item SET name = name || '+'\")\n\
         def words(apps, editor):\n    mark(apps, editor)\n    print('a lock timeout, or LockNotAvailable', flush=True)\n    raise ValueError('a row that cannot be converted')\n\
         class Migration(migrations.Migration):\n    {atomic}dependencies = [('stock', '0001_initial')]\n    operations = [{operations}]\n"
    )
}

const ADD: &str = "migrations.AddField('Item', 'price', models.IntegerField(null=True))";

#[test]
fn a_migration_that_is_no_transaction_is_not_repeated() {
    let server = Server::start();
    let project = on(&server);
    server.sql("INSERT INTO stock_item (name) VALUES ('Emma')");
    project.second("0002_mark", &with("atomic = False\n    ", &format!("migrations.RunPython(mark, mark), {ADD}")));
    let inspection = project.inspect(&new()).unwrap();
    assert_eq!(inspection.schema.as_ref().unwrap().may_leave["stock.0002_mark"], "is not atomic");
    let holder = server.hold("LOCK TABLE stock_item IN ROW SHARE MODE");
    let ((migrated, ended), lines) = heard_lines(|watch| project.django(&new()).migrate(watch, &inspection, &project.report()));
    drop(holder);
    let err = ended.unwrap_err();
    assert!(matches!(&err, ManageError::Locked { migration, .. } if migration == "stock.0002_mark"), "{err:?}");
    assert_eq!((migrated.attempts, &migrated.begun), (1, &Begun::This("stock.0002_mark".to_owned())));
    assert!(!lines.iter().any(|line| line.contains("trying again")), "{lines:?}");
    assert_eq!(server.sql("SELECT name FROM stock_item"), "Emma+", "the data were changed once");
}

#[test]
fn what_a_migration_prints_is_no_reason_to_repeat_it() {
    let server = Server::start();
    let project = on(&server);
    server.sql("INSERT INTO stock_item (name) VALUES ('Emma')");
    for atomic in ["", "atomic = False\n    "] {
        project.second("0002_words", &with(atomic, "migrations.RunPython(words, words)"));
        let inspection = project.inspect(&new()).unwrap();
        let (migrated, ended) = watched(|watch| project.django(&new()).migrate(watch, &inspection, &project.report()));
        let err = ended.unwrap_err();
        assert!(matches!(err, ManageError::Command { hint: None, .. }), "{err:?}");
        assert_eq!(migrated.attempts, 1);
    }
    assert_eq!(server.sql("SELECT name FROM stock_item"), "Emma+", "the one that was a transaction was taken back");
}

#[test]
fn an_index_that_is_built_beside_the_writers_waits_for_them_and_what_is_left_of_one_is_named() {
    let server = Server::start();
    let mut project = on(&server);
    project.settings.settings = Some("shop.settings".into());
    server.sql("INSERT INTO stock_item (name) VALUES ('a'), ('a')");
    let index = "AddIndexConcurrently('item', models.Index(fields=['name'], name='item_name_idx'))";
    project.second("0002_index", &with("atomic = False\n    ", &format!("migrations.RunPython(mark, mark), {index}")));
    let inspection = project.inspect(&new()).unwrap();
    assert_eq!(inspection.schema.as_ref().unwrap().concurrent, ["stock.0002_index"]);
    // Three times as long as a migration may wait for a lock.
    let holder = std::cell::RefCell::new(Some(server.hold("INSERT INTO stock_item (name) VALUES ('held')")));
    let (limit, cancel) = (project.settings.lock_timeout, Cancel::default());
    std::thread::scope(|scope| {
        let server = &server;
        let waits = scope.spawn(move || {
            let asked = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' AND wait_event_type = 'Lock'";
            while server.sql(asked) == "0" {
                std::thread::sleep(Duration::from_millis(50));
            }
            std::thread::sleep(limit * 3);
            server.sql(asked)
        });
        let migrating = scope.spawn(|| {
            let lines = |_: Stream, _: &str| {};
            let watch = Watch { marker: "t:cic", deadline: Instant::now() + Duration::from_secs(120), cancel: &cancel, lines: &lines };
            project.migrating(&new(), &watch, &inspection)
        });
        assert_eq!(waits.join().unwrap(), "1", "it still waits");
        holder.borrow_mut().take();
        let migrated = migrating.join().unwrap().unwrap();
        assert_eq!((migrated.attempts, migrated.warnings), (1, Vec::<String>::new()));
    });
    assert!(project.schema().invalid_indexes.is_empty());

    // A build that fails leaves an index that is invalid: the migration that would make it again is named with it.
    server.sql("DELETE FROM django_migrations WHERE name = '0002_index'");
    server.sql("DROP INDEX item_name_idx");
    let sql = "migrations.RunSQL('CREATE UNIQUE INDEX CONCURRENTLY \"item_name_idx\" ON stock_item (name)', 'SELECT 1')";
    project.second("0002_index", &with("atomic = False\n    ", sql));
    let inspection = project.inspect(&new()).unwrap();
    assert_eq!(inspection.schema.as_ref().unwrap().concurrent, ["stock.0002_index"]);
    assert!(watched(|watch| project.migrating(&new(), watch, &inspection)).is_err(), "two rows have one name");
    let left = project.schema().invalid_indexes;
    let wanted = InvalidIndex {
        index: "item_name_idx".into(),
        table: "stock_item".into(),
        drop: "DROP INDEX CONCURRENTLY \"public\".\"item_name_idx\"".into(),
        made_by: Some("stock.0002_index".into()),
    };
    assert_eq!(left, std::slice::from_ref(&wanted));
    project.second("0002_index", &with("atomic = False\n    ", index));
    assert_eq!(project.schema().invalid_indexes, [wanted]);
    let drops = "migrations.RunSQL('DROP INDEX IF EXISTS item_name_idx', 'SELECT 1')";
    project.second("0002_index", &with("atomic = False\n    ", &format!("{drops}, {index}")));
    assert_eq!(project.schema().invalid_indexes[0].made_by, None, "it drops it first");
}

#[test]
fn a_limit_that_does_not_hold_is_told() {
    let server = Server::start();
    let mut project = on(&server);
    project.file("stock/migrations/0002_price.py", SECOND);
    // Something behind us says something else when the connection is made, as a pooler or a setting of the driver may.
    let sets = "from django.db.backends.signals import connection_created\nfrom django.dispatch import receiver\n\
                @receiver(connection_created)\ndef other(connection, **more):\n    connection.cursor().execute('SET lock_timeout = 0')\n";
    project.file("stock/models.py", &format!("{MODELS}{sets}"));
    project.settings.settings = Some("shop.settings".into());
    let migrated = project.migrate().unwrap();
    assert_eq!(migrated.warnings.len(), 1, "{migrated:?}");
    assert!(migrated.warnings[0].contains("does not hold in the session that migrates, which has none"), "{migrated:?}");
}
