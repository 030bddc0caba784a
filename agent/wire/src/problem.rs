//! The body of every answer that is not a success: `application/problem+json` (RFC 9457) with a stable code, a sentence and a hint.

use serde::{Deserialize, Serialize};

/// The media type.
pub const PROBLEM_TYPE: &str = "application/problem+json";

/// What went wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The HTTP status, repeated as RFC 9457 has it.
    pub status: u16,
    /// A word that stays the same across versions, such as `not_allowed`.
    pub code: String,
    /// The sentence: the thing and where it is.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// The exit code of a ctl that met it: 4 for what was refused, 2 for what was asked wrongly, 5 for what the agent could not do.
    pub fn exit_code(&self) -> u8 {
        match self.status {
            401 | 403 | 409 | 410 | 412 | 423 | 429 => 4,
            400..=499 => 2,
            _ if self.code == "draining" => 4,
            _ => 5,
        }
    }
}
