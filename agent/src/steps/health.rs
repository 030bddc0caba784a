//! Whether a release answers, asked once and at this moment: nothing says that it serves that has not looked.

use std::time::{Duration, Instant};

use agent_model::names::ReleaseName;
use agent_wire::event::Stream;

use crate::process::{Cancel, Watch};
use crate::restart::worker::Worker;
use crate::restart::{ReleaseRef, Renewal, RestartContext, RestartError, Steadiness, Variables};
use crate::root::AppRoot;
use crate::settings::App;
use crate::work::{Failure, chain};

/// What came of asking a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// Every check passed; the answers, a sentence each.
    Answers(Vec<String>),
    /// What was seen instead.
    Fails {
        /// The sentence.
        text: String,
        /// What to do, where that is known.
        hint: Option<String>,
    },
    /// No check says what to ask.
    NotAsked,
}

impl Health {
    /// Whether it answers, where it was asked.
    pub(crate) fn answers(&self) -> Option<bool> {
        match self {
            Self::Answers(_) => Some(true),
            Self::Fails { .. } => Some(false),
            Self::NotAsked => None,
        }
    }

    /// What was seen instead of an answer.
    pub(crate) fn fault(self) -> Option<String> {
        match self {
            Self::Fails { text, .. } => Some(text),
            Self::Answers(_) | Self::NotAsked => None,
        }
    }
}

/// How far a look goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth<'a> {
    /// The workers that are looked at, too.
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

/// Asks a release every check once, and looks whether its server is there.
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
                // Which release was asked is known already.
                RestartError::Check { source, .. } => source.to_string(),
                err => chain(err),
            };
            Health::Fails { text, hint: err.hint() }
        }
    }
}
