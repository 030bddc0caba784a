//! A run's events, as they come: rows after a cursor, and the bell. There is no buffer that a slow reader could overflow; whoever comes late reads
//! everything.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use agent_model::names::RunId;
use agent_wire::event::{Event, What};
use axum::body::Body;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::stopped;
use crate::engine::journal::{Journal, JournalError};
use crate::work::chain;

/// How many events are read at a time.
const PAGE: u32 = 200;

/// How long a stream is silent at the most.
const SILENCE: Duration = Duration::from_secs(15);

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One JSON object a line.
    Lines,
    /// Server-sent events (WHATWG HTML, "Server-sent events"), with the event's place as its id.
    ServerSent,
}

/// A body that gives the events after `after`, and ends with the run or when the agent stops.
pub(super) fn body(journal: Arc<Journal>, run: RunId, after: u64, shape: Shape, stop: watch::Receiver<bool>) -> Body {
    // One page ahead of the reader, and no more: a reader that does not read holds nothing up.
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
    let mut bell = journal.bell();
    loop {
        bell.mark_unchanged();
        let reading = journal.clone();
        // Whether it is over is asked first: then what is read afterwards is all that there will ever be.
        let page = tokio::task::spawn_blocking(move || {
            let over = reading.run(run)?.is_none_or(|run| run.ended.is_some());
            Ok::<_, JournalError>((over, reading.events(run, after, PAGE)?))
        });
        let (over, events) = match page.await {
            Ok(Ok(page)) => page,
            Ok(Err(err)) => return tracing::error!(run = run.0, "events cannot be read: {}", chain(&err)),
            Err(err) => return tracing::error!(run = run.0, "events cannot be read: {err}"),
        };
        if let Some(last) = events.last() {
            after = last.n;
            let ended = matches!(last.what, What::Ended { .. });
            let text: String = events.iter().map(|event| written(event, shape)).collect();
            if sender.send(Ok(text.into())).await.is_err() || ended {
                return;
            }
            continue;
        }
        if over {
            return;
        }
        let sign_of_life: &[u8] = match shape {
            Shape::Lines => b"\n",
            Shape::ServerSent => b": still here\n\n",
        };
        tokio::select! {
            rung = bell.changed() => if rung.is_err() { return },
            () = stopped(&mut stop) => return,
            () = sender.closed() => return,
            // An empty line or a comment now and then keeps proxies from taking the silence for an end.
            () = tokio::time::sleep(SILENCE) => if sender.send(Ok(Bytes::from_static(sign_of_life))).await.is_err() { return },
        }
    }
}

fn written(event: &Event, shape: Shape) -> String {
    let json = serde_json::to_string(event).unwrap_or_default();
    match shape {
        Shape::Lines => format!("{json}\n"),
        Shape::ServerSent => format!("id: {}\ndata: {json}\n\n", event.n),
    }
}
