//! The calls to each kind of target: a pure function from a delivery and its run to a call. One file each.

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

/// Facts about the agent itself.
pub(super) struct Speaker<'a> {
    /// The name of this host.
    pub host: &'a str,
    /// The unique id of the journal.
    pub journal: &'a str,
    /// The agent's own address, without a slash at the end, where it listens on the network.
    pub address: Option<&'a str>,
    /// The current time.
    pub now: DateTime<Utc>,
}

/// A delivery on its way.
pub(super) struct Outgoing<'a> {
    pub delivery: &'a Delivery,
    pub subject: &'a Subject,
    pub speaker: &'a Speaker<'a>,
}

impl Outgoing<'_> {
    /// The address of the run's events.
    fn log(&self) -> Option<String> {
        self.speaker.address.map(|address| format!("{address}/v1/runs/{}/events", self.subject.run))
    }

    /// The outcome of the run; `None` in the delivery about its beginning.
    fn outcome(&self) -> Option<OutcomeWord> {
        self.subject.outcome.filter(|_| self.delivery.phase == Phase::Ended)
    }

    /// A short sentence. It contains the release and the outcome, and no text of a tool or a person.
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

/// The deliveries for a target in a phase, in this order.
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

/// The result of preparing a delivery.
pub(super) enum Prepared {
    /// A call, and the texts that no sentence about it may contain.
    Call(Call, Vec<String>),
    /// There is nothing to send: the deployment of this state was never made.
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
