//! The strategy `uwsgi-fifo`: one byte to the master FIFO of uWSGI. uWSGI acknowledges nothing and ignores unknown bytes, and the master closes and
//! remakes the FIFO after each writer (`core/fifo.c`). The agent therefore opens it without waiting, retries for a moment, writes once, and reads the
//! result from the processes.

mod stats;

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::http::Wrong;
use crate::process::{Process, Ticks, holding, topmost};
use crate::restart::master::{Absent, Master, ShownBy, is_fresh};
use crate::restart::proof::go_on;
use crate::restart::server::{Server, shown_after_fork, times_without_app};
use crate::restart::{ReleaseRef, RestartContext, RestartError, unit_jobs};
use crate::systemd::UnitAction;
use stats::State;

/// How long the master may take to remake the FIFO.
const AGAIN: Duration = Duration::from_secs(2);
/// How long nothing may change until the agent writes `c` once more.
const IGNORED: Duration = Duration::from_secs(3);
/// How long workers that accept requests may have no app where no check asks them.
const WITHOUT_APP: Duration = Duration::from_secs(2);
/// The minimum number of answers that show a server without an app.
const ANSWERS: usize = 5;

/// `[restart] strategy = "uwsgi-fifo"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The FIFO (`master-fifo` in uWSGI's options).
    pub fifo: PathBuf,
    pub how: FifoCommand,
    /// The stats socket, where uWSGI has one: the best proof that every worker is new.
    pub stats: Option<PathBuf>,
    /// The unit that starts uWSGI when no process listens, and after `Q`.
    pub unit: Option<String>,
    /// How long until every worker is new.
    pub timeout: Duration,
}

/// The byte (uWSGI's documentation, "The Master FIFO").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FifoCommand {
    /// `r`: graceful reload.
    Graceful,
    /// `c`: chain reload; only with lazy-apps and pythonpath.
    Chain,
    /// `w`: reload of the workers; only with lazy-apps and pythonpath.
    Workers,
    /// `R`: brutal reload.
    Brutal,
    /// `Q` until no process listens; then the agent starts `unit`.
    Quit,
}

impl FifoCommand {
    fn byte(self) -> u8 {
        match self {
            Self::Graceful => b'r',
            Self::Chain => b'c',
            Self::Workers => b'w',
            Self::Brutal => b'R',
            Self::Quit => b'Q',
        }
    }

    fn replaces_every_child(self) -> bool {
        matches!(self, Self::Graceful | Self::Brutal | Self::Quit)
    }
}

impl Settings {
    /// The master: the process that has the FIFO open, or the one that the stats server names.
    pub(in crate::restart) fn master(&self) -> Option<Master> {
        let fifo = fs::canonicalize(&self.fifo).ok()?;
        let holders = topmost(&holding(&fifo));
        let stats = self.stats.as_deref().and_then(stats::ask);
        let holder = holders.first().copied();
        let process = holder.or_else(|| stats.as_ref().map(|stats| stats.master)).filter(Process::is_alive)?;
        let mut master = Master::of(process);
        if let Some(stats) = stats {
            master.workers = stats.workers.into_iter().map(|worker| worker.0).collect();
        }
        Some(master)
    }

    /// Waits for the master, which may be remaking its FIFO.
    fn await_master(&self, context: &RestartContext<'_>, patience: Duration) -> Option<Master> {
        let end = Instant::now() + patience;
        loop {
            match self.master() {
                Some(master) => return Some(master),
                None if Instant::now() > end || !context.watch.pause(Duration::from_millis(50)) => return None,
                None => {}
            }
        }
    }

    /// The workers that the stats server lists.
    fn workers(&self) -> Option<Vec<(Process, State)>> {
        self.stats.as_deref().and_then(stats::ask).map(|stats| stats.workers)
    }

    fn absent(&self) -> Absent<'static> {
        Absent { server: "uWSGI", seen: format!("nobody reads the FIFO {}", self.fifo.display()), timeout: self.timeout }
    }

    fn nobody(&self) -> RestartError {
        let absent = self.absent();
        absent.error(format!("{}: uWSGI is not running, or has another master-fifo", absent.seen))
    }

    pub(in crate::restart) fn prepare(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>) -> Result<Option<Master>, RestartError> {
        if self.how == FifoCommand::Quit && self.unit.is_none() {
            return Err(RestartError::SetUp {
                what: "Q ends uWSGI, and no unit is named that starts it again".to_owned(),
                hint: "name the unit as unit under [restart], or use another byte".to_owned(),
            });
        }
        match fs::metadata(&self.fifo) {
            Ok(meta) if !meta.file_type().is_fifo() => {
                return Err(RestartError::SetUp {
                    what: format!("{} is no FIFO", self.fifo.display()),
                    hint: "name the path that uWSGI has as master-fifo".to_owned(),
                });
            }
            Ok(_) if nix::unistd::access(&self.fifo, nix::unistd::AccessFlags::W_OK).is_err() => {
                return Err(RestartError::SetUp {
                    what: format!("the agent's user may not write to the FIFO {}", self.fifo.display()),
                    hint: "uWSGI makes it with mode 0600: the agent and uWSGI must run as the same user".to_owned(),
                });
            }
            _ => {}
        }
        let master = self.await_master(context, AGAIN);
        match (&master, &self.unit) {
            (Some(_), _) => Ok(master),
            (None, Some(unit)) => {
                unit_jobs::examine(context, UnitAction::Restart, std::iter::once(unit.as_str()))?;
                (context.warn)(&format!("nobody reads the FIFO {}; {unit} will be started", self.fifo.display()));
                Ok(None)
            }
            // The FIFO may be open to the agent although it cannot inspect another user's processes.
            (None, None) if open_fifo(&self.fifo).is_ok() => {
                (context.warn)(&format!(
                    "the master behind {} could not be found; only the checks will tell whether {} serves",
                    self.fifo.display(),
                    new.name
                ));
                Ok(None)
            }
            (None, None) => self.absent().at_first(context).map(|()| None),
        }
    }

    /// Writes the byte and waits until every worker is new. A master that started after the link led here needs no byte.
    pub(in crate::restart) fn act(
        &self,
        context: &RestartContext<'_>,
        new: ReleaseRef<'_>,
        since: Option<Ticks>,
    ) -> Result<Option<Master>, RestartError> {
        // The master remakes its FIFO after each byte, so a failed look may succeed a moment later.
        let before = self.await_master(context, AGAIN);
        if self.how == FifoCommand::Quit {
            return self.quit_and_start(context, new, before.as_ref());
        }
        match before {
            Some(master) if is_fresh(&master, since) => self.await_fresh(context, new, master),
            None if open_fifo(&self.fifo).is_err() => self.start(context, new),
            before => self.reload(context, new, before),
        }
    }

    fn reload(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>, before: Option<Master>) -> Result<Option<Master>, RestartError> {
        match self.write(context, self.how.byte()) {
            Err(RestartError::SetUp { .. }) => return self.start(context, new),
            written => written?,
        }
        (context.note)(&format!("wrote {} to {}", char::from(self.how.byte()), self.fifo.display()));
        let Some(before) = before else { return Ok(self.await_master(context, AGAIN)) };
        let shown_by = self.shown_by(context, &before.process);
        let before = before.shown_by(shown_by);
        if self.stats.is_some() || self.how.replaces_every_child() {
            self.await_replaced(context, new, &before)?;
        } else {
            self.await_some(context, new, &before)?;
        }
        let workers = before.process.children();
        Ok(Some(before.with_workers(workers)))
    }

    /// The evidence of which release the workers of this master run.
    pub(in crate::restart) fn shown_by(&self, context: &RestartContext<'_>, master: &Process) -> ShownBy {
        if self.how.replaces_every_child() { ShownBy::Directory } else { shown_after_fork(context, Server::of(master, None)) }
    }

    /// Waits until every worker is a new process and, as far as the stats server shows, has tried to load the app.
    fn await_replaced(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>, before: &Master) -> Result<(), RestartError> {
        let mut ignored = Ignored::new(self, before);
        let mut without_app: Option<Instant> = None;
        before.await_workers(context, new, self.timeout, || {
            if self.stats.is_none() {
                return Ok(before.process.children());
            }
            let workers = self.workers().unwrap_or_default();
            let processes: Vec<Process> = workers.iter().map(|worker| worker.0).collect();
            if processes.iter().any(|process| before.workers.contains(process)) {
                ignored.look(context, &processes)?;
            }
            if workers.iter().all(|(_, state)| *state == State::Ready) {
                return Ok(processes);
            }
            if !workers.iter().all(|(_, state)| *state == State::WithoutApp) {
                return Ok(Vec::new());
            }
            // The first request may load an app, so the checks ask; they also notice if there is no app.
            if !context.checks.is_empty() {
                return Ok(processes);
            }
            if without_app.get_or_insert_with(Instant::now).elapsed() > WITHOUT_APP {
                let what = format!("every worker of uWSGI accepts requests, and none has an app: {} could not be loaded", new.name);
                return Err(before.error(what, Some("uWSGI's log has the traceback")));
            }
            Ok(Vec::new())
        })
    }

    /// The reason to stop asking uWSGI, if there is one: it repeatedly sent its own 500, and neither its stats server nor its log shows an app.
    pub(in crate::restart) fn has_no_app(
        &self,
        master: &Master,
        new: ReleaseRef<'_>,
        wrong: &Wrong,
        tries: &Cell<usize>,
    ) -> Option<String> {
        let times = times_without_app(wrong, tries);
        let workers = self.workers();
        let least = ANSWERS.max(2 * workers.as_ref().map_or(0, Vec::len));
        if times < least {
            return None;
        }
        let said = |line: &String| line.contains("no python application found") || line.contains("*** no app loaded");
        let has_none = match workers {
            Some(workers) => workers.iter().all(|(_, state)| *state == State::WithoutApp),
            None => !master.has_log() || master.tail().iter().any(said),
        };
        has_none.then(|| format!("uWSGI has no app: it could not load {}, and answered so {times} times in a row", new.name))
    }

    /// A chain reload leaves the children that are no workers (the http router, spoolers), and only the stats server tells them apart. Without it,
    /// the workers count as replaced once nothing has changed for a while.
    fn await_some(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>, before: &Master) -> Result<(), RestartError> {
        const QUIET: Duration = Duration::from_secs(10);
        let end = Instant::now() + self.timeout;
        let mut seen = before.process.children();
        let mut changed = Instant::now();
        let mut ignored = Ignored::new(self, before);
        loop {
            before.check_alive(new)?;
            let now = before.process.children();
            if now != seen {
                (seen, changed) = (now.clone(), Instant::now());
            }
            let old = now.iter().filter(|child| before.workers.contains(child)).count();
            let stray = before.stray(&now, new).is_some();
            if old == before.workers.len() {
                ignored.look(context, &now)?;
            }
            if old == 0 && !now.is_empty() && !stray {
                return Ok(());
            }
            if old < before.workers.len() && !stray && changed.elapsed() > QUIET {
                (context.warn)(&format!(
                    "{old} processes of uWSGI were not replaced; set stats under [restart], which tells workers from others"
                ));
                return Ok(());
            }
            if Instant::now() > end {
                return before.await_new(context, new, Duration::ZERO);
            }
            go_on(context, "waiting for the workers to be replaced")?;
            context.watch.pause(Duration::from_millis(20));
        }
    }

    pub(in crate::restart) fn start(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>) -> Result<Option<Master>, RestartError> {
        let since = Ticks::now();
        let master = match &self.unit {
            Some(unit) => {
                unit_jobs::start(context, unit, self.timeout)?;
                self.await_master(context, Duration::from_secs(5)).ok_or_else(|| self.nobody())?
            }
            None => self.absent().await_started(context, new, || self.master())?,
        };
        // A master that started before the link led here may have loaded another release.
        if self.unit.is_none() && !is_fresh(&master, Some(since)) {
            return self.reload(context, new, Some(master));
        }
        self.await_fresh(context, new, master)
    }

    /// For a master that was only started: all its workers are new.
    fn await_fresh(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>, master: Master) -> Result<Option<Master>, RestartError> {
        let fresh = master.with_workers(Vec::new());
        self.await_replaced(context, new, &fresh)?;
        Ok(Some(fresh))
    }

    /// Writes `Q` repeatedly, because the FIFO may be about to be remade.
    fn quit_and_start(
        &self,
        context: &RestartContext<'_>,
        new: ReleaseRef<'_>,
        before: Option<&Master>,
    ) -> Result<Option<Master>, RestartError> {
        let end = Instant::now() + self.timeout;
        while before.is_some_and(|before| before.process.is_alive()) || before.is_none() && open_fifo(&self.fifo).is_ok() {
            // The loop waits for the moment when no process reads any more.
            let _ = open_fifo(&self.fifo).and_then(|mut fifo| fifo.write_all(b"Q"));
            if Instant::now() > end {
                let what = format!("uWSGI did not go within {} s of Q", self.timeout.as_secs());
                return Err(before.map_or_else(|| self.nobody(), |before| before.error(what, Some("raise timeout under [restart]"))));
            }
            go_on(context, "waiting for uWSGI to go")?;
            context.watch.pause(Duration::from_millis(50));
        }
        (context.note)("uWSGI is gone");
        self.start(context, new)
    }

    /// Writes one byte to the current reader, or to one that appears within a moment.
    fn write(&self, context: &RestartContext<'_>, byte: u8) -> Result<(), RestartError> {
        let end = Instant::now() + AGAIN;
        loop {
            let error = match open_fifo(&self.fifo).and_then(|mut fifo| fifo.write_all(&[byte])) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let momentary = matches!(
                Errno::from_raw(error.raw_os_error().unwrap_or_default()),
                Errno::ENXIO | Errno::ENOENT | Errno::EPIPE | Errno::EAGAIN
            );
            if !momentary {
                return Err(RestartError::File { act: "write to the FIFO", path: self.fifo.clone(), source: error });
            }
            if Instant::now() > end {
                return Err(self.nobody());
            }
            go_on(context, "writing to uWSGI's FIFO")?;
            context.watch.pause(Duration::from_millis(20));
        }
    }
}

/// Writes `c` again if uWSGI has ignored it. uWSGI ignores it during another chain reload (`uwsgi_chain_reload` of its `core/master_utils.c`), which
/// is common on the way back, when that reload replaced some workers before the link changed. If the first `c` was accepted, uWSGI ignores the
/// second.
struct Ignored<'a> {
    settings: &'a Settings,
    seen: Vec<Process>,
    changed: Instant,
}

impl<'a> Ignored<'a> {
    fn new(settings: &'a Settings, before: &Master) -> Self {
        Self { settings, seen: before.workers.clone(), changed: Instant::now() }
    }

    fn look(&mut self, context: &RestartContext<'_>, now: &[Process]) -> Result<(), RestartError> {
        if now != self.seen {
            (self.seen, self.changed) = (now.to_vec(), Instant::now());
        }
        if self.settings.how == FifoCommand::Chain && self.changed.elapsed() > IGNORED {
            self.settings.write(context, FifoCommand::Chain.byte())?;
            self.changed = Instant::now();
        }
        Ok(())
    }
}

/// Opens the FIFO without waiting for a reader: without one, open fails with ENXIO.
fn open_fifo(path: &Path) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC).open(path)?;
    if file.metadata()?.file_type().is_fifo() { Ok(file) } else { Err(io::Error::other("it is no FIFO")) }
}

#[cfg(test)]
mod tests;
