//! `migrate`: the database brought up to the code. It cannot be taken back; what stands is found out and told.

use agent_model::names::ReleaseName;
use agent_model::plan::{Choice, Nature};
use agent_model::request::Act;
use chrono::Utc;

use super::cx::Ask;
use super::foresight::nothing_to_migrate;
use super::{Brief, Cx, Did, Failure, Step, TAKEN_BACK, backup, before_it_serves, with_django};
use crate::faults;
use crate::site::{Failed, Migrated};
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

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        with_django(before_it_serves(brief), brief.app, "migrate", |django| django.migrate)
    }

    fn run(&self, cx: &mut Cx<'_>) -> Result<Did, Failure> {
        if let Some(why) = nothing_to_migrate(cx) {
            return Ok(Did::Nothing(why));
        }
        let inspection = cx.inspect(Bytecode::NotWritten, Ask::Once)?;
        let schema = schema_of(&inspection)?;
        warn_of_what_is_ahead(cx, schema);
        if schema.pending.is_empty() {
            return Ok(Did::Nothing("no migration to apply".to_owned()));
        }
        if !schema.irreversible.is_empty() {
            cx.warn(format!("cannot be reversed: {}", schema.irreversible.join(", ")));
        }
        cx.note(format!("{} to apply: {}", schema.pending.len(), schema.pending.join(", ")));
        backup::warn_without_any(cx, &inspection);
        let release = cx.target()?.release.clone();
        let mut earlier = earlier(cx, &release)?;
        if let Some(earlier) = &mut earlier
            && earlier.applied.is_none()
        {
            // It was cut off, and nobody could ask the database then.
            earlier.applied = Some(without(&earlier.pending, &schema.pending));
        }
        let mut record = Migrated {
            by: Some(cx.marker.to_owned()),
            pending: schema.pending.clone(),
            applied: None,
            backup: cx.dump.as_ref().map(|dump| dump.path.clone()),
            restore: cx.restore.clone(),
            earlier: earlier.map(Box::new),
        };
        // Written before: after a crash it says what was about to be applied.
        cx.site.set_fact(&release, &record)?;
        faults::at("recorded");
        let done = cx.work(&Job::Migrate);
        faults::at("migrated");
        // What was applied is asked of the database, whatever migrate said.
        let after = cx.inspect(Bytecode::NotWritten, Ask::Again).and_then(|inspection| schema_of(&inspection).cloned());
        if let Ok(after) = &after {
            record.applied = Some(without(&schema.pending, &after.pending));
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
        let Some(mut record) = own(cx, &target.release)? else { return Ok(()) };
        let cut_off = record.applied.is_none();
        if cut_off {
            // The agent died in the middle: the database knows how far it came.
            let after = schema_of(&cx.inspect(Bytecode::NotWritten, Ask::Again)?)?.clone();
            record.applied = Some(without(&record.pending, &after.pending));
            cx.site.set_fact(&target.release, &record)?;
        }
        let applied = record.applied.unwrap_or_default();
        if applied.is_empty() {
            // The release may be another run's: it is left as it was.
            match record.earlier {
                Some(earlier) => cx.site.set_fact(&target.release, &*earlier)?,
                None => cx.site.remove_fact::<Migrated>(&target.release)?,
            }
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
        // In a release the checkout decides what becomes of the directory.
        if matches!(cx.act, Act::Activate { .. }) { keep(cx, &target.release) } else { Ok(()) }
    }
}

/// What this run wrote down of the release's migrations.
fn own(cx: &Cx<'_>, release: &ReleaseName) -> Result<Option<Migrated>, Failure> {
    let record: Option<Migrated> = cx.site.fact(release)?;
    // A release is made by its own run, be it one of an older agent, which wrote no mark.
    let made_here = cx.act.makes_a_release();
    Ok(record.filter(|record| made_here || record.by.as_deref() == Some(cx.marker)))
}

/// What runs before this one wrote down, where anything of it stands, or may.
pub(super) fn earlier(cx: &Cx<'_>, release: &ReleaseName) -> Result<Option<Migrated>, Failure> {
    if let Some(own) = own(cx, release)? {
        return Ok(own.earlier.map(|earlier| *earlier));
    }
    Ok(cx.site.fact::<Migrated>(release)?.filter(Migrated::may_stand))
}

/// Whether anything that this run migrated stands, or may.
pub(super) fn stands(cx: &Cx<'_>, release: &ReleaseName) -> Result<bool, Failure> {
    Ok(own(cx, release)?.is_some_and(|record| record.applied.is_none_or(|applied| !applied.is_empty())))
}

/// Whether this run is known to have migrated something.
pub(super) fn applied(cx: &Cx<'_>, release: &ReleaseName) -> Result<bool, Failure> {
    Ok(own(cx, release)?.and_then(|record| record.applied).is_some_and(|applied| !applied.is_empty()))
}

/// Marks a release whose migrations stand, though it does not serve.
pub(super) fn keep(cx: &Cx<'_>, release: &ReleaseName) -> Result<(), Failure> {
    cx.site.set_fact(release, &Failed { at: Utc::now(), run: cx.run.0 })?;
    cx.note(format!("{} is kept: only its code can reverse the migrations that stand", cx.site.release_dir(release).display()));
    Ok(())
}

/// The migrations that are not, or no longer, to be applied.
fn without(migrations: &[String], pending: &[String]) -> Vec<String> {
    migrations.iter().filter(|migration| !pending.contains(migration)).cloned().collect()
}

/// Old code on a newer schema can pass its checks and fail at the first write.
pub(super) fn warn_of_what_is_ahead(cx: &Cx<'_>, schema: &Schema) {
    if !schema.ahead.is_empty() {
        cx.warn(format!("the database has migrations that this commit does not know: {}", schema.ahead.join(", ")));
    }
}

/// How the database and the code stand to each other.
pub(super) fn schema_of(inspection: &Inspection) -> Result<&Schema, Failure> {
    inspection.schema.as_ref().map_err(|why| {
        Failure::new(format!("the database cannot be asked which migrations it has: {why}"))
            .with_hint("see that the database runs, and that [env] and [secrets] hold what Django's settings need to reach it")
    })
}
