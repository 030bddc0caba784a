//! A database as Django's settings describe it, and what its driver has connected to.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

/// Questions that tell one database of PostgreSQL from every other one, a line each; the later ones are for servers that refuse the earlier ones.
pub(crate) const IDENTITY: &str = include_str!("identity.sql");

/// A database as Django's settings describe it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Database {
    /// Its alias.
    pub alias: String,
    /// `postgresql`, `sqlite`, `mysql`, …
    pub vendor: String,
    /// `NAME`; of SQLite the absolute path.
    pub name: String,
    /// `HOST`
    pub host: String,
    /// `PORT`
    pub port: String,
    /// `USER`
    pub user: String,
    /// `PASSWORD`; never shown.
    pub password: String,
    /// Those of `OPTIONS` that libpq knows.
    pub options: BTreeMap<String, String>,
    /// What the driver has connected to.
    pub reached: Reached,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { alias, vendor, name, host, port, user, .. } = self;
        write!(f, "Database({alias}: {vendor} {name} at {host:?} {port:?} as {user:?})")
    }
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
