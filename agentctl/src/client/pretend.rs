//! An agent that says what a test tells it to: a real socket, real HTTP, and no agent behind it. One connection is answered after the other, each
//! with the next answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

use tempfile::TempDir;

/// What is said to one request.
pub(crate) enum Say {
    /// A whole answer.
    Json(u16, String),
    /// Events, and then their end.
    Events(Vec<String>),
    /// Events, and more may come until the client leaves.
    Hold(Vec<String>),
    /// Events, and half a line, and then the connection breaks.
    BreakAfter(Vec<String>),
    /// Nothing at all.
    HangUp,
}

/// The agent.
pub(crate) struct Pretend {
    dir: TempDir,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Pretend {
    /// An agent that gives these answers.
    pub(crate) fn saying(answers: Vec<Say>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        let thread = std::thread::spawn(move || answers.into_iter().map(|say| answer(listener.accept().unwrap().0, &say)).collect());
        Self { dir, thread: Some(thread) }
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    /// The requests that it was asked: the line and the body. An answer that nobody fetched stands there as an empty request.
    pub(crate) fn asked(mut self) -> Vec<String> {
        let thread = self.thread.take().unwrap();
        while !thread.is_finished() {
            // Whoever waits for a request is given none.
            drop(UnixStream::connect(self.socket()));
            std::thread::yield_now();
        }
        thread.join().unwrap()
    }
}

fn answer(stream: UnixStream, say: &Say) -> String {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    // A client that hears enough and leaves is none of this thread's business.
    let _ = write(stream, say);
    format!("{} {}", first.trim().trim_end_matches(" HTTP/1.1"), String::from_utf8(body).unwrap()).trim().to_owned()
}

fn write(mut stream: UnixStream, say: &Say) -> std::io::Result<()> {
    match say {
        Say::Json(status, body) => {
            write!(stream, "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        Say::Events(events) => {
            head(&mut stream)?;
            events.iter().try_for_each(|event| chunk(&mut stream, &format!("{event}\n")))?;
            stream.write_all(b"0\r\n\r\n")
        }
        Say::Hold(events) => {
            head(&mut stream)?;
            events.iter().try_for_each(|event| chunk(&mut stream, &format!("{event}\n")))?;
            stream.read_to_end(&mut Vec::new()).map(drop)
        }
        Say::BreakAfter(events) => {
            head(&mut stream)?;
            events.iter().try_for_each(|event| chunk(&mut stream, &format!("{event}\n")))?;
            chunk(&mut stream, r#"{"run":12,"n":"#)
        }
        Say::HangUp => Ok(()),
    }
}

fn head(stream: &mut UnixStream) -> std::io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
}

fn chunk(stream: &mut UnixStream, text: &str) -> std::io::Result<()> {
    write!(stream, "{:x}\r\n{text}\r\n", text.len())
}
