//! The end of processes, heard of by event: a pidfd becomes readable when its process ends (pidfd_open(2)), a child or not. Nothing polls.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Process;

/// A process whose end can be waited for.
#[derive(Debug)]
pub(crate) struct Exit(OwnedFd);

impl Exit {
    /// Of a process that is there; none when it has ended.
    ///
    /// # Errors
    /// As pidfd_open(2): a kernel before 5.3 has none.
    pub(crate) fn of(process: Process) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(process.pid()).ok().and_then(rustix::process::Pid::from_raw) else { return Ok(None) };
        let pidfd = match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(err) => return Err(err.into()),
        };
        // The number may have been given to another process before it was opened, and not after.
        Ok(process.is_alive().then_some(Self(pidfd)))
    }
}

/// Wakes one thread that waits.
#[derive(Debug)]
pub(crate) struct Waker(PipeWriter);

/// What the thread waits with.
#[derive(Debug)]
pub(crate) struct Waiter(PipeReader);

/// A waker, and the waiter that it wakes.
///
/// # Errors
/// As pipe(2).
pub(crate) fn waker() -> io::Result<(Waker, Waiter)> {
    let (reader, writer) = io::pipe()?;
    Ok((Waker(writer), Waiter(reader)))
}

impl Waker {
    /// Wakes the waiter, now or when it waits next.
    pub(crate) fn wake(&self) {
        // The waiter is gone only when its thread has ended.
        let _ = (&self.0).write(&[0]);
    }
}

impl Waiter {
    /// Waits until one of the processes ends, `also` becomes readable, it is woken, or so much time is over; without a time, for as long as it takes.
    ///
    /// # Errors
    /// As poll(2).
    pub(crate) fn wait(&mut self, exits: &[Exit], also: Option<BorrowedFd<'_>>, most: Option<Duration>) -> io::Result<()> {
        let waker = self.0.as_fd();
        let fds = std::iter::once(waker).chain(exits.iter().map(|exit| exit.0.as_fd())).chain(also);
        let mut asked: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let patience = match most {
            // Rounded up: who is woken too early would have to wait again.
            Some(most) => PollTimeout::try_from(most + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        match poll(&mut asked, patience) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
        let rang = asked.first().and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
        drop(asked);
        if rang {
            // Whatever it was rung for, however often, is looked at once.
            let mut rings = [0; 4096];
            let _ = self.0.read(&mut rings)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_end_of_a_process_wakes_whoever_waits_and_nothing_else_does() {
        let (waker, mut waiter) = waker().unwrap();
        let mut child = Command::new("sleep").arg("300").spawn().unwrap();
        let process = Process::of(child.id());
        let exits = [Exit::of(process).unwrap().unwrap()];
        let begun = Instant::now();
        waiter.wait(&exits, None, Some(Duration::from_millis(50))).unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(50) && process.is_alive());
        waker.wake();
        waker.wake();
        waiter.wait(&exits, None, None).unwrap();
        assert!(process.is_alive(), "the waiter was woken");
        let killed = std::thread::spawn(move || {
            child.kill().unwrap();
            child
        });
        waiter.wait(&exits, None, None).unwrap();
        assert!(!process.is_alive());
        killed.join().unwrap().wait().unwrap();
        assert!(Exit::of(process).unwrap().is_none(), "it is gone");
    }
}
