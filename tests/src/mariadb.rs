//! A MariaDB server of a test's own, on a Unix socket alone.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::wait::wait_until;

/// The server, with the empty database `shop`. It ends with the value.
pub struct MariaDb {
    directory: TempDir,
    server: Child,
}

impl MariaDb {
    /// Makes a server and starts it.
    #[track_caller]
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("ra-").tempdir_in("/tmp").expect("/tmp takes a new directory");
        let user =
            format!("--user={}", nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().expect("this user has a name").name);
        let data = format!("--datadir={}", directory.path().join("data").display());
        let made =
            Command::new("mariadb-install-db").args(["--no-defaults", "--auth-root-authentication-method=normal", &user, &data]).output();
        let made = made.expect("this test needs mariadb-server: tests/run installs it");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let socket = directory.path().join("socket");
        let server = Command::new("mariadbd")
            .args([
                "--no-defaults",
                &user,
                &data,
                &format!("--socket={}", socket.display()),
                "--skip-networking",
                "--innodb-flush-log-at-trx-commit=0",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs mariadb-server: tests/run installs it");
        let server = Self { directory, server };
        wait_until("MariaDB answers", Duration::from_secs(60), || server.client(&["-e", "CREATE DATABASE IF NOT EXISTS shop"]));
        server
    }

    /// Its socket; the user is `root`, without a password.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn client(&self, args: &[&str]) -> bool {
        let socket = format!("--socket={}", self.socket().display());
        Command::new("mariadb")
            .args(["--no-defaults", "--user=root", &socket])
            .args(args)
            .output()
            .is_ok_and(|output| output.status.success())
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        // The directory goes with it, so nothing needs to be written.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
