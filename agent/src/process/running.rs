//! A program that runs: under a supervisor, or, where what it starts may stay, as a child of the agent itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus};

use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Process;
use super::supervisor::Supervised;

/// A program that runs.
pub(super) enum Running {
    /// Under a supervisor: what it leaves ends with it.
    Supervised(Supervised),
    /// As a child of the agent: what it started may outlive it, the run and the agent.
    Alone(Alone),
}

/// A child of the agent.
pub(super) struct Alone {
    child: Child,
    /// Leader of the process group that it was started in.
    leader: Process,
    /// Tells of its end (pidfd_open(2)), since Linux 5.3.
    end: Option<OwnedFd>,
}

impl Running {
    /// Starts a program outside of any supervisor.
    pub(super) fn alone(command: &mut Command) -> io::Result<Self> {
        let child = command.spawn()?;
        let end = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default()).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Ok(Self::Alone(Alone { leader: Process::of(child.id()), child, end }))
    }

    /// Where its output comes from, where it goes into pipes.
    pub(super) fn output(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        match self {
            Self::Supervised(supervised) => supervised.output(),
            Self::Alone(Alone { child, .. }) => (child.stdout.take(), child.stderr.take()),
        }
    }

    /// What can be read when it has ended; nothing where the kernel does not tell.
    pub(super) fn end(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Supervised(supervised) => Some(supervised.end()),
            Self::Alone(Alone { end, .. }) => end.as_ref().map(AsFd::as_fd),
        }
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When that cannot be known, nor what it left.
    pub(super) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        match self {
            Self::Supervised(supervised) => supervised.ended().map(Some),
            Self::Alone(Alone { child, .. }) => child.try_wait(),
        }
    }

    /// Sends SIGTERM to its process group.
    pub(super) fn terminate(&mut self) {
        match self {
            Self::Supervised(supervised) => supervised.terminate(),
            Self::Alone(Alone { leader, .. }) => leader.signal_group(Signal::SIGTERM),
        }
    }

    /// Kills it, with all that it started, or, outside of a supervisor, what is left of its process group.
    pub(super) fn kill(&mut self) {
        match self {
            Self::Supervised(supervised) => supervised.kill(),
            Self::Alone(Alone { leader, .. }) => leader.end_group(),
        }
    }

    /// No longer waits for a supervisor that does not do as it was told.
    pub(super) fn give_up(&mut self) {
        if let Self::Supervised(supervised) = self {
            supervised.abandon();
        }
    }
}
