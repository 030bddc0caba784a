//! What takes requests and carries them out: an engine for each app, with a thread of its own, and the journal that they share.

mod absent;
mod doctor;
mod fsck;
mod health;
pub(crate) mod journal;
mod poll;
mod last_signed;
mod monitor;
mod plan;
mod replay;
mod rights;
mod run_log;
mod views;
mod app_thread;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_model::grant::{Authorised, Caller, RefPattern};
use agent_model::names::{AppName, CommitId, RefName, ReleaseName, ReleaseSelector, RunId, Selected};
use agent_model::request::{Act, Lock, Refusal, Request, Standing};
use agent_wire::event::{OutcomeWord, What};
use agent_wire::form::Form;
use chrono::{DateTime, Utc};
use thiserror::Error;

use crate::faults;
use crate::root::{AppRoot, RootError};
use crate::settings::{App, Settings};
use crate::tools::Cancel;
use crate::work::chain;
pub(crate) use absent::{Absent, NotStarted};
use app_thread::AppThread;
use journal::{Evidence, Journal, JournalError, Limit, NewRun, RunFlag, Taken};
use monitor::Monitor;
use poll::RefPoller;

pub(crate) use health::ask_all;
pub(crate) use poll::Heard;
pub(crate) use rights::Rights;

/// Why a request was not taken.
#[derive(Debug, Error)]
pub(crate) enum NotTaken {
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no such app.
    #[error("there is no app {0}")]
    NoApp(AppName),
    /// Its file is there, and the app is not in force.
    #[error(transparent)]
    Absent(#[from] Absent),
    /// There is no such run, or not of this app.
    #[error("there is no run {0}")]
    NoRun(RunId),
    /// The run is over.
    #[error("run {0} is over")]
    Over(RunId),
    /// Visitors may have met the new release already.
    #[error("run {0} has switched to the new release, and can no longer be cancelled")]
    TooLate(RunId),
    /// There is no such release.
    #[error("{}", no_release(selector))]
    NoRelease {
        /// How it was named.
        selector: ReleaseSelector,
        /// Those that there are, newest first.
        there: Vec<ReleaseName>,
    },
    /// Several releases fit.
    #[error("{selector} may be {}", fitting.iter().map(ReleaseName::as_str).collect::<Vec<_>>().join(" or "))]
    Ambiguous {
        /// How it was named.
        selector: ReleaseSelector,
        /// Those that fit.
        fitting: Vec<ReleaseName>,
    },
    /// Another root is set than the one that the agent holds.
    #[error("root is now set to {}, and the agent holds {}", set.display(), held.display())]
    RootMoved {
        /// What is set.
        set: PathBuf,
        /// What is held.
        held: PathBuf,
    },
    /// The nonce was used for another request.
    #[error("the nonce was used before, for another request")]
    NonceReused,
    /// The ID token has started a run before.
    #[error("the ID token has started a run before, and serves once")]
    TokenReused,
    /// Somebody has asked for the commit, and a webhook asks for none a second time.
    #[error("somebody has asked for that commit before")]
    AskedBefore,
    /// The same may be so of a run at hand.
    #[error("the runs at hand have not said yet which commit they release")]
    TooEarly,
    /// The grant allows releases, and not of this ref.
    #[error("{caller} may not release {reference}: the grant allows {}", refs.join(", "))]
    RefNotGranted {
        /// Who asked.
        caller: String,
        /// The ref.
        reference: RefName,
        /// The patterns of the grant.
        refs: Vec<String>,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// git, for a plan.
    #[error(transparent)]
    Git(#[from] crate::tools::git::GitError),
}

/// That nothing fits a selector.
fn no_release(selector: &ReleaseSelector) -> String {
    match selector {
        ReleaseSelector::Previous => "there is no release to go back to: no other that is still there was live before this one".to_owned(),
        ReleaseSelector::Prefix(_) => format!("there is no release {selector}"),
    }
}

/// The number of the run that a request has, and whether it is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It was taken now.
    New(RunId),
    /// The same bytes had been taken before.
    Before(RunId),
}

/// An app's engine, for everyone but its own thread.
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

/// Whether an app's thread takes up what is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It does.
    Working,
    /// It ends after the run at hand: the app was removed, or the agent stops.
    Leaving,
    /// It has ended, or is about to.
    Gone,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes hold is replaced whole; a panic elsewhere cannot leave it half-changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AppEngine {
    /// The settings in force; a run takes them when it begins and keeps them to its end.
    fn settings(&self) -> Arc<App> {
        locked(&self.app).clone()
    }

    /// Takes settings up. A root is held from the first run to the last: another one needs another start.
    fn take_up(&self, app: &Arc<App>) -> Result<(), NotTaken> {
        let held = self.settings().root.clone();
        if app.root != held {
            return Err(NotTaken::RootMoved { set: app.root.clone(), held });
        }
        *locked(&self.app) = app.clone();
        self.wake();
        Ok(())
    }

    fn draining(&self) -> bool {
        *locked(&self.phase) != Phase::Working
    }

    /// Lets the thread end after the run at hand.
    fn leave(&self) {
        let mut phase = locked(&self.phase);
        if *phase == Phase::Working {
            *phase = Phase::Leaving;
        }
        drop(phase);
        self.wake();
        self.poller.end();
    }

    /// Ends the runs that wait: nobody will take them up, and a file that comes back one day must not bring them back.
    fn drop_what_waits(&self) {
        let live = self.root.live().unwrap_or_default().map(|live| live.to_string());
        for due in self.journal.due(&self.name).unwrap_or_default().into_iter().filter(|due| !due.begun) {
            let end = What::Ended { outcome: OutcomeWord::Cancelled, live: live.clone(), ms: 0, database: None };
            if let Err(err) = self.journal.append_unless(due.run, &end, RunFlag::Planned) {
                tracing::error!(run = due.run.0, "cannot be ended: {}", chain(&err));
            }
        }
    }

    /// Lets a thread that was to end go on, if it has not ended yet.
    fn stay(&self) -> bool {
        let mut phase = locked(&self.phase);
        if *phase == Phase::Leaving {
            *phase = Phase::Working;
        }
        *phase == Phase::Working
    }

    /// Asked by the thread itself: whether it ends now.
    fn ends(&self) -> bool {
        let mut phase = locked(&self.phase);
        if *phase == Phase::Leaving {
            *phase = Phase::Gone;
        }
        *phase == Phase::Gone
    }

    fn begin(&self, run: RunId) -> Cancel {
        let cancel = Cancel::default();
        *locked(&self.current) = Some((run, cancel.clone()));
        // A cancel may have been written just before it could be asked for here.
        if self.journal.has(run, RunFlag::CancelAsked).unwrap_or(false) {
            cancel.ask();
        }
        cancel
    }

    fn end(&self) {
        *locked(&self.current) = None;
    }

    fn wake(&self) {
        if let Some(wake) = locked(&self.wake).as_ref() {
            // The worker is gone only when the agent goes down.
            let _ = wake.send(());
        }
    }

    fn standing(&self, mut standing: Standing) -> Result<Standing, RootError> {
        standing.lock = self.root.lock()?;
        standing.live = self.root.live().unwrap_or_default();
        standing.when_busy = self.settings().when_busy;
        standing.draining = self.draining();
        Ok(standing)
    }

    /// Takes a request: from here on it has a number, and will end.
    pub(crate) fn take(&self, authorised: &Authorised, request: &Request, form: &Form, evidence: &Evidence) -> Result<Accepted, NotTaken> {
        let caller = authorised.caller().to_string();
        if let Err(refused) = self.refuse_what_cannot_be_meant(&request.act) {
            // What was taken once keeps its answer, though it could not be asked anew: the run to cancel is over, the release to activate is pruned.
            return match self.journal.asked_before(&form.nonce, &evidence.text, &caller)? {
                Some(Taken::Before(run)) => Ok(Accepted::Before(run)),
                Some(Taken::NonceReused) => Err(NotTaken::NonceReused),
                _ => Err(refused),
            };
        }
        rights::allows_the_ref(authorised, &request.act)?;
        let proof = self.rights.remember(authorised.caller());
        let of = form
            .revision
            .clone()
            .or_else(|| form.commit.clone())
            .or_else(|| form.release.clone())
            .or_else(|| form.run.map(|run| run.to_string()))
            .or_else(|| form.why.clone());
        let token = match authorised.caller() {
            Caller::Token { issuer, id, .. } => Some(format!("{issuer} {id}")),
            _ => None,
        };
        let refs: Option<Vec<String>> =
            authorised.refs().map(|refs| refs.iter().map(|pattern: &RefPattern| pattern.as_str().to_owned()).collect());
        // Whoever asks for a commit may ask twice; a webhook only says that there may be one.
        let first_for = match authorised.caller() {
            Caller::Webhook { .. } => form.commit.as_ref().and_then(|commit| commit.parse::<CommitId>().ok()),
            _ => None,
        };
        let asked = NewRun {
            app: &self.name,
            action: request.act.right().word(),
            of: of.as_deref(),
            caller: &caller,
            evidence,
            proof: proof.as_deref(),
            refs: refs.as_deref(),
            back: authorised.back(),
            nonce: &form.nonce,
            token: token.as_deref(),
            limit: if authorised.caller().has_no_limit() { Limit::None } else { Limit::Share },
            takes_turns: request.act.takes_turns(),
            first_for: first_for.as_ref(),
        };
        // What admission needs of the root is read before the transaction, and nobody but this app's requests changes it.
        let about_the_root = self.standing(Standing::default())?;
        let taken = self.journal.take(&asked, |standing| {
            let standing =
                Standing { running: standing.running, waiting: standing.waiting, stuck: standing.stuck, ..about_the_root.clone() };
            standing.admit(request)
        })?;
        match taken {
            Taken::New(run) => {
                faults::at("accepted");
                self.remember(run, evidence, token.as_deref());
                if request.act.takes_turns() {
                    self.wake();
                } else {
                    self.on_the_spot(run, &request.act, &caller)?;
                }
                Ok(Accepted::New(run))
            }
            Taken::Before(run) => Ok(Accepted::Before(run)),
            Taken::NonceReused => Err(NotTaken::NonceReused),
            Taken::TokenReused => Err(NotTaken::TokenReused),
            Taken::AskedBefore => Err(NotTaken::AskedBefore),
            Taken::TooEarly => Err(NotTaken::TooEarly),
            Taken::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// Names of releases and runs are looked up before the request is taken, so that a slip of the finger is answered at once.
    fn refuse_what_cannot_be_meant(&self, act: &Act) -> Result<(), NotTaken> {
        match act {
            Act::Activate { release } | Act::Pin { release } | Act::Unpin { release } => self.find(release).map(|_| ()),
            Act::Cancel { run } => {
                let known = self.journal.run(*run)?.filter(|known| known.app == self.name.as_str()).ok_or(NotTaken::NoRun(*run))?;
                if known.ended.is_some() {
                    return Err(NotTaken::Over(*run));
                }
                if self.journal.has(*run, RunFlag::Exposed)? { Err(NotTaken::TooLate(*run)) } else { Ok(()) }
            }
            Act::Release { .. }
            | Act::Stage { .. }
            | Act::Restart
            | Act::Prune
            | Act::Mend
            | Act::Check
            | Act::Lock { .. }
            | Act::Unlock
            | Act::Settle { .. } => Ok(()),
        }
    }

    /// When anything was last released here, as far as the root can tell.
    pub(crate) fn last_released(&self) -> Option<DateTime<Utc>> {
        let found = self.root.survey().unwrap_or_default();
        found.iter().map(|found| found.manifest.as_ref().map_or_else(DateTime::default, |manifest| manifest.made)).max()
    }

    /// Looks a release up.
    pub(crate) fn find(&self, selector: &ReleaseSelector) -> Result<ReleaseName, NotTaken> {
        let there = self.root.release_names()?;
        let live = self.root.live().unwrap_or_default();
        let before = previous(&self.journal, &self.root, &self.name, live.as_ref());
        match selector.select(&there, before.as_ref()) {
            Selected::One(release) => Ok(release.clone()),
            Selected::None => Err(NotTaken::NoRelease { selector: selector.clone(), there: there.clone() }),
            Selected::Several(fitting) => {
                Err(NotTaken::Ambiguous { selector: selector.clone(), fitting: fitting.into_iter().cloned().collect() })
            }
        }
    }

    /// Does what takes no turn, and ends its run.
    fn on_the_spot(&self, run: RunId, act: &Act, caller: &str) -> Result<(), NotTaken> {
        let meant = self.meant(act);
        let done = self.do_now(act, caller);
        faults::at("done-on-the-spot");
        let live = self.root.live().unwrap_or_default().map(|live| live.to_string());
        let end = |outcome| What::Ended { outcome, live, ms: 0, database: None };
        let told = match done {
            Ok(()) => meant.into_iter().chain([end(OutcomeWord::Done)]).collect(),
            Err(err) => vec![What::Warning { step: None, text: chain(&err) }, end(OutcomeWord::Failed)],
        };
        Ok(self.journal.append(run, &told)?)
    }

    /// Which release is meant by `previous` or by the beginning of a name, for whoever reads of it later.
    fn meant(&self, act: &Act) -> Option<What> {
        let (Act::Pin { release } | Act::Unpin { release }) = act else { return None };
        let release = self.find(release).ok()?;
        let manifest = self.root.manifest(&release).ok()?;
        let (commit, reference, subject) = (manifest.commit, manifest.reference, manifest.subject);
        Some(What::Resolved { commit, reference, release: release.to_string(), subject })
    }

    fn do_now(&self, act: &Act, caller: &str) -> Result<(), NotTaken> {
        match act {
            Act::Lock { why } => {
                let lock = Lock { who: caller.to_owned(), why: why.clone(), since: Utc::now().timestamp() };
                Ok(self.root.set_lock(Some(&lock))?)
            }
            Act::Unlock => Ok(self.root.set_lock(None)?),
            Act::Pin { release } => Ok(self.root.pin(&self.find(release)?)?),
            Act::Unpin { release } => Ok(self.root.unpin(&self.find(release)?)?),
            Act::Cancel { run } => self.cancel(*run, caller),
            Act::Settle { run } => Ok(self.root.settle(|entry| run.is_none_or(|run| entry.run == run.0)).map(drop)?),
            Act::Release { .. } | Act::Stage { .. } | Act::Activate { .. } | Act::Restart | Act::Prune | Act::Mend | Act::Check => Ok(()),
        }
    }

    fn cancel(&self, run: RunId, caller: &str) -> Result<(), NotTaken> {
        let live = self.root.live().unwrap_or_default().map(|live| live.to_string());
        // Either it has not begun, and never will; or it goes back from where it is.
        let end = What::Ended { outcome: OutcomeWord::Cancelled, live, ms: 0, database: None };
        if self.journal.append_unless(run, &end, RunFlag::Planned)? {
            return Ok(());
        }
        if !self.journal.append_unless(run, &What::CancelAsked { caller: caller.to_owned() }, RunFlag::Exposed)? {
            return Err(if self.journal.has(run, RunFlag::Ended)? { NotTaken::Over(run) } else { NotTaken::TooLate(run) });
        }
        if let Some((current, cancel)) = locked(&self.current).as_ref()
            && *current == run
        {
            cancel.ask();
        }
        Ok(())
    }
}

/// The release that was live before `live`, if it ended well and is still there.
fn previous(journal: &Journal, root: &AppRoot, app: &AppName, live: Option<&ReleaseName>) -> Option<ReleaseName> {
    let there = |release: &ReleaseName| Some(release) != live && root.manifest(release).is_ok();
    let in_journal = journal.gone_live(app).unwrap_or_default();
    let known = live.is_none_or(|live| in_journal.contains(live));
    let in_journal = in_journal.into_iter().find(|release| known && there(release));
    // A journal that knows nothing of the live release, or of none before it, may be a new one: then the releases themselves tell.
    in_journal.or_else(|| {
        let live = live?;
        let mut served = root.survey().unwrap_or_default().into_iter().filter(|found| found.served.is_some() && found.name < *live);
        served.find(|found| there(&found.name)).map(|found| found.name)
    })
}

/// The engines of all apps.
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
    /// No engine yet. A journal that fails in the middle of a run is told through `failed`: the agent must stop then, and start again.
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

    /// The journal.
    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Ends what is left of acts that were to be done on the spot.
    pub(crate) fn recover_spot(&self) -> Result<(), JournalError> {
        for run in self.journal.cut_off_on_the_spot()? {
            self.journal.append(run, &[What::Stopped, What::Ended { outcome: OutcomeWord::Failed, live: None, ms: 0, database: None }])?;
        }
        Ok(())
    }

    /// Takes settings up: new apps get an engine, changed ones go on with what is new, removed ones stop after the run at hand. Tells which apps
    /// could not be taken up.
    pub(crate) fn apply(&self, settings: &Settings) -> Vec<NotStarted> {
        let mut troubles = Vec::new();
        let removed: Vec<AppName> =
            self.all().iter().map(|engine| engine.name.clone()).filter(|name| !settings.apps.contains_key(name)).collect();
        for name in removed {
            if let Some(running) = self.apps.write().unwrap_or_else(PoisonError::into_inner).remove(&name) {
                running.engine.leave();
                running.engine.drop_what_waits();
                locked(&self.leaving).push(running);
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
                // Outside the lock that requests need: recovering an app runs programs.
                None => self.come_back(name, app).map_or_else(|| self.start(name, app), Ok).map(|running| {
                    self.apps.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), running);
                }),
            };
            if let Err(source) = taken_up {
                if self.get(name).is_none() {
                    absent.insert(name.clone(), Absent::new(app, &source));
                }
                troubles.push(NotStarted { app: name.clone(), source });
            }
        }
        *locked(&self.absent) = absent;
        troubles
    }

    /// The engine of an app that was removed a moment ago and is still in the middle of a run: it goes on with what is set now.
    fn come_back(&self, name: &AppName, app: &Arc<App>) -> Option<Running> {
        let mut leaving = locked(&self.leaving);
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
        // Before anybody can ask for anything new.
        thread.recover()?;
        let failed = self.failed.clone();
        let thread = std::thread::Builder::new().name(format!("app-{name}")).spawn(move || {
            if let Err(err) = thread.work(&wakes) {
                // Nobody listens only when the agent is going down already.
                let _ = failed.send(err);
            }
        });
        let thread = thread.map_err(|source| RootError::Io { act: "start a thread for", path: app.root.clone(), source })?;
        Ok(Running { engine, thread })
    }

    /// The engine of an app.
    pub(crate) fn get(&self, app: &AppName) -> Option<Arc<AppEngine>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).get(app).map(|running| running.engine.clone())
    }

    /// Why there is no engine of an app.
    pub(crate) fn absent(&self, app: &AppName) -> NotTaken {
        locked(&self.absent).get(app).map_or_else(|| NotTaken::NoApp(app.clone()), |absent| absent.clone().into())
    }

    /// The apps that are set rightly, and yet have no engine.
    pub(crate) fn not_set_up(&self, settings: &Settings) -> Vec<Absent> {
        locked(&self.absent).values().filter(|absent| settings.apps.contains_key(&absent.app)).cloned().collect()
    }

    /// All engines.
    pub(crate) fn all(&self) -> Vec<Arc<AppEngine>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).values().map(|running| running.engine.clone()).collect()
    }

    /// Whether the agent is about to stop.
    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Takes nothing new from now on.
    pub(crate) fn refuse_new(&self) {
        self.draining.store(true, Ordering::Release);
        for engine in self.all() {
            engine.leave();
        }
    }

    /// Waits for the runs under way; what has not ended after `patience` is cancelled, and taken back.
    pub(crate) fn drain(&self, patience: Duration) {
        self.refuse_new();
        let end = Instant::now() + patience;
        let mut cancelled = false;
        loop {
            let runs = |running: &Running| !running.thread.is_finished() || running.engine.poller.is_at_work();
            let staying = self.apps.read().unwrap_or_else(PoisonError::into_inner).values().any(runs);
            if !staying && !locked(&self.leaving).iter().any(runs) {
                return;
            }
            if Instant::now() >= end && !cancelled {
                cancelled = true;
                let leaving: Vec<_> = locked(&self.leaving).iter().map(|running| running.engine.clone()).collect();
                for engine in self.all().into_iter().chain(leaving) {
                    let current = locked(&engine.current).as_ref().map(|(run, _)| *run);
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
