//! `collectstatic`: the static files, into the release's own directory.

use agent_model::plan::{Choice, Nature};

use super::cx::Ask;
use super::{Brief, Cx, Did, Failure, NOTHING_LEFT, Step, in_a_release, with_django};
use crate::settings::Executor;
use crate::work::{Bytecode, Job};

pub(super) struct CollectStatic;

impl Step for CollectStatic {
    fn name(&self) -> &'static str {
        "collectstatic"
    }

    fn nature(&self) -> Nature {
        NOTHING_LEFT
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        with_django(in_a_release(brief), brief.app, "collectstatic", |django| django.collectstatic)
    }

    fn run(&self, cx: &mut Cx<'_>) -> Result<Did, Failure> {
        let inspection = cx.inspect(Bytecode::Written, Ask::Once)?;
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
        cx.work(&Job::CollectStatic).map_err(|failure| without_secrets(cx, failure))?;
        Ok(Did::It)
    }
}

/// Whoever collects is not who knows the secrets, where those are two.
fn without_secrets(cx: &Cx<'_>, failure: Failure) -> Failure {
    let told =
        "collectstatic runs without [secrets]: what the settings cannot be loaded without gets a value in [build_env] that is no secret";
    match cx.app.executor {
        Executor::Units if !cx.app.secrets.is_empty() => match &failure.hint {
            Some(hint) => {
                let hint = format!("{hint}; {told}");
                failure.with_hint(hint)
            }
            None => failure.with_hint(told),
        },
        _ => failure,
    }
}
