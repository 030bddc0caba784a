//! Readers of the journal and of the roots. Nothing here can fail a release, and none waits for anything here.

mod forge;
pub(crate) mod metrics;
pub(crate) mod reporter;
mod verdict;
