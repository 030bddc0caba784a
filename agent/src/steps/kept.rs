//! Refuses state within a release: the next release would start with its own empty state, and so would the site.

use super::{Failure, StepContext};
use crate::django::{Inspection, Places};

/// Refuses a release with state in it.
pub(super) fn nothing_in_the_release(cx: &StepContext<'_>, inspection: &Inspection) -> Result<(), Failure> {
    let Some(first) = inspection.kept.first() else { return Ok(()) };
    let told: Vec<String> = inspection.kept.iter().map(|kept| kept.told()).collect();
    let live = cx.found.former.as_ref().map(|former| cx.run.root.release_dir(former));
    let hint = first.hint(Places { release: &cx.dir()?, live: live.as_deref(), shared: &cx.run.root.path().join("shared") });
    Err(Failure::new(told.join("; ")).with_hint(hint))
}
