//! Apps that have a settings file but no running engine.

use agent_model::names::AppName;
use thiserror::Error;

use super::NotTaken;
use crate::root::RootError;
use crate::settings::{App, ExecutorKind};
use crate::work::chain;

/// An app that has a file, and is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the app {app} {why}")]
pub(crate) struct Absent {
    pub app: AppName,
    /// The reason, readable after the app's name.
    pub why: String,
    pub hint: Option<String>,
}

impl Absent {
    pub(super) fn new(app: &App, source: &NotTaken) -> Self {
        let name = app.name.clone();
        let NotTaken::Root(RootError::Io { .. } | RootError::NotADirectory { .. }) = source else {
            return Self { app: name, why: format!("cannot be taken up: {}", chain(source)), hint: None };
        };
        let hint = match app.executor {
            ExecutorKind::Units => format!("agentctl setup app {name}"),
            ExecutorKind::Direct => {
                let uid = nix::unistd::geteuid();
                let user = nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
                format!("install -d -o {user} {}, then systemctl reload release-agent", app.root.display())
            }
        };
        Self { app: name, why: format!("is not set up yet: {}", chain(source)), hint: Some(hint) }
    }
}

/// An app whose engine did not start.
#[derive(Debug, Error)]
#[error("the app {app} cannot be taken up")]
pub(crate) struct NotStarted {
    pub app: AppName,
    #[source]
    pub source: NotTaken,
}
