//! The answers of facts.py: the database that the driver has reached, and the state within the release.

use std::path::PathBuf;

use crate::database::Reached;
use serde::{Deserialize, Serialize};

/// One answer.
#[derive(Deserialize)]
pub(super) struct Facts {
    /// The database that was asked.
    pub alias: String,
    pub reached: Reached,
    pub kept: Vec<Kept>,
    pub empty: bool,
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
