//! The messages between the agent and its clients. The same types are stored in the journal and rendered by the ctl.
//!
//! 1. [`form`]: the requests of clients;
//! 2. [`event`]: the events of a run: stored = streamed = rendered;
//! 3. [`view`]: the answers of the reading verbs;
//! 4. [`problem`]: the body of every answer that is not a success;
//! 5. [`sshsig`]: the signatures of requests over the network;
//! 6. [`place`]: the sockets of the agent on a host.

pub mod event;
pub mod form;
pub mod place;
pub mod problem;
pub mod sshsig;
pub mod view;

/// The media type of a request.
pub const REQUEST_TYPE: &str = "application/vnd.release-agent.request.v1+json";
/// The media type of a stream of events, one JSON object per line.
pub const EVENTS_TYPE: &str = "application/x-ndjson";
/// The most bytes of a request.
pub const MOST_REQUEST_BYTES: usize = 16 * 1024;
