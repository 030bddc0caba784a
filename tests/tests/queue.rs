//! Requests that wait: what was so when they were taken may have changed when their turn comes.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::time::Duration;

use agent_tests::{Bench, Repo, wait_until};

const MOST: Duration = Duration::from_secs(60);

/// A plain app whose releases wait before they are sealed, as long as the file `gate` is there.
fn gated(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    let wait = format!("touch {0}.reached; while [ -e {0} ]; do sleep 0.02; done", bench.path("gate").display());
    let hook = format!("[[hook]]\nbefore = \"seal\"\nrun = [\"/bin/sh\", \"-c\", {wait:?}]\n");
    bench.app("site", &format!("repository = {:?}\nbranches = [\"main\"]\n{hook}", repo.path())).start();
    bench.ctl(["release", "main"]).expect(0);
    (bench, repo)
}

/// A release that is under way, and stands at the gate.
fn at_the_gate(bench: &Bench) -> String {
    bench.write("gate", "");
    let _ = fs::remove_file(bench.path("gate.reached"));
    let run = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().to_owned();
    wait_until("the release stands at the gate", MOST, || bench.path("gate.reached").exists());
    run
}

fn open_the_gate(bench: &Bench) {
    fs::remove_file(bench.path("gate")).unwrap();
}

#[test]
fn two_that_expect_the_same_live_release_do_not_both_win() {
    let (bench, _repo) = gated("compare and swap");
    let live = bench.live("site").unwrap();
    at_the_gate(&bench);
    let second = bench.ctl(["release", "--no-follow", "--expect-live", &live, "main"]).expect(0).stdout.trim().to_owned();
    open_the_gate(&bench);
    let done = bench.ctl(["logs", "-f", &second]).expect(1);
    assert!(done.stdout.contains("expects") || done.stderr.contains("expects"), "{}{}", done.stdout, done.stderr);
    bench.assert_sound();
}

#[test]
fn a_lock_holds_for_those_that_were_waiting_when_it_came() {
    let (bench, _repo) = gated("locked while waiting");
    at_the_gate(&bench);
    let second = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().to_owned();
    bench.ctl(["lock", "-m", "audit"]).expect(0);
    open_the_gate(&bench);
    let done = bench.ctl(["logs", "-f", &second]).expect(1);
    assert!(done.stdout.contains("audit") || done.stderr.contains("audit"), "{}{}", done.stdout, done.stderr);
    bench.assert_sound();
}

#[test]
fn an_app_that_is_away_for_a_moment_keeps_its_run_and_loses_what_waited() {
    let (bench, _repo) = gated("away for a moment");
    let first = at_the_gate(&bench);
    let second = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().to_owned();
    let (file, away) = (bench.path("config/apps/site.toml"), bench.path("site.toml.away"));
    fs::rename(&file, &away).unwrap();
    wait_until("the app is gone", MOST, || bench.ask("/v1/apps/site").status == 404);
    fs::rename(&away, &file).unwrap();
    wait_until("the app is back", MOST, || bench.ask("/v1/apps/site").status == 200);
    assert_eq!(bench.ask_json(&format!("/v1/runs/{second}"))["outcome"], "cancelled");
    open_the_gate(&bench);
    bench.ctl(["logs", "-f", &first]).expect(0);
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
}

#[test]
fn a_directory_where_the_link_belongs_is_told_before_anything_is_done() {
    let bench = Bench::new("not a link");
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    bench.app("site", &format!("repository = {:?}\nbranches = [\"main\"]\n", repo.path()));
    fs::create_dir_all(bench.root_of("site").join("app")).unwrap();
    bench.start();
    let done = bench.ctl(["release", "main"]).expect(1);
    assert!(done.stderr.contains("✗ fetch") && done.stderr.contains("hint: move"), "{}", done.stderr);
    assert!(bench.releases("site").is_empty());
    fs::remove_dir(bench.root_of("site").join("app")).unwrap();
    bench.ctl(["release", "main"]).expect(0);
}
