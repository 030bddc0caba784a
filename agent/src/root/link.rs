//! The link `app`, and its atomic swap: a temporary link under a name of its own, a rename over the link, the root's fsync, and a look.

use std::fs;
use std::io;
use std::path::Path;

use agent_model::names::ReleaseName;

use crate::faults;

use super::{AppRoot, IoContext, RootError, RootLock, sync_dir};

/// Names of temporary links begin so.
pub(super) const TEMPORARY: &str = ".app.";

impl AppRoot {
    /// The release that the link names, if there is a link.
    ///
    /// # Errors
    /// [`RootError::NotALink`] when `app` is something else, or leads somewhere else.
    pub(crate) fn live(&self) -> Result<Option<ReleaseName>, RootError> {
        let path = self.link();
        let not_a_link = |found: String| RootError::NotALink { path: path.clone(), found };
        let target = match fs::read_link(&path) {
            Ok(target) => target,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) if err.kind() == io::ErrorKind::InvalidInput => return Err(not_a_link("no link".to_owned())),
            Err(source) => return Err(RootError::Io { act: "read the link", path, source }),
        };
        let name = target.strip_prefix("releases").ok().and_then(Path::to_str).and_then(|name| name.parse().ok());
        name.map(Some).ok_or_else(|| not_a_link(format!("a link to {}", target.display())))
    }

    /// Makes `release` the one that the link names. Durable when it returns; at every instant the link names the former or the new one.
    pub(crate) fn swap(&self, release: &ReleaseName, _lock: &RootLock) -> Result<(), RootError> {
        let path = self.link();
        self.check()?;
        // What is there must be ours to replace: rename would remove a file without a word.
        self.live()?;
        for entry in fs::read_dir(self.path()).on_path("read", self.path())?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
                fs::remove_file(entry.path()).on_path("remove the stale link", &entry.path())?;
            }
        }
        self.note_the_swap(release);
        let temporary = self.path().join(format!("{TEMPORARY}{}-{release}", std::process::id()));
        std::os::unix::fs::symlink(Path::new("releases").join(release.as_str()), &temporary).on_path("make the link", &temporary)?;
        faults::at("linked");
        // The cause is told; a temporary link that stays is removed by the next swap.
        let replaced = fs::rename(&temporary, &path).inspect_err(|_| drop(fs::remove_file(&temporary)));
        replaced.on_path("replace the link", &path)?;
        faults::at("renamed");
        sync_dir(self.path())?;
        match self.live()? {
            Some(live) if live == *release => Ok(()),
            other => {
                let found = other.map_or("missing".to_owned(), |name| format!("a link to {name}"));
                Err(RootError::NotALink { path, found })
            }
        }
    }

    /// Removes the link: there was none before the first release.
    pub(crate) fn unlink(&self, _lock: &RootLock) -> Result<(), RootError> {
        if self.live()?.is_some() {
            let path = self.link();
            fs::remove_file(&path).on_path("remove the link", &path)?;
            sync_dir(self.path())?;
        }
        Ok(())
    }
}
