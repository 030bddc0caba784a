//! One byte to the master FIFO of uWSGI. It acknowledges nothing, ignores what it does not know, and the master closes and makes it anew after each
//! writer (`core/fifo.c`): so it is opened without waiting, again and again for a moment, written to once, and what happened is read from the
//! processes.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde::Deserialize;

use super::bus::Act;
use super::master::Master;
use super::proof::{elsewhere, go_on};
use super::{RestartError, Scene, Serving, systemd};
use crate::tools::{Process, holding, topmost};

/// How long the master may take to make the FIFO anew.
const AGAIN: Duration = Duration::from_secs(2);

/// `[restart] strategy = "uwsgi-fifo"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The FIFO (`master-fifo` in uWSGI's options).
    pub fifo: PathBuf,
    /// What is written.
    pub how: How,
    /// The stats socket, where uWSGI has one: the best proof that every worker is new.
    pub stats: Option<PathBuf>,
    /// The unit that starts uWSGI when nobody listens, and after `Q`.
    pub unit: Option<String>,
    /// How long until every worker is new.
    pub timeout: Duration,
}

/// The byte (uWSGI's documentation, "The Master FIFO").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// `r`: graceful reload.
    Graceful,
    /// `c`: chain reload; only with lazy-apps and pythonpath.
    Chain,
    /// `w`: reload of the workers; only with lazy-apps and pythonpath.
    Workers,
    /// `R`: brutal reload.
    Brutal,
    /// `Q` until nothing listens, then `unit` is started.
    Quit,
}

impl How {
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

/// What the stats server says: the part that is read.
#[derive(Debug, Deserialize)]
struct Stats {
    pid: u32,
    #[serde(default)]
    workers: Vec<StatsWorker>,
}

#[derive(Debug, Deserialize)]
struct StatsWorker {
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    accepting: u32,
    #[serde(default)]
    apps: Vec<serde_json::Value>,
}

impl Settings {
    /// The master: who has the FIFO open, or whom the stats server names.
    pub(super) fn master(&self) -> Option<Master> {
        let fifo = fs::canonicalize(&self.fifo).ok()?;
        let holders = topmost(&holding(&fifo));
        let holder = holders.first().copied();
        let process = holder.or_else(|| self.stats().map(|stats| Process::of(stats.pid))).filter(Process::is_alive)?;
        let mut master = Master::of(process);
        if let Some(workers) = self.stats_workers() {
            master.workers = workers.into_iter().map(|worker| worker.0).collect();
        }
        Some(master)
    }

    /// The master, which may be making its FIFO anew.
    fn await_master(&self, scene: &Scene<'_>, patience: Duration) -> Option<Master> {
        let end = Instant::now() + patience;
        loop {
            match self.master() {
                Some(master) => return Some(master),
                None if Instant::now() > end || !scene.watch.pause(Duration::from_millis(50)) => return None,
                None => {}
            }
        }
    }

    fn stats(&self) -> Option<Stats> {
        let stream = UnixStream::connect(self.stats.as_ref()?).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        let mut text = String::new();
        stream.take(16 * 1024 * 1024).read_to_string(&mut text).ok()?;
        // With stats-http, headers stand before it.
        serde_json::from_str(&text[text.find('{')?..]).ok()
    }

    /// The workers, and whether each has loaded its app and accepts requests; nothing without a stats server.
    fn stats_workers(&self) -> Option<Vec<(Process, bool)>> {
        let stats = self.stats()?;
        let workers = stats.workers.into_iter().filter(|worker| worker.pid != 0);
        Some(workers.map(|worker| (Process::of(worker.pid), worker.accepting != 0 && !worker.apps.is_empty())).collect())
    }

    fn nobody(&self) -> RestartError {
        RestartError::SetUp {
            what: format!("nobody reads the FIFO {}: uWSGI is not running, or has another one", self.fifo.display()),
            cure: "start uWSGI with master-fifo set to that path, or name the unit that starts it as unit under [restart]".to_owned(),
        }
    }

    pub(super) fn prepare(&self, scene: &Scene<'_>, new: Serving<'_>) -> Result<Option<Master>, RestartError> {
        if self.how == How::Quit && self.unit.is_none() {
            return Err(RestartError::SetUp {
                what: "Q ends uWSGI, and no unit is named that starts it again".to_owned(),
                cure: "name the unit as unit under [restart], or use another byte".to_owned(),
            });
        }
        match fs::metadata(&self.fifo) {
            Ok(meta) if !meta.file_type().is_fifo() => {
                return Err(RestartError::SetUp {
                    what: format!("{} is no FIFO", self.fifo.display()),
                    cure: "name the path that uWSGI has as master-fifo".to_owned(),
                });
            }
            Ok(_) if nix::unistd::access(&self.fifo, nix::unistd::AccessFlags::W_OK).is_err() => {
                return Err(RestartError::SetUp {
                    what: format!("the agent's user may not write to the FIFO {}", self.fifo.display()),
                    cure: "uWSGI makes it with mode 0600: the agent and uWSGI must run as the same user".to_owned(),
                });
            }
            _ => {}
        }
        let master = self.await_master(scene, AGAIN);
        match (&master, &self.unit) {
            (Some(_), _) => Ok(master),
            (None, Some(unit)) => {
                systemd::examine(scene, Act::Restart, std::iter::once(unit.as_str()))?;
                (scene.warn)(&format!("nobody reads the FIFO {}; {unit} will be started", self.fifo.display()));
                Ok(None)
            }
            // Another user's processes cannot be looked into, though the FIFO may be open to the agent.
            (None, None) if open_fifo(&self.fifo).is_ok() => {
                (scene.warn)(&format!(
                    "the master behind {} could not be found; only the checks will tell whether {} serves",
                    self.fifo.display(),
                    new.name
                ));
                Ok(None)
            }
            (None, None) => Err(self.nobody()),
        }
    }

    /// Writes the byte and waits until every worker is new.
    pub(super) fn act(&self, scene: &Scene<'_>, new: Serving<'_>) -> Result<Option<Master>, RestartError> {
        // The master makes its FIFO anew after each byte: one that cannot be found at once may be found in a moment.
        let before = self.await_master(scene, AGAIN);
        if self.how == How::Quit {
            return self.quit_and_start(scene, new, before.as_ref());
        }
        if let Err(error) = self.write(scene, self.how.byte()) {
            return match (&self.unit, error) {
                (Some(_), RestartError::SetUp { .. }) => self.start(scene, new),
                (_, error) => Err(error),
            };
        }
        (scene.note)(&format!("wrote {} to {}", char::from(self.how.byte()), self.fifo.display()));
        let Some(before) = before else { return Ok(self.await_master(scene, AGAIN)) };
        if self.stats.is_some() {
            before.await_workers(scene, new, self.timeout, || self.loaded())?;
        } else if self.how.replaces_every_child() {
            before.await_new(scene, new, self.timeout)?;
        } else {
            self.await_some(scene, new, &before)?;
        }
        let workers = before.process.children();
        Ok(Some(before.with_workers(workers)))
    }

    /// The workers of the stats server, once all of them have loaded their app.
    fn loaded(&self) -> Vec<Process> {
        let workers = self.stats_workers().unwrap_or_default();
        if workers.iter().all(|(_, loaded)| *loaded) { workers.into_iter().map(|worker| worker.0).collect() } else { Vec::new() }
    }

    /// A chain reload leaves the children that are no workers (the http router, spoolers), and only the stats server tells which they are: the
    /// workers count as replaced when nothing has changed any more for a while.
    fn await_some(&self, scene: &Scene<'_>, new: Serving<'_>, before: &Master) -> Result<(), RestartError> {
        const QUIET: Duration = Duration::from_secs(10);
        let end = Instant::now() + self.timeout;
        let mut seen = before.process.children();
        let mut changed = Instant::now();
        loop {
            before.check_alive(new)?;
            let now = before.process.children();
            if now != seen {
                (seen, changed) = (now.clone(), Instant::now());
            }
            let old = now.iter().filter(|child| before.workers.contains(child)).count();
            let stray = elsewhere(&now, new).is_some();
            if old == 0 && !now.is_empty() && !stray {
                return Ok(());
            }
            if old < before.workers.len() && !stray && changed.elapsed() > QUIET {
                (scene.warn)(&format!(
                    "{old} processes of uWSGI were not replaced; set stats under [restart], which tells workers from others"
                ));
                return Ok(());
            }
            if Instant::now() > end {
                return before.await_new(scene, new, Duration::ZERO);
            }
            go_on(scene, "waiting for the workers to be replaced")?;
            scene.watch.pause(Duration::from_millis(20));
        }
    }

    fn start(&self, scene: &Scene<'_>, new: Serving<'_>) -> Result<Option<Master>, RestartError> {
        let Some(unit) = &self.unit else { return Err(self.nobody()) };
        systemd::start(scene, unit, self.timeout)?;
        let Some(master) = self.await_master(scene, Duration::from_secs(5)) else { return Err(self.nobody()) };
        // It was only started: whoever it has is new.
        let fresh = master.with_workers(Vec::new());
        fresh.await_new(scene, new, self.timeout)?;
        Ok(Some(fresh))
    }

    /// `Q` again and again: the byte may meet a FIFO that is being made anew.
    fn quit_and_start(&self, scene: &Scene<'_>, new: Serving<'_>, before: Option<&Master>) -> Result<Option<Master>, RestartError> {
        let end = Instant::now() + self.timeout;
        while before.is_some_and(|before| before.process.is_alive()) || before.is_none() && open_fifo(&self.fifo).is_ok() {
            // Nobody there any more is what is waited for.
            let _ = open_fifo(&self.fifo).and_then(|mut fifo| fifo.write_all(b"Q"));
            if Instant::now() > end {
                let what = format!("uWSGI did not go within {} s of Q", self.timeout.as_secs());
                return Err(before.map_or_else(|| self.nobody(), |before| before.error(what, Some("raise timeout under [restart]"))));
            }
            go_on(scene, "waiting for uWSGI to go")?;
            scene.watch.pause(Duration::from_millis(50));
        }
        (scene.note)("uWSGI is gone");
        self.start(scene, new)
    }

    /// One byte, to whoever reads now or within a moment.
    fn write(&self, scene: &Scene<'_>, byte: u8) -> Result<(), RestartError> {
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
            go_on(scene, "writing to uWSGI's FIFO")?;
            scene.watch.pause(Duration::from_millis(20));
        }
    }
}

/// Opened without waiting for a reader: where there is none, that is an error and no wait (ENXIO).
fn open_fifo(path: &Path) -> io::Result<fs::File> {
    let file = fs::OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC).open(path)?;
    if file.metadata()?.file_type().is_fifo() { Ok(file) } else { Err(io::Error::other("it is no FIFO")) }
}

#[cfg(test)]
mod tests;
