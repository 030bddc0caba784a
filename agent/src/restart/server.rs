//! A server, by its command line, its environment and its unit: its kind, the way it reloads, and the evidence of which release it runs.

pub(super) mod uwsgi_options;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use super::RestartContext;
use super::master::ShownBy;
use crate::http::Wrong;
use crate::process::Process;
use crate::systemd::{Unit, UnitAction};

/// How an app loads a release, as far as the misconfigurations depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReloadKind {
    /// A process of its own for each release.
    Anew,
    /// The process stops and another starts.
    Restart,
    /// The master executes itself again: uWSGI's `r` and `R`, HUP.
    Reload,
    /// uWSGI's master forks again: `c` and `w`.
    Fork,
    /// gunicorn's USR2.
    Second,
}

/// A server as it runs, or as its unit would start it.
#[derive(Debug, Clone, Default)]
pub(super) struct Server {
    pub(super) argv: Vec<String>,
    /// The variables that it was started with, if it runs and they can be read.
    pub(super) env: Vec<(String, String)>,
    /// The executable of a running server; for a script, the interpreter.
    pub(super) program: Option<String>,
    /// The directory in which it was started.
    pub(super) dir: Option<PathBuf>,
    pub(super) unit: Option<Unit>,
}

impl Server {
    pub(super) fn of(process: &Process, unit: Option<Unit>) -> Self {
        let argv = process.argv();
        Self { program: argv.first().cloned(), argv, env: process.environ(), dir: process.cwd(), unit }
    }

    pub(super) fn of_unit(unit: Unit) -> Self {
        let dir = (!unit.working_directory.is_empty()).then(|| PathBuf::from(unit.working_directory.trim_start_matches(['!', '-'])));
        let running = (unit.main_pid != 0).then(|| Process::of(unit.main_pid));
        let env = running.map(|process| process.environ()).unwrap_or_default();
        let program = running.and_then(|process| process.argv().into_iter().next());
        Self { argv: unit.exec_start.first().cloned().unwrap_or_default(), env, program, dir, unit: Some(unit) }
    }

    /// Whether it runs this program, directly or as a script: `uwsgi`, `uwsgi-core`, `pyuwsgi`.
    pub(super) fn runs(&self, name: &str) -> bool {
        let fits = |file: &str| {
            file.trim_start_matches("py").strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
        };
        self.argv.iter().take(3).any(|arg| Path::new(arg).file_name().is_some_and(|file| fits(&file.to_string_lossy())))
    }
}

/// Whether a unit's reload makes uWSGI's master fork again.
pub(super) fn forks(unit: &Unit) -> bool {
    reload_kind_of(unit, UnitAction::ReloadOrRestart) == ReloadKind::Fork
}

/// The evidence of which release uWSGI's workers run after its master has forked them again.
pub(super) fn shown_after_fork(context: &RestartContext<'_>, server: Server) -> ShownBy {
    let is_named = context.checks.iter().any(|check| check.release_header.is_some());
    if is_named || uwsgi_options::loads_from(&server, context.link) { ShownBy::Answers } else { ShownBy::Nothing }
}

pub(super) fn reload_kind_of(unit: &Unit, how: UnitAction) -> ReloadKind {
    if how == UnitAction::Restart || !unit.can_reload {
        return ReloadKind::Restart;
    }
    let reload = unit.exec_reload.iter().flatten().cloned().collect::<Vec<_>>().join(" ");
    let forks =
        ["echo c", "echo w", "echo -n c", "echo -n w", "printf c", "printf w", "printf %s c"].iter().any(|words| reload.contains(words));
    if forks { ReloadKind::Fork } else { ReloadKind::Reload }
}

/// How often in a row the answer was uWSGI's own 500 (`uwsgi_500` of its `core/errors.c`): from a worker that has no app, or whose app raised.
pub(super) fn times_without_app(wrong: &Wrong, tries: &Cell<usize>) -> usize {
    let is_own = matches!(wrong, Wrong::Status { got: 500, body, .. } if body == "Internal Server Error");
    tries.set(if is_own { tries.get() + 1 } else { 0 });
    tries.get()
}
