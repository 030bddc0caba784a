//! The only one who runs programs. A program gets an argument vector and never a shell, a fixed environment, no standard input, a process group
//! of its own, a deadline; every line that it says is passed on as it comes; and what is left of its group is ended with it.
//!
//! The other modules here only build commands and read what came out.

pub(crate) mod database;
pub(crate) mod git;
mod hearing;
pub(crate) mod http;
pub(crate) mod https;
pub(crate) mod manage;
mod processes;
pub(crate) mod python;
pub(crate) mod sandbox;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent_wire::event::Stream;
use nix::sys::signal::Signal;
use thiserror::Error;

use crate::faults;
use hearing::{Cut, Hearing, Input, Pipes, Stdout};
use sandbox::Bounds;

pub(crate) use processes::{
    Process, Ticks, boot, end_control_group, holding, is_bounded, left_by, topmost, unix_socket, used_within, using, with_variable,
};

/// The variable that marks every process that a run started, whatever session or group it moves to: `<journal>:<run>`.
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
        match self {
            Self::Failed { status, .. } if killed(status) => Some(
                "somebody else killed it: where memory ran out, journalctl -k says so, and more memory helps or a higher limit (MemoryMax)",
            ),
            _ => None,
        }
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
    leftovers: Leftovers,
    bounds: Option<Arc<Bounds>>,
    output: Option<Arc<File>>,
    quiet: bool,
    self_contained: bool,
    /// So many arguments are the same every time, and tell people nothing.
    unshown: usize,
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
            leftovers: Leftovers::End,
            bounds: None,
            output: None,
            quiet: false,
            self_contained: false,
            unshown: 0,
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

    /// It is known to leave no process behind when it has ended well: what it runs is its own.
    pub(crate) fn self_contained(mut self) -> Self {
        self.self_contained = true;
        self
    }

    /// The arguments that it has so far are not shown to people.
    pub(crate) fn unshown(mut self) -> Self {
        self.unshown = self.argv.len() - 1;
        self
    }

    /// What people are shown of it: the program's own name and up to four arguments that are short enough.
    fn shown(&self) -> String {
        let name = Path::new(&self.argv[0]).file_name().unwrap_or(&self.argv[0]).to_string_lossy().into_owned();
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

    /// Starts it as a server: with the run's mark taken off, in a group of its own, its output to `log`; it outlives the run and the agent.
    ///
    /// # Errors
    /// [`ProgramError`] when it cannot be started.
    pub(crate) fn start_server(&self, log: File) -> Result<Child, ProgramError> {
        let started = |source| self.cannot_start(source);
        let errors = log.try_clone().map_err(started)?;
        let server = Self { leftovers: Leftovers::Leave, ..self.clone() };
        server.command("").stdin(Stdio::null()).stdout(log).stderr(errors).spawn().map_err(started)
    }

    fn command(&self, marker: &str) -> Command {
        let name = self.argv[0].as_os_str();
        // Looked for here, it is started without a copy of this process (posix_spawn(3)): a search in the child, along a PATH of its own, would need one.
        let mut command = Command::new(self.found_in_path().as_deref().unwrap_or(Path::new(name)));
        command.arg0(name);
        command.args(&self.argv[1..]).current_dir(&self.dir).env_clear().envs(&self.env).process_group(0);
        // What may stay when the program has ended must not be found, and ended, as a leftover of the run later.
        if self.leftovers == Leftovers::End {
            command.env(MARKER, marker);
        }
        command
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
        let mut command = self.command(watch.marker);
        let cannot_start = |source| self.cannot_start(source);
        let output = match &self.output {
            Some(file) => file.try_clone().map_err(cannot_start)?.into(),
            None => Stdio::piped(),
        };
        let (stdin, input) = match self.input.as_slice() {
            [] => (Stdio::null(), None),
            input => Input::pipe(input).map(|(stdin, input)| (stdin.into(), Some(input))).map_err(cannot_start)?,
        };
        command.stdin(stdin).stdout(output).stderr(Stdio::piped());
        let started = match &self.bounds {
            Some(bounds) => bounds.spawn(&mut command),
            None => command.spawn(),
        };
        let mut child = started.map_err(cannot_start)?;
        if !self.self_contained {
            STARTED.fetch_add(1, Ordering::Relaxed);
        }
        faults::at("tool");
        let group = Process::of(child.id());
        // With it goes our own hold on what the program reads.
        drop(command);
        let mut hearing = Hearing::of(&mut child, input, stdout, self.quiet, watch);
        let ended = hearing.until_the_end(&mut child, &group);
        let well = matches!(&ended, Ok(status) if status.success());
        if self.self_contained && !well {
            STARTED.fetch_add(1, Ordering::Relaxed);
        }
        let spare_leftovers = self.leftovers == Leftovers::Leave && well;
        if !spare_leftovers {
            group.end_group();
        }
        // Pipes that stay open are held by a process that left the group.
        if hearing.drain(Duration::from_millis(200)) == Pipes::Open && !spare_leftovers {
            end_marked(watch.marker);
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
            Err(Cut::Lost(source)) => Err(ProgramError::Start { program: self.shown(), source }),
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

/// How many programs the agent has started that may leave processes behind.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// How many such programs this process has started so far: where it is the same as before, nothing was started that could be left.
pub(crate) fn started() -> u64 {
    STARTED.load(Ordering::Relaxed)
}

/// Ends every process that carries the marker; those of a run that is over, or of a step whose program has ended. With them goes what was started within
/// bounds, left its parents, and took the marker off.
pub(crate) fn end_marked(marker: &str) {
    end_marked_since(marker, Ticks::BOOT);
}

/// The same, where all of them have started since: what was there before need not be looked into.
pub(crate) fn end_marked_since(marker: &str, since: Ticks) {
    // A process may fork while it is looked for; a few rounds find the children of the last one too.
    for _ in 0..20 {
        let found = left_by(marker, since);
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

#[cfg(test)]
mod tests;
