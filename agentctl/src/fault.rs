//! What keeps a verb from its end. Each has its exit code, and [`crate::render::fault`] finds the words.

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

/// How the program ends when it came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exit(pub(crate) u8);

impl Exit {
    /// All is well.
    pub(crate) const GOOD: Self = Self(0);
}

/// Why it did not.
#[derive(Debug, Error)]
pub(crate) enum Fault {
    /// The arguments make no sense, or ask for help.
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
    /// An app must be named, and nobody may be asked which there are.
    #[error("no app is named, and which there are cannot be asked")]
    UnknownApps(#[source] Box<Fault>),
    /// There is no run to speak of yet.
    #[error("there is no run yet")]
    NoRun,
    /// Nobody answers there.
    #[error("the agent is out of reach at {address}")]
    OutOfReach {
        /// Where.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection ended before the answer did.
    #[error("the agent at {address} broke off before its answer was complete")]
    Broken {
        /// Where.
        address: Address,
        /// What HTTP said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer came in time.
    #[error("the agent at {address} gave no answer within {} s", after.as_secs())]
    Silent {
        /// Where.
        address: Address,
        /// How long was waited.
        after: Duration,
    },
    /// The answer is none that this version knows.
    #[error("the agent at {address} gave an answer that this agentctl does not understand (HTTP status {status})")]
    Strange {
        /// Where.
        address: Address,
        /// The status.
        status: u16,
        /// What is wrong with it, where it was looked into.
        source: Option<serde_json::Error>,
    },
    /// What answers is not believed to be the agent.
    #[error("{address} is not believed to be the agent: {}", match why {
        Distrust::Issuer => "nobody that is trusted here has issued its certificate",
        Distrust::Name => "its certificate is for another name",
        Distrust::Time => "its certificate is out of its time",
        Distrust::NoTls => "what answers there speaks no TLS",
        Distrust::Other => "no secure connection could be made",
    })]
    Untrusted {
        /// Where.
        address: Address,
        /// Why not.
        why: Distrust,
        /// The file with the certificates that would be believed, where one was given.
        ca: Option<PathBuf>,
        /// What TLS said, where it says more.
        source: Option<rustls::Error>,
    },
    /// The agent would not, or could not.
    #[error("{}", problem.detail)]
    Refused {
        /// What it said.
        problem: Problem,
        /// When to ask again.
        again: Option<Duration>,
    },
    /// Over the network a short name must be looked up first, and that is refused.
    #[error("which commit {revision} is cannot be looked up for a signed request")]
    Unresolved {
        /// The short name.
        revision: Revision,
        /// Why not.
        source: Box<Fault>,
    },
    /// A key does not sign.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Nobody can be believed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A request would say nothing that can be done.
    #[error(transparent)]
    Form(#[from] BadForm),
    /// The connection was lost while a run was followed, and did not come back.
    #[error("the connection to the agent was lost and did not come back; run {run} may have gone on")]
    Lost {
        /// The run.
        run: u64,
        /// How this program is called to reach the same agent again.
        called: String,
        /// Why the last attempt failed.
        source: Box<Fault>,
    },
    /// Ctrl-C while a run was followed.
    #[error("detached from run {run}")]
    Detached {
        /// The run.
        run: u64,
        /// How this program is called to reach the same agent again.
        called: String,
    },
    /// Whoever read standard output has gone.
    #[error("standard output is closed")]
    ReaderGone,
    /// Standard output takes no more.
    #[error("cannot write to standard output")]
    Print(#[source] io::Error),
    /// A file or the like of our own host.
    #[error("cannot {act} {}", path.display())]
    Disk {
        /// What was tried, such as `write`.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// `init` overwrites nothing.
    #[error("{} is there already, and is left as it is", .0.display())]
    Exists(PathBuf),
    /// `init` was given something that it cannot make an app file of.
    #[error("{what} {rule}")]
    Init {
        /// What was given.
        what: String,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// The runtime, the randomness or the like are missing.
    #[error("cannot {act}")]
    Host {
        /// What was tried.
        act: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Fault {
    /// The exit code that is promised for it.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Name(_) | Self::NoApp | Self::ManyApps(_) | Self::NoRun | Self::Exists(_) | Self::Init { .. } => 2,
            Self::Key(_) | Self::Tls(_) | Self::Form(_) => 2,
            Self::OutOfReach { .. } | Self::Broken { .. } | Self::Silent { .. } | Self::Strange { .. } | Self::Lost { .. } => 5,
            Self::Untrusted { .. } => 5,
            Self::Refused { problem, .. } => problem.exit_code(),
            Self::UnknownApps(source) | Self::Unresolved { source, .. } => source.exit_code(),
            Self::Print(_) | Self::Disk { .. } | Self::Host { .. } => 1,
            // As a shell says it of a program that ended by SIGINT, or by SIGPIPE.
            Self::Detached { .. } => 130,
            Self::ReaderGone => 141,
        }
    }

    /// Whether a grant is missing.
    pub(crate) fn is_want_of_right(&self) -> bool {
        matches!(self, Self::Refused { problem, .. } if problem.code == "not_allowed")
    }

    /// Whether the same thing may succeed when it is tried again in a moment: the agent is being restarted or about to be, or has its hands full.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::OutOfReach { .. } | Self::Broken { .. } | Self::Silent { .. } => true,
            Self::Refused { problem, .. } => matches!(problem.code.as_str(), "draining" | "crowded"),
            _ => false,
        }
    }
}
