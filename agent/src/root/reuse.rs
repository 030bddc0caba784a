//! Files that a release reuses from an earlier one: copies, so that no release can be damaged through another; where the file system can, they share
//! their blocks (ioctl_ficlone(2), which copying tries first). Files that nobody can write in may be the very same ones.

use std::collections::BTreeSet;
use std::fs::{self, FileTimes};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use agent_model::names::ReleaseName;
use rayon::prelude::*;

use super::listing::{digest_of, parse};
use super::{AppRoot, IoContext, RootError};

/// What a file becomes in the release that reuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reused {
    /// A copy.
    Copied,
    /// Another name of the same file, which has no write bits.
    Linked,
}

impl AppRoot {
    /// Copies a directory of a sealed release into one that is being made, with the times of its files, which visitors' caches go by; or links them. Only what
    /// the earlier one was sealed with counts. Tells how many files there are.
    ///
    /// # Errors
    /// [`RootError::NotSealed`] when a file is not as it was sealed; [`RootError::Io`]. Then nothing of the copy is left.
    pub(crate) fn reuse(&self, from: &ReleaseName, to: &ReleaseName, within: &Path, how: Reused) -> Result<usize, RootError> {
        let target = self.release_dir(to).join(within);
        // What the commit ships there is not copied over, and not removed.
        if fs::symlink_metadata(&target).is_ok() {
            return Err(RootError::Io { act: "copy into", path: target, source: io::ErrorKind::AlreadyExists.into() });
        }
        let reused = self.reuse_files(from, to, within, how);
        if reused.is_err() {
            super::remove_tree(&target)?;
        }
        reused
    }

    fn reuse_files(&self, from: &ReleaseName, to: &ReleaseName, within: &Path, how: Reused) -> Result<usize, RootError> {
        let list = self.listing_of(from, &self.manifest(from)?)?;
        let listed: Vec<(&Path, &str)> =
            parse(&list).into_iter().filter(|(path, _)| path.starts_with(within)).map(|(path, (_, digest))| (path, digest)).collect();
        let (former, new) = (self.release_dir(from), self.release_dir(to));
        let directories: BTreeSet<PathBuf> = listed.iter().filter_map(|(path, _)| Some(new.join(path.parent()?))).collect();
        for directory in directories {
            fs::create_dir_all(&directory).on_path("make the directory", &directory)?;
        }
        listed.par_iter().try_for_each(|(path, digest)| {
            if !reuse_file(&former.join(path), &new.join(path), digest, how)? {
                let why = format!("has changed since it was sealed: {}", path.display());
                return Err(RootError::NotSealed { release: from.clone(), why });
            }
            Ok(())
        })?;
        Ok(listed.len())
    }
}

/// Tells whether it was what it was sealed as.
fn reuse_file(source: &Path, copy: &Path, sealed: &str, how: Reused) -> Result<bool, RootError> {
    let meta = fs::symlink_metadata(source).on_path("look at", source)?;
    if meta.is_symlink() {
        let leads = fs::read_link(source).on_path("read", source)?;
        symlink(&leads, copy).on_path("make the link", copy)?;
        return Ok(super::listing::digest(leads.as_os_str().as_encoded_bytes()) == sealed);
    }
    // Of a file that somebody may write in, or on another file system, there is a copy all the same.
    let may_be_linked = how == Reused::Linked && meta.permissions().mode() & 0o222 == 0;
    if !may_be_linked || fs::hard_link(source, copy).is_err() {
        copy_file(source, copy, &meta).on_path("copy", source)?;
    }
    Ok(digest_of(copy, &|| true).on_path("read", copy)? == sealed)
}

fn copy_file(from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    fs::copy(from, to)?;
    fs::File::open(to)?.set_times(FileTimes::new().set_modified(meta.modified()?))
}
