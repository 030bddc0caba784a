//! A fake agent for tests with scripted answers: a real socket or TLS over a real port, and real HTTP. It serves one connection after the other, each
//! with the next answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

/// The answer to one request.
pub(crate) enum Say {
    /// A whole answer.
    Json(u16, String),
    /// Events, and then their end.
    Events(Vec<String>),
    /// Events, and more may come until the client leaves.
    Hold(Vec<String>),
    /// Events, and half a line, and then the connection breaks.
    BreakAfter(Vec<String>),
    /// Nothing at all.
    HangUp,
}

/// The fake agent.
pub(crate) struct Pretend {
    dir: TempDir,
    /// The port, where there is one.
    port: Option<u16>,
    thread: Option<JoinHandle<Vec<SeenRequest>>>,
}

/// A request that it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenRequest {
    /// Method and path.
    pub(crate) line: String,
    /// The headers, their names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl SeenRequest {
    /// All values of a header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
    }
}

impl Pretend {
    /// An agent behind a socket that gives these answers.
    pub(crate) fn saying(answers: Vec<Say>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        let thread = std::thread::spawn(move || answers.into_iter().map(|say| answer(listener.accept().unwrap().0, &say)).collect());
        Self { dir, port: None, thread: Some(thread) }
    }

    /// An agent on the network that gives these answers, with a certificate of its own for `localhost`.
    pub(crate) fn saying_over_tls(answers: Vec<Say>) -> Self {
        Self::saying_with(CertificateParams::new(["localhost".to_owned()]).unwrap(), answers)
    }

    /// The same with another certificate.
    pub(crate) fn saying_with(params: CertificateParams, answers: Vec<Say>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("cert.pem"), cert.pem()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let over_tls = |say| {
                let tls = ServerConnection::new(config.clone()).unwrap();
                answer(StreamOwned::new(tls, listener.accept().unwrap().0), say)
            };
            answers.iter().map(over_tls).collect()
        });
        Self { dir, port: Some(port), thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    /// Its address on the network.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.port.unwrap())
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// A directory that lives as long as the agent.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The requests that it got: the line and the body. An answer that was never fetched appears as an empty request.
    pub(crate) fn asked(self) -> Vec<String> {
        self.asked_in_full().into_iter().map(|asked| format!("{} {}", asked.line, asked.body).trim().to_owned()).collect()
    }

    /// The same with the headers.
    pub(crate) fn asked_in_full(mut self) -> Vec<SeenRequest> {
        let thread = self.thread.take().unwrap();
        while !thread.is_finished() {
            // Ends the thread's wait for another request.
            match self.port {
                Some(port) => drop(TcpStream::connect(("127.0.0.1", port))),
                None => drop(UnixStream::connect(self.socket())),
            }
            std::thread::yield_now();
        }
        thread.join().unwrap()
    }
}

fn answer(stream: impl Read + Write, say: &Say) -> SeenRequest {
    let mut reader = BufReader::new(stream);
    let asked = read(&mut reader).unwrap_or_else(|_| SeenRequest { line: String::new(), headers: Vec::new(), body: String::new() });
    // A client may leave before it has read everything.
    let _ = write(reader.into_inner(), say);
    asked
}

/// Reads a request; an error when the client sent none.
fn read(reader: &mut impl BufRead) -> io::Result<SeenRequest> {
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let mut asked = SeenRequest { line: first.trim().trim_end_matches(" HTTP/1.1").to_owned(), headers, body: String::new() };
    let mut body = vec![0; asked.all("content-length").first().map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body)?;
    asked.body = String::from_utf8(body).unwrap();
    Ok(asked)
}

fn write(mut stream: impl Read + Write, say: &Say) -> io::Result<()> {
    match say {
        Say::Json(status, body) => {
            let again = if *status == 429 { "Retry-After: 7\r\n" } else { "" };
            write!(stream, "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\n{again}Content-Length: {}\r\n\r\n{body}", body.len())?;
            stream.flush()
        }
        Say::Events(events) => {
            head(&mut stream)?;
            events.iter().try_for_each(|event| chunk(&mut stream, &format!("{event}\n")))?;
            stream.write_all(b"0\r\n\r\n")
        }
        Say::Hold(events) => {
            head(&mut stream)?;
            events.iter().try_for_each(|event| chunk(&mut stream, &format!("{event}\n")))?;
            stream.read_to_end(&mut Vec::new()).map(drop)
        }
        Say::BreakAfter(events) => {
            head(&mut stream)?;
            events.iter().try_for_each(|event| chunk(&mut stream, &format!("{event}\n")))?;
            chunk(&mut stream, r#"{"run":12,"n":"#)
        }
        Say::HangUp => Ok(()),
    }
}

fn head(stream: &mut impl Write) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
}

fn chunk(stream: &mut impl Write, text: &str) -> io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())
}
