//! `mend`: removes leftovers in the root that belong to nothing. Any other mismatch is for a person, and `fsck` reports it.

use std::path::Path;

use agent_model::plan::{Choice, Nature};
use agent_model::request::Act;

use super::words::counted;
use super::{Brief, Did, Failure, NOTHING_LEFT, Step, StepContext};
use crate::restart::handover;
use crate::root::{Around, FsckReport};
use crate::work::InUse;

pub(super) struct Mend;

impl Step for Mend {
    fn name(&self) -> &'static str {
        "mend"
    }

    fn nature(&self) -> Nature {
        NOTHING_LEFT
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        if *brief.act == Act::Mend { Choice::Do } else { Choice::Absent }
    }

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        let ask = || cx.used();
        let in_use = InUse::of_run(cx.run.app, cx.run.root, &ask);
        let in_use = |dir: &Path| in_use.has(dir);
        let around = Around { served: &cx.found.served, in_use: &in_use, instance: &handover::recorded };
        // What may not go is told by `fsck`, with what to do.
        let left = cx.run.root.leftovers(&around, &mut FsckReport::default())?;
        let mut failed: Vec<Failure> = Vec::new();
        for leftover in &left {
            if cx.scope.cancel.asked() {
                return Err(Failure::new("the run is cancelled; what was removed was of no use"));
            }
            match cx.run.root.remove_leftover(leftover, cx.run.lock) {
                Ok(()) => cx.note(format!("removed {}", leftover.told(cx.run.root))),
                Err(err) => {
                    let failure = Failure::from(err);
                    cx.warn(&failure.reason);
                    failed.push(failure);
                }
            }
        }
        match failed.into_iter().next() {
            Some(first) => Err(Failure { reason: format!("not everything could be removed: {}", first.reason), ..first }),
            None if left.is_empty() => Ok(Did::Nothing("nothing is left over".to_owned())),
            None => {
                cx.note(format!("{} removed", counted(left.len() as u64, "thing")));
                Ok(Did::It)
            }
        }
    }
}
