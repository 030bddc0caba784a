//! The actions of setup, as values: each has a sentence that describes it.

use std::path::PathBuf;

use super::people::AGENT;
use crate::python;

/// The intended owner, by name: a user that does not exist yet has no number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub user: String,
    pub group: String,
}

impl Owner {
    pub(super) fn new(user: &str, group: &str) -> Self {
        Self { user: user.to_owned(), group: group.to_owned() }
    }

    pub(super) fn root() -> Self {
        Self::new("root", "root")
    }
}

/// Whether a group is made together with its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GroupOf {
    Made,
    There,
}

/// One action, to be done unless its result is already there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// A system user without a login.
    User { name: String, home: PathBuf, group: GroupOf, what: &'static str },
    /// The agent is in a group.
    Member { group: String },
    /// A directory; its content is left alone.
    Directory { path: PathBuf, owner: Owner, mode: u32 },
    /// A file, empty where there is none.
    File { path: PathBuf, owner: Owner, mode: u32, what: String },
    /// A file that setup writes.
    Text { path: PathBuf, text: String, what: String },
    /// A unit that does not exist yet.
    Unit { path: PathBuf, text: String, what: String },
    /// A file of setup that is no longer needed.
    Gone { path: PathBuf },
    /// The directory of sockets, which tmpfiles.d makes at each boot.
    Sockets { line: PathBuf, path: PathBuf, owner: Owner, mode: u32 },
    /// The service manager reads its units again.
    ReadUnits { units: Vec<String> },
    /// A socket that systemd listens on, now and after each boot.
    Enable { socket: String, what: String },
    /// The agent's own installer, for all apps of the host.
    Installer { interpreter: String },
    /// The agent has all that it needs, and knows it.
    Agent { drop_in: PathBuf, group: String },
}

impl Action {
    /// The action as a sentence.
    pub(super) fn sentence(&self) -> String {
        match self {
            Self::User { name, what, .. } => format!("make the system user {name}, {what}"),
            Self::Member { group } => format!("let {AGENT} into the group {group}, so that it can remove what a build left"),
            Self::Directory { path, owner, mode } => {
                format!("have the directory {}, {}:{}, mode {mode:04o}", path.display(), owner.user, owner.group)
            }
            Self::File { path, owner, mode, what } => {
                format!("have the file {}, {}:{}, mode {mode:04o}: {what}", path.display(), owner.user, owner.group)
            }
            Self::Text { path, what, .. } => format!("write {}: {what}", path.display()),
            Self::Unit { path, what, .. } => format!("write {}, which is yours to change from then on: {what}", path.display()),
            Self::Gone { path } => format!("remove {}, which is needed no more", path.display()),
            Self::Sockets { path, owner, mode, .. } => {
                format!("have the directory {} for sockets, {}:{}, mode {mode:04o}, at each boot", path.display(), owner.user, owner.group)
            }
            Self::ReadUnits { .. } => "have systemd read its units again".to_owned(),
            Self::Enable { socket, what } => format!("enable and start {socket}: {what}"),
            Self::Installer { .. } => {
                format!("fetch {} into {}, by which releases are built", python::own_installer(), python::shared_place().display())
            }
            Self::Agent { .. } => "tell release-agent.service of what is new".to_owned(),
        }
    }

    /// Whether systemd must read its units after this.
    pub(super) fn changes_units(&self) -> bool {
        let is_unit = |path: &PathBuf| path.starts_with("/etc/systemd");
        match self {
            Self::Text { path, .. } | Self::Unit { path, .. } | Self::Gone { path } => is_unit(path),
            _ => false,
        }
    }

    /// Whether the agent needs a restart to notice it.
    pub(super) fn needs_restart(&self) -> bool {
        match self {
            Self::Member { .. } => true,
            Self::Text { path, .. } | Self::Gone { path } => path.starts_with("/etc/systemd/system/release-agent.service.d"),
            _ => false,
        }
    }
}
