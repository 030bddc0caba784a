//! Readers of the journal and of the roots. They cannot fail a release, and no release waits for them.

mod forge;
pub(crate) mod metrics;
pub(crate) mod reporter;
mod verdict;
