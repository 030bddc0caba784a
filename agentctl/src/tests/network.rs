//! The same program over the network, against a fake agent over real TLS.

use std::path::PathBuf;

use agent_wire::form::{Envelope, Form};
use rcgen::{BasicConstraints, CertificateParams, IsCa, date_time_ymd};

use super::*;
use crate::client::pretend::SeenRequest;
use crate::key::tests::{plain, verified};

const TAKEN: &str = r#"{"run":12,"events":"/v1/runs/12/events","token":"secret-token"}"#;
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn plan(reference: &str) -> Say {
    Say::Json(
        200,
        format!(
            r#"{{"commit":"{COMMIT}","ref":"{reference}","live":null,"commits":[],"ahead":0,"requirements":[],"migrations":[],"steps":[],"bytes":0,"disk_free":0,"warnings":[]}}"#
        ),
    )
}

fn params(name: &str, is_ca: IsCa) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.is_ca = is_ca;
    params
}

struct Finished {
    code: u8,
    stdout: String,
    stderr: String,
    asked: Vec<SeenRequest>,
    url: String,
    /// The directory of the key and the agent's certificate.
    dir: tempfile::TempDir,
}

impl Finished {
    /// A request as the agent accepts it: the form, after OpenSSH verified the signature.
    fn form(&self, n: usize) -> Form {
        let asked = &self.asked[n];
        assert_eq!(asked.line, "POST /v1/requests");
        assert_eq!(asked.all("content-type"), ["application/vnd.release-agent.request.v1+json"]);
        assert_eq!(asked.all("host"), [self.url.trim_start_matches("https://")]);
        let signatures = asked.all("agent-signature");
        assert_eq!(signatures.len(), 1);
        assert!(verified(self.dir.path(), &self.dir.path().join("key.pub"), signatures[0], asked.body.as_bytes()));
        let form: Form = serde_json::from_str(&asked.body).unwrap();
        Envelope::of(&form).unwrap();
        assert_eq!(form.aud.as_deref(), Some(["localhost".to_owned()].as_slice()));
        assert_eq!(form.exp.unwrap() - form.iat.unwrap(), 300);
        form
    }

    fn read(&self, n: usize) -> String {
        let form = self.form(n);
        form.reads().unwrap().unwrap().to_owned()
    }
}

/// `CA` in the arguments stands for the agent's certificate.
fn told_by(agent: Pretend, arguments: &str) -> Finished {
    let dir = tempfile::tempdir().unwrap();
    let key = plain(dir.path(), "key");
    std::fs::copy(agent.certificate(), dir.path().join("cert.pem")).unwrap();
    let (stdout, stderr) = (Heard::default(), Heard::default());
    let mut all = ["agentctl", "--url", &agent.url(), "--key"].map(OsString::from).to_vec();
    all.push(key.into());
    all.extend(arguments.split_whitespace().map(|word| match word {
        "CA" => agent.certificate().into(),
        word => OsString::from(word),
    }));
    let code = run_with(all, Out::plain(stdout.clone(), stderr.clone()));
    let url = agent.url();
    Finished { code, stdout: stdout.text(), stderr: stderr.text(), asked: agent.asked_in_full(), url, dir }
}

fn told(arguments: &str, answers: Vec<Say>) -> Finished {
    told_by(Pretend::saying_over_tls(answers), &format!("--ca CA {arguments}"))
}

#[test]
fn a_release_over_the_network_is_signed_and_followed_by_its_token() {
    let events = vec![accepted("release"), event(2, r#""what":"step_done","step":"fetch","ms":300"#), ended(3, "live")];
    let told = told("release refs/heads/main", vec![Say::Json(200, APPS.into()), Say::Json(202, TAKEN.into()), Say::Events(events)]);
    assert_eq!(
        told.stderr,
        "run 12: release refs/heads/main of shop\n✓ fetch            0.3 s\nshop: 2026-11-20-22-45-23-1a2b3c4d5e6f is live (run 12, 8.4 s)\n"
    );
    assert_eq!((told.code, told.stdout.as_str()), (0, ""));
    assert_eq!(told.read(0), "/v1/apps");
    let form = told.form(1);
    assert_eq!((form.app.as_str(), form.action.as_str()), ("shop", "release"));
    assert_eq!((form.revision.as_deref(), form.commit), (Some("refs/heads/main"), None));
    assert_eq!(told.asked[2].line, "GET /v1/runs/12/events?after=0");
    assert_eq!(told.asked[2].all("authorization"), ["Bearer secret-token"]);
    assert!(told.asked[2].all("agent-signature").is_empty());
    assert_eq!(told.asked[2].all("accept"), ["application/x-ndjson"]);
}

#[test]
fn a_short_name_is_looked_up_and_the_commit_is_signed() {
    let events = vec![accepted("release"), ended(2, "failed")];
    let told = told("--app shop release main", vec![plan("refs/heads/main"), Say::Json(202, TAKEN.into()), Say::Events(events)]);
    assert_eq!(told.code, 1);
    assert!(told.stderr.starts_with("main is commit 0123456789ab, reached by refs/heads/main\nrun 12: "), "{}", told.stderr);
    assert_eq!(told.read(0), "/v1/apps/shop/plan?ref=main");
    let form = told.form(1);
    assert_eq!((form.revision.as_deref(), form.commit.as_deref()), (Some("refs/heads/main"), Some(COMMIT)));
}

#[test]
fn a_whole_commit_is_signed_as_it_is() {
    let told = told(&format!("--app shop release {COMMIT} --no-follow --json"), vec![Say::Json(202, TAKEN.into())]);
    let form = told.form(0);
    assert_eq!((form.revision, form.commit.as_deref()), (None, Some(COMMIT)));
    assert_eq!(told.code, 0);
    assert!(told.stdout.contains("/v1/runs/12/events") && !told.stdout.contains("secret"), "{}", told.stdout);
}

#[test]
fn what_is_to_be_typed_next_leads_to_the_same_agent() {
    let told = told("--app shop check --no-follow", vec![Say::Json(202, TAKEN.into())]);
    let said = told.stderr.strip_prefix("run 12 goes on; follow it with: ").unwrap();
    let again = format!("agentctl --url {} --key ", told.url);
    assert!(said.starts_with(&again) && said.contains("/key --ca /") && said.ends_with("/cert.pem logs -f 12\n"), "{said}");
}

#[test]
fn whoever_may_not_look_a_name_up_is_told_how_to_do_without() {
    let denied = r#"{"status":403,"code":"not_allowed","detail":"no grant lets key:anna plan"}"#;
    let told = told("--app shop release v1", vec![Say::Json(403, denied.into())]);
    assert_eq!(told.code, 4);
    assert_eq!(
        told.stderr,
        "refused: which commit v1 is cannot be looked up for a signed request: no grant lets key:anna plan\n\
         hint: name it in full, which needs no right to plan: refs/heads/v1 for a branch, refs/tags/v1 for a tag, or the whole commit id\n"
    );
}

#[test]
fn whoever_may_not_ask_for_the_apps_is_told_to_name_one() {
    let told = told(
        "release refs/heads/main",
        vec![Say::Json(403, r#"{"status":403,"code":"not_allowed","detail":"key:ci may read no app","hint":"grant"}"#.into())],
    );
    assert_eq!(told.code, 4);
    assert_eq!(
        told.stderr,
        "refused: no app is named, and which there are cannot be asked: key:ci may read no app\n\
         hint: name it with --app or AGENTCTL_APP, which needs no right to read\n"
    );
}

#[test]
fn a_lost_stream_is_taken_up_again_by_the_token_and_then_by_a_signature() {
    let told = told(
        "--app shop lock -m why",
        vec![
            Say::Json(202, TAKEN.into()),
            Say::BreakAfter(vec![accepted("lock")]),
            Say::Json(401, r#"{"status":401,"code":"unauthenticated","detail":"no"}"#.into()),
            Say::Events(vec![ended(2, "done")]),
        ],
    );
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert_eq!(told.asked[2].line, "GET /v1/runs/12/events?after=1");
    assert_eq!(told.asked[2].all("authorization"), ["Bearer secret-token"]);
    assert_eq!(told.read(3), "/v1/runs/12/events?after=1");
    assert_eq!(told.asked[3].all("accept"), ["application/x-ndjson"]);
}

#[test]
fn the_same_bytes_with_the_same_signature_go_again_after_a_broken_connection() {
    let told = told("--app shop prune --no-follow", vec![Say::HangUp, Say::HangUp, Say::Json(200, TAKEN.into())]);
    assert_eq!((told.code, told.stdout.as_str()), (0, "12\n"));
    assert!(told.stderr.starts_with("! the agent broke off before it answered; asking it again"), "{}", told.stderr);
    assert_eq!((&told.asked[0], &told.asked[1]), (&told.asked[1], &told.asked[2]));
    told.form(0);
}

#[test]
fn each_key_signs_and_one_that_is_named_twice_signs_once() {
    let agent = Pretend::saying_over_tls(vec![Say::Json(200, APPS.into())]);
    let other = plain(agent.dir(), "other");
    let told = told_by(agent, &format!("--ca CA --key {} --key {0} status", other.display()));
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert_eq!(told.asked[0].all("agent-signature").len(), 2);
}

#[test]
fn logs_are_read_by_signed_requests() {
    let told = told("logs -f 12", vec![run("running"), Say::Events(vec![accepted("release"), ended(2, "rolled_back")])]);
    assert_eq!(told.code, 3);
    assert_eq!((told.read(0).as_str(), told.read(1).as_str()), ("/v1/runs/12", "/v1/runs/12/events?after=0"));
}

#[test]
fn a_refusal_says_what_to_do() {
    for (status, part) in [
        (401, "allowed_signers there must have its public half"),
        (403, "agentctl whoami tells what you may do"),
        (410, "compare the clocks"),
        (412, "agentctl status tells which release is live"),
        (423, "agentctl unlock ends the lock"),
        (429, "ask again in 7 s"),
    ] {
        let problem = format!(r#"{{"status":{status},"code":"x","detail":"no"}}"#);
        let told = told("--app shop rollback", vec![Say::Json(status, problem)]);
        assert_eq!(told.code, 4, "{status}");
        assert!(told.stderr.starts_with("refused: no\nhint: ") && told.stderr.contains(part), "{}", told.stderr);
    }
}

#[test]
fn a_host_that_is_called_something_else_is_told_with_the_option() {
    let problem = r#"{"status":403,"code":"other_host","detail":"the request is for localhost, and this host is web1","hint":"x"}"#;
    let told = told("status", vec![Say::Json(403, problem.into())]);
    assert_eq!(told.code, 4);
    assert!(told.stderr.ends_with("\nhint: --host (or AGENTCTL_HOST) says what the host is called in its agent.toml\n"), "{}", told.stderr);
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused_without_ca() {
    let told = told_by(Pretend::saying_over_tls(vec![Say::HangUp]), "status");
    assert_eq!((told.code, told.asked[0].line.as_str()), (5, ""));
    assert!(
        told.stderr.contains("is not believed to be the agent: nobody that is trusted here has issued its certificate"),
        "{}",
        told.stderr
    );
    assert!(told.stderr.contains("\nhint: --ca FILE (or AGENTCTL_CA)"), "{}", told.stderr);
}

#[test]
fn another_certificate_than_the_pinned_one_is_refused() {
    let other = Pretend::saying_over_tls(vec![]);
    let told = told_by(Pretend::saying_over_tls(vec![Say::HangUp]), &format!("--ca {} status", other.certificate().display()));
    assert_eq!(told.code, 5);
    assert!(told.stderr.contains("the certificate there is none of those in"), "{}", told.stderr);
}

#[test]
fn a_pinned_certificate_may_call_itself_an_authority() {
    let params = params("localhost", IsCa::Ca(BasicConstraints::Unconstrained));
    let told = told_by(Pretend::saying_with(params, vec![Say::Json(200, APPS.into())]), "--ca CA status");
    assert_eq!(told.code, 0, "{}", told.stderr);
}

#[test]
fn a_pinned_certificate_must_have_the_name_and_be_in_its_time() {
    for is_ca in [IsCa::NoCa, IsCa::Ca(BasicConstraints::Unconstrained)] {
        let name = params("web2.example.org", is_ca);
        let mut time = params("localhost", is_ca);
        time.not_after = date_time_ymd(2020, 1, 1);
        for (params, part) in [(name, "is for another name"), (time, "is out of its time")] {
            let told = told_by(Pretend::saying_with(params, vec![Say::HangUp]), "--ca CA status");
            assert_eq!(told.code, 5);
            assert!(told.stderr.contains(part) && told.stderr.contains("\nhint: "), "{}", told.stderr);
        }
    }
}

#[test]
fn an_agent_that_is_not_there_is_told_by_its_reason() {
    let agent = Pretend::saying_over_tls(vec![]);
    // The port has no listener any more.
    let (certificate, dir) = (agent.certificate(), tempfile::tempdir().unwrap());
    let key = plain(dir.path(), "key");
    let port = { std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() };
    let url = format!("https://localhost:{port}");
    let (stdout, stderr) = (Heard::default(), Heard::default());
    let all =
        ["--url".as_ref(), url.as_ref(), "--ca".as_ref(), certificate.as_os_str(), "--key".as_ref(), key.as_os_str(), "status".as_ref()];
    let all = ["agentctl".into()].into_iter().chain(all.map(|word: &std::ffi::OsStr| word.to_owned()));
    let code = run_with(all, Out::plain(stdout, stderr.clone()));
    assert_eq!(code, 5);
    let text = stderr.text();
    assert!(text.starts_with(&format!("error: the agent is out of reach at {url}: ")), "{text}");
    assert!(text.contains(&format!("nothing listens on port {port}")), "{text}");
}

#[test]
fn whoever_speaks_no_tls_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        io::Read::read(&mut stream, &mut [0; 16]).unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        // Reads until the other side has gone, because an early end would be a reset.
        io::Read::read_to_end(&mut stream, &mut Vec::new()).ok();
    });
    let agent = Pretend::saying_over_tls(vec![]);
    let told = told_by(agent, &format!("--url https://localhost:{port} --ca CA status"));
    assert_eq!(told.code, 2, "two URLs are one too many");
    let dir = tempfile::tempdir().unwrap();
    let key: PathBuf = plain(dir.path(), "key");
    let stderr = Heard::default();
    let all = ["agentctl", "--url", &format!("https://localhost:{port}"), "--key", key.to_str().unwrap(), "status"].map(OsString::from);
    let ca = [OsString::from("--ca"), told.dir.path().join("cert.pem").into()];
    let code = run_with(all.into_iter().chain(ca), Out::plain(Heard::default(), stderr.clone()));
    assert_eq!(code, 5);
    assert!(stderr.text().contains("what answers there speaks no TLS"), "{}", stderr.text());
    thread.join().unwrap();
}
