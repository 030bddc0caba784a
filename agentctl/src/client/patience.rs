//! How long to wait.

use std::time::Duration;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a connection.
    pub(crate) connect: Duration,
    /// For an answer that the agent has at hand.
    pub(crate) answer: Duration,
    /// For one that it must fetch or try first.
    pub(crate) search: Duration,
    /// For one for which it must read whole disks. An agent that is gone breaks the connection; this is for a host that is.
    pub(crate) reading: Duration,
    /// For a lost agent to come back.
    pub(crate) comeback: Duration,
    /// Between two attempts.
    pub(crate) pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(30),
            search: Duration::from_secs(600),
            reading: Duration::from_secs(24 * 3600),
            comeback: Duration::from_secs(60),
            pause: Duration::from_millis(250),
        }
    }
}

impl Patience {
    /// Names are looked up there, and the handshake goes to and fro.
    pub(crate) fn of_network() -> Self {
        Self { connect: Duration::from_secs(15), ..Self::default() }
    }
}
