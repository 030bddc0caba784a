//! `init`: writes a commented file for a new app, or a certificate. It needs no agent; a running one picks the files up by itself.

mod tls;

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use agent_model::names::AppName;
use clap::Args;
use nix::unistd::{Uid, geteuid};

use crate::fault::{Exit, Fault};
use crate::out::Out;
use crate::render;
use crate::render::init::RunBy;

/// The file for an app named `shop`; `init` puts in the name and the repository.
const TEMPLATE: &str = include_str!("app.toml");

/// What `init` takes.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The app's name; made from the repository's when it is left out
    name: Option<AppName>,
    /// Where the project is cloned from
    #[arg(long, value_name = "URL", required_unless_present = "tls")]
    repository: Option<String>,
    /// Instead of an app file, make a self-signed certificate for these host names (this host's, when none is named) and its private key
    #[arg(long, value_name = "HOST", num_args = 0.., conflicts_with_all = ["name", "repository"])]
    tls: Option<Vec<String>>,
    /// The configuration directory [default: /etc/release-agent for root, else release-agent in $XDG_CONFIG_HOME or ~/.config]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Init {
    /// Writes the file.
    pub(crate) fn run(self, out: &mut Out) -> Result<Exit, Fault> {
        let dir = match self.dir {
            Some(dir) => dir,
            None => usual_dir(geteuid(), |name| std::env::var(name).ok())?,
        };
        if let Some(names) = self.tls {
            return tls::write(out, &dir, names);
        }
        let repository = self.repository.unwrap_or_default();
        if repository.is_empty() || repository.chars().any(char::is_control) {
            return Err(Fault::Init { what: format!("the repository {repository:?}"), rule: "must be a URL on one line" });
        }
        let name = match self.name {
            Some(name) => name,
            None => name_of(&repository)?,
        };
        let apps = dir.join("apps");
        let path = apps.join(format!("{name}.toml"));
        fs::create_dir_all(&apps).map_err(|source| Fault::Disk { act: "make", path: apps.clone(), source })?;
        let run_by = run_by(&dir);
        write_new(&path, &filled(&name, &repository, run_by), For::Everybody)?;
        out.words(&render::init::written(&path, name.as_str(), run_by));
        Ok(Exit::GOOD)
    }
}

/// One of the units of the package for `units`.
const RUNNER: &str = "/usr/lib/systemd/system/release-agent-build@.socket";

/// The executor: from agent.toml beside the app's file, else from the installed units.
fn run_by(dir: &Path) -> RunBy {
    // An unreadable file counts as empty here; the agent reports it.
    let said = fs::read_to_string(dir.join("agent.toml")).unwrap_or_default();
    match said_of_executor(&said) {
        Some(run_by) => run_by,
        None if dir == Path::new("/etc/release-agent") && Path::new(RUNNER).exists() => RunBy::Units,
        None => RunBy::Agent,
    }
}

fn said_of_executor(text: &str) -> Option<RunBy> {
    let before_sections = text.lines().take_while(|line| !line.starts_with('['));
    let value = before_sections.filter_map(|line| line.split_once('=')).find(|(key, _)| key.trim() == "executor")?.1;
    Some(if value.contains("units") { RunBy::Units } else { RunBy::Agent })
}

/// The template's replacements where units run everything.
const FOR_UNITS: [(&str, &str); 4] = [
    (
        "# Where the project is cloned from",
        "# When it says what it should, as root and once: `agentctl setup app shop`. It makes the app's users, directories and units, and says beforehand\n\
         # what it does.\n\n# Where the project is cloned from",
    ),
    ("They must be there before the first one.", "`agentctl setup app shop` makes what is missing."),
    (
        "# A template unit, started as shop@<release>. It binds the socket's name with `.<release>` behind it.\n",
        "# A template unit, started as shop@blue and shop@green in turn. It binds the socket's name with `.blue` or `.green` behind it. Where it is\n\
         # missing, `agentctl setup app shop` writes one for gunicorn or uWSGI.\nslots = [\"blue\", \"green\"]\n",
    ),
    (
        "A release that cannot start is noticed by nobody. Other strategies: \"uwsgi-fifo\", \"systemd\", \"gunicorn\", \"command\", \"none\".",
        "A release that cannot start is noticed by nobody. Other strategies: \"systemd\", \"none\".",
    ),
];

/// The template for an app.
fn filled(name: &AppName, repository: &str, run_by: RunBy) -> String {
    let mut template = TEMPLATE.to_owned();
    if run_by == RunBy::Units {
        for (usual, with_units) in FOR_UNITS {
            template = template.replace(usual, with_units);
        }
    }
    let repository = format!("repository = \"{}\"", repository.replace('\\', "\\\\").replace('"', "\\\""));
    let lines =
        template.lines().map(|line| if line.starts_with("repository") { repository.clone() } else { line.replace("shop", name.as_str()) });
    lines.fold(String::with_capacity(template.len()), |text, line| text + &line + "\n")
}

/// The app's name from its repository: the last part of the path, without `.git`.
fn name_of(repository: &str) -> Result<AppName, Fault> {
    let last = repository.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    let name = last.strip_suffix(".git").unwrap_or(last).to_ascii_lowercase().replace(['_', '.'], "-");
    name.parse().map_err(|_| Fault::Init {
        what: format!("the repository {repository:?}"),
        rule: "suggests no name for the app: give one, as in agentctl init shop --repository URL",
    })
}

/// The default directory of the configuration.
fn usual_dir(user: Uid, env: impl Fn(&str) -> Option<String>) -> Result<PathBuf, Fault> {
    if user.is_root() {
        return Ok("/etc/release-agent".into());
    }
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    base.map(|base| base.join("release-agent")).ok_or(Fault::Init {
        what: "the configuration directory".into(),
        rule: "is unknown, for neither XDG_CONFIG_HOME nor HOME is set: name one with --dir",
    })
}

/// Who may read a file.
#[derive(Debug, Clone, Copy)]
enum For {
    Everybody,
    ItsOwner,
}

/// Writes a new file atomically, so that a program that watches the directory never sees half of it.
fn write_new(path: &Path, text: &str, readers: For) -> Result<(), Fault> {
    let mut half = path.as_os_str().to_owned();
    half.push(".new");
    let half = PathBuf::from(half);
    let disk = |act, path: &Path, source| Fault::Disk { act, path: path.to_owned(), source };
    // The leftover of an earlier attempt would keep its mode.
    let _ = fs::remove_file(&half);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(match readers {
            For::Everybody => 0o644,
            For::ItsOwner => 0o600,
        })
        .open(&half)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|source| disk("write", &half, source));
    // A link, unlike a rename, never replaces an existing file.
    let linked = written.and_then(|()| {
        fs::hard_link(&half, path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => Fault::Exists(path.to_owned()),
            _ => disk("write", path, source),
        })
    });
    // It may be missing, and nothing reads it.
    let _ = fs::remove_file(&half);
    linked
}

#[cfg(test)]
mod tests;
