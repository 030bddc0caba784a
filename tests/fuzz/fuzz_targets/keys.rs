//! What an issuer answers when it is asked for its keys, and for the place of them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|document: &[u8]| release_agent::fuzzing::keys(document));
