//! Slots: a few fixed names which the releases of an app take in turn, so that units can be named, and allowed, once and for all. The link
//! `slots/<slot>` leads to the release whose turn it is. It is changed only while the unit of the slot is stopped; who sees to that is the caller.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use agent_model::names::ReleaseName;

use super::{IoContext, RootError, remove_durably, sync_dir};

/// The name of a slot: it becomes part of a unit's name, and of paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(String);

impl Slot {
    /// Its longest name.
    const MOST: usize = 16;

    /// Its name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Slot {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-';
        if text.is_empty() || text.len() > Self::MOST || !text.chars().all(fits) || text.starts_with('-') {
            return Err("the name of a slot must be 1 to 16 small letters, digits and hyphens, and begin with no hyphen");
        }
        Ok(Self(text.to_owned()))
    }
}

/// The slots of a root.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    dir: PathBuf,
}

impl Slots {
    /// Those of the root whose link `app` this is.
    pub(crate) fn beside(link: &Path) -> Self {
        Self { dir: link.with_file_name("slots") }
    }

    /// The link of a slot.
    pub(crate) fn link(&self, slot: &Slot) -> PathBuf {
        self.dir.join(slot.as_str())
    }

    /// The release that a slot leads to.
    pub(crate) fn release_of(&self, slot: &Slot) -> Option<ReleaseName> {
        leads_to(&self.link(slot))
    }

    /// The slots that lead to a release, in the order of their names.
    pub(crate) fn taken(&self) -> Vec<(Slot, ReleaseName)> {
        let slots = fs::read_dir(&self.dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut taken: Vec<(Slot, ReleaseName)> = slots.filter_map(|slot| self.release_of(&slot).map(|release| (slot, release))).collect();
        taken.sort();
        taken
    }

    /// Lets a slot lead to a release. Durable when it returns; at every instant it leads to the one before or to the new one.
    pub(crate) fn point(&self, slot: &Slot, release: &ReleaseName) -> Result<(), RootError> {
        self.stand()?;
        let path = self.link(slot);
        self.check_ours(slot)?;
        let prefix = format!(".{slot}.");
        for entry in fs::read_dir(&self.dir).on_path("read", &self.dir)?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
                fs::remove_file(entry.path()).on_path("remove the stale link", &entry.path())?;
            }
        }
        let temporary = self.dir.join(format!("{prefix}{}", std::process::id()));
        symlink(Path::new("../releases").join(release.as_str()), &temporary).on_path("make the link", &temporary)?;
        // The cause is told; a temporary link that stays is removed the next time.
        let replaced = fs::rename(&temporary, &path).inspect_err(|_| drop(fs::remove_file(&temporary)));
        replaced.on_path("replace the link", &path)?;
        sync_dir(&self.dir)
    }

    /// Lets a slot lead nowhere.
    pub(crate) fn free(&self, slot: &Slot) -> Result<(), RootError> {
        self.check_ours(slot)?;
        remove_durably(&self.link(slot))
    }

    /// The directory, made where it is missing; whoever runs the app must be able to read it.
    fn stand(&self) -> Result<(), RootError> {
        match fs::create_dir(&self.dir) {
            Ok(()) => fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o755)).on_path("open", &self.dir)?,
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(RootError::Io { act: "make", path: self.dir.clone(), source }),
        }
        let meta = fs::symlink_metadata(&self.dir).on_path("look at", &self.dir)?;
        if meta.is_dir() {
            return Ok(());
        }
        let found = if meta.is_symlink() { "a link" } else { "no directory" };
        Err(RootError::NotADirectory { path: self.dir.clone(), found })
    }

    /// What stands at a slot's name must be ours to replace: rename would remove a file without a word.
    fn check_ours(&self, slot: &Slot) -> Result<(), RootError> {
        let path = self.link(slot);
        let found = match fs::read_link(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Ok(_) if leads_to(&path).is_some() => return Ok(()),
            Ok(target) => format!("a link to {}", target.display()),
            Err(err) if err.kind() == io::ErrorKind::InvalidInput => "no link".to_owned(),
            Err(source) => return Err(RootError::Io { act: "read the link", path, source }),
        };
        Err(RootError::NotALink { path, found })
    }
}

/// The release that the link of a slot leads to.
pub(crate) fn leads_to(link: &Path) -> Option<ReleaseName> {
    fs::read_link(link).ok()?.strip_prefix("../releases").ok()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "2026-11-20-22-45-23-1a2b3c4d5e6f";
    const NEW: &str = "2026-11-20-22-45-24-abcdefabcdef";

    fn slots() -> (tempfile::TempDir, Slots, Slot) {
        let root = tempfile::tempdir().unwrap();
        let slots = Slots::beside(&root.path().join("app"));
        (root, slots, "blue".parse().unwrap())
    }

    #[test]
    fn names_of_slots_have_rules() {
        for good in ["blue", "a", "0", "slot-1", "abcdefghijklmnop"] {
            assert_eq!(good.parse::<Slot>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "Blue", "a.b", "a/b", "..", "a@b", "ü", "abcdefghijklmnopq", OLD] {
            assert!(bad.parse::<Slot>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_slot_leads_to_one_release_and_then_to_another_over_what_a_dead_agent_left() {
        let (root, slots, blue) = slots();
        assert_eq!((slots.release_of(&blue), slots.taken()), (None, Vec::new()));
        slots.point(&blue, &OLD.parse().unwrap()).unwrap();
        assert_eq!(fs::read_link(root.path().join("slots/blue")).unwrap(), Path::new("../releases").join(OLD));
        assert_eq!(fs::metadata(root.path().join("slots")).unwrap().permissions().mode() & 0o777, 0o755);
        symlink("nowhere", root.path().join(format!("slots/.blue.{}", std::process::id()))).unwrap();
        symlink("nowhere", root.path().join("slots/.blue.1")).unwrap();
        slots.point(&blue, &NEW.parse().unwrap()).unwrap();
        assert_eq!(slots.taken(), [(blue.clone(), NEW.parse().unwrap())]);
        assert_eq!(fs::read_dir(root.path().join("slots")).unwrap().count(), 1, "nothing is left over");
        slots.free(&blue).unwrap();
        slots.free(&blue).unwrap();
        assert_eq!((slots.release_of(&blue), slots.taken()), (None, Vec::new()));
    }

    #[test]
    fn what_is_not_ours_at_the_name_of_a_slot_stays() {
        let (root, slots, blue) = slots();
        let place = root.path().join("slots/blue");
        fs::create_dir(root.path().join("slots")).unwrap();
        symlink("/etc", &place).unwrap();
        assert!(matches!(slots.point(&blue, &OLD.parse().unwrap()), Err(RootError::NotALink { .. })));
        assert!(matches!(slots.free(&blue), Err(RootError::NotALink { .. })));
        fs::remove_file(&place).unwrap();
        fs::write(&place, "mine").unwrap();
        assert!(matches!(slots.point(&blue, &OLD.parse().unwrap()), Err(RootError::NotALink { .. })));
        assert_eq!(fs::read_to_string(&place).unwrap(), "mine");
        fs::remove_dir_all(root.path().join("slots")).unwrap();
        symlink("/etc", root.path().join("slots")).unwrap();
        assert!(matches!(slots.point(&blue, &OLD.parse().unwrap()), Err(RootError::NotADirectory { .. })));
    }
}
