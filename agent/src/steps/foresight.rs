//! Predicts from the live release whether a step has nothing to do, before it does anything.

use super::since::{Deferred, Made, Since};
use super::static_files::{StaticProof, same_static_files};
use super::{Failure, StepContext};
use crate::root::MadeBy;
use crate::work::Job;

/// The facts that a seal records about how the release was made.
pub(super) fn made(cx: &StepContext<'_>) -> Option<MadeBy> {
    Made::by(cx.run.app, cx.found.collected.clone(), is_quiet(cx))
}

/// The project's own answer. If the query waits for the start of the new instance, the live release's answer.
fn is_quiet(cx: &StepContext<'_>) -> Option<bool> {
    match &cx.found.inspection {
        Some(inspection) => {
            let believed = cx.run.app.django.as_ref()?.post_migrate;
            inspection.schema.as_ref().ok().map(|schema| schema.is_quiet(believed))
        }
        None if cx.found.deferred.is_some() => since(cx).ok()?.made.quiet,
        None => None,
    }
}

/// The changes since the live release; if they rule out any prediction, a part of a sentence that says why.
fn since<'c>(cx: &'c StepContext<'_>) -> Result<&'c Since, &'c String> {
    cx.found.since.get_or_init(|| compare(cx)).as_ref()
}

fn compare(cx: &StepContext<'_>) -> Result<Since, String> {
    let former = cx.found.former.clone().ok_or("no release is live")?;
    let target = cx.target().map_err(|failure| failure.reason)?;
    if cx.run.root.environment_of(&former) != cx.run.root.environment_of(&target.release) {
        return Err("the environment is another".to_owned());
    }
    let commit = cx.former_commit().ok_or_else(|| format!("{former} does not tell how it was made"))?;
    let changed = cx.git(|git, watch| git.changed(commit, &target.commit, watch));
    let changed = changed.map_err(|_| format!("the commit of {former} is not in the repository any more"))?;
    Since::of(cx.run.app, cx.run.root, former, changed)
}

/// The proof that collectstatic would make the live release's files, or the reason why there is none.
pub(super) fn static_files_of_the_live_one(cx: &StepContext<'_>) -> Result<StaticProof, String> {
    let tree = cx.found.tree.as_ref().ok_or("the commit was not checked out in this run")?;
    same_static_files(cx.run.app, since(cx)?, &|path| tree.has_file(path))
}

/// Decides whether the check can run during the switch, and returns the note about it. Changed sources are compiled; the others get the bytecode of
/// the live release, so that the instance need not compile them at each start.
pub(super) fn defer_check(cx: &mut StepContext<'_>) -> Result<Option<String>, Failure> {
    if !cx.run.act.makes_live() {
        return Ok(None);
    }
    let Some((why, changed)) = since(cx).ok().and_then(|since| since.no_migration(cx.run.app, cx.run.root)) else { return Ok(None) };
    cx.work(&Job::Bytecode { changed })?;
    cx.found.deferred = Some(Deferred::Check);
    cx.note(format!("no migration depends on the check: {why}"));
    Ok(Some("runs during switch".to_owned()))
}

/// The reason why no migration is expected, if that can be predicted; the database is then asked during the switch.
pub(super) fn nothing_to_migrate(cx: &mut StepContext<'_>) -> Option<String> {
    if cx.found.inspection.is_some() {
        return None;
    }
    let (why, _) = since(cx).ok()?.no_migration(cx.run.app, cx.run.root)?;
    cx.found.deferred.get_or_insert(Deferred::Schema);
    cx.note(format!("no migration to apply: {why}"));
    Some("no migration has changed; the database is asked during switch".to_owned())
}
