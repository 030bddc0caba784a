use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use super::*;
use crate::process::Cancel;

fn parse(url: &str) -> Result<(Target, String), String> {
    Target::parse(url).map_err(|error| error.to_string())
}

fn tcp(host: &str, port: u16, path: &str) -> Result<(Target, String), String> {
    Ok((Target::Tcp(host.into(), port), path.into()))
}

#[test]
fn addresses_are_read_in_every_form() {
    assert_eq!(parse("http://127.0.0.1:8000/healthz?x=1"), tcp("127.0.0.1", 8000, "/healthz?x=1"));
    assert_eq!(parse("http://localhost"), tcp("localhost", 80, "/"));
    assert_eq!(parse("http://localhost?x"), tcp("localhost", 80, "/?x"));
    assert_eq!(parse("http://[::1]:81/"), tcp("::1", 81, "/"));
    assert_eq!(parse("unix:/run/x.sock"), Ok((Target::Unix("/run/x.sock".into()), "/".into())));
    assert_eq!(parse("unix:/run/x.sock:/p?q"), Ok((Target::Unix("/run/x.sock".into()), "/p?q".into())));
    assert_eq!(parse("http://unix:/run/x.sock:/p"), Ok((Target::Unix("/run/x.sock".into()), "/p".into())));
    assert_eq!(parse("uwsgi:/run/x.sock:/p"), Ok((Target::Uwsgi("/run/x.sock".into()), "/p".into())));
}

#[test]
fn what_is_no_address_is_refused_with_the_rule() {
    assert!(parse("https://shop.example.com/").unwrap_err().contains("X-Forwarded-Proto"));
    assert!(parse("127.0.0.1:8000").unwrap_err().contains("must begin with http://"));
    assert!(parse("unix:run/x.sock").unwrap_err().contains("absolute path"));
    assert!(parse("unix:/run/x.sock:p").unwrap_err().contains("begins with a slash"));
    assert!(parse(&format!("unix:/{}", "x".repeat(107))).unwrap_err().contains("107"));
    for bad in [
        "http://",
        "http:///x",
        "http://a:0/",
        "http://a:70000/",
        "http://a:b/",
        "http://u:p@a/",
        "http://a/#x",
        "http://a b/",
        "http://[::1/",
        "http://[::1]x/",
        "http://a/ü",
        "ftp://a/",
    ] {
        assert!(parse(bad).is_err(), "{bad:?} was taken");
    }
}

fn check(target: Target) -> Check {
    Check {
        target,
        path: "/healthz".into(),
        headers: Vec::new(),
        status: 200,
        contains: None,
        location: None,
        expect_headers: Vec::new(),
        release_header: None,
        timeout: Duration::from_millis(500),
        within: Duration::from_secs(1),
        stable_for: Duration::ZERO,
    }
}

fn ask(check: &Check) -> Result<CheckAnswer, CheckError> {
    let name = "2026-11-20-22-45-23-1a2b3c4d5e6f".parse().unwrap();
    let commit = "1a2b3c4d5e6f1a2b3c4d5e6f1a2b3c4d5e6f1a2b".parse().unwrap();
    let watch = Watch { marker: "", deadline: Instant::now() + Duration::from_secs(20), cancel: &Cancel::default(), lines: &|_, _| {} };
    check.ask(Some(Expected { name: &name, commit: &commit }), &watch)
}

/// Answers one connection with `reply`; gives back what was asked.
fn serve(reply: &'static [u8]) -> (Target, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = vec![0; 4096];
        let count = stream.read(&mut asked).unwrap();
        stream.write_all(reply).unwrap();
        String::from_utf8_lossy(&asked[..count]).into_owned()
    });
    (Target::Tcp("127.0.0.1".into(), port), server)
}

fn wrong(reply: &'static [u8], change: impl FnOnce(&mut Check)) -> String {
    let (target, server) = serve(reply);
    let mut check = check(target);
    change(&mut check);
    let error = ask(&check).unwrap_err();
    server.join().unwrap();
    error.to_string()
}

#[test]
fn the_question_is_plain_http_with_the_headers_that_are_set() {
    let (target, server) = serve(b"HTTP/1.1 200 OK\r\nX-Release: 1A2B3C4\r\nContent-Length: 2\r\n\r\nok");
    let mut check = check(target.clone());
    check.headers = vec![("host".into(), "shop.example.com".into()), ("X-Forwarded-Proto".into(), "https".into())];
    check.contains = Some("ok".into());
    check.release_header = Some("x-release".into());
    let answer = ask(&check).unwrap();
    assert_eq!((answer.status, answer.release.as_deref()), (200, Some("1A2B3C4")));
    let asked = server.join().unwrap();
    assert!(asked.starts_with("GET /healthz HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("host: shop.example.com\r\n") && asked.contains("x-forwarded-proto: https\r\n"), "{asked}");
    assert!(!asked.contains("127.0.0.1"), "{asked}");
}

#[test]
fn over_another_socket_the_host_stays_what_it_was() {
    let moved = check(Target::Tcp("shop.example.com".into(), 8000)).at(Target::Unix("/run/x.sock".into()));
    assert_eq!(moved.headers, [("Host".to_owned(), "shop.example.com:8000".to_owned())]);
    assert_eq!(moved.shown(), "GET unix:/run/x.sock:/healthz");
}

#[test]
fn each_thing_that_is_wrong_with_an_answer_is_told_apart() {
    let page = b"HTTP/1.1 500 Oh\r\nContent-Length: 96\r\n\r\n<!doctype html><html><head><style>b { x }</style><title>Server Error</title></head>\n<h1>(500)</h1>";
    let sentence = wrong(page, |_| {});
    assert!(sentence.ends_with("/healthz was answered with status 500 instead of 200: Server Error (500)"), "{sentence}");
    let sentence = wrong(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope", |check| check.contains = Some("ok".into()));
    assert!(sentence.ends_with("was answered without \"ok\" in the body: nope"), "{sentence}");
    let redirect = b"HTTP/1.1 302 Found\r\nLocation: https://x/\r\nContent-Length: 0\r\n\r\n";
    assert!(wrong(redirect, |_| {}).contains("status 302 instead of 200 (to https://x/), and an empty body"));
    let sentence = wrong(redirect, |check| (check.status, check.location) = (302, Some("/login/".into())));
    assert!(sentence.ends_with("was answered with Location: https://x/ instead of /login/"), "{sentence}");
    let sentence = wrong(redirect, |check| (check.status, check.expect_headers) = (302, vec![("X-A".into(), "b".into())]));
    assert!(sentence.ends_with("was answered with X-A: (none) instead of b"), "{sentence}");
    let old = b"HTTP/1.1 200 OK\r\nX-Release: 2026-11-19-00-00-00-abcdefabcdef\r\nContent-Length: 0\r\n\r\n";
    assert!(
        wrong(old, |check| check.release_header = Some("X-Release".into()))
            .contains("answers still come from 2026-11-19-00-00-00-abcdefabcdef")
    );
    assert!(wrong(old, |check| check.release_header = Some("X-Other".into())).contains("without the header X-Other"));
    assert!(wrong(b"", |_| {}).ends_with("was cut off before the answer was complete"));
    assert!(wrong(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", |_| {}).ends_with("was cut off before the answer was complete"));
    assert!(wrong(b"220 mail.example.com ESMTP\r\n", |_| {}).contains("not HTTP"));
}

#[test]
fn six_digits_of_a_commit_name_no_release() {
    let short = b"HTTP/1.1 200 OK\r\nX-Release: 1a2b3c\r\nContent-Length: 0\r\n\r\n";
    assert!(wrong(short, |check| check.release_header = Some("X-Release".into())).contains("answers still come from 1a2b3c,"));
}

#[test]
fn nobody_there_no_socket_and_no_answer_are_three_things() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = ask(&check(Target::Tcp("127.0.0.1".into(), port))).unwrap_err();
    assert!(matches!(silent.wrong, Wrong::TimedOut(_)), "{silent}");
    drop(listener);
    let nobody = ask(&check(Target::Tcp("127.0.0.1".into(), port))).unwrap_err();
    assert!(matches!(nobody.wrong, Wrong::Refused), "{nobody}");
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("x.sock");
    let absent = ask(&check(Target::Unix(socket.clone()))).unwrap_err();
    assert!(matches!(absent.wrong, Wrong::NoSocket), "{absent}");
    drop(UnixListener::bind(&socket).unwrap());
    let stale = ask(&check(Target::Unix(socket))).unwrap_err();
    assert!(matches!(stale.wrong, Wrong::Refused), "{stale}");
}

#[test]
fn a_body_without_end_is_read_for_a_mebibyte_and_no_farther() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let mut check = check(Target::Tcp("127.0.0.1".into(), port));
    check.timeout = Duration::from_secs(10);
    assert_eq!(ask(&check).unwrap().status, 200);
}

#[test]
fn a_cancel_ends_the_wait_for_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut check = check(Target::Tcp("127.0.0.1".into(), listener.local_addr().unwrap().port()));
    check.timeout = Duration::from_secs(30);
    let cancel = Cancel::default();
    cancel.ask();
    let watch = Watch { marker: "", deadline: Instant::now() + Duration::from_secs(20), cancel: &cancel, lines: &|_, _| {} };
    assert!(matches!(check.ask(None, &watch).unwrap_err().wrong, Wrong::Cancelled));
}

#[test]
fn a_socket_is_reached_where_it_really_is_and_never_by_a_grant_of_the_agents() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, link) = (dir.path().join("web.sock.blue"), dir.path().join("web.sock"));
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::os::unix::fs::symlink("web.sock.blue", &link).unwrap();
    assert!(listens(&socket) && listens(&link));
    let (_held, real) = socket_at(&link).unwrap();
    assert!(std::os::unix::net::UnixStream::connect(real).is_ok());
    assert!(is_grant(std::path::Path::new("/run/release-agent-helpers/stop.other@blue.service")));
    assert!(is_grant(std::path::Path::new("/run/release-agent-steps/other.app")));
    assert!(!is_grant(&socket) && !is_grant(std::path::Path::new("/run/release-agents/web.sock")));
}
