//! Django's manage.py.

use std::path::PathBuf;
use std::time::Duration;

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
