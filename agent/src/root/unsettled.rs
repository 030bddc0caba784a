//! What runs may have left in the database: a file of the root, which outlives the journal and the release, until a later run has applied what was left
//! halfway, or a person says that it is settled.

use std::io;
use std::path::PathBuf;

use agent_model::names::RunId;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{AppRoot, IoContext, RootError, own_file, remove_durably, write_durably};

/// The most bytes of the file.
const MOST: u64 = 4 << 20;

/// What one run may have left in the database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unsettled {
    /// The mark of the run, for numbers begin anew with a new journal.
    pub by: String,
    /// Its number.
    pub run: u64,
    /// Its release.
    pub release: String,
    /// When it was written down.
    pub at: DateTime<Utc>,
    /// What may have been left, as a sentence.
    pub text: String,
    /// The migrations that may have been left halfway.
    pub migrations: Vec<String>,
    /// The dump from before.
    pub backup: Option<PathBuf>,
    /// The command that restores it.
    pub restore: Option<String>,
}

impl AppRoot {
    fn unsettled_file(&self) -> PathBuf {
        self.path().join(".agent/unsettled.json")
    }

    /// Where the process that migrates writes down what it begins.
    pub(crate) fn migration_report(&self, run: RunId) -> PathBuf {
        self.scratch(&format!("migrate-{run}"))
    }

    /// What runs may have left in the database, the oldest first. A file that cannot be understood says that there is something, and not what.
    pub(crate) fn unsettled(&self) -> Vec<Unsettled> {
        self.read_unsettled().unwrap_or_else(|_| {
            let text = format!("{} cannot be understood: the database may be half migrated", self.unsettled_file().display());
            vec![Unsettled { text, ..Unsettled::default() }]
        })
    }

    /// The same, as it is written.
    ///
    /// # Errors
    /// [`RootError::Malformed`] when it cannot be understood.
    pub(crate) fn read_unsettled(&self) -> Result<Vec<Unsettled>, RootError> {
        let path = self.unsettled_file();
        let text = match own_file(&path, MOST) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.on_path("read", &path)?,
        };
        serde_json::from_slice(&text).map_err(|source| RootError::Malformed { path, source })
    }

    /// Writes down what a run may have left, in the place of what was written of it before.
    pub(crate) fn set_unsettled(&self, entry: &Unsettled) -> Result<(), RootError> {
        let mut entries = self.unsettled();
        match entries.iter_mut().find(|known| known.by == entry.by) {
            Some(known) if known == entry => return Ok(()),
            Some(known) => *known = entry.clone(),
            None => entries.push(entry.clone()),
        }
        self.write_unsettled(&entries)
    }

    /// Takes away what is settled; tells what that was.
    pub(crate) fn settle(&self, is_settled: impl Fn(&Unsettled) -> bool) -> Result<Vec<Unsettled>, RootError> {
        let (settled, left): (Vec<_>, Vec<_>) = self.unsettled().into_iter().partition(is_settled);
        if !settled.is_empty() {
            self.write_unsettled(&left)?;
        }
        Ok(settled)
    }

    fn write_unsettled(&self, entries: &[Unsettled]) -> Result<(), RootError> {
        let path = self.unsettled_file();
        if entries.is_empty() {
            return remove_durably(&path);
        }
        let text = serde_json::to_vec(entries).map_err(|source| RootError::Malformed { path: path.clone(), source })?;
        write_durably(&path, &text, 0o600)
    }
}
