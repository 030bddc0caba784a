//! The API on the network: TLS 1.2 and 1.3 on the addresses of `[https]` and on inherited sockets of the service manager. A client is unknown until a
//! request proves its sender. The certificate is looked up for each handshake, so a renewed file takes effect at once.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use super::connection::{self, Seats};
use super::rate_limited_log::RateLimitedLog;
use super::socket::BindError;
use super::{ApiState, auth, routes, stopped};
use crate::settings::watch::InForce;

/// The most connections at a time.
const MOST_CONNECTIONS: usize = 512;
/// The most of them from one address, or from the 64 bits of IPv6 that one network has, so that no client shuts the others out.
const MOST_OF_ONE: usize = 128;
/// The most of them from the 48 bits of IPv6 that one site has (RFC 6177): it has 65,536 networks.
const MOST_OF_A_SITE: usize = 256;
/// The most of them from an address of `proxies`, because a proxy stands for many clients.
const MOST_OF_A_PROXY: usize = 448;
/// The most handshakes at a time; each costs a signature.
const MOST_HANDSHAKES: usize = 64;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The certificate that is in force.
struct InForceCertificate(InForce);

impl fmt::Debug for InForceCertificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("InForceCertificate")
    }
}

impl ResolvesServerCert for InForceCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.material().certificate.as_ref().map(|certificate| certificate.certified.clone())
    }
}

/// Bound sockets that do not serve yet.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    ours: BTreeMap<SocketAddr, TcpListener>,
    inherited: Vec<TcpListener>,
}

impl Bound {
    /// Binds the addresses of the settings, beside the sockets that the service manager holds.
    pub(crate) fn bind(settings: &InForce, inherited: Vec<std::net::TcpListener>) -> Result<Self, BindError> {
        let wanted = settings.settings().agent.https.as_ref().map(|https| https.listen.clone()).unwrap_or_default();
        let mut bound = Self::default();
        for address in wanted {
            bound.ours.insert(address, listen(address).map_err(|source| BindError::Network { address, source })?);
        }
        for listener in inherited {
            let address = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
            let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
            bound.inherited.push(listener.map_err(|source| BindError::Network { address, source })?);
        }
        Ok(bound)
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    // The standard library sets SO_REUSEADDR, so that a restart need not wait for old connections (tcp(7)).
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// The state that all listeners share.
#[derive(Clone)]
struct Hall {
    config: Arc<ServerConfig>,
    router: axum::Router,
    places: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    seats: Seats<Network>,
    settings: InForce,
}

/// Serves until `stop` is set. It binds and drops addresses as the settings change.
pub(crate) async fn serve(bound: Bound, state: ApiState, mut stop: watch::Receiver<bool>) {
    let Ok(config) = config(state.settings.clone()) else {
        return tracing::error!("TLS cannot be set up: nobody is answered on the network");
    };
    let hall = Hall {
        config,
        router: routes::router(state.clone(), stop.clone()).layer(axum::Extension(auth::Peer::Network)),
        places: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        handshakes: Arc::new(Semaphore::new(MOST_HANDSHAKES)),
        seats: Seats::default(),
        settings: state.settings.clone(),
    };
    let stopping = stop.clone();
    let begin = |listener: TcpListener| -> JoinHandle<()> { tokio::spawn(accept(listener, hall.clone(), stopping.clone())) };
    let inherited: Vec<_> = bound.inherited.into_iter().map(begin).collect();
    let mut ours: BTreeMap<SocketAddr, JoinHandle<()>> =
        bound.ours.into_iter().map(|(address, listener)| (address, begin(listener))).collect();
    for address in ours.keys() {
        tracing::info!("listening on {address}");
    }
    let mut changes = state.settings.follow();
    loop {
        let wanted = changes.borrow_and_update().agent.https.as_ref().map(|https| https.listen.clone()).unwrap_or_default();
        for (address, task) in ours.extract_if(.., |address, _| !wanted.contains(address)) {
            tracing::info!("no longer listening on {address}");
            task.abort();
        }
        for address in wanted {
            if ours.contains_key(&address) {
                continue;
            }
            match listen(address) {
                Ok(listener) => {
                    tracing::info!("listening on {address}");
                    ours.insert(address, begin(listener));
                }
                Err(err) => tracing::error!("cannot listen on {address}, and will not until the settings change again: {err}"),
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { break },
            () = stopped(&mut stop) => break,
        }
    }
    for task in ours.into_values().chain(inherited) {
        task.abort();
    }
    // Streams end by themselves now; the others end with the process after a moment.
    let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
    let _ = timeout(Duration::from_secs(2), hall.places.acquire_many(all)).await;
}

fn config(settings: InForce) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_protocol_versions(&[&TLS13, &TLS12])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(InForceCertificate(settings)));
    // HTTP/2 is off: its floods (rapid reset, continuation) have no target here.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

async fn accept(listener: TcpListener, hall: Hall, stop: watch::Receiver<bool>) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(err) => {
                // Out of descriptors: the used ones will be freed.
                static UNACCEPTED: RateLimitedLog = RateLimitedLog::new();
                if let Some(untold) = UNACCEPTED.tells() {
                    tracing::warn!(untold, "a connection could not be accepted: {err}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Closed without an answer: an unknown client gets none before the handshake, and handshakes are the scarce resource.
        let proxies = hall.settings.settings().agent.https.as_ref().map(|https| https.proxies.clone()).unwrap_or_default();
        let seats: Option<Vec<_>> =
            seats_of(address.ip(), &proxies).into_iter().map(|(network, most)| hall.seats.take(network, most)).collect();
        let (Ok(place), Some(seats)) = (hall.places.clone().try_acquire_owned(), seats) else {
            static SHUT_OUT: RateLimitedLog = RateLimitedLog::new();
            if let Some(untold) = SHUT_OUT.tells() {
                tracing::warn!(untold, "a connection from {address} is turned away: too many are open, in all or from there");
            }
            continue;
        };
        let (hall, stop) = (hall.clone(), stop.clone());
        tokio::spawn(async move {
            let (_place, _seats) = (place, seats);
            welcome(stream, address, hall, stop).await;
        });
    }
}

async fn welcome(stream: TcpStream, address: SocketAddr, hall: Hall, stop: watch::Receiver<bool>) {
    // Events are small and wanted at once.
    let _ = stream.set_nodelay(true);
    let shaken = timeout(HANDSHAKE_TIMEOUT, async {
        // A silent client takes no turn: turns are for the signature that an answer costs.
        let hello = LazyConfigAcceptor::new(Acceptor::default(), Box::pin(connection::impatient(stream))).await?;
        let _turn = hall.handshakes.acquire().await.map_err(io::Error::other)?;
        hello.into_stream(hall.config).await
    });
    match shaken.await {
        Ok(Ok(stream)) => connection::serve(stream, hall.router, stop).await,
        Ok(Err(err)) => tracing::debug!("no handshake with {address}: {err}"),
        Err(_) => tracing::debug!("no handshake with {address} within {} s", HANDSHAKE_TIMEOUT.as_secs()),
    }
}

/// The owner of a seat: an address, or the first bits of one.
type Network = (IpAddr, u8);

/// The seats that a connection takes, each with its network's limit.
fn seats_of(address: IpAddr, proxies: &[IpAddr]) -> Vec<(Network, usize)> {
    let address = address.to_canonical();
    if proxies.iter().any(|proxy| proxy.to_canonical() == address) {
        return vec![((address, 128), MOST_OF_A_PROXY)];
    }
    match address {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            let network = |d: u16, bits| (IpAddr::from([a, b, c, d, 0, 0, 0, 0]), bits);
            vec![(network(d, 64), MOST_OF_ONE), (network(0, 48), MOST_OF_A_SITE)]
        }
        address => vec![((address, 32), MOST_OF_ONE)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_site_of_ipv6_cannot_take_every_seat_and_a_proxy_has_more_than_others() {
        let seats = Seats::default();
        let open = |address: String, proxies: &[IpAddr]| {
            let address = address.parse().unwrap();
            seats_of(address, proxies).into_iter().map(|(network, most)| seats.take(network, most)).collect::<Option<Vec<_>>>()
        };
        // Each connection comes from another network of the same site.
        let held: Vec<_> = (0..MOST_CONNECTIONS).filter_map(|n| open(format!("2001:db8:1:{n:x}::1"), &[])).collect();
        assert_eq!(held.len(), MOST_OF_A_SITE);
        let one: Vec<_> = (0..MOST_CONNECTIONS).filter_map(|n| open(format!("2001:db8:2:7::{n:x}"), &[])).collect();
        assert_eq!(one.len(), MOST_OF_ONE);
        assert!(open("2001:db8:2:8::1".to_owned(), &[]).is_some(), "another network of that site has room");
        let proxy: IpAddr = "10.0.0.5".parse().unwrap();
        let by_proxy: Vec<_> = (0..MOST_CONNECTIONS).filter_map(|_| open("::ffff:10.0.0.5".to_owned(), &[proxy])).collect();
        assert_eq!(by_proxy.len(), MOST_OF_A_PROXY);
        drop(held);
        assert!(open("2001:db8:1:ffff::1".to_owned(), &[]).is_some(), "seats are free again");
    }
}
