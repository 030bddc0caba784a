//! The whole program against a fake agent: arguments in; exit code, stdout and stderr out.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use agent_wire::event::OutcomeWord;

use super::*;
use crate::client::pretend::{Pretend, Say};

mod network;
mod offline;

const APPS: &str = r#"{"agent":"0.1.0","draining":false,"complaints":[],"apps":[
    {"name":"shop","root":"/var/shop","live":null,"running":null,"waiting":[],"lock":null,"stuck":null,"last":null,"disk_free":1,"disk_total":2,"new":3}]}"#;
const TAKEN: &str = r#"{"run":12,"events":"/v1/runs/12/events"}"#;

#[derive(Clone, Default)]
struct Heard(Rc<RefCell<Vec<u8>>>);

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Heard {
    fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

/// A reader that has gone.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Ended {
    code: u8,
    stdout: String,
    stderr: String,
    asked: Vec<String>,
}

fn agentctl(arguments: &str, answers: Vec<Say>) -> Ended {
    let agent = Pretend::saying(answers);
    let (stdout, stderr) = (Heard::default(), Heard::default());
    let mut all = vec![OsString::from("agentctl"), "--socket".into(), agent.socket().into()];
    all.extend(arguments.split_whitespace().map(OsString::from));
    let code = run_with(all, Out::plain(stdout.clone(), stderr.clone()));
    Ended { code, stdout: stdout.text(), stderr: stderr.text(), asked: agent.asked() }
}

fn event(n: u64, what: &str) -> String {
    format!(r#"{{"run":12,"n":{n},"at":"2026-11-20T22:45:23Z",{what}}}"#)
}

fn accepted(action: &str) -> String {
    event(1, &format!(r#""what":"accepted","app":"shop","action":"{action}","of":"main","caller":"unix:anna""#))
}

fn ended(n: u64, outcome: &str) -> String {
    event(n, &format!(r#""what":"ended","outcome":"{outcome}","live":"2026-11-20-22-45-23-1a2b3c4d5e6f","ms":8400"#))
}

fn run(state: &str) -> Say {
    let run = format!(
        r#"{{"run":12,"app":"shop","action":"release","of":"main","caller":"unix:anna","state":"{state}","outcome":null,"release":null,"step":null,"accepted":"2026-11-20T22:45:23Z","ended":null,"ms":null}}"#
    );
    Say::Json(200, run)
}

#[test]
fn a_release_is_asked_for_and_followed() {
    let events = vec![accepted("release"), event(2, r#""what":"step_done","step":"fetch","ms":300"#), ended(3, "live")];
    let ended = agentctl(
        "release main --rebuild --expect-live 2026-11-20-20-00-00-0a1b2c3d4e5f",
        vec![Say::Json(200, APPS.into()), Say::Json(202, TAKEN.into()), Say::Events(events)],
    );
    assert_eq!(
        ended.stderr,
        "run 12: release main of shop\n✓ fetch            0.3 s\nshop: 2026-11-20-22-45-23-1a2b3c4d5e6f is live (run 12, 8.4 s)\n"
    );
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""));
    assert_eq!(ended.asked[0], "GET /v1/apps");
    assert!(
        ended.asked[1].starts_with(r#"POST /v1/requests {"v":1,"app":"shop","action":"release","ref":"main","prev":"2026-"#),
        "{}",
        ended.asked[1]
    );
    assert!(ended.asked[1].ends_with(r#""options":{"rebuild":true}}"#), "{}", ended.asked[1]);
    assert_eq!(ended.asked[2], "GET /v1/runs/12/events?after=0");
}

#[test]
fn the_outcome_is_the_exit_code() {
    use OutcomeWord::{Cancelled, Done, Failed, Live, RolledBack, Stuck, Superseded};
    for (outcome, code) in [(Live, 0), (Done, 0), (Failed, 1), (RolledBack, 3), (Stuck, 6), (Cancelled, 7), (Superseded, 7)] {
        let answers = || vec![Say::Json(202, TAKEN.into()), Say::Events(vec![accepted("release"), ended(2, outcome.word())])];
        assert_eq!(agentctl("--app shop deploy main", answers()).code, code);
        let quiet = agentctl("--app shop release main --quiet", answers());
        assert_eq!((quiet.code, quiet.stderr.is_empty(), quiet.stdout.is_empty()), (code, code == 0, true), "{}", quiet.stderr);
        let logs = |arguments| {
            let events = vec![accepted("release"), ended(2, outcome.word())];
            agentctl(arguments, vec![self::run("ended"), Say::Events(events)])
        };
        assert_eq!(logs("logs -f 12").code, code);
        assert_eq!(logs("logs 12").code, 0);
    }
}

#[test]
fn a_problem_is_the_exit_code() {
    for (status, code) in [(400, 2), (403, 4), (404, 2), (409, 4), (412, 4), (423, 4), (429, 4), (500, 5)] {
        let problem = format!(r#"{{"status":{status},"code":"x","detail":"shop is locked","hint":"agentctl unlock"}}"#);
        let ended = agentctl("--app shop release main", vec![Say::Json(status, problem)]);
        assert_eq!(ended.code, code);
        let word = if code == 4 { "refused" } else { "error" };
        let again = if status == 429 { "; ask again in 7 s" } else { "" };
        assert_eq!((ended.stderr, ended.stdout), (format!("{word}: shop is locked\nhint: agentctl unlock{again}\n"), String::new()));
    }
}

#[test]
fn events_are_handed_on_as_they_came() {
    let newer = event(2, r#""what":"sang","song":["la",1]"#);
    let events = vec![accepted("release"), newer.clone(), ended(3, "failed")];
    let ended = agentctl("--app shop rollback --json", vec![Say::Json(202, TAKEN.into()), Say::Events(events.clone())]);
    assert_eq!((ended.code, ended.stderr.as_str()), (1, ""));
    assert_eq!(ended.stdout, events.join("\n") + "\n");
    assert!(ended.asked[0].contains(r#""action":"activate","release":"previous""#), "{}", ended.asked[0]);
}

#[test]
fn a_run_that_is_not_followed_gives_its_number() {
    let ended = agentctl("--app shop release main --no-follow", vec![Say::Json(202, TAKEN.into())]);
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "12\n"));
    assert_eq!(ended.stderr, "run 12 goes on; follow it with: agentctl logs -f 12\n");
}

#[test]
fn a_run_is_told_so_far_and_the_verb_returns() {
    let ended = agentctl("logs 12", vec![run("running"), Say::Hold(vec![accepted("release")])]);
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    assert_eq!(ended.stdout, "run 12: release main of shop, by unix:anna, 2026-11-20 22:45:23 UTC\n");
}

#[test]
fn acts_on_the_spot_say_what_they_did() {
    let ended = agentctl("cancel 12", vec![
        run("running"),
        Say::Json(202, r#"{"run":13,"events":""}"#.into()),
        Say::Events(vec![
            r#"{"run":13,"n":1,"at":"2026-11-20T22:45:23Z","what":"accepted","app":"shop","action":"cancel","of":"12","caller":"unix:anna"}"#.into(),
            r#"{"run":13,"n":2,"at":"2026-11-20T22:45:23Z","what":"ended","outcome":"done","ms":0}"#.into(),
        ]),
    ]);
    assert_eq!(ended.code, 0);
    assert_eq!(ended.stderr, "shop: run 12 is asked to stop (run 13, 0.0 s)\nnext: agentctl logs -f 12 shows how it ends\n");
    assert!(ended.asked[1].contains(r#""app":"shop","action":"cancel","run":12"#), "{}", ended.asked[1]);
}

#[test]
fn the_app_is_found_or_asked_for() {
    let several = APPS.replace(r#""apps":["#, r#""apps":[{"name":"blog","root":"/","live":null,"running":null,"waiting":[],"lock":null,"stuck":null,"last":null,"disk_free":1,"disk_total":2},"#);
    let ended = agentctl("list", vec![Say::Json(200, several.clone())]);
    assert_eq!(ended.code, 2);
    assert_eq!(
        ended.stderr,
        "error: there are several apps, and --app names none of them\nhint: say which with --app or AGENTCTL_APP: blog, shop\n"
    );
    let none = r#"{"agent":"0.1.0","draining":false,"complaints":[],"apps":[]}"#;
    assert_eq!(agentctl("rollback", vec![Say::Json(200, none.into())]).code, 2);

    let status = agentctl("--app shop status --json", vec![Say::Json(200, several)]);
    let shown: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(shown["apps"].as_array().unwrap().len(), 1);
    assert_eq!((&shown["apps"][0]["name"], &shown["apps"][0]["new"]), (&"shop".into(), &3.into()));
}

const SOUND: &str = r#"{"app":"shop","run":null,"verified":{"releases":1,"environments":0,"files":2,"bytes":3,"backups":0,"runs":1,"events":9},"findings":[]}"#;

#[test]
fn reading_verbs_ask_for_their_view() {
    let releases = r#"{"releases":[]}"#;
    let plan = r#"{"commit":"1a","ref":null,"live":null,"commits":[],"ahead":0,"requirements":[],"migrations":[],"steps":[],"bytes":0,"disk_free":0,"warnings":[]}"#;
    for (arguments, asked, answer) in [
        ("list", "GET /v1/apps/shop/releases", releases),
        ("prune --dry-run", "GET /v1/apps/shop/prune", releases),
        ("runs -n 3 --after 7", "GET /v1/runs?limit=3&app=shop&after=7", r#"{"runs":[]}"#),
        ("plan feature/x", "GET /v1/apps/shop/plan?ref=feature%2Fx", plan),
        ("release --dry-run v1", "GET /v1/apps/shop/plan?ref=v1", plan),
        ("doctor", "GET /v1/doctor?app=shop", r#"{"findings":[]}"#),
        ("fsck", "GET /v1/apps/shop/fsck", SOUND),
        ("verify", "GET /v1/apps/shop/fsck", SOUND),
    ] {
        let words = agentctl(&format!("--app shop {arguments}"), vec![Say::Json(200, answer.into())]);
        assert_eq!((words.code, &words.asked[0], words.stderr.as_str()), (0, &asked.to_owned(), ""));
        let data = agentctl(&format!("--app shop {arguments} --json"), vec![Say::Json(200, answer.into())]);
        assert_eq!((data.code, data.stdout), (0, format!("{answer}\n")));
    }
    let ill = r#"{"findings":[{"app":null,"what":"git","level":"error","text":"no git","hint":null}]}"#;
    assert_eq!(agentctl("doctor", vec![Say::Json(200, ill.into())]).code, 1);
    for (level, code) in [("error", 1), ("warning", 1), ("good", 0)] {
        let differs = format!(r#"[{{"what":"link","level":"{level}","path":null,"text":"x","hint":null,"mend":false}}]"#);
        let said = SOUND.replace("[]", &differs);
        assert_eq!(agentctl("--app shop fsck", vec![Say::Json(200, said)]).code, code, "{level}");
    }
}

#[test]
fn usage_is_2_and_help_is_data() {
    for arguments in
        ["", "explode", "release", "release -- --upload-pack=x", "activate X", "--app Shop list", "logs zero", "lock", "list -q -v"]
    {
        let ended = agentctl(arguments, vec![]);
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{arguments}: {}", ended.stderr);
        assert!(!ended.stderr.is_empty(), "{arguments}");
    }
    let help = agentctl("--help", vec![]);
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    assert!(help.stdout.contains("Exit codes:") && help.stdout.contains("rollback"));
    for (arguments, part) in [("completions bash", "_agentctl()"), ("man", ".TH agentctl 1"), ("--version", "agentctl 0.")] {
        let ended = agentctl(arguments, vec![]);
        assert_eq!(ended.code, 0);
        assert!(ended.stdout.contains(part), "{arguments}: {}", ended.stdout);
    }
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let stderr = Heard::default();
    let code = run_with(["agentctl", "man"].map(OsString::from), Out::plain(Gone, stderr.clone()));
    assert_eq!((code, stderr.text().as_str()), (141, ""));
}

#[test]
fn the_arguments_are_sound() {
    command().debug_assert();
}
