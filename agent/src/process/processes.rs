//! Processes by number, safe against numbers that are used again; and the search for processes by what /proc says of them.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rayon::prelude::*;

use super::sandbox::TELLTALE_LINE;

/// A process: its number, and the time at which it started, which together are unique until the next boot (proc_pid_stat(5), fields 1 and 22).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pid: u32,
    started: Option<u64>,
}

/// How workers call themselves: gunicorn with setproctitle, uWSGI with auto-procname.
const WORKERS: [&str; 2] = ["gunicorn: worker", "uWSGI worker"];

/// Of field 9: a thread of the kernel's (`PF_KTHREAD` of its sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;

pub(super) struct Stat {
    state: char,
    parent: u32,
    /// The number of its terminal; 0 for none.
    terminal: i32,
    /// Whether it is a thread of the kernel's.
    is_kernel: bool,
    /// When it started, in clock ticks since boot.
    pub(super) started: u64,
}

/// A file of a process. Those of /proc have no length, and a read that goes by the length begins with 32 bytes and goes on in small steps: that is
/// eight system calls for each file, of hundreds of processes.
pub(super) fn file_of(pid: u32, name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    fs::File::open(format!("/proc/{pid}/{name}")).ok()?.take(u64::MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn stat(pid: u32) -> Option<Stat> {
    // It is one line, of 52 numbers and a name, which the kernel gives whole to whoever has room for it.
    let mut bytes = [0; 2048];
    let count = fs::File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes[..count]);
    // The name, field 2, stands in parentheses and may hold anything.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let terminal = fields.nth(2)?.parse().ok()?;
    let flags: u32 = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(12)?.parse().ok()?;
    Some(Stat { state, parent, terminal, is_kernel: flags & PF_KTHREAD != 0, started })
}

/// The parent of a process.
pub(super) fn parent_of(pid: u32) -> Option<u32> {
    stat(pid).map(|stat| stat.parent)
}

/// The name that the kernel has for a process (proc_pid_comm(5)).
pub(super) fn name_of(pid: u32) -> String {
    file_of(pid, "comm").map_or_else(|| "a program".to_owned(), |name| String::from_utf8_lossy(&name).trim_end().to_owned())
}

/// A time as /proc tells it of processes, in clock ticks since the boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticks(u64);

impl Ticks {
    /// Now; no process that starts from here on is told to have started before it. Of a host that does not tell, the time of its boot.
    pub(crate) fn now() -> Self {
        use nix::time::{ClockId, clock_gettime};
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).ok().map(std::time::Duration::from);
        let ticks =
            per_second.zip(since_boot).and_then(|(ticks, time)| u64::try_from(time.as_nanos() * u128::from(ticks) / 1_000_000_000).ok());
        Self(ticks.unwrap_or(0))
    }
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn of(pid: u32) -> Self {
        Self { pid, started: stat(pid).map(|stat| stat.started) }
    }

    /// A process that was written down before.
    pub(crate) fn recorded(pid: u32, started: u64) -> Self {
        Self { pid, started: Some(started) }
    }

    /// Its number.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// When it started, in clock ticks since boot.
    pub(crate) fn started(&self) -> Option<u64> {
        self.started
    }

    /// Whether it was started at that time or later.
    pub(crate) fn has_started_since(&self, since: Ticks) -> bool {
        self.started.is_some_and(|started| started >= since.0)
    }

    /// The variables that it was started with; none when they cannot be read.
    pub(crate) fn environ(&self) -> Vec<(String, String)> {
        let environ = environ_of(self.pid);
        let text = String::from_utf8_lossy(&environ);
        text.split('\0').filter_map(|variable| variable.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// Whether it is still there, and not merely waiting to be reaped.
    pub(crate) fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| Some(stat.started) == self.started && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Whether somebody has stopped it (SIGSTOP): it keeps its sockets, and answers nobody.
    pub(crate) fn is_stopped(&self) -> bool {
        stat(self.pid).is_some_and(|stat| Some(stat.started) == self.started && stat.state == 'T')
    }

    /// Whether somebody has it before them, as a shell.
    pub(crate) fn has_terminal(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.terminal != 0)
    }

    /// The user that it runs as; nothing when it is gone.
    pub(crate) fn user(&self) -> Option<u32> {
        let status = file_of(self.pid, "status")?;
        let status = String::from_utf8_lossy(&status);
        status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok())
    }

    /// Its working directory, links resolved by the kernel.
    pub(crate) fn cwd(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()
    }

    /// Whether it is coming to its end, or has: the kernel has no working directory of it any more, ENOENT. Of another user's process it tells none at all,
    /// EACCES (proc_pid_cwd(5)), which says nothing of its end.
    pub(crate) fn is_ending(&self) -> bool {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    }

    /// What it was started as; empty when that cannot be read.
    pub(crate) fn argv(&self) -> Vec<String> {
        let cmdline = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let text = String::from_utf8_lossy(&cmdline);
        text.split('\0').map(str::to_owned).filter(|arg| !arg.is_empty()).collect()
    }

    /// The variables that it was started with; nothing where they cannot be read, or it has written a title over them.
    pub(crate) fn variables(&self) -> Option<BTreeMap<String, String>> {
        let environ = environ_of(self.pid);
        let text = String::from_utf8_lossy(environ.strip_suffix(b"\0")?);
        text.split('\0').map(|set| set.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
    }

    /// The file that one of its descriptors is open to.
    pub(crate) fn descriptor(&self, number: u32) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/fd/{number}", self.pid)).ok()
    }

    /// Whether one of its descriptors is open to what the kernel calls `name`: a path, or `socket:[inode]`.
    fn has_open(&self, name: &Path) -> bool {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.pid)).into_iter().flatten().flatten();
        descriptors.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target == name)
    }

    /// Its children.
    pub(crate) fn children(&self) -> Vec<Self> {
        every().filter(|(_, stat)| stat.parent == self.pid).map(|(process, _)| process).collect()
    }

    /// The processes that answer for a server whose master it is: its descendants that have the listening socket of this inode open; where none can be
    /// seen to, its children that were started as it was, or that call themselves workers; else it itself.
    pub(crate) fn crew(&self, listener: Option<u64>) -> Vec<Self> {
        let all: Vec<(Self, Stat)> = every().collect();
        let parents: HashMap<u32, u32> = all.iter().map(|(process, stat)| (process.pid, stat.parent)).collect();
        let descends = |pid: u32| {
            let mut ancestors = std::iter::successors(parents.get(&pid).copied(), |pid| parents.get(pid).copied()).take(parents.len());
            ancestors.any(|ancestor| ancestor == self.pid)
        };
        let below: Vec<&(Self, Stat)> = all.iter().filter(|(process, _)| descends(process.pid)).collect();
        let name = listener.map(|inode| PathBuf::from(format!("socket:[{inode}]")));
        let holds = |process: &Self| name.as_ref().is_some_and(|name| process.has_open(name));
        let mut crew: Vec<Self> = below.iter().map(|(process, _)| *process).filter(holds).collect();
        if crew.is_empty() {
            let own = self.argv();
            let is_worker = |process: &Self| {
                let argv = process.argv();
                argv == own || argv.first().is_some_and(|name| WORKERS.iter().any(|worker| name.starts_with(worker)))
            };
            crew = below.iter().filter(|(_, stat)| stat.parent == self.pid).map(|(process, _)| *process).filter(is_worker).collect();
        }
        if crew.is_empty() { vec![*self] } else { crew }
    }

    /// Sends it a signal, if it is still itself. A process that is gone needs none.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid)
            && self.is_alive()
        {
            // Failing means that it is gone, or not ours; the caller looks whether it is alive.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Ends the process group that it leads, which may outlive it.
    pub(crate) fn end_group(&self) {
        self.signal_group(Signal::SIGKILL);
    }

    /// Sends a signal to the process group that it leads.
    pub(crate) fn signal_group(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid) {
            // Failing means that nobody is left in it.
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }
}

/// The processes that are alive, but for threads of the kernel: those run from nowhere, and hold nothing. They are looked at side by side, for the kernel
/// takes its time to tell.
pub(super) fn every() -> impl ParallelIterator<Item = (Process, Stat)> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pids: Vec<u32> = pids.collect();
    pids.into_par_iter().filter_map(|pid| {
        let stat = stat(pid)?;
        (!matches!(stat.state, 'Z' | 'X') && !stat.is_kernel).then_some((Process { pid, started: Some(stat.started) }, stat))
    })
}

/// The environment of a process; empty when it cannot be read. The kernel reads it, as it does the arguments, from the process's own memory (proc(5)), where
/// execve(2) writes them last: of a process that becomes another program it tells neither for a moment, which is waited for.
fn environ_of(pid: u32) -> Vec<u8> {
    const MOST_LOOKS: u32 = 100;
    for look in 1..=MOST_LOOKS {
        let Some(environ) = file_of(pid, "environ") else { break };
        if !environ.is_empty() {
            return environ;
        }
        // It may have become the other program since the look at its environment; then the next look finds one, if it has any.
        let has_arguments = file_of(pid, "cmdline").is_none_or(|arguments| !arguments.is_empty());
        if has_arguments && look > 2 || stat(pid).is_none_or(|stat| matches!(stat.state, 'Z' | 'X')) {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Vec::new()
}

/// The supervisors of a run, other than those of this process, that are at work: they say which run is theirs.
pub(super) fn supervisors_of(marker: &str) -> Vec<Process> {
    let is_one = |process: &Process| {
        let argv = process.argv();
        matches!(argv.as_slice(), [_, argument, of, ..] if argument == super::supervisor::ARGUMENT && of == marker)
    };
    strangers().into_iter().filter(|process| is_one(process) && has_mark(process.pid, marker) == Some(true)).collect()
}

/// The processes of a run that nobody watches over any more: those whose environment carries its mark, and of this user's those that were started within
/// bounds and carry no mark. What cannot be read is another user's, and not ours.
pub(super) fn strays_of(marker: &str) -> Vec<Process> {
    let user = nix::unistd::geteuid().to_string();
    let is_this_users = |pid: u32| {
        let status = file_of(pid, "status").unwrap_or_default();
        let status = String::from_utf8_lossy(&status);
        status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)) == Some(user.as_str())
    };
    let is_stray = |process: &Process| {
        has_mark(process.pid, marker).unwrap_or_else(|| is_bounded(process.pid) == Some(true) && is_this_users(process.pid))
    };
    strangers().into_iter().filter(is_stray).collect()
}

/// The processes that do not descend from this one: what does is watched over, by a supervisor or by the agent itself.
fn strangers() -> Vec<Process> {
    let all: Vec<(Process, Stat)> = every().collect();
    let parents: HashMap<u32, u32> = all.iter().map(|(process, stat)| (process.pid, stat.parent)).collect();
    let own = std::process::id();
    let is_ours = |pid: u32| {
        let mut ancestors = std::iter::successors(Some(pid), |pid| parents.get(pid).copied()).take(parents.len() + 1);
        ancestors.any(|pid| pid == own)
    };
    all.into_iter().map(|(process, _)| process).filter(|process| !is_ours(process.pid)).collect()
}

/// Whether a process carries the mark of this run; nothing where it carries none.
fn has_mark(pid: u32, marker: &str) -> Option<bool> {
    let environ = environ_of(pid);
    let marked = format!("{}=", super::MARKER);
    let found = environ.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(marked.as_bytes()));
    found.map(|found| found == marker.as_bytes())
}

/// Whether a process was started within bounds; nothing when it is gone, or is hidden from this user.
pub(crate) fn is_bounded(pid: u32) -> Option<bool> {
    let limits = file_of(pid, "limits")?;
    let limits = String::from_utf8_lossy(&limits);
    let limit = limits.lines().find_map(|line| line.strip_prefix(TELLTALE_LINE)?.split_whitespace().nth(1))?;
    Some(limit == "0" && !is_bounded_itself())
}

/// Whether this very process was started with the limit that should tell others: then it tells nothing.
fn is_bounded_itself() -> bool {
    static ITSELF: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *ITSELF.get_or_init(|| rustix::process::getrlimit(rustix::process::Resource::Locks).maximum == Some(0))
}

/// The processes whose environment has a variable with this very value. A program may have overwritten what the kernel shows of its environment.
pub(crate) fn with_variable(name: &str, value: &str) -> Vec<Process> {
    let wanted = format!("{name}={value}");
    let carries = |process: &Process| {
        let environ = environ_of(process.pid);
        environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    every().map(|(process, _)| process).filter(carries).collect()
}

/// The processes whose working directory lies in `dir`.
pub(crate) fn working_in(dir: &Path) -> Vec<Process> {
    every().map(|(process, _)| process).filter(|process| process.cwd().is_some_and(|cwd| cwd.starts_with(dir))).collect()
}

/// The processes, other than this one, that have a file open: by the path that the kernel calls it, links resolved, or by `socket:[inode]`.
pub(crate) fn holding(name: &Path) -> Vec<Process> {
    let own = std::process::id();
    every().map(|(process, _)| process).filter(|process| process.pid != own && process.has_open(name)).collect()
}

/// Among `processes`, those whose parent is not among them: the masters of the others.
pub(crate) fn topmost(processes: &[Process]) -> Vec<Process> {
    let among = |pid: u32| processes.iter().any(|process| process.pid == pid);
    processes.iter().copied().filter(|process| stat(process.pid).is_some_and(|stat| !among(stat.parent))).collect()
}

/// A Unix socket in the eyes of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketState {
    /// The inode of the socket that listens.
    pub listener: u64,
    /// The connections to it, those included that nobody has accepted yet.
    pub connections: usize,
}

/// What `/proc/net/unix` says of the socket that is bound to `path`; nothing when nobody listens there, or in another network namespace.
pub(crate) fn unix_socket(path: &Path) -> Option<SocketState> {
    /// `__SO_ACCEPTCON` of the kernel's `net.h`.
    const LISTENS: u32 = 0x0001_0000;
    let text = fs::read(Path::new("/proc/net/unix")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut listener = None;
    let mut connections = 0;
    for line in text.lines().skip(1) {
        // Num RefCount Protocol Flags Type St Inode Path
        let mut fields = line.split_ascii_whitespace();
        let (Some(flags), Some(_type), Some(_state), Some(inode)) = (fields.nth(3), fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Some(at) = line.find('/') else { continue };
        if Path::new(&line[at..]) != path {
            continue;
        }
        if u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & LISTENS != 0) {
            listener = inode.parse().ok();
        } else {
            connections += 1;
        }
    }
    listener.map(|listener| SocketState { listener, connections })
}

/// What tells this boot of the kernel from every other.
pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Where the processes of this one's control group are listed: as the service manager made the group, in whatever hierarchy it has (cgroups(7)).
fn control_group() -> Option<PathBuf> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let of = |hierarchy: &str, at: &str| {
        let group = groups.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(hierarchy)?.strip_prefix(":/"))?;
        Some(Path::new(at).join(group).join("cgroup.procs")).filter(|list| list.exists())
    };
    of("name=systemd", "/sys/fs/cgroup/systemd").or_else(|| of("", "/sys/fs/cgroup")).or_else(|| of("", "/sys/fs/cgroup/unified"))
}

/// Ends every process of this one's control group but itself, whatever session or parent it has. Tells whether it could look.
pub(crate) fn end_control_group() -> bool {
    let own = std::process::id();
    let Some(list) = control_group() else { return false };
    // A process may fork while it is looked for; a few rounds find the children of the last one too.
    for _ in 0..50 {
        let Ok(pids) = fs::read_to_string(&list) else { return false };
        let others: Vec<u32> = pids.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid != own).collect();
        if others.is_empty() {
            return true;
        }
        others.into_iter().for_each(|pid| Process::of(pid).signal(Signal::SIGKILL));
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
