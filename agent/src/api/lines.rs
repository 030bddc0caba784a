//! Strict line ends of HTTP/1.1: a header line ends with CR and LF, and never with a bare LF. RFC 9112, section 2.2, lets a recipient accept a bare
//! LF. But a proxy in front may read it differently, and then the two disagree on where a request begins.
//!
//! A bare LF is passed on as a NUL, which the parser refuses with 400. To find the heads, this module counts bodies: by their length, or by their
//! chunks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes of an inspected line; the parser refuses a longer one.
const MOST_OF_A_LINE: usize = 16 * 1024;

/// The position of the next byte in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the lines before a body.
    Head,
    /// So many bytes before the end of a body, or of a chunk.
    Body(u64),
    /// In the line with the length of a chunk.
    Size,
    /// In the empty line after a chunk.
    BehindChunk,
    /// In the lines after the last chunk.
    Trailer,
}

/// Follows a connection from the first byte on.
#[derive(Debug)]
struct Strict {
    at: At,
    line: Vec<u8>,
    /// The length of the body, according to its head.
    length: u64,
    framing: Framing,
    /// Whether this head already had a line.
    begun: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunks,
}

impl Default for Strict {
    fn default() -> Self {
        Self { at: At::Head, line: Vec::new(), length: 0, framing: Framing::Length, begun: false }
    }
}

impl Strict {
    /// Inspects bytes, and replaces the bare LFs in heads.
    fn look(&mut self, bytes: &mut [u8]) {
        let mut next = 0;
        while let Some(byte) = bytes.get_mut(next) {
            if let At::Body(left) = self.at {
                let here = u64::try_from(bytes.len() - next).unwrap_or(u64::MAX).min(left);
                next += usize::try_from(here).unwrap_or(usize::MAX);
                self.at = match left - here {
                    0 if self.framing == Framing::Chunks => At::BehindChunk,
                    0 => At::Head,
                    left => At::Body(left),
                };
                continue;
            }
            next += 1;
            if *byte != b'\n' {
                if self.line.len() < MOST_OF_A_LINE {
                    self.line.push(*byte);
                }
                continue;
            }
            if self.line.last() != Some(&b'\r') {
                *byte = 0;
            }
            let line = std::mem::take(&mut self.line);
            self.ends(line.strip_suffix(b"\r").unwrap_or(&line));
        }
    }

    fn ends(&mut self, line: &[u8]) {
        match self.at {
            At::Head if line.is_empty() && self.begun => {
                self.begun = false;
                self.at = match self.framing {
                    Framing::Chunks => At::Size,
                    Framing::Length if self.length > 0 => At::Body(self.length),
                    Framing::Length => At::Head,
                };
                self.length = 0;
            }
            // Empty lines before a request are ignored (RFC 9112, section 2.2).
            At::Head if line.is_empty() => {}
            At::Head => self.hear(line),
            At::Size => {
                let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
                let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
                self.at = if size == 0 { At::Trailer } else { At::Body(size) };
            }
            At::BehindChunk => self.at = At::Size,
            At::Trailer if line.is_empty() => *self = Self::default(),
            At::Trailer | At::Body(_) => {}
        }
    }

    /// A line of a head: the first one begins a request, the others are its headers.
    fn hear(&mut self, line: &[u8]) {
        if !self.begun {
            (self.begun, self.length, self.framing) = (true, 0, Framing::Length);
            return;
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default().trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // Any transfer coding counts: the parser accepts chunks alone.
            self.framing = Framing::Chunks;
        }
    }
}

/// A stream whose heads have no bare LF.
#[derive(Debug)]
pub(super) struct StrictLines<S> {
    stream: S,
    strict: Strict,
}

impl<S> StrictLines<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, strict: Strict::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StrictLines<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        if let Some(new) = buffer.filled_mut().get_mut(before..) {
            this.strict.look(new);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StrictLines<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result, however the bytes are split on arrival.
    fn looked(text: &str) -> String {
        let mut whole = text.as_bytes().to_vec();
        Strict::default().look(&mut whole);
        let mut strict = Strict::default();
        let mut single = text.as_bytes().to_vec();
        single.iter_mut().for_each(|byte| strict.look(std::slice::from_mut(byte)));
        assert_eq!(whole, single, "{text:?}");
        String::from_utf8(whole).unwrap()
    }

    #[test]
    fn a_bare_lf_is_taken_out_of_heads_and_left_in_bodies() {
        for good in [
            "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
            "\r\nPOST / HTTP/1.1\r\nContent-Length: 6\r\n\r\na\n\nb\n\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\n\n\n\n\r\nA\r\n\n123456789\r\n0\r\nT: x\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length:2\r\n\r\n\n\nPOST / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(looked(good), good);
        }
        for bad in [
            "GET / HTTP/1.1\nHost: x\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\n\r\n",
            "GET / HTTP/1.1\r\nHost: x\r\n\n",
            "\nGET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n\nGET / HTTP/1.1\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\n\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\n\r\nGET / HTTP/1.1\nHost: x\r\n\r\n",
        ] {
            assert_eq!(looked(bad).matches('\0').count(), 1, "{bad:?}");
        }
    }
}
