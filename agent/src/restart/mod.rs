//! Bringing a release before the visitors, and the proof that it is what they get. A file for each strategy; the variant is the setting.
//!
//! Every strategy answers the same five questions. `prepare` happens while nobody can notice; `act` comes right after the link was swapped;
//! `prove` looks at the processes that serve; `settle` lets the former release go; `back` returns to the former release from whatever state a
//! failure or a crash left, and proves that it serves.

pub(crate) mod command;
mod error;
pub(crate) mod gunicorn;
pub(crate) mod handover;
pub(crate) mod systemd;
pub(crate) mod uwsgi_fifo;

use std::path::Path;

use agent_model::names::{AppName, CommitId, ReleaseName};

use agent_wire::view::Finding;

use crate::tools::Watch;
use crate::tools::http::Check;

pub(crate) use error::RestartError;

/// How an app is restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Restart {
    /// Nothing is restarted: the link is all that there is (static sites, programs started anew for each use).
    None,
    /// One instance a release; the new one is asked before any visitor can.
    Handover(handover::Settings),
    /// A byte to the uWSGI master's FIFO.
    UwsgiFifo(uwsgi_fifo::Settings),
    /// Units of systemd, in order.
    Systemd(systemd::Settings),
    /// A signal to gunicorn's master.
    Gunicorn(gunicorn::Settings),
    /// Any command.
    Command(command::Settings),
}

/// A release that is to serve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Serving<'a> {
    /// Its name.
    pub name: &'a ReleaseName,
    /// Its commit.
    pub commit: &'a CommitId,
    /// Its directory, links resolved.
    pub dir: &'a Path,
}

/// What a strategy has to know of the switch.
pub(crate) struct Scene<'a> {
    /// The app.
    pub app: &'a AppName,
    /// The root's link `app`.
    pub link: &'a Path,
    /// A directory for what the agent must remember of instances that it started itself; it exists, mode 0700.
    pub instances: &'a Path,
    /// The environment of the app's own programs: `[env]`, secrets, and the `RELEASE_…` variables of the new release.
    pub env: &'a [(String, String)],
    /// The checks.
    pub checks: &'a [Check],
    /// The workers that belong to the app, restarted after the web process.
    pub workers: &'a [systemd::Worker],
    /// How long the former instance may take to finish its requests, and how programs are watched.
    pub watch: &'a Watch<'a>,
    /// A sentence for the people who follow the run.
    pub note: &'a dyn Fn(&str),
    /// A sentence that they should look at.
    pub warn: &'a dyn Fn(&str),
}

/// What [`Restart::prepare`] found and did, for the acts after it.
#[derive(Debug, Default)]
pub(crate) struct Prepared {}

/// What was seen of a release that serves.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    /// What was seen, a sentence each.
    pub notes: Vec<String>,
    /// What should be looked at, though it is no failure.
    pub warnings: Vec<String>,
}

impl Restart {
    /// What can be done while nobody can notice: handover starts the new instance and asks it every check over its own socket, the others note
    /// the processes that serve now. When it fails it leaves nothing behind, and [`Restart::back`] has nothing to do.
    ///
    /// # Errors
    /// [`RestartError`] when the new instance does not serve, or something in the set-up stands in the way.
    pub(crate) fn prepare(&self, _scene: &Scene<'_>, _new: Serving<'_>) -> Result<Prepared, RestartError> {
        Ok(Prepared::default())
    }

    /// Right after the link was swapped to the new release: handover renames the socket's name, the others reload or restart, and wait until that
    /// is complete; then the workers.
    ///
    /// # Errors
    /// [`RestartError`] when the processes of the new release do not come up.
    pub(crate) fn act(&self, _scene: &Scene<'_>, _new: Serving<'_>, _prepared: &mut Prepared) -> Result<(), RestartError> {
        Ok(())
    }

    /// The proof that the new release serves, all of it and only it, and goes on serving.
    ///
    /// # Errors
    /// [`RestartError`] with what was seen instead.
    pub(crate) fn prove(&self, _scene: &Scene<'_>, _new: Serving<'_>, _prepared: &Prepared) -> Result<Proof, RestartError> {
        Ok(Proof::default())
    }

    /// Lets the former instance finish and stop, or keeps it warm, and stops the ones before it.
    ///
    /// # Errors
    /// [`RestartError`] when one could not be stopped; the new release serves all the same.
    pub(crate) fn settle(&self, _scene: &Scene<'_>, _new: Serving<'_>, _former: Option<Serving<'_>>) -> Result<(), RestartError> {
        Ok(())
    }

    /// Back to `former`, whatever state a failure or a crash left; the link names it already, or is gone when there is none. May be repeated.
    ///
    /// # Errors
    /// [`RestartError`] when the former release was not seen to serve.
    pub(crate) fn back(&self, _scene: &Scene<'_>, _failed: Serving<'_>, _former: Option<Serving<'_>>) -> Result<(), RestartError> {
        Ok(())
    }

    /// Whether the live release serves, asked once.
    ///
    /// # Errors
    /// [`RestartError`] with the first thing that is not as it should be; the others are in its tail.
    pub(crate) fn look(&self, _scene: &Scene<'_>, _live: Serving<'_>) -> Result<Proof, RestartError> {
        Ok(Proof::default())
    }

    /// Makes the live release serve where nothing does, as after a boot. Only handover has something to do: an instance that the agent starts
    /// itself is started by nobody else. Tells whether it did anything.
    ///
    /// # Errors
    /// [`RestartError`] when the instance does not come up.
    pub(crate) fn revive(&self, _scene: &Scene<'_>, _live: Serving<'_>) -> Result<Revived, RestartError> {
        Ok(Revived::NotNeeded)
    }

    /// What is wrong with the set-up, or will be one day: for `doctor`. The app's name is left for the caller to fill in.
    pub(crate) fn traps(&self, _link: &Path, _workers: &[systemd::Worker]) -> Vec<Finding> {
        Vec::new()
    }
}

/// What [`Restart::revive`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revived {
    /// The release served already, or is not the agent's to start.
    NotNeeded,
    /// An instance was started, and serves.
    Started,
}
