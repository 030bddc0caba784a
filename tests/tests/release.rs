//! What a release promises: the new one serves, or the former one was never left; and there is a way back.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agent_tests::{Bench, Place, Repo, SITE_SOCKET, demo_settings, get, project, request};
use serde_json::Value;

/// A bench whose app `demo` is the demo project, with its agent running.
fn demo(name: &str, upto: u8) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.demo_repo(upto);
    bench.app("demo", &demo_settings(&bench, &repo)).start();
    (bench, repo)
}

fn columns(bench: &Bench) -> String {
    let mut sqlite = Command::new("sqlite3");
    sqlite.arg(bench.root_of("demo").join("shared/db.sqlite3")).arg("select group_concat(name) from pragma_table_info('board_notice')");
    String::from_utf8(sqlite.output().unwrap().stdout).unwrap().trim().to_owned()
}

fn headline(bench: &Bench) -> String {
    let page = bench.page("/");
    assert_eq!(page.status, 200, "{}", page.body);
    let from = page.body.find("<h1>").expect("the page has a headline") + 4;
    page.body[from..].split('<').next().unwrap_or_default().to_owned()
}

/// Leaves a notice, as a browser would.
fn post(bench: &Bench, text: &str) -> u16 {
    let page = bench.page("/");
    let cookie = page.header("set-cookie").and_then(|cookie| cookie.split(';').next()).expect("the form sets a cookie").to_owned();
    let token =
        page.body.split("csrfmiddlewaretoken\" value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("the form has a token");
    let body = format!("csrfmiddlewaretoken={token}&text={text}&name=anna&colour=pink");
    let headers = [("Cookie", cookie.as_str()), ("Content-Type", "application/x-www-form-urlencoded")];
    request(&Place::Socket(bench.path(SITE_SOCKET)), "POST", "/", &headers, &body).unwrap().status
}

fn words<'a>(events: &'a [Value], what: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["what"] == what).collect()
}

fn run_number(bench: &Bench) -> u64 {
    bench.last_run()["run"].as_u64().expect("a run has a number")
}

#[test]
fn the_demo_goes_live_changes_refuses_to_break_and_goes_back() {
    let (bench, repo) = demo("the demo", 3);

    bench.ctl(["release", "v1"]).expect(0);
    let first = bench.live("demo").expect("a release is live");
    assert_eq!(headline(&bench), "The notice board");
    assert_eq!(bench.page("/healthz").header("X-Release"), Some(repo.id("v1").as_str()));
    assert_eq!(columns(&bench), "id,text,name,posted");
    assert_eq!(post(&bench, "before"), 302);
    bench.assert_sound();

    bench.ctl(["release", "v2"]).expect(0);
    let second = bench.live("demo").expect("a release is live");
    assert_ne!(first, second);
    assert_eq!(headline(&bench), "The pinboard");
    assert_eq!(bench.page("/healthz").header("X-Release"), Some(repo.id("v2").as_str()));
    assert_eq!(columns(&bench), "id,text,name,posted,colour");
    let page = bench.page("/").body;
    assert!(page.contains("before"), "what was posted is lost:\n{page}");
    let pin = page.split('"').find(|text| text.starts_with("/static/board/pin.")).expect("the page shows the pin");
    assert!(bench.page(pin).body.starts_with("<svg"));
    let backups = fs::read_dir(bench.root_of("demo").join("backups")).unwrap().count();
    assert_eq!(backups, 2, "each release that migrated has the database as it was before");
    bench.assert_sound();

    let broken = bench.ctl(["release", "v3"]).expect(1);
    let said = broken.stdout + &broken.stderr;
    assert!(said.contains("noticeboard.tracing"), "the server's own words are missing:\n{said}");
    the_readme_shows(&said);
    let number = run_number(&bench).to_string();
    bench.ctl(["logs", &number]).expect(0).says(&["noticeboard.tracing"]);
    assert_eq!(bench.live("demo").as_deref(), Some(second.as_str()));
    assert_eq!(headline(&bench), "The pinboard");
    assert_eq!(bench.last_run()["outcome"], "failed");
    assert!(words(&bench.events(run_number(&bench)), "exposed").is_empty(), "no visitor may ever have met it");
    bench.assert_sound();

    let list = bench.ctl(["list", "--json"]).expect(0).json();
    let releases = list["releases"].as_array().unwrap();
    let names: Vec<_> = releases.iter().map(|release| release["name"].as_str().unwrap()).collect();
    assert_eq!(names, [second.as_str(), first.as_str()], "newest first, and nothing of what failed");
    assert_eq!((&releases[0]["state"], &releases[1]["state"]), (&Value::from("live"), &Value::from("good")));
    assert_eq!((&releases[0]["ref"], &releases[1]["previous"]), (&Value::from("refs/tags/v2"), &Value::from(true)));
    assert_eq!(releases[1]["commit"], repo.id("v1").as_str());

    bench.ctl(["activate", "previous"]).expect(0);
    assert_eq!(bench.live("demo").as_deref(), Some(first.as_str()));
    assert_eq!(headline(&bench), "The notice board");
    assert_eq!(bench.page("/healthz").header("X-Release"), Some(repo.id("v1").as_str()));
    assert_eq!(post(&bench, "older+code"), 302, "the older code cannot write on the newer schema");
    bench.assert_sound();

    bench.ctl(["activate", &repo.id("v2")[..12]]).expect(0);
    assert_eq!(headline(&bench), "The pinboard");
    bench.ctl(["rollback"]).expect(0);
    assert_eq!(headline(&bench), "The notice board");
    bench.assert_sound();
}

/// A line without its times, its names of releases, and the place of the root: those differ in each run.
fn without_the_run(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
        let in_release = word.split_once("/releases/").and_then(|(_, rest)| rest.split_once('/'));
        match in_release {
            Some((_, path)) => path,
            None if bare.parse::<f64>().is_ok() => "0",
            None if bare.len() == 32 && bare.starts_with("20") => "…",
            None => word,
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The README shows the end of this release. Each line of it must be one that agentctl prints.
#[track_caller]
fn the_readme_shows(said: &str) {
    let readme = fs::read_to_string(project("README.md")).unwrap();
    let block = readme.split("\n$ agentctl release v3\n").nth(1).and_then(|rest| rest.split("\n```").next()).unwrap();
    let printed: Vec<String> = said.lines().map(without_the_run).collect();
    for line in block.lines().filter(|line| *line != "[...]") {
        assert!(printed.iter().any(|printed| printed.starts_with(&without_the_run(line))), "agentctl does not print {line:?}:\n{said}");
    }
}

#[test]
fn no_visitor_meets_an_error_while_one_release_takes_over_from_another() {
    let (bench, _) = demo("visitors", 3);
    bench.ctl(["release", "v1"]).expect(0);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let visitors: Vec<_> = (0..4)
        .map(|_| {
            let (stop, asked, site) = (stop.clone(), asked.clone(), Place::Socket(bench.path(SITE_SOCKET)));
            std::thread::spawn(move || {
                let mut bad = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match get(&site, "/") {
                        Ok(answer) if answer.status == 200 => {}
                        Ok(answer) => bad.push(format!("{}: {}", answer.status, answer.body)),
                        Err(err) => bad.push(err.to_string()),
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                bad
            })
        })
        .collect();
    bench.ctl(["release", "v2"]).expect(0);
    bench.ctl(["release", "v3"]).expect(1);
    bench.ctl(["activate", "previous"]).expect(0);
    stop.store(true, Ordering::Relaxed);
    let bad: Vec<_> = visitors.into_iter().flat_map(|visitor| visitor.join().unwrap()).collect();
    assert!(bad.is_empty(), "{} of {} visits went wrong; the first: {}", bad.len(), asked.load(Ordering::Relaxed), bad[0]);
    bench.assert_sound();
}

#[test]
fn a_migration_that_fails_leaves_the_site_as_it_was_and_says_why() {
    let (bench, repo) = demo("a failing migration", 1);
    bench.ctl(["release", "main"]).expect(0);
    let before = bench.live("demo");
    repo.write(
        "board/migrations/0002_break.py",
        "from django.db import migrations\n\n\ndef fail(apps, schema_editor):\n    raise ValueError('the cows are out')\n\n\n\
         class Migration(migrations.Migration):\n    dependencies = [('board', '0001_initial')]\n    operations = [migrations.RunPython(fail)]\n",
    );
    repo.commit("Break the migration");
    let failed = bench.ctl(["release", "main"]).expect(1);
    assert!((failed.stdout + &failed.stderr).contains("the cows are out"));
    let run = bench.last_run();
    assert_eq!((&run["outcome"], &run["step"]), (&Value::from("failed"), &Value::from("migrate")));
    assert_eq!(bench.live("demo"), before);
    assert_eq!(headline(&bench), "The notice board");
    bench.assert_sound();

    // The next one that works is taken as if nothing had been.
    repo.remove("board/migrations/0002_break.py").commit("Mend it");
    bench.ctl(["release", "main"]).expect(0);
    assert_ne!(bench.live("demo"), before);
    bench.assert_sound();
}

#[test]
fn a_project_that_cannot_be_installed_touches_nothing() {
    let (bench, repo) = demo("a missing requirement", 1);
    bench.ctl(["release", "main"]).expect(0);
    let before = bench.live("demo");
    repo.write("requirements.txt", "Django==5.2.19\n./no-such-directory\n").commit("Require what is not there");
    let failed = bench.ctl(["release", "main"]).expect(1);
    assert!((failed.stdout + &failed.stderr).contains("no-such-directory"));
    assert_eq!(bench.last_run()["step"], "environment");
    assert_eq!(bench.live("demo"), before);
    assert_eq!(bench.releases("demo").len(), 1, "what failed is cleared away");
    bench.assert_sound();
}

/// An app without `[python]`, `[django]` and `[restart]`.
fn plain(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").write_program("bin/run", "#!/bin/sh\n").commit("One");
    bench.app("plain", &format!("repository = {:?}\nbranches = [\"main\"]\ntags = [\"v*\"]\nkeep_releases = 3\n", repo.path())).start();
    (bench, repo)
}

fn plain_page(bench: &Bench) -> String {
    fs::read_to_string(bench.root_of("plain").join("app/page.html")).unwrap()
}

#[test]
fn an_app_needs_neither_python_nor_django() {
    let (bench, repo) = plain("a plain app");
    bench.ctl(["release", "main"]).expect(0);
    let first = bench.live("plain").expect("a release is live");
    let release = bench.root_of("plain").join("app");
    assert_eq!(fs::read_to_string(release.join("REVISION")).unwrap().trim(), repo.head());
    assert!(!release.join(".git").exists() && !release.join("venv").exists());
    assert_eq!(plain_page(&bench), "one");

    repo.write("page.html", "two").commit("Two");
    bench.ctl(["release", &repo.head()]).expect(0);
    assert_eq!(plain_page(&bench), "two");

    // The same commit again is another release.
    let second = bench.live("plain");
    bench.ctl(["deploy", &repo.head()[..10]]).expect(0);
    assert_ne!(bench.live("plain"), second);

    bench.ctl(["activate", &first]).expect(0);
    assert_eq!(plain_page(&bench), "one");
    bench.ctl(["rollback"]).expect(0);
    assert_eq!(plain_page(&bench), "two");
    bench.assert_sound();
}

#[test]
fn what_is_kept_is_the_number_that_was_set_and_never_less_than_the_way_back() {
    let (bench, repo) = plain("pruning");
    for number in 0..6 {
        repo.write("page.html", format!("page {number}")).commit("Another");
        bench.ctl(["release", "main"]).expect(0);
    }
    assert_eq!(bench.releases("plain").len(), 3);
    bench.ctl(["rollback"]).expect(0);
    assert_eq!(plain_page(&bench), "page 4");
    bench.assert_sound();
}

#[test]
fn an_unknown_ref_is_answered_with_those_that_are_near() {
    let (bench, repo) = plain("an unknown ref");
    repo.tag("v1.10");
    let failed = bench.ctl(["release", "v1.1"]);
    assert_ne!(failed.code, 0);
    assert!(failed.stderr.contains("v1.1") && (failed.stdout + &failed.stderr).contains("v1.10"), "{}", failed.stderr);
    assert_eq!(bench.live("plain"), None);
    bench.assert_sound();
}

#[test]
fn a_commit_that_no_allowed_ref_reaches_is_not_released() {
    let (bench, repo) = plain("a foreign commit");
    bench.ctl(["release", "main"]).expect(0);
    let before = bench.live("plain");
    let foreign = repo.branch("attack").write("page.html", "owned").commit("Mine");
    for revision in ["attack", foreign.as_str()] {
        assert_ne!(bench.ctl(["release", revision]).code, 0, "{revision} was taken");
    }
    assert_eq!((bench.live("plain"), plain_page(&bench).as_str()), (before, "one"));
    bench.assert_sound();
}

#[test]
fn before_the_first_release_there_is_nothing_to_list_and_nothing_to_go_back_to() {
    let (bench, _) = plain("an empty app");
    assert_eq!(bench.ctl(["list", "--json"]).expect(0).json()["releases"].as_array().map(Vec::len), Some(0));
    let refused = bench.ctl(["rollback"]);
    assert_ne!(refused.code, 0);
    assert!(!refused.stderr.is_empty());
    bench.assert_sound();
}

#[test]
fn an_agent_that_starts_again_still_knows_its_releases_and_its_runs() {
    let (bench, _) = plain("a restart");
    bench.ctl(["release", "main"]).expect(0);
    let (live, runs) = (bench.live("plain"), bench.runs());
    assert_eq!(bench.stop(), 0);
    bench.start();
    assert_eq!((bench.live("plain"), bench.runs()), (live.clone(), runs.clone()));
    bench.kill().start();
    assert_eq!((bench.live("plain"), bench.runs()), (live, runs));
    bench.assert_sound();
}
