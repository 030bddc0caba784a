//! What a release has done for it by programs that run the app's own code or its packages: jobs, and who carries them out.
//!
//! A job is a word and a few names; which program that means, with which arguments and variables, says the app's file, and never whoever asks. So the
//! same jobs can be carried out in two ways, by the same code ([`JobRunner`]):
//!
//! ```text
//!                      executor = "direct"          executor = "units"
//!   step ── job ──▶ Executor ─▶ JobRunner        Executor ─▶ Session ~~ socket ~~▶ Runner ─▶ JobRunner
//!                             (the agent's user)           (one line)            (a unit with a user of its own)
//! ```
//!
//! With units there are two runners for each app: one builds, and knows no secret; the other one is the app's own user, which cannot write what was built.
//! The service manager starts a runner for a connection, and ends all that it left before it starts the next one. So whoever was greeted by a runner
//! knows that nothing of an earlier one is at work any more.

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

/// Who carries a job out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// Whoever builds: may write the release that is being made, and knows no secret.
    Build,
    /// The app's own user: knows the app's secrets, and may write nothing that was built.
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

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Job {
    /// Find out what the release wants for its environment.
    Want,
    /// Build the environment of this key, in its directory, which is there and empty.
    Environment {
        /// The name of the directory.
        key: String,
        /// What becomes of what installers kept from earlier buildings.
        caches: Caches,
    },
    /// `manage.py collectstatic`
    CollectStatic,
    /// Give the release the bytecode that the former one has for the same sources, and compile these, which have changed.
    Bytecode {
        /// Paths within the release.
        changed: Vec<PathBuf>,
    },
    /// Give the agent's group all rights over what this role has made in releases and environments that are not sealed.
    GrantAccess,
    /// A hook.
    Hook {
        /// Its place in the app's file.
        place: usize,
        /// What it is: the file may have changed since whoever asks has read it.
        digest: String,
    },
    /// What Django says of the release.
    Inspect(Bytecode),
    /// `manage.py check` and `manage.py makemigrations --check`, and what Django says of the release.
    Examine(Bytecode),
    /// `manage.py migrate`
    Migrate,
    /// Load the application once, as a server would.
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

/// What becomes of what installers kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Caches {
    /// It may be used.
    Keep,
    /// It goes before anything is built.
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

/// The steps after which a release is sealed: a hook of theirs has nothing to build any more.
const AFTER_THE_SEAL: [&str; 4] = ["backup", "migrate", "switch", "prune"];

impl Job {
    /// The job of the hook at this place of the app's file.
    pub(crate) fn hook(app: &App, place: usize) -> Option<Self> {
        app.hooks.get(place).map(|hook| Self::Hook { place, digest: digest(hook) })
    }

    /// Whose job it is; nobody's where there is no such hook.
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

/// What tells a hook from every other one.
fn digest(hook: &Hook) -> String {
    let Hook { when, step, run, timeout } = hook;
    let text = format!("{when:?} {step:?} {run:?} {timeout:?}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    hex::encode(&digest.as_ref()[..8])
}

/// For whom a job is done: names, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// The run; 0 outside of any.
    pub run: RunId,
    /// The mark of its processes.
    pub marker: String,
    /// Who asked for it.
    pub caller: String,
    /// The release.
    pub release: Option<Ordered>,
    /// The release that was live before, and its commit.
    pub former: Option<(ReleaseName, Option<CommitId>)>,
}

/// The release that a job is done for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ordered {
    /// Its name.
    pub name: ReleaseName,
    /// Its commit.
    pub commit: CommitId,
    /// The ref that reached it.
    pub reference: Option<RefName>,
}

impl Order {
    /// What programs may know of the release, in their environment.
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

/// What came of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum JobAnswer {
    /// It is done.
    Done,
    /// It is done, and this should be looked at.
    Warnings(Vec<String>),
    /// What the environment would be.
    Wanted(Wanted),
    /// It is built.
    Built {
        /// How many packages it holds.
        packages: usize,
        /// What does not fit together.
        warnings: Vec<String>,
    },
    /// What Django says. Its databases stay with whoever asked them.
    Inspected(Box<Inspection>),
    /// The same, and whether models have changed without a migration.
    Examined(Box<Inspection>, Vec<String>),
    /// What migrate did, whether it failed or not: what it was at is known either way.
    Migrated {
        /// Which migration was begun, and is not applied.
        begun: Begun,
        /// What should be looked at.
        warnings: Vec<String>,
        /// Why it failed.
        failed: Option<Failure>,
    },
    /// What collectstatic did.
    Collected(Collected),
    /// The dump is written.
    Dumped {
        /// Who has made it, and can put it back.
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

/// What the environment of a release would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// Its key.
    pub key: String,
    /// What it is made of, for people.
    pub told: String,
    /// What people should know.
    pub notes: Vec<String>,
    /// What they should look at.
    pub warnings: Vec<String>,
}

impl JobAnswer {
    /// What should be looked at.
    pub(crate) fn warnings(self) -> Vec<String> {
        match self {
            Self::Warnings(warnings) | Self::Built { warnings, .. } => warnings,
            _ => Vec::new(),
        }
    }

    /// An answer to another question is a fault of whoever answers.
    pub(crate) fn unexpected(&self) -> Failure {
        Failure::new(format!("the step runner answered something else than it was asked: {self:?}"))
    }
}

/// The directory of a root's environment of this key, if the key is one.
fn environment_dir(root: &crate::root::AppRoot, key: &str) -> Option<PathBuf> {
    crate::root::is_key(key).then(|| root.environment(key)).filter(|dir| dir.parent() == Some(Path::new(&root.path().join("environments"))))
}

/// What processes use of a root, as far as this user may see.
fn usage_of(root: &AppRoot) -> Usage {
    usage(&UsagePlace { root: root.path(), parts: &["releases", "environments"], link: &root.link() })
}

#[cfg(test)]
mod tests;
