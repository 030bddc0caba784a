//! Virtual environments in `environments/<key>`: built under their final path, because they do not survive a rename, and taken over only when
//! their marker says that they were finished. The marker vouches for a list of their files, as a release's manifest does.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use agent_model::names::ReleaseName;
use nix::unistd::syncfs;
use rayon::ThreadPoolBuilder;

use crate::faults;

use super::listing::{Listing, digest};
use super::tree::{Bits, Size, remove_tree, set_write_bits, size_of};
use super::{AppRoot, BackgroundTask, IoContext, RootError, own_file, write_durably, write_new};

/// The file in an environment that says that it is complete: what it was made of, and the digest of the list of its files.
pub(crate) const MARKER: &str = ".complete";
/// The list of its files.
pub(crate) const LISTING: &str = ".files";
/// The most bytes of a marker.
const MOST_MARKER: u64 = 64 * 1024;
/// What the last line of the marker begins with.
const VOUCHES: &str = "files ";

/// Whether a name is one that the agent gives an environment: digits of a digest, and for one that was built anew the number of its run.
pub(crate) fn is_key(name: &str) -> bool {
    let (digest, run) = name.split_once('-').unwrap_or((name, "0"));
    !digest.is_empty() && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) && run.parse::<u64>().is_ok()
}

fn finish_seal(path: &Path, told: &str) -> Result<(), RootError> {
    let dir = fs::File::open(path).on_path("open", path)?;
    // By one thread alone: the others are for the steps that go on meanwhile.
    let alone = ThreadPoolBuilder::new().num_threads(1).build().map_err(io::Error::other).on_path("begin to read", path)?;
    let listing = alone.install(|| Listing::of(path, &[MARKER, LISTING]))?;
    // A package may have put a link of that name there.
    write_new(&path.join(LISTING), &listing.text)?;
    faults::at("built");
    syncfs(&dir).on_path("sync the file system of", path)?;
    faults::at("synced");
    write_durably(&path.join(MARKER), format!("{told}\n{VOUCHES}{}\n", digest(&listing.text)).as_bytes(), 0o444)
}

impl AppRoot {
    /// Where the environment of a key is, or is to be.
    pub(crate) fn environment(&self, key: &str) -> PathBuf {
        self.path().join("environments").join(key)
    }

    /// Whether the environment of a key is complete.
    pub(crate) fn has_environment(&self, key: &str) -> bool {
        own_file(&self.environment(key).join(MARKER), MOST_MARKER).is_ok()
    }

    /// Makes room for the environment of a key: what was left half-built, or is to be built anew, goes away.
    pub(crate) fn clear_environment(&self, key: &str) -> Result<PathBuf, RootError> {
        self.check()?;
        let path = self.environment(key);
        if fs::symlink_metadata(&path).is_ok() {
            let trash = self.path().join("environments").join(format!(".trash-{key}"));
            remove_tree(&trash)?;
            fs::rename(&path, &trash).on_path("rename", &path)?;
            remove_tree(&trash)?;
        }
        Ok(path)
    }

    /// Makes the directory of an environment that is to be built.
    pub(crate) fn make_environment(&self, key: &str) -> Result<PathBuf, RootError> {
        let path = self.clear_environment(key)?;
        fs::create_dir(&path).on_path("make the directory", &path)?;
        Ok(path)
    }

    /// Seals an environment: it loses its write bits, and may be used from then on. What is left to do goes on beside whoever reads it: its list is
    /// written, it is made durable, and only then gets its marker.
    pub(crate) fn seal_environment(&self, key: &str, told: &str) -> Result<BackgroundTask, RootError> {
        let path = self.environment(key);
        for entry in fs::read_dir(&path).on_path("read", &path)?.flatten() {
            set_write_bits(&entry.path(), Bits::AllOff)?;
        }
        let (sealed, told) = (path.clone(), told.to_owned());
        let rest = move || {
            faults::within("environment", "");
            finish_seal(&sealed, &told)
        };
        BackgroundTask::begin("seal", &path, rest)
    }

    /// The list of an environment's files, where one was kept when it was sealed.
    ///
    /// # Errors
    /// A sentence when there was one, and it is lost or is another.
    pub(super) fn listing_of_environment(&self, key: &str) -> Result<Option<Vec<u8>>, &'static str> {
        let path = self.environment(key);
        let marker = fs::read_to_string(path.join(MARKER)).map_err(|_| "has a marker that cannot be read")?;
        let Some(vouched) = marker.lines().last().and_then(|line| line.strip_prefix(VOUCHES)) else { return Ok(None) };
        let listing = fs::read(path.join(LISTING)).map_err(|_| "has lost its list of files")?;
        if digest(&listing) == vouched { Ok(Some(listing)) } else { Err("has a list of files that its marker does not vouch for") }
    }

    /// Gives a release its `venv`.
    pub(crate) fn link_environment(&self, release: &ReleaseName, key: &str) -> Result<(), RootError> {
        let place = self.release_dir(release).join("venv");
        symlink(Path::new("../../environments").join(key), &place).on_path("make the link", &place)
    }

    /// The key of the environment that a release uses.
    pub(crate) fn environment_of(&self, release: &ReleaseName) -> Option<String> {
        let target = fs::read_link(self.release_dir(release).join("venv")).ok()?;
        target.strip_prefix("../../environments").ok()?.to_str().filter(|key| is_key(key)).map(str::to_owned)
    }

    /// What the environment of a release was made of, as it was told when it was sealed: installer, interpreter, requirements.
    pub(crate) fn made_of(&self, release: &ReleaseName) -> Option<String> {
        let marker = self.environment(&self.environment_of(release)?).join(MARKER);
        let text = own_file(&marker, MOST_MARKER).ok()?;
        Some(String::from_utf8_lossy(&text).lines().next()?.to_owned()).filter(|told| !told.starts_with(VOUCHES))
    }

    /// The interpreter of a release's environment, where that is not on this host any more: the release cannot be started without it.
    pub(crate) fn interpreter_gone(&self, release: &ReleaseName) -> Option<PathBuf> {
        let python = self.environment(&self.environment_of(release)?).join("bin/python");
        let is_link = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
        if python.exists() || !is_link(&python) {
            return None;
        }
        // `python` leads to `python3` beside it, and that one to the host's.
        let mut gone = python;
        while let Ok(next) = fs::read_link(&gone) {
            gone = gone.parent().unwrap_or(Path::new("/")).join(next);
        }
        Some(gone)
    }

    /// The keys of all environments on disk.
    pub(crate) fn environments(&self) -> Result<Vec<String>, RootError> {
        let dir = self.path().join("environments");
        let entries = fs::read_dir(&dir).on_path("read", &dir)?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter(|name| is_key(name) && self.environment(name).is_dir()).collect())
    }

    /// What the environment of a key takes on the disk.
    pub(crate) fn size_of_environment(&self, key: &str) -> Size {
        size_of(&self.environment(key))
    }

    /// Removes the environment of a key.
    pub(crate) fn remove_environment(&self, key: &str) -> Result<(), RootError> {
        self.clear_environment(key).map(|_| ())
    }
}
