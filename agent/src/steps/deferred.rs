//! Deferred checks. Where no migration is expected, Django's check and the query of the database run while the new instance starts. Both must succeed
//! before any visitor can reach it.

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use agent_model::names::ReleaseName;

use super::kept::nothing_in_the_release;
use super::since::Deferred;
use super::{Failure, StepContext, migrate};
use crate::django::{Inspection, some_of};
use crate::process::Watch;
use crate::root::MadeBy;
use crate::work::{Bytecode, Job, JobAnswer};

/// Runs `act` and the deferred check in parallel. Both must succeed; the first failure cancels the other.
///
/// # Errors
/// [`Failure`] of the check, of a database in another state than expected, or of `act`.
pub(super) fn beside<T>(cx: &mut StepContext<'_>, act: impl FnOnce(&StepContext<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
    let Some(deferred) = cx.found.deferred.take() else { return act(cx) };
    let job = match deferred {
        Deferred::Check => Job::Examine(Bytecode::NotWritten),
        Deferred::Schema => Job::Inspect(Bytecode::NotWritten),
    };
    let deadline = Instant::now() + cx.run.app.timeout_of("check");
    let (order, executor, marker) = (cx.order(), cx.run.executor, cx.run.marker);
    let (of_act, of_check) = (cx.scope.cancel.of_a_part(), cx.scope.cancel.of_a_part());
    let (say, said) = mpsc::channel();
    cx.scope.cut = Some(of_act.clone());
    let (done, judged) = thread::scope(|scope| {
        let (cancel, of_act) = (&of_check, &of_act);
        let asked = scope.spawn(move || {
            // The receiver lives until this thread has ended.
            let lines = |stream, line: &str| drop(say.send((stream, line.to_owned())));
            let answer = executor.ask(&order, &job, None, &Watch { marker, deadline, cancel, lines: &lines }, &|_| {});
            answer.and_then(inspection_of).inspect_err(|_| of_act.ask())
        });
        let done = act(cx).inspect_err(|_| {
            if !of_act.asked() {
                of_check.ask();
            }
        });
        (done, asked.join())
    });
    cx.scope.cut = None;
    for (stream, line) in said {
        cx.scope.events.output(cx.scope.step, stream, &line);
    }
    let judged = judged.map_err(|_| Failure::new("the check beside the start of the new instance ended without an answer"))?;
    let (inspection, warnings) = match (judged, &done) {
        (Ok(judged), _) => judged,
        // It was ended because of the other.
        (Err(_), Err(failure)) if of_check.asked() && !cx.scope.cancel.asked() => return Err(failure.clone()),
        (Err(failure), _) => return Err(failure),
    };
    // Checked first, because it may cause the other failures.
    nothing_in_the_release(cx, &inspection)?;
    warnings.iter().for_each(|warning| cx.warn(warning));
    let schema = migrate::schema_of(&inspection)?;
    migrate::warn_of_what_is_ahead(cx, schema);
    migrate::warn_of_what_is_left_out(cx, schema);
    let pending = &schema.pending;
    if !pending.is_empty() {
        // From now on nothing is foreseen from that release.
        if let Some(former) = &cx.found.former {
            cx.run.root.remove_fact::<MadeBy>(former)?;
        }
        let reason = format!("the database is not as the live release left it: to be applied are {}", some_of(pending));
        let hint = match (inspection.empty, &cx.found.former) {
            (true, Some(former)) => format!(
                "the database that the settings name is empty: see which one {former} serves from, and whether [env] and [secrets] name that one"
            ),
            _ => "was an older copy put back? Ask for the release again: it applies them before anything else".to_owned(),
        };
        return Err(Failure::new(reason).with_hint(hint));
    }
    let done = done?;
    // This is new since the live release. No visitor has met the new one yet, so migrate can still run.
    let does = migrate::effects(cx, schema);
    if !does.is_empty() {
        foresee_nothing_from(cx, &cx.target()?.release)?;
        cx.note(format!("migrate is run, though no migration is to be applied: {}", does.join("; ")));
        migrate::migrate_without_any(cx)?;
    }
    cx.note(match deferred {
        Deferred::Check => "the check found no error, and the database has every migration",
        Deferred::Schema => "the database has every migration",
    });
    cx.found.inspection = Some(*inspection);
    Ok(done)
}

/// Corrects the record of a release that was copied from the one before it.
fn foresee_nothing_from(cx: &StepContext<'_>, release: &ReleaseName) -> Result<(), Failure> {
    if let Some(MadeBy(mut made)) = cx.run.root.fact(release)? {
        made["quiet"] = false.into();
        cx.run.root.set_fact(release, &MadeBy(made))?;
    }
    Ok(())
}

/// A database that cannot be queried is a failure as well.
fn inspection_of(answer: JobAnswer) -> Result<(Box<Inspection>, Vec<String>), Failure> {
    let (inspection, warnings) = match answer {
        JobAnswer::Examined(inspection, warnings) => (inspection, warnings),
        JobAnswer::Inspected(inspection) => (inspection, Vec::new()),
        other => return Err(other.unexpected()),
    };
    migrate::schema_of(&inspection)?;
    Ok((inspection, warnings))
}
