//! `environment`: the release's `venv/`, reused from an earlier release with the same key, or built.

use agent_model::plan::{Choice, Nature};
use agent_model::request::{Act, Rebuild};

use super::words::counted;
use super::{Brief, Did, NOTHING_LEFT, Step, StepContext, claim, grant_access, in_a_release};
use crate::root::{AppRoot, LIST_OF_ENVIRONMENT, SEAL_OF_ENVIRONMENT, is_key};
use crate::settings::ExecutorKind;
use crate::work::{Caches, Failure, Job, JobAnswer};

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

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        if cx.run.app.python.is_none() {
            return Ok(Did::Nothing("no [python] is set".to_owned()));
        }
        let release = cx.target()?.release.clone();
        let wanted = match cx.work(&Job::Want)? {
            JobAnswer::Wanted(wanted) => wanted,
            other => return Err(other.unexpected()),
        };
        for note in &wanted.notes {
            cx.note(note);
        }
        for warning in &wanted.warnings {
            cx.warn(warning);
        }
        if !is_key(&wanted.key) {
            return Err(Failure::new(format!("{:?} is no key of an environment", wanted.key)));
        }
        let rebuild = matches!(cx.run.act, Act::Release { rebuild: Rebuild::Always, .. } | Act::Stage { rebuild: Rebuild::Always, .. });
        if let (Some(key), false) = (newest(cx.run.root, &wanted.key)?, rebuild) {
            cx.run.root.link_environment(&release, &key)?;
            cx.note(format!("reused: nothing that decides it has changed ({})", wanted.told));
            return Ok(Did::It);
        }
        // The environment that is there may serve right now: one that is built anew stands beside it.
        let key = if cx.run.root.has_environment(&wanted.key) { format!("{}-{}", wanted.key, cx.run.id) } else { wanted.key.clone() };
        let place = cx.run.root.make_environment(&key)?;
        cx.note(format!("building: {}", wanted.told));
        if let Some(warning) = cx.found.former.as_ref().and_then(|former| another_installer(&cx.run.root.made_of(former)?, &wanted.told)) {
            cx.warn(warning);
        }
        let caches = if rebuild { Caches::Empty } else { Caches::Keep };
        if cx.run.app.executor == ExecutorKind::Units {
            cx.run.root.open_to_builder(&place)?;
        }
        let built = match cx.work(&Job::Environment { key: key.clone(), caches }) {
            Ok(JobAnswer::Built { packages, warnings }) => {
                claim(cx, &place, &[SEAL_OF_ENVIRONMENT, LIST_OF_ENVIRONMENT]).map(|()| (packages, warnings))
            }
            Ok(other) => Err(other.unexpected()),
            Err(failure) => Err(failure),
        };
        let (packages, warnings) = match built {
            Ok(built) => built,
            Err(failure) => {
                // An environment that its builder has not released is left for the next sweep.
                match grant_access(cx) {
                    Ok(()) => cx.run.root.remove_environment(&key)?,
                    Err(also) => cx.warn(also.reason),
                }
                return Err(failure);
            }
        };
        for warning in &warnings {
            cx.warn(warning);
        }
        // The steps up to the seal only read it.
        cx.found.before_seal.push(cx.run.root.seal_environment(&key, &wanted.told)?);
        cx.run.root.link_environment(&release, &key)?;
        cx.note(counted(packages as u64, "package"));
        Ok(Did::It)
    }
}

/// The message that another installer is used than for the live release's environment, because the two do not install quite the same.
fn another_installer(former: &str, wanted: &str) -> Option<String> {
    let of = |told: &str| Some(told.split_once(", ")?.0.to_owned()).filter(|tool| tool.contains(' '));
    let (former, wanted) = (of(former)?, of(wanted)?);
    let name = |tool: &str| tool.split(' ').next().unwrap_or_default().to_owned();
    let left_out = match (name(&former).as_str(), name(&wanted).as_str()) {
        ("pip", "uv") => {
            "uv leaves out setuptools (pkg_resources), which pip brings along before Python 3.12: a project that needs it must ask for it"
        }
        ("uv", "pip") => "pip brings setuptools along before Python 3.12, and resolves some requirements to other versions",
        _ => return None,
    };
    Some(format!("{wanted} installs this environment, and {former} installed that of the live release: {left_out}"))
}

/// The newest complete environment of a key: the first one, or a rebuilt one of a later run.
fn newest(root: &AppRoot, key: &str) -> Result<Option<String>, Failure> {
    let age = |name: &str| match name.strip_prefix(key) {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix('-')?.parse::<u64>().ok(),
        None => None,
    };
    let known = root.environments()?.into_iter().filter(|name| root.has_environment(name));
    Ok(known.filter_map(|name| Some((age(&name)?, name))).max().map(|(_, name)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_installer_is_told_and_another_version_of_it_is_not() {
        let told = |former, wanted| another_installer(former, wanted).unwrap_or_default();
        assert!(told("pip 23.0.1, CPython 3.11.2", "uv 0.13.8, CPython 3.11.2").contains("setuptools"));
        assert!(told("uv 0.13.8, CPython 3.11.2, x", "pip 23.0.1, CPython 3.11.2").starts_with("pip 23.0.1 installs"));
        assert_eq!(told("uv 0.13.7, CPython 3.11.2", "uv 0.13.8, CPython 3.11.2"), "");
        assert_eq!(told("", "uv 0.13.8, CPython 3.11.2"), "");
    }
}
