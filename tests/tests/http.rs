//! The HTTP API, as a script without the ctl uses it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the way to fail")]

use std::fs;

use agent_tests::{Answer, Bench, Repo, request};
use serde_json::{Value, json};

/// A bench with an app that is nothing but files, and its agent.
fn plain(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("site");
    repo.write("public/index.html", "one").commit("The first page");
    bench.app("site", &format!("repository = {:?}\n", repo.path())).start();
    (bench, repo)
}

fn send(bench: &Bench, body: &str) -> Answer {
    request(&bench.control(), "POST", "/v1/requests", &[("Content-Type", "application/json")], body).unwrap()
}

fn parsed(answer: &Answer) -> Value {
    serde_json::from_str(&answer.body).unwrap_or_else(|err| panic!("{err}: {}", answer.body))
}

fn ask(bench: &Bench, action: &str, nonce: &str, more: &Value) -> Answer {
    let mut form = json!({ "v": 1, "app": "site", "action": action, "nonce": nonce });
    form.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    send(bench, &form.to_string())
}

/// Asks, follows to the end, and answers with the number of the run.
fn ask_and_follow(bench: &Bench, action: &str, nonce: &str, more: &Value) -> u64 {
    let answer = ask(bench, action, nonce, more);
    assert_eq!(answer.status, 202, "{}", answer.body);
    let run = parsed(&answer)["run"].as_u64().unwrap();
    assert_eq!(bench.events(run).last().unwrap()["what"], "ended");
    run
}

#[test]
fn the_same_bytes_again_are_the_same_run_even_when_they_could_not_be_asked_anew() {
    let (bench, repo) = plain("the same bytes");
    ask_and_follow(&bench, "release", "release-number-one", &json!({ "ref": "main" }));
    let first = bench.live("site").unwrap();
    repo.write("public/index.html", "two").commit("The second page");
    ask_and_follow(&bench, "release", "release-number-two", &json!({ "ref": "main" }));
    let pin = ask_and_follow(&bench, "pin", "pin-the-first-one", &json!({ "release": first }));
    ask_and_follow(&bench, "unpin", "unpin-the-first-one", &json!({ "release": first }));

    // With the release gone, the request could not be taken any more; it was taken.
    fs::remove_dir_all(bench.root_of("site").join("releases").join(&first)).unwrap();
    let anew = ask(&bench, "pin", "pin-it-once-again", &json!({ "release": first }));
    assert_eq!((anew.status, parsed(&anew)["code"].as_str().unwrap()), (404, "no_release"));
    let again = ask(&bench, "pin", "pin-the-first-one", &json!({ "release": first }));
    assert_eq!((again.status, parsed(&again)["run"].as_u64().unwrap()), (200, pin), "{}", again.body);
    let other = ask(&bench, "pin", "pin-the-first-one", &json!({ "release": "previous" }));
    assert_eq!((other.status, parsed(&other)["code"].as_str().unwrap()), (409, "nonce_reused"));
}

#[test]
fn whoever_has_read_to_the_end_is_told_so_and_not_kept_waiting() {
    let (bench, _) = plain("read to the end");
    let run = ask_and_follow(&bench, "release", "release-number-one", &json!({ "ref": "main" }));
    let events = bench.events(run);
    let last = events.len();
    let follow = |after: usize, headers: &[(&str, &str)]| {
        request(&bench.control(), "GET", &format!("/v1/runs/{run}/events?after={after}"), headers, "").unwrap()
    };

    let rest = follow(last - 2, &[]);
    assert_eq!((rest.status, rest.header("content-type")), (200, Some("application/x-ndjson")));
    assert_eq!(rest.body.lines().count(), 2);
    let sse = follow(0, &[("Accept", "text/event-stream"), ("Last-Event-ID", &(last - 1).to_string())]);
    assert_eq!((sse.status, sse.header("content-type")), (200, Some("text/event-stream")));
    let line = sse.body.strip_prefix(&format!("id: {last}\ndata: ")).expect("the header goes before the query").trim_end();
    assert_eq!(serde_json::from_str::<Value>(line).unwrap(), events[last - 1]);

    for (after, headers) in [(last, vec![]), (last + 1000, vec![]), (0, vec![("Accept", "text/event-stream"), ("Last-Event-ID", "100000")])]
    {
        let nothing = follow(after, &headers);
        assert_eq!((nothing.status, nothing.body.as_str()), (204, ""), "{headers:?}");
    }
}

/// Asked through a program that runs as another user, where the tests may do that.
#[test]
fn whoever_may_read_no_app_learns_of_none() {
    let (bench, _) = plain("no grant");
    assert!(bench.ask("/metrics").body.contains("release_agent_running{app=\"site\"} 0"), "its own user sees all");
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not root: nobody else can be asked for");
        return;
    }
    bench.stop();
    bench.agent_settings("socket_group = \"nogroup\"\n").start();
    fs::set_permissions(bench.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let as_a_stranger = |path: &str| {
        let mut command = bench.command("setpriv");
        command.args(["--reuid=daemon", "--regid=nogroup", "--clear-groups", "curl", "--silent", "--unix-socket"]);
        command.arg(bench.path("run/control.sock")).arg(format!("http://localhost{path}"));
        bench.begin(command).finish(std::time::Duration::from_secs(60)).expect(0)
    };
    assert!(!as_a_stranger("/metrics").stdout.contains("site"));
    assert_eq!(as_a_stranger("/v1/apps").json()["code"], "not_allowed");
    assert_eq!(as_a_stranger("/v1/apps/site").json()["code"], "not_allowed");
    assert_eq!(as_a_stranger("/v1/apps/other").json()["code"], "not_allowed", "the same as of one that is there");
}

#[test]
fn whatever_cannot_be_understood_is_answered_with_a_problem() {
    let (bench, _) = plain("not understood");
    let long = format!(r#"{{"v":1,"why":"{}"}}"#, "x".repeat(20_000));
    for (method, path, body, status, code, says) in [
        ("GET", "/v1/apps/%ff", "", 400, "malformed", "the address cannot be understood: Invalid UTF-8 in `app`"),
        ("GET", "/v1/apps/Site", "", 400, "malformed", "Site"),
        ("GET", "/v1/apps/site/plan", "", 400, "malformed", "the query cannot be understood: missing field `ref`"),
        ("GET", "/v1/runs?app=site&ap=site", "", 400, "malformed", "unknown field `ap`, expected one of `app`, `after`, `limit`"),
        ("GET", "/v1/doctor?app=a&app=b", "", 400, "malformed", "duplicate field `app`"),
        ("GET", "/v1/runs/none", "", 400, "malformed", "none"),
        ("GET", "/v1/runs/1", "", 404, "no_run", "1"),
        ("GET", "/v1/apps/site/releases/live", "", 404, "no_release", "live"),
        ("GET", "/v2", "", 404, "not_found", "nothing at this address"),
        ("DELETE", "/v1/apps", "", 405, "wrong_method", "not asked in this way"),
        ("POST", "/v1/requests", "{}", 400, "malformed", "missing field `v`"),
        ("POST", "/v1/requests", &long, 413, "too_large", "16384 bytes"),
    ] {
        let answer = request(&bench.control(), method, path, &[("Content-Type", "Application/JSON; charset=utf-8")], body).unwrap();
        assert_eq!((answer.status, answer.header("content-type")), (status, Some("application/problem+json")), "{path}: {}", answer.body);
        let problem = parsed(&answer);
        assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{path}");
        assert!(problem["detail"].as_str().unwrap().contains(says), "{path}: {}", answer.body);
    }
    let text = request(&bench.control(), "POST", "/v1/requests", &[("Content-Type", "text/plain")], "{}").unwrap();
    assert_eq!((text.status, &parsed(&text)["code"]), (415, &json!("wrong_type")));
}
