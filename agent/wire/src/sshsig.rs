//! Signatures as OpenSSH makes them (`ssh-keygen -Y sign`): the SSHSIG blob of OpenSSH's PROTOCOL.sshsig, and the public keys in it (RFC 4253,
//! section 6.6; RFC 8709; OpenSSH's PROTOCOL.u2f). This module has only the layout; the crates with the crypto verify signatures.
//!
//! ```text
//! blob:   "SSHSIG" | u32 1 | string public key | string namespace | string reserved | string hash | string signature
//! signed: "SSHSIG" | string namespace | string reserved | string hash | string H(message)
//! ```
//!
//! A parse accepts exactly one encoding of each value: encoding the value again gives the same bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// The namespace of requests. A signature for `git` or `file` does not count here.
pub const NAMESPACE: &str = "release-agent.v1";
/// The header with one signature: the blob in base64, on one line.
pub const SIGNATURE_HEADER: &str = "agent-signature";
/// The most signatures of one request.
pub const MOST_SIGNATURES: usize = 4;
/// The most characters of one signature header. A hardware key's blob with a long application name has about 400 bytes.
pub const MOST_SIGNATURE_CHARS: usize = 2048;

const MAGIC: &[u8] = b"SSHSIG";
const ED25519: &[u8] = b"ssh-ed25519";
const SK_ED25519: &[u8] = b"sk-ssh-ed25519@openssh.com";

/// Why bytes are not a supported signature or key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadBlob {
    /// Not base64 in its canonical form.
    #[error("is not base64")]
    Base64,
    /// Too few bytes, or too many.
    #[error("does not end where it should")]
    Length,
    /// Another magic or version.
    #[error("is no SSHSIG of version 1")]
    Version,
    /// A reserved field is not empty.
    #[error("has something in its reserved field")]
    Reserved,
    /// Neither sha256 nor sha512.
    #[error("uses a hash other than sha256 and sha512")]
    Hash,
    /// Neither an Ed25519 key nor one in a hardware authenticator.
    #[error("is of a key type other than ssh-ed25519 and sk-ssh-ed25519@openssh.com")]
    KeyType,
    /// The namespace or the application is not text.
    #[error("has a name in it that is not text")]
    Text,
}

/// A public key of a supported type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PublicKey {
    /// `ssh-ed25519`
    Ed25519([u8; 32]),
    /// `sk-ssh-ed25519@openssh.com`: the private half is in a hardware authenticator.
    Hardware {
        /// The Ed25519 public key.
        key: [u8; 32],
        /// The application that it was made for, such as `ssh:`.
        application: String,
    },
}

/// The hash of the message that was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// `sha256`
    Sha256,
    /// `sha512`
    Sha512,
}

impl Hash {
    /// The word for it in the blob.
    pub fn word(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// The signature proper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawSignature {
    /// Ed25519 over the signed bytes.
    Ed25519([u8; 64]),
    /// Ed25519 over `SHA256(application) | flags | counter | SHA256(signed bytes)`.
    Hardware {
        /// The Ed25519 signature.
        signature: [u8; 64],
        /// Bit 0: a person touched the authenticator.
        flags: u8,
        /// The authenticator's count of signatures.
        counter: u32,
    },
}

/// A signature with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sshsig {
    /// The key that claims to have signed.
    pub key: PublicKey,
    /// The purpose of the signature.
    pub namespace: String,
    /// The hash function for the message.
    pub hash: Hash,
    /// The signature proper, of the same kind as the key.
    pub proof: RawSignature,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], BadBlob> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(BadBlob::Length)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, BadBlob> {
        let bytes: [u8; 4] = self.take(4)?.try_into().map_err(|_| BadBlob::Length)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn string(&mut self) -> Result<&'a [u8], BadBlob> {
        let length = usize::try_from(self.number()?).map_err(|_| BadBlob::Length)?;
        self.take(length)
    }

    fn text(&mut self) -> Result<String, BadBlob> {
        let bytes = self.string()?;
        let text = std::str::from_utf8(bytes).map_err(|_| BadBlob::Text)?;
        if text.contains(char::is_control) { Err(BadBlob::Text) } else { Ok(text.to_owned()) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadBlob> {
        self.string()?.try_into().map_err(|_| BadBlob::Length)
    }

    fn end(self) -> Result<(), BadBlob> {
        if self.0.is_empty() { Ok(()) } else { Err(BadBlob::Length) }
    }
}

fn put(bytes: &mut Vec<u8>, string: &[u8]) {
    // No string here comes near 4 GiB.
    bytes.extend_from_slice(&u32::try_from(string.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(string);
}

impl PublicKey {
    /// Reads a key's blob.
    ///
    /// # Errors
    /// [`BadBlob`] when it is of another type, too short or too long.
    pub fn from_blob(blob: &[u8]) -> Result<Self, BadBlob> {
        let mut reader = Reader(blob);
        let key = match reader.string()? {
            ED25519 => Self::Ed25519(reader.array()?),
            SK_ED25519 => Self::Hardware { key: reader.array()?, application: reader.text()? },
            _ => return Err(BadBlob::KeyType),
        };
        reader.end()?;
        Ok(key)
    }

    /// Reads a key's blob in base64, as in `*.pub` files and in `allowed_signers`.
    ///
    /// # Errors
    /// [`BadBlob`] when it is not base64, or no supported key.
    pub fn from_base64(text: &str) -> Result<Self, BadBlob> {
        Self::from_blob(&STANDARD.decode(text).map_err(|_| BadBlob::Base64)?)
    }

    /// The key's blob.
    pub fn to_blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        match self {
            Self::Ed25519(key) => {
                put(&mut blob, ED25519);
                put(&mut blob, key);
            }
            Self::Hardware { key, application } => {
                put(&mut blob, SK_ED25519);
                put(&mut blob, key);
                put(&mut blob, application.as_bytes());
            }
        }
        blob
    }

    /// The type word before the key's base64.
    pub fn type_word(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "ssh-ed25519",
            Self::Hardware { .. } => "sk-ssh-ed25519@openssh.com",
        }
    }

    /// The word and the base64, as in a `*.pub` file.
    pub fn to_line(&self) -> String {
        format!("{} {}", self.type_word(), STANDARD.encode(self.to_blob()))
    }
}

impl Sshsig {
    /// Reads a signature's blob.
    ///
    /// # Errors
    /// [`BadBlob`] with the first flaw.
    pub fn from_blob(blob: &[u8]) -> Result<Self, BadBlob> {
        let mut reader = Reader(blob);
        if reader.take(MAGIC.len())? != MAGIC || reader.number()? != 1 {
            return Err(BadBlob::Version);
        }
        let key = PublicKey::from_blob(reader.string()?)?;
        let namespace = reader.text()?;
        if !reader.string()?.is_empty() {
            return Err(BadBlob::Reserved);
        }
        let hash = match reader.string()? {
            b"sha256" => Hash::Sha256,
            b"sha512" => Hash::Sha512,
            _ => return Err(BadBlob::Hash),
        };
        let proof = RawSignature::from_blob(reader.string()?, &key)?;
        reader.end()?;
        Ok(Self { key, namespace, hash, proof })
    }

    /// Reads a blob in base64: one line, without armour.
    ///
    /// # Errors
    /// [`BadBlob`] with the first flaw.
    pub fn from_base64(text: &str) -> Result<Self, BadBlob> {
        Self::from_blob(&STANDARD.decode(text).map_err(|_| BadBlob::Base64)?)
    }

    /// The signature's blob.
    pub fn to_blob(&self) -> Vec<u8> {
        let mut blob = MAGIC.to_vec();
        blob.extend_from_slice(&1_u32.to_be_bytes());
        put(&mut blob, &self.key.to_blob());
        put(&mut blob, self.namespace.as_bytes());
        put(&mut blob, &[]);
        put(&mut blob, self.hash.word().as_bytes());
        put(&mut blob, &self.proof.to_blob());
        blob
    }

    /// The blob in base64, on one line: the value of the header.
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.to_blob())
    }

    /// The bytes that are signed, for a message with this digest.
    pub fn signed_bytes(namespace: &str, hash: Hash, digest: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        put(&mut bytes, namespace.as_bytes());
        put(&mut bytes, &[]);
        put(&mut bytes, hash.word().as_bytes());
        put(&mut bytes, digest);
        bytes
    }
}

impl RawSignature {
    /// Reads the signature proper, which must be of its key's kind; also an ssh-agent's answer (draft-miller-ssh-agent, section 3.6).
    ///
    /// # Errors
    /// [`BadBlob`] when it is of another kind, too short or too long.
    pub fn from_blob(blob: &[u8], key: &PublicKey) -> Result<Self, BadBlob> {
        let mut reader = Reader(blob);
        let kind = reader.string()?;
        let proof = match (kind, key) {
            (ED25519, PublicKey::Ed25519(_)) => Self::Ed25519(reader.array()?),
            (SK_ED25519, PublicKey::Hardware { .. }) => {
                let signature = reader.array()?;
                let [flags] = *reader.take(1)? else { return Err(BadBlob::Length) };
                Self::Hardware { signature, flags, counter: reader.number()? }
            }
            _ => return Err(BadBlob::KeyType),
        };
        reader.end()?;
        Ok(proof)
    }

    fn to_blob(&self) -> Vec<u8> {
        let mut blob = Vec::new();
        match self {
            Self::Ed25519(signature) => {
                put(&mut blob, ED25519);
                put(&mut blob, signature);
            }
            Self::Hardware { signature, flags, counter } => {
                put(&mut blob, SK_ED25519);
                put(&mut blob, signature);
                blob.push(*flags);
                blob.extend_from_slice(&counter.to_be_bytes());
            }
        }
        blob
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> Sshsig {
        let key = PublicKey::Ed25519([7; 32]);
        Sshsig { key, namespace: NAMESPACE.into(), hash: Hash::Sha512, proof: RawSignature::Ed25519([9; 64]) }
    }

    fn hardware() -> Sshsig {
        let key = PublicKey::Hardware { key: [7; 32], application: "ssh:".into() };
        Sshsig {
            key,
            namespace: NAMESPACE.into(),
            hash: Hash::Sha256,
            proof: RawSignature::Hardware { signature: [9; 64], flags: 1, counter: 5 },
        }
    }

    #[test]
    fn what_is_written_is_read_and_no_other_bytes_are() {
        for signature in [signature(), hardware()] {
            let blob = signature.to_blob();
            assert_eq!(Sshsig::from_blob(&blob), Ok(signature.clone()));
            assert_eq!(Sshsig::from_base64(&signature.to_base64()), Ok(signature.clone()));
            for end in 0..blob.len() {
                assert!(Sshsig::from_blob(&blob[..end]).is_err(), "cut at {end}");
            }
            let longer = [blob.as_slice(), &[0]].concat();
            assert_eq!(Sshsig::from_blob(&longer), Err(BadBlob::Length));
            for (at, bit) in (0..blob.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                let mut other = blob.clone();
                other[at] ^= 1 << bit;
                // The changed bytes are refused, or they decode to another value in its canonical form.
                if let Ok(read) = Sshsig::from_blob(&other) {
                    assert_ne!(read, signature);
                    assert_eq!(read.to_blob(), other);
                }
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_named() {
        let blob = signature().to_blob();
        let replaced = |from: &[u8], to: &[u8]| {
            let at = blob.windows(from.len()).position(|window| window == from).unwrap();
            [&blob[..at], to, &blob[at + from.len()..]].concat()
        };
        assert_eq!(Sshsig::from_blob(&replaced(b"SSHSIG\0\0\0\x01", b"SSHSIG\0\0\0\x02")), Err(BadBlob::Version));
        assert_eq!(Sshsig::from_blob(&replaced(b"\0\0\0\x06sha512", b"\0\0\0\x04sha1")), Err(BadBlob::Hash));
        assert_eq!(Sshsig::from_blob(&replaced(b"\0\0\0\0\0\0\0\x06sha512", b"\0\0\0\x01x\0\0\0\x06sha512")), Err(BadBlob::Reserved));
        assert_eq!(PublicKey::from_blob(b"\0\0\0\x07ssh-rsa\0\0\0\x01\x01"), Err(BadBlob::KeyType));
        let base64 = signature().to_base64();
        assert_eq!(Sshsig::from_base64(&format!("{base64}\n")), Err(BadBlob::Base64));
        assert_eq!(Sshsig::from_base64(base64.trim_end_matches('=')).is_err(), base64.ends_with('='));
        // A proof of the other kind.
        let mixed = Sshsig { proof: hardware().proof, ..signature() };
        assert_eq!(Sshsig::from_blob(&mixed.to_blob()), Err(BadBlob::KeyType));
    }

    /// Made by `ssh-keygen -t ed25519` of OpenSSH 9.2.
    #[test]
    fn a_line_of_a_public_key_file() {
        let text = "AAAAC3NzaC1lZDI1NTE5AAAAIN/HamL4i1Oe+tDwaZ6iq+Huwc1uxkm/3U01I7SwxhIB";
        assert_eq!(PublicKey::from_base64(text).unwrap().to_line(), format!("ssh-ed25519 {text}"));
    }
}
