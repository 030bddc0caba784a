//! An app in a unit, in a machine with a systemd of its own: the smallest one that systemd can start, watch and be told of.

use std::fs;

use serde_json::Value;

use crate::bench::Done;
use crate::nspawn::Booted;
use crate::repo::Repo;
use crate::wait::wait_until;

/// The unit of the agent.
pub const AGENT: &str = "release-agent.service";
/// The unit of the app, which runs what the release ships as `serve`.
pub const UNIT: &str = "plain.service";

const GATE: &str = "/run/gate";
const MOST: std::time::Duration = std::time::Duration::from_secs(60);

/// The app `plain` in its unit, and an agent that is root.
#[derive(Debug)]
pub struct UnitApp {
    /// The machine.
    pub machine: Booted,
    /// The app's repository.
    pub repo: Repo,
    more: String,
}

impl UnitApp {
    /// Boots the machine and starts the agent; `unit` goes into the unit's `[Service]`, `more` into `[restart]` and behind it.
    #[track_caller]
    pub fn new(name: &str, unit: &str, more: &str) -> Self {
        let machine = Booted::new(name);
        let repo = machine.repo("plain");
        machine.write(
            "/etc/systemd/system/plain.service",
            format!("[Service]\nWorkingDirectory=/var/plain/app\nExecStart=/bin/sh /var/plain/app/serve\n{unit}\n"),
        );
        machine.direct("root");
        machine.write("/etc/release-agent/agent.toml", "drain_timeout = \"2s\"\n");
        let app = Self { machine, repo, more: more.to_owned() };
        app.set("");
        app.machine.systemctl(["daemon-reload"]);
        app.machine.systemctl(["start", AGENT]);
        app
    }

    fn set(&self, hooks: &str) {
        let restart = format!("[restart]\nstrategy = \"systemd\"\nunit = {UNIT:?}\naction = \"restart\"\n{}", self.more);
        let text = format!("repository = \"/srv/plain\"\nallow_local = true\n{restart}\n{hooks}");
        self.machine.write("/etc/release-agent/apps/plain.toml", text);
    }

    /// Takes a hook up that waits before a step, as long as the gate is closed; it closes the gate.
    #[track_caller]
    pub fn gate(&self, step: &str) {
        self.hook(step, &format!("touch {GATE}.reached; while [ -e {GATE} ]; do sleep 0.05; done"));
        self.machine.write(GATE, "");
    }

    /// Takes a hook up before a step, for `sh`.
    #[track_caller]
    pub fn hook(&self, step: &str, script: &str) {
        self.set(&format!("[[hook]]\nbefore = {step:?}\nrun = [\"/bin/sh\", \"-c\", {script:?}]\n"));
        self.machine.systemctl(["restart", AGENT]);
    }

    /// Opens the gate.
    #[track_caller]
    pub fn open_the_gate(&self) {
        fs::remove_file(self.machine.path(GATE)).expect("it was closed");
    }

    /// Commits something, and begins a release that stands at the gate; answers with its run.
    #[track_caller]
    pub fn at_the_gate(&self) -> u64 {
        let _ = fs::remove_file(self.machine.path(format!("{GATE}.reached")));
        self.repo.write("more", format!("{:?}", std::time::SystemTime::now())).commit("More");
        let run = self.machine.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().parse().expect("a number");
        wait_until("the release stands at the gate", MOST, || self.machine.path(format!("{GATE}.reached")).exists());
        run
    }

    /// Commits what the unit runs, and asks for its release.
    #[track_caller]
    pub fn release(&self, serve: &str) -> Done {
        self.repo.write("serve", format!("{serve}\n")).commit(serve);
        self.machine.ctl(["release", "main"])
    }

    /// A first release that serves; answers with its name.
    #[track_caller]
    pub fn released(&self) -> String {
        self.released_as("exec sleep infinity")
    }

    /// A release that serves so; answers with its name.
    #[track_caller]
    pub fn released_as(&self, serve: &str) -> String {
        self.release(serve).expect(0);
        self.machine.live("plain").expect("it is live")
    }

    /// The release that the unit's process works in.
    #[track_caller]
    pub fn serving(&self) -> String {
        let directory = fs::read_link(format!("/proc/{}/cwd", self.machine.main_process(UNIT))).expect("the unit runs");
        directory.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Every run, newest first.
    #[track_caller]
    pub fn runs(&self) -> Vec<Value> {
        self.machine.ctl(["runs", "--json"]).expect(0).json()["runs"].as_array().cloned().unwrap_or_default()
    }

    /// The events of a run that is over.
    #[track_caller]
    pub fn events(&self, run: u64) -> Vec<Value> {
        let lines = self.machine.ctl(["logs", "-f", &run.to_string(), "--json"]).stdout;
        lines.lines().map(|line| serde_json::from_str(line).expect("a line is an event")).collect()
    }

    /// The events of the newest run.
    #[track_caller]
    pub fn last_events(&self) -> Vec<Value> {
        self.events(self.runs()[0]["run"].as_u64().unwrap_or_default())
    }

    /// Fails the test unless the link names a complete release, all runs have ended, and their events have no gap.
    #[track_caller]
    pub fn assert_sound(&self) {
        let live = self.machine.live("plain").expect("a release is live");
        assert!(self.machine.path(format!("/var/plain/releases/{live}/.release/manifest.json")).exists(), "{live} is not complete");
        let status = self.machine.ctl(["status", "--json"]).expect(0).stdout;
        assert!(status.contains(&live), "the agent says something else than the link: {status}");
        for run in self.runs() {
            assert_eq!(run["state"], "ended", "{run}");
            let events = self.events(run["run"].as_u64().unwrap_or_default());
            assert!(events.iter().zip(1..).all(|(event, n)| event["n"].as_u64() == Some(n)), "a gap: {events:#?}");
            assert_eq!(events.iter().filter(|event| event["what"] == "ended").count(), 1);
        }
        let releases = fs::read_dir(self.machine.path("/var/plain/releases")).expect("the machine runs").flatten();
        assert!(!releases.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(".trash-")));
    }
}
