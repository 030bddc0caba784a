//! What operators set: the files, read and checked whole, every complaint at once. The types of most settings live where they are used; this
//! module gathers them.

mod agent;
mod app;
mod defaults;
mod environment;
pub(crate) mod files;
pub(crate) mod https;
mod issuer;
mod kinds;
mod reader;
mod refs;
pub(crate) mod report;
pub(crate) mod secrets;
#[cfg(test)]
mod tests;
pub(crate) mod trusted;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_model::grant::{Grant, RefPattern};
use agent_model::names::{AppName, RefName};
use agent_model::request::WhenBusy;
use chrono::{DateTime, Utc};

use crate::http::Check;
use crate::restart::{Restart, worker::Worker};
use crate::root::{Limits, Shared};
use crate::trust::webhook::Source;
use crate::trust::{Issuer, Secret};
use crate::{database, django, git, python};

#[cfg(test)]
pub(crate) use files::load;
pub(crate) use files::{executor, load_app, load_over};

/// Reads a text as every kind of file that there is.
#[cfg(fuzzing)]
pub(crate) fn try_out(file: &std::path::Path, text: &str) {
    for complaint in agent::parse(file, text).err().unwrap_or_default() {
        assert!(!complaint.to_string().is_empty());
    }
    if let Ok(name) = "fuzzed".parse() {
        for complaint in app::parse(&name, file, text).err().unwrap_or_default() {
            assert!(!complaint.to_string().is_empty());
        }
    }
}

/// The settings of an `agent.toml` that is right, for tests elsewhere.
#[cfg(test)]
pub(crate) fn parse_agent(text: &str) -> Agent {
    agent::parse(std::path::Path::new("agent.toml"), text).unwrap()
}

/// The settings of an app called `shop`, likewise.
#[cfg(test)]
pub(crate) fn parse_app(text: &str) -> App {
    app::parse(&"shop".parse().unwrap(), std::path::Path::new("shop.toml"), text).unwrap()
}
pub(crate) use reader::Complaint;

/// Everything that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `agent.toml`
    pub agent: Agent,
    /// `apps/*.toml`
    pub apps: BTreeMap<AppName, Arc<App>>,
    /// Apps whose files are wrong and that have no earlier settings, each with the first complaint.
    pub broken: BTreeMap<AppName, String>,
}

/// That the file of an app is wrong, and the app goes on with the settings that it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stale {
    /// The first complaint about what is on disk now.
    pub complaint: String,
    /// When the settings in force were read.
    pub since: SystemTime,
}

impl fmt::Display for Stale {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = DateTime::<Utc>::from(self.since);
        let pattern = if since.date_naive() == Utc::now().date_naive() { "%H:%M UTC" } else { "%Y-%m-%d %H:%M UTC" };
        write!(formatter, "{}; the settings of {} are in force", self.complaint, since.format(pattern))
    }
}

/// `agent.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agent {
    /// `[[grant]]`
    pub grants: Vec<Grant>,
    /// `[[issuer]]`: whose ID tokens are believed.
    pub issuers: Vec<Issuer>,
    /// `socket_group`: the group that may open the control socket.
    pub socket_group: Option<String>,
    /// `drain_timeout`: how long a run may go on when the agent is told to stop.
    pub drain_timeout: Duration,
    /// `executor`: who runs the programs of releases.
    pub executor: ExecutorKind,
    /// `keep` in `[journal]`: for how long runs are kept after their end; for ever without it.
    pub keep_runs: Option<Duration>,
    /// `[https]`: how it can be asked over the network; not at all without it.
    pub https: Option<https::Https>,
}

/// Who runs the programs that a release needs: installers, manage.py, hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecutorKind {
    /// The agent itself, as its own user.
    Direct,
    /// Units of the service manager, with users of their own.
    Units,
}

/// `apps/<app>.toml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct App {
    /// The file's name without `.toml`.
    pub name: AppName,
    /// The configuration directory; known when all files were read.
    pub config: PathBuf,
    /// `root`: `/var/app` for the app named `app`, else `/var/<app>`.
    pub root: PathBuf,
    /// `repository`, `allow_local`, `ssh_key`, `known_hosts`
    pub git: git::Settings,
    /// `branches`, `tags`, `refs`, in this order
    pub refs: Vec<RefPattern>,
    /// `auto`: the branch whose newest commit is released when a webhook says that it may have moved.
    pub follows: Option<RefName>,
    /// `auto_pause`: the time from one poll of that branch to the next.
    pub auto_pause: Duration,
    /// `auto_paths`: patterns of paths; what changes none of them is not released by itself. Empty: everything is.
    pub auto_paths: Vec<String>,
    /// `[[webhook]]`, as the file has them.
    pub webhook_files: Vec<WebhookFile>,
    /// The same with their secrets, once those were read.
    pub webhooks: Vec<Webhook>,
    /// `submodules`
    pub submodules: Submodules,
    /// `keep_releases`
    pub keep_releases: usize,
    /// `when_busy`
    pub when_busy: WhenBusy,
    /// `read_only`: whether a sealed tree loses its write bits.
    pub read_only: bool,
    /// `[limits]`
    pub limits: Limits,
    /// `[timeouts]`, by step.
    pub timeouts: BTreeMap<String, Duration>,
    /// `[python]`
    pub python: Option<python::Settings>,
    /// `[django]`
    pub django: Option<django::Settings>,
    /// `[env]`
    pub env: Vec<(String, String)>,
    /// `[build_env]`
    pub build_env: Vec<(String, String)>,
    /// `[secrets] files`
    pub secrets: Vec<PathBuf>,
    /// `[shared]`
    pub shared: Shared,
    /// `[backup]`
    pub backup: Option<database::Settings>,
    /// `[restart]`
    pub restart: Restart,
    /// `[[check]]`
    pub checks: Vec<Check>,
    /// `[[worker]]`
    pub workers: Vec<Worker>,
    /// `[[hook]]`
    pub hooks: Vec<Hook>,
    /// `[[report]]`
    pub reports: Vec<report::Report>,
    /// `keep` in `[journal]` of agent.toml: for how long runs are kept after their end; for ever without it. Known when all files were read.
    pub keep_runs: Option<Duration>,
    /// `executor` of agent.toml; known when all files were read.
    pub executor: ExecutorKind,
    /// What programs that run code of strangers may not read, for the sake of all apps; known when all files were read.
    pub hidden: Vec<PathBuf>,
    /// Where the file on disk is wrong, and these are the settings from before.
    pub stale: Option<Stale>,
}

/// `[[webhook]]`: who may say that the repository has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebhookFile {
    /// `from`
    pub from: Source,
    /// `secret_file`
    pub secret_file: PathBuf,
}

/// `[[webhook]]` with its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Webhook {
    /// `from`
    pub from: Source,
    /// What stands in `secret_file`.
    pub secret: Secret,
}

/// What becomes of submodules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Submodules {
    /// A commit that has any is refused.
    Refuse,
    /// Their directories stay empty.
    Ignore,
}

/// `[[hook]]`: a command before or after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    /// Before or after.
    pub when: When,
    /// Which step.
    pub step: String,
    /// The argument vector, run in the release's directory.
    pub run: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// `before`
    Before,
    /// `after`
    After,
}

impl App {
    /// How long a step may take: what is set, else its own measure.
    pub(crate) fn timeout_of(&self, step: &str) -> Duration {
        let minutes = match step {
            "environment" | "backup" | "migrate" => 30,
            "switch" => 15,
            _ => 10,
        };
        self.timeouts.get(step).copied().unwrap_or(Duration::from_secs(minutes * 60))
    }
}
