//! Why git did not do what it should, and what to do about it.

use std::path::PathBuf;

use agent_model::names::{RefName, Revision};
use thiserror::Error;

use super::fetch::{Fault, LeftOut};
use super::{TreeError, Whose};
use crate::https::proxy_of;
use crate::process::ProgramError;

/// What went wrong with a repository.
#[derive(Debug, Error)]
pub(crate) enum GitError {
    /// git itself.
    #[error("cannot {act}")]
    Program {
        /// What was tried.
        act: &'static str,
        /// How it failed.
        #[source]
        source: ProgramError,
    },
    /// git said something that is not understood.
    #[error("git answered something unexpected when asked to {0}")]
    Answer(&'static str),
    /// The remote has no branch or tag.
    #[error("the repository {0} has no branch and no tag yet")]
    Empty(String),
    /// Nothing has this name.
    #[error("the repository has no branch, tag or commit {revision}")]
    Unknown {
        /// The name.
        revision: Revision,
        /// The names that are nearest to it.
        nearest: Vec<String>,
    },
    /// It exists, but is not allowed.
    #[error("{what} is reached by no ref that {whose} allows ({})", allowed.join(", "))]
    NotAllowed {
        /// The commit.
        what: String,
        /// Who does not allow it.
        whose: Whose,
        /// The patterns.
        allowed: Vec<String>,
    },
    /// An allowed ref may reach it, but its history cannot be read.
    #[error("whether {reference} reaches {what} cannot be told: the cache lacks a part of its history")]
    Torn {
        /// The commit.
        what: String,
        /// The ref.
        reference: RefName,
    },
    /// The ref is there and allowed, and could not be fetched.
    #[error("cannot fetch {0}")]
    LeftOut(LeftOut),
    /// The ref exists, but is not allowed, and so was never fetched.
    #[error("the repository has {reference}, but {whose} allows only {}", allowed.join(", "))]
    RefNotAllowed {
        /// The ref.
        reference: RefName,
        /// Who does not allow it.
        whose: Whose,
        /// The patterns.
        allowed: Vec<String>,
    },
    /// More than one thing has this name.
    #[error("{revision} is ambiguous: it may be {}", candidates.join(" or "))]
    Ambiguous {
        /// The name.
        revision: Revision,
        /// What it may be.
        candidates: Vec<String>,
    },
    /// The cache belongs to somebody else, who may have put anything into it.
    #[error("the cache {} belongs to another user than the agent", .0.display())]
    ForeignCache(PathBuf),
    /// The cache cannot be looked at.
    #[error("cannot look at the cache {}", path.display())]
    Cache {
        /// The cache.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is a tag of something that is no commit.
    #[error("{0} names no commit, but a tree or a blob")]
    NotACommit(String),
    /// The tree holds something that cannot be released.
    #[error("{0}")]
    Tree(#[from] TreeError),
}

impl GitError {
    /// That git ended badly. What it says to everybody is left out of its last lines: only the others tell what happened.
    pub(super) fn program(act: &'static str, mut source: ProgramError) -> Self {
        if let ProgramError::Failed { tail, .. } | ProgramError::TimedOut { tail, .. } = &mut source {
            let useless = |line: &str| {
                let line = line.trim();
                line.is_empty() || FOR_EVERYBODY.iter().any(|said| line.contains(said))
            };
            if tail.iter().any(|line| !useless(line)) {
                tail.retain(|line| !useless(line));
            }
        }
        Self::Program { act, source }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { nearest, .. } if nearest.is_empty() => Some(
                "push it first, or look at `repository`, `branches` and `tags` in the app's file: only what those reach is fetched"
                    .to_owned(),
            ),
            Self::Unknown { nearest, .. } => Some(format!("did you mean {}?", nearest.join(", "))),
            Self::NotAllowed { whose, .. } | Self::RefNotAllowed { whose, .. } => Some(match whose {
                Whose::App => "release a commit that one of them reaches, or add its branch to `branches` in the app's file".to_owned(),
                Whose::Grant => {
                    "release a commit that one of them reaches, or have the grant in agent.toml widened (`branches`, `tags`)".to_owned()
                }
                Whose::Request => "push the commit to that ref, if the app and the grant allow it, or name another `ref`".to_owned(),
            }),
            Self::Torn { .. } => Some(UNSHALLOW.to_owned()),
            Self::LeftOut(left) => match &left.fault {
                Fault::Malformed { .. } => Some(format!("`git fsck` in a clone names it too: push {} without it", left.reference)),
                Fault::Shallow => Some(UNSHALLOW.to_owned()),
                Fault::Said(_) | Fault::Untried => None,
            },
            Self::Ambiguous { .. } => Some("give more digits, or the full name: refs/heads/… or refs/tags/…".to_owned()),
            Self::Empty(_) => Some("push a branch to it first".to_owned()),
            Self::Program { source, .. } => program_hint(source),
            Self::Tree(err) => err.hint(),
            Self::NotACommit(_) => Some("name a branch, a commit, or a tag of a commit".to_owned()),
            Self::ForeignCache(path) => {
                let user = own_name();
                let path = path.display();
                Some(format!("look who changed that, then remove {path}, which is fetched anew, or: chown -R {user} {path}"))
            }
            Self::Answer(_) | Self::Cache { .. } => None,
        }
    }

    /// The last lines of git.
    pub(crate) fn tail(&self) -> &[String] {
        match self {
            Self::Program { source, .. } => source.tail(),
            _ => &[],
        }
    }
}

const UNSHALLOW: &str =
    "complete the shallow clone that `repository` names (git fetch --unshallow), or name the repository that it was cloned from";
const BAD_CERTIFICATE: &str = "the server's certificate is not believed: it may have expired, be for another name, or have an issuer that this host does not \
                               know (SSL_CERT_FILE in the agent's environment names others); look at this host's clock, too";
const UNKNOWN_HOST: &str = "the name does not resolve: look at the app's `repository`, and at this host's DNS";
const NOBODY_LISTENS: &str =
    "nobody listens there: look at the app's `repository`, and whether the server is up and a firewall lets the agent reach it";
const OUT_OF_REACH: &str = "the server is out of reach: look at the network and at firewalls";
const CUT_OFF: &str = "the connection was cut off in the middle: ask for the release again; the cache is as it was";

/// Lines that git says whatever went wrong, and advice that cannot help: no configuration but the agent's own is read.
const FOR_EVERYBODY: [&str; 6] = [
    "Could not read from remote repository.",
    "Please make sure you have the correct access rights",
    "and the repository exists.",
    "To add an exception for this directory, call:",
    "git config --global --add safe.directory",
    "hint: ",
];

/// The user that git runs as.
fn own_name() -> String {
    let user = nix::unistd::geteuid();
    nix::unistd::User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |user| user.name)
}

/// What stands in single or double quotes behind some words.
fn quoted_after<'l>(said: &'l str, words: &str) -> Option<&'l str> {
    let rest = said.split_once(words)?.1;
    let quote = rest.find(['\'', '"'])?;
    let end = char::from(rest.as_bytes()[quote]);
    rest[quote + 1..].split(end).next()
}

fn program_hint(source: &ProgramError) -> Option<String> {
    let said = source.tail().join("\n");
    if let Some(repository) = quoted_after(&said, "dubious ownership in repository at") {
        return Some(format!("chown -R {} {repository}, or name it by an address that its owner serves (ssh or https)", own_name()));
    }
    if said.contains("Load key") && said.contains("Permission denied") || said.contains("bad permissions") {
        let key = quoted_after(&said, "Load key").unwrap_or("the file of `ssh_key`");
        let user = own_name();
        return Some(format!("chown {user} {key} && chmod 400 {key}: ssh takes a key that {user} alone can read"));
    }
    // The first that fits counts: what is told more closely stands before what may follow from it.
    let hints = [
        ("Permission denied (publickey", "the host does not know the agent's key: add the public half of `ssh_key` as a deploy key"),
        (
            "has changed and you have requested strict checking",
            "the host answers with another key than `known_hosts` has: ask whoever runs it whether its key was changed; if it was not, somebody may \
             stand in between",
        ),
        ("Host key verification failed", "the host's key is not trusted: put it into `known_hosts` (ssh-keyscan HOST, and compare it)"),
        ("could not read Username", "the repository wants a login: use ssh with a deploy key; the agent keeps no passwords"),
        ("Could not resolve host", UNKNOWN_HOST),
        ("Name or service not known", UNKNOWN_HOST),
        ("Temporary failure in name resolution", UNKNOWN_HOST),
        ("certificate verification failed", BAD_CERTIFICATE),
        ("SSL certificate problem", BAD_CERTIFICATE),
        ("The requested URL returned error: 5", "the forge itself fails: ask for the release again when it answers"),
        ("' not found", "look at the app's `repository`: the forge has none of that name, or shows it only to those who log in"),
        ("Couldn't connect to server", NOBODY_LISTENS),
        ("Connection refused", NOBODY_LISTENS),
        ("timed out", OUT_OF_REACH),
        ("No route to host", OUT_OF_REACH),
        ("Network is unreachable", OUT_OF_REACH),
        ("Operation too slow", "the server fell silent: ask for the release again"),
        ("early EOF", CUT_OFF),
        ("hung up unexpectedly", CUT_OFF),
        ("Recv failure", CUT_OFF),
        ("does not appear to be a git repository", "look at the app's `repository`: there is no repository at that place"),
        ("invalid gitfile format", "look at the app's `repository`: there is a file at that place, and no repository"),
        ("No space left on device", "the disk is full: `agentctl prune` removes old releases"),
        ("fsckObjects", "the repository holds a malformed object; git fsck in a clone names it"),
    ];
    if matches!(source, ProgramError::Missing(_)) {
        return Some("install git".to_owned());
    }
    let hint = hints.iter().find(|(part, _)| said.contains(part)).map(|(_, hint)| *hint).or(source.hint())?;
    // A host that has a proxy does not ask the server itself.
    let proxy = quoted_after(&said, "unable to access").and_then(proxy_of);
    match proxy.filter(|_| [UNKNOWN_HOST, NOBODY_LISTENS, OUT_OF_REACH].contains(&hint)) {
        Some(proxy) => Some(format!(
            "git asks through the proxy {proxy}, which the agent's environment names (https_proxy): see that it answers, or except the host by no_proxy"
        )),
        None => Some(hint.to_owned()),
    }
}
