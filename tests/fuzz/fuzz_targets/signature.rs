//! A signature's blob: what is understood is written again as the same bytes.
#![no_main]

use agent_wire::sshsig::{PublicKey, Sshsig};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|blob: &[u8]| {
    if let Ok(signature) = Sshsig::from_blob(blob) {
        assert_eq!(signature.to_blob(), blob);
        assert_eq!(Sshsig::from_base64(&signature.to_base64()), Ok(signature));
    }
    if let Ok(key) = PublicKey::from_blob(blob) {
        assert_eq!(key.to_blob(), blob);
    }
    if let Ok(text) = std::str::from_utf8(blob) {
        let _ = (Sshsig::from_base64(text), PublicKey::from_base64(text));
    }
});
