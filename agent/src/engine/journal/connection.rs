//! The connections to the file, and how long they wait for other programs.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::{JournalError, schema};

/// How long the journal may be locked by another program, a backup or somebody with sqlite3, until the agent gives up. Looked at so often.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
const POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// Waits for another program that has locked the journal; says so after a second.
pub(super) fn wait_for_others(looks: i32) -> bool {
    let waited = POLL * u32::try_from(looks).unwrap_or_default();
    if waited == std::time::Duration::from_secs(1) {
        tracing::warn!(
            "another program has locked the journal (fuser -v journal.db names it): the agent waits {} s at the most",
            PATIENCE.as_secs()
        );
    }
    std::thread::sleep(POLL);
    waited < PATIENCE
}

/// A connection keeps so many KiB of pages at the most, as SQLite has it (a negative number): it would keep them for good.
const CACHE: i32 = -1024;
/// More than there are different ones, so that none is made twice.
const STATEMENTS: usize = 64;

/// A connection to the file, for whoever asks the same again and again.
pub(super) fn connection_to(path: &Path) -> Result<Connection, JournalError> {
    let connection = Connection::open(path)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // What is planned for certain values is planned anew for others, which costs more than what it is for (the query planner stability guarantee,
    // sqlite.org/queryplanner-ng.html).
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "cache_size", CACHE)?;
    Ok(connection)
}

/// The two connections to the file, and what the journal says of itself.
pub(super) fn connect(path: &Path) -> Result<(Connection, Connection, schema::About), JournalError> {
    let mut writer = connection_to(path)?;
    writer.busy_handler(Some(wait_for_others))?;
    writer.pragma_update(None, "journal_mode", "wal")?;
    writer.pragma_update(None, "foreign_keys", "on")?;
    let about = schema::bring_up(&mut writer, path)?;
    let reader = connection_to(path)?;
    reader.pragma_update(None, "query_only", "on")?;
    reader.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok((writer, reader, about))
}
