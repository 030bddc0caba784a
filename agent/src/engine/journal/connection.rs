//! The connections to the file, and how long they wait for other programs.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::{JournalError, schema};

/// How long another program (a backup, or a person with sqlite3) may lock the journal until the agent gives up; POLL is the interval of its tries.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
const POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// Waits for another program that has locked the journal; warns after a second.
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

/// The page cache of a connection in KiB (negative by SQLite's convention). A connection never gives it back.
const CACHE: i32 = -1024;
/// More than there are different statements, so that none is prepared twice.
const STATEMENTS: usize = 64;

/// A connection to the file with a cache of prepared statements.
pub(super) fn connection_to(path: &Path) -> Result<Connection, JournalError> {
    let connection = Connection::open(path)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Without the query planner stability guarantee, SQLite plans a statement again for other values, and that costs more than it gains
    // (sqlite.org/queryplanner-ng.html).
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "cache_size", CACHE)?;
    Ok(connection)
}

/// The two connections to the file, and the journal's own facts.
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
