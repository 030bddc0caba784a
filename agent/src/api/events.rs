//! Streams a run's events: rows after a cursor, and a wake-up for each write. There is no buffer that a slow reader could overflow; a late reader
//! gets everything.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use agent_model::names::RunId;
use axum::body::Body;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::stopped;
use crate::engine::journal::{Journal, JournalError, Page};
use crate::work::chain;

/// The longest silence of a stream.
const SILENCE: Duration = Duration::from_secs(15);

/// The format of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One JSON object per line.
    Lines,
    /// Server-sent events (WHATWG HTML, "Server-sent events"), with the event's number as its id.
    ServerSent,
}

/// A body with the events after `after`; it ends with the run or when the agent stops.
pub(super) fn body(journal: Arc<Journal>, run: RunId, after: u64, shape: Shape, stop: watch::Receiver<bool>) -> Body {
    // At most one page ahead of the reader: a reader that does not read blocks nothing.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(feed(journal, run, after, shape, stop, sender));
    Body::from_stream(ReceiverStream::new(receiver))
}

async fn feed(
    journal: Arc<Journal>,
    run: RunId,
    mut after: u64,
    shape: Shape,
    mut stop: watch::Receiver<bool>,
    sender: mpsc::Sender<Result<Bytes, Infallible>>,
) {
    let mut written = journal.changes_of(run);
    loop {
        written.mark_unchanged();
        let reading = journal.clone();
        let page = tokio::task::spawn_blocking(move || {
            let Page { events, over, more } = reading.page(run, after)?;
            let mut text = String::new();
            let mut read = None;
            for (n, at, what) in events {
                write(&mut text, run, n, at, &what, shape)?;
                read = Some((n, is_end(&what)));
            }
            Ok::<_, JournalError>((read, text, over, more))
        });
        let (read, text, over, more) = match page.await {
            Ok(Ok(page)) => page,
            Ok(Err(err)) => return tracing::error!(run = run.0, "events cannot be read: {}", chain(&err)),
            Err(err) => return tracing::error!(run = run.0, "events cannot be read: {err}"),
        };
        if let Some((last, is_end)) = read {
            after = last;
            if sender.send(Ok(text.into())).await.is_err() || is_end {
                return;
            }
            // A write in the meantime wakes this loop.
            if more {
                continue;
            }
        }
        if over {
            return;
        }
        let sign_of_life: &[u8] = match shape {
            Shape::Lines => b"\n",
            Shape::ServerSent => b": still here\n\n",
        };
        tokio::select! {
            changed = written.changed() => if changed.is_err() { return },
            () = stopped(&mut stop) => return,
            () = sender.closed() => return,
            // An empty line or a comment now and then keeps proxies from closing a silent stream.
            () = tokio::time::sleep(SILENCE) => if sender.send(Ok(Bytes::from_static(sign_of_life))).await.is_err() { return },
        }
    }
}

/// Writes an event in the format of [`agent_wire::event::Event`]. The journal's text is copied unparsed: it is JSON already, and with many followers
/// a log may have a hundred megabytes for each.
fn write(text: &mut String, run: RunId, n: u64, at: DateTime<Utc>, what: &str, shape: Shape) -> Result<(), JournalError> {
    let malformed = |source| JournalError::Malformed { run: run.0, n, source };
    let at = serde_json::to_string(&at).map_err(malformed)?;
    let members = what.strip_prefix('{').ok_or_else(|| malformed(serde::de::Error::custom("it is no object")))?;
    if shape == Shape::ServerSent {
        text.push_str(&format!("id: {n}\ndata: "));
    }
    text.push_str(&format!("{{\"run\":{run},\"n\":{n},\"at\":{at},"));
    text.push_str(members);
    text.push_str(match shape {
        Shape::Lines => "\n",
        Shape::ServerSent => "\n\n",
    });
    Ok(())
}

/// Whether it is the last event.
fn is_end(what: &str) -> bool {
    what.starts_with(r#"{"what":"ended""#)
}

#[cfg(test)]
mod tests {
    use agent_wire::event::{Event, OutcomeWord, Stream, What};

    use super::*;

    #[test]
    fn what_is_streamed_is_what_the_wire_says() {
        let whats = [
            What::Output { step: "fetch".into(), stream: Stream::Stderr, line: "a \"line\"\u{2028}\\ {".into() },
            What::Stopped,
            What::Ended { outcome: OutcomeWord::Live, live: None, ms: 1, database: None },
        ];
        for (at, what) in [0, 1_700_000_000_000, 1_700_000_000_120].into_iter().zip(whats) {
            let at = DateTime::from_timestamp_millis(at).unwrap();
            let (stored, ends) = (serde_json::to_string(&what).unwrap(), matches!(what, What::Ended { .. }));
            let whole = serde_json::to_string(&Event { run: 7, n: 3, at, what }).unwrap();
            for (shape, wanted) in [(Shape::Lines, format!("{whole}\n")), (Shape::ServerSent, format!("id: 3\ndata: {whole}\n\n"))] {
                let mut text = String::new();
                write(&mut text, RunId(7), 3, at, &stored, shape).unwrap();
                assert_eq!(text, wanted);
            }
            assert_eq!(is_end(&stored), ends, "{stored}");
        }
        let not_one = write(&mut String::new(), RunId(7), 3, Utc::now(), "nothing", Shape::Lines);
        assert!(matches!(not_one, Err(JournalError::Malformed { run: 7, n: 3, .. })));
    }
}
