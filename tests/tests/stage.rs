//! A release that is staged is made and sealed, and nothing of it is met before it is activated; the activate then does what a release would do after
//! its seal, and no more.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent_tests::{Bench, KILL_AGENT, KILL_AGENT_IN_PYTHON, Repo, demo_settings, is_root, wait_until};
use serde_json::Value;

const MOST: Duration = Duration::from_secs(120);
/// A user that is there on every Debian, without any right here.
const DAEMON: u32 = 1;

/// Kills the agent, which is the parent of whatever runs this, once: when the file is there.
fn hooks_that_kill(bench: &Bench, steps: &[&str]) -> String {
    let hook = |side: &str, step: &str| {
        let file = bench.path(format!("kill-{side}-{step}"));
        let run = format!("if [ -e {0} ]; then rm {0}; {KILL_AGENT}; sleep 60; fi", file.display());
        format!("\n[[hook]]\n{side} = \"{step}\"\nrun = [\"/bin/sh\", \"-c\", {run:?}]\n")
    };
    steps.iter().map(|step| hook("before", step) + &hook("after", step)).collect()
}

/// An app without `[python]`, `[django]` and `[restart]`, and with a first release.
fn plain(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\ntags = [\"v*\"]\nkeep_releases = 3\n", repo.path())).start();
    bench.ctl(["release", "main"]).expect(0);
    (bench, repo)
}

/// The demo, with checks that are quick.
fn demo(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.demo_repo(2);
    let settings = demo_settings(&bench, &repo).replace("status = 200", "status = 200\nstable = \"300ms\"");
    bench.app("demo", &settings).start();
    (bench, repo)
}

fn serving(bench: &Bench) -> String {
    bench.page("/healthz").header("X-Release").expect("the site names its release").to_owned()
}

fn columns(database: &Path) -> String {
    let query = "select group_concat(name) from pragma_table_info('board_notice')";
    let output = Command::new("sqlite3").arg(database).arg(query).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn database(bench: &Bench) -> PathBuf {
    bench.root_of("demo").join("shared/db.sqlite3")
}

/// The names of the dumps, sorted.
fn backups(bench: &Bench) -> Vec<String> {
    let entries = fs::read_dir(bench.root_of("demo").join("backups")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn commit(repo: &Repo, text: &str) -> String {
    repo.write("page.html", text).commit(text)
}

/// Stages a ref; the name of the release.
#[track_caller]
fn staged(bench: &Bench, reference: &str) -> String {
    bench.ctl(["stage", reference]).expect(0);
    let run = bench.last_run();
    assert_eq!((&run["action"], &run["outcome"]), (&Value::from("stage"), &Value::from("done")), "{run}");
    run["release"].as_str().unwrap().to_owned()
}

fn last_events(bench: &Bench) -> Vec<Value> {
    bench.events(bench.last_run()["run"].as_u64().unwrap())
}

/// The steps that the last run planned to do.
fn steps(bench: &Bench) -> Vec<String> {
    let events = last_events(bench);
    let planned = events.iter().find(|event| event["what"] == "planned").expect("it was planned");
    let steps = planned["steps"].as_array().unwrap().iter().filter(|step| step["skipped"].is_null());
    steps.map(|step| step["step"].as_str().unwrap().to_owned()).collect()
}

fn said(bench: &Bench, what: &str) -> Vec<Value> {
    last_events(bench).into_iter().filter(|event| event["what"] == what).collect()
}

fn release(bench: &Bench, release: &str) -> Value {
    bench.ctl(["show", release, "--json"]).expect(0).json()
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Asks for something, waits for the agent's death, starts it again, and waits for the run's end.
#[track_caller]
fn ask_and_die(bench: &Bench, kill: &str, ask: &[&str]) -> Value {
    bench.write(format!("kill-{kill}"), "");
    let args: Vec<&str> = ask.iter().copied().chain(["--no-follow"]).collect();
    bench.ctl(args).expect(0);
    wait_until("the agent is dead", MOST, || !bench.is_running());
    assert!(!bench.path(format!("kill-{kill}")).exists(), "it died of something else");
    bench.start();
    wait_until("the run has ended", MOST, || bench.last_run()["state"] == "ended");
    bench.last_run()
}

#[test]
fn a_staged_release_is_met_by_nobody_and_goes_live_with_its_migration_by_an_activate() {
    let (bench, repo) = demo("staged");
    bench.ctl(["release", "v1"]).expect(0);
    let first = bench.live("demo").unwrap();
    let before = backups(&bench);

    let done = bench.ctl(["stage", "v2"]).expect(0);
    let second = bench.last_run()["release"].as_str().unwrap().to_owned();
    done.says(&[&format!("{second} is staged, and {first} still serves"), &format!("agentctl activate {second} makes it live")]);
    assert_eq!(bench.last_run()["outcome"], "done");
    assert_eq!(steps(&bench), ["fetch", "checkout", "environment", "check", "collectstatic", "seal", "prune"]);
    assert_eq!((bench.live("demo").unwrap(), serving(&bench)), (first.clone(), repo.id("v1")));
    assert_eq!((columns(&database(&bench)).as_str(), backups(&bench)), ("id,text,name,posted", before.clone()), "the database was touched");
    let found = release(&bench, &second);
    assert_eq!((&found["state"], &found["previous"], &found["ms"]), (&"sealed".into(), &false.into(), &Value::Null), "{found}");
    // The way back is what was live before, and that is nothing.
    bench.ctl(["rollback"]).expect(2).says(&["there is no release to go back to"]);
    bench.assert_sound();

    bench.ctl(["activate", &second]).expect(0);
    assert_eq!(steps(&bench), ["backup", "migrate", "switch"]);
    assert_eq!((bench.live("demo").unwrap(), serving(&bench)), (second.clone(), repo.id("v2")));
    assert_eq!(columns(&database(&bench)), "id,text,name,posted,colour");
    let dump = bench.root_of("demo").join("backups").join(format!("{second}.sqlite3"));
    assert_eq!(columns(&dump), "id,text,name,posted", "the dump is from before the migration");
    let found = release(&bench, &second);
    assert_eq!(found["state"], "live");
    assert_eq!((&found["migrations"][0], &found["backup"]), (&"board.0002_notice_colour".into(), &dump.to_str().unwrap().into()));
    bench.assert_sound();

    // Both have served: no Python is started to activate them, and nothing that could be planned for them is.
    bench.ctl(["rollback"]).expect(0);
    assert_eq!((steps(&bench), serving(&bench)), (vec!["switch".to_owned()], repo.id("v1")));
    fs::remove_file(bench.root_of("demo").join(format!("releases/{second}/.release/served.json"))).unwrap();
    bench.ctl(["activate", &second]).expect(0);
    assert_eq!((steps(&bench), serving(&bench)), (vec!["switch".to_owned()], repo.id("v2")), "the journal knows that it has served");
    bench.assert_sound();

    // Dumps are sorted by their releases, and the one that was made last may be of an old release: that of the live one stays.
    let newer = bench.root_of("demo").join("backups/2099-01-01-00-00-00-0123456789ab.sqlite3");
    fs::copy(&dump, &newer).unwrap();
    bench.app("demo", &demo_settings(&bench, &repo).replace("[backup]", "[backup]\nkeep = 1")).reload();
    bench.ctl(["prune"]).expect(0);
    assert_eq!(backups(&bench), [format!("{second}.sqlite3"), "2099-01-01-00-00-00-0123456789ab.sqlite3".to_owned()]);
    bench.assert_sound();
}

/// A migration that fails when its gate is there, and kills the agent when another one is.
fn migration(bench: &Bench, repo: &Repo, name: &str, after: &str) {
    let (fail, kill) = (bench.path(format!("fail-{name}")), bench.path(format!("kill-{name}")));
    let text = format!(
        "import os, time\n{KILL_AGENT_IN_PYTHON}\nfrom django.db import migrations\n\n\ndef go(apps, schema_editor):\n    if os.path.exists({fail:?}):\n        \
         raise ValueError('the cows are out')\n    if os.path.exists({kill:?}):\n        os.unlink({kill:?})\n        \
         kill_agent()\n        time.sleep(60)\n    schema_editor.execute('CREATE TABLE made_by_{name} (x int)')\n\n\n\
         class Migration(migrations.Migration):\n    dependencies = [('board', '{after}')]\n    operations = [migrations.RunPython(go, go)]\n"
    );
    repo.write(&format!("board/migrations/{name}.py"), text);
    repo.commit(name);
}

#[test]
fn an_activate_that_fails_leaves_what_was_staged_and_says_what_stands() {
    let (bench, repo) = demo("an activate that fails");
    bench.ctl(["release", "v2"]).expect(0);
    let (live, first) = (bench.live("demo").unwrap(), repo.id("v2"));
    migration(&bench, &repo, "0003_three", "0002_notice_colour");
    migration(&bench, &repo, "0004_four", "0003_three");
    let second = staged(&bench, "main");
    let dumps = backups(&bench);

    // Nothing was applied, so everything is as it was, but for the dump: migrate was begun.
    bench.write("fail-0003_three", "");
    bench.ctl(["activate", &second]).expect(1).says(&["the cows are out", &format!("the former release {live} still serves")]);
    assert_eq!(bench.last_run()["step"], "migrate");
    assert!(said(&bench, "stands").is_empty() && said(&bench, "exposed").is_empty());
    let dump = format!("{second}.sqlite3");
    assert_eq!((backups(&bench), bench.releases("demo").len()), ([dumps.clone(), vec![dump.clone()]].concat(), 2));
    assert_eq!(release(&bench, &second)["state"], "sealed");
    assert_eq!((bench.live("demo").unwrap(), serving(&bench)), (live.clone(), first.clone()));
    bench.assert_sound();

    // The first of two stands: that is told, with the dump from before it, and the release is marked.
    fs::rename(bench.path("fail-0003_three"), bench.path("fail-0004_four")).unwrap();
    bench.ctl(["activate", &second]).expect(1).says(&["the cows are out"]);
    let stands = said(&bench, "stands");
    assert_eq!(stands[0]["text"], "applied and not taken back: board.0003_three");
    let beside = |bench: &Bench| format!("{second}.run-{}.sqlite3", bench.last_run()["run"]);
    let from_before = beside(&bench);
    assert!(stands[0]["restore"].as_str().unwrap().contains(&from_before), "{stands:?}");
    let kept = said(&bench, "note").into_iter().any(|note| note["text"].as_str().unwrap().contains("only its code can reverse"));
    assert!(kept, "{:#?}", said(&bench, "note"));
    let found = release(&bench, &second);
    assert_eq!((&found["state"], &found["migrations"]), (&"failed".into(), &serde_json::json!(["board.0003_three"])));
    assert_eq!((bench.live("demo").unwrap(), serving(&bench)), (live.clone(), first.clone()));
    bench.assert_sound();

    // A third one, which fails before it applies anything, takes nothing of that back.
    bench.ctl(["activate", &second]).expect(1);
    assert!(said(&bench, "stands").is_empty(), "it has applied nothing");
    let third = beside(&bench);
    assert_eq!(backups(&bench), [dumps.clone(), vec![from_before.clone(), third.clone(), dump.clone()]].concat());
    assert_eq!(release(&bench, &second)["migrations"], serde_json::json!(["board.0003_three"]));

    fs::remove_file(bench.path("fail-0004_four")).unwrap();
    bench.ctl(["activate", &second]).expect(0);
    let found = release(&bench, &second);
    assert_eq!((&found["state"], &found["migrations"]), (&"live".into(), &serde_json::json!(["board.0003_three", "board.0004_four"])));
    // A dump that went beside an earlier one is the one that its command names.
    let last = beside(&bench);
    let record = bench.root_of("demo").join("releases").join(&second).join(".release/migrated.json");
    let record: Value = serde_json::from_str(&fs::read_to_string(record).unwrap()).unwrap();
    assert!(record["restore"].as_str().unwrap().contains(&last), "{record}");
    let all = [dumps, vec![from_before, third, last, dump]].concat();
    assert_eq!(backups(&bench), all, "the dump from before the first migration stays");
    assert_eq!(serving(&bench), repo.head());
    bench.assert_sound();
}

#[test]
fn killed_at_every_place_of_an_activate_what_was_staged_can_be_activated_again() {
    let (bench, repo) = demo("an activate that is killed");
    let settings = demo_settings(&bench, &repo).replace("status = 200", "status = 200\nstable = \"300ms\"");
    bench.app("demo", &(settings + &hooks_that_kill(&bench, &["backup", "migrate", "switch"]))).reload();
    bench.ctl(["release", "v2"]).expect(0);
    let (live, first) = (bench.live("demo").unwrap(), repo.id("v2"));
    migration(&bench, &repo, "0003_three", "0002_notice_colour");
    let second = staged(&bench, "main");
    let facts = bench.root_of("demo").join("releases").join(&second).join(".release");
    let (before, dumps) = (files(&facts), backups(&bench));
    // How many dumps stay: from each run that has begun to migrate.
    for (kill, outcome, state, dumped) in [
        ("before-backup", "failed", "sealed", 0),
        ("after-backup", "failed", "sealed", 0),
        ("before-migrate", "failed", "sealed", 0),
        ("0003_three", "failed", "sealed", 1),
        ("after-migrate", "failed", "failed", 2),
        ("before-switch", "failed", "failed", 2),
        // It was seen to serve before it was taken back.
        ("after-switch", "rolled_back", "good", 2),
    ] {
        let run = ask_and_die(&bench, kill, &["activate", &second]);
        let events = last_events(&bench);
        assert_eq!(run["outcome"], outcome, "{kill}: {events:#?}");
        assert_eq!(release(&bench, &second)["state"], state, "{kill}: {events:#?}");
        assert_eq!((bench.live("demo").unwrap(), serving(&bench)), (live.clone(), first.clone()), "{kill}");
        // Only the run that applied something says that it stands.
        assert_eq!(said(&bench, "stands").len(), usize::from(kill == "after-migrate"), "{kill}: {events:#?}");
        assert_eq!(backups(&bench).len(), dumps.len() + dumped, "{kill}");
        if dumped == 0 {
            assert_eq!(files(&facts), before, "{kill}");
        }
        bench.assert_sound();
    }
    bench.ctl(["activate", &second]).expect(0);
    assert_eq!((bench.live("demo").unwrap(), serving(&bench)), (second.clone(), repo.head()));
    assert_eq!(release(&bench, &second)["state"], "live");
    bench.assert_sound();
}

#[test]
fn killed_at_every_place_of_a_stage_it_is_taken_back_or_whole() {
    let (bench, repo) = plain("a stage that is killed");
    let steps = ["fetch", "checkout", "seal", "prune"];
    let settings = format!("repository = {:?}\nbranches = [\"main\"]\n{}", repo.path(), hooks_that_kill(&bench, &steps));
    bench.app("plain", &settings).reload();
    let live = bench.live("plain").unwrap();
    for step in steps {
        for side in ["before", "after"] {
            commit(&repo, &format!("{side} {step}"));
            let there = bench.releases("plain").len();
            let kill = format!("{side}-{step}");
            let run = ask_and_die(&bench, &kill, &["stage", "main"]);
            let whole = step == "prune";
            assert_eq!(run["outcome"], if whole { "done" } else { "failed" }, "{kill}: {:#?}", last_events(&bench));
            assert_eq!(bench.releases("plain").len(), there + usize::from(whole), "{kill}");
            assert_eq!(bench.live("plain").as_ref(), Some(&live), "{kill}");
            bench.assert_sound();
        }
    }
    let newest = bench.releases("plain").pop().unwrap();
    bench.ctl(["activate", &newest]).expect(0);
    bench.assert_sound();
}

#[test]
fn the_live_commit_can_be_staged_and_a_commit_twice() {
    let (bench, repo) = plain("the live commit");
    let live = bench.live("plain").unwrap();
    let again = staged(&bench, &repo.head());
    assert_ne!(again, live);
    assert_eq!(staged(&bench, "main").get(20..), again.get(20..), "it is the same commit");
    assert_eq!((bench.live("plain").as_deref(), bench.releases("plain").len()), (Some(live.as_str()), 3));
    bench.ctl(["activate", &again]).expect(0);
    assert_eq!(steps(&bench), ["switch"], "there is no [django]");
    assert_eq!(bench.live("plain").as_deref(), Some(again.as_str()));
    bench.ctl(["rollback"]).expect(0);
    assert_eq!(bench.live("plain").as_deref(), Some(live.as_str()));
    bench.assert_sound();
}

#[test]
fn a_staged_release_counts_like_any_other_and_never_pushes_out_the_way_back() {
    let (bench, repo) = plain("pruning");
    let first = bench.live("plain").unwrap();
    commit(&repo, "two");
    bench.ctl(["release", "main"]).expect(0);
    let second = bench.live("plain").unwrap();
    // However many are staged: the live one and the one before it stay, and so do the newest three.
    let mut all = Vec::new();
    for number in 0..5 {
        commit(&repo, &format!("staged {number}"));
        all.push(staged(&bench, "main"));
        assert!(bench.releases("plain").contains(all.last().unwrap()), "it was pruned right away");
        assert!(bench.releases("plain").contains(&first) && bench.releases("plain").contains(&second));
    }
    assert_eq!(bench.releases("plain"), [&[first.clone(), second.clone()], &all[2..]].concat());
    bench.ctl(["rollback"]).expect(0);
    assert_eq!(bench.live("plain").as_deref(), Some(first.as_str()), "the way back is what was live, and nothing that was staged");
    bench.ctl(["activate", &second]).expect(0);
    // It grows old like any other one.
    for (number, left) in [(3, true), (4, true), (5, false)] {
        commit(&repo, &format!("released {number}"));
        bench.ctl(["release", "main"]).expect(0);
        assert_eq!(bench.releases("plain").contains(&all[4]), left, "{number}: {:?}", bench.releases("plain"));
    }
    bench.assert_sound();
}

#[test]
fn an_activate_that_is_taken_back_leaves_what_was_staged() {
    let bench = Bench::new("taken back");
    let gate = bench.path("fail");
    let run = format!("[ ! -e {} ] || case \"$RELEASE_NAME\" in $(cat {}) ) exit 1 ;; esac", gate.display(), gate.display());
    let repo = bench.repo("plain");
    commit(&repo, "one");
    let restart = format!("[restart]\nstrategy = \"command\"\nrun = [\"/bin/sh\", \"-c\", {run:?}]\n");
    bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\n{restart}", repo.path())).start();
    bench.ctl(["release", "main"]).expect(0);
    let live = bench.live("plain").unwrap();
    commit(&repo, "two");
    let second = staged(&bench, "main");
    bench.write("fail", &second);
    bench.ctl(["activate", &second]).expect(3);
    assert_eq!(bench.live("plain").as_deref(), Some(live.as_str()));
    assert_eq!(release(&bench, &second)["state"], "sealed");
    bench.assert_sound();
    fs::remove_file(gate).unwrap();
    bench.ctl(["activate", &second]).expect(0);
    assert_eq!(bench.live("plain").as_deref(), Some(second.as_str()));
    bench.assert_sound();
}

#[test]
fn a_stage_can_be_cancelled_and_a_lock_holds_only_its_activate() {
    let (bench, repo) = plain("cancelled");
    let wait = format!("if [ -e {0} ]; then touch {0}.reached; fi; while [ -e {0} ]; do sleep 0.02; done", bench.path("gate").display());
    let hook = format!("[[hook]]\nbefore = \"seal\"\nrun = [\"/bin/sh\", \"-c\", {wait:?}]\n");
    bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\n{hook}", repo.path())).reload();
    let (live, there) = (bench.live("plain"), bench.releases("plain"));
    bench.write("gate", "");
    let run = bench.ctl(["stage", "--no-follow", "main"]).expect(0).stdout.trim().to_owned();
    wait_until("the stage stands at the gate", MOST, || bench.path("gate.reached").exists());
    bench.ctl(["cancel", &run]).expect(0);
    bench.ctl(["logs", "-f", &run]).expect(7);
    assert_eq!((bench.live("plain"), bench.releases("plain")), (live.clone(), there));
    bench.assert_sound();
    fs::remove_file(bench.path("gate")).unwrap();

    bench.ctl(["lock", "-m", "audit"]).expect(0);
    let second = staged(&bench, "main");
    bench.ctl(["activate", &second]).expect(4).says(&["audit"]);
    bench.ctl(["unlock"]).expect(0);
    bench.ctl(["activate", &second]).expect(0);
    bench.assert_sound();
}

#[test]
fn as_root_who_may_stage_makes_nothing_live_and_who_may_release_may_stage() {
    if !is_root("that a grant of stage makes nothing live") {
        return;
    }
    let bench = Bench::new("grants");
    let repo = bench.repo("plain");
    commit(&repo, "one");
    repo.tag("v1");
    bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\ntags = [\"v*\"]\n", repo.path()));
    let grant = |actions: &str| {
        let grant = format!("[[grant]]\nto = \"unix-user:daemon\"\napps = [\"plain\"]\nactions = [{actions}]\ntags = [\"v*\"]\n");
        bench.agent_settings(&format!("socket_group = \"daemon\"\n{grant}"))
    };
    grant("\"stage\"").let_others_in().start();
    bench.ctl_as(DAEMON, &[], ["--app", "plain", "stage", "--no-follow", "v1"]).expect(0);
    wait_until("it is staged", MOST, || bench.last_run()["outcome"] == "done");
    let release = bench.last_run()["release"].as_str().unwrap().to_owned();
    for (action, verb) in [("release", ["release", "v1"]), ("activate", ["activate", &release])] {
        let may_not = format!("unix:daemon may not {action} plain");
        bench.ctl_as(DAEMON, &[], ["--app", "plain"].iter().chain(&verb)).expect(4).says(&[&may_not, &format!("actions = [\"{action}\"]")]);
    }
    // The refs of the grant hold for it as for a release.
    commit(&repo, "two");
    bench.ctl_as(DAEMON, &[], ["--app", "plain", "stage", "--no-follow", "main"]).expect(0);
    wait_until("it has failed", MOST, || bench.last_run()["outcome"] == "failed");
    assert_eq!(bench.live("plain"), None);

    grant("\"release\"").reload();
    bench.ctl_as(DAEMON, &[], ["--app", "plain", "stage", "--no-follow", "v1"]).expect(0);
    grant("\"activate\"").reload();
    bench
        .ctl_as(DAEMON, &[], ["--app", "plain", "stage", "v1"])
        .expect(4)
        .says(&["unix:daemon may not stage plain", "actions = [\"stage\"]"]);
    wait_until("it has ended", MOST, || bench.last_run()["state"] == "ended");
    bench.assert_sound();
}
