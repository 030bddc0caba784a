//! The options for reaching the agent, and their result.

use std::path::PathBuf;
use std::sync::Arc;

use agent_model::names::HostId;
use agent_wire::place;
use agent_wire::sshsig::MOST_SIGNATURES;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory};

use crate::address::Url;
use crate::client::{Client, Network, Patience, Transport};
use crate::fault::Fault;
use crate::key::{self, Key, Means};
use crate::render::words::quoted;
use crate::tls;

/// The options.
#[derive(Debug, Args)]
pub(crate) struct Route {
    /// The agent's socket on this host, when it is not the usual one
    #[arg(long, global = true, env = "AGENTCTL_SOCKET", hide_env_values = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The agent of another host, as in https://web1.example.org:8443; every request is signed with --key
    #[arg(long, global = true, env = "AGENTCTL_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) url: Option<Url>,
    /// Who signs: an OpenSSH private key (Ed25519), or a public key that ssh-agent or a hardware key signs for; up to four. A passphrase is asked
    /// for, or read from the file that AGENTCTL_KEY_PASSPHRASE_FILE names
    #[arg(long = "key", global = true, env = "AGENTCTL_KEY", hide_env_values = true, value_name = "FILE")]
    pub(crate) keys: Vec<PathBuf>,
    /// Believe these certificates (PEM) and no other: the agent's own, or the authority's that issued it
    #[arg(long, global = true, env = "AGENTCTL_CA", hide_env_values = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// What the other host is called in requests (`host` in its agent.toml), when it is not the URL's host
    #[arg(long, global = true, env = "AGENTCTL_HOST", hide_env_values = true, value_name = "NAME")]
    pub(crate) host: Option<HostId>,
    /// Those of the options that were typed and lead to another agent, in the form to be typed again.
    #[arg(skip)]
    typed: Vec<String>,
}

impl Route {
    /// Decides between the two transports where both are given: a typed option overrides the environment.
    pub(crate) fn settle<C: CommandFactory>(&mut self, matches: &ArgMatches) -> Result<(), Fault> {
        let typed = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        if self.socket.is_some() && self.url.is_some() {
            match (typed("socket"), typed("url")) {
                (true, false) => self.url = None,
                (false, true) => self.socket = None,
                _ => {
                    let says = "--socket (AGENTCTL_SOCKET) and --url (AGENTCTL_URL) name two agents: give one of them";
                    return Err(misused::<C>(ErrorKind::ArgumentConflict, says));
                }
            }
        }
        if self.keys.len() > MOST_SIGNATURES {
            return Err(misused::<C>(ErrorKind::TooManyValues, "a request has four signatures at the most: give no more than four --key"));
        }
        self.typed = ["url", "keys", "ca", "host"].into_iter().filter(|id| typed(id)).flat_map(|id| self.as_typed(id)).collect();
        Ok(())
    }

    fn as_typed(&self, id: &str) -> Vec<String> {
        let path = |option, path: &PathBuf| format!("{option} {}", quoted(&path.display().to_string()));
        match id {
            "url" => self.url.iter().map(|url| format!("--url {}", quoted(&url.to_string()))).collect(),
            "keys" => self.keys.iter().map(|key| path("--key", key)).collect(),
            "ca" => self.ca.iter().map(|ca| path("--ca", ca)).collect(),
            "host" => self.host.iter().map(|host| format!("--host {host}")).collect(),
            _ => Vec::new(),
        }
    }

    /// The client of the agent.
    pub(crate) fn client<C: CommandFactory>(self) -> Result<Client, Fault> {
        let Some(url) = self.url else {
            return Ok(Client::new(Transport::Socket(self.socket.unwrap_or_else(usual_socket)), Patience::default()));
        };
        if self.keys.is_empty() {
            let says = "--url needs a --key (or AGENTCTL_KEY): over the network every request is signed";
            return Err(misused::<C>(ErrorKind::MissingRequiredArgument, says));
        }
        let host = match self.host {
            Some(host) => host,
            None => url.host_id()?,
        };
        let tls = Arc::new(tls::config(self.ca.as_deref())?);
        let keys = Arc::new(load(&self.keys)?);
        let called = ["agentctl".to_owned()].into_iter().chain(self.typed).collect::<Vec<_>>().join(" ");
        let way = Transport::Network(Box::new(Network { url, host, keys, ca: self.ca, tls }));
        Ok(Client::new(way, Patience::of_network()).called(called))
    }
}

/// Loads the keys, each once.
pub(crate) fn load(paths: &[PathBuf]) -> Result<Vec<Key>, Fault> {
    let means = Means::of_environment(|name| std::env::var_os(name).map(PathBuf::from));
    let mut keys: Vec<Key> = Vec::new();
    for path in paths {
        let key = Key::load(path, &means, key::ask_at_terminal)?;
        if !keys.iter().any(|known| known.public() == key.public()) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// A usage error, in the style of the command line's own.
pub(crate) fn misused<C: CommandFactory>(kind: ErrorKind, says: &str) -> Fault {
    Fault::Usage(C::command().error(kind, says))
}

/// The default socket: the user's own, if there is one, else the system's.
fn usual_socket() -> PathBuf {
    place::user_socket(|name| std::env::var(name).ok()).filter(|path| path.exists()).unwrap_or_else(|| place::SYSTEM_SOCKET.into())
}
