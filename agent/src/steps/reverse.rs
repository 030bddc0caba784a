//! `activate --reverse`: the migrations that the older release does not know are reversed by the code of the live one, before the switch.

use agent_model::names::ReleaseName;
use agent_model::request::{Act, DataLoss, SchemaChoice};

use super::context::Ask;
use super::migrate::schema_of;
use super::{Did, Failure, StepContext};
use crate::django::{Fit, Reversal, some_of};
use crate::faults;
use crate::root::Reversed;
use crate::work::{Bytecode, Job, JobAnswer};

/// Whether a run reverses migrations, and whether data may go with them.
pub(super) fn asked(act: &Act) -> Option<DataLoss> {
    match act {
        Act::Activate { schema: SchemaChoice::Reverse(loss), .. } => Some(*loss),
        _ => None,
    }
}

/// The migrations that the database has and the release of the run does not know.
pub(super) fn ahead(cx: &mut StepContext<'_>, ask: Ask) -> Result<Vec<String>, Failure> {
    Ok(schema_of(&cx.inspect(Bytecode::NotWritten, ask)?)?.ahead.clone())
}

/// Reverses them.
pub(super) fn run(cx: &mut StepContext<'_>, loss: DataLoss) -> Result<Did, Failure> {
    let ahead_of_it = ahead(cx, Ask::Once)?;
    if ahead_of_it.is_empty() {
        return Ok(Did::Nothing("no migration to reverse".to_owned()));
    }
    let target = cx.target()?.release.clone();
    let former = cx.found.former.clone().ok_or_else(|| Failure::new("no release is live whose code could reverse migrations"))?;
    let reversal = match cx.work_for(&former, &Job::Reversal(ahead_of_it.clone()))? {
        JobAnswer::Reversal(reversal) => reversal,
        other => return Err(other.unexpected()),
    };
    refuse(&reversal, &former, loss)?;
    cx.note(format!("{} to reverse, by the code of {former}: {}", reversal.steps.len(), some_of(&reversal.steps)));
    if !reversal.lost.is_empty() {
        cx.warn(format!("goes with them: {}", some_of(&reversal.lost)));
    }
    if !reversal.code.is_empty() {
        cx.note(format!("with code or SQL of their own: {}", some_of(&reversal.code)));
    }
    let fact = Reversed { by: cx.run.marker.to_owned(), migrations: reversal.steps.clone(), restore: cx.found.restore.clone() };
    // Written before: whatever happens from here on, each release that may need them is migrated before it serves again.
    for release in cx.run.root.release_names()?.into_iter().filter(|release| *release > target || *release == former) {
        cx.run.root.set_fact(&release, &fact)?;
    }
    faults::at("recorded");
    let gate = cx.run.root.close_gate()?;
    let done = cx.work_for(&former, &Job::Reverse(reversal.targets));
    drop(gate);
    faults::at("migrated");
    done?;
    let left = ahead(cx, Ask::Again)?;
    if !left.is_empty() {
        return Err(Failure::new(format!("migrate ended well, but these are still applied: {}", some_of(&left))));
    }
    let contract = cx.contract_of(&target)?;
    if contract.fit() != Fit::Fits {
        return Err(Failure::new(format!("the migrations are reversed, and {target} does not fit all the same: {}", contract.why_not())));
    }
    cx.note(format!("the models of {target} fit the database: {}", contract.looked_at()));
    Ok(Did::It)
}

/// Refuses what cannot be reversed as it was asked for, before anything is changed.
fn refuse(reversal: &Reversal, former: &ReleaseName, loss: DataLoss) -> Result<(), Failure> {
    let restore = "restore the dump from before them, or go there all the same: --keep-schema";
    let refused = |what: String, hint: &str| Err(Failure::new(format!("nothing is reversed: {what}")).with_hint(hint));
    if !reversal.unknown.is_empty() {
        return refused(format!("{former} does not have {}", some_of(&reversal.unknown)), "activate a release that has them first");
    }
    if !reversal.irreversible.is_empty() {
        return refused(format!("{} cannot be reversed", some_of(&reversal.irreversible)), restore);
    }
    if !reversal.also.is_empty() {
        let what = format!("{} would be reversed as well, or cannot be reversed alone", some_of(&reversal.also));
        return refused(what, "reverse them by hand: agentctl manage migrate APP MIGRATION");
    }
    if !reversal.lost.is_empty() && loss == DataLoss::Refused {
        return refused(format!("{} would be lost", some_of(&reversal.lost)), "where they may go: --reverse --drop-data");
    }
    Ok(())
}

/// Applies again what this run has reversed, as far as it came.
pub(super) fn undo(cx: &mut StepContext<'_>) -> Result<(), Failure> {
    let Some(former) = cx.found.former.clone() else { return Ok(()) };
    let Some(fact) = cx.run.root.fact::<Reversed>(&former)?.filter(|fact| fact.by == cx.run.marker) else { return Ok(()) };
    let missing = missing_of(cx, &former, &fact)?;
    if !missing.is_empty() {
        let gate = cx.run.root.close_gate()?;
        let done = cx.work_for(&former, &Job::Migrate);
        drop(gate);
        let failed = match done {
            Ok(JobAnswer::Migrated { failed, .. }) => failed,
            Ok(other) => Some(other.unexpected()),
            Err(failure) => Some(failure),
        };
        let still = missing_of(cx, &former, &fact)?;
        if failed.is_some() || !still.is_empty() {
            let why = failed.map(|failure| failure.reason).unwrap_or_else(|| format!("{} are missing", some_of(&still)));
            let dump = fact.restore.as_ref().map(|restore| format!("; the dump from before: {restore}")).unwrap_or_default();
            return Err(Failure::new(format!("what was reversed cannot be applied again: {why}{dump}")));
        }
        cx.scope
            .events
            .stays(cx.scope.step, &format!("applied again: {}; values that went with them are in the dump alone", some_of(&missing)));
    }
    for release in cx.run.root.release_names()? {
        if cx.run.root.fact::<Reversed>(&release)?.is_some_and(|other| other.by == cx.run.marker) {
            cx.run.root.remove_fact::<Reversed>(&release)?;
        }
    }
    Ok(())
}

/// Those of the reversed migrations that the database does not have.
fn missing_of(cx: &StepContext<'_>, former: &ReleaseName, fact: &Reversed) -> Result<Vec<String>, Failure> {
    let inspection = match cx.work_for(former, &Job::Inspect(Bytecode::NotWritten))? {
        JobAnswer::Inspected(inspection) => inspection,
        other => return Err(other.unexpected()),
    };
    let pending = &schema_of(&inspection)?.pending;
    Ok(fact.migrations.iter().filter(|migration| pending.contains(migration)).cloned().collect())
}
