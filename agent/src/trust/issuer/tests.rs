use serde_json::{Value, json};

use super::super::job::OtherWork;
use super::super::pretend::Pretend;
use super::*;

const NOW: u64 = 1_800_000_000;
const SHA: &str = "0123456789abcdef0123456789abcdef01234567";
const BODY: &[u8] = b"{}";

fn issuer(kind: IssuerKind, bind: Bind) -> Issuer {
    Issuer { name: "ci".into(), kind, url: "https://ci.example.org".into(), ca: None, algorithms: vec![Algorithm::EdDsa], bind }
}

fn github() -> Value {
    json!({"iss": "https://ci.example.org", "aud": "web1", "exp": NOW + 300, "iat": NOW, "nbf": NOW - 300, "jti": "a-job", "sub": "repo:acme/shop:ref:refs/heads/main",
        "sha": SHA, "ref": "refs/heads/main", "ref_type": "branch", "repository": "acme/shop", "repository_id": "74", "repository_owner_id": "65",
        "event_name": "push", "job_workflow_ref": "acme/shop/.github/workflows/release.yml@refs/heads/main", "environment": "production"})
}

fn gitlab() -> Value {
    json!({"iss": "https://ci.example.org", "aud": "web1", "exp": NOW + 3600, "iat": NOW, "nbf": NOW - 5, "jti": "a-job",
        "sha": SHA, "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "project_path": "acme/apps/shop", "project_id": "22",
        "namespace_id": "72", "pipeline_source": "push", "ref_protected": "true", "runner_id": 1})
}

fn with(mut claims: Value, claim: &str, value: Value) -> Value {
    claims[claim] = value;
    claims
}

fn without(mut claims: Value, claim: &str) -> Value {
    claims.as_object_mut().unwrap().remove(claim);
    claims
}

struct Fixture {
    pretend: Pretend,
    issuer: Issuer,
}

impl Fixture {
    fn new(kind: IssuerKind, bind: Bind) -> Self {
        Self { pretend: Pretend::ed25519(), issuer: issuer(kind, bind) }
    }

    fn at(&self, now: u64, claims: &Value) -> Result<CiJob, BadToken> {
        let host: HostId = "web1".parse().unwrap();
        let token = self.pretend.token(claims);
        self.issuer.verify(Jwt::parse(&token)?, &self.pretend.keys("a"), Here { host: &host, body: BODY, now })
    }

    fn verify(&self, claims: &Value) -> Result<CiJob, BadToken> {
        self.at(NOW, claims)
    }

    /// The claim that it is refused for.
    fn blames(&self, claims: &Value) -> &'static str {
        match self.verify(claims) {
            Err(BadToken::Claim { claim, .. }) => claim,
            other => panic!("{claims}: {other:?}"),
        }
    }
}

#[test]
fn a_job_of_each_kind_is_known_by_its_token() {
    let job = Fixture::new(IssuerKind::GitHub, Bind::Host).verify(&github()).unwrap();
    assert_eq!((job.subject.as_str(), job.id.as_str(), job.commit.as_str()), ("acme/shop", "a-job", SHA));
    assert_eq!((job.reference.as_str(), job.unusual.len()), ("refs/heads/main", 0));
    assert_eq!(job.claims.get("environment").map(String::as_str), Some("production"));
    let asked = Fixture::new(IssuerKind::GitLab, Bind::Host);
    let job = asked.verify(&gitlab()).unwrap();
    assert_eq!((job.subject.as_str(), job.reference.as_str(), job.unusual.len()), ("acme/apps/shop", "refs/heads/main", 0));
    assert_eq!(job.claims.get("runner_id").map(String::as_str), Some("1"));
    let older = with(with(without(gitlab(), "ref_path"), "ref_type", json!("tag")), "ref", json!("v1"));
    assert_eq!(asked.verify(&older).unwrap().reference.as_str(), "refs/tags/v1");
}

#[test]
fn claims_that_all_kinds_have() {
    for (asked, good) in
        [(Fixture::new(IssuerKind::GitHub, Bind::Host), github()), (Fixture::new(IssuerKind::GitLab, Bind::Host), gitlab())]
    {
        assert!(asked.verify(&good).is_ok());
        assert!(asked.verify(&without(good.clone(), "nbf")).is_ok());
        for claim in ["iss", "aud", "exp", "iat", "jti", "sha"] {
            assert_eq!(asked.blames(&without(good.clone(), claim)), claim);
            for value in [json!(null), json!(""), json!([good[claim]]), json!({}), json!(1.5), json!(true)] {
                assert_eq!(asked.blames(&with(good.clone(), claim, value)), claim);
            }
        }
        for (claim, value) in [
            ("aud", json!("web2")),
            ("aud", json!("web1.example.org")),
            ("aud", json!("WEB1")),
            ("aud", json!("web1#")),
            ("aud", json!(["web1"])),
            ("aud", json!(["web1", "web2"])),
            ("exp", json!((NOW + 300).to_string())),
            ("exp", json!(NOW - 60)),
            ("exp", json!(NOW + 3601)),
            ("exp", json!(NOW)),
            ("iat", json!(NOW + 61)),
            ("iat", json!(NOW.to_string())),
            ("nbf", json!(NOW + 61)),
            ("nbf", json!("soon")),
            ("nbf", json!(null)),
            ("jti", json!("a\nb")),
            ("jti", json!("x".repeat(257))),
            ("sha", json!(SHA[..12])),
            ("sha", json!(SHA.to_uppercase())),
        ] {
            assert_eq!(asked.blames(&with(good.clone(), claim, value)), claim);
        }
        for other in ["https://ci.example.org/", "https://CI.example.org", "http://ci.example.org", "https://other.example.org"] {
            assert_eq!(asked.verify(&with(good.clone(), "iss", json!(other))), Err(BadToken::UnknownIssuer(other.into())));
        }
    }
}

#[test]
fn the_edges_of_the_window_are_where_they_are_said_to_be() {
    let asked = Fixture::new(IssuerKind::GitHub, Bind::Host);
    let claims = without(github(), "nbf");
    for (now, taken) in [(NOW - 61, false), (NOW - 60, true), (NOW + 359, true), (NOW + 360, false)] {
        assert_eq!(asked.at(now, &claims).is_ok(), taken, "{now}");
    }
    let hour = with(claims, "exp", json!(NOW + 3600));
    assert!(asked.verify(&hour).is_ok());
    let largest = with(hour, "exp", json!(i64::MAX));
    assert_eq!(asked.blames(&largest), "exp");
}

#[test]
fn an_audience_that_names_a_body_is_good_for_that_body_alone() {
    let host: HostId = "web1".parse().unwrap();
    let (own, other) = (audience_of(&host, BODY), audience_of(&host, b"{ }"));
    assert_eq!(own, "web1#sha256=44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    for (bind, plain_is_taken) in [(Bind::Host, true), (Bind::Body, false)] {
        let asked = Fixture::new(IssuerKind::GitHub, bind);
        assert_eq!(asked.verify(&github()).is_ok(), plain_is_taken);
        assert!(asked.verify(&with(github(), "aud", json!(own))).is_ok());
        for bad in [other.clone(), own.to_uppercase(), own.replace("web1", "web2"), format!("{own}0"), own.replace("sha256", "sha512")] {
            assert_eq!(asked.blames(&with(github(), "aud", json!(bad))), "aud");
        }
    }
}

#[test]
fn jobs_that_others_could_have_written_or_begun() {
    let asked = Fixture::new(IssuerKind::GitHub, Bind::Host);
    for event in ["pull_request", "pull_request_target", "workflow_run"] {
        assert_eq!(asked.blames(&with(github(), "event_name", json!(event))), "event_name");
    }
    let unusual =
        |claim: &str, value: &str| asked.verify(&with(github(), claim, json!(value))).unwrap().unusual.into_iter().collect::<Vec<_>>();
    assert_eq!(unusual("event_name", "issue_comment"), ["event_name"]);
    for foreign in ["evil/shop/.github/workflows/x.yml@refs/heads/main", "acme/shop2/.github/workflows/x.yml@v1", "acme/shop"] {
        assert_eq!(unusual("job_workflow_ref", foreign), ["job_workflow_ref"], "{foreign}");
    }
    for claim in ["event_name", "job_workflow_ref", "repository", "repository_id", "repository_owner_id", "ref"] {
        assert_eq!(asked.blames(&without(github(), claim)), claim);
    }
    for (claim, value) in [
        ("repository_id", "acme"),
        ("repository_owner_id", "-1"),
        ("repository", "shop"),
        ("repository", "a/b\n"),
        ("ref", "refs/pull/1/merge"),
        ("ref", "main"),
    ] {
        assert_eq!(asked.blames(&with(github(), claim, json!(value))), claim);
    }

    let asked = Fixture::new(IssuerKind::GitLab, Bind::Host);
    for source in ["merge_request_event", "external_pull_request_event"] {
        assert_eq!(asked.blames(&with(gitlab(), "pipeline_source", json!(source))), "pipeline_source");
    }
    let child = asked.verify(&with(gitlab(), "pipeline_source", json!("parent_pipeline"))).unwrap();
    assert!(child.unusual.contains("pipeline_source"));
    for claim in ["pipeline_source", "project_path", "project_id", "namespace_id"] {
        assert_eq!(asked.blames(&without(gitlab(), claim)), claim);
    }
    for (claim, value, blamed) in
        [("project_id", "acme", "project_id"), ("ref_path", "refs/merge-requests/1/head", "ref"), ("ref_path", "main", "ref")]
    {
        assert_eq!(asked.blames(&with(gitlab(), claim, json!(value))), blamed);
    }
    assert_eq!(asked.blames(&with(without(gitlab(), "ref_path"), "ref_type", json!("other"))), "ref_type");
}

#[test]
fn a_job_may_ask_for_the_release_of_what_it_ran_for() {
    let job = Fixture::new(IssuerKind::GitHub, Bind::Host).verify(&github()).unwrap();
    let (main, other) = ("refs/heads/main", "f".repeat(40));
    assert_eq!(job.is_of(Some(SHA), Some(main)), Ok(()));
    assert_eq!(job.is_of(None, Some(main)), Err(OtherWork::Unnamed("commit")));
    assert_eq!(job.is_of(Some(SHA), None), Err(OtherWork::Unnamed("ref")));
    assert!(matches!(job.is_of(Some(&other), Some(main)), Err(OtherWork::Commit { .. })));
    for reference in ["refs/tags/main", "main", "refs/heads/main2", "refs/heads/other"] {
        assert!(matches!(job.is_of(Some(SHA), Some(reference)), Err(OtherWork::Reference { .. })));
    }
}
