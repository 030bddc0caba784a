//! The answers of the reading verbs, from the current state of the root and the journal.

use std::collections::BTreeMap;

use agent_model::names::{ReleaseName, RunId};
use agent_model::request::Lock;
use agent_wire::view;
use chrono::DateTime;

use super::admission::previous;
use super::{AppEngine, NotTaken};
use crate::root::{Found, Migrated, Unsettled};
use crate::settings::App;
use crate::steps::{Health, prune};
use crate::work::InUse;

impl AppEngine {
    pub(crate) fn name(&self) -> &agent_model::names::AppName {
        &self.name
    }

    /// The app's state.
    pub(crate) fn status(&self) -> Result<view::App, NotTaken> {
        let standing = self.standing(self.journal.standing(&self.name)?)?;
        let disk = self.root.disk()?;
        let run = |run| self.journal.run(run);
        let fault = self.health().and_then(Health::fault);
        let live = standing.live.as_ref().map(|live| self.release(live)).transpose()?;
        Ok(view::App {
            name: self.name.to_string(),
            root: self.root.path().display().to_string(),
            live: live.map(|live| view::Release { fault, ..live }),
            running: standing.running.map(run).transpose()?.flatten(),
            waiting: standing.waiting.iter().map(|(waiting, _)| run(*waiting)).filter_map(Result::transpose).collect::<Result<_, _>>()?,
            lock: standing.lock.as_ref().map(lock_view),
            stuck: standing.stuck.map(|run| run.0),
            last: self.journal.last_ended(&self.name)?,
            disk_free: disk.free,
            disk_total: disk.total,
            follows: self.settings().follows.as_ref().map(ToString::to_string),
            unsettled: self.unsettled(),
            started_again: self
                .started_again()
                .map(|again| view::StartedAgain { times: again.times, last: DateTime::from_timestamp(again.last, 0).unwrap_or_default() }),
        })
    }

    pub(crate) fn live(&self) -> Option<ReleaseName> {
        self.root.live().unwrap_or_default()
    }

    /// The current run.
    pub(super) fn at_hand(&self) -> Option<RunId> {
        self.current.lock().as_ref().map(|(run, _)| *run)
    }

    /// Changes that runs may have left in the database. The current run reports its own when it ends.
    pub(super) fn unsettled(&self) -> Vec<view::Unsettled> {
        let at_hand = self.at_hand().map(|run| self.journal.marker(run));
        let entries = self.root.unsettled().into_iter().filter(|entry| at_hand.as_ref() != Some(&entry.by));
        let told = entries.map(|Unsettled { run, release, at, text, backup, restore, .. }| {
            let backup = backup.filter(|path| path.exists()).map(|path| path.display().to_string());
            view::Unsettled { run, release, at, text, backup, restore }
        });
        told.collect()
    }

    /// The releases, newest first.
    pub(crate) fn releases(&self) -> Result<view::Releases, NotTaken> {
        let live = self.root.live().unwrap_or_default();
        let before = previous(&self.journal, &self.root, &self.name, live.as_ref());
        let mut releases: Vec<view::Release> =
            self.root.survey()?.iter().map(|found| release_view(found, live.as_ref(), before.as_ref())).collect();
        if let Some(release) = releases.iter_mut().find(|release| release.state == view::ReleaseState::Live) {
            release.fault = self.health().and_then(Health::fault);
        }
        Ok(view::Releases { releases, unsettled: self.unsettled() })
    }

    fn release(&self, release: &ReleaseName) -> Result<view::Release, NotTaken> {
        let live = self.root.live().unwrap_or_default();
        let before = previous(&self.journal, &self.root, &self.name, live.as_ref());
        Ok(release_view(&self.root.find(release), live.as_ref(), before.as_ref()))
    }

    /// One release with its manifest.
    pub(crate) fn release_detail(&self, release: &ReleaseName) -> Result<view::ReleaseDetail, NotTaken> {
        let found = self.root.find(release);
        // fsck reports an unreadable fact.
        let migrated: Option<Migrated> = self.root.fact(release).ok().flatten();
        let migrated = migrated.unwrap_or_default();
        Ok(view::ReleaseDetail {
            release: self.release(release)?,
            path: self.root.release_dir(release).display().to_string(),
            manifest: found.manifest.and_then(|manifest| serde_json::to_value(manifest).ok()).unwrap_or_default(),
            migrations: migrated.all_applied(),
            backup: migrated.backup.filter(|path| path.exists()).map(|path| path.display().to_string()),
            environment: self.root.environment_of(release),
        })
    }

    /// The releases that `prune` would remove.
    pub(crate) fn prunable(&self) -> Result<view::Releases, NotTaken> {
        let app: &App = &self.settings();
        let live = self.root.live().unwrap_or_default();
        let before = previous(&self.journal, &self.root, &self.name, live.as_ref());
        let old = prune::old(&self.root, app, before.as_ref(), &InUse::of(app, &self.root))?;
        let releases = old.iter().map(|release| self.release(release)).collect::<Result<_, _>>()?;
        Ok(view::Releases { releases, unsettled: Vec::new() })
    }

    /// The counts for metrics: runs by outcome.
    pub(crate) fn outcomes(&self) -> Result<BTreeMap<String, u64>, NotTaken> {
        Ok(self.journal.outcomes(&self.name)?)
    }
}

fn lock_view(lock: &Lock) -> view::Lock {
    view::Lock { who: lock.who.clone(), why: lock.why.clone(), since: DateTime::from_timestamp(lock.since, 0).unwrap_or_default() }
}

fn release_view(found: &Found, live: Option<&ReleaseName>, before: Option<&ReleaseName>) -> view::Release {
    let manifest = found.manifest.as_ref();
    let state = match (manifest, &found.failed, &found.served) {
        _ if live == Some(&found.name) => view::ReleaseState::Live,
        (None, _, _) => view::ReleaseState::Incomplete,
        (Some(_), Some(_), None) => view::ReleaseState::Failed,
        (Some(_), _, Some(_)) => view::ReleaseState::Good,
        (Some(_), None, None) => view::ReleaseState::Sealed,
    };
    view::Release {
        name: found.name.to_string(),
        commit: manifest.map_or_else(|| found.name.commit_digits().to_owned(), |manifest| manifest.commit.clone()),
        reference: manifest.and_then(|manifest| manifest.reference.clone()),
        state,
        previous: before == Some(&found.name),
        pinned: found.pinned,
        caller: manifest.map(|manifest| manifest.caller.clone()),
        run: manifest.map(|manifest| manifest.run),
        made: manifest.map(|manifest| manifest.made),
        ms: found.served.as_ref().map(|served| served.ms),
        subject: manifest.and_then(|manifest| manifest.subject.clone()),
        fault: None,
    }
}
