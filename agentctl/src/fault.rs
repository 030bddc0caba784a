//! The reasons why a verb fails. Each has its exit code, and [`crate::render::fault`] has its text.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use agent_model::names::{BadName, Revision};
use agent_wire::form::BadForm;
use agent_wire::problem::Problem;
use thiserror::Error;

use crate::address::Address;
use crate::key::KeyError;
use crate::tls::{Distrust, TlsError};

/// The exit code of a verb that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    pub(crate) const GOOD: Self = Self(0);
}

/// The reason why it did not.
#[derive(Debug, Error)]
pub(crate) enum Fault {
    /// The arguments make no sense, or request help.
    #[error(transparent)]
    Usage(clap::Error),
    /// A name breaks its rule.
    #[error(transparent)]
    Name(#[from] BadName),
    /// An app must be named, and there is none.
    #[error("no app is configured")]
    NoApp,
    /// An app must be named, and there are several.
    #[error("there are several apps, and --app names none of them")]
    ManyApps(Vec<String>),
    /// An app must be named, and the list of apps cannot be read.
    #[error("no app is named, and which there are cannot be asked")]
    UnknownApps(#[source] Box<Fault>),
    /// There is no run yet.
    #[error("there is no run yet")]
    NoRun,
    /// No agent answers at the address.
    #[error("the agent is out of reach at {address}")]
    OutOfReach {
        address: Address,
        /// The system's error.
        source: io::Error,
    },
    /// The connection ended before the answer did.
    #[error("the agent at {address} broke off before its answer was complete")]
    Broken {
        address: Address,
        /// The error of HTTP.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer came in time.
    #[error("the agent at {address} gave no answer within {} s", after.as_secs())]
    Silent {
        address: Address,
        /// How long the client waited.
        after: Duration,
    },
    /// This version does not know the answer.
    #[error("the agent at {address} gave an answer that this agentctl does not understand (HTTP status {status})")]
    Strange {
        address: Address,
        /// The HTTP status.
        status: u16,
        /// The error of the parser, where the body was parsed.
        source: Option<serde_json::Error>,
    },
    /// The peer is not trusted.
    #[error("{address} is not believed to be the agent: {}", match why {
        Distrust::Issuer => "nobody that is trusted here has issued its certificate",
        Distrust::Name => "its certificate is for another name",
        Distrust::Time => "its certificate is out of its time",
        Distrust::NoTls => "what answers there speaks no TLS",
        Distrust::Other => "no secure connection could be made",
    })]
    Untrusted {
        address: Address,
        why: Distrust,
        /// The file with the trusted certificates, if one was given.
        ca: Option<PathBuf>,
        /// The error of TLS, where it adds something.
        source: Option<rustls::Error>,
    },
    /// The agent refused or failed.
    #[error("{}", problem.detail)]
    Refused {
        problem: Problem,
        /// When to try again.
        again: Option<Duration>,
    },
    /// Over the network a short name must be resolved first, and the agent refused that.
    #[error("which commit {revision} is cannot be looked up for a signed request")]
    Unresolved {
        /// The short name.
        revision: Revision,
        source: Box<Fault>,
    },
    /// A key does not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No trust in any certificate is possible.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A request that no agent could carry out.
    #[error(transparent)]
    Form(#[from] BadForm),
    /// The connection was lost while a run was followed, and did not come back.
    #[error("the connection to the agent was lost and did not come back; run {run} may have gone on")]
    Lost {
        run: u64,
        /// The command line that reaches the same agent again.
        called: String,
        /// Why the last attempt failed.
        source: Box<Fault>,
    },
    /// Ctrl-C while a run was followed.
    #[error("detached from run {run}")]
    Detached {
        run: u64,
        /// The command line that reaches the same agent again.
        called: String,
    },
    /// The reader of standard output has gone.
    #[error("standard output is closed")]
    ReaderGone,
    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Print(#[source] io::Error),
    /// A file of this host.
    #[error("cannot {act} {}", path.display())]
    Disk {
        /// The failed action, such as `write`.
        act: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// `init` overwrites nothing.
    #[error("{} is there already, and is left as it is", .0.display())]
    Exists(PathBuf),
    /// `init` cannot make an app file from an argument.
    #[error("{what} {rule}")]
    Init {
        /// The argument.
        what: String,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// This host lacks the runtime, randomness or the like.
    #[error("cannot {act}")]
    Host {
        /// The failed action.
        act: &'static str,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Fault {
    /// The promised exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Name(_) | Self::NoApp | Self::ManyApps(_) | Self::NoRun | Self::Exists(_) | Self::Init { .. } => 2,
            Self::Key(_) | Self::Tls(_) | Self::Form(_) => 2,
            Self::OutOfReach { .. } | Self::Broken { .. } | Self::Silent { .. } | Self::Strange { .. } | Self::Lost { .. } => 5,
            Self::Untrusted { .. } => 5,
            Self::Refused { problem, .. } => problem.exit_code(),
            Self::UnknownApps(source) | Self::Unresolved { source, .. } => source.exit_code(),
            Self::Print(_) | Self::Disk { .. } | Self::Host { .. } => 1,
            // The codes that a shell gives a program that ended by SIGINT, or by SIGPIPE.
            Self::Detached { .. } => 130,
            Self::ReaderGone => 141,
        }
    }

    /// Whether a grant is missing.
    pub(crate) fn is_want_of_right(&self) -> bool {
        matches!(self, Self::Refused { problem, .. } if problem.code == "not_allowed")
    }

    /// Whether a retry in a moment may succeed: the agent restarts or is about to, or is busy.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::OutOfReach { .. } | Self::Broken { .. } | Self::Silent { .. } => true,
            Self::Refused { problem, .. } => matches!(problem.code.as_str(), "draining" | "crowded"),
            _ => false,
        }
    }
}
