//! Processes of this machine, by what /proc says of them.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a shell says that the agent has started, to kill the agent: that is its parent, or the parent of its supervisor.
pub const KILL_AGENT: &str = "p=$PPID; if grep -q -- --supervise /proc/$p/cmdline; then p=$(cut -d' ' -f4 /proc/$p/stat); fi; kill -9 $p";

/// The same for Python, as the function `kill_agent`; it needs nothing but what is built in. A server's parent is the agent itself.
pub const KILL_AGENT_IN_PYTHON: &str = "\
def kill_agent():
    import os, signal
    parent = os.getppid()
    if b'--supervise' in open(f'/proc/{parent}/cmdline', 'rb').read():
        parent = int(open(f'/proc/{parent}/stat').read().rsplit(') ', 1)[1].split()[1])
    os.kill(parent, signal.SIGKILL)
";

/// A process that was there a moment ago.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// Its arguments, with spaces between them.
    pub command: String,
    /// Its environment at its start.
    pub environment: Vec<String>,
}

impl Process {
    /// Whether its environment began with that variable.
    pub fn has_variable(&self, name: &str) -> bool {
        self.environment.iter().any(|variable| variable.split('=').next() == Some(name))
    }

    /// Sends it a signal; one that is gone needs none.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid), signal);
    }
}

/// The processes that have to do with a directory: they work in it, run a program of it, or name it in their arguments or environment. This
/// process itself is not among them, and neither is one that waits to be reaped.
pub fn processes_about(directory: &Path) -> Vec<Process> {
    let own = std::process::id().to_string();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| *name != own);
    numbers.filter_map(|number| about(number.parse().ok()?, directory)).collect()
}

fn about(pid: i32, directory: &Path) -> Option<Process> {
    let texts = |file: &str| -> Vec<String> {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes.split(|byte| *byte == 0).filter(|text| !text.is_empty()).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
    };
    let arguments = texts("cmdline");
    // Kernel threads, and what waits to be reaped, have no arguments.
    if arguments.is_empty() {
        return None;
    }
    let environment = texts("environ");
    let name = directory.to_str()?;
    let works_there =
        ["cwd", "exe"].iter().any(|link| fs::read_link(format!("/proc/{pid}/{link}")).is_ok_and(|path| path.starts_with(directory)));
    let names_it = arguments.iter().chain(&environment).any(|text| text.contains(name));
    (works_there || names_it).then(|| Process { pid, command: arguments.join(" "), environment })
}
