//! Who holds a root: one agent, by flock(2), as a value that is handed to whoever needs the proof; and the operator's own lock on releases.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_model::request::Lock;
use chrono::{DateTime, Utc};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::{AppRoot, IoContext, RootError, remove_durably, write_durably};

/// The proof that this agent holds the root. It is let go with the value, and by the kernel when the agent dies.
#[derive(Debug)]
pub(crate) struct RootLock {
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

/// How long a dead agent's lock may outlive it: a child that it had made and that had not become its program yet holds what it held.
const OUTLIVES: Duration = Duration::from_secs(2);

/// Locks a file until this process ends; gives it back when another process has it.
pub(crate) fn hold_for_good(mut file: File) -> Result<Flock<File>, File> {
    let end = Instant::now() + OUTLIVES;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Ok(held),
            Err((back, _)) if Instant::now() >= end => return Err(back),
            Err((back, _)) => file = back,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl AppRoot {
    /// Takes the root for this agent.
    ///
    /// # Errors
    /// [`RootError::Held`] when another agent has it.
    pub(crate) fn hold(&self) -> Result<RootLock, RootError> {
        let path = self.path().join(".agent/holder");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).on_path("open", &path)?;
        match hold_for_good(file) {
            Ok(mut file) => {
                // Only for people: the lock itself is the kernel's.
                let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
                written.on_path("write", &path)?;
                Ok(RootLock { _file: file })
            }
            Err(mut file) => {
                let mut holder = String::new();
                // An unreadable number is told as unknown.
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() { "unknown".to_owned() } else { holder };
                Err(RootError::Held { root: self.path().to_owned(), holder })
            }
        }
    }

    /// Waits for the git cache, and holds it: two gits must not fetch into it at once. `pause` tells whether there is reason to go on waiting.
    ///
    /// # Errors
    /// [`RootError::CacheHeld`] when there is none any more.
    pub(crate) fn hold_cache(&self, pause: &dyn Fn() -> bool) -> Result<CacheLock, RootError> {
        let path = self.path().join(".agent/cache");
        let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).on_path("open", &path)?;
        loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(held) => return Ok(CacheLock { _file: held }),
                Err((file, Errno::EWOULDBLOCK)) if pause() => file,
                Err((_, Errno::EWOULDBLOCK)) => return Err(RootError::CacheHeld(self.cache())),
                Err((_, errno)) => return Err(errno).on_path("lock", &path),
            };
        }
    }

    /// Where the operator's lock is kept.
    pub(crate) fn lock_file(&self) -> PathBuf {
        self.path().join(".agent/lock.json")
    }

    /// The operator's lock. One that cannot be understood is a lock all the same: nobody knows what it was to keep from happening.
    pub(crate) fn lock(&self) -> Result<Option<Lock>, RootError> {
        match self.read_lock() {
            Err(RootError::Malformed { path, .. }) => {
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
    /// [`RootError::Malformed`] when it cannot be understood.
    pub(crate) fn read_lock(&self) -> Result<Option<Lock>, RootError> {
        let path = self.lock_file();
        let text = match std::fs::read_to_string(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.on_path("read", &path)?,
        };
        let Kept { who, why, since } = serde_json::from_str(&text).map_err(|source| RootError::Malformed { path, source })?;
        Ok(Some(Lock { who, why, since }))
    }

    /// Sets or ends the operator's lock.
    pub(crate) fn set_lock(&self, lock: Option<&Lock>) -> Result<(), RootError> {
        let path = self.lock_file();
        match lock {
            Some(Lock { who, why, since }) => {
                let kept = serde_json::json!({ "who": who, "why": why, "since": since });
                write_durably(&path, kept.to_string().as_bytes(), 0o600)
            }
            None => remove_durably(&path),
        }
    }
}
