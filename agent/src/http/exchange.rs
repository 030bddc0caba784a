//! One request and its reply. The engine's threads are blocking ones; the little that waits for sockets runs in a runtime of its own here.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::{Check, MOST_BODY_BYTES, Reply, Target, Wrong};
use crate::process::Watch;

/// Asks, bounded by the check's timeout and by the watch.
pub(super) fn exchange(check: &Check, watch: &Watch<'_>) -> Result<Reply, Wrong> {
    let limit = check.timeout.min(watch.left());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Wrong::Connection)?;
    let reply = runtime.block_on(async {
        let cancelled = async {
            while !watch.cancel.asked() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            reply = talk(check) => reply,
            () = tokio::time::sleep(limit) => Err(Wrong::TimedOut(limit)),
            () = cancelled => Err(Wrong::Cancelled),
        }
    });
    // A name that is still being looked up must not hold up the run.
    runtime.shutdown_background();
    reply
}

async fn talk(check: &Check) -> Result<Reply, Wrong> {
    match &check.target {
        Target::Tcp(host, port) => http(TcpStream::connect((host.as_str(), *port)).await.map_err(no_connection)?, check).await,
        Target::Unix(socket) => http(connect(socket).await?, check).await,
        Target::Uwsgi(socket) => uwsgi(connect(socket).await?, check).await,
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, Wrong> {
    let (_socket, real) = super::socket_at(socket).map_err(no_connection)?;
    UnixStream::connect(real).await.map_err(no_connection)
}

fn no_connection(error: io::Error) -> Wrong {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Wrong::Refused,
        io::ErrorKind::NotFound => Wrong::NoSocket,
        io::ErrorKind::PermissionDenied => Wrong::Forbidden,
        io::ErrorKind::WouldBlock => Wrong::QueueFull,
        _ => Wrong::Connection(error),
    }
}

/// The headers of the request: what is set, and what a server wants to see.
fn headers(check: &Check) -> Vec<(String, String)> {
    let mut headers = check.headers.clone();
    let agent = concat!("release-agent/", env!("CARGO_PKG_VERSION"));
    let host = check.target.host();
    for (name, value) in [("Host", host.as_str()), ("User-Agent", agent), ("Accept", "*/*"), ("Connection", "close")] {
        if !headers.iter().any(|(set, _)| set.eq_ignore_ascii_case(name)) {
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
    headers
}

async fn http<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, check: &Check) -> Result<Reply, Wrong> {
    let mut request = Request::get(&check.path);
    for (name, value) in headers(check) {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| Wrong::Unaskable(error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    // It ends when both sides have said all; what goes wrong with it is told to the sender.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut reply = Reply {
        status: answer.status().as_u16(),
        headers: answer.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect(),
        body: Vec::new(),
    };
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|error| broken(&error))?.into_data() {
            reply.body.extend(data);
        }
        if reply.body.len() >= MOST_BODY_BYTES {
            reply.body.truncate(MOST_BODY_BYTES);
            break;
        }
    }
    Ok(reply)
}

fn broken(error: &hyper::Error) -> Wrong {
    if error.is_parse() { Wrong::NotHttp(error.to_string()) } else { Wrong::CutOff }
}

/// uWSGI's documentation, "The uwsgi Protocol": a header of four bytes, then the variables of the request; the reply is that of CGI with a status
/// line, until the end of the connection.
async fn uwsgi(mut stream: UnixStream, check: &Check) -> Result<Reply, Wrong> {
    let packet = packet(check)?;
    stream.write_all(&packet).await.map_err(|_| Wrong::CutOff)?;
    let mut said = Vec::new();
    let most = (MOST_BODY_BYTES + 64 * 1024) as u64;
    stream.take(most).read_to_end(&mut said).await.map_err(|_| Wrong::CutOff)?;
    if said.is_empty() {
        return Err(Wrong::CutOff);
    }
    parse_reply(&said).ok_or_else(|| Wrong::NotHttp(String::from_utf8_lossy(&said).chars().take(80).collect()))
}

fn packet(check: &Check) -> Result<Vec<u8>, Wrong> {
    let (path, query) = check.path.split_once('?').unwrap_or((&check.path, ""));
    let decoded = percent_decoded(path);
    let mut variables: Vec<(String, Vec<u8>)> = vec![
        ("REQUEST_METHOD".to_owned(), b"GET".to_vec()),
        ("REQUEST_URI".to_owned(), check.path.clone().into_bytes()),
        ("PATH_INFO".to_owned(), decoded),
        ("QUERY_STRING".to_owned(), query.as_bytes().to_vec()),
        ("SERVER_PROTOCOL".to_owned(), b"HTTP/1.1".to_vec()),
        ("SERVER_NAME".to_owned(), b"localhost".to_vec()),
        ("SERVER_PORT".to_owned(), b"80".to_vec()),
        ("REMOTE_ADDR".to_owned(), b"127.0.0.1".to_vec()),
        ("CONTENT_LENGTH".to_owned(), Vec::new()),
    ];
    for (name, value) in headers(check) {
        variables.push((format!("HTTP_{}", name.to_ascii_uppercase().replace('-', "_")), value.into_bytes()));
    }
    let mut block = Vec::new();
    for (name, value) in variables {
        for part in [name.as_bytes(), &value] {
            let length = u16::try_from(part.len()).map_err(|_| Wrong::Unaskable("it is longer than uwsgi allows".to_owned()))?;
            block.extend(length.to_le_bytes());
            block.extend(part);
        }
    }
    let length = u16::try_from(block.len()).map_err(|_| Wrong::Unaskable("it is longer than uwsgi allows".to_owned()))?;
    let mut packet = vec![0];
    packet.extend(length.to_le_bytes());
    packet.push(0);
    packet.extend(block);
    Ok(packet)
}

fn percent_decoded(path: &str) -> Vec<u8> {
    let mut bytes = path.bytes();
    let mut decoded = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        let digits = bytes.clone().take(2).collect::<Vec<u8>>();
        let value = std::str::from_utf8(&digits).ok().filter(|digits| digits.len() == 2).and_then(|text| u8::from_str_radix(text, 16).ok());
        match value {
            Some(value) if byte == b'%' => {
                decoded.push(value);
                bytes.nth(1);
            }
            _ => decoded.push(byte),
        }
    }
    decoded
}

fn parse_reply(said: &[u8]) -> Option<Reply> {
    let end = said.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&said[..end]);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    let body = &said[end + 4..];
    Some(Reply { status, headers, body: body[..body.len().min(MOST_BODY_BYTES)].to_vec() })
}
