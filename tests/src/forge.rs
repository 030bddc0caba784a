//! The API of a forge, or any receiver, as far as reports go: it remembers what it hears, and answers what the test wants, or nothing for a while.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

/// A request that came.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// The status that it is answered with.
    pub status: u16,
}

impl Heard {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str())
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// A part of the body, as text.
    pub fn says(&self, key: &str) -> String {
        self.json()[key].as_str().unwrap_or_default().to_owned()
    }
}

#[derive(Default)]
struct Manner {
    heard: Vec<Heard>,
    /// The statuses of the next answers; then `otherwise`.
    next: VecDeque<u16>,
    otherwise: u16,
    headers: String,
    silent: bool,
    stopped: bool,
    made: u64,
}

#[derive(Default)]
struct Shared {
    manner: Mutex<Manner>,
    changed: Condvar,
    tls: Option<Arc<ServerConfig>>,
}

impl Shared {
    fn manner(&self) -> MutexGuard<'_, Manner> {
        self.manner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The forge, on a port of the loopback interface.
pub struct Forge {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Forge {
    /// Starts one that answers 201 to everything, without TLS.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts one with the certificate of a [`crate::Bench::certificate`] for `localhost`.
    pub fn start_tls(certificate: &Path) -> Self {
        let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let key = PrivateKeyDer::from_pem_file(certificate.with_file_name("key.pem")).expect("it was made with its key");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain.expect("it is one"), key);
        Self::start_with(Some(Arc::new(config.expect("the key is that of the certificate"))))
    }

    fn start_with(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback interface has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared { tls, ..Shared::default() });
        shared.manner().otherwise = 201;
        let thread = Some(listen(listener, shared.clone()));
        Self { port, shared, thread }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        if self.shared.tls.is_some() { format!("https://localhost:{}", self.port) } else { format!("http://127.0.0.1:{}", self.port) }
    }

    /// Stops it: nobody listens on its port any more.
    pub fn stop(&mut self) {
        let mut manner = self.shared.manner();
        manner.stopped = true;
        drop(manner);
        self.shared.changed.notify_all();
        // Wakes the one who listens.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the forge does not panic");
        }
    }

    /// Starts it again, on the same port.
    pub fn start_again(&mut self) {
        self.shared.manner().stopped = false;
        let listener = TcpListener::bind(("127.0.0.1", self.port)).expect("the port was ours a moment ago");
        self.thread = Some(listen(listener, self.shared.clone()));
    }

    /// Answers so from now on.
    pub fn answer(&self, status: u16) {
        let mut manner = self.shared.manner();
        manner.otherwise = status;
        manner.next.clear();
    }

    /// Answers the next requests so, and then as before.
    pub fn answer_next(&self, statuses: &[u16]) {
        self.shared.manner().next.extend(statuses);
    }

    /// Sends these header lines with every answer that is no success; each ends with `\r\n`.
    pub fn refuse_with(&self, headers: &str) {
        headers.clone_into(&mut self.shared.manner().headers);
    }

    /// Hears, and answers nothing until [`Forge::speak`].
    pub fn fall_silent(&self) {
        self.shared.manner().silent = true;
    }

    /// Answers what it owes.
    pub fn speak(&self) {
        self.shared.manner().silent = false;
        self.shared.changed.notify_all();
    }

    /// Everything that it has heard.
    pub fn heard(&self) -> Vec<Heard> {
        self.shared.manner().heard.clone()
    }

    /// What it has heard and taken.
    pub fn taken(&self) -> Vec<Heard> {
        self.heard().into_iter().filter(|heard| heard.status < 300).collect()
    }
}

impl Drop for Forge {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
    }
}

fn listen(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if shared.manner().stopped {
                return;
            }
            let shared = shared.clone();
            std::thread::spawn(move || {
                // A caller that goes away in the middle has not said anything.
                let _ = match shared.tls.clone().map(ServerConnection::new) {
                    Some(Ok(connection)) => answer(StreamOwned::new(connection, stream), &shared),
                    Some(Err(_)) => Ok(()),
                    None => answer(stream, &shared),
                };
            });
        }
    })
}

fn answer(stream: impl Read + Write, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let mut manner = shared.manner();
    let status = manner.next.pop_front().unwrap_or(manner.otherwise);
    let makes = status < 300 && target.ends_with("/deployments");
    manner.made += u64::from(makes);
    let reply = if makes { format!("{{\"id\":{}}}", manner.made + 41) } else { "{\"message\":\"Bad credentials\"}".to_owned() };
    let more = if status < 300 { String::new() } else { manner.headers.clone() };
    manner.heard.push(Heard { method, target, headers, body, status });
    while manner.silent && !manner.stopped {
        manner = shared.changed.wait(manner).unwrap_or_else(PoisonError::into_inner);
    }
    drop(manner);
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n", reply.len());
    let mut stream = reader.into_inner();
    stream.write_all(format!("{head}{reply}").as_bytes())?;
    stream.flush()
}
