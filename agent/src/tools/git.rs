//! Git, by its command line.

use std::path::PathBuf;

/// Where an app's commits come from, and how they are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `repository`: an https or ssh URL, `user@host:path`, or a path where `allow_local` says so.
    pub repository: Repository,
    /// `ssh_key`: the private key for ssh; without it, what ssh finds by itself.
    pub ssh_key: Option<PathBuf>,
    /// `known_hosts`: the host keys that are trusted; without it, ssh's own files.
    pub known_hosts: Option<PathBuf>,
}

/// Where the repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Repository {
    /// `https://…`
    Https(String),
    /// `ssh://…` or `user@host:path`
    Ssh(String),
    /// A path on this host, which the configuration allows by name.
    Local(PathBuf),
}
