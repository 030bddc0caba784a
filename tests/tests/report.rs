//! Reports to forges and receivers: in order, at least once, through restarts and outages, and never in the way of a release.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use agent_tests::{Bench, Done, Forge, Heard, Repo, wait_until};

const MOST: Duration = Duration::from_secs(60);
const TOKEN: &str = "github_pat_hunter2hunter2";
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A file that only its owner can read.
fn closed(bench: &Bench, name: &str, text: &str) -> String {
    let file = bench.write(name, format!("{text}\n"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

fn github(bench: &Bench, forge: &Forge, more: &str) -> String {
    let token = closed(bench, "github-token", TOKEN);
    format!("[[report]]\nto = \"github\"\nrepository = \"acme/site\"\nurl = \"{}\"\ntoken_file = {token:?}\n{more}\n", forge.url())
}

/// A plain app with reports, and its agent.
fn plain(name: &str, more: impl Fn(&Bench) -> String) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    let text = format!("repository = {:?}\nbranches = [\"main\"]\n{}", repo.path(), more(&bench));
    bench.app("site", &text).start();
    (bench, repo)
}

/// Waits until so many were taken.
#[track_caller]
fn taken(forge: &Forge, count: usize) -> Vec<Heard> {
    wait_until(&format!("the forge has taken {count}"), MOST, || forge.taken().len() >= count);
    forge.taken()
}

fn states(heard: &[Heard]) -> Vec<String> {
    heard.iter().map(|heard| heard.says("state")).collect()
}

fn doctor(bench: &Bench) -> Done {
    bench.ctl(["doctor"])
}

/// The bytes of every file below a directory.
fn bytes_below(directory: &Path, bytes: &mut Vec<u8>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            bytes_below(&path, bytes);
        } else if path.is_file() {
            bytes.extend(fs::read(path).unwrap_or_default());
        }
    }
}

/// Fails when a token or a secret stands in an event, in the journal or in the log.
#[track_caller]
fn assert_discreet(bench: &Bench) {
    let mut bytes = bench.log().into_bytes();
    bytes_below(&bench.path("state"), &mut bytes);
    for run in bench.runs() {
        let run = run["run"].as_u64().unwrap();
        bytes.extend(format!("{:?}", bench.events(run)).into_bytes());
    }
    let text = String::from_utf8_lossy(&bytes);
    for secret in [TOKEN, SECRET, &SECRET[6..]] {
        assert!(!text.contains(secret), "{secret} was said or stored");
    }
}

#[test]
fn in_progress_comes_first_and_with_the_address_of_the_log() {
    let forge = Forge::start();
    let bench = Bench::new("in progress");
    bench.network("", "url = \"https://deploy.example.org\"", "");
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    bench.app("site", &format!("repository = {:?}\n{}", repo.path(), github(&bench, &forge, "environment = \"staging\""))).start();
    bench.ctl(["release", "main"]).expect(0);
    let heard = taken(&forge, 5);
    assert_eq!(states(&heard), ["pending", "", "in_progress", "success", "success"]);
    let (live, commit) = (bench.live("site").unwrap(), repo.head());
    let status = format!("/repos/acme/site/statuses/{commit}");
    let state = "/repos/acme/site/deployments/42/statuses".to_owned();
    let targets: Vec<_> = heard.iter().map(|heard| heard.target.clone()).collect();
    assert_eq!(targets, [status.clone(), "/repos/acme/site/deployments".to_owned(), state.clone(), status, state]);
    let log = "https://deploy.example.org/v1/runs/1/events";
    assert_eq!((heard[0].says("target_url"), heard[2].says("log_url"), heard[4].says("log_url")), (log.into(), log.into(), log.into()));
    assert_eq!((heard[1].says("environment"), heard[1].says("ref")), ("staging".to_owned(), commit));
    assert_eq!(
        (heard[0].says("description"), heard[3].says("description")),
        (format!("{live} is in progress."), format!("{live} is live."))
    );
    assert!(heard.iter().all(|heard| heard.header("authorization") == format!("Bearer {TOKEN}")));
    wait_until("nothing waits", MOST, || doctor(&bench).stdout.contains("for github acme/site nothing waits to be told"));
    assert_discreet(&bench);
}

#[test]
fn net_10_status_api_401() {
    let forge = Forge::start();
    forge.answer(401);
    let (bench, _repo) = plain("401", |bench| github(bench, &forge, "deployments = false"));
    bench.ctl(["release", "main"]).expect(0);
    wait_until("both were refused", MOST, || bench.log().matches("was not told, and will not be: the answer was 401").count() == 2);
    assert_eq!(forge.heard().len(), 2, "what is refused for good is not asked again");
    let told = "2 report(s) were given up";
    wait_until("doctor tells of it", MOST, || doctor(&bench).stdout.contains(told));
    doctor(&bench).says(&["github acme/site: 2 report(s) were given up; the last one: the answer was 401 (Bad credentials)"]);
    bench.kill().start();
    doctor(&bench).says(&["2 report(s) were given up"]);
    forge.answer(201);
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(states(&taken(&forge, 2)), ["pending", "success"]);
    wait_until("doctor has no more to say", MOST, || doctor(&bench).stdout.contains("nothing waits to be told"));
    assert_eq!(forge.heard().len(), 4);
    assert_discreet(&bench);
}

#[test]
fn net_11_status_api_500_for_an_hour() {
    let forge = Forge::start();
    forge.answer(500);
    let (bench, repo) = plain("500", |bench| github(bench, &forge, "deployments = false"));
    bench.ctl(["release", "main"]).expect(0);
    let first = repo.head();
    wait_until("it was asked in vain", MOST, || !forge.heard().is_empty());
    repo.write("index.html", "two").commit("two");
    bench.ctl(["release", "main"]).expect(0);
    bench.kill();
    let before = forge.heard().len();
    bench.start();
    wait_until("it is asked again after the restart", MOST, || forge.heard().len() > before);
    let told = "github acme/site: 4 report(s) wait; the last try failed: the answer was 500";
    wait_until("doctor tells of it", MOST, || doctor(&bench).stdout.contains(told));
    bench.kill();
    forge.answer(201);
    bench.start();
    let heard = taken(&forge, 4);
    assert_eq!(states(&heard), ["pending", "success", "pending", "success"]);
    assert!(heard[..2].iter().all(|heard| heard.target.ends_with(&first)), "{heard:?}");
    assert!(heard[2..].iter().all(|heard| heard.target.ends_with(&repo.head())), "{heard:?}");
    let in_vain = forge.heard();
    assert!(in_vain.iter().filter(|heard| heard.status == 500).all(|heard| heard.body == in_vain[0].body), "nothing overtook the first");
    wait_until("doctor has no more to say", MOST, || doctor(&bench).stdout.contains("nothing waits to be told"));
    assert_eq!(forge.taken().len(), 4, "nothing is told twice that got through");
    assert_discreet(&bench);
}

#[test]
fn a_forge_that_says_nothing_or_is_not_there_holds_up_no_release() {
    let mut forge = Forge::start();
    forge.fall_silent();
    let (bench, repo) = plain("silent forge", |bench| github(bench, &forge, "deployments = false"));
    bench.ctl(["release", "main"]).expect(0);
    wait_until("the forge was asked", MOST, || !forge.heard().is_empty());
    repo.write("index.html", "two").commit("two");
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(forge.heard().len(), 1, "the first answer is still owed");
    forge.stop();
    repo.write("index.html", "three").commit("three");
    bench.ctl(["release", "main"]).expect(0);
    wait_until("it was tried in vain", MOST, || bench.log().contains("github acme/site could not be told, and will be"));
    forge.speak();
    forge.start_again();
    wait_until("the last one was told", MOST, || {
        forge.taken().last().is_some_and(|heard| heard.target.ends_with(&repo.head()) && heard.says("state") == "success")
    });
    assert_eq!(bench.stop(), 0);
}

#[test]
fn the_number_of_a_deployment_survives_a_restart() {
    let forge = Forge::start();
    // The status and the deployment are taken, and the deployment's state is not.
    forge.answer_next(&[201, 201]);
    forge.answer(500);
    forge.answer_next(&[201, 201]);
    let (bench, _repo) = plain("deployment", |bench| github(bench, &forge, ""));
    bench.ctl(["release", "main"]).expect(0);
    wait_until("the state was refused", MOST, || forge.heard().len() >= 3);
    bench.kill();
    forge.answer(201);
    bench.start();
    let heard = taken(&forge, 5);
    assert_eq!(states(&heard), ["pending", "", "in_progress", "success", "success"]);
    assert_eq!(heard.iter().filter(|heard| heard.target.ends_with("/deployments")).count(), 1, "it is made once");
    let about: Vec<_> = heard.iter().filter(|heard| heard.target.contains("/deployments/")).map(|heard| heard.target.as_str()).collect();
    assert_eq!(about, ["/repos/acme/site/deployments/42/statuses"; 2]);
}

#[test]
fn a_failure_is_told_as_one_and_a_run_without_a_commit_is_not_told() {
    let forge = Forge::start();
    let (bench, repo) = plain("failure", |bench| {
        let token = closed(bench, "gitlab-token", TOKEN);
        let report =
            format!("[[report]]\nto = \"gitlab\"\nrepository = \"acme/team/site\"\nurl = \"{}\"\ntoken_file = {token:?}\n", forge.url());
        format!("{report}[[hook]]\nbefore = \"seal\"\nrun = [\"/bin/sh\", \"-c\", \"echo {TOKEN} >&2; exit 1\"]\n")
    });
    bench.ctl(["release", "no-such-branch"]).expect(1);
    bench.ctl(["release", "main"]).expect(1);
    let heard = taken(&forge, 2);
    assert_eq!(heard.len(), 2, "{heard:?}");
    let path = format!("/api/v4/projects/acme%2Fteam%2Fsite/statuses/{}?", repo.head());
    assert!(heard.iter().all(|heard| heard.method == "POST" && heard.target.starts_with(&path)), "{heard:?}");
    assert!(heard[0].target.contains("?state=running&") && heard[1].target.contains("?state=failed&"), "{heard:?}");
    assert!(heard[1].target.contains("failed%2C%20and%20no%20visitor%20met%20it") && heard[1].target.ends_with("&ref=main"), "{heard:?}");
    assert!(heard.iter().all(|heard| heard.header("private-token") == TOKEN && !heard.target.contains("hunter2")), "{heard:?}");
}

#[test]
fn a_cancelled_run_is_told_as_no_failure() {
    let forge = Forge::start();
    let (bench, _repo) = plain("cancelled", |bench| {
        let wait = format!("touch {0}/reached; while [ -e {0}/reached ]; do sleep 0.02; done", bench.path("").display());
        format!("{}[[hook]]\nbefore = \"seal\"\nrun = [\"/bin/sh\", \"-c\", {wait:?}]\n", github(bench, &forge, ""))
    });
    let run = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().to_owned();
    wait_until("the release has begun", MOST, || bench.path("reached").exists());
    assert_eq!(states(&taken(&forge, 3)), ["pending", "", "in_progress"], "while it is in progress");
    bench.ctl(["cancel", &run]).expect(0);
    assert_eq!(states(&taken(&forge, 5))[3..], ["error", "inactive"]);
}

/// Has another program than the agent compute the signature.
fn signature(bench: &Bench, heard: &Heard) -> String {
    let program = "import base64, hashlib, hmac, sys\n\
                   key = base64.b64decode(sys.argv[1].removeprefix('whsec_'))\n\
                   signed = f'{sys.argv[2]}.{sys.argv[3]}.{sys.argv[4]}'.encode()\n\
                   print('v1,' + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode())";
    let mut command = bench.command("python3");
    command.args(["-c", program, SECRET, heard.header("webhook-id"), heard.header("webhook-timestamp"), &heard.body]);
    bench.begin(command).finish(MOST).expect(0).stdout.trim().to_owned()
}

#[test]
fn a_message_is_signed_and_known_again_when_it_comes_twice() {
    let receiver = Forge::start();
    receiver.refuse_with("Retry-After: 2\r\n");
    receiver.answer_next(&[503]);
    let (bench, repo) = plain("webhook", |bench| {
        let secret = closed(bench, "webhook-secret", SECRET);
        format!("[[report]]\nto = \"webhook\"\nurl = \"{}/hooks/site\"\nsecret_file = {secret:?}\n", receiver.url())
    });
    bench.ctl(["release", "main"]).expect(0);
    taken(&receiver, 2);
    let heard = receiver.heard();
    assert_eq!(heard.iter().map(|heard| heard.says("type")).collect::<Vec<_>>(), ["run.started", "run.started", "run.ended"]);
    for message in &heard {
        assert_eq!(message.header("webhook-signature"), signature(&bench, message));
        assert_eq!((message.target.as_str(), message.header("content-type")), ("/hooks/site", "application/json"));
    }
    let known = |heard: &Heard| (heard.header("webhook-id").to_owned(), heard.body.clone());
    assert_eq!(known(&heard[0]), known(&heard[1]));
    assert_ne!(heard[1].header("webhook-id"), heard[2].header("webhook-id"));
    let at = |heard: &Heard| heard.header("webhook-timestamp").parse::<u64>().unwrap();
    assert!(at(&heard[1]) >= at(&heard[0]) + 2, "it rests for as long as it is told");
    let data = &heard[2].json()["data"];
    let expected = serde_json::json!({
        "host": data["host"], "app": "site", "run": 1, "action": "release", "ref": "refs/heads/main", "commit": repo.head(),
        "release": bench.live("site").unwrap(), "caller": data["caller"], "outcome": "live", "log": null,
    });
    assert_eq!(*data, expected);
    assert!(data["caller"].as_str().unwrap().starts_with("unix:") && !data["host"].as_str().unwrap().is_empty());
    assert_discreet(&bench);
}

#[test]
fn a_token_that_cannot_be_read_is_told_by_doctor_and_waits() {
    let forge = Forge::start();
    let (bench, _repo) = plain("no token", |bench| github(bench, &forge, "deployments = false"));
    let token = bench.path("github-token");
    fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
    bench.ctl(["release", "main"]).expect(0);
    wait_until("it is told", MOST, || doctor(&bench).stdout.contains("report(s) wait"));
    doctor(&bench).says(&["github acme/site cannot be told anything", "mode 0644", "chmod o="]);
    assert!(forge.heard().is_empty());
    fs::set_permissions(&token, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(states(&taken(&forge, 2)), ["pending", "success"]);
}

#[test]
fn what_is_set_later_hears_of_later_runs_only() {
    let forge = Forge::start();
    let (bench, repo) = plain("set later", |_| String::new());
    bench.ctl(["release", "main"]).expect(0);
    let text = format!("repository = {:?}\nbranches = [\"main\"]\n{}", repo.path(), github(&bench, &forge, "deployments = false"));
    // What ended has been looked at for sure when the agent has stopped.
    assert_eq!(bench.stop(), 0);
    bench.app("site", &text).start();
    let former = bench.live("site").unwrap();
    repo.write("index.html", "two").commit("two");
    bench.ctl(["release", "main"]).expect(0);
    let heard = taken(&forge, 2);
    assert!(heard.iter().all(|heard| heard.target.ends_with(&repo.head())), "{heard:?}");
    bench.ctl(["activate", &former]).expect(0);
    let heard = taken(&forge, 4);
    assert!(heard[2..].iter().all(|heard| heard.says("description").starts_with(&former)), "{heard:?}");
}

#[test]
fn a_forge_is_believed_by_the_certificates_that_are_set() {
    let bench = Bench::new("certificate");
    let certificate = bench.certificate("forge", &["localhost"]);
    let forge = Forge::start_tls(&certificate);
    let repo = bench.repo("site");
    repo.write("index.html", "one").commit("one");
    let app = |ca: &str| format!("repository = {:?}\n{}", repo.path(), github(&bench, &forge, &format!("deployments = false\n{ca}")));
    bench.app("site", &app("")).start();
    bench.ctl(["release", "main"]).expect(0);
    wait_until("doctor tells of it", MOST, || doctor(&bench).stdout.contains("no TLS connection can be made"));
    assert!(forge.heard().is_empty(), "it heard the token");
    bench.app("site", &app(&format!("ca = {certificate:?}"))).reload();
    assert_eq!(states(&taken(&forge, 2)), ["pending", "success"]);
}
