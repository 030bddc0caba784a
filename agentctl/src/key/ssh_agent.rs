//! Talks to an ssh-agent (draft-ietf-sshm-ssh-agent): requests the list of its keys, and a signature.
//!
//! ```text
//! frame:  u32 length | byte type | contents
//! keys:   11                                                  -> 12 | u32 count | (string key | string comment)*
//! sign:   13 | string key | string bytes | u32 flags          -> 14 | string signature, or 5: it would not
//! ```

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use agent_wire::sshsig::{PublicKey, RawSignature};

use super::KeyError;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// The limit of OpenSSH's own agent.
const MOST_BYTES: u32 = 256 * 1024;

/// An ssh-agent behind a socket.
#[derive(Debug, Clone)]
pub(crate) struct SshAgent {
    socket: PathBuf,
}

impl SshAgent {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The blobs of the keys that it holds.
    pub(crate) fn keys(&self) -> Result<Vec<Vec<u8>>, KeyError> {
        let answer = self.ask(REQUEST_IDENTITIES, &[])?;
        keys_in(&answer).ok_or_else(|| KeyError::AgentStrange { socket: self.socket.clone(), source: None })
    }

    /// A signature over these bytes; `None` when the agent refuses, also because it does not hold the key.
    pub(crate) fn sign(&self, key: &PublicKey, bytes: &[u8]) -> Result<Option<RawSignature>, KeyError> {
        let strange = |source| KeyError::AgentStrange { socket: self.socket.clone(), source };
        let flags = 0_u32.to_be_bytes();
        let answer = self.ask(SIGN_REQUEST, &[string(&key.to_blob()), string(bytes), flags.to_vec()].concat())?;
        match answer.split_first() {
            Some((&FAILURE, _)) => Ok(None),
            Some((&SIGN_RESPONSE, mut rest)) => {
                let signature = take(&mut rest).filter(|_| rest.is_empty()).ok_or_else(|| strange(None))?;
                RawSignature::from_blob(signature, key).map(Some).map_err(|err| strange(Some(err)))
            }
            _ => Err(strange(None)),
        }
    }

    fn ask(&self, kind: u8, contents: &[u8]) -> Result<Vec<u8>, KeyError> {
        let asked = || {
            let mut stream = UnixStream::connect(&self.socket)?;
            stream.write_all(&string(&[&[kind], contents].concat()))?;
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let length = u32::from_be_bytes(length);
            if length > MOST_BYTES {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long"));
            }
            let mut answer = Vec::new();
            stream.take(u64::from(length)).read_to_end(&mut answer)?;
            Ok(answer)
        };
        asked().map_err(|source| KeyError::AgentOutOfReach { socket: self.socket.clone(), source })
    }
}

/// Bytes after their length.
fn string(bytes: &[u8]) -> Vec<u8> {
    // No text here comes near 4 GiB.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk::<4>()?;
    let (taken, behind) = behind.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    *rest = behind;
    Some(taken)
}

fn keys_in(answer: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (&kind, rest) = answer.split_first()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut keys = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        keys.push(take(&mut rest)?.to_vec());
        take(&mut rest)?;
    }
    (kind == IDENTITIES_ANSWER).then_some(keys)
}
