//! Whether the live release answers, for whoever reads how an app stands. It is asked when somebody wants to know, and never otherwise.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_model::names::ReleaseName;
use parking_lot::Mutex;

use super::AppEngine;
use crate::restart::handover::{StartedAgain, started_again};
use crate::steps::{Depth, Health, health_of};

/// How long a reader waits for the answer at the most.
const LIMIT: Duration = Duration::from_secs(2);
/// How long an answer holds for other readers: a page that is open asks on and on.
const HOLDS: Duration = Duration::from_secs(3);

/// What was seen last.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Option<(Instant, ReleaseName, Health)>>);

impl AppEngine {
    /// Whether the live release answers. Nothing where none is live, or a run is about to exchange it.
    pub(crate) fn health(&self) -> Option<Health> {
        if self.monitor.turn.is_of_run() {
            return None;
        }
        let live = self.root.live().ok().flatten()?;
        if let Some(text) = self.monitor.down() {
            return Some(Health::Fails { text, hint: None });
        }
        // Held while it is asked: whoever comes meanwhile takes the same answer.
        let mut seen = self.monitor.seen.0.lock();
        if let Some((at, of, health)) = seen.as_ref()
            && *of == live
            && at.elapsed() < HOLDS
        {
            return Some(health.clone());
        }
        let health = health_of(&self.settings(), &self.root, &live, Depth::web_within(LIMIT));
        *seen = Some((Instant::now(), live, health.clone()));
        Some(health)
    }

    /// How often the live instance was started again since its release went live.
    pub(crate) fn started_again(&self) -> Option<StartedAgain> {
        let live = self.root.live().ok().flatten()?;
        started_again(&self.root.instances(), &live)
    }
}

/// Asks them all at once: one that does not answer keeps nobody waiting for the others.
pub(crate) fn ask_all(engines: &[Arc<AppEngine>]) {
    std::thread::scope(|scope| {
        for engine in engines.iter().skip(1) {
            scope.spawn(|| engine.health());
        }
        engines.iter().take(1).for_each(|engine| drop(engine.health()));
    });
}
