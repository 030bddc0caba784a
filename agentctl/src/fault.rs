//! What keeps a verb from its end. Each has its exit code, and [`crate::render::fault`] finds the words.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use agent_model::names::BadName;
use agent_wire::problem::Problem;
use thiserror::Error;

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
    /// There is no run to speak of yet.
    #[error("there is no run yet")]
    NoRun,
    /// Nobody answers at the socket.
    #[error("the agent is out of reach at {}", socket.display())]
    OutOfReach {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection ended before the answer did.
    #[error("the agent at {} broke off before its answer was complete", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What HTTP said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer came in time.
    #[error("the agent at {} gave no answer within {} s", socket.display(), after.as_secs())]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The answer is none that this version knows.
    #[error("the agent at {} gave an answer that this agentctl does not understand (HTTP status {status})", socket.display())]
    Strange {
        /// The socket.
        socket: PathBuf,
        /// The status.
        status: u16,
        /// What is wrong with it, where it was looked into.
        source: Option<serde_json::Error>,
    },
    /// The agent would not, or could not.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// The connection was lost while a run was followed, and did not come back.
    #[error("the connection to the agent was lost and did not come back; run {run} may have gone on")]
    Lost {
        /// The run.
        run: u64,
        /// Why the last attempt failed.
        source: Box<Fault>,
    },
    /// Ctrl-C while a run was followed.
    #[error("detached from run {run}")]
    Detached {
        /// The run.
        run: u64,
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
            Self::OutOfReach { .. } | Self::Broken { .. } | Self::Silent { .. } | Self::Strange { .. } | Self::Lost { .. } => 5,
            Self::Refused(problem) => problem.exit_code(),
            Self::Print(_) | Self::Disk { .. } | Self::Host { .. } => 1,
            // As a shell says it of a program that ended by SIGINT, or by SIGPIPE.
            Self::Detached { .. } => 130,
            Self::ReaderGone => 141,
        }
    }

    /// Whether the same thing may succeed when it is tried again in a moment: the agent is being restarted, or about to be.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::OutOfReach { .. } | Self::Broken { .. } | Self::Silent { .. } => true,
            Self::Refused(problem) => problem.code == "draining",
            _ => false,
        }
    }
}
