//! Processes by number, safe against numbers that are used again; and the search for processes by what /proc says of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// A process: its number, and the time at which it started, which together are unique until the next boot (proc_pid_stat(5), fields 1 and 22).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pid: u32,
    started: Option<u64>,
}

struct Stat {
    state: char,
    parent: u32,
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, stands in parentheses and may hold anything.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, started })
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid, started: stat(pid).map(|stat| stat.started) }
    }

    /// A process that was written down before.
    pub(crate) fn recorded(pid: u32, started: u64) -> Self {
        Self { pid, started: Some(started) }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// When it started, in clock ticks since boot.
    pub(crate) fn started(&self) -> Option<u64> {
        self.started
    }

    /// Whether it is still there, and not merely waiting to be reaped.
    pub(crate) fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| Some(stat.started) == self.started && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Its working directory, links resolved by the kernel.
    pub(crate) fn cwd(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()
    }

    /// Its children.
    pub(crate) fn children(&self) -> Vec<Self> {
        every().filter(|(_, stat)| stat.parent == self.pid).map(|(process, _)| process).collect()
    }

    /// Sends it a signal, if it is still itself. A process that is gone needs none.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid)
            && self.is_alive()
        {
            // Failing means that it is gone, or not ours; the caller looks whether it is alive.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Ends the process group that it leads: TERM, and KILL after `grace`. The group may outlive its leader.
    pub(crate) fn end_group(&self, grace: Duration) {
        let Ok(pid) = i32::try_from(self.pid) else { return };
        let group = Pid::from_raw(pid);
        if !grace.is_zero() {
            let _ = killpg(group, Signal::SIGTERM);
            let end = Instant::now() + grace;
            while Instant::now() < end && self.is_alive() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = killpg(group, Signal::SIGKILL);
    }
}

fn every() -> impl Iterator<Item = (Process, Stat)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = stat(pid)?;
        (!matches!(stat.state, 'Z' | 'X')).then(|| (Process { pid, started: Some(stat.started) }, stat))
    })
}

/// The processes whose environment carries the marker. What cannot be read is another user's, and not ours.
pub(crate) fn marked(marker: &str) -> Vec<Process> {
    let wanted = format!("{}={marker}", super::MARKER);
    let carries = |process: &Process| {
        let environ = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    every().map(|(process, _)| process).filter(carries).collect()
}

/// The processes that run from within `dir`: by their working directory, their program, or a file that they have mapped.
pub(crate) fn using(dir: &Path) -> Vec<Process> {
    let mapped = |process: &Process| {
        let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap_or_default();
        maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).any(|path| Path::new(path).starts_with(dir))
    };
    let uses = |process: &Process| {
        let link = |name: &str| fs::read_link(format!("/proc/{}/{name}", process.pid)).ok();
        process.cwd().into_iter().chain(link("exe")).any(|path| path.starts_with(dir)) || mapped(process)
    };
    every().map(|(process, _)| process).filter(uses).collect()
}
