//! `environment`: the release's `venv/`, taken over from an earlier release with the same key, or built.

use agent_model::plan::{Choice, Nature};
use agent_model::request::{Act, Rebuild};

use super::room::counted;
use super::{Brief, Cx, Did, NOTHING_LEFT, Step, hand_over, in_a_release, take_over};
use crate::settings::Executor;
use crate::site::{LIST_OF_ENVIRONMENT, SEAL_OF_ENVIRONMENT, Site, is_key};
use crate::work::{Answer, Caches, Failure, Job};

pub(super) struct Environment;

impl Step for Environment {
    fn name(&self) -> &'static str {
        "environment"
    }

    fn nature(&self) -> Nature {
        NOTHING_LEFT
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        match (in_a_release(brief), &brief.app.python) {
            (Choice::Do, None) => Choice::Skip("no [python] is set".to_owned()),
            (choice, _) => choice,
        }
    }

    fn run(&self, cx: &mut Cx<'_>) -> Result<Did, Failure> {
        if cx.app.python.is_none() {
            return Ok(Did::Nothing("no [python] is set".to_owned()));
        }
        let release = cx.target()?.release.clone();
        let wanted = match cx.work(&Job::Want)? {
            Answer::Wanted(wanted) => wanted,
            other => return Err(other.unexpected()),
        };
        for note in &wanted.notes {
            cx.note(note);
        }
        if !is_key(&wanted.key) {
            return Err(Failure::new(format!("{:?} is no key of an environment", wanted.key)));
        }
        let rebuild = matches!(cx.act, Act::Release { rebuild: Rebuild::Always, .. } | Act::Stage { rebuild: Rebuild::Always, .. });
        if let (Some(key), false) = (newest(cx.site, &wanted.key)?, rebuild) {
            cx.site.link_environment(&release, &key)?;
            cx.note(format!("taken over: nothing that decides it has changed ({})", wanted.told));
            return Ok(Did::It);
        }
        // The environment that is there may serve right now: one that is built anew stands beside it.
        let key = if cx.site.has_environment(&wanted.key) { format!("{}-{}", wanted.key, cx.run) } else { wanted.key.clone() };
        let place = cx.site.make_environment(&key)?;
        cx.note(format!("building: {}", wanted.told));
        let caches = if rebuild { Caches::Empty } else { Caches::Keep };
        if cx.app.executor == Executor::Units {
            cx.site.open_to_builder(&place)?;
        }
        let built = match cx.work(&Job::Environment { key: key.clone(), caches }) {
            Ok(Answer::Built { packages, warnings }) => {
                take_over(cx, &place, &[SEAL_OF_ENVIRONMENT, LIST_OF_ENVIRONMENT]).map(|()| (packages, warnings))
            }
            Ok(other) => Err(other.unexpected()),
            Err(failure) => Err(failure),
        };
        let (packages, warnings) = match built {
            Ok(built) => built,
            Err(failure) => {
                // What nobody has let go of is left for the next sweep.
                match hand_over(cx) {
                    Ok(()) => cx.site.remove_environment(&key)?,
                    Err(also) => cx.warn(also.reason),
                }
                return Err(failure);
            }
        };
        for warning in &warnings {
            cx.warn(warning);
        }
        // The steps up to the seal only read it.
        cx.before_seal.push(cx.site.seal_environment(&key, &wanted.told)?);
        cx.site.link_environment(&release, &key)?;
        cx.note(counted(packages as u64, "package"));
        Ok(Did::It)
    }
}

/// The newest complete environment of a key: the one that was built first, or one that was built anew by a later run.
fn newest(site: &Site, key: &str) -> Result<Option<String>, Failure> {
    let age = |name: &str| match name.strip_prefix(key) {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix('-')?.parse::<u64>().ok(),
        None => None,
    };
    let known = site.environments()?.into_iter().filter(|name| site.has_environment(name));
    Ok(known.filter_map(|name| Some((age(&name)?, name))).max().map(|(_, name)| name))
}
