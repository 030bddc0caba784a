//! The engines of all apps: how they follow the settings, and how they end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_model::names::AppName;
use agent_wire::event::{OutcomeWord, What};
use parking_lot::{Mutex, RwLock};

use super::app_thread::AppThread;
use super::journal::{Journal, JournalError};
use super::monitor::Monitor;
use super::poll::RefPoller;
use super::{Absent, AppEngine, NotStarted, NotTaken, Phase, Rights};
use crate::root::{AppRoot, RootError};
use crate::settings::{App, Settings};
use crate::work::chain;

pub(crate) struct Engines {
    journal: Arc<Journal>,
    rights: Arc<dyn Rights>,
    apps: RwLock<BTreeMap<AppName, Running>>,
    /// Engines of apps that were removed, until their last run has ended.
    leaving: Mutex<Vec<Running>>,
    /// Apps that have a file, and no engine.
    absent: Mutex<BTreeMap<AppName, Absent>>,
    draining: AtomicBool,
    failed: tokio::sync::mpsc::UnboundedSender<JournalError>,
}

struct Running {
    engine: Arc<AppEngine>,
    thread: JoinHandle<()>,
}

impl Engines {
    /// Starts without engines. A journal that fails during a run is sent through `failed`: then the agent must stop and start again.
    pub(crate) fn new(journal: Arc<Journal>, rights: Arc<dyn Rights>, failed: tokio::sync::mpsc::UnboundedSender<JournalError>) -> Self {
        Self {
            journal,
            rights,
            apps: RwLock::default(),
            leaving: Mutex::default(),
            absent: Mutex::default(),
            draining: AtomicBool::new(false),
            failed,
        }
    }

    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Ends the immediate actions that a crash cut off.
    pub(crate) fn recover_spot(&self) -> Result<(), JournalError> {
        for run in self.journal.cut_off_on_the_spot()? {
            self.journal.append(run, &[What::Stopped, What::Ended { outcome: OutcomeWord::Failed, live: None, ms: 0, database: None }])?;
        }
        Ok(())
    }

    /// Applies settings: new apps get an engine, changed ones get the new settings, removed ones stop after their current run. Returns the apps that
    /// could not be started.
    pub(crate) fn apply(&self, settings: &Settings) -> Vec<NotStarted> {
        let mut troubles = Vec::new();
        let removed: Vec<AppName> =
            self.all().iter().map(|engine| engine.name.clone()).filter(|name| !settings.apps.contains_key(name)).collect();
        for name in removed {
            if let Some(running) = self.apps.write().remove(&name) {
                running.engine.leave();
                running.engine.drop_what_waits();
                self.leaving.lock().push(running);
            }
        }
        let mut absent: BTreeMap<AppName, Absent> = BTreeMap::new();
        for (name, complaint) in &settings.broken {
            let why = format!("has no settings in force: {complaint}");
            absent.insert(
                name.clone(),
                Absent { app: name.clone(), why, hint: Some("mend the file: it is read again when it changes".to_owned()) },
            );
        }
        for (name, app) in &settings.apps {
            let taken_up = match self.get(name) {
                Some(engine) => engine.take_up(app),
                // This happens outside of the lock that requests need, because recovering an app runs programs.
                None => self.come_back(name, app).map_or_else(|| self.start(name, app), Ok).map(|running| {
                    self.apps.write().insert(name.clone(), running);
                }),
            };
            if let Err(source) = taken_up {
                if self.get(name).is_none() {
                    absent.insert(name.clone(), Absent::new(app, &source));
                }
                troubles.push(NotStarted { app: name.clone(), source });
            }
        }
        *self.absent.lock() = absent;
        troubles
    }

    /// The engine of an app that was removed a moment ago and is still running; it continues with the current settings.
    fn come_back(&self, name: &AppName, app: &Arc<App>) -> Option<Running> {
        let mut leaving = self.leaving.lock();
        leaving.retain(|running| !running.thread.is_finished());
        let at = leaving.iter().position(|running| running.engine.name == *name && running.engine.stay())?;
        let running = leaving.swap_remove(at);
        if let Err(err) = running.engine.take_up(app) {
            tracing::error!(app = %name, "{}", chain(&err));
        }
        Some(running)
    }

    fn start(&self, name: &AppName, app: &Arc<App>) -> Result<Running, NotTaken> {
        let root = AppRoot::open(&app.root)?;
        let lock = root.hold()?;
        let (wake, wakes) = channel();
        let engine = Arc::new(AppEngine {
            name: name.clone(),
            root,
            journal: self.journal.clone(),
            app: Mutex::new(app.clone()),
            current: Mutex::default(),
            wake: Mutex::new(Some(wake)),
            phase: Mutex::new(Phase::Working),
            poller: RefPoller::default(),
            rights: self.rights.clone(),
            monitor: Monitor::default(),
        });
        let thread = Arc::new(AppThread { engine: engine.clone(), lock });
        // Recovery comes before any new request.
        thread.recover()?;
        let failed = self.failed.clone();
        let thread = std::thread::Builder::new().name(format!("app-{name}")).spawn(move || {
            if let Err(err) = thread.work(&wakes) {
                // The receiver is gone only when the agent is going down already.
                let _ = failed.send(err);
            }
        });
        let thread = thread.map_err(|source| RootError::Io { act: "start a thread for", path: app.root.clone(), source })?;
        Ok(Running { engine, thread })
    }

    pub(crate) fn get(&self, app: &AppName) -> Option<Arc<AppEngine>> {
        self.apps.read().get(app).map(|running| running.engine.clone())
    }

    /// The reason why an app has no engine.
    pub(crate) fn absent(&self, app: &AppName) -> NotTaken {
        self.absent.lock().get(app).map_or_else(|| NotTaken::NoApp(app.clone()), |absent| absent.clone().into())
    }

    /// The apps with valid settings that have no engine.
    pub(crate) fn not_set_up(&self, settings: &Settings) -> Vec<Absent> {
        self.absent.lock().values().filter(|absent| settings.apps.contains_key(&absent.app)).cloned().collect()
    }

    pub(crate) fn all(&self) -> Vec<Arc<AppEngine>> {
        self.apps.read().values().map(|running| running.engine.clone()).collect()
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Refuses new requests from now on.
    pub(crate) fn refuse_new(&self) {
        self.draining.store(true, Ordering::Release);
        for engine in self.all() {
            engine.leave();
        }
    }

    /// Waits for the current runs. After `patience`, the rest is cancelled and undone.
    pub(crate) fn drain(&self, patience: Duration) {
        self.refuse_new();
        let end = Instant::now() + patience;
        let mut cancelled = false;
        loop {
            let runs = |running: &Running| !running.thread.is_finished() || running.engine.poller.is_at_work();
            let staying = self.apps.read().values().any(runs);
            if !staying && !self.leaving.lock().iter().any(runs) {
                return;
            }
            if Instant::now() >= end && !cancelled {
                cancelled = true;
                let leaving: Vec<_> = self.leaving.lock().iter().map(|running| running.engine.clone()).collect();
                for engine in self.all().into_iter().chain(leaving) {
                    let current = engine.current.lock().as_ref().map(|(run, _)| *run);
                    if let Some(run) = current
                        && let Err(err) = engine.cancel(run, "agent")
                    {
                        tracing::info!(run = run.0, "not cancelled: {}", chain(&err));
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
