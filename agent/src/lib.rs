//! The release agent: a daemon that owns app roots, performs releases, proves that they serve, and takes them back when they do not.
#![cfg_attr(not(test), expect(dead_code, reason = "the floors above are being built"))]

mod engine;
mod restart;
mod settings;
mod site;
mod steps;
mod tools;
