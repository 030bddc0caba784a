//! Whether a release answers, checked once and now. No other message claims that a release serves without such a check.

use std::time::{Duration, Instant};

use agent_model::names::ReleaseName;
use agent_wire::event::Stream;

use crate::process::{Cancel, Watch};
use crate::restart::worker::Worker;
use crate::restart::{ReleaseRef, Renewal, RestartContext, RestartError, Steadiness, Variables};
use crate::root::AppRoot;
use crate::settings::App;
use crate::work::{Failure, chain};

/// The result of checking a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// Every check passed; the answers, one sentence each.
    Answers(Vec<String>),
    /// The observation that contradicts it.
    Fails {
        /// The full sentence of the message.
        text: String,
        /// What the operator should do, where that is known.
        hint: Option<String>,
    },
    /// There are no checks.
    NotAsked,
}

impl Health {
    /// Whether it answers; `None` without checks.
    pub(crate) fn answers(&self) -> Option<bool> {
        match self {
            Self::Answers(_) => Some(true),
            Self::Fails { .. } => Some(false),
            Self::NotAsked => None,
        }
    }

    /// The text of a failed check.
    pub(crate) fn fault(self) -> Option<String> {
        match self {
            Self::Fails { text, .. } => Some(text),
            Self::Answers(_) | Self::NotAsked => None,
        }
    }
}

/// The extent of a check.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth<'a> {
    /// The workers that are checked, too.
    pub workers: &'a [Worker],
    /// How long it may take.
    pub limit: Duration,
}

impl Depth<'_> {
    /// The web process alone.
    pub(crate) fn web_within(limit: Duration) -> Self {
        Self { workers: &[], limit }
    }
}

/// Sends a release every check once, and verifies that its server runs.
pub(crate) fn health_of(app: &App, root: &AppRoot, release: &ReleaseName, depth: Depth<'_>) -> Health {
    let failed = |failure: Failure| Health::Fails { text: failure.reason, hint: failure.hint };
    let manifest = match root.manifest(release) {
        Ok(manifest) => manifest,
        Err(err) => return failed(err.into()),
    };
    let commit = match manifest.commit.parse() {
        Ok(commit) => commit,
        Err(err) => return failed(Failure::new(chain(&err))),
    };
    let (dir, link, instances, variables) = (root.release_dir(release), root.link(), root.instances(), root.variables());
    let (cancel, lines) = (Cancel::default(), |_: Stream, _: &str| {});
    let watch = Watch { marker: "health", deadline: Instant::now() + depth.limit, cancel: &cancel, lines: &lines };
    let context = RestartContext {
        app: &app.name,
        link: &link,
        instances: &instances,
        env: &[],
        variables: Variables { dir: &variables, plain: &[] },
        checks: &app.checks,
        workers: depth.workers,
        lacking: &[],
        steadiness: Steadiness::Seen,
        renewal: Renewal::No,
        watch: &watch,
        note: &|_| {},
        warn: &|_| {},
    };
    match app.restart.look(&context, ReleaseRef { name: release, commit: &commit, dir: &dir }) {
        Ok(proof) if proof.notes.is_empty() => Health::NotAsked,
        Ok(proof) => Health::Answers(proof.notes),
        Err(err) => {
            let text = match &err {
                // The caller knows which release was checked.
                RestartError::Check { source, .. } => source.to_string(),
                err => chain(err),
            };
            Health::Fails { text, hint: err.hint() }
        }
    }
}
