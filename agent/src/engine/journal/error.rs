//! What can go wrong with the journal.

use std::path::PathBuf;

use rusqlite::{ErrorCode, ffi};
use thiserror::Error;

/// What went wrong with the journal.
#[derive(Debug, Error)]
pub(crate) enum JournalError {
    /// A newer agent wrote it.
    #[error("the journal {} is of version {found}, and this agent understands up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that this agent understands.
        known: i64,
    },
    /// Another agent has it.
    #[error("another agent uses the state directory {}", .0.display())]
    Held(PathBuf),
    /// Its directory or a file beside it cannot be used.
    #[error("cannot use {}", path.display())]
    Place {
        /// The path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What is in it contradicts itself.
    #[error("the journal {} is damaged: {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first thing that SQLite found.
        found: String,
    },
    /// Whether it is sound cannot be said.
    #[error("the journal {} cannot be read to its end: {why}", path.display())]
    Unread {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// It cannot even be opened.
    #[error("the journal {} cannot be opened", path.display())]
    Unopened {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: rusqlite::Error,
    },
    /// There is no room for it.
    #[error("there is no room for the journal: the disk of {} is full", .0.display())]
    Full(PathBuf),
    /// SQLite says no.
    #[error("the journal cannot be read or written")]
    Sqlite(#[from] rusqlite::Error),
    /// What is stored cannot be understood.
    #[error("event {n} of run {run} cannot be understood")]
    Malformed {
        /// The run.
        run: u64,
        /// The event.
        n: u64,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

impl JournalError {
    fn code(&self) -> Option<ErrorCode> {
        let (Self::Sqlite(source) | Self::Unopened { source, .. }) = self else { return None };
        source.sqlite_error_code()
    }

    /// The same once more, for another who must hear it.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Sqlite(rusqlite::Error::SqliteFailure(code, text)) => rusqlite::Error::SqliteFailure(*code, text.clone()).into(),
            err => rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ERROR), Some(crate::work::chain(err))).into(),
        }
    }

    /// Whether it may come of damage.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Sqlite(source) => is_damage(source),
            Self::Malformed { .. } => true,
            _ => false,
        }
    }

    /// Whether another program has it locked.
    pub(crate) fn is_locked(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
    }

    /// Whether the agent may not write there.
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self.code(), Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied))
    }
}

/// Whether SQLite says that the file is damaged.
pub(super) fn is_damage(err: &rusqlite::Error) -> bool {
    matches!(err.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}
