//! What a program says, as lines or as data, from its pipes to whoever watches it; and when it has ended, or must.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use agent_wire::event::Stream;

use super::{GRACE, Process, Watch};

/// A line longer than this many bytes is cut.
pub(super) const MOST_LINE_BYTES: usize = 8 * 1024;
/// The last lines of a program that go into its error.
const TAIL_LINES: usize = 20;
/// The most bytes of standard output that are kept where the output is data.
const MOST_CAPTURED: usize = 256 * 1024 * 1024;

/// What is heard of a program.
pub(super) enum Said {
    Line(Stream, String),
    Bytes(Vec<u8>),
    /// It has ended, and waits to be reaped.
    Ended,
}

/// Whether anybody holds the other end.
#[derive(PartialEq, Eq)]
pub(super) enum Pipes {
    Open,
    Closed,
}

/// Why it was ended.
pub(super) enum Cut {
    Cancelled,
    TimedOut(Duration),
    TooMuch,
    Lost(io::Error),
}

/// What was heard so far.
pub(super) struct Heard<'a> {
    watch: &'a Watch<'a>,
    quiet: bool,
    /// Its last lines.
    pub tail: VecDeque<String>,
    /// Its standard output, where that is data.
    pub captured: Vec<u8>,
    entries: usize,
    most_entries: usize,
}

impl<'a> Heard<'a> {
    /// Nothing yet. A quiet program's lines are not passed on; of data there may be so many entries that end with a NUL.
    pub(super) fn new(watch: &'a Watch<'a>, quiet: bool, most_entries: usize) -> Self {
        Self { watch, quiet, tail: VecDeque::new(), captured: Vec::new(), entries: 0, most_entries }
    }

    /// Whether there is more than can be read as data.
    pub(super) fn has_too_much(&self) -> bool {
        self.captured.len() > MOST_CAPTURED || self.entries > self.most_entries
    }

    fn take(&mut self, said: Said) {
        match said {
            Said::Line(stream, line) => {
                if !self.quiet {
                    (self.watch.lines)(stream, &line);
                }
                if self.tail.len() == TAIL_LINES {
                    self.tail.pop_front();
                }
                self.tail.push_back(line);
            }
            Said::Bytes(bytes) if !self.has_too_much() => {
                if self.most_entries < usize::MAX {
                    self.entries += bytes.iter().filter(|byte| **byte == 0).count();
                }
                self.captured.extend(bytes);
            }
            Said::Bytes(_) | Said::Ended => {}
        }
    }

    /// Takes what the pipes still hold. They close when the last process that holds them ends; `patience` bounds the wait for one that does not.
    pub(super) fn drain(&mut self, said: &Receiver<Said>, patience: Duration) -> Pipes {
        let end = Instant::now() + patience;
        loop {
            match said.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(next) => self.take(next),
                Err(RecvTimeoutError::Timeout) => return Pipes::Open,
                Err(RecvTimeoutError::Disconnected) => return Pipes::Closed,
            }
        }
    }
}

/// How long a cancel or the deadline may go unnoticed.
const LOOK: Duration = Duration::from_millis(20);

/// Hears a program until it has ended, or is ended for one of the reasons to.
pub(super) fn wait(
    child: &mut Child,
    group: &Process,
    watch: &Watch<'_>,
    said: &Receiver<Said>,
    heard: &mut Heard<'_>,
) -> Result<ExitStatus, Cut> {
    let begun = Instant::now();
    let mut cut = None;
    loop {
        match said.recv_timeout(LOOK) {
            // Whoever says that it ended holds the channel until then.
            Ok(Said::Ended) | Err(RecvTimeoutError::Disconnected) => {
                let status = child.wait().map_err(Cut::Lost)?;
                return cut.map_or(Ok(status), Err);
            }
            Ok(next) => heard.take(next),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if cut.is_none() {
            cut = match (watch.cancel.asked(), watch.left().is_zero()) {
                (true, _) => Some(Cut::Cancelled),
                (false, true) => Some(Cut::TimedOut(begun.elapsed())),
                // It might go on for ever: a few objects unfold to any number of files.
                (false, false) => heard.has_too_much().then_some(Cut::TooMuch),
            };
            if cut.is_some() {
                group.end_group(GRACE);
            }
        }
    }
}

/// Says when a child has ended, and leaves it to be reaped by its owner: until then its number is nobody else's.
pub(super) fn await_end(pid: u32, sender: &SyncSender<Said>) {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap_or_default());
    while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(nix::errno::Errno::EINTR) {}
    // Nobody hears it when the owner has given up.
    let _ = sender.send(Said::Ended);
}

/// Reads data until the pipe is closed.
pub(super) fn read_all(mut pipe: impl Read, sender: &SyncSender<Said>) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = pipe.read(&mut chunk) {
        if sender.send(Said::Bytes(chunk[..count].to_vec())).is_err() {
            return;
        }
    }
}

/// Reads lines until the pipe is closed.
pub(super) fn read_lines(mut pipe: impl Read, stream: Stream, sender: &SyncSender<Said>) {
    let mut chunk = vec![0; 64 * 1024];
    let mut line: Vec<u8> = Vec::new();
    let mut cut = false;
    let send = |line: &mut Vec<u8>, cut: &mut bool| {
        let text = clean(line, *cut);
        line.clear();
        *cut = false;
        sender.send(Said::Line(stream, text)).is_ok()
    };
    while let Ok(count @ 1..) = pipe.read(&mut chunk) {
        // A carriage return begins a line anew: tools draw their progress so.
        for part in chunk[..count].split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, end) = match part.split_last() {
                Some((end @ (b'\n' | b'\r'), text)) => (text, Some(*end)),
                _ => (part, None),
            };
            let room = MOST_LINE_BYTES - line.len();
            line.extend_from_slice(&text[..text.len().min(room)]);
            cut |= text.len() > room;
            let ends = end.is_some_and(|end| end == b'\n' || !line.is_empty());
            if ends && !send(&mut line, &mut cut) {
                // Nobody hears it any more; whoever may stay must not die of a pipe that is closed.
                drop(io::copy(&mut pipe, &mut io::sink()));
                return;
            }
        }
    }
    if !line.is_empty() {
        send(&mut line, &mut cut);
    }
}

/// A line as people may see it: valid UTF-8, without control characters and terminal sequences.
fn clean(line: &[u8], cut: bool) -> String {
    let said = String::from_utf8_lossy(line);
    // Nearly every line is clean. 0xc2 begins what the control characters beyond ASCII are written with.
    if !cut && !said.bytes().any(|byte| (byte < b' ' && byte != b'\t') || matches!(byte, 0x7f | 0xc2)) {
        return said.into_owned();
    }
    let mut text = String::with_capacity(said.len());
    let mut escape = false;
    for c in said.chars() {
        match c {
            '\u{1b}' => escape = true,
            // A terminal sequence ends with a letter (ECMA-48, 5.4).
            _ if escape => escape = !c.is_ascii_alphabetic() && !c.is_control(),
            '\t' => text.push(c),
            _ if c.is_control() => text.push('\u{fffd}'),
            _ => text.push(c),
        }
    }
    if cut {
        text.push_str(" … (cut)");
    }
    text
}
