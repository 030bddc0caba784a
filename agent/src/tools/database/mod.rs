//! Database backups: a file for each kind.

/// `[backup]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `database`
    pub kind: Kind,
    /// `keep`: how many dumps stay.
    pub keep: usize,
}

/// The kinds of database that can be dumped and verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `pg_dump -Fc`, verified by `pg_restore -l`.
    Postgres,
    /// The online backup of SQLite, verified by `integrity_check`.
    Sqlite,
}
