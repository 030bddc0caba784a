//! `agentctl exec` and `agentctl manage`: a command of the app's own at the terminal of its host, as the app's user, with its variables and secrets.
//!
//! ```text
//!  agentctl ─ may I? ─▶ the agent: authorised, written down
//!     └─ becomes this program, as root: reads the secrets, waits while a migration runs
//!           └─ becomes this program, as the app's user: makes the environment
//!                 └─ becomes the command
//! ```
//!
//! The process stays the same from agentctl on where nothing stands between, so signals, job control and the exit code are the command's own. A command of
//! another user gets a terminal of its own: in root's it could type into root's shell (TIOCSTI).

use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent_model::names::{AppName, ReleaseSelector, Selected};
use nix::unistd::{Uid, User, geteuid};
use thiserror::Error;

use crate::app_user::{SECRETS, environment, secrets_handed_over};
use crate::process::become_program;
use crate::root::AppRoot;
use crate::settings::{self, App, ExecutorKind};
use crate::setup;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The app.
    pub app: AppName,
    /// In which release; without it, in the live one.
    pub release: Option<ReleaseSelector>,
    /// The configuration directory.
    pub config: PathBuf,
    /// Whether the command is one of manage.py.
    pub kind: CommandKind,
    /// The command, or the arguments of manage.py.
    pub command: Vec<OsString>,
    /// Which half is to be done.
    pub part: Part,
}

/// The kinds of command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommandKind {
    /// A program with its arguments, in the directory of the release.
    Program,
    /// manage.py of the release, in its directory.
    Manage,
}

/// The two halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// By a user who may read the secrets.
    Whole,
    /// By the app's user; a variable has the secrets.
    AsUser,
}

/// Why no command was started.
#[derive(Debug, Error)]
enum NotStarted {
    #[error("the configuration cannot be used:{0}")]
    Config(String),
    #[error("there is no user {0}")]
    NoUser(String),
    #[error("only root or {0} can run commands of this app")]
    NotRoot(String),
    #[error("there is no release {0}")]
    NoRelease(String),
    #[error("{0}")]
    Failed(String),
    #[error("cannot run {program}")]
    Program {
        program: String,
        #[source]
        source: std::io::Error,
    },
}

impl NotStarted {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotRoot(_) => Some("ask as root: sudo agentctl …".to_owned()),
            Self::NoRelease(_) => Some("agentctl list shows the releases".to_owned()),
            Self::NoUser(_) => Some("agentctl setup app makes it, as root".to_owned()),
            Self::Config(_) | Self::Failed(_) | Self::Program { .. } => None,
        }
    }

    /// 126 and 127 are a shell's, for a program that cannot be run and one that is not there.
    fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoUser(_) | Self::NoRelease(_) => 2,
            Self::NotRoot(_) => 4,
            Self::Failed(_) => 1,
            Self::Program { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 127,
            Self::Program { .. } => 126,
        }
    }
}

/// Becomes the command. Comes back with an exit code only when it cannot be started.
pub(crate) fn run(wanted: &Wanted) -> u8 {
    let done = match wanted.part {
        Part::Whole => whole(wanted),
        Part::AsUser => as_user(wanted),
    };
    let Err(err) = done;
    say(&format!("agentctl: {}", crate::work::chain(&err)));
    if let Some(hint) = err.hint() {
        say(&format!("  hint: {hint}"));
    }
    err.code()
}

#[expect(clippy::print_stderr, reason = "it speaks to the person at the terminal")]
fn say(line: &str) {
    eprintln!("{line}");
}

fn load(wanted: &Wanted) -> Result<App, NotStarted> {
    settings::load_app(&wanted.config, &wanted.app)
        .map_err(|complaints| NotStarted::Config(complaints.iter().map(|complaint| format!("\n  {complaint}")).collect()))
}

fn whole(wanted: &Wanted) -> Result<std::convert::Infallible, NotStarted> {
    let app = load(wanted)?;
    let root = AppRoot::at(&app.root);
    let user = user_of(&app)?;
    if !geteuid().is_root() && geteuid() != user.uid {
        return Err(NotStarted::NotRoot(user.name));
    }
    let secrets = app.read_secrets(&app.secrets);
    let secrets =
        secrets.map_err(|complaints| NotStarted::Config(complaints.iter().map(|complaint| format!("\n  {complaint}")).collect()))?;
    root.wait_at_gate(|| say(&format!("agentctl: a migration of {} runs; the command waits for its end", app.name)))
        .map_err(|err| NotStarted::Failed(format!("cannot tell whether a migration runs: {err}")))?;
    if geteuid() == user.uid {
        return command(wanted, &app, &root, &user, secrets);
    }
    let own = std::env::current_exe().map_err(|source| NotStarted::Program { program: "/proc/self/exe".to_owned(), source })?;
    let mut argv: Vec<OsString> = prefix(&user);
    argv.push(own.into());
    argv.extend([format!("--exec={}", app.name).into(), "--as-user".into(), "--config".into(), wanted.config.clone().into()]);
    argv.extend(wanted.release.iter().map(|release| format!("--release={release}").into()));
    argv.extend((wanted.kind == CommandKind::Manage).then(|| "--manage".into()));
    argv.push("--".into());
    argv.extend(wanted.command.iter().cloned());
    let handed = serde_json::to_string(&secrets).map_err(|err| NotStarted::Failed(err.to_string()))?;
    let mut env = of_terminal(&user);
    env.push((SECRETS.into(), handed.into()));
    become_it(&argv, Path::new("/"), env)
}

/// What root puts before a command of another user. Where it has the terminal of root, it gets one of its own, or none.
fn prefix(user: &User) -> Vec<OsString> {
    if std::io::stdin().is_terminal() {
        return ["runuser", "--pty", "--user", &user.name, "--"].map(OsString::from).into();
    }
    let number = |option: &str, number: u32| OsString::from(format!("--{option}={number}"));
    let as_user =
        ["setpriv".into(), number("reuid", user.uid.as_raw()), number("regid", user.gid.as_raw()), "--init-groups".into(), "--".into()];
    let without_terminal = fs::File::open("/dev/tty").is_ok().then(|| ["setsid".into(), "--wait".into()]);
    without_terminal.into_iter().flatten().chain(as_user).collect()
}

fn as_user(wanted: &Wanted) -> Result<std::convert::Infallible, NotStarted> {
    let app = load(wanted)?;
    let secrets = secrets_handed_over().map_err(NotStarted::Failed)?;
    let uid = geteuid();
    let user = User::from_uid(uid).ok().flatten().ok_or_else(|| NotStarted::NoUser(uid.to_string()))?;
    command(wanted, &app, &AppRoot::at(&app.root), &user, secrets)
}

/// Becomes the command, as the app's user.
fn command(
    wanted: &Wanted,
    app: &App,
    root: &AppRoot,
    user: &User,
    secrets: Vec<(String, String)>,
) -> Result<std::convert::Infallible, NotStarted> {
    let failed = |err: crate::root::RootError| NotStarted::Failed(crate::work::chain(&err));
    let live = root.live().map_err(failed)?;
    let release = match &wanted.release {
        None => live.ok_or_else(|| NotStarted::Failed("no release is live".to_owned()))?,
        Some(selector) => match selector.select(&root.release_names().map_err(failed)?, None) {
            Selected::One(release) => release.clone(),
            Selected::None => return Err(NotStarted::NoRelease(selector.to_string())),
            Selected::Several(several) => {
                let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
                return Err(NotStarted::Failed(format!("{selector} may be {}", names.join(" or "))));
            }
        },
    };
    let dir = root.release_dir(&release);
    let venv = dir.join("venv");
    let (argv, dir) = match wanted.kind {
        CommandKind::Program => (wanted.command.clone(), dir),
        CommandKind::Manage => {
            let django = app.django.as_ref().ok_or_else(|| NotStarted::Failed(format!("no [django] is set for {}", app.name)))?;
            let manage = dir.join(&django.manage);
            let argv = [venv.join("bin/python").into_os_string(), manage.clone().into_os_string()];
            (argv.into_iter().chain(wanted.command.iter().cloned()).collect(), manage.parent().unwrap_or(&dir).to_owned())
        }
    };
    let mut env = of_terminal(user);
    let own = environment(app, root, &release, secrets, &format!("exec:{}", user.name));
    env.extend(own.into_iter().map(|(name, value)| (name.into(), value.into())));
    if venv.exists() {
        let path = env.iter().rev().find(|(name, _)| name == "PATH").map_or_else(|| PATH.into(), |(_, path)| path.clone());
        let with = std::iter::once(venv.join("bin")).chain(std::env::split_paths(&path));
        // Only a colon in the root's own path cannot be put there; then programs of the environment are named by their paths.
        env.extend(std::env::join_paths(with).ok().map(|path| ("PATH".into(), path)));
        env.push(("VIRTUAL_ENV".into(), venv.into()));
    }
    become_it(&argv, &dir, env)
}

const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";

/// What a command needs to know of its user and of the terminal, and no other variable of the person who starts it.
fn of_terminal(user: &User) -> Vec<(OsString, OsString)> {
    let passed = ["TERM", "COLORTERM", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "NO_COLOR"];
    let passed = passed.into_iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
    let own = [
        ("PATH", PATH.into()),
        ("USER", user.name.clone().into()),
        ("LOGNAME", user.name.clone().into()),
        ("HOME", user.dir.clone().into()),
    ];
    own.into_iter().map(|(name, value): (&str, OsString)| (OsString::from(name), value)).chain(passed).collect()
}

fn become_it(argv: &[OsString], dir: &Path, env: Vec<(OsString, OsString)>) -> Result<std::convert::Infallible, NotStarted> {
    let program = argv.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
    Err(NotStarted::Program { program, source: become_program(argv, dir, env) })
}

/// The user that the app's own code runs as.
fn user_of(app: &App) -> Result<User, NotStarted> {
    // The app's file alone does not say it.
    match settings::executor(&app.config).unwrap_or(app.executor) {
        // The agent's own user, to whom the root belongs.
        ExecutorKind::Direct => {
            let owner = fs::metadata(&app.root)
                .map_err(|err| NotStarted::Failed(format!("the root {} cannot be read: {err}", app.root.display())))?;
            let uid = Uid::from_raw(owner.uid());
            User::from_uid(uid).ok().flatten().ok_or_else(|| NotStarted::NoUser(uid.to_string()))
        }
        ExecutorKind::Units => {
            let name = setup::app_user(app);
            User::from_name(&name).ok().flatten().ok_or(NotStarted::NoUser(name))
        }
    }
}
