//! The verdict on a delivery after a reply: a pure function.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::engine::journal::outbox::{Delivery, DeliveryKind};
use crate::https::Reply;

/// The longest rest between two tries, unless the target asks for a longer one.
const LONGEST_REST: Duration = Duration::from_secs(600);
/// A delivery older than this is not tried any more.
pub(super) const TOO_OLD: chrono::TimeDelta = chrono::TimeDelta::hours(24);
/// The rest after too many requests where the target names none: GitHub's minimum.
const A_MINUTE: Duration = Duration::from_secs(60);
/// The most characters of a forge's own text about a refusal.
const MOST_TOLD: usize = 200;

/// The verdict on a delivery.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It got through; with the target's number for the run, where it made something new.
    Delivered(Option<u64>),
    /// It failed, and may get through later.
    Later {
        /// The error, as text.
        says: String,
        /// The target's minimum time until the next try.
        rest: Duration,
    },
    /// It will never get through.
    Never(String),
}

/// Judges a reply. No sentence may contain a text from `hidden`.
pub(super) fn verdict_of(kind: DeliveryKind, reply: &Reply, hidden: &[String], now: DateTime<Utc>) -> Verdict {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let says = answered(kind, reply.status, &body, hidden);
    let wanted = reply.header("retry-after").and_then(|text| parse_rest(text, now));
    let is_spent = reply.header("x-ratelimit-remaining") == Some("0");
    let until_reset = reply.header("x-ratelimit-reset").filter(|_| is_spent).and_then(|text| parse_reset(text, now));
    // GitHub also uses 403 for too many requests ("Rate limits for the REST API"); only its text shows the secondary limit.
    let is_secondary = kind != DeliveryKind::Message && body["message"].as_str().is_some_and(is_of_secondary_limit);
    let asked_too_often = reply.status == 429 || reply.status == 403 && (wanted.is_some() || is_spent || is_secondary);
    match reply.status {
        200..=299 if kind == DeliveryKind::Deployment => match body["id"].as_u64() {
            Some(number) => Verdict::Delivered(Some(number)),
            None => Verdict::Never(format!("{says}, and without a number of the deployment")),
        },
        200..=299 => Verdict::Delivered(None),
        // GitLab refuses the same state twice. If a delivery is sent again because its first result is unknown, this reply means that it got through.
        400 if kind == DeliveryKind::Status
            && body["message"].as_str().is_some_and(|text| text.starts_with("Cannot transition status")) =>
        {
            Verdict::Delivered(None)
        }
        _ if asked_too_often => Verdict::Later { says, rest: wanted.or(until_reset).unwrap_or(A_MINUTE) },
        408 | 425 | 500.. => Verdict::Later { says, rest: wanted.unwrap_or_default() },
        _ => Verdict::Never(says),
    }
}

/// The answer with the forge's own text, which says which right a token lacks. Text of any other receiver is not repeated.
fn answered(kind: DeliveryKind, status: u16, body: &Value, hidden: &[String]) -> String {
    let told = body["message"].as_str().filter(|_| kind != DeliveryKind::Message).unwrap_or_default();
    let told = hidden.iter().fold(told.to_owned(), |told, hidden| told.replace(hidden.as_str(), "***"));
    let told: String = told.chars().map(|char| if char.is_control() { ' ' } else { char }).take(MOST_TOLD).collect();
    let moved = if (300..400).contains(&status) { ", which leads elsewhere and is not followed" } else { "" };
    if told.is_empty() { format!("the answer was {status}{moved}") } else { format!("the answer was {status}{moved} ({told})") }
}

/// "You have exceeded a secondary rate limit…", and its earlier form: "You have triggered an abuse detection mechanism…".
fn is_of_secondary_limit(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("secondary rate limit") || message.contains("abuse detection")
}

/// When the limit is reset, in seconds since 1970 ("Rate limits for the REST API").
fn parse_reset(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    let reset = DateTime::from_timestamp(text.trim().parse().ok()?, 0)?;
    (reset - now).to_std().ok()
}

/// RFC 9110, section 10.2.3: seconds, or a date.
fn parse_rest(text: &str, now: DateTime<Utc>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let until = DateTime::parse_from_rfc2822(text.trim()).ok()?;
    (until.to_utc() - now).to_std().ok()
}

/// When a failed delivery is tried again; `None` when it is too old.
pub(super) fn next_try(delivery: &Delivery, rest: Duration, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let last = delivery.made + TOO_OLD;
    if now >= last {
        return None;
    }
    let doubled = Duration::from_secs(1 << delivery.tries.min(10));
    let rest = doubled.min(LONGEST_REST).max(rest).min(Duration::from_secs(48 * 3600));
    Some(now.checked_add_signed(chrono::TimeDelta::from_std(rest).unwrap_or(TOO_OLD)).map_or(last, |due| due.min(last)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::journal::outbox::Phase;

    fn now() -> DateTime<Utc> {
        "2026-11-20T22:45:23Z".parse().unwrap()
    }

    fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Reply { status, headers, body: body.as_bytes().to_vec() }
    }

    fn judged(kind: DeliveryKind, status: u16, headers: &[(&str, &str)], body: &str) -> Verdict {
        verdict_of(kind, &reply(status, headers, body), &["hunter2".to_owned()], now())
    }

    fn rest(verdict: Verdict) -> u64 {
        match verdict {
            Verdict::Later { rest, .. } => rest.as_secs(),
            verdict => panic!("{verdict:?}"),
        }
    }

    #[test]
    fn every_status_is_a_success_a_failure_that_passes_or_one_that_does_not() {
        for status in [200, 201, 204] {
            assert_eq!(judged(DeliveryKind::Status, status, &[], ""), Verdict::Delivered(None));
        }
        for status in [408, 425, 429, 500, 502, 503, 599] {
            assert!(matches!(judged(DeliveryKind::Status, status, &[], ""), Verdict::Later { .. }), "{status}");
        }
        for status in [301, 307, 400, 401, 403, 404, 410, 422] {
            assert!(matches!(judged(DeliveryKind::Status, status, &[], ""), Verdict::Never(_)), "{status}");
        }
        assert_eq!(judged(DeliveryKind::Deployment, 201, &[], "{\"id\":77}"), Verdict::Delivered(Some(77)));
        assert!(matches!(judged(DeliveryKind::Deployment, 202, &[], "{}"), Verdict::Never(_)));
    }

    #[test]
    fn what_a_target_asks_for_is_kept() {
        assert_eq!(rest(judged(DeliveryKind::Status, 429, &[("retry-after", "90")], "")), 90);
        assert_eq!(rest(judged(DeliveryKind::Status, 503, &[("retry-after", "Fri, 20 Nov 2026 22:46:23 GMT")], "")), 60);
        assert_eq!(rest(judged(DeliveryKind::Status, 503, &[("retry-after", "soon")], "")), 0);
        assert_eq!(rest(judged(DeliveryKind::Status, 403, &[("retry-after", "7")], "")), 7);
        assert_eq!(rest(judged(DeliveryKind::Status, 403, &[("x-ratelimit-remaining", "0")], "")), 60);
        assert_eq!(rest(judged(DeliveryKind::Status, 429, &[], "")), 60, "nothing is said of how long");
        assert_eq!(rest(judged(DeliveryKind::Status, 503, &[], "")), 0);
        let reset = (now().timestamp() + 300).to_string();
        for status in [403, 429] {
            let headers = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset.as_str())];
            assert_eq!(rest(judged(DeliveryKind::Status, status, &headers, "")), 300);
            let headers = [("retry-after", "7"), headers[0], headers[1]];
            assert_eq!(rest(judged(DeliveryKind::Status, status, &headers, "")), 7, "what is asked for goes first");
        }
        let left = [("x-ratelimit-remaining", "12"), ("x-ratelimit-reset", reset.as_str())];
        assert!(matches!(judged(DeliveryKind::Status, 403, &left, ""), Verdict::Never(_)), "the limit is not reached");
        let secondary = "{\"message\":\"You have exceeded a secondary rate limit. Please wait a few minutes before you try again.\"}";
        assert_eq!(rest(judged(DeliveryKind::Status, 403, &left, secondary)), 60, "it is not the token's fault");
        assert_eq!(rest(judged(DeliveryKind::Deployment, 403, &[("retry-after", "90")], secondary)), 90);
        assert!(matches!(judged(DeliveryKind::Message, 403, &[], secondary), Verdict::Never(_)), "a receiver's sentence is not understood");
    }

    #[test]
    fn a_state_that_gitlab_has_already_was_told() {
        let twice = "{\"message\":\"Cannot transition status via :run from :running (Reason(s): …)\"}";
        assert_eq!(judged(DeliveryKind::Status, 400, &[], twice), Verdict::Delivered(None));
    }

    #[test]
    fn a_refusal_is_told_with_the_forges_words_and_without_the_token() {
        let body = "{\"message\":\"Resource not accessible\\nby hunter2\"}";
        let Verdict::Never(says) = judged(DeliveryKind::Status, 403, &[], body) else { panic!() };
        assert_eq!(says, "the answer was 403 (Resource not accessible by ***)");
        let Verdict::Never(says) = judged(DeliveryKind::Message, 403, &[], body) else { panic!() };
        assert_eq!(says, "the answer was 403");
    }

    #[test]
    fn rests_double_up_to_ten_minutes_and_end_after_a_day() {
        let made = now();
        let delivery = |tries| Delivery {
            delivery: 1,
            app: "shop".into(),
            target: "x".into(),
            run: 1,
            phase: Phase::Started,
            kind: DeliveryKind::Status,
            made,
            due: made,
            tries,
        };
        let seconds = |tries, rest| next_try(&delivery(tries), Duration::from_secs(rest), made).map(|due| (due - made).num_seconds());
        let rests: Vec<_> = (0..12).filter_map(|tries| seconds(tries, 0)).collect();
        assert_eq!(rests, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        assert_eq!(seconds(0, 5000), Some(5000));
        assert_eq!(seconds(u32::MAX, u64::from(u32::MAX)), Some(24 * 3600), "the last try comes at the end of the day");
        assert_eq!(next_try(&delivery(3), Duration::ZERO, made + TOO_OLD), None);
    }
}
