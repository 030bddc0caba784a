//! Releases that migrate a real PostgreSQL: what is dumped, what waits, what stands, and how it is restored.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use agent_tests::{Bench, PASSWORD, Postgres, Repo, demo_settings, wait_until};
use serde_json::Value;

const LONG: Duration = Duration::from_secs(60);

/// The demo on PostgreSQL, with its password in a file of secrets.
fn demo_on(server: &Postgres, name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.demo_repo(2);
    let settings = fs::read_to_string(repo.path().join("noticeboard/settings.py")).unwrap();
    let database = "\nDATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'shop', 'USER': 'shop', \
                    'HOST': os.environ['DATABASE_HOST'], 'PASSWORD': os.environ['DATABASE_PASSWORD']}}\n";
    repo.write("noticeboard/settings.py", settings + database);
    repo.commit("Keep notices in PostgreSQL");
    // As people write it into such a file: quoted, for it holds a quote itself.
    let secrets = bench.write("config/demo.env", format!("DATABASE_PASSWORD=\"{PASSWORD}\"\n"));
    Command::new("chmod").arg("600").arg(&secrets).status().unwrap();
    let app = demo_settings(&bench, &repo)
        .replace("status = 200", "status = 200\nstable = \"300ms\"")
        .replace("database = \"sqlite\"", "database = \"postgres\"")
        .replace("[\"pyuwsgi", "[\"psycopg[binary]==3.2.*\", \"pyuwsgi")
        .replace("[django]\n", "[django]\nlock_timeout = \"1s\"\n")
        .replace("[env]\n", &format!("[secrets]\nfiles = [{secrets:?}]\n\n[env]\nDATABASE_HOST = {:?}\n", server.socket()));
    bench.app("demo", &app).start();
    (bench, repo)
}

fn migration(repo: &Repo, name: &str, after: &str, operations: &str) {
    let text = format!(
        "from django.db import migrations, models\n\nclass Migration(migrations.Migration):\n    dependencies = [('board', '{after}')]\n    operations = [{operations}]\n"
    );
    repo.write(&format!("board/migrations/{name}.py"), text);
    repo.commit(name);
}

fn told(bench: &Bench, what: &str) -> Vec<Value> {
    let events = bench.events(bench.last_run()["run"].as_u64().unwrap());
    events.into_iter().filter(|event| event["what"] == what).collect()
}

#[test]
fn a_migration_is_preceded_by_a_dump_waits_no_longer_than_it_may_and_what_stands_can_be_restored() {
    let server = Postgres::start();
    let (bench, repo) = demo_on(&server, "on PostgreSQL");
    bench.ctl(["release", "main"]).expect(0);
    let live = bench.live("demo").unwrap();
    server.sql("INSERT INTO board_notice (text, name, posted, colour) VALUES ('kept', 'anna', now(), 'pink')");

    // Somebody holds the table for the first try; the second one, or the third, gets it. Readers are never kept waiting longer than the limit.
    migration(&repo, "0003_more", "0002_notice_colour", "migrations.RunSQL('ALTER TABLE board_notice ADD COLUMN more text', 'SELECT 1')");
    let holder = server.hold("LOCK TABLE board_notice IN ACCESS SHARE MODE");
    let run = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().to_owned();
    agent_tests::wait_until("the migration has met the lock", std::time::Duration::from_secs(60), || {
        // Without -f: a run's events, as far as they are there.
        bench.ctl(["logs", &run]).stdout.contains("lock timeout")
    });
    drop(holder);
    bench.ctl(["logs", "-f", &run]).expect(0);
    assert_eq!(
        server.sql("SELECT count(*) FROM information_schema.columns WHERE table_name = 'board_notice' AND column_name = 'more'"),
        "1"
    );
    let second = repo.head();
    assert_eq!(bench.page("/healthz").header("X-Release"), Some(second.as_str()));

    // The first of two migrations stands when the second fails; the dump from before both is named, and the command beside it works as it is.
    migration(&repo, "0004_good", "0003_more", "migrations.RunSQL('CREATE TABLE good (x int)', 'DROP TABLE good')");
    migration(&repo, "0005_bad", "0004_good", "migrations.RunSQL('SELECT no_such_function()', 'SELECT 1')");
    let done = bench.ctl(["release", "main"]).expect(1);
    assert!(done.stderr.contains("no_such_function"), "the tool's last lines are shown:\n{}", done.stderr);
    let stands = told(&bench, "stands");
    assert!(stands[0]["text"].as_str().unwrap().contains("board.0004_good"), "{stands:?}");
    assert!(!stands[0]["text"].as_str().unwrap().contains("0005_bad"), "{stands:?}");
    assert_eq!(bench.page("/healthz").header("X-Release"), Some(second.as_str()));
    assert_ne!(bench.live("demo").unwrap(), live);
    let restore = stands[0]["restore"].as_str().unwrap();
    assert!(!restore.contains(PASSWORD), "{restore}");
    // As it is printed, by root, who has logged in and knows no password.
    server.sql("CREATE TABLE made_since (notice bigint REFERENCES board_notice)");
    let mut shell = Command::new("/bin/sh");
    let restored = shell.args(["-c", restore]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/").output().unwrap();
    assert!(restored.status.success(), "{restore}\n{}", String::from_utf8_lossy(&restored.stderr));
    // What the dump holds is as it was, and what was made since is gone: it would be in the way of the next try.
    assert_eq!(server.sql("SELECT count(*) FROM pg_class WHERE relname IN ('good', 'made_since')"), "0", "{restore}");
    assert_eq!(server.sql("SELECT count(*) FROM django_migrations WHERE name = '0004_good'"), "0", "{restore}");
    assert_eq!(server.sql("SELECT text FROM board_notice"), "kept");
    bench.assert_sound();

    // The password stands nowhere: not in the journal, not in the agent's log, not in any event.
    let mut looked = 0;
    for entry in fs::read_dir(bench.path("state")).unwrap().flatten() {
        let bytes = fs::read(entry.path()).unwrap();
        assert!(!bytes.windows(PASSWORD.len()).any(|window| window == PASSWORD.as_bytes()), "{:?} holds the password", entry.path());
        looked += 1;
    }
    assert!(looked >= 2 && !bench.log().contains(PASSWORD));
}

#[test]
fn a_database_that_is_out_of_reach_fails_the_release_before_anything_is_switched() {
    let server = Postgres::start();
    let (bench, repo) = demo_on(&server, "database gone");
    bench.ctl(["release", "main"]).expect(0);
    let live = bench.live("demo").unwrap();
    drop(server);
    repo.write("README", "again").commit("again");
    let done = bench.ctl(["release", "main"]).expect(1);
    // Asked beside the start of the new instance; whatever that says of its own accord, the database is the reason that is told.
    assert!(
        done.stderr.contains("✗ switch") && done.stderr.contains("the database cannot be asked which migrations it has"),
        "{}",
        done.stderr
    );
    assert!(done.stderr.contains("hint:"), "what to do is said:\n{}", done.stderr);
    assert_eq!(bench.live("demo").unwrap(), live);
    bench.assert_sound();
}

#[test]
fn an_index_that_an_interrupted_build_left_is_named_before_a_migration_fails_on_it() {
    let server = Postgres::start();
    let (bench, repo) = demo_on(&server, "an invalid index");
    bench.ctl(["release", "main"]).expect(0);
    server.sql("INSERT INTO board_notice (text, name, posted, colour) VALUES ('a', 'anna', now(), 'pink'), ('b', 'anna', now(), 'pink')");
    // It waits for the writers longer than a migration may wait for a lock (1 s), and then two rows have one name.
    let index = "migrations.RunSQL('CREATE UNIQUE INDEX CONCURRENTLY board_name_idx ON board_notice (name)', 'DROP INDEX board_name_idx')";
    migration(&repo, "0003_index", "0002_notice_colour", index);
    let text = fs::read_to_string(repo.path().join("board/migrations/0003_index.py")).unwrap();
    repo.write("board/migrations/0003_index.py", text.replace("    dependencies", "    atomic = False\n    dependencies"))
        .commit("Not atomic");
    bench.ctl(["release", "main"]).expect(1).says(&[
        "could not create unique index",
        "the index board_name_idx of board_notice is invalid",
        "board.0003_index was begun and is not atomic",
    ]);
    let drop = "DROP INDEX CONCURRENTLY \"public\".\"board_name_idx\"";
    bench.ctl(["doctor"]).expect(1).says(&["the index board_name_idx of board_notice is invalid", drop]);
    server.sql("UPDATE board_notice SET name = text");
    let done =
        bench.ctl(["release", "main"]).expect(1).says(&["an interrupted build left it, and board.0003_index would make it anew", drop]);
    assert!(!done.stderr.contains("already exists") && told(&bench, "stands").is_empty(), "{}", done.stderr);
    server.sql("DROP INDEX CONCURRENTLY board_name_idx");
    bench.ctl(["release", "-v", "main"]).expect(0).says(&["settled"]);
    bench.ctl(["doctor"]).expect(0);
    bench.assert_sound();
}

#[test]
fn what_was_reversed_is_warned_of_no_more_and_what_cannot_be_reversed_is_not_said_to_be() {
    let server = Postgres::start();
    let (bench, repo) = demo_on(&server, "reversed");
    bench.ctl(["release", "main"]).expect(0);
    let old = bench.live("demo").unwrap();
    migration(&repo, "0003_there", "0002_notice_colour", "migrations.RunSQL('CREATE TABLE there (x int)', 'DROP TABLE there')");
    migration(&repo, "0004_back", "0003_there", "migrations.RunSQL('CREATE TABLE no_way_back (x int)')");
    bench.ctl(["release", "main"]).expect(0);
    let newer = bench.live("demo").unwrap();
    let dir = bench.root_of("demo").join("releases").join(&newer);
    bench.ctl(["activate", &old]).expect(0).says(&[
        &format!("the newer release {newer} applied board.0003_there, board.0004_back, which this one does not know"),
        &format!("only {} can reverse board.0003_there, and board.0004_back cannot be reversed", dir.display()),
    ]);
    // As its own code or a restored dump would leave it.
    bench.ctl(["activate", &newer]).expect(0);
    server.sql("DELETE FROM django_migrations WHERE name IN ('0003_there', '0004_back')");
    let done = bench.ctl(["activate", &old]).expect(0);
    assert!(!done.stderr.contains("which this one") && !done.stderr.contains("reverse"), "{}", done.stderr);
}

#[test]
fn an_older_release_is_refused_where_its_code_does_not_fit_the_schema_and_named_where_it_does() {
    let server = Postgres::start();
    let (bench, repo) = demo_on(&server, "a contract");
    bench.ctl(["release", "main"]).expect(0);
    let old = bench.live("demo").unwrap();
    // It adds what the code of before does not notice.
    let optional = "migrations.AddField('notice', 'note', models.TextField(null=True))";
    migration(&repo, "0003_note", "0002_notice_colour", optional);
    bench.ctl(["release", "-v", "main"]).expect(0).says(&[&format!("{old}, which serves until the switch, fits the new schema")]);
    let done = bench.ctl(["rollback", "-v"]).expect(0).says(&[&format!("the models of {old} fit the database: ")]);
    assert!(!done.stderr.contains("writes fail"), "{}", done.stderr);

    // A column that wants a value from each INSERT, and one that is gone.
    let demanding = "migrations.AddField('notice', 'kind', models.CharField(max_length=9, default='plain'))";
    migration(&repo, "0004_kind", "0003_note", demanding);
    let wants = "the column board_notice.kind wants a value, and the models do not know it";
    bench.ctl(["release", "main"]).expect(0).says(&["does not fit the new schema: writing fails", wants]);
    let live = bench.live("demo").unwrap();
    let refused = bench.ctl(["activate", &old]).expect(1).says(&[&format!("{old} does not fit the database: writing fails"), wants]);
    refused.says(&[&format!("agentctl activate {old} --reverse"), "--keep-schema", "still serves"]);
    assert_eq!(bench.live("demo").unwrap(), live);
    // It is true: the code of before cannot write.
    let insert = "INSERT INTO board_notice (text, name, posted, colour) VALUES ('a', 'anna', now(), 'pink')";
    assert!(server.try_sql(insert).is_err_and(|said| said.contains("kind")), "the row is taken");

    bench.ctl(["activate", &old, "--keep-schema"]).expect(0).says(&[&format!("{old} does not fit the database"), wants]);
    assert_eq!(bench.live("demo").unwrap(), old);
    bench.ctl(["activate", &live]).expect(0);
    server.sql("ALTER TABLE board_notice RENAME COLUMN name TO author");
    bench.ctl(["activate", &old]).expect(1).says(&["reading fails (the column board_notice.name is missing)"]);
    bench.assert_sound();
}

/// The demo with a migration that its first release does not fit: a column that wants a value.
fn demo_that_demands(server: &Postgres, name: &str) -> (Bench, Repo, String, String) {
    let (bench, repo) = demo_on(server, name);
    bench.ctl(["release", "main"]).expect(0);
    let old = bench.live("demo").unwrap();
    let operations = "migrations.AddField('notice', 'kind', models.CharField(max_length=9, default='plain')), \
                      migrations.CreateModel('Tag', [('id', models.BigAutoField(primary_key=True)), ('word', models.TextField())])";
    migration(&repo, "0003_kind", "0002_notice_colour", operations);
    bench.ctl(["release", "main"]).expect(0);
    // One that needs the migration, and has not applied it.
    repo.write("README.md", "Newer.").commit("Newer");
    bench.ctl(["release", "main"]).expect(0);
    let new = bench.live("demo").unwrap();
    (bench, repo, old, new)
}

fn applied(server: &Postgres) -> String {
    server.sql("SELECT string_agg(name, ' ' ORDER BY name) FROM django_migrations WHERE app = 'board'")
}

const INSERT: &str = "INSERT INTO board_notice (text, name, posted, colour) VALUES ('a', 'anna', now(), 'pink')";

#[test]
fn a_rollback_reverses_the_newer_migrations_and_forward_again_they_are_applied() {
    let server = Postgres::start();
    let (bench, _, old, new) = demo_that_demands(&server, "reverse");
    bench.ctl(["activate", &old]).expect(1).says(&["does not fit the database", &format!("agentctl activate {old} --reverse")]);
    assert!(server.try_sql(INSERT).is_err(), "the code of before cannot write");

    let done = bench.ctl(["activate", &old, "--reverse"]).expect(0);
    done.says(&["1 to reverse, by the code of", "board.0003_kind", &format!("{old} is live")]);
    assert_eq!((bench.live("demo").unwrap(), applied(&server)), (old.clone(), "0001_initial 0002_notice_colour".into()));
    server.sql(INSERT);
    assert_eq!(server.sql("SELECT count(*) FROM information_schema.tables WHERE table_name = 'board_tag'"), "0");
    assert_eq!(bench.last_run()["action"], "reverse");
    let dumps = fs::read_dir(bench.root_of("demo").join("backups")).unwrap().count();
    assert_eq!(dumps, 3, "one before each migration, and one before they were reversed");

    // The newer release is migrated before it serves again.
    bench.ctl(["activate", &new]).expect(0).says(&["1 to apply: board.0003_kind"]);
    assert_eq!(applied(&server), "0001_initial 0002_notice_colour 0003_kind");
    server.sql("INSERT INTO board_tag (word) VALUES ('one'), ('two')");
    server.sql("UPDATE board_notice SET kind = 'odd'");

    // What visitors have written is not thrown away unless that is said.
    bench.ctl(["rollback", "--reverse"]).expect(1).says(&[
        "nothing is reversed",
        "2 rows of board_tag",
        "1 value of board_notice.kind",
        "--drop-data",
    ]);
    assert_eq!((bench.live("demo").unwrap(), applied(&server)), (new.clone(), "0001_initial 0002_notice_colour 0003_kind".into()));
    bench.ctl(["rollback", "--reverse", "--drop-data"]).expect(0).says(&["goes with them: ", "2 rows of board_tag"]);
    assert_eq!(bench.live("demo").unwrap(), old);
    bench.ctl(["rollback", "--reverse", "--keep-schema"]).expect(2);
    bench.assert_sound();
}

#[test]
fn what_cannot_be_reversed_is_refused_before_anything_is_changed() {
    let server = Postgres::start();
    let (bench, repo, old, _) = demo_that_demands(&server, "irreversible");
    migration(&repo, "0004_words", "0003_kind", "migrations.RunSQL('CREATE TABLE no_way_back (x int)')");
    bench.ctl(["release", "main"]).expect(0);
    let before = applied(&server);
    let refused = bench.ctl(["activate", &old, "--reverse"]).expect(1);
    refused.says(&["nothing is reversed: board.0004_words cannot be reversed", "--keep-schema"]);
    assert_eq!(applied(&server), before);
    assert_ne!(bench.live("demo").unwrap(), old);
}

#[test]
fn a_reversal_that_is_cut_off_is_applied_again_and_the_release_serves_on() {
    let server = Postgres::start();
    let (bench, _, old, new) = demo_that_demands(&server, "cut off");
    let before = applied(&server);
    for at in ["migrate.recorded", "migrate.migrated", "switch.prepared"] {
        bench.stop();
        bench.agent_variable("FAILPOINTS", &format!("{at}=return(stop)")).start();
        bench.ctl(["activate", &old, "--reverse", "--no-follow"]).expect(0);
        let stat = format!("/proc/{}/stat", bench.agent_pid().unwrap());
        wait_until("the agent has stopped there", LONG, || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")));
        bench.kill();
        if at != "migrate.recorded" {
            assert_ne!(applied(&server), before, "{at}: the migration is reversed");
        }
        bench.agent_variable("FAILPOINTS", "").start();
        wait_until("the run has ended", LONG, || bench.last_run()["state"] == "ended");
        assert_eq!(bench.live("demo").as_ref(), Some(&new), "{at}: {:#}", bench.last_run());
        assert_eq!(applied(&server), before, "{at}");
        assert!(bench.root_of("demo").join("releases").join(&old).is_dir());
        bench.ctl(["check"]).expect(0);
        bench.assert_sound();
    }
    bench.ctl(["activate", &old, "--reverse"]).expect(0);
    assert_eq!(bench.live("demo").unwrap(), old);
}
