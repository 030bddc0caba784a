//! Failure at each step: the former release serves, the run says which step and why, and what the step did is taken back.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;

use agent_tests::{Bench, Repo, demo_settings};
use serde_json::Value;

/// The steps of a release of a Django app, in order.
const STEPS: [&str; 10] =
    ["fetch", "checkout", "link-shared", "environment", "check", "collectstatic", "seal", "backup", "migrate", "switch"];

fn demo(name: &str, upto: u8, more: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.demo_repo(upto);
    let settings = demo_settings(&bench, &repo).replace("status = 200", "status = 200\nstable = \"300ms\"");
    fs::create_dir_all(bench.root_of("demo").join("shared/media")).unwrap();
    bench.app("demo", &(settings + "\n[shared]\ndirs = [\"media\"]\n" + more)).start();
    (bench, repo)
}

fn serving(bench: &Bench) -> String {
    bench.page("/healthz").header("X-Release").expect("the site names its release").to_owned()
}

fn told<'a>(events: &'a [Value], what: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["what"] == what).collect()
}

#[test]
fn a_failure_at_any_step_leaves_the_former_release_and_is_told_with_the_last_lines() {
    let mut hooks = String::new();
    let name = "failing steps";
    for step in STEPS {
        hooks += &format!(
            "\n[[hook]]\nafter = \"{step}\"\nrun = [\"/bin/sh\", \"-c\", \"if [ -e $FAIL_AT/{step} ]; then echo said by {step} >&2; exit 3; fi\"]\n"
        );
    }
    let (bench, repo) = demo(name, 2, "");
    let settings = fs::read_to_string(bench.path("config/apps/demo.toml")).unwrap();
    let settings = settings.replace("[env]\n", &format!("[env]\nFAIL_AT = {:?}\n", bench.path("fail-at")));
    bench.write("config/apps/demo.toml", settings + &hooks);
    bench.stop();
    bench.start();
    bench.ctl(["release", "v1"]).expect(0);
    let (live, first) = (bench.live("demo").unwrap(), repo.id("v1"));
    for step in STEPS {
        let flag = bench.write(format!("fail-at/{step}"), "");
        let code = if step == "switch" { 3 } else { 1 };
        let done = bench.ctl(["release", "v2"]).expect(code);
        fs::remove_file(flag).unwrap();
        let told_where = format!("✗ {step}");
        assert!(done.stderr.contains(&told_where), "{step} is named:\n{}", done.stderr);
        assert!(done.stderr.contains(&format!("said by {step}")), "the tool's last lines are shown:\n{}", done.stderr);
        assert!(done.stderr.contains("exit status 3"), "and how it ended:\n{}", done.stderr);
        assert_eq!(bench.live("demo").unwrap(), live, "{step}");
        assert_eq!(serving(&bench), first, "{step}");
        // What was migrated stands, is told, and the code that can reverse it is kept; nothing else of any failure is.
        let migrated = step == "migrate";
        assert_eq!(
            done.stderr.contains("board.0002_notice_colour") && done.stderr.contains("not taken back"),
            migrated,
            "{step}:\n{}",
            done.stderr
        );
        let kept = bench.ask_json("/v1/apps/demo/releases")["releases"].as_array().unwrap().len();
        assert_eq!(kept, if matches!(step, "migrate" | "switch") { 2 } else { 1 }, "{step}");
        bench.assert_sound();
    }
    let failed = bench.ask_json("/v1/apps/demo/releases")["releases"][0].clone();
    assert_eq!(failed["state"], "failed");
    bench.ctl(["release", "v2"]).expect(0);
    assert_eq!(serving(&bench), repo.id("v2"));
}

/// Replaces the demo's view of its health, which the checks ask.
fn with_healthz(repo: &Repo, body: &str) {
    let views = fs::read_to_string(repo.path().join("board/views.py")).unwrap();
    let head = views.split("@require_safe\ndef healthz").next().unwrap().to_owned();
    repo.write("board/views.py", format!("{head}@require_safe\ndef healthz(request):\n{body}\n"));
    repo.commit("Another healthz");
}

#[test]
fn what_answers_wrongly_never_meets_a_visitor_when_it_is_handed_over() {
    let (bench, repo) = demo("wrong answers", 2, "");
    bench.ctl(["release", "v2"]).expect(0);
    let (live, good) = (bench.live("demo").unwrap(), repo.id("v2"));
    let cases = [
        ("    return HttpResponse('broken', status=500)", "500"),
        ("    return HttpResponse('nothing of the kind')", "in the body"),
        ("    return redirect('/elsewhere')", "302"),
        ("    import time\n    time.sleep(3600)", "within"),
        ("    import os, signal\n    os.kill(os.getppid(), signal.SIGKILL)\n    os._exit(1)", ""),
    ];
    let settings = fs::read_to_string(bench.path("config/apps/demo.toml")).unwrap();
    bench.write("config/apps/demo.toml", settings.replace("stable = ", "timeout = \"3s\"\nwithin = \"7s\"\nstable = "));
    bench.stop();
    bench.start();
    for (body, word) in cases {
        with_healthz(&repo, body);
        let done = bench.ctl(["release", "main"]).expect(1);
        assert!(done.stderr.contains("✗ switch") && done.stderr.contains(word), "{word}:\n{}", done.stderr);
        let events = bench.events(bench.last_run()["run"].as_u64().unwrap());
        assert!(told(&events, "exposed").is_empty(), "no visitor can have met it");
        assert_eq!(bench.live("demo").unwrap(), live);
        assert_eq!(serving(&bench), good);
        bench.assert_sound();
    }
}

#[test]
fn a_release_that_dies_after_two_seconds_is_not_called_live() {
    let (bench, repo) = demo("dies late", 2, "");
    let settings = fs::read_to_string(bench.path("config/apps/demo.toml")).unwrap();
    bench.write("config/apps/demo.toml", settings.replace("stable = \"300ms\"", "stable = \"4s\""));
    bench.stop();
    bench.start();
    bench.ctl(["release", "v2"]).expect(0);
    let (live, good) = (bench.live("demo").unwrap(), repo.id("v2"));
    let wsgi = fs::read_to_string(repo.path().join("noticeboard/wsgi.py")).unwrap();
    repo.write(
        "noticeboard/wsgi.py",
        format!("{wsgi}\nimport os, signal, threading\nthreading.Timer(2, lambda: os.killpg(0, signal.SIGKILL)).start()\n"),
    );
    repo.commit("Die after two seconds");
    // The timer lives in the master: with threads enabled it runs.
    let settings = fs::read_to_string(bench.path("config/apps/demo.toml")).unwrap();
    bench.write("config/apps/demo.toml", settings.replace("\"--master\"", "\"--master\", \"--enable-threads\", \"--lazy-apps\""));
    bench.stop();
    bench.start();
    let done = bench.ctl(["release", "main"]);
    assert!(matches!(done.code, 1 | 3), "{}: {}", done.code, done.stderr);
    assert_eq!(bench.live("demo").unwrap(), live);
    assert_eq!(serving(&bench), good);
    bench.assert_sound();
}
