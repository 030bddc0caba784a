//! The release agent: a daemon that owns app roots, performs releases, proves that they serve, and undoes them when they do not.
//!
//! The modules are in the order of floors: each uses only those above it.

mod faults;
mod root;
mod trust;
mod process;
mod http;
mod https;
mod git;
mod python;
mod database;
mod django;
mod systemd;
mod restart;
mod settings;
mod work;
mod steps;
mod engine;
mod report;
mod api;
mod setup;
mod app_user;
mod restore;
mod exec;

mod daemon;

#[cfg(fuzzing)]
pub mod fuzzing;

pub use daemon::run;
