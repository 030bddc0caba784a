//! PostgreSQL, by `pg_dump -Fc`. The connection is described by libpq's variables: arguments can be read by every user of the host.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::super::manage::Database;
use super::super::{Program, ProgramError, Watch};
use super::{DatabaseError, quoted};

/// Which variable of libpq stands for which of Django's OPTIONS.
const OPTIONS: &[(&str, &str)] = &[
    ("service", "PGSERVICE"),
    ("passfile", "PGPASSFILE"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslcrl", "PGSSLCRL"),
    ("options", "PGOPTIONS"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("gssencmode", "PGGSSENCMODE"),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("hostaddr", "PGHOSTADDR"),
];

/// Dumps into a file that is open and empty. Gives the command that restores it from `to`.
pub(super) fn dump(database: &Database, into: &Arc<File>, to: &Path, watch: &Watch<'_>) -> Result<String, DatabaseError> {
    let program = connected("pg_dump", database).args(["--format=custom", "--no-password"]).output_to(into);
    program.run(watch).map_err(|source| failed("pg_dump", source))?;
    Ok(restore(database, to))
}

fn connected(program: &str, database: &Database) -> Program {
    let Database { name, host, port, user, password, options, .. } = database;
    let options = OPTIONS.iter().filter_map(|(option, variable)| Some((*variable, options.get(*option)?.as_str())));
    let connection = [("PGDATABASE", name.as_str()), ("PGHOST", host), ("PGPORT", port), ("PGUSER", user), ("PGPASSWORD", password)];
    let variables = connection.into_iter().filter(|(_, value)| !value.is_empty());
    Program::new(program).env("PGCONNECT_TIMEOUT", "10").env("PGAPPNAME", "release-agent backup").envs(variables).envs(options)
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

fn failed(program: &str, source: ProgramError) -> DatabaseError {
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

/// The command for people: everything in the dump as it was, or nothing changed.
fn restore(database: &Database, dump: &Path) -> String {
    let Database { name, host, port, user, options, .. } = database;
    let mut words = vec!["pg_restore --clean --if-exists --single-transaction --exit-on-error".to_owned()];
    let mut dbname = name.clone();
    if let Some(service) = options.get("service") {
        words.insert(0, format!("PGSERVICE={}", quoted(service)));
        // Without a name pg_restore would only print.
        if dbname.is_empty() {
            dbname = format!("service={service}");
        }
    }
    for (option, value) in [("--host", host), ("--port", port), ("--username", user), ("--dbname", &dbname)] {
        if !value.is_empty() {
            words.push(format!("{option}={}", quoted(value)));
        }
    }
    words.push(quoted(&dump.display().to_string()));
    words.join(" ")
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
