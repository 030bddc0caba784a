//! Jobs: the work of a release that needs programs with the app's own code or its packages, and the executors of these jobs.
//!
//! A job is a word and a few names. The app's file alone decides which program the word means, with which arguments and variables. So the same code
//! ([`JobRunner`]) can carry out a job in two ways:
//!
//! ```text
//!                      executor = "direct"          executor = "units"
//!   step ── job ──▶ Executor ─▶ JobRunner        Executor ─▶ Session ~~ socket ~~▶ Runner ─▶ JobRunner
//!                             (the agent's user)           (one line)            (a unit with a user of its own)
//! ```
//!
//! With units there are two runners for each app: one builds, and knows no secret; the other one is the app's own user, which cannot write to the
//! built files. The service manager starts a runner for a connection, and ends everything that it left before it starts the next one. So a runner's
//! greeting shows that no process of an earlier one still works.

mod failure;
mod executor;
pub(crate) mod mask;
pub(crate) mod runner;
mod session;
mod wire;
mod job_runner;

use std::path::{Path, PathBuf};

use agent_model::names::{CommitId, RefName, ReleaseName, RunId};
use serde::{Deserialize, Serialize};

use crate::django::{Begun, Collected, Contract, Inspection, Reversal, Tree};
use crate::process::{Usage, UsagePlace, usage};
use crate::root::AppRoot;
use crate::settings::{App, Hook, When};

pub(crate) use executor::{Executor, InUse, grant_access, users_of_runners};
pub(crate) use failure::{Failure, chain};
pub(crate) use job_runner::{JobRunner, Workspace};

/// The user that carries a job out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// The builder: may write to the release that is being made, and knows no secret.
    Build,
    /// The app's own user: knows the app's secrets, and may not write to any built file.
    App,
}

impl Role {
    /// Its word: in names of units and sockets, and on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::App => "app",
        }
    }
}

/// The work to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Job {
    /// Determine the environment that the release needs.
    Want,
    /// Build the environment of this key, in its directory, which exists and is empty.
    Environment {
        /// The name of the directory.
        key: String,
        /// Whether the installers' caches are used.
        caches: Caches,
    },
    /// `manage.py collectstatic`
    CollectStatic,
    /// Copy the former release's bytecode for unchanged sources, and compile the changed ones.
    Bytecode {
        /// Paths within the release.
        changed: Vec<PathBuf>,
    },
    /// Give the agent's group all rights over this role's files in releases and environments that are not sealed.
    GrantAccess,
    /// A hook.
    Hook {
        /// Its place in the app's file.
        place: usize,
        /// Its content, in case the file changed after the agent read it.
        digest: String,
    },
    /// Django's report about the release.
    Inspect(Bytecode),
    /// `manage.py check` and `manage.py makemigrations --check`, and Django's report about the release.
    Examine(Bytecode),
    /// `manage.py migrate`
    Migrate,
    /// Load the application once, like a server does.
    Load,
    /// Dump the database into the file that comes with the job.
    Dump,
    /// Compare the models of the release with the tables of the database.
    Contract,
    /// Ask the release what reversing these migrations of its would take.
    Reversal(Vec<String>),
    /// `manage.py migrate APP MIGRATION`, for each of these.
    Reverse(Vec<(String, Option<String>)>),
    /// Name the releases and environments that processes of this role run from.
    Used,
}

/// Whether the installers' caches are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Caches {
    /// They may be used.
    Keep,
    /// They are emptied before the build.
    Empty,
}

/// Whether Python may leave bytecode beside the sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bytecode {
    /// The release is still being made.
    Written,
    /// It is sealed.
    NotWritten,
}

impl From<Bytecode> for Tree {
    fn from(bytecode: Bytecode) -> Self {
        match bytecode {
            Bytecode::Written => Self::Open,
            Bytecode::NotWritten => Self::Sealed,
        }
    }
}

/// The steps after the seal of a release: their hooks build nothing.
const AFTER_THE_SEAL: [&str; 4] = ["backup", "migrate", "switch", "prune"];

impl Job {
    /// The job of the hook at this place of the app's file.
    pub(crate) fn hook(app: &App, place: usize) -> Option<Self> {
        app.hooks.get(place).map(|hook| Self::Hook { place, digest: digest(hook) })
    }

    /// The role that carries the job out; `None` where there is no such hook.
    pub(crate) fn role(&self, app: &App) -> Option<Role> {
        Some(match self {
            Self::Want | Self::Environment { .. } | Self::CollectStatic | Self::Bytecode { .. } | Self::GrantAccess => Role::Build,
            Self::Inspect(_)
            | Self::Examine(_)
            | Self::Migrate
            | Self::Load
            | Self::Dump
            | Self::Contract
            | Self::Reversal(_)
            | Self::Reverse(_)
            | Self::Used => Role::App,
            Self::Hook { place, .. } => {
                let hook = app.hooks.get(*place)?;
                let sealed = AFTER_THE_SEAL.contains(&hook.step.as_str()) || hook.step == "seal" && hook.when == When::After;
                if sealed { Role::App } else { Role::Build }
            }
        })
    }
}

/// Identifies the content of a hook.
fn digest(hook: &Hook) -> String {
    let Hook { when, step, run, timeout } = hook;
    let text = format!("{when:?} {step:?} {run:?} {timeout:?}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hex::encode(&digest.as_ref()[..8])
}

/// The run and the release for which a job is done: names, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// The run; 0 outside of any.
    pub run: RunId,
    /// The mark of its processes.
    pub marker: String,
    pub caller: String,
    pub release: Option<Ordered>,
    /// The release that was live before, and its commit.
    pub former: Option<(ReleaseName, Option<CommitId>)>,
}

/// The release that a job is done for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ordered {
    pub name: ReleaseName,
    pub commit: CommitId,
    /// The ref that reached it.
    pub reference: Option<RefName>,
}

impl Order {
    /// The variables that describe the release to programs.
    pub(crate) fn variables(&self, app: &App, releases: impl Fn(&ReleaseName) -> PathBuf) -> Vec<(String, String)> {
        let mut env = Vec::new();
        let mut set = |name: &str, value: &str| env.push((name.to_owned(), value.to_owned()));
        set("RELEASE_APP", app.name.as_str());
        set("RELEASE_CALLER", &self.caller);
        if let Some(Ordered { name, commit, reference }) = &self.release {
            set("RELEASE_NAME", name.as_str());
            set("RELEASE_DIR", &releases(name).to_string_lossy());
            set("RELEASE_COMMIT", commit.as_str());
            set("REVISION", commit.as_str());
            set("RELEASE_REF", reference.as_ref().map_or("", RefName::as_str));
        }
        if let Some((former, commit)) = &self.former {
            set("RELEASE_PREVIOUS", former.as_str());
            if let Some(commit) = commit {
                set("PREVIOUS_REVISION", commit.as_str());
            }
        }
        env
    }
}

/// The result of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum JobAnswer {
    Done,
    /// It is done, with these warnings.
    Warnings(Vec<String>),
    /// The environment that the release needs.
    Wanted(Wanted),
    /// The environment is built.
    Built {
        /// How many packages it holds.
        packages: usize,
        /// Packages that do not fit together.
        warnings: Vec<String>,
    },
    /// Django's report. The databases' passwords stay in the runner.
    Inspected(Box<Inspection>),
    /// Django's report, and the warnings about models that changed without a migration.
    Examined(Box<Inspection>, Vec<String>),
    /// The result of migrate, failed or not: both know the migration that was begun.
    Migrated {
        /// The migration that was begun, and is not applied.
        begun: Begun,
        warnings: Vec<String>,
        /// Why it failed.
        failed: Option<Failure>,
    },
    /// The result of collectstatic.
    Collected(Collected),
    /// The dump is written.
    Dumped {
        /// The user that made it, and can restore it.
        user: String,
    },
    /// There is no database yet, as this sentence says.
    NothingToDump(String),
    /// How the models stand to the tables.
    Contract(Contract),
    /// What reversing takes.
    Reversal(Reversal),
    /// The directories that processes run from.
    Used(Vec<PathBuf>),
}

/// The environment that a release needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    pub key: String,
    /// Its ingredients, as text.
    pub told: String,
    /// Notes for the people who follow the run.
    pub notes: Vec<String>,
    /// Warnings for them.
    pub warnings: Vec<String>,
}

impl JobAnswer {
    /// The warnings in the answer.
    pub(crate) fn warnings(self) -> Vec<String> {
        match self {
            Self::Warnings(warnings) | Self::Built { warnings, .. } => warnings,
            _ => Vec::new(),
        }
    }

    /// A runner that answers another question is faulty.
    pub(crate) fn unexpected(&self) -> Failure {
        Failure::new(format!("the step runner answered something else than it was asked: {self:?}"))
    }
}

/// The directory of a root's environment of this key, if the key is valid.
fn environment_dir(root: &crate::root::AppRoot, key: &str) -> Option<PathBuf> {
    crate::root::is_key(key).then(|| root.environment(key)).filter(|dir| dir.parent() == Some(Path::new(&root.path().join("environments"))))
}

/// The directories of a root that processes use, as far as this user may see.
fn usage_of(root: &AppRoot) -> Usage {
    usage(&UsagePlace { root: root.path(), parts: &["releases", "environments"], link: &root.link() })
}

#[cfg(test)]
mod tests;
