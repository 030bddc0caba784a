//! `migrate`: migrates the database to the code. It cannot be undone, so the step determines and reports which migrations stay applied.

use std::fs;

use agent_model::names::ReleaseName;
use agent_model::plan::{Choice, Nature};
use agent_model::request::Act;
use chrono::Utc;

use super::context::Ask;
use super::foresight::nothing_to_migrate;
use super::half_migrated::{End, entry, half_of, left, sentence};
use super::words::counted;
use super::{Brief, Did, Failure, Step, StepContext, TAKEN_BACK, before_it_serves_or_reversed, reverse, with_django};
use crate::django::{Begun, Fit, Inspection, PostMigrate, Schema, SchemaUnknown, begun, some_of};
use crate::faults;
use crate::root::{ApplyOrder, Failed, Migrated, Reversed};
use crate::settings::{App, ExecutorKind};
use crate::work::{Bytecode, Job, JobAnswer};

pub(super) struct Migrate;

impl Step for Migrate {
    fn name(&self) -> &'static str {
        "migrate"
    }

    fn nature(&self) -> Nature {
        TAKEN_BACK
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        with_django(before_it_serves_or_reversed(brief), brief.app, "migrate", |django| django.migrate)
    }

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        if let Some(loss) = reverse::asked(cx.run.act) {
            return reverse::run(cx, loss);
        }
        if let Some(why) = nothing_to_migrate(cx) {
            return Ok(Did::Nothing(why));
        }
        let inspection = cx.inspect(Bytecode::NotWritten, Ask::Once)?;
        let schema = schema_of(&inspection)?;
        warn_of_what_is_ahead(cx, schema);
        warn_of_what_is_left_out(cx, schema);
        if schema.pending.is_empty() {
            return without_any(cx, schema);
        }
        refuse_invalid_indexes(schema)?;
        if !schema.irreversible.is_empty() {
            cx.warn(format!("cannot be reversed: {}", some_of(&schema.irreversible)));
        }
        cx.note(format!("{} to apply: {}", schema.pending.len(), some_of(&schema.pending)));
        for (migration, why) in schema.may_leave.iter().take(3) {
            cx.note(format!("{migration} {why}: should it fail, a part of it may stay"));
        }
        warn_without_any(cx, &inspection);
        let release = cx.target()?.release.clone();
        let mut earlier = earlier(cx, &release)?;
        if let Some(earlier) = &mut earlier
            && earlier.applied.is_none()
        {
            // The run was cut off, and the database could not be asked then.
            earlier.applied = Some(without(&earlier.pending, &schema.pending));
        }
        let mut record = Migrated {
            by: Some(cx.run.marker.to_owned()),
            pending: schema.pending.clone(),
            applied: None,
            backup: cx.found.dump.as_ref().map(|dump| dump.path.clone()),
            restore: cx.found.restore.clone(),
            may_leave: schema.may_leave.clone(),
            irreversible: schema.irreversible.clone(),
            order: if schema.is_applied_in_order() { ApplyOrder::Kept } else { ApplyOrder::Unknown },
            half: Vec::new(),
            earlier: earlier.map(Box::new),
        };
        forget_report(cx);
        // Written before: after a crash they say what was about to be applied, and what may be left of it.
        cx.run.root.set_fact(&release, &record)?;
        let all = half_of(&record, None, &Begun::Unknown);
        let may_be = (!all.is_empty()).then(|| sentence(&record, &all, &Begun::Unknown));
        note_left(cx, &Migrated { half: all, ..record.clone() }, may_be)?;
        faults::at("recorded");
        let gate = cx.run.root.close_gate()?;
        let (begun, warnings, done) = match cx.work(&Job::Migrate) {
            Ok(JobAnswer::Migrated { begun, warnings, failed }) => (begun, warnings, failed.map_or(Ok(()), Err)),
            Ok(other) => (Begun::Unknown, Vec::new(), Err(other.unexpected())),
            Err(failure) => (reported(cx), Vec::new(), Err(failure)),
        };
        drop(gate);
        faults::at("migrated");
        // The database decides which migrations were applied, whatever migrate reported.
        let after = cx.inspect(Bytecode::NotWritten, Ask::Again).and_then(|inspection| schema_of(&inspection).cloned());
        if let Ok(after) = &after {
            let applied = without(&schema.pending, &after.pending);
            record.half = if done.is_ok() { Vec::new() } else { half_of(&record, Some(&applied), &begun) };
            record.applied = Some(applied);
            note_left(cx, &record, left(&record, &begun, if done.is_ok() { End::Well } else { End::Badly }))?;
            cx.run.root.set_fact(&release, &record)?;
        }
        for warning in warnings {
            cx.warn(warning);
        }
        // The cause of the failure comes first, then the index that it left invalid, with its hint.
        let new = after.iter().flat_map(|after| &after.invalid_indexes).filter(|index| !schema.invalid_indexes.contains(index));
        let left: String =
            new.map(|index| format!("; the index {} of {} is invalid now, drop it: {};", index.index, index.table, index.drop)).collect();
        done.map_err(|failure| Failure { reason: failure.reason + &left, ..failure })?;
        forget_report(cx);
        warn_of_who_still_serves(cx);
        match after?.pending.as_slice() {
            [] => {
                cx.run.root.remove_fact::<Reversed>(&release)?;
                Ok(Did::It)
            }
            left => Err(Failure::new(format!("migrate ended well, but these are still to be applied: {}", some_of(left)))),
        }
    }

    fn undo(&self, cx: &mut StepContext<'_>) -> Result<(), Failure> {
        if reverse::asked(cx.run.act).is_some() {
            return reverse::undo(cx);
        }
        let Some(target) = cx.found.target.clone() else { return Ok(()) };
        let Some(mut record) = own(cx, &target.release)? else { return Ok(()) };
        let cut_off = record.applied.is_none();
        if cut_off {
            // The agent died in the middle, or the database could not be asked: the database knows how far it came.
            let after = schema_of(&cx.inspect(Bytecode::NotWritten, Ask::Again)?)?.clone();
            let (applied, begun) = (without(&record.pending, &after.pending), reported(cx));
            record.half = half_of(&record, Some(&applied), &begun);
            record.applied = Some(applied);
            note_left(cx, &record, left(&record, &begun, End::CutOff))?;
            // Written in any case: that migrate was begun keeps the dump.
            cx.run.root.set_fact(&target.release, &record)?;
        }
        forget_report(cx);
        let applied = record.applied.clone().unwrap_or_default();
        let left = unsettled_text(cx);
        if applied.is_empty() && left.is_none() {
            return Ok(());
        }
        let stand = (!applied.is_empty()).then(|| format!("applied and not taken back: {}", some_of(&applied)));
        let text = stand.into_iter().chain(left).collect::<Vec<_>>().join("; ");
        cx.scope.events.stands(&text, record.restore.as_deref());
        if record.restore.is_none() {
            cx.warn("there is no dump from before these migrations");
        }
        if cut_off && !applied.is_empty() && applied.len() < record.pending.len() {
            return Err(Failure::new(format!(
                "the migrations were cut off after {} of {}; the former release serves, on a database that fits neither",
                applied.len(),
                record.pending.len()
            ))
            .with_hint("look at the database, then `agentctl activate` a release that fits it"));
        }
        // In a release the checkout decides what becomes of the directory.
        if matches!(cx.run.act, Act::Activate { .. }) { keep(cx, &target.release) } else { Ok(()) }
    }
}

/// The former release serves on the new schema until the switch, and after it if the new one does not prove itself.
fn warn_of_who_still_serves(cx: &StepContext<'_>) {
    let Some(former) = &cx.found.former else { return };
    match cx.contract_of(former) {
        Ok(contract) if contract.fit() == Fit::Fits => {
            cx.note(format!("{former}, which serves until the switch, fits the new schema: {}", contract.looked_at()));
        }
        Ok(contract) => cx.warn(format!("{former}, which serves until the switch, does not fit the new schema: {}", contract.why_not())),
        Err(failure) => cx.note(format!("whether {former} fits the new schema cannot be told: {}", failure.reason)),
    }
}

/// Even without a pending migration, migrate may have work.
fn without_any(cx: &mut StepContext<'_>, schema: &Schema) -> Result<Did, Failure> {
    // They were applied by hand.
    let release = cx.target()?.release.clone();
    cx.run.root.remove_fact::<Reversed>(&release)?;
    let does = effects(cx, schema);
    if does.is_empty() {
        return Ok(Did::Nothing("no migration to apply".to_owned()));
    }
    cx.note(format!("no migration to apply, and no dump for that: {}", does.join("; ")));
    migrate_without_any(cx)?;
    Ok(Did::It)
}

/// Runs migrate without a pending migration, for its records and the receivers of its signals.
pub(super) fn migrate_without_any(cx: &StepContext<'_>) -> Result<(), Failure> {
    let _gate = cx.run.root.close_gate()?;
    let done = match cx.work(&Job::Migrate)? {
        JobAnswer::Migrated { failed: None, .. } => Ok(()),
        JobAnswer::Migrated { failed: Some(failure), .. } => {
            cx.warn("no migration was to be applied; what was done before migrate failed stands");
            Err(failure)
        }
        other => Err(other.unexpected()),
    };
    forget_report(cx);
    done
}

/// The effects of migrate without a pending migration, as sentences.
pub(super) fn effects(cx: &StepContext<'_>, schema: &Schema) -> Vec<String> {
    let believed = cx.run.app.django.as_ref().map_or(PostMigrate::Runs, |django| django.post_migrate);
    let unsettled = cx.run.root.unsettled();
    let again = unsettled.last().map(|entry| format!("migrate did not come to its end in run {}", entry.run));
    schema.does_without_any(believed).into_iter().chain(again).collect()
}

/// Records what this run may have left in the database, or that it is nothing.
fn note_left(cx: &StepContext<'_>, record: &Migrated, text: Option<String>) -> Result<(), Failure> {
    match text {
        Some(text) => Ok(cx.run.root.set_unsettled(&entry(cx, record, text))?),
        None => Ok(cx.run.root.settle(|entry| entry.by == cx.run.marker).map(drop)?),
    }
}

/// The recorded text of what this run may have left in the database.
fn unsettled_text(cx: &StepContext<'_>) -> Option<String> {
    cx.run.root.unsettled().into_iter().find(|entry| entry.by == cx.run.marker).map(|entry| entry.text)
}

/// The migrations that stay in the database of a run that goes back, for its last line.
pub(crate) fn what_stands(cx: &StepContext<'_>) -> Option<String> {
    let record = cx.found.target.as_ref().and_then(|target| own(cx, &target.release).ok().flatten());
    let applied = record.and_then(|record| record.applied).unwrap_or_default();
    let stand = match applied.len() {
        0 => None,
        1 => Some(format!("{} stands", applied[0])),
        number => Some(format!("{} stand", counted(number as u64, "migration"))),
    };
    let told: Vec<String> = stand.into_iter().chain(unsettled_text(cx)).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// Which migration was begun, by the notes of the process; a step runner keeps them to itself.
fn reported(cx: &StepContext<'_>) -> Begun {
    match cx.run.app.executor {
        ExecutorKind::Direct => begun(&cx.run.root.migration_report(cx.run.id)),
        ExecutorKind::Units => Begun::Unknown,
    }
}

fn forget_report(cx: &StepContext<'_>) {
    // One that stays is swept with the rest of the scratch files.
    let _ = fs::remove_file(cx.run.root.migration_report(cx.run.id));
}

/// An index from an interrupted build blocks the migration that makes it. Without this check, migrate would fail in the middle with "already exists".
pub(super) fn refuse_invalid_indexes(schema: &Schema) -> Result<(), Failure> {
    let in_the_way = schema.invalid_indexes.iter().find_map(|index| Some((index, index.made_by.as_ref()?)));
    in_the_way.map_or(Ok(()), |(index, migration)| {
        let reason = format!(
            "the index {} of {} is invalid: an interrupted build left it, and {migration} would make it anew",
            index.index, index.table
        );
        Err(Failure::new(reason).with_hint(format!("drop it, then ask for the release again: {};", index.drop)))
    })
}

/// This run's record of the release's migrations.
fn own(cx: &StepContext<'_>, release: &ReleaseName) -> Result<Option<Migrated>, Failure> {
    let record: Option<Migrated> = cx.run.root.fact(release)?;
    // A release is made by its own run, be it one of an older agent, which wrote no mark.
    let made_here = cx.run.act.makes_a_release();
    Ok(record.filter(|record| made_here || record.by.as_deref() == Some(cx.run.marker)))
}

/// The record of earlier runs, if any of their migrations is applied or may be.
pub(super) fn earlier(cx: &StepContext<'_>, release: &ReleaseName) -> Result<Option<Migrated>, Failure> {
    if let Some(own) = own(cx, release)? {
        return Ok(own.earlier.map(|earlier| *earlier));
    }
    Ok(cx.run.root.fact::<Migrated>(release)?.filter(Migrated::may_stand))
}

/// Whether this run has begun to migrate: from then on it removes no dump.
pub(super) fn was_begun(cx: &StepContext<'_>, release: &ReleaseName) -> Result<bool, Failure> {
    Ok(own(cx, release)?.is_some())
}

/// Whether this run is known to have migrated something, or may have left something halfway.
pub(super) fn left_something(cx: &StepContext<'_>, release: &ReleaseName) -> Result<bool, Failure> {
    Ok(own(cx, release)?.is_some_and(|record| record.applied.is_some() && record.left_something()))
}

/// Marks a release whose migrations stay applied, though it does not serve.
pub(super) fn keep(cx: &StepContext<'_>, release: &ReleaseName) -> Result<(), Failure> {
    cx.run.root.set_fact(release, &Failed { at: Utc::now(), run: cx.run.id.0 })?;
    let Migrated { applied, irreversible, .. } = own(cx, release)?.unwrap_or_default();
    let applied = applied.unwrap_or_default();
    let for_good: Vec<String> = applied.iter().filter(|migration| irreversible.contains(migration)).cloned().collect();
    let why = match (applied.len(), for_good.len()) {
        (0, _) => "its code has the migration that may have been left halfway".to_owned(),
        (_, 0) => "only its code can reverse the migrations that stand".to_owned(),
        (all, lost) if all == lost => format!("its code made what stands, and {} cannot be reversed", some_of(&for_good)),
        _ => format!("only its code can reverse what stands, but for {}, which cannot be reversed", some_of(&for_good)),
    };
    cx.scope.events.stays(cx.scope.step, &format!("{} is kept: {why}", cx.run.root.release_dir(release).display()));
    Ok(())
}

/// The migrations that are not, or no longer, pending.
fn without(migrations: &[String], pending: &[String]) -> Vec<String> {
    migrations.iter().filter(|migration| !pending.contains(migration)).cloned().collect()
}

/// Old code on a newer schema can pass its checks and fail at the first write.
pub(super) fn warn_of_what_is_ahead(cx: &StepContext<'_>, schema: &Schema) {
    if !schema.ahead.is_empty() {
        cx.warn(format!("the database has migrations that this commit does not know: {}", some_of(&schema.ahead)));
    }
}

/// Names, in each run, the databases that a router allows but that are not migrated or dumped here.
pub(super) fn warn_of_what_is_left_out(cx: &StepContext<'_>, schema: &Schema) {
    for text in left_out(schema, cx.run.app) {
        cx.warn(text);
    }
}

/// The databases of the project that are not migrated, or not dumped, as sentences.
pub(crate) fn left_out(schema: &Schema, app: &App) -> Vec<String> {
    let allowed = schema.left_out.iter();
    let mut told: Vec<String> =
        allowed.map(|(alias, why)| format!("the database {alias} is not migrated, though a router allows it: {why}")).collect();
    if app.backup.is_some() && !schema.others().is_empty() {
        told.push(format!("migrated and not dumped: the database {}", some_of(schema.others())));
    }
    told
}

/// The database's state relative to the code.
pub(crate) fn schema_of(inspection: &Inspection) -> Result<&Schema, Failure> {
    let address = "see that the database runs, and that [env] and [secrets] hold what Django's settings need to reach it";
    inspection.schema.as_ref().map_err(|SchemaUnknown { why, hint }| {
        Failure::new(format!("the database cannot be asked which migrations it has: {why}")).with_hint(hint.as_deref().unwrap_or(address))
    })
}

/// An empty database may not be the one that the live release serves from.
pub(super) fn warn_of_an_empty_one(cx: &StepContext<'_>, inspection: &Inspection) {
    if let (true, Some(former)) = (inspection.empty, &cx.found.former) {
        cx.warn(format!("the database has no table at all, and {former} is live: is it the database that it serves from?"));
    }
}

/// Warns in each release that migrates without a dump.
fn warn_without_any(cx: &StepContext<'_>, inspection: &Inspection) {
    if cx.run.app.backup.is_none() {
        let hint = if ["postgresql", "sqlite"].contains(&inspection.vendor.as_str()) {
            "add [backup] to the app's file"
        } else {
            "make one by a hook: before = \"migrate\""
        };
        cx.warn(format!("no dump was made before these migrations: [backup] is not set; {hint}"));
        warn_of_an_empty_one(cx, inspection);
    }
}
