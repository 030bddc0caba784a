//! The only one who knows the layout of an app root.
//!
//! ```text
//! git_cache/           bare repository, fetched into
//! releases/<name>/     the tree as committed; venv, REVISION, .release/ (manifest, list of files, and later facts)
//! environments/<key>/  virtual environments, sealed
//! shared/  backups/
//! app -> releases/<name>
//! slots/<slot> -> ../releases/<name>   with handover in slots: which release each of their units runs
//! .agent/              what the agent remembers of the root itself: its lock, pins, the operator's lock, instances, which release was live when, what may be
//!                      left in the database; room for the way back
//! ```

mod reuse;
mod environment;
mod history;
pub(crate) mod layout;
mod leftovers;
mod link;
mod listing;
mod lock;
mod last_signed;
mod migrating;
mod reserve;
mod seal;
mod slots;
mod claim;
mod told;
mod tree;
mod background;
mod unsettled;
mod verify;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use agent_model::names::{CommitId, ReleaseName};
use chrono::{DateTime, Duration, NaiveDateTime, Utc};
use nix::unistd::{User, geteuid};
use thiserror::Error;

use crate::faults;

pub(crate) use background::BackgroundTask;
pub(crate) use claim::grant_access;
pub(crate) use environment::{LISTING as LIST_OF_ENVIRONMENT, MARKER as SEAL_OF_ENVIRONMENT, is_key};
pub(crate) use last_signed::LastSigned;
pub(crate) use leftovers::{Around, Instance, Leftover};
pub(crate) use lock::{RootLock, hold_for_good};
pub(crate) use reuse::Reused;
pub(crate) use seal::{ApplyOrder, Failed, MadeBy, Manifest, Migrated, Reversed, Sealing, Served};
pub(crate) use slots::{Slot, Slots, leads_to};
pub(crate) use tree::{Size, remove_tree};
pub(crate) use unsettled::Unsettled;
pub(crate) use verify::FsckReport;

/// The directory in a release that the agent keeps its facts in.
pub(crate) const FACTS: &str = ".release";

/// `[limits]`: what a release's tree may be at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `files`
    pub files: u64,
    /// `bytes`
    pub bytes: u64,
}

/// `[shared]`: what every release has in common, as paths within `shared/` and within the release.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    /// `dirs`
    pub dirs: Vec<PathBuf>,
    /// `files`
    pub files: Vec<PathBuf>,
}

/// What went wrong with an app root.
#[derive(Debug, Error)]
pub(crate) enum RootError {
    /// A file or directory could not be made, read, changed or removed.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another agent has the root.
    #[error("another agent (process {holder}) holds the root {}", root.display())]
    Held {
        /// The root.
        root: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// `app` is something that the agent did not make.
    #[error("{} is {found}, where a link to a release is expected", path.display())]
    NotALink {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// The manifest is missing or says something else than it should.
    #[error("the release {release} {why}")]
    NotSealed {
        /// The release.
        release: ReleaseName,
        /// What is wrong.
        why: String,
    },
    /// A directory of the root is something else.
    #[error("{} is {found}, where a directory of the agent's is expected", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// What was checked out is gone while the release was made.
    #[error("the release {0} is gone from under the run: what was checked out is no longer there")]
    Vanished(ReleaseName),
    /// Its REVISION names another commit.
    #[error("REVISION of the release {release} does not name its commit {commit} any more")]
    Revised {
        /// The release.
        release: ReleaseName,
        /// Its commit.
        commit: CommitId,
    },
    /// Somebody else fetches.
    #[error("somebody else fetches into {}, and was waited for in vain", .0.display())]
    CacheHeld(PathBuf),
    /// The release was to be removed, and is the live one.
    #[error("the release {0} is not removed: the link names it")]
    IsLive(ReleaseName),
    /// A shared directory or file is missing.
    #[error("the shared {kind} {} does not exist", path.display())]
    SharedMissing {
        /// `directory` or `file`.
        kind: &'static str,
        /// Where it should be.
        path: PathBuf,
    },
    /// The way to a shared path leads through a link.
    #[error("{} cannot be shared: {} is a link in the release", path.display(), link.display())]
    SharedThroughLink {
        /// The path.
        path: PathBuf,
        /// The link.
        link: PathBuf,
    },
    /// A file that the agent keeps cannot be understood.
    #[error("{} cannot be understood", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

impl RootError {
    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Io { source, path, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                let there = path.ancestors().find(|path| path.exists()).unwrap_or(path);
                let user = User::from_uid(geteuid()).ok().flatten().map_or_else(|| geteuid().to_string(), |user| user.name);
                Some(format!("give the agent's user the right to write there: chown -R {user} {}", there.display()))
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::ReadOnlyFilesystem => Some(
                "the service lets the agent write only in the roots of apps that were set up: as root, agentctl setup app NAME".to_owned(),
            ),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("the disk is full: `agentctl prune` removes old releases, and `keep_releases` says how many stay".to_owned())
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::QuotaExceeded => Some("the user's disk quota is used up".to_owned()),
            Self::Held { .. } => Some("two agents must never share a root: stop the other one, or set another `root`".to_owned()),
            Self::NotALink { path, .. } => Some(format!("move {} away; the agent makes the link itself", path.display())),
            Self::NotADirectory { path, .. } => Some(format!(
                "put the directory {} back; where its disk is too small, let the whole root be a link, or mount another disk there",
                path.display()
            )),
            Self::CacheHeld(_) => Some("a plan holds it, or another release: does the repository answer? Then ask again".to_owned()),
            Self::IsLive(_) => Some("activate the release that is to serve; then it can go".to_owned()),
            Self::Revised { .. } => {
                Some("does a hook write it? The agent does, before any hook of the release runs: leave it to that".to_owned())
            }
            Self::Vanished(_) => Some("did somebody remove it, or a hook? Ask for the release again".to_owned()),
            Self::SharedMissing { kind, path } => {
                let make = if *kind == "directory" { "mkdir -p" } else { "put the file in place, or make an empty one: touch" };
                Some(format!("{make} {}", path.display()))
            }
            Self::SharedThroughLink { .. } => {
                Some("share the path that the link leads to, or have the commit ship a directory there".to_owned())
            }
            _ => None,
        }
    }
}

/// Adds what was tried, and on what, to an I/O error.
pub(crate) trait IoContext<T> {
    /// Names the act and the path.
    fn on_path(self, act: &'static str, path: &Path) -> Result<T, RootError>;
}

impl<T> IoContext<T> for Result<T, io::Error> {
    fn on_path(self, act: &'static str, path: &Path) -> Result<T, RootError> {
        self.map_err(|source| RootError::Io { act, path: path.to_owned(), source })
    }
}

impl<T> IoContext<T> for Result<T, nix::Error> {
    fn on_path(self, act: &'static str, path: &Path) -> Result<T, RootError> {
        self.map_err(io::Error::from).on_path(act, path)
    }
}

/// An app root.
#[derive(Debug, Clone)]
pub(crate) struct AppRoot {
    path: PathBuf,
}

/// A release as it is found on disk.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Its name.
    pub name: ReleaseName,
    /// Its manifest; without one it is incomplete.
    pub manifest: Option<Manifest>,
    /// That it was live, and proven, once.
    pub served: Option<Served>,
    /// That it failed, and is kept because a migration of it stands.
    pub failed: Option<Failed>,
    /// Whether it is kept for ever.
    pub pinned: bool,
}

/// How full the file system of a root is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disk {
    /// Bytes that the agent may still write.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// Inodes that are free.
    pub inodes: u64,
    /// Inodes in all; none where the file system makes them as they are needed (btrfs).
    pub inodes_in_all: u64,
}

impl AppRoot {
    /// The root at `root`, with its directories made where they are missing.
    ///
    /// # Errors
    /// [`RootError::Io`] when one of them cannot be made.
    pub(crate) fn open(root: &Path) -> Result<Self, RootError> {
        fs::create_dir_all(root).on_path("make the root", root)?;
        // The kernel's own spelling: what processes show as their directory can then be compared.
        let root = root.canonicalize().on_path("resolve the root", root)?;
        let root = Self { path: root };
        for dir in ["releases", "environments", "shared"] {
            let path = root.path.join(dir);
            fs::create_dir_all(&path).on_path("make", &path)?;
        }
        for dir in ["backups", ".agent", ".agent/pins", ".agent/instances", ".agent/tmp", ".agent/caches"] {
            let path = root.path.join(dir);
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.on_path("make", &path)?,
            }
        }
        root.check()?;
        root.keep_reserve();
        Ok(root)
    }

    /// The root at `root`, as somebody sees it who may make nothing there.
    pub(crate) fn at(root: &Path) -> Self {
        // What cannot be resolved is told by whoever looks for something in it.
        Self { path: root.canonicalize().unwrap_or_else(|_| root.to_owned()) }
    }

    /// Makes sure, before anything is made or removed in them, that the directories of the root are there and no links: by one, things elsewhere would
    /// be removed because they look old.
    pub(crate) fn check(&self) -> Result<(), RootError> {
        for dir in ["releases", "environments", ".agent"] {
            let path = self.path.join(dir);
            let meta = fs::symlink_metadata(&path).on_path("look at", &path)?;
            if !meta.is_dir() {
                let found = if meta.is_symlink() { "a link" } else { "no directory" };
                return Err(RootError::NotADirectory { path, found });
            }
        }
        Ok(())
    }

    /// The root.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The link that names the live release.
    pub(crate) fn link(&self) -> PathBuf {
        self.path.join("app")
    }

    /// The bare repository.
    pub(crate) fn cache(&self) -> PathBuf {
        self.path.join("git_cache")
    }

    /// The directory of a release.
    pub(crate) fn release_dir(&self, release: &ReleaseName) -> PathBuf {
        self.path.join("releases").join(release.as_str())
    }

    /// Where what was started for releases is remembered.
    pub(crate) fn instances(&self) -> PathBuf {
        instances_beside(&self.link())
    }

    /// What units read of their variables.
    pub(crate) fn variables(&self) -> PathBuf {
        self.path.join(".agent/variables")
    }

    /// What installers keep for the next environment: this app's own, so that no other app's packages can leave something there.
    pub(crate) fn caches(&self) -> PathBuf {
        self.path.join(".agent/caches")
    }

    /// Empties a directory of what installers keep.
    pub(crate) fn clear(&self, caches: &Path) -> Result<(), RootError> {
        for entry in fs::read_dir(caches).on_path("read", caches)?.flatten() {
            remove_tree(&entry.path())?;
        }
        Ok(())
    }

    /// An empty directory for the time of one run.
    pub(crate) fn scratch_dir(&self, name: &str) -> Result<PathBuf, RootError> {
        let path = self.scratch(name);
        remove_tree(&path)?;
        fs::DirBuilder::new().mode(0o700).create(&path).on_path("make", &path)?;
        Ok(path)
    }

    /// A file for the time of one run.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.path.join(".agent/tmp").join(name)
    }

    /// The backup of a release, with the ending of its kind.
    pub(crate) fn backup(&self, release: &ReleaseName, ending: &str) -> PathBuf {
        self.path.join("backups").join(format!("{release}.{ending}"))
    }

    /// The backups, newest first.
    pub(crate) fn backups(&self) -> Result<Vec<PathBuf>, RootError> {
        let dir = self.path.join("backups");
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).on_path("read", &dir)? {
            let path = entry.on_path("read", &dir)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let of_release = name.split_once('.').is_some_and(|(release, _)| release.parse::<ReleaseName>().is_ok());
            if of_release && !name.ends_with(".part") {
                found.push(path);
            }
        }
        found.sort();
        found.reverse();
        Ok(found)
    }

    /// A name for a new release of `commit`: the time now, moved on until it is later than that of every release there is. Two releases of one
    /// second would sort by their commits otherwise, and what is newest decides what is pruned.
    pub(crate) fn new_name(&self, commit: &CommitId, now: DateTime<Utc>) -> ReleaseName {
        let names = fs::read_dir(self.path.join("releases")).into_iter().flatten().flatten();
        let names = names.filter_map(|entry| entry.file_name().to_str()?.parse::<ReleaseName>().ok());
        let clock = |name: &ReleaseName| NaiveDateTime::parse_from_str(name.as_str().get(..19)?, "%Y-%m-%d-%H-%M-%S").ok();
        let newest = names.filter_map(|name| clock(&name)).max().map(|newest| newest.and_utc() + Duration::seconds(1));
        let now = newest.map_or(now, |newest| newest.max(now));
        (0..)
            .filter_map(|second| {
                format!("{}-{}", (now + Duration::seconds(second)).format("%Y-%m-%d-%H-%M-%S"), commit.short()).parse().ok()
            })
            .find(|name: &ReleaseName| fs::symlink_metadata(self.release_dir(name)).is_err())
            .expect("among endless seconds one is free")
    }

    /// The releases on disk, newest first.
    pub(crate) fn survey(&self) -> Result<Vec<Found>, RootError> {
        Ok(self.release_names()?.iter().map(|name| self.find(name)).collect())
    }

    /// The names of the releases on disk, newest first, whatever is in them.
    pub(crate) fn release_names(&self) -> Result<Vec<ReleaseName>, RootError> {
        self.check()?;
        let dir = self.path.join("releases");
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir).on_path("read", &dir)? {
            let entry = entry.on_path("read", &dir)?;
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let name = entry.file_name().to_str().and_then(|name| name.parse::<ReleaseName>().ok());
            names.extend(name.filter(|_| is_dir));
        }
        names.sort_by(|a, b| b.cmp(a));
        Ok(names)
    }

    /// One release on disk. A fact that cannot be read is not known, like a manifest: one damaged file must not keep all other releases from being
    /// listed, activated and pruned. `fsck` tells it.
    pub(crate) fn find(&self, release: &ReleaseName) -> Found {
        Found {
            name: release.clone(),
            manifest: self.manifest(release).ok(),
            served: self.fact(release).ok().flatten(),
            failed: self.fact(release).ok().flatten(),
            pinned: self.is_pinned(release),
        }
    }

    fn pin_of(&self, release: &ReleaseName) -> PathBuf {
        self.path.join(".agent/pins").join(release.as_str())
    }

    /// Whether a release is kept for ever.
    pub(crate) fn is_pinned(&self, release: &ReleaseName) -> bool {
        self.pin_of(release).exists()
    }

    /// Keeps a release for ever.
    pub(crate) fn pin(&self, release: &ReleaseName) -> Result<(), RootError> {
        let path = self.pin_of(release);
        write_durably(&path, b"", 0o600)
    }

    /// Lets a release grow old again.
    pub(crate) fn unpin(&self, release: &ReleaseName) -> Result<(), RootError> {
        remove_durably(&self.pin_of(release))
    }

    /// Links what is shared into a release. What the commit ships at the same place gives way; tells where it did.
    pub(crate) fn link_shared(&self, release: &ReleaseName, shared: &Shared) -> Result<Vec<PathBuf>, RootError> {
        let dir = self.release_dir(release);
        let mut gave_way = Vec::new();
        for (path, kind) in shared.dirs.iter().map(|path| (path, "directory")).chain(shared.files.iter().map(|path| (path, "file"))) {
            let target = self.path.join("shared").join(path);
            let there = fs::metadata(&target).is_ok_and(|meta| if kind == "directory" { meta.is_dir() } else { meta.is_file() });
            if !there {
                return Err(RootError::SharedMissing { kind, path: target });
            }
            let place = dir.join(path);
            // A link on the way there would lead the removal below out of the release, even into what is shared.
            let is_link = |inner: &&Path| fs::symlink_metadata(dir.join(inner)).is_ok_and(|meta| meta.is_symlink());
            if let Some(link) = path.ancestors().skip(1).filter(|inner| !inner.as_os_str().is_empty()).find(is_link) {
                return Err(RootError::SharedThroughLink { path: path.clone(), link: link.to_owned() });
            }
            if let Some(parent) = place.parent() {
                fs::create_dir_all(parent).on_path("make", parent)?;
            }
            if let Ok(meta) = fs::symlink_metadata(&place) {
                let only_keeps_the_place = meta.is_dir()
                    && fs::read_dir(&place).is_ok_and(|mut entries| {
                        entries.all(|entry| {
                            entry.is_ok_and(|entry| [".gitkeep", ".gitignore", ".keep"].iter().any(|name| entry.file_name() == *name))
                        })
                    });
                if !only_keeps_the_place {
                    gave_way.push(path.clone());
                }
                remove_tree(&place)?;
            }
            let up = "../".repeat(path.components().count() + 1);
            let to = Path::new(&up).join("shared").join(path);
            std::os::unix::fs::symlink(&to, &place).on_path("make the link", &place)?;
            faults::at("linked");
        }
        Ok(gave_way)
    }

    /// Takes a release out of sight by a rename, then removes it. Never the one that the link names, whatever is believed of it.
    pub(crate) fn remove_release(&self, release: &ReleaseName) -> Result<(), RootError> {
        let trash = self.put_aside(release)?;
        faults::at("trashed");
        remove_tree(&trash)?;
        self.unpin(release)
    }

    /// Takes a release out of sight, for the next sweep to remove; nothing in it is touched.
    pub(crate) fn put_aside(&self, release: &ReleaseName) -> Result<PathBuf, RootError> {
        self.check()?;
        if self.live().is_ok_and(|live| live.as_ref() == Some(release)) {
            return Err(RootError::IsLive(release.clone()));
        }
        let dir = self.release_dir(release);
        let trash = self.path.join("releases").join(format!(".trash-{release}"));
        if fs::symlink_metadata(&trash).is_ok() {
            remove_tree(&trash)?;
        }
        match fs::rename(&dir, &trash) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed.on_path("rename", &dir)?,
        }
        // It must not be there again after a power cut, as a release that can be activated.
        sync_dir(&self.path.join("releases"))?;
        Ok(trash)
    }

    /// Writes the commit of a release where its own programs look for it.
    pub(crate) fn write_revision(&self, release: &ReleaseName, commit: &CommitId) -> Result<(), RootError> {
        write_new(&self.release_dir(release).join("REVISION"), format!("{commit}\n").as_bytes())
    }

    /// Removes a backup.
    pub(crate) fn remove_backup(&self, path: &Path) -> Result<(), RootError> {
        remove_tree(path)
    }

    /// What a release takes on the disk, without its environment.
    pub(crate) fn size_of_release(&self, release: &ReleaseName) -> Size {
        tree::size_of(&self.release_dir(release))
    }

    /// How full the file system is (statvfs(3)).
    pub(crate) fn disk(&self) -> Result<Disk, RootError> {
        let stat = nix::sys::statvfs::statvfs(&self.path).on_path("ask the size of", &self.path)?;
        let block = stat.fragment_size();
        Ok(Disk {
            free: stat.blocks_available() * block,
            total: stat.blocks() * block,
            inodes: stat.files_available(),
            inodes_in_all: stat.files(),
        })
    }
}

/// The parts of a root that programs which run code of strangers may not read, but for what they are given: other releases, what users uploaded,
/// dumps, the agent's own.
pub(crate) fn closed_parts(root: &Path) -> impl Iterator<Item = PathBuf> {
    ["git_cache", "releases", "environments", "shared", "backups", ".agent"].into_iter().map(|part| root.join(part))
}

/// The bytes of a file that is this user's own, or root's, and as small as what the agent writes. In a tree that others have built there may be
/// anything under any name: what is no plain file is not opened, or not waited for, and not read.
fn own_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    let file = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    let ours = meta.uid() == geteuid().as_raw() || meta.uid() == 0;
    if !meta.is_file() || !ours || meta.len() > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not a file of the agent's"));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file anew, whatever is there under its name: a link is replaced, and not followed.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), RootError> {
    use std::io::Write;
    remove_tree(path)?;
    fs::File::create_new(path).and_then(|mut file| file.write_all(bytes)).on_path("write", path)
}

/// What ext4 keeps at the top of a disk, which may be mounted at any directory of the root (fsck.ext4(8)).
pub(crate) const LOST_AND_FOUND: &str = "lost+found";

/// Where the agent remembers instances, in the root whose link `app` this is.
pub(crate) fn instances_beside(link: &Path) -> PathBuf {
    link.with_file_name(".agent").join("instances")
}

/// Makes a directory's entries durable.
fn sync_dir(path: &Path) -> Result<(), RootError> {
    fs::File::open(path).and_then(|dir| dir.sync_all()).on_path("sync", path)
}

/// Removes a small file, if it is there, so that it stays away when this returns.
fn remove_durably(path: &Path) -> Result<(), RootError> {
    match fs::remove_file(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        removed => removed.on_path("remove", path)?,
    }
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Replaces a small file so that it is there whole or not at all, and durable when this returns.
pub(crate) fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<(), RootError> {
    // Requests that are carried out on the spot come on threads of their own, and the temporary name is one for all of them.
    static WRITING: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _writing = WRITING.lock();
    let temporary = temporary_beside(path);
    let written = write_temporary(&temporary, bytes, mode).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The cause is told; a temporary file that stays harms nobody.
        let _ = fs::remove_file(&temporary);
    }
    written.on_path("write", path)?;
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// The name that a file has until it is whole.
fn temporary_beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", std::process::id()))
}

/// Writes a file that is to be renamed once it is durable.
fn write_temporary(temporary: &Path, bytes: &[u8], mode: u32) -> io::Result<fs::File> {
    use std::io::Write;
    // One that a dead agent of the same number left may not be writable for its own user.
    match fs::remove_file(temporary) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        removed => removed?,
    }
    let mut file = fs::File::create_new(temporary)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    Ok(file)
}

#[cfg(test)]
mod tests;
