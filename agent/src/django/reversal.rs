//! Reversing migrations of newer code, by that code.

use serde::{Deserialize, Serialize};

use super::{Django, ManageError, heard};
use crate::process::Watch;

/// What it takes to reverse migrations, by the code that has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Reversal {
    /// Migrations that this code does not have.
    pub unknown: Vec<String>,
    /// The app and the last migration that stays, for each `migrate APP MIGRATION`; without one, none stays.
    pub targets: Vec<(String, Option<String>)>,
    /// The migrations that would be reversed, in their order.
    pub steps: Vec<String>,
    /// Others that would be reversed with them, or that would not be.
    pub also: Vec<String>,
    /// Those that cannot be reversed.
    pub irreversible: Vec<String>,
    /// What goes with them, such as `3 rows of board_note`.
    pub lost: Vec<String>,
    /// Those that run code or SQL of their own, which nobody can foresee.
    pub code: Vec<String>,
}

#[derive(Deserialize)]
struct Answer {
    reversal: Reversal,
}

impl Django<'_> {
    /// Asks what reversing these migrations would take. It changes nothing.
    ///
    /// # Errors
    /// [`ManageError`] when the settings cannot be loaded, or the database does not answer.
    pub(crate) fn reversal(&self, migrations: &[String], watch: &Watch<'_>) -> Result<Reversal, ManageError> {
        let migrations: Vec<&std::path::Path> = migrations.iter().map(std::path::Path::new).collect();
        self.ask("reversal", &migrations, watch).map(|Answer { reversal }| reversal)
    }

    /// `manage.py migrate APP MIGRATION`, for each target. A lock is not waited for longer than a migration may.
    ///
    /// # Errors
    /// [`ManageError`] when one fails; those before it are reversed.
    pub(crate) fn reverse(&self, targets: &[(String, Option<String>)], watch: &Watch<'_>) -> Result<(), ManageError> {
        for (app, migration) in targets {
            let limit = format!("-c lock_timeout={}", self.settings.lock_timeout.as_millis());
            let set = self.env.iter().find(|(name, _)| name == "PGOPTIONS").map(|(_, options)| format!("{options} {limit}"));
            let program = self.manage("migrate")?.args([
                app,
                migration.as_deref().unwrap_or("zero"),
                "--noinput",
                "--database",
                &self.settings.database,
            ]);
            let (done, lines) = heard(&program.env("PGOPTIONS", set.unwrap_or(limit)), watch);
            done.map_err(|source| ManageError::command("migrate", source, &lines))?;
        }
        Ok(())
    }
}
