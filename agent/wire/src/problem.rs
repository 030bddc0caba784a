//! The body of every answer that is not a success: `application/problem+json` (RFC 9457) with a stable code, a sentence and a hint.

use serde::{Deserialize, Serialize};

/// The media type (RFC 9457).
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// An error as the agent reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status, repeated as RFC 9457 recommends.
    pub status: u16,
    /// A word that stays the same across versions, such as `not_allowed`.
    pub code: String,
    /// A sentence that names the thing and its place.
    pub detail: String,
    /// What the caller should do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// The exit code of a ctl that got it: 4 for a refusal, 2 for a wrong request, 5 for a failure of the agent.
    pub fn exit_code(&self) -> u8 {
        match self.status {
            401 | 403 | 409 | 410 | 412 | 423 | 429 => 4,
            400..=499 => 2,
            _ if self.code == "draining" => 4,
            _ => 5,
        }
    }
}
