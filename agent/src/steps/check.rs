//! `check`: Django's own system checks, with the settings and the environment that will serve.

use agent_model::plan::{Choice, Nature};

use super::foresight::defer_check;
use super::kept::nothing_in_the_release;
use super::{Brief, Did, Failure, NOTHING_LEFT, Step, StepContext, in_a_release, with_django};
use crate::work::{Bytecode, Job, JobAnswer};

pub(super) struct Check;

impl Step for Check {
    fn name(&self) -> &'static str {
        "check"
    }

    fn nature(&self) -> Nature {
        NOTHING_LEFT
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        with_django(in_a_release(brief), brief.app, "check", |django| django.check)
    }

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        if let Some(why) = defer_check(cx)? {
            return Ok(Did::Nothing(why));
        }
        match cx.work(&Job::Examine(Bytecode::Written))? {
            JobAnswer::Examined(inspection, warnings) => {
                warnings.iter().for_each(|warning| cx.warn(warning));
                nothing_in_the_release(cx, &inspection)?;
                cx.found.inspection = Some(*inspection);
            }
            other => return Err(other.unexpected()),
        }
        warn_of_edited_migrations(cx);
        Ok(Did::It)
    }
}

/// Changing a migration after it was applied has no effect: the database has the old one.
fn warn_of_edited_migrations(cx: &StepContext<'_>) {
    let (Some(live), Ok(target)) = (cx.former_commit(), cx.target()) else { return };
    // If the live commit is gone from the repository, there is nothing to compare.
    let Ok(changed) = cx.git(|git, watch| git.changed(live, &target.commit, watch)) else { return };
    for (_, path) in changed.iter().filter(|(how, path)| *how == 'M' && is_migration(path)) {
        cx.warn(format!("the migration {path} was changed since the live release; where it is applied already, the change has no effect"));
    }
}

/// Whether a path is a Django migration.
pub(crate) fn is_migration(path: &str) -> bool {
    path.ends_with(".py") && !path.ends_with("__init__.py") && path.rsplit('/').nth(1) == Some("migrations")
}
