//! Readers of the journal and of the roots. Nothing here can fail a release.

pub(crate) mod metrics;
