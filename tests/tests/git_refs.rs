//! Which refs a release goes by: what somebody pushes to another branch neither stops it nor passes for what was asked for.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;

use agent_tests::{Bench, Hostile, Repo};

/// Every branch and every tag.
const ALL: &str = "branches = [\"*\"]\ntags = [\"*\"]";

/// An app whose repository may be released from by every ref, at one commit of `main`.
fn open(name: &str) -> Hostile {
    let hostile = Hostile::new(name, "");
    let file = format!("repository = {:?}\n{ALL}\n", hostile.repo.path());
    hostile.bench.app("plain", &file).reload();
    hostile
}

/// Puts a commit whose author has no address on a branch, as a broken tool would; the answer is its id.
fn malformed(repo: &Repo, branch: &str) -> String {
    let text = repo.git(["cat-file", "commit", "main"]);
    let author = text.lines().find(|line| line.starts_with("author ")).unwrap();
    let address = &author[author.find(" <").unwrap()..=author.find('>').unwrap()];
    fs::write(repo.path().join(".git/malformed"), text.replace(address, "") + "\n").unwrap();
    let id = repo.git(["hash-object", "-t", "commit", "-w", "--literally", ".git/malformed"]);
    repo.git(["update-ref", &format!("refs/heads/{branch}"), &id]);
    id
}

#[test]
fn a_malformed_commit_on_one_branch_stops_releases_of_that_branch_alone() {
    let hostile = open("a malformed commit");
    let bad = malformed(&hostile.repo, "bot");
    for at in 0..5 {
        hostile.repo.git(["branch", &format!("b{at}"), "main"]);
    }
    hostile.repo.write("page.html", "two").commit("Two");
    hostile.releases();
    let deep = hostile.repo.write("page.html", "three").commit("Three");
    // By a commit that no branch ends with: every branch is looked at, and the one that cannot be had is named.
    let top = hostile.repo.write("page.html", "four").commit("Four");
    hostile.passes(&["release", &deep]).says(&["refs/heads/bot", &bad, "missingEmail"]);
    hostile.fails(&["release", "bot"], &["cannot fetch refs/heads/bot", &bad[..12], "missingEmail", "git fsck"]);
    hostile.passes(&["release", &top]);
    hostile.passes(&["plan", "main"]);
}

#[test]
fn a_shallow_upstream_is_told_as_that_and_reaches_nothing_that_is_not_seen_to_be_reached() {
    let hostile = open("a shallow upstream");
    let repo = &hostile.repo;
    for text in ["two", "three"] {
        repo.write("page.html", text).commit(text);
    }
    let hidden = repo.write("page.html", "four").commit("Four");
    repo.git(["checkout", "--quiet", "--orphan", "ok"]);
    repo.commit("Only this is allowed");
    repo.git(["checkout", "--quiet", "main"]);
    let url = format!("file://{}", repo.path().display());
    hostile.beside(&["git", "clone", "--quiet", "--bare", "--depth", "2", "--no-single-branch", &url, "repos/shallow"], &[]).expect(0);
    let app = |refs: &str| {
        let shallow = hostile.bench.path("repos/shallow");
        hostile.bench.app("plain", &format!("repository = {shallow:?}\n{refs}\n")).reload();
    };
    app(ALL);
    hostile.fails(&["release", "main"], &["refs/heads/main", "shallow clone", "--unshallow"]);
    // The commit has come into the cache with that fetch.
    app("branches = [\"ok\"]");
    hostile.fails(&["release", &hidden], &["refs/heads/ok", "cannot be told", "--unshallow"]);
    hostile.passes(&["release", "ok"]);
}

#[test]
fn a_whole_commit_is_released_whatever_a_branch_is_called_and_by_the_ref_that_matters() {
    let hostile = open("a branch that is called like a commit");
    let wanted = hostile.repo.write("page.html", "two").commit("Two");
    for name in ["a-branch-of-a-bot", "z"] {
        hostile.repo.git(["branch", name]);
    }
    let other = hostile.repo.write("page.html", "three").commit("Three");
    hostile.repo.git(["update-ref", &format!("refs/heads/{wanted}"), &other]);
    hostile.passes(&["release", &wanted]);
    assert_eq!(fs::read_to_string(hostile.live().join("page.html")).unwrap(), "two");
    let last = |bench: &Bench| bench.ctl(["show", "--json"]).expect(0).stdout;
    assert!(last(&hostile.bench).contains("refs/heads/main"), "{}", last(&hostile.bench));
    hostile.passes(&["release", "a-branch-of-a-bot"]);
    assert!(last(&hostile.bench).contains("refs/heads/a-branch-of-a-bot"), "{}", last(&hostile.bench));
}

#[test]
fn a_tag_that_is_called_like_an_allowed_branch_is_not_released() {
    let hostile = Hostile::new("a tag for a branch", "");
    hostile.repo.branch("side");
    let pushed = hostile.repo.write("page.html", "pushed").commit("Pushed");
    hostile.repo.git(["tag", "next", &pushed]);
    let file = |refs: &str| format!("repository = {:?}\n{refs}\n", hostile.repo.path());
    hostile.bench.app("plain", &file("branches = [\"main\", \"next\"]")).reload();
    for revision in ["next", "refs/tags/next"] {
        hostile.fails(&["release", revision], &["refs/heads/main, refs/heads/next"]);
    }
    hostile.fails(&["release", &pushed], &["has no branch, tag or commit"]);
    // What was written before there were the two keys is refused with the lines to write instead.
    hostile.bench.app("plain", &file("refs = [\"main\", \"v*\"]")).reload();
    let told = hostile.bench.ctl(["doctor"]).stdout;
    assert!(told.contains("write instead: branches = [\"main\"] and, on a line of its own, tags = [\"v*\"]"), "{told}");
    hostile.bench.app("plain", &file("tags = [\"next\"]")).reload();
    hostile.passes(&["release", "next"]);
}
