//! `allowed_signers` and `revoked_keys`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| release_agent::fuzzing::signers(text));
