//! systemd: units, the jobs on them, and the helpers. A floor of its own, which knows nothing of releases.

mod action;
mod bus;
pub(crate) mod environment_file;
mod error;
mod helper;
mod manage;
mod unit;

pub(crate) use action::{HELPERS, UnitAction};
pub(crate) use bus::Bus;
pub(crate) use error::SystemdError;
pub(crate) use unit::{Unit, instance_name};
