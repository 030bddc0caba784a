//! Migrations, which must not take the site down: a migration that waits for a lock makes every later reader of the table wait behind it.

use std::time::Duration;

use agent_wire::event::Stream;

use super::super::{Program, ProgramError, Watch};
use super::{Django, Inspection, ManageError, Migrated, heard};

/// How often a migration is tried that did not get its locks.
const MOST_ATTEMPTS: u32 = 3;
/// How long is waited before it is tried again; longer each time.
const PAUSE: Duration = Duration::from_secs(3);
/// The first server that notices that its client is gone while it waits for a lock (client_connection_check_interval).
const NOTICES_CLIENTS: u64 = 140_000;

impl Django<'_> {
    /// `manage.py migrate --noinput`, which does not wait long for locks of PostgreSQL, and is tried again when it did.
    ///
    /// # Errors
    /// [`ManageError`] when it fails.
    pub(crate) fn migrate(&self, watch: &Watch<'_>, inspection: &Inspection) -> Result<Migrated, ManageError> {
        let program = self.manage("migrate")?.arg("--noinput").arg(format!("--database={}", self.settings.database));
        let database = inspection.databases.get(&self.settings.database);
        if database.is_none_or(|database| database.vendor != "postgresql") {
            let (result, lines) = heard(&program, watch);
            return result
                .map(|()| Migrated { attempts: 1, warnings: Vec::new() })
                .map_err(|source| ManageError::command("migrate", source, &lines));
        }
        let mut warnings = Vec::new();
        if database.is_some_and(|database| database.options.contains_key("options")) {
            warnings.push(
                "the database's OPTIONS set \"options\", which go before PGOPTIONS: migrations wait for locks as long as those let them"
                    .to_owned(),
            );
        }
        let mut limited = Some(self.with_limits(&program, inspection));
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (result, lines) = heard(limited.as_ref().unwrap_or(&program), watch);
            let source = match result {
                Ok(()) => return Ok(Migrated { attempts, warnings }),
                Err(source) => source,
            };
            let said = |words: &str| matches!(source, ProgramError::Failed { .. }) && lines.iter().any(|line| line.contains(words));
            let tell = |line: &str| (watch.lines)(Stream::Stderr, line);
            if limited.is_some() && said("unsupported startup parameter") {
                // A connection pooler answered; nothing has happened yet.
                let warning = "the connection pooler refuses PGOPTIONS: migrations wait for locks as long as the server lets them";
                tell(warning);
                warnings.push(warning.to_owned());
                limited = None;
                continue;
            }
            // The class of the error stands in the traceback in every language of the server.
            let waited = said("LockNotAvailable") || said("lock timeout");
            if !waited || attempts == MOST_ATTEMPTS {
                return Err(ManageError::command("migrate", source, &lines));
            }
            let pause = PAUSE * attempts;
            let waited = self.settings.lock_timeout.as_secs_f32();
            tell(&format!("a lock was not free within {waited} s, and others were waiting behind; trying again in {} s", pause.as_secs()));
            if !watch.pause(pause) {
                return Err(ManageError::command("migrate", source, &lines));
            }
        }
    }

    /// With what PostgreSQL is to be told when connections are made.
    fn with_limits(&self, program: &Program, inspection: &Inspection) -> Program {
        let set = |wanted: &str| self.env.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let mut options = set("PGOPTIONS").map(|options| format!("{options} ")).unwrap_or_default();
        options.push_str(&format!("-c lock_timeout={}", self.settings.lock_timeout.as_millis()));
        if inspection.schema.as_ref().is_ok_and(|schema| schema.server_version >= NOTICES_CLIENTS) {
            options.push_str(" -c client_connection_check_interval=1000");
        }
        let name = set("PGAPPNAME").map(str::to_owned).unwrap_or_else(|| {
            let release = set("RELEASE_NAME").map(|name| format!(" {name}")).unwrap_or_default();
            format!("release-agent migrate{release}")
        });
        program.clone().env("PGOPTIONS", options).env("PGAPPNAME", name)
    }
}
