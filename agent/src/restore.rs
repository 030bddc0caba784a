//! `agentctl restore APP DUMP`: restores a dump from before a migration, as root.
//!
//! ```text
//!  root: the app's file, its secrets, the dump ──▶ the user who made the dump: Django's settings ──▶ its database
//! ```
//!
//! Root reads the secrets and the dump, and runs no code of the app. This same program does that as the app's user, without the terminal. It connects
//! like Django does, so no password appears in the command, in arguments or in the journal.

use std::error::Error;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_model::names::{AppName, ReleaseName};
use agent_wire::event::Stream;
use nix::unistd::{Uid, User, geteuid};
use thiserror::Error;

use crate::app_user::{SECRETS, environment, secrets_handed_over};
use crate::database::{DatabaseKind, restore, target};
use crate::django::{Django, Tree};
use crate::process::{Cancel, Program, Watch};
use crate::root::AppRoot;
use crate::settings;
use crate::work::Failure;

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// The parameters of a restore.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub app: AppName,
    pub dump: PathBuf,
    /// The user who made it, if not the caller.
    pub user: Option<String>,
    pub config: PathBuf,
    pub part: Part,
}

/// The two halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it, as a user who may read everything.
    Whole,
    /// The part of the app's user: the dump is the standard input, and a variable has the secrets.
    AsUser,
}

/// Why nothing was restored.
#[derive(Debug, Error)]
enum NotRestored {
    #[error("the configuration cannot be used:{0}")]
    Config(String),
    #[error("there is no user {0}")]
    NoUser(String),
    #[error("only root, or {0}, can put this dump back")]
    NotRoot(String),
    #[error("{} is no dump: its name ends neither with .dump nor with .sqlite3", .0.display())]
    NoDump(PathBuf),
    #[error("cannot open {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Failed(String, Option<String>),
    /// The other half has reported the reason already.
    #[error("the dump was not put back")]
    Said,
}

impl NotRestored {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotRoot(_) => Some("ask as root".to_owned()),
            Self::NoUser(_) => Some("name with --user the user that the app's database knows".to_owned()),
            Self::NoDump(_) => Some("name one of the files in the root's backups/".to_owned()),
            Self::Failed(_, hint) => hint.clone(),
            Self::Config(_) | Self::Unreadable { .. } | Self::Said => None,
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoUser(_) | Self::NoDump(_) => 2,
            Self::NotRoot(_) => 4,
            Self::Unreadable { .. } | Self::Failed(..) | Self::Said => 1,
        }
    }
}

impl From<Failure> for NotRestored {
    fn from(failure: Failure) -> Self {
        let tail: String = failure.tail.iter().map(|line| format!("\n  │ {line}")).collect();
        Self::Failed(format!("{}{tail}", failure.reason), failure.hint)
    }
}

fn complained(complaints: Vec<settings::Complaint>) -> NotRestored {
    NotRestored::Config(complaints.iter().map(|complaint| format!("\n  {complaint}")).collect())
}

/// Restores the dump; returns the exit code.
pub(crate) fn run(wanted: &Wanted) -> u8 {
    let done = match wanted.part {
        Part::Whole => whole(wanted),
        Part::AsUser => as_user(wanted),
    };
    let Err(err) = done else { return 0 };
    say(&format!("agentctl: {}", crate::work::chain(&err as &dyn Error)));
    if let Some(hint) = err.hint() {
        say(&format!("  hint: {hint}"));
    }
    err.code()
}

#[expect(clippy::print_stderr, reason = "it speaks to the person at the terminal")]
fn say(line: &str) {
    eprintln!("{line}");
}

fn watched<T>(act: impl FnOnce(&Watch<'_>) -> T) -> T {
    let lines = |_: Stream, line: &str| say(line);
    let marker = format!("restore:{}", std::process::id());
    act(&Watch { marker: &marker, deadline: Instant::now() + LIMIT, cancel: &Cancel::default(), lines: &lines })
}

fn kind_of(dump: &Path) -> Result<DatabaseKind, NotRestored> {
    DatabaseKind::of(dump).ok_or_else(|| NotRestored::NoDump(dump.to_owned()))
}

fn whole(wanted: &Wanted) -> Result<(), NotRestored> {
    let Wanted { app: name, dump, user, config, .. } = wanted;
    let app = settings::load_app(config, name).map_err(complained)?;
    kind_of(dump)?;
    let own = |uid: Uid| User::from_uid(uid).ok().flatten();
    let user = match user {
        Some(user) => User::from_name(user).ok().flatten().ok_or_else(|| NotRestored::NoUser(user.clone()))?,
        None => own(geteuid()).ok_or_else(|| NotRestored::NoUser(geteuid().to_string()))?,
    };
    if !geteuid().is_root() && geteuid() != user.uid {
        return Err(NotRestored::NotRoot(user.name));
    }
    let file = File::open(dump).map_err(|source| NotRestored::Unreadable { path: dump.clone(), source })?;
    let secrets = app.read_secrets(&app.secrets).map_err(complained)?;
    let program = std::env::current_exe().map_err(|source| NotRestored::Unreadable { path: "/proc/self/exe".into(), source })?;
    // Without the terminal: the app's code could type into root's shell (TIOCSTI).
    let mut program = Program::new("setsid").arg("--wait").args(if geteuid() == user.uid {
        vec![program]
    } else {
        let number = |option: &str, number: u32| PathBuf::from(format!("--{option}={number}"));
        let as_user = [number("reuid", user.uid.as_raw()), number("regid", user.gid.as_raw()), "--init-groups".into(), "--".into()];
        [vec!["setpriv".into()], as_user.into(), vec![program]].concat()
    });
    program = program.arg(format!("--restore={name}")).arg("--as-user").arg("--dump").arg(dump).arg("--config").arg(config);
    program = program.env("HOME", &user.dir).env("USER", &user.name).env("LOGNAME", &user.name);
    // In one variable: under their own names they would change what root starts (PATH, LD_PRELOAD).
    let secrets = serde_json::to_string(&secrets).map_err(|err| NotRestored::Failed(err.to_string(), None))?;
    let done = watched(|watch| program.env(SECRETS, secrets).input_from(&Arc::new(file)).run(watch));
    done.map_err(|_| NotRestored::Said)?;
    Ok(())
}

fn as_user(wanted: &Wanted) -> Result<(), NotRestored> {
    let app = settings::load_app(&wanted.config, &wanted.app).map_err(complained)?;
    let kind = kind_of(&wanted.dump)?;
    let path = PathBuf::from("the standard input");
    let dump = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned();
    let dump = Arc::new(File::from(dump.map_err(|source| NotRestored::Unreadable { path, source })?));
    let root = AppRoot::at(&app.root);
    let release = release_of(&wanted.dump, &root)?;
    let secrets = secrets_handed_over().map_err(|err| NotRestored::Failed(err, None))?;
    let env = environment(&app, &root, &release, secrets, "restore");
    let settings = app.django.as_ref().ok_or_else(|| NotRestored::Failed("no [django] is set".to_owned(), None))?;
    let dir = root.release_dir(&release);
    let django = Django { settings, release: &dir, python: &dir.join("venv/bin/python"), env: &env, tree: Tree::Sealed };
    watched(|watch| {
        // The project's own output during loading is of no interest.
        let quietly = Watch { lines: &|_, _| {}, ..*watch };
        let mut inspection = django.inspect(&quietly).map_err(Failure::from)?;
        let database = inspection.databases.remove(&settings.database);
        let database = database.ok_or_else(|| Failure::new(format!("Django's settings have no database {:?}", settings.database)))?;
        say(&format!("putting {} back into {}", wanted.dump.display(), target(&database)));
        restore(kind, &database, &dump, watch).map_err(Failure::from)?;
        say("done: the database is as it was when the dump was made; later changes are gone");
        Ok(())
    })
}

/// The release that the dump was made for, or the live one where that is gone: its code has the settings of the database.
fn release_of(dump: &Path, root: &AppRoot) -> Result<ReleaseName, NotRestored> {
    let name = dump.file_name().and_then(|name| name.to_str()).and_then(|name| name.split('.').next());
    let own = name.and_then(|name| name.parse::<ReleaseName>().ok()).filter(|release| root.release_dir(release).join("venv").exists());
    let live = || root.live().ok().flatten();
    let none = || {
        NotRestored::Failed("neither the release of the dump nor a live one is there, whose settings name the database".to_owned(), None)
    };
    own.or_else(live).ok_or_else(none)
}
