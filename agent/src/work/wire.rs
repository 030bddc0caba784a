//! The messages between agent and runner: one line of JSON each. The agent's messages contain names, and neither arguments nor variables; the
//! receiver parses every name.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use agent_model::names::RunId;
use agent_wire::event::Stream;
use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recv, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Failure, Job, JobAnswer, Order, Ordered, Role};

/// The version of this protocol. Both ends come from one package; a mismatch after an upgrade is reported.
pub(super) const VERSION: u32 = 1;

/// The most bytes of one line. Output lines are cut long before.
const MOST_LINE: usize = 1 << 20;

/// A request of the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JobRequest {
    pub job: Job,
    run: u64,
    marker: String,
    caller: String,
    release: Option<RequestedRelease>,
    former: Option<(String, Option<String>)>,
    /// How long it may take, in milliseconds.
    pub ms: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestedRelease {
    name: String,
    commit: String,
    #[serde(rename = "ref")]
    reference: Option<String>,
}

impl JobRequest {
    pub(super) fn new(order: &Order, job: &Job, within: Duration) -> Self {
        let release = order.release.as_ref().map(|release| RequestedRelease {
            name: release.name.to_string(),
            commit: release.commit.to_string(),
            reference: release.reference.as_ref().map(ToString::to_string),
        });
        Self {
            job: job.clone(),
            run: order.run.0,
            marker: order.marker.clone(),
            caller: order.caller.clone(),
            release,
            former: order.former.as_ref().map(|(name, commit)| (name.to_string(), commit.as_ref().map(ToString::to_string))),
            ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The order with every name parsed.
    pub(super) fn order(&self) -> Result<Order, String> {
        fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
            text.parse().map_err(|err| format!("{text:?}: {err}"))
        }
        let release = self.release.as_ref().map(|release| {
            let reference = release.reference.as_deref().map(parsed).transpose()?;
            Ok::<_, String>(Ordered { name: parsed(&release.name)?, commit: parsed(&release.commit)?, reference })
        });
        let former =
            self.former.as_ref().map(|(name, commit)| Ok::<_, String>((parsed(name)?, commit.as_deref().map(parsed).transpose()?)));
        let plain = |text: &str| !text.chars().any(char::is_control) && text.len() <= 512;
        if !plain(&self.marker) || !plain(&self.caller) {
            return Err("a word with control characters".to_owned());
        }
        Ok(Order {
            run: RunId(self.run),
            marker: self.marker.clone(),
            caller: self.caller.clone(),
            release: release.transpose()?,
            former: former.transpose()?,
        })
    }
}

/// A message of the runner.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RunnerMessage {
    /// The first message.
    Hello { version: u32, app: String, role: Role, user: String },
    /// A line of a program.
    Output(Stream, String),
    /// An informational message.
    Note(String),
    /// The job is done.
    Answer(JobAnswer),
    /// The job failed.
    Failed(Failure),
}

/// A connection that carries lines, and now and then a descriptor with one (unix(7), `SCM_RIGHTS`).
#[derive(Debug)]
pub(super) struct Line {
    stream: UnixStream,
    read: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// The result of reading.
#[derive(Debug)]
pub(super) enum Heard<T> {
    /// A whole line.
    Said(T),
    /// Nothing yet.
    Nothing,
    /// The other end is gone.
    Gone,
}

impl Line {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, read: Vec::new(), descriptors: Vec::new() }
    }

    pub(super) fn say(&self, what: &impl Serialize, descriptor: Option<&impl AsRawFd>) -> io::Result<()> {
        let mut text = serde_json::to_vec(what)?;
        text.push(b'\n');
        let descriptors: Vec<RawFd> = descriptor.map(AsRawFd::as_raw_fd).into_iter().collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let with = if descriptors.is_empty() { &[][..] } else { &rights[..] };
        let sent = sendmsg::<()>(self.stream.as_raw_fd(), &[IoSlice::new(&text)], with, MsgFlags::MSG_NOSIGNAL, None)?;
        (&self.stream).write_all(&text[sent..])
    }

    /// The next line; waits at most `patience` for it.
    pub(super) fn hear<T: DeserializeOwned>(&mut self, patience: Duration) -> io::Result<Heard<T>> {
        if let Some(line) = self.whole() {
            return Ok(Heard::Said(serde_json::from_slice(&line)?));
        }
        if self.read.len() > MOST_LINE {
            return Err(io::Error::other("a line that has no end"));
        }
        self.stream.set_read_timeout(Some(patience))?;
        match self.receive() {
            Ok(0) => return Ok(Heard::Gone),
            Ok(_) => {}
            Err(err) if matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => {
                return Ok(Heard::Nothing);
            }
            Err(err) if matches!(err.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => return Ok(Heard::Gone),
            Err(err) => return Err(err),
        }
        match self.whole() {
            Some(line) => Ok(Heard::Said(serde_json::from_slice(&line)?)),
            None => Ok(Heard::Nothing),
        }
    }

    /// Whether the other end is there, and there is no unread message.
    pub(super) fn is_open(&self) -> bool {
        let mut byte = [0];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.stream.as_raw_fd(), &mut byte, flags) == Err(nix::Error::EAGAIN)
    }

    fn whole(&mut self) -> Option<Vec<u8>> {
        let end = self.read.iter().position(|byte| *byte == b'\n')?;
        let mut line: Vec<u8> = self.read.drain(..=end).collect();
        line.pop();
        Some(line)
    }

    #[expect(unsafe_code, reason = "the kernel hands a descriptor over by its number, and there is no other way to own it")]
    fn receive(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 64 * 1024];
        let mut space = cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut chunk)];
        let received = recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = message {
                // SAFETY: the kernel opened them for this process with this very message, and each is taken once.
                self.descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
            }
        }
        let count = received.bytes;
        self.read.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    /// The descriptor that came last.
    pub(super) fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop()
    }
}
