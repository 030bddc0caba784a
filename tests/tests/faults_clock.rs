//! Clocks that are wrong: at the start, while the agent runs, in the middle of a run. The agent's clock alone is moved (libfaketime), those of the
//! tests and of what the agent starts are right.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::time::Duration;

use agent_tests::{Answer, Bench, Network, Repo, SigningKey, form, now, wait_until};
use serde_json::{Value, json};

const MOST: Duration = Duration::from_secs(60);
const HOUR: i64 = 3600;

/// The agent with a clock of its own, the app `plain`, and a key that may do everything.
struct Scene {
    bench: Bench,
    repo: Repo,
    network: Network,
    key: SigningKey,
}

impl Scene {
    /// With the agent's clock so many seconds ahead at its start.
    fn new(name: &str, ahead: i64, more: &str) -> Self {
        let bench = Bench::new(name);
        let repo = bench.repo("plain");
        repo.write("page.html", "one").commit("One");
        bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\n{more}\n", repo.path()));
        let key = SigningKey::default();
        let network = bench.network("", "[[grant]]\nto = \"key:ci\"\napps = [\"*\"]\nactions = [\"*\"]\n", &key.line("ci"));
        let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
            .map(|directory| format!("{directory}/faketime/libfaketimeMT.so.1"));
        let library = library.into_iter().find(|path| fs::exists(path).unwrap()).expect("libfaketime is there: tests/run installs it");
        bench.agent_variable("LD_PRELOAD", &library).agent_variable("FAKETIME_NO_CACHE", "1");
        // What waits for a time to pass goes by a clock that nobody sets; so it is with the real one.
        bench.agent_variable("FAKETIME_DONT_FAKE_MONOTONIC", "1").agent_variable("NO_FAKE_STAT", "1");
        bench.agent_variable("FAKETIME_TIMESTAMP_FILE", &bench.path("clock").display().to_string());
        let scene = Self { bench, repo, network, key };
        scene.set(ahead);
        scene.bench.start();
        scene
    }

    /// Sets the agent's clock so many seconds ahead of the right one, from its next look on.
    fn set(&self, ahead: i64) {
        let new = self.bench.write("clock.new", format!("{ahead:+}\n"));
        fs::rename(new, self.bench.path("clock")).unwrap();
    }

    /// How far the agent's clock is ahead, by what it has written down last.
    fn ahead(&self) -> i64 {
        let run = self.bench.last_run()["run"].as_u64().unwrap();
        ahead(self.bench.events(run).last().unwrap())
    }

    #[track_caller]
    fn set_and_seen(&self, seconds: i64) {
        self.set(seconds);
        self.bench.ctl(["prune"]).expect(0);
        assert!((self.ahead() - seconds).abs() < 30, "the agent's clock was not moved by {seconds} s, but by {}", self.ahead());
    }

    fn send(&self, body: &str) -> Answer {
        self.network.send(body, &[self.key.sign(body)])
    }

    /// Asks over the network, by the right clock.
    fn ask(&self) -> Answer {
        self.send(&form("prune", json!({})).to_string())
    }

    #[track_caller]
    fn taken(&self, answer: &Answer) {
        assert_eq!(answer.status, 202, "{}", answer.body);
        wait_until("it is over", MOST, || self.bench.runs().iter().all(|run| run["state"] == "ended"));
    }
}

/// How many seconds an event was written ahead of now.
fn ahead(event: &Value) -> i64 {
    let at = event["at"].as_str().unwrap();
    let spoken = std::process::Command::new("date").args(["--utc", "+%s", "--date", at]).output().unwrap().stdout;
    String::from_utf8(spoken).unwrap().trim().parse::<i64>().unwrap() - i64::try_from(now()).unwrap()
}

#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str, says: &str) {
    let problem: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, problem["code"].as_str()), (status, Some(code)), "{}", answer.body);
    assert!(answer.body.contains(says), "{says}: {}", answer.body);
}

#[test]
fn clk_01_clock_back_an_hour_at_run_time() {
    let scene = Scene::new("an hour back", 0, "");
    scene.bench.ctl(["release", "main"]).expect(0);
    let first = scene.bench.live("plain").unwrap();
    scene.taken(&scene.ask());
    scene.set_and_seen(-HOUR);
    let runs = scene.bench.runs().len();
    refused(&scene.ask(), 503, "clock", "s behind what its journal has seen");
    assert_eq!(scene.bench.runs().len(), runs, "nothing may have begun");
    // On the host itself everything goes on. What is newer has the later name, whatever the clock says.
    scene.repo.write("page.html", "two").commit("Two");
    scene.bench.ctl(["release", "main"]).expect(0);
    let second = scene.bench.live("plain").unwrap();
    assert!(second > first, "{second} is newer than {first}");
    scene.bench.ctl(["rollback"]).expect(0);
    assert_eq!(scene.bench.live("plain").unwrap(), first);
    scene.bench.ctl(["doctor"]).says(&["the clock is behind what the journal has seen, by", "timedatectl"]);
    scene.set(0);
    scene.taken(&scene.ask());
    scene.bench.assert_sound();
}

#[test]
fn clk_03_clock_forward_an_hour() {
    let scene = Scene::new("an hour ahead", HOUR, "");
    scene.set_and_seen(HOUR);
    refused(&scene.ask(), 410, "out_of_window", "expired");
    // Set right, it is behind what the journal has seen: until when, and what else may be done, is said.
    scene.set(0);
    refused(&scene.ask(), 503, "clock", "behind");
    scene.bench.ctl(["doctor"]).says(&["until it shows", "was ahead before", "journal.db"]);
    scene.bench.ctl(["release", "main"]).expect(0);
    // The way out that is told.
    scene.bench.stop();
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        // Not each of them is there.
        let _ = fs::rename(scene.bench.path("state").join(name), scene.bench.path(name));
    }
    scene.bench.start();
    refused(&scene.ask(), 410, "out_of_window", "journal");
    scene.bench.ctl(["release", "main"]).expect(0);
    scene.bench.assert_sound();
}

#[test]
fn clk_04_jump_while_a_run_is_under_way() {
    let bench_gate = |bench: &Bench| bench.path("gate");
    let scene = Scene::new("a jump", 0, "");
    let gate = bench_gate(&scene.bench);
    let wait = format!("touch {0}.reached; while [ -e {0} ]; do sleep 0.02; done", gate.display());
    let hook = format!("[[hook]]\nbefore = \"seal\"\nrun = [\"/bin/sh\", \"-c\", {wait:?}]\ntimeout = \"1m\"\n");
    scene.bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\n{hook}", scene.repo.path())).reload();
    for jump in [HOUR, -HOUR] {
        scene.set(0);
        fs::write(&gate, "").unwrap();
        let _ = fs::remove_file(scene.bench.path("gate.reached"));
        let run: u64 = scene.bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().parse().unwrap();
        wait_until("the run stands at the gate", MOST, || scene.bench.path("gate.reached").exists());
        scene.set(jump);
        fs::remove_file(&gate).unwrap();
        scene.bench.ctl(["logs", "-f", &run.to_string()]).expect(0);
        let events = scene.bench.events(run);
        assert!(ahead(&events[0]).abs() < 60 && (ahead(events.last().unwrap()) - jump).abs() < 60, "the jump was in the middle");
        // No timeout goes by that clock, and neither does what people are told of how long it took.
        let ms = events.last().unwrap()["ms"].as_u64().unwrap();
        assert!(ms < 60_000, "{ms} ms by the event");
        let told = scene.bench.last_run();
        assert_eq!((told["outcome"].as_str(), told["ms"].as_u64()), (Some("live"), Some(ms)));
    }
    scene.bench.assert_sound();
}

#[test]
fn clk_05_a_minute_of_skew_both_ways() {
    let scene = Scene::new("a minute", 0, "");
    for skew in [-50, 50] {
        scene.set_and_seen(skew);
        scene.taken(&scene.ask());
        // A second that is there twice is nothing.
        scene.set(skew - 1);
        scene.taken(&scene.ask());
    }
    scene.set(0);
    scene.taken(&scene.ask());
    // More than that is too much, both ways.
    scene.set_and_seen(-130);
    refused(&scene.ask(), 503, "clock", "behind");
    scene.set_and_seen(400);
    refused(&scene.ask(), 410, "out_of_window", "expired");
    scene.bench.assert_sound();
}

#[test]
fn clk_06_high_water_mark_lost() {
    let scene = Scene::new("no high water", 0, "");
    let body = form("release", json!({ "ref": "refs/heads/main", "exp": now() + 600 })).to_string();
    scene.taken(&scene.send(&body));
    scene.bench.stop();
    fs::remove_dir_all(scene.bench.path("state")).unwrap();
    // With the journal, the knowledge of how late it is has gone; the releases still tell.
    scene.set(-HOUR);
    scene.bench.start();
    refused(&scene.send(&body), 503, "clock", "behind");
    scene.set_and_seen(-HOUR);
    // A clock that comes right must not make what was carried out before new again.
    scene.set(0);
    refused(&scene.send(&body), 410, "out_of_window", "journal");
    scene.bench.kill().start();
    refused(&scene.send(&body), 410, "out_of_window", "journal");
    assert!(scene.bench.runs().iter().all(|run| run["action"] != "release"), "the release was not carried out once more");
    scene.bench.assert_sound();
}

#[test]
fn clk_07_timezone_change() {
    let scene = Scene::new("a time zone", 0, "");
    let mut live = Vec::new();
    for (n, zone) in ["Pacific/Auckland", "America/Los_Angeles", ":/nowhere"].into_iter().enumerate() {
        scene.bench.stop();
        scene.bench.agent_variable("TZ", zone).start();
        let environment = fs::read(format!("/proc/{}/environ", scene.bench.agent_pid().unwrap())).unwrap_or_default();
        assert!(
            !agent_tests::is_root("the time zone is seen in the agent's environment")
                || String::from_utf8_lossy(&environment).contains(zone)
        );
        scene.repo.write("page.html", n.to_string()).commit("Another");
        scene.bench.ctl(["release", "main"]).expect(0);
        live.push(scene.bench.live("plain").unwrap());
        // The name of the release and the moment of its events are told in UTC.
        assert!(scene.ahead().abs() < 60);
        let clock = std::process::Command::new("date").args(["--utc", "+%Y-%m-%d-%H-"]).output().unwrap().stdout;
        let hour = String::from_utf8(clock).unwrap();
        let next = std::process::Command::new("date").args(["--utc", "+%Y-%m-%d-%H-", "--date", "-2 minutes"]).output().unwrap().stdout;
        let before = String::from_utf8(next).unwrap();
        assert!(live[n].starts_with(hour.trim()) || live[n].starts_with(before.trim()), "{} is not in UTC", live[n]);
        scene.taken(&scene.ask());
    }
    assert!(live.is_sorted());
    scene.bench.assert_sound();
}

#[test]
fn clk_08_step_between_taking_and_expiry_of_a_nonce() {
    let scene = Scene::new("a step", 0, "");
    let body = form("prune", json!({})).to_string();
    scene.taken(&scene.send(&body));
    // Expired by a clock that stepped ahead, then valid again by one that was set right: it never starts a second run.
    scene.set(900);
    refused(&scene.send(&body), 410, "out_of_window", "expired");
    scene.set(0);
    let again = scene.send(&body);
    assert_eq!((again.status, serde_json::from_str::<Value>(&again.body).unwrap()["run"].as_u64()), (200, Some(1)), "{}", again.body);
    // The step forward is seen by the journal, and then back.
    scene.set_and_seen(900);
    scene.set(0);
    refused(&scene.send(&body), 503, "clock", "behind");
    assert_eq!(scene.bench.runs().iter().filter(|run| run["caller"] == "key:ci").count(), 1);
    scene.bench.assert_sound();
}
