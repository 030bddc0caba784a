//! One connection over any transport: HTTP/1.1 with limits on headers and on slow clients, both ways.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_io_timeout::TimeoutStream;

use super::lines::StrictLines;
use super::stopped;

/// How long a client may take to send its headers, or to begin the next request on the same connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes that are read ahead of a client: headers must fit (hyper counts them in its read buffer).
pub(super) const MOST_HEADER_BYTES: usize = 16 * 1024;
/// The most headers of a request.
const MOST_HEADERS: usize = 100;
/// How long a client may leave its answer unread. A client that follows a run and comes back later continues from its cursor.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// A stream whose writes time out.
pub(super) fn impatient<S: AsyncRead + AsyncWrite>(stream: S) -> TimeoutStream<S> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    stream
}

/// Serves the connection until either side ends it, or `stop` is set; then the current answer is finished.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, router: Router, mut stop: watch::Receiver<bool>) {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MOST_HEADER_BYTES)
        .max_headers(MOST_HEADERS)
        .half_close(true);
    let connection = builder.serve_connection(TokioIo::new(StrictLines::new(stream)), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = ended {
        tracing::debug!("a connection ended early: {err}");
    }
}

/// How many connections each client has.
#[derive(Debug, Clone)]
pub(super) struct Seats<K: Ord>(Arc<Mutex<BTreeMap<K, usize>>>);

impl<K: Ord> Default for Seats<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One connection's seat; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Seat<K: Ord> {
    seats: Arc<Mutex<BTreeMap<K, usize>>>,
    whose: K,
}

impl<K: Ord + Copy> Seats<K> {
    /// Takes a seat for a client, unless it has `most` already.
    pub(super) fn take(&self, whose: K, most: usize) -> Option<Seat<K>> {
        let mut seats = self.0.lock();
        let taken = seats.entry(whose).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        drop(seats);
        Some(Seat { seats: self.0.clone(), whose })
    }
}

impl<K: Ord> Drop for Seat<K> {
    fn drop(&mut self) {
        let mut seats = self.seats.lock();
        if let Some(taken) = seats.get_mut(&self.whose) {
            *taken = taken.saturating_sub(1);
        }
        seats.retain(|_, taken| *taken > 0);
    }
}
