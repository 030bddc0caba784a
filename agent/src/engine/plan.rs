//! `plan`: shows what a release would do. It fetches into the cache, and changes nothing else.

use std::time::{Duration, Instant};

use agent_model::grant::Authorised;
use agent_model::names::{CommitId, RefName, Revision};
use agent_model::request::{Act, Rebuild};
use agent_wire::event::{PlannedStep, Stream};
use agent_wire::view;

use super::prepared::draw;
use super::{AppEngine, NotTaken};
use crate::git::{Allowed, Budget, Git, TreeError};
use crate::process::{Cancel, Watch};
use crate::steps::{Brief, Past, Since, foreseen};
use crate::work::chain;

const LIMIT: Duration = Duration::from_secs(120);

/// Files that decide an environment, by the end of their path.
const REQUIREMENTS: [&str; 6] = ["uv.lock", "poetry.lock", "Pipfile.lock", "pyproject.toml", "Pipfile", "setup.py"];

impl AppEngine {
    /// The actions that a release of `revision` would take.
    pub(crate) fn plan(&self, authorised: &Authorised, revision: &Revision) -> Result<view::Plan, NotTaken> {
        let app = self.settings();
        let cache = self.root.cache();
        let git = Git::new(&app.git, &cache);
        let cancel = Cancel::default();
        let lines = |_: Stream, line: &str| tracing::debug!("{line}");
        let marker = format!("{}:plan", self.journal.id());
        let watch = Watch { marker: &marker, deadline: Instant::now() + LIMIT, cancel: &cancel, lines: &lines };
        let _cache = self.root.hold_cache(&|| watch.pause(Duration::from_millis(50)))?;
        let allowed = Allowed { app: &app.refs, grant: authorised.refs(), via: None, follows: app.follows.as_ref() };
        let left_out = match git.has(revision, allowed, &watch) {
            Some(_) => Vec::new(),
            None => git.fetch(revision, allowed, &watch)?.left_out,
        };
        let resolved = git.find(revision, allowed, &watch)?;
        let tree = git.tree(&resolved.commit, app.limits.files, &watch)?;
        let standing = self.standing(self.journal.standing(&self.name)?)?;
        let disk = self.root.disk()?;
        let mut warnings: Vec<String> = left_out.iter().map(|left| format!("cannot fetch {left}")).collect();
        warnings.extend(app.stale.as_ref().map(ToString::to_string));
        let reserved: &[&str] = if app.python.is_some() { &[crate::root::FACTS, "venv"] } else { &[crate::root::FACTS] };
        if let Err(err) = tree.check(Budget { files: app.limits.files, bytes: app.limits.bytes }, reserved) {
            warnings.push(format!("it would fail: {}", chain(&err)));
        }
        let submodules = tree.submodules();
        if !submodules.is_empty() && app.submodules == crate::settings::Submodules::Refuse {
            warnings.push(format!("it would fail: {}", TreeError::Submodules(submodules)));
        }
        if let Err(err) = self.root.live() {
            warnings.push(format!("it would fail: {}", chain(&err)));
        }
        if let Some(lock) = &standing.lock {
            warnings.push(format!("the app is locked by {}: {}", lock.who, lock.why));
        }
        if let Some(run) = standing.stuck {
            warnings.push(format!("run {run} ended stuck: nothing but activate is taken"));
        }
        if let Some(run) = standing.running {
            warnings.push(format!("run {run} is under way"));
        }
        if tree.bytes() > disk.free {
            warnings.push("the disk has no room for it".to_owned());
        }
        let live: Option<CommitId> =
            standing.live.as_ref().and_then(|live| self.root.manifest(live).ok()).and_then(|manifest| manifest.commit.parse().ok());
        let (mut commits, mut ahead, mut changed) = (Vec::new(), 0, Vec::new());
        if let Some(live) = live.as_ref().filter(|live| git.knows(live, &watch)) {
            commits = git.between(live, &resolved.commit, &watch)?;
            let (new, gone) = git.apart(live, &resolved.commit, &watch)?;
            ahead = if new == 0 && gone > 0 { -i64::try_from(gone).unwrap_or(i64::MAX) } else { i64::try_from(new).unwrap_or(i64::MAX) };
            // If the release only goes back, `ahead` says so.
            if gone > 0 && new > 0 {
                warnings.push(format!("{gone} commit(s) of the live release are not in it"));
            }
            changed = git.changed(live, &resolved.commit, &watch)?;
        }
        let decides_environment = |path: &str| {
            let name = path.rsplit('/').next().unwrap_or(path);
            REQUIREMENTS.contains(&name) || (path.contains("requirements") && (name.ends_with(".txt") || name.ends_with(".in")))
        };
        let paths = |fits: &dyn Fn(&str) -> bool| -> Vec<String> {
            changed.iter().filter(|(_, path)| fits(path)).map(|(how, path)| format!("{how} {path}")).collect()
        };
        let requirements = paths(&decides_environment);
        let migrations = paths(&crate::steps::is_migration);
        let since = standing.live.clone().filter(|_| live.is_some() && requirements.is_empty());
        let since = since.and_then(|former| Since::of(&app, &self.root, former, changed.clone()).ok());
        let expected = since.map_or_else(Vec::new, |since| foreseen(&since, &app, &self.root, &|path| tree.has_file(path)));
        let act = Act::Release { revision: revision.clone(), via: None, rebuild: Rebuild::WhenNeeded };
        let steps = draw(&Brief { act: &act, app: &app, past: Past::Unserved }).cards.into_iter().map(|card| PlannedStep {
            step: card.step.to_owned(),
            undo: card.nature.undo == agent_model::plan::Undo::TakeBack,
            warn: card.nature.on_failure == agent_model::plan::OnFailure::Warn,
            skipped: card
                .skipped
                .or_else(|| expected.iter().find(|(step, _)| *step == card.step).map(|(_, why)| format!("expected: {why}"))),
        });
        Ok(view::Plan {
            commit: resolved.commit.to_string(),
            reference: Some(RefName::to_string(&resolved.reference)),
            live: live.map(|live| live.to_string()),
            commits,
            ahead,
            requirements,
            migrations,
            steps: steps.collect(),
            bytes: tree.bytes(),
            disk_free: disk.free,
            warnings,
        })
    }
}
