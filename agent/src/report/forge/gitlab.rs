//! GitLab (REST API, version 4): "Set commit pipeline status".

use agent_model::names::RefName;
use agent_wire::event::OutcomeWord;

use super::Outgoing;

/// The path and query after the base; there is no body.
pub(super) fn ask(project: &str, context: &str, told: &Outgoing<'_>) -> String {
    let subject = told.subject;
    let mut query = vec![("state", state(told.outcome()).to_owned()), ("name", context.to_owned()), ("description", told.sentence())];
    query.extend(told.log().map(|log| ("target_url", log)));
    // Where several pipelines have the commit, GitLab takes the one of this ref.
    let reference =
        subject.reference.as_deref().map(|text| text.parse::<RefName>().map_or(text.to_owned(), |name| name.short().to_owned()));
    query.extend(reference.map(|reference| ("ref", reference)));
    let query: Vec<String> = query.iter().map(|(key, value)| format!("{key}={}", encoded(value))).collect();
    format!("/api/v4/projects/{}/statuses/{}?{}", encoded(project), subject.commit, query.join("&"))
}

fn state(outcome: Option<OutcomeWord>) -> &'static str {
    match outcome {
        None => "running",
        Some(OutcomeWord::Live | OutcomeWord::Done) => "success",
        Some(OutcomeWord::Failed | OutcomeWord::RolledBack | OutcomeWord::Stuck) => "failed",
        Some(OutcomeWord::Cancelled | OutcomeWord::Superseded) => "canceled",
    }
}

/// RFC 3986, section 2: everything but the unreserved characters.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
            },
        )
        .collect()
}
