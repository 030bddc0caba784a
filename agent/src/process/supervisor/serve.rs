//! What a supervisor does, in a process of its own. It is one thread but for the moment in which it starts the program, and its memory is its own:
//! nothing here runs in the agent.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_child_subreaper, set_name};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout};

use super::descendants::{Descendants, Ended};
use super::{ARGUMENT, Request, TERMINATE, Word};
use crate::process::sandbox;

/// Does the work of a supervisor, where this process was started as one; what it should exit with then. To be called before anything else.
pub(crate) fn serve_if_asked() -> Option<ExitCode> {
    let is_asked = std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT);
    // There is nobody to be told of a failure: the agent sees the line close.
    is_asked.then(|| serve().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS))
}

fn serve() -> io::Result<()> {
    let mut line = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    set_child_subreaper(true)?;
    // Else the kernel would call it `exe`, after the name that it was started by.
    set_name(c"agent-supervise")?;
    let request = Request::read(&mut line)?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    let started = start(&request);
    // A signal to all of the agent's processes, a Ctrl-C or a stop of its unit, must not take the supervisor away from what it has to end: the agent ends,
    // and so the line closes. Not before the program has started, which would inherit it.
    SigSet::all().thread_block()?;
    let mut deaths = SigSet::empty();
    deaths.add(Signal::SIGCHLD);
    let deaths = SignalFd::with_flags(&deaths, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    // The other ends of the program's pipes tell the agent when its last process has closed them.
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    let program = match started {
        Ok(program) => program,
        Err(err) => return line.write_all(&not_started(&err).encoded()),
    };
    let mut descendants = Descendants::new(program);
    // An agent that cannot hear it is gone, which is found out below.
    let _ = line.write_all(&Word::Started(program.as_raw()).encoded());
    until_the_end(&mut line, &deaths, &mut descendants)?;
    let Ended { status, left } = descendants.end(&deaths);
    line.write_all(&Word::Ended(status, left.join(", ")).encoded())
}

/// Starts the program: its limits and its domain are set before, so that nothing of it ever runs without them.
fn start(request: &Request) -> io::Result<Pid> {
    let mut command = request.command()?;
    let child = match &request.bounds {
        Some(bounds) => {
            sandbox::limit()?;
            bounds.spawn(&mut command)?
        }
        None => command.spawn()?,
    };
    i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)
}

fn not_started(err: &io::Error) -> Word {
    if let Some(errno) = err.raw_os_error() {
        return Word::NotStarted(errno, String::new());
    }
    let mut why = err.to_string();
    let mut cause = err.source();
    while let Some(next) = cause {
        why = format!("{why}: {next}");
        cause = next.source();
    }
    Word::NotStarted(0, why)
}

/// Waits until the program has ended, or must.
fn until_the_end(line: &mut UnixStream, deaths: &SignalFd, descendants: &mut Descendants) -> io::Result<()> {
    loop {
        // First of all: one that ended before its signal was blocked has sent none.
        descendants.reap();
        if descendants.has_program_ended() {
            return Ok(());
        }
        let mut asked = [PollFd::new(line.as_fd(), PollFlags::POLLIN), PollFd::new(deaths.as_fd(), PollFlags::POLLIN)];
        match poll(&mut asked, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(err) => return Err(err.into()),
        }
        let is_spoken_to = asked[0].any().unwrap_or(true);
        while deaths.read_signal().is_ok_and(|death| death.is_some()) {}
        let mut byte = [0];
        match is_spoken_to.then(|| line.read(&mut byte)) {
            // It is not reaped yet, so its number is still its own, and its group's.
            Some(Ok(1)) if byte[0] == TERMINATE => {
                // Failing means that nobody is left in it.
                let _ = killpg(descendants.program(), Signal::SIGTERM);
            }
            Some(Err(err)) if err.kind() == io::ErrorKind::Interrupted => {}
            None => {}
            // The agent is gone, or wants it killed.
            Some(_) => return Ok(()),
        }
    }
}
