//! Secrets that two sides share, and whether whoever sent something knows one. Every comparison takes the same time whatever is compared.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key};

/// The fewest bytes of a secret: 128 bits, if they are random.
const FEWEST_BYTES: usize = 16;
/// How long the code of HMAC-SHA256 is (RFC 2104, FIPS 180-4).
pub(crate) const CODE_BYTES: usize = 32;

/// A secret that two sides share. It is shown nowhere.
#[derive(Clone)]
pub(crate) struct Secret(Vec<u8>);

impl Secret {
    /// A secret of these bytes; nothing when they are too few.
    pub(crate) fn new(bytes: impl Into<Vec<u8>>) -> Option<Self> {
        let bytes = bytes.into();
        (bytes.len() >= FEWEST_BYTES).then_some(Self(bytes))
    }

    /// Whether these bytes are the secret.
    pub(crate) fn is(&self, bytes: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, bytes).is_ok()
    }

    /// Begins the code of a message that comes in pieces.
    pub(crate) fn code(&self) -> Code {
        Code(Context::with_key(&Key::new(HMAC_SHA256, &self.0)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for Secret {}

/// The code (HMAC-SHA256, RFC 2104) of what was heard so far.
pub(crate) struct Code(Context);

impl Code {
    /// Hears one more piece of the message.
    pub(crate) fn hear(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Whether one of these is the code of the whole message.
    pub(crate) fn fits_one_of(self, codes: &[[u8; CODE_BYTES]]) -> bool {
        let code = self.0.sign();
        // All are compared: which of them fits is nobody's business.
        codes.iter().fold(false, |fits, other| fits | verify_slices_are_equal(code.as_ref(), other).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(secret: &[u8], pieces: &[&[u8]], expected: [u8; CODE_BYTES]) -> bool {
        let mut code = Secret(secret.to_vec()).code();
        pieces.iter().for_each(|piece| code.hear(piece));
        code.fits_one_of(&[[0; CODE_BYTES], expected])
    }

    fn bytes(hex: &str) -> [u8; CODE_BYTES] {
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        bytes.try_into().unwrap()
    }

    /// RFC 4231, sections 4.2 and 4.3.
    #[test]
    fn the_code_is_that_of_the_standard() {
        let first = bytes("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        assert!(code(&[0x0b; 20], &[b"Hi There"], first));
        assert!(code(&[0x0b; 20], &[b"Hi ", b"", b"There"], first));
        let second = bytes("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert!(code(b"Jefe", &[b"what do ya want for nothing?"], second));
        assert!(!code(b"Jefe", &[b"what do ya want for nothing!"], second));
        assert!(!code(b"jefe", &[b"what do ya want for nothing?"], second));
    }

    #[test]
    fn a_secret_is_long_enough_and_never_shown() {
        assert_eq!((Secret::new(*b""), Secret::new(*b"fifteen-bytes-x")), (None, None));
        let secret = Secret::new(*b"sixteen-bytes-xx").unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert!(secret.is(b"sixteen-bytes-xx"));
        assert!(!secret.is(b"sixteen-bytes-x") && !secret.is(b"sixteen-bytes-xy") && !secret.is(b""));
    }
}
