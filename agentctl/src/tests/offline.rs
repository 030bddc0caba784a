//! Verbs that need no agent: contradictory arguments, `sign`, and `init --tls`.

use std::path::Path;

use agent_wire::form::Form;

use super::*;
use crate::key::tests::{plain, verified};

fn agentctl(arguments: &str) -> (u8, String, String) {
    let (stdout, stderr) = (Heard::default(), Heard::default());
    let all = ["agentctl"].into_iter().chain(arguments.split_whitespace()).map(OsString::from);
    let code = run_with(all, Out::plain(stdout.clone(), stderr.clone()));
    (code, stdout.text(), stderr.text())
}

#[test]
fn a_way_that_makes_no_sense_is_told() {
    for (arguments, part) in [
        ("--url https://web1 --socket /s status", "name two agents"),
        ("--url https://web1 status", "--url needs a --key"),
        ("--url http://web1 --key k status", "must begin with https://"),
        ("--url https://web1 --key a --key b --key c --key d --key e status", "no more than four --key"),
        ("--url https://web1 --key /nowhere/key status", "cannot read the key /nowhere/key"),
        ("--url https://[::1]:8443 --key k status", "must be a host name"),
        ("--url https://web1 --host Web1 --key k status", "must be a host name"),
        ("--url https://web1 --key k --ca /nowhere/ca status", "cannot read the certificates in /nowhere/ca"),
    ] {
        let (code, stdout, stderr) = agentctl(arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments}: {stderr}");
        assert!(stderr.contains(part), "{arguments}: {stderr}");
    }
}

fn key_in(dir: &Path) -> String {
    plain(dir, "key").display().to_string()
}

#[test]
fn a_request_is_signed_for_another_day() {
    let dir = tempfile::tempdir().unwrap();
    let (key, out) = (key_in(dir.path()), dir.path().join("request.json"));
    let (code, stdout, stderr) = agentctl(&format!(
        "--app shop --key {key} sign release --ref refs/tags/v1 --aud web1.example.org --aud web2 --valid 90s --out {}",
        out.display()
    ));
    assert_eq!(code, 0, "{stderr}");
    let body = std::fs::read(&out).unwrap();
    let form: Form = serde_json::from_slice(&body).unwrap();
    assert_eq!(form.exp.unwrap() - form.iat.unwrap(), 90);
    assert_eq!((form.app.as_str(), form.revision.as_deref()), ("shop", Some("refs/tags/v1")));
    let signature = stdout.trim_end().strip_prefix("Agent-Signature: ").unwrap();
    assert!(verified(dir.path(), &dir.path().join("key.pub"), signature, &body));
    let said = format!("wrote {}: release refs/tags/v1 of shop, for web1.example.org, web2, until ", out.display());
    assert!(stderr.starts_with(&said), "{stderr}");
}

#[test]
fn the_whole_curl_command_is_a_shells() {
    let dir = tempfile::tempdir().unwrap();
    let (key, out) = (key_in(dir.path()), dir.path().join("it's"));
    let (code, stdout, stderr) = agentctl(&format!(
        "--key {key} --url https://web1:8443 --ca ca.pem sign read --path /v1/runs?limit=3&app=shop --curl --out {}",
        out.display()
    ));
    assert_eq!(code, 0, "{stderr}");
    let words = std::process::Command::new("sh").arg("-c").arg(format!("curl() {{ printf '%s\\n' \"$@\"; }}\n{stdout}")).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    let words: Vec<&str> = words.lines().collect();
    let kind = "Content-Type: application/vnd.release-agent.request.v1+json";
    assert_eq!(words[..7], ["-sS", "--fail-with-body", "--cacert", "ca.pem", "-H", kind, "-H"]);
    assert!(words[7].starts_with("Agent-Signature: U1NIU0lH"), "{}", words[7]);
    assert_eq!(words[8..], ["--data-binary", &format!("@{}", out.display()), "https://web1:8443/v1/requests"]);
}

#[test]
fn what_no_agent_would_take_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (key, out) = (key_in(dir.path()), dir.path().join("request.json"));
    for (arguments, part) in [
        ("--app shop sign release --aud web1", "needs `ref`"),
        ("--app shop sign release --ref main --aud web1", "must begin with refs/heads/"),
        ("--app shop sign activate --aud web1", "needs `release`"),
        ("--app shop sign lock --aud web1", "needs `why`"),
        ("--app shop sign plan --aud web1", "send the action read"),
        ("--app shop sign prune", "sign needs an --aud"),
        ("sign prune --aud web1", "sign needs an --app"),
        ("sign read --path /metrics --aud web1", "must be a path below /v1/"),
        ("--app shop sign prune --aud web1 --valid 16m", "at most 15m"),
        ("--app shop sign explode --aud web1", "is none of release"),
    ] {
        let (code, stdout, stderr) = agentctl(&format!("--key {key} {arguments} --out {}", out.display()));
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments}: {stderr}");
        assert!(stderr.contains(part), "{arguments}: {stderr}");
        assert!(!out.exists(), "{arguments}");
    }
    assert!(agentctl(&format!("--app shop sign prune --aud web1 --out {}", out.display())).2.contains("sign needs a --key"));
}

#[test]
fn a_certificate_is_made_once_and_its_key_is_its_owners() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    let make = || agentctl(&format!("init --dir {} --tls web1.example.org 10.0.0.5", config.display()));
    let (code, stdout, stderr) = make();
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    let (cert, key) = (config.join("tls/cert.pem"), config.join("tls/key.pem"));
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o7777, 0o600);

    let openssl = |arguments: &str| {
        let output = std::process::Command::new("openssl").args(arguments.split_whitespace()).arg("-in").arg(&cert).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let fingerprint = openssl("x509 -noout -fingerprint -sha256");
    assert!(stderr.contains(fingerprint.trim().split_once('=').unwrap().1), "{stderr}");
    let names = openssl("x509 -noout -ext subjectAltName");
    assert!(names.contains("DNS:web1.example.org, IP Address:10.0.0.5"), "{names}");
    assert!(openssl("x509 -noout -checkend 300000000").contains("will not expire"));
    for part in ["[https]\n    host = \"web1.example.org\"", "--url https://web1.example.org:8443 --ca cert.pem", "10.0.0.5"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert!(!stderr.contains("PRIVATE"));

    let before = std::fs::read(&cert).unwrap();
    let (code, _, stderr) = make();
    assert_eq!(code, 2);
    assert!(stderr.contains("is there already, and is left as it is"), "{stderr}");
    assert_eq!(std::fs::read(&cert).unwrap(), before);
    assert_eq!(std::fs::read_dir(config.join("tls")).unwrap().count(), 2);

    for (arguments, part) in [
        ("init --tls Web_1", "must be a host name"),
        ("init --tls ::1", "must have a host name beside its addresses"),
        ("init shop --tls web1", "cannot be used with"),
        ("init", "--repository"),
    ] {
        let (code, _, stderr) = agentctl(&format!("{arguments} --dir {}", dir.path().display()));
        assert_eq!(code, 2, "{arguments}");
        assert!(stderr.contains(part), "{arguments}: {stderr}");
    }
}

#[test]
fn completions_and_manual_pages_know_the_way_over_the_network() {
    let (_, script, _) = agentctl("completions bash");
    let (_, page, _) = agentctl("man");
    for word in ["url", "key", "ca", "host"] {
        assert!(script.contains(&format!("--{word}")), "{word}");
        assert!(page.contains(&format!("\\-\\-{word}")), "{word}");
    }
    for verb in ["whoami", "sign"] {
        assert!(script.contains(verb) && page.contains(verb), "{verb}");
    }
}
