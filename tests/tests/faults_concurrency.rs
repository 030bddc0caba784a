//! Several at once: requests that cross, people who change what the agent owns while it works, other programs that want the same files.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::time::Duration;

use agent_tests::{Begun, Bench, Place, Repo, nonce, request, wait_until};
use agent_wire::REQUEST_TYPE;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const MOST: Duration = Duration::from_secs(60);

fn settings(repo: &Repo, more: &str) -> String {
    format!("repository = {:?}\nbranches = [\"main\"]\n{more}\n", repo.path())
}

/// A hook that waits before a step, as long as the file `gate` is there, and writes its beginning and its end down.
fn hook(bench: &Bench, step: &str) -> String {
    let wait = format!(
        "echo begin $RELEASE_APP >>{0}.story; touch {0}.reached; while [ -e {0} ]; do sleep 0.02; done; echo end $RELEASE_APP >>{0}.story",
        bench.path("gate").display()
    );
    format!("[[hook]]\nbefore = {step:?}\nrun = [\"/bin/sh\", \"-c\", {wait:?}]\n")
}

/// The app `plain` with two releases, the second of which is live; its next ones wait at the gate before that step.
fn gated(name: &str, step: &str, more: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.app("plain", &settings(&repo, &format!("{more}\n{}", hook(&bench, step)))).start();
    bench.ctl(["release", "main"]).expect(0);
    repo.write("page.html", "two").commit("Two");
    bench.ctl(["release", "main"]).expect(0);
    repo.write("page.html", "three").commit("Three");
    fs::remove_file(bench.path("gate.story")).unwrap();
    (bench, repo)
}

/// Closes the gate, and has a run begin that stands at it.
fn at_the_gate(bench: &Bench) -> u64 {
    bench.write("gate", "");
    let _ = fs::remove_file(bench.path("gate.reached"));
    let run = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().parse().unwrap();
    wait_until("the release stands at the gate", MOST, || bench.path("gate.reached").exists());
    run
}

fn open(bench: &Bench) {
    fs::remove_file(bench.path("gate")).unwrap();
}

#[track_caller]
fn ended(bench: &Bench, run: u64) -> Value {
    bench.events(run).last().unwrap().clone()
}

fn story(bench: &Bench) -> Vec<String> {
    fs::read_to_string(bench.path("gate.story")).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn con_01_two_releases_of_one_app() {
    let (bench, repo) = gated("two releases", "seal", "");
    let first = at_the_gate(&bench);
    let other = bench.ctl_begin(["release", "main"]);
    wait_until("the second one waits", MOST, || bench.last_run()["state"] == "waiting");
    open(&bench);
    other.finish(MOST).expect(0);
    assert_eq!(ended(&bench, first)["outcome"], "live");
    assert_eq!(story(&bench), ["begin plain", "end plain", "begin plain", "end plain"], "one at a time");
    let releases = bench.releases("plain");
    assert_eq!(releases.len(), 4);
    assert_eq!(bench.live("plain").as_ref(), releases.last());
    assert!(bench.live("plain").unwrap().ends_with(&repo.head()[..12]));
    bench.assert_sound();
}

#[test]
fn con_02_release_and_activate() {
    let (bench, _) = gated("release and activate", "seal", "");
    let former = bench.releases("plain")[0].clone();
    let release = at_the_gate(&bench);
    let activate = bench.ctl_begin(["activate", &former]);
    wait_until("the second one waits", MOST, || bench.last_run()["state"] == "waiting");
    open(&bench);
    activate.finish(MOST).expect(0);
    assert_eq!(ended(&bench, release)["outcome"], "live");
    assert_eq!(bench.live("plain").unwrap(), former, "who asked last has the last word");
    bench.ctl(["rollback"]).expect(0);
    assert_eq!(bench.live("plain").as_ref(), bench.releases("plain").last());
    bench.assert_sound();
}

#[test]
fn con_03_release_and_prune() {
    let (bench, _) = gated("release and prune", "seal", "keep_releases = 1");
    let (live, before) = (bench.live("plain").unwrap(), bench.releases("plain"));
    let release = at_the_gate(&bench);
    let prune = bench.ctl_begin(["prune"]);
    wait_until("the second one waits", MOST, || bench.last_run()["state"] == "waiting");
    assert_eq!(bench.releases("plain").len(), before.len() + 1, "nothing is removed while a release is made");
    open(&bench);
    prune.finish(MOST).expect(0);
    assert_eq!(ended(&bench, release)["outcome"], "live");
    // The way back stays, however few are kept.
    let left = bench.releases("plain");
    assert_eq!((left.len(), left.contains(&live)), (2, true), "{left:?}");
    bench.ctl(["rollback"]).expect(0);
    assert_eq!(bench.live("plain").unwrap(), live);
    bench.assert_sound();
}

#[test]
fn con_04_two_apps_at_once() {
    let bench = Bench::new("two apps");
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.write("gate", "");
    let all = settings(&repo, &hook(&bench, "seal"));
    bench.app("first", &all).app("second", &all).start();
    let released: Vec<Begun> = ["first", "second"].map(|app| bench.ctl_begin(["--app", app, "release", "main"])).into();
    wait_until("both are in the middle", MOST, || story(&bench).len() == 2);
    open(&bench);
    released.into_iter().for_each(|done| drop(done.finish(MOST).expect(0)));
    assert!(bench.live("first").is_some() && bench.live("second").is_some());
    bench.assert_sound();
}

#[test]
fn con_05_cancel_in_each_phase() {
    let (bench, repo) = gated("cancel", "seal", "");
    let live = bench.live("plain");
    // While it waits.
    let first = at_the_gate(&bench);
    let waiting: u64 = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().parse().unwrap();
    bench.ctl(["cancel", &waiting.to_string()]).expect(0);
    assert_eq!(ended(&bench, waiting)["outcome"], "cancelled");
    assert_eq!(bench.events(waiting).iter().filter(|event| event["what"] == "planned").count(), 0, "it never began");
    // While it works: what it runs is ended, and what it made is taken back.
    bench.ctl(["cancel", &first.to_string()]).expect(0);
    assert_eq!(ended(&bench, first)["outcome"], "cancelled");
    assert!(bench.path("gate").exists(), "it stood at the gate");
    assert_eq!((bench.live("plain"), bench.releases("plain").len()), (live, 2));
    bench.assert_sound();
    open(&bench);
    // After visitors may have met it: no more.
    let hold = format!("touch {0}.acting; while [ -e {0}.hold ]; do sleep 0.02; done", bench.path("gate").display());
    bench.app("plain", &settings(&repo, &format!("[restart]\nstrategy = \"command\"\nrun = [\"/bin/sh\", \"-c\", {hold:?}]"))).reload();
    bench.write("gate.hold", "");
    let exposed: u64 = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().parse().unwrap();
    wait_until("the command runs", MOST, || bench.path("gate.acting").exists());
    bench.ctl(["cancel", &exposed.to_string()]).expect(4).says(&["has switched to the new release", "can no longer be cancelled"]);
    fs::remove_file(bench.path("gate.hold")).unwrap();
    assert_eq!(ended(&bench, exposed)["outcome"], "live");
    bench.ctl(["cancel", &exposed.to_string()]).expect(4).says(&["is over"]);
    bench.assert_sound();
}

/// A run that waits for somebody else can be cancelled, too: a plan asks a repository that does not answer, and has the cache meanwhile.
#[test]
fn a_cancel_does_not_wait_for_a_plan_that_has_the_cache() {
    let (bench, _) = gated("a plan that waits", "seal", "");
    let git = format!(
        "#!/bin/sh\ncase \" $* \" in *' ls-remote '*) if mkdir {0}/asked 2>/dev/null; then while [ ! -e {0}/answer ]; do sleep 0.02; done; fi ;; esac\n\
         PATH=${{PATH#*:}} exec git \"$@\"\n",
        bench.path("").display()
    );
    bench.pretend("git", &git);
    let plan = bench.ctl_begin(["plan", "main"]);
    wait_until("the plan asks the repository", MOST, || bench.path("asked").exists());
    let run: u64 = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().parse().unwrap();
    wait_until("the release waits for the cache", MOST, || bench.last_run()["step"] == "fetch");
    bench.ctl(["cancel", &run.to_string()]).expect(0);
    wait_until("the run has ended", Duration::from_secs(20), || {
        bench.last_run()["state"] == "ended" || bench.runs()[1]["state"] == "ended"
    });
    assert_eq!(ended(&bench, run)["outcome"], "cancelled");
    assert!(!bench.path("answer").exists(), "the plan waits still");
    bench.write("answer", "");
    plan.finish(MOST).expect(0);
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
}

/// As a person would: `ln -sfn`.
fn relink(bench: &Bench, target: &str) {
    let (link, new) = (bench.root_of("plain").join("app"), bench.root_of("plain").join("mine"));
    symlink(target, &new).unwrap();
    fs::rename(new, link).unwrap();
}

#[test]
fn con_06_a_person_changes_the_link() {
    let fail = "[restart]\nstrategy = \"command\"\nrun = [\"/bin/sh\", \"-c\", \"exit $(cat HOW 2>/dev/null || echo 0)\"]";
    let (bench, repo) = gated("a person's hand", "switch", fail);
    let releases = bench.releases("plain");
    let oldest = format!("releases/{}", releases[0]);
    // What is released takes over from whatever the person linked.
    let run = at_the_gate(&bench);
    relink(&bench, &oldest);
    open(&bench);
    assert_eq!(ended(&bench, run)["outcome"], "live");
    let third = bench.live("plain").unwrap();
    assert!(third.ends_with(&repo.head()[..12]));
    bench.assert_sound();
    // What fails goes back to the release that was live when it began, and not to what somebody linked in between: that was never proven.
    repo.write("HOW", "3").commit("Fails when it is started");
    let run = at_the_gate(&bench);
    relink(&bench, &oldest);
    open(&bench);
    let end = ended(&bench, run);
    assert_eq!((end["outcome"].as_str(), end["live"].as_str()), (Some("rolled_back"), Some(third.as_str())));
    assert_eq!(bench.live("plain").unwrap(), third);
    bench.assert_sound();
    // A directory in its place is nobody's to replace.
    fs::remove_file(repo.path().join("HOW")).unwrap();
    repo.commit("Works again");
    let run = at_the_gate(&bench);
    let link = bench.root_of("plain").join("app");
    fs::rename(&link, bench.root_of("plain").join("moved")).unwrap();
    fs::create_dir(&link).unwrap();
    open(&bench);
    let done = bench.ctl(["logs", "-f", &run.to_string()]).expect(1);
    done.says(&["is no link, where a link to a release is expected", "the agent makes the link itself"]);
    fs::remove_dir(&link).unwrap();
    fs::rename(bench.root_of("plain").join("moved"), &link).unwrap();
    assert_eq!(bench.live("plain").unwrap(), third);
    bench.assert_sound();
}

#[test]
fn con_07_a_person_deletes_a_release() {
    let (bench, repo) = gated("deleted", "seal", "");
    let releases = bench.releases("plain");
    let directory = |name: &str| bench.root_of("plain").join("releases").join(name);
    // The one that is being made.
    let run = at_the_gate(&bench);
    let made = bench.releases("plain").into_iter().find(|name| !releases.contains(name)).unwrap();
    fs::remove_dir_all(directory(&made)).unwrap();
    open(&bench);
    let done = bench.ctl(["logs", "-f", &run.to_string()]).expect(1);
    done.says(&["✗ seal", &made, "is gone from under the run", "Ask for the release again"]);
    assert_eq!(bench.releases("plain"), releases);
    bench.assert_sound();
    // The way back.
    fs::remove_dir_all(directory(&releases[0])).unwrap();
    bench.ctl(["rollback"]).expect(2).says(&["no release to go back to"]);
    bench.ctl(["activate", &releases[0]]).expect(2).says(&["there is no release", &releases[1]]);
    bench.assert_sound();
    // The live one itself: it is told, and another release is the way out.
    fs::remove_dir_all(directory(&releases[1])).unwrap();
    bench.ctl(["doctor"]).expect(1).says(&[&releases[1], "is not there", "agentctl release"]);
    bench.ctl(["release", "main"]).expect(0);
    assert!(bench.live("plain").unwrap().ends_with(&repo.head()[..12]));
    bench.assert_sound();
}

#[test]
fn con_08_settings_change_while_a_run_is_under_way() {
    let (bench, repo) = gated("other settings", "seal", "");
    let run = at_the_gate(&bench);
    // The hook after the step is new, and another repository would be fetched from.
    let after = format!(
        "{}[[hook]]\nafter = \"seal\"\nrun = [\"/bin/sh\", \"-c\", \"echo after >>{}\"]\n",
        hook(&bench, "seal"),
        bench.path("gate.story").display()
    );
    bench.app("plain", &settings(&repo, &after)).reload();
    open(&bench);
    assert_eq!(ended(&bench, run)["outcome"], "live");
    assert_eq!(story(&bench), ["begin plain", "end plain"], "a run keeps the settings that it began with");
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(story(&bench)[2..], ["begin plain", "end plain", "after"]);
    bench.assert_sound();
}

#[test]
fn con_09_a_second_agent() {
    let (bench, _) = gated("a second agent", "seal", "");
    let run = at_the_gate(&bench);
    let again = |state: &str| {
        let mut second = bench.release_agent();
        second
            .arg("--config")
            .arg(bench.path("config"))
            .arg("--state")
            .arg(bench.path(state))
            .arg("--socket")
            .arg(bench.path("run/other.sock"));
        bench.begin(second).finish(MOST)
    };
    again("state").expect(69).says(&["another agent uses the state directory", "stop it first"]);
    again("other").expect(69).says(&["holds the root", "two agents must never share a root"]);
    open(&bench);
    assert_eq!(ended(&bench, run)["outcome"], "live");
    bench.assert_sound();
}

#[test]
fn con_10_the_log_is_rotated_and_its_reader_is_gone() {
    let (bench, _) = gated("a rotated log", "seal", "");
    // Moved away: the agent goes on writing to what it has.
    let log = bench.path("log/agent.log");
    fs::rename(&log, bench.path("log/agent.log.1")).unwrap();
    bench.signal(Signal::SIGHUP);
    bench.ctl(["release", "main"]).expect(0);
    wait_until("it is said somewhere", MOST, || fs::read_to_string(bench.path("log/agent.log.1")).unwrap().contains("told by SIGHUP"));
    fs::rename(bench.path("log/agent.log.1"), &log).unwrap();
    // Cut off where it stands.
    OpenOptions::new().write(true).truncate(true).open(&log).unwrap();
    bench.reload_keys();
    assert!(fs::metadata(&log).unwrap().len() < 10_000, "it goes on from the new beginning");
    bench.assert_sound();
    bench.stop();
    // A log that cannot be written, and one that nobody reads, stop nothing.
    for kind in ["full", "closed"] {
        let mut agent = bench.agent_command();
        let stderr = if kind == "full" { Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap()) } else { Stdio::piped() };
        let mut agent = agent.env("RELEASE_AGENT_LOG", "debug").stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        drop(agent.stderr.take());
        wait_until("the agent answers", MOST, || {
            assert!(agent.try_wait().unwrap().is_none(), "the agent ended because nobody hears it ({kind})");
            agent_tests::get(&bench.control(), "/healthz").is_ok_and(|answer| answer.status == 200)
        });
        bench.ctl(["release", "main"]).expect(0);
        bench.ctl(["release", "no-such-branch"]).expect(1);
        bench.write("config/apps/other.toml", "nonsense\n");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(agent.id()).unwrap()), Signal::SIGHUP).unwrap();
        fs::remove_file(bench.path("config/apps/other.toml")).unwrap();
        bench.ctl(["release", "main"]).expect(0);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(agent.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert_eq!(agent.wait().unwrap().code(), Some(0), "{kind}");
    }
    bench.start().assert_sound();
}

/// Another program that holds the journal in this way, until it is told to let go.
fn holder(bench: &Bench, how: &str) -> Begun {
    let program = "import sqlite3, sys, os, time\n\
                   there = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n\
                   there.execute(sys.argv[2]); there.execute('SELECT count(*) FROM event').fetchall()\n\
                   open(sys.argv[3], 'w').close()\n\
                   while os.path.exists(sys.argv[3]): time.sleep(0.02)\n\
                   there.execute('ROLLBACK')\n";
    let mut python = bench.command("/usr/bin/python3");
    python.args(["-c", program]).arg(bench.path("state/journal.db")).arg(how).arg(bench.path("held"));
    let begun = bench.begin(python);
    wait_until("the other program holds the journal", MOST, || bench.path("held").exists());
    begun
}

#[test]
fn con_11_another_program_holds_the_journal() {
    let (bench, repo) = gated("a backup of the journal", "seal", "");
    // A reader, as a backup is one: it is in nobody's way.
    let reader = holder(&bench, "BEGIN");
    bench.ctl(["release", "main"]).expect(0);
    fs::remove_file(bench.path("held")).unwrap();
    reader.finish(MOST).expect(0);
    // A writer: the agent waits, and says for what.
    repo.write("page.html", "four").commit("Four");
    let run = at_the_gate(&bench);
    let writer = holder(&bench, "BEGIN IMMEDIATE");
    open(&bench);
    let asked = bench.ctl_begin(["prune"]);
    wait_until("the agent says what it waits for", MOST, || bench.log().contains("another program has locked the journal"));
    assert!(bench.is_running());
    assert_eq!(bench.ask("/healthz").status, 200);
    fs::remove_file(bench.path("held")).unwrap();
    writer.finish(MOST).expect(0);
    asked.finish(MOST).expect(0);
    assert_eq!(ended(&bench, run)["outcome"], "live");
    bench.assert_sound();
}

#[test]
fn con_12_a_queue_of_a_hundred() {
    let (bench, _) = gated("a hundred", "seal", "");
    let first = at_the_gate(&bench);
    let place: Place = bench.control();
    let ask = || {
        let form = json!({ "v": 1, "app": "plain", "action": "prune", "nonce": nonce() }).to_string();
        request(&place, "POST", "/v1/requests", &[("Content-Type", REQUEST_TYPE)], &form).unwrap()
    };
    for _ in 0..100 {
        let answer = ask();
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
    let refused = ask();
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert!(refused.body.contains("queue_full") && refused.body.contains("100 runs are waiting"), "{}", refused.body);
    bench.ctl(["release", "main"]).expect(4).says(&["100 runs are waiting already"]);
    // Who waits survives the agent.
    bench.kill();
    open(&bench);
    bench.start();
    let all = || bench.ask_json("/v1/runs?limit=500")["runs"].as_array().unwrap().clone();
    wait_until("all have ended", MOST, || all().iter().all(|run| run["state"] == "ended"));
    let mut runs = all();
    runs.sort_by_key(|run| run["run"].as_u64());
    let of = |number: u64| runs.iter().find(|run| run["run"].as_u64() == Some(number)).unwrap();
    assert_eq!(of(first)["outcome"], "failed");
    let waited: Vec<&Value> = runs.iter().filter(|run| run["run"].as_u64().unwrap() > first).collect();
    assert_eq!(waited.len(), 100);
    assert!(waited.iter().all(|run| run["outcome"] == "done"));
    assert!(waited.is_sorted_by_key(|run| run["ended"].as_str().unwrap().trim_end_matches('Z')), "in the order in which they came");
    bench.assert_sound();
}
