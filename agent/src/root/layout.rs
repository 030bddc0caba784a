//! The directories of a root as root makes them, where builds have a user of their own.

use std::path::{Path, PathBuf};

/// Whose group a directory of the root has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// The agent's own.
    Agent,
    /// The builder's, who writes in it while something is made.
    Builder,
}

/// A directory of the root. It belongs to the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where it is.
    pub path: PathBuf,
    /// Its group.
    pub group: Group,
    /// Its mode.
    pub mode: u32,
}

/// Every directory of a root, the root itself first.
pub(crate) fn parts(root: &Path) -> Vec<Part> {
    let part = |name: &str, group, mode| Part { path: root.join(name), group, mode };
    vec![
        Part { path: root.to_owned(), group: Group::Agent, mode: 0o755 },
        // What the agent checks out there has the builder's group.
        part("releases", Group::Builder, 0o2755),
        part("environments", Group::Builder, 0o2755),
        part("shared", Group::Agent, 0o755),
        part("slots", Group::Agent, 0o755),
        part("backups", Group::Agent, 0o700),
        part(".agent", Group::Agent, 0o700),
        part("git_cache", Group::Agent, 0o700),
    ]
}

/// The parts of a root that nobody but the agent may read.
pub(crate) fn kept(root: &Path) -> Vec<PathBuf> {
    parts(root).into_iter().filter(|part| part.mode == 0o700).map(|part| part.path).collect()
}

/// Where an app's own user writes.
pub(crate) fn shared(root: &Path) -> PathBuf {
    root.join("shared")
}
