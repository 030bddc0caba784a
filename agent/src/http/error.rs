//! Why a check did not pass.

use std::io;
use std::time::Duration;

use agent_model::names::ReleaseName;
use thiserror::Error;

/// A check that did not pass.
#[derive(Debug, Error)]
#[error("{asked} {wrong}")]
pub(crate) struct CheckError {
    /// What was asked.
    pub asked: String,
    /// What was wrong with the answer.
    pub wrong: Wrong,
}

/// What was wrong with an answer; readable after what was asked.
#[derive(Debug, Error)]
pub(crate) enum Wrong {
    /// ECONNREFUSED.
    #[error("was refused: nobody listens there")]
    Refused,
    /// The socket's file is not there.
    #[error("found no such socket")]
    NoSocket,
    /// EACCES.
    #[error("was not permitted: the agent's user may not use that socket")]
    Forbidden,
    /// A Unix socket whose queue is full refuses at once.
    #[error("found the queue of the socket full")]
    QueueFull,
    /// No connection for another reason.
    #[error("got no connection: {0}")]
    Connection(io::Error),
    /// No answer in time.
    #[error("was not answered within {:.1} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The connection ended before the answer was complete.
    #[error("was cut off before the answer was complete")]
    CutOff,
    /// What came is not HTTP.
    #[error("was answered with something that is not HTTP: {0}")]
    NotHttp(String),
    /// The question cannot be put into words of HTTP.
    #[error("cannot be asked: {0}")]
    Unaskable(String),
    /// Another status.
    #[error("was answered with status {got} instead of {wanted}{}{}", to(.location.as_deref()), saying(.body))]
    Status {
        /// What came.
        got: u16,
        /// What should.
        wanted: u16,
        /// Where the answer points.
        location: Option<String>,
        /// The beginning of the body's text.
        body: String,
    },
    /// The body is not as it should be.
    #[error("was answered without {wanted:?} in the body{}", saying(.body))]
    Lacks {
        /// What should be in it.
        wanted: String,
        /// The beginning of the body's text.
        body: String,
    },
    /// A header is not as it should be.
    #[error("was answered with {name}: {} instead of {wanted}", .got.as_deref().unwrap_or("(none)"))]
    Header {
        /// Which.
        name: String,
        /// What came.
        got: Option<String>,
        /// What should.
        wanted: String,
    },
    /// Another release answered.
    #[error("was answered by another release: answers still come from {got}, not from {wanted}")]
    Release {
        /// What the answer named.
        got: String,
        /// What it should.
        wanted: ReleaseName,
    },
    /// The answer does not say which release it comes from.
    #[error("was answered without the header {header}, which should name {wanted}")]
    Nameless {
        /// The header.
        header: String,
        /// What it should name.
        wanted: ReleaseName,
    },
    /// Somebody cancelled.
    #[error("was cancelled")]
    Cancelled,
}

fn to(location: Option<&str>) -> String {
    location.map_or_else(String::new, |location| format!(" (to {location})"))
}

fn saying(body: &str) -> String {
    if body.is_empty() { ", and an empty body".to_owned() } else { format!(": {body}") }
}

impl CheckError {
    /// What the operator can do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match &self.wrong {
            Wrong::Status { got: 400, .. } => {
                Some("Django answers 400 to a Host that ALLOWED_HOSTS does not have: set headers = { Host = \"…\" } in the check")
            }
            Wrong::Status { got: 301 | 302 | 307 | 308, location: Some(location), .. } if location.starts_with("https://") => Some(
                "the app sends visitors to https: set headers = { X-Forwarded-Proto = \"https\" } in the check, or expect the redirect by status and location",
            ),
            Wrong::Status { got: 502..=504, .. } => Some("the proxy got no answer: does it connect to the socket that the app binds?"),
            Wrong::Status { got: 500, .. } => Some("the app failed: its own log has the traceback"),
            Wrong::Release { .. } => Some(
                "something of another release still serves: workers that were not replaced, a second server behind the same address, or connections that the proxy keeps open to the former one (keepalive in nginx's upstream)",
            ),
            Wrong::Nameless { .. } => Some(
                "let the app send the header (the variables RELEASE_NAME and RELEASE_COMMIT are there for it), or remove release_header",
            ),
            Wrong::QueueFull => Some("raise the server's listen queue to 1024 (uWSGI's default of 100 turns a reload into an outage)"),
            Wrong::Forbidden => Some("give the agent's user write permission on the socket"),
            Wrong::TimedOut(_) => Some("raise timeout in the check if the first answer may take so long"),
            _ => None,
        }
    }
}
