//! GitHub (REST API, version 2022-11-28): "Create a commit status", "Create a deployment", "Create a deployment status".

use agent_wire::event::OutcomeWord;
use serde_json::{Value, json};

use super::Outgoing;
use crate::engine::journal::outbox::DeliveryKind;

const VERSION: &str = "2022-11-28";

pub(super) fn headers(token: &str) -> Vec<(&'static str, String)> {
    vec![
        ("authorization", format!("Bearer {token}")),
        ("accept", "application/vnd.github+json".to_owned()),
        ("content-type", "application/json".to_owned()),
        ("x-github-api-version", VERSION.to_owned()),
    ]
}

/// The path after the base, and the body; `None` for the state of a deployment that was never made.
pub(super) fn ask(repository: &str, context: &str, environment: &str, told: &Outgoing<'_>) -> Option<(String, Vec<u8>)> {
    let subject = told.subject;
    let (path, mut body) = match told.delivery.kind {
        DeliveryKind::Deployment => (
            format!("/repos/{repository}/deployments"),
            json!({
                "ref": subject.commit,
                // The release is decided already: GitHub must not merge anything, nor refuse because of its own checks.
                "auto_merge": false,
                "required_contexts": [],
                "environment": environment,
                "description": told.sentence(),
                "payload": { "host": told.speaker.host, "app": subject.app, "run": subject.run, "release": subject.release },
            }),
        ),
        DeliveryKind::DeploymentState => (
            format!("/repos/{repository}/deployments/{}/statuses", subject.deployment?),
            json!({ "state": deployment_state(told.outcome()), "environment": environment, "description": told.sentence() }),
        ),
        DeliveryKind::Status | DeliveryKind::Message => (
            format!("/repos/{repository}/statuses/{}", subject.commit),
            json!({ "state": commit_state(told.outcome()), "context": context, "description": told.sentence() }),
        ),
    };
    let address = match told.delivery.kind {
        DeliveryKind::Deployment => None,
        DeliveryKind::DeploymentState => Some("log_url"),
        DeliveryKind::Status | DeliveryKind::Message => Some("target_url"),
    };
    if let (Some(key), Some(log)) = (address, told.log()) {
        body[key] = Value::String(log);
    }
    Some((path, body.to_string().into_bytes()))
}

fn commit_state(outcome: Option<OutcomeWord>) -> &'static str {
    match outcome {
        None => "pending",
        Some(OutcomeWord::Live | OutcomeWord::Done) => "success",
        Some(OutcomeWord::Failed | OutcomeWord::RolledBack | OutcomeWord::Stuck) => "failure",
        Some(OutcomeWord::Cancelled | OutcomeWord::Superseded) => "error",
    }
}

fn deployment_state(outcome: Option<OutcomeWord>) -> &'static str {
    match outcome {
        None => "in_progress",
        Some(OutcomeWord::Cancelled | OutcomeWord::Superseded) => "inactive",
        outcome => commit_state(outcome),
    }
}
