//! What a root remembers of the journal that took the last signed request for it: so that a state directory which came back from a backup is noticed,
//! whatever that request left behind.

use std::io;

use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{AppRoot, IoContext, RootError, own_file, temporary_beside, write_temporary};

/// The most bytes of such a record.
const MOST_BYTES: u64 = 4096;

/// The last run that was asked for by a signature or a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastSigned {
    /// What tells the journal from every other one.
    pub journal: String,
    /// The run.
    pub run: u64,
    /// When it was taken.
    pub at: DateTime<Utc>,
    /// Nothing that was issued before was taken by then, in seconds since 1970 UTC.
    pub not_before: u64,
}

impl AppRoot {
    fn last_signed_file(&self) -> std::path::PathBuf {
        self.path().join(".agent/last-signed.json")
    }

    /// What is remembered; nothing where nothing was written, or what was cannot be understood.
    pub(crate) fn last_signed(&self) -> Option<LastSigned> {
        serde_json::from_slice(&own_file(&self.last_signed_file(), MOST_BYTES).ok()?).ok()
    }

    /// Remembers a run in the place of the last one. It is not waited for the disk: a power cut takes nothing from the journal that this could tell.
    ///
    /// # Errors
    /// [`RootError::Io`] when it cannot be written.
    pub(crate) fn remember(&self, last: &LastSigned) -> Result<(), RootError> {
        // Requests that are carried out on the spot come on threads of their own.
        static WRITING: Mutex<()> = Mutex::new(());
        let _writing = WRITING.lock();
        if self
            .last_signed()
            .is_some_and(|known| known.journal == last.journal && known.not_before == last.not_before && known.run >= last.run)
        {
            return Ok(());
        }
        let path = self.last_signed_file();
        let temporary = temporary_beside(&path);
        let written = serde_json::to_vec(last).map_err(io::Error::other).and_then(|text| write_temporary(&temporary, &text, 0o600));
        written.and_then(|_| std::fs::rename(&temporary, &path)).on_path("write", &path)
    }
}
