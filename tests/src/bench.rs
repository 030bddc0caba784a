use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::http::{self, Answer, Place};
use crate::processes::processes_about;
use crate::repo::Repo;
use crate::wait::{wait_for, wait_until};

/// The longest that one command of the ctl may take: a release that installs everything anew, on a busy machine.
const MOST_CTL: Duration = Duration::from_secs(600);
/// The longest that the agent may take to be there, or to be gone.
const MOST_AGENT: Duration = Duration::from_secs(120);

/// A file of the project, by its path from the top.
pub fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a directory of the project").join(path)
}

/// Whether the tests run as root. Where they do not, it says loudly which promise is not held.
#[expect(clippy::print_stderr, reason = "a test that tests nothing must not look like one that does")]
pub fn is_root(promise: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("\n*** NOT TESTED, for this needs root: {promise}\n");
    }
    root
}

/// What a program said when it had ended.
#[derive(Debug, Clone)]
pub struct Done {
    /// Its exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Done {
    /// Fails the test unless it ended with that code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "the exit code is another\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless each of these stands in what it said, wherever.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            let said = self.stdout.contains(part) || self.stderr.contains(part);
            assert!(said, "this was not said: {part}\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        }
        self
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let parsed = serde_json::from_str(&self.stdout);
        assert!(parsed.is_ok(), "stdout is no JSON: {parsed:?}\n--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        parsed.unwrap_or_default()
    }
}

/// A place for one agent and its apps, with everything that belongs to it.
///
/// ```text
/// config/agent.toml, config/apps/<app>.toml     state/     run/control.sock     bin/ (first in PATH)     repos/<name>     apps/<app> (roots)     log/
/// ```
#[derive(Debug)]
pub struct Bench {
    name: String,
    root: PathBuf,
    directory: Option<TempDir>,
    agent: RefCell<Option<Child>>,
    apps: RefCell<Vec<String>>,
    variables: RefCell<BTreeMap<String, String>>,
    of_agent: RefCell<BTreeMap<String, String>>,
    user: Cell<Option<u32>>,
    commands: Cell<u32>,
}

impl Bench {
    /// An empty bench. The name is for whoever reads its output.
    pub fn new(name: &str) -> Self {
        // Directly under /tmp, for the name of a Unix socket has 107 bytes at the most.
        let directory = tempfile::Builder::new().prefix("ra-").tempdir_in("/tmp").expect("/tmp takes a new directory");
        let root = directory.path().canonicalize().expect("it is there");
        for part in ["config/apps", "state", "run", "bin", "repos", "apps", "log"] {
            fs::create_dir_all(root.join(part)).expect("the new directory is ours");
        }
        let home = project("target/test-home");
        fs::create_dir_all(&home).expect("target is ours");
        Self {
            name: name.to_owned(),
            root,
            directory: Some(directory),
            agent: RefCell::new(None),
            apps: RefCell::new(Vec::new()),
            variables: RefCell::new(variables(&home)),
            of_agent: RefCell::default(),
            user: Cell::new(None),
            commands: Cell::new(0),
        }
    }

    /// A path within the bench.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// The root of an app.
    pub fn root_of(&self, app: &str) -> PathBuf {
        self.path("apps").join(app)
    }

    /// The control socket.
    pub fn control(&self) -> Place {
        Place::Socket(self.path("run/control.sock"))
    }

    /// A new repository of the bench.
    pub fn repo(&self, name: &str) -> Repo {
        Repo::new(self.path("repos").join(name))
    }

    /// The demo project's repository with its releases up to `upto`.
    pub fn demo_repo(&self, upto: u8) -> Repo {
        Repo::demo(self.path("repos/demo"), upto)
    }

    /// Writes a file within the bench.
    pub fn write(&self, path: impl AsRef<Path>, text: impl AsRef<[u8]>) -> PathBuf {
        let file = self.path(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).expect("the bench is ours");
        }
        fs::write(&file, text).expect("the bench is ours");
        file
    }

    /// Writes `agent.toml`.
    pub fn agent_settings(&self, toml: &str) -> &Self {
        self.write("config/agent.toml", toml);
        self
    }

    /// Writes an app file, and makes the app's root. `root` and `allow_local` need not be said: they are put in front where they are missing.
    pub fn app(&self, name: &str, toml: &str) -> &Self {
        let root = self.root_of(name);
        fs::create_dir_all(root.join("shared")).expect("the bench is ours");
        let says = |key: &str| {
            toml.lines().take_while(|line| !line.starts_with('[')).any(|line| line.split('=').next().is_some_and(|word| word.trim() == key))
        };
        let mut text = String::new();
        if !says("root") {
            text.push_str(&format!("root = {root:?}\n"));
        }
        if !says("allow_local") {
            text.push_str("allow_local = true\n");
        }
        text.push_str(toml);
        // The agent watches the directory: the file must never be seen half written.
        let new = self.write(format!("config/{name}.new"), &text);
        fs::rename(new, self.path(format!("config/apps/{name}.toml"))).expect("the bench is ours");
        let mut apps = self.apps.borrow_mut();
        if !apps.iter().any(|known| known == name) {
            apps.push(name.to_owned());
        }
        self
    }

    /// The apps, in the order in which they came.
    pub fn apps(&self) -> Vec<String> {
        self.apps.borrow().clone()
    }

    /// A program that stands before any other of its name in the agent's `PATH`. The text begins with `#!`.
    pub fn pretend(&self, name: &str, text: &str) -> &Self {
        let file = self.write(format!("bin/.{name}.new"), text);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("the bench is ours");
        fs::rename(file, self.path("bin").join(name)).expect("the bench is ours");
        self
    }

    /// A variable of the environment of the agent and the ctl, from the next start on.
    pub fn variable(&self, name: &str, value: &str) -> &Self {
        self.variables.borrow_mut().insert(name.to_owned(), value.to_owned());
        self
    }

    /// Takes a variable out of the environment of the agent and the ctl, from the next start on.
    pub fn without_variable(&self, name: &str) -> &Self {
        self.variables.borrow_mut().remove(name);
        self
    }

    /// A variable of the environment of the agent alone, from the next start on.
    pub fn agent_variable(&self, name: &str, value: &str) -> &Self {
        self.of_agent.borrow_mut().insert(name.to_owned(), value.to_owned());
        self
    }

    /// A program with the bench's environment and nothing else, in the bench's root.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let variables = self.variables.borrow();
        let path = format!("{}:{}", self.path("bin").display(), variables.get("PATH").map_or("", String::as_str));
        command.env_clear().envs(variables.iter()).env("PATH", path).current_dir(&self.root).stdin(Stdio::null());
        command
    }

    /// The program of the agent, without any argument.
    pub fn release_agent(&self) -> Command {
        self.command(binaries().join("release-agent"))
    }

    /// The ctl, pointed at the bench's agent.
    pub fn agentctl(&self) -> Command {
        let mut command = self.command(binaries().join("agentctl"));
        command.env("AGENTCTL_SOCKET", self.path("run/control.sock"));
        command
    }

    /// Lets the other users of this machine reach what is in the bench.
    pub fn let_others_in(&self) -> &Self {
        fs::set_permissions(&self.root, fs::Permissions::from_mode(0o755)).expect("the bench is ours");
        self
    }

    /// Gives the bench to an ordinary user, who the agent runs as from the next start on. Only root can.
    pub fn give_to(&self, uid: u32) -> &Self {
        self.let_others_in();
        let mut command = self.command("chown");
        command.arg("-R").arg(format!("{uid}:{uid}")).arg(&self.root);
        self.begin(command).finish(MOST_AGENT).expect(0);
        self.user.set(Some(uid));
        self
    }

    /// The ctl, as another user with exactly these supplementary groups. Only root can.
    pub fn ctl_as<S: AsRef<OsStr>>(&self, uid: u32, groups: &[u32], args: impl IntoIterator<Item = S>) -> Done {
        let mut command = self.as_user(uid, groups, binaries().join("agentctl"));
        command.arg("--socket").arg(self.path("run/control.sock")).args(args);
        self.begin(command).finish(MOST_CTL)
    }

    /// A program, as another user with exactly these supplementary groups. Only root can.
    pub fn as_user(&self, uid: u32, groups: &[u32], program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command("setpriv");
        command.arg(format!("--reuid={uid}")).arg(format!("--regid={uid}"));
        match groups {
            [] => command.arg("--clear-groups"),
            groups => command.arg(format!("--groups={}", groups.iter().map(u32::to_string).collect::<Vec<_>>().join(","))),
        };
        command.arg("--").arg(program);
        command
    }

    /// Starts the agent, and waits until it answers.
    #[track_caller]
    pub fn start(&self) -> &Self {
        self.spawn();
        wait_until("the agent answers on its socket", MOST_AGENT, || {
            assert!(self.is_running(), "the agent ended before it answered:\n{}", self.log());
            http::get(&self.control(), "/healthz").is_ok_and(|answer| answer.status == 200)
        });
        self
    }

    /// Starts the agent with a configuration that it should not take, and answers with what it said when it ended.
    #[track_caller]
    pub fn start_refused(&self) -> Done {
        let before = self.log().len();
        self.spawn();
        let status = wait_for("the agent ends", MOST_AGENT, || self.reap());
        Done { code: status.code().unwrap_or(-1), stdout: String::new(), stderr: self.log()[before..].to_owned() }
    }

    /// Starts the agent where it may refuse to: answers with what it said when it ended, or with nothing when it serves.
    #[track_caller]
    pub fn start_or_not(&self) -> Option<Done> {
        let before = self.log().len();
        self.spawn();
        wait_for("the agent answers, or ends", MOST_AGENT, || match self.reap() {
            Some(status) => {
                Some(Some(Done { code: status.code().unwrap_or(-1), stdout: String::new(), stderr: self.log()[before..].to_owned() }))
            }
            None => http::get(&self.control(), "/healthz").is_ok_and(|answer| answer.status == 200).then_some(None),
        })
    }

    /// The agent with the bench's directories, to be given more arguments or started.
    pub fn agent_command(&self) -> Command {
        let mut command = self.release_agent();
        if let Some(user) = self.user.get() {
            // The standard library drops the supplementary groups too.
            command.uid(user).gid(user);
        }
        command.envs(self.of_agent.borrow().iter());
        command.args(["--config".as_ref(), self.path("config").as_os_str()]).args(["--state".as_ref(), self.path("state").as_os_str()]);
        command.args(["--socket".as_ref(), self.path("run/control.sock").as_os_str()]);
        command
    }

    #[track_caller]
    fn spawn(&self) {
        assert!(!self.is_running(), "the agent runs already");
        let mut command = self.agent_command();
        let log = OpenOptions::new().create(true).append(true).open(self.path("log/agent.log")).expect("the bench is ours");
        command.stdout(log.try_clone().expect("a file can be opened twice")).stderr(log).process_group(0);
        *self.agent.borrow_mut() = Some(command.spawn().expect("the agent was built"));
    }

    fn reap(&self) -> Option<ExitStatus> {
        let mut agent = self.agent.borrow_mut();
        let status = agent.as_mut()?.try_wait().expect("it is our child");
        if status.is_some() {
            *agent = None;
        }
        status
    }

    /// Whether the agent runs.
    pub fn is_running(&self) -> bool {
        self.reap().is_none() && self.agent.borrow().is_some()
    }

    /// The agent's process.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.borrow().as_ref().map(Child::id)
    }

    /// Sends the agent a signal.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.agent_pid().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), signal).expect("it is our child, and not yet reaped");
        }
    }

    /// Has the agent read its configuration again, and waits until what it reads is in force, or complained of.
    #[track_caller]
    pub fn reload(&self) -> &Self {
        let seen = self.log().len();
        self.signal(Signal::SIGHUP);
        let told = ["the configuration was taken up", "ERROR"];
        wait_until("the agent has read its configuration", MOST_AGENT, || told.iter().any(|told| self.log()[seen..].contains(told)));
        self
    }

    /// Has the agent read its keys and its certificate again, and waits until it has.
    #[track_caller]
    pub fn reload_keys(&self) -> &Self {
        let seen = self.log().len();
        self.signal(Signal::SIGHUP);
        wait_until("the agent has read its files", MOST_AGENT, || self.log()[seen..].contains("the files were read again"));
        self
    }

    /// Kills the agent alone, as the kernel would when memory is short. What it started lives on.
    #[track_caller]
    pub fn kill(&self) -> &Self {
        self.end(Signal::SIGKILL);
        self
    }

    /// Asks the agent to end, and waits until it has; answers with its exit code.
    #[track_caller]
    pub fn stop(&self) -> i32 {
        self.end(Signal::SIGTERM)
    }

    #[track_caller]
    fn end(&self, signal: Signal) -> i32 {
        assert!(self.is_running(), "the agent does not run:\n{}", self.log());
        self.signal(signal);
        wait_for("the agent is gone", MOST_AGENT, || self.reap()).code().unwrap_or(-1)
    }

    /// Runs the agent's program to its end, with these arguments and none of the bench's.
    #[track_caller]
    pub fn agent<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Done {
        let mut command = self.command(binaries().join("release-agent"));
        command.args(args);
        self.begin(command).finish(MOST_AGENT)
    }

    /// Runs the ctl to its end.
    #[track_caller]
    pub fn ctl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Done {
        self.ctl_begin(args).finish(MOST_CTL)
    }

    /// Starts the ctl and does not wait for it.
    pub fn ctl_begin<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Begun {
        let mut command = self.command(binaries().join("agentctl"));
        command.arg("--socket").arg(self.path("run/control.sock")).args(args);
        self.begin(command)
    }

    /// Starts any program whose output is to be read.
    pub fn begin(&self, mut command: Command) -> Begun {
        let number = self.commands.get() + 1;
        self.commands.set(number);
        let shown = format!("{command:?}").rsplit('/').next().unwrap_or_default().to_owned();
        let file = |kind: &str| self.path(format!("log/{number:03}.{kind}"));
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        fs::write(file("command"), &shown).expect("the bench is ours");
        let create = |path: &Path| File::create(path).expect("the bench is ours");
        let child = command.stdout(create(&stdout)).stderr(create(&stderr)).process_group(0).spawn();
        Begun { child: child.expect("the program is there"), shown, stdout, stderr }
    }

    /// Asks the agent over its socket.
    #[track_caller]
    pub fn ask(&self, path: &str) -> Answer {
        http::get(&self.control(), path).expect("the agent answers")
    }

    /// Asks the agent over its socket for JSON.
    #[track_caller]
    pub fn ask_json(&self, path: &str) -> Value {
        let answer = self.ask(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        serde_json::from_str(&answer.body).expect("the agent answers JSON")
    }

    /// Every run, newest first.
    #[track_caller]
    pub fn runs(&self) -> Vec<Value> {
        self.ask_json("/v1/runs")["runs"].as_array().expect("runs are a list").clone()
    }

    /// The newest run.
    #[track_caller]
    pub fn last_run(&self) -> Value {
        self.runs().into_iter().next().expect("there is a run")
    }

    /// Every event of a run that is over; of one that is not, the answer comes when it is.
    #[track_caller]
    pub fn events(&self, run: u64) -> Vec<Value> {
        let path = format!("/v1/runs/{run}/events");
        let answer = http::request(&self.control(), "GET", &path, &[("Accept", "application/x-ndjson")], "").expect("the agent answers");
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).expect("a line is an event")).collect()
    }

    /// The name of the live release: what the link says.
    pub fn live(&self, app: &str) -> Option<String> {
        let target = fs::read_link(self.root_of(app).join("app")).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// The directories in `releases/`, sorted.
    pub fn releases(&self, app: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root_of(app).join("releases")).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// All that the agent has said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("log/agent.log")).unwrap_or_default()).into_owned()
    }

    /// Kills the agent and everything else that has to do with the bench.
    pub fn end_all(&self) {
        if let Some(mut agent) = self.agent.borrow_mut().take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        // What the agent started is a group of its own, and may start others while it is looked for.
        for _ in 0..100 {
            let found = processes_about(&self.root);
            if found.is_empty() {
                break;
            }
            found.iter().for_each(|process| process.signal(Signal::SIGKILL));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn tell(&self) -> String {
        let mut text = format!("=== bench {} in {}\n", self.name, self.root.display());
        for number in 1..=self.commands.get() {
            let read = |kind: &str| fs::read(self.path(format!("log/{number:03}.{kind}"))).unwrap_or_default();
            let (command, stdout, stderr) = (read("command"), read("stdout"), read("stderr"));
            for (head, bytes) in
                [("--- ", command), ("", stdout), ("--- stderr\n", stderr)].into_iter().filter(|(_, bytes)| !bytes.is_empty())
            {
                text.push_str(&format!("{head}{}\n", last_part(&String::from_utf8_lossy(&bytes))));
            }
        }
        text.push_str(&format!("--- the agent's log\n{}", last_part(&self.log())));
        text
    }
}

impl Drop for Bench {
    #[expect(clippy::print_stderr, reason = "this is where a failed test says what the agent said")]
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        // Who writes a test, or a sentence, wants to read what a person would have read.
        if failed || std::env::var_os("TELL_BENCH").is_some() {
            eprintln!("{}", self.tell());
        }
        self.end_all();
        if let Some(directory) = self.directory.take() {
            if failed && std::env::var_os("KEEP_BENCH").is_some() {
                eprintln!("=== {} is kept", directory.keep().display());
            } else {
                unseal(&self.root);
                let _ = directory.close();
            }
        }
    }
}

/// A program that was started.
#[derive(Debug)]
pub struct Begun {
    child: Child,
    shown: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Begun {
    /// What it printed so far.
    pub fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// What it printed to its standard error so far.
    pub fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // One that has ended needs none.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Waits until it has ended; kills it and fails the test when it has not after `most`.
    #[track_caller]
    pub fn finish(mut self, most: Duration) -> Done {
        let end = Instant::now() + most;
        let mut pause = Duration::from_millis(2);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            if Instant::now() >= end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                assert!(Instant::now() < end, "{} did not end within {} s; so far:\n{}", self.shown, most.as_secs(), self.stdout());
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        };
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        Done { code: status.code().unwrap_or(-1), stdout: read(&self.stdout), stderr: read(&self.stderr) }
    }
}

/// What the installers need to know of this machine's network and indexes.
pub(crate) fn inherited() -> BTreeMap<String, String> {
    let passed = |name: &str| {
        let prefixes = ["PIP_", "UV_", "SSL_"];
        let names = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE"];
        prefixes.iter().any(|prefix| name.starts_with(prefix)) || names.contains(&name)
    };
    std::env::vars().filter(|(name, _)| passed(name)).collect()
}

/// The environment that a bench begins with. The home directory is one for all tests, so that the installers find what they fetched before.
fn variables(home: &Path) -> BTreeMap<String, String> {
    let mut variables = inherited();
    variables.extend(["USER", "LOGNAME"].into_iter().filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))));
    let tools = project("target/test-tools/bin");
    // The system's own programs: what a shell of the person who runs the tests would find first is not what an agent finds.
    variables.insert("PATH".into(), format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", tools.display()));
    variables.insert("HOME".into(), home.display().to_string());
    // An operator who sets these gives all apps the same caches, and so they serve all tests.
    for (name, dir) in [("PIP_CACHE_DIR", "pip"), ("UV_CACHE_DIR", "uv")] {
        variables.entry(name.to_owned()).or_insert_with(|| home.join(".cache").join(dir).display().to_string());
    }
    variables.insert("LANG".into(), "C.UTF-8".into());
    variables.insert("NO_COLOR".into(), "1".into());
    // Tests look at what each step found, and not only at its line.
    variables.insert("AGENTCTL_VERBOSE".into(), "1".into());
    variables
}

/// The directory of the agent and the ctl, which are built if they are not what the sources say.
pub(crate) fn binaries() -> &'static Path {
    static BINARIES: OnceLock<PathBuf> = OnceLock::new();
    BINARIES.get_or_init(|| {
        // target/<profile>/deps/<test>, target/<profile>/battery
        let program = std::env::current_exe().expect("a process knows its program");
        let is_profile = |directory: &&Path| directory.file_name().is_some_and(|name| name != "deps");
        let directory = program.ancestors().skip(1).find(is_profile).expect("programs lie in target/<profile>").to_owned();
        // tests/run has just built them, and says so.
        if std::env::var_os("BENCH_BINARIES_ARE_BUILT").is_none() {
            let profile = match directory.file_name().and_then(OsStr::to_str) {
                Some("debug") | None => "dev",
                Some(other) => other,
            };
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.args(["build", "--quiet", "--workspace", "--profile", profile]).current_dir(project(""));
            cargo.arg("--target-dir").arg(directory.parent().expect("target/<profile> has a parent"));
            let output = cargo.output().expect("cargo is there when tests are");
            assert!(output.status.success(), "the agent cannot be built:\n{}", String::from_utf8_lossy(&output.stderr));
        }
        directory
    })
}

/// Gives directories their write bits back: a sealed tree cannot be removed by anybody but root.
fn unseal(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let _ = fs::set_permissions(directory, fs::Permissions::from_mode(0o755));
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unseal(&entry.path());
        }
    }
}

fn last_part(text: &str) -> &str {
    const MOST: usize = 20_000;
    let cut = text.len().saturating_sub(MOST);
    let at = (cut..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bench_ends_what_it_started_and_leaves_nothing() {
        let bench = Bench::new("bench");
        bench.pretend(
            "greet",
            "#!/bin/sh\necho \"hello $1 from $PWD\"\necho oops >&2\nsetsid sleep 1000 >/dev/null 2>&1 </dev/null &\nexit 3\n",
        );
        let mut command = bench.command("sh");
        command.args(["-c", "greet anna; exec sh -c 'exit 3'"]);
        let done = bench.begin(command).finish(Duration::from_secs(60)).expect(3);
        assert_eq!(
            (done.stdout.as_str(), done.stderr.as_str()),
            (format!("hello anna from {}\n", bench.root.display()).as_str(), "oops\n")
        );
        let root = bench.root.clone();
        wait_until("the pretend program's child is there", Duration::from_secs(60), || {
            processes_about(&root).iter().any(|process| process.command == "sleep 1000")
        });
        fs::create_dir_all(root.join("sealed/in")).unwrap();
        fs::set_permissions(root.join("sealed"), fs::Permissions::from_mode(0o555)).unwrap();
        drop(bench);
        assert!(processes_about(&root).is_empty());
        assert!(!root.exists());
    }

    #[test]
    fn the_environment_is_not_that_of_whoever_runs_the_tests() {
        let bench = Bench::new("environment");
        bench.variable("COLOUR", "blue");
        let done = bench.begin(bench.command("env")).finish(Duration::from_secs(60)).expect(0);
        let names: Vec<_> = done.stdout.lines().filter_map(|line| line.split('=').next()).collect();
        assert!(names.contains(&"COLOUR") && names.contains(&"HOME"), "{names:?}");
        assert!(
            !names.iter().any(|name| name.starts_with("CARGO") || name.starts_with("NEXTEST") || name.starts_with("RUST")),
            "{names:?}"
        );
    }

    #[test]
    fn an_app_file_says_where_its_root_is() {
        let bench = Bench::new("app");
        bench.app("shop", "repository = \"/x\"\n[env]\nroot = \"not this\"\n");
        let text = fs::read_to_string(bench.path("config/apps/shop.toml")).unwrap();
        assert_eq!(
            text,
            format!("root = {:?}\nallow_local = true\nrepository = \"/x\"\n[env]\nroot = \"not this\"\n", bench.root_of("shop"))
        );
        bench.app("shop", "root = \"/srv\"\nallow_local = false\n");
        assert_eq!(fs::read_to_string(bench.path("config/apps/shop.toml")).unwrap(), "root = \"/srv\"\nallow_local = false\n");
        assert_eq!(bench.apps(), ["shop"]);
    }
}
