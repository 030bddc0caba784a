//! The proof of whose request a run was, kept with the run; and the two lines that the system log gets of each run: when it was accepted, and when it
//! ended. Both are written by the journal itself, so no way to end a run can miss them.

use std::fmt;

use agent_model::names::RunId;
use rusqlite::{Connection, OptionalExtension, params};

use super::{Journal, JournalError};

/// What proves whose a request is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The request, to the byte: this is what was signed.
    pub text: String,
    /// The signatures, as the headers had them.
    pub signatures: Vec<String>,
    /// The fingerprints of the keys that made them.
    pub keys: Vec<String>,
}

/// What is kept of how a caller was known, to be judged again later.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CallerProof {
    /// The caller, as the API wrote it down; nothing in rows of older agents.
    pub caller: Option<String>,
    /// The signatures of the request.
    pub signatures: Vec<String>,
}

impl CallerProof {
    /// From the columns `proof` and `signatures`.
    pub(super) fn of_columns(caller: Option<String>, signatures: Option<&str>) -> Self {
        // A list that cannot be read proves nothing.
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
    /// As the run's row has it within this transaction.
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

    /// Tells the system log. Called once the transaction is committed.
    pub(super) fn tell(&self) {
        match &self.outcome {
            None => tracing::info!("a request was accepted: {self}"),
            Some(_) => tracing::info!("a run ended: {self}"),
        }
    }
}

impl fmt::Display for Entry {
    /// All of it in the line itself, for journalctl shows fields only to whoever asks for them; and quoted, for a caller's name may be a stranger's text.
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
    /// What proves whose request a run was.
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

    /// How the caller of a run was known.
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
