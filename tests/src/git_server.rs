//! A real git server over TLS, `git http-backend`, which answers as it should, or as servers do on a bad day.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// How the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// As it should.
    Well,
    /// With this status and nothing else.
    Status(u16),
    /// So many bytes of a pack, and then silence.
    Stalling(usize),
    /// So many bytes of a pack, and then the end of the connection.
    Cutting(usize),
}

struct Manner {
    serving: Serving,
    /// How often a pack was stalled or cut, or a status was answered.
    misdeeds: usize,
    stopped: bool,
}

struct Shared {
    manner: Mutex<Manner>,
    changed: Condvar,
    tls: Arc<ServerConfig>,
    repos: PathBuf,
}

impl Shared {
    fn manner(&self) -> MutexGuard<'_, Manner> {
        self.manner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The server, on a port of the loopback interface.
pub struct GitServer {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl GitServer {
    /// Starts one for the repositories below a directory, with the certificate of a [`crate::Bench::certificate`] for `localhost`.
    pub fn start(repos: &Path, certificate: &Path) -> Self {
        let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let key = PrivateKeyDer::from_pem_file(certificate.with_file_name("key.pem")).expect("it was made with its key");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain.expect("it is one"), key);
        let tls = Arc::new(config.expect("the key is that of the certificate"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback interface has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let manner = Mutex::new(Manner { serving: Serving::Well, misdeeds: 0, stopped: false });
        let shared = Arc::new(Shared { manner, changed: Condvar::new(), tls, repos: repos.to_owned() });
        let thread = {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if shared.manner().stopped {
                        return;
                    }
                    let shared = shared.clone();
                    // A caller that goes away in the middle has what it has.
                    std::thread::spawn(move || drop(answer(stream, &shared)));
                }
            })
        };
        Self { port, shared, thread: Some(thread) }
    }

    /// The address of a repository.
    pub fn url(&self, repo: &str) -> String {
        format!("https://localhost:{}/{repo}", self.port)
    }

    /// Answers so from now on.
    pub fn serve(&self, serving: Serving) {
        self.shared.manner().serving = serving;
        self.shared.changed.notify_all();
    }

    /// How often it answered otherwise than well.
    pub fn misdeeds(&self) -> usize {
        self.shared.manner().misdeeds
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.shared.manner().stopped = true;
        self.shared.changed.notify_all();
        // Wakes the one who listens.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let raw = stream.try_clone()?;
    let connection = ServerConnection::new(shared.tls.clone()).map_err(io::Error::other)?;
    let mut reader = BufReader::new(StreamOwned::new(connection, stream));
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
    let header = |name: &str| headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let serving = shared.manner().serving;
    let is_pack = method == "POST" && path.ends_with("/git-upload-pack") && body.windows(5).any(|word| word == b"want ");
    let mut stream = reader.into_inner();
    if let Serving::Status(status) = serving {
        shared.manner().misdeeds += 1;
        stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())?;
        return stream.flush();
    }
    let (head, reply) = backend(&shared.repos, &method, path, query, header("content-type"), header("git-protocol"), &body)?;
    stream.write_all(format!("HTTP/1.1 {head}Content-Length: {}\r\nConnection: close\r\n\r\n", reply.len()).as_bytes())?;
    let after = match serving {
        Serving::Stalling(after) | Serving::Cutting(after) if is_pack => after.min(reply.len() / 2),
        _ => reply.len(),
    };
    stream.write_all(&reply[..after])?;
    stream.flush()?;
    if after == reply.len() {
        return Ok(());
    }
    let mut manner = shared.manner();
    manner.misdeeds += 1;
    while matches!(serving, Serving::Stalling(_)) && manner.serving == serving && !manner.stopped {
        manner = shared.changed.wait(manner).unwrap_or_else(PoisonError::into_inner);
    }
    drop(manner);
    raw.shutdown(Shutdown::Both)
}

/// What `git http-backend` answers: the status with the header lines, and the body.
fn backend(repos: &Path, method: &str, path: &str, query: &str, kind: &str, protocol: &str, body: &[u8]) -> io::Result<(String, Vec<u8>)> {
    let mut command = Command::new("git");
    command.arg("http-backend").env_clear().envs(["PATH", "HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.env("GIT_PROJECT_ROOT", repos).env("GIT_HTTP_EXPORT_ALL", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.envs([("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "safe.directory"), ("GIT_CONFIG_VALUE_0", "*")]);
    command.env("REQUEST_METHOD", method).env("PATH_INFO", path).env("QUERY_STRING", query).env("CONTENT_TYPE", kind);
    command.env("GIT_PROTOCOL", protocol).env("CONTENT_LENGTH", body.len().to_string()).env("REMOTE_ADDR", "127.0.0.1");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(body)?;
    }
    let output = child.wait_with_output()?.stdout;
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(output.len());
    let mut status = "200 OK".to_owned();
    let mut rest = String::new();
    for line in String::from_utf8_lossy(&output[..end]).split("\r\n").filter(|line| !line.is_empty()) {
        match line.strip_prefix("Status: ") {
            Some(said) => said.clone_into(&mut status),
            None => rest.push_str(&format!("{line}\r\n")),
        }
    }
    Ok((format!("{status}\r\n{rest}"), output.get(end + 4..).unwrap_or_default().to_vec()))
}
