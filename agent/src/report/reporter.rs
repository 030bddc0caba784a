//! Reports the progress of releases to forges and receivers. It is a thread of its own behind the engine, which reads the journal, keeps pending
//! deliveries in the outbox, and sends them.
//!
//! Each target has its own queue and gets its deliveries in order: a failed one is retried before the next is sent. Targets do not wait for each
//! other. A delivery that was being sent when the agent died is sent again: at least once, never less.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::forge::{Outgoing, Prepared, Speaker, kinds, prepare};
use super::verdict::{TOO_OLD, Verdict, next_try, verdict_of};
use crate::engine::journal::outbox::{Delivery, Outbox, Phase};
use crate::engine::journal::{Journal, JournalError};
use crate::settings::Settings;
use crate::settings::report::Report;
use crate::settings::watch::InForce;
use crate::work::chain;

/// How long lines are gathered before the journal is read: a step may write a thousand lines a second.
const BREATH: Duration = Duration::from_millis(50);
/// How long the reporter rests when the journal cannot be read or written.
const TROUBLE: Duration = Duration::from_secs(10);
/// How long it waits without any reason to look.
const LONG: Duration = Duration::from_secs(3600);
/// How long it may continue when the agent stops: the end of the last run should be reported before a host goes down. The rest is sent later.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How many runs are read at once.
const MOST_NEWS: u32 = 100;

pub(crate) struct Reporter {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Reporter {
    /// Starts the thread. Releases work without it, so a failure here is not an error of the agent.
    pub(crate) fn start(journal: Arc<Journal>, settings: InForce) -> Option<Self> {
        let (stop, stopping) = watch::channel(false);
        let spawned = Outbox::open(journal).map_err(|err| chain(&err)).and_then(|outbox| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|err| err.to_string())?;
            let work = Work { outbox, settings, calls: JoinSet::new(), busy: HashSet::new(), rests_until: None };
            let body = move || {
                runtime.block_on(work.go_on(stopping));
                // A pending DNS lookup is not waited for.
                runtime.shutdown_background();
            };
            std::thread::Builder::new().name("reporter".to_owned()).spawn(body).map_err(|err: io::Error| err.to_string())
        });
        match spawned {
            Ok(thread) => Some(Self { stop, thread }),
            Err(err) => {
                tracing::error!("nobody is told how releases go: {err}");
                None
            }
        }
    }

    /// Ends it within a few seconds. A thread that hangs, in a file that cannot be read to its end, is not waited for.
    pub(crate) async fn stop(self) {
        // The thread may have ended already.
        let _ = self.stop.send(true);
        let ended = tokio::task::spawn_blocking(move || self.thread.join().is_ok());
        if !matches!(tokio::time::timeout(LAST_WORDS * 2, ended).await, Ok(Ok(true))) {
            tracing::error!("the reporter has failed; what it had to say is told after the next start");
        }
    }
}

/// A queue of deliveries: the app and the target.
type Lane = (String, String);

/// A finished delivery with its target and the verdict.
struct Back {
    delivery: Delivery,
    shown: String,
    verdict: Verdict,
}

struct Work {
    outbox: Outbox,
    settings: InForce,
    calls: JoinSet<Back>,
    busy: HashSet<Lane>,
    rests_until: Option<Instant>,
}

impl Work {
    async fn go_on(mut self, mut stopping: watch::Receiver<bool>) {
        let mut written = self.outbox.journal().changes();
        let mut changes = self.settings.follow();
        let mut end: Option<Instant> = None;
        loop {
            let mut pause = self.look();
            if let Some(end) = end {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() || (self.busy.is_empty() && pause > left) {
                    return;
                }
                pause = pause.min(left);
            }
            tokio::select! {
                // All of these channels stay open while this runs, except for the last one.
                _ = written.changed() => tokio::time::sleep(BREATH).await,
                _ = changes.changed() => {}
                Some(back) = self.calls.join_next() => self.settle(back).await,
                () = tokio::time::sleep(pause) => {}
                _ = stopping.changed(), if end.is_none() => end = Some(Instant::now() + LAST_WORDS),
            }
        }
    }

    /// Records new deliveries, sends due ones, and returns the time until there is work without a notification.
    fn look(&mut self) -> Duration {
        if let Some(until) = self.rests_until {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return left;
            }
            self.rests_until = None;
        }
        let settings = self.settings.settings();
        self.note(&settings).and_then(|()| self.send(&settings)).unwrap_or_else(|err| self.rest(&err))
    }

    fn rest(&mut self, err: &JournalError) -> Duration {
        tracing::warn!("reports wait: {}", chain(err));
        self.rests_until = Some(Instant::now() + TROUBLE);
        TROUBLE
    }

    fn note(&self, settings: &Settings) -> Result<(), JournalError> {
        loop {
            let news = self.outbox.news(MOST_NEWS)?;
            for run in &news {
                let app = settings.apps.iter().find(|(name, _)| name.as_str() == run.app).map(|(_, app)| app);
                let reports = || app.iter().flat_map(|app| &app.reports);
                let of = |phase: Phase| {
                    reports().flat_map(move |report| kinds(report, phase).iter().map(move |kind| (report.key(), phase, *kind)))
                };
                let deliveries: Vec<_> = run.phases.iter().flat_map(|phase| of(*phase)).collect();
                self.outbox.note(run, &deliveries)?;
            }
            if news.len() < MOST_NEWS as usize {
                return Ok(());
            }
        }
    }

    fn send(&mut self, settings: &Settings) -> Result<Duration, JournalError> {
        let targets: BTreeMap<Lane, &Report> = settings
            .apps
            .values()
            .flat_map(|app| app.reports.iter().map(|report| ((app.name.to_string(), report.key()), report)))
            .collect();
        let mut pause = LONG;
        for delivery in self.outbox.heads()? {
            let lane = (delivery.app.clone(), delivery.target.clone());
            if self.busy.contains(&lane) {
                continue;
            }
            let now = Utc::now();
            let wait = delivery.due - now;
            // A clock that was set back must not delay a delivery beyond its limit.
            if wait > chrono::TimeDelta::zero() && wait <= TOO_OLD {
                pause = pause.min(wait.to_std().unwrap_or_default());
                continue;
            }
            match targets.get(&lane) {
                Some(report) => self.send_one(settings, report, delivery)?,
                // The app's file may be back in a moment; a delivery without a target is dropped after a day.
                None if now - delivery.made < TOO_OLD => {}
                None => {
                    self.outbox.dropped(&delivery)?;
                    pause = Duration::ZERO;
                }
            }
        }
        Ok(pause)
    }

    fn send_one(&mut self, settings: &Settings, report: &Report, delivery: Delivery) -> Result<(), JournalError> {
        // A run without a commit has no deliveries; it is settled with those that have nothing to report.
        let subject = self.outbox.subject(&delivery)?;
        let https = settings.agent.https.as_ref();
        let address = https.map(|https| https.address());
        let host = https.map_or_else(host_name, |https| https.host.to_string());
        let journal = self.outbox.journal().clone();
        let speaker = Speaker { host: &host, journal: journal.id(), address: address.as_deref(), now: Utc::now() };
        let prepared = match &subject {
            Some(subject) => prepare(report, &Outgoing { delivery: &delivery, subject, speaker: &speaker }),
            None => Ok(Prepared::Nothing),
        };
        let shown = report.shown();
        let (call, hidden) = match prepared {
            Ok(Prepared::Call(call, hidden)) => (call, hidden),
            Ok(Prepared::Nothing) => {
                // The journal's notification starts the next one.
                return self.outbox.dropped(&delivery);
            }
            Err(complaint) => return self.keep(&delivery, &shown, Verdict::Later { says: complaint.to_string(), rest: Duration::ZERO }),
        };
        self.busy.insert((delivery.app.clone(), delivery.target.clone()));
        self.calls.spawn(async move {
            let verdict = match call.send().await {
                Ok(reply) => verdict_of(delivery.kind, &reply, &hidden, Utc::now()),
                Err(err) => Verdict::Later { says: chain(&err), rest: Duration::ZERO },
            };
            Back { delivery, shown, verdict }
        });
        Ok(())
    }

    async fn settle(&mut self, back: Result<Back, tokio::task::JoinError>) {
        let Ok(Back { delivery, shown, verdict }) = back else {
            // The failed call is unknown, so all are sent again.
            self.calls.shutdown().await;
            self.busy.clear();
            self.rests_until = Some(Instant::now() + TROUBLE);
            return;
        };
        self.busy.remove(&(delivery.app.clone(), delivery.target.clone()));
        if let Err(err) = self.keep(&delivery, &shown, verdict) {
            self.rest(&err);
        }
    }

    /// Records the verdict on a delivery.
    fn keep(&self, delivery: &Delivery, shown: &str, verdict: Verdict) -> Result<(), JournalError> {
        let (run, app) = (delivery.run, delivery.app.as_str());
        match verdict {
            Verdict::Delivered(number) => {
                tracing::debug!(run, app, "{shown} was told");
                self.outbox.delivered(delivery, number)
            }
            Verdict::Later { says, rest } => match next_try(delivery, rest, Utc::now()) {
                Some(due) => {
                    if delivery.tries == 0 {
                        tracing::warn!(run, app, "{shown} could not be told, and will be: {says}");
                    }
                    self.outbox.postponed(delivery, due, &says)
                }
                None => {
                    tracing::warn!(run, app, "{shown} could not be told for a day, and will not be: {says}");
                    self.outbox.given_up(delivery, &says)
                }
            },
            Verdict::Never(says) => {
                tracing::warn!(run, app, "{shown} was not told, and will not be: {says}");
                self.outbox.given_up(delivery, &says)
            }
        }
    }
}

/// The name of this host.
fn host_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".to_owned(), |name| name.to_string_lossy().into_owned())
}
