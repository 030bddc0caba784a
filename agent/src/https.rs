//! One call to another host over HTTPS: what reports and key sets need, and no more. No redirect is followed, no cookie is kept; whom the agent talks to is
//! what the operator wrote, and nobody else. A proxy of the environment (`HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, in capitals or not, as curl(1) has them) passes
//! bytes on (CONNECT, RFC 9110, section 9.3.6), and cannot read them.
//!
//! `http://` is for this host itself, where a forge or a receiver may listen without a certificate.

#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{Method, Request, Uri, client};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;

/// How long one address of a name may take to answer before the next one is tried: a host whose IPv6 leads nowhere still has its IPv4.
const ONE_ADDRESS: Duration = Duration::from_secs(5);

/// What is to be asked.
pub(crate) struct Call {
    /// `GET`, `POST`
    pub method: Method,
    /// Where. No sentence of an error repeats more of it than scheme, host and port: some receivers have a secret in the path.
    pub url: String,
    /// Beside `Host`, `User-Agent` and `Content-Length`, which are set here.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// How long everything together may take.
    pub timeout: Duration,
    /// The most bytes of a reply's body. A longer one is an error, but where the status is none of success it is cut there.
    pub most_bytes: usize,
    /// Whose certificates are believed.
    pub roots: Roots,
    /// The proxies, as a rule those of the environment ([`proxies`]).
    pub proxies: Arc<Matcher>,
}

/// The proxies that the environment names.
pub(crate) fn proxies() -> Arc<Matcher> {
    Arc::new(Matcher::from_env())
}

/// The proxy that an address is asked through, by scheme, host and port; what stands before the host is a secret.
pub(crate) fn proxy_of(url: &str) -> Option<String> {
    let address = Address::parse(url).ok().filter(|address| address.tls)?;
    Some(shown_proxy(proxies().intercept(&address.uri)?.uri()))
}

fn shown_proxy(uri: &Uri) -> String {
    let host = uri.authority().map_or("", |authority| authority.as_str().rsplit('@').next().unwrap_or_default());
    format!("{}://{host}", uri.scheme_str().unwrap_or("http"))
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Roots {
    /// Those that the system believes.
    System,
    /// Those in a PEM file, and no others.
    File(PathBuf),
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// The status, a redirect's too.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// The first header of that name, which is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Why there is no reply. No sentence has anything of a header, a body or a path in it.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// The address makes no sense.
    #[error("the address {0}")]
    Address(#[from] BadAddress),
    /// A header cannot be sent.
    #[error("the header {0} has a value that cannot be sent")]
    Header(&'static str),
    /// The file with the certificates cannot be read.
    #[error("the certificates in {} cannot be used", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The system believes nobody.
    #[error("this host has no certificates of authorities: install ca-certificates, or set `ca`")]
    NoRoots,
    /// The name leads nowhere.
    #[error("{at}: the name cannot be looked up")]
    Name {
        /// Scheme, host and port.
        at: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Nobody answers.
    #[error("{at} cannot be reached")]
    Unreached {
        /// Scheme, host and port.
        at: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The proxy does not lead there.
    #[error("{at} cannot be reached through the proxy {proxy}: {why}")]
    Proxy {
        /// Scheme, host and port.
        at: String,
        /// The proxy, without a user and a password.
        proxy: String,
        /// Why not.
        why: String,
    },
    /// There is somebody, and it cannot be made sure who.
    #[error("{at}: no TLS connection can be made")]
    Tls {
        /// Scheme, host and port.
        at: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The connection ended too early, or something else than HTTP came.
    #[error("{at} gave no whole answer")]
    Cut {
        /// Scheme, host and port.
        at: String,
        /// Why not.
        #[source]
        source: hyper::Error,
    },
    /// The body has no bearable size.
    #[error("{at} answered with more than {most} bytes")]
    TooLong {
        /// Scheme, host and port.
        at: String,
        /// The most.
        most: usize,
    },
    /// It took too long.
    #[error("{at} did not answer within {} s", limit.as_secs_f32())]
    TimedOut {
        /// Scheme, host and port.
        at: String,
        /// How long it had.
        limit: Duration,
    },
}

/// Why an address is none that can be called. Readable behind "the address" or a key's name.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum BadAddress {
    /// Not to be read.
    #[error("must be https://host, with a port and a path where they are needed")]
    Unreadable,
    /// A user or a password in it.
    #[error("must have no user and no password in it: it is shown in logs")]
    Userinfo,
    /// Unencrypted, to another host.
    #[error("must begin with https://; http:// is for this host itself, such as http://127.0.0.1:8080")]
    Unencrypted,
}

/// An address, taken apart.
struct Address {
    host: String,
    port: u16,
    tls: bool,
    uri: Uri,
}

impl Address {
    fn parse(url: &str) -> Result<Self, BadAddress> {
        let uri: Uri = url.parse().map_err(|_| BadAddress::Unreadable)?;
        let authority = uri.authority().ok_or(BadAddress::Unreadable)?;
        if authority.as_str().contains('@') {
            return Err(BadAddress::Userinfo);
        }
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(BadAddress::Unreadable),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        // A port that is none (`host:`, `host:x`) reads as no port.
        let has_port = authority.as_str().len() > authority.host().len();
        if host.is_empty() || (has_port && authority.port_u16().is_none_or(|port| port == 0)) || url.contains('#') {
            return Err(BadAddress::Unreadable);
        }
        if !tls && !names_this_host(&host) {
            return Err(BadAddress::Unencrypted);
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { host, port, tls, uri })
    }

    /// Scheme, host and port, for sentences.
    fn shown(&self) -> String {
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}", if self.tls { "https" } else { "http" })
    }
}

fn names_this_host(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether an address can be called, before anything is.
pub(crate) fn check_address(url: &str) -> Result<(), BadAddress> {
    Address::parse(url).map(|_| ())
}

impl Call {
    /// Makes the call, and ends with its time at the latest.
    ///
    /// # Errors
    /// [`CallError`], where there is no whole reply. A reply of whatever status is none.
    pub(crate) async fn send(self) -> Result<Reply, CallError> {
        let address = Address::parse(&self.url)?;
        let (at, limit) = (address.shown(), self.timeout);
        tokio::time::timeout(limit, self.talk(address)).await.unwrap_or(Err(CallError::TimedOut { at, limit }))
    }

    async fn talk(self, address: Address) -> Result<Reply, CallError> {
        if !address.tls {
            let stream = connect(&address.shown(), &address.host, address.port, |found| found.ip().is_loopback()).await?;
            return self.exchange(&address, stream).await;
        }
        match self.proxies.intercept(&address.uri) {
            Some(proxy) => {
                let stream = through(&proxy, &address).await?;
                self.secured(&address, stream).await
            }
            None => {
                let stream = connect(&address.shown(), &address.host, address.port, |_| true).await?;
                self.secured(&address, stream).await
            }
        }
    }

    async fn secured<S>(self, address: &Address, stream: S) -> Result<Reply, CallError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let at = address.shown();
        let unnamed = |_| CallError::Address(BadAddress::Unreadable);
        let name = ServerName::try_from(address.host.clone()).map_err(unnamed)?;
        let config = client_config(self.roots.clone()).await?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|source| CallError::Tls { at, source })?;
        self.exchange(address, stream).await
    }

    async fn exchange<S>(self, address: &Address, stream: S) -> Result<Reply, CallError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let cut = |source| CallError::Cut { at: address.shown(), source };
        let request = self.request(address)?;
        let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(cut)?;
        // It ends with the sender; what goes wrong with it is told to the sender.
        let carried = tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(cut)?;
        let status = answer.status();
        let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = answer.headers().iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
        let mut body = Vec::new();
        let mut frames = answer.into_body();
        while let Some(frame) = frames.frame().await {
            if let Ok(data) = frame.map_err(cut)?.into_data() {
                body.extend(data);
            }
            if body.len() > self.most_bytes {
                if status.is_success() {
                    return Err(CallError::TooLong { at: address.shown(), most: self.most_bytes });
                }
                body.truncate(self.most_bytes);
                break;
            }
        }
        carried.abort();
        Ok(Reply { status: status.as_u16(), headers, body })
    }

    fn request(&self, address: &Address) -> Result<Request<Full<Bytes>>, CallError> {
        let path = address.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = address.uri.authority().map_or("", |authority| authority.as_str());
        let agent = concat!("release-agent/", env!("CARGO_PKG_VERSION"));
        let mut request = Request::builder().method(&self.method).uri(path).header("host", host).header("user-agent", agent);
        for (name, value) in &self.headers {
            let value = hyper::header::HeaderValue::from_str(value).map_err(|_| CallError::Header(name))?;
            request = request.header(*name, value);
        }
        // Not by itself where the body is empty, and some proxies refuse a POST without it (RFC 9110, section 8.6).
        if self.method != Method::GET {
            request = request.header("content-length", self.body.len());
        }
        let body = Full::new(Bytes::copy_from_slice(&self.body));
        request.body(body).map_err(|_| CallError::Address(BadAddress::Unreadable))
    }
}

/// Connects to the first address of a name that answers and that may be used: a name that is said to be this host's may lead elsewhere.
async fn connect(at: &str, host: &str, port: u16, may_be: impl Fn(&SocketAddr) -> bool) -> Result<TcpStream, CallError> {
    let found = lookup_host((host, port)).await.map_err(|source| CallError::Name { at: at.to_owned(), source })?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for found in found.filter(may_be) {
        match tokio::time::timeout(ONE_ADDRESS, TcpStream::connect(found)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(err)) => last = err,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(CallError::Unreached { at: at.to_owned(), source: last })
}

/// A way through a proxy to an address: the proxy passes bytes on, and TLS is spoken through it.
async fn through(proxy: &Intercept, address: &Address) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static + use<>, CallError> {
    let shown = shown_proxy(proxy.uri());
    let failed = |why: String| CallError::Proxy { at: address.shown(), proxy: shown.clone(), why };
    if proxy.uri().scheme_str().is_some_and(|scheme| scheme != "http") {
        return Err(failed("a proxy must be named as http://host:port".to_owned()));
    }
    let host = proxy.uri().host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = connect(&shown, host, proxy.uri().port_u16().unwrap_or(80), |_| true).await?;
    let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|err| failed(err.to_string()))?;
    tokio::spawn(connection.with_upgrades());
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
    let authority = format!("{host}:{}", address.port);
    let mut request = Request::builder().method(Method::CONNECT).uri(&authority).header("host", &authority);
    if let Some(login) = proxy.basic_auth() {
        request = request.header("proxy-authorization", login);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| CallError::Address(BadAddress::Unreadable))?;
    let answer = sender.send_request(request).await.map_err(|err| failed(err.to_string()))?;
    match answer.status() {
        status if status.is_success() => {
            let upgraded = hyper::upgrade::on(answer).await.map_err(|err| failed(err.to_string()))?;
            Ok(TokioIo::new(upgraded))
        }
        hyper::StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            Err(failed("it wants a user and a password: http://USER:PASSWORD@host:port".to_owned()))
        }
        status => Err(failed(format!("it answered {status}"))),
    }
}

/// Read anew for each call: there are few, and an authority that was taken away counts no more.
async fn client_config(roots: Roots) -> Result<Arc<ClientConfig>, CallError> {
    let read = move || {
        let mut store = RootCertStore::empty();
        match roots {
            Roots::System => {
                // Certificates that cannot be used are those of others; the rest will do.
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if store.is_empty() { Err(CallError::NoRoots) } else { Ok(store) }
            }
            Roots::File(path) => {
                let wrong = |source| CallError::Roots { path: path.clone(), source };
                let text = std::fs::read(&path).map_err(wrong)?;
                let found: Vec<CertificateDer<'static>> =
                    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|err| wrong(io::Error::other(err)))?;
                store.add_parsable_certificates(found);
                if store.is_empty() { Err(wrong(io::Error::other("it holds no certificate in PEM form"))) } else { Ok(store) }
            }
        }
    };
    // A thread that panics there is one that has no certificates to give.
    let store = tokio::task::spawn_blocking(read).await.unwrap_or(Err(CallError::NoRoots))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|_| CallError::NoRoots)?;
    let mut config = builder.with_root_certificates(store).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
