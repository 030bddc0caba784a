//! `agentctl setup app NAME`: the work that root does once, so that the agent needs no root rights afterwards.
//!
//! ```text
//!  the app's file ─┐
//!  its host ───────┴─▶ draw ──▶ actions ──▶ look: so already? ──▶ told ──▶ Go on? ──▶ carried out, in order
//! ```
//!
//! Pure code ([`draw`]) makes the list. Each action can be described, checked and carried out by itself. So the next setup continues one that was cut
//! off, and a setup with nothing to do says so.
//!
//! Root changes owners below directories in which others may write. So these changes use descriptors from the top down instead of paths ([`places`]),
//! and never follow a link.

mod action;
mod draw;
mod host;
mod people;
mod places;
mod texts;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use agent_model::names::AppName;
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use thiserror::Error;

use crate::process::ProgramError;
use crate::python::PythonError;
use crate::settings::{self, App, ExecutorKind};
use crate::work::Role;
use action::Action;
use draw::Drawn;
use host::State;
use places::PlaceError;

/// The parameters of a setup.
#[derive(Debug)]
pub(crate) struct SetupRequest {
    pub app: AppName,
    /// The user that serves, if not a user with the app's name.
    pub user: Option<String>,
    /// The user that builds, if not `<app>-build`.
    pub build_user: Option<String>,
    pub config: PathBuf,
    pub manner: Manner,
}

/// Whether setup asks before it does anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Asks at the terminal.
    Ask,
    /// Asks nothing.
    Yes,
    /// Asks nothing, and does nothing.
    Show,
}

/// Where the step runners look for the app's file.
const CONFIG: &str = "/etc/release-agent";

/// An obstacle that a person must decide about.
#[derive(Debug, Error)]
#[error("{what}")]
struct Refusal {
    what: String,
    hint: String,
}

/// Why a setup failed.
#[derive(Debug, Error)]
enum SetupError {
    /// A file has a mistake.
    #[error("the configuration cannot be used:{0}")]
    Config(String),
    /// The agent runs everything itself.
    #[error("{} does not say executor = \"units\": the agent would go on running everything as its own user", .0.display())]
    Direct(PathBuf),
    /// There is no such app.
    #[error("there is no app {app}: {} is not there", file.display())]
    NoApp {
        app: AppName,
        /// The path where its file would be.
        file: PathBuf,
    },
    /// The caller is not root.
    #[error("only root can set an app up: it makes users, and units for systemd")]
    NotRoot,
    /// There is no terminal to ask at.
    #[error("nobody can be asked here: standard input is no terminal")]
    NoTerminal,
    /// The person answered no.
    #[error("nothing was done")]
    SaidNo,
    /// A precondition does not hold.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A path has another kind than it must have, or cannot be changed.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The installer cannot be fetched.
    #[error(transparent)]
    Installer(#[from] PythonError),
    /// Standard error takes nothing more.
    #[error("cannot say what would be done")]
    Mute(#[from] io::Error),
    /// It failed in the middle.
    #[error("could not {what}")]
    Stopped {
        /// The sentence of the failed action.
        what: String,
        #[source]
        source: Box<SetupError>,
    },
}

impl SetupError {
    /// The exit code: one of agentctl's, because the user called that program.
    fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoApp { .. } | Self::Direct(_) => 2,
            Self::NotRoot | Self::NoTerminal | Self::SaidNo | Self::Refused(_) => 4,
            Self::Place(PlaceError::Io { .. }) | Self::Program(_) | Self::Installer(_) | Self::Mute(_) | Self::Stopped { .. } => 1,
            Self::Place(_) => 4,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Config(_) | Self::SaidNo | Self::Mute(_) | Self::Program(_) | Self::Place(PlaceError::Io { .. }) => return None,
            Self::Installer(err) => return err.hint().map(Into::into),
            Self::NoApp { app, .. } => format!("agentctl init {app} --repository URL writes one"),
            Self::Direct(file) => format!("write executor = \"units\" at the top of {}", file.display()),
            Self::NotRoot => "ask as root: sudo agentctl setup app …".to_owned(),
            Self::NoTerminal => "add --yes to have it done without a question, or --dry-run to see what it would be".to_owned(),
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::Place(PlaceError::Link(path)) => format!("put a real directory or file at {}", path.display()),
            Self::Place(PlaceError::Kind { path, .. } | PlaceError::Named(path)) => format!("move {} away", path.display()),
            Self::Place(PlaceError::Writable { path, .. }) => {
                format!("chown root: {0} and chmod go-w {0}; or use another place, such as one below /var, /srv or /etc", path.display())
            }
            Self::Stopped { source, .. } => {
                return Some(
                    source
                        .hint()
                        .unwrap_or_else(|| "what was done before stands; ask again when it is put right, and the rest is done".to_owned()),
                );
            }
        })
    }

    fn tail(&self) -> &[String] {
        match self {
            Self::Program(err) => err.tail(),
            Self::Stopped { source, .. } => source.tail(),
            _ => &[],
        }
    }
}

/// The user that serves an app with units: the one that its setup was told, else a user of the app's name.
pub(crate) fn app_user(app: &App) -> String {
    let drop_in = places::read(&draw::drop_in(app, Role::App)).ok().flatten();
    drop_in.as_deref().and_then(texts::user_in).map_or_else(|| app.name.to_string(), str::to_owned)
}

/// Sets an app up, with a word for each thing that is done. Answers with the exit code.
pub(crate) fn run(request: &SetupRequest) -> u8 {
    // Every file that setup makes has an explicit mode.
    umask(Mode::from_bits_truncate(0o022));
    let mut out = io::stderr().lock();
    match set_up(request, &mut out) {
        Ok(()) => 0,
        Err(err) => {
            let _ = tell(&mut out, &err);
            err.code()
        }
    }
}

fn tell(out: &mut dyn Write, err: &SetupError) -> io::Result<()> {
    writeln!(out, "agentctl: {}", crate::work::chain(err as &dyn Error))?;
    for line in err.tail() {
        writeln!(out, "  │ {line}")?;
    }
    if let Some(hint) = err.hint() {
        writeln!(out, "  hint: {hint}")?;
    }
    Ok(())
}

fn set_up(request: &SetupRequest, out: &mut dyn Write) -> Result<(), SetupError> {
    if !geteuid().is_root() {
        return Err(SetupError::NotRoot);
    }
    let drawn = prepared(request)?;
    let listed = looked_at(drawn.actions)?;
    let pending = listed.iter().filter(|(_, state)| *state != State::So).count();
    if pending == 0 {
        notes(out, &drawn.notes)?;
        writeln!(out, "nothing to do: the app {} is set up", request.app)?;
        return Ok(());
    }
    writeln!(out, "This will set the app {} up on this host:", request.app)?;
    for (action, state) in &listed {
        writeln!(out, "{}", line(action, state))?;
    }
    notes(out, &drawn.notes)?;
    match request.manner {
        Manner::Show => {
            writeln!(out, "nothing was done: this is what agentctl setup app {} would do", request.app)?;
            return Ok(());
        }
        Manner::Yes => {}
        Manner::Ask if !io::stdin().is_terminal() => return Err(SetupError::NoTerminal),
        Manner::Ask => {
            write!(out, "Go on? [y/N] ")?;
            out.flush()?;
            let mut answer = String::new();
            io::stdin().lock().read_line(&mut answer)?;
            if !["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) {
                return Err(SetupError::SaidNo);
            }
        }
    }
    for (action, _) in listed.iter().filter(|(_, state)| *state != State::So) {
        match host::carry_out(action) {
            // A host may have no way to the index now; nothing that was set up depends on it.
            Err(SetupError::Installer(err)) => {
                writeln!(out, "  ! not fetched: {}. The first release tries again; until then pip installs.", crate::work::chain(&err))?;
            }
            done => done.map_err(|source| SetupError::Stopped { what: action.sentence(), source: Box::new(source) })?,
        }
    }
    writeln!(out, "done: {pending} of {}. Next:", listed.len())?;
    writeln!(out, "  agentctl --app {0} doctor          looks the set-up over", request.app)?;
    writeln!(out, "  agentctl --app {0} release main    makes the first release", request.app)?;
    Ok(())
}

/// Reads everything, refuses forbidden set-ups, and makes the list.
fn prepared(request: &SetupRequest) -> Result<Drawn, SetupError> {
    let complained =
        |complaints: Vec<settings::Complaint>| SetupError::Config(complaints.iter().map(|complaint| format!("\n  {complaint}")).collect());
    // Checked first, because it may cause the other problems.
    if settings::executor(&request.config) == Some(ExecutorKind::Direct) {
        return Err(SetupError::Direct(request.config.join("agent.toml")));
    }
    let loaded = settings::load_over(&request.config, None);
    let file = request.config.join("apps").join(format!("{}.toml", request.app));
    // A mistake in another app's file does not matter here.
    let is_wrong = loaded.settings.as_ref().is_none_or(|settings| settings.broken.contains_key(&request.app));
    let Some(settings) = loaded.settings.filter(|_| !is_wrong) else { return Err(complained(loaded.complaints)) };
    let Some(app) = settings.apps.get(&request.app).cloned() else { return Err(SetupError::NoApp { app: request.app.clone(), file }) };
    if request.manner != Manner::Show && request.config != Path::new(CONFIG) {
        return Err(Refusal {
            what: format!("step runners read {CONFIG}, and this configuration is in {}", request.config.display()),
            hint: format!("move it to {CONFIG}; --dry-run shows what would be done"),
        }
        .into());
    }
    host::ready(&app)?;
    if ["/home", "/root", "/run/user"].iter().any(|home| app.root.starts_with(home)) {
        return Err(Refusal {
            what: format!("the root {} lies where units see nothing (ProtectHome=)", app.root.display()),
            hint: format!("move it, and say so in {}: root = \"/srv/{}\"", file.display(), app.name),
        }
        .into());
    }
    let root = host::real_root(&app.root)?;
    let people = host::people(&app, request)?;
    people.check(&app.name, &[&root, &app.root])?;
    host::strangers(&people, &root)?;
    let facts = host::facts(&settings, &app, &people, root, file)?;
    Ok(draw::draw(&app, &people, &facts)?)
}

/// Each action with its current state. Actions that follow from others are done when those are.
fn looked_at(actions: Vec<Action>) -> Result<Vec<(Action, State)>, SetupError> {
    let mut listed: Vec<(Action, State)> = Vec::new();
    for action in actions {
        let state = host::look(&action)?;
        let pending = |fits: fn(&Action) -> bool| listed.iter().any(|(action, state)| *state != State::So && fits(action));
        let state = match (&action, state) {
            (Action::ReadUnits { .. }, State::So) if pending(Action::changes_units) => State::Not(None),
            (Action::Agent { .. }, State::So) if pending(Action::needs_restart) => State::Not(Some(host::RESTART.to_owned())),
            (Action::Agent { .. }, State::So) if pending(|_| true) => State::Not(Some("it reads its files again".to_owned())),
            (_, state) => state,
        };
        listed.push((action, state));
    }
    Ok(listed)
}

fn line(action: &Action, state: &State) -> String {
    match state {
        State::So => format!("  = {} (so already)", action.sentence()),
        State::Not(None) => format!("  + {}", action.sentence()),
        State::Not(Some(instead)) => format!("  + {} ({instead})", action.sentence()),
    }
}

fn notes(out: &mut dyn Write, notes: &[String]) -> io::Result<()> {
    notes.iter().try_for_each(|note| writeln!(out, "  ! {note}."))
}
