//! `environment`: the release's `venv/`, taken over from an earlier release with the same key, or built.

use std::path::PathBuf;

use agent_model::plan::{Choice, Nature};
use agent_model::request::{Act, Rebuild};

use super::room::counted;
use super::{Cx, Did, Failure, NOTHING_LEFT, Step, in_a_release};
use crate::settings::App;
use crate::site::{Site, remove_tree};
use crate::tools::python;

pub(super) struct Environment;

impl Step for Environment {
    fn name(&self) -> &'static str {
        "environment"
    }

    fn nature(&self) -> Nature {
        NOTHING_LEFT
    }

    fn choose(&self, act: &Act, app: &App) -> Choice {
        match (in_a_release(act), &app.python) {
            (Choice::Do, None) => Choice::Skip("no [python] is set".to_owned()),
            (choice, _) => choice,
        }
    }

    fn run(&self, cx: &mut Cx<'_>) -> Result<Did, Failure> {
        let Some(settings) = &cx.app.python else { return Ok(Did::Nothing("no [python] is set".to_owned())) };
        let (dir, release) = (cx.dir()?, cx.target()?.release.clone());
        let wanted = cx.watched(|watch| python::wanted(settings, &dir, watch))?;
        for note in wanted.notes() {
            cx.note(note);
        }
        let rebuild = matches!(cx.act, Act::Release { rebuild: Rebuild::Always, .. });
        if let (Some(key), false) = (newest(cx.site, wanted.key())?, rebuild) {
            cx.site.link_environment(&release, &key)?;
            cx.note(format!("taken over: nothing that decides it has changed ({})", wanted.told()));
            return Ok(Did::It);
        }
        // The environment that is there may serve right now: one that is built anew stands beside it.
        let key = if cx.site.has_environment(wanted.key()) { format!("{}-{}", wanted.key(), cx.run) } else { wanted.key().to_owned() };
        let place = cx.site.clear_environment(&key)?;
        cx.note(format!("building: {}", wanted.told()));
        if rebuild {
            // Built anew means from what the index has, and not from what an earlier building left.
            cx.site.clear_caches()?;
        }
        let scratch = cx.site.scratch_dir(&format!("installers-{}", cx.run))?;
        let caches = cx.site.caches();
        let hidden: Vec<PathBuf> = cx.app.hidden.iter().cloned().chain([cx.state.to_owned()]).collect();
        let within = python::Place { scratch: &scratch, caches: &caches, hidden: &hidden };
        let built = cx.watched(|watch| wanted.build(&place, &dir, within, watch, &|text| cx.note(text)));
        remove_tree(&scratch)?;
        let built = match built {
            Ok(built) => built,
            Err(err) => {
                cx.site.remove_environment(&key)?;
                return Err(err.into());
            }
        };
        for warning in &built.warnings {
            cx.warn(warning);
        }
        cx.site.seal_environment(&key, &wanted.told())?;
        cx.site.link_environment(&release, &key)?;
        cx.note(counted(built.packages as u64, "package"));
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
