//! What the reading verbs answer. These shapes are the documented `--json` of the ctl; members are added, never renamed.

mod fsck;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::event::{OutcomeWord, PlannedStep};

pub use fsck::{Fsck, FsckFinding, Verified};

/// The answer to a request that was taken (202), or had been taken before (200).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The number of the run.
    pub run: u64,
    /// Where its events are read.
    pub events: String,
    /// What reads this run's events, and nothing else, as `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// The answer to a webhook that was proven (202): that the agent will look, and not what it will find.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WillPoll {
    /// The app.
    pub app: String,
    /// The ref that it follows.
    pub follows: String,
}

/// `GET /v1/whoami`: who the agent takes the caller for, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whoami {
    /// Who: `unix:anna`, `key:ci-shop@acme`, `oidc:github:acme/shop`.
    pub caller: String,
    /// What a grant would have to name to mean this caller.
    pub principals: Vec<String>,
    /// Whether everything is allowed, because the caller could do it without the agent as well.
    pub all: bool,
    /// The grants that mean the caller.
    pub grants: Vec<GrantView>,
}

/// A grant, as `agent.toml` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantView {
    /// Whom.
    pub to: Vec<String>,
    /// The apps; nothing means all.
    pub apps: Option<Vec<String>>,
    /// The actions; nothing means all.
    pub actions: Option<Vec<String>>,
    /// The patterns of refs; nothing means whatever the app allows.
    pub refs: Option<Vec<String>>,
    /// How many principals must have signed.
    pub signatures: usize,
    /// The claims that a token must have.
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
    /// Whether it is about to stop.
    pub draining: bool,
    /// The apps that the caller may read.
    pub apps: Vec<App>,
    /// What is wrong with the configuration on disk, while the last good one stays in force.
    pub complaints: Vec<String>,
}

/// `GET /v1/apps/{app}`: how an app stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// Its name.
    pub name: String,
    /// Its root.
    pub root: String,
    /// The live release.
    pub live: Option<Release>,
    /// The run under way, with its step.
    pub running: Option<Run>,
    /// The runs that wait, oldest first.
    pub waiting: Vec<Run>,
    /// The lock.
    pub lock: Option<Lock>,
    /// The run that ended stuck, until a release is live again.
    pub stuck: Option<u64>,
    /// The last run that ended.
    pub last: Option<Run>,
    /// Bytes free on the root's file system.
    pub disk_free: u64,
    /// Bytes in all on the root's file system.
    pub disk_total: u64,
    /// The ref that it follows: a webhook has its newest commit released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
    /// What runs may have left in the database, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsettled: Vec<Unsettled>,
    /// How often the agent had to start the live instance again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_again: Option<StartedAgain>,
}

/// What a run may have left in the database, until a later release has applied it, or a person says that it is settled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsettled {
    /// The run.
    pub run: u64,
    /// Its release.
    pub release: String,
    /// Since when.
    pub at: DateTime<Utc>,
    /// What may have been left, as a sentence.
    pub text: String,
    /// The dump from before.
    pub backup: Option<String>,
    /// The command that restores it.
    pub restore: Option<String>,
}

/// That an instance ended, and was started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedAgain {
    /// How often since its release went live.
    pub times: u32,
    /// When last.
    pub last: DateTime<Utc>,
}

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// `GET /v1/apps/{app}/releases`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Releases {
    /// The releases.
    pub releases: Vec<Release>,
    /// What runs may have left in the database, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsettled: Vec<Unsettled>,
}

/// A release on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// Its name.
    pub name: String,
    /// The whole commit id.
    pub commit: String,
    /// The ref that reached it.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// How it stands.
    pub state: ReleaseState,
    /// Whether `activate previous` would take it.
    pub previous: bool,
    /// Whether it is kept for ever.
    pub pinned: bool,
    /// Who asked for it.
    pub caller: Option<String>,
    /// The run that made it.
    pub run: Option<u64>,
    /// When it was made.
    pub made: Option<DateTime<Utc>>,
    /// How long the run took that made it live first.
    pub ms: Option<u64>,
    /// The first line of the commit's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Why it does not answer as its checks say, where it is the live one and was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// How a release stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseState {
    /// The link names it.
    Live,
    /// Complete, and was live once.
    Good,
    /// Complete, and was never live: it was staged.
    Sealed,
    /// It failed, and is kept because a migration of it stands.
    Failed,
    /// It is being made, or was left incomplete.
    Incomplete,
}

/// `GET /v1/apps/{app}/releases/{release}`: one release with its manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseDetail {
    /// As in the list.
    #[serde(flatten)]
    pub release: Release,
    /// Its directory.
    pub path: String,
    /// The manifest, as it stands on disk.
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
    /// The runs.
    pub runs: Vec<Run>,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its number.
    pub run: u64,
    /// The app.
    pub app: String,
    /// The action's word.
    pub action: String,
    /// What it is about, as the caller put it.
    pub of: Option<String>,
    /// Who asked.
    pub caller: String,
    /// How it stands.
    pub state: RunState,
    /// How it ended.
    pub outcome: Option<OutcomeWord>,
    /// The release that it made or made live.
    pub release: Option<String>,
    /// The step that it is at, or failed at.
    pub step: Option<String>,
    /// When it was taken.
    pub accepted: DateTime<Utc>,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// How long it took, from its beginning.
    pub ms: Option<u64>,
}

/// `GET /v1/runs/{run}/evidence`: what proves whose request a run was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The run.
    pub run: u64,
    /// Who asked.
    pub caller: String,
    /// When it was taken.
    pub accepted: DateTime<Utc>,
    /// The request, to the byte: what was signed.
    pub request: String,
    /// The SSHSIG blobs over it, in base64; none where the kernel or an ID token said who asks.
    pub signatures: Vec<String>,
    /// The fingerprints of the keys that made them, in the same order.
    pub keys: Vec<String>,
    /// The namespace of the signatures.
    pub namespace: String,
    /// The agent's file of keys that it knows.
    pub allowed_signers: String,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It waits for its turn.
    Waiting,
    /// It is under way.
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
    /// The commit that is live.
    pub live: Option<String>,
    /// The commits since the live one, newest first, cut at 50.
    pub commits: Vec<Commit>,
    /// How many there are in all; negative when the live commit is ahead.
    pub ahead: i64,
    /// Requirement and lock files that changed.
    pub requirements: Vec<String>,
    /// Migration files that were added, changed or removed.
    pub migrations: Vec<String>,
    /// The steps, with the reasons for skips as far as they can be told beforehand.
    pub steps: Vec<PlannedStep>,
    /// Bytes that the new tree would take.
    pub bytes: u64,
    /// Bytes free.
    pub disk_free: u64,
    /// What stands in the way, or should be known.
    pub warnings: Vec<String>,
}

/// A commit, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The whole id.
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

/// What `doctor` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The app, where it is of one.
    pub app: Option<String>,
    /// What was looked at, such as `git` or `restart`.
    pub what: String,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What to do.
    pub hint: Option<String>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// A release would fail, or would not be what it says.
    Error,
    /// It works, and will hurt one day.
    Warning,
    /// As it should be.
    Good,
}
