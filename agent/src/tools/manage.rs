//! Django's manage.py.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::{ProgramError, Watch};

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
    /// `database`: the alias of the database that is migrated and backed up.
    pub database: String,
    /// `lock_timeout`: how long a migration may wait for a lock of PostgreSQL before it gives up, and tries again.
    pub lock_timeout: Duration,
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

/// What a Django project says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inspection {
    /// Django's version.
    pub version: String,
    /// The settings module in force.
    pub settings_module: String,
    /// `STATIC_ROOT`, absolute, links resolved.
    pub static_root: Option<PathBuf>,
    /// Whether `django.contrib.staticfiles` is installed.
    pub staticfiles: bool,
    /// `WSGI_APPLICATION`
    pub wsgi_application: Option<String>,
    /// The databases, by alias.
    pub databases: BTreeMap<String, Database>,
    /// How the database of `[django] database` and the code stand to each other; or why that is not known, as a sentence.
    pub schema: Result<Schema, String>,
}

/// How a database and the code stand to each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Schema {
    /// Migrations to apply, in their order: `app.name`.
    pub pending: Vec<String>,
    /// Those of the pending ones that cannot be reversed.
    pub irreversible: Vec<String>,
    /// Migrations that were applied after the last one that this code knows of the same app: the schema is ahead of the code.
    pub ahead: Vec<String>,
    /// Other applied migrations that this code does not know: left by squashing, by a removed app, by another branch.
    pub strangers: Vec<String>,
    /// The version of the server or library: `150006` for PostgreSQL 15.6, `34001` for SQLite 3.40.1.
    pub server_version: u64,
}

/// A database as Django's settings describe it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Database {
    /// Its alias.
    pub alias: String,
    /// `postgresql`, `sqlite`, `mysql`, …
    pub vendor: String,
    /// `NAME`; of SQLite the absolute path.
    pub name: String,
    /// `HOST`
    pub host: String,
    /// `PORT`
    pub port: String,
    /// `USER`
    pub user: String,
    /// `PASSWORD`; never shown.
    pub password: String,
    /// Those of `OPTIONS` that libpq knows.
    pub options: BTreeMap<String, String>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alias, vendor, name, host, port, user, .. } = self;
        write!(f, "Database({alias}: {vendor} {name} at {host:?} {port:?} as {user:?})")
    }
}

/// What migrate did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Migrated {
    /// How often it was tried.
    pub attempts: u32,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// Why a Django project did not do what it should.
#[derive(Debug, Error)]
pub(crate) enum ManageError {
    /// A program ended badly.
    #[error("manage.py {verb} failed")]
    Command {
        /// What was asked of manage.py.
        verb: String,
        /// What to do about it.
        hint: Option<String>,
        /// How it ended.
        #[source]
        source: ProgramError,
    },
}

impl ManageError {
    /// What to do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Self::Command { hint, .. } => hint.as_deref(),
        }
    }

    /// The last lines of the program that failed.
    pub(crate) fn tail(&self) -> &[String] {
        match self {
            Self::Command { source, .. } => source.tail(),
        }
    }
}

impl Django<'_> {
    /// `manage.py check --deploy --fail-level ERROR`.
    ///
    /// # Errors
    /// [`ManageError`] when it finds an error, or cannot run.
    pub(crate) fn check(&self, watch: &Watch<'_>) -> Result<(), ManageError> {
        let _ = watch;
        Ok(())
    }

    /// Whether models have changed without a migration: a sentence to warn with.
    ///
    /// # Errors
    /// [`ManageError`] when it was cancelled or took too long; that it cannot tell is a warning too.
    pub(crate) fn unmade_migrations(&self, watch: &Watch<'_>) -> Result<Option<String>, ManageError> {
        let _ = watch;
        Ok(None)
    }

    /// `manage.py collectstatic --noinput`.
    ///
    /// # Errors
    /// [`ManageError`] when it fails.
    pub(crate) fn collectstatic(&self, watch: &Watch<'_>) -> Result<(), ManageError> {
        let _ = watch;
        Ok(())
    }

    /// `manage.py migrate --noinput`, which does not wait long for locks of PostgreSQL, and is tried again when it did.
    ///
    /// # Errors
    /// [`ManageError`] when it fails.
    pub(crate) fn migrate(&self, watch: &Watch<'_>, inspection: &Inspection) -> Result<Migrated, ManageError> {
        let _ = (watch, inspection);
        Ok(Migrated::default())
    }

    /// What the project says of itself; changes nothing.
    ///
    /// # Errors
    /// [`ManageError`] when the settings cannot be loaded.
    pub(crate) fn inspect(&self, watch: &Watch<'_>) -> Result<Inspection, ManageError> {
        let _ = watch;
        Err(ManageError::Command { verb: "inspect".into(), hint: None, source: ProgramError::Missing("python".into()) })
    }

    /// Imports the WSGI application and the URLs, as a server would; tells what people should know.
    ///
    /// # Errors
    /// [`ManageError`] when they cannot be imported.
    pub(crate) fn load(&self, watch: &Watch<'_>) -> Result<Vec<String>, ManageError> {
        let _ = watch;
        Ok(Vec::new())
    }
}
