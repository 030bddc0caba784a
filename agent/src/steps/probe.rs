//! `probe`: runs the health checks of the live release.

use agent_model::plan::{Choice, Nature};
use agent_model::request::Act;

use super::{Brief, Did, Failure, NOTHING_LEFT, Step, StepContext};

pub(super) struct Probe;

impl Step for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn nature(&self) -> Nature {
        NOTHING_LEFT
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        if *brief.act == Act::Check { Choice::Do } else { Choice::Absent }
    }

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        let Some(live) = cx.run.root.live()? else {
            return Err(Failure::new("no release is live").with_hint("make one: agentctl release REF"));
        };
        cx.run.root.manifest(&live)?;
        let proof = cx.release_ref(&live, |serving| Ok(cx.restart_context(|context| cx.run.app.restart.look(context, serving))?))?;
        for note in &proof.notes {
            cx.note(note);
        }
        for warning in &proof.warnings {
            cx.warn(warning);
        }
        Ok(Did::It)
    }
}
