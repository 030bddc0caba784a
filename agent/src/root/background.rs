//! What goes on in a thread of its own, beside whoever only reads what it is about.

use std::io;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use nix::unistd::syncfs;

use super::{AppRoot, IoContext, RootError};

/// Something that is under way. It has ended when this is dropped.
#[derive(Debug)]
pub(crate) struct BackgroundTask {
    act: &'static str,
    path: PathBuf,
    thread: Option<JoinHandle<Result<(), RootError>>>,
}

impl BackgroundTask {
    /// Begins it: what is done, for people, and with what.
    pub(super) fn begin(
        act: &'static str,
        path: &Path,
        rest: impl FnOnce() -> Result<(), RootError> + Send + 'static,
    ) -> Result<Self, RootError> {
        let thread = thread::Builder::new().name(act.to_owned()).spawn(rest).on_path(act, path)?;
        Ok(Self { act, path: path.to_owned(), thread: Some(thread) })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`RootError`] when it was not a good one.
    pub(crate) fn finish(mut self) -> Result<(), RootError> {
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(io::Error::other("the thread that was at it has ended early")).on_path(self.act, &self.path),
        }
    }
}

impl Drop for BackgroundTask {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Nobody asks any more how it ended.
            let _ = thread.join();
        }
    }
}

impl AppRoot {
    /// Begins to write to the disk what was written into a directory, and whatever else its file system holds back: the seal waits less for that then.
    pub(crate) fn begin_to_sync(&self, dir: &Path) -> Result<BackgroundTask, RootError> {
        let opened = std::fs::File::open(dir).on_path("open", dir)?;
        let path = dir.to_owned();
        BackgroundTask::begin("sync", dir, move || syncfs(&opened).on_path("sync the file system of", &path))
    }
}
