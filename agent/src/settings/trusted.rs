//! Whether the files that decide whom the agent believes, and what it runs, are in the hands of those who may decide it.
//!
//! A file that anybody on the host can write is refused: the last good one stays in force. What a group or another user can write may be meant so, and
//! refusing it could lock an operator out; `doctor` tells of it as an error.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User, geteuid};

use super::secrets::{OTHERS_WRITE, refuse_writable};
use super::{Complaint, Settings, https};

const GROUP_WRITES: u32 = 0o020;
const STICKY: u32 = 0o1000;

/// The directories of which nobody else may write in: what is in them is read as soon as it is there.
pub(super) fn refuse_open_directories(config_dir: &Path) -> Vec<Complaint> {
    [config_dir.to_owned(), config_dir.join("apps")]
        .iter()
        .filter_map(|dir| refuse_writable(dir).err())
        .map(|complaint| *complaint)
        .collect()
}

/// A file or directory that somebody else than root and the agent can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Open {
    /// What is wrong, in a sentence.
    pub says: String,
    /// The command that ends it.
    pub hint: String,
}

/// Looks at every file that the configuration consists of, and at the directories on the way to it.
pub(crate) fn look(config_dir: &Path, settings: &Settings) -> Vec<Open> {
    let mut paths = vec![config_dir.to_owned(), config_dir.join("agent.toml"), config_dir.join("apps")];
    paths.extend(settings.apps.keys().map(|app| config_dir.join("apps").join(format!("{app}.toml"))));
    let material = https::files(settings, config_dir);
    paths.extend(material.iter().filter_map(|file| file.parent().map(Path::to_owned)));
    paths.extend(material);
    for app in settings.apps.values() {
        paths.extend(app.webhook_files.iter().map(|webhook| webhook.secret_file.clone()));
    }
    paths.sort();
    paths.dedup();
    let above = config_dir.ancestors().skip(1).filter_map(exchangeable);
    paths.iter().filter_map(|path| open_to_others(path)).chain(above).collect()
}

/// A directory above the configuration in which anybody can put another one in its place.
fn exchangeable(dir: &Path) -> Option<Open> {
    let mode = fs::metadata(dir).ok()?.permissions().mode();
    (mode & OTHERS_WRITE != 0 && mode & STICKY == 0).then(|| Open {
        says: format!(
            "{} can be written by anybody on this host, who could put another configuration in the place of this one",
            dir.display()
        ),
        hint: format!("chmod o-w {}", dir.display()),
    })
}

fn open_to_others(path: &Path) -> Option<Open> {
    let metadata = fs::metadata(path).ok()?;
    let (owner, group, mode) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()), metadata.permissions().mode());
    let shown = path.display();
    if !owner.is_root() && owner != geteuid() {
        let name = User::from_uid(owner).ok().flatten().map_or_else(|| owner.to_string(), |user| user.name);
        return Some(Open {
            says: format!("{shown} belongs to {name}, who can change whom the agent believes and what it runs"),
            hint: format!("chown root {shown}"),
        });
    }
    if mode & GROUP_WRITES != 0 && !is_private(owner, group) {
        let name = Group::from_gid(group).ok().flatten().map_or_else(|| group.to_string(), |group| group.name);
        return Some(Open {
            says: format!("{shown} can be written by the group {name}, whose members can change whom the agent believes and what it runs"),
            hint: format!("chmod g-w {shown}"),
        });
    }
    let says = format!("{shown} can be written by anybody on this host (mode {:04o})", mode & 0o7777);
    (mode & OTHERS_WRITE != 0).then(|| Open { says, hint: format!("chmod o-w {shown}") })
}

/// Whether a group is the owner's alone: of the same name, the user's own, and without another member. OpenSSH in Debian asks the same of key files
/// (its patch user-group-modes).
fn is_private(owner: Uid, group: Gid) -> bool {
    let (Ok(Some(user)), Ok(Some(found))) = (User::from_uid(owner), Group::from_gid(group)) else { return false };
    user.gid == group && user.name == found.name && found.mem.iter().all(|member| *member == user.name)
}
