//! What serves the app fails: servers that are not there, that keep the old code, that answer for another release, that cannot have their port; units
//! that do not start, die, flap, hang, are masked or missing. What is live afterwards is what was seen to serve, or a person is called.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_tests::{AGENT, Begun, Bench, Done, Forge, Place, Repo, SITE_SOCKET, UNIT, UnitApp, get, wait_until};
use nix::sys::signal::Signal;

const MOST: Duration = Duration::from_secs(60);

/// The smallest app that says which release answers.
const APP: &str = "import os\n\
                   RELEASE = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'REVISION')).read().strip()\n\
                   def application(environ, start_response):\n\
                   \x20   start_response('200 OK', [('Content-Type', 'text/plain'), ('X-Release', RELEASE)])\n\
                   \x20   return [b'ok']\n";

/// The app `plain` behind a real uWSGI that an operator started, with its first release live.
struct Site {
    bench: Bench,
    repo: Repo,
}

impl Site {
    fn new(name: &str) -> Self {
        let bench = Bench::new(name);
        let repo = bench.repo("plain");
        repo.write("app.py", APP).commit("One");
        let site = Self { bench, repo };
        site.bench.app("plain", &site.settings("", ""));
        site.bench.start();
        site.bench.ctl(["release", "main"]).expect(0);
        site
    }

    fn settings(&self, restart: &str, more: &str) -> String {
        format!("repository = {:?}\nbranches = [\"main\"]\n{restart}\n{more}\n", self.repo.path())
    }

    fn socket(&self) -> PathBuf {
        self.bench.path(SITE_SOCKET)
    }

    fn fifo(&self) -> PathBuf {
        self.bench.path("run/fifo")
    }

    fn check(&self) -> String {
        let url = format!("unix:{}:/", self.socket().display());
        format!("[[check]]\nurl = {url:?}\ncontains = \"ok\"\nrelease_header = \"X-Release\"\nwithin = \"5s\"\nstable = \"300ms\"\n")
    }

    fn by_fifo(&self) {
        let restart = format!("[restart]\nstrategy = \"uwsgi-fifo\"\nfifo = {:?}\ntimeout = \"5s\"\n", self.fifo());
        self.bench.app("plain", &self.settings(&restart, &self.check())).reload();
    }

    /// uWSGI as an operator starts it, in this directory.
    fn uwsgi(&self, chdir: &Path) -> Begun {
        let mut uwsgi = self.bench.command("uwsgi");
        uwsgi.args(["--plugin", "python3", "--master", "--die-on-term", "--processes", "2", "--need-app", "--wsgi-file", "app.py"]);
        uwsgi.arg("--http-socket").arg(self.socket()).arg("--master-fifo").arg(self.fifo()).arg("--chdir").arg(chdir);
        let begun = self.bench.begin(uwsgi);
        wait_until("uWSGI serves", MOST, || self.serving().is_some());
        begun
    }

    fn serving(&self) -> Option<String> {
        get(&Place::Socket(self.socket()), "/").ok()?.header("x-release").map(str::to_owned)
    }

    fn link(&self) -> PathBuf {
        self.bench.root_of("plain").join("app")
    }

    /// Another commit.
    fn commit(&self, message: &str) -> String {
        self.repo.write("message", message).commit(message)
    }

    #[track_caller]
    fn fails(&self, code: i32, parts: &[&str]) -> Done {
        let (live, serving) = (self.bench.live("plain"), self.serving());
        let done = self.bench.ctl(["release", "main"]).expect(code).says(parts);
        assert_eq!((self.bench.live("plain"), self.serving()), (live, serving), "the former release serves");
        self.bench.assert_sound();
        done
    }

    fn was_exposed(&self) -> bool {
        let run = self.bench.last_run()["run"].as_u64().unwrap();
        self.bench.events(run).iter().any(|event| event["what"] == "exposed")
    }
}

#[test]
fn svc_07_fifo_absent() {
    let site = Site::new("no FIFO");
    site.by_fifo();
    assert!(!site.fifo().exists());
    site.commit("Two");
    let done =
        site.fails(1, &["nobody reads the FIFO", &site.fifo().display().to_string(), "hint: start uWSGI, or name the unit that starts it"]);
    // Nothing answered before, during or after: so nobody is told that the former release serves.
    assert!(!done.stderr.contains("still serves"), "{}", done.stderr);
    done.says(&["was never left, but does not answer", "found no such socket", "nor did it when this run began"]);
    assert!(!site.was_exposed());
}

#[test]
fn svc_08_fifo_without_a_reader() {
    let site = Site::new("nobody reads");
    let server = site.uwsgi(&site.link());
    site.by_fifo();
    site.commit("Two");
    // Killed, uWSGI leaves its FIFO behind: whoever opened it to write would wait for ever.
    server.signal(Signal::SIGKILL);
    server.finish(MOST);
    for worker in
        agent_tests::processes_about(&site.bench.path("run")).into_iter().filter(|process| process.command.contains("master-fifo"))
    {
        worker.signal(Signal::SIGKILL);
    }
    wait_until("nobody serves", MOST, || site.serving().is_none());
    assert!(site.fifo().exists(), "the FIFO is there");
    site.fails(1, &["nobody reads the FIFO", "hint: start uWSGI, or name the unit that starts it"]);
    assert!(!site.was_exposed());
    // Something else at its place.
    fs::remove_file(site.fifo()).unwrap();
    fs::write(site.fifo(), "").unwrap();
    site.fails(1, &["is no FIFO", "hint: name the path that uWSGI has as master-fifo"]);
    assert_eq!(fs::read(site.fifo()).unwrap(), b"", "nothing is written into a file");
}

#[test]
fn svc_09_fifo_made_anew_between_two_bytes() {
    let site = Site::new("a FIFO made anew");
    let server = site.uwsgi(&site.link());
    site.by_fifo();
    // The file system may give the next FIFO the number that the last one had.
    let which = || {
        let meta = fs::metadata(site.fifo()).unwrap();
        (meta.ino(), meta.created().ok())
    };
    let mut made = vec![which()];
    let commit = site.commit("Two");
    site.bench.ctl(["release", "main"]).expect(0);
    assert_eq!(site.serving(), Some(commit.clone()));
    // One byte right after the other, while the master makes its FIFO anew.
    for _ in 0..2 {
        site.bench.ctl(["activate", "previous"]).expect(0);
        made.push(which());
    }
    assert_eq!(site.serving(), Some(commit));
    made.dedup();
    assert!(made.len() > 1, "it was made anew: {made:?}");
    site.bench.assert_sound();
    server.signal(Signal::SIGTERM);
}

#[test]
fn svc_10_workers_come_back_with_the_old_code() {
    let site = Site::new("the old code");
    // Started in the release itself, and not in the link: every reload leads back there. It is found out before anything is exposed.
    let server = site.uwsgi(&fs::canonicalize(site.link()).unwrap());
    site.by_fifo();
    let first = site.serving().unwrap();
    site.commit("Two");
    site.fails(1, &["name a release itself", &site.bench.live("plain").unwrap(), "hint: name the link app"]);
    assert!(!site.was_exposed());
    assert_eq!(site.serving().unwrap(), first);
    server.signal(Signal::SIGTERM);
}

#[test]
fn svc_11_200_from_the_old_process() {
    let site = Site::new("the old process");
    let server = site.uwsgi(&site.link());
    // A command that restarts nothing, and says that all is well.
    let restart = "[restart]\nstrategy = \"command\"\nrun = [\"/bin/true\"]";
    site.bench.app("plain", &site.settings(restart, &site.check().replace("5s", "1s"))).reload();
    let first = site.serving().unwrap();
    site.commit("Two");
    site.fails(3, &["was answered by another release", &first[..12], "hint: something of another release still serves"]);
    assert!(site.was_exposed());
    assert_eq!(get(&Place::Socket(site.socket()), "/").unwrap().status, 200, "it answers 200 all the time");
    server.signal(Signal::SIGTERM);
}

#[test]
fn svc_12_port_taken() {
    let bench = Bench::new("a port that is taken");
    let repo = bench.repo("plain");
    repo.write("app.py", APP).commit("One");
    let site = Site { bench, repo };
    let somebody = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = somebody.local_addr().unwrap().port();
    let command = format!(
        "[\"uwsgi\", \"--plugin\", \"python3\", \"--master\", \"--die-on-term\", \"--need-app\", \"--wsgi-file\", \"app.py\", \
         \"--http-socket\", \"{{socket}}\", \"--http-socket\", \"127.0.0.1:{port}\"]"
    );
    let restart = format!("[restart]\nstrategy = \"handover\"\nsocket = {:?}\ncommand = {command}\ndrain = \"5s\"\n", site.socket());
    site.bench.app("plain", &site.settings(&restart, &site.check())).start();
    let done = site.bench.ctl(["release", "main"]).expect(1);
    done.says(&["Address already in use", &port.to_string(), "hint: "]);
    assert_eq!(site.bench.live("plain"), None);
    assert!(!site.was_exposed());
    site.bench.assert_sound();
    drop(somebody);
    site.bench.ctl(["release", "main"]).expect(0);
    // Now it is the former instance that has it: two of one kind cannot serve side by side.
    site.commit("Two");
    site.fails(1, &["Address already in use", &port.to_string(), "hint: "]);
    assert!(!site.was_exposed());
}

#[test]
fn svc_13_the_old_release_fails_too() {
    let server = Forge::start();
    server.answer(200);
    let bench = Bench::new("both fail");
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    let receiver = Forge::start();
    let secret = bench.write("secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let text = format!(
        "repository = {:?}\nbranches = [\"main\"]\n[restart]\nstrategy = \"command\"\nrun = [\"/bin/true\"]\n\
         [[check]]\nurl = \"{}/healthz\"\nwithin = \"1s\"\nstable = \"100ms\"\n[[report]]\nto = \"webhook\"\nurl = \"{}/hook\"\nsecret_file = {secret:?}\n",
        repo.path(),
        server.url(),
        receiver.url()
    );
    bench.app("plain", &text).start();
    bench.ctl(["release", "main"]).expect(0);
    let live = bench.live("plain").unwrap();
    repo.write("page.html", "two").commit("Two");
    server.answer(500);
    let asked = server.heard().len();
    bench.ctl(["release", "main"]).expect(6).says(&["500", "could not be taken back", "a person must look", "agentctl activate"]);
    assert!(server.heard().len() > asked + 1, "both were asked");
    // The link is where it was, everybody who should know does, and nothing but the way out is taken.
    assert_eq!(bench.live("plain").unwrap(), live);
    bench.assert_sound();
    bench.ctl(["status"]).says(&["stuck"]);
    wait_until("the receiver is told", MOST, || receiver.taken().iter().any(|heard| heard.body.contains("\"stuck\"")));
    assert!(bench.ask("/metrics").body.contains("stuck"));
    bench.ctl(["release", "main"]).expect(4).says(&["stuck"]);
    bench.ctl(["activate", &live]).expect(6);
    server.answer(200);
    bench.ctl(["activate", &live]).expect(0);
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
}

/// The unit could not bring the new release up: it was taken back, and the unit runs the former one.
#[track_caller]
fn is_taken_back(app: &UnitApp, done: Done, live: &str, parts: &[&str]) {
    done.expect(3).says(parts).says(&[UNIT, "rolled back"]);
    assert_eq!((app.machine.live("plain").as_deref(), app.serving().as_str()), (Some(live), live));
    assert_eq!(app.machine.systemctl(["is-active", UNIT]).trim(), "active");
    app.assert_sound();
}

/// The unit could not be used at all: nothing was switched, and nobody touched what runs.
#[track_caller]
fn is_untouched(app: &UnitApp, done: Done, live: &str, process: i32, parts: &[&str]) {
    done.expect(1).says(parts).says(&[UNIT, "hint: "]);
    assert!(!app.last_events().iter().any(|event| event["what"] == "exposed"));
    assert_eq!(app.machine.live("plain").as_deref(), Some(live));
    assert!(Path::new(&format!("/proc/{process}")).exists(), "what ran goes on running");
    app.assert_sound();
}

#[test]
fn svc_01_unit_fails_to_start() {
    let app = UnitApp::new("cannot start", "", "watch = \"1s\"");
    let live = app.released();
    let done = app.release("echo the cows are out; exit 7");
    is_taken_back(&app, done, &live, &["the cows are out", "did not stay active"]);
    app.machine.write("/etc/systemd/system/plain.service.d/absent.conf", "[Service]\nExecStartPre=/bin/sh -c 'test ! -e BAD'\n");
    app.machine.systemctl(["daemon-reload"]);
    app.repo.write("BAD", "");
    let done = app.release("exec sleep infinity");
    is_taken_back(&app, done, &live, &["failed"]);
}

#[test]
fn svc_02_starts_and_dies_in_two_seconds() {
    let app = UnitApp::new("dies in two seconds", "", "watch = \"3s\"");
    let live = app.released();
    let done = app.release("sleep 2; echo the cows are out; exit 7");
    is_taken_back(&app, done, &live, &["the cows are out", "did not stay active"]);
}

#[test]
fn svc_03_flaps() {
    let app = UnitApp::new("flaps", "Restart=always\nRestartSec=1ms", "watch = \"2s\"");
    let live = app.released();
    let done = app.release("sleep 0.3; echo the cows are out; exit 7");
    assert!(app.machine.journal(UNIT).contains("Main process exited, code=exited, status=7"), "it has died at least once");
    // It is active at nearly every look: what tells is that systemd has started it again, or is about to.
    assert!(
        ["flaps: systemd had to start it again", "did not stay active"].iter().any(|words| done.stderr.contains(words)),
        "{}",
        done.stderr
    );
    is_taken_back(&app, done, &live, &["the cows are out"]);
}

#[test]
fn svc_04_restart_hangs() {
    let app = UnitApp::new("hangs", "Type=notify\nNotifyAccess=all\nTimeoutStartSec=infinity", "watch = \"1s\"\ntimeout = \"2s\"");
    let live = app.released_as("systemd-notify --ready; exec sleep infinity");
    let done = app.release("echo the cows are out; exec sleep infinity");
    is_taken_back(&app, done, &live, &["2 s", "hint: "]);
}

#[test]
fn svc_05_unit_masked() {
    let app = UnitApp::new("masked", "", "watch = \"1s\"");
    let live = app.released();
    let process = app.machine.main_process(UNIT);
    app.machine.run(["ln", "-sfn", "/dev/null", "/etc/systemd/system/plain.service"]).expect(0);
    app.machine.systemctl(["daemon-reload"]);
    assert_eq!(app.machine.property(UNIT, "LoadState"), "masked");
    let done = app.release("exec sleep infinity");
    is_untouched(&app, done, &live, process, &["is masked", "systemctl unmask plain.service"]);
}

#[test]
fn svc_06_unit_missing() {
    let app = UnitApp::new("missing", "", "watch = \"1s\"");
    let live = app.released();
    let process = app.machine.main_process(UNIT);
    app.machine.run(["rm", "/etc/systemd/system/plain.service"]).expect(0);
    app.machine.systemctl(["daemon-reload"]);
    assert_eq!(app.machine.property(UNIT, "LoadState"), "not-found");
    let done = app.release("exec sleep infinity");
    is_untouched(&app, done, &live, process, &["systemctl daemon-reload"]);
}

#[test]
fn svc_14_the_agent_is_upgraded_in_the_middle_of_a_run() {
    let app = UnitApp::new("upgraded", "", "watch = \"1s\"");
    let live = app.released();
    app.gate("seal");
    let run = app.at_the_gate();
    let before = app.machine.property(AGENT, "InvocationID");
    // As the package does after new files are in place.
    app.machine.systemctl(["try-restart", "--no-block", AGENT]);
    wait_until("the agent is told to stop", MOST, || app.machine.property(AGENT, "StatusText") == "finishing the runs under way");
    app.machine.ctl(["release", "main"]).expect(4).says(&["is stopping and takes nothing new"]);
    app.open_the_gate();
    wait_until("another agent is there", MOST, || {
        app.machine.property(AGENT, "InvocationID") != before && app.machine.property(AGENT, "ActiveState") == "active"
    });
    let events = app.events(run);
    assert_eq!(events.last().unwrap()["outcome"], "live", "{events:#?}");
    assert!(!events.iter().any(|event| event["what"] == "stopped"), "the former agent has finished it");
    assert_ne!(app.machine.live("plain").unwrap(), live);
    assert_eq!(app.serving(), app.machine.live("plain").unwrap());
    app.assert_sound();
}
