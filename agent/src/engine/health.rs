//! Whether the live release answers. The agent asks only when a client requests an app's status.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_model::names::ReleaseName;
use parking_lot::Mutex;

use super::AppEngine;
use crate::restart::handover::{StartedAgain, started_again};
use crate::steps::{Depth, Health, health_of};

/// The longest time that a reader waits for the answer.
const LIMIT: Duration = Duration::from_secs(2);
/// How long an answer is reused for other readers: an open page asks again and again.
const HOLDS: Duration = Duration::from_secs(3);

/// The last answer.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<Option<(Instant, ReleaseName, Health)>>);

impl AppEngine {
    /// Whether the live release answers. `None` where none is live, or a run is about to replace it.
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

    /// How often the live instance was restarted since its release went live.
    pub(crate) fn started_again(&self) -> Option<StartedAgain> {
        let live = self.root.live().ok().flatten()?;
        started_again(&self.root.instances(), &live)
    }
}

/// Asks all apps at once, so that one slow app does not delay the others.
pub(crate) fn ask_all(engines: &[Arc<AppEngine>]) {
    std::thread::scope(|scope| {
        for engine in engines.iter().skip(1) {
            scope.spawn(|| engine.health());
        }
        engines.iter().take(1).for_each(|engine| drop(engine.health()));
    });
}
