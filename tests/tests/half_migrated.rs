//! A migration that the database does not take back as a whole fails, is cancelled, or dies with the agent: what is said of the database is true, the dump
//! from before stays, and both are named until it is settled.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use agent_tests::{Bench, KILL_AGENT_IN_PYTHON, Repo, demo_settings, wait_until};
use serde_json::Value;

const MOST: Duration = Duration::from_secs(120);
const BEGUN: &str = "board.0004_half was begun and is not atomic: the database may be half migrated";

/// The demo with a release, and two migrations for the next one: the second is no transaction, makes a table, and then does what the file `how` says.
fn demo(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.demo_repo(2);
    let settings = demo_settings(&bench, &repo).replace("status = 200", "status = 200\nstable = \"200ms\"");
    bench.app("demo", &settings).start();
    bench.ctl(["release", "main"]).expect(0);
    half(&bench, &repo, "CREATE TABLE half (x int)");
    (bench, repo)
}

fn half(bench: &Bench, repo: &Repo, sql: &str) {
    let (how, reached) = (bench.path("how"), bench.path("reached"));
    repo.write(
        "board/migrations/0004_half.py",
        format!(
            "import os, time\n{KILL_AGENT_IN_PYTHON}\nfrom django.db import migrations\n\n\ndef go(apps, schema_editor):\n    how = open({how:?}).read() if os.path.exists({how:?}) else ''\n    \
             open({reached:?}, 'w').close()\n    if how == 'fail':\n        raise ValueError('the cows are out')\n    if how == 'kill':\n        \
             os.unlink({how:?})\n        kill_agent()\n    if how:\n        time.sleep(600)\n\n\n\
             class Migration(migrations.Migration):\n    atomic = False\n    dependencies = [('board', '0002_notice_colour')]\n    \
             operations = [migrations.RunSQL('{sql}', 'SELECT 1'), migrations.RunPython(go, go)]\n"
        ),
    );
    repo.commit(sql);
}

fn sql(bench: &Bench, query: &str) -> String {
    let output = Command::new("sqlite3").arg(bench.root_of("demo").join("shared/db.sqlite3")).arg(query).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What the app says of its database.
fn unsettled(bench: &Bench) -> Vec<Value> {
    let app = bench.ask_json("/v1/apps/demo");
    app["unsettled"].as_array().cloned().unwrap_or_default()
}

fn last(bench: &Bench) -> u64 {
    bench.last_run()["run"].as_u64().unwrap()
}

/// What must hold whatever the run ended by: the database is half migrated, and everything says so.
#[track_caller]
fn assert_half(bench: &Bench, run: u64, outcome: &str) -> PathBuf {
    let events = bench.events(run);
    let last = events.last().unwrap();
    assert_eq!((last["outcome"].as_str(), last["database"].as_str()), (Some(outcome), Some(BEGUN)), "{events:#?}");
    let stands: Vec<&Value> = events.iter().filter(|event| event["what"] == "stands").collect();
    assert_eq!((stands.len(), stands[0]["text"].as_str()), (1, Some(BEGUN)), "{events:#?}");
    for step in ["migrate", "backup", "checkout"] {
        let undone = events.iter().find(|event| event["what"] == "undone" && event["step"] == step).unwrap();
        assert_eq!(undone["stands"], true, "{step}: {events:#?}");
    }
    assert_eq!(sql(bench, "SELECT count(*) FROM sqlite_schema WHERE name = 'half'"), "1", "it is so");
    let left = unsettled(bench);
    assert_eq!(left.len(), 1, "{left:#?}");
    let dump = PathBuf::from(left[0]["backup"].as_str().unwrap());
    assert!(dump.is_file(), "the dump is there");
    let restore = left[0]["restore"].as_str().unwrap();
    assert!(restore.contains(dump.to_str().unwrap()), "{restore}");
    for verb in ["status", "list"] {
        bench.ctl([verb]).expect(0).says(&[BEGUN, restore, "agentctl settle"]);
    }
    bench.ctl(["doctor"]).expect(1).says(&[BEGUN, restore, "agentctl settle"]);
    bench.assert_sound();
    dump
}

#[test]
fn a_migration_that_fails_halfway_is_named_with_its_dump_until_a_later_release_has_applied_it() {
    let (bench, repo) = demo("half, by a failure");
    let live = bench.live("demo").unwrap();
    bench.write("how", "fail");
    let done = bench.ctl(["release", "main"]).expect(1).says(&["the cows are out", BEGUN, "not taken back"]);
    assert!(!done.stderr.contains("never left"), "{}", done.stderr);
    let dump = assert_half(&bench, last(&bench), "failed");
    assert_eq!(bench.live("demo").unwrap(), live);

    // No pruning takes the dump, and it outlives the journal.
    for name in ["2099-01-01-00-00-00-0123456789ab", "2099-01-02-00-00-00-0123456789ab"] {
        fs::copy(&dump, dump.with_file_name(format!("{name}.sqlite3"))).unwrap();
    }
    let settings = fs::read_to_string(bench.path("config/apps/demo.toml")).unwrap();
    bench.app("demo", &settings.replace("[backup]", "[backup]\nkeep = 1")).reload();
    bench.ctl(["prune"]).expect(0);
    assert!(dump.is_file());
    bench.stop();
    fs::remove_dir_all(bench.path("state")).unwrap();
    bench.start();
    assert_eq!(unsettled(&bench)[0]["text"], BEGUN);

    // A release without the migration settles nothing: what was left is still there, and is said again.
    let with = repo.head();
    repo.remove("board/migrations/0004_half.py").commit("Without it");
    bench.ctl(["release", "main"]).expect(0).says(&[BEGUN]);
    assert_eq!(unsettled(&bench).len(), 1);

    // The one that applies it does.
    fs::remove_file(bench.path("how")).unwrap();
    repo.reset(&with);
    half(&bench, &repo, "CREATE TABLE IF NOT EXISTS half (x int)");
    bench.ctl(["release", "-v", "main"]).expect(0).says(&["is applied now: settled"]);
    assert!(unsettled(&bench).is_empty());
    assert!(!bench.ctl(["status"]).expect(0).stdout.contains("half migrated"));
    bench.assert_sound();
}

#[test]
fn a_cancel_in_the_middle_of_a_migration_says_what_it_may_have_left_and_a_person_settles_it() {
    let (bench, _repo) = demo("half, by a cancel");
    bench.write("how", "wait");
    let run = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().to_owned();
    wait_until("the migration is under way", MOST, || bench.path("reached").exists());
    bench.ctl(["cancel", &run]).expect(0);
    let followed = bench.ctl(["logs", "-f", &run]);
    assert!(
        followed.stderr.contains(&format!("cancelled: {BEGUN}")) || followed.stdout.contains(&format!("cancelled: {BEGUN}")),
        "{followed:?}"
    );
    let restore = unsettled(&bench)[0]["restore"].as_str().unwrap().to_owned();
    assert_half(&bench, run.parse().unwrap(), "cancelled");

    // The command that is told puts the database back, and a person says so.
    let restored = Command::new("/bin/sh").args(["-c", &restore]).output().unwrap();
    assert!(restored.status.success(), "{restore}: {restored:?}");
    assert_eq!(sql(&bench, "SELECT count(*) FROM sqlite_schema WHERE name = 'half'"), "0");
    bench.ctl(["settle", &run]).expect(0).says(&["what run", "is settled"]);
    assert!(unsettled(&bench).is_empty());
    bench.ctl(["doctor"]).expect(0);
    bench.assert_sound();
}

#[test]
fn killed_in_the_middle_of_a_migration_the_agent_knows_from_what_was_written_down_that_it_was_begun() {
    let (bench, repo) = demo("half, by a death");
    bench.write("how", "kill");
    bench.ctl(["release", "--no-follow", "main"]).expect(0);
    wait_until("the agent is dead", MOST, || !bench.is_running());
    bench.start();
    wait_until("the run has ended", MOST, || bench.last_run()["state"] == "ended");
    assert_half(&bench, last(&bench), "failed");

    // Had it not begun, nothing would be said of it: the one before it is a transaction, and the database has taken it back.
    bench.ctl(["settle"]).expect(0);
    sql(&bench, "DROP TABLE half");
    let kill = bench.path("kill");
    repo.write(
        "board/migrations/0003_first.py",
        format!(
            "import os, time\n{KILL_AGENT_IN_PYTHON}\nfrom django.db import migrations\ndef die(apps, schema_editor):\n    if os.path.exists({kill:?}):\n        \
             os.unlink({kill:?})\n        kill_agent()\n        time.sleep(60)\n\
             class Migration(migrations.Migration):\n    dependencies = [('board', '0002_notice_colour')]\n    operations = [migrations.RunPython(die, die)]\n"
        ),
    );
    let text = fs::read_to_string(repo.path().join("board/migrations/0004_half.py")).unwrap();
    repo.write("board/migrations/0004_half.py", text.replace("0002_notice_colour", "0003_first")).commit("One before it");
    bench.write("kill", "");
    let dumps = fs::read_dir(bench.root_of("demo").join("backups")).unwrap().count();
    bench.ctl(["release", "--no-follow", "main"]).expect(0);
    wait_until("the agent is dead", MOST, || !bench.is_running());
    bench.start();
    wait_until("the run has ended", MOST, || bench.last_run()["state"] == "ended");
    let events = bench.events(last(&bench));
    assert_eq!(events.last().unwrap()["database"], Value::Null, "{events:#?}");
    assert!(unsettled(&bench).is_empty());
    assert_eq!(fs::read_dir(bench.root_of("demo").join("backups")).unwrap().count(), dumps + 1, "the dump stays, for migrate was begun");
    bench.assert_sound();
}
