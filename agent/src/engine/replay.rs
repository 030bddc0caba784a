//! Reads a run back from its events.

use agent_model::names::{ReleaseName, RunId};
use agent_model::plan::{Aim, Nature, OnFailure, Plan, Undo};
use agent_model::run::{Mark, Run};
use agent_wire::event::{AimWord, Event, PlannedStep, What};

use crate::steps::{Target, named};

/// The state that a run's events describe.
#[derive(Debug)]
pub(super) struct Replayed {
    pub run: Run,
    /// The names of its steps, in order.
    pub steps: Vec<&'static str>,
    /// The release that was live when it began.
    pub former: Option<ReleaseName>,
    /// The release that it makes or changes.
    pub target: Option<Target>,
}

/// The event that begins a run.
pub(super) fn planned(plan: &Plan, live: Option<&ReleaseName>) -> What {
    let steps = plan.cards.iter().map(|card| PlannedStep {
        step: card.step.to_owned(),
        undo: card.nature.undo == Undo::TakeBack,
        warn: card.nature.on_failure == OnFailure::Warn,
        skipped: card.skipped.clone(),
    });
    What::Planned {
        aim: match plan.aim {
            Aim::Serve => AimWord::Serve,
            Aim::Tend => AimWord::Tend,
        },
        steps: steps.collect(),
        live: live.map(ReleaseName::to_string),
    }
}

/// Reads a run back.
///
/// # Errors
/// A sentence when the events do not make a run: the journal was written by a newer agent, or is damaged.
pub(super) fn replay(id: RunId, events: &[Event]) -> Result<Replayed, String> {
    let mut found: Option<Replayed> = None;
    for event in events {
        if let What::Planned { aim, steps, live } = &event.what {
            let done: Vec<&PlannedStep> = steps.iter().filter(|step| step.skipped.is_none()).collect();
            let names = done.iter().map(|step| named(&step.step).map(|known| known.name()).ok_or(&step.step));
            let names = names
                .collect::<Result<Vec<_>, _>>()
                .map_err(|step| format!("run {id} has a step {step:?} that this agent does not know"))?;
            let natures = done.iter().map(|step| Nature {
                undo: if step.undo { Undo::TakeBack } else { Undo::Nothing },
                on_failure: if step.warn { OnFailure::Warn } else { OnFailure::Unwind },
            });
            let aim = match aim {
                AimWord::Serve => Aim::Serve,
                AimWord::Tend => Aim::Tend,
            };
            let former = live.as_deref().and_then(|name| name.parse().ok());
            found = Some(Replayed { run: Run::new(aim, natures.collect()), steps: names, former, target: None });
            continue;
        }
        let Some(replayed) = &mut found else { continue };
        if let What::Resolved { commit, reference, release, subject } = &event.what
            && let (Ok(commit), Ok(release)) = (commit.parse(), release.parse())
        {
            let reference = reference.as_deref().and_then(|reference| reference.parse().ok());
            replayed.target = Some(Target { release, commit, reference, subject: subject.clone() });
        }
        if let Some(mark) = mark_of(&event.what, &replayed.steps) {
            replayed.run.record(mark).map_err(|err| format!("run {id}: {err}"))?;
        }
    }
    found.ok_or_else(|| format!("run {id} has begun, but its plan is missing"))
}

fn mark_of(what: &What, steps: &[&'static str]) -> Option<Mark> {
    let place = |step: &String| steps.iter().position(|name| name == step);
    Some(match what {
        What::StepStarted { step } => Mark::Started(place(step)?),
        What::Exposed { step } => Mark::Exposed(place(step)?),
        What::StepDone { step, nothing: None, .. } => Mark::Done(place(step)?),
        What::StepDone { step, nothing: Some(_), .. } => Mark::Idle(place(step)?),
        What::StepFailed { step, .. } => Mark::Failed(place(step)?),
        What::UndoStarted { step } => Mark::UndoStarted(place(step)?),
        What::Undone { step, .. } => Mark::Undone(place(step)?),
        What::UndoFailed { step, .. } => Mark::UndoFailed(place(step)?),
        What::CancelAsked { .. } => Mark::CancelAsked,
        What::Stopped => Mark::Stopped,
        What::Ended { .. } => Mark::Ended,
        _ => return None,
    })
}
