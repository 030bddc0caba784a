//! One HTTP request and its answer, over TCP or a Unix socket.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Where to ask.
#[derive(Debug, Clone)]
pub enum Place {
    /// A port of the loopback interface.
    Port(u16),
    /// A Unix socket.
    Socket(PathBuf),
    /// TLS on a port of the loopback interface.
    Tls {
        /// The port.
        port: u16,
        /// The name that the certificate must be for.
        host: String,
        /// The certificates that are trusted.
        ca: PathBuf,
    },
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body; bytes that are not UTF-8 are replaced.
    pub body: String,
}

impl Answer {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Asks for `path`.
pub fn get(place: &Place, path: &str) -> io::Result<Answer> {
    request(place, "GET", path, &[], "")
}

/// Sends a request on a connection of its own, and reads the answer to its end.
pub fn request(place: &Place, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> io::Result<Answer> {
    const MOST: Duration = Duration::from_secs(60);
    match place {
        Place::Port(port) => {
            let stream = TcpStream::connect(("127.0.0.1", *port))?;
            stream.set_read_timeout(Some(MOST))?;
            stream.set_write_timeout(Some(MOST))?;
            exchange(stream, method, path, headers, body)
        }
        Place::Socket(socket) => {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(MOST))?;
            stream.set_write_timeout(Some(MOST))?;
            exchange(stream, method, path, headers, body)
        }
        Place::Tls { port, host, ca } => exchange(crate::network::tls(*port, host, ca, &[])?, method, path, headers, body),
    }
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> io::Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str("Host: localhost\r\n");
    }
    if !body.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    let mut bytes = Vec::new();
    // A peer that is done may close without the farewell of TLS; what it said is whole or not by its own length.
    match stream.read_to_end(&mut bytes) {
        Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => {}
        read => drop(read?),
    }
    parse(&bytes)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no HTTP answer: {:?}", String::from_utf8_lossy(&bytes))))
}

pub(crate) fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let body = &bytes[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    let headers: Vec<_> =
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
    let is = |name: &str, wanted: &str| headers.iter().any(|(key, value)| key == name && value.eq_ignore_ascii_case(wanted));
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse::<usize>().ok());
    let body = match length {
        _ if is("transfer-encoding", "chunked") => unchunk(body)?,
        // An answer that was cut off is no answer.
        Some(length) if body.len() < length => return None,
        Some(length) => body[..length].to_vec(),
        None => body.to_vec(),
    };
    Some(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

fn unchunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let line_end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..line_end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        bytes = &bytes[line_end + 2..];
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn answer_once(mut stream: impl Read + Write, answer: &str) -> String {
        let mut heard = Vec::new();
        while !heard.windows(4).any(|window| window == b"\r\n\r\n") {
            let mut chunk = [0; 1024];
            match stream.read(&mut chunk).unwrap() {
                0 => break,
                count => heard.extend_from_slice(&chunk[..count]),
            }
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(heard).unwrap()
    }

    #[test]
    fn it_asks_over_tcp_and_over_a_unix_socket() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            answer_once(
                listener.accept().unwrap().0,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            )
        });
        let answer = get(&Place::Port(port), "/x?y").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "abcde"));
        assert!(server.join().unwrap().starts_with("GET /x?y HTTP/1.1\r\n"));

        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            answer_once(listener.accept().unwrap().0, "HTTP/1.0 404 Not Found\r\nX-Release: v1\r\nContent-Length: 2\r\n\r\nnojunk")
        });
        let answer = request(&Place::Socket(socket), "GET", "/", &[("Host", "shop.example.com")], "").unwrap();
        assert_eq!((answer.status, answer.body.as_str(), answer.header("x-release")), (404, "no", Some("v1")));
        assert!(server.join().unwrap().contains("\r\nHost: shop.example.com\r\n"));
    }

    #[test]
    fn an_answer_that_was_cut_off_is_an_error() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        ] {
            assert!(parse(text.as_bytes()).is_none(), "{text:?}");
        }
    }
}
