//! The demo project as an app.

use crate::bench::Bench;
use crate::http::{Answer, Place, get};
use crate::repo::Repo;

/// Where the demo's site answers, within the bench: what a front server would connect to.
pub const SITE_SOCKET: &str = "run/web.sock";

/// The demo's app file: its own server, handed over from release to release.
pub fn demo_settings(bench: &Bench, repo: &Repo) -> String {
    let socket = bench.path(SITE_SOCKET);
    let database = bench.root_of("demo").join("shared/db.sqlite3");
    format!(
        r#"
repository = {repository:?}
branches = ["main"]
tags = ["v*"]

[python]
interpreter = "/usr/bin/python3"
packages = ["pyuwsgi==2.0.30.post1"]

[django]

[env]
SECRET_KEY = "not-a-secret-not-a-secret-not-a-secret-not-a-secret-0123456789"
ALLOWED_HOSTS = "localhost,127.0.0.1"
DATABASE_PATH = {database:?}

[backup]
database = "sqlite"

[restart]
strategy = "handover"
socket = {socket:?}
command = [
    "venv/bin/pyuwsgi", "--http-socket", "{{socket}}", "--module", "noticeboard.wsgi", "--need-app", "--master", "--die-on-term",
    "--processes", "2", "--listen", "1024",
]
confirm = "200ms"

[[check]]
url = "unix:{site}:/healthz"
status = 200
contains = "ok"
release_header = "X-Release"
"#,
        repository = repo.path(),
        site = socket.display(),
    )
}

impl Bench {
    /// A page of the demo's site.
    #[track_caller]
    pub fn page(&self, path: &str) -> Answer {
        get(&Place::Socket(self.path(SITE_SOCKET)), path).expect("the site answers")
    }
}
