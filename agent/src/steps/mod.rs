//! The steps of a run: plain blocking functions, to be read from top to bottom. A step is a file here and a line in [`PIPELINE`].

mod backup;
mod check;
mod checkout;
mod collectstatic;
mod context;
mod environment;
mod fetch;
mod deferred;
mod foresight;
mod since;
mod static_files;
mod half_migrated;
mod health;
mod kept;
mod link_shared;
mod mend;
mod migrate;
mod probe;
pub(crate) mod prune;
pub(crate) mod ready;
mod reverse;
mod room;
mod seal;
mod switch;
mod words;

use agent_model::plan::{Choice, Nature, OnFailure, Undo};
use agent_model::request::Act;

use std::path::Path;

use crate::settings::{App, ExecutorKind};
use crate::work::{Failure, chain};

pub(crate) use check::is_migration;
pub(crate) use context::{EventSink, Findings, RunContext, StepContext, StepScope, Target};
pub(crate) use health::{Depth, Health, health_of};
pub(crate) use migrate::{left_out, what_stands};
pub(crate) use room::explain;
pub(crate) use since::Since;
pub(crate) use static_files::foreseen;
pub(crate) use switch::not_written_down;

/// The steps of every run, in order; each takes part in some kinds of request. This list is the product's table of contents.
pub(crate) static PIPELINE: &[&dyn Step] = &[
    &fetch::Fetch,
    &checkout::Checkout,
    &link_shared::LinkShared,
    &environment::Environment,
    &check::Check,
    &collectstatic::CollectStatic,
    &seal::Seal,
    &backup::Backup,
    &migrate::Migrate,
    // The swap, the restart and the proof that the new release serves are one step: undone one by one, they would restart the new code.
    &switch::Switch,
    &probe::Probe,
    &prune::Prune,
    &mend::Mend,
];

/// The step with this name.
pub(crate) fn named(name: &str) -> Option<&'static dyn Step> {
    PIPELINE.iter().copied().find(|step| step.name() == name)
}

/// One action of a run.
pub(crate) trait Step: Sync {
    /// Its name, in settings, events and on the screen.
    fn name(&self) -> &'static str;
    /// The facts that the engine needs about it.
    fn nature(&self) -> Nature;
    /// Whether it takes part in a request, as far as that is known before anything is done.
    fn choose(&self, brief: &Brief<'_>) -> Choice;
    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure>;
    /// Undoes the step, or determines and reports which of its changes stay. The step may be incomplete, and this may be called more than once.
    fn undo(&self, cx: &mut StepContext<'_>) -> Result<(), Failure> {
        let _ = cx;
        Ok(())
    }
}

/// The facts for a step's choice, before anything is done.
#[derive(Clone, Copy)]
pub(crate) struct Brief<'a> {
    pub act: &'a Act,
    pub app: &'a App,
    /// For an activate: whether the release has served.
    pub past: Past,
}

/// Whether a release has served before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Past {
    /// It has, and its migrations were applied then.
    Served,
    /// It has not: it is new, or was staged.
    Unserved,
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Did {
    /// Its work is done.
    It,
    /// There was nothing to do, for this reason.
    Nothing(String),
}

const TAKEN_BACK: Nature = Nature { undo: Undo::TakeBack, on_failure: OnFailure::Unwind };
const NOTHING_LEFT: Nature = Nature { undo: Undo::Nothing, on_failure: OnFailure::Unwind };
const ONLY_WARNS: Nature = Nature { undo: Undo::Nothing, on_failure: OnFailure::Warn };

/// Makes the agent the owner of a builder's files, except for the top-level names in `without`.
fn claim(cx: &StepContext<'_>, dir: &Path, without: &[&str]) -> Result<(), Failure> {
    match cx.run.app.executor {
        ExecutorKind::Direct => Ok(()),
        ExecutorKind::Units => {
            grant_access(cx)?;
            cx.watched(|watch| Ok(cx.run.root.claim(dir, without, &|| !watch.cancel.asked() && !watch.left().is_zero())?))
        }
    }
}

/// Makes the builder grant access to its files. This uses a new runner: its greeting shows that no earlier one still works, cancelled or not.
fn grant_access(cx: &StepContext<'_>) -> Result<(), Failure> {
    cx.run.executor.end_building();
    crate::work::grant_access(cx.run.app)
}

/// The choice of a step that takes part wherever a release is made, and in nothing else.
fn in_a_release(brief: &Brief<'_>) -> Choice {
    if brief.act.makes_a_release() { Choice::Do } else { Choice::Absent }
}

/// The choice of a step that comes before a release serves for the first time.
fn before_it_serves(brief: &Brief<'_>) -> Choice {
    match (brief.act, brief.past) {
        (Act::Release { .. }, _) | (Act::Activate { .. }, Past::Unserved) => Choice::Do,
        _ => Choice::Absent,
    }
}

/// The choice of a step that reversing migrations needs as well.
fn before_it_serves_or_reversed(brief: &Brief<'_>) -> Choice {
    if reverse::asked(brief.act).is_some() { Choice::Do } else { before_it_serves(brief) }
}

/// The same choice for a step of Django's: `word` is the key that can turn it off.
fn with_django(choice: Choice, app: &App, word: &str, on: impl Fn(&crate::django::Settings) -> bool) -> Choice {
    match (choice, &app.django) {
        (Choice::Do, None) => Choice::Skip("no [django] is set".to_owned()),
        (Choice::Do, Some(django)) if !on(django) => Choice::Skip(format!("{word} = false is set")),
        (choice, _) => choice,
    }
}
