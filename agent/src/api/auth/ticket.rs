//! The token that reads one run's events, and nothing else: the requester may pass it on to the people who follow the run. It is derived from the
//! run's number and a key that never leaves the journal, so it need not be stored and cannot be guessed.

use agent_model::names::RunId;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign, verify};
use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};

fn message(run: RunId) -> String {
    format!("events of run {run}")
}

/// The token of a run.
pub(in crate::api) fn of(run: RunId, key: &str) -> String {
    URL_SAFE_NO_PAD.encode(sign(&Key::new(HMAC_SHA256, key.as_bytes()), message(run).as_bytes()))
}

/// Whether a token belongs to the run; compared in constant time.
pub(in crate::api) fn is_of(token: &str, run: RunId, key: &str) -> bool {
    let Ok(tag) = URL_SAFE_NO_PAD.decode(token) else { return false };
    verify(&Key::new(HMAC_SHA256, key.as_bytes()), message(run).as_bytes(), &tag).is_ok()
}

/// How long a run's token is valid after the run has ended, because a follower may have to come back.
const GOOD_AFTER_THE_END: TimeDelta = TimeDelta::hours(1);

/// Whether the token of an ended run has expired.
pub(in crate::api) fn is_over(ended: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now.signed_duration_since(ended) > GOOD_AFTER_THE_END
}

/// The bearer token of a request (RFC 6750, section 2.1), when it has exactly one.
pub(in crate::api) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    (values.next().is_none() && scheme.eq_ignore_ascii_case("bearer")).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_run_and_one_journal() {
        let token = of(RunId(7), "key");
        assert!(is_of(&token, RunId(7), "key"));
        assert!(!is_of(&token, RunId(8), "key") && !is_of(&token, RunId(7), "other"));
        assert!(!is_of("", RunId(7), "key") && !is_of(&token[1..], RunId(7), "key") && !is_of(&format!("{token}="), RunId(7), "key"));
    }

    #[test]
    fn a_token_is_good_for_an_hour_after_its_run() {
        let ended: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        assert!(!is_over(ended, ended + TimeDelta::minutes(60)));
        assert!(is_over(ended, ended + TimeDelta::minutes(61)));
    }

    #[test]
    fn one_token_and_no_other_scheme() {
        let headers = |values: &[&str]| values.iter().map(|value| (header::AUTHORIZATION, value.parse().unwrap())).collect::<HeaderMap>();
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["Basic abc"])), None);
        assert_eq!(bearer(&headers(&["Bearer abc", "Bearer def"])), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
