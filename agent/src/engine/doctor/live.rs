//! The live release as it serves now, and the things that it needs beside its code.

use std::collections::HashSet;
use std::time::Duration;

use agent_wire::view::Level;
use nix::unistd::{Uid, User, geteuid};

use super::{DoctorReport, LIMIT};
use crate::engine::AppEngine;
use crate::process::{Process, working_in};
use crate::settings::ExecutorKind;
use crate::steps::ready::{self, Fatal};
use crate::steps::{Depth, Health, health_of};
use crate::work::users_of_runners;

/// An earlier end of the instance is history and not reported.
const RECENT: Duration = Duration::from_secs(24 * 3600);

impl AppEngine {
    /// Whether the live release answers, and keeps answering.
    pub(super) fn examine_live(&self, report: &mut DoctorReport) {
        let Ok(Some(live)) = self.root.live() else { return };
        let app = self.settings();
        if self.monitor.turn.is_of_run() {
            return report.add("live", Level::Good, "a run is about to exchange what is live: it was not asked", None);
        }
        match health_of(&app, &self.root, &live, Depth { workers: &app.workers, limit: LIMIT }) {
            Health::Answers(notes) => report.add("live", Level::Good, format!("{live} answers: {}", notes.join("; ")), None),
            Health::NotAsked => {}
            Health::Fails { text, hint } => {
                let text = self.monitor.down().map_or(text.clone(), |down| format!("{text}; {down}"));
                let log = self.root.instances().join(format!("{live}.log"));
                let hint = hint.or_else(|| log.exists().then(|| format!("read what its server said: {}", log.display())));
                report.add("live", Level::Error, format!("{live} does not answer as its checks say: {text}"), hint);
            }
        }
        let Some(again) = self.started_again() else { return };
        let last = chrono::DateTime::from_timestamp(again.last, 0).unwrap_or_default();
        let is_recent = chrono::Utc::now().signed_duration_since(last).to_std().unwrap_or_default() < RECENT;
        let level = if is_recent { Level::Warning } else { Level::Good };
        let text = format!(
            "the instance of {live} ended and was started again {} time(s), last at {}",
            again.times,
            last.format("%Y-%m-%d %H:%M:%S UTC")
        );
        let log = self.root.instances().join(format!("{live}.log"));
        report.add("live", level, text, Some(format!("read what its server said: {}", log.display())));
    }

    /// Settings that are certainly wrong, found without making anything.
    pub(super) fn examine_readiness(&self, report: &mut DoctorReport) {
        let app = self.settings();
        for unready in ready::git(&app).into_iter().chain(ready::secrets(&app)).chain(ready::checks(&app)) {
            let level = if unready.fatal == Fatal::Yes { Level::Error } else { Level::Warning };
            report.add(unready.what, level, unready.text, Some(unready.hint));
        }
        for user in self.serving_users() {
            // Another user may be meant to read only, but the agent's own programs write: they migrate and collect.
            let level = if user == geteuid() { Level::Error } else { Level::Warning };
            for unready in ready::shared(&app, &self.root, user) {
                report.add(unready.what, level, unready.text, Some(unready.hint));
            }
        }
    }

    /// The users of the processes that run from the live release; without any, the users that would serve it.
    fn serving_users(&self) -> HashSet<Uid> {
        let app = self.settings();
        if app.executor == ExecutorKind::Units {
            let serving = users_of_runners(&self.name).ok().map(|(_, serving)| serving);
            return serving.and_then(|name| User::from_name(&name).ok().flatten()).map(|user| user.uid).into_iter().collect();
        }
        let live = self.root.live().ok().flatten();
        let processes = live.map(|live| working_in(&self.root.release_dir(&live))).unwrap_or_default();
        let users: HashSet<Uid> =
            processes.iter().filter(|process| !process.has_terminal()).filter_map(Process::user).map(Uid::from_raw).collect();
        if users.is_empty() { [geteuid()].into() } else { users }
    }
}
