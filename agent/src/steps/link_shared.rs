//! `link-shared`: links the files and directories that all releases share.

use agent_model::plan::{Choice, Nature};

use super::{Brief, Did, Failure, NOTHING_LEFT, Step, StepContext, in_a_release};

pub(super) struct LinkShared;

impl Step for LinkShared {
    fn name(&self) -> &'static str {
        "link-shared"
    }

    fn nature(&self) -> Nature {
        NOTHING_LEFT
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        let app = brief.app;
        match in_a_release(brief) {
            Choice::Do if app.shared.dirs.is_empty() && app.shared.files.is_empty() => Choice::Skip("nothing is shared".to_owned()),
            choice => choice,
        }
    }

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        for path in cx.run.root.link_shared(&cx.target()?.release, &cx.run.app.shared)? {
            cx.warn(format!("the commit ships {}, which gave way to the shared one", path.display()));
        }
        Ok(Did::It)
    }
}
