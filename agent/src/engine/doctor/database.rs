//! `doctor` asks the live release whether its database answers, whether state lies in its directory, and whether dumps can be made.

use std::time::{Duration, Instant};

use agent_model::names::{CommitId, RunId};
use agent_wire::view::Level;

use super::{AppEngine, DoctorReport};
use crate::django::{Inspection, Places, SchemaUnknown, Settings};
use crate::engine::app_thread::{executor_of, secrets_of};
use crate::process::{Program, Watch};
use crate::settings::App;
use crate::steps::left_out;
use crate::work::{Bytecode, Failure, Job, JobAnswer, Order, Ordered};

/// How long the live release may take to load.
const LOADING: Duration = Duration::from_secs(60);

impl AppEngine {
    /// Does nothing without [django]. During a run the runner belongs to that run.
    pub(super) fn examine_database(&self, report: &mut DoctorReport, watch: &Watch<'_>) {
        let watch = &Watch { deadline: Instant::now() + LOADING, ..*watch };
        self.examine_unsettled(report);
        let app = self.settings();
        let Some(django) = &app.django else { return };
        let running = self.journal.standing(&self.name).is_ok_and(|standing| standing.running.is_some());
        let asked = if running { None } else { self.ask_the_live_release(&app, watch) };
        let inspection = asked.and_then(|asked| match asked {
            Ok(inspection) => Some(inspection),
            Err(failure) => {
                let hint = failure.hint.or_else(|| Some(hint_of_address(&app)));
                report.add("database", Level::Error, format!("the live release cannot be asked: {}", failure.reason), hint);
                None
            }
        });
        if let Some(inspection) = &inspection {
            examine_schema(report, &app, django, inspection);
            self.examine_what_is_kept(report, inspection);
        }
        if django.migrate {
            examine_backup(report, &app, inspection.as_ref(), watch);
        }
    }

    /// Changes that runs may have left in the database.
    fn examine_unsettled(&self, report: &mut DoctorReport) {
        for left in self.unsettled() {
            let restore = left.restore.map(|restore| format!("restore the dump from before: {restore}; or ")).unwrap_or_default();
            let run = left.run;
            let hint = format!(
                "{restore}release a commit whose migrations put it right; when it is in order by other means: agentctl settle {run}"
            );
            report.add("database", Level::Error, format!("since run {run}: {}", left.text), Some(hint));
        }
    }

    fn ask_the_live_release(&self, app: &App, watch: &Watch<'_>) -> Option<Result<Inspection, Failure>> {
        let live = self.root.live().ok().flatten()?;
        let commit: CommitId = self.root.manifest(&live).ok()?.commit.parse().ok()?;
        let secrets = secrets_of(app).ok()?;
        let env = app.variables(secrets);
        let order = Order {
            run: RunId(0),
            marker: watch.marker.to_owned(),
            caller: "doctor".to_owned(),
            release: Some(Ordered { name: live, commit, reference: None }),
            former: None,
        };
        let answer = executor_of(self, app, &env).ask(&order, &Job::Inspect(Bytecode::NotWritten), None, watch, &|_| {});
        Some(answer.and_then(|answer| match answer {
            JobAnswer::Inspected(inspection) => Ok(*inspection),
            other => Err(other.unexpected()),
        }))
    }

    fn examine_what_is_kept(&self, report: &mut DoctorReport, inspection: &Inspection) {
        let Ok(Some(live)) = self.root.live() else { return };
        let dir = self.root.release_dir(&live);
        let shared = self.root.path().join("shared");
        for kept in &inspection.kept {
            let hint = kept.hint(Places { release: &dir, live: Some(&dir), shared: &shared });
            report.add("state", Level::Error, kept.told(), Some(hint));
        }
        if inspection.kept.is_empty() {
            report.add("state", Level::Good, "neither database nor uploads nor logs lie in the live release", None);
        }
    }
}

/// Whether the database answers, and has the migrations of the live release; also which migrations are missing, and which indexes are unusable.
fn examine_schema(report: &mut DoctorReport, app: &App, django: &Settings, inspection: &Inspection) {
    let name = &django.database;
    if let Ok(schema) = &inspection.schema {
        for text in left_out(schema, app) {
            let hint = "name every database that is to be migrated: [django] database = [\"default\", …]";
            report.add("database", Level::Warning, text, Some(hint.to_owned()));
        }
        for index in &schema.invalid_indexes {
            let text =
                format!("the index {} of {} is invalid: an interrupted build left it, and no query uses it", index.index, index.table);
            report.add("database", Level::Warning, text, Some(format!("drop it and have it built again: {};", index.drop)));
        }
    }
    match &inspection.schema {
        Ok(schema) if !schema.pending.is_empty() && django.migrate => {
            let text = format!(
                "the database {name:?} lacks {} migration(s) of the live release, {} the first: it is empty, or another one",
                schema.pending.len(),
                schema.pending[0]
            );
            report.add("database", Level::Error, text, Some(hint_of_address(app)));
        }
        Ok(_) => report.add("database", Level::Good, format!("the database {name:?} answers"), None),
        Err(SchemaUnknown { why, hint }) => {
            let text = format!("the database {name:?} cannot be asked by the live release: {why}");
            report.add("database", Level::Error, text, Some(hint.clone().unwrap_or_else(|| hint_of_address(app))));
        }
    }
}

fn hint_of_address(app: &App) -> String {
    let place = app.secrets.first().map_or_else(|| "[env] of the app's file".to_owned(), |file| file.display().to_string());
    format!("start the database, or correct its address in {place}")
}

/// Whether a dump will be made before a migration.
fn examine_backup(report: &mut DoctorReport, app: &App, inspection: Option<&Inspection>, watch: &Watch<'_>) {
    let Some(settings) = &app.backup else {
        let text = "no [backup] is set: migrations are applied without a dump to go back to";
        return report.add("backup", Level::Warning, text, Some("add [backup] to the app's file".to_owned()));
    };
    let Some(inspection) = inspection.filter(|inspection| inspection.schema.is_ok()) else { return };
    let kind = match settings.kind_of(&inspection.vendor) {
        Ok(kind) => kind,
        Err(err) => return report.add("backup", Level::Error, err.to_string(), err.hint().map(str::to_owned)),
    };
    if inspection.vendor != "postgresql" {
        return report.add("backup", Level::Good, format!("a dump of {} is made before migrations", kind.name()), None);
    }
    let server = inspection.schema.as_ref().map_or(0, |schema| schema.server_version / 10_000);
    match Program::new("pg_dump").arg("--version").capture(watch) {
        Ok(said) => match major(&said.text()) {
            Some(tool) if tool < server => {
                let text = format!("pg_dump is of version {tool}, and the server of {server}: it dumps no newer server");
                report.add("backup", Level::Error, text, Some(format!("apt install postgresql-client-{server}")));
            }
            _ => report.add("backup", Level::Good, format!("{} dumps before migrations", said.text()), None),
        },
        Err(err) => report.add("backup", Level::Error, err.to_string(), Some("apt install postgresql-client".to_owned())),
    }
}

/// `pg_dump (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` has the major version 15.
fn major(said: &str) -> Option<u64> {
    let version = said.split_whitespace().find(|word| word.starts_with(|char: char| char.is_ascii_digit()))?;
    version.split(|char: char| !char.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_pg_dump_is_read() {
        assert_eq!(major("pg_dump (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some(15));
        assert_eq!(major("pg_dump (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("pg_dump"), None);
    }
}
