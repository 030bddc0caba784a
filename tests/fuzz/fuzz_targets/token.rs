//! An ID token, and the keys that it may be signed by, on either side of the first empty line.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (token, document) = text.split_once("\n\n").unwrap_or((text, ""));
    release_agent::fuzzing::token(token, document.as_bytes());
});
