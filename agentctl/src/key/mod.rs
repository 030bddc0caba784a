//! The keys that sign: Ed25519 keys in OpenSSH's files, plain or encrypted, and those that an ssh-agent holds for us, among them keys in hardware.
//!
//! | what is named | what signs |
//! |---|---|
//! | a private key | the key itself |
//! | a private key that is encrypted | the key, opened with the passphrase file; else the ssh-agent, if it holds the key; else the key, opened with a passphrase that is asked for |
//! | a private key in hardware, or a public key | the ssh-agent |
//! | a private key that cannot be read, with its `.pub` beside it | the ssh-agent |

pub(crate) mod ssh_agent;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent_wire::sshsig::{BadBlob, Hash, NAMESPACE, PublicKey, RawSignature, Sshsig};
use ssh_key::{HashAlg, PrivateKey, SshSig};
use thiserror::Error;

use ssh_agent::SshAgent;

/// How often a passphrase is asked for, like ssh.
const ATTEMPTS: usize = 3;

/// Why a key does not sign.
#[derive(Debug, Error)]
pub(crate) enum KeyError {
    /// The file is missing or unreadable.
    #[error("cannot read the key {}", path.display())]
    Read {
        /// The file of the key.
        path: PathBuf,
        source: io::Error,
    },
    /// Other users can read or replace it.
    #[error("the key {} is open to others (mode {mode:04o})", path.display())]
    Open {
        /// The file of the key.
        path: PathBuf,
        mode: u32,
    },
    /// The file contains something else.
    #[error("{} holds no OpenSSH key", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A key of another kind.
    #[error("the key {} is no Ed25519 key, and requests are signed by no other", path.display())]
    Kind {
        /// The file of the key.
        path: PathBuf,
    },
    /// There is no terminal to ask for the passphrase.
    #[error("the key {} is encrypted, and there is no terminal to ask for its passphrase", path.display())]
    NoTerminal {
        /// The file of the key.
        path: PathBuf,
        source: io::Error,
    },
    /// The given passphrase is wrong.
    #[error("the passphrase does not open the key {}", path.display())]
    Passphrase {
        /// The file of the key.
        path: PathBuf,
    },
    /// The file with the passphrase cannot be read.
    #[error("cannot read the passphrase file {}", path.display())]
    PassphraseFile {
        /// The file with the passphrase.
        path: PathBuf,
        source: io::Error,
    },
    /// There is no ssh-agent to sign with this key.
    #[error("the private half of {} is not at hand, and SSH_AUTH_SOCK names no ssh-agent that could sign with it", path.display())]
    NoAgent {
        /// The file of the key.
        path: PathBuf,
    },
    /// The ssh-agent does not answer.
    #[error("the ssh-agent at {} is out of reach", socket.display())]
    AgentOutOfReach {
        /// Its socket.
        socket: PathBuf,
        source: io::Error,
    },
    /// The ssh-agent sent an invalid answer.
    #[error("the ssh-agent at {} gave an answer that is not understood", socket.display())]
    AgentStrange {
        /// Its socket.
        socket: PathBuf,
        /// The flaw of the signature, where the answer was one.
        source: Option<BadBlob>,
    },
    /// The ssh-agent has other keys, or its user did not agree.
    #[error("the ssh-agent would not sign with {}", path.display())]
    AgentRefused {
        /// The file of the key.
        path: PathBuf,
    },
    /// The library failed.
    #[error("cannot sign with {}", path.display())]
    Sign {
        /// The file of the key.
        path: PathBuf,
        source: ssh_key::Error,
    },
}

/// The environment's help for keys that cannot sign alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Means {
    /// The socket of the ssh-agent.
    pub(crate) ssh_agent: Option<PathBuf>,
    /// A file with the passphrase.
    pub(crate) passphrase_file: Option<PathBuf>,
}

impl Means {
    /// Reads the environment variables.
    pub(crate) fn of_environment(env: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let path = |name| env(name).filter(|path| !path.as_os_str().is_empty());
        Self { ssh_agent: path("SSH_AUTH_SOCK"), passphrase_file: path("AGENTCTL_KEY_PASSPHRASE_FILE") }
    }
}

/// A key, ready to sign.
#[derive(Debug)]
pub(crate) struct Key {
    path: PathBuf,
    public: PublicKey,
    hand: Hand,
}

/// The signer: the key itself, or an ssh-agent.
#[derive(Debug)]
enum Hand {
    Own(Box<PrivateKey>),
    Agent(SshAgent),
}

/// The half of a key that a file holds.
enum Found {
    Private(Box<PrivateKey>),
    Public(PublicKey),
}

impl Key {
    /// Makes the key ready. `ask` asks a person for the passphrase of the given file.
    pub(crate) fn load(path: &Path, means: &Means, mut ask: impl FnMut(&Path) -> io::Result<String>) -> Result<Self, KeyError> {
        let private = match found(path)? {
            Found::Public(public) => return Self::held(path, public, means),
            Found::Private(private) => private,
        };
        closed(path)?;
        let public = private.public_key().to_bytes().map_err(|source| KeyError::Sign { path: path.to_owned(), source })?;
        let public = PublicKey::from_blob(&public).map_err(|_| KeyError::Kind { path: path.to_owned() })?;
        if matches!(public, PublicKey::Hardware { .. }) {
            return Self::held(path, public, means);
        }
        let own = |private: PrivateKey| Self { path: path.to_owned(), public: public.clone(), hand: Hand::Own(Box::new(private)) };
        if !private.is_encrypted() {
            return Ok(own(*private));
        }
        if let Some(file) = &means.passphrase_file {
            let text = std::fs::read_to_string(file).map_err(|source| KeyError::PassphraseFile { path: file.clone(), source })?;
            let opened = private.decrypt(text.trim_end_matches(['\n', '\r']));
            return opened.map(own).map_err(|_| KeyError::Passphrase { path: path.to_owned() });
        }
        if let Some(agent) = means.ssh_agent.clone().map(SshAgent::new)
            // If the ssh-agent is unreachable, the passphrase can still be asked for.
            && agent.keys().is_ok_and(|keys| keys.contains(&public.to_blob()))
        {
            return Ok(Self { path: path.to_owned(), public, hand: Hand::Agent(agent) });
        }
        for _ in 0..ATTEMPTS {
            let passphrase = ask(path).map_err(|source| KeyError::NoTerminal { path: path.to_owned(), source })?;
            if let Ok(private) = private.decrypt(&passphrase) {
                return Ok(own(private));
            }
        }
        Err(KeyError::Passphrase { path: path.to_owned() })
    }

    /// A key that the ssh-agent holds.
    fn held(path: &Path, public: PublicKey, means: &Means) -> Result<Self, KeyError> {
        let socket = means.ssh_agent.clone().ok_or_else(|| KeyError::NoAgent { path: path.to_owned() })?;
        Ok(Self { path: path.to_owned(), public, hand: Hand::Agent(SshAgent::new(socket)) })
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether each signature needs a touch.
    pub(crate) fn is_touched(&self) -> bool {
        matches!(self.public, PublicKey::Hardware { .. })
    }

    /// Signs the bytes of a request. It may take as long as a person takes to touch a key.
    pub(crate) fn sign(&self, body: &[u8]) -> Result<Sshsig, KeyError> {
        let failed = |source| KeyError::Sign { path: self.path.clone(), source };
        let proof = match &self.hand {
            Hand::Own(private) => {
                let signature = private.sign(NAMESPACE, HashAlg::Sha512, body).map_err(failed)?;
                let bytes = signature.signature_bytes().try_into().map_err(|_| failed(ssh_key::Error::FormatEncoding))?;
                RawSignature::Ed25519(bytes)
            }
            Hand::Agent(agent) => {
                let bytes = SshSig::signed_data(NAMESPACE, HashAlg::Sha512, body).map_err(failed)?;
                agent.sign(&self.public, &bytes)?.ok_or_else(|| KeyError::AgentRefused { path: self.path.clone() })?
            }
        };
        Ok(Sshsig { key: self.public.clone(), namespace: NAMESPACE.into(), hash: Hash::Sha512, proof })
    }
}

/// Refuses a private key that other users can open, like ssh (sshkey_perm_ok in OpenSSH's authfile.c). A key of another owner is that owner's
/// concern.
fn closed(path: &Path) -> Result<(), KeyError> {
    let metadata = std::fs::metadata(path).map_err(|source| KeyError::Read { path: path.to_owned(), source })?;
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() == nix::unistd::getuid().as_raw() && mode & 0o077 != 0 {
        return Err(KeyError::Open { path: path.to_owned(), mode });
    }
    Ok(())
}

fn found(path: &Path) -> Result<Found, KeyError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(source) if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            let mut beside = path.as_os_str().to_owned();
            beside.push(".pub");
            std::fs::read_to_string(beside).map_err(|_| KeyError::Read { path: path.to_owned(), source })?
        }
        Err(source) if source.kind() == io::ErrorKind::InvalidData => return Err(KeyError::NoKey { path: path.to_owned() }),
        Err(source) => return Err(KeyError::Read { path: path.to_owned(), source }),
    };
    if text.contains("-----BEGIN OPENSSH PRIVATE KEY-----") {
        // Secrets of a CI often lack the last newline, or have other line ends.
        let text = format!("{}\n", text.trim().replace("\r\n", "\n"));
        let private = PrivateKey::from_openssh(&text).map_err(|err| match err {
            ssh_key::Error::AlgorithmUnknown | ssh_key::Error::AlgorithmUnsupported { .. } => KeyError::Kind { path: path.to_owned() },
            _ => KeyError::NoKey { path: path.to_owned() },
        })?;
        return Ok(Found::Private(Box::new(private)));
    }
    if text.contains("PRIVATE KEY-----") {
        return Err(KeyError::Kind { path: path.to_owned() });
    }
    let mut words = text.split_whitespace();
    let (kind, blob) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match PublicKey::from_base64(blob) {
        Ok(public) if public.type_word() == kind => Ok(Found::Public(public)),
        _ if ["ssh-", "sk-", "ecdsa-"].iter().any(|start| kind.starts_with(start)) => Err(KeyError::Kind { path: path.to_owned() }),
        _ => Err(KeyError::NoKey { path: path.to_owned() }),
    }
}

/// Asks for a passphrase at the terminal, whatever the standard streams are.
pub(crate) fn ask_at_terminal(path: &Path) -> io::Result<String> {
    rpassword::prompt_password(format!("passphrase of {}: ", path.display()))
}

#[cfg(test)]
pub(crate) mod tests;
