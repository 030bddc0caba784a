//! `migrate`: the database brought up to the code. It cannot be taken back; what stands is found out and told.

use agent_model::names::ReleaseName;
use agent_model::plan::{Choice, Nature};
use agent_model::request::Act;

use super::cx::Ask;
use super::{Cx, Did, Failure, Step, TAKEN_BACK, with_django};
use crate::faults;
use crate::settings::App;
use crate::site::Migrated;
use crate::tools::manage::{Inspection, Schema};
use crate::work::{Bytecode, Job};

pub(super) struct Migrate;

impl Step for Migrate {
    fn name(&self) -> &'static str {
        "migrate"
    }

    fn nature(&self) -> Nature {
        TAKEN_BACK
    }

    fn choose(&self, act: &Act, app: &App) -> Choice {
        with_django(act, app, "migrate", |django| django.migrate)
    }

    fn run(&self, cx: &mut Cx<'_>) -> Result<Did, Failure> {
        let inspection = cx.inspect(Bytecode::NotWritten, Ask::Once)?;
        let schema = schema_of(&inspection)?;
        if !schema.ahead.is_empty() {
            cx.warn(format!("the database has migrations that this commit does not know: {}", schema.ahead.join(", ")));
        }
        if schema.pending.is_empty() {
            return Ok(Did::Nothing("no migration to apply".to_owned()));
        }
        if !schema.irreversible.is_empty() {
            cx.warn(format!("cannot be reversed: {}", schema.irreversible.join(", ")));
        }
        cx.note(format!("{} to apply: {}", schema.pending.len(), schema.pending.join(", ")));
        let release = cx.target()?.release.clone();
        let mut record = Migrated {
            pending: schema.pending.clone(),
            applied: None,
            backup: cx.dump.as_ref().map(|dump| dump.path.clone()),
            restore: cx.dump.as_ref().map(|dump| dump.restore.clone()),
        };
        // Written before: after a crash it says what was about to be applied.
        cx.site.set_fact(&release, &record)?;
        faults::at("recorded");
        let done = cx.work(&Job::Migrate);
        faults::at("migrated");
        // What was applied is asked of the database, whatever migrate said.
        let after = cx.inspect(Bytecode::NotWritten, Ask::Again).and_then(|inspection| schema_of(&inspection).cloned());
        if let Ok(after) = &after {
            record.applied = Some(schema.pending.iter().filter(|migration| !after.pending.contains(migration)).cloned().collect());
            cx.site.set_fact(&release, &record)?;
        }
        for warning in done?.warnings() {
            cx.warn(warning);
        }
        match after?.pending.as_slice() {
            [] => Ok(Did::It),
            left => Err(Failure::new(format!("migrate ended well, but these are still to be applied: {}", left.join(", ")))),
        }
    }

    fn undo(&self, cx: &mut Cx<'_>) -> Result<(), Failure> {
        let Some(target) = cx.target.clone() else { return Ok(()) };
        let Some(mut record) = cx.site.fact::<Migrated>(&target.release)? else { return Ok(()) };
        let cut_off = record.applied.is_none();
        if cut_off {
            // The agent died in the middle: the database knows how far it came.
            let after = schema_of(&cx.inspect(Bytecode::NotWritten, Ask::Again)?)?.clone();
            record.applied = Some(record.pending.iter().filter(|migration| !after.pending.contains(migration)).cloned().collect());
            cx.site.set_fact(&target.release, &record)?;
        }
        let applied = record.applied.unwrap_or_default();
        if applied.is_empty() {
            return Ok(());
        }
        cx.teller.stands(&format!("applied and not taken back: {}", applied.join(", ")), record.restore.as_deref());
        if cut_off && applied.len() < record.pending.len() {
            return Err(Failure::new(format!(
                "the migrations were cut off after {} of {}; the former release serves, on a database that fits neither",
                applied.len(),
                record.pending.len()
            ))
            .with_hint("look at the database, then `agentctl activate` a release that fits it"));
        }
        Ok(())
    }
}

/// Whether anything that a release migrated stands, or may.
pub(super) fn stands(cx: &Cx<'_>, release: &ReleaseName) -> Result<bool, Failure> {
    let record: Option<Migrated> = cx.site.fact(release)?;
    Ok(record.is_some_and(|record| record.applied.is_none_or(|applied| !applied.is_empty())))
}

/// How the database and the code stand to each other.
pub(super) fn schema_of(inspection: &Inspection) -> Result<&Schema, Failure> {
    inspection.schema.as_ref().map_err(|why| {
        Failure::new(format!("the database cannot be asked which migrations it has: {why}"))
            .with_hint("see that the database runs, and that [env] and [secrets] hold what Django's settings need to reach it")
    })
}
