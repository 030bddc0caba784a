//! Whether the models of a release fit the tables that are there: can its code read, and can it write?

use serde::{Deserialize, Serialize};

use super::{Django, ManageError, some_of};
use crate::process::Watch;

/// How the models of a release stand to the tables of the database. Each entry is a phrase that names a table or a column.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contract {
    /// How many tables of the models were compared.
    pub looked_at: usize,
    /// What the models read, and the database does not have so.
    pub broken: Vec<String>,
    /// What the database demands of values, and the models do not keep.
    pub writes: Vec<String>,
    /// What was not compared.
    pub unseen: Vec<String>,
}

/// The verdict of a [`Contract`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Reading and writing work, as far as the catalogue tells.
    Fits,
    /// Reading works, and some writing fails.
    WritesFail,
    /// Reading fails.
    Broken,
}

impl Contract {
    /// The verdict.
    pub(crate) fn fit(&self) -> Fit {
        match (self.broken.as_slice(), self.writes.as_slice()) {
            ([], []) => Fit::Fits,
            ([], _) => Fit::WritesFail,
            _ => Fit::Broken,
        }
    }

    /// Why a release does not fit, for people.
    pub(crate) fn why_not(&self) -> String {
        let part = |what: &str, list: &[String]| (!list.is_empty()).then(|| format!("{what} ({})", some_of(list)));
        let parts = [part("reading fails", &self.broken), part("writing fails", &self.writes)];
        parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
    }

    /// What was compared, and what was not, for people.
    pub(crate) fn looked_at(&self) -> String {
        let unseen = if self.unseen.is_empty() { String::new() } else { format!("; not compared: {}", some_of(&self.unseen)) };
        format!("{} table(s) compared{unseen}", self.looked_at)
    }
}

#[derive(Deserialize)]
struct Answer {
    contract: Contract,
}

impl Django<'_> {
    /// Compares the models of this release with the database's catalogue. It changes nothing.
    ///
    /// # Errors
    /// [`ManageError`] when the settings cannot be loaded, or the database does not answer.
    pub(crate) fn contract(&self, watch: &Watch<'_>) -> Result<Contract, ManageError> {
        self.ask("contract", &[], watch).map(|Answer { contract }| contract)
    }
}
