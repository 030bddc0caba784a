//! Bringing a release before the visitors, and the proof that it is what they get. A file for each strategy; the variant is the setting.
//!
//! Every strategy answers the same five questions. `prepare` happens while nobody can notice; `act` comes right after the link was swapped;
//! `prove` looks at the processes that serve; `settle` lets the former release go; `back` returns to the former release from whatever state a
//! failure or a crash left, and proves that it serves.

pub(crate) mod command;
pub(crate) mod gunicorn;
pub(crate) mod handover;
pub(crate) mod systemd;
pub(crate) mod uwsgi_fifo;

use std::path::Path;

use agent_model::names::{AppName, CommitId, ReleaseName};

use crate::tools::Watch;
use crate::tools::http::Check;

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
