//! HTTP over the agent's Unix socket. A connection a request: they are cheap there, and an agent that restarts breaks none that matters.

pub(crate) mod follower;
#[cfg(test)]
pub(crate) mod pretend;

use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_wire::REQUEST_TYPE;
use agent_wire::form::Form;
use agent_wire::problem::Problem;
use agent_wire::view::Taken;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::fault::Fault;

/// The most that an answer may have; a list of ten thousand releases is a tenth of it.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For the socket to take the connection.
    pub(crate) connect: Duration,
    /// For an answer that the agent has at hand.
    pub(crate) answer: Duration,
    /// For one that it must fetch or try first.
    pub(crate) search: Duration,
    /// For a lost agent to come back.
    pub(crate) comeback: Duration,
    /// Between two attempts.
    pub(crate) pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            search: Duration::from_secs(600),
            comeback: Duration::from_secs(60),
            pause: Duration::from_millis(250),
        }
    }
}

/// How much an answer asks of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// It has the answer at hand.
    Little,
    /// It fetches, or tries things out.
    Much,
}

/// What was read: as it came, and understood. What is handed on is what came, so that nothing newer than this program is lost on the way.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    /// As it came.
    pub(crate) raw: String,
    /// Understood.
    pub(crate) view: T,
}

/// The way to one agent.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
    pub(crate) patience: Patience,
}

impl Client {
    /// The way to the agent behind a socket.
    pub(crate) fn new(socket: PathBuf, patience: Patience) -> Self {
        Self { socket, patience }
    }

    /// Reads a view.
    pub(crate) async fn read<T: DeserializeOwned>(&self, path: &str, effort: Effort) -> Result<Answer<T>, Fault> {
        let limit = match effort {
            Effort::Little => self.patience.answer,
            Effort::Much => self.patience.search,
        };
        let request = self.request(Method::GET, path, Bytes::new(), |request| request.header(ACCEPT, "application/json"))?;
        let response = self.send(request, limit).await?;
        self.understand(response, limit).await
    }

    /// Asks for an act. An agent that goes away before it answered is asked again with the same bytes, which it never carries out twice; `lost` is
    /// told when that begins.
    pub(crate) async fn ask(&self, form: &Form, mut lost: impl FnMut()) -> Result<Answer<Taken>, Fault> {
        let body = serde_json::to_vec(form).map_err(|err| Fault::Host { act: "write the request", source: err.into() })?;
        let body = Bytes::from(body);
        let mut since = None;
        loop {
            let fault = match self.ask_once(body.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let first = since.is_none();
            let worth_it = match &fault {
                Fault::Broken { .. } | Fault::Silent { .. } => true,
                // At first it means that there is no agent; later, that it has not come back yet.
                fault => !first && fault.is_passing(),
            };
            let since = *since.get_or_insert_with(Instant::now);
            if !worth_it || since.elapsed() >= self.patience.comeback {
                return Err(fault);
            }
            if first {
                lost();
            }
            sleep(self.patience.pause).await;
        }
    }

    async fn ask_once(&self, body: Bytes) -> Result<Answer<Taken>, Fault> {
        let request = self.request(Method::POST, "/v1/requests", body, |request| request.header(CONTENT_TYPE, REQUEST_TYPE))?;
        let response = self.send(request, self.patience.answer).await?;
        self.understand(response, self.patience.answer).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        more: impl FnOnce(hyper::http::request::Builder) -> hyper::http::request::Builder,
    ) -> Result<Request<Full<Bytes>>, Fault> {
        more(Request::builder().method(method).uri(path).header(HOST, "localhost"))
            .body(Full::new(body))
            .map_err(|err| Fault::Host { act: "put the question", source: err.into() })
    }

    async fn send(&self, request: Request<Full<Bytes>>, limit: Duration) -> Result<Response<Incoming>, Fault> {
        let connect = self.patience.connect;
        let stream = match timeout(connect, UnixStream::connect(&self.socket)).await {
            Ok(connected) => connected.map_err(|source| Fault::OutOfReach { socket: self.socket.clone(), source })?,
            Err(_) => return Err(self.silent(connect)),
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|err| self.broken(err))?;
        // It ends with the connection; what went wrong with it, the one who sends or reads is told as well.
        tokio::spawn(connection);
        match timeout(limit, sender.send_request(request)).await {
            Ok(answered) => answered.map_err(|err| self.broken(err)),
            Err(_) => Err(self.silent(limit)),
        }
    }

    async fn understand<T: DeserializeOwned>(&self, response: Response<Incoming>, limit: Duration) -> Result<Answer<T>, Fault> {
        let status = response.status();
        let body = match timeout(limit, Limited::new(response.into_body(), MOST_BYTES).collect()).await {
            Ok(read) => read.map_err(|err| self.broken(err))?.to_bytes(),
            Err(_) => return Err(self.silent(limit)),
        };
        let strange = |source| Fault::Strange { socket: self.socket.clone(), status: status.as_u16(), source };
        if !status.is_success() {
            return Err(serde_json::from_slice::<Problem>(&body).map_or_else(|_| strange(None), Fault::Refused));
        }
        let view = serde_json::from_slice(&body).map_err(|err| strange(Some(err)))?;
        Ok(Answer { raw: String::from_utf8_lossy(&body).trim_end().to_owned(), view })
    }

    fn broken(&self, err: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
        Fault::Broken { socket: self.socket.clone(), source: err.into() }
    }

    fn silent(&self, after: Duration) -> Fault {
        Fault::Silent { socket: self.socket.clone(), after }
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

/// A text as a part of a path, or as a value in a query (RFC 3986, everything but the unreserved characters encoded).
pub(crate) fn encoded(text: &str) -> String {
    use std::fmt::Write as _;

    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => _ = write!(encoded, "%{byte:02X}"),
        }
        encoded
    })
}

#[cfg(test)]
mod tests;
