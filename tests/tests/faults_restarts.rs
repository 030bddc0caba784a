//! The agent is told to stop, hangs, is killed for want of memory, goes down with its machine, or dies again and again; and so do its steps. Every
//! run that was accepted ends, and what serves goes on serving.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_tests::{AGENT, Bench, KILL_AGENT, Place, SITE_SOCKET, UnitApp, demo_settings, processes_about, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const MOST: Duration = Duration::from_secs(60);

fn has(events: &[Value], what: &str) -> bool {
    events.iter().any(|event| event["what"] == what)
}

#[test]
fn rst_01_sigterm_in_the_middle_of_a_run() {
    let bench = Bench::new("told to stop");
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    let wait = format!("touch {0}.reached; while [ -e {0} ]; do sleep 0.02; done", bench.path("gate").display());
    let hook = format!("[[hook]]\nbefore = \"seal\"\nrun = [\"/bin/sh\", \"-c\", {wait:?}]\n");
    bench.agent_settings("drain_timeout = \"1s\"\n");
    bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\n{hook}", repo.path())).start();
    bench.ctl(["release", "main"]).expect(0);
    let live = bench.live("plain");
    repo.write("page.html", "two").commit("Two");
    bench.write("gate", "");
    fs::remove_file(bench.path("gate.reached")).unwrap();
    let follower = bench.ctl_begin(["release", "main"]);
    wait_until("the run stands at the gate", MOST, || bench.path("gate.reached").exists());
    bench.ctl(["release", "--no-follow", "main"]).expect(0);
    // What cannot be finished in its time is taken back, and whoever follows it sees how.
    assert_eq!(bench.stop(), 0);
    follower.finish(MOST).expect(7).says(&["cancelled"]);
    assert_eq!((bench.live("plain"), bench.releases("plain").len()), (live, 1));
    assert_eq!(bench.left_over(), Vec::<String>::new());
    // What only waited is not lost: it has its turn after the start.
    fs::remove_file(bench.path("gate")).unwrap();
    bench.start();
    wait_until("it has had its turn", MOST, || bench.last_run()["state"] == "ended");
    assert_eq!(bench.last_run()["outcome"], "live");
    let events = bench.events(2);
    assert!(!has(&events, "stopped") && has(&events, "cancel_asked"), "{events:#?}");
    bench.assert_sound();
}

#[test]
fn rst_02_watchdog_fires() {
    let app = UnitApp::new("hangs", "", "watch = \"1s\"");
    let live = app.released();
    app.machine.write("/etc/systemd/system/release-agent.service.d/short.conf", "[Service]\nWatchdogSec=1\nRestartSec=100ms\n");
    app.machine.systemctl(["daemon-reload"]);
    app.gate("seal");
    let run = app.at_the_gate();
    kill(Pid::from_raw(app.machine.main_process(AGENT)), Signal::SIGSTOP).unwrap();
    wait_until("systemd has started another agent", MOST, || {
        app.machine.property(AGENT, "NRestarts") == "1" && app.machine.property(AGENT, "ActiveState") == "active"
    });
    assert!(app.machine.journal(AGENT).contains("Watchdog timeout"));
    app.open_the_gate();
    let events = app.events(run);
    assert!(has(&events, "stopped") && events.last().unwrap()["outcome"] == "failed", "{events:#?}");
    assert_eq!((app.machine.live("plain").unwrap(), app.serving()), (live.clone(), live));
    app.assert_sound();
}

/// The agent with no more memory than a step may want, from outside where the machine's own systemd cannot set it (version 1 of control groups).
struct Limit<'a> {
    app: &'a UnitApp,
    group: Option<PathBuf>,
}

impl<'a> Limit<'a> {
    const BYTES: &'static str = "150M";

    fn new(app: &'a UnitApp, script: &str) -> Self {
        let text = format!("[Service]\nMemoryMax={}\nMemorySwapMax=0\nRestartSec=100ms\n", Self::BYTES);
        app.machine.write("/etc/systemd/system/release-agent.service.d/memory.conf", text);
        app.machine.systemctl(["daemon-reload"]);
        app.hook("seal", script);
        let memory = Path::new("/sys/fs/cgroup/memory");
        let group = memory.is_dir().then(|| memory.join(format!("ra-memory-{}", std::process::id())));
        if let Some(group) = &group {
            fs::create_dir(group).unwrap();
            fs::write(group.join("memory.limit_in_bytes"), Self::BYTES).unwrap();
            fs::write(group.join("cgroup.procs"), app.machine.main_process(AGENT).to_string()).unwrap();
        }
        Self { app, group }
    }

    /// Whether the kernel has killed for want of memory.
    fn was_met(&self) -> bool {
        match &self.group {
            Some(group) => {
                let told = fs::read_to_string(group.join("memory.oom_control")).unwrap();
                told.lines().any(|line| line.starts_with("oom_kill ") && line != "oom_kill 0")
            }
            None => self.app.machine.run(["journalctl", "--quiet", "--no-pager"]).stdout.contains("OOM killer"),
        }
    }
}

impl Drop for Limit<'_> {
    fn drop(&mut self) {
        let Some(group) = &self.group else { return };
        for process in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
            // One that is gone by now is in no group any more.
            let _ = fs::write("/sys/fs/cgroup/memory/cgroup.procs", process);
        }
        wait_until("the group is empty", MOST, || fs::remove_dir(group).is_ok());
    }
}

const GREED: &str = "exec python3 -c 'x = bytearray(1 << 30)'";

#[test]
fn rst_03_a_step_is_killed_for_want_of_memory() {
    let app = UnitApp::new("a step without memory", "", "watch = \"1s\"");
    let live = app.released();
    let limit = Limit::new(&app, &format!("touch /run/gate.reached; {GREED}"));
    let agent = app.machine.property(AGENT, "InvocationID");
    let run = app.at_the_gate();
    let events = app.events(run);
    assert_eq!(events.last().unwrap()["outcome"], "failed", "{events:#?}");
    assert!(limit.was_met(), "the kernel has killed for want of memory");
    // It is the step that failed, and not the agent: that goes on, and says what may have been.
    app.machine.ctl(["logs", &run.to_string()]).says(&["was killed by SIGKILL", "where memory ran out, journalctl -k says so"]);
    assert_eq!((app.machine.property(AGENT, "InvocationID"), app.machine.property(AGENT, "NRestarts")), (agent, "0".to_owned()));
    assert_eq!(app.machine.property(AGENT, "ActiveState"), "active");
    // Where systemd sees it (version 2 of control groups), it would stop the whole agent otherwise.
    assert_eq!(app.machine.property(AGENT, "OOMPolicy"), "continue");
    assert_eq!((app.machine.live("plain").unwrap(), app.serving()), (live.clone(), live));
    app.assert_sound();
}

#[test]
fn rst_04_the_agent_is_killed_for_want_of_memory() {
    let app = UnitApp::new("an agent without memory", "", "watch = \"1s\"");
    let live = app.released();
    app.machine.write("/run/gate", "");
    // The kernel takes the agent first, and not the step that wants so much.
    let wait = "touch /run/gate.reached; echo -900 >/proc/self/oom_score_adj; while [ -e /run/gate ]; do sleep 0.05; done";
    let limit = Limit::new(&app, &format!("{wait}; {GREED}"));
    let run = app.at_the_gate();
    let agent = app.machine.main_process(AGENT);
    fs::write(format!("/proc/{agent}/oom_score_adj"), "1000").unwrap();
    app.open_the_gate();
    wait_until("systemd has started another agent", MOST, || {
        app.machine.property(AGENT, "NRestarts") != "0" && app.machine.property(AGENT, "ActiveState") == "active"
    });
    assert!(limit.was_met(), "the kernel has killed for want of memory");
    let events = app.events(run);
    assert!(has(&events, "stopped") && events.last().unwrap()["outcome"] == "failed", "{events:#?}");
    assert_eq!((app.machine.live("plain").unwrap(), app.serving()), (live.clone(), live));
    app.assert_sound();
}

#[test]
fn rst_05_the_host_is_shut_down_in_the_middle_of_a_run() {
    let mut app = UnitApp::new("shut down", "", "watch = \"1s\"");
    let live = app.released();
    app.gate("seal");
    for how in [&[][..], &["--force", "--force"]] {
        let run = app.at_the_gate();
        let before = app.machine.run(["systemctl", "show", "--value", "--property", "UserspaceTimestampMonotonic"]).stdout;
        app.machine.reboot(how);
        assert_ne!(
            app.machine.run(["systemctl", "show", "--value", "--property", "UserspaceTimestampMonotonic"]).stdout,
            before,
            "it was booted again"
        );
        app.machine.systemctl(["start", AGENT]);
        let events = app.events(run);
        // Told to stop, it takes the run back before it goes; without a word, at the next start.
        let outcome = if how.is_empty() { "cancelled" } else { "failed" };
        assert_eq!(
            (events.last().unwrap()["outcome"].as_str(), has(&events, "stopped")),
            (Some(outcome), !how.is_empty()),
            "{how:?} {events:#?}"
        );
        assert_eq!(app.machine.live("plain").unwrap(), live);
        app.assert_sound();
        app.machine.write("/run/gate", "");
    }
    app.open_the_gate();
    app.machine.ctl(["release", "main"]).expect(0);
    assert_eq!(app.serving(), app.machine.live("plain").unwrap());
    app.assert_sound();
}

#[test]
fn rst_06_boot_with_a_run_in_migrate() {
    let bench = Bench::new("down in migrate");
    let repo = bench.demo_repo(2);
    bench.app("demo", &demo_settings(&bench, &repo).replace("status = 200", "status = 200\nstable = \"300ms\"")).start();
    bench.ctl(["release", "v2"]).expect(0);
    let live = bench.live("demo").unwrap();
    let reached = bench.path("migrating");
    repo.write(
        "board/migrations/0003_three.py",
        format!(
            "import time\nfrom django.db import migrations\ndef wait(apps, schema_editor):\n    open({reached:?}, 'w').close()\n    time.sleep(600)\n\
             class Migration(migrations.Migration):\n    dependencies = [('board', '0002_notice_colour')]\n\
             \x20   operations = [migrations.RunSQL('CREATE TABLE three (x int)', 'DROP TABLE three'), migrations.RunPython(wait, wait)]\n"
        ),
    );
    repo.commit("A migration that waits");
    bench.ctl(["release", "--no-follow", "main"]).expect(0);
    wait_until("the migration is under way", MOST, || reached.exists());
    // The whole machine goes down: whatever runs is gone, and so is what lies in /run.
    bench.kill();
    wait_until("nothing of it runs", MOST, || {
        let left = processes_about(&bench.path(""));
        left.iter().for_each(|process| process.signal(Signal::SIGKILL));
        left.is_empty()
    });
    fs::remove_dir_all(bench.path("run")).unwrap();
    fs::create_dir(bench.path("run")).unwrap();
    bench.start();
    wait_until("the run has ended", MOST, || bench.last_run()["state"] == "ended");
    let run = bench.last_run();
    let events = bench.events(run["run"].as_u64().unwrap());
    assert!(has(&events, "stopped") && events.iter().any(|event| event["what"] == "step_started" && event["step"] == "migrate"));
    // The database has taken its part of the migration back by itself: nothing stands.
    assert_eq!((run["outcome"].as_str(), has(&events, "stands")), (Some("failed"), false), "{events:#?}");
    let mut sqlite = bench.command("sqlite3");
    sqlite.arg(bench.root_of("demo").join("shared/db.sqlite3")).arg("SELECT count(*) FROM sqlite_schema WHERE name = 'three'");
    assert_eq!(bench.begin(sqlite).finish(MOST).expect(0).stdout, "0\n");
    assert_eq!(bench.live("demo").unwrap(), live);
    wait_until("the live release was started again", MOST, || {
        agent_tests::get(&Place::Socket(bench.path(SITE_SOCKET)), "/healthz").is_ok_and(|answer| answer.status == 200)
    });
    assert_eq!(bench.page("/healthz").header("X-Release").unwrap(), repo.id("v2"));
    bench.assert_sound();
}

#[test]
fn rst_07_crash_loop() {
    let bench = Bench::new("a crash loop");
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    let script = format!("if [ -e {0} ]; then echo x >>{0}; {KILL_AGENT}; sleep 60; fi", bench.path("kill").display());
    let restart = format!("[restart]\nstrategy = \"command\"\nrun = [\"/bin/sh\", \"-c\", {script:?}]");
    bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\n{restart}\n", repo.path())).start();
    bench.ctl(["release", "main"]).expect(0);
    let live = bench.live("plain").unwrap();
    repo.write("page.html", "two").commit("Two");
    bench.write("kill", "");
    let run: u64 = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().parse().unwrap();
    wait_until("the agent is dead", MOST, || !bench.is_running());
    // As systemd would: again and again, until one stays.
    let mut starts = 0;
    while starts < 24 {
        starts += 1;
        if bench.start_or_not().is_none() {
            break;
        }
    }
    let deaths = fs::read_to_string(bench.path("kill")).unwrap().lines().count();
    assert_eq!((deaths, starts), (6, 6), "each start but the last died");
    let events = bench.events(run);
    assert_eq!(events.iter().filter(|event| event["what"] == "stopped").count(), 6);
    assert_eq!(events.last().unwrap()["outcome"], "stuck", "{events:#?}");
    // The socket is up, and a person can act.
    bench.ctl(["release", "main"]).expect(4).says(&["stuck", "a person must look"]);
    fs::remove_file(bench.path("kill")).unwrap();
    bench.ctl(["activate", &live]).expect(0);
    assert_eq!(bench.live("plain").unwrap(), live);
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
}
