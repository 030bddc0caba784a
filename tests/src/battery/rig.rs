//! A bench whose agent can be stopped in the middle of a run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::disks::{DiskKind, Disks};
use crate::bench::{Begun, Bench};
use crate::demo::{SITE_SOCKET, demo_settings};
use crate::http::{Place, get};
use crate::processes::processes_about;
use crate::repo::Repo;
use crate::wait::{wait_for, wait_until};

/// The longest that anything here may take.
pub(crate) const MOST: Duration = Duration::from_secs(120);

/// What lies outside of the root, and stays as it is.
const CANARY: &str = "nobody has a reason to touch this\n";
/// What the app's programs know and nobody is told.
const SECRET: &str = "canary-8d1f6f7f51c04a63";

/// Why something cannot be tried on this machine.
pub(crate) type NotHere = String;

/// What runs on a rig.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The demo project: Django on uWSGI, with a database, handed over from release to release.
    Demo,
    /// A few files that nobody serves.
    Plain,
}

/// A bench, a repository, and an agent that stops where it is told to.
pub(crate) struct Rig {
    // Before the disks: what runs must have ended before they can be taken away.
    pub bench: Bench,
    pub repo: Repo,
    pub disks: Option<Disks>,
    pub what: What,
    commits: u32,
}

impl Rig {
    /// A rig with one release live, and the agent stopped.
    pub(crate) fn new(name: &str, what: What, on: Option<DiskKind>) -> Result<Self, NotHere> {
        let bench = Bench::new(name);
        // The state has a disk of its own, and so have the backups where power is cut: what makes the one durable does nothing for the others.
        let mut places = vec![bench.path("apps"), bench.path("state")];
        if what == What::Demo && on.is_some_and(|kind| kind != DiskKind::Memory) {
            places.push(bench.root_of("demo").join("backups"));
        }
        let disks = on.map(|kind| Disks::mount(kind, &places)).transpose()?;
        let repo = match what {
            What::Demo => bench.demo_repo(2),
            What::Plain => bench.repo("site"),
        };
        bench.write("outside/canary", CANARY);
        let secrets = bench.write("secrets.env", format!("CANARY={SECRET}\n"));
        fs::set_permissions(secrets, fs::Permissions::from_mode(0o600)).expect("the bench is ours");
        let rig = Self { bench, repo, disks, what, commits: 0 };
        match what {
            What::Demo => {
                fs::create_dir_all(rig.root().join("shared/media")).expect("the bench is ours");
                rig.settle(20);
                rig.bench.start();
                rig.bench.ctl(["release", "v1"]).expect(0);
                fs::copy(rig.database(), rig.kept_database()).expect("the first release has made its database");
            }
            What::Plain => {
                rig.repo.write("index.html", "0").write("about/us.html", "us").commit("0");
                rig.settle(20);
                rig.bench.start();
                rig.bench.ctl(["release", "main"]).expect(0);
            }
        }
        Ok(rig)
    }

    /// The app's name.
    pub(crate) fn app(&self) -> &'static str {
        match self.what {
            What::Demo => "demo",
            What::Plain => "site",
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.bench.root_of(self.app())
    }

    fn database(&self) -> PathBuf {
        self.root().join("shared/db.sqlite3")
    }

    fn kept_database(&self) -> PathBuf {
        self.bench.path("first.sqlite3")
    }

    /// Writes the app's file. Gates make a run fail when their file is there: before migrations are applied, and after the switch.
    pub(crate) fn settle(&self, keep_releases: u32) {
        // It says the secret aloud, so that there is something to mask.
        let gate =
            |name: &str| format!(r#"["/bin/sh", "-c", "echo \"the secret is $CANARY\"; test ! -e {}"]"#, self.bench.path(name).display());
        let hooks = format!(
            "\n[[hook]]\nbefore = \"migrate\"\nrun = {}\n\n[[hook]]\nafter = \"switch\"\nrun = {}\n",
            gate("fail-migrate"),
            gate("fail-switch")
        );
        let head = format!("keep_releases = {keep_releases}\n");
        let hooks = format!("\n[secrets]\nfiles = [{:?}]\n{hooks}", self.bench.path("secrets.env"));
        match self.what {
            What::Demo => {
                let settings = demo_settings(&self.bench, &self.repo).replace("status = 200", "status = 200\nstable = \"300ms\"");
                self.bench.app("demo", &format!("{head}{settings}\n[shared]\ndirs = [\"media\"]\n{hooks}"));
            }
            What::Plain => {
                let settings = format!("repository = {:?}\nbranches = [\"main\"]\n", self.repo.path());
                self.bench.app("site", &format!("{head}{settings}{}", hooks.replace("before = \"migrate\"", "after = \"seal\"")));
            }
        }
    }

    /// Opens or closes a gate: `fail-migrate`, `fail-switch`.
    pub(crate) fn gate(&self, name: &str, fails: Fails) {
        match fails {
            Fails::Yes => drop(self.bench.write(name, "")),
            Fails::No => drop(fs::remove_file(self.bench.path(name))),
        }
    }

    /// A commit that nobody has fetched yet.
    pub(crate) fn commit(&mut self) -> String {
        self.commits += 1;
        let text = format!("{}\n", self.commits);
        self.repo.write("notes/counter.txt", &text).write(&format!("notes/{}.txt", self.commits % 4), text.repeat(4000)).commit(&text)
    }

    /// Makes the migration of the next commit one that is no transaction: it does its part, tells that it has, and waits while the gate `half` is there.
    pub(crate) fn half_migration(&self, waits: Fails) {
        let file = "board/migrations/0002_notice_colour.py";
        let text = fs::read_to_string(self.repo.path().join(file)).expect("the demo has this migration");
        let plain = text.split("\n\ndef half").next().unwrap_or(&text).to_owned();
        let (gate, reached) = (self.bench.path("half"), self.bench.path("half-reached"));
        drop(fs::remove_file(&reached));
        self.gate("half", waits);
        self.repo.write(
            file,
            match waits {
                Fails::No => plain,
                Fails::Yes => format!(
                    "{plain}\n\ndef half(apps, schema_editor):\n    import os, time\n    open({reached:?}, 'w').close()\n    \
                     while os.path.exists({gate:?}):\n        time.sleep(0.1)\n    raise ValueError('half')\n\n\n\
                     Migration.atomic = False\nMigration.operations.append(migrations.RunPython(half, half))\n"
                ),
            },
        );
    }

    /// Waits until that migration has done its part.
    #[track_caller]
    pub(crate) fn await_half(&self) {
        wait_until("the migration has done its part", MOST, || self.bench.path("half-reached").exists());
        self.sync_database();
    }

    /// What must hold of a run that ended in the middle of it; then somebody says that it is settled.
    #[track_caller]
    pub(crate) fn assert_half(&self, events: &[Value]) {
        let told = events.last().and_then(|event| event["database"].as_str()).unwrap_or_default();
        let begun = ["was begun", "may have been begun"].map(|was| format!("board.0002_notice_colour {was} and is not atomic"));
        assert!(begun.iter().any(|begun| told.starts_with(begun.as_str())), "{told:?} is the word of the database: {events:#?}");
        let status = self.bench.ctl(["status", "--json"]).expect(0).json();
        let left = &status["apps"][0]["unsettled"][0];
        assert!(left["text"].as_str().is_some_and(|text| text == told), "{status:#}");
        assert!(left["backup"].as_str().is_some_and(|dump| fs::metadata(dump).is_ok_and(|dump| dump.len() > 0)), "{status:#}");
        self.bench.ctl(["settle"]).expect(0);
    }

    /// The database as the first release made it, so that there is something to migrate.
    pub(crate) fn forget_migrations(&self) {
        if self.what == What::Demo {
            let (database, new) = (self.database(), self.root().join("shared/.db.next"));
            fs::copy(self.kept_database(), &new).expect("the bench is ours");
            fs::rename(&new, &database).expect("the bench is ours");
            self.sync_database();
        }
    }

    /// The app's own data are not what is tried here: they must be there after a cut.
    fn sync_database(&self) {
        let durable = [self.database(), self.root().join("shared")].iter().try_for_each(|path| fs::File::open(path)?.sync_all());
        durable.expect("the disk of the bench takes what is written");
    }

    /// Ends the agent, and starts it so that it stops at that place.
    pub(crate) fn start_to_stop_at(&self, place: &str) {
        if self.bench.is_running() {
            self.bench.stop();
        }
        self.bench.variable("FAILPOINTS", place);
        self.bench.start();
    }

    /// Starts the agent so that it stops nowhere.
    pub(crate) fn start(&self) {
        self.bench.variable("FAILPOINTS", "");
        self.bench.start();
    }

    /// Waits until the agent has stopped at a place; fails the case when whoever asked has its answer before that.
    #[track_caller]
    pub(crate) fn await_stop(&self, place: &str, seen: usize, asking: &mut Begun) {
        let mark = format!("stopped at {place}\n");
        wait_until(&format!("the agent stops at {place}"), MOST, || {
            if self.is_stopped() && self.bench.log()[seen..].contains(&mark) {
                return true;
            }
            assert!(self.bench.is_running(), "the agent ended before it came to {place}:\n{}", self.bench.log());
            let over = asking.is_over() && !self.is_stopped();
            assert!(!over, "the run was over before it came to {place}:\n{}{}", asking.stdout(), asking.stderr());
            false
        });
    }

    /// Whether every thread of the agent is stopped (proc(5), state T).
    pub(crate) fn is_stopped(&self) -> bool {
        let Some(pid) = self.bench.agent_pid() else { return false };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T') || rest.starts_with('t'))
    }

    /// Asks for something, and waits until the agent has stopped in the middle of it.
    #[track_caller]
    pub(crate) fn stop_in(&self, place: &str, ask: &[&str]) {
        let name = place.split('=').next().unwrap_or(place);
        self.start_to_stop_at(place);
        let seen = self.bench.log().len();
        let mut asking = self.bench.ctl_begin(ask);
        self.await_stop(name, seen, &mut asking);
        // It waits for an answer that the agent may never give.
        asking.signal(Signal::SIGKILL);
        drop(asking.finish(MOST));
    }

    /// Lets a stopped agent go on.
    pub(crate) fn go_on(&self) {
        self.bench.signal(Signal::SIGCONT);
    }

    /// Kills the agent and leaves alone what it started.
    pub(crate) fn kill_agent(&self) {
        self.bench.kill();
    }

    /// Kills everything that has to do with the bench, as the end of the machine would.
    pub(crate) fn kill_all(&self) {
        // The agent first: it must not see how the others end.
        if self.bench.is_running() {
            self.bench.kill();
        }
        wait_until("nothing of the bench is left", MOST, || {
            let left = processes_about(&self.bench.path(""));
            left.iter().for_each(|process| process.signal(Signal::SIGKILL));
            left.is_empty()
        });
    }

    /// Waits until the newest run has ended, or the agent; tells whether the agent goes on.
    #[track_caller]
    pub(crate) fn over(&self) -> bool {
        wait_for("the run has ended, or the agent", MOST, || {
            if !self.bench.is_running() {
                return Some(false);
            }
            // A stopped agent would not answer, and one that ends in the meantime says nothing.
            let answer = if self.is_stopped() { None } else { get(&self.bench.control(), "/v1/runs").ok() };
            let runs: Option<Value> = answer.and_then(|answer| serde_json::from_str(&answer.body).ok());
            runs.filter(|runs| runs["runs"][0]["state"] == "ended").map(|_| true)
        })
    }

    /// Cuts the power: everything stands still, and then is no more.
    #[track_caller]
    pub(crate) fn cut(&self) {
        for process in processes_about(&self.bench.path("")) {
            process.signal(Signal::SIGSTOP);
        }
        self.disks.as_ref().expect("this rig has disks of its own").cut(|| self.kill_all());
    }

    /// The newest run, when it has ended. What cancels a run is not meant.
    #[track_caller]
    pub(crate) fn ended(&self) -> Value {
        wait_for("the run has ended", MOST, || {
            assert!(self.bench.is_running(), "the agent ended:\n{}", self.bench.log());
            self.newest().filter(|run| run["state"] == "ended")
        })
    }

    /// The newest run that is not there to cancel another.
    #[track_caller]
    pub(crate) fn newest(&self) -> Option<Value> {
        self.bench.runs().into_iter().find(|run| run["action"] != "cancel")
    }

    /// Its number.
    #[track_caller]
    pub(crate) fn newest_number(&self) -> Option<u64> {
        self.newest()?["run"].as_u64()
    }

    /// The commit of the live release.
    pub(crate) fn live_commit(&self) -> Option<String> {
        let live = self.bench.live(self.app())?;
        let text = fs::read_to_string(self.root().join("releases").join(live).join("REVISION")).ok()?;
        Some(text.trim().to_owned())
    }

    /// All that must hold when no run is under way: the root, the journal, and that what the link names is what visitors get.
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        self.bench.assert_sound();
        let wanted = self.live_commit();
        if self.what == What::Demo {
            let place = Place::Socket(self.bench.path(SITE_SOCKET));
            wait_until(&format!("the site serves {wanted:?}"), MOST, || {
                let answer = get(&place, "/healthz").ok();
                answer.filter(|answer| answer.status == 200).and_then(|answer| answer.header("X-Release").map(str::to_owned)) == wanted
            });
        }
        self.assert_backups();
        let outside: Vec<_> = fs::read_dir(self.bench.path("outside")).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        let kept = outside.iter().all(|path| fs::read(path).is_ok_and(|bytes| bytes == CANARY.as_bytes()));
        assert!(outside.len() == 1 && kept, "something outside of the root is not what it was: {outside:?}");
        assert!(!self.bench.log().contains(SECRET), "a secret is in the log");
        if let Some(run) = self.newest_number() {
            assert!(!format!("{:?}", self.bench.events(run)).contains(SECRET), "a secret is in the events of run {run}");
        }
        let told = processes_about(&self.bench.path("")).into_iter().find(|process| process.command.contains(SECRET));
        assert!(told.is_none(), "a secret is in the arguments of {told:?}");
        let page = self.root().join("app").join(if self.what == What::Demo { "manage.py" } else { "index.html" });
        assert!(fs::metadata(&page).is_ok_and(|page| page.len() > 0), "{} is not what it was", page.display());
    }

    /// What stands under the final name of a backup is one.
    #[track_caller]
    fn assert_backups(&self) {
        for entry in fs::read_dir(self.root().join("backups")).into_iter().flatten().flatten() {
            let path = entry.path();
            // A disk has things of its own at its top.
            if !entry.file_name().to_string_lossy().starts_with("20") {
                continue;
            }
            assert!(path.extension().is_some_and(|ending| ending == "sqlite3"), "{} is left beside the backups", path.display());
            let mut look = self.bench.command("sqlite3");
            look.arg(&path).arg("PRAGMA integrity_check; SELECT count(*) >= 0 FROM sqlite_master;");
            let said = self.bench.begin(look).finish(MOST);
            let empty = fs::metadata(&path).map_or(0, |meta| meta.len()) == 0;
            assert!(!empty && said.stdout.starts_with("ok"), "{} is no backup: {}{}", path.display(), said.stdout, said.stderr);
        }
    }

    /// Makes the first release live again, where another one is.
    #[track_caller]
    pub(crate) fn back_to_first(&self) {
        let releases = self.bench.releases(self.app());
        let first = releases.iter().find(|name| !name.starts_with('.')).expect("the first release is there");
        if self.bench.live(self.app()).as_ref() != Some(first) {
            self.bench.ctl(["activate", first]).expect(0);
        }
    }
}

/// Whether a gate fails the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fails {
    Yes,
    No,
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(disks) = self.disks.take() {
            self.bench.end_all();
            drop(disks);
        }
    }
}
