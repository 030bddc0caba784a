//! The one place that runs programs. A program gets an argument vector and never a shell, a fixed environment, no standard input, a process group of its own
//! and a deadline. Each line of its output is passed on as it comes, and its supervisor ends what it leaves.

pub(crate) mod exits;
mod hearing;
mod processes;
mod running;
pub(crate) mod sandbox;
mod supervisor;
mod usage;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent_wire::event::Stream;
use nix::sys::signal::Signal;
use thiserror::Error;

use crate::faults;
use hearing::{Cut, Hearing, Pipes, Stdout};
use running::Running;
use sandbox::Bounds;
use supervisor::{Request, Supervised};

pub(crate) use processes::{Process, Ticks, boot, end_control_group, holding, is_bounded, topmost, unix_socket, with_variable, working_in};
pub(crate) use supervisor::serve_if_asked;
pub(crate) use usage::{Place as UsagePlace, Usage, usage};

/// The variable that every program of a run gets, for people and for the last look ([`last_look`]): `<journal>:<run>`.
pub(crate) const MARKER: &str = "RELEASE_RUN_ID";

/// How long a process group has between TERM and KILL.
const GRACE: Duration = Duration::from_secs(5);

/// Set once, from anywhere, to end what a step is doing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancel {
    own: Arc<AtomicBool>,
    whole: Option<Arc<AtomicBool>>,
}

impl Cancel {
    /// One for a part of the same: it ends with the whole, or alone.
    pub(crate) fn of_a_part(&self) -> Self {
        Self { own: Arc::default(), whole: Some(self.own.clone()) }
    }

    /// Asks for the end.
    pub(crate) fn ask(&self) {
        self.own.store(true, Ordering::Release);
    }

    /// Whether the end was asked for.
    pub(crate) fn asked(&self) -> bool {
        self.own.load(Ordering::Acquire) || self.whole.as_ref().is_some_and(|whole| whole.load(Ordering::Acquire))
    }
}

/// How programs are watched while they run.
pub(crate) struct Watch<'a> {
    /// The value of [`MARKER`].
    pub marker: &'a str,
    /// When everything must have ended.
    pub deadline: Instant,
    /// Ends it earlier.
    pub cancel: &'a Cancel,
    /// Hears every line.
    pub lines: &'a dyn Fn(Stream, &str),
}

impl Watch<'_> {
    /// How long there is until the deadline.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Sleeps for `time`, but not beyond a cancel or the deadline; tells whether there is reason to go on.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while Instant::now() < end {
            if self.cancel.asked() || self.left().is_zero() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10).min(end.saturating_duration_since(Instant::now())));
        }
        !self.cancel.asked() && !self.left().is_zero()
    }
}

/// What becomes of processes that outlive the program that started them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leftovers {
    /// They are ended: a step leaves nothing behind.
    End,
    /// They stay when the program succeeded: it may have been told to start a server.
    Leave,
}

/// Why a program did not do what it should.
#[derive(Debug, Error)]
pub(crate) enum ProgramError {
    /// It is not there.
    #[error("the program {0} is not installed, or not in the agent's PATH")]
    Missing(String),
    /// It was named by its path, and is not there.
    #[error("there is no program {}", .0.display())]
    NotThere(PathBuf),
    /// It could not be started.
    #[error("cannot start {program}")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended badly.
    #[error("{program} {}", describe(*status))]
    Failed {
        /// Its name and first arguments.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last lines.
        tail: Vec<String>,
    },
    /// It took too long.
    #[error("{program} was ended at its timeout, after {} s", .after.as_secs_f32().round())]
    TimedOut {
        /// Its name and first arguments.
        program: String,
        /// How long it ran.
        after: Duration,
        /// Its last lines.
        tail: Vec<String>,
    },
    /// Nobody can tell how it ended.
    #[error("{program} was ended with its supervisor")]
    Lost {
        /// Its name and first arguments.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody cancelled.
    #[error("{0} was ended: the run is cancelled")]
    Cancelled(String),
    /// Its output was to be read as data, and there is too much of it.
    #[error("{0} said more than can be read as data (256 MiB, or the number of entries that is allowed)")]
    TooMuch(String),
}

impl ProgramError {
    /// What to do about it, where the end itself tells.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        // Nothing in a run kills without a word before: what is killed so at once is mostly the kernel's choice.
        let killed = |status: &ExitStatus| status.signal() == Some(Signal::SIGKILL as i32);
        let is_killed = match self {
            Self::Failed { status, .. } => killed(status),
            Self::Lost { .. } => true,
            _ => false,
        };
        is_killed.then_some(
            "somebody else killed it: where memory ran out, journalctl -k says so, and more memory helps or a higher limit (MemoryMax)",
        )
    }

    /// The last lines that the program said.
    pub(crate) fn tail(&self) -> &[String] {
        match self {
            Self::Failed { tail, .. } | Self::TimedOut { tail, .. } => tail,
            _ => &[],
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(signal)) => {
            let name = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |signal| signal.to_string());
            format!("was killed by {name}")
        }
        (None, None) => "ended".to_owned(),
    }
}

/// A program to be run.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    argv: Vec<OsString>,
    dir: PathBuf,
    env: BTreeMap<OsString, OsString>,
    input: Vec<u8>,
    source: Option<Arc<File>>,
    leftovers: Leftovers,
    bounds: Option<Arc<Bounds>>,
    output: Option<Arc<File>>,
    quiet: bool,
    /// So many arguments are the same every time, and tell people nothing.
    unshown: usize,
    /// What people call it, where that is not its file.
    name: Option<&'static str>,
}

/// What a program left.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Its standard output, where that was captured.
    pub stdout: Vec<u8>,
}

impl Finished {
    /// The standard output as text without the final newline; bytes that are not UTF-8 are replaced.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end_matches('\n').to_owned()
    }
}

impl Program {
    /// A program by name or path, with the fixed environment: `PATH`, `HOME`, `USER`, `LOGNAME` of the agent, and a UTF-8 locale.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut env = BTreeMap::new();
        for name in ["PATH", "HOME", "USER", "LOGNAME"] {
            if let Some(value) = std::env::var_os(name) {
                env.insert(name.into(), value);
            }
        }
        env.entry("PATH".into()).or_insert_with(|| "/usr/local/bin:/usr/bin:/bin".into());
        env.insert("LANG".into(), "C.UTF-8".into());
        Self {
            argv: vec![program.as_ref().into()],
            dir: "/".into(),
            env,
            input: Vec::new(),
            source: None,
            leftovers: Leftovers::End,
            bounds: None,
            output: None,
            quiet: false,
            unshown: 0,
            name: None,
        }
    }

    /// A program from an argument vector of a configuration file.
    pub(crate) fn from_argv(argv: &[String]) -> Self {
        let (program, args) = argv.split_first().map_or(("", argv), |(program, args)| (program.as_str(), args));
        Self::new(program).args(args)
    }

    /// One more argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().into());
        self
    }

    /// More arguments.
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Where it runs; `/` when nothing is said.
    pub(crate) fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = dir.into();
        self
    }

    /// A variable of its environment.
    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().into(), value.as_ref().into());
        self
    }

    /// Variables of its environment.
    pub(crate) fn envs(mut self, variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> Self {
        for (name, value) in variables {
            self = self.env(name, value);
        }
        self
    }

    /// Variables of the agent's own environment whose names fit, passed on.
    pub(crate) fn inherit(mut self, fits: impl Fn(&str) -> bool) -> Self {
        for (name, value) in std::env::vars_os() {
            if name.to_str().is_some_and(&fits) {
                self.env.insert(name, value);
            }
        }
        self
    }

    /// What it reads from its standard input.
    pub(crate) fn input(mut self, input: Vec<u8>) -> Self {
        self.input = input;
        self
    }

    /// A file that is its standard input, from where it is read next.
    pub(crate) fn input_from(mut self, file: &Arc<File>) -> Self {
        self.source = Some(file.clone());
        self
    }

    /// What becomes of its children.
    pub(crate) fn leftovers(mut self, leftovers: Leftovers) -> Self {
        self.leftovers = leftovers;
        self
    }

    /// What the kernel holds it to, and all that it starts.
    pub(crate) fn confined(mut self, bounds: &Arc<Bounds>) -> Self {
        self.bounds = Some(bounds.clone());
        self
    }

    /// Where its standard output goes, instead of being heard line by line.
    pub(crate) fn output_to(mut self, file: &Arc<File>) -> Self {
        self.output = Some(file.clone());
        self
    }

    /// Its lines are not passed on; they still stand in its error.
    pub(crate) fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// The arguments that it has so far are not shown to people.
    pub(crate) fn unshown(mut self) -> Self {
        self.unshown = self.argv.len() - 1;
        self
    }

    /// People are shown this name, and none of the arguments that it has so far.
    pub(crate) fn called(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self.unshown()
    }

    /// What people are shown of it: the program's own name and up to four arguments that are short enough.
    fn shown(&self) -> String {
        let file = || Path::new(&self.argv[0]).file_name().unwrap_or(&self.argv[0]).to_string_lossy().into_owned();
        let name = self.name.map_or_else(file, str::to_owned);
        let args = self.argv.iter().skip(1 + self.unshown).map(|arg| arg.to_string_lossy());
        let args = args
            .filter(|arg| arg.len() <= 60 && !arg.starts_with('-') && !arg.contains(char::is_whitespace) && !arg.contains("://"))
            .take(3);
        std::iter::once(name).chain(args.map(std::borrow::Cow::into_owned)).collect::<Vec<_>>().join(" ")
    }

    /// Runs it to its end; every line goes to the watch.
    ///
    /// # Errors
    /// [`ProgramError`] when it cannot be started, ends badly, or is ended.
    pub(crate) fn run(&self, watch: &Watch<'_>) -> Result<(), ProgramError> {
        self.run_with(watch, Stdout::Lines).map(|_| ())
    }

    /// Runs it to its end; its standard output is data.
    ///
    /// # Errors
    /// As [`Program::run`].
    pub(crate) fn capture(&self, watch: &Watch<'_>) -> Result<Finished, ProgramError> {
        self.run_with(watch, Stdout::Captured(usize::MAX))
    }

    /// The same, for a list of entries that end with a NUL: it is ended as soon as there are more than `most`.
    ///
    /// # Errors
    /// As [`Program::run`], and [`ProgramError::TooMuch`].
    pub(crate) fn capture_entries(&self, most: u64, watch: &Watch<'_>) -> Result<Finished, ProgramError> {
        self.run_with(watch, Stdout::Captured(usize::try_from(most).unwrap_or(usize::MAX)))
    }

    /// Starts it as a server: with the run's mark taken off, in a group of its own, its output to `log`. It outlives the run and the agent, and so it is
    /// started by the agent itself: a supervisor would end it with the run.
    ///
    /// # Errors
    /// [`ProgramError`] when it cannot be started.
    pub(crate) fn start_server(&self, log: File) -> Result<Child, ProgramError> {
        let started = |source| self.cannot_start(source);
        let errors = log.try_clone().map_err(started)?;
        let server = Self { leftovers: Leftovers::Leave, ..self.clone() };
        let mut command = server.request("").command().map_err(started)?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().map_err(started)
    }

    fn request(&self, marker: &str) -> Request {
        let name = self.argv[0].as_os_str();
        let mut env: Vec<_> = self.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        // What may stay when the program has ended must not be found, and ended, as a leftover of the run later.
        if self.leftovers == Leftovers::End {
            env.push((MARKER.into(), marker.into()));
        }
        Request {
            // Looked for here, it is started without a copy of the process that does so (posix_spawn(3)): a search in the child, along a PATH of its own,
            // would need one.
            file: self.found_in_path().unwrap_or_else(|| name.into()),
            argv: self.argv.clone(),
            dir: self.dir.clone(),
            env,
            input: self.input.clone(),
            bounds: self.bounds.as_deref().cloned(),
        }
    }

    /// The program that its name means, along the `PATH` of its environment, as execvp(3) would find it. Nothing where it is a path, or is not there.
    fn found_in_path(&self) -> Option<PathBuf> {
        let name = Path::new(&self.argv[0]);
        let places = self.env.get(OsStr::new("PATH")).filter(|_| name.parent() == Some(Path::new("")))?;
        // Those that are no absolute paths are meant from where it runs.
        first_program(std::env::split_paths(places).map(|place| self.dir.join(place)), name)
    }

    fn cannot_start(&self, source: io::Error) -> ProgramError {
        let program = self.argv[0].to_string_lossy().into_owned();
        // A missing directory gives the same errno as a missing program.
        if source.kind() != io::ErrorKind::NotFound || !self.dir.is_dir() {
            return ProgramError::Start { program, source };
        }
        let path: PathBuf = self.dir.join(&program).components().collect();
        match (program.contains('/'), path.exists()) {
            (false, _) => ProgramError::Missing(program),
            (true, false) => ProgramError::NotThere(path),
            // What a script's first line names is looked for too, and the errno is the same.
            (true, true) => ProgramError::Start { program, source: io::Error::other("what its first line (#!) names is not there") },
        }
    }

    fn run_with(&self, watch: &Watch<'_>, stdout: Stdout) -> Result<Finished, ProgramError> {
        if watch.cancel.asked() {
            return Err(ProgramError::Cancelled(self.shown()));
        }
        let cannot_start = |source| self.cannot_start(source);
        let output = match &self.output {
            Some(file) => file.try_clone().map_err(cannot_start)?.into(),
            None => Stdio::piped(),
        };
        let request = self.request(watch.marker);
        let is_alone = self.leftovers == Leftovers::Leave || self.source.is_some();
        let started = if is_alone {
            // What it starts may be the server, which outlives the run. And a supervisor, whose standard input is its line, has no file to hand on.
            request.command().and_then(|mut command| {
                if let Some(file) = &self.source {
                    command.stdin(file.try_clone()?);
                }
                Running::alone(command.stdout(output).stderr(Stdio::piped()))
            })
        } else {
            Supervised::start(&request, watch.marker, output, Stdio::piped()).map(Running::Supervised)
        };
        let mut running = started.map_err(cannot_start)?;
        faults::at("tool");
        let mut hearing = Hearing::of(&mut running, stdout, self.quiet, watch);
        let ended = hearing.until_the_end(&mut running);
        let well = matches!(&ended, Ok(status) if status.success());
        let spare_leftovers = self.leftovers == Leftovers::Leave && well;
        if is_alone && !well {
            running.kill();
        }
        // Pipes that stay open are held by a process that nobody could end, or that was handed them from outside; or the supervisor was killed.
        let is_lost = matches!(ended, Err(Cut::Lost(_)));
        if is_lost || hearing.drain(Duration::from_millis(200)) == Pipes::Open && !spare_leftovers {
            last_look(watch.marker);
            hearing.drain(GRACE);
        }
        let (tail, captured, too_much) = hearing.told();
        match ended {
            Err(Cut::TooMuch) => Err(ProgramError::TooMuch(self.shown())),
            Ok(status) if status.success() && too_much => Err(ProgramError::TooMuch(self.shown())),
            Ok(status) if status.success() => Ok(Finished { stdout: captured }),
            Ok(status) => Err(ProgramError::Failed { program: self.shown(), status, tail }),
            Err(Cut::Cancelled) => Err(ProgramError::Cancelled(self.shown())),
            Err(Cut::TimedOut(after)) => Err(ProgramError::TimedOut { program: self.shown(), after, tail }),
            Err(Cut::Lost(source)) => Err(ProgramError::Lost { program: self.shown(), source }),
        }
    }
}

/// The first of the directories' files of this name that is a program.
pub(crate) fn first_program(dirs: impl Iterator<Item = PathBuf>, name: &Path) -> Option<PathBuf> {
    dirs.map(|dir| dir.join(name)).find(|path| is_program(path))
}

/// Whether this user may run a file (access(2)).
pub(crate) fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The last look for processes of a run, through all of /proc: of a run that a dead agent left, and of a program whose supervisor was killed. What has the
/// mark in its environment is ended, and what was started within bounds and took the mark off. Other programs can get away from it, so nothing else goes
/// by it: a supervisor knows from the kernel what its program left.
pub(crate) fn last_look(marker: &str) {
    // Those of a dead agent end what they have by themselves, and know better what that is.
    for _ in 0..500 {
        if processes::supervisors_of(marker).is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // A process may fork while it is looked for; a few rounds find the children of the last one too.
    for _ in 0..20 {
        let found = processes::strays_of(marker);
        if found.is_empty() {
            return;
        }
        for process in &found {
            process.signal(Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    tracing::error!(marker, "processes of a step could not be ended");
}

/// Becomes another program, with this environment and no other; its standard streams stay. Comes back only with the reason why that cannot be.
pub(crate) fn become_program(argv: &[OsString], dir: &Path, env: Vec<(OsString, OsString)>) -> io::Error {
    let Some((program, args)) = argv.split_first() else { return io::Error::other("there is no program") };
    std::process::Command::new(program).args(args).current_dir(dir).env_clear().envs(env).exec()
}

/// What tells whether a file is the same later: its inode, size, and time of change; nothing where there is none.
pub(crate) fn identity(path: &Path) -> String {
    let told = |meta: std::fs::Metadata| {
        let nanos = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        format!("{} {} {nanos}", meta.ino(), meta.size())
    };
    std::fs::metadata(path).map(told).unwrap_or_default()
}

#[cfg(test)]
mod tests;
