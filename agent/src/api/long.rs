//! An answer that may take long. A fast result is a plain answer with its own status. A slow one begins with success and an empty line now and then,
//! which JSON may start with. So no proxy closes a silent connection, and the agent notices a client that has left. A client that only closes its
//! sending side has not left.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::answer::Refused;
use super::stopped;
use crate::process::Cancel;

/// The longest silence of an answer.
pub(super) const SILENCE: Duration = Duration::from_secs(15);

/// Cancels the work for a client that no longer waits for it.
pub(super) struct WhileThere(pub(super) Cancel);

impl Drop for WhileThere {
    fn drop(&mut self) {
        self.0.ask();
    }
}

/// Answers with the result of `looking`, however long it takes.
pub(super) async fn answer<T: Serialize + Send + 'static>(
    looking: impl Future<Output = Result<T, Refused>> + Send + 'static,
    there: WhileThere,
    mut stop: watch::Receiver<bool>,
    silence: Duration,
) -> Result<Response, Refused> {
    let mut looking = Box::pin(looking);
    if let Ok(seen) = tokio::time::timeout(silence, &mut looking).await {
        return seen.map(|seen| Json(seen).into_response());
    }
    let (sender, receiver) = mpsc::channel::<Result<Bytes, io::Error>>(1);
    tokio::spawn(async move {
        let _there = there;
        loop {
            let next = tokio::select! {
                seen = &mut looking => {
                    // An answer that began as a success can only be broken off; the log has the reason.
                    let text = seen.map_err(|_| io::ErrorKind::Other.into()).and_then(|seen| Ok(serde_json::to_vec(&seen)?.into()));
                    // The client has left.
                    let _ = sender.send(text).await;
                    return;
                }
                () = stopped(&mut stop) => return,
                () = sender.closed() => return,
                () = tokio::time::sleep(silence) => sender.send(Ok(Bytes::from_static(b"\n"))).await,
            };
            if next.is_err() {
                return;
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use http_body_util::BodyExt;

    use super::*;

    const SHORT: Duration = Duration::from_millis(10);

    fn begun() -> (Cancel, WhileThere, watch::Sender<bool>, watch::Receiver<bool>) {
        let cancel = Cancel::default();
        let (stop, stopping) = watch::channel(false);
        (cancel.clone(), WhileThere(cancel), stop, stopping)
    }

    async fn after(time: Duration) -> Result<&'static str, Refused> {
        tokio::time::sleep(time).await;
        Ok("seen")
    }

    #[tokio::test]
    async fn what_comes_soon_is_a_plain_answer_and_so_is_a_refusal() {
        let (_, there, _stop, stopping) = begun();
        let response = answer(after(Duration::ZERO), there, stopping, SILENCE).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "\"seen\"");
        let (_, there, _stop, stopping) = begun();
        let refused = async { Err::<(), _>(Refused::not_found("there is nothing")) };
        assert_eq!(answer(refused, there, stopping, SILENCE).await.unwrap_err().into_response().status(), StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn what_takes_long_shows_signs_of_life_and_is_json_all_the_same() {
        let (_, there, _stop, stopping) = begun();
        let response = answer(after(SHORT * 10), there, stopping, SHORT).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let text = response.into_body().collect().await.unwrap().to_bytes();
        assert!(text.starts_with(b"\n"), "{text:?}");
        assert_eq!(serde_json::from_slice::<String>(&text).unwrap(), "seen");
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_it_and_so_does_the_agents_end() {
        for leaves in [true, false] {
            let (cancel, there, stop, stopping) = begun();
            let response = answer(std::future::pending::<Result<(), Refused>>(), there, stopping, SHORT).await.unwrap();
            assert!(!cancel.asked());
            if leaves {
                drop(response);
            } else {
                stop.send(true).unwrap();
            }
            tokio::time::timeout(Duration::from_secs(60), async {
                while !cancel.asked() {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .unwrap();
        }
    }
}
