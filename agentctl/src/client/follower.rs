//! Reads the events of a run as they come, and over a connection that breaks:
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

/// The most that one event may have: a line of output has 8 KiB at the most, and the tail of a failed step some dozens.
const MOST_LINE_BYTES: usize = 4 * 1024 * 1024;
/// A connection that lasted so long was a good one, though nothing came over it.
const GOOD_WHILE: Duration = Duration::from_secs(5);

/// What a follower meets.
#[derive(Debug)]
pub(crate) enum Met {
    /// An event, as it came and understood.
    Event {
        /// The line.
        raw: String,
        /// The event.
        event: Box<Event>,
    },
    /// The connection is lost; the follower tries to have it back. Said once for every loss.
    Loss,
}

/// Follows one run.
#[derive(Debug)]
pub(crate) struct Follower<'a> {
    client: &'a Client,
    run: u64,
    /// What reads this run's events without a signature, as long as the agent takes it.
    token: Option<String>,
    after: u64,
    stream: Option<Lines>,
    /// Since when nobody has answered well.
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

    /// What comes next; nothing after the run's end.
    pub(crate) async fn next(&mut self) -> Result<Option<Met>, Fault> {
        while !self.over {
            let Some(stream) = &mut self.stream else {
                match self.open().await {
                    Ok(lines) => self.stream = Some(lines),
                    // A token that has had its time: whoever may read the run can still sign for it.
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
                    // Only what is new: an agent that sends from further back than asked is survived.
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

    /// Waits a moment when another attempt is worth it. The first attempt of all is the only one: then there is no agent.
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
            // Whatever stands in the body, the status says that it is no stream.
            self.client.understand::<serde_json::Value>(response, limit).await?;
            return Err(Fault::Strange { address: self.client.address(), status, source: None });
        }
        Ok(Lines { body: response.into_body(), waiting: Vec::new(), opened: Instant::now() })
    }
}

impl Lines {
    /// The next whole line; none at the end of the stream. What stands there without its end was cut off, and comes again.
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
