//! A PostgreSQL server for tests, as Django's settings would describe it.

use std::collections::BTreeMap;

pub(crate) use agent_tests::{PASSWORD, Postgres as Server};

use crate::database::{Database, IDENTITY, Reached};

/// The server's database `shop`, as a driver would have reached it.
pub(crate) fn database(server: &Server) -> Database {
    let host = server.socket().display().to_string();
    let parameters = [("dbname", "shop"), ("host", &*host), ("port", "5432"), ("user", "shop"), ("password", PASSWORD)];
    let reached = Reached::Server(crate::database::Server {
        parameters: parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        environment: BTreeMap::new(),
        asked: 0,
        identity: server.sql(IDENTITY.lines().next().unwrap()),
    });
    Database {
        alias: "default".into(),
        vendor: "postgresql".into(),
        name: "shop".into(),
        host,
        port: String::new(),
        user: "shop".into(),
        password: PASSWORD.into(),
        options: BTreeMap::new(),
        reached,
    }
}
