//! Makes and changes files and directories as root where other users may write: by descriptors, from the top down, and never through a link.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, unlinkat};
use thiserror::Error;

/// Why a path cannot be used.
#[derive(Debug, Error)]
pub(super) enum PlaceError {
    /// There is a link.
    #[error("{} is a link, and root follows none there", .0.display())]
    Link(PathBuf),
    /// There is something else.
    #[error("{} is there, and is no {wanted}", path.display())]
    Kind {
        path: PathBuf,
        /// The expected kind.
        wanted: &'static str,
    },
    /// The file has a second name elsewhere, and the user who made that name need not own the file.
    #[error("{} has a second name somewhere (a hard link)", .0.display())]
    Named(PathBuf),
    /// A user other than root could replace the files below it.
    #[error("{} can be written by others than root (it is {told}), who could exchange what lies in it", path.display())]
    Writable {
        path: PathBuf,
        /// Its owner and mode.
        told: String,
    },
    /// A system call failed.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// The failed action, as a verb: `make`.
        act: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The owner and mode of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub uid: u32,
    pub gid: u32,
    pub mode: u32,
}

impl From<FileStat> for Seen {
    fn from(stat: FileStat) -> Self {
        Self { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777 }
    }
}

/// The kind that a path should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaceKind {
    Directory,
    File,
}

impl PlaceKind {
    fn word(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::File => "file",
        }
    }

    fn flags(self) -> OFlag {
        // A pipe that another user put there must not block root.
        let own = if self == Self::Directory { OFlag::O_DIRECTORY } else { OFlag::O_NONBLOCK };
        own | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
    }

    fn fits(self, path: &Path, stat: &FileStat) -> Result<(), PlaceError> {
        let found = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        match (self, found) {
            (_, SFlag::S_IFLNK) => Err(PlaceError::Link(path.to_owned())),
            (Self::Directory, SFlag::S_IFDIR) => Ok(()),
            (Self::File, SFlag::S_IFREG) if stat.st_nlink > 1 => Err(PlaceError::Named(path.to_owned())),
            (Self::File, SFlag::S_IFREG) => Ok(()),
            _ => Err(PlaceError::Kind { path: path.to_owned(), wanted: self.word() }),
        }
    }
}

/// What to do about missing directories on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Leave,
    /// They are made, and belong to root.
    Make,
}

fn told<T>(act: &'static str, path: &Path, done: nix::Result<T>) -> Result<T, PlaceError> {
    done.map_err(|errno| PlaceError::Io { act, path: path.to_owned(), source: errno.into() })
}

fn stat_at(dir: &OwnedFd, name: &OsStr, path: &Path) -> Result<Option<FileStat>, PlaceError> {
    match fstatat(dir.as_fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(None),
        stat => told("look at", path, stat).map(Some),
    }
}

/// The directory that holds `path`, opened without following a link, and the last name. `None` when it does not exist.
fn parent(path: &Path, missing: Missing) -> Result<Option<(OwnedFd, OsString)>, PlaceError> {
    let Some((dir, name)) = path.parent().zip(path.file_name()) else {
        return Err(PlaceError::Kind { path: path.to_owned(), wanted: "place below another" });
    };
    let mut here = PathBuf::from("/");
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut open: OwnedFd = File::open("/").map_err(|source| PlaceError::Io { act: "open", path: here.clone(), source })?.into();
    for part in dir.components() {
        let Component::Normal(part) = part else { continue };
        here.push(part);
        match stat_at(&open, part, &here)? {
            Some(stat) => PlaceKind::Directory.fits(&here, &stat)?,
            None if missing == Missing::Leave => return Ok(None),
            None => {
                told("make", &here, mkdirat(open.as_fd(), part, Mode::from_bits_truncate(0o755)))?;
            }
        }
        open = told("open", &here, openat(open.as_fd(), part, flags, Mode::empty()))?;
    }
    Ok(Some((open, name.to_owned())))
}

/// The owner and mode of a path; `None` when it does not exist.
pub(super) fn look(path: &Path, kind: PlaceKind) -> Result<Option<Seen>, PlaceError> {
    let Some((dir, name)) = parent(path, Missing::Leave)? else { return Ok(None) };
    let Some(stat) = stat_at(&dir, &name, path)? else { return Ok(None) };
    kind.fits(path, &stat)?;
    Ok(Some(stat.into()))
}

/// Makes a directory or an empty file where there is none, and sets its owner and mode. Its content is left alone.
pub(super) fn make(path: &Path, kind: PlaceKind, wanted: Seen) -> Result<(), PlaceError> {
    let Some((dir, name)) = parent(path, Missing::Make)? else {
        return Err(PlaceError::Kind { path: path.to_owned(), wanted: kind.word() });
    };
    match (stat_at(&dir, &name, path)?, kind) {
        (Some(stat), _) => kind.fits(path, &stat)?,
        (None, PlaceKind::Directory) => told("make", path, mkdirat(dir.as_fd(), &*name, Mode::from_bits_truncate(0o700)))?,
        (None, PlaceKind::File) => {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            told("make", path, openat(dir.as_fd(), &*name, flags, Mode::from_bits_truncate(0o600)))?;
        }
    }
    let open = told("open", path, openat(dir.as_fd(), &*name, kind.flags(), Mode::empty()))?;
    // The opened file counts, wherever the name leads by now.
    let stat = told("look at", path, fstat(open.as_fd()))?;
    kind.fits(path, &stat)?;
    if (stat.st_uid, stat.st_gid) != (wanted.uid, wanted.gid) {
        told("change the owner of", path, fchown(open.as_fd(), Some(Uid::from_raw(wanted.uid)), Some(Gid::from_raw(wanted.gid))))?;
    }
    told("change the mode of", path, fchmod(open.as_fd(), Mode::from_bits_truncate(wanted.mode)))?;
    told("sync", path, fsync(open.as_fd()))?;
    told("sync", path, fsync(dir.as_fd()))
}

/// The text of a file of root's; `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, PlaceError> {
    let Some((dir, name)) = parent(path, Missing::Leave)? else { return Ok(None) };
    let Some(stat) = stat_at(&dir, &name, path)? else { return Ok(None) };
    PlaceKind::File.fits(path, &stat)?;
    let open = told("open", path, openat(dir.as_fd(), &*name, PlaceKind::File.flags(), Mode::empty()))?;
    let mut text = String::new();
    let read = File::from(open).read_to_string(&mut text);
    read.map_err(|source| PlaceError::Io { act: "read", path: path.to_owned(), source })?;
    Ok(Some(text))
}

/// Writes a world-readable file of root's, atomically.
pub(super) fn write(path: &Path, text: &str) -> Result<(), PlaceError> {
    let Some((dir, name)) = parent(path, Missing::Make)? else {
        return Err(PlaceError::Kind { path: path.to_owned(), wanted: "file" });
    };
    if let Some(stat) = stat_at(&dir, &name, path)? {
        PlaceKind::File.fits(path, &stat)?;
    }
    let mut half = OsString::from(".");
    half.push(&name);
    half.push(".setup");
    // Removes a leftover of a setup that was cut off.
    let _ = unlinkat(dir.as_fd(), &*half, UnlinkatFlags::NoRemoveDir);
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = told("make", path, openat(dir.as_fd(), &*half, flags, Mode::from_bits_truncate(0o600)))?;
    told("change the mode of", path, fchmod(open.as_fd(), Mode::from_bits_truncate(0o644)))?;
    let mut file = File::from(open);
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|source| PlaceError::Io { act: "write", path: path.to_owned(), source })?;
    told("rename the new", path, renameat(dir.as_fd(), &*half, dir.as_fd(), &*name))?;
    told("sync", path, fsync(dir.as_fd()))
}

/// Removes a file of root's, if it exists.
pub(super) fn remove(path: &Path) -> Result<(), PlaceError> {
    let Some((dir, name)) = parent(path, Missing::Leave)? else { return Ok(()) };
    match unlinkat(dir.as_fd(), &*name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        gone => told("remove", path, gone),
    }
}

/// Checks that only root can replace the file at `path`: no other user may write to any of the directories above it.
pub(super) fn only_root_above(path: &Path) -> Result<(), PlaceError> {
    for dir in path.ancestors().skip(1) {
        let meta = match fs::metadata(dir) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            meta => meta.map_err(|source| PlaceError::Io { act: "look at", path: dir.to_owned(), source })?,
        };
        let mode = meta.permissions().mode() & 0o7777;
        let by_group = mode & 0o020 != 0 && meta.gid() != 0;
        if meta.uid() != 0 || by_group || mode & 0o002 != 0 {
            let told = format!("{}:{} {mode:04o}", super::people::user_of(meta.uid()), super::people::group_of(meta.gid()));
            return Err(PlaceError::Writable { path: dir.to_owned(), told });
        }
    }
    Ok(())
}
