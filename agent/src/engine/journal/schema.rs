//! The tables, and the migration of older files.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::JournalError;
use super::sound::complaint;

/// The version that this agent writes; `PRAGMA user_version` holds it.
pub(super) const VERSION: i64 = 4;

pub(super) const TABLES: &str = "
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

/// Version 2 adds requests over the network.
const NETWORK: &str = "
-- From where the caller may go back: NULL for never, else JSON: null for always, or a list of patterns of refs.
ALTER TABLE run ADD COLUMN back TEXT;
-- The issuer's name and the number of the ID token that started the run.
ALTER TABLE run ADD COLUMN token TEXT;
CREATE UNIQUE INDEX run_of_token ON run (token) WHERE token IS NOT NULL;
-- Nothing that was issued before is taken: seconds since 1970 UTC.
INSERT INTO about VALUES ('not_before', CAST(strftime('%s', 'now') AS TEXT));
-- What the tokens that read one run's events are made with.
INSERT INTO about VALUES ('events_key', lower(hex(randomblob(32))));
";

/// Version 2 adds the outbox of reports.
const REPORTS: &str = "
-- What was made of a run in the outbox: 0 nothing yet, 1 that its commit is known, 2 that it is over. What ended before there was an outbox is told
-- to nobody.
ALTER TABLE run ADD COLUMN told INTEGER NOT NULL DEFAULT 0;
UPDATE run SET told = 2 WHERE ended IS NOT NULL;
CREATE INDEX run_untold ON run (run) WHERE told < 2 AND turns AND action IN ('release', 'activate');
-- What is still to be said, in this order to each target of an app; and what was given up, until the same got through again.
CREATE TABLE outbox (
    delivery   INTEGER PRIMARY KEY AUTOINCREMENT,
    app      TEXT NOT NULL,
    target   TEXT NOT NULL,
    run      INTEGER NOT NULL REFERENCES run (run),
    phase    TEXT NOT NULL,
    what     TEXT NOT NULL,
    made     INTEGER NOT NULL,
    due      INTEGER NOT NULL,
    tries    INTEGER NOT NULL DEFAULT 0,
    error    TEXT,
    given_up INTEGER
);
CREATE INDEX outbox_waiting ON outbox (app, target, delivery) WHERE given_up IS NULL;
-- What the target calls a run of ours.
CREATE TABLE deployment (
    run    INTEGER NOT NULL REFERENCES run (run),
    target TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (run, target)
) WITHOUT ROWID;
";

/// Version 3 adds columns and tables, so that facts about one run need no events, and facts about all runs need no full scan.
const MANY: &str = "
-- When somebody cancelled it, and since when visitors may have met it.
ALTER TABLE run ADD COLUMN cancel_asked INTEGER;
ALTER TABLE run ADD COLUMN exposed INTEGER;
UPDATE run SET
    cancel_asked = (SELECT at FROM event WHERE event.run = run.run AND what ->> 'what' = 'cancel_asked' ORDER BY n DESC LIMIT 1),
    exposed = (SELECT at FROM event WHERE event.run = run.run AND what ->> 'what' = 'exposed' ORDER BY n DESC LIMIT 1);
CREATE INDEX run_last_ended ON run (app, ended, run) WHERE ended IS NOT NULL AND turns;
CREATE INDEX run_of_outcome ON run (app, outcome, run) WHERE outcome IS NOT NULL AND turns;
CREATE INDEX run_accepted ON run (accepted);
CREATE INDEX run_ended ON run (ended);
";

/// Version 4 adds the proof of who requested a run, to show to others and to check again.
const EVIDENCE: &str = "
-- The commit that the run is about, once it is known.
ALTER TABLE run ADD COLUMN commit_id TEXT;
-- JSON: the caller, as it was known; NULL in rows of older agents.
ALTER TABLE run ADD COLUMN proof TEXT;
-- JSON: the SSHSIG blobs over the bytes of `form`, in base64; NULL where there were none.
ALTER TABLE run ADD COLUMN signatures TEXT;
-- The fingerprints of the keys that made them, with a space between.
ALTER TABLE run ADD COLUMN keys TEXT;
CREATE INDEX run_on_the_spot ON run (app, run) WHERE turns = 0;
-- Of runs that are forgotten: the commits that were asked for, how many runs that took turns ended in each way, and how late it was.
CREATE TABLE past (app TEXT NOT NULL, commit_id TEXT NOT NULL, PRIMARY KEY (app, commit_id)) WITHOUT ROWID;
CREATE TABLE past_outcome (app TEXT NOT NULL, outcome TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (app, outcome)) WITHOUT ROWID;
INSERT INTO about VALUES ('newest', '0');
";

/// The journal's facts about itself.
pub(super) struct About {
    /// Its unique id.
    pub id: String,
    /// Requests issued before this time are refused, in seconds since 1970 UTC.
    pub not_before: u64,
    /// The key of the tokens for reading one run's events.
    pub events_key: String,
    /// The time of the newest event, in milliseconds since 1970 UTC; 0 when there is none.
    pub newest: i64,
    /// Whether it was made just now.
    pub is_new: bool,
}

/// The time of the newest event. For a run that was cut off, only its events show the latest time.
pub(super) const NEWEST: &str = "SELECT max(
    coalesce((SELECT max(accepted) FROM run), 0),
    coalesce((SELECT max(ended) FROM run), 0),
    coalesce((SELECT CAST(value AS INTEGER) FROM about WHERE key = 'newest'), 0),
    coalesce((SELECT max(at) FROM event WHERE run IN (SELECT run FROM run WHERE ended IS NULL)), 0))";

/// Makes or migrates the tables.
pub(super) fn bring_up(connection: &mut Connection, path: &Path) -> Result<About, JournalError> {
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > VERSION {
        return Err(JournalError::Newer { path: path.to_owned(), found, known: VERSION });
    }
    // A file to be migrated is checked first; otherwise the check runs in the background.
    if found < VERSION
        && let Some(found) = complaint(connection)?
    {
        return Err(JournalError::Damaged { path: path.to_owned(), found });
    }
    let transaction = connection.transaction()?;
    if found == 0 {
        transaction.execute_batch(TABLES)?;
        // 128 random bits from SQLite's own generator, which the operating system seeds.
        transaction.execute("INSERT INTO about VALUES ('id', lower(hex(randomblob(16))))", [])?;
    }
    if found < 2 {
        transaction.execute_batch(NETWORK)?;
        transaction.execute_batch(REPORTS)?;
    }
    if found < 3 {
        transaction.execute_batch(MANY)?;
    }
    if found < 4 {
        transaction.execute_batch(EVIDENCE)?;
    }
    if found < VERSION {
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    let about = |key: &str| -> rusqlite::Result<String> {
        let found = transaction.query_row("SELECT value FROM about WHERE key = ?", [key], |row| row.get(0)).optional()?;
        found.ok_or(rusqlite::Error::QueryReturnedNoRows)
    };
    // For a run that was cut off, only its events show the latest time.
    let newest = transaction.query_row(NEWEST, [], |row| row.get(0))?;
    let about = About {
        id: about("id")?,
        not_before: about("not_before")?.parse().unwrap_or(u64::MAX),
        events_key: about("events_key")?,
        newest,
        is_new: found == 0,
    };
    transaction.commit()?;
    Ok(about)
}
