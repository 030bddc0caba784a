//! Who asks: a file for each way to prove it. Only what is here makes callers.

pub(super) mod peer;
pub(super) mod token;
