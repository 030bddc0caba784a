//! A release that is being made has two owners, where whoever builds is another user than the agent: what the agent checked out, which the builder's group
//! may write in, and what the builder made. Before anything is sealed the agent claims all of it: then nobody else can change it, not even its modes.
//!
//! ```text
//!  open_to_builder ──▶ (the builder works) ──▶ grant_access, by the builder ──▶ claim, by the agent ──▶ sealed
//! ```
//!
//! A file cannot be given away without a privilege that the agent does not have, and one that was open to the builder may still be open to somebody, who
//! got its descriptor. So everything is copied into a tree of the agent's own, which then takes the place of the other one; copies share their blocks where
//! the file system can do that. The tree that is copied is somebody else's to change: it is gone through by descriptors, no link is followed, and nothing in
//! it is opened but directories and regular files.

use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RawMode, Stat, Timespec, Timestamps};

use super::environment::MARKER;
use super::{AppRoot, FACTS, IoContext, RootError, remove_tree};

/// What is copied is gone through to this depth; what is deeper was made to be in the way.
const MOST_DEEP: usize = 200;

impl AppRoot {
    /// Lets the group of a tree, which is the builder's, write in it. Nobody else has been in it yet.
    pub(crate) fn open_to_builder(&self, dir: &Path) -> Result<(), RootError> {
        let meta = fs::symlink_metadata(dir).on_path("look at", dir)?;
        if meta.is_symlink() {
            return Ok(());
        }
        if meta.is_dir() {
            for entry in fs::read_dir(dir).on_path("read", dir)? {
                self.open_to_builder(&entry.on_path("read", dir)?.path())?;
            }
        }
        let mode = meta.permissions().mode() & 0o777;
        set_mode(dir, mode | (mode & 0o700) >> 3)
    }

    /// Makes everything in a tree the agent's own, and nobody else's to write in, but for what stands at its top under a name in `without`, which goes. The
    /// builder has handed it over before, and is at work no more. `go_on` is asked now and then.
    ///
    /// # Errors
    /// [`RootError::Io`] when something can be neither copied nor removed, or is deeper than any tree that is built.
    pub(crate) fn claim(&self, dir: &Path, without: &[&str], go_on: &dyn Fn() -> bool) -> Result<(), RootError> {
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let parent = dir.parent().unwrap_or(Path::new("/"));
        let (copy, old) = (parent.join(format!(".trash-copy-{name}")), parent.join(format!(".trash-{name}")));
        remove_tree(&copy)?;
        remove_tree(&old)?;
        fs::create_dir(&copy).on_path("make the directory", &copy)?;
        let opened = |path: &Path| open_dir(CWD, path.as_os_str()).on_path("open", path);
        let copying = Copying { without, go_on, told: dir };
        copying.dir(&opened(dir)?, &opened(&copy)?, 0)?;
        fs::rename(dir, &old).on_path("rename", dir)?;
        fs::rename(&copy, dir).on_path("rename", &copy)?;
        // It is in nobody's way, and the next sweep tries again.
        if let Err(err) = remove_tree(&old) {
            tracing::warn!("what a build has left stays for now: {err}");
        }
        Ok(())
    }
}

struct Copying<'a> {
    without: &'a [&'a str],
    go_on: &'a dyn Fn() -> bool,
    told: &'a Path,
}

impl Copying<'_> {
    fn dir(&self, from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<(), RootError> {
        let told = |error: io::Error| RootError::Io { act: "copy what was built in", path: self.told.to_owned(), source: error };
        if depth > MOST_DEEP {
            return Err(told(io::Error::other(format!("directories lie in each other more than {MOST_DEEP} deep"))));
        }
        let entries = Dir::read_from(from).map_err(io::Error::from).map_err(told)?;
        for entry in entries {
            let entry = entry.map_err(io::Error::from).map_err(told)?;
            let name = entry.file_name();
            let at_top = depth == 0 && self.without.iter().any(|without| name.to_bytes() == without.as_bytes());
            if name == c"." || name == c".." || at_top {
                continue;
            }
            if !(self.go_on)() {
                return Err(told(io::ErrorKind::Interrupted.into()));
            }
            match self.entry(from, to, name) {
                Ok(None) => {}
                Ok(Some((from, to))) => self.dir(&from, &to, depth + 1)?,
                Err(error) => return Err(told(error)),
            }
        }
        rustix::fs::fchmod(to, Mode::from_raw_mode(0o755)).map_err(io::Error::from).map_err(told)
    }

    /// One entry; of a directory its two ends, to go on with. What is neither file, link nor directory is nobody's content.
    fn entry(&self, from: &OwnedFd, to: &OwnedFd, name: &CStr) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target, to, name)?;
            }
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                return Ok(Some((
                    open_dir(from.as_fd(), OsStr::from_bytes(name.to_bytes()))?,
                    open_dir(to.as_fd(), OsStr::from_bytes(name.to_bytes()))?,
                )));
            }
            FileType::RegularFile => {
                let source =
                    rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
                let stat = rustix::fs::fstat(&source)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Ok(None);
                }
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let mut copy = File::from(rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
                self.contents(&mut File::from(source), &mut copy, &stat)?;
                // Whoever serves it must be able to read it; nobody but the owner may write, and it makes no program somebody else.
                rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode as RawMode & 0o755 | 0o444))?;
                // Python believes bytecode by the time of its source.
                rustix::fs::futimens(&copy, &times(&stat))?;
            }
            _ => {}
        }
        Ok(None)
    }

    fn contents(&self, from: &mut File, to: &mut File, stat: &Stat) -> io::Result<()> {
        // A hole is as long as somebody says, and takes no room until it is copied.
        let length = u64::try_from(stat.st_size).unwrap_or_default();
        if length > u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512).saturating_add(64 << 20) {
            return Err(io::Error::other("a file is mostly a hole"));
        }
        let mut from = io::Read::take(from, length);
        loop {
            if !(self.go_on)() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            // In parts, so that a cancel and the step's time are heard; within each the kernel copies.
            if io::copy(&mut io::Read::take(&mut from, 64 << 20), to)? == 0 {
                return Ok(());
            }
        }
    }
}

fn open_dir(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime as _, tv_nsec: stat.st_atime_nsec as _ },
        last_modification: Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ },
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), RootError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).on_path("change the mode of", path)
}

/// Gives the group, which the agent is in, all rights over what this very user has made and the agent has not sealed, and nobody else any. Done by the
/// builder.
///
/// # Errors
/// [`RootError::Io`] when a mode cannot be changed.
pub(crate) fn grant_access(root: &AppRoot) -> Result<(), RootError> {
    for (part, sealed) in [("releases", Path::new(FACTS).join("manifest.json")), ("environments", PathBuf::from(MARKER))] {
        let dir = root.path().join(part);
        for entry in fs::read_dir(&dir).on_path("read", &dir)?.flatten() {
            let is_sealed =
                fs::symlink_metadata(entry.path().join(&sealed)).is_ok_and(|meta| meta.is_file() && meta.uid() != geteuid().as_raw());
            if !is_sealed {
                hand_over_tree(&entry.path(), 0)?;
            }
        }
    }
    Ok(())
}

fn hand_over_tree(path: &Path, depth: usize) -> Result<(), RootError> {
    let meta = match fs::symlink_metadata(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta.on_path("look at", path)?,
    };
    let mode = meta.permissions().mode() & 0o777;
    let mine = meta.uid() == geteuid().as_raw();
    if mine && depth > MOST_DEEP {
        // No copy will be made of it, and nobody could go through it: it goes here, by whom it belongs to.
        return remove_tree(path);
    }
    if meta.is_dir() {
        if mine {
            // A list of its own may let others in, or keep the group out, whatever the mode says (acl(5)).
            for list in ["system.posix_acl_access", "system.posix_acl_default"] {
                let _ = rustix::fs::lremovexattr(path, list);
            }
            set_mode(path, (mode | 0o770) & 0o770)?;
        }
        for entry in fs::read_dir(path).on_path("read", path)?.flatten() {
            hand_over_tree(&entry.path(), depth + 1)?;
        }
    } else if mine && meta.is_file() {
        let _ = rustix::fs::lremovexattr(path, "system.posix_acl_access");
        set_mode(path, mode | 0o040)?;
    }
    Ok(())
}
