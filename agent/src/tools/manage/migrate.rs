//! Migrations, which must not take the site down: a migration that waits for a lock makes every later reader of the table wait behind it.

use std::time::Duration;

use agent_wire::event::Stream;

use super::super::{Program, ProgramError, Watch};
use super::{Django, Inspection, ManageError, Migrated, heard};

const LIMITED: &str = include_str!("limited.py");

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
        let arguments = ["--noinput".to_owned(), format!("--database={}", self.settings.database)];
        let program = self.manage("migrate")?.args(&arguments);
        let database = inspection.databases.get(&self.settings.database);
        if database.is_none_or(|database| database.vendor != "postgresql") {
            let (result, lines) = heard(&program, watch);
            return result
                .map(|()| Migrated { attempts: 1, warnings: Vec::new() })
                .map_err(|source| ManageError::command("migrate", source, &lines));
        }
        let mut warnings = Vec::new();
        // What the settings give the driver as "options" replaces PGOPTIONS, so it must be put there.
        let mut limited = Some(match database.is_some_and(|database| database.options.contains_key("options")) {
            false => self.named(program.clone()).env("PGOPTIONS", self.limits(inspection, self.set("PGOPTIONS"))),
            true => {
                let verb = ["migrate".to_owned()].into_iter().chain(arguments).chain(self.settings_argument());
                let program =
                    self.interpreter()?.args(["-c", LIMITED]).arg(self.manage_path()).arg(self.limits(inspection, None)).args(verb);
                self.named(program)
            }
        });
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
                let warning = "the connection pooler refuses options: migrations wait for locks as long as the server lets them";
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

    fn set(&self, wanted: &str) -> Option<&str> {
        self.env.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    /// What PostgreSQL is to be told when connections are made, behind what it is told already.
    fn limits(&self, inspection: &Inspection, former: Option<&str>) -> String {
        let mut options: Vec<String> = former.map(str::to_owned).into_iter().collect();
        options.push(format!("-c lock_timeout={}", self.settings.lock_timeout.as_millis()));
        if inspection.schema.as_ref().is_ok_and(|schema| schema.server_version >= NOTICES_CLIENTS) {
            options.push("-c client_connection_check_interval=1000".to_owned());
        }
        options.join(" ")
    }

    /// With a name by which its connections are found in `pg_stat_activity`.
    fn named(&self, program: Program) -> Program {
        let name = self.set("PGAPPNAME").map(str::to_owned).unwrap_or_else(|| {
            let release = self.set("RELEASE_NAME").map(|name| format!(" {name}")).unwrap_or_default();
            format!("release-agent migrate{release}")
        });
        program.env("PGAPPNAME", name)
    }
}
