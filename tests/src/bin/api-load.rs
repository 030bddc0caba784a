//! Asks a server as fast as it answers, on some connections that stay open, and prints one line of JSON about it. Everything that is sent is made, and
//! signed, before the clock starts. For tests/bench.
//!
//! ```text
//! api-load agent  PORT CA KEY SECONDS CONNECTIONS read|act|forged
//! api-load webhook PORT SECRET SECONDS CONNECTIONS good|forged
//! ```
//! KEY is a file with 32 bytes, the seed of an Ed25519 key.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use agent_tests::{HOST, Network, SigningKey, form, nonce};
use aws_lc_rs::hmac;
use serde_json::json;

/// More than any server here answers in a second, on all connections together.
const MOST_PER_SECOND: usize = 12_000;

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let report = match words.as_slice() {
        ["agent", port, ca, key, seconds, connections, kind] => {
            let network = Network { port: port.parse()?, ca: ca.into() };
            let key = SigningKey::from_seed(&std::fs::read(Path::new(key))?);
            let make = |_: usize| {
                let body = match *kind {
                    "read" => form("read", json!({ "app": null, "path": "/v1/whoami" })),
                    _ => form("unlock", json!({ "app": "bench" })),
                };
                let body = body.to_string();
                let signature = if *kind == "forged" { key.sign("something else") } else { key.sign(&body) };
                let headers = format!("Content-Type: {}\r\nAgent-Signature: {}\r\n", agent_wire::REQUEST_TYPE, signature.to_base64());
                request("/v1/requests", &headers, &body)
            };
            let connect = || Ok(Box::new(network.stream()) as Box<dyn Stream>);
            load(seconds.parse()?, connections.parse()?, &make, &connect)?
        }
        ["webhook", port, secret, seconds, connections, kind] => {
            let port: u16 = port.parse()?;
            let secret = if *kind == "forged" { "not the secret" } else { secret };
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            let make = |_: usize| {
                // As many bytes as a request to the agent has.
                let body = form("unlock", json!({ "app": "bench", "ref": nonce() })).to_string();
                let code = hex::encode(hmac::sign(&key, body.as_bytes()));
                request("/hooks/bench", &format!("Content-Type: application/json\r\nX-Signature: sha256={code}\r\n"), &body)
            };
            let connect = || {
                let stream = TcpStream::connect(("127.0.0.1", port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                Ok(Box::new(stream) as Box<dyn Stream>)
            };
            load(seconds.parse()?, connections.parse()?, &make, &connect)?
        }
        _ => return Err("see the top of tests/src/bin/api-load.rs".into()),
    };
    println!("{report}");
    Ok(())
}

fn request(path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

type Connect<'a> = dyn Fn() -> std::io::Result<Box<dyn Stream>> + Sync + 'a;

fn load(
    seconds: u64,
    connections: usize,
    make: &(dyn Fn(usize) -> Vec<u8> + Sync),
    connect: &Connect<'_>,
) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let each = MOST_PER_SECOND * usize::try_from(seconds)? / connections;
    let ready = Barrier::new(connections);
    let asked: Vec<std::io::Result<Asked>> = thread::scope(|scope| {
        let asking: Vec<_> = (0..connections)
            .map(|_| {
                let ready = &ready;
                scope.spawn(move || {
                    let requests: Vec<Vec<u8>> = (0..each).map(make).collect();
                    let stream = connect();
                    ready.wait();
                    ask(&mut *stream?, &requests, Duration::from_secs(seconds), connect)
                })
            })
            .collect();
        asking.into_iter().map(|asking| asking.join().expect("no thread panics")).collect()
    });
    let mut latencies = Vec::new();
    let mut statuses: BTreeMap<String, u64> = BTreeMap::new();
    let mut longest = Duration::ZERO;
    for asked in asked {
        let asked = asked?;
        for (status, count) in asked.statuses {
            *statuses.entry(status).or_default() += count;
        }
        longest = longest.max(asked.took);
        latencies.extend(asked.latencies);
    }
    latencies.sort_unstable();
    let at =
        |share: usize| latencies.get(latencies.len().saturating_sub(1) * share / 100).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0);
    let per_second = latencies.len() as f64 / longest.as_secs_f64();
    Ok(json!({ "requests": latencies.len(), "per_second": per_second, "p50_ms": at(50), "p99_ms": at(99), "statuses": statuses }))
}

struct Asked {
    latencies: Vec<Duration>,
    statuses: BTreeMap<String, u64>,
    took: Duration,
}

fn ask(stream: &mut dyn Stream, requests: &[Vec<u8>], most: Duration, connect: &Connect<'_>) -> std::io::Result<Asked> {
    let begun = Instant::now();
    let mut asked = Asked { latencies: Vec::new(), statuses: BTreeMap::new(), took: Duration::ZERO };
    let mut own;
    let mut stream = stream;
    for request in requests {
        let sent = Instant::now();
        if sent - begun >= most {
            break;
        }
        stream.write_all(request)?;
        let (status, stays) = answer(stream)?;
        asked.latencies.push(sent.elapsed());
        *asked.statuses.entry(status).or_default() += 1;
        if !stays {
            own = connect()?;
            stream = &mut *own;
        }
    }
    asked.took = begun.elapsed();
    Ok(asked)
}

/// Reads one answer: its status, and whether the connection stays open.
fn answer(stream: &mut dyn Stream) -> std::io::Result<(String, bool)> {
    let mut bytes = Vec::with_capacity(1024);
    let mut chunk = [0; 4096];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut chunk)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let length: usize = header("content-length").and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    while bytes.len() < end + length {
        match stream.read(&mut chunk)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    }
    Ok((head.get(9..12).unwrap_or_default().to_owned(), header("connection") != Some("close")))
}
