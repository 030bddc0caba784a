//! `prune`: removes old releases. It never removes the live release, the one before it, a pinned one, or one that a process runs from.

use std::path::{Path, PathBuf};

use agent_model::keep::{Hold, Kept, removable};
use agent_model::names::ReleaseName;
use agent_model::plan::{Choice, Nature};
use agent_model::request::Act;

use super::words::counted;
use super::{Brief, Did, Failure, ONLY_WARNS, Step, StepContext};
use crate::root::{AppRoot, RootError};
use crate::settings::App;
use crate::work::InUse;

pub(crate) struct Prune;

impl Step for Prune {
    fn name(&self) -> &'static str {
        "prune"
    }

    fn nature(&self) -> Nature {
        ONLY_WARNS
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        if brief.act.makes_a_release() || *brief.act == Act::Prune { Choice::Do } else { Choice::Absent }
    }

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        // Where the live one is new, the one that was live until now is the way back; else it is the one before the live one.
        let live = cx.run.root.live()?;
        let way_back = if live == cx.found.former { cx.found.before_former.clone() } else { cx.found.former.clone() };
        let ask = || cx.used();
        let in_use = InUse::of_run(cx.run.app, cx.run.root, &ask);
        let old = old(cx.run.root, cx.run.app, way_back.as_ref(), &in_use)?;
        for release in &old {
            // Somebody may have pinned it while others were removed.
            if cx.run.root.is_pinned(release) {
                continue;
            }
            cx.run.root.remove_release(release)?;
            cx.note(format!("removed {release}"));
        }
        let environments = remove_unused_environments(cx.run.root, &in_use)?;
        if environments > 0 {
            cx.note(format!("removed {} that no release uses", counted(environments, "environment")));
        }
        let mut backups = 0;
        if let Some(backup) = &cx.run.app.backup {
            // They are sorted by their releases. One that was staged long ago, and is live since today, has made the newest of them.
            let of_live = |path: &&PathBuf| live.as_ref().is_some_and(|live| is_of(path, live));
            // What may be left halfway in the database is restored from the dump that was taken before.
            let unsettled: Vec<PathBuf> = cx.run.root.unsettled().into_iter().filter_map(|entry| entry.backup).collect();
            for path in cx.run.root.backups()?.iter().skip(backup.keep).filter(|path| !of_live(path) && !unsettled.contains(path)) {
                cx.run.root.remove_backup(path)?;
                backups += 1;
            }
        }
        if backups > 0 {
            cx.note(format!("removed {}", counted(backups, "backup")));
        }
        if old.is_empty() && environments == 0 && backups == 0 {
            return Ok(Did::Nothing("nothing is old enough".to_owned()));
        }
        Ok(Did::It)
    }
}

/// How many releases are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// `keep_releases` of them.
    AsSet,
    /// The live one and the way back.
    TheWayBack,
}

/// The bytes that would be freed: those of the releases to remove, and of the environments that only they use.
pub(super) fn frees(cx: &StepContext<'_>, way_back: Option<&ReleaseName>, beyond: Beyond) -> Result<u64, RootError> {
    let (root, ask) = (cx.run.root, || cx.used());
    let keep = if beyond == Beyond::AsSet { cx.run.app.keep_releases } else { 2 };
    let old = beyond_newest(root, way_back, keep, &InUse::of_run(cx.run.app, root, &ask))?;
    let names = root.release_names()?;
    let stay: Vec<String> = names.iter().filter(|name| !old.contains(name)).filter_map(|name| root.environment_of(name)).collect();
    let unused = root.environments()?.into_iter().filter(|key| !stay.contains(key));
    Ok(old.iter().map(|release| root.size_of_release(release).bytes).sum::<u64>()
        + unused.map(|key| root.size_of_environment(&key).bytes).sum::<u64>())
}

/// The releases that would be removed, oldest first.
pub(crate) fn old(root: &AppRoot, app: &App, way_back: Option<&ReleaseName>, in_use: &InUse<'_>) -> Result<Vec<ReleaseName>, RootError> {
    beyond_newest(root, way_back, app.keep_releases, in_use)
}

fn beyond_newest(root: &AppRoot, way_back: Option<&ReleaseName>, keep: usize, in_use: &InUse<'_>) -> Result<Vec<ReleaseName>, RootError> {
    let live = root.live()?;
    let releases = root.release_names()?.into_iter().map(|name| {
        let hold = if Some(&name) == live.as_ref() {
            Some(Hold::Live)
        } else if Some(&name) == way_back {
            Some(Hold::Previous)
        } else if root.is_pinned(&name) {
            Some(Hold::Pinned)
        } else {
            None
        };
        Kept { name, hold }
    });
    let releases: Vec<Kept> = releases.collect();
    let unused = removable(releases, keep);
    // Searching all processes is expensive, so only the candidates are checked.
    Ok(unused.into_iter().filter(|release| !in_use.has(&root.release_dir(release))).collect())
}

fn is_of(backup: &Path, release: &ReleaseName) -> bool {
    backup.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next()) == Some(release.as_str())
}

fn remove_unused_environments(root: &AppRoot, in_use: &InUse<'_>) -> Result<u64, RootError> {
    let used: Vec<String> = root.release_names()?.iter().filter_map(|name| root.environment_of(name)).collect();
    let mut removed = 0;
    for key in root.environments()? {
        if !used.contains(&key) && !in_use.has(&root.environment(&key)) {
            root.remove_environment(&key)?;
            removed += 1;
        }
    }
    Ok(removed)
}
