//! The proof of who requested a run, kept with the run, and the two lines of each run in the system log: accepted and ended. The journal itself
//! writes both, so every way to end a run is covered.

use std::fmt;

use agent_model::names::RunId;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Journal, JournalError};

/// The proof of who sent a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The request to the byte: the signatures cover this text.
    pub text: String,
    /// The signatures, as the headers had them.
    pub signatures: Vec<String>,
    /// The fingerprints of the keys that made them.
    pub keys: Vec<String>,
}

/// The stored proof of a caller's identity, so that it can be checked again later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CallerProof {
    /// The caller, as the API wrote it; `None` in rows of older agents.
    pub caller: Option<String>,
    pub signatures: Vec<String>,
}

impl CallerProof {
    /// From the columns `proof` and `signatures`.
    pub(super) fn of_columns(caller: Option<String>, signatures: Option<&str>) -> Self {
        // An unreadable list proves nothing.
        Self { caller, signatures: signatures.and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default() }
    }
}

/// A run in the system log.
pub(super) struct Entry {
    run: u64,
    app: String,
    action: String,
    caller: String,
    keys: Option<String>,
    commit: Option<String>,
    outcome: Option<String>,
}

impl Entry {
    /// The run's row as this transaction sees it.
    pub(super) fn of(tx: &Connection, run: RunId) -> Result<Option<Self>, JournalError> {
        let mut query =
            tx.prepare_cached("SELECT app, action, caller, keys, coalesce(commit_id, form ->> 'commit'), outcome FROM run WHERE run = ?")?;
        let found = query.query_row([run.0], |row| {
            Ok(Self {
                run: run.0,
                app: row.get(0)?,
                action: row.get(1)?,
                caller: row.get(2)?,
                keys: row.get(3)?,
                commit: row.get(4)?,
                outcome: row.get(5)?,
            })
        });
        Ok(found.optional()?)
    }

    /// Writes to the system log. Called once the transaction is committed.
    pub(super) fn tell(&self) {
        match &self.outcome {
            None => tracing::info!("a request was accepted: {self}"),
            Some(_) => tracing::info!("a run ended: {self}"),
        }
    }
}

impl fmt::Display for Entry {
    /// The line contains everything, because journalctl shows fields only on request. Values are quoted, because a caller's name may be untrusted
    /// text.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, app, action, caller, keys, commit, outcome } = self;
        write!(formatter, "run={run} app={app:?} action={action:?} caller={caller:?}")?;
        for (name, value) in [("keys", keys), ("commit", commit), ("outcome", outcome)] {
            if let Some(value) = value {
                write!(formatter, " {name}={value:?}")?;
            }
        }
        Ok(())
    }
}

impl Journal {
    /// The proof of who requested a run.
    pub(crate) fn evidence(&self, run: RunId) -> Result<Option<Evidence>, JournalError> {
        let reader = self.reader.lock();
        let mut query = reader.prepare_cached("SELECT form, signatures, keys FROM run WHERE run = ?")?;
        let found = query.query_row([run.0], |row| {
            let (text, signatures, keys): (_, Option<String>, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let signatures = CallerProof::of_columns(None, signatures.as_deref()).signatures;
            Ok(Evidence { text, signatures, keys: keys.iter().flat_map(|keys| keys.split(' ')).map(str::to_owned).collect() })
        });
        Ok(found.optional()?)
    }

    /// How the caller of a run was authenticated.
    pub(crate) fn proof(&self, run: RunId) -> Result<Option<CallerProof>, JournalError> {
        let reader = self.reader.lock();
        let mut query = reader.prepare_cached("SELECT proof, signatures FROM run WHERE run = ?")?;
        let found = query.query_row(params![run.0], |row| {
            let signatures: Option<String> = row.get(1)?;
            Ok(CallerProof::of_columns(row.get(0)?, signatures.as_deref()))
        });
        Ok(found.optional()?)
    }
}
