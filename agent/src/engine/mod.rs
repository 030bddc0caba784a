//! Accepts requests and carries them out: an engine for each app, with a thread of its own, and the shared journal.

mod absent;
mod admission;
mod doctor;
mod drive;
mod engines;
mod fsck;
mod health;
mod immediate;
mod instance_logs;
pub(crate) mod journal;
mod poll;
mod last_signed;
mod monitor;
mod not_taken;
mod plan;
mod prepared;
mod replay;
mod rights;
mod run_log;
mod views;
mod app_thread;

use std::sync::Arc;
use std::sync::mpsc::Sender;

use agent_model::names::{AppName, RunId};
use agent_wire::event::{OutcomeWord, What};
use parking_lot::Mutex;

use crate::process::Cancel;
use crate::root::AppRoot;
use crate::settings::App;
use crate::work::chain;
pub(crate) use absent::{Absent, NotStarted};
use journal::{Journal, RunFlag};
use monitor::Monitor;
use poll::RefPoller;

pub(crate) use engines::Engines;
pub(crate) use health::ask_all;
pub(crate) use not_taken::{Accepted, NotTaken};
pub(crate) use poll::Heard;
pub(crate) use rights::Rights;

/// An app's engine, for all threads but its own.
pub(crate) struct AppEngine {
    name: AppName,
    root: AppRoot,
    journal: Arc<Journal>,
    app: Mutex<Arc<App>>,
    current: Mutex<Option<(RunId, Cancel)>>,
    wake: Mutex<Option<Sender<()>>>,
    phase: Mutex<Phase>,
    poller: RefPoller,
    rights: Arc<dyn Rights>,
    monitor: Monitor,
}

/// Whether an app's thread picks up due runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Working,
    /// It ends after the current run: the app was removed, or the agent stops.
    Leaving,
    /// It has ended, or is about to.
    Gone,
}

impl AppEngine {
    /// The settings in force; a run takes them when it begins and keeps them to its end.
    fn settings(&self) -> Arc<App> {
        self.app.lock().clone()
    }

    /// Applies settings. The engine holds one root from the first run to the last, so another root needs a restart.
    fn take_up(&self, app: &Arc<App>) -> Result<(), NotTaken> {
        let held = self.settings().root.clone();
        if app.root != held {
            return Err(NotTaken::RootMoved { set: app.root.clone(), held });
        }
        *self.app.lock() = app.clone();
        self.wake();
        Ok(())
    }

    fn draining(&self) -> bool {
        *self.phase.lock() != Phase::Working
    }

    /// Lets the thread end after the current run.
    fn leave(&self) {
        let mut phase = self.phase.lock();
        if *phase == Phase::Working {
            *phase = Phase::Leaving;
        }
        drop(phase);
        self.wake();
        self.poller.end();
    }

    /// Ends the waiting runs: no thread will pick them up, and a file that returns one day must not revive them.
    fn drop_what_waits(&self) {
        let live = self.root.live().unwrap_or_default().map(|live| live.to_string());
        for due in self.journal.due(&self.name).unwrap_or_default().into_iter().filter(|due| !due.begun) {
            let end = What::Ended { outcome: OutcomeWord::Cancelled, live: live.clone(), ms: 0, database: None };
            if let Err(err) = self.journal.append_unless(due.run, &end, RunFlag::Planned) {
                tracing::error!(run = due.run.0, "cannot be ended: {}", chain(&err));
            }
        }
    }

    /// Lets a thread that was to end continue, if it has not ended yet.
    fn stay(&self) -> bool {
        let mut phase = self.phase.lock();
        if *phase == Phase::Leaving {
            *phase = Phase::Working;
        }
        *phase == Phase::Working
    }

    /// Called by the thread itself: whether it ends now.
    fn ends(&self) -> bool {
        let mut phase = self.phase.lock();
        if *phase == Phase::Leaving {
            *phase = Phase::Gone;
        }
        *phase == Phase::Gone
    }

    fn begin(&self, run: RunId) -> Cancel {
        let cancel = Cancel::default();
        *self.current.lock() = Some((run, cancel.clone()));
        // A cancel may have been written just before it could be asked for here.
        if self.journal.has(run, RunFlag::CancelAsked).unwrap_or(false) {
            cancel.ask();
        }
        cancel
    }

    fn end(&self) {
        *self.current.lock() = None;
    }

    fn wake(&self) {
        if let Some(wake) = self.wake.lock().as_ref() {
            // The worker is gone only when the agent goes down.
            let _ = wake.send(());
        }
    }
}
