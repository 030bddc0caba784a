//! What the ctl promises: the exit codes, the data, the words, and that turning away cancels nothing.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use agent_tests::{Begun, Bench, Done, Place, Repo, get, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

fn settings(repo: &Repo, more: &str) -> String {
    format!("repository = {:?}\nbranches = [\"main\"]\ntags = [\"v*\"]\n{more}\n", repo.path())
}

/// A hook that waits until the test lets it go on, in every release whose commit has the file `gate`.
const GATE: &str =
    "#!/bin/sh\n[ -e gate ] || exit 0\ntouch \"$1.reached\"\nwhile [ ! -e \"$1.open\" ]; do sleep 0.02; done\necho through\n";

/// A bench with the app `plain`, whose releases wait after their checkout when their commit says so.
fn gated(name: &str, more: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.pretend("gate", GATE);
    let hook = format!("[[hook]]\nafter = \"checkout\"\nrun = [\"gate\", {:?}]\n", bench.path("gate"));
    bench.app("plain", &settings(&repo, &format!("{more}{hook}"))).start();
    bench.ctl(["release", "main"]).expect(0);
    repo.write("gate", "").write("page.html", "two").commit("Two");
    (bench, repo)
}

fn wait_for_gate(bench: &Bench) {
    wait_until("the run is in the middle", SOON, || bench.path("gate.reached").exists());
}

fn open_gate(bench: &Bench) {
    bench.write("gate.open", "");
}

/// Begins a release that waits in the middle.
fn in_the_middle(bench: &Bench) -> Begun {
    let begun = bench.ctl_begin(["release", "main"]);
    wait_for_gate(bench);
    begun
}

/// A server on a Unix socket: what its directory says when it starts is what it answers.
const SERVER: &str = r#"
import http.server, os, socketserver, sys
path = sys.argv[1]
revision, status = open("REVISION").read().strip(), int(open("status").read())
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(status)
        self.send_header("X-Release", revision)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")
    def log_message(self, *args):
        pass
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
if os.path.exists(path):
    os.unlink(path)
Server(path, Handler).serve_forever()
"#;

/// Ends the server that runs, and starts the one in the link: what a hand-made deployment does.
const RESTART: &str = r#"#!/bin/sh
set -e
place=$1
if [ -e "$place/pid" ]; then
    pid=$(cat "$place/pid")
    kill "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
fi
[ ! -e "$place/broken" ] || { echo "the restart is broken" >&2; exit 1; }
setsid /usr/bin/python3 server.py "$place/site.sock" >/dev/null 2>&1 </dev/null &
echo $! > "$place/pid"
"#;

/// A bench with the app `site`, which is restarted in place by a command and proven by a check; its first release is live.
fn site(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("site");
    repo.write("server.py", SERVER).write_program("restart", RESTART).write("status", "200").commit("Good");
    let run = bench.path("run");
    let toml = format!(
        "[restart]\nstrategy = \"command\"\nrun = [\"./restart\", {run:?}]\n[[check]]\nurl = \"unix:{}:/healthz\"\nstatus = 200\nrelease_header = \
         \"X-Release\"\nwithin = \"5s\"\nstable = \"200ms\"\n",
        run.join("site.sock").display()
    );
    bench.app("site", &settings(&repo, &toml)).start();
    bench.ctl(["release", "main"]).expect(0);
    (bench, repo)
}

fn serves(bench: &Bench) -> Option<String> {
    let answer = get(&Place::Socket(bench.path("run/site.sock")), "/").ok()?;
    (answer.status == 200).then(|| answer.header("x-release").unwrap_or_default().to_owned())
}

#[test]
fn codes_0_1_and_2_of_what_is_done_failed_and_meaningless() {
    let (bench, repo) = gated("codes 0, 1, 2", "");
    open_gate(&bench);
    for verb in [
        &["status"][..],
        &["list"],
        &["show"],
        &["runs"],
        &["logs"],
        &["logs", "1"],
        &["plan", "main"],
        &["doctor"],
        &["prune"],
        &["prune", "--dry-run"],
        &["fsck"],
        &["verify"],
        &["fsck", "--mend"],
        &["check"],
        &["lock", "-m", "why"],
        &["unlock"],
        &["settle"],
        &["--version"],
        &["--help"],
        &["release", "--help"],
        &["completions", "bash"],
        &["man"],
    ] {
        bench.ctl(verb).expect(0);
    }
    bench.ctl(["release", "main"]).expect(0).says(&["plain: ", "is live"]);
    bench.ctl(["rollback"]).expect(0);
    let failed = bench.ctl(["release", "nowhere"]).expect(1).says(&["was never left; no check says whether it serves", "agentctl logs"]);
    assert!(failed.stdout.is_empty(), "words belong on stderr: {}", failed.stdout);
    let run = bench.last_run()["run"].to_string();
    bench.ctl(["logs", &run]).expect(0).says(&["nowhere"]);
    bench.ctl(["logs", "-f", &run]).expect(1);
    for (verb, part) in [
        (&[][..], "Usage"),
        (&["explode"], "explode"),
        (&["release"], "<REF>"),
        (&["release", "a", "b"], "'b'"),
        (&["release", "main", "--fast"], "--fast"),
        (&["activate", "nothing-like-it"], "nothing-like-it"),
        (&["activate", "1234567"], "no release 1234567"),
        (&["show", "1234567"], "no release 1234567"),
        (&["pin", "1234567"], "the newest are"),
        (&["logs", "99"], "no run 99"),
        (&["cancel", "99"], "no run 99"),
        (&["cancel", "x"], "x"),
        (&["lock"], "-m"),
        (&["fsck", "--no-follow"], "--mend"),
        (&["lock", "-m", ""], "`why`"),
        (&["--quiet", "--json", "status"], "--quiet"),
        (&["release", "main", "--expect-live", "latest"], "2026-11-20-22-45-23-1a2b3c4d5e6f"),
    ] {
        let done = bench.ctl(verb).expect(2).says(&[part]);
        assert!(done.stdout.is_empty(), "{verb:?}: {}", done.stdout);
    }
    assert_eq!(repo.head().len(), 40);
    bench.assert_sound();
}

#[test]
fn code_3_the_new_release_was_live_for_a_moment() {
    let (bench, repo) = site("code 3");
    let (good, live) = (repo.head(), bench.live("site"));
    assert_eq!(serves(&bench), Some(good.clone()));
    repo.write("status", "503").commit("Bad");
    let done = bench.ctl(["release", "main"]).expect(3);
    let done = done.says(&["503", "rolled back at switch", "was live for a moment", &format!("{} serves again", live.clone().unwrap())]);
    assert!(done.stderr.contains("taken back"), "{}", done.stderr);
    assert_eq!((bench.live("site"), serves(&bench)), (live.clone(), Some(good.clone())));
    assert_eq!(bench.releases("site").len(), 1);
    // A release that answers, but with another's name: the old process was never replaced.
    repo.write("status", "200").write_program("restart", "#!/bin/sh\nexit 0\n").commit("Restart nothing");
    bench.ctl(["release", "main"]).expect(3).says(&["answered by another release", &good, "still serves"]);
    assert_eq!((bench.live("site"), serves(&bench)), (live, Some(good)));
    bench.assert_sound();
}

#[test]
fn code_6_stuck_until_a_person_looked() {
    let (bench, repo) = site("code 6");
    let (good, live) = (repo.head(), bench.live("site").unwrap());
    repo.write("status", "200").write("page.html", "two").commit("Two");
    bench.write("run/broken", "");
    let done = bench.ctl(["release", "main"]).expect(6);
    let done = done.says(&[
        "stuck",
        "could not be taken back",
        "the restart is broken",
        "a person must look",
        "agentctl doctor",
        "agentctl activate",
    ]);
    assert!(done.stderr.contains("run 2"), "{}", done.stderr);
    bench.ctl(["status"]).expect(0).says(&["stuck", "run 2 needs a person to look"]);
    bench.ctl(["release", "main"]).expect(4).says(&["run 2 ended stuck", "activate"]);
    bench.ctl(["prune"]).expect(4).says(&["stuck"]);
    assert_eq!(bench.live("site").as_deref(), Some(live.as_str()), "the link names what served last");
    bench.ctl(["logs", "-f", "2"]).expect(6);
    fs::remove_file(bench.path("run/broken")).unwrap();
    bench.ctl(["activate", &live]).expect(0);
    assert_eq!(serves(&bench), Some(good));
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(serves(&bench), Some(repo.head()));
    bench.assert_sound();
}

#[test]
fn code_4_locked_busy_and_stale() {
    let (bench, _) = gated("code 4", "when_busy = \"refuse\"\n");
    bench.ctl(["lock", "-m", "black friday: ask anna"]).expect(0).says(&["locked"]);
    bench.ctl(["release", "main"]).expect(4).says(&["refused: the app is locked by unix:", "black friday: ask anna", "agentctl unlock"]);
    bench.ctl(["activate", "previous"]).expect(2).says(&["no release to go back to"]);
    bench.ctl(["status"]).expect(0).says(&["locked", "black friday"]);
    bench.ctl(["plan", "main"]).expect(0).says(&["locked", "black friday"]);
    bench.kill().start();
    bench.ctl(["release", "main"]).expect(4).says(&["locked"]);
    bench.ctl(["unlock"]).expect(0).says(&["unlocked"]);
    let live = bench.live("plain").unwrap();
    let stale = "2020-01-01-00-00-00-1a2b3c4d5e6f";
    bench.ctl(["release", "main", "--expect-live", stale]).expect(4).says(&[stale, &live, "agentctl list"]);
    let first = in_the_middle(&bench);
    bench.ctl(["release", "main"]).expect(4).says(&["refused: run", "is under way", "agentctl logs -f"]);
    bench.ctl(["prune"]).expect(4).says(&["is under way"]);
    open_gate(&bench);
    first.finish(SOON).expect(0);
    bench.ctl(["release", "main", "--expect-live", &bench.live("plain").unwrap()]).expect(0);
    // Refused because it is over.
    bench.ctl(["cancel", "1"]).expect(4).says(&["run 1 is over"]);
    bench.assert_sound();
}

#[test]
fn code_5_nobody_is_there() {
    let (bench, _) = gated("code 5", "");
    bench.stop();
    for verb in [&["status"][..], &["release", "main"], &["logs", "-f", "1"], &["doctor"]] {
        bench.ctl(verb).expect(5).says(&["out of reach at", "control.sock", "systemctl status release-agent", "--socket"]);
    }
    bench.start().kill();
    bench.ctl(["status"]).expect(5).says(&["the agent behind it is gone", "systemctl restart release-agent"]);
    let mut ctl = bench.agentctl();
    ctl.args(["--socket", "/nonexistent/x.sock", "status"]);
    bench.begin(ctl).finish(SOON).expect(5).says(&["/nonexistent/x.sock"]);
}

#[test]
fn code_7_cancelled_and_superseded() {
    let (bench, repo) = gated("code 7", "when_busy = \"latest\"\n");
    let live = bench.live("plain");
    let first = in_the_middle(&bench);
    bench.ctl(["cancel", "2"]).expect(0).says(&["run 2 is asked to stop", "agentctl logs -f 2"]);
    first.finish(SOON).expect(7).says(&["cancelled and taken back", "was never left", "asks for it to be stopped"]);
    assert_eq!((bench.live("plain"), bench.releases("plain").len()), (live.clone(), 1));
    bench.assert_sound();

    fs::remove_file(bench.path("gate.reached")).unwrap();
    let first = in_the_middle(&bench);
    let second = bench.ctl_begin(["release", "main"]);
    wait_until("the second waits", SOON, || second.stderr().contains("waits behind run"));
    let third = bench.ctl_begin(["release", "main"]);
    second.finish(SOON).expect(7).says(&["superseded", "a newer request took its place"]);
    open_gate(&bench);
    first.finish(SOON).expect(0);
    let third = third.finish(SOON).expect(0);
    assert!(third.stderr.contains("waits behind run 4"), "it waits behind a run that it took the place of: {}", third.stderr);
    bench.ctl(["cancel", "4"]).expect(4).says(&["is over"]);
    assert_ne!(bench.live("plain"), live);
    assert!(repo.head().starts_with(&bench.live("plain").unwrap()[20..]));
    bench.assert_sound();
}

#[test]
fn ctrl_c_turns_away_and_cancels_nothing() {
    let (bench, _) = gated("ctrl-c", "");
    let follower = in_the_middle(&bench);
    follower.signal(Signal::SIGINT);
    follower.finish(SOON).expect(130).says(&["run 2 goes on", "agentctl logs -f 2"]);
    bench.ctl(["status"]).expect(0).says(&["running", "run 2: release main", "at checkout"]);
    bench.ctl(["logs", "2"]).expect(0).says(&["hook: gate"]);
    let again = bench.ctl_begin(["logs", "-f", "2"]);
    wait_until("it is told from its beginning", SOON, || again.stdout().contains("hook: gate"));
    // Ending the ctl altogether changes nothing either.
    let killed = bench.ctl_begin(["logs", "-f", "2"]);
    wait_until("it is told twice", SOON, || killed.stdout().contains("hook: gate"));
    killed.signal(Signal::SIGKILL);
    killed.finish(SOON);
    open_gate(&bench);
    let done = again.finish(SOON).expect(0).says(&["through", "is live"]);
    assert_eq!(done.stdout.matches("release main of plain").count(), 1, "{}", done.stdout);
    bench.assert_sound();
}

#[test]
fn following_goes_on_over_a_restart_of_the_agent() {
    let (bench, _) = gated("a restart in between", "");
    let live = bench.live("plain");
    let follower = in_the_middle(&bench);
    let reader = bench.ctl_begin(["logs", "-f", "2", "--json"]);
    wait_until("both follow", SOON, || reader.stdout().contains("hook: gate") && follower.stderr().contains("hook: gate"));
    bench.kill();
    wait_until("both have noticed", SOON, || reader.stderr().contains("lost") && follower.stderr().contains("lost"));
    bench.start();
    follower.finish(SOON).expect(1).says(&["the connection to the agent is lost", "the agent stopped", "was never left"]);
    let done = reader.finish(SOON).expect(1);
    let numbers: Vec<u64> = done.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "events came twice, or not at all");
    assert_eq!(bench.live("plain"), live);
    bench.assert_sound();
}

#[track_caller]
fn has(value: &Value, members: &[&str]) {
    let object = value.as_object().expect("what is documented is an object");
    for member in members {
        assert!(object.contains_key(*member), "{member} is missing: {value}");
    }
}

#[test]
fn data_has_the_documented_shape() {
    let (bench, repo) = gated("shapes", "");
    open_gate(&bench);
    let json = |args: &[&str]| bench.ctl(args).expect(0).json();
    let followed = bench.ctl(["release", "main", "--json"]).expect(0);
    for line in followed.stdout.lines() {
        has(&serde_json::from_str(line).unwrap(), &["run", "n", "at", "what"]);
    }
    assert!(followed.stdout.lines().last().unwrap().contains("\"outcome\":\"live\""));
    let status = json(&["status", "--json"]);
    has(&status, &["agent", "draining", "apps", "complaints"]);
    let app = ["name", "root", "live", "running", "waiting", "lock", "stuck", "last", "disk_free", "disk_total"];
    has(&status["apps"][0], &app);
    assert_eq!(status["apps"][0]["live"]["commit"], repo.head());
    assert_eq!(json(&["--app", "plain", "status", "--json"])["apps"][0]["live"], status["apps"][0]["live"]);
    let release = ["name", "commit", "ref", "state", "previous", "pinned", "caller", "run", "made", "ms"];
    let list = json(&["list", "--json"]);
    assert_eq!(list["releases"].as_array().unwrap().len(), 2);
    list["releases"].as_array().unwrap().iter().for_each(|one| has(one, &release));
    let shown = json(&["show", "--json"]);
    has(&shown, &release);
    has(&shown, &["path", "manifest", "migrations", "backup", "environment"]);
    let run = ["run", "app", "action", "of", "caller", "state", "outcome", "release", "step", "accepted", "ended", "ms"];
    let runs = json(&["runs", "--json"]);
    runs["runs"].as_array().unwrap().iter().for_each(|one| has(one, &run));
    assert_eq!(runs["runs"][0]["outcome"], "live");
    let plan = json(&["plan", "main", "--json"]);
    has(&plan, &["commit", "ref", "live", "commits", "ahead", "requirements", "migrations", "steps", "bytes", "disk_free", "warnings"]);
    has(&plan["steps"][0], &["step", "undo", "warn"]);
    assert_eq!(json(&["release", "main", "--dry-run", "--json"])["steps"], plan["steps"]);
    has(&json(&["doctor", "--json"])["findings"][0], &["app", "what", "level", "text", "hint"]);
    let fsck = json(&["fsck", "--json"]);
    has(&fsck, &["app", "run", "verified", "findings"]);
    has(&fsck["verified"], &["releases", "environments", "files", "bytes", "backups", "runs", "events"]);
    has(&json(&["prune", "--dry-run", "--json"]), &["releases"]);
    has(&json(&["release", "main", "--no-follow", "--json"]), &["run", "events"]);
    let number = bench.ctl(["release", "main", "--no-follow"]).expect(0).says(&["goes on", "agentctl logs -f"]);
    let number: u64 = number.stdout.trim().parse().unwrap();
    bench.ctl(["logs", "-f", &number.to_string()]).expect(0);
    bench.assert_sound();
}

fn silent(done: &Done) {
    assert_eq!((done.stdout.as_str(), done.stderr.as_str()), ("", ""));
}

#[test]
fn quiet_says_only_what_went_wrong_and_a_pipe_gets_no_escapes() {
    let (bench, _) = gated("quiet", "");
    open_gate(&bench);
    silent(&bench.ctl(["--quiet", "release", "main"]).expect(0));
    silent(&bench.ctl(["rollback", "-q"]).expect(0));
    silent(&bench.ctl(["lock", "-q", "-m", "x"]).expect(0));
    bench.ctl(["-q", "release", "main"]).expect(4).says(&["locked"]);
    silent(&bench.ctl(["unlock", "-q"]).expect(0));
    let failed = bench.ctl(["-q", "release", "nowhere"]).expect(1).says(&["failed at fetch"]);
    assert!(failed.stderr.lines().count() <= 2, "{}", failed.stderr);
    // Without NO_COLOR, as people have it: a pipe is a pipe.
    for verb in
        [&["status"][..], &["release", "main"], &["release", "nowhere"], &["list"], &["plan", "main"], &["doctor"], &["show"], &["runs"]]
    {
        let mut ctl = bench.agentctl();
        ctl.env_remove("NO_COLOR").env("TERM", "xterm-256color").args(verb);
        let done = bench.begin(ctl).finish(SOON);
        assert!(!done.stdout.contains('\u{1b}') && !done.stderr.contains('\u{1b}'), "{verb:?}: {}{}", done.stdout, done.stderr);
        assert!(!done.stdout.contains('\r') && !done.stderr.contains('\r'));
    }
    // A reader that goes away is no error worth a word.
    let mut sh = bench.command("sh");
    sh.args(["-c", "\"$@\" | true", "sh"])
        .arg(bench.agentctl().get_program())
        .arg("--socket")
        .arg(bench.path("run/control.sock"))
        .arg("runs");
    let done = bench.begin(sh).finish(SOON).expect(0);
    assert_eq!(done.stderr, "");
    bench.assert_sound();
}

/// The ctl on a terminal of its own, as a person has it; what the terminal got is its standard output.
fn on_a_terminal(bench: &Bench, colour: bool, args: &str) -> Begun {
    let mut script = bench.command("script");
    script.env("TERM", "xterm-256color").env("COLUMNS", "100").env("SHELL", "/bin/sh");
    if colour {
        script.env_remove("NO_COLOR");
    }
    let program = bench.agentctl().get_program().to_string_lossy().into_owned();
    let command = format!("{program} --socket {} {args}", bench.path("run/control.sock").display());
    script.args(["--quiet", "--return", "--flush", "--command", &command, "/dev/null"]);
    bench.begin(script)
}

#[test]
fn a_terminal_shows_what_goes_on_now() {
    let (bench, _) = gated("a terminal", "");
    let begun = on_a_terminal(&bench, true, "release main");
    // The line that moves is drawn again and again while nothing comes.
    let drawn = |begun: &Begun| begun.stdout().split('\r').filter(|part| part.contains("checkout")).count();
    wait_until("the line moves", SOON, || drawn(&begun) > 5);
    open_gate(&bench);
    let done = begun.finish(SOON).expect(0).says(&["is live"]);
    assert!(done.stdout.contains("\u{1b}[3"), "there are no colours: {:?}", done.stdout);
    // With NO_COLOR nothing is coloured.
    let done = on_a_terminal(&bench, false, "list").finish(SOON).expect(0);
    assert!(!done.stdout.contains("\u{1b}[3"), "{:?}", done.stdout);
    let done = on_a_terminal(&bench, true, "release nowhere").finish(SOON).expect(1);
    assert!(done.stdout.contains("failed at fetch"));
    bench.assert_sound();
}

/// Every file of a directory, as somebody who looks for changes sees it.
fn snapshot(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            if path == root.join("git_cache") {
                continue;
            }
            let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            let link = fs::read_link(&path).unwrap_or_default();
            found
                .insert(path.display().to_string(), format!("{:o} {} {} {link:?} {content:?}", meta.mode(), meta.ino(), meta.mtime_nsec()));
            if meta.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}

#[test]
fn looking_changes_nothing() {
    let (bench, repo) = gated("looking", "keep_releases = 1\n");
    open_gate(&bench);
    for number in 0..3 {
        repo.write("page.html", format!("page {number}")).commit("Another");
        bench.ctl(["release", "main"]).expect(0);
    }
    repo.write("requirements.txt", "Django\n").write("board/migrations/0002_x.py", "").commit("Much");
    let (root, runs) = (bench.root_of("plain"), bench.runs());
    let before = snapshot(&root);
    let plan = bench.ctl(["plan", "main"]).expect(0);
    plan.says(&[
        "1 commit since the live one",
        "Much",
        "A requirements.txt",
        "A board/migrations/0002_x.py",
        "nothing has been changed",
        "skipped",
    ]);
    bench.ctl(["release", "main", "--dry-run"]).expect(0);
    bench.ctl(["plan", "mian"]).says(&["no branch, tag or commit mian", "did you mean main?"]);
    bench.ctl(["plan", "main~1"]).expect(2);
    for verb in [&["status"][..], &["list"], &["show"], &["runs"], &["logs"], &["doctor"], &["fsck"], &["prune", "--dry-run"]] {
        bench.ctl(verb).expect(0);
    }
    assert_eq!(snapshot(&root), before);
    assert_eq!(bench.runs(), runs);
    bench.assert_sound();
}

#[test]
fn pinned_releases_stay_and_pruning_says_what_goes() {
    let (bench, repo) = gated("pins", "keep_releases = 9\n");
    open_gate(&bench);
    let first = bench.live("plain").unwrap();
    for number in 0..4 {
        repo.write("page.html", format!("page {number}")).commit("Another");
        bench.ctl(["release", "main"]).expect(0);
    }
    let releases = bench.releases("plain");
    assert_eq!((releases.len(), &releases[0]), (5, &first));
    bench.ctl(["prune", "--dry-run"]).expect(0).says(&["prune would remove nothing"]);
    bench.ctl(["pin", &first]).expect(0).says(&["is kept for ever"]);
    bench.ctl(["list"]).expect(0).says(&["pinned"]);
    bench.ctl(["show", &first]).expect(0).says(&["pinned"]);
    // Another number from now on.
    let hook = format!("[[hook]]\nafter = \"checkout\"\nrun = [\"gate\", {:?}]\n", bench.path("gate"));
    bench.app("plain", &settings(&repo, &format!("keep_releases = 2\n{hook}")));
    bench.reload();
    let dry = bench.ctl(["prune", "--dry-run", "--json"]).expect(0).json();
    let would: Vec<&str> = dry["releases"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(would.len(), 2, "{would:?}");
    bench.ctl(["prune", "--dry-run"]).expect(0).says(&["prune would remove 2 releases", would[0], would[1]]);
    assert_eq!(bench.releases("plain").len(), 5);
    bench.ctl(["prune"]).expect(0).says(&["removed"]);
    let left = bench.releases("plain");
    assert!(left.contains(&first) && left.len() == 3 && would.iter().all(|gone| !left.iter().any(|name| name == gone)), "{left:?}");
    bench.ctl(["unpin", &first]).expect(0).says(&["may be pruned again"]);
    bench.ctl(["prune"]).expect(0);
    assert!(!bench.releases("plain").contains(&first));
    bench.assert_sound();
}

#[test]
fn the_doctor_s_exit_code_is_the_worst_that_it_found() {
    let (bench, repo) = gated("the doctor", "");
    let done = bench.ctl(["doctor"]).expect(0);
    let stdout = done.stdout.clone();
    // How full the disk is under the tests is not theirs to say.
    let warnings: Vec<&str> = stdout.lines().filter(|line| line.starts_with("! ")).collect();
    let theirs: Vec<&&str> = warnings.iter().filter(|line| !line.starts_with("! plain disk: ")).collect();
    assert!(matches!(theirs[..], [line] if line.starts_with("! plain restart: nothing is restarted")), "{stdout}");
    assert!(!stdout.contains("what restarts the app is there"), "it says both: {stdout}");
    let count = warnings.len();
    done.says(&[if count == 1 { "no error, 1 warning\n".to_owned() } else { format!("no error, {count} warnings\n") }.as_str()]);
    let away = bench.path("repos/away");
    fs::rename(repo.path(), &away).unwrap();
    let done = bench.ctl(["doctor"]).expect(1);
    assert!(done.stdout.starts_with("✗ plain git: "), "the worst goes first: {}", done.stdout);
    done.says(&["repos/plain", "hint:", "`repository`", "1 error"]);
    fs::rename(&away, repo.path()).unwrap();
    bench.app("plain", &settings(&repo, "[shared]\ndirs = [\"media\"]\nfiles = [\".env\"]\n"));
    bench.reload();
    bench.ctl(["doctor"]).expect(1).says(&["shared/media", "shared/.env", "2 errors"]);
    fs::create_dir(bench.root_of("plain").join("shared/media")).unwrap();
    bench.write("apps/plain/shared/.env", "");
    bench.ctl(["--app", "plain", "doctor"]).expect(0);
    // The link is something else than a link.
    let link = bench.root_of("plain").join("app");
    let target = fs::read_link(&link).unwrap();
    fs::remove_file(&link).unwrap();
    fs::create_dir(&link).unwrap();
    bench.ctl(["doctor"]).expect(1).says(&["where a link to a release is expected", "move"]);
    fs::remove_dir(&link).unwrap();
    symlink(target, &link).unwrap();
    bench.ctl(["doctor"]).expect(0);
    bench.assert_sound();
}

#[test]
fn init_writes_a_file_that_the_agent_takes() {
    let bench = Bench::new("init");
    let dir = bench.path("config");
    let init = |args: &[&str]| bench.ctl(["init", "--dir", dir.to_str().unwrap()].iter().chain(args));
    init(&["shop", "--repository", "git@github.com:acme/shop.git"]).expect(0).says(&["apps/shop.toml", "doctor", "plan main"]);
    init(&["--repository", "https://github.com/acme/The_Blog.git"]).expect(0).says(&["apps/the-blog.toml"]);
    let file = dir.join("apps/shop.toml");
    let text = fs::read_to_string(&file).unwrap();
    init(&["shop", "--repository", "git@github.com:acme/other.git"]).expect(2).says(&["apps/shop.toml", "there already"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    init(&["shop2"]).expect(2).says(&["--repository"]);
    init(&["Shop", "--repository", "x"]).expect(2).says(&["lower-case"]);
    init(&["--repository", "git@host:...git"]).expect(2).says(&["give one"]);
    let mut agent = bench.release_agent();
    agent.arg("--check-config").arg("--config").arg(&dir);
    bench.begin(agent).finish(SOON).expect(0).says(&["2 app(s)", "nothing is wrong"]);
    assert_eq!(fs::read_dir(dir.join("apps")).unwrap().count(), 2, "something is left beside the files");
}
