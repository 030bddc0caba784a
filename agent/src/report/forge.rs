//! What each kind of target is told, and in which form: pure, from a delivery and what it tells of to a call. A file each.

mod github;
mod gitlab;
#[cfg(test)]
mod tests;
mod webhook;

use std::time::Duration;

use agent_wire::event::OutcomeWord;
use chrono::{DateTime, Utc};
use hyper::Method;

use crate::engine::journal::outbox::{Delivery, DeliveryKind, Phase, Subject};
use crate::https::{Call, proxies};
use crate::settings::Complaint;
use crate::settings::report::{Report, To};

/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(30);
/// The most bytes of a reply: a deployment of GitHub has some ten thousand.
const MOST_BYTES: usize = 256 * 1024;

/// What is said of the agent itself.
pub(super) struct Speaker<'a> {
    /// What this host is called.
    pub host: &'a str,
    /// What tells the journal from every other one.
    pub journal: &'a str,
    /// How the agent is reached, without a slash at the end, where it listens on the network.
    pub address: Option<&'a str>,
    /// Now.
    pub now: DateTime<Utc>,
}

/// A delivery on its way.
pub(super) struct Outgoing<'a> {
    pub delivery: &'a Delivery,
    pub subject: &'a Subject,
    pub speaker: &'a Speaker<'a>,
}

impl Outgoing<'_> {
    /// Where the run's events are read.
    fn log(&self) -> Option<String> {
        self.speaker.address.map(|address| format!("{address}/v1/runs/{}/events", self.subject.run))
    }

    /// How the run ended; nothing in the delivery that tells of its beginning.
    fn outcome(&self) -> Option<OutcomeWord> {
        self.subject.outcome.filter(|_| self.delivery.phase == Phase::Ended)
    }

    /// A short sentence. It has the release and the outcome in it, and nothing that a tool or a person said.
    fn sentence(&self) -> String {
        let release = &self.subject.release;
        match self.outcome() {
            None => format!("{release} is in progress."),
            Some(OutcomeWord::Live | OutcomeWord::Done) => format!("{release} is live."),
            Some(OutcomeWord::Failed) => format!("{release} failed, and no visitor met it."),
            Some(OutcomeWord::RolledBack) => format!("{release} was live for a moment, and was taken back."),
            Some(OutcomeWord::Stuck) => format!("{release} could not be taken back: a person must look."),
            Some(OutcomeWord::Cancelled) => format!("{release} was cancelled."),
            Some(OutcomeWord::Superseded) => format!("{release} gave way to a newer request."),
        }
    }
}

/// What a target is told in a phase, in this order.
pub(super) fn kinds(report: &Report, phase: Phase) -> &'static [DeliveryKind] {
    match (&report.to, phase) {
        (To::Github { environment: Some(_), .. }, Phase::Started) => {
            &[DeliveryKind::Status, DeliveryKind::Deployment, DeliveryKind::DeploymentState]
        }
        (To::Github { environment: Some(_), .. }, Phase::Ended) => &[DeliveryKind::Status, DeliveryKind::DeploymentState],
        (To::Github { .. } | To::Gitlab { .. }, _) => &[DeliveryKind::Status],
        (To::Webhook, _) => &[DeliveryKind::Message],
    }
}

/// What a delivery becomes.
pub(super) enum Prepared {
    /// A call, and what must not stand in any sentence about it.
    Call(Call, Vec<String>),
    /// There is nothing to say: the deployment whose state it tells was never made.
    Nothing,
}

/// Makes the call. It reads the file with the token or the secret.
pub(super) fn prepare(report: &Report, told: &Outgoing<'_>) -> Result<Prepared, Box<Complaint>> {
    let (url, headers, body, hidden) = match &report.to {
        To::Github { repository, context, environment } => {
            let environment = environment.as_deref().unwrap_or_default();
            let Some((path, body)) = github::ask(repository, context, environment, told) else { return Ok(Prepared::Nothing) };
            let token = report.token()?;
            (format!("{}{path}", report.url), github::headers(&token), body, vec![token])
        }
        To::Gitlab { project, context } => {
            let token = report.token()?;
            (
                format!("{}{}", report.url, gitlab::ask(project, context, told)),
                vec![("private-token", token.clone())],
                Vec::new(),
                vec![token],
            )
        }
        To::Webhook => {
            let secrets = report.secrets()?;
            let (headers, body) = webhook::message(&secrets, told);
            (report.url.clone(), headers, body, Vec::new())
        }
    };
    let (timeout, roots) = (LIMIT, report.roots.clone());
    Ok(Prepared::Call(
        Call { method: Method::POST, url, headers, body, timeout, most_bytes: MOST_BYTES, roots, proxies: proxies() },
        hidden,
    ))
}
