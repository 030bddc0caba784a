//! Whether the file is sound. The agent trusts the journal's record of carried-out requests and progress for as long as it runs, so it checks the
//! whole file once after each start. The check grows with the file, so it does not delay answers; but nothing is written before it is over. The first
//! thread that needs the result runs the check, and the others wait.

use std::path::Path;
use std::sync::OnceLock;

use rusqlite::Connection;

use super::error::is_damage;
use super::{JournalError, wait_for_others};

/// The result of the check.
#[derive(Default)]
pub(super) struct Verdict(OnceLock<Result<(), Unsound>>);

enum Unsound {
    /// The first flaw that was found.
    Damaged(String),
    /// The file could not be checked; the text is the reason.
    Unread(String),
}

impl Verdict {
    /// Runs the check, or waits for the thread that runs it; an error when the file must not be written to.
    pub(super) fn of(&self, path: &Path) -> Result<(), JournalError> {
        let found = self.0.get_or_init(|| match opened(path).and_then(|connection| complaint(&connection)) {
            Ok(None) => Ok(()),
            Ok(Some(complaint)) => Err(Unsound::Damaged(complaint)),
            Err(err) if is_damage(&err) => Err(Unsound::Damaged(err.to_string())),
            Err(err) => Err(Unsound::Unread(err.to_string())),
        });
        let path = || path.to_owned();
        match found {
            Ok(()) => Ok(()),
            Err(Unsound::Damaged(found)) => Err(JournalError::Damaged { path: path(), found: found.clone() }),
            Err(Unsound::Unread(why)) => Err(JournalError::Unread { path: path(), why: why.clone() }),
        }
    }
}

fn opened(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.pragma_update(None, "query_only", "on")?;
    connection.busy_handler(Some(wait_for_others))?;
    // The check reads each page once.
    connection.pragma_update(None, "cache_size", -256)?;
    Ok(connection)
}

/// The first flaw that SQLite finds.
pub(super) fn complaint(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let wrong: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    Ok((wrong != "ok").then(|| wrong.replace('\n', " ")))
}
