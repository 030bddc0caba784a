//! `doctor`: shows the problems of the set-up, with their remedies.

use agent_wire::view::{Doctor, Level};

use crate::client::{Effort, encoded};
use crate::fault::{Exit, Fault};
use crate::render;
use crate::session::Session;

/// Requests the agent's findings about itself and its apps.
pub(crate) async fn run(session: &mut Session<'_>) -> Result<Exit, Fault> {
    let path = match &session.app {
        Some(app) => format!("/v1/doctor?app={}", encoded(app.as_str())),
        None => "/v1/doctor".to_owned(),
    };
    let answer = session.client.read::<Doctor>(&path, Effort::Much).await?;
    let text = session.told(&answer, |doctor, _| render::doctor(doctor));
    session.out.data(&text)?;
    let ill = answer.view.findings.iter().any(|finding| finding.level == Level::Error);
    Ok(if ill { Exit(1) } else { Exit::GOOD })
}
