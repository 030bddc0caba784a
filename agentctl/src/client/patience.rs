//! Time limits.

use std::time::Duration;

/// The time limits of a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a connection.
    pub(crate) connect: Duration,
    /// For an answer that the agent has at hand.
    pub(crate) answer: Duration,
    /// For an answer that the agent must fetch or try first.
    pub(crate) search: Duration,
    /// For an answer for which the agent reads whole disks. A dead agent breaks the connection; this limit is for a dead host.
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
    /// On the network, name lookups and handshakes take longer.
    pub(crate) fn of_network() -> Self {
        Self { connect: Duration::from_secs(15), ..Self::default() }
    }
}
