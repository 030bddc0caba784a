//! The network transport: requests that name their host and time, with a signature of each key; TLS, and the detection of a dead peer.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent_model::names::HostId;
use agent_model::request::Right;
use agent_wire::form::Form;
use bytes::Bytes;
use chrono::Utc;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::address::{Address, Url};
use crate::fault::Fault;
use crate::key::{Key, KeyError};
use crate::tls::Distrust;

/// The header's name in output for people, with the usual capitals.
pub(crate) const HEADER: &str = "Agent-Signature";
/// How long a request is valid.
const VALID: Duration = Duration::from_secs(300);

/// After this many seconds without data, the kernel probes the other side.
const KEEPALIVE_IDLE: u32 = 20;
/// It repeats the probe after so many seconds,
const KEEPALIVE_INTERVAL: u32 = 5;
/// and gives up after so many probes.
const KEEPALIVE_COUNT: u32 = 4;

/// An agent on the network, and the keys that sign.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    pub(crate) url: Url,
    /// The host's name in requests.
    pub(crate) host: HostId,
    /// The keys that sign each request.
    pub(crate) keys: Arc<Vec<Key>>,
    /// The file with the trusted certificates, if one was given.
    pub(crate) ca: Option<PathBuf>,
    /// The TLS settings of connections.
    pub(crate) tls: Arc<ClientConfig>,
}

/// A request in its final form, for any number of attempts.
#[derive(Debug, Clone)]
pub(crate) struct Signed {
    pub(crate) body: Bytes,
    /// The value of the header, for each key.
    pub(crate) signatures: Vec<String>,
}

impl Signed {
    /// A request that needs no signature.
    pub(crate) fn unsigned(form: &Form) -> Result<Self, Fault> {
        let body = serde_json::to_vec(form).map_err(|err| Fault::Host { act: "write the request", source: err.into() })?;
        Ok(Self { body: body.into(), signatures: Vec::new() })
    }

    /// A request for these hosts from now on, signed with each key.
    pub(crate) fn by(keys: &[Key], mut form: Form, hosts: &[HostId], valid: Duration) -> Result<Self, Fault> {
        let now = u64::try_from(Utc::now().timestamp()).unwrap_or_default();
        form.aud = Some(hosts.iter().map(ToString::to_string).collect());
        form.iat = Some(now);
        form.exp = Some(now + valid.as_secs());
        let unsigned = Self::unsigned(&form)?;
        let signatures = keys.iter().map(|key| Ok(key.sign(&unsigned.body)?.to_base64())).collect::<Result<_, KeyError>>()?;
        Ok(Self { signatures, ..unsigned })
    }
}

impl Network {
    /// Signs a request for this agent. It runs in a blocking task, because a person may have to touch a key.
    pub(super) async fn sign(&self, form: Form) -> Result<Signed, Fault> {
        let (keys, hosts) = (self.keys.clone(), [self.host.clone()]);
        let signing = tokio::task::spawn_blocking(move || Signed::by(&keys, form, &hosts, VALID));
        signing.await.unwrap_or_else(|err| Err(Fault::Host { act: "sign the request", source: err.into() }))
    }

    pub(super) fn address(&self) -> Address {
        Address::Network(self.url.clone())
    }

    pub(super) async fn connect(&self) -> Result<TlsStream<TcpStream>, Fault> {
        let Url { host, port } = &self.url;
        let tcp =
            TcpStream::connect((host.as_str(), *port)).await.map_err(|source| Fault::OutOfReach { address: self.address(), source })?;
        // Without keepalive a loss is only noticed later.
        let _ = keep_alive(&tcp);
        let _ = tcp.set_nodelay(true);
        let name = ServerName::try_from(host.clone()).map_err(|err| Fault::Host { act: "look the host up", source: err.into() })?;
        TlsConnector::from(self.tls.clone()).connect(name, tcp).await.map_err(|err| self.not_secure(err))
    }

    /// The fault of a failed handshake: the other side is not trusted, or the connection broke.
    fn not_secure(&self, err: io::Error) -> Fault {
        match err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(err) => {
                let why = Distrust::of(err);
                let source = (!matches!(why, Distrust::Issuer | Distrust::NoTls)).then(|| err.clone());
                Fault::Untrusted { address: self.address(), why, ca: self.ca.clone(), source }
            }
            None => Fault::Broken { address: self.address(), source: err.into() },
        }
    }
}

fn keep_alive(tcp: &TcpStream) -> nix::Result<()> {
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
    setsockopt(tcp, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
    setsockopt(tcp, sockopt::TcpKeepCount, &KEEPALIVE_COUNT)
}

/// 128 random bits, unique to this request.
pub(crate) fn nonce() -> Result<String, Fault> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|err| Fault::Host { act: "draw a random number", source: err.into() })?;
    Ok(hex::encode(bytes))
}

/// The request to read a path.
pub(crate) fn form_for(path: &str) -> Result<Form, Fault> {
    Ok(Form { path: Some(path.to_owned()), ..Form::new("", Right::Read, nonce()?) })
}
