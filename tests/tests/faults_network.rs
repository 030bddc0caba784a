//! The network around the agent fails: names that do not resolve, servers that are not there, that lie about who they are, that fall silent or are
//! cut off in the middle. The former release serves on, nothing of the failed one is left, and the sentence names the thing and the hint.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use agent_tests::{Bench, Done, Forge, GitServer, Repo, Serving, SigningKey, form, free_port, wait_until};
use agent_wire::REQUEST_TYPE;
use serde_json::{Value, json};

const MOST: Duration = Duration::from_secs(60);

/// The app `plain`, whose repository is reached in this way.
fn settings(repository: &str, more: &str) -> String {
    format!("repository = {repository:?}\nbranches = [\"main\"]\n{more}\n")
}

/// The app `plain`, one release of which is live, from a repository on this host.
fn live(name: &str, more: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    // No proxy stands between this host and itself.
    bench.variable("no_proxy", "*").variable("NO_PROXY", "*");
    bench.app("plain", &settings(&repo.path().display().to_string(), more)).start();
    bench.ctl(["release", "main"]).expect(0);
    (bench, repo)
}

/// Sets the app file anew.
fn set(bench: &Bench, toml: &str) {
    bench.app("plain", toml).reload();
}

/// Asks for a release that must fail, and looks at what is left.
#[track_caller]
fn fails(bench: &Bench, parts: &[&str]) -> Done {
    let (before, releases) = (bench.live("plain"), bench.releases("plain"));
    let done = bench.ctl(["release", "main"]).expect(1).says(parts).says(&["hint: "]);
    assert_eq!((bench.live("plain"), bench.releases("plain")), (before, releases));
    bench.assert_sound();
    done
}

#[test]
fn net_01_dns_fails() {
    let (bench, _) = live("no name", "");
    for repository in ["https://git.nowhere.invalid/plain.git", "ssh://git@git.nowhere.invalid/plain.git"] {
        set(&bench, &settings(repository, ""));
        fails(&bench, &["cannot ask the repository for its refs", "Could not resolve host", "git.nowhere.invalid", "DNS"]);
    }
}

#[test]
fn net_02_connect_refused() {
    let (bench, _) = live("nobody listens", "");
    let port = free_port();
    for scheme in ["https://localhost", "ssh://git@localhost"] {
        set(&bench, &settings(&format!("{scheme}:{port}/plain.git"), ""));
        fails(&bench, &["cannot ask the repository for its refs", &port.to_string(), "nobody listens there"]);
    }
}

/// A repository behind `git http-backend`, which the agent's git trusts by its certificate, once released.
fn over_tls(name: &str, more: &str) -> (Bench, Repo, GitServer) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    let certificate = bench.certificate("tls", &["localhost"]);
    let server = GitServer::start(&bench.path("repos"), &certificate);
    bench.variable("no_proxy", "*").variable("NO_PROXY", "*").agent_variable("SSL_CERT_FILE", &certificate.display().to_string());
    bench.app("plain", &settings(&server.url("plain"), more)).start();
    bench.ctl(["release", "main"]).expect(0);
    (bench, repo, server)
}

/// A proxy on this host: its port, and the first line of each request. It connects to this host whatever name it is asked for.
fn proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let (port, heard) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
    let list = heard.clone();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(client);
            let lines: Vec<String> = reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let target =
                lines[0].strip_prefix("CONNECT localhost:").and_then(|rest| rest.split(' ').next()).map(|port| port.parse().unwrap());
            list.lock().unwrap().push(lines[0].clone());
            let Some(target) = target else { continue };
            let (mut client, server) = (reader.into_inner(), TcpStream::connect(("127.0.0.1", target)).unwrap());
            client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
            for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    (port, heard)
}

#[test]
fn a_fetch_goes_through_the_proxy_of_the_environment() {
    let (bench, repo, _server) = over_tls("through a proxy", "");
    let (port, heard) = proxy();
    let (address, asked) = (format!("http://127.0.0.1:{port}"), || std::mem::take(&mut *heard.lock().unwrap()));
    for (variable, direct) in [("https_proxy", ""), ("HTTPS_PROXY", ""), ("ALL_PROXY", ""), ("https_proxy", "localhost")] {
        bench.stop();
        for name in ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
            bench.without_variable(name);
        }
        bench.variable(variable, &address).variable("no_proxy", direct).variable("NO_PROXY", direct).start();
        let commit = repo.write("page.html", format!("{variable} {direct}")).commit("Next");
        bench.ctl(["release", "main"]).expect(0);
        assert!(bench.live("plain").unwrap().ends_with(&commit[..12]));
        let asked = asked();
        assert_eq!(asked.is_empty(), !direct.is_empty(), "{variable}, direct to {direct:?}: {asked:?}");
        assert!(asked.iter().all(|line| line.starts_with("CONNECT localhost:")), "{asked:?}");
    }

    // Nothing listens there any more.
    bench.stop();
    bench
        .variable("no_proxy", "")
        .variable("NO_PROXY", "")
        .agent_variable("https_proxy", &format!("http://127.0.0.1:{}", free_port()))
        .start();
    fails(&bench, &["127.0.0.1", "proxy"]);
}

#[test]
fn net_03_tls_expired() {
    let (bench, repo) = live("expired", "");
    let directory = bench.path("tls");
    fs::create_dir_all(&directory).unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    let key = rcgen::KeyPair::generate().unwrap();
    fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    let certificate = bench.write("tls/cert.pem", params.self_signed(&key).unwrap().pem());
    let server = GitServer::start(&bench.path("repos"), &certificate);
    bench.stop();
    bench.agent_variable("SSL_CERT_FILE", &certificate.display().to_string());
    bench.app("plain", &settings(&server.url("plain"), "")).start();
    repo.write("page.html", "two").commit("Two");
    let done = fails(&bench, &["cannot ask the repository for its refs", "certificate", "clock"]);
    assert!(done.stderr.contains("expired") || done.stderr.contains("verification failed"), "git names what is wrong:\n{}", done.stderr);
}

fn make_key(path: &std::path::Path) {
    let made = std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().unwrap();
    assert!(made.success(), "ssh-keygen makes {}", path.display());
}

#[test]
fn net_04_wrong_host_key() {
    let (bench, _) = live("another host's key", "");
    for name in ["host_key", "former_key", "deploy"] {
        make_key(&bench.path(name));
    }
    let port = free_port();
    let path = |name: &str| bench.path(name).display().to_string();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nPidFile none\nPermitRootLogin yes\nUsePAM no\n",
        path("host_key"),
        path("deploy.pub")
    );
    let config = bench.write("sshd_config", config);
    if nix::unistd::geteuid().is_root() {
        // Where sshd of the distribution wants to lock its unprivileged half up.
        fs::create_dir_all("/run/sshd").unwrap();
    }
    let mut sshd = bench.command("/usr/sbin/sshd");
    sshd.args(["-D", "-e", "-f"]).arg(config);
    let server = bench.begin(sshd);
    wait_until("sshd listens", MOST, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let known = |name: &str| {
        let key = fs::read_to_string(bench.path(format!("{name}.pub"))).unwrap();
        bench.write("known_hosts", format!("[127.0.0.1]:{port} {key}"))
    };
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
    let keys = format!("ssh_key = {:?}\nknown_hosts = {:?}\n", bench.path("deploy"), known("former_key"));
    set(&bench, &settings(&format!("ssh://{user}@127.0.0.1:{port}{}", path("repos/plain")), &keys));
    fails(
        &bench,
        &["has changed and you have requested strict checking", "another key than `known_hosts` has", "somebody may stand in between"],
    );
    // The key was all that was wrong.
    known("host_key");
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
    server.signal(nix::sys::signal::Signal::SIGTERM);
}

#[test]
fn net_05_forge_500() {
    let (bench, repo, server) = over_tls("the forge fails", "");
    repo.write("page.html", "two").commit("Two");
    for status in [500, 503] {
        server.serve(Serving::Status(status));
        let before = server.misdeeds();
        fails(&bench, &["cannot ask the repository for its refs", &status.to_string(), "the forge itself fails", "release again"]);
        assert!(server.misdeeds() > before);
    }
    server.serve(Serving::Well);
    bench.ctl(["release", "main"]).expect(0);
    bench.assert_sound();
}

/// A commit whose pack takes long enough to be met in the middle.
fn large(repo: &Repo, message: &str) -> String {
    let mut bytes = vec![0; 2 << 20];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    // More objects than git would write one by one, so that a pack is kept.
    for n in 0..150 {
        repo.write(&format!("data/{n}"), format!("{message} {n}"));
    }
    repo.write("large", bytes).commit(message)
}

/// What git left of packs that it did not finish.
fn unfinished(bench: &Bench) -> Vec<PathBuf> {
    let packs = bench.root_of("plain").join("git_cache/objects/pack");
    let entries = fs::read_dir(packs).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("tmp_")).collect()
}

#[test]
fn net_06_stalls_mid_pack() {
    let (bench, repo, server) = over_tls("a stall", "[timeouts]\nfetch = \"6s\"");
    large(&repo, "Two");
    server.serve(Serving::Stalling(1 << 20));
    fails(
        &bench,
        &[
            "cannot fetch from the repository",
            // What is left of the step's six seconds when the refs are known.
            "git fetch was ended at its timeout, after",
            "did not come in time",
            "raise fetch under [timeouts]",
        ],
    );
    assert_eq!(server.misdeeds(), 1, "the pack was stalled in its middle");
    assert!(!unfinished(&bench).is_empty(), "half of it is there");
    server.serve(Serving::Well);
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(unfinished(&bench), Vec::<PathBuf>::new(), "half a pack is not kept for ever");
    bench.assert_sound();
}

#[test]
fn net_07_cut_mid_pack() {
    let (bench, repo, server) = over_tls("a cut", "");
    large(&repo, "Two");
    server.serve(Serving::Cutting(1 << 20));
    for misdeeds in 1..=2 {
        fails(&bench, &["cannot fetch from the repository", "the connection was cut off", "release again"]);
        assert_eq!(server.misdeeds(), misdeeds, "the pack was cut in its middle");
    }
    server.serve(Serving::Well);
    bench.ctl(["release", "main"]).expect(0);
    assert_eq!(unfinished(&bench), Vec::<PathBuf>::new(), "half a pack is not kept for ever");
    bench.assert_sound();
}

const PACKAGE: &str = "no-such-package-anywhere";

/// Commits what asks an index for a package, by this installer.
fn asks_for_a_package(bench: &Bench, repo: &Repo, index: &str, installer: &str, timeout: &str) {
    repo.write("requirements.txt", format!("--index-url {index}/simple\n{PACKAGE}==1.0\n")).commit("A package");
    let python =
        format!("[python]\ninterpreter = \"/usr/bin/python3\"\ninstaller = {installer:?}\n[timeouts]\nenvironment = {timeout:?}\n");
    set(bench, &settings(&repo.path().display().to_string(), &python));
}

#[test]
fn net_08_package_index_404() {
    let (bench, repo) = live("an index without the package", "");
    let index = Forge::start();
    index.answer(404);
    for installer in ["uv", "pip"] {
        let before = index.heard().len();
        asks_for_a_package(&bench, &repo, &index.url(), installer, "5m");
        fails(&bench, &["environment", PACKAGE, "is not in the index", "as it is asked for"]);
        assert!(index.heard().len() > before, "{installer} asked the index");
        assert!(index.heard().iter().any(|heard| heard.target.contains(PACKAGE)));
    }
}

/// An index that takes connections, and never answers; and how many it took.
fn silent_index() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
            held.push(stream);
        }
    });
    (url, taken)
}

#[test]
fn net_09_index_stalls() {
    let (bench, repo) = live("a silent index", "");
    let (url, taken) = silent_index();
    asks_for_a_package(&bench, &repo, &url, "uv", "4s");
    fails(&bench, &["environment", "was ended at its timeout", "environment under [timeouts]"]);
    assert!(taken.load(Ordering::Relaxed) > 0, "the index was asked");
}

/// A hook that waits before the release is sealed, as long as the file `gate` is there.
fn gate(bench: &Bench) -> String {
    bench.write("gate", "");
    let wait = format!("touch {0}.reached; while [ -e {0} ]; do sleep 0.02; done", bench.path("gate").display());
    format!("[[hook]]\nbefore = \"seal\"\nrun = [\"/bin/sh\", \"-c\", {wait:?}]\n")
}

/// The app `plain` behind a gate, reached over the network, too.
fn gated(name: &str) -> (Bench, agent_tests::Network, SigningKey) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.app("plain", &settings(&repo.path().display().to_string(), &gate(&bench)));
    let key = SigningKey::default();
    let grant = "[[grant]]\nto = \"key:ci\"\napps = [\"*\"]\nactions = [\"*\"]\n";
    let network = bench.network("", grant, &key.line("ci"));
    bench.start();
    (bench, network, key)
}

#[test]
fn net_13_client_drops_after_post() {
    let (bench, network, key) = gated("gone after the request");
    let post = |body: &str, headers: &str| {
        format!(
            "POST /v1/requests HTTP/1.1\r\nHost: localhost\r\nContent-Type: {REQUEST_TYPE}\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let body = form("release", json!({ "ref": "refs/heads/main" })).to_string();
    let mut stream = network.stream();
    stream.write_all(post(&body, &format!("Agent-Signature: {}\r\n", key.sign(&body).to_base64())).as_bytes()).unwrap();
    stream.flush().unwrap();
    // Gone before the answer was read.
    drop(stream);
    wait_until("the run stands at the gate", MOST, || bench.path("gate.reached").exists());
    let body = form("prune", json!({})).to_string();
    let mut stream = UnixStream::connect(bench.path("run/control.sock")).unwrap();
    stream.write_all(post(&body, "").as_bytes()).unwrap();
    drop(stream);
    wait_until("the second one was taken", MOST, || bench.runs().len() == 2);
    fs::remove_file(bench.path("gate")).unwrap();
    wait_until("both have ended", MOST, || bench.runs().iter().all(|run| run["state"] == "ended"));
    let outcomes: Vec<Value> = bench.runs().iter().map(|run| run["outcome"].clone()).collect();
    assert_eq!(outcomes, ["done", "live"]);
    bench.assert_sound();
}

/// Reads the events of the first run until one of these numbers came, with `Last-Event-ID` where there is one; answers with their numbers and words.
fn follow(bench: &Bench, last: Option<u64>, until: Option<u64>) -> Vec<(u64, String)> {
    let mut stream = UnixStream::connect(bench.path("run/control.sock")).unwrap();
    stream.set_read_timeout(Some(MOST)).unwrap();
    let last = last.map(|n| format!("Last-Event-ID: {n}\r\n")).unwrap_or_default();
    let head = format!("GET /v1/runs/1/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{last}Connection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let (mut events, mut id) = (Vec::new(), 0);
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap();
        if let Some(number) = line.strip_prefix("id:") {
            id = number.trim().parse().unwrap();
        }
        if let Some(data) = line.strip_prefix("data:") {
            let event: Value = serde_json::from_str(data.trim()).unwrap();
            assert_eq!(event["n"], id);
            events.push((id, event["what"].as_str().unwrap().to_owned()));
            if until == Some(id) {
                // Dropped with the connection open and more to come.
                break;
            }
        }
    }
    events
}

#[test]
fn net_14_event_client_reconnects_with_last_event_id() {
    let (bench, _, _) = gated("a follower that was cut off");
    bench.ctl(["release", "--no-follow", "main"]).expect(0);
    wait_until("the run stands at the gate", MOST, || bench.path("gate.reached").exists());
    let first = follow(&bench, None, Some(3));
    assert_eq!(first.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 3]);
    let second = follow(&bench, Some(3), Some(5));
    assert_eq!(second.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [4, 5]);
    fs::remove_file(bench.path("gate")).unwrap();
    // The agent itself dies and comes back in between, when the run is over.
    wait_until("the run has ended", MOST, || bench.last_run()["state"] == "ended");
    bench.kill().start();
    let rest = follow(&bench, Some(5), None);
    let all: Vec<(u64, String)> = first.into_iter().chain(second).chain(rest).collect();
    let told: Vec<(u64, String)> =
        bench.events(1).iter().map(|event| (event["n"].as_u64().unwrap(), event["what"].as_str().unwrap().to_owned())).collect();
    assert_eq!(all, told, "no event is missing, and none came twice");
    assert_eq!(all.last().unwrap().1, "ended");
    assert_eq!(follow(&bench, Some(all.len() as u64), None), []);
    bench.assert_sound();
}
