//! Who may ask for what: the socket's own API, grants, and what a request must look like. Every refusal is a problem with a code that stays.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use agent_tests::{Answer, Bench, Repo, get, is_root, request, wait_until};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const KIND: &str = "application/vnd.release-agent.request.v1+json";

/// Users and groups that are there on every Debian, without any right here.
const DAEMON: u32 = 1;
const BIN: u32 = 2;
/// The number that stands for whoever has none.
const NOBODY: u32 = 65534;

/// A bench with the apps `plain` and `second`, whose socket the group `daemon` may open.
fn bench(name: &str, grants: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    repo.tag("v1").write("page.html", "two").commit("Two");
    let settings = format!("repository = {:?}\nbranches = [\"main\"]\ntags = [\"v*\"]\n", repo.path());
    bench.app("plain", &settings).app("second", &settings);
    bench.agent_settings(&format!("socket_group = \"daemon\"\n{grants}")).let_others_in().start();
    (bench, repo)
}

fn grant(to: &str, apps: &str, actions: &str, more: &str) -> String {
    format!("[[grant]]\nto = {to:?}\napps = [{apps}]\nactions = [{actions}]\n{more}\n")
}

#[test]
fn the_socket_is_open_to_its_owner_alone_unless_a_group_is_named() {
    let bench = Bench::new("the socket");
    let socket = bench.path("run/control.sock");
    bench.start();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, 0o600);
    bench.stop();
    assert!(!socket.exists(), "the socket is left behind");
    // A directory that the agent makes itself is as closed as the socket.
    let deep = bench.path("new/deep/control.sock");
    let mut agent = bench.release_agent();
    agent.arg("--config").arg(bench.path("config")).arg("--state").arg(bench.path("state")).arg("--socket").arg(&deep);
    let agent = bench.begin(agent);
    wait_until("the socket is there", SOON, || deep.exists());
    assert_eq!(fs::metadata(deep.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o700);
    agent.signal(nix::sys::signal::Signal::SIGTERM);
    agent.finish(SOON).expect(0);
    bench.agent_settings("socket_group = \"no-such-group\"\n");
    bench.start_refused().expect(69).says(&["no-such-group", "does not exist", "agent.toml"]);
    if !is_root("that the socket belongs to socket_group, and that nobody else gets in") {
        return;
    }
    bench.agent_settings("socket_group = \"daemon\"\n").let_others_in().start();
    let meta = fs::metadata(&socket).unwrap();
    assert_eq!((meta.permissions().mode() & 0o7777, meta.uid(), meta.gid()), (0o660, 0, DAEMON));
    bench.ctl_as(BIN, &[], ["status"]).expect(5).says(&["out of reach", "Permission denied", "ls -l", "usermod -aG"]);
    bench.ctl(["status"]).expect(0);
}

#[test]
fn as_root_nobody_may_do_or_read_anything_without_a_grant() {
    if !is_root("that other users may do nothing without a grant") {
        return;
    }
    let (bench, _) = bench("no grant", "");
    bench.ctl(["--app", "plain", "release", "main"]).expect(0);
    let release = bench.live("plain").unwrap();
    for (action, verb) in [
        ("release", &["release", "main"][..]),
        ("activate", &["rollback"]),
        ("activate", &["activate", &release]),
        ("plan", &["plan", "main"]),
        ("read", &["list"]),
        ("read", &["show"]),
        ("read", &["status"]),
        ("restart", &["restart"]),
        ("prune", &["prune"]),
        ("read", &["prune", "--dry-run"]),
        ("read", &["fsck"]),
        ("mend", &["fsck", "--mend"]),
        ("check", &["check"]),
        ("lock", &["lock", "-m", "mine"]),
        ("unlock", &["unlock"]),
        ("settle", &["settle"]),
        ("pin", &["pin", &release]),
        ("unpin", &["unpin", &release]),
        ("read", &["doctor"]),
    ] {
        let args: Vec<&str> = ["--app", "plain"].iter().chain(verb).copied().collect();
        let grant = format!("to = \"unix-user:daemon\", apps = [\"plain\"], actions = [\"{action}\"]");
        let may_not =
            if verb == ["status"] { "unix:daemon may read no app".to_owned() } else { format!("unix:daemon may not {action} plain") };
        let grant = if verb == ["status"] { "actions = [\"read\"]" } else { &grant };
        bench.ctl_as(DAEMON, &[], args).expect(4).says(&["refused", &may_not, grant]);
    }
    // An app that is not there is answered as one that is: whoever may nothing learns nothing.
    bench.ctl_as(DAEMON, &[], ["--app", "third", "list"]).expect(4).says(&["may not read third"]);
    for verb in [&["status"][..], &["runs"], &["doctor"]] {
        bench.ctl_as(DAEMON, &[], verb).expect(4).says(&["may read no app", "[[grant]]"]);
    }
    bench.ctl_as(DAEMON, &[], ["logs", "1"]).expect(2).says(&["there is no run 1"]);
    bench.ctl_as(DAEMON, &[], ["cancel", "1"]).expect(2).says(&["there is no run 1"]);
    assert_eq!((bench.live("plain"), bench.runs().len()), (Some(release), 1), "something was done");
    bench.assert_sound();
}

#[test]
fn as_root_a_grant_gives_what_it_says_and_nothing_else() {
    if !is_root("what grants give to other users") {
        return;
    }
    let grants = grant("unix-user:daemon", "\"plain\"", "\"release\", \"read\"", "tags = [\"v*\"]")
        + &grant("unix-group:bin", "\"*\"", "\"read\", \"lock\"", "");
    let (bench, repo) = bench("grants", &grants);
    // One action, one app, some refs.
    let on_plain = |verb: &[&str]| bench.ctl_as(DAEMON, &[], ["--app", "plain"].iter().chain(verb));
    on_plain(&["release", "v1"]).expect(0);
    let live = bench.live("plain");
    assert_eq!(bench.last_run()["caller"], "unix:daemon");
    on_plain(&["release", "main"]).expect(1).says(&["reached by no ref that the grant allows (refs/tags/v*)", "agent.toml"]);
    on_plain(&["release", &repo.id("main")]).expect(1).says(&["the grant allows (refs/tags/v*)"]);
    on_plain(&["rollback"]).expect(4).says(&["may not activate plain"]);
    on_plain(&["lock", "-m", "x"]).expect(4).says(&["may not lock plain"]);
    bench.ctl_as(DAEMON, &[], ["--app", "second", "release", "v1"]).expect(4).says(&["may not release second"]);
    assert_eq!((bench.live("plain"), bench.live("second")), (live, None));
    // With one app that it may read, that is the app.
    bench.ctl_as(DAEMON, &[], ["list"]).expect(0);
    let apps = bench.ctl_as(DAEMON, &[], ["status", "--json"]).expect(0).json();
    assert_eq!(apps["apps"].as_array().unwrap().len(), 1);
    // Runs of an app that it may not read are as if they were not there.
    bench.ctl(["--app", "second", "release", "main"]).expect(0);
    let runs = bench.ctl_as(DAEMON, &[], ["runs", "--json"]).expect(0).json();
    assert!(runs["runs"].as_array().unwrap().iter().all(|run| run["app"] == "plain"));
    let run = bench.last_run()["run"].as_u64().unwrap().to_string();
    bench.ctl_as(DAEMON, &[], ["logs", &run]).expect(2).says(&["there is no run"]);
    // By a supplementary group; what it gives comes beside what the user has.
    bench.ctl_as(DAEMON, &[], ["--app", "second", "list"]).expect(4);
    bench.ctl_as(DAEMON, &[BIN], ["--app", "second", "list"]).expect(0);
    bench.ctl_as(DAEMON, &[BIN], ["--app", "second", "lock", "-m", "mine"]).expect(0);
    bench.ctl(["--app", "second", "status"]).expect(0).says(&["unix:daemon", "mine"]);
    bench.ctl_as(DAEMON, &[3, 4, 5, 6, 7, 8, 9, 10, BIN], ["--app", "second", "list"]).expect(0);
    // By the primary group: `bin` comes in by the socket's group.
    bench.ctl_as(BIN, &[DAEMON], ["--app", "second", "list"]).expect(0);
    bench.ctl_as(BIN, &[DAEMON], ["--app", "second", "unlock"]).expect(4).says(&["unix:bin may not unlock second"]);
    // 65534 is whoever has no number here: no grant reaches it, though one names it.
    bench.agent_settings(&format!("socket_group = \"daemon\"\n{}", grant("unix-user:nobody", "\"*\"", "\"*\"", "")));
    bench.reload();
    bench.ctl_as(NOBODY, &[DAEMON], ["status"]).expect(4).says(&["nobody knows who asks", "65534"]);
    bench.ctl_as(NOBODY, &[DAEMON], ["--app", "plain", "release", "v1"]).expect(4);
    bench.assert_sound();
}

#[test]
fn as_root_grants_are_taken_up_while_the_agent_runs() {
    if !is_root("that changed grants are taken up") {
        return;
    }
    let (bench, _) = bench("changed grants", "");
    let list = || bench.ctl_as(DAEMON, &[], ["--app", "plain", "list"]);
    list().expect(4);
    let everything = format!("socket_group = \"daemon\"\n{}", grant("unix-group:daemon", "\"*\"", "\"*\"", ""));
    bench.agent_settings(&everything);
    wait_until("the grant is in force", SOON, || list().code == 0);
    bench.ctl_as(DAEMON, &[], ["--app", "plain", "release", "main"]).expect(0);
    // A broken file takes nothing away and gives nothing.
    bench.agent_settings("[[grant]]\nto = 3\n");
    wait_until("the agent complains", SOON, || !bench.ask_json("/v1/apps")["complaints"].as_array().unwrap().is_empty());
    list().expect(0);
    bench.agent_settings("socket_group = \"daemon\"\n");
    wait_until("the grant is gone", SOON, || list().code == 4);
    bench.assert_sound();
}

fn ask(bench: &Bench, body: &str) -> Answer {
    request(&bench.control(), "POST", "/v1/requests", &[("Content-Type", KIND)], body).unwrap()
}

#[track_caller]
fn is_problem(answer: &Answer, status: u16, code: &str, part: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.body);
    let problem: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)), "{problem}");
    let text = format!("{} {}", problem["detail"], problem["hint"]);
    assert!(problem["detail"].is_string() && text.contains(part), "{part}: {problem}");
}

#[test]
fn what_is_no_request_gets_a_problem_with_a_code() {
    let (bench, _) = plain("problems");
    let control = bench.control();
    let nonce = "0123456789abcdef0123456789abcdef";
    let good = json!({"v": 1, "app": "plain", "action": "release", "ref": "main", "nonce": nonce}).to_string();
    let with = |member: &str, value: Value| {
        let mut form: Value = serde_json::from_str(&good).unwrap();
        form[member] = value;
        form.to_string()
    };
    for (body, part) in [
        (String::new(), "cannot be understood"),
        ("{".to_owned(), "cannot be understood"),
        ("[1]".to_owned(), "cannot be understood"),
        (good.clone() + "{}", "trailing"),
        (with("force", json!(true)), "unknown field `force`"),
        (good.replacen("\"v\":1", "\"v\":1,\"v\":1", 1), "duplicate field `v`"),
        (good.replacen("\"app\":\"plain\"", "\"app\":\"plain\",\"app\":\"second\"", 1), "duplicate field `app`"),
        (with("v", json!(2)), "version 1"),
        (with("v", json!(1.5)), "cannot be understood"),
        (with("action", json!("explode")), "explode"),
        (with("action", json!("read")), "path"),
        (with("app", json!("../x")), "`app`"),
        (with("ref", json!("--upload-pack=x")), "`ref`"),
        (with("ref", json!("a\u{0}b")), "`ref`"),
        (with("nonce", json!("short")), "`nonce`"),
        (with("prev", json!("latest")), "`prev`"),
        (with("options", json!({"rebuild": true, "fast": true})), "unknown field `fast`"),
    ] {
        is_problem(&ask(&bench, &body), 400, "malformed", part);
    }
    is_problem(&ask(&bench, &with("app", json!("third"))), 404, "no_app", "third");
    // Of the right size by one byte, and too large by one.
    let filled = |size: usize| good.clone() + &" ".repeat(size - good.len());
    assert_eq!(ask(&bench, &filled(16 * 1024)).status, 202);
    is_problem(&ask(&bench, &filled(16 * 1024 + 1)), 413, "too_large", "16384");
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        let answer = request(&control, "POST", "/v1/requests", &[("Content-Type", kind)], &good).unwrap();
        is_problem(&answer, 415, "wrong_type", "Content-Type");
    }
    is_problem(&request(&control, "POST", "/v1/requests", &[], &good).unwrap(), 415, "wrong_type", "Content-Type");
    for (method, path) in [("GET", "/v1/requests"), ("DELETE", "/v1/runs/1"), ("POST", "/v1/apps"), ("PUT", "/healthz")] {
        is_problem(&request(&control, method, path, &[], "").unwrap(), 405, "wrong_method", "openapi.json");
    }
    for (path, status, code) in [
        ("/", 404, "not_found"),
        ("/v1", 404, "not_found"),
        ("/v2/apps", 404, "not_found"),
        ("/v1/apps/third", 404, "no_app"),
        ("/v1/apps/Third", 400, "malformed"),
        ("/v1/apps/..%2f..%2fetc", 400, "malformed"),
        ("/v1/apps/%ff", 400, "malformed"),
        ("/v1/apps/plain/releases/1a2b3c4d", 404, "no_release"),
        ("/v1/apps/plain/plan", 400, "malformed"),
        ("/v1/apps/plain/plan?ref=--x", 400, "malformed"),
        ("/v1/runs/99", 404, "no_run"),
        ("/v1/runs/x", 400, "malformed"),
        ("/v1/runs/99/events", 404, "no_run"),
        ("/v1/runs/1/events?after=x", 400, "malformed"),
        ("/v1/runs?limit=x", 400, "malformed"),
        ("/v1/runs?app=third", 404, "no_app"),
        ("/v1/doctor?app=third", 404, "no_app"),
        ("/v1/doctor?app=plain&app=plain", 400, "malformed"),
    ] {
        is_problem(&get(&control, path).unwrap(), status, code, "");
    }
    wait_until("the one that was right is over", SOON, || bench.last_run()["state"] == "ended");
    bench.assert_sound();
}

/// A bench with the app `plain`, whose socket is its owner's alone.
fn plain(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.app("plain", &format!("repository = {:?}\n", repo.path())).start();
    (bench, repo)
}

#[test]
fn the_same_bytes_twice_are_one_run_and_a_nonce_is_good_for_one_request() {
    let (bench, _) = plain("nonces");
    let form =
        |reference: &str| json!({"v": 1, "app": "plain", "action": "release", "ref": reference, "nonce": "0123456789abcdef"}).to_string();
    let first = ask(&bench, &form("main"));
    assert_eq!((first.status, first.header("location")), (202, Some("/v1/runs/1/events")));
    for _ in 0..3 {
        let again = ask(&bench, &form("main"));
        assert_eq!((again.status, &again.body), (200, &first.body));
    }
    is_problem(&ask(&bench, &form("other")), 409, "nonce_reused", "nonce");
    is_problem(&ask(&bench, &(form("main") + " ")), 409, "nonce_reused", "nonce");
    bench.kill().start();
    assert_eq!(ask(&bench, &form("main")).status, 200, "the agent forgot it when it was killed");
    is_problem(&ask(&bench, &form("other")), 409, "nonce_reused", "nonce");
    assert_eq!(bench.runs().len(), 1);
    bench.events(1);
    bench.assert_sound();
}

fn connect(bench: &Bench) -> UnixStream {
    let stream = UnixStream::connect(bench.path("run/control.sock")).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Reads until the agent hangs up.
fn rest(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    // A connection that is reset has ended too.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn slow_and_endless_clients_are_let_go() {
    let (bench, _) = plain("slow clients");
    let send = |text: &[u8]| {
        let mut stream = connect(&bench);
        stream.write_all(text).unwrap();
        stream
    };
    let begun = std::time::Instant::now();
    let silent = send(b"");
    let half_a_header = send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A");
    let idle = send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let half_a_body =
        send(format!("POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Type: {KIND}\r\nContent-Length: 100\r\n\r\n{{").as_bytes());
    let mut endless_header = connect(&bench);
    let mut lines = 0;
    while lines < 100_000
        && endless_header
            .write_all(if lines == 0 { b"GET /healthz HTTP/1.1\r\n" } else { b"X-Padding: aaaaaaaaaaaaaaaaaaaaaaaaa\r\n" })
            .is_ok()
    {
        lines += 1;
    }
    assert!(lines < 100_000, "the agent reads headers without end");
    let said = rest(endless_header);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 431"), "{said}");
    // An endless body.
    let mut endless_body =
        send(format!("POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Type: {KIND}\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes());
    let mut chunks = 0;
    while chunks < 10_000
        && endless_body
            .write_all(b"400\r\n")
            .and_then(|()| endless_body.write_all(&[b' '; 0x400]))
            .and_then(|()| endless_body.write_all(b"\r\n"))
            .is_ok()
    {
        chunks += 1;
    }
    assert!(chunks < 10_000, "the agent reads a body without end");
    let garbage = send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n");
    let said = rest(garbage);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{said}");

    rest(silent);
    let said = rest(half_a_header);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    assert!(rest(idle).ends_with("ok\n"));
    let said = rest(half_a_body);
    assert!(said.starts_with("HTTP/1.1 408") && said.contains("too_slow"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(40), "it took {} s", begun.elapsed().as_secs());
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
}

#[test]
fn connections_have_a_cap_and_come_back() {
    let (bench, _) = plain("connections");
    bench.ctl(["release", "main"]).expect(0);
    let held: Vec<UnixStream> = (0..256).map(|_| connect(&bench)).collect();
    let mut turned_away = None;
    wait_until("the agent has accepted them all", SOON, || {
        turned_away = get(&bench.control(), "/healthz").ok().filter(|answer| answer.status != 200);
        turned_away.is_some()
    });
    is_problem(&turned_away.unwrap(), 503, "crowded", "256");
    bench.ctl(["status"]).expect(5).says(&["there are 256 connections open", "hint:"]);
    drop(held);
    wait_until("there is room again", SOON, || get(&bench.control(), "/healthz").is_ok_and(|answer| answer.status == 200));
    bench.assert_sound();
}

#[test]
fn as_root_one_user_cannot_shut_the_others_out() {
    if !is_root("that one user's connections leave room for others") {
        return;
    }
    let (bench, _) = bench("one user's connections", &grant("unix-user:daemon", "\"*\"", "\"read\"", ""));
    let hold = "import socket, sys, time\nheld = []\nfor n in range(300):\n    s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); held.append(s)\nprint('held', flush=True)\ntime.sleep(1000)\n";
    let mut python = bench.as_user(DAEMON, &[], "/usr/bin/python3");
    python.args(["-c", hold]).arg(bench.path("run/control.sock"));
    let holder = bench.begin(python);
    wait_until("another user holds what it can", SOON, || holder.stdout().contains("held"));
    bench.ctl(["status"]).expect(0);
    wait_until("it is turned away itself", SOON, || {
        let done = bench.ctl_as(DAEMON, &[], ["status"]);
        assert!(done.code == 0 || done.code == 5, "{}", done.stderr);
        done.stderr.contains("you have 64 connections open")
    });
    holder.signal(nix::sys::signal::Signal::SIGKILL);
    holder.finish(SOON);
    wait_until("there is room again", SOON, || bench.ctl_as(DAEMON, &[], ["status"]).code == 0);
    bench.assert_sound();
}
