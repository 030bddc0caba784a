//! Messages about state within a release: the fault, and the one hint.

use std::path::{Path, PathBuf};

use super::facts::{Kept, What};
use crate::database::quoted;

/// The directories that a hint names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places<'a> {
    /// The release's directory.
    pub release: &'a Path,
    /// The directory of the release that is live, if it has one.
    pub live: Option<&'a Path>,
    /// What the app's releases share.
    pub shared: &'a Path,
}

impl Kept {
    /// The fault.
    pub(crate) fn told(&self) -> String {
        let Self { what, name, path, .. } = self;
        let (path, would) = match what {
            What::Database => (path, "the next release would begin with an empty one"),
            What::Media => (path, "the next release would be without the files that visitors have sent"),
            What::Log => (path, "it would be sealed, and go with the release"),
        };
        format!("{name} lies in the release, at {}: {would}", path.display())
    }

    /// The hint. Where the live release has such state, the hint keeps that first, so that no hint leads to an empty site.
    pub(crate) fn hint(&self, ground: Places<'_>) -> String {
        let dir = self.dir(ground.release);
        let shared = ground.shared.join(&dir);
        let share = format!("add {:?} to [shared] dirs in the app's file", dir.display().to_string());
        let within = |path: &Path| format!("BASE_DIR / {:?}", path.strip_prefix(&self.base).unwrap_or(path).display().to_string());
        let file = self.path.file_name().map(PathBuf::from).unwrap_or_default();
        let moved = match self.what {
            // Its own directory is shared, so it stays where it is.
            _ if self.path.starts_with(&dir) => String::new(),
            What::Database => format!(", and set NAME = {} in the settings", within(&dir.join(&file))),
            What::Media | What::Log => format!(", and have the settings name {}", within(&dir.join(&file))),
        };
        let before = ground.live.map(|live| live.join(&self.path)).filter(|there| self.what != What::Log && there.exists());
        let keep = before.map(|there| {
            let from = quoted(&there.display().to_string());
            let what = match self.what {
                // With its journal, if it has one.
                What::Database => format!("{from}*"),
                What::Media | What::Log => format!("{from}/."),
            };
            let to = quoted(&shared.display().to_string());
            format!(
                "first, as root and while nothing is written, keep what the live release has: mkdir -p {to} && cp -a {what} {to}/; then "
            )
        });
        format!("{}{share}{moved}", keep.unwrap_or_default())
    }

    /// The directory that should be shared: its own, where nothing else is in it, or else a new one beside it.
    fn dir(&self, release: &Path) -> PathBuf {
        if self.what == What::Media {
            return self.path.clone();
        }
        let parent = self.path.parent().unwrap_or(Path::new(""));
        let has_code = std::fs::read_dir(release.join(parent))
            .is_ok_and(|entries| entries.flatten().any(|entry| entry.path().extension().is_some_and(|ending| ending == "py")));
        if !parent.as_os_str().is_empty() && parent != self.base && !has_code {
            return parent.to_owned();
        }
        parent.join(if self.what == What::Log { "log" } else { "data" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(what: What, path: &str, base: &str) -> Kept {
        Kept { what, name: "the database \"default\"".into(), path: path.into(), base: base.into() }
    }

    #[test]
    fn the_hint_keeps_what_the_live_release_has_and_names_one_directory_to_share() {
        let live = tempfile::tempdir().unwrap();
        let none = Places { release: Path::new("/none"), live: None, shared: Path::new("/var/shop/shared") };
        let database = kept(What::Database, "backend/db.sqlite3", "backend");
        let hint = "add \"backend/data\" to [shared] dirs in the app's file, and set NAME = BASE_DIR / \"data/db.sqlite3\" in the settings";
        assert_eq!(database.hint(none), hint);
        std::fs::create_dir(live.path().join("backend")).unwrap();
        std::fs::write(live.path().join("backend/db.sqlite3"), "x").unwrap();
        let there = live.path().join("backend/db.sqlite3").display().to_string();
        let to = "/var/shop/shared/backend/data";
        assert_eq!(
            database.hint(Places { live: Some(live.path()), ..none }),
            format!(
                "first, as root and while nothing is written, keep what the live release has: mkdir -p {to} && cp -a {there}* {to}/; then {hint}"
            )
        );
        assert_eq!(kept(What::Database, "data/db.sqlite3", "").hint(none), "add \"data\" to [shared] dirs in the app's file");
        assert_eq!(kept(What::Media, "media", "").hint(none), "add \"media\" to [shared] dirs in the app's file");
        assert_eq!(kept(What::Log, "var/log/a.log", "").hint(none), "add \"var/log\" to [shared] dirs in the app's file");
        assert!(kept(What::Log, "a.log", "").hint(none).ends_with("and have the settings name BASE_DIR / \"log/a.log\""));
    }
}
