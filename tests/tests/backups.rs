//! Dumps are put back by the printed command; state within a release is refused; migrations without a dump are warned of.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use agent_tests::{Bench, Postgres, Repo, demo_settings, is_root};
use serde_json::Value;

/// A user that is there on every Debian, without any right here.
const DAEMON: u32 = 1;

/// A bench of another user, who has a home of his own, with nothing in it.
fn of_daemon(name: &str) -> Bench {
    let bench = Bench::new(name);
    fs::create_dir(bench.path("home")).unwrap();
    bench.variable("HOME", bench.path("home").to_str().unwrap()).without_variable("PIP_CACHE_DIR").without_variable("UV_CACHE_DIR");
    bench
}

fn quick(bench: &Bench, repo: &Repo) -> String {
    demo_settings(bench, repo).replace("status = 200", "status = 200\nstable = \"300ms\"")
}

fn migration(repo: &Repo, name: &str, after: &str, operations: &str) {
    let text = format!(
        "from django.db import migrations, models\n\nclass Migration(migrations.Migration):\n    dependencies = [('board', '{after}')]\n    operations = [{operations}]\n"
    );
    repo.write(&format!("board/migrations/{name}.py"), text).commit(name);
}

/// Has the second of two migrations fail; gives the command that is printed.
fn command_after_a_failure(bench: &Bench, repo: &Repo) -> String {
    migration(repo, "0003_good", "0002_notice_colour", "migrations.RunSQL('CREATE TABLE good (x int)', 'DROP TABLE good')");
    migration(repo, "0004_bad", "0003_good", "migrations.RunSQL('SELECT no_such_function()', 'SELECT 1')");
    let done = bench.ctl(["release", "main"]).expect(1);
    let events = bench.events(bench.last_run()["run"].as_u64().unwrap());
    let told: Vec<&Value> = events.iter().filter(|event| event["what"] == "stands").collect();
    let command = told[0]["restore"].as_str().unwrap().to_owned();
    assert!(done.stderr.contains(&command), "{}", done.stderr);
    command
}

/// Runs a command as a person does who is root, has logged in, and has nothing else.
fn as_root(command: &str) {
    let mut shell = Command::new("/bin/sh");
    let done = shell.args(["-c", command]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").current_dir("/root").output().unwrap();
    assert!(done.status.success(), "{command}\n{}", String::from_utf8_lossy(&done.stderr));
}

fn sqlite(file: &Path, query: &str) -> String {
    let output = Command::new("sqlite3").arg(file).arg(query).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_command_that_is_printed_puts_a_copy_of_sqlite_back_for_root_and_leaves_it_its_owner_s() {
    if !is_root("that root can put the dump of another user back") {
        return;
    }
    let bench = of_daemon("a copy put back");
    let repo = bench.demo_repo(2);
    bench.app("demo", &quick(&bench, &repo)).give_to(DAEMON).start();
    bench.ctl(["release", "main"]).expect(0);
    let file = bench.root_of("demo").join("shared/db.sqlite3");
    sqlite(&file, "INSERT INTO board_notice (text, name, posted, colour) VALUES ('kept', 'anna', 1, 'pink')");
    let command = command_after_a_failure(&bench, &repo);
    assert!(command.contains("--user=daemon"), "{command}");
    assert_eq!(sqlite(&file, "SELECT count(*) FROM sqlite_schema WHERE name = 'good'"), "1");
    as_root(&command);
    let query = "SELECT (SELECT text FROM board_notice), (SELECT count(*) FROM sqlite_schema WHERE name = 'good')";
    assert_eq!(sqlite(&file, query), "kept|0");
    assert_eq!(fs::metadata(&file).unwrap().uid(), DAEMON);
    // The site goes on, and the migration that is as new can be applied.
    assert_eq!(bench.page("/healthz").status, 200);
    repo.remove("board/migrations/0004_bad.py").commit("without the bad one");
    bench.ctl(["release", "main"]).expect(0);
}

#[test]
fn the_command_that_is_printed_works_where_postgresql_knows_users_by_their_names_on_the_host() {
    if !is_root("that root can put the dump of another user back") {
        return;
    }
    let server = Postgres::start();
    server.know_by_name("daemon");
    let bench = of_daemon("peer");
    let repo = bench.demo_repo(2);
    let settings = fs::read_to_string(repo.path().join("noticeboard/settings.py")).unwrap();
    // Nothing but the name: everything else is said by a variable, which the settings set.
    let database = format!(
        "\nos.environ['PGHOST'] = {:?}\nDATABASES = {{'default': {{'ENGINE': 'django.db.backends.postgresql', 'NAME': 'shop'}}}}\n",
        server.socket()
    );
    repo.write("noticeboard/settings.py", settings + &database).commit("Keep notices in PostgreSQL");
    let app = quick(&bench, &repo)
        .replace("[backup]\ndatabase = \"sqlite\"", "[backup]")
        .replace("[\"pyuwsgi", "[\"psycopg[binary]==3.2.*\", \"pyuwsgi");
    bench.app("demo", &app).give_to(DAEMON).start();
    bench.ctl(["release", "main"]).expect(0);
    server.sql("INSERT INTO board_notice (text, name, posted, colour) VALUES ('kept', 'anna', now(), 'pink')");
    let command = command_after_a_failure(&bench, &repo);
    server.sql("CREATE TABLE refers (notice bigint REFERENCES board_notice); DELETE FROM board_notice");
    as_root(&command);
    assert_eq!(server.sql("SELECT text FROM board_notice"), "kept", "{command}");
    assert_eq!(server.sql("SELECT count(*) FROM pg_class WHERE relname IN ('good', 'refers')"), "0");
    assert_eq!(server.sql("SELECT tableowner FROM pg_tables WHERE tablename = 'board_notice'"), "daemon");
}

/// The findings of doctor about one thing.
fn findings(bench: &Bench, what: &str) -> Vec<(String, String, String)> {
    let found = bench.ctl(["doctor", "--json"]).json();
    let found = found["findings"].as_array().unwrap().iter().filter(|finding| finding["what"] == what);
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    found.map(|finding| (text(finding, "level"), text(finding, "text"), text(finding, "hint"))).collect()
}

#[test]
fn what_visitors_leave_never_lies_in_a_release_and_migrations_without_a_dump_are_warned_of() {
    let bench = Bench::new("state");
    let repo = bench.demo_repo(1);
    let app = quick(&bench, &repo).replace("[backup]\ndatabase = \"sqlite\"\n", "");
    let database = bench.root_of("demo").join("shared/db.sqlite3");
    let in_the_release = app.replace(&format!("DATABASE_PATH = {database:?}\n"), "");
    assert_ne!(in_the_release, app);
    bench.app("demo", &in_the_release).start();
    let refused = bench.ctl(["release", "main"]).expect(1);
    assert!(refused.stderr.contains("✗ check"), "{}", refused.stderr);
    let refused = refused.says(&["the database \"default\" lies in the release, at db.sqlite3"]);
    let refused = refused.says(&["hint: add \"data\" to [shared] dirs in the app's file, and set NAME = BASE_DIR / \"data/db.sqlite3\""]);
    assert!(!refused.stderr.contains("first, as root"), "there is nothing to keep yet: {}", refused.stderr);

    // As the hint says, and nothing else.
    fs::create_dir(bench.root_of("demo").join("shared/data")).unwrap();
    bench.app("demo", &in_the_release.replace("[restart]", "[shared]\ndirs = [\"data\"]\n\n[restart]")).reload();
    let settings = fs::read_to_string(repo.path().join("noticeboard/settings.py")).unwrap();
    let settings = settings.replace("BASE_DIR / \"db.sqlite3\"", "BASE_DIR / \"data/db.sqlite3\"");
    let uploads = "\nif os.environ.get(\"UPLOADS\"):\n    MEDIA_ROOT = BASE_DIR / os.environ[\"UPLOADS\"]\n";
    repo.write("noticeboard/settings.py", settings + uploads).commit("Keep notices where releases share them");
    let first = bench.ctl(["release", "main"]).expect(0);
    first.says(&["no dump was made before these migrations: [backup] is not set; add [backup] to the app's file"]);
    assert!(fs::metadata(bench.root_of("demo").join("shared/data/db.sqlite3")).unwrap().len() > 0);
    assert_eq!(findings(&bench, "state")[0].0, "good");
    assert_eq!(findings(&bench, "backup")[0].0, "warning");
    let live = bench.live("demo").unwrap();
    sqlite(
        &bench.root_of("demo").join("shared/data/db.sqlite3"),
        "INSERT INTO board_notice (text, name, posted) VALUES ('kept', 'anna', 1)",
    );

    // A release that migrates nothing has nothing to warn of.
    repo.write("README", "again").commit("again");
    let again = bench.ctl(["release", "main"]).expect(0);
    assert!(!again.stderr.contains("no dump was made"), "{}", again.stderr);

    // The same settings in other circumstances: doctor finds it in the live release, and the next release is refused, check or none.
    let current = bench.live("demo").unwrap();
    assert_ne!(current, live);
    let other = in_the_release.replace("[restart]", "[backup]\n\n[shared]\ndirs = [\"data\"]\n\n[restart]");
    bench
        .app("demo", &other.replace("[env]\n", "[env]\nUPLOADS = \"uploads\"\n").replace("[django]\n", "[django]\ncheck = false\n"))
        .reload();
    let found = findings(&bench, "state");
    assert!(found[0].0 == "error" && found[0].1.contains("MEDIA_ROOT lies in the release, at uploads"), "{found:?}");
    assert!(found[0].2.contains("add \"uploads\" to [shared] dirs"), "{found:?}");
    assert_eq!(findings(&bench, "backup")[0].0, "good");
    let more = "migrations.RunSQL('CREATE TABLE more (x int)', 'DROP TABLE more')";
    migration(&repo, "0002_more", "0001_initial", more);
    let refused = bench.ctl(["release", "main"]).expect(1);
    assert!(refused.stderr.contains("MEDIA_ROOT lies in the release"), "{}", refused.stderr);
    assert_eq!(bench.live("demo").unwrap(), current);
    bench.assert_sound();
}
