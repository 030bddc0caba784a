//! A webhook: headers, an empty line, a body. None that a fuzzer makes is proven.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (headers, body) = text.split_once("\n\n").unwrap_or((text, ""));
    release_agent::fuzzing::webhook(headers, body.as_bytes());
});
