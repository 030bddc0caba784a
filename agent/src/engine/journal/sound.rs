//! Whether the file is sound. All of it is looked through once after each start, for which requests were carried out, and how far a run had come, is
//! believed for as long as the agent runs. That takes the longer the more there is; so it is not done before anybody is answered, and nothing is written
//! before it is over. Whoever is the first to need it looks, and the others wait.

use std::path::Path;
use std::sync::OnceLock;

use rusqlite::Connection;

use super::error::is_damage;
use super::{JournalError, wait_for_others};

/// What came of looking.
#[derive(Default)]
pub(super) struct Verdict(OnceLock<Result<(), Unsound>>);

enum Unsound {
    /// What is wrong.
    Damaged(String),
    /// Nothing can be said, and why not.
    Unread(String),
}

impl Verdict {
    /// Looks, or waits for whoever does; an error when the file is not to be written in.
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
    // Each page is read once.
    connection.pragma_update(None, "cache_size", -256)?;
    Ok(connection)
}

/// The first thing that SQLite finds.
pub(super) fn complaint(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let wrong: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    Ok((wrong != "ok").then(|| wrong.replace('\n', " ")))
}
