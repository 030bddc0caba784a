//! Health checks: one request on a new connection, over TCP or a Unix socket, and what the answer must be.

mod error;
mod exchange;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_model::names::{CommitId, ReleaseName};
use thiserror::Error;

use crate::process::Watch;
pub(crate) use error::{CheckError, Wrong};

/// A body is read so far and no farther.
const MOST_BODY_BYTES: usize = 1024 * 1024;
/// The longest path that a Unix socket may have: unix(7), 108 bytes with the final NUL.
pub(crate) const MOST_SOCKET_PATH: usize = 107;

/// A health check, as `[[check]]` sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    /// Where to ask.
    pub target: Target,
    /// The path and query, beginning with a slash.
    pub path: String,
    /// Headers of the request; `Host` is among them where it is set.
    pub headers: Vec<(String, String)>,
    /// The status that the answer must have.
    pub status: u16,
    /// What the body must contain.
    pub contains: Option<String>,
    /// What the header `Location` must be, for a check that expects a redirect.
    pub location: Option<String>,
    /// Headers that the answer must have, with their values.
    pub expect_headers: Vec<(String, String)>,
    /// A header of the answer that must name the release: its name, its commit, or at least the commit's first seven digits.
    pub release_header: Option<String>,
    /// How long one answer may take.
    pub timeout: Duration,
    /// How long the check is tried until it passes for the first time.
    pub within: Duration,
    /// How long it must go on passing.
    pub stable_for: Duration,
}

/// Where a check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A host and a port.
    Tcp(String, u16),
    /// A Unix socket that speaks HTTP.
    Unix(PathBuf),
    /// A Unix socket that speaks uwsgi's own protocol, as nginx's `uwsgi_pass` does.
    Uwsgi(PathBuf),
}

/// The release that an answer must come from, where the check can tell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    /// Its name.
    pub name: &'a ReleaseName,
    /// Its commit.
    pub commit: &'a CommitId,
}

/// An answer that was as it should be.
#[derive(Debug, Clone)]
pub(crate) struct CheckAnswer {
    /// Its status.
    pub status: u16,
    /// How long it took.
    pub took: Duration,
    /// What it said of the release, where it was asked for that.
    pub release: Option<String>,
}

/// Why a text is not the address of a check. It never repeats the text, which may hold a password where none belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum BadUrl {
    /// TLS.
    #[error(
        "asks over TLS, and a check asks the server itself: write http:// and its own address, with headers = {{ X-Forwarded-Proto = \"https\" }}"
    )]
    Https,
    /// Another scheme, or none.
    #[error("must begin with http://, unix:/ or uwsgi:/")]
    Scheme,
    /// Something else, readable after the text.
    #[error("{0}")]
    Part(&'static str),
}

impl Target {
    /// The target, and the path with its query, of `http://host:port/path?query`, `unix:/run/x.sock`, `unix:/run/x.sock:/path` (nginx's form), or
    /// `uwsgi:/run/x.sock:/path`.
    ///
    /// # Errors
    /// [`BadUrl`] when it is none of these.
    pub(crate) fn parse(url: &str) -> Result<(Self, String), BadUrl> {
        if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(BadUrl::Part("has white space or a control character in it"));
        }
        if url.contains('#') {
            return Err(BadUrl::Part("has a fragment (#), which no server is ever told"));
        }
        if !url.is_ascii() {
            return Err(BadUrl::Part("has a character that is not ASCII: write it percent-encoded"));
        }
        if let Some(rest) = url.strip_prefix("unix:").or_else(|| url.strip_prefix("http://unix:")) {
            return parse_socket(rest).map(|(socket, path)| (Self::Unix(socket), path)).map_err(BadUrl::Part);
        }
        if let Some(rest) = url.strip_prefix("uwsgi:") {
            return parse_socket(rest).map(|(socket, path)| (Self::Uwsgi(socket), path)).map_err(BadUrl::Part);
        }
        if url.starts_with("https://") {
            return Err(BadUrl::Https);
        }
        let Some(rest) = url.strip_prefix("http://") else { return Err(BadUrl::Scheme) };
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err(BadUrl::Part("has a user in it: put an Authorization header into headers instead"));
        }
        let (host, port) = parse_authority(authority).map_err(BadUrl::Part)?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok((Self::Tcp(host, port), path))
    }

    /// What `Host` says when nothing else is set.
    fn host(&self) -> String {
        match self {
            Self::Tcp(host, 80) => bracketed(host),
            Self::Tcp(host, port) => format!("{}:{port}", bracketed(host)),
            Self::Unix(_) | Self::Uwsgi(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(..) => write!(formatter, "http://{}", self.host()),
            Self::Unix(socket) => write!(formatter, "unix:{}:", socket.display()),
            Self::Uwsgi(socket) => write!(formatter, "uwsgi:{}:", socket.display()),
        }
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn parse_socket(rest: &str) -> Result<(PathBuf, String), &'static str> {
    let (socket, path) = rest.split_once(':').unwrap_or((rest, "/"));
    if !socket.starts_with('/') {
        return Err("must name its socket by an absolute path");
    }
    if socket.len() > MOST_SOCKET_PATH {
        return Err("names a socket by more than the 107 bytes that Linux allows");
    }
    if !path.starts_with('/') {
        return Err("must have a path that begins with a slash behind the socket and a colon");
    }
    Ok((socket.into(), path.to_owned()))
}

fn parse_authority(authority: &str) -> Result<(String, u16), &'static str> {
    let number = |port: &str| port.parse().ok().filter(|port| *port != 0).ok_or("has a port that is not a number from 1 to 65535");
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("has a bracket that is never closed")?;
        if !host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) {
            return Err("has something in brackets that is no IPv6 address");
        }
        let port = port.strip_prefix(':').map_or(if port.is_empty() { Ok(80) } else { Err("has something behind its bracket") }, number)?;
        return Ok((host.to_owned(), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, number(port)?),
        None => (authority, 80),
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if host.is_empty() || !host.bytes().all(fits) {
        return Err("must name a host behind http://");
    }
    Ok((host.to_owned(), port))
}

impl Check {
    /// The same question to another target: same headers, and the same `Host` as before.
    pub(crate) fn at(&self, target: Target) -> Self {
        let mut check = self.clone();
        if !check.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            check.headers.push(("Host".to_owned(), self.target.host()));
        }
        check.target = target;
        check
    }

    /// What is asked, for people.
    pub(crate) fn shown(&self) -> String {
        format!("GET {}{}", self.target, self.path)
    }

    /// Asks once, on a new connection. The watch bounds it, and can end it.
    ///
    /// # Errors
    /// [`CheckError`] with the first thing about the answer that is not as it should be.
    pub(crate) fn ask(&self, expected: Option<Expected<'_>>, watch: &Watch<'_>) -> Result<CheckAnswer, CheckError> {
        let begun = Instant::now();
        let judged = exchange::exchange(self, watch).and_then(|reply| self.check(&reply, expected));
        match judged {
            Ok((status, release)) => Ok(CheckAnswer { status, took: begun.elapsed(), release }),
            Err(wrong) => Err(CheckError { asked: self.shown(), wrong }),
        }
    }

    fn check(&self, reply: &Reply, expected: Option<Expected<'_>>) -> Result<(u16, Option<String>), Wrong> {
        let text = || reply.text();
        if reply.status != self.status {
            let location = reply.header("location").map(str::to_owned);
            return Err(Wrong::Status { got: reply.status, wanted: self.status, location, body: text() });
        }
        let must_be = |name: &str, wanted: &str| match reply.header(name) {
            Some(got) if got == wanted => Ok(()),
            got => Err(Wrong::Header { name: name.to_owned(), got: got.map(str::to_owned), wanted: wanted.to_owned() }),
        };
        if let Some(location) = &self.location {
            must_be("Location", location)?;
        }
        for (name, wanted) in &self.expect_headers {
            must_be(name, wanted)?;
        }
        if let Some(wanted) = &self.contains
            && !String::from_utf8_lossy(&reply.body).contains(wanted.as_str())
        {
            return Err(Wrong::Lacks { wanted: wanted.clone(), body: text() });
        }
        let Some(name) = &self.release_header else { return Ok((reply.status, None)) };
        let got = reply.header(name).map(str::to_owned);
        match (expected, got) {
            (Some(expected), Some(got)) if !expected.is_named_by(&got) => Err(Wrong::Release { got, wanted: expected.name.clone() }),
            (Some(expected), None) => Err(Wrong::Nameless { header: name.clone(), wanted: expected.name.clone() }),
            (_, got) => Ok((reply.status, got)),
        }
    }
}

impl Expected<'_> {
    /// Whether a header's value means this release: its name, its commit, or the first digits of its commit, seven at the least.
    fn is_named_by(&self, value: &str) -> bool {
        let value = value.trim();
        value == self.name.as_str() || value.len() >= 7 && self.commit.as_str().starts_with(&value.to_ascii_lowercase())
    }
}

/// What came back.
#[derive(Debug, Default)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The first 200 characters of the body's text: without tags, white space drawn together.
    fn text(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let body = if body.trim_start().starts_with('<') { without_tags(&body) } else { body.into_owned() };
        let words: Vec<&str> = body.split_whitespace().collect();
        words.join(" ").chars().filter(|c| !c.is_control()).take(200).collect()
    }
}

/// The text between tags, without the contents of `style` and `script`.
fn without_tags(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        text.push(' ');
        let lower: String = tag.chars().take(8).collect::<String>().to_ascii_lowercase();
        let end = ["style", "script"].iter().find(|name| lower.starts_with(**name)).and_then(|name| tag.find(&format!("</{name}")));
        let tag = end.map_or(tag, |end| &tag[end..]);
        rest = tag.split_once('>').map_or("", |(_, rest)| rest);
    }
    text + rest
}

/// The socket that a path leads to, as something to connect to that leads nowhere else by then. The directory may be the app's: whoever connects for it to
/// a socket of the agent's own grants (its helpers, its runners) does what that socket is for.
///
/// # Errors
/// As open(2), and [`io::ErrorKind::PermissionDenied`] for those sockets.
pub(crate) fn socket_at(path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    use std::os::unix::fs::OpenOptionsExt;
    let socket = fs::OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(path)?;
    let by_number = PathBuf::from(format!("/proc/self/fd/{}", socket.as_raw_fd()));
    let real = fs::read_link(&by_number)?;
    if is_grant(&real) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it leads to {}", real.display())));
    }
    Ok((socket.into(), by_number))
}

fn is_grant(socket: &Path) -> bool {
    NOT_AN_APPS.iter().any(|dir| socket.starts_with(dir))
}

/// Where the agent's own grants listen.
const NOT_AN_APPS: [&str; 3] = ["/run/release-agent", "/run/release-agent-helpers", "/run/release-agent-steps"];

/// Whether anybody listens at a Unix socket. It never waits: a queue that is full (EAGAIN, connect(2)) is somebody's who listens, and hangs.
pub(crate) fn listens(socket: &Path) -> bool {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket as new_socket};
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let Ok((_socket, real)) = socket_at(socket) else { return false };
    let connected = new_socket(AddressFamily::Unix, SockType::Stream, flags, None).and_then(|stream| {
        let address = UnixAddr::new(&real)?;
        connect(stream.as_raw_fd(), &address)
    });
    matches!(connected, Ok(()) | Err(nix::Error::EAGAIN))
}
