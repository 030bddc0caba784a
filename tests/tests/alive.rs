//! Live stays true: a server that the agent started and that ends is started again and told of, one that ends right after the proof is taken back, and
//! nobody is told that a release serves which was not asked.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use agent_tests::{Bench, Done, Forge, Place, Repo, SITE_SOCKET, demo_settings, get, is_root, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const MOST: Duration = Duration::from_secs(60);

/// The smallest app that says which release answers; `{more}` runs when it is loaded.
fn app(more: &str) -> String {
    format!(
        "import os, threading, time\n\
         RELEASE = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'REVISION')).read().strip()\n\
         {more}\n\
         def application(environ, start_response):\n\
         \x20   start_response('200 OK', [('Content-Type', 'text/plain'), ('X-Release', RELEASE)])\n\
         \x20   return [b'ok']\n"
    )
}

/// The app `plain`, whose instances the agent starts itself.
struct Site {
    bench: Bench,
    repo: Repo,
}

impl Site {
    fn new(name: &str, confirm: &str) -> Self {
        let bench = Bench::new(name);
        let repo = bench.repo("plain");
        repo.write("app.py", app("")).commit("One");
        let site = Self { bench, repo };
        site.bench.app("plain", &site.settings(confirm));
        site.bench.start();
        site.bench.ctl(["release", "main"]).expect(0);
        site
    }

    fn settings(&self, confirm: &str) -> String {
        let socket = self.bench.path(SITE_SOCKET);
        let url = format!("unix:{}:/", socket.display());
        format!(
            "repository = {:?}\nbranches = [\"main\"]\n[restart]\nstrategy = \"handover\"\nsocket = {socket:?}\nconfirm = {confirm:?}\ndrain = \"2s\"\n\
             command = [\"uwsgi\", \"--plugin\", \"python3\", \"--master\", \"--die-on-term\", \"--need-app\", \"--processes\", \"2\", \"--wsgi-file\", \
             \"app.py\", \"--http-socket\", \"{{socket}}\"]\n[[check]]\nurl = {url:?}\ncontains = \"ok\"\nrelease_header = \"X-Release\"\nwithin = \"8s\"\n\
             stable = \"300ms\"\n",
            self.repo.path()
        )
    }

    fn serving(&self) -> Option<String> {
        get(&Place::Socket(self.bench.path(SITE_SOCKET)), "/").ok()?.header("x-release").map(str::to_owned)
    }

    /// The master of the live instance, as the agent has written it down.
    fn master(&self) -> Option<Pid> {
        let record = self.bench.root_of("plain").join(format!(".agent/instances/{}.json", self.bench.live("plain")?));
        let record: Value = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
        i32::try_from(record["process"][0].as_i64()?).ok().map(Pid::from_raw)
    }

    /// Kills the live instance's master, and waits until another one serves.
    fn kill_and_await(&self) {
        let master = self.master().unwrap();
        kill(master, Signal::SIGKILL).unwrap();
        wait_until("the instance was started again", MOST, || self.master().is_some_and(|now| now != master) && self.serving().is_some());
    }

    /// How often the thread that watches the live instance was at work.
    fn wake_ups(&self) -> u64 {
        let tasks = format!("/proc/{}/task", self.bench.agent_pid().unwrap());
        let mut tasks = fs::read_dir(tasks).unwrap().map(|task| task.unwrap().path());
        let watch = tasks.find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "watch-plain")).unwrap();
        let status = fs::read_to_string(watch.join("status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap().trim().parse().unwrap()
    }

    fn doctor(&self) -> Done {
        self.bench.ctl(["doctor"])
    }

    fn metrics(&self) -> String {
        self.bench.ask("/metrics").body
    }
}

#[test]
fn a_live_instance_that_ends_is_started_again_whichever_agent_had_started_it() {
    let site = Site::new("started again", "300ms");
    let one = site.repo.id("main");
    let status = site.bench.ctl(["status"]).expect(0);
    assert!(!status.stdout.contains("started again") && !status.stdout.contains("no answer"), "{}", status.stdout);
    // While all is well, nothing wakes whoever watches.
    let before = wait_for("it waits", MOST, || {
        let before = site.wake_ups();
        std::thread::sleep(Duration::from_millis(500));
        (site.wake_ups() == before).then_some(before)
    });
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(site.wake_ups(), before);
    site.kill_and_await();
    assert_eq!(site.serving().as_ref(), Some(&one));
    site.bench.ctl(["status"]).expect(0).says(&["the instance ended and was started again 1 time"]);
    site.doctor().says(&["ended and was started again 1 time(s)", "read what its server said: "]);
    assert!(site.bench.log().contains("the live instance ended; it is started again"), "{}", site.bench.log());
    // An agent that comes after it watches what it finds.
    site.bench.kill().start();
    assert_eq!(site.serving().as_ref(), Some(&one));
    wait_until("it is watched", MOST, || site.metrics().contains("release_agent_answers{app=\"plain\"} 1"));
    site.kill_and_await();
    assert!(site.metrics().contains("release_agent_instance_restarts_total{app=\"plain\"} 2"), "{}", site.metrics());
    // What a run ends on purpose stays away, and the next release begins to count anew.
    let former = site.master().unwrap();
    site.repo.write("two", "").commit("Two");
    site.bench.ctl(["release", "main"]).expect(0);
    assert!(kill(former, None).is_err(), "the former instance has gone");
    site.kill_and_await();
    assert_eq!(site.serving(), Some(site.repo.id("main")));
    assert!(site.metrics().contains("release_agent_instance_restarts_total{app=\"plain\"} 1"), "{}", site.metrics());
    site.bench.assert_sound();
}

#[test]
fn an_instance_that_does_not_come_up_again_is_shown_and_tried_until_it_does() {
    let site = Site::new("does not come up", "300ms");
    let broken = site.bench.path("broken");
    site.repo.write("app.py", app(&format!("assert not os.path.exists({broken:?}), 'the cows are out'"))).commit("Two");
    site.bench.ctl(["release", "main"]).expect(0);
    fs::write(&broken, "").unwrap();
    kill(site.master().unwrap(), Signal::SIGKILL).unwrap();
    wait_until("status says so", MOST, || site.bench.ctl(["status"]).stdout.contains("no answer"));
    site.bench.ctl(["list"]).expect(0).says(&["live, no answer"]);
    site.doctor().expect(1).says(&["does not answer as its checks say", "read what its server said: "]);
    assert!(site.metrics().contains("release_agent_answers{app=\"plain\"} 0"), "{}", site.metrics());
    wait_until("it was tried more than once", MOST, || site.bench.log().matches("could not be started again").count() > 1);
    // A release need not wait for the next try.
    site.repo.write("app.py", app("")).commit("Three");
    site.bench.ctl(["release", "main"]).expect(0).says(&["the live release does not answer, before anything was done"]);
    assert_eq!(site.serving(), Some(site.repo.id("main")));
    let status = site.bench.ctl(["status"]).expect(0);
    assert!(!status.stdout.contains("no answer"), "{}", status.stdout);
    fs::remove_file(&broken).unwrap();
    site.bench.assert_sound();
}

#[test]
fn a_server_whose_master_ends_after_four_seconds_is_taken_back() {
    let site = Site::new("ends after four seconds", "12s");
    let (one, live) = (site.repo.id("main"), site.bench.live("plain").unwrap());
    let ends = "if os.fork() == 0:\n    time.sleep(4)\n    os.kill(os.getppid(), 9)\n    os._exit(0)";
    site.repo.write("app.py", app(ends)).commit("Two");
    site.bench.ctl(["release", "main"]).expect(3).says(&["ended", "rolled back", &format!("{live} serves again")]);
    assert_eq!((site.bench.live("plain").unwrap(), site.serving().unwrap()), (live, one));
    site.bench.assert_sound();
}

#[test]
fn an_instance_that_is_stopped_is_found_with_its_hint() {
    let site = Site::new("stopped", "300ms");
    let all = agent_tests::processes_about(&site.bench.root_of("plain").join("releases"));
    all.iter().for_each(|process| process.signal(Signal::SIGSTOP));
    site.doctor().expect(1).says(&["are stopped (SIGSTOP)", "kill -CONT "]);
    site.bench.ctl(["status"]).expect(0).says(&["no answer"]);
    // A release that fails says of the former one only what was seen.
    let failed =
        site.bench.ctl(["release", "nowhere"]).expect(1).says(&["was never left, but does not answer", "nor did it when this run began"]);
    assert!(!failed.stderr.contains("still serves"), "{}", failed.stderr);
    all.iter().for_each(|process| process.signal(Signal::SIGCONT));
    wait_until("it answers", MOST, || site.serving().is_some());
    site.bench.ctl(["release", "nowhere"]).expect(1).says(&["still serves and was never left"]);
}

#[test]
fn what_is_wrong_beside_the_code_is_found_by_doctor_and_told_before_anything_is_made() {
    let bench = Bench::new("wrong beside the code");
    let server = Forge::start();
    server.answer(200);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    let secrets = bench.write("empty.env", "# soon\n");
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    let settings = |url: &str| {
        format!(
            "repository = {:?}\nbranches = [\"main\"]\n[secrets]\nfiles = [{secrets:?}]\n[restart]\nstrategy = \"none\"\n[[check]]\nurl = {url:?}\nwithin = \
             \"1s\"\nstable = \"100ms\"\n",
            repo.path()
        )
    };
    bench.agent_settings("[[grant]]\nto = \"unix-user:nobody\"\napps = [\"plian\"]\nactions = [\"read\"]\n");
    bench.write("config/apps/other.tml", "");
    bench.write("config/apps/other.toml.bak", "");
    bench.app("plain", &settings(&format!("{}/", server.url()))).start();
    bench.ctl(["release", "main"]).expect(0).says(&["empty.env sets nothing"]);
    let doctor = bench.ctl(["doctor"]);
    assert!(!doctor.stdout.contains("other.toml.bak"), "{}", doctor.stdout);
    let other = bench.path("config/apps/other.tml");
    doctor.says(&[
        "empty.env sets nothing",
        "a grant is for the app plian, and there is none of that name",
        &format!("{} is not read: only files that end in .toml are", other.display()),
        &format!("mv {} {}", other.display(), other.with_extension("toml").display()),
    ]);
    // As nginx answers for a server that is gone.
    server.answer(502);
    bench.ctl(["doctor"]).expect(1).says(&[
        "does not answer as its checks say",
        "502",
        "does it connect to the socket that the app binds?",
    ]);
    // An address that no release can make right fails before anything is made.
    let names = || fs::read_dir(bench.root_of("plain").join("releases")).unwrap().count();
    let before = names();
    bench.app("plain", &settings("http://no-such-host.invalid/")).reload();
    repo.write("page.html", "two").commit("Two");
    let failed = bench.ctl(["release", "main"]).expect(1).says(&[
        "failed at fetch",
        "there is no host no-such-host.invalid",
        "correct url in the [[check]]",
    ]);
    assert!(failed.stderr.contains("was never left, but does not answer") && !failed.stderr.contains("still serves"), "{}", failed.stderr);
    assert_eq!(names(), before);
    bench.ctl(["doctor"]).expect(1).says(&["there is no host no-such-host.invalid"]);
}

#[test]
fn shared_directories_of_another_user_are_told_before_anything_is_made() {
    if !is_root("shared directories that are another user's are found") {
        return;
    }
    let bench = Bench::new("shared of root");
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    let text = format!("repository = {:?}\nbranches = [\"main\"]\n[shared]\ndirs = [\"media\"]\n", repo.path());
    bench.app("plain", &text);
    let media = bench.root_of("plain").join("shared/media");
    fs::create_dir_all(&media).unwrap();
    bench.give_to(65534);
    std::os::unix::fs::chown(&media, Some(0), Some(0)).unwrap();
    bench.start();
    let told = format!("{} belongs to root, and nobody, who serves, may not write in it", media.display());
    bench.ctl(["release", "main"]).expect(0).says(&[&told]);
    bench.ctl(["doctor"]).expect(1).says(&[&told, &format!("chown -R nobody {}", media.display())]);
}

#[test]
fn a_database_that_is_not_there_is_found_by_doctor() {
    let bench = Bench::new("no database");
    let repo = bench.demo_repo(1);
    let all = demo_settings(&bench, &repo);
    let bare = all.split("[restart]").next().unwrap().replace("packages = [\"pyuwsgi==2.0.30.post1\"]", "");
    bench.app("demo", &bare).start();
    bench.ctl(["release", "v1"]).expect(0);
    bench.ctl(["doctor"]).says(&["the database \"default\" answers"]);
    let database = bench.root_of("demo").join("shared/db.sqlite3");
    let with = |path: &std::path::Path| bare.replace(&format!("{database:?}"), &format!("{path:?}"));
    // A directory is no database, and a file that is not there is an empty one to SQLite.
    bench.app("demo", &with(&bench.path("run"))).reload();
    bench.ctl(["doctor"]).expect(1).says(&["the database \"default\" cannot be asked", "correct its address in [env]"]);
    let nowhere = bench.path("repos/db.sqlite3");
    bench.app("demo", &with(&nowhere)).reload();
    bench.ctl(["doctor"]).expect(1).says(&["lacks 1 migration(s) of the live release, board.0001_initial the first"]);
    assert!(!nowhere.exists(), "the question made nothing");
}
