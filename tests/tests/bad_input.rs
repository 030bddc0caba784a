//! What bad input gets: a sentence that names the thing and the hint, the right exit code, and nothing lost. The former release serves on, and
//! nothing of the failed one is left.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent_tests::{Bench, Done, Place, Repo, demo_settings, free_port, get, is_root, processes_about, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// The app file of an app without `[python]`, `[django]` and `[restart]`, with more at its end.
fn settings(repo: &Repo, more: &str) -> String {
    format!("repository = {:?}\nbranches = [\"main\", \"v*\", \"1*\"]\ntags = [\"v*\", \"1*\"]\n{more}\n", repo.path())
}

/// A bench with the app `plain`, one release of which is live.
fn live(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.app("plain", &settings(&repo, "")).start();
    bench.ctl(["release", "main"]).expect(0);
    (bench, repo)
}

/// Gives the app `plain` other settings, and waits until they are in force.
fn set(bench: &Bench, toml: &str) {
    bench.app("plain", toml);
    bench.reload();
}

/// Asks for what must fail, and looks at what is left: the former release serves, and nothing else is there.
#[track_caller]
fn fails(bench: &Bench, args: &[&str], code: i32, parts: &[&str]) -> Done {
    let (before, releases) = (bench.live("plain"), bench.releases("plain"));
    let done = bench.ctl(args).expect(code).says(parts);
    assert_eq!(bench.live("plain"), before, "another release is live");
    assert_eq!(bench.releases("plain"), releases, "something is left in releases/");
    let scratch = bench.root_of("plain").join(".agent/tmp");
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "something is left in {}", scratch.display());
    bench.assert_sound();
    assert!(!done.stderr.contains("panicked") && !bench.log().contains("panicked"), "something panicked");
    done
}

#[test]
fn refs_that_mean_nothing_or_too_much() {
    let (bench, repo) = live("refs");
    let head = repo.head();
    repo.tag("v1.10").tag("v1.11");
    fails(&bench, &["release", "v1.1"], 1, &["no branch, tag or commit v1.1", "did you mean v1.1"]);
    fails(&bench, &["release", "mian"], 1, &["mian", "did you mean main?"]);
    fails(&bench, &["release", "zzzzzzzz"], 1, &["zzzzzzzz"]);
    fails(&bench, &["release", "0123456"], 1, &["0123456"]);
    for wrong in ["main~1", "a..b", "HEAD^", "-f", "--upload-pack=x", "a b", ""] {
        let done = bench.ctl(["release", "--", wrong]).expect(2);
        assert!(!done.stderr.is_empty());
    }

    // A branch that looks like the beginning of another commit.
    repo.branch(&head[..8]).write("page.html", "two").commit("Two");
    repo.branch("main");
    set(&bench, &format!("repository = {:?}\n", repo.path()));
    fails(&bench, &["release", &head[..8]], 1, &["ambiguous", "refs/heads/", &head, "full name"]);
    bench.ctl(["release", &format!("refs/heads/{}", &head[..8])]).expect(0);
    bench.ctl(["release", &head]).expect(0);

    // A branch and a tag of one name, of different commits.
    repo.tag("v2").write("page.html", "three").commit("Three");
    repo.git(["branch", "v2"]);
    fails(&bench, &["release", "v2"], 1, &["v2 is ambiguous", "refs/heads/v2", "refs/tags/v2"]);
    bench.ctl(["release", "refs/tags/v2"]).expect(0);

    // Tags of what is no commit.
    repo.git(["tag", "v3", "HEAD^{tree}"]);
    fails(&bench, &["release", "v3"], 1, &["v3", "names no commit"]);
}

#[test]
fn commits_that_no_allowed_ref_reaches() {
    let (bench, repo) = live("unreachable");
    let foreign = repo.branch("attack").write("page.html", "owned").commit("Mine");
    fails(
        &bench,
        &["release", "attack"],
        1,
        &["the repository has refs/heads/attack", "only refs/heads/main, refs/heads/v*", "`branches`"],
    );
    fails(&bench, &["release", &foreign], 1, &[&foreign[..12]]);
    // A commit that was there once, and is on no branch any more.
    repo.branch("main").write("page.html", "two");
    let gone = repo.commit("Two");
    bench.ctl(["release", "main"]).expect(0);
    repo.reset("main~1").write("page.html", "three").commit("Three");
    // Withdrawn, and still in the cache under the branch that reached it: whoever asks, the repository is asked.
    fails(&bench, &["release", &gone], 1, &[&gone[..12], "reached by no ref", "main"]);
    bench.ctl(["release", "main"]).expect(0);
    fails(&bench, &["release", &gone], 1, &[&gone[..12], "reached by no ref", "main"]);
}

#[test]
fn repositories_that_are_not_what_they_should_be() {
    let (bench, repo) = live("repositories");
    let empty = bench.repo("empty");
    set(&bench, &settings(&empty, ""));
    fails(&bench, &["release", "main"], 1, &["no branch and no tag yet", "push"]);
    set(&bench, &format!("repository = {:?}\n", bench.path("repos/nowhere")));
    fails(&bench, &["release", "main"], 1, &["repos/nowhere", "`repository`"]);
    bench.write("repos/file", "not a repository");
    set(&bench, &format!("repository = {:?}\n", bench.path("repos/file")));
    fails(&bench, &["release", "main"], 1, &["repos/file", "`repository`"]);
    // What is in the cache can still be released by its whole id, with the repository out of reach.
    bench.ctl(["release", &repo.head()]).expect(0).says(&["cannot be asked whether a ref still reaches the commit"]);
    bench.assert_sound();
}

#[test]
fn trees_that_are_not_written() {
    let (bench, repo) = live("trees");
    repo.write(".release/manifest.json", "{}").commit("Ship the agent's own");
    fails(&bench, &["release", "main"], 1, &[".release", "rename it"]);
    repo.remove(".release/manifest.json");
    std::os::unix::fs::symlink("../../../../etc", repo.path().join("static")).unwrap();
    repo.commit("Lead out");
    fails(&bench, &["release", "main"], 1, &["\"static\"", "leads out", "../../../../etc", "[shared]"]);
    repo.remove("static");
    std::os::unix::fs::symlink("/etc/passwd", repo.path().join("static")).unwrap();
    repo.commit("Lead out absolutely");
    fails(&bench, &["release", "main"], 1, &["\"static\"", "/etc/passwd"]);
    repo.remove("static").commit("Mend it");
    let id = repo.head();
    repo.git(["update-index", "--add", "--cacheinfo", &format!("160000,{id},vendor/lib")]);
    repo.git(["commit", "--quiet", "--message", "Add a submodule"]);
    fails(&bench, &["release", "main"], 1, &["submodule", "vendor/lib", "submodules = \"ignore\""]);
    set(&bench, &settings(&repo, "submodules = \"ignore\"\n"));
    bench.ctl(["release", "main"]).expect(0).says(&["vendor/lib"]);
    set(&bench, &settings(&repo, "submodules = \"ignore\"\n[limits]\nfiles = 1\n"));
    repo.write("more.txt", "more");
    repo.git(["add", "more.txt"]);
    repo.git(["commit", "--quiet", "--message", "More"]);
    fails(&bench, &["release", "main"], 1, &["files", "limits.files", "[limits]"]);
}

#[test]
fn what_is_shared_must_be_there() {
    let (bench, repo) = live("shared");
    set(&bench, &settings(&repo, "[shared]\ndirs = [\"media\"]\nfiles = [\".env\"]\n"));
    fails(&bench, &["release", "main"], 1, &["shared directory", "shared/media", "mkdir -p"]);
    fs::create_dir(bench.root_of("plain").join("shared/media")).unwrap();
    fails(&bench, &["release", "main"], 1, &["shared file", "shared/.env", "touch"]);
    bench.write("apps/plain/shared/.env", "A=b\n");
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
}

#[test]
fn a_broken_configuration_at_the_start_is_told_whole() {
    let bench = Bench::new("a broken configuration");
    bench.app(
        "shop",
        "repository = \"http://example.com/x\"\nkeep_release = 3\nwhen_busy = \"never\"\n[restart]\nstrategy = \"uwsgi-fifo\"\n",
    );
    bench.agent_settings("[[grant]]\nto = \"anna\"\napps = [\"*\"]\nactions = [\"*\"]\n");
    let said = bench.start_refused().expect(64).says(&[
        "shop.toml",
        "keep_releases",
        "not encrypted",
        "never",
        "fifo",
        "agent.toml",
        "unix-user:anna",
    ]);
    for line in ["shop.toml:3", "shop.toml:4", "shop.toml:5", "shop.toml:6", "agent.toml:2"] {
        assert!(said.stderr.contains(line), "{line}: {}", said.stderr);
    }
    assert!(!bench.path("run/control.sock").exists());
    // A syntax error too, and a file that is no text.
    bench.app("shop", "repository = \"/x\nroot = 3\n");
    bench.start_refused().expect(64).says(&["shop.toml:2", "not TOML"]);
    bench.write("config/apps/shop.toml", [0xff, 0xfe, 0x00]);
    bench.start_refused().expect(64).says(&["shop.toml", "UTF-8"]);
    // Only asked whether it is right, it says the same.
    let mut agent = bench.release_agent();
    agent.args(["--check-config", "--config"]).arg(bench.path("config"));
    bench.begin(agent).finish(SOON).expect(64).says(&["shop.toml"]);
}

#[test]
fn a_broken_configuration_later_leaves_the_good_one_in_force() {
    let (bench, repo) = live("a broken change");
    bench.app("plain", &settings(&repo, "keep_release = 1\n"));
    wait_until("the agent complains", SOON, || !bench.ask_json("/v1/apps")["complaints"].as_array().unwrap().is_empty());
    bench.ctl(["status"]).expect(0).says(&["not in force", "plain.toml:6", "keep_releases", "is live"]);
    bench.ctl(["doctor"]).expect(1).says(&["plain.toml:6", "hint:", "what was in force before"]);
    repo.write("page.html", "two").commit("Two");
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
    bench.app("plain", &settings(&repo, "keep_releases = 1\n"));
    wait_until("the agent is content", SOON, || bench.ask_json("/v1/apps")["complaints"].as_array().unwrap().is_empty());
    bench.ctl(["doctor"]).expect(0);
}

#[test]
fn where_the_agent_itself_cannot_start() {
    let (bench, _) = live("a second agent");
    // On the same state directory.
    let run = |arguments: &[(&str, &Path)]| {
        let mut agent = bench.release_agent();
        for (name, path) in arguments {
            agent.arg(name).arg(path);
        }
        bench.begin(agent).finish(SOON)
    };
    let (config, state, socket) = (bench.path("config"), bench.path("state"), bench.path("run/control.sock"));
    let other = bench.path("other");
    run(&[("--config", &config), ("--state", &state), ("--socket", &other.join("s"))]).expect(69).says(&[
        "another agent uses the state directory",
        &state.to_string_lossy(),
        "--state",
    ]);
    // On the same root.
    run(&[("--config", &config), ("--state", &other.join("state")), ("--socket", &other.join("s"))]).expect(69).says(&[
        "the app plain",
        &format!("another agent (process {})", bench.agent_pid().unwrap()),
        "never share a root",
    ]);
    // On the same socket.
    let none = bench.path("none");
    run(&[("--config", &none), ("--state", &other.join("state")), ("--socket", &socket)])
        .expect(69)
        .says(&["another agent answers on", "--socket"]);
    // Where something else lies.
    let file = bench.write("other/file", "mine");
    run(&[("--config", &none), ("--state", &other.join("state")), ("--socket", &file)]).expect(69).says(&["other/file", "no socket"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    run(&[("--config", &none), ("--state", &file), ("--socket", &other.join("s"))]).says(&["other/file"]);
    let long = other.join("x".repeat(120));
    run(&[("--config", &none), ("--state", &other.join("state")), ("--socket", &long)]).expect(69).says(&["107", "--socket"]);
    run(&[("--config", &file), ("--state", &other.join("state")), ("--socket", &other.join("s"))]).expect(64).says(&["other/file"]);
    run(&[("--confg", &file)]).expect(64).says(&["--config"]);
    assert_eq!(bench.ask("/healthz").status, 200);
    bench.assert_sound();
}

#[test]
fn a_configuration_directory_that_is_not_there() {
    let bench = Bench::new("no configuration");
    fs::remove_dir_all(bench.path("config")).unwrap();
    // A host without any app yet is no mistake; but it is said, for it may be a typing error.
    bench.start();
    bench.ctl(["status"]).expect(0).says(&["no app is configured"]);
    bench.ctl(["doctor"]).expect(0).says(&["no app", "agentctl init"]);
    assert!(bench.log().contains("there is no configuration"), "{}", bench.log());
    // It is taken up when it comes.
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    fs::create_dir_all(bench.path("config/apps")).unwrap();
    bench.app("plain", &settings(&repo, ""));
    wait_until("the app is taken up", SOON, || bench.ask("/v1/apps/plain").status == 200);
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
}

#[test]
fn a_journal_of_a_newer_version_is_left_alone() {
    let (bench, _) = live("a newer journal");
    bench.stop();
    let journal = bench.path("state/journal.db");
    let sql = |text: &str| {
        let output = Command::new("sqlite3").arg(&journal).arg(text).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert!(journal.exists(), "{:?}", fs::read_dir(bench.path("state")).unwrap().collect::<Vec<_>>());
    let version: u32 = sql("pragma user_version").parse().unwrap();
    sql(&format!("pragma user_version = {}", version + 1));
    let before = sql("select count(*) from event");
    bench.start_refused().expect(65).says(&[&format!("version {}", version + 1), "newer agent", "not touched"]);
    assert_eq!(sql("select count(*) from event"), before);
    sql(&format!("pragma user_version = {version}"));
    bench.start().assert_sound();
    bench.stop();
    // A file that is no journal at all.
    fs::write(&journal, "this is no database, and long enough to be looked at as if it were one".repeat(100)).unwrap();
    bench.start_refused().expect(74).says(&["cannot be opened", &journal.to_string_lossy(), "move"]);
}

#[test]
fn apps_that_are_not_there_or_too_many() {
    let (bench, repo) = live("apps");
    bench.ctl(["--app", "shop", "status"]).expect(2).says(&["no app shop"]);
    bench.ctl(["--app", "shop", "release", "main"]).expect(2).says(&["no app shop", "agentctl status"]);
    bench.ctl(["--app", "Shop!", "release", "main"]).expect(2).says(&["Shop!", "lower-case"]);
    bench.app("second", &settings(&repo, ""));
    wait_until("the second app is there", SOON, || bench.ask("/v1/apps/second").status == 200);
    for verb in [&["release", "main"][..], &["list"], &["plan", "main"], &["rollback"], &["prune"], &["lock", "-m", "x"], &["check"]] {
        bench.ctl(verb).expect(2).says(&["several apps", "--app", "plain, second"]);
    }
    bench.ctl(["--app", "second", "release", "main"]).expect(0);
    bench.assert_sound();
}

/// A hook that waits until the test lets it go on: `reached` tells that it waits.
const GATE: &str = "#!/bin/sh\ntouch \"$1.reached\"\nwhile [ ! -e \"$1.open\" ]; do sleep 0.02; done\n";

#[test]
fn two_apps_are_released_side_by_side() {
    let bench = Bench::new("side by side");
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.pretend("gate", GATE);
    let hook = |name: &str| format!("[[hook]]\nafter = \"checkout\"\nrun = [\"gate\", {:?}]\n", bench.path(name));
    bench.app("first", &settings(&repo, &hook("first"))).app("second", &settings(&repo, &hook("second"))).start();
    let first = bench.ctl_begin(["--app", "first", "release", "main"]);
    let second = bench.ctl_begin(["--app", "second", "release", "main"]);
    wait_until("both are in the middle", SOON, || bench.path("first.reached").exists() && bench.path("second.reached").exists());
    bench.ctl(["status"]).expect(0).says(&["running"]);
    bench.write("second.open", "");
    second.finish(SOON).expect(0);
    assert_eq!(bench.live("first"), None);
    bench.write("first.open", "");
    first.finish(SOON).expect(0);
    bench.assert_sound();
}

#[test]
fn hooks_that_fail_hang_wait_and_leave_something_behind() {
    let (bench, repo) = live("hooks");
    let hook = |run: &[&str], more: &str| settings(&repo, &format!("[[hook]]\nafter = \"checkout\"\nrun = {run:?}\n{more}\n"));
    set(&bench, &hook(&["sh", "-c", "echo first; echo the cows are out >&2; exit 7"], ""));
    fails(&bench, &["release", "main"], 1, &["the hook after checkout failed: sh ended with exit status 7", "the cows are out"]);
    set(&bench, &hook(&["no-such-program", "x"], ""));
    fails(&bench, &["release", "main"], 1, &["no-such-program", "not installed"]);
    set(&bench, &hook(&["bin/no-such-program"], ""));
    fails(&bench, &["release", "main"], 1, &["there is no program", "/bin/no-such-program"]);
    set(&bench, &hook(&["sh", "-c", "echo so far; exec sleep 1000"], "timeout = \"1s\""));
    fails(&bench, &["release", "main"], 1, &["timeout", "after 1 s", "so far", "raise `timeout`"]);
    repo.write_program("bin/odd", "#!/no/such/shell\n").commit("Odd");
    set(&bench, &hook(&["bin/odd"], ""));
    fails(&bench, &["release", "main"], 1, &["cannot start bin/odd", "#!"]);
    // It ignores TERM, and so does its child.
    set(&bench, &hook(&["sh", "-c", "trap '' TERM; sleep 1000; sleep 1000"], "timeout = \"1s\""));
    fails(&bench, &["release", "main"], 1, &["timeout", "after 1 s"]);
    set(&bench, &hook(&["sh", "-c", "kill -SEGV $$"], ""));
    fails(&bench, &["release", "main"], 1, &["killed by SIGSEGV"]);
    // Nobody answers a question.
    set(&bench, &hook(&["sh", "-c", "read answer || echo nobody answers"], ""));
    let done = bench.ctl(["-vv", "release", "main"]).expect(0);
    assert!(done.stderr.contains("nobody answers"), "{}", done.stderr);
    // A daemon in a session of its own holds the pipe.
    set(&bench, &hook(&["sh", "-c", "setsid sleep 1000 & echo started"], ""));
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
    assert!(processes_about(&bench.path("")).iter().all(|process| !process.command.contains("sleep 1000")));
}

#[test]
fn output_without_end_and_without_sense() {
    let (bench, repo) = live("output");
    let hook = |run: &str| settings(&repo, &format!("[[hook]]\nafter = \"checkout\"\nrun = [\"sh\", \"-c\", {run:?}]\n"));
    let fake = r#"{"run":2,"n":9,"at":"2026-11-20T22:45:23Z","what":"ended","outcome":"live","ms":1}"#;
    set(
        &bench,
        &hook(
            "yes 'a line of output that is long enough to be one of sixty-four mebibytes' | head -c 67108864; echo the last line; exit 3",
        ),
    );
    fails(&bench, &["release", "main"], 1, &["the last line", "exit status 3"]);
    let run = bench.last_run()["run"].as_u64().unwrap();
    let events = bench.events(run);
    assert!(events.len() < 11_000, "{} events", events.len());
    bench.ctl(["logs", &run.to_string()]).expect(0).says(&["more lines of output are not kept"]);
    let size: u64 = fs::read_dir(bench.path("state")).unwrap().flatten().map(|entry| entry.metadata().unwrap().len()).sum();
    assert!(size < 30_000_000, "the state directory has {size} bytes");

    bench.write("noise", [&[0xff; 1000][..], &[0; 1000], b"\x1b[2J\x1b]0;owned\x07\r", &[b'x'; 2_000_000], b"\nnot the end"].concat());
    set(&bench, &hook(&format!("cat {}; echo; echo '{fake}'; exit 3", bench.path("noise").display())));
    let done = fails(&bench, &["release", "main"], 1, &["not the end", "(cut)", "\"outcome\":\"live\""]);
    assert!(!done.stderr.contains('\u{1b}') && done.stderr.len() < 40_000, "{} bytes", done.stderr.len());
}

#[test]
fn secrets_stand_nowhere() {
    let (bench, repo) = live("secrets");
    let secret = "hunter2-and-some-more";
    let file = bench.write("config/plain.env", format!("API_KEY={secret}\nTOKEN='two words of it'\n"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let hook = "env; echo $API_KEY >&2; printf %s $API_KEY | base64; echo https://me:hunter2@example.com/x; exit 3";
    let toml = format!("[secrets]\nfiles = [{file:?}]\n[[hook]]\nafter = \"checkout\"\nrun = [\"sh\", \"-c\", {hook:?}]\n");
    set(&bench, &settings(&repo, &toml));
    let done = fails(&bench, &["-vv", "release", "main"], 1, &["API_KEY=***", "TOKEN=***", "https://***@example.com"]);
    let encoded = "aHVudGVyMi1hbmQtc29tZS1tb3Jl";
    let forbidden = [secret, "two words of it", encoded, "hunter2"];
    assert!(forbidden.iter().all(|text| !done.stderr.contains(text)), "{}", done.stderr);
    bench.ctl(["logs", "2", "--json"]).expect(0).says(&["***"]);
    bench.stop();
    let mut files = vec![bench.path("log/agent.log")];
    files.extend(fs::read_dir(bench.path("state")).unwrap().flatten().map(|entry| entry.path()));
    assert!(files.len() > 2);
    for file in files.iter().filter(|file| file.is_file()) {
        let bytes = fs::read(file).unwrap();
        for text in forbidden {
            assert!(!bytes.windows(text.len()).any(|window| window == text.as_bytes()), "{text} stands in {}", file.display());
        }
    }
    // A file that others can read, and one that is gone.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    bench.start_refused().expect(64).says(&["plain.env", "chmod"]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    bench.start();
    fs::remove_file(&file).unwrap();
    fails(&bench, &["release", "main"], 1, &["secrets", "plain.env"]);
    bench.ctl(["doctor"]).expect(1).says(&["secrets", "plain.env"]);
}

/// A file system in memory, mounted for as long as the value lives.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(at: &'a Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status().unwrap();
        assert!(done.success(), "root may mount");
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Lazily: the agent may still have files open in it when the test fails.
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

#[test]
fn as_root_a_full_disk_loses_nothing() {
    if !is_root("what a full disk does to a release") {
        return;
    }
    let bench = Bench::new("a full disk");
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    let root = bench.root_of("plain");
    let _mounted = Mounted::new(&root, "size=3m,nr_inodes=300");
    bench.app("plain", &settings(&repo, "keep_releases = 1\n")).start();
    bench.ctl(["release", "main"]).expect(0);
    // More than there is room for, known beforehand.
    repo.write("large", vec![b'x'; 8_000_000]).commit("Large");
    fails(&bench, &["release", "main"], 1, &["disk is full"]);
    // It fits by its size, but not beside the objects that git keeps.
    repo.remove("large").commit("Small again");
    bench.ctl(["release", "main"]).expect(0);
    let mut state = 1_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    let noise: Vec<u8> = (0..2_000_000).map(|_| random()).collect();
    repo.write("noise", &noise).commit("Noise");
    fails(&bench, &["release", "main"], 1, &["disk is full", "prune"]);
    // Many files.
    repo.reset("HEAD~1");
    for number in 0..400 {
        repo.write(&format!("many/{number}"), number.to_string());
    }
    repo.commit("Many");
    fails(&bench, &["release", "main"], 1, &["401 inodes", "prune"]);
    // Full to the last byte: what can still be done is done.
    repo.reset("HEAD~1").write("page.html", "two").commit("Two");
    bench.write("apps/plain/shared/ballast", "");
    let _ = fs::write(root.join("shared/ballast"), vec![0; 4_000_000]);
    fails(&bench, &["release", "main"], 1, &["disk is full"]);
    bench.ctl(["status"]).expect(0);
    bench.ctl(["list"]).expect(0);
    bench.ctl(["doctor"]).expect(1).says(&["disk", "prune"]);
    fs::remove_file(root.join("shared/ballast")).unwrap();
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
    bench.stop();
}

#[test]
fn as_root_a_full_state_directory_is_told() {
    if !is_root("what a full disk does to the journal") {
        return;
    }
    let bench = Bench::new("a full state directory");
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    let state = bench.path("state");
    let _mounted = Mounted::new(&state, "size=12m");
    bench.app("plain", &settings(&repo, "[[hook]]\nafter = \"checkout\"\nrun = [\"gate\", \"x\"]\n"));
    bench.pretend("gate", "#!/bin/sh\n[ ! -e \"$PWD/fill\" ] || yes 'a line of output, many of which fill the journal' | head -n 9000\n");
    bench.start();
    bench.ctl(["release", "main"]).expect(0);
    let ballast = || drop(fs::write(state.join("ballast"), vec![0; 20_000_000]));
    ballast();
    // What a tool says is lost, and the run goes on: its marks have a reserve.
    repo.write("fill", "").commit("Fill");
    bench.ctl(["release", "main"]).expect(0).says(&["lost", "state directory is full"]);
    let before = bench.live("plain");
    // With the reserve used up nothing new begins.
    ballast();
    let refused = (0..200).map(|_| bench.ctl(["lock", "-m", "no room"])).find(|done| done.code != 0).expect("the disk is full at last");
    refused.expect(5).says(&["no room", "journal.db is full", "make room"]);
    bench.ctl(["status"]).expect(0);
    fs::remove_file(state.join("ballast")).unwrap();
    bench.ctl(["unlock"]).expect(0);
    assert!(bench.is_running(), "{}", bench.log());
    assert_eq!(bench.live("plain"), before);
    repo.remove("fill").commit("Empty");
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
    bench.stop();
}

/// A user without any right here, who is there on every Debian: `daemon`.
const OTHER: u32 = 1;

#[test]
fn as_root_a_root_that_the_agent_may_not_write() {
    if !is_root("what an agent of an ordinary user does with a root that it may not write") {
        return;
    }
    let bench = Bench::new("an unwritable root");
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.app("plain", &settings(&repo, "")).give_to(OTHER).start();
    bench.ctl(["release", "main"]).expect(0);
    repo.write("page.html", "two").commit("Two");
    let releases = bench.root_of("plain").join("releases");
    let mode = |mode: u32| fs::set_permissions(&releases, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    // git must not refuse the repository, which belongs to root now and then.
    fails(&bench, &["release", "main"], 1, &["releases/", "ermission denied", "chown -R daemon", "/releases\n"]);
    mode(0o755);
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
    bench.stop();
    // From the start: all of it belongs to somebody else.
    let mut chown = bench.command("chown");
    chown.args(["-R", "0:0"]).arg(bench.root_of("plain"));
    bench.begin(chown).finish(SOON).expect(0);
    bench.start_refused().expect(69).says(&["plain", "ermission denied", "chown -R daemon"]);
}

/// An instance of the app: a server on the socket that it is given, which says who it is.
const SERVER: &str = r#"
import http.server, os, socketserver, sys
revision = open("REVISION").read().strip()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-Release", revision)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")
    def log_message(self, *args):
        pass
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64
Server(sys.argv[1], Handler).serve_forever()
"#;

#[test]
fn a_socket_name_that_somebody_else_has_is_left_to_them() {
    let bench = Bench::new("an occupied name");
    let repo = bench.repo("plain");
    repo.write("server.py", SERVER).commit("One");
    let socket = bench.path("run/web.sock");
    let handover = |more: &str| {
        format!(
            "[restart]\nstrategy = \"handover\"\nsocket = {socket:?}\ncommand = [\"/usr/bin/python3\", \"server.py\", \
             \"{{socket}}\"]\nstart_timeout = \"5s\"\n[[check]]\nurl = \"unix:{}:/\"\nrelease_header = \"X-Release\"\nstable = \"200ms\"\n{more}",
            socket.display()
        )
    };
    bench.app("plain", &settings(&repo, &handover(""))).start();
    let theirs = UnixListener::bind(&socket).unwrap();
    fails(&bench, &["release", "main"], 1, &["run/web.sock", "hint:"]);
    assert!(!fs::symlink_metadata(&socket).unwrap().is_symlink(), "their socket was replaced");
    drop(theirs);
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "a file").unwrap();
    fails(&bench, &["release", "main"], 1, &["run/web.sock", "hint:"]);
    assert_eq!(fs::read_to_string(&socket).unwrap(), "a file");
    fs::remove_file(&socket).unwrap();
    bench.ctl(["release", "main"]).expect(0);
    let serves = || get(&Place::Socket(socket.clone()), "/").unwrap().header("x-release").map(str::to_owned);
    let good = repo.head();
    assert_eq!(serves(), Some(good.clone()));
    // Releases that cannot start, each in its own way; nobody notices.
    for (program, part) in [
        ("import sys; print('no module named cow', file=sys.stderr); sys.exit(3)\n", "no module named cow"),
        ("import time; time.sleep(1000)\n", "5 s"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n", "ended"),
    ] {
        repo.write("server.py", program).commit("Bad");
        fails(&bench, &["release", "main"], 1, &[part]);
        assert_eq!(serves(), Some(good.clone()));
    }
    bench.assert_sound();
}

#[test]
fn a_port_that_somebody_else_has_is_noticed() {
    let bench = Bench::new("a taken port");
    let repo = bench.repo("plain");
    repo.write("page.html", "one")
        .write_program("serve", "#!/bin/sh\necho 'cannot bind: address already in use' >&2\nexit 0\n")
        .commit("One");
    let port = free_port();
    let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    let toml = format!(
        "[restart]\nstrategy = \"command\"\nrun = [\"./serve\"]\n[[check]]\nurl = \"http://127.0.0.1:{port}/\"\nrelease_header = \
         \"X-Release\"\nwithin = \"1s\"\n"
    );
    bench.app("plain", &settings(&repo, &toml)).start();
    // There was no release before: nothing is live again.
    bench.ctl(["release", "main"]).expect(3).says(&[&port.to_string(), "X-Release", "no release is live"]);
    assert_eq!(bench.live("plain"), None);
    bench.assert_sound();
}

/// A bench with the demo project, one release of which is live; the database is there.
fn demo(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.demo_repo(1);
    bench.app("demo", &demo_settings(&bench, &repo)).start();
    bench.ctl(["release", "main"]).expect(0);
    (bench, repo)
}

#[track_caller]
fn demo_fails(bench: &Bench, step: &str, parts: &[&str]) -> Done {
    let (before, releases) = (bench.live("demo"), bench.releases("demo"));
    let done = bench.ctl(["release", "main"]).expect(1).says(parts);
    assert_eq!(bench.last_run()["step"], step);
    assert_eq!((bench.live("demo"), bench.releases("demo")), (before, releases));
    assert_eq!(bench.page("/healthz").status, 200);
    bench.assert_sound();
    done
}

#[test]
fn requirements_that_are_not_what_they_should_be() {
    let (bench, repo) = demo("requirements");
    let environments = || fs::read_dir(bench.root_of("demo").join("environments")).unwrap().count();
    let before = environments();
    // Nothing else is asked for, and no index is asked, so that the sentence is about this one.
    let whole = demo_settings(&bench, &repo);
    bench.app("demo", &whole.replace("packages = [", "packages = [] # [")).reload();
    repo.write("requirements.txt", "--no-index\nno-such-package-as-this==9.9\n").commit("Require what does not exist");
    demo_fails(&bench, "environment", &["no-such-package-as-this", "no such package or version"]);
    bench.app("demo", &whole).reload();
    repo.write("requirements.txt", "-r /etc/passwd\n").commit("Include a file of the host");
    let done = demo_fails(&bench, "environment", &["/etc/passwd"]);
    assert!(!done.stderr.contains("root:x:"), "the host's file is repeated: {}", done.stderr);
    repo.write("requirements.txt", "-r ../../../../../../../../etc/passwd\n").commit("The same by another way");
    let done = demo_fails(&bench, "environment", &["etc/passwd"]);
    assert!(!done.stderr.contains("root:x:"), "the host's file is repeated: {}", done.stderr);
    repo.remove("requirements.txt").commit("Require nothing");
    assert_ne!(bench.ctl(["release", "main"]).code, 0);
    // What was built well, and cannot serve, goes with the next pruning.
    bench.ctl(["prune"]).expect(0);
    assert_eq!(environments(), before, "a broken environment is left");
    bench.assert_sound();
}

#[test]
fn django_projects_that_are_not_what_they_should_be() {
    let (bench, repo) = demo("projects");
    let manage = fs::read_to_string(repo.path().join("manage.py")).unwrap();
    repo.remove("manage.py").commit("Without manage.py");
    demo_fails(&bench, "check", &["manage.py is not in the release", "[django]"]);
    repo.write("manage.py", manage.replace("noticeboard.settings", "no.such.settings")).commit("Without settings");
    demo_fails(&bench, "check", &["No module named 'no'"]);
    repo.write("manage.py", "import sys\nsys.exit('manage.py is broken')\n").commit("A broken manage.py");
    demo_fails(&bench, "check", &["manage.py is broken"]);
    repo.write("manage.py", &manage);
    let settings = fs::read_to_string(repo.path().join("noticeboard/settings.py")).unwrap();
    let set = |more: &str| drop(repo.write("noticeboard/settings.py", settings.clone() + more).commit("Set more"));
    set("\nSTATIC_ROOT = '/tmp/elsewhere-of-the-tests'\n");
    demo_fails(&bench, "collectstatic", &["STATIC_ROOT is /tmp/elsewhere-of-the-tests, outside the release", "BASE_DIR"]);
    assert!(!Path::new("/tmp/elsewhere-of-the-tests").exists());
    set("\nraise RuntimeError('the cows are out')\n");
    demo_fails(&bench, "check", &["the cows are out"]);
    // Settings that print, to both streams, what looks like an answer.
    set("\nimport sys\nprint('{\"databases\": {}}')\nprint('noise ' * 1000)\nprint('more noise', file=sys.stderr)\n");
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(bench.page("/").status, 200);
    bench.assert_sound();
}
