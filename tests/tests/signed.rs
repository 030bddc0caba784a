//! Signed requests over the network, and whoever would like to be taken for somebody who signs. Each refusal here is that of a request which is
//! right in everything but one thing; the first test shows that one which is right in everything is taken.
#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::thread;
use std::time::Duration;

use agent_tests::{Answer, Bench, HOST, Network, Repo, SigningKey, form, nonce, now, wait_until};
use agent_wire::sshsig::{BadBlob, Hash, NAMESPACE, PublicKey, Sshsig};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);

/// An agent with the apps `plain` and `second`, and a key that may do everything to both from `main` and `v*` but go back.
struct Site {
    bench: Bench,
    repo: Repo,
    network: Network,
    key: SigningKey,
}

const GRANT: &str =
    "[[grant]]\nto = \"key:ci\"\napps = [\"plain\", \"second\"]\nactions = [\"*\"]\nbranches = [\"main\"]\ntags = [\"v*\"]\n";

impl Site {
    fn new(name: &str) -> Self {
        Self::with(name, GRANT, |key| key.line("ci"))
    }

    fn with(name: &str, grants: &str, signers: impl Fn(&SigningKey) -> String) -> Self {
        let bench = Bench::new(name);
        let repo = bench.repo("plain");
        repo.write("page.html", "one").commit("One");
        repo.tag("v1").write("page.html", "two").commit("Two");
        let settings = format!("repository = {:?}\nbranches = [\"main\", \"other\"]\ntags = [\"v*\"]\n", repo.path());
        bench.app("plain", &settings).app("second", &settings);
        let key = SigningKey::default();
        let network = bench.network("", grants, &signers(&key));
        bench.start();
        Self { bench, repo, network, key }
    }

    fn runs(&self) -> usize {
        self.bench.runs().len()
    }

    /// Asks as the key, and nothing is wrong with the request.
    #[track_caller]
    fn ask(&self, form: &Value) -> Answer {
        self.network.ask(&self.key, form)
    }

    /// Asks for a release, and waits for its end; answers with the outcome.
    #[track_caller]
    fn released(&self, more: Value) -> String {
        let answer = self.ask(&form("release", more));
        assert_eq!(answer.status, 202, "{}", answer.body);
        self.outcome(&answer)
    }

    #[track_caller]
    fn outcome(&self, answer: &Answer) -> String {
        let run = json(answer)["run"].as_u64().unwrap();
        self.bench.events(run).last().unwrap()["outcome"].as_str().unwrap().to_owned()
    }

    /// A body, and what happens to it on the way.
    #[track_caller]
    fn refused(&self, answer: &Answer, status: u16, code: &str) {
        assert_eq!((answer.status, json(answer)["code"].as_str()), (status, Some(code)), "{}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(self.runs(), 0, "nothing may have begun");
    }

    /// The answer that everybody gets who proves nothing.
    #[track_caller]
    fn unproven(&self, answer: &Answer) {
        self.refused(answer, 401, "unauthenticated");
        assert_eq!(json(answer)["detail"], "nothing here proves whose request this is", "one answer, whatever was wrong");
        let challenges: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "www-authenticate").collect();
        assert!(challenges.iter().any(|(_, value)| value.starts_with("Agent-Signature ")), "{challenges:?}");
    }
}

fn json(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|err| panic!("no JSON ({err}): {}", answer.body))
}

fn prune() -> String {
    form("prune", json!({})).to_string()
}

#[test]
fn a_signed_request_is_carried_out_followed_by_its_token_and_read_by_its_signer() {
    let site = Site::new("signed");
    let commit = site.repo.id("main");
    let answer = site.ask(&form("release", json!({ "ref": "refs/heads/main", "commit": commit, "prev": null, "options": {} })));
    assert_eq!(answer.status, 202, "{}", answer.body);
    let taken = json(&answer);
    let (run, token) = (taken["run"].as_u64().unwrap(), taken["token"].as_str().unwrap().to_owned());
    let bearer = format!("Bearer {token}");
    let events = |run: u64, headers: &[(&str, &str)]| {
        agent_tests::request(&site.network.place(), "GET", &format!("/v1/runs/{run}/events"), headers, "").unwrap()
    };
    let told = events(run, &[("Authorization", &bearer)]);
    assert_eq!(told.status, 200);
    let last: Value = serde_json::from_str(told.body.lines().last().unwrap()).unwrap();
    assert_eq!((last["what"].as_str(), last["outcome"].as_str()), (Some("ended"), Some("live")));
    assert_eq!(site.bench.runs()[0]["caller"], "key:ci");

    let who = json(&site.network.read(&site.key, "/v1/whoami"));
    assert_eq!((who["caller"].as_str(), who["all"].as_bool()), (Some("key:ci"), Some(false)));
    assert_eq!(who["grants"][0]["apps"], json!(["plain", "second"]));
    let releases = json(&site.network.read(&site.key, "/v1/apps/plain/releases"));
    assert_eq!(releases["releases"][0]["commit"], commit.as_str());
    let plan = site.network.read(&site.key, "/v1/apps/plain/plan?ref=v1");
    assert_eq!((plan.status, json(&plan)["ahead"].as_i64()), (200, Some(-1)), "{}", plan.body);
    // What is read by a signed request is answered as a GET on the socket would be, streams and refusals too.
    let again = site.network.read(&site.key, &format!("/v1/runs/{run}/events?after=1"));
    assert_eq!(again.body.lines().count() + 1, told.body.lines().count());
    assert_eq!(site.network.read(&site.key, "/v1/nothing").status, 404);
    assert_eq!(site.network.read(&site.key, "/v1/requests").status, 404);
    // Without any proof, only what is no secret.
    for (path, status) in
        [("/healthz", 200), ("/openapi.json", 200), ("/v1/apps", 401), ("/v1/runs/1", 401), ("/metrics", 401), ("/x", 404)]
    {
        assert_eq!(agent_tests::get(&site.network.place(), path).unwrap().status, status, "{path}");
    }
}

/// The signature is OpenSSH's own: what ssh-keygen makes is taken.
#[test]
fn what_ssh_keygen_signs_is_taken() {
    let site = Site::with("ssh-keygen", GRANT, |key| key.line("other"));
    let keygen = |args: &[&str]| {
        let mut command = site.bench.command("ssh-keygen");
        command.args(args);
        site.bench.begin(command).finish(SOON).expect(0)
    };
    keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "ci"]);
    let public = fs::read_to_string(site.bench.path("ci.pub")).unwrap();
    site.bench.write("config/allowed_signers", format!("ci namespaces=\"release-agent.v1\" {public}"));
    site.bench.reload_keys();
    let body = prune();
    site.bench.write("body.json", &body);
    for hash in ["sha512", "sha256"] {
        let _ = fs::remove_file(site.bench.path("body.json.sig"));
        keygen(&["-q", "-Y", "sign", "-f", "ci", "-n", NAMESPACE, "-O", &format!("hashalg={hash}"), "body.json"]);
        let armoured = fs::read_to_string(site.bench.path("body.json.sig")).unwrap();
        let line: String = armoured.lines().filter(|line| !line.starts_with("-----")).collect();
        let answer = site.network.send_with(&body, &[("Agent-Signature", &line)]);
        assert!([200, 202].contains(&answer.status), "{hash}: {}", answer.body);
    }
    assert_eq!(site.runs(), 1, "the same bytes by the same caller are one request, however they were hashed for signing");
}

#[test]
fn sig_01_no_signature() {
    let site = Site::new("sig 01");
    site.unproven(&site.network.send(&prune(), &[]));
    // Nor more than there may be: each costs time.
    let body = prune();
    let signature = site.key.sign(&body);
    site.unproven(&site.network.send(&body, &vec![signature.clone(); 5]));
    // Nor two ways to be somebody at once.
    site.unproven(&site.network.send_with(&body, &[("Agent-Signature", &signature.to_base64()), ("Authorization", "Bearer x")]));
    assert_eq!(site.network.send(&body, &vec![signature; 4]).status, 202, "four are allowed");
}

/// Right in everything but its length: a key can be made for an application of any name.
#[test]
fn sig_01_a_signature_that_is_too_long() {
    let (short, long) = ("ssh:short", format!("ssh:{}", "x".repeat(1400)));
    let grants = "[[grant]]\nto = \"key:boss\"\napps = [\"*\"]\nactions = [\"*\"]\nkeys = \"any\"\n";
    let site = Site::with("sig 01, long", grants, |key| {
        let line = |application: &str| format!("boss {}\n", key.public_hardware_for(application).to_line());
        line(short) + &line(&long)
    });
    let body = prune();
    let signature = site.key.sign_in_hardware_for(&body, 1, &long);
    assert!(signature.to_base64().len() > 2048);
    site.unproven(&site.network.send(&body, &[signature]));
    assert_eq!(site.network.send(&body, &[site.key.sign_in_hardware_for(&body, 1, short)]).status, 202);
}

#[test]
fn sig_02_empty_header() {
    let site = Site::new("sig 02");
    site.unproven(&site.network.send_with(&prune(), &[("Agent-Signature", "")]));
}

#[test]
fn sig_03_garbage_base64() {
    let site = Site::new("sig 03");
    let body = prune();
    let text = site.key.sign(&body).to_base64();
    let blob = STANDARD.decode(&text).unwrap();
    let longer = STANDARD.encode([blob.as_slice(), &[0]].concat());
    let url_safe = text.replace('+', "-").replace('/', "_");
    let unpadded = text.trim_end_matches('=').to_owned();
    let mut wrong = vec!["!!!!".to_owned(), "SSHSIG".to_owned(), format!("{text} "), format!(" {text}A"), text[1..].to_owned(), longer];
    wrong.extend([url_safe, unpadded].into_iter().filter(|other| *other != text));
    // White space around a value is not a part of it (RFC 9110, section 5.5).
    wrong.retain(|other| other.trim() != text);
    for text in wrong {
        site.unproven(&site.network.send_with(&body, &[("Agent-Signature", &text)]));
    }
}

#[test]
fn sig_04_unknown_key() {
    let site = Site::new("sig 04");
    let body = prune();
    site.unproven(&site.network.send(&body, &[SigningKey::default().sign(&body)]));
    // One that is known does not vouch for one that is not.
    site.unproven(&site.network.send(&body, &[site.key.sign(&body), SigningKey::default().sign(&body)]));
}

#[test]
fn sig_05_revoked_key() {
    let site = Site::new("sig 05");
    site.bench.write("config/revoked_keys", format!("{} lost with a laptop\n", site.key.public().to_line()));
    site.bench.reload_keys();
    site.unproven(&site.ask(&form("prune", json!({}))));
    // A list that is gone was lost; one that is empty was emptied by somebody.
    fs::write(site.bench.path("config/revoked_keys"), "").unwrap();
    site.bench.reload_keys();
    assert_eq!(site.ask(&form("prune", json!({}))).status, 202);
}

#[test]
fn sig_06_key_not_yet_valid() {
    let site = Site::with("sig 06", GRANT, |key| key.line("ci").replacen("ci ", "ci valid-after=\"20990101Z\" ", 1));
    site.unproven(&site.ask(&form("prune", json!({}))));
}

#[test]
fn sig_07_key_expired() {
    let site = Site::with("sig 07", GRANT, |key| key.line("ci").replacen("ci ", "ci valid-before=\"20200101Z\" ", 1));
    site.unproven(&site.ask(&form("prune", json!({}))));
}

#[test]
fn sig_08_key_valid_but_nothing_granted() {
    let grants = "[[grant]]\nto = \"key:ci\"\napps = [\"plain\"]\nactions = [\"release\", \"read\"]\ntags = [\"v*\"]\n";
    let site = Site::with("sig 08", grants, |key| key.line("ci"));
    let answer = site.ask(&form("prune", json!({})));
    site.refused(&answer, 403, "not_allowed");
    assert!(json(&answer)["hint"].as_str().unwrap().contains("to = \"key:ci\""), "{}", answer.body);
    site.refused(&site.ask(&form("release", json!({ "app": "second", "ref": "refs/tags/v1" }))), 403, "not_allowed");
    let main = site.repo.id("main");
    site.refused(&site.ask(&form("release", json!({ "ref": "refs/heads/main", "commit": main }))), 403, "not_allowed");
    // Whom the grant names under another name is not this key.
    let other = Site::with("sig 08, another", GRANT, |key| key.line("ci2"));
    other.refused(&other.ask(&form("prune", json!({}))), 403, "not_allowed");
    // Named by its commit alone, the refs of the grant still decide.
    let answer = site.ask(&form("release", json!({ "commit": main })));
    assert_eq!((answer.status, site.outcome(&answer)), (202, "failed".to_owned()));
    assert_eq!(site.released(json!({ "ref": "refs/tags/v1" })), "live");
}

#[test]
fn sig_09_signers_replaced_by_garbage() {
    let site = Site::new("sig 09");
    site.bench.write("config/allowed_signers", "ci ssh-ed25519 garbage\n");
    site.bench.reload_keys();
    site.bench.ctl(["doctor"]).expect(1).says(&["allowed_signers:1:", "is not base64"]);
    assert_eq!(site.ask(&form("prune", json!({}))).status, 202, "the last good ones stay");
    // A start with it is none.
    site.bench.stop();
    site.bench.start_refused().expect(64).says(&["allowed_signers:1:"]);
}

#[test]
fn sig_10_revocations_replaced_by_garbage() {
    let site = Site::new("sig 10");
    let line = site.key.public().to_line();
    site.bench.write("config/revoked_keys", &line);
    site.bench.reload_keys();
    site.unproven(&site.ask(&form("prune", json!({}))));
    site.bench.write("config/revoked_keys", "\u{1}\u{2}garbage\n");
    site.bench.reload_keys();
    site.unproven(&site.ask(&form("prune", json!({}))));
    // What can be read counts at once, among garbage and with a broken app file beside it.
    let other = SigningKey::default();
    site.bench.write("config/allowed_signers", site.key.line("old") + &other.line("ci"));
    site.bench.reload_keys();
    site.bench.write("config/apps/plain.toml", "nonsense");
    site.bench.write("config/revoked_keys", format!("garbage\n{}\n", other.public().to_line()));
    site.bench.reload_keys();
    site.unproven(&site.network.ask(&other, &form("prune", json!({}))));
}

#[test]
fn sig_11_key_under_another_type() {
    let site = Site::new("sig 11");
    let body = prune();
    let blob = site.key.sign(&body).to_blob();
    let at = blob.windows(11).position(|window| window == b"ssh-ed25519").unwrap();
    for other in [b"ssh-ed25518", b"ssh-dss1234", b"ssh-rsa\0\0\0\0"] {
        let mut blob = blob.clone();
        blob[at..at + 11].copy_from_slice(other);
        site.unproven(&site.network.send_with(&body, &[("Agent-Signature", &STANDARD.encode(blob))]));
    }
    // The same key, as if a hardware authenticator held it, is another key.
    site.unproven(&site.network.send(&body, &[site.key.sign_in_hardware(&body, 1)]));
}

/// The host's own keys open nothing: neither the key of its certificate, nor an SSH host key, unless somebody lists them.
#[test]
fn sig_12_signature_by_the_host() {
    let site = Site::new("sig 12");
    let mut keygen = site.bench.command("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f", "ssh_host_ed25519_key"]);
    site.bench.begin(keygen).finish(SOON).expect(0);
    let body = prune();
    site.bench.write("body.json", &body);
    let mut sign = site.bench.command("ssh-keygen");
    sign.args(["-q", "-Y", "sign", "-f", "ssh_host_ed25519_key", "-n", NAMESPACE, "body.json"]);
    site.bench.begin(sign).finish(SOON).expect(0);
    let armoured = fs::read_to_string(site.bench.path("body.json.sig")).unwrap();
    let line: String = armoured.lines().filter(|line| !line.starts_with("-----")).collect();
    assert!(Sshsig::from_base64(&line).is_ok(), "it is a good signature");
    site.unproven(&site.network.send_with(&body, &[("Agent-Signature", &line)]));
}

#[test]
fn sig_13_replay_on_the_same_host() {
    let site = Site::new("sig 13");
    let body = form("release", json!({ "ref": "refs/heads/main" })).to_string();
    let signature = site.key.sign(&body);
    let first = site.network.send(&body, std::slice::from_ref(&signature));
    assert_eq!((first.status, site.outcome(&first)), (202, "live".to_owned()));
    let second = site.network.send(&body, &[signature]);
    assert_eq!(second.status, 200, "{}", second.body);
    assert_eq!(json(&first), json(&second), "the same run, and the same token");
    assert_eq!(site.runs(), 1);
}

#[test]
fn sig_14_replay_after_a_restart() {
    let site = Site::new("sig 14");
    let body = prune();
    let signature = site.key.sign(&body);
    assert_eq!(site.network.send(&body, std::slice::from_ref(&signature)).status, 202);
    site.bench.kill();
    site.bench.start();
    assert_eq!(site.network.send(&body, &[signature]).status, 200);
    assert_eq!(site.runs(), 1);
}

#[test]
fn sig_15_replay_after_the_journal_was_deleted() {
    let site = Site::new("sig 15");
    let body = prune();
    let signature = site.key.sign(&body);
    assert_eq!(site.network.send(&body, std::slice::from_ref(&signature)).status, 202);
    site.bench.stop();
    for entry in fs::read_dir(site.bench.path("state")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("journal.db") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    site.bench.start();
    site.refused(&site.network.send(&body, &[signature]), 410, "out_of_window");
    // Nor one of a client whose clock is ahead as far as it may be.
    site.refused(&site.ask(&form("prune", json!({ "iat": now() + 55, "exp": now() + 300 }))), 410, "out_of_window");
    assert!(site.bench.log().contains("another one was here before"));
}

/// The whole state directory is gone; the releases tell that this host is not new.
#[test]
fn sig_15_replay_after_the_whole_state_was_deleted() {
    let site = Site::new("sig 15, all of it");
    let body = form("release", json!({ "ref": "refs/heads/main" })).to_string();
    let signature = site.key.sign(&body);
    let first = site.network.send(&body, std::slice::from_ref(&signature));
    assert_eq!((first.status, site.outcome(&first)), (202, "live".to_owned()));
    site.bench.stop();
    fs::remove_dir_all(site.bench.path("state")).unwrap();
    site.bench.start();
    site.refused(&site.network.send(&body, &[signature]), 410, "out_of_window");
}

#[test]
fn sig_16_replay_after_the_journal_was_cut() {
    let site = Site::new("sig 16");
    let body = prune();
    let signature = site.key.sign(&body);
    assert_eq!(site.network.send(&body, std::slice::from_ref(&signature)).status, 202);
    site.bench.stop();
    let file = site.bench.path("state/journal.db");
    // What the agent wrote may still stand beside the file, to be moved into it at the next start.
    let mut sqlite = site.bench.command("sqlite3");
    sqlite.arg(&file).arg("PRAGMA wal_checkpoint(TRUNCATE)");
    site.bench.begin(sqlite).finish(SOON).expect(0);
    let whole = fs::read(&file).unwrap();
    let mut refused = 0;
    for length in [0, 1, 511, 4095, 4096, whole.len() / 2 + 7, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        for beside in ["state/journal.db-wal", "state/journal.db-shm"] {
            let _ = fs::remove_file(site.bench.path(beside));
        }
        // Either nobody is heard, or nothing is done twice.
        match site.bench.start_or_not() {
            Some(said) => {
                assert!([65, 74].contains(&said.code), "cut at {length}: {}\n{}", said.code, said.stderr);
                refused += 1;
            }
            None => {
                let answer = site.network.send(&body, std::slice::from_ref(&signature));
                assert_ne!(answer.status, 202, "cut at {length}");
                site.bench.stop();
            }
        }
    }
    assert!(refused >= 3, "a journal that is cut is no journal: {refused}");
    fs::write(&file, &whole).unwrap();
    site.bench.start();
    assert_eq!(site.network.send(&body, &[signature]).status, 200, "whole again, it remembers");
}

#[test]
fn sig_17_replay_to_another_host() {
    let site = Site::new("sig 17");
    site.refused(&site.ask(&form("prune", json!({ "aud": ["web2.test"] }))), 403, "other_host");
    site.refused(&site.ask(&form("prune", json!({ "aud": [] }))), 400, "malformed");
    site.refused(&site.ask(&form("prune", json!({ "aud": null }))), 400, "malformed");
    site.refused(&site.ask(&form("prune", json!({ "aud": [format!("{HOST}.evil.test")] }))), 403, "other_host");
    // What `Host` says decides nothing.
    let body = form("prune", json!({ "aud": ["web2.test"] })).to_string();
    let text = site.key.sign(&body).to_base64();
    site.refused(&site.network.send_with(&body, &[("Agent-Signature", &text), ("Host", "web2.test")]), 403, "other_host");
    assert_eq!(site.ask(&form("prune", json!({ "aud": ["web2.test", HOST] }))).status, 202, "one of several");
}

#[test]
fn sig_18_two_identical_requests_at_once() {
    let site = Site::new("sig 18");
    for _ in 0..5 {
        let before = site.runs();
        let body = prune();
        let signature = site.key.sign(&body);
        let answers: Vec<Answer> = thread::scope(|scope| {
            let send = || site.network.send(&body, std::slice::from_ref(&signature));
            let sent: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
            sent.into_iter().map(|sent| sent.join().unwrap()).collect()
        });
        assert_eq!(answers.iter().filter(|answer| answer.status == 202).count(), 1);
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 7);
        assert!(answers.iter().all(|answer| json(answer)["run"] == json(&answers[0])["run"]));
        assert_eq!(site.runs(), before + 1);
    }
}

#[test]
fn sig_19_same_nonce_other_body() {
    let site = Site::new("sig 19");
    let first = form("prune", json!({}));
    assert_eq!(site.ask(&first).status, 202);
    let mut other = first.clone();
    other["app"] = "second".into();
    let answer = site.ask(&other);
    assert_eq!((answer.status, json(&answer)["code"].as_str()), (409, Some("nonce_reused")));
    // The same form in other bytes is another body.
    let spaced = first.to_string().replacen(',', ", ", 1);
    let answer = site.network.send(&spaced, &[site.key.sign(&spaced)]);
    assert_eq!((answer.status, json(&answer)["code"].as_str()), (409, Some("nonce_reused")));
    assert_eq!(site.runs(), 1);
}

#[test]
fn sig_20_same_nonce_other_key() {
    let other = SigningKey::default();
    let grants = format!("{GRANT}[[grant]]\nto = \"key:other\"\napps = [\"*\"]\nactions = [\"*\"]\n");
    let site = Site::with("sig 20", &grants, |key| key.line("ci") + &other.line("other"));
    let body = prune();
    assert_eq!(site.network.send(&body, &[site.key.sign(&body)]).status, 202);
    let answer = site.network.send(&body, &[other.sign(&body)]);
    assert_eq!((answer.status, json(&answer)["code"].as_str()), (409, Some("nonce_reused")), "nobody learns of another's run");
    assert_eq!(site.runs(), 1);
}

/// Every bit of the body, and every bit of the signature.
#[test]
fn sig_21_one_bit_other() {
    let site = Site::new("sig 21");
    let body = prune();
    let blob = site.key.sign(&body).to_blob();
    let text = STANDARD.encode(&blob);
    let mut tried = 0;
    // On one connection after the other, each a handshake: so by every bit here, and over the wire by some.
    let signature = site.key.sign(&body);
    for at in 0..body.len() * 8 {
        let mut other = body.clone().into_bytes();
        other[at / 8] ^= 1 << (at % 8);
        let Ok(other) = String::from_utf8(other) else { continue };
        if at % 37 == 0 && !other.contains(['\r', '\n']) {
            site.unproven(&site.network.send(&other, std::slice::from_ref(&signature)));
            tried += 1;
        }
    }
    for at in (0..blob.len() * 8).step_by(41) {
        let mut other = blob.clone();
        other[at / 8] ^= 1 << (at % 8);
        site.unproven(&site.network.send_with(&body, &[("Agent-Signature", &STANDARD.encode(other))]));
        tried += 1;
    }
    assert!(tried > 60, "{tried}");
    assert_eq!(site.network.send_with(&body, &[("Agent-Signature", &text)]).status, 202, "unchanged, it is taken");
}

/// What was signed is another request than what is sent.
#[track_caller]
fn swapped(name: &str, member: &str, signed: Value, sent: Value) {
    let site = Site::new(name);
    let body = form("release", json!({ "ref": "refs/heads/main", member: signed }));
    let mut other = body.clone();
    other[member] = sent;
    site.unproven(&site.network.send(&other.to_string(), &[site.key.sign(&body.to_string())]));
    assert_eq!(site.ask(&other).status, 202, "signed as it is, it would have been taken");
}

#[test]
fn sig_22_app_swapped() {
    swapped("sig 22", "app", json!("plain"), json!("second"));
}

#[test]
fn sig_23_action_swapped() {
    swapped("sig 23", "action", json!("release"), json!("prune"));
}

#[test]
fn sig_24_ref_swapped() {
    swapped("sig 24", "ref", json!("refs/heads/main"), json!("refs/tags/v1"));
}

#[test]
fn sig_25_bytes_behind_the_form() {
    let site = Site::new("sig 25");
    let body = prune();
    // Behind what was signed.
    site.unproven(&site.network.send(&format!("{body} "), &[site.key.sign(&body)]));
    // Signed, and no one form.
    for more in ["x", "{}", ",", "\0", "]"] {
        let body = format!("{}{more}", prune());
        site.refused(&site.network.send(&body, &[site.key.sign(&body)]), 400, "malformed");
    }
}

#[test]
fn sig_26_duplicate_member() {
    let site = Site::new("sig 26");
    for more in ["\"app\":\"second\"", "\"action\":\"release\"", "\"exp\":9999999999", "\"nonce\":\"0123456789abcdef0123456789abcdef\""] {
        let body = prune().replacen('{', &format!("{{{more},"), 1);
        site.refused(&site.network.send(&body, &[site.key.sign(&body)]), 400, "malformed");
    }
    // And nothing that is not known.
    site.refused(&site.ask(&form("prune", json!({ "force": true }))), 400, "malformed");
    site.refused(&site.ask(&form("prune", json!({ "options": { "unsafe": true } }))), 400, "malformed");
    // Nor a name in letters that only look the same.
    site.refused(&site.ask(&form("prune", json!({ "app": "plаin" }))), 400, "malformed");
}

#[test]
fn sig_27_expired() {
    let site = Site::new("sig 27");
    let answer = site.ask(&form("prune", json!({ "iat": now() - 400, "exp": now() - 100 })));
    site.refused(&answer, 410, "out_of_window");
    assert!(json(&answer)["detail"].as_str().unwrap().starts_with("the request expired 10"), "{}", answer.body);
}

#[test]
fn sig_28_issued_in_the_future() {
    let site = Site::new("sig 28");
    site.refused(&site.ask(&form("prune", json!({ "iat": now() + 100, "exp": now() + 300 }))), 410, "out_of_window");
}

#[test]
fn sig_29_valid_for_too_long() {
    let site = Site::new("sig 29");
    let iat = now();
    site.refused(&site.ask(&form("prune", json!({ "iat": iat, "exp": iat + 901 }))), 400, "malformed");
    assert_eq!(site.ask(&form("prune", json!({ "iat": iat, "exp": iat + 900 }))).status, 202);
}

#[test]
fn sig_30_impossible_times() {
    let site = Site::new("sig 30");
    let iat = now();
    let times = ["-1", "1e9", "1795213000.0", "18446744073709551616", "99999999999999999999999999", "\"1795213000\"", "true", "[]"];
    for (member, time) in times.iter().flat_map(|time| [("iat", time), ("exp", time)]) {
        let asked = form("prune", json!({ "iat": iat, "exp": iat + 300 })).to_string();
        let body =
            asked.replacen(&format!("\"{member}\":{}", if member == "iat" { iat } else { iat + 300 }), &format!("\"{member}\":{time}"), 1);
        assert_ne!(body, asked);
        site.refused(&site.network.send(&body, &[site.key.sign(&body)]), 400, "malformed");
    }
    // A number that fits, and overflows whatever is added to it.
    let answer = site.ask(&form("prune", json!({ "iat": u64::MAX - 10, "exp": u64::MAX })));
    site.refused(&answer, 410, "out_of_window");
    for missing in ["iat", "exp", "nonce", "v"] {
        site.refused(&site.ask(&form("prune", json!({ missing: null }))), 400, "malformed");
    }
}

/// By the second, with the agent's own clock: a request right inside of each edge is taken, and one right outside is not. The edges themselves are
/// held to the second where the clock is a value (`the_edges_of_the_window_are_where_they_are_said_to_be`).
#[test]
fn sig_31_edges_of_the_window() {
    let site = Site::new("sig 31");
    let edge = |iat: i64, exp: i64| {
        let at = |offset: i64| now().saturating_add_signed(offset);
        site.ask(&form("prune", json!({ "iat": at(iat), "exp": at(exp) }))).status
    };
    assert_eq!(edge(75, 300), 410);
    assert_eq!(edge(-300, -61), 410);
    // Inside, by as much as a busy machine may need.
    assert_eq!(edge(45, 300), 202);
    site.bench.stop();
    // The agent remembers from its first start on; a later start has no reason to forget.
    site.bench.start();
    assert_eq!(edge(0, 1), 202);
}

#[test]
fn sig_32_other_versions() {
    let site = Site::new("sig 32");
    for version in [json!(0), json!(2), json!("1"), json!(1.0), json!(null)] {
        site.refused(&site.ask(&form("prune", json!({ "v": version }))), 400, "malformed");
    }
}

#[test]
fn sig_33_other_namespaces() {
    let site = Site::new("sig 33");
    let body = prune();
    for namespace in ["git", "file", "", "release-agent", "release-agent.v1 ", "release-agent.v2", "Release-Agent.v1", "*"] {
        site.unproven(&site.network.send(&body, &[site.key.sign_for(&body, namespace, Hash::Sha512)]));
    }
    assert_eq!(site.network.send(&body, &[site.key.sign_for(&body, NAMESPACE, Hash::Sha256)]).status, 202);
}

#[test]
fn sig_34_hash_sha1() {
    let site = Site::new("sig 34");
    let body = prune();
    let blob = site.key.sign_for(&body, NAMESPACE, Hash::Sha256).to_blob();
    let at = blob.windows(10).position(|window| window == b"\0\0\0\x06sha256").unwrap();
    for other in [&b"\0\0\0\x04sha1"[..], b"\0\0\0\x03md5", b"\0\0\0\0", b"\0\0\0\x06sha384", b"\0\0\0\x06SHA256"] {
        let blob = [&blob[..at], other, &blob[at + 10..]].concat();
        site.unproven(&site.network.send_with(&body, &[("Agent-Signature", &STANDARD.encode(blob))]));
    }
}

/// Real keys of every other type that ssh-keygen makes, and real signatures by them.
#[test]
fn sig_35_other_types_of_key() {
    let site = Site::new("sig 35");
    let keygen = |args: &[&str]| {
        let mut command = site.bench.command("ssh-keygen");
        command.args(args);
        site.bench.begin(command).finish(SOON)
    };
    let body = prune();
    site.bench.write("body.json", &body);
    for (kind, bits) in [("rsa", "2048"), ("ecdsa", "256"), ("ecdsa", "521")] {
        let file = format!("{kind}-{bits}");
        keygen(&["-q", "-t", kind, "-b", bits, "-N", "", "-C", "", "-f", &file]).expect(0);
        let _ = fs::remove_file(site.bench.path("body.json.sig"));
        keygen(&["-q", "-Y", "sign", "-f", &file, "-n", NAMESPACE, "body.json"]).expect(0);
        let armoured = fs::read_to_string(site.bench.path("body.json.sig")).unwrap();
        let line: String = armoured.lines().filter(|line| !line.starts_with("-----")).collect();
        assert_eq!(Sshsig::from_base64(&line), Err(BadBlob::KeyType));
        site.unproven(&site.network.send_with(&body, &[("Agent-Signature", &line)]));
        // Nor can one be listed.
        let public = fs::read_to_string(site.bench.path(format!("{file}.pub"))).unwrap();
        site.bench.write("config/allowed_signers", format!("ci {public}"));
        site.bench.reload_keys();
        site.bench.ctl(["doctor"]).expect(1).says(&["of a key type other than ssh-ed25519"]);
    }
    // A certificate: the key of an authority that signed another.
    keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "authority"]).expect(0);
    keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", "user"]).expect(0);
    keygen(&["-q", "-s", "authority", "-I", "ci", "-n", "ci", "user.pub"]).expect(0);
    let certificate = fs::read_to_string(site.bench.path("user-cert.pub")).unwrap();
    assert_eq!(PublicKey::from_base64(certificate.split(' ').nth(1).unwrap()), Err(BadBlob::KeyType));
    let _ = fs::remove_file(site.bench.path("body.json.sig"));
    keygen(&["-q", "-Y", "sign", "-f", "user-cert.pub", "-n", NAMESPACE, "body.json"]);
    if let Ok(armoured) = fs::read_to_string(site.bench.path("body.json.sig")) {
        let line: String = armoured.lines().filter(|line| !line.starts_with("-----")).collect();
        site.unproven(&site.network.send_with(&body, &[("Agent-Signature", &line)]));
    }
}

#[test]
fn sig_36_other_versions_of_the_signature() {
    let site = Site::new("sig 36");
    let body = prune();
    let blob = site.key.sign(&body).to_blob();
    let mut second = blob.clone();
    second[9] = 2;
    let at = blob.windows(10).position(|window| window == b"\0\0\0\x06sha512").unwrap();
    let reserved = [&blob[..at - 4], b"\0\0\0\x01x", &blob[at..]].concat();
    let mut magic = blob.clone();
    magic[0] = b's';
    for other in [second, reserved, magic, [blob.as_slice(), b"\0"].concat()] {
        site.unproven(&site.network.send_with(&body, &[("Agent-Signature", &STANDARD.encode(other))]));
    }
}

#[test]
fn sig_37_older_commit_without_the_right() {
    let site = Site::new("sig 37");
    assert_eq!(site.released(json!({ "ref": "refs/heads/main", "commit": site.repo.id("main") })), "live");
    let live = site.bench.live("plain").unwrap();
    assert_eq!(site.released(json!({ "ref": "refs/tags/v1", "commit": site.repo.id("v1^{commit}") })), "failed");
    assert_eq!(site.bench.live("plain"), Some(live.clone()));
    site.bench.ctl(["logs", "2", "--app", "plain"]).says(&["is older than the live one", "key:ci may not go back", "downgrade = true"]);
    // The same again, and what descends from it, is no step back.
    assert_eq!(site.released(json!({ "commit": site.repo.id("main") })), "live");
    site.repo.write("page.html", "three").commit("Three");
    assert_eq!(site.released(json!({ "ref": "refs/heads/main" })), "live");
    // A ref of the grant that was moved aside by force is one.
    site.repo.reset("v1");
    site.repo.write("page.html", "aside").commit("Aside");
    assert_eq!(site.released(json!({ "ref": "refs/heads/main" })), "failed");
    // `activate` is an action of its own.
    let answer = site.ask(&form("activate", json!({ "release": live })));
    assert_eq!((answer.status, site.outcome(&answer)), (202, "live".to_owned()));
}

/// Another key may go back, and this one from tags alone; neither lends its right.
#[test]
fn sig_38_older_commit_with_the_right_of_another() {
    let other = SigningKey::default();
    let grants = format!(
        "{GRANT}[[grant]]\nto = \"key:ci\"\napps = [\"second\"]\nactions = [\"release\"]\ntags = [\"v*\"]\ndowngrade = true\n\
         [[grant]]\nto = \"key:boss\"\napps = [\"plain\"]\nactions = [\"release\"]\ndowngrade = true\n"
    );
    let site = Site::with("sig 38", &grants, |key| key.line("ci") + &other.line("boss"));
    for app in ["plain", "second"] {
        assert_eq!(site.released(json!({ "app": app, "ref": "refs/heads/main" })), "live");
    }
    assert_eq!(site.released(json!({ "ref": "refs/tags/v1" })), "failed");
    let answer = site.network.ask(&other, &form("release", json!({ "ref": "refs/tags/v1" })));
    assert_eq!((answer.status, site.outcome(&answer)), (202, "live".to_owned()), "who may go back goes back");
    assert_eq!(site.released(json!({ "app": "second", "ref": "refs/tags/v1" })), "live", "from the refs of that grant");
    assert_eq!(site.released(json!({ "app": "second", "ref": "refs/heads/main" })), "live");
    site.repo.reset("v1");
    site.repo.write("page.html", "aside").commit("Aside");
    assert_eq!(site.released(json!({ "app": "second", "ref": "refs/heads/main" })), "failed", "and from no others");
}

#[test]
fn sig_39_another_release_is_live_than_expected() {
    let site = Site::new("sig 39");
    let none = form("release", json!({ "ref": "refs/heads/main", "prev": "2026-11-20-22-45-23-1a2b3c4d5e6f" }));
    site.refused(&site.ask(&none), 412, "stale");
    assert_eq!(site.released(json!({ "ref": "refs/heads/main" })), "live");
    let live = site.bench.live("plain").unwrap();
    assert_eq!(site.ask(&form("prune", json!({ "prev": "2026-11-20-22-45-23-1a2b3c4d5e6f" }))).status, 412);
    assert_eq!(site.ask(&form("prune", json!({ "prev": live }))).status, 202);
}

#[test]
fn sig_40_two_signatures_by_one_key() {
    let second = SigningKey::default();
    let old = SigningKey::default();
    let grants = "[[grant]]\nto = [\"key:anna\", \"key:ben\"]\napps = [\"plain\"]\nactions = [\"prune\"]\nsignatures = 2\n";
    let site = Site::with("sig 40", grants, |key| key.line("anna") + &old.line("anna") + &second.line("ben"));
    let body = prune();
    let anna = site.key.sign(&body);
    let hashed_otherwise = site.key.sign_for(&body, NAMESPACE, Hash::Sha256);
    site.refused(&site.network.send(&body, std::slice::from_ref(&anna)), 403, "not_allowed");
    site.refused(&site.network.send(&body, &[anna.clone(), anna.clone()]), 403, "not_allowed");
    site.refused(&site.network.send(&body, &[anna.clone(), hashed_otherwise]), 403, "not_allowed");
    // Two keys of one person are one person.
    site.refused(&site.network.send(&body, &[anna.clone(), old.sign(&body)]), 403, "not_allowed");
    let answer = site.network.send(&body, &[anna, second.sign(&body)]);
    assert_eq!(answer.status, 202, "{}", answer.body);
    assert_eq!(site.bench.runs()[0]["caller"], "key:anna+ben");
}

/// Two keys of one principal, so that one can be exchanged without a gap.
#[test]
fn a_key_is_exchanged_without_a_gap() {
    let site = Site::new("rotation");
    let new = SigningKey::default();
    site.bench.write("config/allowed_signers", site.key.line("ci") + &new.line("ci"));
    site.bench.reload_keys();
    for key in [&site.key, &new] {
        assert_eq!(site.network.ask(key, &form("prune", json!({}))).status, 202);
    }
    site.bench.write("config/allowed_signers", new.line("ci"));
    site.bench.reload_keys();
    assert_eq!(site.network.ask(&new, &form("prune", json!({}))).status, 202);
    assert_eq!(site.ask(&form("prune", json!({}))).status, 401);
}

#[test]
fn a_hardware_key_counts_where_a_grant_says_so_and_when_it_was_touched() {
    let lines = |key: &SigningKey| format!("boss {}\n", key.public_hardware().to_line());
    let grants = |keys: &str| format!("[[grant]]\nto = \"key:boss\"\napps = [\"*\"]\nactions = [\"*\"]\n{keys}");
    let site = Site::with("hardware", &grants(""), lines);
    let body = prune();
    site.refused(&site.network.send(&body, &[site.key.sign_in_hardware(&body, 1)]), 403, "not_allowed");
    let site = Site::with("hardware, granted", &grants("keys = \"hardware\"\n"), lines);
    let body = prune();
    site.unproven(&site.network.send(&body, &[site.key.sign_in_hardware(&body, 0)]));
    assert_eq!(site.network.send(&body, &[site.key.sign_in_hardware(&body, 1)]).status, 202);
}

/// The twelfth thing that is asked: whether there is room.
#[test]
fn a_full_queue_takes_nothing_more_and_says_when_to_ask_again() {
    let site = Site::new("queue");
    let go = site.bench.path("go");
    let hook = format!("[[hook]]\nbefore = \"prune\"\nrun = [\"sh\", \"-c\", \"until test -e {}; do sleep 0.05; done\"]\n", go.display());
    site.bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\n{hook}", site.repo.path())).reload();
    assert_eq!(site.ask(&form("release", json!({ "ref": "refs/heads/main" }))).status, 202);
    wait_until("the run is under way", SOON, || site.bench.runs()[0]["step"] == "prune");
    let mut last = site.ask(&form("check", json!({})));
    for _ in 1..21 {
        assert_eq!(last.status, 202, "{}", last.body);
        last = site.ask(&form("check", json!({})));
    }
    assert_eq!((last.status, json(&last)["code"].as_str()), (429, Some("queue_full")), "{}", last.body);
    assert!(last.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
    fs::write(go, "").unwrap();
}

/// The eighth: with a clock that was set back, nothing can be said of times; whoever is on the host itself is still heard.
#[test]
fn clk_02_a_clock_that_was_set_back() {
    let site = Site::new("clock");
    assert_eq!(site.ask(&form("prune", json!({}))).status, 202);
    wait_until("it is over", SOON, || site.bench.runs()[0]["state"] == "ended");
    site.bench.stop();
    // As if the journal had been written two hours from now.
    let sql = "UPDATE run SET accepted = accepted + 7200000, ended = ended + 7200000";
    let mut sqlite = site.bench.command("sqlite3");
    sqlite.arg(site.bench.path("state/journal.db")).arg(sql);
    site.bench.begin(sqlite).finish(SOON).expect(0);
    site.bench.start();
    let answer = site.ask(&form("prune", json!({ "nonce": nonce() })));
    assert_eq!((answer.status, json(&answer)["code"].as_str()), (503, Some("clock")), "{}", answer.body);
    assert!(answer.header("retry-after").is_some());
    site.bench.ctl(["--app", "plain", "prune"]).expect(0);
    site.bench.ctl(["doctor"]).says(&["the clock is behind"]);
}
