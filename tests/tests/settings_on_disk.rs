//! Files of the configuration that are wrong, or come before what they need: a mistake stops the app that it is about, and is told where it matters.

use std::fs;

use agent_tests::{Bench, Repo, request};

/// Two apps of one repository, both released.
fn two(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.app("a", &settings(&repo, "")).app("b", &settings(&repo, "")).start();
    for app in ["a", "b"] {
        bench.ctl(["--app", app, "release", "main"]).expect(0);
    }
    (bench, repo)
}

fn settings(repo: &Repo, more: &str) -> String {
    format!("repository = {:?}\nbranches = [\"main\"]\n{more}\n", repo.path())
}

#[test]
fn a_mistake_in_one_app_s_file_stops_no_other_app_and_each_run_says_which_settings_it_uses() {
    let (bench, repo) = two("a mistake");
    repo.write("page.html", "two").commit("Two");
    bench.app("a", &settings(&repo, "keep_releases = 3")).app("b", &settings(&repo, "keep_release = 3")).reload();
    // What is right is in force, whatever stands in the other file.
    let done = bench.ctl(["--app", "a", "release", "main"]).expect(0);
    assert!(!done.stderr.contains("apps/b.toml"), "{}", done.stderr);
    bench.ctl(["--app", "b", "plan", "main"]).expect(0).says(&["apps/b.toml:5:1", "did you mean keep_releases?", "are in force"]);
    bench.ctl(["--app", "b", "release", "main"]).expect(0).says(&["apps/b.toml:5:1", "the settings of ", "are in force"]);
    bench.ctl(["doctor"]).expect(1).says(&["apps/b.toml:5:1"]);
    // After a start nothing is known of before, and the others are served.
    bench.stop();
    bench.start();
    bench.ctl(["--app", "a", "release", "main", "--rebuild"]).expect(0);
    let done = bench.ctl(["--app", "b", "release", "main"]);
    assert!(done.code != 0);
    done.says(&["the app b has no settings in force", "apps/b.toml:5:1"]);
    bench.app("b", &settings(&repo, "keep_releases = 3")).reload();
    bench.ctl(["--app", "b", "release", "main", "--rebuild"]).expect(0);
}

#[test]
fn with_units_a_file_that_is_wrong_is_told_before_anything_is_fetched() {
    let (bench, repo) = two("a mistake, with units");
    bench.app("b", &settings(&repo, "keep_release = 3"));
    bench.agent_settings("executor = \"units\"\n").reload();
    let done = bench.ctl(["--app", "b", "release", "main"]).expect(1).says(&["the app's file is wrong", "apps/b.toml:5:1"]);
    assert!(!done.stderr.contains("up to date"), "it has fetched: {}", done.stderr);
}

#[test]
fn an_app_whose_root_is_not_there_yet_is_not_set_up_and_not_unknown() {
    let (bench, repo) = two("no root");
    // Where nobody can make it, root neither.
    let (root, obstacle) = (bench.path("elsewhere/bistro"), bench.write("elsewhere", "a file"));
    let file = settings(&repo, &format!("root = {root:?}"));
    bench.app("bistro", &file).reload();
    let told = ["the app bistro is not set up yet", "install -d -o ", "elsewhere/bistro"];
    let done = bench.ctl(["--app", "bistro", "release", "main"]);
    assert!(done.code != 0);
    done.says(&told);
    bench.ctl(["doctor"]).expect(1).says(&told);
    bench.ctl(["--app", "nobody", "release", "main"]).says(&["there is no app nobody"]);
    bench.agent_settings("executor = \"units\"\n").reload();
    bench.ctl(["--app", "bistro", "release", "main"]).says(&["the app bistro is not set up yet", "agentctl setup app bistro"]);
    fs::remove_file(obstacle).unwrap();
    fs::create_dir_all(&root).unwrap();
    bench.agent_settings("").reload();
    bench.ctl(["--app", "bistro", "release", "main"]).expect(0);
}

#[test]
fn a_setting_that_counts_from_the_next_start_on_is_told_as_that() {
    let (bench, _repo) = two("a restart");
    bench.agent_settings("socket_group = \"daemon\"\n").reload();
    let told = "socket_group is \"daemon\" now, and the socket was made when it was not set";
    assert!(bench.log().contains(told), "{}", bench.log());
    bench.ctl(["doctor"]).says(&[told, "systemctl restart release-agent"]);
}

#[test]
fn a_number_that_the_journal_cannot_count_to_is_refused_like_any_other_bad_one() {
    let (bench, _repo) = two("cursors");
    let status = |path: &str, headers: &[(&str, &str)]| request(&bench.control(), "GET", path, headers, "").unwrap().status;
    let (most, more) = ("9223372036854775807", "9223372036854775808");
    for (path, headers, expected) in [
        (format!("/v1/runs?after={most}"), &[][..], 200),
        (format!("/v1/runs?after={more}"), &[], 400),
        ("/v1/runs?limit=1".to_owned(), &[], 200),
        ("/v1/runs?limit=5000000000".to_owned(), &[], 200),
        ("/v1/runs?limit=0".to_owned(), &[], 400),
        ("/v1/runs?limit=-1".to_owned(), &[], 400),
        (format!("/v1/runs/1/events?after={most}"), &[], 204),
        (format!("/v1/runs/1/events?after={more}"), &[], 400),
        ("/v1/runs/1/events".to_owned(), &[("Last-Event-ID", most)], 204),
        ("/v1/runs/1/events".to_owned(), &[("Last-Event-ID", more)], 400),
        ("/v1/runs/1/events".to_owned(), &[("Last-Event-ID", "x")], 400),
        ("/v1/apps/a/plan?ref=main".to_owned(), &[], 200),
        ("/v1/apps/a/plan?ref=a..b".to_owned(), &[], 400),
    ] {
        assert_eq!(status(&path, headers), expected, "{path} {headers:?}");
    }
    assert!(!bench.log().contains("the journal cannot be read"), "{}", bench.log());
}
