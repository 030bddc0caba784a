//! Puts a dump back into its database, in one transaction: the database is as in the dump, or nothing has changed.
//!
//! `pg_restore --clean` removes only objects that the dump knows. A table that was made since stays, and its references keep older tables from being
//! replaced. So all objects are removed first, in the same transaction.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_wire::event::Stream;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

use super::postgres::{connected, failed};
use super::sqlite::{error, go_on};
use super::{DatabaseError, DatabaseKind, quoted};
use crate::database::{Database, Reached, Server};
use crate::process::{Program, Watch};

/// Removes all objects of the database except those of extensions.
const REMOVE: &str = "
DO $release_agent$
DECLARE it record;
BEGIN
  FOR it IN
    SELECT 1 AS place, format('DROP %s IF EXISTS %I.%I CASCADE', CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
        WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname) AS act
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('e', 'i'))
    UNION ALL
    SELECT 2, format('DROP ROUTINE IF EXISTS %s CASCADE', p.oid::regprocedure)
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
    UNION ALL
    SELECT 3, format('DROP TYPE IF EXISTS %I.%I CASCADE', n.nspname, t.typname)
      FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace LEFT JOIN pg_class c ON c.oid = t.typrelid
      WHERE (t.typtype IN ('e', 'd', 'r') OR c.relkind = 'c') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype IN ('e', 'i'))
    ORDER BY place
  LOOP
    EXECUTE it.act;
  END LOOP;
END $release_agent$;
";

/// How long a busy database of SQLite is waited for at a time.
const PAUSE: Duration = Duration::from_millis(20);

/// The command by which root puts a dump back. It holds no password: the program reads the app's secrets and asks Django's settings.
pub(crate) fn command(app: &str, user: Option<&str>, config: &Path, dump: &Path) -> String {
    let mut words = vec![ctl(), "restore".to_owned(), app.to_owned()];
    words.extend(user.map(|user| format!("--user={}", quoted(user))));
    if config != Path::new("/etc/release-agent") {
        words.push(format!("--config={}", quoted(&config.display().to_string())));
    }
    words.push(quoted(&dump.display().to_string()));
    words.join(" ")
}

/// The agentctl beside this program, by its name where root's PATH has it.
fn ctl() -> String {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("agentctl"));
    let usual = ["/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin", "/usr/local/sbin"];
    match beside.filter(|path| path.is_file()) {
        Some(path) if !usual.iter().any(|dir| path.parent() == Some(Path::new(dir))) => quoted(&path.display().to_string()),
        _ => "agentctl".to_owned(),
    }
}

/// Puts a dump back, by the connection that Django's driver has made.
///
/// # Errors
/// [`DatabaseError`] when that fails; then the database is as it was before.
pub(crate) fn restore(kind: DatabaseKind, database: &Database, dump: &Arc<File>, watch: &Watch<'_>) -> Result<(), DatabaseError> {
    if database.vendor != kind.vendor() {
        let (alias, vendor) = (database.alias.clone(), database.vendor.clone());
        return Err(DatabaseError::OtherKind { kind: kind.name(), alias, vendor });
    }
    match (kind, &database.reached) {
        (DatabaseKind::Postgres, Reached::Server(server)) => into_server(server, dump, watch),
        (DatabaseKind::Sqlite, Reached::File { path, .. }) => into_file(path, dump, watch),
        (DatabaseKind::Sqlite, Reached::Absent) => into_file(Path::new(&database.name), dump, watch),
        (_, other) => Err(DatabaseError::Unproven { alias: database.alias.clone(), why: format!("{other:?}") }),
    }
}

/// Where a dump goes, for people.
pub(crate) fn target(database: &Database) -> String {
    match &database.reached {
        Reached::Server(server) => format!(
            "the database {} of PostgreSQL at {} port {}, as {}",
            server.parameter("dbname"),
            server.parameter("host"),
            server.parameter("port"),
            server.parameter("user")
        ),
        Reached::File { path, .. } => path.display().to_string(),
        Reached::Absent | Reached::Unknown(_) => database.name.clone(),
    }
}

fn into_server(server: &Server, dump: &Arc<File>, watch: &Watch<'_>) -> Result<(), DatabaseError> {
    let of_dump = |source| DatabaseError::File { act: "read", path: "the dump".into(), source };
    let rewound = || dump.as_ref().rewind().map_err(of_dump);
    rewound()?;
    let list = Program::new("pg_restore").arg("--list").input_from(dump).quiet().capture(watch);
    let list = list.map_err(|source| failed("pg_restore", source))?.text();
    let scratch = scratch()?;
    let kept = scratch.path().join("list");
    fs::write(&kept, without_extensions(&list)).map_err(of_dump)?;

    let (from, to) = io::pipe().map_err(of_dump)?;
    let (from, to) = (Arc::new(File::from(std::os::fd::OwnedFd::from(from))), Arc::new(File::from(std::os::fd::OwnedFd::from(to))));
    let psql = connected("psql", server).args(["--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--output=/dev/null"]);
    let psql = psql.input_from(&from).quiet();
    drop(from);
    let (marker, deadline, cancel) = (watch.marker, watch.deadline, watch.cancel);
    std::thread::scope(|scope| {
        let psql = scope.spawn(move || {
            let lines = |_: Stream, _: &str| {};
            let done = psql.run(&Watch { marker, deadline, cancel, lines: &lines });
            // Closes the end of the pipe that psql has read.
            drop(psql);
            done
        });
        let role = server.parameters.get("role").map(|role| format!("SET ROLE \"{}\";\n", role.replace('"', "\"\"")));
        let begun = write!(&*to, "BEGIN;\n{}{REMOVE}", role.unwrap_or_default());
        let script = rewound().and_then(|()| {
            let program = Program::new("pg_restore").args(["--clean", "--if-exists", "--file=-", "--use-list"]).arg(&kept);
            program.input_from(dump).output_to(&to).quiet().run(watch).map_err(|source| failed("pg_restore", source))
        });
        // A script that was cut short never gets this line, and so changes nothing.
        if begun.is_ok() && script.is_ok() {
            // The write fails when psql has ended; its own error tells why.
            let _ = write!(&*to, "\nCOMMIT;\n");
        }
        drop(to);
        let applied = psql.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        applied.map_err(|source| failed("psql", source))?;
        script
    })
}

/// A directory that only this user may enter, removed at the end.
fn scratch() -> Result<TempDir, DatabaseError> {
    tempfile::tempdir().map_err(|source| DatabaseError::File { act: "make a directory in", path: std::env::temp_dir(), source })
}

/// The dump's list of contents without extensions: an app's user may mostly not make them.
fn without_extensions(list: &str) -> String {
    let is_one = |line: &&str| {
        let words: Vec<&str> = line.split(';').nth(1).unwrap_or_default().split_whitespace().skip(2).take(3).collect();
        matches!(words.as_slice(), ["EXTENSION", "-", ..] | ["COMMENT", "-", "EXTENSION"])
    };
    list.lines().filter(|line| !is_one(line)).fold(String::new(), |text, line| text + line + "\n")
}

/// By SQLite's online backup in the other direction: other connections see the state of before or the state of the dump.
fn into_file(to: &Path, dump: &Arc<File>, watch: &Watch<'_>) -> Result<(), DatabaseError> {
    let failed = |act, source| DatabaseError::File { act, path: to.to_owned(), source };
    // SQLite opens files by path, and this user may not open the dump's.
    let scratch = scratch()?;
    let copy = scratch.path().join("dump.sqlite3");
    dump.as_ref().rewind().map_err(|err| failed("read the dump for", err))?;
    let mut copied = File::create(&copy).map_err(|err| failed("make a copy of the dump for", err))?;
    io::copy(&mut &**dump, &mut copied).map_err(|err| failed("make a copy of the dump for", err))?;
    super::sqlite::verify(&copy, watch)?;
    let source = Connection::open_with_flags(&copy, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(error("open", &copy))?;
    let mut target = Connection::open(to).map_err(error("open", to))?;
    target.busy_timeout(Duration::from_millis(200)).map_err(error("open", to))?;
    let backup = Backup::new(&source, &mut target).map_err(error("restore", to))?;
    loop {
        go_on(watch)?;
        match backup.step(-1).map_err(error("restore", to))? {
            StepResult::Done => return Ok(()),
            _ => {
                watch.pause(PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_left_out_of_the_list() {
        let list = "; Archive created at 2026\n2; 3079 16385 EXTENSION - pg_trgm \n3; 0 0 COMMENT - EXTENSION pg_trgm \n5; 1259 1 TABLE public a shop\n";
        assert_eq!(without_extensions(list), "; Archive created at 2026\n5; 1259 1 TABLE public a shop\n");
    }

    #[test]
    fn the_command_is_quoted_and_names_what_is_not_usual() {
        let usual = command("shop", Some("shop"), Path::new("/etc/release-agent"), Path::new("/var/shop/backups/a.dump"));
        assert!(usual.ends_with("agentctl restore shop --user=shop /var/shop/backups/a.dump"), "{usual}");
        let odd = command("shop", None, Path::new("/tmp/it's"), Path::new("/tmp/a b.dump"));
        assert!(odd.ends_with(r"restore shop --config='/tmp/it'\''s' '/tmp/a b.dump'"), "{odd}");
    }
}
