//! `collectstatic`: the static files, into the release's own directory.

use agent_model::plan::{Choice, Nature};
use agent_model::request::Act;

use super::cx::Ask;
use super::{Cx, Did, Failure, NOTHING_LEFT, Step, with_django};
use crate::settings::App;
use crate::tools::manage::Tree;

pub(super) struct CollectStatic;

impl Step for CollectStatic {
    fn name(&self) -> &'static str {
        "collectstatic"
    }

    fn nature(&self) -> Nature {
        NOTHING_LEFT
    }

    fn choose(&self, act: &Act, app: &App) -> Choice {
        with_django(act, app, "collectstatic", |django| django.collectstatic)
    }

    fn run(&self, cx: &mut Cx<'_>) -> Result<Did, Failure> {
        let inspection = cx.inspect(Tree::Open, Ask::Once)?;
        if !inspection.staticfiles {
            return Ok(Did::Nothing("django.contrib.staticfiles is not installed".to_owned()));
        }
        let within_release = inspection.collects_within(&cx.dir()?);
        let Some(place) = inspection.static_root else {
            return Ok(Did::Nothing("STATIC_ROOT is not set".to_owned()));
        };
        if !within_release && !place.starts_with(cx.site.root().join("shared")) {
            let reason =
                format!("STATIC_ROOT is {}, outside the release: the live release would lose its files to this one", place.display());
            let hint =
                "set STATIC_ROOT = BASE_DIR / \"staticfiles\", or share the directory by [shared] dirs, or set collectstatic = false";
            return Err(Failure::new(reason).with_hint(hint));
        }
        cx.django(Tree::Open, |django, watch| django.collectstatic(watch))?.transpose()?;
        Ok(Did::It)
    }
}
