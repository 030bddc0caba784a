//! The API on the network itself: which versions of TLS it speaks, certificates that are renewed under it, sockets that it is handed, and how it closes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::time::Duration;

use agent_tests::{Bench, HOST, Network, SigningKey, form, free_port, get, wait_until};
use nix::sys::signal::Signal;
use serde_json::json;

const SOON: Duration = Duration::from_secs(60);
const GRANT: &str = "[[grant]]\nto = \"key:ci\"\napps = [\"*\"]\nactions = [\"*\"]\n";

fn open(name: &str, more: &str) -> (Bench, Network, SigningKey) {
    let bench = Bench::new(name);
    let repo = bench.repo("plain");
    repo.write("page.html", "one").commit("One");
    bench.app("plain", &format!("repository = {:?}\n{more}", repo.path()));
    let key = SigningKey::default();
    let network = bench.network("", GRANT, &key.line("ci"));
    (bench, network, key)
}

/// By curl, whose TLS is another library's.
#[test]
fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let (bench, network, _) = open("versions", "");
    bench.start();
    let ask = |most: &str, least: &str| {
        let mut curl = bench.command("curl");
        curl.args(["--silent", "--show-error", "--cacert"]).arg(&network.ca).args(["--tls-max", most, &format!("--tlsv{least}")]);
        // Whatever the machine's own policy for old versions is.
        curl.args(["--ciphers", "DEFAULT:@SECLEVEL=0"]).arg(format!("{}/healthz", network.url()));
        bench.begin(curl).finish(SOON)
    };
    for version in ["1.2", "1.3"] {
        ask(version, version).expect(0).says(&["ok"]);
    }
    for version in ["1.0", "1.1"] {
        assert_eq!(ask(version, version).code, 35, "TLS {version}");
    }
}

/// As certbot keeps them: `live/HOST/fullchain.pem` is a link to the newest of `archive/HOST/fullchainN.pem`, and a renewal replaces the link.
#[test]
fn a_renewed_certificate_is_served_and_open_connections_stay() {
    let (bench, network, _) = open("renewal", "");
    let renew = |number: u32| {
        let made = bench.certificate(&format!("made/{number}"), &[HOST, "localhost"]);
        for (name, from) in [("fullchain", "cert.pem"), ("privkey", "key.pem")] {
            let file = format!("{name}{number}.pem");
            let archived = bench.path("letsencrypt/archive").join(HOST).join(&file);
            fs::create_dir_all(archived.parent().unwrap()).unwrap();
            fs::rename(made.with_file_name(from), &archived).unwrap();
            let live = bench.path("letsencrypt/live").join(HOST).join(format!("{name}.pem"));
            fs::create_dir_all(live.parent().unwrap()).unwrap();
            let new = live.with_extension("new");
            symlink(format!("../../archive/{HOST}/{file}"), &new).unwrap();
            fs::rename(new, live).unwrap();
        }
        bench.path("letsencrypt/archive").join(HOST).join(format!("fullchain{number}.pem"))
    };
    let first = renew(1);
    let live = bench.path("letsencrypt/live").join(HOST);
    let settings = format!(
        "[https]\nhost = {HOST:?}\nlisten = [\"127.0.0.1:{}\"]\ncertificate = {:?}\nkey = {:?}\n",
        network.port,
        live.join("fullchain.pem"),
        live.join("privkey.pem")
    );
    bench.agent_settings(&settings).start();
    let served = |ca: &std::path::Path| {
        get(&Network { ca: ca.to_owned(), ..network.clone() }.place(), "/healthz").is_ok_and(|answer| answer.status == 200)
    };
    assert!(served(&first));
    let mut open = BufReader::new(Network { ca: first.clone(), ..network.clone() }.stream());
    let mut still_there = || {
        open.get_mut().write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut line = String::new();
        while line != "ok\n" {
            line.clear();
            assert_ne!(open.read_line(&mut line).unwrap(), 0, "the connection was dropped");
        }
    };
    still_there();
    let second = renew(2);
    // No signal is sent: the agent watches.
    wait_until("the new certificate is served", SOON, || served(&second));
    assert!(!served(&first), "and the old one no longer");
    still_there();
    // A renewal that went wrong changes nothing.
    fs::write(&second, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    wait_until("it is complained of", SOON, || bench.log().contains("fullchain.pem: holds"));
    let third = renew(3);
    wait_until("the next one is served", SOON, || served(&third));
    still_there();
}

#[test]
fn sockets_are_taken_from_the_service_manager() {
    let bench = Bench::new("activation");
    let key = SigningKey::default();
    let mut network = bench.network("", GRANT, &key.line("ci"));
    network.port = free_port();
    bench.agent_settings(&format!("[https]\nhost = {HOST:?}\nlisten = []\n{GRANT}"));
    let control = bench.path("run/control.sock");
    let mut activate = bench.command("systemd-socket-activate");
    activate.arg(format!("--listen={}", control.display())).arg(format!("--listen=127.0.0.1:{}", network.port));
    activate.arg(bench.release_agent().get_program());
    activate
        .arg("--config")
        .arg(bench.path("config"))
        .arg("--state")
        .arg(bench.path("state"))
        .arg("--socket")
        .arg(bench.path("run/unused.sock"));
    let agent = bench.begin(activate);
    // The first who comes has it started.
    wait_until("the agent answers on the socket that it was handed", SOON, || get(&network.place(), "/healthz").is_ok());
    assert_eq!(get(&bench.control(), "/healthz").unwrap().status, 200);
    assert!(!bench.path("run/unused.sock").exists(), "it bound no other");
    let who = network.read(&key, "/v1/whoami");
    assert_eq!(who.status, 200, "{}", who.body);
    agent.signal(Signal::SIGTERM);
    agent.finish(SOON).expect(0);
    assert!(control.exists(), "the socket is the service manager's, and stays");
}

#[test]
fn told_to_stop_the_door_closes_after_the_last_run_and_those_who_follow_see_its_end() {
    let (bench, network, key) = open("stop", "");
    let hook = format!(
        "[[hook]]\nbefore = \"seal\"\nrun = [\"sh\", \"-c\", \"until test -e {}; do sleep 0.05; done\"]\n",
        bench.path("go").display()
    );
    bench.app("plain", &format!("repository = {:?}\n{hook}", bench.path("repos/plain"))).start();
    let answer = network.ask(&key, &form("release", json!({ "ref": "refs/heads/main" })));
    assert_eq!(answer.status, 202, "{}", answer.body);
    let taken: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let mut following = BufReader::new(network.stream());
    let head = format!("GET /v1/runs/1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", taken["token"].as_str().unwrap());
    following.get_mut().write_all(head.as_bytes()).unwrap();
    wait_until("the run is under way", SOON, || bench.runs()[0]["step"] == "seal");
    bench.signal(Signal::SIGTERM);
    wait_until("it takes nothing new", SOON, || network.ask(&key, &form("prune", json!({}))).status == 503);
    bench.write("go", "");
    let mut told = String::new();
    while !told.contains("\"what\":\"ended\"") {
        let mut line = String::new();
        assert_ne!(following.read_line(&mut line).unwrap(), 0, "cut off before the end:\n{told}");
        told += &line;
    }
    assert!(told.contains("\"outcome\":\"live\""), "{told}");
    wait_until("the agent is gone", SOON, || !bench.is_running());
}

#[test]
fn addresses_are_taken_up_and_given_up_while_the_agent_runs() {
    let (bench, network, key) = open("addresses", "");
    bench.start();
    assert_eq!(network.read(&key, "/v1/whoami").status, 200);
    let file = bench.path("config/agent.toml");
    let text = fs::read_to_string(&file).unwrap();
    let second = Network { port: free_port(), ..network.clone() };
    let put = |ports: &[u16]| {
        let listen = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect::<Vec<_>>().join(", ");
        let new = bench.write("agent.new", text.replace(&format!("\"127.0.0.1:{}\"", network.port), &listen));
        fs::rename(new, &file).unwrap();
    };
    put(&[network.port, second.port]);
    wait_until("both are answered", SOON, || get(&second.place(), "/healthz").is_ok());
    assert_eq!(network.read(&key, "/v1/whoami").status, 200);
    put(&[second.port]);
    wait_until("the first is given up", SOON, || get(&network.place(), "/healthz").is_err());
    assert_eq!(second.read(&key, "/v1/whoami").status, 200);
    // One that somebody else has is a sentence, and no end.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    put(&[second.port, taken.local_addr().unwrap().port()]);
    wait_until("it is complained of", SOON, || bench.log().contains("cannot listen on"));
    assert_eq!(second.read(&key, "/v1/whoami").status, 200);
    bench.stop();
    bench.start_refused().expect(69).says(&["cannot listen on", "`listen` in [https]"]);
}

/// What an agent answers to bytes, with a status of its own or by hanging up.
fn told(mut stream: impl std::io::Read + std::io::Write, bytes: &str) -> String {
    stream.write_all(bytes.as_bytes()).expect("the agent reads");
    let mut answer = Vec::new();
    // A connection that is broken off has said what it had to say.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_bare_lf_is_refused_wherever_it_stands_in_a_head() {
    let (bench, network, _) = open("bare LF", "");
    bench.start();
    let socket = || std::os::unix::net::UnixStream::connect(bench.path("run/control.sock")).unwrap();
    let good = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let bad = [
        "GET /healthz HTTP/1.1\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\nConnection: close\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\n",
        "GET /healthz HTTP/1.1\nHost: x\nConnection: close\n\n",
    ];
    for over in ["socket", "network"] {
        let ask = |bytes: &str| if over == "socket" { told(socket(), bytes) } else { told(network.stream(), bytes) };
        assert!(ask(good).starts_with("HTTP/1.1 200"), "{over}");
        for bad in bad {
            let answer = ask(bad);
            assert!(answer.starts_with("HTTP/1.1 400") || answer.is_empty(), "{over}, {bad:?}: {answer}");
        }
        // A body may have as many as it likes, and the request behind it is one.
        let body = "POST /v1/requests HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n\n\n\n\n";
        assert!(ask(&format!("{body}{good}")).contains("ok\n"), "{over}");
        let smuggled = format!("{body}GET /healthz HTTP/1.1\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(!ask(&smuggled).contains("ok\n"), "{over}");
    }
}
