//! Jobs of a CI that ask over the network with an ID token, of an issuer that the test runs itself.
//!
//! Every test that shows a refusal shows first that the same request, without its one fault, is taken: what is refused is the fault.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::time::Duration;

use agent_tests::{Answer, Bench, HOST, Issuer, Network, Replies, Repo, form, nonce as fresh, now, project, request, wait_until};
use serde_json::{Value, json};

const MOST: Duration = Duration::from_secs(60);
/// A grant to jobs of the canonical project.
const GRANT: &str = "[[grant]]\nto = \"oidc:ci\"\napps = [\"site\"]\nactions = [\"release\", \"read\"]\n";
const CLAIMS: &str = "claims = { repository_id = \"74\" }\n";

/// An agent with an app that is nothing but a file, and an issuer whose jobs may release it.
struct Scene {
    bench: Bench,
    issuer: Issuer,
    network: Network,
    commits: [String; 2],
}

/// A request with a token, in the parts that a fault can be in.
#[derive(Clone)]
struct Asking {
    header: Value,
    claims: Value,
    body: Value,
}

impl Scene {
    fn new(name: &str) -> Self {
        Self::with(name, |issuer| format!("{}{GRANT}{CLAIMS}", issuer.settings("github", "")))
    }

    fn with(name: &str, settings: impl Fn(&Issuer) -> String) -> Self {
        let bench = Bench::new(name);
        let repo: Repo = bench.repo("site");
        let first = repo.write("index.html", "one").commit("one");
        let second = repo.write("index.html", "two").commit("two");
        repo.git(["branch", "other"]);
        bench.app("site", &format!("repository = {:?}\nbranches = [\"main\", \"other\"]\n", repo.path()));
        let issuer = Issuer::new("ci", &bench);
        let network = bench.network("", &settings(&issuer), "");
        bench.start();
        Self { bench, issuer, network, commits: [first, second] }
    }

    /// Puts other issuers and grants in force.
    fn set(&self, settings: &str) {
        let file = self.bench.path("config/agent.toml");
        let text = fs::read_to_string(&file).unwrap();
        let new = self.bench.write("agent.new", format!("{}{settings}", text.split("[[").next().unwrap()));
        fs::rename(new, file).unwrap();
        self.bench.reload_keys();
    }

    /// A request for a release that nothing is wrong with.
    fn good(&self) -> Asking {
        let (now, commit) = (now(), self.commits[1].as_str());
        Asking {
            header: json!({"typ": "JWT", "alg": "RS256", "kid": self.issuer.kid()}),
            claims: json!({"iss": self.issuer.url(), "aud": HOST, "iat": now, "nbf": now - 300, "exp": now + 300, "jti": fresh(),
                "sub": "repo:acme/shop:ref:refs/heads/main", "sha": commit, "ref": "refs/heads/main", "ref_type": "branch",
                "repository": "acme/shop", "repository_id": "74", "repository_owner": "acme", "repository_owner_id": "65",
                "event_name": "push", "job_workflow_ref": "acme/shop/.github/workflows/release.yml@refs/heads/main"}),
            body: form("release", json!({"app": "site", "ref": "refs/heads/main", "commit": commit})),
        }
    }

    fn token(&self, asking: &Asking) -> String {
        self.issuer.sign(&asking.header, &asking.claims)
    }

    fn send(&self, asking: &Asking) -> Answer {
        self.send_token(&self.token(asking), &asking.body.to_string())
    }

    fn send_token(&self, token: &str, body: &str) -> Answer {
        self.send_with(&[("Authorization", &format!("Bearer {token}"))], body)
    }

    fn send_with(&self, headers: &[(&str, &str)], body: &str) -> Answer {
        self.network.send_with(body, headers)
    }

    #[track_caller]
    fn taken(&self, asking: &Asking) {
        let answer = self.send(asking);
        assert_eq!(answer.status, 202, "{}\n{}", answer.body, self.bench.log());
    }

    /// What is not believed is answered like everything that is not believed: nobody learns what was wrong with it.
    #[track_caller]
    fn not_believed(&self, answer: &Answer) {
        assert_eq!(answer.status, 401, "{}", answer.body);
        let other = self.send_token("no.token.atall", "{}");
        let told = |answer: &Answer| (answer.status, answer.body.clone(), answer.header("www-authenticate").map(str::to_owned));
        assert_eq!(told(answer), told(&other));
    }

    /// That a request is not believed with this fault, and taken without it.
    #[track_caller]
    fn refuses(&self, fault: impl FnOnce(&mut Asking)) {
        let answer = self.only_fault(fault);
        self.not_believed(&answer);
    }

    /// That a request is understood and forbidden with this fault, and taken without it; answers with what is said.
    #[track_caller]
    fn forbids(&self, fault: impl FnOnce(&mut Asking)) -> String {
        let answer = self.only_fault(fault);
        assert_eq!(answer.status, 403, "{}", answer.body);
        answer.body
    }

    #[track_caller]
    fn only_fault(&self, fault: impl FnOnce(&mut Asking)) -> Answer {
        let good = self.good();
        let mut bad = good.clone();
        fault(&mut bad);
        let answer = self.send(&bad);
        self.taken(&good);
        answer
    }

    fn runs(&self) -> usize {
        self.bench.runs().len()
    }
}

fn set(part: &mut Value, member: &str, value: impl Into<Value>) {
    part[member] = value.into();
}

fn remove(part: &mut Value, member: &str) {
    part.as_object_mut().unwrap().remove(member);
}

#[test]
fn a_job_releases_what_it_ran_for() {
    let scene = Scene::new("a job");
    scene.taken(&scene.good());
    let run = scene.bench.last_run();
    assert_eq!(run["caller"], "oidc:ci:acme/shop");
    let events = scene.bench.events(run["run"].as_u64().unwrap());
    assert_eq!(events.last().unwrap()["outcome"], "live", "{events:?}");
    assert_eq!(scene.issuer.asked(), 1);
    scene.taken(&scene.good());
    assert_eq!(scene.issuer.asked(), 1, "the keys are kept");
}

#[test]
fn a_job_of_gitlab_releases_what_it_ran_for() {
    let grant =
        |issuer: &Issuer| format!("{}{GRANT}claims = {{ project_id = \"22\", ref_protected = \"true\" }}\n", issuer.settings("gitlab", ""));
    let scene = Scene::with("a job of GitLab", grant);
    let gitlab = || {
        let mut asking = scene.good();
        let claims = asking.claims.as_object_mut().unwrap();
        claims.retain(|claim, _| ["iss", "aud", "iat", "nbf", "exp", "jti", "sha"].contains(&claim.as_str()));
        let own = json!({"ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true", "project_id": "22",
            "project_path": "acme/apps/shop", "namespace_id": "72", "namespace_path": "acme/apps", "pipeline_source": "push", "runner_id": 1});
        claims.extend(own.as_object().unwrap().clone());
        asking
    };
    scene.taken(&gitlab());
    assert_eq!(scene.bench.last_run()["caller"], "oidc:ci:acme/apps/shop");
    let mut other_project = gitlab();
    set(&mut other_project.claims, "project_id", "23");
    assert_eq!(scene.send(&other_project).status, 403);
    let mut merge_request = gitlab();
    set(&mut merge_request.claims, "pipeline_source", "merge_request_event");
    scene.not_believed(&scene.send(&merge_request));
    scene.taken(&gitlab());
}

#[test]
fn oid_01_alg_none() {
    let scene = Scene::new("oid 01");
    scene.refuses(|asking| set(&mut asking.header, "alg", "none"));
    // With the signature of the good one, too.
    let good = scene.good();
    let signed = scene.token(&good);
    let mut none = good.clone();
    set(&mut none.header, "alg", "none");
    let head = scene.token(&none).split('.').next().unwrap().to_owned();
    let answer = scene.send_token(&format!("{head}.{}", signed.split_once('.').unwrap().1), &good.body.to_string());
    scene.not_believed(&answer);
}

#[test]
fn oid_02_hs256_with_the_public_key() {
    let scene = Scene::new("oid 02");
    scene.refuses(|asking| set(&mut asking.header, "alg", "HS256"));
}

#[test]
fn oid_03_alg_not_in_the_issuers_list() {
    let scene = Scene::new("oid 03");
    let es256 = |asking: &mut Asking| asking.header = json!({"typ": "JWT", "alg": "ES256", "kid": scene.issuer.p256_kid()});
    scene.refuses(es256);
    // The issuer has this key, and its signature is right: it is only not wanted.
    scene.set(&format!("{}{GRANT}{CLAIMS}", scene.issuer.settings("github", "algorithms = [\"RS256\", \"ES256\"]")));
    let mut wanted = scene.good();
    es256(&mut wanted);
    scene.taken(&wanted);
}

#[test]
fn oid_04_unknown_kid() {
    let scene = Scene::new("oid 04");
    scene.refuses(|asking| set(&mut asking.header, "kid", "nobody"));
    scene.refuses(|asking| remove(&mut asking.header, "kid"));
    // Made-up names make nobody ask the issuer more than once a minute.
    for at in 0..20 {
        let mut made_up = scene.good();
        set(&mut made_up.header, "kid", format!("made-up-{at}"));
        scene.not_believed(&scene.send(&made_up));
    }
    assert_eq!(scene.issuer.asked(), 1);
}

#[test]
fn oid_05_kid_of_another_issuer() {
    let scene = Scene::new("oid 05");
    let other = Issuer::new("other", &scene.bench);
    let grant = "[[grant]]\nto = \"oidc:other\"\napps = [\"site\"]\nactions = [\"release\"]\nclaims = { repository_id = \"74\" }\n";
    scene.set(&format!("{}{}{GRANT}{CLAIMS}{grant}", scene.issuer.settings("github", ""), other.settings("github", "")));
    let mut its_own = scene.good();
    (its_own.header["kid"], its_own.claims["iss"]) = (other.kid().into(), other.url().into());
    assert_eq!(scene.send_token(&other.sign(&its_own.header, &its_own.claims), &its_own.body.to_string()).status, 202);
    // Signed by a key that is believed, and not for this issuer.
    let mut borrowed = scene.good();
    set(&mut borrowed.header, "kid", other.kid());
    scene.not_believed(&scene.send_token(&other.sign(&borrowed.header, &borrowed.claims), &borrowed.body.to_string()));
    set(&mut borrowed.header, "kid", scene.issuer.kid());
    scene.not_believed(&scene.send_token(&other.sign(&borrowed.header, &borrowed.claims), &borrowed.body.to_string()));
    scene.taken(&borrowed);
}

#[test]
fn oid_06_crit() {
    let scene = Scene::new("oid 06");
    scene.refuses(|asking| set(&mut asking.header, "crit", json!(["exp"])));
}

#[test]
fn oid_07_jku_and_x5u() {
    let scene = Scene::new("oid 07");
    let url = format!("{}/keys", scene.issuer.url());
    scene.refuses(|asking| set(&mut asking.header, "jku", url.as_str()));
    scene.refuses(|asking| set(&mut asking.header, "x5u", url.as_str()));
    scene.refuses(|asking| set(&mut asking.header, "x5c", json!(["MII="])));
}

#[test]
fn oid_08_embedded_jwk() {
    let scene = Scene::new("oid 08");
    let own = scene.issuer.jwks()["keys"][0].clone();
    scene.refuses(|asking| set(&mut asking.header, "jwk", own));
    let stranger = Issuer::new("stranger", &scene.bench);
    let mut brought = scene.good();
    set(&mut brought.header, "jwk", stranger.jwks()["keys"][0].clone());
    scene.not_believed(&scene.send_token(&stranger.sign(&brought.header, &brought.claims), &brought.body.to_string()));
}

#[test]
fn oid_09_aud_missing() {
    let scene = Scene::new("oid 09");
    scene.refuses(|asking| remove(&mut asking.claims, "aud"));
    scene.refuses(|asking| set(&mut asking.claims, "aud", ""));
}

#[test]
fn oid_10_aud_other_host() {
    let scene = Scene::new("oid 10");
    scene.refuses(|asking| set(&mut asking.claims, "aud", "web2.example.org"));
    scene.refuses(|asking| set(&mut asking.claims, "aud", format!("{HOST}.evil.example")));
}

#[test]
fn oid_11_aud_array_with_ours() {
    let scene = Scene::new("oid 11");
    scene.refuses(|asking| set(&mut asking.claims, "aud", json!([HOST, "https://other.example.org"])));
    scene.refuses(|asking| set(&mut asking.claims, "aud", json!([HOST])));
}

fn bound_to(body: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{HOST}#sha256={hex}")
}

#[test]
fn oid_12_aud_digest_of_another_body() {
    let settings = |issuer: &Issuer, bind: &str| format!("{}{GRANT}{CLAIMS}", issuer.settings("github", bind));
    let scene = Scene::with("oid 12", |issuer| settings(issuer, "bind = \"body\""));
    for bind in ["body", "host"] {
        if bind == "host" {
            scene.set(&settings(&scene.issuer, ""));
        }
        let mut bound = scene.good();
        let audience = bound_to(&bound.body.to_string());
        set(&mut bound.claims, "aud", audience);
        let mut other = bound.body.clone();
        set(&mut other, "nonce", fresh());
        scene.not_believed(&scene.send_token(&scene.token(&bound), &other.to_string()));
        let plain = scene.send(&scene.good());
        if bind == "body" {
            scene.not_believed(&plain);
        } else {
            assert_eq!(plain.status, 202);
        }
        scene.taken(&bound);
    }
}

#[test]
fn oid_13_iss_other() {
    let scene = Scene::new("oid 13");
    scene.refuses(|asking| set(&mut asking.claims, "iss", "https://token.actions.githubusercontent.com"));
    scene.refuses(|asking| remove(&mut asking.claims, "iss"));
}

#[test]
fn oid_14_iss_trailing_slash() {
    let scene = Scene::new("oid 14");
    let slash = format!("{}/", scene.issuer.url());
    scene.refuses(|asking| set(&mut asking.claims, "iss", slash));
}

#[test]
fn oid_15_custom_issuer_claims_the_canonical_repository() {
    let scene = Scene::new("oid 15");
    let custom = Issuer::new("custom", &scene.bench);
    let grant = "[[grant]]\nto = \"oidc:custom\"\napps = [\"other\"]\nactions = [\"release\"]\nclaims = { repository_id = \"74\" }\n";
    scene.set(&format!("{}{}{GRANT}{CLAIMS}{grant}", scene.issuer.settings("github", ""), custom.settings("github", "")));
    let mut asking = scene.good();
    scene.taken(&asking);
    (asking.header["kid"], asking.claims["iss"]) = (custom.kid().into(), custom.url().into());
    (asking.claims["jti"], asking.body["nonce"]) = (fresh().into(), fresh().into());
    let answer = scene.send_token(&custom.sign(&asking.header, &asking.claims), &asking.body.to_string());
    assert_eq!(answer.status, 403, "{}", answer.body);
    assert!(answer.body.contains("oidc:custom"), "{}", answer.body);
}

#[test]
fn oid_16_expired() {
    let scene = Scene::new("oid 16");
    scene.refuses(|asking| {
        set(&mut asking.claims, "iat", now() - 400);
        set(&mut asking.claims, "exp", now() - 100);
    });
    scene.refuses(|asking| remove(&mut asking.claims, "exp"));
}

#[test]
fn oid_17_nbf_in_the_future() {
    let scene = Scene::new("oid 17");
    scene.refuses(|asking| set(&mut asking.claims, "nbf", now() + 120));
}

#[test]
fn oid_18_iat_in_the_future() {
    let scene = Scene::new("oid 18");
    scene.refuses(|asking| set(&mut asking.claims, "iat", now() + 120));
    scene.refuses(|asking| remove(&mut asking.claims, "iat"));
}

#[test]
fn oid_19_exp_too_far() {
    let scene = Scene::new("oid 19");
    scene.refuses(|asking| {
        let issued = asking.claims["iat"].as_u64().unwrap();
        set(&mut asking.claims, "exp", issued + 3601);
    });
    scene.refuses(|asking| set(&mut asking.claims, "exp", u64::MAX));
}

#[test]
fn oid_20_exp_as_a_text() {
    let scene = Scene::new("oid 20");
    scene.refuses(|asking| set(&mut asking.claims, "exp", (now() + 300).to_string()));
    #[expect(clippy::cast_precision_loss, reason = "a fraction is what is meant")]
    scene.refuses(|asking| set(&mut asking.claims, "exp", (now() + 300) as f64));
}

#[test]
fn oid_21_jti_missing() {
    let scene = Scene::new("oid 21");
    scene.refuses(|asking| remove(&mut asking.claims, "jti"));
    scene.refuses(|asking| set(&mut asking.claims, "jti", ""));
}

#[test]
fn oid_22_jti_again_at_once_and_after_the_leeway() {
    let scene = Scene::new("oid 22");
    // A journal that began long ago: nothing that is older than the journal is taken at all.
    scene.bench.stop();
    let mut sqlite = scene.bench.command("sqlite3");
    sqlite.arg(scene.bench.path("state/journal.db")).arg("UPDATE about SET value = '0' WHERE key = 'not_before'");
    scene.bench.begin(sqlite).finish(MOST).expect(0);
    scene.bench.start();
    let mut asking = scene.good();
    // Over, but for the leeway, which ends in some seconds.
    set(&mut asking.claims, "exp", now() - 50);
    set(&mut asking.claims, "iat", now() - 350);
    set(&mut asking.claims, "nbf", now() - 650);
    let token = scene.token(&asking);
    scene.taken(&asking);
    assert_eq!(scene.send(&asking).status, 200, "the same bytes are the same run");
    let mut again = asking.body.clone();
    set(&mut again, "nonce", fresh());
    let answer = scene.send_token(&token, &again.to_string());
    assert_eq!(answer.status, 409, "{}", answer.body);
    assert!(answer.body.contains("token_reused"), "{}", answer.body);
    // Nor with another token of that number, nor after the agent was started again, nor once its time is over.
    let mut same_number = scene.good();
    set(&mut same_number.claims, "jti", asking.claims["jti"].clone());
    assert_eq!(scene.send(&same_number).status, 409);
    scene.bench.kill().start();
    assert_eq!(scene.send(&same_number).status, 409);
    wait_until("the leeway is over", MOST, || match scene.send_token(&token, &again.to_string()).status {
        409 => false,
        401 => true,
        status => panic!("{status}"),
    });
    assert_eq!(scene.runs(), 1);
}

#[test]
fn oid_23_sha_is_not_the_commit() {
    let scene = Scene::new("oid 23");
    let first = scene.commits[0].clone();
    let said = scene.forbids(|asking| set(&mut asking.body, "commit", first.as_str()));
    assert!(said.contains("the ID token is of a job of the commit"), "{said}");
    let said = scene.forbids(|asking| {
        set(&mut asking.body, "action", "stage");
        set(&mut asking.body, "commit", first.as_str());
    });
    assert!(said.contains("the ID token is of a job of the commit"), "{said}");
    let said = scene.forbids(|asking| remove(&mut asking.body, "commit"));
    assert!(said.contains("must name the `commit`"), "{said}");
    scene.refuses(|asking| remove(&mut asking.claims, "sha"));
}

#[test]
fn oid_24_ref_is_not_the_ref() {
    let scene = Scene::new("oid 24");
    // The app allows that branch, and the commit is on it.
    let said = scene.forbids(|asking| set(&mut asking.body, "ref", "refs/heads/other"));
    assert!(said.contains("the ID token is of a job of refs/heads/main"), "{said}");
    scene.forbids(|asking| set(&mut asking.claims, "ref", "refs/heads/other"));
    scene.forbids(|asking| set(&mut asking.claims, "ref", "refs/tags/main"));
    scene.forbids(|asking| remove(&mut asking.body, "ref"));
}

#[test]
fn oid_25_repository_name_right_and_id_wrong() {
    let scene = Scene::new("oid 25");
    let said = scene.forbids(|asking| set(&mut asking.claims, "repository_id", "75"));
    assert!(said.contains("not_allowed"), "{said}");
    scene.refuses(|asking| remove(&mut asking.claims, "repository_id"));
    scene.refuses(|asking| set(&mut asking.claims, "repository_owner_id", "acme"));
}

#[test]
fn oid_26_pull_request_target() {
    let scene = Scene::new("oid 26");
    for event in ["pull_request_target", "pull_request", "workflow_run"] {
        scene.refuses(|asking| set(&mut asking.claims, "event_name", event));
    }
    // Anybody can comment: a grant must say that it means such jobs too.
    scene.forbids(|asking| set(&mut asking.claims, "event_name", "issue_comment"));
}

#[test]
fn oid_27_environment_missing() {
    let claims = "claims = { repository_id = \"74\", environment = \"production\" }\n";
    let scene = Scene::with("oid 27", |issuer| format!("{}{GRANT}{claims}", issuer.settings("github", "")));
    let mut asking = scene.good();
    assert_eq!(scene.send(&asking).status, 403);
    set(&mut asking.claims, "environment", "staging");
    assert_eq!(scene.send(&asking).status, 403);
    set(&mut asking.claims, "environment", "production");
    scene.taken(&asking);
}

#[test]
fn oid_28_workflow_of_another_repository() {
    let scene = Scene::new("oid 28");
    let foreign = "mallory/shop/.github/workflows/release.yml@refs/heads/main";
    scene.forbids(|asking| set(&mut asking.claims, "job_workflow_ref", foreign));
    scene.forbids(|asking| set(&mut asking.claims, "job_workflow_ref", "acme/shop-fork/.github/workflows/release.yml@refs/heads/main"));
    scene.refuses(|asking| remove(&mut asking.claims, "job_workflow_ref"));
    // An operator who names it means it.
    let named = format!("claims = {{ repository_id = \"74\", job_workflow_ref = {foreign:?} }}\n");
    scene.set(&format!("{}{GRANT}{named}", scene.issuer.settings("github", "")));
    let mut called = scene.good();
    set(&mut called.claims, "job_workflow_ref", foreign);
    scene.taken(&called);
}

#[test]
fn oid_29_17_kib_five_segments_two_headers() {
    let scene = Scene::new("oid 29");
    // The head of a request has 16 KiB at the most, so this one may not even be heard to its end.
    let mut long = scene.good();
    set(&mut long.claims, "padding", "x".repeat(17 * 1024));
    let (token, body) = (scene.token(&long), long.body.to_string());
    let bearer = format!("Bearer {token}");
    let headers = [("Content-Type", "application/json"), ("Authorization", bearer.as_str())];
    let answer = request(&scene.network.place(), "POST", "/v1/requests", &headers, &body);
    assert!(answer.is_err() || answer.is_ok_and(|answer| [401, 431].contains(&answer.status)));
    assert_eq!(scene.runs(), 0);

    let good = scene.good();
    let (token, body) = (scene.token(&good), good.body.to_string());
    let (bearer, other) = (format!("Bearer {token}"), format!("Bearer {}", scene.token(&scene.good())));
    for bad in
        [format!("{token}.e30.e30"), format!("{token}.{token}"), format!("{token}."), token.replacen('.', "", 1), format!("{token}=")]
    {
        scene.not_believed(&scene.send_token(&bad, &body));
    }
    scene.not_believed(&scene.send_with(&[("Authorization", &bearer), ("Authorization", &bearer)], &body));
    scene.not_believed(&scene.send_with(&[("Authorization", &bearer), ("Authorization", &other)], &body));
    scene.not_believed(&scene.send_with(&[("Authorization", &format!("{bearer}, {other}"))], &body));
    scene.not_believed(&scene.send_with(&[("Authorization", &format!("Basic {token}"))], &body));
    scene.not_believed(&scene.send_with(&[("Authorization", &token)], &body));
    scene.not_believed(&scene.send_with(&[("Authorization", &bearer), ("Agent-Signature", "AAAA")], &body));
    scene.not_believed(&scene.send_with(&[], &body));
    scene.taken(&good);
}

#[test]
fn oid_30_keys_empty_html_10_mib_redirect_to_http() {
    let scene = Scene::new("oid 30");
    let ill = [
        Replies::Nothing,
        Replies::NoKeys,
        Replies::Html,
        Replies::Huge,
        Replies::RedirectToHttp,
        Replies::Status500,
        Replies::OtherDiscovery,
        Replies::KeysElsewhere,
    ];
    for replies in ill {
        scene.issuer.reply(replies);
        let good = scene.good();
        let answer = scene.send(&good);
        assert_eq!(answer.status, 503, "{replies:?}: {}", answer.body);
        let again: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=10).contains(&again), "{again}");
        // It is not asked again at once, whoever wants to know.
        let asked = scene.issuer.asked();
        assert_eq!(scene.send(&good).status, 503, "{replies:?}");
        assert_eq!(scene.issuer.asked(), asked, "{replies:?}");
        // An agent that begins anew asks anew, and then the same request is taken.
        scene.issuer.reply(Replies::Well);
        scene.bench.stop();
        scene.bench.start();
        scene.taken(&good);
        scene.bench.stop();
        scene.bench.start();
    }
}

#[test]
fn net_12_the_issuer_is_down_with_and_without_keys_that_are_kept() {
    let scene = Scene::new("net 12");
    scene.taken(&scene.good());
    scene.issuer.reply(Replies::Status500);
    scene.taken(&scene.good());
    // Without them, nobody can tell.
    scene.bench.stop();
    scene.bench.start();
    let answer = scene.send(&scene.good());
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.header("retry-after").is_some());
    assert!(scene.bench.log().contains("the issuer ci does not say its keys"), "{}", scene.bench.log());
}

#[test]
fn many_jobs_at_once_make_one_asking() {
    let scene = Scene::new("single flight");
    let network = &scene.network;
    let all: Vec<(String, String)> = (0..8).map(|_| scene.good()).map(|good| (scene.token(&good), good.body.to_string())).collect();
    std::thread::scope(|scope| {
        let send = |(token, body): (String, String)| network.send_with(&body, &[("Authorization", &format!("Bearer {token}"))]).status;
        let asking: Vec<_> = all.into_iter().map(|one| scope.spawn(move || send(one))).collect();
        for answer in asking {
            assert_eq!(answer.join().unwrap(), 202);
        }
    });
    assert_eq!(scene.issuer.asked(), 1);
}

#[test]
fn a_job_reads_what_its_grant_allows_without_a_commit_and_does_nothing_else() {
    let scene = Scene::new("reads");
    let mut asking = scene.good();
    asking.body = form("read", json!({"app": null, "path": "/v1/apps/site"}));
    let answer = scene.send(&asking);
    assert_eq!(answer.status, 200, "{}", answer.body);
    asking.body = form("prune", json!({"app": "site"}));
    assert_eq!(scene.send(&asking).status, 403);
}

#[test]
fn the_script_for_a_ci_releases_with_a_token_for_its_request_alone_or_with_one_that_it_is_given() {
    let scene = Scene::with("the script", |issuer| format!("{}{GRANT}{CLAIMS}", issuer.settings("github", "bind = \"body\"")));
    let script = |more: &[(&str, &str)]| {
        let mut command = scene.bench.command("sh");
        command.arg(project("packaging/ci/release.sh")).args(["refs/heads/main", &scene.commits[1]]);
        command.env("AGENT_URL", scene.network.url()).env("CA", &scene.network.ca).env("APP", "site");
        command.env("AGENT_HOST", HOST).envs(more.iter().copied());
        scene.bench.begin(command).finish(MOST)
    };
    let offered = scene.good();
    let offer = scene.issuer.offer(&offered.header, &offered.claims);
    let ca = scene.issuer.ca().to_str().unwrap();
    let github = [("ACTIONS_ID_TOKEN_REQUEST_URL", offer.as_str()), ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "x"), ("ISSUER_CA", ca)];
    script(&github).expect(0).says(&["\"outcome\":\"live\""]);
    // The same job's second token has the number of the first one here.
    script(&github).expect(4).says(&["token_reused"]);
    let given = scene.token(&scene.good());
    script(&[("ID_TOKEN", &given)]).expect(4).says(&["unauthenticated"]);
    scene.set(&format!("{}{GRANT}{CLAIMS}", scene.issuer.settings("github", "")));
    script(&[("ID_TOKEN", &given)]).expect(0).says(&["\"outcome\":\"live\""]);
}

#[test]
fn a_token_that_is_older_than_the_journal_is_not_taken() {
    let scene = Scene::new("older than the journal");
    let answer = scene.only_fault(|asking| set(&mut asking.claims, "iat", now() - 60));
    assert_eq!(answer.status, 410, "{}", answer.body);
}

#[test]
fn no_token_stands_in_a_log_an_event_or_an_answer() {
    let scene = Scene::new("no token is told");
    let good = scene.good();
    let mut bad = scene.good();
    set(&mut bad.claims, "aud", "web2.example.org");
    let (good_token, bad_token) = (scene.token(&good), scene.token(&bad));
    let refused = scene.send_token(&bad_token, &bad.body.to_string());
    let answer = scene.send_token(&good_token, &good.body.to_string());
    assert_eq!((refused.status, answer.status), (401, 202));
    let run = scene.bench.last_run()["run"].as_u64().unwrap();
    let told = format!("{}{}{:?}{}", refused.body, answer.body, scene.bench.events(run), scene.bench.log());
    for token in [good_token, bad_token] {
        for part in token.split('.').skip(1) {
            assert!(!told.contains(part));
        }
    }
    assert!(scene.bench.log().contains("its claim `aud` is for another host"), "{}", scene.bench.log());
}
