//! Reads the events of a run as they come, and survives a broken connection:
//!
//! ```text
//!            open                 line                  `ended`
//! (cursor) -------> streaming -----------> streaming ------------> over
//!     ^                 | broken off
//!     +-- pause <-------+       ... until nobody has answered for too long: lost
//! ```

use agent_wire::EVENTS_TYPE;
use agent_wire::event::{Event, What};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Duration, Instant, sleep};

use super::Client;
use crate::fault::Fault;

/// The most bytes of one event: a line of output has at most 8 KiB, and the tail of a failed step some dozens.
const MOST_LINE_BYTES: usize = 4 * 1024 * 1024;
/// A connection that lasted this long counts as a good one, even if it carried nothing.
const GOOD_WHILE: Duration = Duration::from_secs(5);

/// An item for the caller of the follower.
#[derive(Debug)]
pub(crate) enum Met {
    /// An event, raw and parsed.
    Event {
        /// The line as it came.
        raw: String,
        /// The parsed event.
        event: Box<Event>,
    },
    /// The connection is lost, and the follower tries to restore it. Reported once for every loss.
    Loss,
}

#[derive(Debug)]
pub(crate) struct Follower<'a> {
    client: &'a Client,
    run: u64,
    /// The token that reads this run's events without a signature, while the agent accepts it.
    token: Option<String>,
    after: u64,
    stream: Option<Lines>,
    /// The time since which no attempt succeeded.
    lost: Option<Instant>,
    over: bool,
}

#[derive(Debug)]
struct Lines {
    body: Incoming,
    waiting: Vec<u8>,
    opened: Instant,
}

impl<'a> Follower<'a> {
    /// Follows a run from its first event.
    pub(crate) fn new(client: &'a Client, run: u64, token: Option<String>) -> Self {
        Self { client, run, token, after: 0, stream: None, lost: None, over: false }
    }

    /// The next item; `None` after the run's end.
    pub(crate) async fn next(&mut self) -> Result<Option<Met>, Fault> {
        while !self.over {
            let Some(stream) = &mut self.stream else {
                match self.open().await {
                    Ok(lines) => self.stream = Some(lines),
                    // The token has expired, but a caller who may read the run can still sign.
                    Err(Fault::Refused { problem, .. }) if self.token.is_some() && matches!(problem.status, 401 | 403) => self.token = None,
                    Err(fault) => self.again_or(fault).await?,
                }
                continue;
            };
            match stream.line().await {
                Ok(Some(line)) if line.iter().all(u8::is_ascii_whitespace) => {}
                Ok(Some(line)) => {
                    let event: Event = serde_json::from_slice(&line).map_err(|err| Fault::Strange {
                        address: self.client.address(),
                        status: 200,
                        source: Some(err),
                    })?;
                    // Drops events that an agent sends again.
                    if event.n <= self.after {
                        continue;
                    }
                    self.after = event.n;
                    self.lost = None;
                    self.over = matches!(event.what, What::Ended { .. });
                    return Ok(Some(Met::Event { raw: String::from_utf8_lossy(&line).trim().to_owned(), event: Box::new(event) }));
                }
                broken => {
                    let good = stream.opened.elapsed() >= GOOD_WHILE;
                    self.stream = None;
                    if good {
                        self.lost = None;
                    }
                    let fault = match broken {
                        Err(fault) => self.client.broken(fault),
                        Ok(_) => self.client.broken("the stream ended before the run did"),
                    };
                    if self.lost.is_none() {
                        self.lost = Some(Instant::now());
                        return Ok(Some(Met::Loss));
                    }
                    self.again_or(fault).await?;
                }
            }
        }
        Ok(None)
    }

    /// Waits a moment if another attempt makes sense. The very first attempt is not repeated: then there is no agent.
    async fn again_or(&mut self, fault: Fault) -> Result<(), Fault> {
        match self.lost {
            Some(since) if fault.is_passing() && since.elapsed() < self.client.patience.comeback => {
                sleep(self.client.patience.pause).await;
                Ok(())
            }
            Some(_) if fault.is_passing() => {
                Err(Fault::Lost { run: self.run, called: self.client.called.clone(), source: Box::new(fault) })
            }
            None if fault.is_passing() && !matches!(fault, Fault::OutOfReach { .. }) => {
                self.lost = Some(Instant::now());
                Ok(())
            }
            _ => Err(fault),
        }
    }

    async fn open(&self) -> Result<Lines, Fault> {
        let path = format!("/v1/runs/{}/events?after={}", self.run, self.after);
        let request = match &self.token {
            Some(token) => self.client.reading_by_token(&path, EVENTS_TYPE, token)?,
            None => self.client.reading(&path, EVENTS_TYPE).await?,
        };
        let limit = self.client.patience.answer;
        let response = self.client.send(request, limit).await?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            // The status alone shows that the answer is no stream.
            self.client.understand::<serde_json::Value>(response, limit).await?;
            return Err(Fault::Strange { address: self.client.address(), status, source: None });
        }
        Ok(Lines { body: response.into_body(), waiting: Vec::new(), opened: Instant::now() })
    }
}

impl Lines {
    /// The next whole line; `None` at the end of the stream. An incomplete line was cut off, and comes again.
    async fn line(&mut self) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.waiting[seen..].iter().position(|byte| *byte == b'\n') {
                let rest = self.waiting.split_off(seen + end + 1);
                return Ok(Some(std::mem::replace(&mut self.waiting, rest)));
            }
            seen = self.waiting.len();
            if seen > MOST_LINE_BYTES {
                return Err("a line of the stream has no end".into());
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.waiting.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}
