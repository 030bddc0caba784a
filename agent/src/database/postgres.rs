//! PostgreSQL, by `pg_dump -Fc`. The connection is described by libpq's variables: arguments can be read by every user of the host.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::DatabaseError;
use crate::database::{Database, IDENTITY, Reached, Server};
use crate::process::{Program, ProgramError, Watch};

/// Which variable of libpq stands for which parameter of a connection.
const VARIABLES: &[(&str, &str)] = &[
    ("dbname", "PGDATABASE"),
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("service", "PGSERVICE"),
    ("options", "PGOPTIONS"),
    ("require_auth", "PGREQUIREAUTH"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslcompression", "PGSSLCOMPRESSION"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslcertmode", "PGSSLCERTMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("sslsni", "PGSSLSNI"),
    ("requirepeer", "PGREQUIREPEER"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("gssencmode", "PGGSSENCMODE"),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("gsslib", "PGGSSLIB"),
    ("gssdelegation", "PGGSSDELEGATION"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
];

/// Dumps into a file that is open and empty, once it is proven that Django's database is what is dumped.
pub(super) fn dump(database: &Database, into: &Arc<File>, watch: &Watch<'_>) -> Result<(), DatabaseError> {
    let server = match &database.reached {
        Reached::Server(server) => server,
        other => return Err(DatabaseError::Unproven { alias: database.alias.clone(), why: format!("{other:?}") }),
    };
    prove(database, server, watch)?;
    let mut program = connected("pg_dump", server).args(["--format=custom", "--no-password"]).output_to(into);
    if let Some(role) = server.parameters.get("role") {
        program = program.arg(format!("--role={role}"));
    }
    program.run(watch).map_err(|source| failed("pg_dump", source))
}

/// A program of PostgreSQL's, which reaches what Django's driver has reached: it gets what libpq made of everything that was set, wherever it was.
pub(super) fn connected(program: &str, server: &Server) -> Program {
    let parameters = VARIABLES.iter().filter_map(|(name, variable)| Some((*variable, server.parameters.get(*name)?)));
    Program::new(program).env("PGCONNECT_TIMEOUT", "10").envs(&server.environment).envs(parameters).env("PGAPPNAME", "release-agent backup")
}

/// Asks the other end, connected as `pg_dump` will be, which database it is.
fn prove(database: &Database, server: &Server, watch: &Watch<'_>) -> Result<(), DatabaseError> {
    let question = IDENTITY.lines().nth(server.asked).unwrap_or_default();
    let psql = connected("psql", server).args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password"]).quiet();
    let ask = |what: &str| psql.clone().args(["--command", what]).capture(watch).map_err(|source| failed("psql", source));
    let said = ask(question)?.text();
    if said.trim() == server.identity {
        return Ok(());
    }
    Err(DatabaseError::Another {
        alias: database.alias.clone(),
        django: format!("{}, at {}", server.identity, place(server)),
        tools: format!("{}: {}", said.trim(), ask("\\conninfo")?.text()),
    })
}

/// Where a server is, for people.
fn place(server: &Server) -> String {
    format!("{} port {}", server.parameter("host"), server.parameter("port"))
}

/// Reads all of it, as a restore would: the list of its contents stands at its beginning, and is whole in a dump that is cut short.
pub(super) fn verify(dump: &Path, watch: &Watch<'_>) -> Result<(), DatabaseError> {
    let unsound = |source: ProgramError| match source {
        ProgramError::Failed { tail, .. } => DatabaseError::Unsound(tail.last().cloned().unwrap_or_else(|| "pg_restore refuses it".into())),
        source => failed("pg_restore", source),
    };
    let list = Program::new("pg_restore").arg("--list").arg(dump).quiet().capture(watch).map_err(unsound)?;
    // Of an empty database nothing is listed but the header, which counts the settings that every dump begins with.
    let entries =
        list.text().lines().find_map(|line| line.trim_start_matches(';').trim().strip_prefix("TOC Entries: ")?.parse::<u64>().ok());
    if entries.unwrap_or(0) == 0 {
        return Err(DatabaseError::Unsound("it lists no contents".into()));
    }
    Program::new("pg_restore").args(["--file", "/dev/null"]).arg(dump).quiet().run(watch).map_err(unsound)
}

pub(super) fn failed(program: &str, source: ProgramError) -> DatabaseError {
    let lines = source.tail().to_vec();
    let said = |words: &str| lines.iter().find(|line| line.contains(words));
    let hint = match &source {
        ProgramError::Missing(_) => Some("apt install postgresql-client, of the server's version or newer".to_owned()),
        _ if said("server version mismatch").is_some() => {
            // «pg_dump: detail: server version: 16.3; pg_dump version: 15.6»
            let server = said("server version: ")
                .and_then(|line| line.split_once("server version: ")?.1.split(['.', ';', ' ']).next())
                .unwrap_or("N");
            Some(format!("pg_dump must not be older than the server: apt install postgresql-client-{server}"))
        }
        _ if said("no password supplied").is_some() || said("password authentication failed").is_some() => {
            Some("the server wants another password than the settings have for it".to_owned())
        }
        _ if said("permission denied for").is_some() => Some(
            "the user of the settings may not read everything: grant it pg_read_all_data, or make it the owner of the tables".to_owned(),
        ),
        _ if said("No space left on device").is_some() => Some("the disk is full; `agentctl prune` removes old releases".to_owned()),
        _ if said("Connection refused").is_some() || said("No such file or directory").is_some() => {
            Some("the server does not answer: is it running, and are host and port right?".to_owned())
        }
        _ => None,
    };
    DatabaseError::Program { act: program.to_owned(), hint, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_server_is_told_with_the_package_that_helps() {
        use std::os::unix::process::ExitStatusExt;
        let tail = vec![
            "pg_dump: error: aborting because of server version mismatch".to_owned(),
            "pg_dump: detail: server version: 16.3 (Debian 16.3-1); pg_dump version: 15.6".to_owned(),
        ];
        let source = ProgramError::Failed { program: "pg_dump".into(), status: std::process::ExitStatus::from_raw(256), tail };
        assert!(failed("pg_dump", source).hint().unwrap().ends_with("postgresql-client-16"));
    }
}
