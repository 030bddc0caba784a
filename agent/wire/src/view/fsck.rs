//! The answer of `fsck`.

use serde::{Deserialize, Serialize};

use super::Level;

/// `GET /v1/apps/{app}/fsck`: each mismatch between an app's root and its manifests or the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fsck {
    /// The app's name.
    pub app: String,
    /// The active run. Its files were left out.
    pub run: Option<u64>,
    /// How much was inspected.
    pub verified: Verified,
    /// The mismatches, worst first. Level `good` is for facts that are no mismatch, but worth knowing.
    pub findings: Vec<FsckFinding>,
}

/// How much was inspected.
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

/// A mismatch with the recorded state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckFinding {
    /// The subject, such as `release` or `journal`.
    pub what: String,
    /// The severity of the mismatch.
    pub level: Level,
    /// The path, if the mismatch has one.
    pub path: Option<String>,
    /// The mismatch, as a sentence.
    pub text: String,
    /// One command or one edit as remedy.
    pub hint: Option<String>,
    /// Whether the action `mend` removes it.
    pub mend: bool,
}
