//! Migrations, which must not take the site down: a migration that waits for a lock makes every later reader of the table wait behind it. What was begun
//! is written down by the process that applies them, before it begins.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use agent_wire::event::Stream;
use serde::Deserialize;

use super::{Begun, Django, Inspection, ManageError, Migrated, heard};
use crate::database::Database;
use crate::process::{Program, ProgramError, Watch};

const LIMITED: &str = include_str!("limited.py");

/// How often a migration is tried that did not get its locks.
const MOST_ATTEMPTS: u32 = 3;
/// How long is waited before it is tried again; longer each time.
const PAUSE: Duration = Duration::from_secs(3);
/// The first server that notices that its client is gone while it waits for a lock (client_connection_check_interval).
const NOTICES_CLIENTS: u64 = 140_000;
/// `lock_not_available` (PostgreSQL, appendix A).
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// A line of the report.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Line {
    Limits { limits: BTreeMap<String, String> },
    Begun { begun: String },
    Applied { applied: String },
    Failed { failed: String, state: Option<String> },
    Ended { ended: bool },
}

/// What the process that migrates has written down.
#[derive(Debug, Default)]
struct Report {
    begun: Option<String>,
    any: bool,
    ended: bool,
    failed: Option<(String, Option<String>)>,
    limits: BTreeMap<String, String>,
}

impl Report {
    fn of(text: &str) -> Self {
        let mut report = Self::default();
        // A line that was cut off is of something that had not begun.
        for line in text.lines().filter_map(|line| serde_json::from_str(line).ok()) {
            match line {
                Line::Limits { limits } => report.limits = limits,
                Line::Begun { begun } => {
                    report.any = true;
                    report.begun = Some(begun);
                }
                Line::Applied { applied } => report.begun = report.begun.filter(|begun| *begun != applied),
                Line::Failed { failed, state } => report.failed = Some((failed, state)),
                Line::Ended { ended } => report.ended = ended,
            }
        }
        report
    }

    fn read(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&fs::read_to_string(path)?))
    }

    /// Whether a migration failed because it did not get a lock, by the code of the driver's own error.
    fn locked(&self) -> Option<&str> {
        let (migration, state) = self.failed.as_ref()?;
        (state.as_deref() == Some(LOCK_NOT_AVAILABLE)).then_some(migration.as_str())
    }
}

/// Which migration a process was at that has not come to its end, by the report that it has left.
pub(crate) fn begun(report: &Path) -> Begun {
    match Report::read(report) {
        Ok(Report { begun: Some(begun), .. }) => Begun::This(begun),
        Ok(Report { ended: true, .. }) => Begun::Ended,
        Ok(_) => Begun::Nothing,
        Err(_) => Begun::Unknown,
    }
}

/// One run of migrate, for one database.
struct Migrating<'a> {
    inspection: &'a Inspection,
    alias: &'a str,
    report: &'a Path,
}

impl Django<'_> {
    /// `manage.py migrate --noinput` for each database, which does not wait long for locks of PostgreSQL. It is tried again only where the try that failed
    /// can have left nothing. `report` is where the process writes down what it begins.
    ///
    /// # Errors
    /// [`ManageError`] when it fails; what it did until then is told beside it.
    pub(crate) fn migrate(&self, watch: &Watch<'_>, inspection: &Inspection, report: &Path) -> (Migrated, Result<(), ManageError>) {
        let mut migrated = Migrated::default();
        let others = inspection.schema.as_ref().map(|schema| schema.others()).unwrap_or_default();
        for alias in std::iter::once(&self.settings.database).chain(others) {
            // Another run's, of the same number, may be there; one that cannot be removed cannot be written either, which is told then.
            let _ = fs::remove_file(report);
            let ended = self.migrate_one(watch, &Migrating { inspection, alias, report }, &mut migrated);
            migrated.begun = begun(report);
            if ended.is_err() {
                return (migrated, ended);
            }
        }
        (migrated, Ok(()))
    }

    fn migrate_one(&self, watch: &Watch<'_>, one: &Migrating<'_>, migrated: &mut Migrated) -> Result<(), ManageError> {
        let database = one.inspection.databases.get(one.alias).filter(|database| database.vendor == "postgresql");
        let mut limited = database.map(|database| self.limited(one, database)).transpose()?;
        let plain = self.wrapped(one, "")?;
        let tell = |line: &str| (watch.lines)(Stream::Stderr, line);
        let mut attempts = 0;
        loop {
            attempts += 1;
            migrated.attempts += 1;
            // What an earlier try has written down was looked at.
            let _ = fs::remove_file(one.report);
            let (result, lines) = heard(limited.as_ref().unwrap_or(&plain), watch);
            let report = Report::read(one.report).unwrap_or_default();
            if limited.is_some() {
                migrated.warnings.extend(self.limits_that_do_not_hold(&report));
            }
            let source = match result {
                Ok(()) => return Ok(()),
                Err(source) => source,
            };
            let said = |words: &str| matches!(source, ProgramError::Failed { .. }) && lines.iter().any(|line| line.contains(words));
            if limited.is_some() && !report.any && said("unsupported startup parameter") {
                // A connection pooler answered; no migration was begun.
                let warning = "the connection pooler refuses options: migrations wait for locks as long as the server lets them";
                tell(warning);
                migrated.warnings.push(warning.to_owned());
                limited = None;
                continue;
            }
            let Some(migration) = report.locked().filter(|_| matches!(source, ProgramError::Failed { .. })) else {
                return Err(ManageError::command("migrate", source, &lines));
            };
            let failure = ManageError::Locked { migration: migration.to_owned(), source };
            if attempts == MOST_ATTEMPTS || !self.left_nothing(one.inspection, watch) {
                return Err(failure);
            }
            let pause = PAUSE * attempts;
            let waited = self.settings.lock_timeout.as_secs_f32();
            tell(&format!("a lock was not free within {waited} s, and others were waiting behind; trying again in {} s", pause.as_secs()));
            if !watch.pause(pause) {
                return Err(failure);
            }
        }
    }

    /// Whether a try that failed can have left nothing: where each migration is one transaction, and the database, asked again, has some of them whole and
    /// the rest not at all.
    fn left_nothing(&self, before: &Inspection, watch: &Watch<'_>) -> bool {
        let Ok(before) = before.schema.as_ref().map_err(|_| ()) else { return false };
        if !before.may_leave.is_empty() || !before.is_applied_in_order() || before.pending.is_empty() {
            return false;
        }
        let Ok(Ok(after)) = self.inspect(watch).map(|inspection| inspection.schema) else { return false };
        before.pending.ends_with(&after.pending)
            && before.pending.iter().all(|migration| after.pending.contains(migration) != after.applied.contains(migration))
    }

    /// The limits that were given with the connection and that the session does not have.
    fn limits_that_do_not_hold(&self, report: &Report) -> Option<String> {
        let set = self.settings.lock_timeout.as_millis().to_string();
        let has = report.limits.get("lock_timeout").filter(|has| **has != set)?;
        let has = if has == "0" { "has none".to_owned() } else { format!("has {has} ms") };
        Some(format!(
            "lock_timeout of {set} ms does not hold in the session that migrates, which {has}: does something between here and the database, or the settings of its user, set another?"
        ))
    }

    /// migrate of one database, by the program that writes down what it begins.
    fn wrapped(&self, one: &Migrating<'_>, more: &str) -> Result<Program, ManageError> {
        // That it is there is looked at first, so that it is told as for every command.
        let program = self.interpreter()?;
        let verb = ["migrate".to_owned(), "--noinput".to_owned(), format!("--database={}", one.alias)];
        let suffix = if one.alias == self.settings.database { String::new() } else { format!(" ({})", one.alias) };
        let program = program.args(["-c", LIMITED]).arg(self.manage_path()).arg(one.report).args([suffix.as_str(), more]).unshown();
        Ok(program.args(verb.into_iter().chain(self.settings_argument())))
    }

    /// The same, with limits.
    fn limited(&self, one: &Migrating<'_>, database: &Database) -> Result<Program, ManageError> {
        // What the settings give the driver as "options" replaces PGOPTIONS, so it must be put there.
        Ok(self.named(match database.options.contains_key("options") {
            false => self.wrapped(one, "")?.env("PGOPTIONS", self.limits(one.inspection, self.set("PGOPTIONS"))),
            true => self.wrapped(one, &self.limits(one.inspection, None))?,
        }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_is_known_from_what_was_written_down_before_it_began() {
        let begun = |text: &str| Report::of(text).begun;
        assert_eq!(begun(""), None);
        assert_eq!(begun("{\"begun\":\"a.1\"}\n{\"applied\":\"a.1\"}\n"), None);
        assert_eq!(begun("{\"begun\":\"a.1\"}\n{\"applied\":\"a.1\"}\n{\"begun\":\"a.2\"}\n"), Some("a.2".to_owned()));
        assert_eq!(begun("{\"begun\":\"a.1\"}\n{\"applied\":\"a.1\"}\n{\"begu"), None, "it goes on only when the line is on the disk");
        assert_eq!(begun("{\"begun\":\"a.1\"}\n{\"failed\":\"a.1\",\"state\":null}\n"), Some("a.1".to_owned()));
    }

    #[test]
    fn a_lock_is_known_by_the_drivers_code_and_by_nothing_else() {
        let report = |state: &str| Report::of(&format!("{{\"begun\":\"a.1\"}}\n{{\"failed\":\"a.1\",\"state\":{state}}}\n"));
        assert_eq!(report("\"55P03\"").locked(), Some("a.1"));
        assert_eq!(report("\"40001\"").locked(), None);
        assert_eq!(report("null").locked(), None);
    }
}
