//! The parts of the daemon that the fuzz targets of `tests/fuzz` use: parsers of untrusted input and of operators' files. Compiled for them alone.
#![expect(missing_docs, reason = "each does what its name says, for nobody else")]

use std::path::Path;

use chrono::Utc;

use crate::trust::webhook::{Claim, Source};
use crate::trust::{Algorithm, Jwt, Keys, Revoked, Signers, fingerprint, place_of_keys};

pub fn signers(text: &str) {
    if let Ok(signers) = Signers::parse(text) {
        for (principal, print, _) in signers.told() {
            assert!(signers.knows(&principal) && print.starts_with("SHA256:"));
        }
    }
    let (revoked, bad) = Revoked::parse(text);
    assert!(revoked.len() + bad.len() <= text.lines().count());
    // A list of public keys revokes each of them.
    for line in text.lines() {
        let key = line.trim().strip_prefix("ssh-ed25519 ").map(|rest| rest.split_whitespace().next().unwrap_or_default());
        if let Some(key) = key.and_then(|key| agent_wire::sshsig::PublicKey::from_base64(key).ok()) {
            assert!(revoked.check(&key).is_err(), "{}", fingerprint(&key));
        }
    }
}

pub fn token(text: &str, document: &[u8]) {
    let Ok(token) = Jwt::parse(text) else { return };
    assert!(token.kid().len() <= text.len());
    // No key has signed a token that a fuzzer made.
    if let Ok(keys) = Keys::parse(document) {
        assert!(token.verify(&[Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa], &keys).is_err());
    }
}

pub fn keys(document: &[u8]) {
    let _ = Keys::parse(document);
    if let Ok(place) = place_of_keys("https://issuer.test", document) {
        assert!(place.starts_with("https://issuer.test/"), "{place}");
    }
}

pub fn webhook(headers: &str, body: &[u8]) {
    let now = u64::try_from(Utc::now().timestamp()).unwrap_or_default();
    for source in Source::ALL {
        let secret = match source {
            Source::Gitlab | Source::Generic => source.secret("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="),
            _ => source.secret("not-what-a-fuzzer-would-find-by-itself"),
        };
        let Ok(secret) = secret else { return };
        let header = |name: &str| headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        for in_address in [None, Some(headers)] {
            let Some(claim) = Claim::of(source, header, in_address, now) else { continue };
            let mut listening = claim.listen(std::iter::once(&secret));
            listening.hear(body);
            assert!(!listening.proven());
        }
        let _ = source.secret(headers);
    }
}

pub fn settings(text: &str) {
    crate::settings::try_out(Path::new("fuzzed.toml"), text);
}
