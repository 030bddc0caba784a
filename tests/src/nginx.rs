//! nginx in front of an app, as the example has it.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::bench::{Begun, Bench};
use crate::demo::SITE_SOCKET;
use crate::http::{Place, get};
use crate::shop::example;
use crate::wait::wait_until;

/// Where it listens, within the bench.
const FRONT_SOCKET: &str = "run/front.sock";
const ERRORS: &str = "log/nginx-errors.log";

/// What nginx does with its connections to the app when they have served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstream {
    /// It closes them, as the example has it.
    Closed,
    /// It keeps them for the next requests of two seconds, as the example says for those who want that.
    Kept,
}

/// An nginx that ends with its bench.
#[derive(Debug)]
pub struct Nginx {
    socket: PathBuf,
    errors: PathBuf,
    process: Begun,
}

impl Nginx {
    /// Starts one before the demo's site, with the server of the examples; only where things lie is another.
    #[track_caller]
    pub fn before_demo(bench: &Bench, upstream: Upstream) -> Self {
        let (socket, errors) = (bench.path(FRONT_SOCKET), bench.path(ERRORS));
        let mut server = example("nginx-shop.conf")
            .replace("listen 80;", &format!("listen unix:{};", socket.display()))
            .replace("/run/shop/web.sock", &bench.path(SITE_SOCKET).display().to_string())
            .replace("/var/shop/app", &bench.root_of("demo").join("app").display().to_string());
        if upstream == Upstream::Kept {
            server =
                server.replace("web.sock;\n", "web.sock;\n    keepalive 16;\n    keepalive_time 2s;\n    keepalive_timeout 2s;\n").replace(
                    "proxy_pass http://shop;",
                    "proxy_pass http://shop;\n        proxy_http_version 1.1;\n        proxy_set_header Connection \"\";",
                );
        }
        let root = bench.path("nginx");
        let temporary =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|name| format!("{name}_temp_path {}/{name};\n", root.display()));
        // As an ordinary user it has only the user whom it runs as.
        let user = if nix::unistd::geteuid().is_root() { "user root;\n" } else { "" };
        let text = format!(
            "{user}daemon off;\npid {pid};\nerror_log {errors} info;\nworker_processes 2;\nevents {{ worker_connections 4096; }}\n\
             http {{\naccess_log off;\n{temporary}{server}\n}}\n",
            pid = root.join("pid").display(),
            errors = errors.display(),
            temporary = temporary.concat(),
        );
        let settings = bench.write("nginx/nginx.conf", text);
        let mut command = bench.command("nginx");
        command.arg("-c").arg(settings).arg("-e").arg(&errors).arg("-p").arg(root);
        let mut process = bench.begin(command);
        wait_until("nginx listens", Duration::from_secs(60), || {
            assert!(!process.is_over(), "nginx ended: {}", process.stderr());
            get(&Place::Socket(socket.clone()), "/").is_ok()
        });
        Self { socket, errors, process }
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// What it said of errors.
    pub fn errors(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.errors).unwrap_or_default();
        text.lines()
            .filter(|line| ["[error]", "[crit]", "[alert]", "[emerg]"].iter().any(|level| line.contains(level)))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.process.signal(Signal::SIGTERM);
    }
}
