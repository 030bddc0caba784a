//! `status`: shows the state of the apps.

use agent_wire::view::Apps;
use serde_json::Value;

use crate::client::{ApiAnswer, Effort};
use crate::fault::{Exit, Fault};
use crate::render;
use crate::session::Session;

/// Shows all apps, or the named one. The shape of the data is the same either way.
pub(crate) async fn run(session: &mut Session<'_>) -> Result<Exit, Fault> {
    let mut answer = session.client.read::<Apps>("/v1/apps", Effort::Little).await?;
    if let Some(app) = &session.app {
        if !answer.view.apps.iter().any(|known| known.name == app.as_str()) {
            // The agent's answer explains why there is none.
            session.client.read::<Value>(&Session::path(app), Effort::Little).await?;
        }
        narrow(&mut answer, app.as_str());
    }
    let text = session.told(&answer, |apps, session| render::status(apps, session.now));
    session.out.data(&text)?;
    Ok(Exit::GOOD)
}

/// Keeps only one app, in the parsed answer and in the raw one.
fn narrow(answer: &mut ApiAnswer<Apps>, app: &str) {
    answer.view.apps.retain(|known| known.name == app);
    // It was parsed already, so it is JSON.
    if let Ok(mut raw) = serde_json::from_str::<Value>(&answer.raw) {
        if let Some(apps) = raw.get_mut("apps").and_then(Value::as_array_mut) {
            apps.retain(|known| known.get("name").and_then(Value::as_str) == Some(app));
        }
        answer.raw = raw.to_string();
    }
}
