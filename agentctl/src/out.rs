//! The only place that writes: data to standard output, words to standard error, and the moving line on a terminal.
//!
//! The input is styled; output to a stream without styles is stripped of them.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use chrono::{DateTime, Utc};
use indicatif::{ProgressBar, ProgressStyle};

use crate::fault::Fault;
use crate::render::run::Now;
use crate::render::words::tame;

pub(crate) struct Out {
    stdout: Sink,
    stderr: Sink,
    /// The width of standard output, if it is a terminal.
    pub(crate) width: Option<u16>,
    /// The same of standard error.
    words_width: Option<u16>,
    /// Whether a line may move on standard error.
    lively: bool,
}

struct Sink {
    writer: Box<dyn Write>,
    styled: bool,
    /// Whether it is a terminal, which obeys control sequences.
    obeys: bool,
}

impl Sink {
    fn say(&mut self, text: &str) -> io::Result<()> {
        let tamed = if self.obeys { Cow::Owned(tame(text)) } else { Cow::Borrowed(text) };
        let text = tamed.as_ref();
        let written = if self.styled {
            self.writer.write_all(text.as_bytes())
        } else {
            self.writer.write_all(anstream::adapter::strip_str(text).to_string().as_bytes())
        };
        written.and_then(|()| if text.ends_with('\n') { Ok(()) } else { self.writer.write_all(b"\n") }).and_then(|()| self.writer.flush())
    }
}

impl Out {
    /// The streams of this process.
    pub(crate) fn of_process() -> Self {
        let styled = |choice| choice != anstream::ColorChoice::Never;
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            stdout: Sink {
                styled: styled(anstream::AutoStream::choice(&io::stdout())),
                obeys: io::stdout().is_terminal(),
                writer: Box::new(io::stdout()),
            },
            stderr: Sink {
                styled: styled(anstream::AutoStream::choice(&io::stderr())),
                obeys: io::stderr().is_terminal(),
                writer: Box::new(io::stderr()),
            },
            width: width_of(io::stdout()),
            words_width: width_of(io::stderr()),
            lively: io::stderr().is_terminal() && !dumb,
        }
    }

    /// Two writers without styles.
    #[cfg(test)]
    pub(crate) fn plain(stdout: impl Write + 'static, stderr: impl Write + 'static) -> Self {
        let sink = |writer| Sink { writer, styled: false, obeys: false };
        Self { stdout: sink(Box::new(stdout)), stderr: sink(Box::new(stderr)), width: None, words_width: None, lively: false }
    }

    /// Writes data, which may be read by a program.
    pub(crate) fn data(&mut self, text: &str) -> Result<(), Fault> {
        self.stdout.say(text).map_err(|err| match err.kind() {
            io::ErrorKind::BrokenPipe => Fault::ReaderGone,
            _ => Fault::Print(err),
        })
    }

    /// Writes words for people. A closed stream is no reason to stop.
    pub(crate) fn words(&mut self, text: &str) {
        // The reader has gone.
        let _ = self.stderr.say(text);
    }
}

impl Out {
    /// The width of a stream, if it is a terminal.
    pub(crate) fn width_of(&self, stream: Stream) -> Option<u16> {
        match stream {
            Stream::Data => self.width,
            Stream::Words => self.words_width,
        }
    }
}

/// Which stream the lines of a run go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output: the lines are the result of the verb.
    Data,
    /// Standard error: the lines accompany the result.
    Words,
}

/// Shows a run: lines that stay, and below them, on a terminal, one that moves.
pub(crate) struct Board<'a> {
    out: &'a mut Out,
    stream: Stream,
    moving: Option<(String, ProgressBar)>,
}

impl<'a> Board<'a> {
    pub(crate) fn new(out: &'a mut Out, stream: Stream) -> Self {
        Self { out, stream, moving: None }
    }

    /// Puts lines above the moving one.
    pub(crate) fn lines(&mut self, lines: &[String]) -> Result<(), Fault> {
        if lines.is_empty() {
            return Ok(());
        }
        let text = lines.join("\n");
        match self.moving.as_ref().map(|(_, bar)| bar.clone()) {
            Some(bar) => bar.suspend(|| self.say(&text)),
            None => self.say(&text),
        }
    }

    /// Writes to standard error, regardless of the lines' stream.
    pub(crate) fn aside(&mut self, text: &str) {
        match self.moving.as_ref().map(|(_, bar)| bar.clone()) {
            Some(bar) => bar.suspend(|| self.out.words(text)),
            None => self.out.words(text),
        }
    }

    /// Shows the current activity; `None` for none.
    pub(crate) fn moves(&mut self, now: Option<&Now>, clock: DateTime<Utc>) {
        let Some(now) = now.filter(|_| self.out.lively) else {
            self.still();
            return;
        };
        let title = now.title();
        if self.moving.as_ref().is_none_or(|(shown, _)| *shown != title) {
            self.still();
            let elapsed = (clock - now.since).to_std().unwrap_or(Duration::ZERO);
            let bar = ProgressBar::new_spinner().with_style(style("{spinner} {prefix:14} {elapsed:>5}  {wide_msg}"));
            bar.set_elapsed(elapsed);
            bar.set_prefix(title.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            self.moving = Some((title, bar));
        }
        if let Some((_, bar)) = &self.moving {
            if let Some((done, total)) = now.progress {
                if bar.length() != Some(total) {
                    bar.set_style(style("{spinner} {prefix:14} {elapsed:>5}  [{bar:24}] {pos}/{len} {wide_msg}"));
                    bar.set_length(total);
                }
                bar.set_position(done);
            }
            bar.set_message(now.line.clone().unwrap_or_default());
        }
    }

    /// Removes the moving line.
    pub(crate) fn still(&mut self) {
        if let Some((_, bar)) = self.moving.take() {
            bar.finish_and_clear();
        }
    }

    fn say(&mut self, text: &str) -> Result<(), Fault> {
        match self.stream {
            Stream::Data => self.out.data(text),
            Stream::Words => {
                self.out.words(text);
                Ok(())
            }
        }
    }
}

impl Drop for Board<'_> {
    fn drop(&mut self) {
        self.still();
    }
}

/// The width of a stream's terminal; `None` where it is none.
fn width_of(stream: impl AsFd) -> Option<u16> {
    terminal_size::terminal_size_of(stream).map(|(width, _)| width.0)
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()).progress_chars("=> ")
}
