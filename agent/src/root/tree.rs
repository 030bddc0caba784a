//! Trees of files: removed, listed, made read-only; links are never followed.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::geteuid;
use rayon::prelude::*;

use super::{IoContext, RootError};

/// Removes whatever is at `path`, if anything is. Directories that lost their write bit get it back first; links are removed, not followed.
pub(crate) fn remove_tree(path: &Path) -> Result<(), RootError> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(()) };
    if !meta.is_dir() {
        return match fs::remove_file(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.on_path("remove", path),
        };
    }
    match fs::remove_dir_all(path) {
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            set_write_bits(path, Bits::DirectoriesOn)?;
            fs::remove_dir_all(path).on_path("remove", path)
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.on_path("remove", path),
    }
}

/// What something takes on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    /// Bytes, in whole blocks.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

/// What a tree takes on the disk; what cannot be looked at counts nothing.
pub(super) fn size_of(path: &Path) -> Size {
    let Ok(meta) = fs::symlink_metadata(path) else { return Size::default() };
    // In units of 512 bytes, whatever the file system (stat(2)).
    let own = Size { bytes: meta.blocks() * 512, inodes: 1 };
    let entries = meta.is_dir().then(|| fs::read_dir(path).ok()).flatten().into_iter().flatten().flatten();
    entries
        .map(|entry| size_of(&entry.path()))
        .fold(own, |sum, size| Size { bytes: sum.bytes + size.bytes, inodes: sum.inodes + size.inodes })
}

/// What becomes of the write bits of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bits {
    /// Directories are writable for their owner.
    DirectoriesOn,
    /// Nothing is writable for anybody.
    AllOff,
}

/// Sets the write bits of a tree, its root included.
pub(super) fn set_write_bits(path: &Path, bits: Bits) -> Result<(), RootError> {
    let meta = fs::symlink_metadata(path).on_path("look at", path)?;
    // What belongs to somebody else could be another thing the next moment, and its modes are not ours to change.
    if meta.is_symlink() || meta.uid() != geteuid().as_raw() && !geteuid().is_root() {
        return Ok(());
    }
    let mode = meta.permissions().mode();
    let set = |mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777)).on_path("change the mode of", path);
    if !meta.is_dir() {
        // A file that has another name may be anybody's: it keeps its bits.
        return if bits == Bits::AllOff && meta.is_file() && meta.nlink() == 1 && mode & 0o222 != 0 { set(mode & !0o222) } else { Ok(()) };
    }
    if bits == Bits::DirectoriesOn {
        set(mode | 0o700)?;
    }
    let entries: Vec<_> = fs::read_dir(path).and_then(Iterator::collect).on_path("read", path)?;
    entries.par_iter().try_for_each(|entry: &fs::DirEntry| set_write_bits(&entry.path(), bits))?;
    if bits == Bits::AllOff { set(mode & !0o222) } else { Ok(()) }
}
