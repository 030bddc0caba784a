//! The record of an instance, one file each. The next agent finds the instance by it.

use std::fs;
use std::path::{Path, PathBuf};

use agent_model::names::ReleaseName;
use serde::{Deserialize, Serialize};

use crate::http;
use crate::process::{Process, boot, with_variable};
use crate::root;

/// The variable that names the socket of an instance to its server.
pub(super) const SOCKET: &str = "RELEASE_SOCKET";

/// How often an instance was restarted since its release became live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StartedAgain {
    pub times: u32,
    /// The last restart, in seconds since 1970.
    pub last: i64,
}

/// The agent writes it before it starts the instance, and completes it once the process is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) release: String,
    pub(super) socket: PathBuf,
    /// The boot that it belongs to: process numbers and times start over at the next boot.
    pub(super) boot: String,
    pub(super) process: Option<(u32, u64)>,
    /// The link of its slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) slot: Option<PathBuf>,
    /// Whether it was told to end. It may still answer for a moment, and the agent must not rely on it any more.
    #[serde(default)]
    pub(super) leaving: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) again: Option<StartedAgain>,
}

impl Record {
    /// Whether its slot now leads to another release. Then its unit was stopped, and the listener belongs to the other release.
    fn is_past(&self) -> bool {
        self.slot.as_ref().is_some_and(|slot| root::leads_to(slot).is_none_or(|release| release.as_str() != self.release))
    }
}

/// Whether a recorded instance still runs, regardless of the current settings. The agent checks its process, the variable that its processes have,
/// and the listener of its socket.
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

/// How often the instance of a release was restarted, by its record in the directory of instances.
pub(crate) fn started_again(instances: &Path, release: &ReleaseName) -> Option<StartedAgain> {
    let text = fs::read(instances.join(format!("{release}.json"))).ok()?;
    serde_json::from_slice::<Record>(&text).ok()?.again
}
