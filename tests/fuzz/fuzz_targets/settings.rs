//! `agent.toml` and the file of an app.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| release_agent::fuzzing::settings(text));
