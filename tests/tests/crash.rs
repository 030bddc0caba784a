//! The agent dies, at every step and in the middle of the ones that matter; then it starts again, and the promises hold: the link names a complete
//! release, the one that it names serves, the run has ended, and nothing is left behind.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::time::Duration;

use agent_tests::{Bench, KILL_AGENT, KILL_AGENT_IN_PYTHON, Repo, demo_settings, processes_about, wait_until};
use serde_json::Value;

const MOST: Duration = Duration::from_secs(120);

/// Kills the agent, which is the parent of whatever runs this, once: when the file is there.
fn killer(bench: &Bench, at: &str) -> String {
    let file = bench.path(format!("kill-{at}"));
    format!(r#"["/bin/sh", "-c", "if [ -e {0} ]; then rm {0}; {KILL_AGENT}; sleep 60; fi"]"#, file.display())
}

fn arm(bench: &Bench, at: &str) {
    bench.write(format!("kill-{at}"), "");
}

/// The demo, with checks that are quick, and a hook at each side of each step that can kill the agent.
fn demo_that_can_die(name: &str, steps: &[&str]) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.demo_repo(2);
    let mut settings = demo_settings(&bench, &repo).replace("status = 200", "status = 200\nstable = \"300ms\"");
    settings += "\n[shared]\ndirs = [\"media\"]\n";
    for step in steps {
        for side in ["before", "after"] {
            let run = killer(&bench, &format!("{side}-{step}"));
            settings += &format!("\n[[hook]]\n{side} = \"{step}\"\nrun = {run}\n");
        }
    }
    fs::create_dir_all(bench.root_of("demo").join("shared/media")).unwrap();
    bench.app("demo", &settings).start();
    (bench, repo)
}

fn serving(bench: &Bench) -> String {
    bench.page("/healthz").header("X-Release").expect("the site names its release").to_owned()
}

/// Asks for a release, waits for the agent's death, starts it again, and waits for the run's end.
fn release_and_die(bench: &Bench, revision: &str) -> Value {
    bench.ctl(["release", "--no-follow", revision]).expect(0);
    wait_until("the agent is dead", MOST, || !bench.is_running());
    bench.start();
    wait_until("the run has ended", MOST, || bench.last_run()["state"] == "ended");
    bench.last_run()
}

fn events_of<'a>(events: &'a [Value], what: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["what"] == what).collect()
}

#[test]
fn killed_at_either_side_of_every_step_the_former_release_serves_or_the_new_one_is_complete() {
    let steps =
        ["fetch", "checkout", "link-shared", "environment", "check", "collectstatic", "seal", "backup", "migrate", "switch", "prune"];
    let (bench, repo) = demo_that_can_die("killed at steps", &steps);
    bench.ctl(["release", "v1"]).expect(0);
    let (first, second) = (repo.id("v1"), repo.id("v2"));
    let live = bench.live("demo").unwrap();
    for step in steps {
        for side in ["before", "after"] {
            let at = format!("{side}-{step}");
            arm(&bench, &at);
            let run = release_and_die(&bench, "v2");
            let events = bench.events(run["run"].as_u64().unwrap());
            assert_eq!(events_of(&events, "stopped").len(), 1, "{at}: the fault has happened");
            let complete = step == "prune";
            let expected = match step {
                "prune" => "live",
                "switch" if side == "after" => "rolled_back",
                _ => "failed",
            };
            assert_eq!(run["outcome"], expected, "{at}: {events:#?}");
            assert_eq!(serving(&bench), if complete { second.as_str() } else { first.as_str() }, "{at}");
            if !complete {
                assert_eq!(bench.live("demo").unwrap(), live, "{at}");
            }
            bench.assert_sound();
            // A run that was cut off has its events in the journal: nothing is missing there, however late its release was sealed.
            assert!(!bench.log().contains("the journal is older"), "{at}");
            if complete {
                bench.ctl(["rollback"]).expect(0);
                assert_eq!(serving(&bench), first, "{at}: and back");
            }
        }
    }
    bench.ctl(["release", "v2"]).expect(0);
    assert_eq!(serving(&bench), second);
    bench.assert_sound();
}

#[test]
fn killed_while_the_new_release_loads_and_while_it_is_asked_after_the_swap() {
    let (bench, repo) = demo_that_can_die("killed in the switch", &[]);
    bench.ctl(["release", "v1"]).expect(0);
    let first = repo.id("v1");
    // The server's own master is the agent's child; a worker is its grandchild.
    let loading = bench.path("kill-loading");
    repo.write(
        "noticeboard/wsgi.py",
        format!(
            "import os\n{KILL_AGENT_IN_PYTHON}\nfrom django.core.wsgi import get_wsgi_application\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'noticeboard.settings')\n\
             if os.path.exists({loading:?}):\n    os.unlink({loading:?})\n    kill_agent()\n\
             application = get_wsgi_application()\n"
        ),
    );
    repo.commit("Kill the agent while it loads");
    arm(&bench, "loading");
    let run = release_and_die(&bench, "main");
    assert_eq!(run["outcome"], "failed");
    assert_eq!(serving(&bench), first);
    bench.assert_sound();

    let (asked, link) = (bench.path("kill-asked"), bench.root_of("demo").join("app"));
    repo.write(
        "noticeboard/wsgi.py",
        format!(
            "import os, signal\nfrom django.core.wsgi import get_wsgi_application\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'noticeboard.settings')\n\
             inner = get_wsgi_application()\n\
             HERE = os.getcwd()\n\
             def parent_of(pid):\n    return int(open(f'/proc/{{pid}}/stat').read().rsplit(') ', 1)[1].split()[1])\n\
             def application(environ, start_response):\n\
             \x20   if os.path.exists({asked:?}) and os.path.realpath({link:?}) == os.path.realpath(HERE):\n\
             \x20       os.unlink({asked:?})\n\
             \x20       os.kill(parent_of(os.getppid()), signal.SIGKILL)\n\
             \x20   return inner(environ, start_response)\n"
        ),
    );
    repo.commit("Kill the agent when it asks after the swap");
    arm(&bench, "asked");
    let run = release_and_die(&bench, "main");
    let events = bench.events(run["run"].as_u64().unwrap());
    assert_eq!(events_of(&events, "exposed").len(), 1);
    assert_eq!(run["outcome"], "rolled_back", "{events:#?}");
    assert_eq!(serving(&bench), first);
    bench.assert_sound();
    // Nothing of it is in the way of the next one.
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(serving(&bench), repo.id("main"));
}

#[test]
fn killed_in_the_middle_of_two_migrations_the_run_is_stuck_and_activate_is_the_way_out() {
    let (bench, repo) = demo_that_can_die("killed in migrate", &[]);
    bench.ctl(["release", "v2"]).expect(0);
    let (live, first) = (bench.live("demo").unwrap(), repo.id("v2"));
    let kill = bench.path("kill-migrate");
    let migration = |name: &str, after: &str, operation: &str| {
        format!(
            "import os, time\n{KILL_AGENT_IN_PYTHON}\nfrom django.db import migrations, models\n\
             def die(apps, schema_editor):\n    if os.path.exists({kill:?}):\n        os.unlink({kill:?})\n        kill_agent()\n        time.sleep(60)\n\
             class Migration(migrations.Migration):\n    # {name}\n    dependencies = [('board', '{after}')]\n    operations = [{operation}]\n"
        )
    };
    let last = "0002_notice_colour";
    repo.write(
        "board/migrations/0003_three.py",
        migration("0003", last, "migrations.RunSQL('CREATE TABLE three (x int)', 'DROP TABLE three')"),
    );
    repo.write("board/migrations/0004_four.py", migration("0004", "0003_three", "migrations.RunPython(die, die)"));
    repo.commit("Two migrations, the second of which kills the agent");
    arm(&bench, "migrate");
    let run = release_and_die(&bench, "main");
    let events = bench.events(run["run"].as_u64().unwrap());
    assert_eq!(run["outcome"], "stuck", "{events:#?}");
    let stands = events_of(&events, "stands");
    assert!(stands[0]["text"].as_str().unwrap().contains("0003_three"), "{stands:?}");
    assert!(stands[0]["restore"].as_str().unwrap().contains("backups/"), "the backup is named: {stands:?}");
    assert_eq!(bench.live("demo").unwrap(), live);
    assert_eq!(serving(&bench), first, "the former release serves");
    let refused = bench.ctl(["release", "main"]).expect(4);
    assert!(refused.stderr.contains("stuck"), "{}", refused.stderr);
    bench.ctl(["activate", &live]).expect(0);
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(serving(&bench), repo.id("main"));
    bench.assert_sound();
}

#[test]
fn killed_before_any_migration_was_applied_nothing_stands_and_the_dump_stays() {
    let (bench, repo) = demo_that_can_die("killed first", &[]);
    bench.ctl(["release", "v2"]).expect(0);
    let kill = bench.path("kill-migrate");
    repo.write(
        "board/migrations/0003_three.py",
        format!(
            "import os, time\n{KILL_AGENT_IN_PYTHON}\nfrom django.db import migrations\n\
             def die(apps, schema_editor):\n    if os.path.exists({kill:?}):\n        os.unlink({kill:?})\n        kill_agent()\n        time.sleep(60)\n\
             class Migration(migrations.Migration):\n    dependencies = [('board', '0002_notice_colour')]\n    operations = [migrations.RunPython(die, die)]\n"
        ),
    );
    repo.commit("A migration that kills the agent");
    arm(&bench, "migrate");
    let before = fs::read_dir(bench.root_of("demo").join("backups")).unwrap().count();
    let run = release_and_die(&bench, "main");
    assert_eq!(run["outcome"], "failed");
    let events = bench.events(run["run"].as_u64().unwrap());
    assert!(events_of(&events, "stands").is_empty(), "{events:#?}");
    assert_eq!(fs::read_dir(bench.root_of("demo").join("backups")).unwrap().count(), before + 1, "migrate was begun");
    bench.assert_sound();
}

#[test]
fn told_to_stop_the_agent_finishes_the_run_and_takes_nothing_new() {
    let bench = Bench::new("drain");
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    let gate = bench.path("gate");
    let hook = format!(r#"["/bin/sh", "-c", "touch {0}.reached; while [ ! -e {0} ]; do sleep 0.05; done"]"#, gate.display());
    bench
        .app("site", &format!("repository = {:?}\nbranches = [\"main\"]\n[[hook]]\nbefore = \"seal\"\nrun = {hook}\n", repo.path()))
        .start();
    bench.ctl(["release", "--no-follow", "main"]).expect(0);
    wait_until("the run is under way", MOST, || bench.path("gate.reached").exists());
    bench.signal(nix::sys::signal::Signal::SIGTERM);
    wait_until("nothing new is taken", MOST, || bench.ctl(["release", "main"]).code == 4);
    assert!(bench.is_running(), "it finishes what it began");
    bench.write("gate", "");
    wait_until("the agent has ended", MOST, || !bench.is_running());
    bench.start();
    assert_eq!(bench.last_run()["outcome"], "live");
    bench.assert_sound();
}

#[test]
fn a_second_death_during_the_way_back_changes_nothing() {
    let bench = Bench::new("dies twice");
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    let script = format!("if [ -e {0} ]; then rm {0}; {KILL_AGENT}; sleep 60; fi", bench.path("kill-act").display());
    let settings = format!(
        "repository = {:?}\nbranches = [\"main\"]\n[restart]\nstrategy = \"command\"\nrun = [\"/bin/sh\", \"-c\", {script:?}]\n",
        repo.path()
    );
    bench.app("site", &settings).start();
    bench.ctl(["release", "main"]).expect(0);
    let live = bench.live("site").unwrap();
    repo.write("index.html", "two").commit("two");
    arm(&bench, "act");
    bench.ctl(["release", "--no-follow", "main"]).expect(0);
    wait_until("the agent is dead", MOST, || !bench.is_running());
    // It dies again while it takes the run back, before its socket opens.
    arm(&bench, "act");
    let refused = bench.start_refused();
    assert_ne!(refused.code, 0, "the agent was killed while it recovered");
    bench.start();
    wait_until("the run has ended", MOST, || bench.last_run()["state"] == "ended");
    let run = bench.last_run();
    assert_eq!(run["outcome"], "rolled_back");
    assert_eq!(events_of(&bench.events(run["run"].as_u64().unwrap()), "stopped").len(), 2);
    assert_eq!(bench.live("site").unwrap(), live);
    bench.assert_sound();
}

#[test]
fn what_a_dead_agent_had_started_ends_by_itself() {
    let bench = Bench::new("dies alone");
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    let (steps, ready) = (bench.path("steps"), bench.path("ready"));
    // It leaves its session and its environment, ignores what it can, and becomes another process again and again.
    let away = bench.write("away.sh", format!("trap '' TERM HUP INT\necho . >>{}\nsetsid env -i sh \"$0\" &\n", steps.display()));
    let script = format!("setsid env -i sh {} </dev/null >/dev/null 2>&1 & touch {}; exec sleep 1000", away.display(), ready.display());
    bench.app(
        "site",
        &format!(
            "repository = {:?}\nbranches = [\"main\"]\n[[hook]]\nbefore = \"seal\"\nrun = [\"/bin/sh\", \"-c\", {script:?}]\n",
            repo.path()
        ),
    );
    bench.start();
    bench.ctl(["release", "--no-follow", "main"]).expect(0);
    let count = || fs::read_to_string(&steps).unwrap_or_default().len();
    wait_until("the hook runs", MOST, || ready.exists() && count() > 10);
    bench.kill();
    // Nobody starts the agent again.
    wait_until("all that it started has ended", MOST, || {
        let before = count();
        std::thread::sleep(Duration::from_millis(200));
        count() == before && processes_about(&bench.path("")).is_empty()
    });
    bench.start();
    wait_until("the run has ended", MOST, || bench.last_run()["state"] == "ended");
    assert_eq!(bench.last_run()["outcome"], "failed");
}
