//! All that a program has started, as the kernel knows it: the supervisor's children, and theirs.

use std::collections::HashSet;
use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::Pid;
use rustix::process::{WaitOptions, wait};

use crate::process::processes::{name_of, parent_of};

/// How long those that are killed may take to end: one that waits for a disk that does not answer ends when that does.
const MOST_TO_DIE: Duration = Duration::from_secs(60);
/// How long the supervisor tries to kill what the kernel does not let it kill: a program of another user, such as sudo(8) starts.
const MOST_OF_OTHERS: Duration = Duration::from_millis(200);

/// How it ended.
pub(super) struct Ended {
    /// The program's own status, as wait(2) gives it.
    pub status: i32,
    /// What is left all the same, for people.
    pub left: Vec<String>,
}

/// Whether there is anybody to wait for.
#[derive(PartialEq, Eq)]
enum Children {
    Some,
    None,
}

/// The descendants of this process.
pub(super) struct Descendants {
    program: Pid,
    status: Option<i32>,
}

impl Descendants {
    /// Those of the program that was started.
    pub(super) fn new(program: Pid) -> Self {
        Self { program, status: None }
    }

    /// The program itself.
    pub(super) fn program(&self) -> Pid {
        self.program
    }

    /// Whether it was reaped.
    pub(super) fn has_program_ended(&self) -> bool {
        self.status.is_some()
    }

    /// Takes the end of every child that has ended. A process whose parent has ended is a child of this one (prctl(2), `PR_SET_CHILD_SUBREAPER`).
    fn take_ends(&mut self) -> Children {
        // Without `__WALL`, wait(2) passes over children that were made to tell of their end by another signal than SIGCHLD (clone(2)).
        let options = WaitOptions::NOHANG | WaitOptions::from_bits_retain(libc::__WALL.cast_unsigned());
        loop {
            match wait(options) {
                Ok(Some((pid, status))) if pid.as_raw_nonzero().get() == self.program.as_raw() => self.status = Some(status.as_raw()),
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) => return Children::Some,
                Err(_) => return Children::None,
            }
        }
    }

    /// The same, while the program runs.
    pub(super) fn reap(&mut self) {
        let _there_are_more = self.take_ends();
    }

    /// Kills and reaps until there is nobody left. wait(2) says so, and nothing that a process can change.
    pub(super) fn end(mut self, deaths: &SignalFd) -> Ended {
        let begun = Instant::now();
        let mut last_killed = begun;
        while self.take_ends() == Children::Some {
            let killed = kill_all();
            if killed > 0 {
                last_killed = Instant::now();
            }
            if begun.elapsed() > MOST_TO_DIE || last_killed.elapsed() > MOST_OF_OTHERS {
                let left = alive().into_iter().map(|pid| format!("{} (process {pid})", name_of(pid)));
                return Ended { status: self.status.unwrap_or(libc::SIGKILL), left: left.collect() };
            }
            // A death wakes it at once. One that forks in a loop is not waited for.
            let patience = if killed > 0 { PollTimeout::from(2_u8) } else { PollTimeout::from(10_u8) };
            // However it ends, the next round looks.
            let _ = poll(&mut [PollFd::new(deaths.as_fd(), PollFlags::POLLIN)], patience);
            while deaths.read_signal().is_ok_and(|death| death.is_some()) {}
        }
        Ended { status: self.status.unwrap_or(libc::SIGKILL), left: Vec::new() }
    }
}

/// Sends SIGKILL to every descendant; the answer is how many took it. The children of each are looked for before it is killed, to get to the end of a
/// chain in one round, and after that, when it can have no more of them. Those that come to this process meanwhile are met in the next round.
fn kill_all() -> usize {
    let own = std::process::id();
    let (mut killed, mut seen, mut found) = (0, HashSet::new(), children_of(own));
    while let Some((pid, parent)) = found.pop() {
        // The number may be another process's by now; those of this one's own children stay theirs until they are reaped.
        let is_descendant = parent == own || parent_of(pid).is_some_and(|now| now == parent || now == own);
        let Some(number) = i32::try_from(pid).ok().filter(|_| is_descendant && seen.insert(pid)) else { continue };
        let children = children_of(pid);
        if kill(Pid::from_raw(number), Signal::SIGKILL) != Err(Errno::EPERM) {
            killed += 1;
        }
        found.extend(children.into_iter().chain(children_of(pid)));
    }
    killed
}

/// The descendants that are there.
fn alive() -> Vec<u32> {
    let (mut seen, mut found) = (HashSet::new(), children_of(std::process::id()));
    while let Some((pid, _)) = found.pop() {
        if seen.insert(pid) {
            found.extend(children_of(pid));
        }
    }
    seen.into_iter().collect()
}

/// The children of a process, each with its parent: of all its threads (proc_tid_children(5)). A kernel without that list has the whole of /proc looked
/// through.
fn children_of(parent: u32) -> Vec<(u32, u32)> {
    let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")));
    let mut children: Vec<u32> = Vec::new();
    for list in lists {
        match list {
            Ok(list) => children.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok())),
            // A thread that has ended has none.
            Err(_) if fs::exists("/proc/thread-self/children").unwrap_or(false) => {}
            Err(_) => {
                let all = fs::read_dir("/proc").into_iter().flatten().flatten();
                let all = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
                children = all.filter(|pid| parent_of(*pid) == Some(parent)).collect();
                break;
            }
        }
    }
    children.into_iter().map(|pid| (pid, parent)).collect()
}
