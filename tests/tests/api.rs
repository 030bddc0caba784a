//! What comes to the API that should not: on the socket, over the network, and in what the agent says of secrets.
#![expect(clippy::unwrap_used, clippy::panic, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use agent_tests::{Answer, Bench, Network, Repo, SigningKey, form, get, is_root, nonce, request, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
const KIND: &str = "application/vnd.release-agent.request.v1+json";
/// Users that are there on every Debian, without any right here.
const DAEMON: u32 = 1;
const BIN: u32 = 2;

fn repository(bench: &Bench) -> Repo {
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    repo
}

/// A bench with the app `plain`, asked over the socket.
fn plain(name: &str, agent: &str, more: &str) -> Bench {
    let bench = Bench::new(name);
    let repo = repository(&bench);
    bench.app("plain", &format!("repository = {:?}\n{more}", repo.path()));
    bench.agent_settings(agent).start();
    bench
}

/// The same, asked over the network by a key that may do everything.
fn open(name: &str, more: &str) -> (Bench, Network, SigningKey) {
    let bench = Bench::new(name);
    let repo = repository(&bench);
    bench.app("plain", &format!("repository = {:?}\n{more}", repo.path()));
    let key = SigningKey::default();
    let network = bench.network("", "[[grant]]\nto = \"key:ci\"\napps = [\"*\"]\nactions = [\"*\"]\n", &key.line("ci"));
    bench.start();
    (bench, network, key)
}

/// A hook that waits for a file of the bench.
fn gate(bench: &Bench) -> String {
    format!("[[hook]]\nbefore = \"seal\"\nrun = [\"sh\", \"-c\", \"until test -e {}; do sleep 0.05; done\"]\n", bench.path("go").display())
}

fn code(answer: &Answer) -> (u16, String) {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|err| panic!("no JSON ({err}): {}", answer.body));
    (answer.status, body["code"].as_str().unwrap_or_default().to_owned())
}

fn prune() -> Value {
    json!({ "v": 1, "app": "plain", "action": "prune", "nonce": nonce() })
}

fn socket(bench: &Bench) -> UnixStream {
    let stream = UnixStream::connect(bench.path("run/control.sock")).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream
}

/// Reads until the agent hangs up; a connection that is reset has ended too.
fn rest(mut stream: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Everything that the agent has written anywhere: its log, its state, its events.
fn written(bench: &Bench) -> Vec<u8> {
    let mut all = bench.log().into_bytes();
    for entry in fs::read_dir(bench.path("state")).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        all.extend(fs::read(entry.path()).unwrap());
    }
    all
}

#[track_caller]
fn nowhere(haystack: &[u8], needle: &str) {
    assert!(!haystack.windows(needle.len()).any(|window| window == needle.as_bytes()), "{needle:?} is written down");
}

#[test]
fn soc_01_another_user() {
    if !is_root("that another user gets nothing at the socket") {
        return;
    }
    let bench = plain("soc 01", "socket_group = \"daemon\"\n", "");
    bench.let_others_in();
    bench.ctl_as(BIN, &[], ["status"]).expect(5).says(&["Permission denied"]);
    // And if the socket were open to everybody, there would still be no grant.
    fs::set_permissions(bench.path("run/control.sock"), fs::Permissions::from_mode(0o666)).unwrap();
    for verb in [&["status"][..], &["release", "main"], &["--app", "plain", "prune"], &["runs"]] {
        bench.ctl_as(BIN, &[], verb).expect(4);
    }
    assert!(bench.runs().is_empty());
}

#[test]
fn soc_02_the_right_user_and_another_action() {
    if !is_root("that a grant gives what it says, at the socket") {
        return;
    }
    let grants = "socket_group = \"daemon\"\n[[grant]]\nto = \"unix-user:daemon\"\napps = [\"plain\"]\nactions = [\"check\", \"read\"]\n";
    let bench = plain("soc 02", grants, "");
    bench.let_others_in().ctl(["release", "main"]).expect(0);
    bench.ctl_as(DAEMON, &[], ["check"]).expect(0);
    for verb in [&["release", "main"][..], &["rollback"], &["prune"], &["lock", "-m", "x"], &["plan", "main"], &["cancel", "1"]] {
        bench.ctl_as(DAEMON, &[], verb).expect(4).says(&["unix:daemon may not"]);
    }
    bench.ctl_as(DAEMON, &[], ["whoami"]).expect(0).says(&["unix:daemon", "check"]);
}

/// The number that the kernel shows for whoever has none in this namespace is nobody's.
#[test]
fn soc_03_the_user_of_those_without_a_number() {
    if !is_root("that the overflow user is nobody") {
        return;
    }
    let grants = "[[grant]]\nto = [\"unix-user:nobody\", \"unix-user:65534\", \"unix-group:nogroup\"]\napps = [\"*\"]\nactions = [\"*\"]\n";
    let bench = plain("soc 03", grants, "");
    bench.let_others_in();
    fs::set_permissions(bench.path("run/control.sock"), fs::Permissions::from_mode(0o666)).unwrap();
    for verb in [&["status"][..], &["release", "main"]] {
        bench.ctl_as(65534, &[], verb).expect(4).says(&["not mapped into this namespace"]);
    }
}

#[test]
fn soc_04_whoever_asks_is_gone_before_the_answer() {
    let bench = plain("soc 04", "", "");
    let body = prune().to_string();
    let mut stream = socket(&bench);
    let head = format!("POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Type: {KIND}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).unwrap();
    drop(stream);
    wait_until("the run is there, and over", SOON, || bench.runs().first().is_some_and(|run| run["state"] == "ended"));
    // The same bytes later say which run it was.
    let again = request(&bench.control(), "POST", "/v1/requests", &[("Content-Type", KIND)], &body).unwrap();
    assert_eq!(again.status, 200, "{}", again.body);
}

/// Descriptors that come along with the bytes are not taken.
#[test]
fn soc_05_descriptors_that_come_along() {
    let bench = plain("soc 05", "", "");
    let file = bench.write("passed", "to be passed");
    let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nf = open(sys.argv[2])\n\
                  socket.send_fds(s, [b'GET /healthz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'], [f.fileno()] * 50)\nprint(s.recv(1000).decode(), flush=True)\n\
                  sys.stdin.read()\n";
    let mut python = bench.command("/usr/bin/python3");
    python.args(["-c", script]).arg(bench.path("run/control.sock")).arg(&file).stdin(std::process::Stdio::piped());
    let asking = bench.begin(python);
    wait_until("it is answered", SOON, || asking.stdout().contains("200 OK"));
    let held = fs::read_dir(format!("/proc/{}/fd", bench.agent_pid().unwrap())).unwrap().flatten();
    let held: Vec<_> = held.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    assert!(held.len() > 5 && !held.contains(&file), "{held:?}");
    asking.signal(Signal::SIGKILL);
    asking.finish(SOON);
}

#[test]
fn soc_06_more_than_a_request_may_have() {
    let bench = plain("soc 06", "", "");
    let mut stream = socket(&bench);
    // The agent may hang up before all of it was sent.
    let _ = stream.write_all(format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000)).as_bytes());
    let said = rest(stream);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    let long = format!("{{{}}}", " ".repeat(16 * 1024));
    let answer = request(&bench.control(), "POST", "/v1/requests", &[("Content-Type", KIND)], &long).unwrap();
    assert_eq!(code(&answer), (413, "too_large".to_owned()));
    assert!(bench.runs().is_empty());
}

#[test]
fn soc_07_a_request_that_comes_byte_by_byte() {
    let bench = plain("soc 07", "", "");
    let mut stream = socket(&bench);
    let mut sent = 0;
    // One byte now and then keeps nothing open: the whole head has its time.
    for byte in b"GET /healthz HTTP/1.1\r\nX-Long: ".iter().chain(std::iter::repeat(&b'a')).take(300) {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        sent += 1;
        thread::sleep(Duration::from_millis(100));
    }
    assert!(sent < 300, "it could have gone on for ever");
    bench.ctl(["status"]).expect(0);
}

#[test]
fn soc_08_something_else_where_the_socket_should_be() {
    let bench = Bench::new("soc 08");
    let control = bench.path("run/control.sock");
    let precious = bench.write("precious", "keep me");
    std::os::unix::fs::symlink(&precious, &control).unwrap();
    bench.start_refused().expect(69).says(&["is no socket"]);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "keep me");
    fs::remove_file(&control).unwrap();
    // A link to a living socket of somebody else: not followed either.
    let other = std::os::unix::net::UnixListener::bind(bench.path("other.sock")).unwrap();
    std::os::unix::fs::symlink(bench.path("other.sock"), &control).unwrap();
    bench.start_refused().expect(69).says(&["is no socket"]);
    drop(other);
    assert!(control.symlink_metadata().unwrap().file_type().is_symlink());
}

#[test]
fn soc_09_a_socket_that_a_crash_left() {
    let bench = plain("soc 09", "", "");
    bench.kill();
    assert!(bench.path("run/control.sock").exists());
    bench.start();
    bench.ctl(["status"]).expect(0);
    // One that lives is never replaced.
    let mut second = bench.release_agent();
    second.arg("--config").arg(bench.path("config")).arg("--state").arg(bench.path("state2"));
    second.arg("--socket").arg(bench.path("run/control.sock"));
    bench.begin(second).finish(SOON).expect(69).says(&["another agent answers"]);
    bench.ctl(["status"]).expect(0);
}

#[test]
fn soc_10_a_ctl_that_is_killed_cancels_nothing() {
    let bench = Bench::new("soc 10");
    let repo = repository(&bench);
    bench.app("plain", &format!("repository = {:?}\n{}", repo.path(), gate(&bench))).start();
    let following = bench.ctl_begin(["release", "main"]);
    wait_until("the run is under way", SOON, || bench.runs().first().is_some_and(|run| run["step"] == "seal"));
    following.signal(Signal::SIGKILL);
    following.finish(SOON);
    bench.write("go", "");
    let last = bench.events(1).pop().unwrap();
    assert_eq!((last["what"].as_str(), last["outcome"].as_str()), (Some("ended"), Some("live")));
}

#[test]
fn sec_01_a_token_in_the_address_of_the_repository() {
    let bench = Bench::new("sec 01");
    for url in ["https://ci:tOkEn123@forge.test/shop.git", "https://tOkEn123@forge.test/shop.git", "ssh://git:tOkEn123@forge.test/shop.git"]
    {
        bench.app("plain", &format!("repository = {url:?}\n"));
        let said = bench.start_refused().expect(64).says(&["repository"]);
        assert!(!said.stderr.contains("tOkEn123"), "{}", said.stderr);
    }
}

/// A tool that writes whatever it likes, and the agent that must not.
fn says(name: &str, secrets: &str, script: &str) -> (Bench, Vec<u8>) {
    let bench = Bench::new(name);
    let repo = repository(&bench);
    let file = bench.write("secrets.env", secrets);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    bench.write("say.sh", script);
    let hook = format!("[[hook]]\nafter = \"checkout\"\nrun = [\"sh\", {:?}]\n", bench.path("say.sh"));
    bench.app("plain", &format!("repository = {:?}\n[secrets]\nfiles = [{file:?}]\n{hook}", repo.path())).start();
    let done = bench.ctl(["-vv", "release", "main"]);
    assert!(done.stderr.contains("the end of it"), "the tool was not heard:\n{}", done.stderr);
    let mut all = written(&bench);
    all.extend(done.stderr.into_bytes());
    all.extend(bench.ctl(["logs", "1", "--json"]).stdout.into_bytes());
    (bench, all)
}

#[test]
fn sec_02_what_git_says_of_an_address_with_a_token() {
    let bench = Bench::new("sec 02");
    let repo = repository(&bench);
    bench.app("plain", &format!("repository = {:?}\n", repo.path()));
    bench.pretend(
        "git",
        "#!/bin/sh\necho \"fatal: unable to access 'https://ci:tOkEn123@forge.test/shop.git/': 403\" >&2\n\
         echo \"remote: see https://tOkEn456@forge.test/help\" >&2\nexit 128\n",
    );
    bench.start();
    let done = bench.ctl(["release", "main"]).expect(1);
    assert!(done.stderr.contains("https://***@forge.test"), "{}", done.stderr);
    let plan = bench.ctl(["plan", "main"]).expect(2);
    let mut all = written(&bench);
    all.extend([done.stdout, done.stderr, plan.stdout, plan.stderr].concat().into_bytes());
    nowhere(&all, "tOkEn123");
    nowhere(&all, "tOkEn456");
}

#[test]
fn sec_03_the_password_of_a_package_index() {
    let script = "echo 'Looking in indexes: https://ci:pass-of-the-index@index.test/simple'\n\
                  echo 'WARNING: Retrying http://token-of-the-index@index.test/simple/django/' >&2\necho the end of it\n";
    let (_, all) = says("sec 03", "UNUSED=nothing-of-interest\n", script);
    nowhere(&all, "pass-of-the-index");
    nowhere(&all, "token-of-the-index");
}

#[test]
fn sec_04_a_secret_in_a_traceback() {
    let script = "python3 -c 'import os; raise RuntimeError(\"cannot connect to \" + os.environ[\"DATABASE_URL\"])'\necho the end of it\n";
    let (bench, all) = says("sec 04", "DATABASE_URL=postgres://shop:hunter2-hunter2@db/shop\n", script);
    nowhere(&all, "hunter2-hunter2");
    bench.ctl(["logs", "1"]).says(&["RuntimeError: cannot connect to ***"]);
}

#[test]
fn sec_05_authorization_is_repeated_by_nobody() {
    let (bench, network, key) = open("sec 05", "");
    let body = form("prune", json!({})).to_string();
    for value in ["Bearer cAnArY-cAnArY", "Basic cAnArY-cAnArY", "cAnArY-cAnArY"] {
        for (method, path) in [("POST", "/v1/requests"), ("GET", "/v1/runs/1/events"), ("GET", "/v1/apps"), ("GET", "/nothing")] {
            let headers = [("Authorization", value), ("Content-Type", KIND)];
            let answer = request(&network.place(), method, path, &headers, if method == "POST" { &body } else { "" }).unwrap();
            assert!(answer.status >= 400 && !format!("{answer:?}").contains("cAnArY"), "{answer:?}");
        }
    }
    let signature = key.sign(&body).to_base64();
    assert_eq!(network.send_with(&body, &[("Agent-Signature", &signature), ("Authorization", "Bearer cAnArY-cAnArY")]).status, 401);
    nowhere(&written(&bench), "cAnArY");
}

#[test]
fn sec_06_a_secret_over_two_lines() {
    let script = "echo 'the password is correct-horse'\necho '-battery-staple, or so'\necho the end of it\n";
    let (_, all) = says("sec 06", "PASSWORD=correct-horse-battery-staple\n", script);
    nowhere(&all, "correct-horse");
    nowhere(&all, "battery-staple");
}

#[test]
fn sec_07_a_secret_in_base64() {
    let script = "for before in '' u us user: ; do printf '%s%s' \"$before\" \"$PASSWORD\" | base64; done\necho the end of it\n";
    let (_, all) = says("sec 07", "PASSWORD=correct-horse-battery-staple\n", script);
    use base64::Engine;
    for before in ["", "u", "us", "user:"] {
        let whole = base64::engine::general_purpose::STANDARD.encode(format!("{before}correct-horse-battery-staple"));
        nowhere(&all, &whole);
        nowhere(&all, &whole[8..32]);
    }
}

#[test]
fn sec_08_no_core_dump() {
    let bench = plain("sec 08", "", "");
    // What cannot be dumped belongs to root in /proc, whoever runs it (proc_pid(5)); the limit is that of the shell, and does not matter then.
    let pid = bench.agent_pid().unwrap();
    let mut prlimit = bench.command("prlimit");
    prlimit.args(["--core=unlimited:unlimited", "--pid", &pid.to_string()]);
    bench.begin(prlimit).finish(SOON);
    let before: Vec<_> = fs::read_dir(bench.path("")).unwrap().flatten().map(|entry| entry.path()).collect();
    bench.signal(Signal::SIGABRT);
    wait_until("it is gone", SOON, || !bench.is_running());
    let dumped = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("core"));
    assert!(!before.iter().any(|path| dumped(path)));
    assert!(!fs::read_dir(bench.path("")).unwrap().flatten().any(|entry| dumped(&entry.path())), "a core was dumped");
    assert!(!fs::read_dir("/proc").unwrap().flatten().any(|entry| entry.file_name().to_string_lossy() == pid.to_string()));
}

#[test]
fn sec_09_no_secret_among_arguments() {
    let bench = Bench::new("sec 09");
    let repo = repository(&bench);
    let file = bench.write("secrets.env", "PASSWORD=correct-horse-battery-staple\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    // Everything that runs now, from within a step that has the secret in its environment.
    let look = format!(
        "cat /proc/[0-9]*/cmdline >> {0} 2>/dev/null; echo $PASSWORD >> {1}; true",
        bench.path("seen").display(),
        bench.path("had").display()
    );
    let hooks: String = ["fetch", "checkout", "seal", "switch"]
        .iter()
        .map(|step| format!("[[hook]]\nbefore = {step:?}\nrun = [\"sh\", {:?}]\n", bench.path("look.sh")))
        .collect();
    bench.write("look.sh", look);
    let key = SigningKey::default();
    bench.app("plain", &format!("repository = {:?}\n[secrets]\nfiles = [{file:?}]\n{hooks}", repo.path()));
    bench.network("", "", &key.line("ci"));
    bench.start().ctl(["release", "main"]).expect(0);
    assert_eq!(fs::read_to_string(bench.path("had")).unwrap().matches("correct-horse-battery-staple").count(), 4, "the steps had it");
    let seen = fs::read(bench.path("seen")).unwrap();
    assert!(seen.windows(13).any(|window| window == b"release-agent"), "the agent was among what was seen");
    nowhere(&seen, "correct-horse-battery-staple");
}

#[test]
fn sec_10_events_without_their_token() {
    let (bench, network, key) = open("sec 10", "");
    let taken = |answer: Answer| -> (String, String) {
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        (body["events"].as_str().unwrap().to_owned(), body["token"].as_str().unwrap().to_owned())
    };
    let (first, token) = taken(network.ask(&key, &form("prune", json!({}))));
    let (second, other) = taken(network.ask(&key, &form("prune", json!({}))));
    let read = |path: &str, token: Option<&str>| {
        let value = token.map(|token| format!("Bearer {token}")).unwrap_or_default();
        let headers: &[(&str, &str)] = if token.is_some() { &[("Authorization", &value)] } else { &[] };
        request(&network.place(), "GET", path, headers, "").unwrap()
    };
    assert_eq!((read(&first, Some(&token)).status, read(&second, Some(&other)).status), (200, 200));
    for token in [None, Some(""), Some(other.as_str()), Some(&token[1..]), Some("AAAA")] {
        assert_eq!(code(&read(&first, token)), (401, "unauthenticated".to_owned()), "{token:?}");
    }
    // Good for the events of its run, and for nothing else.
    let run = first.trim_end_matches("/events");
    for path in [run, "/v1/runs", "/v1/apps", "/v1/apps/plain", "/v1/doctor", "/v1/whoami", "/metrics"] {
        assert_eq!(read(path, Some(&token)).status, 401, "{path}");
    }
    nowhere(&written(&bench), &token);
}

#[test]
fn sec_11_modes_of_what_is_not_for_everybody() {
    let bench = Bench::new("sec 11");
    let repo = repository(&bench);
    bench.app("plain", &format!("repository = {:?}\n", repo.path()));
    let key = SigningKey::default();
    bench.network("", "", &key.line("ci"));
    fs::remove_dir(bench.path("state")).unwrap();
    bench.start().ctl(["release", "main"]).expect(0);
    let mode = |path: &str| fs::metadata(bench.path(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("state"), mode("state/journal.db"), mode("run/control.sock")), (0o700, 0o600, 0o600));
    for entry in fs::read_dir(bench.path("state")).unwrap().flatten() {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
    }
    bench.stop();
    // A private key that others can read is refused, and so is a file with secrets.
    let key_file = bench.path("config/tls/key.pem");
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o644)).unwrap();
    let said = bench.start_refused().expect(64).says(&["key.pem", "mode 0644", "chmod o="]);
    assert!(!said.stderr.contains("PRIVATE"), "{}", said.stderr);
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    let secrets = bench.write("secrets.env", "A=hunter2-hunter2\n");
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o644)).unwrap();
    bench.app("plain", &format!("repository = {:?}\n[secrets]\nfiles = [{secrets:?}]\n", repo.path()));
    let said = bench.start_refused().expect(64).says(&["secrets.env", "mode 0644"]);
    assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
}

/// The dump of a database is its owner's alone; the test of the backup itself needs a database, and is elsewhere.
#[test]
fn sec_12_bodies_are_repeated_by_no_log() {
    let (bench, network, key) = open("sec 12", "");
    let bodies = [
        "{\"cAnArY\":".to_owned(),
        form("cAnArY", json!({})).to_string(),
        form("lock", json!({ "why": "cAnArY\u{1}" })).to_string(),
        form("prune", json!({ "cAnArY": "cAnArY" })).to_string(),
        form("release", json!({ "ref": "refs/heads/cAnArY..cAnArY" })).to_string(),
        "cAnArY".repeat(1000),
        "\u{0}cAnArY".to_owned(),
    ];
    for body in &bodies {
        let signed = network.send(body, &[key.sign(body)]);
        assert_eq!(signed.status, 400, "{}", signed.body);
        assert_eq!(network.send(body, &[]).status, 401);
        assert_eq!(request(&bench.control(), "POST", "/v1/requests", &[("Content-Type", KIND)], body).unwrap().status, 400);
    }
    nowhere(&written(&bench), "cAnArY");
    assert!(!bench.log().contains("panicked"));
}

#[test]
fn dos_01_one_byte_too_many() {
    let (_bench, network, key) = open("dos 01", "");
    let padded = |length: usize| {
        let body = form("prune", json!({})).to_string();
        format!("{}{body}", " ".repeat(length - body.len()))
    };
    let body = padded(16 * 1024 + 1);
    assert_eq!(code(&network.send(&body, &[key.sign(&body)])), (413, "too_large".to_owned()));
    let body = padded(16 * 1024);
    assert_eq!(network.send(&body, &[key.sign(&body)]).status, 202);
}

#[test]
fn dos_02_a_body_without_end() {
    let (bench, network, _) = open("dos 02", "");
    let mut stream = tls(&network);
    let _ = stream.write_all(
        format!("POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Type: {KIND}\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes(),
    );
    let chunk = format!("400\r\n{}\r\n", " ".repeat(0x400));
    let sent = (0..20_000).take_while(|_| stream.write_all(chunk.as_bytes()).is_ok()).count();
    assert!(sent < 20_000, "the agent reads a body without end");
    bench.ctl(["status"]).expect(0);
}

/// A stream with a certificate that nobody looks at.
fn tls(network: &Network) -> impl Read + Write {
    network.stream()
}

#[test]
fn dos_03_ten_thousand_headers() {
    let (bench, network, _) = open("dos 03", "");
    for name in ["X", "Agent-Signature"] {
        let mut stream = tls(&network);
        let _ = stream.write_all(b"POST /v1/requests HTTP/1.1\r\nHost: x\r\n");
        let line = format!("{name}: a\r\n");
        let _ = (0..10_000).take_while(|_| stream.write_all(line.as_bytes()).is_ok()).count();
        let _ = stream.write_all(b"\r\n");
        let said = rest(stream);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 431") || said.starts_with("HTTP/1.1 400"), "{said}");
    }
    assert!(bench.runs().is_empty());
}

#[test]
fn dos_04_headers_that_do_not_come() {
    let (bench, network, _) = open("dos 04", "");
    let mut stream = tls(&network);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A").unwrap();
    // Neither with the handshake.
    let silent = TcpStream::connect(("127.0.0.1", network.port)).unwrap();
    silent.set_read_timeout(Some(SOON)).unwrap();
    let said = rest(stream);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    assert_eq!(rest(silent), "");
    assert_eq!(get(&network.place(), "/healthz").unwrap().status, 200);
    bench.ctl(["status"]).expect(0);
}

#[test]
fn dos_05_a_thousand_connections() {
    let (bench, network, key) = open("dos 05", "");
    let held: Vec<TcpStream> = (0..1000).filter_map(|_| TcpStream::connect(("127.0.0.1", network.port)).ok()).collect();
    assert!(held.len() > 500, "{}", held.len());
    // Whoever is on the host is not kept waiting by whoever is not.
    bench.ctl(["release", "main"]).expect(0);
    let fds = || fs::read_dir(format!("/proc/{}/fd", bench.agent_pid().unwrap())).unwrap().count();
    wait_until("one address has the seats that it may have, and no more", SOON, || fds() < 250);
    drop(held);
    wait_until("there is room again", SOON, || get(&network.place(), "/healthz").is_ok_and(|answer| answer.status == 200));
    assert_eq!(network.ask(&key, &form("prune", json!({}))).status, 202);
}

#[test]
fn dos_06_handshakes_that_are_begun_and_left() {
    let (bench, network, key) = open("dos 06", "");
    // The beginning of a ClientHello, and of something else.
    let hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[7; 100]].concat();
    let mut held = Vec::new();
    for round in 0..2000 {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", network.port)) else { continue };
        let _ = stream.write_all(if round % 2 == 0 { &hello } else { b"GET / HTTP/1.1\r\n\r\n" });
        if round % 20 == 0 {
            held.push(stream);
        }
    }
    bench.ctl(["release", "main"]).expect(0);
    drop(held);
    wait_until("there is room again", SOON, || get(&network.place(), "/healthz").is_ok_and(|answer| answer.status == 200));
    assert_eq!(network.ask(&key, &form("prune", json!({}))).status, 202);
}

#[test]
fn dos_07_http_2_is_not_spoken() {
    let (bench, network, _) = open("dos 07", "");
    assert_eq!(network.agreed(&[b"h2"]), None, "nothing was agreed on");
    assert_eq!(network.agreed(&[b"h2", b"http/1.1"]), Some(b"http/1.1".to_vec()));
    let mut stream = tls(&network);
    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let said = rest(stream);
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said:?}");
    bench.ctl(["status"]).expect(0);
}

#[test]
fn dos_08_a_compressed_body() {
    let (bench, network, key) = open("dos 08", "");
    let body = form("prune", json!({})).to_string();
    let signature = key.sign(&body).to_base64();
    for encoding in ["gzip", "br", "identity", "x"] {
        let answer = network.send_with(&body, &[("Agent-Signature", &signature), ("Content-Encoding", encoding)]);
        assert_eq!(code(&answer), (415, "wrong_type".to_owned()));
    }
    assert!(bench.runs().is_empty());
}

#[test]
fn dos_09_json_within_json() {
    let (bench, network, key) = open("dos 09", "");
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in [200, 2000] {
            let deep = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let member = form("prune", json!({})).to_string().replacen('{', &format!("{{\"options\":{deep},"), 1);
            for body in [deep, member].into_iter().filter(|body| body.len() <= 16 * 1024) {
                assert_eq!(code(&network.send(&body, &[key.sign(&body)])), (400, "malformed".to_owned()));
            }
        }
    }
    let deep = "[".repeat(10_000);
    assert_eq!(code(&network.send(&deep, &[key.sign(&deep)])), (400, "malformed".to_owned()));
    bench.ctl(["status"]).expect(0);
}

/// As many bytes as a disk, as lines and as one line: what is kept has an end, and so has what it costs.
#[test]
fn dos_10_output_without_end() {
    let bench = Bench::new("dos 10");
    let repo = repository(&bench);
    let hook = |run: &str| format!("[[hook]]\nafter = \"checkout\"\nrun = [\"sh\", \"-c\", {run:?}]\n");
    let hooks = hook("head -c 300000000 /dev/zero") + &hook("yes 'a line of output that goes on and on' | head -n 200000");
    bench.app("plain", &format!("repository = {:?}\n{hooks}", repo.path())).start();
    bench.ctl(["--quiet", "release", "main"]).expect(0);
    let stored: u64 = fs::read_dir(bench.path("state")).unwrap().flatten().map(|entry| entry.metadata().unwrap().len()).sum();
    assert!(stored < 50 * 1024 * 1024, "{stored} bytes are kept");
    let status = fs::read_to_string(format!("/proc/{}/status", bench.agent_pid().unwrap())).unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().split(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(peak < 200 * 1024, "{peak} kB at the most");
    let events = bench.events(1);
    assert!(events.iter().any(|event| event["text"].as_str().is_some_and(|text| text.contains("more lines of output are not kept"))));
}

/// Whoever follows a log as it is made gets every event once, in its order, and the same as whoever reads it afterwards.
#[test]
fn three_followers_of_a_large_log_get_every_line_in_its_order() {
    let bench = Bench::new("three followers");
    let repo = repository(&bench);
    let hook = |turn: &str, from: usize| {
        // The first one waits for the followers.
        let script = format!(
            "while [ ! -e {} ]; do sleep 0.02; done; seq -f '%g {}' {from} {}",
            bench.path("go").display(),
            "x".repeat(500),
            from + 7999
        );
        format!("[[hook]]\n{turn}\nrun = [\"sh\", \"-c\", {script:?}]\n")
    };
    let hooks = hook("after = \"checkout\"", 0) + &hook("before = \"seal\"", 8000);
    bench.app("plain", &format!("repository = {:?}\n{hooks}", repo.path())).start();
    let run: u64 = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().parse().unwrap();
    let follow = |_| {
        let mut stream = socket(&bench);
        // With HTTP/1.0 the body is what comes until the end, without the sizes of its parts in between.
        stream.write_all(format!("GET /v1/runs/{run}/events HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).unwrap();
        assert!(first.ends_with(b" 200"), "{first:?}");
        stream
    };
    let streams = [0, 1, 2].map(follow);
    bench.write("go", "");
    let reading = streams.map(|stream| thread::spawn(|| rest(stream)));
    let followed = reading.map(|reading| reading.join().unwrap());
    let read = |text: &str| -> Vec<Value> {
        let body = text.split_once("\r\n\r\n").unwrap().1;
        body.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let afterwards = bench.events(run);
    for text in &followed {
        let events = read(text);
        assert!(events == afterwards, "{} events, and {} afterwards", events.len(), afterwards.len());
    }
    assert!(afterwards.iter().zip(1..).all(|(event, n)| event["n"] == n));
    let said = afterwards
        .iter()
        .filter(|event| event["what"] == "output" && event["step"] != "fetch")
        .map(|event| event["line"].as_str().unwrap().split(' ').next().unwrap().parse());
    assert_eq!(said.collect::<Result<Vec<usize>, _>>().unwrap(), (0..16_000).collect::<Vec<_>>());
    assert_eq!(afterwards.last().unwrap()["outcome"], "live");
}

#[test]
fn dos_11_a_follower_that_never_reads() {
    let bench = Bench::new("dos 11");
    let repo = repository(&bench);
    let hook = "[[hook]]\nafter = \"checkout\"\nrun = [\"sh\", \"-c\", \"yes 'a line of output that goes on and on' | head -n 9000\"]\n";
    bench.app("plain", &format!("repository = {:?}\n{hook}", repo.path()));
    let key = SigningKey::default();
    let network = bench.network("", "[[grant]]\nto = \"key:ci\"\napps = [\"*\"]\nactions = [\"*\"]\n", &key.line("ci"));
    bench.start();
    bench.ctl(["--quiet", "release", "main"]).expect(0);
    let mut local = socket(&bench);
    local.write_all(b"GET /v1/runs/1/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let body = form("read", json!({ "app": null, "path": "/v1/runs/1/events" })).to_string();
    let mut remote = tls(&network);
    let head = format!(
        "POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Type: {KIND}\r\nAgent-Signature: {}\r\nContent-Length: {}\r\n\r\n{body}",
        key.sign(&body).to_base64(),
        body.len()
    );
    remote.write_all(head.as_bytes()).unwrap();
    // Neither a run nor anybody else waits for them.
    bench.ctl(["--quiet", "release", "main", "--rebuild"]).expect(0);
    assert!(bench.events(2).len() > 9000);
    // A follower that comes to its senses has missed nothing.
    let mut first = [0; 15];
    local.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    drop(remote);
}

#[test]
fn dos_12_a_flood_of_bad_signatures() {
    let bench = Bench::new("dos 12");
    let repo = repository(&bench);
    bench.app("plain", &format!("repository = {:?}\n{}", repo.path(), gate(&bench)));
    let key = SigningKey::default();
    let network = bench.network("", "[[grant]]\nto = \"key:ci\"\napps = [\"*\"]\nactions = [\"*\"]\n", &key.line("ci"));
    bench.start();
    let answer = network.ask(&key, &form("release", json!({ "ref": "refs/heads/main" })));
    assert_eq!(answer.status, 202, "{}", answer.body);
    // By a key that is known, so that every step up to the crypto is gone through.
    let flooded: usize = thread::scope(|scope| {
        let flood = |number: usize| {
            let (network, key) = (&network, &key);
            scope.spawn(move || {
                let signature = key.sign(&format!("another body {number}"));
                (0..250)
                    .filter(|_| network.send(&form("prune", json!({})).to_string(), std::slice::from_ref(&signature)).status == 401)
                    .count()
            })
        };
        let floods: Vec<_> = (0..4).map(flood).collect();
        // Meanwhile the socket answers, and so do signatures that are good.
        for _ in 0..10 {
            bench.ctl(["status"]).expect(0);
            assert_eq!(network.read(&key, "/v1/whoami").status, 200);
        }
        bench.write("go", "");
        floods.into_iter().map(|flood| flood.join().unwrap()).sum()
    });
    assert_eq!(flooded, 1000, "every one of them was answered, and refused");
    let last = bench.events(1).pop().unwrap();
    assert_eq!(last["outcome"], "live");
    assert_eq!(bench.runs().len(), 1);
}
