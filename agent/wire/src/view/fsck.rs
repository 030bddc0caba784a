//! What `fsck` answers.

use serde::{Deserialize, Serialize};

use super::Level;

/// `GET /v1/apps/{app}/fsck`: what of an app's root is not as the manifests and the journal say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fsck {
    /// The app.
    pub app: String,
    /// The run under way. What belongs to it was left out.
    pub run: Option<u64>,
    /// How much was looked at.
    pub verified: Verified,
    /// What differs, worst first. `good` is for what differs from nothing, and may be worth knowing.
    pub findings: Vec<FsckFinding>,
}

/// How much was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Sealed releases.
    pub releases: u64,
    /// Environments that have a list of their files.
    pub environments: u64,
    /// Files and links of both, each against its list.
    pub files: u64,
    /// The bytes of these files.
    pub bytes: u64,
    /// Backups that were read to their end.
    pub backups: u64,
    /// Runs of the app in the journal.
    pub runs: u64,
    /// Events of these runs.
    pub events: u64,
}

/// Something that is not as it was written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckFinding {
    /// What was looked at, such as `release` or `journal`.
    pub what: String,
    /// How bad it is.
    pub level: Level,
    /// Where, where it is at a place.
    pub path: Option<String>,
    /// What differs.
    pub text: String,
    /// What to do.
    pub hint: Option<String>,
    /// Whether the action `mend` removes it.
    pub mend: bool,
}
