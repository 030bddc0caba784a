//! A webhook that is proven has the agent poll the repository itself, and nothing that a webhook says is believed. Every webhook that is
//! refused here differs by one fault from one that is heard.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agent_tests::{Answer, Bench, Place, Repo, now, request, wait_until};
use aws_lc_rs::hmac::{HMAC_SHA1_FOR_LEGACY_USE_ONLY, HMAC_SHA256, Key, sign};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const SOON: Duration = Duration::from_secs(60);
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const KEY: [u8; 32] = [7; 32];
/// As GitHub has it, more or less.
const PUSH: &str = r#"{"ref":"refs/heads/main","after":"0000000000000000000000000000000000000000"}"#;

/// A closed file with a secret.
fn secret_file(bench: &Bench, name: &str, secret: &str) -> PathBuf {
    // Not where the settings are: it is watched wherever it lies.
    let file = bench.write(format!("secrets/{name}.webhook"), secret);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    file
}

fn webhook(bench: &Bench, from: &str, secret: &str) -> String {
    format!("[[webhook]]\nfrom = {from:?}\nsecret_file = {:?}\n", secret_file(bench, from, secret))
}

/// A plain app that follows `main` and hears GitHub; `more` are settings before the first section, `sections` those behind it. The agent looks at
/// most once a second, unless `more` says otherwise, and its log tells of every look.
fn following(name: &str, more: &str, sections: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    let pause = if more.contains("auto_pause") { "" } else { "auto_pause = \"1s\"\n" };
    let top = format!("repository = {:?}\nbranches = [\"main\"]\nauto = true\n{pause}{more}", repo.path());
    let webhook = webhook(&bench, "github", SECRET);
    bench.app("site", &format!("{top}{webhook}{sections}")).variable("RELEASE_AGENT_LOG", "debug").start();
    (bench, repo)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What GitHub signs with.
fn github(secret: &str, body: &str) -> String {
    format!("sha256={}", hex(sign(&Key::new(HMAC_SHA256, secret.as_bytes()), body.as_bytes()).as_ref()))
}

fn post(place: &Place, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    request(place, "POST", path, headers, body).unwrap()
}

/// A push, as GitHub tells of it.
fn push(bench: &Bench, body: &str) -> Answer {
    let signature = github(SECRET, body);
    let headers = [("X-GitHub-Event", "push"), ("Content-Type", "application/json"), ("X-Hub-Signature-256", &signature)];
    post(&bench.control(), "/v1/webhooks/site/github", &headers, body)
}

/// How many looks came to an end.
fn looks(bench: &Bench) -> usize {
    let log = bench.log();
    ["a webhook was followed", "a webhook led nowhere"].iter().map(|told| log.matches(told).count()).sum()
}

/// Waits for the look that a webhook leads to, and for the run that the look may lead to.
#[track_caller]
fn after_a_look(bench: &Bench, before: usize) {
    wait_until("the agent has looked", SOON, || looks(bench) > before);
    wait_until("nothing is under way", SOON, || bench.runs().iter().all(|run| run["state"] == "ended"));
}

/// A push that is heard, with all that it leads to.
#[track_caller]
fn heard(bench: &Bench) {
    let before = looks(bench);
    assert_eq!(push(bench, PUSH).status, 202);
    after_a_look(bench, before);
}

/// Which commit is live.
fn live_commit(bench: &Bench) -> Option<String> {
    let revision = bench.root_of("site").join("app/REVISION");
    Some(fs::read_to_string(revision).ok()?.trim().to_owned())
}

#[track_caller]
fn assert_unproven(answer: &Answer) {
    assert_eq!(answer.status, 401, "{}", answer.body);
    assert!(answer.body.contains("\"code\":\"unproven_webhook\""), "{}", answer.body);
}

#[test]
fn a_push_is_released_by_itself_and_the_caller_says_why() {
    let (bench, repo) = following("a push", "", "");
    let answer = push(&bench, PUSH);
    assert_eq!((answer.status, answer.body.as_str()), (202, r#"{"app":"site","follows":"refs/heads/main"}"#));
    after_a_look(&bench, 0);
    assert_eq!(live_commit(&bench), Some(repo.head()));
    let run = bench.last_run();
    assert_eq!(
        (run["caller"].as_str(), run["outcome"].as_str(), run["of"].as_str()),
        (Some("webhook:github"), Some("live"), Some("refs/heads/main"))
    );
    assert_eq!(bench.ask_json("/v1/apps/site")["follows"], "refs/heads/main");
    bench.ctl(["doctor"]).expect(0).says(&["follows refs/heads/main", "github"]);
    bench.assert_sound();
}

#[test]
fn hk_01_wrong_hmac() {
    let (bench, repo) = following("wrong HMAC", "", "");
    let post =
        |signature: &str, body: &str| post(&bench.control(), "/v1/webhooks/site/github", &[("X-Hub-Signature-256", signature)], body);
    let right = github(SECRET, PUSH);
    let last = if right.ends_with('0') { "1" } else { "0" };
    assert_unproven(&post(&github("another-secret-of-some-length", PUSH), PUSH));
    assert_unproven(&post(&format!("{}{last}", &right[..right.len() - 1]), PUSH));
    assert_unproven(&post(&right, &PUSH.replace("main", "evil")));
    assert_unproven(&post(&right, &format!("{PUSH} ")));
    assert_unproven(&request(&bench.control(), "POST", "/v1/webhooks/site/github", &[], PUSH).unwrap());
    assert!(!bench.log().contains(SECRET));
    assert_eq!((looks(&bench), bench.runs().len()), (0, 0), "the agent looked");
    assert_eq!(post(&right, PUSH).status, 202);
    after_a_look(&bench, 0);
    assert_eq!(live_commit(&bench), Some(repo.head()));
}

/// Of a repository that several apps share, only what is the app's own is released by itself.
#[test]
fn a_commit_that_changes_nothing_of_the_app_is_not_released_by_itself() {
    let (bench, repo) = following("a monorepo", "auto_paths = [\"backend/**\", \"index.html\"]\n", "");
    heard(&bench);
    let first = live_commit(&bench);
    assert_eq!(first, Some(repo.head()), "without a live release there is nothing to compare with");
    repo.write("frontend/app.js", "1").write("backend.txt", "1").commit("another app's");
    heard(&bench);
    assert_eq!(live_commit(&bench), first);
    assert!(bench.log().contains("changes nothing within auto_paths"), "{}", bench.log());
    repo.write("backend/deep/down.py", "1").commit("the app's own");
    repo.write("frontend/app.js", "2").commit("another app's again");
    heard(&bench);
    assert_eq!(live_commit(&bench), Some(repo.head()), "one of the commits since the live one is the app's");
    // Whoever asks gets it.
    repo.write("frontend/app.js", "3").commit("another app's once more");
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(live_commit(&bench), Some(repo.head()));
    bench.ctl(["doctor"]).expect(0).says(&["for changes in backend/**, index.html"]);
}

#[test]
fn hk_02_sha1_only() {
    let (bench, repo) = following("SHA-1", "", "");
    let key = Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, SECRET.as_bytes());
    let sha1 = format!("sha1={}", hex(sign(&key, PUSH.as_bytes()).as_ref()));
    let post = |headers: &[(&str, &str)]| post(&bench.control(), "/v1/webhooks/site/github", headers, PUSH);
    assert_unproven(&post(&[("X-Hub-Signature", &sha1)]));
    assert_unproven(&post(&[("X-Hub-Signature-256", &sha1)]));
    assert_unproven(&post(&[("X-Hub-Signature", &github(SECRET, PUSH))]));
    assert_eq!((looks(&bench), bench.runs().len()), (0, 0), "the agent looked");
    // GitHub sends both.
    assert_eq!(post(&[("X-Hub-Signature", &sha1), ("X-Hub-Signature-256", &github(SECRET, PUSH))]).status, 202);
    after_a_look(&bench, 0);
    assert_eq!(live_commit(&bench), Some(repo.head()));
}

#[test]
fn hk_03_replayed_delivery() {
    let (bench, repo) = following("replay", "", "");
    heard(&bench);
    let first = repo.head();
    heard(&bench);
    heard(&bench);
    assert_eq!(bench.runs().len(), 1, "the same commit was released again");
    // What a person took back is not brought back by an old delivery, nor by one about something else.
    let second = repo.write("index.html", "two").commit("two");
    heard(&bench);
    assert_eq!(live_commit(&bench), Some(second.clone()));
    bench.ctl(["rollback"]).expect(0);
    heard(&bench);
    assert_eq!((live_commit(&bench), bench.runs().len()), (Some(first), 3));
    // Only what is new is released.
    let third = repo.write("index.html", "three").commit("three");
    heard(&bench);
    assert_eq!((live_commit(&bench), bench.runs().len()), (Some(third), 4));
    // Who asks for it by hand gets it again.
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(bench.runs().len(), 5);
    bench.assert_sound();
}

#[test]
fn hk_04_unknown_app() {
    let (bench, _repo) = following("unknown app", "", "");
    let settings = |auto: &str| format!("repository = {:?}\nbranches = [\"main\"]\n{auto}", bench.repo("other").path());
    bench.app("deaf", &settings("auto = true\n"));
    bench.app("idle", &settings(&format!("auto = false\n{}", webhook(&bench, "github", SECRET))));
    bench.reload();
    let headers = |answer: &Answer| answer.headers.iter().filter(|(name, _)| name != "date").cloned().collect::<Vec<_>>();
    let signature = github(SECRET, PUSH);
    let post = |path: &str, signature: &str| post(&bench.control(), path, &[("X-Hub-Signature-256", signature)], PUSH);
    let wrong = post("/v1/webhooks/site/github", &github("another-secret-of-some-length", PUSH));
    assert_unproven(&wrong);
    for path in [
        "/v1/webhooks/none/github",
        "/v1/webhooks/deaf/github",
        "/v1/webhooks/idle/github",
        "/v1/webhooks/site/gitlab",
        "/v1/webhooks/site/generic",
        "/v1/webhooks/site/gitlab-token",
        "/v1/webhooks/site/docker-hub",
        "/v1/webhooks/site/forge",
        "/v1/webhooks/Not-A-Name/github",
        "/v1/webhooks/..%2Fsite/github",
        &format!("/v1/webhooks/site/docker-hub/{SECRET}"),
        &format!("/v1/webhooks/none/docker-hub/{SECRET}"),
    ] {
        let answer = post(path, &signature);
        assert_eq!((answer.status, &answer.body, headers(&answer)), (401, &wrong.body, headers(&wrong)), "{path}");
    }
    assert_eq!((looks(&bench), bench.runs().len()), (0, 0), "the agent looked");
    assert_eq!(post("/v1/webhooks/site/github", &signature).status, 202);
}

#[test]
fn hk_05_branch_not_allowed() {
    let (bench, repo) = following("branch", "", "");
    let main = repo.head();
    let evil = repo.branch("evil").write("index.html", "evil").commit("evil");
    let body = format!(r#"{{"ref":"refs/heads/evil","after":"{evil}","deleted":false}}"#);
    assert_eq!(push(&bench, &body).status, 202, "it is GitHub, and says what happened");
    after_a_look(&bench, 0);
    assert_eq!(live_commit(&bench), Some(main), "the branch that is followed is what counts");
    assert_eq!(push(&bench, &body).status, 202);
    after_a_look(&bench, 1);
    assert_eq!(bench.runs().len(), 1);
    bench.stop();
    // Nor can it be set.
    let settings = |auto: &str| format!("repository = {:?}\nbranches = [\"main\"]\nauto = {auto:?}\n", repo.path());
    bench.app("site", &settings("evil"));
    bench.start_refused().expect(64).says(&["site.toml", "auto", "\"evil\" fits none of the refs"]);
    bench.app("site", &settings("main")).start();
}

#[test]
fn hk_06_metacharacters_in_the_payload() {
    let (bench, repo) = following("metacharacters", "", "");
    let pwned = bench.path("pwned");
    for (number, text) in
        ["$(touch PWNED)", "`touch PWNED`", "; touch PWNED #", "--upload-pack=touch PWNED", "../../x\\u0000", "' OR 1=1 --"]
            .iter()
            .enumerate()
    {
        let text = text.replace("PWNED", pwned.to_str().unwrap());
        let body = format!(r#"{{"ref":"refs/heads/{text}","repository":{{"clone_url":"ext::{text}"}},"after":"{text}"}}"#);
        assert_eq!(push(&bench, &body).status, 202);
        after_a_look(&bench, number);
    }
    // Not even JSON: nobody reads it.
    assert_eq!(push(&bench, "\u{1}[[[[{{{{\"").status, 202);
    assert_eq!(push(&bench, "").status, 202);
    after_a_look(&bench, 6);
    assert_eq!((live_commit(&bench), bench.runs().len()), (Some(repo.head()), 1));
    assert!(!pwned.exists());
    bench.assert_sound();
}

/// As Docker Hub has it, more or less.
const PUSHED_IMAGE: &str = r#"{"callback_url":"https://registry.hub.docker.com/u/acme/site/hook/x/","push_data":{"tag":"latest"}}"#;

#[test]
fn hk_07_docker_hub_body_to_the_release_endpoint() {
    let (bench, repo) = following("Docker Hub", "", "");
    let docker_hub = webhook(&bench, "docker-hub", SECRET);
    let file = bench.path("config/apps/site.toml");
    let settings = fs::read_to_string(&file).unwrap();
    // Nothing is held back from the log.
    bench.stop();
    bench.app("site", &format!("{settings}{docker_hub}")).variable("RELEASE_AGENT_LOG", "trace").start();
    let post = |path: &str| post(&bench.control(), path, &[("Content-Type", "application/json")], PUSHED_IMAGE);
    let answer = post("/v1/requests");
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_unproven(&post("/v1/webhooks/site/docker-hub/0123456789abcdef0123456789abcdee"));
    assert_unproven(&post("/v1/webhooks/site/docker-hub"));
    assert_eq!(post(&format!("/v1/webhooks/site/docker-hub/{SECRET}/more")).status, 404);
    assert_eq!((looks(&bench), bench.runs().len()), (0, 0), "the agent looked");
    let there = format!("/v1/webhooks/site/docker-hub/{SECRET}");
    assert_eq!(request(&bench.control(), "GET", &there, &[], "").unwrap().status, 405);
    assert_eq!(post(&there).status, 202);
    after_a_look(&bench, 0);
    assert_eq!((live_commit(&bench), bench.last_run()["caller"].as_str()), (Some(repo.head()), Some("webhook:docker-hub")));
    assert!(!bench.log().contains(SECRET), "the secret is in the log");
}

#[test]
fn hk_08_a_thousand_webhooks_a_second() {
    let (bench, repo) = following("flood", "auto_pause = \"5s\"\n", "");
    // The pretend git tells of each time that the agent looks; a release asks for the refs too, and is another's doing.
    let git = "#!/bin/sh\ncase \"$RELEASE_RUN_ID\" in *:poll) echo poll >> LOOKS;; esac\nexec /usr/bin/git \"$@\"\n";
    let counted = bench.path("looks");
    bench.pretend("git", &git.replace("LOOKS", counted.to_str().unwrap()));
    let (taken, enough, slowest) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let place = bench.control();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let signature = github(SECRET, PUSH);
                for _ in 0..125 {
                    let answer = post(&place, "/v1/webhooks/site/github", &[("X-Hub-Signature-256", &signature)], PUSH);
                    match answer.status {
                        202 => taken.fetch_add(1, Ordering::Relaxed),
                        429 => {
                            let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                            assert!((1..=5).contains(&wait), "{wait}");
                            enough.fetch_add(1, Ordering::Relaxed)
                        }
                        other => panic!("{other}: {}", answer.body),
                    };
                }
            });
        }
        scope.spawn(|| {
            while taken.load(Ordering::Relaxed) + enough.load(Ordering::Relaxed) < 1000 {
                let asked = Instant::now();
                assert_eq!(request(&place, "GET", "/v1/apps/site", &[], "").unwrap().status, 200);
                slowest.fetch_max(usize::try_from(asked.elapsed().as_millis()).unwrap(), Ordering::Relaxed);
            }
        });
    });
    let lasted = begun.elapsed();
    assert_eq!(taken.load(Ordering::Relaxed) + enough.load(Ordering::Relaxed), 1000);
    assert!(enough.load(Ordering::Relaxed) > 0, "nobody was told to send less");
    // The first has the agent look at once, all the others together once more.
    after_a_look(&bench, 1);
    let looked = fs::read_to_string(&counted).unwrap().lines().count();
    let most = usize::try_from(begun.elapsed().as_secs()).unwrap() / 5 + 1;
    assert!((2..=most).contains(&looked), "the agent looked {looked} times; {most} were to be expected at most, for {lasted:?}");
    assert_eq!(live_commit(&bench), Some(repo.head()));
    assert!(slowest.load(Ordering::Relaxed) < 5000, "the agent was not to be reached for {slowest:?} ms");
    assert_eq!(bench.runs().len(), 1);
    bench.assert_sound();
}

#[test]
fn hk_09_empty_secret() {
    let bench = Bench::new("empty secret");
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    let set = |secret: &str| {
        let webhook = webhook(&bench, "github", secret);
        bench.app("site", &format!("repository = {:?}\nbranches = [\"main\"]\nauto = true\n{webhook}", repo.path()));
    };
    for (secret, says) in [("", "is empty"), (" \n", "is empty"), ("\n\n\n", "is empty"), ("fifteen-bytes-x", "fewer than 16 bytes")] {
        set(secret);
        bench.start_refused().expect(64).says(&["github.webhook", says]);
    }
    set("sixteen-bytes-xx");
    bench.start();
    // A file that was emptied later does not count: the last good secret does.
    let seen = bench.log().len();
    secret_file(&bench, "github", "");
    wait_until("the agent complains", SOON, || bench.log()[seen..].contains("github.webhook: is empty"));
    let sent = |secret: &str| post(&bench.control(), "/v1/webhooks/site/github", &[("X-Hub-Signature-256", &github(secret, PUSH))], PUSH);
    assert_unproven(&sent("another-secret-of-some-length"));
    assert_eq!(sent("sixteen-bytes-xx").status, 202);
    // A new one counts.
    secret_file(&bench, "github", "another-secret-of-some-length");
    wait_until("the new secret counts", SOON, || sent("another-secret-of-some-length").status == 202);
    assert_unproven(&sent("sixteen-bytes-xx"));
    // As long as nothing is wrong, nobody reads the files again without a reason.
    secret_file(&bench, "github", "one-more-secret-of-some-length");
    wait_until("the newest secret counts", SOON, || sent("one-more-secret-of-some-length").status == 202);
    assert_unproven(&sent("another-secret-of-some-length"));
}

/// Releases wait before they are sealed, as long as the file `gate` is there.
fn gate(bench_name: &str, more: &str) -> (Bench, Repo) {
    let wait = "touch ../../../../gate.reached; while [ -e ../../../../gate ]; do sleep 0.02; done";
    following(bench_name, more, &format!("[[hook]]\nbefore = \"seal\"\nrun = [\"/bin/sh\", \"-c\", {wait:?}]\n"))
}

#[test]
fn hk_10_webhook_while_a_run_is_under_way() {
    let (bench, repo) = gate("while a run is under way", "");
    bench.write("gate", "");
    assert_eq!(push(&bench, PUSH).status, 202);
    wait_until("the first release stands at the gate", SOON, || bench.path("gate.reached").exists());
    // One more webhook for the same commit leads to nothing, one for a new commit waits for its turn.
    assert_eq!(push(&bench, PUSH).status, 202);
    wait_until("the agent has looked again", SOON, || looks(&bench) == 2);
    assert_eq!(bench.runs().len(), 1);
    let second = repo.write("index.html", "two").commit("two");
    assert_eq!(push(&bench, PUSH).status, 202);
    wait_until("the second release waits", SOON, || bench.ask_json("/v1/apps/site")["waiting"].as_array().unwrap().len() == 1);
    assert_eq!(live_commit(&bench), None, "the first is still under way");
    fs::remove_file(bench.path("gate")).unwrap();
    wait_until("the second is live", SOON, || live_commit(&bench).as_ref() == Some(&second));
    wait_until("nothing is under way", SOON, || bench.runs().iter().all(|run| run["state"] == "ended"));
    let outcomes: Vec<_> = bench.runs().iter().map(|run| run["outcome"].as_str().unwrap().to_owned()).collect();
    assert_eq!(outcomes, ["live", "live"]);
    bench.assert_sound();
}

/// While a webhook is followed, somebody asks for the very commit that it will find, by the name of the branch: nobody can tell yet that it is the same.
#[test]
fn a_commit_that_somebody_staged_is_released_by_no_webhook() {
    let (bench, _) = following("staged", "", "");
    bench.ctl(["stage", "main"]).expect(0);
    let nothing = || bench.log().matches("nothing is new").count();
    assert_eq!(push(&bench, PUSH).status, 202);
    wait_until("the webhook has been followed", SOON, || nothing() == 1);
    // Nor is it when what was staged is gone: who staged it has decided over it.
    fs::remove_dir_all(bench.root_of("site").join("releases").join(&bench.releases("site")[0])).unwrap();
    assert_eq!(push(&bench, PUSH).status, 202);
    wait_until("the webhook has been followed once more", SOON, || nothing() == 2 || bench.runs().len() > 1);
    assert_eq!((bench.runs().len(), bench.live("site")), (1, None));
}

#[test]
fn a_webhook_and_a_request_at_once_make_one_run() {
    let (bench, repo) = following("at once", "", "");
    let git = format!(
        "#!/bin/sh\ncase \" $* \" in *' ls-remote '*) for n in 1 2; do if mkdir {0}/asked.$n 2>/dev/null; then \
         while [ ! -e {0}/answer.$n ]; do sleep 0.02; done; break; fi; done ;; esac\nPATH=${{PATH#*:}} exec git \"$@\"\n",
        bench.path("").display()
    );
    bench.pretend("git", &git);
    assert_eq!(push(&bench, PUSH).status, 202);
    wait_until("the webhook asks the repository", SOON, || bench.path("asked.1").exists());
    bench.ctl(["release", "--no-follow", "main"]).expect(0);
    wait_until("the release asks the repository", SOON, || bench.path("asked.2").exists());
    let waits = "a webhook waits for the runs at hand";
    bench.write("answer.1", "");
    wait_until("the webhook has been followed", SOON, || bench.log().contains(waits) || bench.runs().len() > 1);
    assert_eq!(bench.runs().len(), 1, "{}", bench.log());
    bench.write("answer.2", "");
    wait_until("the release is live", SOON, || live_commit(&bench).as_ref() == Some(&repo.head()));
    // The webhook is followed when it can be told what the release was of, and finds nothing more to do.
    wait_until("the webhook has been followed once more", SOON, || bench.log().contains("nothing is new"));
    wait_until("the release has ended", SOON, || bench.runs().iter().all(|run| run["state"] == "ended"));
    assert_eq!(bench.runs().len(), 1);
    bench.assert_sound();
    // Nor is it asked for when nobody remembers that somebody did: the release is here.
    bench.stop();
    fs::remove_dir_all(bench.path("state")).unwrap();
    bench.start();
    heard(&bench);
    assert_eq!(bench.runs().len(), 0);
}

#[test]
fn an_app_that_queues_nothing_is_looked_at_again_when_it_is_free() {
    let (bench, repo) = gate("not queued", "when_busy = \"refuse\"\n");
    bench.write("gate", "");
    assert_eq!(push(&bench, PUSH).status, 202);
    wait_until("the first release stands at the gate", SOON, || bench.path("gate.reached").exists());
    let second = repo.write("index.html", "two").commit("two");
    assert_eq!(push(&bench, PUSH).status, 202);
    wait_until("the webhook waits", SOON, || bench.log().contains("a webhook waits for the runs at hand"));
    fs::remove_file(bench.path("gate")).unwrap();
    wait_until("the second is live", SOON, || live_commit(&bench).as_ref() == Some(&second));
    assert_eq!(bench.runs().len(), 2);
}

#[test]
fn what_failed_is_not_tried_again_and_what_is_locked_is_left_alone() {
    let (bench, repo) = following("failed", "", "[[hook]]\nbefore = \"seal\"\nrun = [\"test\", \"!\", \"-e\", \"broken\"]\n");
    heard(&bench);
    let good = repo.head();
    repo.write("broken", "").commit("Broken");
    heard(&bench);
    assert_eq!(bench.last_run()["outcome"], "failed");
    heard(&bench);
    assert_eq!((live_commit(&bench), bench.runs().len()), (Some(good.clone()), 2));
    let mended = repo.remove("broken").commit("Mended");
    bench.ctl(["lock", "-m", "black friday"]).expect(0);
    let runs = bench.runs().len();
    heard(&bench);
    assert!(bench.log().contains("its release was refused: the app is locked"), "{}", bench.log());
    assert_eq!((live_commit(&bench), bench.runs().len()), (Some(good), runs));
    bench.ctl(["unlock"]).expect(0);
    heard(&bench);
    assert_eq!(live_commit(&bench), Some(mended));
    // A branch that was set back is not followed: a release goes forward only.
    repo.reset("HEAD~2");
    repo.write("index.html", "elsewhere").commit("Elsewhere");
    let before = live_commit(&bench);
    heard(&bench);
    assert_eq!((live_commit(&bench), bench.last_run()["outcome"].as_str()), (before, Some("failed")));
    bench.assert_sound();
}

#[test]
fn gitlab_and_what_keeps_to_standard_webhooks_is_heard() {
    let key = format!("whsec_{}", STANDARD.encode(KEY));
    let bench = Bench::new("GitLab");
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    let webhooks = webhook(&bench, "gitlab", &key) + &webhook(&bench, "generic", &key) + &webhook(&bench, "gitlab-token", SECRET);
    let settings = format!("repository = {:?}\nbranches = [\"main\"]\nauto = true\nauto_pause = \"1s\"\n{webhooks}", repo.path());
    bench.app("site", &settings).variable("RELEASE_AGENT_LOG", "debug").start();
    let sent = |source: &str, id: &str, at: u64, body: &str| {
        let message = format!("{id}.{at}.{PUSH}");
        let signature = format!("v1,{}", STANDARD.encode(sign(&Key::new(HMAC_SHA256, &KEY), message.as_bytes())));
        let at = at.to_string();
        let headers = [("webhook-id", id), ("webhook-timestamp", &at), ("webhook-signature", &signature)];
        post(&bench.control(), &format!("/v1/webhooks/site/{source}"), &headers, body)
    };
    for source in ["gitlab", "generic"] {
        assert_unproven(&sent(source, "msg_1", now() - 310, PUSH));
        assert_unproven(&sent(source, "msg_1", now() + 310, PUSH));
        assert_unproven(&sent(source, "msg.1", now(), PUSH));
        assert_unproven(&sent(source, "msg_1", now(), "{}"));
    }
    assert_unproven(&sent("github", "msg_1", now(), PUSH));
    let token = |token: &str| post(&bench.control(), "/v1/webhooks/site/gitlab-token", &[("X-Gitlab-Token", token)], PUSH);
    assert_unproven(&token(&SECRET[1..]));
    assert_unproven(&token(""));
    assert_eq!((looks(&bench), bench.runs().len()), (0, 0), "the agent looked");
    let mut callers = Vec::new();
    for source in ["gitlab", "generic", "gitlab-token"] {
        repo.write("index.html", source).commit(source);
        let before = looks(&bench);
        let answer = if source == "gitlab-token" { token(SECRET) } else { sent(source, "msg_1", now(), PUSH) };
        assert_eq!(answer.status, 202, "{source}: {}", answer.body);
        after_a_look(&bench, before);
        assert_eq!(live_commit(&bench), Some(repo.head()));
        callers.push(bench.last_run()["caller"].as_str().unwrap().to_owned());
    }
    assert_eq!(callers, ["webhook:gitlab", "webhook:generic", "webhook:gitlab-token"]);
}

#[test]
fn over_the_network_a_webhook_needs_its_own_proof_and_no_other() {
    let bench = Bench::new("over the network");
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    let network = bench.network("", "", "");
    let webhooks = webhook(&bench, "github", SECRET) + &webhook(&bench, "docker-hub", SECRET);
    let settings = format!("repository = {:?}\nbranches = [\"main\"]\nauto = true\nauto_pause = \"1s\"\n{webhooks}", repo.path());
    bench.app("site", &settings).variable("RELEASE_AGENT_LOG", "trace").start();
    let place = network.place();
    let webhook = |signature: &str| post(&place, "/v1/webhooks/site/github", &[("X-Hub-Signature-256", signature)], PUSH);
    let wrong = webhook(&github("another-secret-of-some-length", PUSH));
    assert_unproven(&wrong);
    assert_eq!(post(&place, "/v1/webhooks/none/github", &[("X-Hub-Signature-256", &github(SECRET, PUSH))], PUSH).body, wrong.body);
    assert_unproven(&post(&place, "/v1/webhooks/site/docker-hub/0123456789abcdef0123456789abcdee", &[], PUSH));
    assert_eq!((looks(&bench), bench.runs().len()), (0, 0), "the agent looked");
    assert_eq!(webhook(&github(SECRET, PUSH)).status, 202);
    after_a_look(&bench, 0);
    assert_eq!(live_commit(&bench), Some(repo.head()));
    repo.write("index.html", "two").commit("two");
    assert_eq!(post(&place, &format!("/v1/webhooks/site/docker-hub/{SECRET}"), &[], PUSH).status, 202);
    after_a_look(&bench, 1);
    assert_eq!(live_commit(&bench), Some(repo.head()));
    assert!(!bench.log().contains(SECRET), "the secret is in the log");
    // What proves a webhook proves nothing else.
    let release = r#"{"v":1,"app":"site","action":"release","ref":"main","nonce":"0123456789abcdef0123456789abcdef"}"#;
    let headers = [("Content-Type", "application/json"), ("X-Hub-Signature-256", &github(SECRET, release))];
    assert_eq!(post(&place, "/v1/requests", &headers, release).status, 401);
    assert_eq!(bench.runs().len(), 2);
}

#[test]
fn a_webhook_may_be_as_large_as_a_forge_sends_it_and_no_larger() {
    const MOST: usize = 25 * 1024 * 1024;
    let (bench, _repo) = following("large", "", "");
    let body = "x".repeat(MOST);
    assert_eq!(push(&bench, &body).status, 202);
    let answer = push(&bench, &format!("{body}x"));
    assert_eq!((answer.status, answer.body.contains("too_large")), (413, true), "{}", answer.body);
}

#[test]
fn a_repository_that_is_out_of_reach_is_asked_again_with_the_next_webhook() {
    let (bench, repo) = following("out of reach", "", "");
    let away = bench.path("away");
    fs::rename(repo.path(), &away).unwrap();
    heard(&bench);
    assert!(bench.log().contains("a webhook led nowhere: cannot ask the repository for its refs"), "{}", bench.log());
    fs::rename(&away, repo.path()).unwrap();
    repo.git(["branch", "--move", "main", "other"]);
    heard(&bench);
    assert!(bench.log().contains("the repository has no refs/heads/main"), "{}", bench.log());
    repo.git(["branch", "--move", "other", "main"]);
    assert_eq!(bench.runs().len(), 0);
    heard(&bench);
    assert_eq!(live_commit(&bench), Some(repo.head()));
}

#[test]
fn an_agent_that_is_told_to_stop_does_not_wait_for_a_look() {
    let (bench, _repo) = following("stop", "", "");
    bench.pretend("git", &format!("#!/bin/sh\ntouch {}\nexec sleep 1000\n", bench.path("asked").display()));
    assert_eq!(push(&bench, PUSH).status, 202);
    wait_until("git is asked", SOON, || bench.path("asked").exists());
    assert_eq!(bench.ask("/healthz").status, 200);
    let begun = Instant::now();
    assert_eq!(bench.stop(), 0);
    assert!(begun.elapsed() < Duration::from_secs(15), "it took {:?}", begun.elapsed());
}
