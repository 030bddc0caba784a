//! Compares the contract with the routes, and its schemas with the types: one value of each wire type is serialized like in the agent, and must match
//! the document exactly.

use axum::extract::Query;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;

use agent_model::request::Request;
use agent_wire::REQUEST_TYPE;
use agent_wire::event::{AimWord, Event, OutcomeWord, PlannedStep, Stream, What};
use agent_wire::form::{Form, Options};
use agent_wire::problem::{PROBLEM_TYPE, Problem};
use agent_wire::view::{
    App, Apps, Commit, Doctor, Finding, Fsck, FsckFinding, GrantView, Level, Lock, Plan, Release, ReleaseDetail, ReleaseState, Releases,
    Run, RunState, Runs, StartedAgain, Taken, Unsettled, Verified, Whoami, WillPoll,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::answer::Code;
use super::*;

fn document() -> Value {
    serde_json::from_str(OPENAPI).unwrap()
}

/// Every operation of the document.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let each = paths.flat_map(|(path, methods)| {
        methods.as_object().unwrap().iter().map(move |(method, operation)| (path.clone(), method.to_uppercase(), operation.clone()))
    });
    each.collect()
}

#[test]
fn the_contract_names_every_address_and_no_other() {
    let mut documented: Vec<(String, String)> = Vec::new();
    for (path, method, operation) in operations(&document()) {
        assert!(operation["summary"].is_string(), "{method} {path} has no summary");
        assert!(operation["responses"].is_object(), "{method} {path} has no responses");
        documented.push((path, method));
    }
    let paths = |method: &str, paths: Vec<&str>| paths.into_iter().map(|path| (path.to_owned(), method.to_owned())).collect::<Vec<_>>();
    let mut served = paths("GET", reading().iter().map(|(path, _)| *path).collect());
    served.extend(paths("POST", acting().iter().map(|(path, _)| *path).collect()));
    served.extend(paths("POST", hooked().iter().map(|(path, _)| *path).collect()));
    documented.sort();
    served.sort();
    assert_eq!(documented, served);
}

/// The types of queries do not list their members, so the test reads them from the error about an unknown one.
#[test]
fn every_word_of_a_query_is_in_the_contract() {
    fn held<T: DeserializeOwned>(path: &str) {
        let (.., operation) = operations(&document()).into_iter().find(|(known, ..)| known == path).unwrap();
        let parameters = operation["parameters"].as_array().unwrap().iter();
        let documented: BTreeSet<String> = parameters
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        let Err(err) = Query::<T>::try_from_uri(&"/?no-such-word=1".parse().unwrap()) else { panic!("{path} takes any word") };
        let says = err.body_text();
        let (_, taken) = says.split_once("expected").unwrap();
        let taken: BTreeSet<String> = taken.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        assert_eq!(documented, taken, "{path}");
    }
    held::<PlanQuery>("/v1/apps/{app}/plan");
    held::<RunsQuery>("/v1/runs");
    held::<EventsQuery>("/v1/runs/{run}/events");
    held::<DoctorQuery>("/v1/doctor");
}

/// Forbids members that a schema does not name. The document itself allows them, because members are added over time.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.values_mut().for_each(close);
            if members.contains_key("properties") && members.get("type").is_some_and(|kind| kind == "object") {
                members.insert("additionalProperties".to_owned(), false.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

struct Contract {
    components: Value,
}

impl Contract {
    fn new() -> Self {
        let mut components = document()["components"].clone();
        close(&mut components);
        Self { components }
    }

    fn schema(&self, name: &str) -> &Value {
        let schema = &self.components["schemas"][name];
        assert!(schema.is_object(), "the document has no schema {name}");
        schema
    }

    fn complaints(&self, name: &str, value: &Value) -> Vec<String> {
        self.schema(name);
        let schema = json!({ "$ref": format!("#/components/schemas/{name}"), "components": self.components });
        let validator = agent_tests::jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
        validator.iter_errors(value).map(|err| format!("{}: {err}", err.instance_path())).collect()
    }

    fn assert_fits(&self, name: &str, value: &Value) {
        let complaints = self.complaints(name, value);
        assert!(complaints.is_empty(), "{name}: {complaints:#?}\n{value:#}");
    }

    /// `full` has every member, `bare` only the required ones: so the first has the members that the schema names, and the second those that it
    /// requires.
    fn hold<T: Serialize>(&self, name: &str, full: &T, bare: &T) {
        let bare = serde_json::to_value(bare).unwrap();
        self.hold_all(name, full);
        self.assert_fits(name, &bare);
        let required = self.schema(name)["required"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect();
        assert_eq!(members(&bare), required, "the members of {name} that are always there");
    }

    /// Only the check of `full`: where one member decides which others are needed, there is no bare value.
    fn hold_all<T: Serialize>(&self, name: &str, full: &T) {
        let full = serde_json::to_value(full).unwrap();
        self.assert_fits(name, &full);
        assert_eq!(members(&self.schema(name)["properties"]), members(&full), "the members of {name}");
    }
}

fn members(value: &Value) -> BTreeSet<String> {
    value.as_object().unwrap().keys().cloned().collect()
}

/// All values of an enum of words. The compiler checks that none is missing.
macro_rules! all {
    ($type:ident: $($variant:ident),+) => {{
        let _ = |value: $type| match value { $($type::$variant => {})+ };
        [$($type::$variant),+]
    }};
}

/// The wire names of all variants of an enum.
macro_rules! names {
    ($type:ident: $($variant:ident),+ $(,)?) => {{
        let _ = |value: $type| match value { $($type::$variant { .. } => {})+ };
        [$(snake(stringify!($variant))),+]
    }};
}

fn snake(name: &str) -> String {
    let mut word = String::new();
    for char in name.chars() {
        if char.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(char.to_ascii_lowercase());
    }
    word
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn moment() -> chrono::DateTime<chrono::Utc> {
    "2026-11-20T22:45:23.512Z".parse().unwrap()
}

const NAME: &str = "2026-11-20-22-45-23-1a2b3c4d5e6f";

fn steps() -> Vec<PlannedStep> {
    let step = |skipped| PlannedStep { step: "migrate".into(), undo: true, warn: false, skipped };
    vec![step(None), step(some("nothing to apply"))]
}

/// Of every kind, one event with all members and one with only the required ones.
fn whats() -> Vec<(What, What)> {
    use What::*;
    let step = || "migrate".to_owned();
    let text = || "a sentence".to_owned();
    let accepted = |of| Accepted { app: "shop".into(), action: "release".into(), of, caller: "unix:anna".into() };
    let planned = |live, steps| Planned { aim: AimWord::Serve, steps, live };
    let resolved = |said: Option<String>| Resolved { commit: "1a".into(), reference: said.clone(), release: NAME.into(), subject: said };
    let warning = |step| Warning { step, text: text() };
    let done = |nothing| StepDone { step: step(), ms: 12, nothing };
    let failed = |hint, tail| StepFailed { step: step(), ms: 12, reason: text(), hint, tail };
    let stands = |restore| Stands { text: text(), restore };
    let live_asked = |text: Option<String>, before| LiveAsked { release: NAME.into(), answers: text.is_none(), text, before };
    let ended = |live, database| Ended { outcome: OutcomeWord::Live, live, ms: 12, database };
    let same = |what: What| (what.clone(), what);
    vec![
        (accepted(some("main")), accepted(None)),
        same(Waits { behind: 6 }),
        (planned(some(NAME), steps()), planned(None, vec![])),
        (resolved(some("main")), resolved(None)),
        same(StepStarted { step: step() }),
        same(Output { step: step(), stream: Stream::Stderr, line: text() }),
        same(Note { step: step(), text: text() }),
        (warning(Some(step())), warning(None)),
        same(Progress { step: step(), done: 1, total: 2 }),
        same(Exposed { step: step() }),
        (done(some("nothing to apply")), done(None)),
        (failed(some("do this"), vec![text()]), failed(None, vec![])),
        same(UndoStarted { step: step() }),
        (Undone { step: step(), ms: 12, stands: true }, Undone { step: step(), ms: 12, stands: false }),
        same(UndoFailed { step: step(), reason: text() }),
        (stands(some("pg_restore")), stands(None)),
        (live_asked(some("GET / was refused"), Some(false)), live_asked(None, None)),
        same(CancelAsked { caller: "unix:anna".into() }),
        same(Stopped),
        (ended(some(NAME), Some(text())), ended(None, None)),
        same(Unknown),
    ]
}

#[test]
fn every_kind_of_event_is_as_the_contract_says() {
    let contract = Contract::new();
    let mapping = contract.schema("Event")["discriminator"]["mapping"].as_object().unwrap().clone();
    let mut seen = BTreeSet::new();
    for (full, bare) in whats() {
        let event = |what| Event { run: 7, n: 3, at: moment(), what };
        let (full, bare) = (event(full), event(bare));
        let value = serde_json::to_value(&full).unwrap();
        let word = value["what"].as_str().unwrap().to_owned();
        let target = mapping.get(&word).unwrap_or_else(|| panic!("the document does not know the event {word}"));
        let name = target.as_str().unwrap().trim_start_matches("#/components/schemas/");
        contract.hold(name, &full, &bare);
        contract.assert_fits("Event", &value);
        contract.assert_fits("Event", &serde_json::to_value(&bare).unwrap());
        seen.insert(word);
    }
    let all = names!(What: Accepted, Waits, Planned, Resolved, StepStarted, Output, Note, Warning, Progress, Exposed, StepDone, StepFailed,
        UndoStarted, Undone, UndoFailed, Stands, LiveAsked, CancelAsked, Stopped, Ended, Unknown);
    assert_eq!(seen, all.into_iter().collect());
    assert_eq!(seen, mapping.keys().cloned().collect());
    let each: BTreeSet<&str> =
        contract.schema("Event")["oneOf"].as_array().unwrap().iter().map(|of| of["$ref"].as_str().unwrap()).collect();
    assert_eq!(each, mapping.values().map(|target| target.as_str().unwrap()).collect());
}

#[test]
fn every_view_is_as_the_contract_says() {
    let contract = Contract::new();
    let release = |said: bool| Release {
        name: NAME.into(),
        commit: "1a2b".into(),
        reference: said.then(|| "main".into()),
        state: ReleaseState::Good,
        previous: true,
        pinned: false,
        caller: said.then(|| "unix:anna".into()),
        run: said.then_some(7),
        made: said.then(moment),
        ms: said.then_some(12),
        subject: said.then(|| "More".into()),
        fault: said.then(|| "it ended".into()),
    };
    let run = |said: bool| Run {
        run: 7,
        app: "shop".into(),
        action: "release".into(),
        of: said.then(|| "main".into()),
        caller: "unix:anna".into(),
        state: RunState::Ended,
        outcome: said.then_some(OutcomeWord::RolledBack),
        release: said.then(|| NAME.into()),
        step: said.then(|| "switch".into()),
        accepted: moment(),
        ended: said.then(moment),
        ms: said.then_some(12),
    };
    let lock = Lock { who: "unix:anna".into(), why: "black friday".into(), since: moment() };
    let unsettled = |said: bool| Unsettled {
        run: 6,
        release: NAME.into(),
        at: moment(),
        text: "shop.0002 was begun and is not atomic".into(),
        backup: said.then(|| "/var/shop/backups/x".into()),
        restore: said.then(|| "pg_restore".into()),
    };
    let app = |said: bool| App {
        name: "shop".into(),
        root: "/var/shop".into(),
        live: said.then(|| release(true)),
        running: said.then(|| run(true)),
        waiting: if said { vec![run(false)] } else { vec![] },
        lock: said.then(|| lock.clone()),
        stuck: said.then_some(6),
        last: said.then(|| run(true)),
        disk_free: 1,
        disk_total: 2,
        follows: said.then(|| "refs/heads/main".into()),
        unsettled: if said { vec![unsettled(true)] } else { vec![] },
        started_again: said.then(|| StartedAgain { times: 2, last: moment() }),
    };
    let apps = |apps| Apps { agent: "0.1.0".into(), draining: false, apps, complaints: vec!["shop.toml:3: no".into()] };
    let detail = |said: bool| ReleaseDetail {
        release: release(said),
        path: "/var/shop/releases/x".into(),
        manifest: if said { json!({ "commit": "1a2b" }) } else { Value::Null },
        migrations: vec!["shop.0002".into()],
        backup: said.then(|| "/var/shop/backups/x".into()),
        environment: said.then(|| "/var/shop/environments/x".into()),
    };
    let commit = Commit { commit: "1a2b".into(), author: "Anna".into(), subject: "More".into() };
    let plan = |said: bool| Plan {
        commit: "1a2b".into(),
        reference: said.then(|| "main".into()),
        live: said.then(|| "1a2b".into()),
        commits: vec![commit.clone()],
        ahead: -1,
        requirements: vec!["requirements.txt".into()],
        migrations: vec!["shop/migrations/0002.py".into()],
        steps: steps(),
        bytes: 1,
        disk_free: 2,
        warnings: vec!["locked".into()],
    };
    let finding = |said: bool| Finding {
        app: said.then(|| "shop".into()),
        what: "git".into(),
        level: Level::Error,
        text: "no".into(),
        hint: said.then(|| "yes".into()),
    };
    let planned = steps();
    contract.hold("Release", &release(true), &release(false));
    contract.hold("Run", &run(true), &run(false));
    contract.hold("Lock", &lock, &lock);
    contract.hold("App", &app(true), &app(false));
    contract.hold("Apps", &apps(vec![app(true)]), &apps(vec![]));
    let list = |releases, unsettled| Releases { releases, unsettled };
    contract.hold("Releases", &list(vec![release(true)], vec![unsettled(true)]), &list(vec![], vec![]));
    contract.hold("Unsettled", &unsettled(true), &unsettled(false));
    contract.hold("ReleaseDetail", &detail(true), &detail(false));
    contract.hold("Runs", &Runs { runs: vec![run(true)] }, &Runs { runs: vec![] });
    contract.hold("Commit", &commit, &commit);
    contract.hold("Plan", &plan(true), &plan(false));
    contract.hold("PlannedStep", &planned[1], &planned[0]);
    contract.hold("Finding", &finding(true), &finding(false));
    contract.hold("Doctor", &Doctor { findings: vec![finding(true)] }, &Doctor { findings: vec![] });
    let difference = |said: bool| FsckFinding {
        what: "link".into(),
        level: Level::Error,
        path: said.then(|| "/var/shop/app".into()),
        text: "it is gone".into(),
        hint: said.then(|| "agentctl activate".into()),
        mend: false,
    };
    let verified = Verified { releases: 1, environments: 1, files: 2, bytes: 3, backups: 1, runs: 4, events: 50 };
    let fsck = |said: bool| Fsck {
        app: "shop".into(),
        run: said.then_some(7),
        verified: verified.clone(),
        findings: if said { vec![difference(true)] } else { vec![] },
    };
    contract.hold("Verified", &verified, &verified);
    contract.hold("FsckFinding", &difference(true), &difference(false));
    contract.hold("Fsck", &fsck(true), &fsck(false));
    let grant = GrantView {
        to: vec!["key:ci".into()],
        apps: Some(vec!["shop".into()]),
        actions: Some(vec!["release".into()]),
        refs: Some(vec!["refs/tags/v*".into()]),
        signatures: 1,
        claims: [("repository_id".to_owned(), "7".to_owned())].into(),
        downgrade: true,
    };
    let bare_grant = GrantView { apps: None, actions: None, refs: None, claims: Default::default(), ..grant.clone() };
    contract.hold("Grant", &grant, &bare_grant);
    let who = Whoami { caller: "key:ci".into(), principals: vec!["key:ci".into()], all: false, grants: vec![grant] };
    contract.hold("Whoami", &who, &Whoami { grants: vec![], ..who.clone() });
    let taken = Taken { run: 7, events: "/v1/runs/7/events".into(), token: some("t0ken") };
    contract.hold("Taken", &taken, &Taken { token: None, ..taken.clone() });
    let looks = WillPoll { app: "shop".into(), follows: "refs/heads/main".into() };
    contract.hold("WillPoll", &looks, &looks);
}

#[test]
fn every_word_is_in_the_contract() {
    let contract = Contract::new();
    let held = |schema: &Value, words: Vec<Value>| assert_eq!(schema["enum"], Value::from(words));
    held(
        contract.schema("Outcome"),
        all!(OutcomeWord: Live, Done, Failed, RolledBack, Stuck, Cancelled, Superseded).map(|word| json!(word)).into(),
    );
    held(contract.schema("ReleaseState"), all!(ReleaseState: Live, Good, Sealed, Failed, Incomplete).map(|word| json!(word)).into());
    held(contract.schema("RunState"), all!(RunState: Waiting, Running, Ended).map(|word| json!(word)).into());
    held(contract.schema("Level"), all!(Level: Error, Warning, Good).map(|word| json!(word)).into());
    held(&contract.schema("EventPlanned")["properties"]["aim"], all!(AimWord: Serve, Tend).map(|word| json!(word)).into());
    held(&contract.schema("EventOutput")["properties"]["stream"], all!(Stream: Stdout, Stderr).map(|word| json!(word)).into());
}

#[test]
fn every_code_is_in_the_contract_with_its_status() {
    let contract = Contract::new();
    let problem = |code: &str, status: u16, hint| Problem { status, code: code.into(), detail: "no".into(), hint };
    contract.hold("Problem", &problem("busy", 409, some("wait")), &problem("busy", 409, None));
    let codes = all!(Code: Malformed, Unauthenticated, OtherHost, OutOfWindow, Clock, NoKeys, NotAllowed, NotFound, NoApp, NoRun, NoRelease, WrongMethod, TooSlow, Busy, Stuck, Over, TooLate, Ambiguous,
        NonceReused, TokenReused, Stale, TooLarge, WrongType, Repository, Locked, QueueFull, TooOften, Internal, Root, DiskFull, UnknownCaller, UnprovenWebhook, TooManyWebhooks, Crowded, Draining);
    let mut answered: BTreeSet<(u64, String)> = BTreeSet::new();
    for (name, answer) in contract.components["responses"].as_object().unwrap() {
        let content = answer["content"].as_object().unwrap();
        assert_eq!(content.keys().collect::<Vec<_>>(), [PROBLEM_TYPE], "{name}");
        let members = &content[PROBLEM_TYPE]["schema"]["allOf"][1]["properties"];
        let words = members["code"]["enum"].as_array().unwrap().iter();
        answered.extend(words.map(|word| (members["status"]["const"].as_u64().unwrap(), word.as_str().unwrap().to_owned())));
    }
    assert_eq!(answered, codes.iter().map(|code| (code.status().as_u16().into(), code.word().to_owned())).collect());
    let known = contract.schema("ProblemCode")["enum"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    assert_eq!(known.collect::<BTreeSet<_>>(), codes.iter().map(|code| code.word()).collect());

    // An operation names each answer under its status.
    for (path, method, operation) in operations(&document()) {
        for (status, answer) in operation["responses"].as_object().unwrap() {
            let Some(name) = answer["$ref"].as_str().map(|target| target.trim_start_matches("#/components/responses/")) else { continue };
            let constant =
                &contract.components["responses"][name]["content"][PROBLEM_TYPE]["schema"]["allOf"][1]["properties"]["status"]["const"];
            assert_eq!(&constant.to_string(), status, "{method} {path}");
        }
    }
}

/// The schema and the type agree on the members of a request.
#[test]
fn a_request_is_as_the_contract_says() {
    let contract = Contract::new();
    let full = Form {
        v: 1,
        aud: Some(vec!["web1.example.org".into()]),
        app: "shop".into(),
        action: "release".into(),
        revision: some("refs/heads/main"),
        commit: some("0123456789abcdef0123456789abcdef01234567"),
        path: some("/v1/apps"),
        release: some("previous"),
        run: Some(7),
        why: some("black friday"),
        command: Some(vec!["true".to_owned()]),
        prev: some(NAME),
        iat: Some(1_795_213_000),
        exp: Some(1_795_213_300),
        nonce: "mJx3w2n9QhGv0e1o7uTq4A".into(),
        options: Options { rebuild: true, keep_schema: true, drop_data: true },
    };
    contract.hold_all("Request", &full);
    let all = serde_json::to_value(&full).unwrap();
    let acts: Vec<&str> = Right::ALL.iter().filter(|right| **right != Right::Plan).map(|right| right.word()).collect();
    assert_eq!(contract.schema("Request")["properties"]["action"]["enum"], json!(acts));
    let bodies = document()["paths"]["/v1/requests"]["post"]["requestBody"]["content"].as_object().unwrap().clone();
    assert_eq!(bodies.keys().collect::<BTreeSet<_>>(), [REQUEST_TYPE, "application/json"].map(str::to_owned).iter().collect());

    let mut taken = 0;
    for act in acts.iter().copied().chain(["plan", "explode"]) {
        for without in
            ["", "app", "aud", "command", "commit", "exp", "iat", "nonce", "options", "path", "prev", "ref", "release", "run", "v", "why"]
        {
            let mut form = all.clone();
            form["action"] = act.into();
            form.as_object_mut().unwrap().remove(without);
            let understood = serde_json::from_value::<Form>(form.clone())
                .is_ok_and(|form| form.reads().is_ok_and(|path| path.is_some() || Request::try_from(&form).is_ok()));
            let fits = contract.complaints("Request", &form).is_empty();
            assert_eq!(fits, understood, "{form:#}");
            taken += usize::from(fits);
        }
    }
    // Nonce and version are needed by all sixteen; all but `read` need the app, and eight need a member of their own.
    assert_eq!(taken, 16 * (16 - 2) - 15 - 8);
    for (member, value) in [
        ("app", json!("Shop")),
        ("v", json!(2)),
        ("run", json!(0)),
        ("nonce", json!("short")),
        ("why", json!("")),
        ("release", json!("..")),
        ("prev", json!("previous")),
        ("options", json!({ "force": true })),
        ("force", json!(true)),
    ] {
        let mut form = all.clone();
        let needed_by = [("run", "cancel"), ("why", "lock"), ("release", "pin")].into_iter().find(|(known, _)| *known == member);
        form["action"] = needed_by.map_or("release", |(_, act)| act).into();
        form[member] = value;
        assert!(!contract.complaints("Request", &form).is_empty(), "{form:#}");
        assert!(serde_json::from_value::<Form>(form.clone()).ok().is_none_or(|form| Request::try_from(&form).is_err()), "{form:#}");
    }
}
