//! The answers of facts.py: the database that the driver has reached, and the state within the release.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Questions that tell one database of PostgreSQL from every other one, a line each; the later ones are for servers that refuse the earlier ones.
pub(crate) const IDENTITY: &str = include_str!("identity.sql");

/// One answer.
#[derive(Deserialize)]
pub(super) struct Facts {
    /// The database that was asked.
    pub alias: String,
    pub reached: Reached,
    pub kept: Vec<Kept>,
    pub empty: bool,
}

/// The file or server that a driver has connected to.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reached {
    /// The file of SQLite.
    File {
        /// Where it is, links resolved.
        path: PathBuf,
        /// Its file system.
        device: u64,
        /// Its number there.
        inode: u64,
    },
    /// There is no such file yet.
    Absent,
    /// A server of PostgreSQL.
    Server(Server),
    /// It was not asked, or gave no answer; and why.
    Unknown(String),
}

/// A database of a PostgreSQL server, and all that libpq went by.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Server {
    /// libpq's parameters, the password among them; and "role", which Django assumes.
    pub parameters: BTreeMap<String, String>,
    /// Variables that decided beside them.
    pub environment: BTreeMap<String, String>,
    /// Which line of [`IDENTITY`] was asked.
    pub asked: usize,
    /// The answer.
    pub identity: String,
}

impl Server {
    /// A parameter; nothing where it is not set.
    pub(crate) fn parameter(&self, name: &str) -> &str {
        self.parameters.get(name).map(String::as_str).unwrap_or_default()
    }
}

impl Default for Reached {
    fn default() -> Self {
        Self::Unknown("it is not the database of [django] database".to_owned())
    }
}

impl fmt::Debug for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "{}", path.display()),
            Self::Absent => f.write_str("no file"),
            // Without its parameters: the password is one.
            Self::Server(server) => f.write_str(&server.identity),
            Self::Unknown(why) => f.write_str(why),
        }
    }
}

/// State within the release: it changes while the site serves, and the next release has its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// What it is.
    pub what: What,
    /// For people: `the database "default"`.
    pub name: String,
    /// Where it is, within the release.
    pub path: PathBuf,
    /// Where manage.py is, within the release: mostly what the settings' paths begin with.
    pub base: PathBuf,
}

/// The kinds of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum What {
    /// A file of SQLite.
    Database,
    /// Uploads.
    Media,
    /// A file that a handler of `logging` writes.
    Log,
}
