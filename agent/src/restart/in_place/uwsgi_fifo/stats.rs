//! The part of the stats server's answer that the agent reads.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::process::Process;

/// The master and its workers at this moment.
pub(super) struct Stats {
    pub master: Process,
    pub workers: Vec<(Process, State)>,
}

/// A worker's progress. It accepts requests when it has loaded its app, or has failed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Loading,
    /// It accepts requests without an app: loading failed, or the first request loads it.
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

/// `None` when the stats server does not answer.
pub(super) fn ask(socket: &Path) -> Option<Stats> {
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut text = String::new();
    stream.take(16 * 1024 * 1024).read_to_string(&mut text).ok()?;
    // With stats-http, headers precede the JSON.
    let said: Said = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let state = |worker: &Worker| match (worker.accepting, worker.apps.is_empty()) {
        (0, _) => State::Loading,
        (_, true) => State::WithoutApp,
        (_, false) => State::Ready,
    };
    let workers = said.workers.iter().filter(|worker| worker.pid != 0).map(|worker| (Process::of(worker.pid), state(worker)));
    Some(Stats { master: Process::of(said.pid), workers: workers.collect() })
}
