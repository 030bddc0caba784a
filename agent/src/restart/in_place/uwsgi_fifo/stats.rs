//! What uWSGI's stats server says: the part that is read.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::process::Process;

/// The master and its workers, in this moment.
pub(super) struct Stats {
    pub master: Process,
    pub workers: Vec<(Process, State)>,
}

/// How far a worker has come. It accepts requests when it has loaded its app, or has failed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Loading,
    /// It accepts requests and has none: it could not be loaded, or is loaded by the first request for it.
    WithoutApp,
    Ready,
}

#[derive(Deserialize)]
struct Said {
    pid: u32,
    #[serde(default)]
    workers: Vec<Worker>,
}

#[derive(Deserialize)]
struct Worker {
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    accepting: u32,
    #[serde(default)]
    apps: Vec<serde_json::Value>,
}

/// Nothing where nobody answers.
pub(super) fn ask(socket: &Path) -> Option<Stats> {
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut text = String::new();
    stream.take(16 * 1024 * 1024).read_to_string(&mut text).ok()?;
    // With stats-http, headers stand before it.
    let said: Said = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let state = |worker: &Worker| match (worker.accepting, worker.apps.is_empty()) {
        (0, _) => State::Loading,
        (_, true) => State::WithoutApp,
        (_, false) => State::Ready,
    };
    let workers = said.workers.iter().filter(|worker| worker.pid != 0).map(|worker| (Process::of(worker.pid), state(worker)));
    Some(Stats { master: Process::of(said.pid), workers: workers.collect() })
}
