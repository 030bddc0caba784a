//! Messages signed by Standard Webhooks 1.0. `webhook-id` stays the same for each attempt of a message, so that a receiver can drop duplicates;
//! `webhook-timestamp` is the time of the attempt.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::SecondsFormat;
use serde_json::json;

use super::Outgoing;
use crate::engine::journal::outbox::Phase;

/// The headers and the body.
pub(super) fn message(secrets: &[Vec<u8>], told: &Outgoing<'_>) -> (Vec<(&'static str, String)>, Vec<u8>) {
    let (delivery, subject) = (told.delivery, told.subject);
    let word = match delivery.phase {
        Phase::Started => "started",
        Phase::Ended => "ended",
    };
    let body = json!({
        "type": format!("run.{word}"),
        "timestamp": delivery.made.to_rfc3339_opts(SecondsFormat::Millis, true),
        "data": {
            "host": told.speaker.host,
            "app": subject.app,
            "run": subject.run,
            "action": subject.action,
            "ref": subject.reference,
            "commit": subject.commit,
            "release": subject.release,
            "caller": subject.caller,
            "outcome": told.outcome().map(|outcome| outcome.word()),
            "log": told.log(),
        },
    });
    let body = body.to_string().into_bytes();
    let id = format!("{}-{}-{word}", told.speaker.journal, subject.run);
    let timestamp = told.speaker.now.timestamp();
    let signatures: Vec<String> = secrets.iter().map(|secret| sign(secret, &id, timestamp, &body)).collect();
    let headers = vec![
        ("content-type", "application/json".to_owned()),
        ("webhook-id", id),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-signature", signatures.join(" ")),
    ];
    (headers, body)
}

pub(super) fn sign(secret: &[u8], id: &str, timestamp: i64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signed = [format!("{id}.{timestamp}.").as_bytes(), body].concat();
    format!("v1,{}", STANDARD.encode(hmac::sign(&key, &signed)))
}
