//! What a program of the app's own is given when a person starts it at a terminal, and not the agent.

use agent_model::names::{ReleaseName, RunId};

use crate::root::AppRoot;
use crate::settings::App;
use crate::work::{Order, Ordered};

/// The variable in which this program hands the secrets to itself as the app's user. Under their own names they would decide what root starts
/// (`PATH`, `LD_PRELOAD`).
pub(crate) const SECRETS: &str = "RELEASE_AGENT_SECRETS";

/// The secrets of the other half.
///
/// # Errors
/// A sentence, when the variable is not what this program writes.
pub(crate) fn secrets_handed_over() -> Result<Vec<(String, String)>, String> {
    let text = std::env::var(SECRETS).unwrap_or_else(|_| "[]".to_owned());
    serde_json::from_str(&text).map_err(|err| format!("{SECRETS} cannot be read: {err}"))
}

/// `[env]`, the secrets, and the variables of the release.
pub(crate) fn environment(
    app: &App,
    root: &AppRoot,
    release: &ReleaseName,
    secrets: Vec<(String, String)>,
    caller: &str,
) -> Vec<(String, String)> {
    let commit = root.manifest(release).ok().and_then(|manifest| manifest.commit.parse().ok());
    let order = Order {
        run: RunId(0),
        marker: String::new(),
        caller: caller.to_owned(),
        release: commit.map(|commit| Ordered { name: release.clone(), commit, reference: None }),
        former: None,
    };
    let of_release = order.variables(app, |release| root.release_dir(release));
    app.variables(secrets).into_iter().chain(of_release).collect()
}
