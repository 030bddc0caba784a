//! Why a request was not accepted, and the run's number if it was.

use std::path::PathBuf;

use agent_model::names::{AppName, RefName, ReleaseName, ReleaseSelector, RunId};
use agent_model::request::Refusal;
use thiserror::Error;

use super::absent::Absent;
use super::journal::JournalError;
use crate::root::RootError;

/// Why a request was not accepted.
#[derive(Debug, Error)]
pub(crate) enum NotTaken {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("there is no app {0}")]
    NoApp(AppName),
    /// Its file is there, but the app is not in force.
    #[error(transparent)]
    Absent(#[from] Absent),
    /// There is no such run, or not of this app.
    #[error("there is no run {0}")]
    NoRun(RunId),
    #[error("run {0} is over")]
    Over(RunId),
    /// Visitors may have met the new release already.
    #[error("run {0} has switched to the new release, and can no longer be cancelled")]
    TooLate(RunId),
    /// There is no such release.
    #[error("{}", no_release(selector))]
    NoRelease {
        selector: ReleaseSelector,
        /// The existing releases, newest first.
        there: Vec<ReleaseName>,
    },
    /// No release is live.
    #[error("no release is live")]
    NothingLive,
    /// Several releases fit.
    #[error("{selector} may be {}", fitting.iter().map(ReleaseName::as_str).collect::<Vec<_>>().join(" or "))]
    Ambiguous {
        selector: ReleaseSelector,
        /// The matching releases.
        fitting: Vec<ReleaseName>,
    },
    /// The settings name another root than the one that the agent holds.
    #[error("root is now set to {}, and the agent holds {}", set.display(), held.display())]
    RootMoved {
        /// The root in the settings.
        set: PathBuf,
        /// The root that the agent holds.
        held: PathBuf,
    },
    /// A command belongs to a terminal of this host.
    #[error("a command is run at a terminal of the app's host, and not over the network")]
    OnlyHere,
    /// The nonce was used for another request.
    #[error("the nonce was used before, for another request")]
    NonceReused,
    /// The ID token has started a run before.
    #[error("the ID token has started a run before, and serves once")]
    TokenReused,
    /// An earlier request asked for the commit, and a webhook never asks for one again.
    #[error("somebody has asked for that commit before")]
    AskedBefore,
    /// A run that is not over may be about to release the same commit.
    #[error("the runs at hand have not said yet which commit they release")]
    TooEarly,
    /// The grant allows releases, but not of this ref.
    #[error("{caller} may not release {reference}: the grant allows {}", refs.join(", "))]
    RefNotGranted {
        /// The caller.
        caller: String,
        reference: RefName,
        /// The patterns of the grant.
        refs: Vec<String>,
    },
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Root(#[from] RootError),
    /// git, for a plan.
    #[error(transparent)]
    Git(#[from] crate::git::GitError),
}

/// The message for a selector that matches nothing.
pub(super) fn no_release(selector: &ReleaseSelector) -> String {
    match selector {
        ReleaseSelector::Previous => "there is no release to go back to: no other that is still there was live before this one".to_owned(),
        ReleaseSelector::Prefix(_) => format!("there is no release {selector}"),
    }
}

/// The number of a request's run, and whether it is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepted {
    /// It was accepted now.
    New(RunId),
    /// The same bytes had been accepted before.
    Before(RunId),
}
