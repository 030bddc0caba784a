//! What the agent remembers of an instance, in a file of its own, by which the next agent finds it.

use std::fs;
use std::path::{Path, PathBuf};

use agent_model::names::ReleaseName;
use serde::{Deserialize, Serialize};

use crate::http;
use crate::process::{Process, boot, with_variable};
use crate::root;

/// The variable that names the socket of an instance to its server.
pub(super) const SOCKET: &str = "RELEASE_SOCKET";

/// How often an instance was started again since its release was brought before the visitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StartedAgain {
    /// So often.
    pub times: u32,
    /// When last, in seconds since 1970.
    pub last: i64,
}

/// What is remembered of an instance: written before it is started, and completed when its process is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) release: String,
    pub(super) socket: PathBuf,
    /// The boot that it belongs to: process numbers and times begin anew with the next.
    pub(super) boot: String,
    pub(super) process: Option<(u32, u64)>,
    /// The link of its slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slot: Option<PathBuf>,
    /// Whether it was told to end: it may answer for a moment, and must not be relied on any more.
    #[serde(default)]
    pub(super) leaving: bool,
    /// How often it was started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) again: Option<StartedAgain>,
}

impl Record {
    /// Whether the slot that it was started in leads to its release no more: then its unit was stopped, and what listens is another's.
    fn is_past(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| root::leads_to(slot).is_none_or(|release| release.as_str() != self.release))
    }
}

/// Whether the instance that a record tells of runs, whatever is set by now: by its process, by the variable that its processes have, and by who
/// listens at its socket.
pub(crate) fn recorded(path: &Path) -> root::Instance {
    let Some(record) = fs::read(path).ok().and_then(|text| serde_json::from_slice::<Record>(&text).ok()) else {
        return root::Instance::Unknown;
    };
    if record.is_past() {
        return root::Instance::Gone;
    }
    let process = record.process.filter(|_| record.boot == boot()).map(|(pid, started)| Process::recorded(pid, started));
    let runs = process.is_some_and(|process| process.is_alive())
        || http::listens(&record.socket)
        || !with_variable(SOCKET, &record.socket.to_string_lossy()).is_empty();
    if runs { root::Instance::Runs } else { root::Instance::Gone }
}

/// How often the instance of a release was started again, by its record in the directory of instances.
pub(crate) fn started_again(instances: &Path, release: &ReleaseName) -> Option<StartedAgain> {
    let text = fs::read(instances.join(format!("{release}.json"))).ok()?;
    serde_json::from_slice::<Record>(&text).ok()?.again
}
