//! `collectstatic`: the static files, into the release's own directory.

use std::path::Path;

use agent_model::plan::{Choice, Nature};

use super::foresight::static_files_of_the_live_one;
use super::static_files::StaticProof;
use super::words::counted;
use super::{Brief, Did, Failure, NOTHING_LEFT, Step, StepContext, chain, in_a_release, with_django};
use crate::django::Collected;
use crate::root::Reused;
use crate::settings::ExecutorKind;
use crate::work::{Job, JobAnswer};

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

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        let release = cx.target()?.release.clone();
        let how = if cx.run.app.read_only { Reused::Linked } else { Reused::Copied };
        match static_files_of_the_live_one(cx) {
            Ok(StaticProof { former, grounds, told }) => match cx.run.root.reuse(&former, &release, &grounds.root, how) {
                Ok(files) => {
                    cx.found.collected = Some(grounds);
                    cx.note(format!("collectstatic would make the same: {told}"));
                    return Ok(Did::Nothing(match files {
                        0 => "the app has no static files, and nothing that makes them has changed".to_owned(),
                        files => format!("{} of the live release reused", counted(files as u64, "file")),
                    }));
                }
                Err(err) => cx.note(format!("not reused: {}", chain(&err))),
            },
            Err(why) if cx.found.former.is_some() => cx.note(format!("the files of the live release are not reused: {why}")),
            Err(_) => {}
        }
        match cx.work(&Job::CollectStatic).map_err(|failure| without_secrets(cx, failure))? {
            JobAnswer::Collected(Collected::Nothing(why)) => Ok(Did::Nothing(why)),
            JobAnswer::Collected(Collected::Elsewhere) => Ok(Did::It),
            JobAnswer::Collected(Collected::Within(mut grounds)) => {
                let of_the_commit =
                    |path: &Path| path.to_str().is_some_and(|path| cx.found.tree.as_ref().is_some_and(|tree| tree.has_file(path)));
                let other = grounds.read.iter().find(|path| !of_the_commit(path));
                if let (None, Some(other)) = (&grounds.unsure, other) {
                    grounds.unsure = Some(format!("it reads {}, which is no file of the commit", other.display()));
                }
                cx.found.collected = Some(grounds);
                Ok(Did::It)
            }
            other => Err(other.unexpected()),
        }
    }
}

/// Adds a hint where collectstatic runs as a builder that does not know the secrets.
fn without_secrets(cx: &StepContext<'_>, failure: Failure) -> Failure {
    let told =
        "collectstatic runs without [secrets]: what the settings cannot be loaded without gets a value in [build_env] that is no secret";
    match cx.run.app.executor {
        ExecutorKind::Units if !cx.run.app.secrets.is_empty() => match &failure.hint {
            Some(hint) => {
                let hint = format!("{hint}; {told}");
                failure.with_hint(hint)
            }
            None => failure.with_hint(told),
        },
        _ => failure,
    }
}
