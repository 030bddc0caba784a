//! A supervisor: a process of the agent's own program that runs one other program, and ends everything that this one leaves behind.
//!
//! The kernel gives it each process that loses its parent (prctl(2), `PR_SET_CHILD_SUBREAPER`), whatever group, session or environment that process
//! has made for itself. So what a program left is known from the kernel: it is what the supervisor still has. It sets the limits and the Landlock domain
//! before the program starts, and when the program has ended, was cancelled, or the agent is gone, it kills until there is nobody left.
//!
//! ```text
//!   agent ──spawns──▶ supervisor (release-agent --supervise) ──spawns──▶ program ──▶ …
//!     └─ line: the request, `TERMINATE`; closed means "kill" ─▶┘   ◀─ started, ended ─ line
//! ```
//!
//! The line is a socket of which the agent alone has the other end. It closes with the agent, however that ends, so nobody has to look for what a dead
//! agent left. Servers that are to outlive a run are started by the agent itself, outside of any supervisor.

mod descendants;
mod serve;

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::MARKER;
use super::sandbox::Bounds;

pub(crate) use serve::serve_if_asked;

/// The first argument of a supervisor. The run's marker and the program's name follow, for those who look at a list of processes.
pub(super) const ARGUMENT: &str = "--supervise";

/// Asks the supervisor to send SIGTERM to the program's process group.
const TERMINATE: u8 = b'T';

/// How long a supervisor may take to start a program. It is a matter of milliseconds; a host that swaps takes longer.
const MOST_TO_START: Duration = Duration::from_secs(120);

/// What a supervisor is asked to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Request {
    /// The program's file.
    pub file: PathBuf,
    /// Its arguments, its name first.
    pub argv: Vec<OsString>,
    /// Where it runs.
    pub dir: PathBuf,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// What it reads from its standard input.
    pub input: Vec<u8>,
    /// What the kernel holds it to.
    pub bounds: Option<Bounds>,
}

impl Request {
    /// The command that starts it, but for where its output goes.
    pub(super) fn command(&self) -> io::Result<Command> {
        let mut command = Command::new(&self.file);
        if let Some((name, args)) = self.argv.split_first() {
            command.arg0(name).args(args);
        }
        command.current_dir(&self.dir).env_clear().envs(self.env.iter().map(|(name, value)| (name, value))).process_group(0);
        command.stdin(standard_input(&self.input)?);
        Ok(command)
    }

    /// As bytes: their number, and then the parts, each with its length before it.
    fn encoded(&self) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<u64>()];
        let part = |bytes: &mut Vec<u8>, part: &[u8]| {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        };
        let list = |bytes: &mut Vec<u8>, parts: &[&OsStr]| {
            bytes.extend((parts.len() as u64).to_le_bytes());
            parts.iter().for_each(|one| part(bytes, one.as_bytes()));
        };
        part(&mut bytes, self.file.as_os_str().as_bytes());
        list(&mut bytes, &self.argv.iter().map(OsString::as_os_str).collect::<Vec<_>>());
        part(&mut bytes, self.dir.as_os_str().as_bytes());
        list(&mut bytes, &self.env.iter().flat_map(|(name, value)| [name.as_os_str(), value.as_os_str()]).collect::<Vec<_>>());
        part(&mut bytes, &self.input);
        let bounds = self.bounds.iter().flat_map(|bounds| [&bounds.writable, &bounds.hidden]);
        bounds.for_each(|paths| list(&mut bytes, &paths.iter().map(|path| path.as_os_str()).collect::<Vec<_>>()));
        let count = (bytes.len() - size_of::<u64>()) as u64;
        bytes[..size_of::<u64>()].copy_from_slice(&count.to_le_bytes());
        bytes
    }

    /// Reads one from the line.
    fn read(line: &mut impl Read) -> io::Result<Self> {
        let mut count = [0; size_of::<u64>()];
        line.read_exact(&mut count)?;
        let mut bytes = Vec::new();
        line.take(u64::from_le_bytes(count)).read_to_end(&mut bytes)?;
        let mut parts = Parts(&bytes);
        let odd = || io::Error::new(io::ErrorKind::InvalidData, "the request is cut off");
        let mut decode = || {
            let file = parts.path()?;
            let argv = parts.list()?;
            let dir = parts.path()?;
            let mut words = parts.list()?.into_iter();
            let env = std::iter::from_fn(|| Some((words.next()?, words.next()?))).collect();
            let input = parts.part()?.to_vec();
            let paths = |list: Vec<OsString>| list.into_iter().map(PathBuf::from).collect();
            let bounds = match parts.0 {
                [] => None,
                _ => Some(Bounds { writable: paths(parts.list()?), hidden: paths(parts.list()?) }),
            };
            Some(Self { file, argv, dir, env, input, bounds })
        };
        decode().ok_or_else(odd)
    }
}

/// The parts of a request that are still to be read.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn number(&mut self) -> Option<usize> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        usize::try_from(u64::from_le_bytes(*number)).ok()
    }

    fn part(&mut self) -> Option<&'a [u8]> {
        let count = self.number()?;
        let (part, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(part)
    }

    fn word(&mut self) -> Option<OsString> {
        self.part().map(|part| OsString::from_vec(part.to_vec()))
    }

    fn path(&mut self) -> Option<PathBuf> {
        self.word().map(PathBuf::from)
    }

    fn list(&mut self) -> Option<Vec<OsString>> {
        (0..self.number()?).map(|_| self.word()).collect()
    }
}

/// A file in memory (memfd_create(2)) that a program can read what it is given from; nobody has to write while it reads.
fn standard_input(input: &[u8]) -> io::Result<Stdio> {
    if input.is_empty() {
        return Ok(Stdio::null());
    }
    let mut file = std::fs::File::from(rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(input)?;
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

/// What a supervisor says.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// The program runs, and this is its number.
    Started(i32),
    /// It could not be started: errno(3), or 0 and why.
    NotStarted(i32, String),
    /// It has ended, with this status as wait(2) gives it, and nothing of it is left but what the text names.
    Ended(i32, String),
}

impl Word {
    /// A letter, a number, the length of a text, and the text.
    fn encoded(&self) -> Vec<u8> {
        let (letter, number, text) = match self {
            Self::Started(pid) => (b'S', pid, ""),
            Self::NotStarted(errno, why) => (b'N', errno, why.as_str()),
            Self::Ended(status, left) => (b'E', status, left.as_str()),
        };
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        [&[letter], number.to_le_bytes().as_slice(), &length.to_le_bytes(), text.as_bytes()].concat()
    }

    fn read(line: &mut impl Read) -> io::Result<Self> {
        let (mut letter, mut number, mut length) = ([0], [0; 4], [0; 4]);
        line.read_exact(&mut letter)?;
        line.read_exact(&mut number)?;
        line.read_exact(&mut length)?;
        let mut text = Vec::new();
        line.take(u32::from_le_bytes(length).into()).read_to_end(&mut text)?;
        let (number, text) = (i32::from_le_bytes(number), String::from_utf8_lossy(&text).into_owned());
        match letter {
            [b'S'] => Ok(Self::Started(number)),
            [b'N'] => Ok(Self::NotStarted(number, text)),
            [b'E'] => Ok(Self::Ended(number, text)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a supervisor said something unknown")),
        }
    }
}

/// A program under a supervisor, as the agent sees it.
#[derive(Debug)]
pub(super) struct Supervised {
    supervisor: Child,
    line: UnixStream,
}

impl Supervised {
    /// Has a supervisor start a program. Its output goes where `stdout` and `stderr` lead.
    ///
    /// # Errors
    /// What starting the program itself would fail with.
    pub(super) fn start(request: &Request, marker: &str, stdout: Stdio, stderr: Stdio) -> io::Result<Self> {
        let (mut line, theirs) = UnixStream::pair()?;
        let name = Path::new(request.argv.first().unwrap_or(&OsString::new())).file_name().unwrap_or_default().to_owned();
        // The file that this process was started from, even where an upgrade has put another one in its place, or none.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("release-agent").args([ARGUMENT, marker]).arg(name).current_dir("/").process_group(0);
        // Variables that are set for the program, such as LD_PRELOAD, are not for the supervisor. The marker keeps the last look of another agent away.
        command.env_clear().env(MARKER, marker).stdin(OwnedFd::from(theirs)).stdout(stdout).stderr(stderr);
        let supervisor = command.spawn()?;
        // With it goes our hold on the other end of the line, which has to close when the supervisor is killed.
        drop(command);
        let mut supervised = Self { supervisor, line: line.try_clone()? };
        line.set_read_timeout(Some(MOST_TO_START))?;
        let word = line.write_all(&request.encoded()).and_then(|()| Word::read(&mut line));
        line.set_read_timeout(None)?;
        let refused = match word {
            Ok(Word::NotStarted(0, why)) => io::Error::other(why),
            Ok(Word::NotStarted(errno, _)) => io::Error::from_raw_os_error(errno),
            // Where the supervisor is gone already, the program may run: that is for `ended` to tell.
            Ok(Word::Started(_) | Word::Ended(..)) | Err(_) => return Ok(supervised),
        };
        supervised.abandon();
        Err(refused)
    }

    /// Where the program's output comes from, where it goes into pipes.
    pub(super) fn output(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.supervisor.stdout.take(), self.supervisor.stderr.take())
    }

    /// What can be read when the program has ended, and all that it left with it.
    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }

    /// Reads how it ended; to be called when [`Supervised::end`] can be read.
    ///
    /// # Errors
    /// When the supervisor was killed: nobody knows what the program left.
    pub(super) fn ended(&mut self) -> io::Result<ExitStatus> {
        let word = Word::read(&mut self.line);
        self.abandon();
        match word {
            Ok(Word::Ended(status, left)) => {
                if !left.is_empty() {
                    tracing::error!("processes that a program left could not be ended: {left}");
                }
                Ok(ExitStatus::from_raw(status))
            }
            _ => Err(io::Error::other("the process release-agent --supervise, which watched over it, was killed from outside")),
        }
    }

    /// Has SIGTERM sent to the program's process group.
    pub(super) fn terminate(&mut self) {
        // A supervisor that cannot hear it is at its end.
        let _ = self.line.write_all(&[TERMINATE]);
    }

    /// Has the program and all that it started killed.
    pub(super) fn kill(&self) {
        // Without anybody to speak to, the supervisor does just that.
        let _ = self.line.shutdown(std::net::Shutdown::Write);
    }

    /// Ends the supervisor itself: it has done its work, or does not do it.
    pub(super) fn abandon(&mut self) {
        // It may have ended by itself.
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}

#[cfg(test)]
mod tests;
