//! The control socket: its mode is set before any client can connect. Its own accept loop limits connections, headers and slow clients.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_wire::problem::PROBLEM_TYPE;
use nix::unistd::{Gid, Group, chown, geteuid};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use super::answer::Refused;
use super::connection::{self, MOST_HEADER_BYTES, Seats};
use super::rate_limited_log::RateLimitedLog;
use super::{ApiState, auth, routes, stopped};

/// The most connections at a time.
const MOST_CONNECTIONS: usize = 256;
/// The most of them from one user, so that no user shuts the others out. The agent's own user and root have no limit.
const MOST_OF_ONE: usize = 64;
/// The most clients at a time that get a reason for their refusal; the others are only closed.
const MOST_ON_THE_WAY_OUT: usize = 32;

/// A client that connects too often decides how many of these lines there would be.
static SHUT_OUT: RateLimitedLog = RateLimitedLog::new();

/// Why the socket could not be bound.
#[derive(Debug, Error)]
pub(crate) enum BindError {
    /// Another process serves there.
    #[error("another agent answers on {}", .0.display())]
    Taken(PathBuf),
    /// Something else is at the path.
    #[error("{} is there, and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The path is longer than a socket's may be.
    #[error("the socket path {} is {} bytes long, and unix(7) allows 107", path.display(), path.as_os_str().len())]
    TooLong {
        /// The intended path of the socket.
        path: PathBuf,
    },
    /// A network address.
    #[error("cannot listen on {address}")]
    Network {
        address: std::net::SocketAddr,
        /// The cause from the system.
        #[source]
        source: io::Error,
    },
    /// There is no group with this name.
    #[error("the group {0}, which socket_group names, does not exist")]
    NoGroup(String),
    /// A system call failed.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// The failed action, as a verb: `bind`.
        act: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The bound socket. Dropping it removes its file, unless the service manager holds the socket.
#[derive(Debug)]
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: Option<PathBuf>,
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // The next start finds a leftover file stale, and replaces it.
            let _ = fs::remove_file(path);
        }
    }
}

impl ControlSocket {
    /// A socket that the service manager listens on already; its mode and its group are those of the socket unit.
    pub(crate) fn inherited(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, path: None })
    }

    /// Binds `path`. Members of `group` may connect, or only the agent's own user. It replaces a stale socket, but never a live one.
    pub(crate) async fn bind(path: &Path, group: Option<&str>) -> Result<Self, BindError> {
        let told = |act: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| BindError::Io { act, path, source }
        };
        if path.as_os_str().len() > 107 {
            return Err(BindError::TooLong { path: path.to_owned() });
        }
        let dir = path.parent().unwrap_or(Path::new("/"));
        let dir_mode = if group.is_some() { 0o755 } else { 0o700 };
        fs::DirBuilder::new().recursive(true).mode(dir_mode).create(dir).map_err(told("make", dir))?;
        match fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
            Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(BindError::Taken(path.to_owned())),
            Ok(_) => fs::remove_file(path).map_err(told("remove the stale socket", path))?,
            Err(_) => {}
        }
        // Bound under another name and renamed, so that no client can connect before its mode is set.
        let temporary = dir.join(format!(".control.{}", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let listener = UnixListener::bind(&temporary).map_err(told("bind", &temporary))?;
        let mode = match group {
            Some(name) => {
                let found = Group::from_name(name).map_err(io::Error::from).map_err(told("look up the group of", path))?;
                let gid: Gid = found.ok_or_else(|| BindError::NoGroup(name.to_owned()))?.gid;
                chown(&temporary, None, Some(gid)).map_err(io::Error::from).map_err(told("give to the group", &temporary))?;
                0o660
            }
            None => 0o600,
        };
        fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)).map_err(told("set the mode of", &temporary))?;
        fs::rename(&temporary, path).map_err(told("rename to", path))?;
        Ok(Self { listener, path: Some(path.to_owned()) })
    }
}

/// Serves until `stop` is set; then open streams end, and current answers are finished.
pub(crate) async fn serve(socket: ControlSocket, state: ApiState, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let seats = Seats::default();
    let on_the_way_out = Arc::new(Semaphore::new(MOST_ON_THE_WAY_OUT));
    let away = |stream, whose| {
        if let Ok(place) = on_the_way_out.clone().try_acquire_owned() {
            tokio::spawn(async move {
                turn_away(stream, whose).await;
                drop(place);
            });
        }
    };
    let router = routes::router(state, stop.clone());
    loop {
        let accepted = tokio::select! {
            accepted = socket.listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
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
        let Ok(place) = places.clone().try_acquire_owned() else {
            if let Some(untold) = SHUT_OUT.tells() {
                tracing::warn!(untold, "{MOST_CONNECTIONS} connections are open; one more is turned away");
            }
            away(stream, format!("there are {MOST_CONNECTIONS}"));
            continue;
        };
        // Clients whom the kernel does not name share one set of seats.
        let uid = stream.peer_cred().map_or(u32::MAX, |credentials| credentials.uid());
        let most = if uid == 0 || uid == geteuid().as_raw() { usize::MAX } else { MOST_OF_ONE };
        let Some(seat) = seats.take(uid, most) else {
            if let Some(untold) = SHUT_OUT.tells() {
                tracing::warn!(untold, uid, "one user has {MOST_OF_ONE} connections open; one more is turned away");
            }
            away(stream, format!("you have {MOST_OF_ONE}"));
            continue;
        };
        let router = router.clone();
        let stop = stop.clone();
        tokio::spawn(async move {
            let (_place, _seat) = (place, seat);
            let router = match auth::peer::of(&stream) {
                Ok(caller) => router.layer(axum::Extension(auth::Peer::Local(caller))),
                Err(err) => {
                    static UNKNOWN: RateLimitedLog = RateLimitedLog::new();
                    if let Some(untold) = UNKNOWN.tells() {
                        tracing::warn!(untold, "nobody knows who connected: {err}");
                    }
                    routes::nobody(&format!("nobody knows who asks: {err}"))
                }
            };
            connection::serve(Box::pin(connection::impatient(stream)), router, stop).await;
        });
    }
    // Streams end by themselves now; the others end with the process after a moment.
    let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(Duration::from_secs(2), places.acquire_many(all)).await;
}

/// Reads the request before it answers with the reason: a client that gets an answer before it has sent its request takes it for an error.
async fn turn_away(mut stream: UnixStream, whose: String) {
    let Refused(problem) = Refused::crowded(&whose);
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let head = format!("HTTP/1.1 503 Service Unavailable\r\nContent-Type: {PROBLEM_TYPE}\r\nContent-Length: {}\r\n", body.len());
    let answer = format!("{head}Connection: close\r\n\r\n{body}");
    let told = async {
        let mut asked = [0; 4096];
        // The content of the request makes no difference to the answer.
        let _heard = stream.read(&mut asked).await?;
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // Unread data would reset the connection before the client reads the answer.
        tokio::io::copy(&mut (&mut stream).take(MOST_HEADER_BYTES as u64), &mut tokio::io::sink()).await
    };
    // The client may be gone.
    let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
}
