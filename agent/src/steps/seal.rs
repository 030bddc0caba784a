//! `seal`: from here on the release is complete and durable.

use agent_model::names::RefName;
use agent_model::plan::{Choice, Nature};
use chrono::Utc;

use super::room::{bytes, counted};
use super::{Brief, Cx, Did, Failure, NOTHING_LEFT, Step, in_a_release, take_over};
use crate::site::Sealing;

pub(super) struct Seal;

impl Step for Seal {
    fn name(&self) -> &'static str {
        "seal"
    }

    fn nature(&self) -> Nature {
        NOTHING_LEFT
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        in_a_release(brief)
    }

    fn run(&self, cx: &mut Cx<'_>) -> Result<Did, Failure> {
        let target = cx.target()?;
        take_over(cx, &cx.dir()?)?;
        let manifest = cx.site.seal(&Sealing {
            app: cx.app.name.as_str(),
            release: &target.release,
            commit: &target.commit,
            reference: target.reference.as_ref().map(RefName::as_str),
            subject: target.subject.as_deref(),
            caller: cx.caller,
            run: cx.run.0,
            now: Utc::now(),
            read_only: cx.app.read_only,
        })?;
        cx.note(format!("{}, {}", counted(manifest.files, "file"), bytes(manifest.bytes)));
        Ok(Did::It)
    }
}
