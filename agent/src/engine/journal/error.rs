//! Errors of the journal.

use std::path::PathBuf;

use rusqlite::{ErrorCode, ffi};
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum JournalError {
    /// A newer agent wrote it.
    #[error("the journal {} is of version {found}, and this agent understands up to {known}", path.display())]
    Newer {
        path: PathBuf,
        /// The version of the file.
        found: i64,
        /// The newest version that this agent understands.
        known: i64,
    },
    /// Another agent holds it.
    #[error("another agent uses the state directory {}", .0.display())]
    Held(PathBuf),
    /// Its directory or a file beside it cannot be used.
    #[error("cannot use {}", path.display())]
    Place {
        /// The directory or the file.
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Its content contradicts itself.
    #[error("the journal {} is damaged: {found}", path.display())]
    Damaged {
        path: PathBuf,
        /// The first thing that SQLite found.
        found: String,
    },
    /// It could not be checked.
    #[error("the journal {} cannot be read to its end: {why}", path.display())]
    Unread {
        /// The journal's file.
        path: PathBuf,
        why: String,
    },
    /// It cannot even be opened.
    #[error("the journal {} cannot be opened", path.display())]
    Unopened {
        /// The journal's file.
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    /// The disk is full.
    #[error("there is no room for the journal: the disk of {} is full", .0.display())]
    Full(PathBuf),
    /// Any other error of SQLite.
    #[error("the journal cannot be read or written")]
    Sqlite(#[from] rusqlite::Error),
    /// A stored event cannot be parsed.
    #[error("event {n} of run {run} cannot be understood")]
    Malformed {
        run: u64,
        /// The number of the event within the run.
        n: u64,
        #[source]
        source: serde_json::Error,
    },
}

impl JournalError {
    fn code(&self) -> Option<ErrorCode> {
        let (Self::Sqlite(source) | Self::Unopened { source, .. }) = self else { return None };
        source.sqlite_error_code()
    }

    /// A copy of the error, for a second receiver.
    pub(super) fn again(&self) -> Self {
        match self {
            Self::Sqlite(rusqlite::Error::SqliteFailure(code, text)) => rusqlite::Error::SqliteFailure(*code, text.clone()).into(),
            err => rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_ERROR), Some(crate::work::chain(err))).into(),
        }
    }

    /// Whether damage may be the cause.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Sqlite(source) => is_damage(source),
            Self::Malformed { .. } => true,
            _ => false,
        }
    }

    /// Whether another program has locked the file.
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
