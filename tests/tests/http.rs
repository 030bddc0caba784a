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
