//! The daemon from the command line to READY, and from SIGTERM to the end.

mod memory;

use std::error::Error;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use agent_model::names::{AppName, ReleaseSelector};
use clap::Parser;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use sd_notify::NotifyState;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::api::network::{self, Bound};
use crate::api::{self, ApiState, BindError, ControlSocket};
use crate::engine::journal::{Journal, JournalError};
use crate::engine::{Engines, NotStarted, NotTaken};
use crate::exec;
use crate::faults;
use crate::process::{Cancel, Watch, serve_if_asked};
use crate::python::{fetch_shared_installer, own_installer};
use crate::report::reporter::Reporter;
use crate::restore;
use crate::settings::ExecutorKind;
use crate::settings::files::{Whose, directory, directory_of_service};
use crate::settings::watch::InForce;
use crate::setup::{self, Manner, SetupRequest};
use crate::work::runner::{Runner, RunnerError};
use crate::work::{Role, chain};

/// The daemon that performs releases on this host.
#[derive(Debug, Parser)]
#[command(
    name = "release-agent",
    version,
    about,
    after_help = "The configuration is described in agent.toml(5) and app.toml(5); agentctl(1) talks to the daemon."
)]
struct Arguments {
    /// The configuration directory [default: /etc/release-agent as root or as a service, else ~/.config/release-agent]
    #[arg(long, value_name = "DIR", env = "RELEASE_AGENT_CONFIG")]
    config: Option<PathBuf>,
    /// The state directory, with the journal [default: /var/lib/release-agent as root or as a service, else ~/.local/state/release-agent]
    #[arg(long, value_name = "DIR", env = "RELEASE_AGENT_STATE")]
    state: Option<PathBuf>,
    /// The control socket [default: /run/release-agent/control.sock as root or as a service, else in XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH", env = "RELEASE_AGENT_SOCKET")]
    socket: Option<PathBuf>,
    /// Only read the configuration, and say what is wrong with it
    #[arg(long)]
    check_config: bool,
    /// Fetch the installer that all apps share into RELEASE_AGENT_CACHE, unless it is there
    #[arg(long, hide = true, conflicts_with = "runner")]
    fetch_installer: bool,
    /// Do jobs of one app's releases, for the connection that the service manager started this for
    #[arg(long, value_name = "SIDE", requires = "for_app", hide = true)]
    runner: Option<Role>,
    /// The app whose jobs they are
    #[arg(long = "for", value_name = "APP", hide = true)]
    for_app: Option<AppName>,
    /// Do what `agentctl setup app` asks for, as root
    #[arg(long, value_name = "APP", hide = true, conflicts_with = "runner")]
    setup_app: Option<AppName>,
    /// Do what `agentctl restore` asks for, as root
    #[arg(long, value_name = "APP", hide = true, conflicts_with_all = ["runner", "setup_app"], requires = "dump")]
    restore: Option<AppName>,
    /// Do what `agentctl exec` and `agentctl manage` ask for
    #[arg(long, value_name = "APP", hide = true, conflicts_with_all = ["runner", "setup_app", "restore"], requires = "command")]
    exec: Option<AppName>,
    /// With --exec: the release, where it is not the live one
    #[arg(long, value_name = "RELEASE", requires = "exec", hide = true)]
    release: Option<ReleaseSelector>,
    /// With --exec: the command is one of manage.py
    #[arg(long, requires = "exec", hide = true)]
    manage: bool,
    /// With --exec: the command
    #[arg(last = true, hide = true)]
    command: Vec<OsString>,
    /// With --restore: the dump
    #[arg(long, value_name = "FILE", requires = "restore", hide = true)]
    dump: Option<PathBuf>,
    /// With --restore: the dump is the standard input. With it and --exec: a variable has the secrets
    #[arg(long, hide = true)]
    as_user: bool,
    /// With --setup-app: who serves the app; with --restore: who made the dump
    #[arg(long, value_name = "USER", hide = true)]
    user: Option<String>,
    /// With --setup-app: who builds its releases
    #[arg(long, value_name = "USER", requires = "setup_app", hide = true)]
    build_user: Option<String>,
    /// With --setup-app: only show what would be done
    #[arg(long, requires = "setup_app", hide = true)]
    dry_run: bool,
    /// With --setup-app: ask nobody
    #[arg(long, requires = "setup_app", conflicts_with = "dry_run", hide = true)]
    yes: bool,
}

impl Arguments {
    fn request(&self) -> Option<SetupRequest> {
        let manner = match (self.dry_run, self.yes) {
            (true, _) => Manner::Show,
            (false, true) => Manner::Yes,
            (false, false) => Manner::Ask,
        };
        let env = |name: &str| std::env::var(name).ok();
        let config = directory(self.config.as_deref(), Whose::System, env)?;
        Some(SetupRequest { app: self.setup_app.clone()?, user: self.user.clone(), build_user: self.build_user.clone(), config, manner })
    }

    /// The command that is asked for, if one is.
    fn exec(&self) -> Option<exec::Wanted> {
        let env = |name: &str| std::env::var(name).ok();
        let whose = if geteuid().is_root() { Whose::System } else { Whose::User };
        Some(exec::Wanted {
            app: self.exec.clone()?,
            release: self.release.clone(),
            config: directory(self.config.as_deref(), whose, env)?,
            kind: if self.manage { exec::CommandKind::Manage } else { exec::CommandKind::Program },
            command: self.command.clone(),
            part: if self.as_user { exec::Part::AsUser } else { exec::Part::Whole },
        })
    }

    /// The restore that is asked for, if one is.
    fn restore(&self) -> Option<restore::Wanted> {
        let env = |name: &str| std::env::var(name).ok();
        let part = if self.as_user { restore::Part::AsUser } else { restore::Part::Whole };
        let config = directory(self.config.as_deref(), Whose::System, env)?;
        Some(restore::Wanted { app: self.restore.clone()?, dump: self.dump.clone()?, user: self.user.clone(), config, part })
    }
}

/// How long fetching the installer may take.
const FETCHING: Duration = Duration::from_secs(120);

/// Why the daemon ended, with the exit code of sysexits.h(3head) that says it.
#[derive(Debug, Error)]
enum Ended {
    #[error("the configuration cannot be used:{0}")]
    Config(String),
    #[error("nobody says where {0} is, and there is no HOME; give --{0}")]
    NoHome(&'static str),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    App(#[from] NotStarted),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the sockets that the service manager hands over cannot be used")]
    Inherited(#[source] std::io::Error),
    #[error(transparent)]
    Runner(#[from] RunnerError),
    #[error("the threads that the agent needs cannot be started")]
    Runtime(#[source] std::io::Error),
}

impl Ended {
    fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::NoHome(_) => 64,
            Self::App(_) | Self::Bind(_) | Self::Inherited(_) | Self::Runner(RunnerError::NoSocket { .. }) => 69,
            Self::Runner(RunnerError::Line(_)) => 74,
            Self::Runtime(_) => 71,
            Self::Journal(JournalError::Held(_)) => 69,
            Self::Journal(JournalError::Newer { .. }) => 65,
            Self::Journal(_) => 74,
        }
    }

    /// The journal's error, if it is one.
    fn of_journal(&self) -> Option<&JournalError> {
        match self {
            Self::Journal(err) | Self::App(NotStarted { source: NotTaken::Journal(err), .. }) => Some(err),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Journal(JournalError::Newer { .. }) => {
                Some("install the newer agent again, or give another --state; releases and their manifests are not touched".to_owned())
            }
            Self::Journal(JournalError::Full(_)) => {
                Some("make room on that disk, and start the agent again: it ends what was under way".to_owned())
            }
            Self::Journal(err) if err.is_read_only() || matches!(err, JournalError::Place { .. }) => {
                Some("the state directory, and all that is in it, must be the agent's user's to write: chown and chmod it, or name another with --state".to_owned())
            }
            Self::Journal(err) if err.is_locked() => {
                Some("another program has locked the journal; fuser -v on journal.db in the state directory names it".to_owned())
            }
            Self::Journal(JournalError::Unopened { path, .. } | JournalError::Damaged { path, .. }) => Some(format!(
                "if it is damaged, move {} away, with the files that begin so: a new one is begun, which takes nothing that was signed before, and \
                 the releases on disk, which tell of themselves, stay as they are",
                path.display()
            )),
            Self::Journal(JournalError::Held(_)) => Some("stop it first, or give another --state".to_owned()),
            Self::Bind(BindError::Taken(_)) => Some("stop it first, or give another --socket".to_owned()),
            Self::Bind(BindError::TooLong { .. }) => Some("give a shorter --socket".to_owned()),
            Self::Bind(BindError::NotASocket(_)) => Some("move it away, or give another --socket".to_owned()),
            Self::Bind(BindError::Network { .. }) => {
                Some("`listen` in [https] of agent.toml must name free addresses of this host".to_owned())
            }
            Self::Bind(BindError::NoGroup(_)) => Some("make it (groupadd), or name another in agent.toml".to_owned()),
            Self::App(err) => match &err.source {
                NotTaken::Root(err) => err.hint(),
                _ => None,
            },
            _ => None,
        }
    }
}

/// The whole program. This is the one place that decides exit codes: 0 after a drain, 64 for an unusable configuration or command line, 65 for a
/// journal of a newer version, 69 when another agent is in the way, 71 and 74 when the system or the journal fails.
pub fn run() -> ExitCode {
    // This comes first, because each program of a run starts with it.
    if let Some(code) = serve_if_asked() {
        return code;
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(err) => {
            // Standard streams may be closed.
            let _ = err.print();
            return ExitCode::from(if err.use_stderr() { 64 } else { 0 });
        }
    };
    if let Some(request) = arguments.request() {
        return ExitCode::from(setup::run(&request));
    }
    if let Some(wanted) = arguments.exec() {
        return ExitCode::from(exec::run(&wanted));
    }
    if let Some(wanted) = arguments.restore() {
        return ExitCode::from(restore::run(&wanted));
    }
    if arguments.fetch_installer {
        return fetch_installer();
    }
    start_log();
    memory::keep_private();
    memory::share_heaps();
    match serve(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            tracing::error!("{}", chain(&err as &dyn Error));
            if let Some(hint) = err.hint() {
                tracing::error!("what to do: {hint}");
            }
            ExitCode::from(err.code())
        }
    }
}

/// What `agentctl setup app` does besides, for who runs an agent without root.
fn fetch_installer() -> ExitCode {
    umask(Mode::from_bits_truncate(0o022));
    let cancel = Cancel::default();
    let watch = Watch { marker: "installer", deadline: std::time::Instant::now() + FETCHING, cancel: &cancel, lines: &|_, _| {} };
    let mut err = std::io::stderr().lock();
    match fetch_shared_installer("python3", &watch) {
        Ok(program) => {
            let _ = writeln!(err, "{} is at {}", own_installer(), program.display());
            ExitCode::SUCCESS
        }
        Err(why) => {
            let _ = writeln!(err, "release-agent: {}", chain(&why as &dyn Error));
            ExitCode::FAILURE
        }
    }
}

fn start_log() {
    let asked = std::env::var("RELEASE_AGENT_LOG").ok().and_then(|levels| levels.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let registry = tracing_subscriber::registry().with(filter);
    // Under systemd the journal gets fields of its own; everywhere else lines go to standard error.
    let to_journald = std::env::var_os("JOURNAL_STREAM").is_some();
    match tracing_journald::layer() {
        Ok(layer) if to_journald => registry.with(layer).init(),
        _ => {
            // Colours are for a terminal; in a file they are noise.
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false)).init();
        }
    }
}

fn serve(arguments: &Arguments) -> Result<(), Ended> {
    let _faults = faults::begin();
    // Parallel work has its threads from the start: even when a build has used up all threads of the system, the agent must still find its processes.
    rayon::ThreadPoolBuilder::new().build_global().map_err(|err| Ended::Runtime(std::io::Error::other(err)))?;
    let whose = if geteuid().is_root() { Whose::System } else { Whose::User };
    let env = |name: &str| std::env::var(name).ok();
    let config = directory(arguments.config.as_deref(), whose, env).ok_or(Ended::NoHome("config"))?;
    if let (Some(role), Some(app)) = (arguments.runner, &arguments.for_app) {
        return run_jobs(role, app.clone(), config);
    }
    let loaded = InForce::load(&config);
    let settings = loaded.map_err(|complaints| Ended::Config(complaints.iter().map(|complaint| format!("\n  {complaint}")).collect()))?;
    if !config.exists() {
        tracing::warn!("there is no configuration at {}, and so there is no app: agentctl init writes the first one", config.display());
    }
    let complaints = settings.complaints();
    if arguments.check_config && !complaints.is_empty() {
        return Err(Ended::Config(complaints.iter().map(|complaint| format!("\n  {complaint}")).collect()));
    }
    if arguments.check_config {
        let apps = settings.settings().apps.len();
        tracing::info!("{} and {apps} app(s): nothing is wrong", config.display());
        return Ok(());
    }
    let state = arguments.state.clone().or_else(|| default_state(whose, env)).ok_or(Ended::NoHome("state"))?;
    let socket = arguments.socket.clone().or_else(|| default_socket(whose, env)).ok_or(Ended::NoHome("socket"))?;
    // Other users (a web server, the app's user) read the files of releases; secret files get modes of their own.
    umask(Mode::from_bits_truncate(0o022));
    let journal = Arc::new(Journal::open(&state)?);
    settings.keep_revoked_in(&state);
    carry_on(&socket, settings, &journal).map_err(|ended| match ended.of_journal() {
        // The full check's finding replaces the error that was hit first.
        Some(err) if err.is_damage() => journal.looked_through().map_or_else(Ended::Journal, |()| ended),
        _ => ended,
    })
}

/// From the open journal to the end.
fn carry_on(socket: &Path, settings: InForce, journal: &Arc<Journal>) -> Result<(), Ended> {
    // Read before this start writes anything, because that would make an old journal look new.
    let newest = journal.newest();
    let (failed, failures) = mpsc::unbounded_channel();
    let engines = Arc::new(Engines::new(journal.clone(), api::rights_of(settings.clone()), failed));
    engines.recover_spot()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Ended::Runtime)?;
    // Bound before recovery begins, and served only after the runs of a dead agent were ended. Clients that connect meanwhile wait.
    let group = settings.settings().agent.socket_group.clone();
    let inherited = Inherited::take().map_err(Ended::Inherited)?;
    let control = inherited.control;
    let (listener, bound) = runtime.block_on(async {
        let listener = match control {
            Some(listener) => ControlSocket::inherited(listener).map_err(Ended::Inherited)?,
            None => ControlSocket::bind(socket, group.as_deref()).await?,
        };
        Ok::<_, Ended>((listener, Bound::bind(&settings, inherited.network)?))
    })?;
    let mut troubles = engines.apply(&settings.settings());
    engines.notice_an_older_journal(newest)?;
    // With units an app is set up after its file was written. Until then the agent may not write to its root, and that is no reason to end.
    if engines.all().is_empty() && !troubles.is_empty() && settings.settings().agent.executor == ExecutorKind::Direct {
        return Err(troubles.swap_remove(0).into());
    }
    for trouble in &troubles {
        // One app that cannot be started does not stop the others.
        tracing::error!("{}", chain(trouble));
    }
    let ended = runtime.block_on(answer(socket, listener, bound, settings, engines, failures));
    runtime.shutdown_background();
    ended
}

/// Serves one connection as a step runner. Its unit provides the other parameters.
fn run_jobs(role: Role, app: AppName, config: PathBuf) -> Result<(), Ended> {
    let env = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let listener = Inherited::take().map_err(Ended::Inherited)?.control;
    let scratch = std::env::temp_dir();
    let runner = Runner {
        app,
        role,
        config,
        credentials: env("CREDENTIALS_DIRECTORY"),
        caches: env("CACHE_DIRECTORY").unwrap_or_else(|| scratch.clone()),
        scratch,
    };
    Ok(runner.serve(listener)?)
}

/// Sockets that the service manager listens on already (sd_listen_fds(3)): a Unix socket is the control socket, the others are for the network.
#[derive(Default)]
struct Inherited {
    control: Option<UnixListener>,
    network: Vec<TcpListener>,
}

impl Inherited {
    #[expect(unsafe_code, reason = "the service manager hands sockets over by their numbers, and there is no other way to own them")]
    fn take() -> std::io::Result<Self> {
        let mut inherited = Self::default();
        for number in sd_notify::listen_fds()? {
            // SAFETY: the variables name this process, so these numbers were opened for it; each is taken once, before any other code could.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            match getsockname::<SockaddrStorage>(descriptor.as_raw_fd())?.family() {
                Some(AddressFamily::Unix) => inherited.control = Some(descriptor.into()),
                Some(AddressFamily::Inet | AddressFamily::Inet6) => inherited.network.push(descriptor.into()),
                other => return Err(std::io::Error::other(format!("{other:?} is no family of socket that is known here"))),
            }
        }
        Ok(inherited)
    }
}

fn default_state(whose: Whose, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(state) = directory_of_service("STATE", &env) {
        return Some(state);
    }
    if whose == Whose::System {
        return Some("/var/lib/release-agent".into());
    }
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(base.join("release-agent"))
}

fn default_socket(whose: Whose, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(runtime) = directory_of_service("RUNTIME", &env) {
        return Some(runtime.join("control.sock"));
    }
    if whose == Whose::System { Some(agent_wire::place::SYSTEM_SOCKET.into()) } else { agent_wire::place::user_socket(env) }
}

async fn answer(
    path: &Path,
    socket: ControlSocket,
    bound: Bound,
    settings: InForce,
    engines: Arc<Engines>,
    mut failures: mpsc::UnboundedReceiver<JournalError>,
) -> Result<(), Ended> {
    let in_force = settings.settings();
    // Signal handlers exist before the first answer, so a client that got one can rely on them.
    let (mut term, mut int, mut hup) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    let (stop, stopping) = watch::channel(false);
    let state = ApiState::new(engines.clone(), settings.clone());
    let serving = tokio::spawn(api::serve(socket, state.clone(), stopping.clone()));
    let on_the_network = tokio::spawn(network::serve(bound, state, stopping));
    let reporter = Reporter::start(engines.journal().clone(), settings.clone());
    let watching = settings.watch();
    let mut changes = settings.follow();
    say(&[NotifyState::Ready, NotifyState::Status(&format!("{} app(s); nothing is under way", in_force.apps.len()))]);
    let watched = tokio::spawn(answer_watchdog());
    tracing::info!(socket = %path.display(), apps = in_force.apps.len(), "ready");
    let mut written = engines.journal().changes();
    let mut complaints = settings.follow_complaints();
    let looking = engines.journal().clone();
    let mut looked = tokio::task::spawn_blocking(move || looking.looked_through());
    let mut is_sound = false;
    let mut calm_at = Some(Instant::now() + CALM);
    let mut told = String::new();
    let ended = loop {
        tokio::select! {
            _ = term.recv() => break Ok(()),
            _ = int.recv() => break Ok(()),
            _ = hup.recv() => {
                let settings = settings.clone();
                // The reload logs complaints itself.
                let _ = tokio::task::spawn_blocking(move || settings.reload().is_ok()).await;
                tracing::info!("told by SIGHUP: the files were read again");
            }
            changed = changes.changed() => if changed.is_ok() {
                let new = changes.borrow_and_update().clone();
                let engines = engines.clone();
                // Starting an app may mean recovering it, and that runs programs.
                let _ = tokio::task::spawn_blocking(move || {
                    for trouble in engines.apply(&new) {
                        tracing::error!("{}", chain(&trouble));
                    }
                    tracing::info!(apps = new.apps.len(), "the configuration was taken up");
                }).await;
            },
            changed = written.changed() => if changed.is_ok() {
                calm_at = Some(Instant::now() + CALM);
                tell_status(&engines, &settings, &mut told).await;
            },
            () = until(calm_at) => {
                calm_at = None;
                let _ = tokio::task::spawn_blocking(memory::give_back).await;
            },
            changed = complaints.changed() => if changed.is_ok() { tell_status(&engines, &settings, &mut told).await },
            verdict = &mut looked, if !is_sound => match verdict {
                Ok(Err(err)) => break Err(Ended::Journal(err)),
                _ => is_sound = true,
            },
            failure = failures.recv() => if let Some(err) = failure { break Err(Ended::Journal(err)) },
        }
    };
    say(&[NotifyState::Stopping, NotifyState::Status("finishing the runs under way")]);
    drop(watching);
    if ended.is_ok() {
        tracing::info!("stopping: the runs under way are finished first");
        let patience = settings.settings().agent.drain_timeout;
        ask_for_time(patience);
        // The socket answers until the last run has ended, so that its followers see the end.
        engines.refuse_new();
        let draining = engines.clone();
        let _ = tokio::task::spawn_blocking(move || draining.drain(patience)).await;
    }
    let _ = stop.send(true);
    let _ = serving.await;
    let _ = on_the_network.await;
    if let Some(reporter) = reporter {
        reporter.stop().await;
    }
    watched.abort();
    ended
}

/// The memory of a write is freed this long after the last one. By then the threads that waited for the disk have ended, too.
const CALM: Duration = Duration::from_secs(11);

/// Never, where there is no such moment.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn listen(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Ended> {
    signal(kind).map_err(Ended::Runtime)
}

/// Tells the service manager that the agent is alive, at twice the requested rate (sd_watchdog_enabled(3)). A task of its own, because applying a
/// configuration or waiting for a run may take longer.
async fn answer_watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let mut pulse = tokio::time::interval(interval / 2);
    loop {
        pulse.tick().await;
        say(&[NotifyState::Watchdog]);
    }
}

/// The time for undoing the runs that have not ended by then.
const TAKING_BACK: Duration = Duration::from_secs(5 * 60);

/// The service manager kills a unit that does not stop within TimeoutStopSec; this asks for longer if needed.
fn ask_for_time(patience: Duration) {
    let most = u32::try_from((patience + TAKING_BACK).as_micros()).unwrap_or(u32::MAX);
    say(&[NotifyState::ExtendTimeoutUsec(most)]);
}

/// One line for `systemctl status`, written when it changes.
async fn tell_status(engines: &Arc<Engines>, settings: &InForce, before: &mut String) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let journal = engines.journal().clone();
    let told = tokio::task::spawn_blocking(move || {
        let under_way = journal.under_way().unwrap_or_default().into_iter();
        let under_way = under_way.map(|(app, run, step)| format!("{app}: run {run} at {}", step.as_deref().unwrap_or("its beginning")));
        under_way.collect::<Vec<_>>().join("; ")
    });
    let told = told.await.unwrap_or_default();
    let told = if told.is_empty() { "nothing is under way" } else { &told };
    let complaints = match settings.complaints().len() {
        0 => String::new(),
        count => format!("; {count} complaint(s) about files on disk, which are not taken up"),
    };
    let told = format!("{told}{complaints}");
    if told != *before {
        say(&[NotifyState::Status(&told)]);
        *before = told;
    }
}

fn say(states: &[NotifyState<'_>]) {
    // Without a service manager there is no receiver.
    let _ = sd_notify::notify(states);
}
