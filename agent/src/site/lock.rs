//! Who holds a root: one agent, by flock(2), as a value that is handed to whoever needs the proof; and the operator's own lock on releases.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use agent_model::request::Lock;
use chrono::{DateTime, Utc};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{Site, SiteError, Telling, write_durably};

/// The proof that this agent holds the root. It is let go with the value, and by the kernel when the agent dies.
#[derive(Debug)]
pub(crate) struct SiteLock {
    _file: Flock<File>,
}

/// The proof that nobody else fetches into the git cache.
#[derive(Debug)]
pub(crate) struct CacheLock {
    _file: Flock<File>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    who: String,
    why: String,
    since: i64,
}

impl Site {
    /// Takes the root for this agent.
    ///
    /// # Errors
    /// [`SiteError::Held`] when another agent has it.
    pub(crate) fn hold(&self) -> Result<SiteLock, SiteError> {
        let path = self.root().join(".agent/holder");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).telling("open", &path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // Only for people: the lock itself is the kernel's.
                let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
                written.telling("write", &path)?;
                Ok(SiteLock { _file: file })
            }
            Err((mut file, _)) => {
                let mut holder = String::new();
                // An unreadable number is told as unknown.
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() { "unknown".to_owned() } else { holder };
                Err(SiteError::Held { root: self.root().to_owned(), holder })
            }
        }
    }

    /// Waits for the git cache, and holds it: two gits must not fetch into it at once.
    pub(crate) fn hold_cache(&self) -> Result<CacheLock, SiteError> {
        let path = self.root().join(".agent/cache");
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).telling("open", &path)?;
        let held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).telling("lock", &path)?;
        Ok(CacheLock { _file: held })
    }

    /// Where the operator's lock is kept.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.root().join(".agent/lock.json")
    }

    /// The operator's lock. One that cannot be understood is a lock all the same: nobody knows what it was to keep from happening.
    pub(crate) fn lock(&self) -> Result<Option<Lock>, SiteError> {
        match self.read_lock() {
            Err(SiteError::Malformed { path, .. }) => {
                let written = std::fs::metadata(&path).and_then(|meta| meta.modified()).map(DateTime::<Utc>::from).unwrap_or_default();
                let why = format!("{} cannot be understood", path.display());
                Ok(Some(Lock { who: "nobody knows whom".to_owned(), why, since: written.timestamp() }))
            }
            read => read,
        }
    }

    /// The operator's lock, as it is written.
    ///
    /// # Errors
    /// [`SiteError::Malformed`] when it cannot be understood.
    pub(crate) fn read_lock(&self) -> Result<Option<Lock>, SiteError> {
        let path = self.lock_file();
        let text = match std::fs::read_to_string(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.telling("read", &path)?,
        };
        let Kept { who, why, since } = serde_json::from_str(&text).map_err(|source| SiteError::Malformed { path, source })?;
        Ok(Some(Lock { who, why, since }))
    }

    /// Sets or ends the operator's lock.
    pub(crate) fn set_lock(&self, lock: Option<&Lock>) -> Result<(), SiteError> {
        let path = self.lock_file();
        match lock {
            Some(Lock { who, why, since }) => {
                let kept = serde_json::json!({ "who": who, "why": why, "since": since });
                write_durably(&path, kept.to_string().as_bytes(), 0o600)
            }
            None => super::remove_tree(&path),
        }
    }
}
