//! The answers of the reading verbs. These shapes are the documented `--json` of the ctl; members are added, never renamed.

mod fsck;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::{OutcomeWord, PlannedStep};

pub use fsck::{Fsck, FsckFinding, Verified};

/// The answer to an accepted request (202), or one that had been accepted before (200).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The number of the run.
    pub run: u64,
    /// The path of the run's events.
    pub events: String,
    /// The token that reads this run's events, and nothing else, for `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// The answer to a proven webhook (202): the agent will poll. It does not contain the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WillPoll {
    /// The app's name.
    pub app: String,
    /// The ref that the app follows.
    pub follows: String,
}

/// `GET /v1/whoami`: the caller as the agent identifies it, and its rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whoami {
    /// The caller: `unix:anna`, `key:ci-shop@acme`, `oidc:github:acme/shop`.
    pub caller: String,
    /// The principals by which a grant can name this caller.
    pub principals: Vec<String>,
    /// Whether everything is allowed, because the caller could do it without the agent as well.
    pub all: bool,
    /// The grants that cover the caller.
    pub grants: Vec<GrantView>,
}

/// A grant, as in `agent.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantView {
    /// The principals of the grant.
    pub to: Vec<String>,
    /// The apps; absent means all.
    pub apps: Option<Vec<String>>,
    /// The actions; absent means all.
    pub actions: Option<Vec<String>>,
    /// The patterns of refs; absent means all that the app allows.
    pub refs: Option<Vec<String>>,
    /// How many principals must have signed.
    pub signatures: usize,
    /// The required claims of a token.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub claims: std::collections::BTreeMap<String, String>,
    /// Whether a release may go back.
    pub downgrade: bool,
}

/// `GET /v1/apps`: every app and the agent itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Apps {
    /// The version of the agent.
    pub agent: String,
    /// Whether the agent is about to stop.
    pub draining: bool,
    /// The apps that the caller may read.
    pub apps: Vec<App>,
    /// The mistakes in the configuration on disk, while the last valid one stays in force.
    pub complaints: Vec<String>,
}

/// `GET /v1/apps/{app}`: the state of an app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// The app's name.
    pub name: String,
    /// The path of the app's root.
    pub root: String,
    /// The live release.
    pub live: Option<Release>,
    /// The active run, with its step.
    pub running: Option<Run>,
    /// The waiting runs, oldest first.
    pub waiting: Vec<Run>,
    /// The current lock.
    pub lock: Option<Lock>,
    /// The run that ended stuck, until a release is live again.
    pub stuck: Option<u64>,
    /// The last run that ended.
    pub last: Option<Run>,
    /// The free bytes on the root's file system.
    pub disk_free: u64,
    /// The total bytes of the root's file system.
    pub disk_total: u64,
    /// The ref that it follows: a webhook triggers a release of its newest commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
    /// Changes that runs may have left in the database, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsettled: Vec<Unsettled>,
    /// How often the agent had to restart the live instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_again: Option<StartedAgain>,
}

/// A change that a run may have left in the database, until a later release has applied it, or a person settles it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsettled {
    /// The number of the run.
    pub run: u64,
    /// The release of the run.
    pub release: String,
    /// The time when it was recorded.
    pub at: DateTime<Utc>,
    /// The possible change, as a sentence.
    pub text: String,
    /// The path of the dump from before.
    pub backup: Option<String>,
    /// The command that restores the dump.
    pub restore: Option<String>,
}

/// The restarts of an instance that had ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedAgain {
    /// How often since its release went live.
    pub times: u32,
    /// The time of the last restart.
    pub last: DateTime<Utc>,
}

/// A lock on an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// The caller that locked it.
    pub who: String,
    /// The reason that the caller gave.
    pub why: String,
    /// The time of locking.
    pub since: DateTime<Utc>,
}

/// `GET /v1/apps/{app}/releases`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Releases {
    /// The releases, newest first.
    pub releases: Vec<Release>,
    /// Changes that runs may have left in the database, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsettled: Vec<Unsettled>,
}

/// A release on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// The release's name.
    pub name: String,
    /// The whole commit id.
    pub commit: String,
    /// The ref that reached it.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// The state of the release.
    pub state: ReleaseState,
    /// Whether `activate previous` would choose it.
    pub previous: bool,
    /// Whether it is kept for ever.
    pub pinned: bool,
    /// The caller that requested it.
    pub caller: Option<String>,
    /// The run that made it.
    pub run: Option<u64>,
    /// The time when it was made.
    pub made: Option<DateTime<Utc>>,
    /// The duration, in milliseconds, of the run that first made it live.
    pub ms: Option<u64>,
    /// The first line of the commit's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The failed check of the live release, where it was checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// The state of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseState {
    /// The link names it.
    Live,
    /// Complete, and was live once.
    Good,
    /// Complete, and was never live: it was staged.
    Sealed,
    /// It failed, and is kept because a migration of it stays applied.
    Failed,
    /// It is being made, or was left incomplete.
    Incomplete,
}

/// `GET /v1/apps/{app}/releases/{release}`: one release with its manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseDetail {
    /// The release, as in the list.
    #[serde(flatten)]
    pub release: Release,
    /// The path of its directory.
    pub path: String,
    /// The manifest, as stored on disk.
    pub manifest: serde_json::Value,
    /// The migrations that were applied with it.
    pub migrations: Vec<String>,
    /// The backup that was taken before them.
    pub backup: Option<String>,
    /// The environment that it uses.
    pub environment: Option<String>,
}

/// `GET /v1/runs`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Runs {
    /// The runs, newest first.
    pub runs: Vec<Run>,
}

/// A run of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The run's number.
    pub run: u64,
    /// The app's name.
    pub app: String,
    /// The action's word.
    pub action: String,
    /// The subject as the caller wrote it.
    pub of: Option<String>,
    /// The caller, such as `unix:anna`.
    pub caller: String,
    /// Whether it waits, runs or has ended.
    pub state: RunState,
    /// How it ended.
    pub outcome: Option<OutcomeWord>,
    /// The release that it made or made live.
    pub release: Option<String>,
    /// The current step, or the one that failed.
    pub step: Option<String>,
    /// The time when it was accepted.
    pub accepted: DateTime<Utc>,
    /// The time when it ended.
    pub ended: Option<DateTime<Utc>>,
    /// The duration of the run from its beginning, in milliseconds.
    pub ms: Option<u64>,
}

/// `GET /v1/runs/{run}/evidence`: the proof of who requested a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The run's number.
    pub run: u64,
    /// The caller, such as `key:ci-shop@acme`.
    pub caller: String,
    /// The time when it was accepted.
    pub accepted: DateTime<Utc>,
    /// The request to the byte: the signatures cover this text.
    pub request: String,
    /// The SSHSIG blobs over it, in base64; empty where the kernel or an ID token identified the caller.
    pub signatures: Vec<String>,
    /// The fingerprints of the keys that made them, in the same order.
    pub keys: Vec<String>,
    /// The namespace of the signatures.
    pub namespace: String,
    /// The path of the agent's file of known keys.
    pub allowed_signers: String,
}

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It waits for its turn.
    Waiting,
    /// It is active.
    Running,
    /// It is over.
    Ended,
}

/// `GET /v1/apps/{app}/plan?ref=`: what a release would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The commit that would be released.
    pub commit: String,
    /// The ref that reaches it.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// The live commit.
    pub live: Option<String>,
    /// The commits since the live one, newest first, cut at 50.
    pub commits: Vec<Commit>,
    /// The total number of these commits; negative when the live commit is ahead.
    pub ahead: i64,
    /// Requirement and lock files that changed.
    pub requirements: Vec<String>,
    /// Migration files that were added, changed or removed.
    pub migrations: Vec<String>,
    /// The steps, with the reasons for skips as far as they can be predicted.
    pub steps: Vec<PlannedStep>,
    /// The bytes of the new tree.
    pub bytes: u64,
    /// The free bytes on the root's file system.
    pub disk_free: u64,
    /// Obstacles, and other things to know.
    pub warnings: Vec<String>,
}

/// A commit as text for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The whole commit id.
    pub commit: String,
    /// The author's name.
    pub author: String,
    /// The first line of the message.
    pub subject: String,
}

/// `GET /v1/doctor?app=`: findings, each with its hint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctor {
    /// The findings, worst first.
    pub findings: Vec<Finding>,
}

/// A finding of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The app, if the finding is about one.
    pub app: Option<String>,
    /// The subject, such as `git` or `restart`.
    pub what: String,
    /// The severity of the finding.
    pub level: Level,
    /// The finding, as a sentence.
    pub text: String,
    /// One command or one edit as remedy.
    pub hint: Option<String>,
}

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A release would fail, or would not be what it claims.
    Error,
    /// It works, but will cause a problem one day.
    Warning,
    /// No problem.
    Good,
}
