//! A PostgreSQL server for tests: its own cluster in a temporary directory, on a Unix socket there, ended when it is dropped.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A password that wants to be quoted.
pub const PASSWORD: &str = "pass'word %40 $x";

/// A running server.
pub struct Postgres {
    dir: TempDir,
    programs: PathBuf,
}

impl Postgres {
    /// Starts one, with an empty database `shop` that belongs to the user `shop`.
    pub fn start() -> Self {
        let versions = std::fs::read_dir("/usr/lib/postgresql").expect("these tests need PostgreSQL: apt install postgresql");
        let programs = versions.map(|version| version.unwrap().path().join("bin")).max().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(dir.path().join("password"), PASSWORD).unwrap();
        let server = Self { dir, programs };
        let data = server.socket().join("data");
        let password = server.socket().join("password");
        let init = ["--no-sync", "--auth=scram-sha-256", "--username=shop", "--encoding=UTF8", "--no-locale"].map(Into::into);
        server.run("initdb", &[&init[..], &["--pgdata".into(), data.clone(), "--pwfile".into(), password]].concat());
        let options = format!("-c listen_addresses= -c fsync=off -k {}", server.socket().display());
        server.run(
            "pg_ctl",
            &[
                "start".into(),
                "-w".into(),
                "-s".into(),
                "-D".into(),
                data,
                "-o".into(),
                options.into(),
                "-l".into(),
                server.socket().join("log"),
            ],
        );
        server.sql("CREATE DATABASE shop");
        server
    }

    /// A server refuses to run as root.
    fn run(&self, program: &str, args: &[PathBuf]) {
        let program = self.programs.join(program);
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        let status = command.args(args).current_dir("/").stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "{command:?}");
    }

    /// The directory of its socket: what `PGHOST` wants.
    pub fn socket(&self) -> &Path {
        self.dir.path()
    }

    fn psql(&self, database: &str) -> Command {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-U", "shop", "-d", database, "-h"]).arg(self.socket()).env("PGPASSWORD", PASSWORD);
        command
    }

    /// Runs a command in the database `postgres`, or in `shop` where it is there.
    pub fn sql(&self, sql: &str) -> String {
        let database = if sql.starts_with("CREATE DATABASE") { "postgres" } else { "shop" };
        let output = self.psql(database).args(["-c", sql]).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What the server says to a statement on `shop`: an error where it refuses.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let output = self.psql("shop").args(["-c", sql]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Makes this user of the host the owner of `shop`, who needs no password.
    pub fn know_by_name(&self, user: &str) {
        let known = self.socket().join("data/pg_hba.conf");
        let rules = std::fs::read_to_string(&known).unwrap();
        std::fs::write(&known, format!("local all {user} peer\n{rules}")).unwrap();
        self.sql(&format!("CREATE ROLE {user} LOGIN; ALTER DATABASE shop OWNER TO {user}; SELECT pg_reload_conf()"));
    }

    /// A client that has begun a transaction and holds what `sql` locks, until it is dropped.
    pub fn hold(&self, sql: &str) -> Holder {
        let mut client = self.psql("shop").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        client.stdin.as_mut().unwrap().write_all(format!("BEGIN; {sql}; SELECT 'held';\n").as_bytes()).unwrap();
        let mut line = String::new();
        BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Holder(client)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.run("pg_ctl", &["stop".into(), "-s".into(), "-m".into(), "immediate".into(), "-D".into(), self.socket().join("data")]);
    }
}

/// Who holds a lock.
pub struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
