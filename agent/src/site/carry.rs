//! Files that a release takes over from an earlier one: copies, so that no release can be damaged through another; where the file system can, they share
//! their blocks (ioctl_ficlone(2), which copying tries first).

use std::fs::{self, FileTimes};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use agent_model::names::ReleaseName;

use super::listing::{digest_of, parse};
use super::{Site, SiteError, Telling};

impl Site {
    /// Copies a directory of a sealed release into one that is being made, with the times of its files, which visitors' caches go by. Only what the earlier
    /// one was sealed with counts. Tells how many files there are.
    ///
    /// # Errors
    /// [`SiteError::NotSealed`] when a file is not as it was sealed; [`SiteError::Io`]. Then nothing of the copy is left.
    pub(crate) fn carry(&self, from: &ReleaseName, to: &ReleaseName, within: &Path) -> Result<u64, SiteError> {
        let target = self.release_dir(to).join(within);
        // What the commit ships there is not copied over, and not removed.
        if fs::symlink_metadata(&target).is_ok() {
            return Err(SiteError::Io { act: "copy into", path: target, source: io::ErrorKind::AlreadyExists.into() });
        }
        let carried = self.carry_files(from, to, within);
        if carried.is_err() {
            super::remove_tree(&target)?;
        }
        carried
    }

    fn carry_files(&self, from: &ReleaseName, to: &ReleaseName, within: &Path) -> Result<u64, SiteError> {
        let list = self.listing_of(from, &self.manifest(from)?)?;
        let (former, new) = (self.release_dir(from), self.release_dir(to));
        let mut files = 0;
        for (path, (_, digest)) in parse(&list).into_iter().filter(|(path, _)| path.starts_with(within)) {
            let (source, copy) = (former.join(path), new.join(path));
            let directory = copy.parent().unwrap_or(&new);
            fs::create_dir_all(directory).telling("make the directory", directory)?;
            let meta = fs::symlink_metadata(&source).telling("look at", &source)?;
            let same = if meta.is_symlink() {
                let leads = fs::read_link(&source).telling("read", &source)?;
                symlink(&leads, &copy).telling("make the link", &copy)?;
                super::listing::digest(leads.as_os_str().as_encoded_bytes()) == digest
            } else {
                copy_file(&source, &copy, &meta).telling("copy", &source)?;
                digest_of(&copy, &|| true).telling("read", &copy)? == digest
            };
            if !same {
                return Err(SiteError::NotSealed {
                    release: from.clone(),
                    why: format!("has changed since it was sealed: {}", path.display()),
                });
            }
            files += 1;
        }
        Ok(files)
    }
}

fn copy_file(from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    fs::copy(from, to)?;
    fs::File::open(to)?.set_times(FileTimes::new().set_modified(meta.modified()?))
}
