//! How the live release was made, and what of a commit has changed since: from that a run and a plan foresee which steps have nothing to do.

use std::path::PathBuf;

use agent_model::names::ReleaseName;
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::django::Grounds;
use crate::process::identity;
use crate::restart::Restart;
use crate::root::{AppRoot, MadeBy};
use crate::settings::App;

/// So many sources are compiled one by one; where more have changed, Django does it while it checks.
const MOST_CHANGED: usize = 500;

/// What is deferred until the new instance starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deferred {
    /// The question to the database.
    Schema,
    /// The check as well.
    Check,
}

/// How a release was made, for the ones after it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Made {
    pub settings: String,
    pub collected: Option<Grounds>,
    /// Whether migrate does nothing there when no migration is to be applied: nobody but Django hears it, and it is Django's own command.
    #[serde(default)]
    pub quiet: Option<bool>,
}

impl Made {
    /// What a seal writes down.
    pub(super) fn by(app: &App, collected: Option<Grounds>, quiet: Option<bool>) -> Option<MadeBy> {
        serde_json::to_value(Self { settings: settings_of(app), collected, quiet }).ok().map(MadeBy)
    }
}

/// A digest over the settings that decide how a release is made. Files with secrets count by what tells whether they were changed.
fn settings_of(app: &App) -> String {
    let App { python, django, env, build_env, secrets, shared, hooks, executor, read_only, .. } = app;
    let secrets: Vec<_> = secrets.iter().map(|file| (file, identity(file))).collect();
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("{version} {python:?} {django:?} {env:?} {build_env:?} {secrets:?} {shared:?} {hooks:?} {executor:?} {read_only}");
    hex::encode(digest(&SHA256, text.as_bytes()))
}

/// The live release, and what of the commit has changed since: git's letter for how, and the path.
pub(crate) struct Since {
    pub(super) former: ReleaseName,
    pub(super) made: Made,
    pub(super) changed: Vec<(char, String)>,
}

impl Since {
    /// Compares with the live release; where too much has changed to know anything, a part of a sentence that says what.
    pub(crate) fn of(app: &App, root: &AppRoot, former: ReleaseName, changed: Vec<(char, String)>) -> Result<Self, String> {
        let untold = || format!("{former} does not tell how it was made");
        let MadeBy(made) = root.fact(&former).ok().flatten().ok_or_else(untold)?;
        let made: Made = serde_json::from_value(made).map_err(|_| untold())?;
        if made.settings != settings_of(app) {
            return Err("the app's settings, its secrets or the agent are others".to_owned());
        }
        Ok(Self { former, made, changed })
    }

    /// Why no migration is to be applied, and the sources that have changed; nothing where that cannot be foreseen, or the switch starts no new instance
    /// that could wait for the database's word.
    pub(crate) fn no_migration(&self, app: &App, root: &AppRoot) -> Option<(String, Vec<PathBuf>)> {
        let hooked = app.hooks.iter().any(|hook| ["check", "backup", "migrate"].contains(&hook.step.as_str()));
        if hooked || !matches!(app.restart, Restart::Handover(_)) || !app.django.as_ref().is_some_and(|django| django.migrate) {
            return None;
        }
        let Self { former, changed, made } = self;
        // What hears of each migrate wants it run; and what an earlier run has not brought to its end is brought there.
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

/// Whether a file may have a say in which migrations there are: a migration, or settings, which name the apps, or what chooses the settings. It need not be
/// all of them, for the database is asked in any case.
fn decides_migrations(path: &str) -> bool {
    path.split('/')
        .any(|part| part.starts_with("migrations") || part.contains("settings") || ["apps.py", "conf", "manage.py"].contains(&part))
}
