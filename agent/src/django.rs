//! Django's manage.py, and what a project says of itself.
//!
//! Commands run as `<python> <manage.py> …` in the directory of manage.py, so that it need not be executable, and may have the line ends of
//! another system.

mod contract;
mod error;
mod facts;
mod inspect;
mod kept;
mod migrate;
mod reversal;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_wire::event::Stream;
use serde::{Deserialize, Serialize};

use crate::database::Database;
use crate::process::{Program, ProgramError, Watch};
pub(crate) use contract::{Contract, Fit};
pub(crate) use error::ManageError;
pub(crate) use facts::Kept;
pub(crate) use kept::Places;
pub(crate) use migrate::begun;
pub(crate) use reversal::Reversal;

/// `[django]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `manage`: manage.py within the release.
    pub manage: PathBuf,
    /// `settings`: the settings module; without it, the one that manage.py names.
    pub settings: Option<String>,
    /// `check`
    pub check: bool,
    /// `collectstatic`
    pub collectstatic: bool,
    /// `migrate`
    pub migrate: bool,
    /// `database`: the alias of the database that is migrated and backed up; the first one, where several are named.
    pub database: String,
    /// The rest of `database`: which others are migrated.
    pub others: Others,
    /// `post_migrate`: whether what hears of migrations does something where there is none to apply.
    pub post_migrate: PostMigrate,
    /// `lock_timeout`: how long a migration may wait for a lock of PostgreSQL before it gives up, and tries again.
    pub lock_timeout: Duration,
}

/// Which databases are migrated beside the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Others {
    /// Those that a router keeps for some apps alone.
    Kept,
    /// These.
    These(Vec<String>),
}

/// `[django] post_migrate`: what is believed of the project's own receivers of `post_migrate` and `pre_migrate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PostMigrate {
    /// They may do something each time.
    Runs,
    /// They do nothing where no migration is applied.
    Idle,
}

/// Whether Python may write bytecode beside the sources.
///
/// Before the seal it should: the servers start three times faster with it. After the seal nothing may be written into the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tree {
    /// Still being made.
    Open,
    /// Complete.
    Sealed,
}

/// The Django project of a release.
#[derive(Clone, Copy)]
pub(crate) struct Django<'a> {
    /// `[django]`
    pub settings: &'a Settings,
    /// The release's directory.
    pub release: &'a Path,
    /// The interpreter of its environment: `venv/bin/python`.
    pub python: &'a Path,
    /// `[env]`, secrets, `RELEASE_*`.
    pub env: &'a [(String, String)],
    /// Whether the release is sealed.
    pub tree: Tree,
}

/// Why it is not known how a database and the code stand to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SchemaUnknown {
    /// A sentence.
    pub why: String,
    /// What helps, where it is not the database's address.
    pub hint: Option<String>,
}

/// What a Django project says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inspection {
    /// Django's version.
    pub version: String,
    /// The settings module in force.
    pub settings_module: String,
    /// `WSGI_APPLICATION`
    pub wsgi_application: Option<String>,
    /// The settings module that the WSGI or ASGI module chooses where none is set.
    #[serde(default)]
    pub chosen_by_default: Option<String>,
    /// The databases, by alias; with their passwords, so they are never written anywhere.
    #[serde(skip)]
    pub databases: BTreeMap<String, Database>,
    /// How the database of `[django] database` and the code stand to each other; or why that is not known.
    pub schema: Result<Schema, SchemaUnknown>,
    /// What the database of `[django] database` is: `postgresql`, `sqlite`, `mysql`, …; empty where there is none.
    #[serde(default)]
    pub vendor: String,
    /// What the project keeps within the release.
    #[serde(default)]
    pub kept: Vec<Kept>,
    /// Whether the database of `[django] database` has no table.
    #[serde(default)]
    pub empty: bool,
}

/// How a database and the code stand to each other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Schema {
    /// Migrations to apply, in their order: `app.name`.
    pub pending: Vec<String>,
    /// Those of the pending ones that cannot be reversed.
    pub irreversible: Vec<String>,
    /// Migrations that were applied after the last one that this code knows of the same app: the schema is ahead of the code.
    pub ahead: Vec<String>,
    /// Other applied migrations that this code does not know: left by squashing, by a removed app, by another branch.
    pub strangers: Vec<String>,
    /// The version of the server or library: `150006` for PostgreSQL 15.6, `34001` for SQLite 3.40.1, 0 where it is of no interest.
    pub server_version: u64,
    /// Every migration that the database has.
    pub applied: Vec<String>,
    /// Those of the pending ones that may leave a part of what they do when they fail, each with the reason: `is not atomic`.
    pub may_leave: BTreeMap<String, String>,
    /// Those of the pending ones that build or drop an index beside those who write.
    pub concurrent: Vec<String>,
    /// Migrations that replace applied ones, and that migrate would record.
    pub unrecorded: Vec<String>,
    /// Who but Django hears of each migrate, such as `shelf.apps.sync (post_migrate)`.
    pub receivers: Vec<String>,
    /// Whose command `migrate` is: `django.core`, or an app's.
    pub command: String,
    /// Indexes that an interrupted build has left.
    pub invalid_indexes: Vec<InvalidIndex>,
    /// The databases that all this is told of, the first one first.
    pub aliases: Vec<String>,
    /// Databases that a router allows and that are not migrated, each with the reason.
    pub left_out: BTreeMap<String, String>,
}

/// An index that PostgreSQL keeps up and does not use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InvalidIndex {
    /// Its name.
    pub index: String,
    /// Its table.
    pub table: String,
    /// The command that drops it.
    pub drop: String,
    /// The pending migration that would make an index of this name.
    pub made_by: Option<String>,
}

/// Whose `migrate` is Django's own.
const OWN_COMMANDS: &str = "django.core";

impl Schema {
    /// Whether `migrate` is Django's own, which applies one migration after the other, in the order of [`Schema::pending`].
    pub(crate) fn is_applied_in_order(&self) -> bool {
        self.command == OWN_COMMANDS
    }

    /// What migrate would do where no migration is to be applied, as sentences; nothing where it would do nothing.
    pub(crate) fn does_without_any(&self, post_migrate: PostMigrate) -> Vec<String> {
        let mut does = Vec::new();
        if !self.unrecorded.is_empty() {
            does.push(format!("migrate records {}, which replaces what is applied", some_of(&self.unrecorded)));
        }
        if !self.receivers.is_empty() && post_migrate == PostMigrate::Runs {
            does.push(format!("migrate is heard by {}", some_of(&self.receivers)));
        }
        if !self.is_applied_in_order() {
            does.push(format!("migrate is a command of {}", self.command));
        }
        does
    }

    /// Whether migrate, as far as the code decides it, does nothing where no migration is to be applied.
    pub(crate) fn is_quiet(&self, post_migrate: PostMigrate) -> bool {
        self.is_applied_in_order() && (self.receivers.is_empty() || post_migrate == PostMigrate::Idle)
    }

    /// The databases that are migrated beside the first one, each on its own.
    pub(crate) fn others(&self) -> &[String] {
        self.aliases.get(1..).unwrap_or_default()
    }
}

/// Three of many names, and how many more there are.
pub(crate) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What migrate did, whether it failed or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Migrated {
    /// How often it was tried.
    pub attempts: u32,
    /// What people should know.
    pub warnings: Vec<String>,
    /// Which migration it was at when it ended.
    pub begun: Begun,
}

/// Which migration was begun, and is not applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Begun {
    /// Nobody can tell.
    #[default]
    Unknown,
    /// None, and yet the command did not come to its end.
    Nothing,
    /// None: the command has come to its end.
    Ended,
    /// This one.
    This(String),
}

/// What collectstatic did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Collected {
    /// Nothing, for this reason.
    Nothing(String),
    /// The files lie within the release.
    Within(Grounds),
    /// They lie in a directory that releases share.
    Elsewhere,
}

/// What collectstatic went by, as far as its interpreter could tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grounds {
    /// Where the static files are, within the release.
    pub root: PathBuf,
    /// The release's own files that it read.
    pub read: BTreeSet<PathBuf>,
    /// What else it read, without the environment and the standard library: paths, each with what tells whether it is the same later
    /// ([`identity`]).
    pub elsewhere: Vec<(PathBuf, String)>,
    /// Why nobody can say what else it went by.
    pub unsure: Option<String>,
}

/// How many lines of a command are searched for what went wrong.
const REMEMBERED_LINES: usize = 2000;

impl Django<'_> {
    /// `manage.py check --fail-level ERROR`.
    fn check(&self, deploy: Deploy, watch: &Watch<'_>) -> Result<(), ManageError> {
        let deploy = (deploy == Deploy::Yes).then_some("--deploy");
        let (result, lines) = heard(&self.manage("check")?.args(deploy).args(["--fail-level=ERROR"]), watch);
        result.map_err(|source| ManageError::command("check", source, &lines))
    }

    /// Whether models have changed without a migration: a sentence to warn with. That it cannot tell is one, too.
    fn unmade_migrations(&self, watch: &Watch<'_>) -> Result<Option<String>, ManageError> {
        let program = self.manage("makemigrations")?.args(["--check", "--dry-run", "--noinput"]);
        match heard(&program, watch) {
            (Ok(()), _) => Ok(None),
            (Err(ProgramError::Failed { .. }), lines) => Ok(Some(unmade_of(&lines))),
            (Err(source), lines) => Err(ManageError::command("makemigrations", source, &lines)),
        }
    }

    /// A command of manage.py.
    fn manage(&self, verb: &str) -> Result<Program, ManageError> {
        Ok(self.interpreter()?.arg(self.manage_path()).arg(verb).args(self.settings_argument()))
    }

    /// The settings module as an argument: some manage.py set the variable themselves, whatever it is already.
    fn settings_argument(&self) -> Option<String> {
        self.settings.settings.as_ref().map(|settings| format!("--settings={settings}"))
    }

    fn manage_path(&self) -> PathBuf {
        self.release.join(&self.settings.manage)
    }

    /// The interpreter of the environment, which is active for what it runs, in the directory of manage.py.
    fn interpreter(&self) -> Result<Program, ManageError> {
        let manage = self.manage_path();
        if !manage.is_file() {
            return Err(ManageError::NotThere(self.settings.manage.clone()));
        }
        let mut program = Program::new(self.python)
            .dir(manage.parent().unwrap_or(self.release))
            .env("PYTHONUNBUFFERED", "1")
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(bin) = self.python.parent() {
            let set = self.env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.into());
            let path = set.or_else(|| std::env::var_os("PATH")).unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
            // Only a colon in the path of the environment keeps them from being joined; then the interpreter is still named by its path.
            if let Ok(path) = std::env::join_paths(std::iter::once(bin.to_owned()).chain(std::env::split_paths(&path))) {
                program = program.env("PATH", path);
            }
            program = program.env("VIRTUAL_ENV", bin.parent().unwrap_or(bin));
        }
        if let Some(settings) = &self.settings.settings {
            program = program.env("DJANGO_SETTINGS_MODULE", settings);
        }
        Ok(match self.tree {
            Tree::Open => program,
            Tree::Sealed => program.env("PYTHONDONTWRITEBYTECODE", "1"),
        })
    }
}

/// Whether `check` runs the checks for deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deploy {
    Yes,
    No,
}

/// What makemigrations found, by what it said.
fn unmade_of(lines: &[String]) -> String {
    if let Some(conflict) = lines.iter().find(|line| line.contains("Conflicting migrations detected")) {
        let leaves = conflict.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')).map_or("", |(leaves, _)| leaves);
        return format!("migrations contradict each other: {leaves}; manage.py makemigrations --merge joins them");
    }
    let apps: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("Migrations for '")?.split('\'').next()).collect();
    if apps.is_empty() {
        let last = lines.iter().rev().map(|line| line.trim()).find(|line| !line.is_empty()).unwrap_or("it said nothing");
        format!("makemigrations --check could not tell whether the models have migrations: {last}")
    } else {
        format!("models of {} have changed without a migration (makemigrations)", apps.join(", "))
    }
}

/// Runs a program; its last lines are given back beside being passed on.
fn heard(program: &Program, watch: &Watch<'_>) -> (Result<(), ProgramError>, Vec<String>) {
    let heard = RefCell::new(std::collections::VecDeque::new());
    let lines = |stream: Stream, line: &str| {
        (watch.lines)(stream, line);
        let mut heard = heard.borrow_mut();
        if heard.len() == REMEMBERED_LINES {
            heard.pop_front();
        }
        heard.push_back(line.to_owned());
    };
    let result = program.run(&Watch { lines: &lines, ..*watch });
    (result, heard.into_inner().into())
}

#[cfg(test)]
mod tests;
