//! Whether a signature is what it says: the one place where public keys meet signed bytes.

use agent_wire::sshsig::{Hash, PublicKey, RawSignature, Sshsig};
use aws_lc_rs::digest::{SHA256, SHA512, digest};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

/// Bit 0 of the flags of a hardware key: somebody was there and touched it (OpenSSH's PROTOCOL.u2f).
const TOUCHED: u8 = 1;

/// Whether the signature is one of `message` under its own namespace, made by its own key. Whose key that is, others must say.
pub(crate) fn prove(signature: &Sshsig, message: &[u8]) -> bool {
    let hashed = match signature.hash {
        Hash::Sha256 => digest(&SHA256, message),
        Hash::Sha512 => digest(&SHA512, message),
    };
    let signed = Sshsig::signed_bytes(&signature.namespace, signature.hash, hashed.as_ref());
    match (&signature.key, &signature.proof) {
        (PublicKey::Ed25519(key), RawSignature::Ed25519(proof)) => UnparsedPublicKey::new(&ED25519, key).verify(&signed, proof).is_ok(),
        (PublicKey::Hardware { key, application }, RawSignature::Hardware { signature, flags, counter }) => {
            let mut by_hardware = digest(&SHA256, application.as_bytes()).as_ref().to_vec();
            by_hardware.push(*flags);
            by_hardware.extend_from_slice(&counter.to_be_bytes());
            by_hardware.extend_from_slice(digest(&SHA256, &signed).as_ref());
            flags & TOUCHED != 0 && UnparsedPublicKey::new(&ED25519, key).verify(&by_hardware, signature).is_ok()
        }
        // The parser lets no mixture through.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use agent_wire::sshsig::NAMESPACE;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    fn pair() -> Ed25519KeyPair {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap()
    }

    fn key_of(pair: &Ed25519KeyPair) -> [u8; 32] {
        pair.public_key().as_ref().try_into().unwrap()
    }

    fn proof(pair: &Ed25519KeyPair, bytes: &[u8]) -> [u8; 64] {
        pair.sign(bytes).as_ref().try_into().unwrap()
    }

    fn signed(message: &[u8], hash: Hash) -> Vec<u8> {
        let algorithm = if hash == Hash::Sha256 { &SHA256 } else { &SHA512 };
        Sshsig::signed_bytes(NAMESPACE, hash, digest(algorithm, message).as_ref())
    }

    #[test]
    fn a_signature_is_of_one_message_one_namespace_and_one_hash() {
        let pair = pair();
        for hash in [Hash::Sha256, Hash::Sha512] {
            let proof = RawSignature::Ed25519(proof(&pair, &signed(b"body", hash)));
            let signature = Sshsig { key: PublicKey::Ed25519(key_of(&pair)), namespace: NAMESPACE.into(), hash, proof };
            assert!(prove(&signature, b"body"));
            assert!(!prove(&signature, b"bodY"));
            assert!(!prove(&Sshsig { namespace: "file".into(), ..signature.clone() }, b"body"));
            let other = if hash == Hash::Sha256 { Hash::Sha512 } else { Hash::Sha256 };
            assert!(!prove(&Sshsig { hash: other, ..signature }, b"body"));
        }
    }

    #[test]
    fn a_hardware_key_must_have_been_touched() {
        let pair = pair();
        let made = |flags: u8, counter: u32, application: &str| {
            let mut bytes = digest(&SHA256, application.as_bytes()).as_ref().to_vec();
            bytes.push(flags);
            bytes.extend_from_slice(&counter.to_be_bytes());
            bytes.extend_from_slice(digest(&SHA256, &signed(b"body", Hash::Sha512)).as_ref());
            proof(&pair, &bytes)
        };
        let signature = |flags, counter, signature| Sshsig {
            key: PublicKey::Hardware { key: key_of(&pair), application: "ssh:".into() },
            namespace: NAMESPACE.into(),
            hash: Hash::Sha512,
            proof: RawSignature::Hardware { signature, flags, counter },
        };
        assert!(prove(&signature(1, 7, made(1, 7, "ssh:")), b"body"));
        assert!(prove(&signature(5, 7, made(5, 7, "ssh:")), b"body"), "verified by PIN as well");
        assert!(!prove(&signature(0, 7, made(0, 7, "ssh:")), b"body"), "not touched");
        assert!(!prove(&signature(1, 8, made(1, 7, "ssh:")), b"body"), "another count");
        assert!(!prove(&signature(1, 7, made(1, 7, "ssh:other")), b"body"), "another application");
    }
}
