//! The tables, and how an older file is brought up to date.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::JournalError;

/// The version that this agent writes; `PRAGMA user_version` holds it.
pub(super) const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- One row a run. From `begun` on the columns are what its events say, kept for lists and for admission.
CREATE TABLE run (
    run      INTEGER PRIMARY KEY AUTOINCREMENT,
    app      TEXT NOT NULL,
    action   TEXT NOT NULL,
    of       TEXT,
    caller   TEXT NOT NULL,
    form     TEXT NOT NULL,
    refs     TEXT,
    nonce    TEXT NOT NULL UNIQUE,
    accepted INTEGER NOT NULL,
    turns    INTEGER NOT NULL,
    begun    INTEGER,
    ended    INTEGER,
    outcome  TEXT,
    release  TEXT,
    step     TEXT
);
CREATE INDEX run_of_app ON run (app, run);
CREATE INDEX run_unended ON run (app) WHERE ended IS NULL;
CREATE TABLE event (
    run  INTEGER NOT NULL REFERENCES run (run),
    n    INTEGER NOT NULL,
    at   INTEGER NOT NULL,
    what TEXT NOT NULL,
    PRIMARY KEY (run, n)
) WITHOUT ROWID;
";

/// Makes the tables, or finds them; tells what the journal is called.
pub(super) fn bring_up(connection: &mut Connection, path: &Path) -> Result<String, JournalError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > VERSION {
        return Err(JournalError::Newer { path: path.to_owned(), found });
    }
    let transaction = connection.transaction()?;
    if found == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        // 128 random bits from SQLite's own generator, which the operating system seeds.
        transaction.execute("INSERT INTO about VALUES ('id', lower(hex(randomblob(16))))", [])?;
    }
    let id = transaction.query_row("SELECT value FROM about WHERE key = 'id'", [], |row| row.get(0)).optional()?;
    transaction.commit()?;
    id.ok_or_else(|| JournalError::Sqlite(rusqlite::Error::QueryReturnedNoRows))
}
