//! Killed at every system call that changes something, in the parts where the order of such calls is the promise: seal, switch and prune.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;

use super::kill::{first_release, one_more};
use super::rig::{MOST, Rig, What};
use super::{Case, Group};
use crate::bench::Begun;
use crate::wait::wait_until;

/// A step, the calls that it makes, and how its run may end when the agent dies at one of them.
const STEPS: &[(&str, &[&str], &[&str])] = &[
    ("seal", &["mkdir", "write", "fchmod", "rename", "fsync", "syncfs"], &["failed"]),
    ("switch", &["symlink", "rename", "fsync", "fdatasync", "write", "fchmod", "pwrite64"], &["failed", "rolled_back"]),
    ("prune", &["rename", "unlinkat"], &["done"]),
];

pub(crate) fn groups() -> Vec<Group> {
    let cases = STEPS.iter().flat_map(|(step, calls, outcomes)| {
        calls.iter().map(move |call| {
            let quick = matches!((*step, *call), ("switch", "rename" | "fsync"));
            Case::new(format!("kill.{step}.at-each.{call}"), move |rig| each(rig, step, call, outcomes)).quick_when(quick)
        })
    });
    vec![Group::new(|| Rig::new("kill at calls", What::Plain, None), cases.collect()).last(one_more)]
}

/// Kills at the first call, then at the second, until the step is over without one more.
fn each(rig: &mut Rig, step: &str, call: &str, outcomes: &[&str]) -> u32 {
    for nth in 1.. {
        let ask: &[&str] = if step == "prune" { &["prune"] } else { &["release", "main"] };
        if step == "prune" {
            others(rig);
        } else {
            rig.commit();
        }
        rig.settle(if step == "prune" { 2 } else { 20 });
        rig.stop_in(&format!("{step}.started=1*return(stop);{step}.acted=1*return(stop)"), ask);
        let seen = rig.bench.log().len();
        let strace = Strace::attach(rig, &[format!("trace={call}"), format!("inject={call}:signal=KILL:when={nth}")], &[]);
        rig.go_on();
        let acted = format!("stopped at {step}.acted\n");
        wait_until("the agent is killed, or has come to the end of the step", MOST, || {
            !rig.bench.is_running() || (rig.is_stopped() && rig.bench.log()[seen..].contains(&acted))
        });
        let killed = !rig.bench.is_running();
        let traced = strace.end();
        if !killed {
            rig.kill_agent();
            rig.start();
            rig.ended();
            rig.back_to_first();
            return nth - 1;
        }
        assert!(traced.contains("+++ killed by SIGKILL +++"), "it was something else that ended the agent: {traced}");
        rig.start();
        let run = rig.ended();
        let events = rig.bench.events(run["run"].as_u64().expect("a run has a number"));
        assert!(events.iter().any(|event| event["what"] == "stopped"), "{call} {nth}: {events:#?}");
        let outcome = run["outcome"].as_str().unwrap_or_default();
        assert!(outcomes.contains(&outcome), "{call} {nth}: {outcome}: {events:#?}");
        rig.assert_sound();
        assert_eq!(rig.bench.live(rig.app()), Some(first_release(rig)), "{call} {nth}: {events:#?}");
        assert!(nth < 200, "{call} has no end");
    }
    0
}

/// Releases that are old enough to be removed.
fn others(rig: &mut Rig) {
    if rig.bench.is_running() {
        rig.bench.stop();
    }
    rig.settle(20);
    rig.start();
    while rig.bench.releases(rig.app()).len() < 4 {
        rig.commit();
        rig.bench.ctl(["release", "main"]).expect(0);
    }
    rig.back_to_first();
}

/// strace, holding a stopped agent.
pub(crate) struct Strace {
    begun: Begun,
    log: PathBuf,
}

impl Strace {
    /// Attaches to every thread of the agent; `paths` narrows what it looks at to calls that have to do with these.
    #[track_caller]
    pub(crate) fn attach(rig: &Rig, expressions: &[String], paths: &[&Path]) -> Self {
        let pid = rig.bench.agent_pid().expect("the agent is stopped, and so it is there");
        let log = rig.bench.path("strace");
        let _ = fs::remove_file(&log);
        let mut command = rig.bench.command("strace");
        command.args(["-f", "-qq", "-y", "-o"]).arg(&log).args(["-p", &pid.to_string()]);
        for expression in expressions {
            command.args(["-e", expression]);
        }
        for path in paths {
            command.arg("-P").arg(path);
        }
        let begun = rig.bench.begin(command);
        wait_until("strace has attached to every thread", MOST, || {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            tasks.into_iter().all(|task| {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
            })
        });
        Self { begun, log }
    }

    /// Lets go, and answers with what it has seen.
    pub(crate) fn end(self) -> String {
        // It lets its tracee go on as it was.
        self.begun.signal(Signal::SIGTERM);
        self.begun.finish(MOST);
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
