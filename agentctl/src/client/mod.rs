//! HTTP to one agent, over its Unix socket or over the network, with the same requests and answers. Each request has a connection of its own. That is
//! cheap, and a restart of the agent breaks none that matters.
//!
//! Over the network every request is signed: an act as it is, and a GET as the act of reading its path. Only the events of a run that this program
//! started are read with the run's token.

pub(crate) mod follower;
mod network;
mod patience;
#[cfg(test)]
pub(crate) mod pretend;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use agent_wire::REQUEST_TYPE;
use agent_wire::form::Form;
use agent_wire::problem::Problem;
use agent_wire::view::Taken;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::address::Address;
use crate::fault::Fault;

pub(crate) use network::{Network, Signed, nonce};
pub(crate) use patience::Patience;

/// The most bytes of an answer; a list of ten thousand releases is a tenth of it.
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// The agent's effort for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// The answer is at hand.
    Little,
    /// The agent fetches, or tries things out.
    Much,
    /// The agent reads everything that it has.
    All,
}

/// An answer, raw and parsed. Output uses the raw text, so that fields newer than this program are not lost.
#[derive(Debug)]
pub(crate) struct ApiAnswer<T> {
    /// The text as it came.
    pub(crate) raw: String,
    /// The parsed answer.
    pub(crate) view: T,
}

/// A client of one agent.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    way: Transport,
    pub(crate) patience: Patience,
    /// The command line that reaches the same agent again.
    pub(crate) called: String,
}

/// The transport to the agent.
#[derive(Debug, Clone)]
pub(crate) enum Transport {
    /// Over its socket, where the kernel identifies the caller.
    Socket(PathBuf),
    /// Over the network, where a signature does.
    Network(Box<Network>),
}

/// A byte stream in both directions.
trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Client {
    pub(crate) fn new(way: Transport, patience: Patience) -> Self {
        Self { way, patience, called: "agentctl".into() }
    }

    /// The same client, with the command line that reaches the agent again.
    pub(crate) fn called(self, called: String) -> Self {
        Self { called, ..self }
    }

    /// The network transport, if the client uses it.
    pub(crate) fn network(&self) -> Option<&Network> {
        match &self.way {
            Transport::Socket(_) => None,
            Transport::Network(network) => Some(network),
        }
    }

    /// Reads a view.
    pub(crate) async fn read<T: DeserializeOwned>(&self, path: &str, effort: Effort) -> Result<ApiAnswer<T>, Fault> {
        let limit = match effort {
            Effort::Little => self.patience.answer,
            Effort::Much => self.patience.search,
            Effort::All => self.patience.reading,
        };
        let request = self.reading(path, "application/json").await?;
        let response = self.send(request, limit).await?;
        self.understand(response, limit).await
    }

    /// Sends a request to act. If the agent goes away before it answered, the same bytes are sent again, because the agent never carries them out
    /// twice. Calls `lost` when that begins.
    pub(crate) async fn ask(&self, form: &Form, mut lost: impl FnMut()) -> Result<ApiAnswer<Taken>, Fault> {
        let signed = match &self.way {
            Transport::Socket(_) => Signed::unsigned(form)?,
            Transport::Network(network) => network.sign(form.clone()).await?,
        };
        let mut since = None;
        loop {
            let fault = match self.ask_once(&signed).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            let first = since.is_none();
            let worth_it = match &fault {
                Fault::Broken { .. } | Fault::Silent { .. } => true,
                // On the first attempt this error means that there is no agent; later, that it has not come back yet.
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

    async fn ask_once(&self, signed: &Signed) -> Result<ApiAnswer<Taken>, Fault> {
        let request = self.posting(signed, |request| request)?;
        let response = self.send(request, self.patience.answer).await?;
        self.understand(response, self.patience.answer).await
    }

    /// A request that reads a path.
    async fn reading(&self, path: &str, accept: &str) -> Result<Request<Full<Bytes>>, Fault> {
        match &self.way {
            Transport::Socket(_) => self.request(Method::GET, path, Bytes::new(), |request| request.header(ACCEPT, accept)),
            Transport::Network(network) => {
                let signed = network.sign(network::form_for(path)?).await?;
                self.posting(&signed, |request| request.header(ACCEPT, accept))
            }
        }
    }

    /// A request that reads a path with a token.
    fn reading_by_token(&self, path: &str, accept: &str, token: &str) -> Result<Request<Full<Bytes>>, Fault> {
        self.request(Method::GET, path, Bytes::new(), |request| {
            request.header(ACCEPT, accept).header(AUTHORIZATION, format!("Bearer {token}"))
        })
    }

    fn posting(
        &self,
        signed: &Signed,
        more: impl FnOnce(hyper::http::request::Builder) -> hyper::http::request::Builder,
    ) -> Result<Request<Full<Bytes>>, Fault> {
        self.request(Method::POST, "/v1/requests", signed.body.clone(), |request| {
            let request = request.header(CONTENT_TYPE, REQUEST_TYPE);
            more(signed.signatures.iter().fold(request, |request, signature| request.header(network::HEADER, signature)))
        })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        more: impl FnOnce(hyper::http::request::Builder) -> hyper::http::request::Builder,
    ) -> Result<Request<Full<Bytes>>, Fault> {
        let host = match &self.way {
            Transport::Socket(_) => "localhost".to_owned(),
            Transport::Network(network) => network.url.authority(),
        };
        more(Request::builder().method(method).uri(path).header(HOST, host))
            .body(Full::new(body))
            .map_err(|err| Fault::Host { act: "put the question", source: err.into() })
    }

    async fn send(&self, request: Request<Full<Bytes>>, limit: Duration) -> Result<Response<Incoming>, Fault> {
        let connect = self.patience.connect;
        let stream = timeout(connect, self.connect()).await.unwrap_or_else(|_| Err(self.unconnected(connect)))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|err| self.broken(err))?;
        // The task ends with the connection; the sender or reader also gets its error.
        tokio::spawn(connection);
        match timeout(limit, sender.send_request(request)).await {
            Ok(answered) => answered.map_err(|err| self.broken(err)),
            Err(_) => Err(self.silent(limit)),
        }
    }

    async fn connect(&self) -> Result<Box<dyn Wire>, Fault> {
        match &self.way {
            Transport::Socket(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(source) => Err(Fault::OutOfReach { address: self.address(), source }),
            },
            Transport::Network(network) => Ok(Box::new(network.connect().await?)),
        }
    }

    async fn understand<T: DeserializeOwned>(&self, response: Response<Incoming>, limit: Duration) -> Result<ApiAnswer<T>, Fault> {
        let status = response.status();
        let again = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let body = match timeout(limit, Limited::new(response.into_body(), MOST_BYTES).collect()).await {
            Ok(read) => read.map_err(|err| self.broken(err))?.to_bytes(),
            Err(_) => return Err(self.silent(limit)),
        };
        let strange = |source| Fault::Strange { address: self.address(), status: status.as_u16(), source };
        if !status.is_success() {
            let problem = serde_json::from_slice::<Problem>(&body);
            return Err(problem.map_or_else(|_| strange(None), |problem| Fault::Refused { problem, again }));
        }
        let view = serde_json::from_slice(&body).map_err(|err| strange(Some(err)))?;
        // A slow answer has empty lines in front: signs of life.
        Ok(ApiAnswer { raw: String::from_utf8_lossy(&body).trim().to_owned(), view })
    }

    fn broken(&self, err: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fault {
        Fault::Broken { address: self.address(), source: err.into() }
    }

    fn silent(&self, after: Duration) -> Fault {
        Fault::Silent { address: self.address(), after }
    }

    /// The fault of a connection that was not made in time: an agent that hangs, or lost packets.
    fn unconnected(&self, after: Duration) -> Fault {
        match &self.way {
            Transport::Socket(_) => self.silent(after),
            Transport::Network(_) => Fault::OutOfReach { address: self.address(), source: io::ErrorKind::TimedOut.into() },
        }
    }

    pub(crate) fn address(&self) -> Address {
        match &self.way {
            Transport::Socket(path) => Address::Socket(path.clone()),
            Transport::Network(network) => network.address(),
        }
    }
}

/// Encodes a text for a path or a query value (RFC 3986: everything but the unreserved characters).
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
