//! The release agent from outside: a real daemon and a real ctl, real repositories, real servers, in a root of their own.
//!
//! A test makes a [`Bench`], gives it repositories and app files, starts the agent and asks it through the ctl, as a person would. Whatever a bench
//! starts ends with it; when a test fails, the bench shows what the agent and the ctl said. A tool that is to misbehave is a pretend program, put
//! first in the agent's `PATH`.

pub mod battery;
mod bench;
mod demo;
mod forge;
mod hostile;
mod git_server;
mod http;
mod issuer;
mod load;
mod mariadb;
mod network;
mod nginx;
mod nspawn;
mod package;
mod postgres;
mod processes;
mod repo;
mod shop;
mod sound;
mod unit_app;
mod wait;

pub use bench::{Begun, Bench, Done, is_root, project};
pub use demo::{SITE_SOCKET, demo_settings};
pub use forge::{Forge, Heard};
pub use git_server::{GitServer, Serving};
pub use hostile::Hostile;
pub use http::{Answer, Place, get, request};
pub use issuer::{Issuer, Replies};
pub use jsonschema;
pub use load::{Led, Load, Met, Over, Rate, RequestKind, Visit};
pub use mariadb::MariaDb;
pub use network::{HOST, Network, SigningKey, form, nonce, now};
pub use nginx::{Nginx, Upstream};
pub use nspawn::{Booted, Inside};
pub use package::{build_archive, build_package};
pub use postgres::{Holder, PASSWORD, Postgres};
pub use processes::{KILL_AGENT, KILL_AGENT_IN_PYTHON, Process, processes_about};
pub use repo::Repo;
pub use shop::{Stages, Visitors, example, serving, shop_file};
pub use unit_app::{AGENT, UNIT, UnitApp};
pub use wait::{free_port, wait_for, wait_until};
