//! `seal`: from here on the release is complete and durable.

use agent_model::names::RefName;
use agent_model::plan::{Choice, Nature};
use chrono::Utc;

use super::foresight::made;
use super::words::{bytes, counted};
use super::{Brief, Did, Failure, NOTHING_LEFT, Step, StepContext, Target, claim, in_a_release};
use crate::root::{BackgroundTask, FACTS, Sealing};
use crate::settings::ExecutorKind;

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

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        cx.found.before_seal.drain(..).try_for_each(BackgroundTask::finish)?;
        let (target, made_by) = (cx.target()?, made(cx));
        claim_release(cx, target)?;
        let manifest = cx.run.root.seal(&Sealing {
            app: cx.run.app.name.as_str(),
            release: &target.release,
            commit: &target.commit,
            reference: target.reference.as_ref().map(RefName::as_str),
            subject: target.subject.as_deref(),
            caller: cx.run.caller,
            run: cx.run.id.0,
            now: Utc::now(),
            read_only: cx.run.app.read_only,
            made_by: made_by.as_ref(),
        })?;
        cx.note(format!("{}, {}", counted(manifest.files, "file"), bytes(manifest.bytes)));
        Ok(Did::It)
    }
}

/// Makes again all files of the agent that a builder could have replaced: the link to the environment, the commit, the links to shared files.
fn claim_release(cx: &StepContext<'_>, target: &Target) -> Result<(), Failure> {
    if cx.run.app.executor == ExecutorKind::Direct {
        return Ok(());
    }
    let environment = cx.run.root.environment_of(&target.release);
    claim(cx, &cx.dir()?, &[FACTS, "venv", "REVISION"])?;
    match environment {
        Some(key) if cx.run.root.has_environment(&key) => cx.run.root.link_environment(&target.release, &key)?,
        _ if cx.run.app.python.is_some() => {
            return Err(Failure::new("venv is not the link to the release's environment any more").with_hint("does a hook change it?"));
        }
        _ => {}
    }
    cx.run.root.write_revision(&target.release, &target.commit)?;
    cx.run.root.link_shared(&target.release, &cx.run.app.shared)?;
    Ok(())
}
