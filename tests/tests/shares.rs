//! What one caller may have of the agent, so that something is left for the others.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::time::Duration;

use agent_tests::{Answer, Bench, Network, SigningKey, form, wait_until};
use serde_json::{Value, json};

const MOST: Duration = Duration::from_secs(60);

fn code(answer: &Answer) -> (u16, String) {
    let told: Value = serde_json::from_str(&answer.body).unwrap();
    (answer.status, told["code"].as_str().unwrap_or_default().to_owned())
}

/// Two keys that may do everything to the app `plain`, whose releases wait for as long as the file `gate` is there.
fn scene(name: &str) -> (Bench, Network, [SigningKey; 2], String) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    let wait = format!("touch {0}.reached; while [ -e {0} ]; do sleep 0.02; done", bench.path("gate").display());
    let hook = format!("[[hook]]\nbefore = \"seal\"\nrun = [\"/bin/sh\", \"-c\", {wait:?}]\n");
    bench.app("plain", &format!("repository = {:?}\nrefs = [\"refs/heads/main\"]\n{hook}", repo.path()));
    let keys = [SigningKey::default(), SigningKey::default()];
    let grant = "[[grant]]\nto = [\"key:ci\", \"key:anna\"]\napps = [\"plain\"]\nactions = [\"*\"]\n";
    let network = bench.network("", grant, &format!("{}{}", keys[0].line("ci"), keys[1].line("anna")));
    bench.start();
    let commit = repo.id("main");
    (bench, network, keys, commit)
}

#[test]
fn one_caller_has_a_share_of_the_queue_and_others_have_theirs() {
    let (bench, network, [ci, anna], commit) = scene("a share of the queue");
    bench.write("gate", "");
    bench.ctl(["release", "--no-follow", "main"]).expect(0);
    wait_until("the release stands at the gate", MOST, || bench.path("gate.reached").exists());
    let release = || form("release", json!({ "ref": "refs/heads/main", "commit": commit }));
    let first = release();
    assert_eq!(network.ask(&ci, &first).status, 202);
    for _ in 1..20 {
        assert_eq!(network.ask(&ci, &release()).status, 202);
    }
    let refused = network.ask(&ci, &release());
    assert_eq!(code(&refused), (429, "queue_full".to_owned()), "{}", refused.body);
    assert!(refused.body.contains("key:ci has 20 runs waiting already") && refused.header("retry-after").is_some());
    // The same bytes are the same run, full or not; and nobody else waits for it.
    assert_eq!(network.ask(&ci, &first).status, 200);
    assert_eq!(network.ask(&anna, &release()).status, 202);
    bench.ctl(["release", "--no-follow", "main"]).expect(0);
    for run in 2..=21 {
        bench.ctl(["cancel", &run.to_string()]).expect(0);
    }
    assert_eq!(network.ask(&ci, &release()).status, 202, "what is cancelled waits no more");
    fs::remove_file(bench.path("gate")).unwrap();
}

#[test]
fn one_caller_is_heard_so_often_within_a_minute_and_root_as_often_as_it_likes() {
    let (bench, network, [ci, anna], _) = scene("so often within a minute");
    let pin =
        |key: &SigningKey, n: u32| network.ask(key, &form(if n.is_multiple_of(2) { "lock" } else { "unlock" }, json!({ "why": "x" })));
    // On a machine so slow that a minute goes by meanwhile, it takes a few more.
    let taken = (0..600).take_while(|n| pin(&ci, *n).status == 202).count();
    assert!((60..600).contains(&taken), "{taken}");
    let refused = pin(&ci, 0);
    assert_eq!(code(&refused), (429, "too_often".to_owned()), "{}", refused.body);
    assert_eq!(pin(&anna, 1).status, 202);
    for _ in 0..3 {
        bench.ctl(["unlock"]).expect(0);
    }
}
