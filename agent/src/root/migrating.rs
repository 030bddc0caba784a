//! The gate that commands of operators and of cron wait at while a migration runs.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::{AppRoot, IoContext, RootError};

impl AppRoot {
    fn gate(&self) -> PathBuf {
        self.path().join(".agent/migrating")
    }

    /// Closes the gate until the answer is dropped. The kernel opens it when the agent dies.
    ///
    /// # Errors
    /// [`RootError`] when the file cannot be made.
    pub(crate) fn close_gate(&self) -> Result<File, RootError> {
        let path = self.gate();
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).on_path("open", &path)?;
        file.lock().on_path("lock", &path)?;
        Ok(file)
    }

    /// Waits until the gate is open; `closed` is called once if it is not.
    ///
    /// # Errors
    /// The error of the file system. A gate that never was closed is open.
    pub(crate) fn wait_at_gate(&self, closed: impl FnOnce()) -> io::Result<()> {
        let file = match File::open(self.gate()) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(err),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                closed();
                file.lock_shared()
            }
            Err(TryLockError::Error(err)) => Err(err),
        }
    }
}
