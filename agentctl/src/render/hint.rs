//! Hints: the remedy for each fault.

use std::io;
use std::path::Path;

use agent_wire::problem::Problem;

use super::words::{clean, listed};
use crate::address::{Address, Url};
use crate::fault::Fault;
use crate::key::KeyError;
use crate::tls::{Distrust, TlsError};

/// The remedy, where there is one.
pub(super) fn hint(fault: &Fault) -> Option<String> {
    match fault {
        Fault::NoApp => Some("write the first one with: agentctl init NAME --repository URL".into()),
        Fault::ManyApps(names) => Some(format!("say which with --app or AGENTCTL_APP: {}", listed(names))),
        Fault::UnknownApps(_) => Some("name it with --app or AGENTCTL_APP, which needs no right to read".into()),
        Fault::NoRun => Some("the first one begins with: agentctl release REF".into()),
        Fault::OutOfReach { address: Address::Socket(socket), source } => Some(no_socket(socket, source.kind())),
        Fault::OutOfReach { address: Address::Network(url), source } => Some(no_host(url, source)),
        Fault::Broken { address, .. } | Fault::Silent { address, .. } => Some(match address {
            Address::Socket(_) => "systemctl status release-agent shows how it is, journalctl -u release-agent why".into(),
            Address::Network(_) => {
                "is the network up, and is it the agent that listens there? on its host, journalctl -u release-agent tells what it met"
                    .into()
            }
        }),
        Fault::Strange { source, .. } => Some(match source {
            Some(_) => "agentctl --version and the agent's version should be the same; is something else listening there?".into(),
            None => "journalctl -u release-agent may tell why".into(),
        }),
        Fault::Lost { run, called, source } => {
            let hint = hint(source).map(|hint| format!("; {hint}")).unwrap_or_default();
            Some(format!("follow it again with: {called} logs -f {run}{hint}"))
        }
        Fault::Untrusted { why, ca, .. } => not_believed(*why, ca.as_deref()),
        Fault::Refused { problem, again } => {
            let again = again.map(|again| format!("ask again in {} s", again.as_secs()));
            let said = match (problem.status, problem.code.as_str()) {
                // The agent gives every caller the same hint, but this program knows that it signed.
                (401, _) => refused(problem).map(str::to_owned),
                // The agent cannot know that this program guessed the name.
                (_, "other_host") => Some("--host (or AGENTCTL_HOST) says what the host is called in its agent.toml".into()),
                _ => problem.hint.as_deref().map(clean).or_else(|| refused(problem).map(str::to_owned)),
            };
            let both: Vec<String> = said.into_iter().chain(again).collect();
            (!both.is_empty()).then(|| both.join("; "))
        }
        Fault::Unresolved { revision, .. } => Some(format!(
            "name it in full, which needs no right to plan: refs/heads/{revision} for a branch, refs/tags/{revision} for a tag, or the whole commit id"
        )),
        Fault::Key(err) => key(err),
        Fault::Tls(TlsError::NoRoots) => {
            Some("--ca FILE (or AGENTCTL_CA) names the certificate to believe; on Debian the others come with ca-certificates".into())
        }
        Fault::Tls(TlsError::NoCertificate { .. }) => {
            Some("it should begin with -----BEGIN CERTIFICATE-----, as tls/cert.pem of `agentctl init --tls` does".into())
        }
        Fault::Exists(path) => Some(format!("edit it, or remove it first: {}", path.display())),
        Fault::Disk { source, path, .. } if source.kind() == io::ErrorKind::PermissionDenied && path.starts_with("/etc") => {
            Some("only root may write there; --dir names another directory".into())
        }
        Fault::Disk { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Some("as root it would be /etc/release-agent; --dir names another directory".into())
        }
        _ => None,
    }
}

fn no_socket(socket: &Path, kind: io::ErrorKind) -> String {
    let socket = socket.display();
    match kind {
        io::ErrorKind::NotFound => "no agent has made this socket: systemctl status release-agent tells whether it runs (start it with systemctl start \
             release-agent); --socket or AGENTCTL_SOCKET names another, --url an agent elsewhere"
            .into(),
        io::ErrorKind::ConnectionRefused => {
            "the socket is there, but the agent behind it is gone: systemctl restart release-agent, and journalctl -u release-agent tells why it went".into()
        }
        io::ErrorKind::PermissionDenied => format!(
            "only the socket's owner and group may use it: ls -l {socket} names the group; join it with usermod -aG GROUP USER, and log in again"
        ),
        _ => "systemctl status release-agent tells whether it runs; --socket or AGENTCTL_SOCKET names another socket".into(),
    }
}

fn no_host(url: &Url, source: &io::Error) -> String {
    let Url { host, port } = url;
    match source.kind() {
        io::ErrorKind::ConnectionRefused => format!(
            "the host is there, and nothing listens on port {port}: has its agent.toml an [https] section, and is `listen` this port? \
             systemctl status release-agent tells whether it runs"
        ),
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            format!("is {host} up, and does the way to its port {port} lead through a firewall?")
        }
        // A failed lookup has no error kind of its own.
        _ => format!("can {host} be looked up here (getent hosts {host})? --url or AGENTCTL_URL names another address"),
    }
}

fn not_believed(why: Distrust, ca: Option<&Path>) -> Option<String> {
    Some(match (why, ca) {
        (Distrust::Issuer, None) => {
            "--ca FILE (or AGENTCTL_CA) names a certificate to believe: a copy of tls/cert.pem from that host, or its authority's".into()
        }
        (Distrust::Issuer, Some(ca)) => format!(
            "the certificate there is none of those in {}: was it renewed? fetch it from the host again; should it be the same one, somebody may stand between",
            ca.display()
        ),
        (Distrust::Name, _) => {
            "--url must name the host as the certificate does; --host says what its agent.toml calls it, where that is another name".into()
        }
        (Distrust::Time, _) => "is the clock right here (date -u)? else the certificate must be renewed on its host".into(),
        (Distrust::NoTls, _) => "something else listens there: `listen` in [https] of agent.toml names the port of the agent".into(),
        (Distrust::Other, _) => return None,
    })
}

/// The hint for a refusal that came without one.
fn refused(problem: &Problem) -> Option<&'static str> {
    Some(match problem.status {
        401 => {
            "the agent knows why, and tells only its log (journalctl -u release-agent on its host): the key may be unknown, revoked or out of its time; \
             allowed_signers there must have its public half"
        }
        403 => "agentctl whoami tells what you may do; a [[grant]] in agent.toml gives more",
        410 => "compare the clocks: date -u here and there",
        412 => "agentctl status tells which release is live",
        423 => "agentctl status tells who locked it and why; agentctl unlock ends the lock",
        503 => "it may take requests again in a moment; systemctl status release-agent on its host tells more",
        _ => return None,
    })
}

fn key(err: &KeyError) -> Option<String> {
    Some(match err {
        KeyError::NoKey { .. } => "it should begin with -----BEGIN OPENSSH PRIVATE KEY-----; ssh-keygen -t ed25519 makes such a key".into(),
        KeyError::Open { path, .. } => format!("chmod 600 {}", path.display()),
        KeyError::Kind { .. } => "make a key with: ssh-keygen -t ed25519".into(),
        KeyError::NoTerminal { .. } => {
            "put the key into an ssh-agent with ssh-add, or the passphrase into a file that AGENTCTL_KEY_PASSPHRASE_FILE names".into()
        }
        KeyError::NoAgent { path } | KeyError::AgentRefused { path } => {
            let path = path.display().to_string();
            let private = path.strip_suffix(".pub").unwrap_or(&path);
            match err {
                KeyError::NoAgent { .. } => format!("name the private key, or start one: eval \"$(ssh-agent)\" && ssh-add {private}"),
                _ => format!(
                    "ssh-add -L lists the keys that it has; ssh-add {private} adds one; a hardware key waits for a touch, and not for ever"
                ),
            }
        }
        KeyError::AgentOutOfReach { .. } => "SSH_AUTH_SOCK names its socket; ssh-add -L tells whether it answers".into(),
        _ => return None,
    })
}
