//! What a program says, as lines or as data, from its pipes to whoever watches it; and when it has ended, or must. One thread hears all of it: poll(2)
//! wakes it for the pipes, and for the end of the program.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use agent_wire::event::Stream;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::running::Running;
use super::{GRACE, Watch};

/// A line longer than this many bytes is cut.
pub(super) const MOST_LINE_BYTES: usize = 8 * 1024;
/// The last lines of a program that go into its error.
const TAIL_LINES: usize = 20;
/// The most bytes of standard output that are kept where the output is data.
const MOST_CAPTURED: usize = 256 * 1024 * 1024;
/// So much is read at once.
const CHUNK: usize = 64 * 1024;
/// How long a cancel or the deadline may go unnoticed.
const POLL: Duration = Duration::from_millis(20);
/// How long the end of a program may, where the kernel does not tell of it (before Linux 5.3).
const LOOK_FOR_THE_END: Duration = Duration::from_millis(5);
/// How long a supervisor may take to kill what it was told to kill. It gives up before that by itself; one that was stopped from outside does not.
const MOST_TO_KILL: Duration = Duration::from_secs(70);

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

/// What becomes of what a program says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stdout {
    Lines,
    /// As data, of which there may be so many entries that end with a NUL.
    Captured(usize),
}

/// What was heard so far.
struct Heard<'a> {
    watch: &'a Watch<'a>,
    quiet: bool,
    tail: VecDeque<String>,
    captured: Vec<u8>,
    entries: usize,
    most_entries: usize,
}

impl Heard<'_> {
    fn has_too_much(&self) -> bool {
        self.captured.len() > MOST_CAPTURED || self.entries > self.most_entries
    }

    fn line(&mut self, stream: Stream, line: String) {
        if !self.quiet {
            (self.watch.lines)(stream, &line);
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    fn data(&mut self, bytes: &[u8]) {
        if self.has_too_much() {
            return;
        }
        if self.most_entries < usize::MAX {
            self.entries += bytes.iter().filter(|byte| **byte == 0).count();
        }
        self.captured.extend_from_slice(bytes);
    }
}

/// What comes through one of the pipes, and how it is read.
struct Pipe {
    from: File,
    stream: Stream,
    /// The line that has begun; none of data.
    line: Option<Line>,
}

/// A line that has begun.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Line {
    /// Takes what comes next of it, and of those behind it; `hear` is given each that ends.
    fn take(&mut self, chunk: &[u8], mut hear: impl FnMut(String)) {
        // A carriage return begins a line anew: tools draw their progress so.
        for part in chunk.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let (text, end) = match part.split_last() {
                Some((end @ (b'\n' | b'\r'), text)) => (text, Some(*end)),
                _ => (part, None),
            };
            let room = MOST_LINE_BYTES - self.bytes.len();
            self.bytes.extend_from_slice(&text[..text.len().min(room)]);
            self.is_cut |= text.len() > room;
            if end.is_some_and(|end| end == b'\n' || !self.bytes.is_empty()) {
                hear(self.end());
            }
        }
    }

    /// What there is of it, for nothing more will come.
    fn end(&mut self) -> String {
        let text = clean(&self.bytes, self.is_cut);
        self.bytes.clear();
        self.is_cut = false;
        text
    }
}

/// A program that is heard.
pub(super) struct Hearing<'a> {
    heard: Heard<'a>,
    /// Those that somebody holds the other end of.
    pipes: Vec<Pipe>,
    chunk: Vec<u8>,
}

impl<'a> Hearing<'a> {
    /// Hears a program through its pipes. A quiet one's lines are not passed on.
    pub(super) fn of(running: &mut Running, stdout: Stdout, quiet: bool, watch: &'a Watch<'a>) -> Self {
        let most_entries = if let Stdout::Captured(most) = stdout { most } else { usize::MAX };
        let heard = Heard { watch, quiet, tail: VecDeque::new(), captured: Vec::new(), entries: 0, most_entries };
        let pipe = |from: OwnedFd, stream, line| Pipe { from: from.into(), stream, line };
        let (out, err) = running.output();
        let out = out.map(|out| pipe(out.into(), Stream::Stdout, (stdout == Stdout::Lines).then(Line::default)));
        let err = err.map(|err| pipe(err.into(), Stream::Stderr, Some(Line::default())));
        Self { heard, pipes: out.into_iter().chain(err).collect(), chunk: vec![0; CHUNK] }
    }

    /// Hears it until it has ended, or is ended for one of the reasons to.
    pub(super) fn until_the_end(&mut self, running: &mut Running) -> Result<ExitStatus, Cut> {
        let begun = Instant::now();
        let (mut cut, mut kill_at, mut give_up_at) = (None, None, None);
        loop {
            let can_tell = running.end().is_some();
            let ended = self.listen(running.end(), if can_tell { POLL } else { LOOK_FOR_THE_END });
            if ended || !can_tell {
                match running.ended() {
                    Ok(None) => {}
                    Ok(Some(status)) => return cut.map_or(Ok(status), Err),
                    Err(err) => return Err(cut.unwrap_or(Cut::Lost(err))),
                }
            }
            if cut.is_none() {
                let watch = self.heard.watch;
                cut = match (watch.cancel.asked(), watch.left().is_zero()) {
                    (true, _) => Some(Cut::Cancelled),
                    (false, true) => Some(Cut::TimedOut(begun.elapsed())),
                    // It might go on for ever: a few objects unfold to any number of files.
                    (false, false) => self.heard.has_too_much().then_some(Cut::TooMuch),
                };
                if cut.is_some() {
                    running.terminate();
                    kill_at = Some(Instant::now() + GRACE);
                }
            }
            let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= Instant::now());
            // Until then it is heard: whoever waits for room in a pipe cannot end.
            if is_due(kill_at) {
                running.kill();
                (kill_at, give_up_at) = (None, Some(Instant::now() + MOST_TO_KILL));
            }
            if is_due(give_up_at) {
                running.give_up();
                give_up_at = None;
            }
        }
    }

    /// Takes what the pipes still hold. They close when the last process that holds them ends; `patience` bounds the wait for one that does not.
    pub(super) fn drain(&mut self, patience: Duration) -> Pipes {
        let until = Instant::now() + patience;
        while !self.pipes.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Pipes::Open;
            }
            self.listen(None, left);
        }
        Pipes::Closed
    }

    /// What was heard: its last lines, its standard output where that is data, and whether that is more than can be read so. Nobody hears any more of it,
    /// but whoever may stay must not die of a pipe that is closed, nor wait for room in it.
    pub(super) fn told(self) -> (Vec<String>, Vec<u8>, bool) {
        for Pipe { mut from, .. } in self.pipes {
            // Where there can be no thread more, the pipe closes.
            let _ = thread::Builder::new().spawn(move || io::copy(&mut from, &mut io::sink()));
        }
        let too_much = self.heard.has_too_much();
        (self.heard.tail.into(), self.heard.captured, too_much)
    }

    /// Waits until something comes, or `end` tells the end of the program; for `patience` at the most. Takes what has come, and tells whether it was the
    /// end.
    fn listen(&mut self, end: Option<BorrowedFd<'_>>, patience: Duration) -> bool {
        let mut asked: Vec<PollFd<'_>> = self.pipes.iter().map(|pipe| PollFd::new(pipe.from.as_fd(), PollFlags::POLLIN)).collect();
        asked.extend(end.map(|end| PollFd::new(end, PollFlags::POLLIN)));
        // Rounded up, for a wait of nothing would be repeated until the time is over.
        let patience = PollTimeout::try_from(patience + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        if !poll(&mut asked, patience).is_ok_and(|woken| woken > 0) {
            return false;
        }
        let mut woken = asked.iter().map(|one| one.any().unwrap_or(false)).collect::<Vec<_>>().into_iter();
        let Self { heard, pipes, chunk } = self;
        pipes.retain_mut(|pipe| !woken.next().unwrap_or(false) || pipe.read(chunk, heard));
        end.is_some() && woken.next().unwrap_or(false)
    }
}

impl Pipe {
    /// Reads what is there; tells whether more may come.
    fn read(&mut self, chunk: &mut [u8], heard: &mut Heard<'_>) -> bool {
        let stream = self.stream;
        match (self.from.read(chunk), &mut self.line) {
            (Err(err), _) if err.kind() == io::ErrorKind::Interrupted => true,
            (Ok(count @ 1..), Some(line)) => {
                line.take(&chunk[..count], |line| heard.line(stream, line));
                true
            }
            (Ok(count @ 1..), None) => {
                heard.data(&chunk[..count]);
                true
            }
            (Ok(0) | Err(_), line) => {
                if let Some(line) = line.as_mut().filter(|line| !line.bytes.is_empty()) {
                    heard.line(stream, line.end());
                }
                false
            }
        }
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
