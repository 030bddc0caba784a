use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::*;
use crate::https::Roots;

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    file
}

fn delivery(phase: Phase, kind: DeliveryKind) -> Delivery {
    let made = "2026-11-20T22:45:23.5Z".parse().unwrap();
    Delivery { delivery: 9, app: "shop".into(), target: "x".into(), run: 7, phase, kind, made, due: made, tries: 0 }
}

fn subject(outcome: Option<OutcomeWord>) -> Subject {
    Subject {
        run: 7,
        app: "shop".into(),
        action: "release".into(),
        caller: "unix:anna".into(),
        commit: "1a2b3c4d5e6f1a2b3c4d5e6f1a2b3c4d5e6f1a2b".into(),
        reference: Some("refs/heads/fix/ä+b".into()),
        release: "2026-11-20-22-45-23-1a2b3c4d5e6f".into(),
        outcome,
        deployment: None,
    }
}

fn report(to: To, url: &str, secret: &tempfile::NamedTempFile) -> Report {
    Report { to, url: url.into(), secret_file: secret.path().to_owned(), roots: Roots::System, place: 1 }
}

fn call(report: &Report, delivery: &Delivery, subject: &Subject) -> Call {
    let speaker =
        Speaker { host: "web1", journal: "0a0b", address: Some("https://web1.example:8443"), now: "2026-11-20T23:00:00Z".parse().unwrap() };
    match prepare(report, &Outgoing { delivery, subject, speaker: &speaker }).unwrap() {
        Prepared::Call(call, _) => call,
        Prepared::Nothing => panic!("nothing to say"),
    }
}

fn body(call: &Call) -> Value {
    serde_json::from_slice(&call.body).unwrap()
}

fn header<'a>(call: &'a Call, name: &str) -> &'a str {
    &call.headers.iter().find(|(key, _)| *key == name).unwrap().1
}

const LOG: &str = "https://web1.example:8443/v1/runs/7/events";

fn github() -> To {
    To::Github { repository: "acme/shop".into(), context: "release-agent/shop".into(), environment: Some("production".into()) }
}

#[test]
fn github_hears_statuses_and_deployments() {
    let token = file("hunter2\n");
    let github = report(github(), "https://api.github.com", &token);
    let started = call(&github, &delivery(Phase::Started, DeliveryKind::Status), &subject(None));
    assert_eq!(started.url, "https://api.github.com/repos/acme/shop/statuses/1a2b3c4d5e6f1a2b3c4d5e6f1a2b3c4d5e6f1a2b");
    assert_eq!(header(&started, "authorization"), "Bearer hunter2");
    assert_eq!(header(&started, "x-github-api-version"), "2022-11-28");
    let sentence = "2026-11-20-22-45-23-1a2b3c4d5e6f is in progress.";
    let expected = json!({ "state": "pending", "context": "release-agent/shop", "description": sentence, "target_url": LOG });
    assert_eq!(body(&started), expected);
    let made = call(&github, &delivery(Phase::Started, DeliveryKind::Deployment), &subject(None));
    assert_eq!(made.url, "https://api.github.com/repos/acme/shop/deployments");
    let made = body(&made);
    assert_eq!((&made["auto_merge"], &made["required_contexts"], &made["environment"]), (&json!(false), &json!([]), &json!("production")));
    assert_eq!(made["ref"], subject(None).commit);
    let known = Subject { deployment: Some(42), ..subject(Some(OutcomeWord::RolledBack)) };
    let under_way = call(&github, &delivery(Phase::Started, DeliveryKind::DeploymentState), &known);
    assert_eq!(under_way.url, "https://api.github.com/repos/acme/shop/deployments/42/statuses");
    assert_eq!((&body(&under_way)["state"], &body(&under_way)["log_url"]), (&json!("in_progress"), &json!(LOG)));
    let over = body(&call(&github, &delivery(Phase::Ended, DeliveryKind::DeploymentState), &known));
    assert_eq!((&over["state"], over["description"].as_str().unwrap().contains("taken back")), (&json!("failure"), true));
}

#[test]
fn of_a_deployment_that_was_never_made_nothing_is_said() {
    let token = file("hunter2");
    let (delivery, subject) = (delivery(Phase::Ended, DeliveryKind::DeploymentState), subject(Some(OutcomeWord::Live)));
    let speaker = Speaker { host: "web1", journal: "0a0b", address: None, now: Utc::now() };
    let prepared = prepare(&report(github(), "https://x", &token), &Outgoing { delivery: &delivery, subject: &subject, speaker: &speaker });
    assert!(matches!(prepared, Ok(Prepared::Nothing)));
}

#[test]
fn every_outcome_has_its_word_at_each_forge() {
    let token = file("hunter2");
    let (github, gitlab) = (
        report(github(), "https://api.github.com", &token),
        report(To::Gitlab { project: "acme/team/shop".into(), context: "a b".into() }, "https://gitlab.com", &token),
    );
    for (outcome, status, deployment, state) in [
        (OutcomeWord::Live, "success", "success", "success"),
        (OutcomeWord::Failed, "failure", "failure", "failed"),
        (OutcomeWord::RolledBack, "failure", "failure", "failed"),
        (OutcomeWord::Stuck, "failure", "failure", "failed"),
        (OutcomeWord::Cancelled, "error", "inactive", "canceled"),
        (OutcomeWord::Superseded, "error", "inactive", "canceled"),
    ] {
        let known = Subject { deployment: Some(1), ..subject(Some(outcome)) };
        let said = body(&call(&github, &delivery(Phase::Ended, DeliveryKind::Status), &known));
        assert_eq!(said["state"], status, "{outcome:?}");
        assert!(said["description"].as_str().unwrap().len() <= 140, "GitHub takes no more");
        assert_eq!(
            body(&call(&github, &delivery(Phase::Ended, DeliveryKind::DeploymentState), &known))["state"],
            deployment,
            "{outcome:?}"
        );
        let url = call(&gitlab, &delivery(Phase::Ended, DeliveryKind::Status), &known).url;
        assert!(url.contains(&format!("?state={state}&")), "{url}");
    }
}

#[test]
fn gitlab_hears_it_in_the_query() {
    let token = file("glpat-hunter2");
    let gitlab = report(To::Gitlab { project: "acme/team/shop".into(), context: "a b".into() }, "https://gitlab.com", &token);
    let started = call(&gitlab, &delivery(Phase::Started, DeliveryKind::Status), &subject(None));
    assert_eq!(
        started.url,
        "https://gitlab.com/api/v4/projects/acme%2Fteam%2Fshop/statuses/1a2b3c4d5e6f1a2b3c4d5e6f1a2b3c4d5e6f1a2b?state=running&name=a%20b\
         &description=2026-11-20-22-45-23-1a2b3c4d5e6f%20is%20in%20progress.\
         &target_url=https%3A%2F%2Fweb1.example%3A8443%2Fv1%2Fruns%2F7%2Fevents&ref=fix%2F%C3%A4%2Bb"
    );
    assert_eq!(header(&started, "private-token"), "glpat-hunter2");
    assert!(started.body.is_empty());
}

#[test]
fn a_message_is_the_same_however_often_it_is_sent_and_signed_by_each_secret() {
    let secrets = file("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\nwhsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n");
    let webhook = report(To::Webhook, "https://x/y?z", &secrets);
    let ended = call(&webhook, &delivery(Phase::Ended, DeliveryKind::Message), &subject(Some(OutcomeWord::Live)));
    assert_eq!(ended.url, "https://x/y?z");
    assert_eq!((header(&ended, "webhook-id"), header(&ended, "webhook-timestamp")), ("0a0b-7-ended", "1795215600"));
    assert_eq!(header(&ended, "webhook-signature").split(' ').count(), 2);
    let said = body(&ended);
    assert_eq!((&said["type"], &said["timestamp"]), (&json!("run.ended"), &json!("2026-11-20T22:45:23.500Z")));
    let data = json!({
        "host": "web1", "app": "shop", "run": 7, "action": "release", "ref": "refs/heads/fix/ä+b", "commit": subject(None).commit,
        "release": subject(None).release, "caller": "unix:anna", "outcome": "live", "log": LOG,
    });
    assert_eq!(said["data"], data);
    let late = call(&webhook, &delivery(Phase::Started, DeliveryKind::Message), &subject(Some(OutcomeWord::Live)));
    assert_eq!((&body(&late)["type"], &body(&late)["data"]["outcome"]), (&json!("run.started"), &Value::Null));
}

/// The example of the specification (Standard Webhooks 1.0, and the test of its reference libraries).
#[test]
fn the_signature_is_that_of_the_specification() {
    use base64::Engine;
    let secret = base64::engine::general_purpose::STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let signature = webhook::sign(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn a_token_that_others_can_read_or_that_is_none_is_told_without_itself() {
    let token = file("hunter2 hunter3");
    let github = report(github(), "https://api.github.com", &token);
    assert!(!github.token().unwrap_err().to_string().contains("hunter"));
    std::fs::set_permissions(token.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(github.token().unwrap_err().to_string().contains("chmod o="));
}
