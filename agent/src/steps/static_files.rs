//! Whether the static files of the live release can be reused: only with a proof that collectstatic would make the same ones.

use std::path::Path;

use agent_model::names::ReleaseName;

use super::since::Since;
use super::words::counted;
use crate::django::Grounds;
use crate::process::identity;
use crate::root::AppRoot;
use crate::settings::App;

/// The steps that make a release before it is sealed, and whose hooks may change it.
const MAKING: [&str; 7] = ["fetch", "checkout", "link-shared", "environment", "check", "collectstatic", "seal"];
/// Files of these kinds can become part of a static file only if collectstatic's own interpreter reads them, and it records those.
const PLAIN: [&str; 7] = ["py", "html", "txt", "md", "rst", "po", "mo"];
/// The proof that collectstatic would make the files that the live release has.
pub(crate) struct StaticProof {
    pub former: ReleaseName,
    /// The inputs of collectstatic there.
    pub grounds: Grounds,
    /// The proof as text.
    pub told: String,
}

/// The proof that collectstatic would make the live release's files, or the reason why there is none. `has_file` tells which paths the commit has.
pub(crate) fn same_static_files(app: &App, since: &Since, has_file: &dyn Fn(&str) -> bool) -> Result<StaticProof, String> {
    if let Some(hook) = app.hooks.iter().find(|hook| MAKING.contains(&hook.step.as_str())) {
        return Err(format!("the hooks at {} may make static files", hook.step));
    }
    let Since { former, made, changed } = since;
    let grounds = made.collected.as_ref().ok_or_else(|| format!("{former} does not tell what its static files were made of"))?;
    if let Some(unsure) = &grounds.unsure {
        return Err(format!("{unsure}, so what it makes may be something else each time"));
    }
    if let Some((path, _)) = grounds.elsewhere.iter().find(|(path, was)| identity(path) != *was) {
        return Err(format!("{} has changed, which it reads", path.display()));
    }
    for (how, path) in changed {
        let plain = Path::new(path).extension().is_some_and(|ending| PLAIN.iter().any(|plain| ending == *plain));
        match how {
            'M' if grounds.read.contains(Path::new(path)) => return Err(format!("{path} has changed, which it reads")),
            'M' if plain && has_file(path) => {}
            'M' => return Err(format!("{path} has changed, and may go into a static file")),
            'A' => return Err(format!("{path} is new")),
            'D' => return Err(format!("{path} is gone")),
            _ => return Err(format!("{path} is of another kind")),
        }
    }
    let read = counted(grounds.read.len() as u64, "file");
    let told = format!("it read {read} of the release, and none of them has changed since {former}, nor have settings and environment");
    Ok(StaticProof { former: former.clone(), grounds: grounds.clone(), told })
}

/// The steps that will have nothing to do if the environment is the same, each with the reason. The release itself checks again. `has_file` tells
/// which paths the commit has.
pub(crate) fn foreseen(since: &Since, app: &App, root: &AppRoot, has_file: &dyn Fn(&str) -> bool) -> Vec<(&'static str, &'static str)> {
    let mut steps = vec![("environment", "no requirement file has changed")];
    if same_static_files(app, since, has_file).is_ok() {
        steps.push(("collectstatic", "nothing that it reads has changed"));
    }
    if since.no_migration(app, root).is_some() {
        steps.extend([("check", "runs during switch"), ("backup", "no migration has changed"), ("migrate", "no migration has changed")]);
    }
    steps
}
