//! The release agent: a daemon that owns app roots, performs releases, proves that they serve, and takes them back when they do not.
//!
//! The modules are in the order of floors: each uses only those above it.

mod door;
mod engine;
mod report;
mod restart;
mod settings;
mod site;
mod steps;
mod tools;

mod daemon;

pub use daemon::run;
