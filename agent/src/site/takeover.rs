//! A release that is being made has two owners, where whoever builds is another user than the agent: what the agent checked out, which the builder's group
//! may write in, and what the builder made. Before anything is sealed the agent takes all of it over: then nobody else can change it, not even its modes.
//!
//! ```text
//!  open_to_builder ──▶ (the builder works) ──▶ hand_over, by the builder ──▶ take_over, by the agent ──▶ sealed
//! ```
//!
//! A file cannot be given away without a privilege that the agent does not have. So it is copied: the copy shares its blocks where the file system can do
//! that, and no process that the builder left could have it open.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::geteuid;

use super::environment::MARKER;
use super::{FACTS, Site, SiteError, Telling, remove_tree};

/// Temporary names of copies begin so. Nothing of the agent's is called so otherwise.
const COPY: &str = ".release-agent-copy-";

impl Site {
    /// Lets the group of a tree, which is the builder's, write in it.
    pub(crate) fn open_to_builder(&self, dir: &Path) -> Result<(), SiteError> {
        let meta = fs::symlink_metadata(dir).telling("look at", dir)?;
        if meta.is_symlink() {
            return Ok(());
        }
        if meta.is_dir() {
            for entry in fs::read_dir(dir).telling("read", dir)? {
                self.open_to_builder(&entry.telling("read", dir)?.path())?;
            }
        }
        let mode = meta.permissions().mode() & 0o777;
        let opened = mode | (mode & 0o700) >> 3;
        set_mode(dir, opened)
    }

    /// Makes everything in a tree the agent's own, and nobody else's to write in. The builder has handed it over before, and is at work no more.
    ///
    /// # Errors
    /// [`SiteError::Io`] when something can neither be copied nor removed.
    pub(crate) fn take_over(&self, dir: &Path) -> Result<(), SiteError> {
        let mut names: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(dir).telling("read", dir)? {
            names.push(entry.telling("read", dir)?.path());
        }
        for path in names {
            let meta = fs::symlink_metadata(&path).telling("look at", &path)?;
            let ours = meta.uid() == geteuid().as_raw();
            let file_name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if file_name.starts_with(COPY) {
                // Nothing but a taking over that was cut off makes such a name.
                remove_tree(&path)?;
            } else if meta.is_dir() && ours {
                self.take_over(&path)?;
            } else if meta.is_dir() {
                let copy = dir.join(format!("{COPY}{}", meta.ino()));
                remove_tree(&copy)?;
                copy_dir(&path, &copy)?;
                remove_tree(&path)?;
                fs::rename(&copy, &path).telling("rename", &copy)?;
            } else if meta.is_file() && (!ours || meta.nlink() > 1) || meta.is_symlink() && !ours {
                let copy = dir.join(format!("{COPY}{}", meta.ino()));
                remove_tree(&copy)?;
                copy_one(&path, &copy, &meta)?;
                fs::rename(&copy, &path).telling("rename", &copy)?;
            } else if meta.is_file() {
                close(&path, &meta)?;
            } else if !meta.is_symlink() {
                // Sockets, FIFOs and devices are nobody's content.
                remove_tree(&path)?;
            }
        }
        let meta = fs::symlink_metadata(dir).telling("look at", dir)?;
        close(dir, &meta)
    }
}

/// A directory of somebody else's, copied.
fn copy_dir(from: &Path, to: &Path) -> Result<(), SiteError> {
    fs::create_dir(to).telling("make the directory", to)?;
    for entry in fs::read_dir(from).telling("read", from)? {
        let entry = entry.telling("read", from)?;
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        let meta = fs::symlink_metadata(&path).telling("look at", &path)?;
        if meta.is_dir() {
            copy_dir(&path, &copy)?;
        } else if meta.is_file() || meta.is_symlink() {
            copy_one(&path, &copy, &meta)?;
        }
    }
    set_mode(to, 0o755)
}

fn copy_one(from: &Path, to: &Path, meta: &fs::Metadata) -> Result<(), SiteError> {
    if meta.is_symlink() {
        let target = fs::read_link(from).telling("read the link", from)?;
        return symlink(target, to).telling("make the link", to);
    }
    // Its contents alone: a mode that makes a program somebody else may not even be set for a moment.
    let copy = || {
        let mut source = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(from)?;
        io::copy(&mut source, &mut fs::File::create_new(to)?)
    };
    copy().telling("copy", from)?;
    set_mode(to, closed(meta))?;
    // Python believes bytecode by the time of its source.
    let time = |seconds: i64, nanos: i64| TimeSpec::new(seconds, nanos);
    let (read, written) = (time(meta.atime(), meta.atime_nsec()), time(meta.mtime(), meta.mtime_nsec()));
    utimensat(nix::fcntl::AT_FDCWD, to, &read, &written, UtimensatFlags::NoFollowSymlink).telling("set the time of", to)
}

/// Takes away what lets anybody but the owner write, and whatever makes a program somebody else.
fn close(path: &Path, meta: &fs::Metadata) -> Result<(), SiteError> {
    if meta.permissions().mode() & 0o7777 == closed(meta) { Ok(()) } else { set_mode(path, closed(meta)) }
}

/// The mode of something with nothing of that; whoever serves it must be able to read it.
fn closed(meta: &fs::Metadata) -> u32 {
    let least = if meta.is_dir() { 0o755 } else { 0o444 };
    meta.permissions().mode() & 0o755 | least
}

fn set_mode(path: &Path, mode: u32) -> Result<(), SiteError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).telling("change the mode of", path)
}

/// Gives the group, which the agent is in, all rights over what this very user has made and nobody has sealed. Done by the builder.
///
/// # Errors
/// [`SiteError::Io`] when a mode cannot be changed.
pub(crate) fn hand_over(site: &Site) -> Result<(), SiteError> {
    for (part, sealed) in [("releases", Path::new(FACTS).join("manifest.json")), ("environments", PathBuf::from(MARKER))] {
        let dir = site.root().join(part);
        for entry in fs::read_dir(&dir).telling("read", &dir)?.flatten() {
            if !entry.path().join(&sealed).exists() {
                hand_over_tree(&entry.path())?;
            }
        }
    }
    Ok(())
}

fn hand_over_tree(path: &Path) -> Result<(), SiteError> {
    let meta = match fs::symlink_metadata(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta.telling("look at", path)?,
    };
    let mode = meta.permissions().mode() & 0o777;
    let mine = meta.uid() == geteuid().as_raw();
    if meta.is_dir() {
        if mine && mode & 0o770 != 0o770 {
            set_mode(path, mode | 0o770)?;
        }
        for entry in fs::read_dir(path).telling("read", path)?.flatten() {
            hand_over_tree(&entry.path())?;
        }
    } else if mine && meta.is_file() && mode & 0o040 == 0 {
        set_mode(path, mode | 0o040)?;
    }
    Ok(())
}
