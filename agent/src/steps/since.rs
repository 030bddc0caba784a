//! How the live release was made, and which files of a commit have changed since: a run and a plan predict from that which steps have nothing to do.

use std::path::PathBuf;

use agent_model::names::ReleaseName;
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::django::Grounds;
use crate::process::identity;
use crate::restart::Restart;
use crate::root::{AppRoot, MadeBy};
use crate::settings::App;

/// Up to so many changed sources are compiled one by one; beyond that, Django compiles them during its check.
const MOST_CHANGED: usize = 500;

/// The checks that are deferred until the new instance starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deferred {
    /// The query of the database.
    Schema,
    /// The check as well.
    Check,
}

/// How a release was made, for later releases.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Made {
    pub settings: String,
    pub collected: Option<Grounds>,
    /// Whether migrate has no effect without a pending migration: it is Django's own command, and only Django receives its signals.
    #[serde(default)]
    pub quiet: Option<bool>,
}

impl Made {
    /// The facts that a seal records.
    pub(super) fn by(app: &App, collected: Option<Grounds>, quiet: Option<bool>) -> Option<MadeBy> {
        serde_json::to_value(Self { settings: settings_of(app), collected, quiet }).ok().map(MadeBy)
    }
}

/// A digest of the settings that decide how a release is made. Files with secrets count by the metadata that shows a change.
fn settings_of(app: &App) -> String {
    let App { python, django, env, build_env, secrets, shared, hooks, executor, read_only, .. } = app;
    let secrets: Vec<_> = secrets.iter().map(|file| (file, identity(file))).collect();
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("{version} {python:?} {django:?} {env:?} {build_env:?} {secrets:?} {shared:?} {hooks:?} {executor:?} {read_only}");
    hex::encode(digest(&SHA256, text.as_bytes()))
}

/// The live release, and the files of the commit that have changed since: git's status letter, and the path.
pub(crate) struct Since {
    pub(super) former: ReleaseName,
    pub(super) made: Made,
    pub(super) changed: Vec<(char, String)>,
}

impl Since {
    /// Compares with the live release; if the changes rule out any prediction, a part of a sentence that says why.
    pub(crate) fn of(app: &App, root: &AppRoot, former: ReleaseName, changed: Vec<(char, String)>) -> Result<Self, String> {
        let untold = || format!("{former} does not tell how it was made");
        let MadeBy(made) = root.fact(&former).ok().flatten().ok_or_else(untold)?;
        let made: Made = serde_json::from_value(made).map_err(|_| untold())?;
        if made.settings != settings_of(app) {
            return Err("the app's settings, its secrets or the agent are others".to_owned());
        }
        Ok(Self { former, made, changed })
    }

    /// The reason why no migration is expected, with the changed sources. `None` where that cannot be predicted, or where the switch starts no new
    /// instance that could wait for the database's answer.
    pub(crate) fn no_migration(&self, app: &App, root: &AppRoot) -> Option<(String, Vec<PathBuf>)> {
        let hooked = app.hooks.iter().any(|hook| ["check", "backup", "migrate"].contains(&hook.step.as_str()));
        if hooked || !matches!(app.restart, Restart::Handover(_)) || !app.django.as_ref().is_some_and(|django| django.migrate) {
            return None;
        }
        let Self { former, changed, made } = self;
        // Receivers of migrate's signals want every run of migrate, and the unfinished work of an earlier run must be completed.
        if made.quiet != Some(true) || !root.unsettled().is_empty() {
            return None;
        }
        root.find(former).served?;
        let sources: Vec<PathBuf> =
            changed.iter().filter(|(how, path)| *how != 'D' && path.ends_with(".py")).map(|(_, path)| PathBuf::from(path)).collect();
        if changed.iter().any(|(_, path)| decides_migrations(path)) || sources.len() > MOST_CHANGED {
            return None;
        }
        Some((format!("neither migrations, settings nor environment have changed since {former}"), sources))
    }
}

/// Whether a file may decide which migrations there are: a migration, settings (which name the apps), or a file that chooses the settings. The list
/// may be incomplete, because the database is asked in any case.
fn decides_migrations(path: &str) -> bool {
    path.split('/')
        .any(|part| part.starts_with("migrations") || part.contains("settings") || ["apps.py", "conf", "manage.py"].contains(&part))
}
