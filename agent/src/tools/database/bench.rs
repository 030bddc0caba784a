//! A PostgreSQL server for tests, as Django's settings would describe it.

use std::collections::BTreeMap;

pub(crate) use agent_tests::{PASSWORD, Postgres as Server};

use super::super::manage::Database;

/// The server's database `shop`.
pub(crate) fn database(server: &Server) -> Database {
    Database {
        alias: "default".into(),
        vendor: "postgresql".into(),
        name: "shop".into(),
        host: server.socket().display().to_string(),
        port: String::new(),
        user: "shop".into(),
        password: PASSWORD.into(),
        options: BTreeMap::new(),
    }
}
