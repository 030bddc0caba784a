//! The journal is cut off, damaged, emptied, exchanged, or says something else than the disk. What was carried out once is never carried out again,
//! what cannot be believed is not, and the releases stay.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use agent_tests::{Answer, Bench, KILL_AGENT, Network, Repo, SigningKey, form, is_root, now, wait_until};
use serde_json::{Value, json};

const MOST: Duration = Duration::from_secs(60);

/// The app `plain`, and a key that may do everything.
struct Scene {
    bench: Bench,
    repo: Repo,
    network: Network,
    key: SigningKey,
}

impl Scene {
    fn new(name: &str, more: impl Fn(&Bench) -> String) -> Self {
        let bench = Bench::new(name);
        let repo = bench.repo("plain");
        repo.write("page.html", "one").commit("One");
        bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\n{}\n", repo.path(), more(&bench)));
        let key = SigningKey::default();
        let network = bench.network("", "[[grant]]\nto = \"key:ci\"\napps = [\"*\"]\nactions = [\"*\"]\n", &key.line("ci"));
        bench.start();
        Self { bench, repo, network, key }
    }

    fn plain(name: &str) -> Self {
        Self::new(name, |_| String::new())
    }

    fn send(&self, body: &str) -> Answer {
        self.network.send(body, &[self.key.sign(body)])
    }

    /// A signed release that is carried out; answers with its body.
    #[track_caller]
    fn released(&self) -> String {
        let body = form("release", json!({ "ref": "refs/heads/main" })).to_string();
        let answer = self.send(&body);
        assert_eq!(answer.status, 202, "{}", answer.body);
        wait_until("the release is live", MOST, || self.bench.last_run()["outcome"] == "live");
        body
    }

    #[track_caller]
    fn forgotten(&self, body: &str) {
        let answer = self.send(body);
        let problem: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!((answer.status, problem["code"].as_str()), (410, Some("out_of_window")), "{}", answer.body);
    }

    fn state(&self, name: &str) -> std::path::PathBuf {
        self.bench.path("state").join(name)
    }

    /// Asks or tells the journal's file something, while no agent has it.
    #[track_caller]
    fn sql(&self, text: &str) -> String {
        assert!(!self.bench.is_running());
        let mut sqlite = self.bench.command("sqlite3");
        sqlite.arg(self.state("journal.db")).arg(text);
        self.bench.begin(sqlite).finish(MOST).expect(0).stdout.trim().to_owned()
    }

    /// Another commit, and a release of it that dies with the agent at the hook; nothing has been recovered yet.
    #[track_caller]
    fn die(&self) -> u64 {
        self.repo.write("page.html", now().to_string()).commit("Another");
        self.bench.write("kill", "");
        let run = self.bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().parse().unwrap();
        wait_until("the agent is dead", MOST, || !self.bench.is_running());
        run
    }

    /// The release that the dead agent was making.
    fn being_made(&self) -> String {
        self.bench.releases("plain").into_iter().next_back().unwrap()
    }

    /// As a person would: `ln -sfn`.
    fn relink(&self, release: &str) {
        let (link, new) = (self.bench.root_of("plain").join("app"), self.bench.root_of("plain").join("mine"));
        symlink(format!("releases/{release}"), &new).unwrap();
        fs::rename(new, link).unwrap();
    }

    #[track_caller]
    fn ended(&self, run: u64) -> (String, Vec<Value>) {
        let events = self.bench.events(run);
        (events.last().unwrap()["outcome"].as_str().unwrap().to_owned(), events)
    }
}

/// A hook that kills the agent once, when the file `kill` is there.
fn killer(side: &str, step: &str) -> impl Fn(&Bench) -> String {
    move |bench| {
        let script = format!("if [ -e {0} ]; then rm {0}; {KILL_AGENT}; sleep 60; fi", bench.path("kill").display());
        format!("[[hook]]\n{side} = {step:?}\nrun = [\"/bin/sh\", \"-c\", {script:?}]\n")
    }
}

fn says(events: &[Value], what: &str, part: &str) -> bool {
    events.iter().any(|event| event["what"] == what && event.to_string().contains(part))
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn jrn_01_torn_tail() {
    let scene = Scene::plain("a torn tail");
    let body = scene.released();
    for _ in 0..2 {
        scene.bench.ctl(["prune"]).expect(0);
    }
    scene.bench.kill();
    let kept = scene.bench.path("kept");
    copy(&scene.bench.path("state"), &kept);
    scene.bench.start();
    let before: Vec<Vec<Value>> = (1..=3).map(|run| scene.bench.events(run)).collect();
    scene.bench.kill();
    // Each frame of the log has 24 bytes of its own and a page; one whose fifth to eighth byte are not 0 ends a transaction (sqlite.org/fileformat).
    let log = fs::read(kept.join("journal.db-wal")).unwrap();
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let frame = 24 + usize::try_from(number(8)).unwrap();
    let frames: Vec<usize> = (32..log.len()).step_by(frame).collect();
    let ends: Vec<usize> = frames.iter().copied().filter(|at| number(at + 4) != 0).collect();
    assert!(ends.len() > 10 && log.len() == frames.last().unwrap() + frame, "the log has {} transactions", ends.len());
    // Every place where something else is cut: within each part of each frame of the last two transactions, and all over the last one.
    let last = ends[ends.len() - 3] + frame;
    let mut cuts: Vec<usize> =
        frames.iter().filter(|at| **at >= last).flat_map(|at| [*at, at + 1, at + 7, at + 23, at + 24, at + 25, at + frame - 1]).collect();
    cuts.extend((*frames.last().unwrap()..log.len()).step_by(409));
    cuts.push(log.len() - 1);
    cuts.sort_unstable();
    cuts.dedup();
    let mut lost = 0;
    for cut in cuts {
        copy(&kept, &scene.bench.path("state"));
        fs::write(scene.state("journal.db-wal"), &log[..cut]).unwrap();
        scene.bench.start();
        for (run, before) in (1..=3).zip(&before) {
            let after = scene.bench.events(run);
            // What was told of a run is told still; the last one may have lost its end, and gets another.
            let same = before.iter().zip(&after).take_while(|(before, after)| before == after).count();
            assert!(same + 3 >= before.len() && (run == 3 || same == before.len()), "cut at {cut}: {same} events of run {run} are left");
            lost += before.len() - same;
        }
        let again = scene.send(&body);
        assert_eq!(again.status, 200, "cut at {cut}: {}", again.body);
        assert_eq!(scene.bench.runs().len(), 3, "cut at {cut}");
        scene.bench.assert_sound();
        scene.bench.kill();
    }
    assert!(lost > 10, "the cuts have cost something");
    // Without the whole log, nothing is there: that is no new host.
    copy(&kept, &scene.bench.path("state"));
    fs::write(scene.state("journal.db-wal"), "").unwrap();
    let _ = fs::remove_file(scene.state("journal.db-shm"));
    scene.bench.start();
    assert!(scene.bench.runs().len() < 3, "the log held what is gone");
    scene.forgotten(&body);
    scene.bench.assert_sound();
}

#[test]
fn jrn_02_damage_in_the_middle() {
    let scene = Scene::plain("damage");
    scene.released();
    scene.bench.stop();
    scene.sql("PRAGMA wal_checkpoint(TRUNCATE)");
    let journal = scene.state("journal.db");
    let whole = fs::read(&journal).unwrap();
    let pages = whole.len() / 4096;
    let mut refused = 0;
    for page in 1..pages {
        let mut damaged = whole.clone();
        damaged[page * 4096..(page + 1) * 4096].fill(0xA5);
        fs::write(&journal, &damaged).unwrap();
        let done =
            scene.bench.start_refused().expect(74).says(&[&journal.display().to_string(), "what to do:", "with the files that begin so"]);
        assert!(done.stderr.contains("is damaged") || done.stderr.contains("cannot be opened"), "{}", done.stderr);
        assert_eq!(fs::read(&journal).unwrap(), damaged, "nothing is put right in silence");
        refused += 1;
    }
    assert!(refused > 10);
    // A nonce that changed its last digit, so that its request would be new again.
    fs::write(&journal, &whole).unwrap();
    let nonce = scene.sql("SELECT nonce FROM run");
    let mut damaged = whole.clone();
    let at = damaged.windows(nonce.len()).rposition(|bytes| bytes == nonce.as_bytes()).unwrap();
    damaged[at + nonce.len() - 1] ^= 1;
    fs::write(&journal, &damaged).unwrap();
    scene.bench.start_or_not().expect("it must not serve").expect(74).says(&["is damaged"]);
    fs::write(&journal, &whole).unwrap();
    scene.bench.start().assert_sound();
}

#[test]
fn jrn_03_empty_file() {
    let scene = Scene::plain("an empty file");
    let body = scene.released();
    let live = scene.bench.live("plain").unwrap();
    for log in ["with its log", "alone"] {
        scene.bench.kill();
        fs::write(scene.state("journal.db"), "").unwrap();
        if log == "alone" {
            let _ = fs::remove_file(scene.state("journal.db-wal"));
            let _ = fs::remove_file(scene.state("journal.db-shm"));
        }
        scene.bench.start();
        assert_eq!(scene.bench.runs(), Vec::<Value>::new(), "{log}");
        scene.forgotten(&body);
        scene.bench.ctl(["list"]).expect(0).says(&[&live]);
        assert!(scene.bench.log().contains("another one was here before"));
        scene.bench.assert_sound();
    }
    scene.repo.write("page.html", "two").commit("Two");
    scene.bench.ctl(["release", "main"]).expect(0);
    scene.bench.ctl(["rollback"]).expect(0);
    assert_eq!(scene.bench.live("plain").unwrap(), live);
    scene.bench.assert_sound();
}

#[test]
fn jrn_04_unknown_word_of_a_newer_agent() {
    let scene = Scene::new("a newer word", killer("before", "seal"));
    scene.released();
    let live = scene.bench.live("plain").unwrap();
    // A word that only tells something, in the middle of a run that was cut off.
    let run = scene.die();
    scene.sql(&format!(
        "INSERT INTO event SELECT run, max(n) + 1, max(at), '{{\"what\":\"teleported\",\"to\":\"the moon\"}}' FROM event WHERE run = {run}"
    ));
    scene.bench.start();
    let (outcome, events) = scene.ended(run);
    assert_eq!(outcome, "failed", "{events:#?}");
    scene.bench.ctl(["logs", &run.to_string()]).says(&["failed"]);
    assert!(scene.bench.ctl(["logs", &run.to_string(), "--json"]).stdout.contains("ended"));
    scene.bench.assert_sound();
    // A step that nobody knows how to take back: a person must look.
    let run = scene.die();
    scene.sql(&format!(
        "UPDATE event SET what = replace(what, '\"seal\"', '\"teleport\"') WHERE run = {run} AND what ->> 'what' = 'planned'"
    ));
    scene.bench.start();
    let (outcome, events) = scene.ended(run);
    assert_eq!(outcome, "stuck", "{events:#?}");
    assert!(says(&events, "warning", "has a step \\\"teleport\\\" that this agent does not know"), "{events:#?}");
    assert_eq!(scene.bench.live("plain").unwrap(), live);
    scene.bench.ctl(["release", "main"]).expect(4).says(&["stuck"]);
    scene.bench.ctl(["activate", &live]).expect(0);
    scene.bench.ctl(["release", "main"]).expect(0);
    scene.bench.assert_sound_but(&["was never sealed"]);
}

#[test]
fn jrn_05_duplicate_event() {
    let scene = Scene::new("twice", killer("before", "seal"));
    scene.released();
    let live = scene.bench.live("plain").unwrap();
    let run = scene.die();
    // The same number twice cannot be written at all.
    let mut sqlite = scene.bench.command("sqlite3");
    sqlite.arg(scene.state("journal.db")).arg(format!("INSERT INTO event SELECT * FROM event WHERE run = {run} AND n = 3"));
    let refused = scene.bench.begin(sqlite).finish(MOST);
    assert!(refused.code != 0 && refused.stderr.contains("UNIQUE constraint failed"), "{refused:?}");
    // The same mark twice, under another number: marks that cannot follow one another are no run.
    scene.sql(&format!(
        "INSERT INTO event SELECT run, (SELECT max(n) + 1 FROM event WHERE run = {run}), at, what FROM event WHERE run = {run} AND what ->> 'what' = 'step_done' LIMIT 1"
    ));
    scene.bench.start();
    let (outcome, events) = scene.ended(run);
    assert_eq!(outcome, "stuck", "{events:#?}");
    assert!(says(&events, "warning", "cannot follow the marks before it"), "{events:#?}");
    assert_eq!(scene.bench.live("plain").unwrap(), live);
    scene.bench.ctl(["activate", &live]).expect(0);
    scene.bench.ctl(["release", "main"]).expect(0);
    scene.bench.assert_sound_but(&["was never sealed"]);
}

#[test]
fn jrn_06_state_directory_read_only() {
    if !is_root("an agent that may not write to its state directory ends with a sentence") {
        return;
    }
    let bench = Bench::new("read-only");
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\n", repo.path())).give_to(4711).start();
    bench.ctl(["release", "main"]).expect(0);
    let live = bench.live("plain");
    bench.stop();
    let state = bench.path("state");
    let mode = |directory: u32, file: u32| {
        for entry in fs::read_dir(&state).unwrap().flatten() {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(file)).unwrap();
        }
        fs::set_permissions(&state, fs::Permissions::from_mode(directory)).unwrap();
    };
    for (directory, file) in [(0o500, 0o600), (0o500, 0o400), (0o700, 0o400)] {
        mode(directory, file);
        bench.start_refused().expect(74).says(&[&state.display().to_string(), "what to do:", "--state"]);
        assert_eq!(bench.live("plain"), live, "visitors do not need the agent");
    }
    mode(0o700, 0o600);
    bench.start();
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
}

#[test]
fn jrn_07_two_journals() {
    let scene = Scene::plain("two journals");
    scene.released();
    scene.bench.stop();
    fs::rename(scene.bench.path("state"), scene.bench.path("first")).unwrap();
    fs::create_dir(scene.bench.path("state")).unwrap();
    // An agent with another journal goes on with the same root.
    scene.bench.start();
    scene.repo.write("page.html", "two").commit("Two");
    // It takes what is signed after the minute by which clocks may differ.
    let ahead = || form("release", json!({ "ref": "refs/heads/main", "iat": now() + 60, "exp": now() + 400 })).to_string();
    let mut body = ahead();
    wait_until("it takes what is new", MOST, || {
        body = ahead();
        scene.send(&body).status == 202
    });
    wait_until("the release is live", MOST, || scene.bench.last_run()["outcome"] == "live");
    let second = scene.bench.live("plain").unwrap();
    scene.bench.stop();
    // And back: the first journal knows nothing of what the other one took, but the release tells that there was something.
    fs::rename(scene.bench.path("state"), scene.bench.path("second")).unwrap();
    fs::rename(scene.bench.path("first"), scene.bench.path("state")).unwrap();
    scene.bench.start();
    assert_eq!(scene.bench.runs().len(), 1);
    scene.forgotten(&body);
    assert!(scene.bench.log().contains("the journal is older than what it should know"));
    scene.bench.ctl(["status"]).expect(0).says(&[&second]);
    scene.bench.assert_sound_but(&["was live last"]);
    // The way back is read from the releases.
    scene.bench.ctl(["rollback"]).expect(0);
    assert_eq!(scene.bench.live("plain").as_ref(), scene.bench.releases("plain").first());
    scene.bench.assert_sound();
}

#[test]
fn jrn_08_journal_says_switched_and_the_disk_does_not() {
    let scene = Scene::new("not on disk", killer("before", "prune"));
    scene.released();
    let live = scene.bench.live("plain").unwrap();
    let run = scene.die();
    let made = scene.being_made();
    assert_eq!(scene.bench.live("plain").unwrap(), made, "it was switched");
    scene.relink(&live);
    scene.bench.start();
    let (outcome, events) = scene.ended(run);
    assert!(events.iter().any(|event| event["what"] == "step_done" && event["step"] == "switch"), "the journal says so: {events:#?}");
    // It is not live, and nobody knows what serves: a person must look.
    assert_eq!(outcome, "stuck", "{events:#?}");
    assert!(says(&events, "warning", &format!("{made} was switched to, and now the link names {live}")), "{events:#?}");
    assert_eq!(events.last().unwrap()["live"], live.as_str());
    scene.bench.ctl(["release", "main"]).expect(4).says(&["stuck"]);
    scene.bench.ctl(["activate", &made]).expect(0);
    assert_eq!(scene.bench.live("plain").unwrap(), made);
    scene.bench.assert_sound();
}

#[test]
fn jrn_09_the_disk_says_switched_and_the_journal_does_not() {
    let scene = Scene::new("not in the journal", killer("before", "switch"));
    scene.released();
    let live = scene.bench.live("plain").unwrap();
    let run = scene.die();
    let made = scene.being_made();
    assert_ne!(made, live);
    scene.relink(&made);
    scene.bench.start();
    let (outcome, events) = scene.ended(run);
    assert!(!events.iter().any(|event| event["what"] == "exposed"), "the journal knows of no switch: {events:#?}");
    assert_eq!(outcome, "failed", "{events:#?}");
    assert_eq!(scene.bench.live("plain").unwrap(), live, "what is taken back is not what the link names");
    scene.bench.assert_sound();
    // The same at an earlier step: the release has no seal yet, and the step that switches has not begun.
    let text = format!("repository = {:?}\nbranches = [\"main\"]\n{}\n", scene.repo.path(), killer("before", "seal")(&scene.bench));
    scene.bench.app("plain", &text).reload();
    let run = scene.die();
    scene.relink(&scene.being_made());
    scene.bench.start();
    let (outcome, events) = scene.ended(run);
    assert_eq!(outcome, "failed", "{events:#?}");
    assert!(says(&events, "warning", &format!("it names {live} again")), "{events:#?}");
    assert_eq!(scene.bench.live("plain").unwrap(), live);
    scene.bench.assert_sound();
}

#[test]
fn jrn_10_release_of_a_good_run_is_gone() {
    let scene = Scene::new("a release is gone", |_| {
        "[restart]\nstrategy = \"command\"\nrun = [\"/bin/sh\", \"-c\", \"test ! -e FAIL\"]".to_owned()
    });
    scene.released();
    let first = scene.bench.live("plain").unwrap();
    scene.repo.write("page.html", "two").commit("Two");
    scene.bench.ctl(["release", "main"]).expect(0);
    let second = scene.bench.live("plain").unwrap();
    scene.bench.kill();
    // The journal says of both that they went live.
    fs::remove_dir_all(scene.bench.root_of("plain").join("releases").join(&second)).unwrap();
    scene.bench.start();
    scene.bench.ctl(["status"]).says(&[&second]);
    scene.bench.ctl(["doctor"]).expect(1).says(&[&second, "is not there: its directory is gone"]);
    // There is nothing to go back to when the next one fails: that is no way back, and it is said.
    scene.repo.write("FAIL", "").commit("Cannot be started");
    let stuck = scene.bench.ctl(["release", "main"]).expect(6);
    stuck.says(&["could not be taken back", &second]);
    scene.bench.ctl(["activate", &first]).expect(0);
    assert_eq!(scene.bench.live("plain").unwrap(), first);
    scene.repo.remove("FAIL").commit("Can be started");
    scene.bench.ctl(["release", "main"]).expect(0);
    scene.bench.ctl(["rollback"]).expect(0);
    assert_eq!(scene.bench.live("plain").unwrap(), first);
    scene.bench.assert_sound();
}

#[test]
fn jrn_11_older_agent_and_newer_journal() {
    let scene = Scene::plain("a newer journal");
    scene.released();
    let live = scene.bench.live("plain");
    scene.bench.stop();
    let version: u32 = scene.sql("PRAGMA user_version").parse().unwrap();
    scene.sql(&format!("CREATE TABLE newer (x); PRAGMA user_version = {}", version + 1));
    let before = fs::read(scene.state("journal.db")).unwrap();
    scene.bench.start_refused().expect(65).says(&[&format!("is of version {}", version + 1), "install the newer agent again"]);
    assert_eq!(fs::read(scene.state("journal.db")).unwrap(), before, "it is left as it is");
    assert_eq!(scene.bench.live("plain"), live, "visitors do not need the agent");
    scene.sql(&format!("DROP TABLE newer; PRAGMA user_version = {version}"));
    scene.bench.start().assert_sound();
}

/// What the agent has read since its start, in bytes.
fn has_read(bench: &Bench) -> u64 {
    let told = fs::read_to_string(format!("/proc/{}/io", bench.agent_pid().unwrap())).unwrap();
    told.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn jrn_12_ten_thousand_old_runs() {
    let scene = Scene::plain("ten thousand runs");
    let body = scene.released();
    scene.bench.stop();
    scene.bench.start();
    let looks = is_root("what the agent reads at its start is seen");
    let with_one = looks.then(|| has_read(&scene.bench));
    scene.bench.stop();
    scene.sql(
        "INSERT INTO run (app, action, of, caller, form, refs, nonce, accepted, turns, begun, ended, outcome, release, step, told) \
             SELECT app, action, of, caller, form, refs, lower(hex(randomblob(16))), accepted - old.value, turns, begun - old.value, ended - old.value, \
                 outcome, release, run.step, told FROM run, generate_series(1, 10000) AS old WHERE run = 1; \
         INSERT INTO event SELECT run.run, n, at, what FROM run JOIN event ON event.run = 1 WHERE run.run > 1; PRAGMA wal_checkpoint(TRUNCATE)",
    );
    scene.bench.start();
    let size = fs::metadata(scene.state("journal.db")).unwrap().len();
    assert!(size > 10_000_000, "ten thousand runs have {size} bytes");
    if let Some(with_one) = with_one {
        // Everything is looked through once, and each index of it beside: nothing is read again for each run.
        let more = has_read(&scene.bench) - with_one;
        assert!(more < 3 * size, "the start has read {more} bytes of a journal of {size}");
    }
    let listed = scene.bench.ctl(["runs", "--json"]).expect(0).json();
    assert_eq!(listed["runs"][0]["run"], 10_001);
    scene.bench.ctl(["status"]).expect(0);
    scene.bench.ctl(["list"]).expect(0);
    // The oldest is as well known as the newest, and what comes is not held up.
    let again = scene.send(&body);
    assert_eq!((again.status, serde_json::from_str::<Value>(&again.body).unwrap()["run"].as_u64()), (200, Some(1)), "{}", again.body);
    let before = looks.then(|| has_read(&scene.bench));
    scene.bench.ctl(["release", "main"]).expect(0);
    if let Some(before) = before {
        let read = has_read(&scene.bench) - before;
        assert!(read < size, "one release has read {read} bytes, as if it looked through the whole journal of {size}");
    }
    scene.bench.assert_sound_but(&["its row says something else than its events"]);
}
