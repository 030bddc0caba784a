//! Bounds for programs that run what strangers wrote: installers, whose packages may hold any code, and the environments that they make.
//!
//! The kernel's Landlock holds a program and all that it starts to a list of directories, whoever's files they are, and nothing takes that back. Here
//! that is: read what is not hidden; write only where it is meant to; listen on no TCP port; send signals to its own kind alone. Domains belong to
//! threads and are inherited, so a thread of the program's supervisor enters one, starts the program, and ends. The supervisor itself stays outside, where
//! the program can neither signal nor trace it.
//!
//! A kernel that knows only a part of that holds that part, and one without Landlock holds nothing: [`kernel`] says so, for `doctor`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
    path_beneath_rules,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

/// The newest version of Landlock of which something is used: with it, connecting to Unix sockets is held as well.
const NEWEST: ABI = ABI::V9;

/// What every program may write: it keeps nothing, or is memory that ends with its users (shm_overview(7); Python's locks between processes).
const FOR_ALL: &[&str] = &["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm"];

/// How many more processes and threads than its user has at its start a program may lead to. The kernel holds nobody to it whose user is root.
const MORE_PROCESSES: u64 = 1024;

/// What a program is held to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The directories that it may write in, and read.
    pub writable: Vec<PathBuf>,
    /// What it may not even read, unless that lies in a directory that it may write in.
    pub hidden: Vec<PathBuf>,
}

/// What the kernel of this host holds programs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// Nothing: it has no Landlock.
    Nothing,
    /// Everything but this.
    AllBut(&'static str),
    /// Everything.
    All,
}

/// Asks the kernel of this host, by a thread that enters a domain and ends.
pub(crate) fn kernel() -> Held {
    let entered = std::thread::scope(|scope| scope.spawn(|| Bounds::default().enter()).join());
    match entered {
        Ok(Ok(status)) => judged(status.landlock),
        // A kernel that answers, and refuses, holds nothing either; the first build says why.
        Ok(Err(_)) | Err(_) => Held::Nothing,
    }
}

/// What came with which version (landlock(7)).
fn judged(status: LandlockStatus) -> Held {
    match ABI::from(status) {
        ABI::Unsupported => Held::Nothing,
        ABI::V1 | ABI::V2 | ABI::V3 => {
            Held::AllBut("ports that they listen on, signals that they send, and sockets of this host that they connect to")
        }
        ABI::V4 | ABI::V5 => Held::AllBut("signals that they send, and sockets of this host that they connect to"),
        ABI::V6 | ABI::V7 | ABI::V8 => Held::AllBut("sockets of this host that they connect to"),
        _ => Held::All,
    }
}

impl Bounds {
    /// Starts a program within the bounds; [`limit`] comes before it.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        std::thread::scope(|scope| {
            let held = scope.spawn(|| {
                give_up_powers()?;
                self.enter().map_err(io::Error::other)?;
                command.spawn()
            });
            held.join().unwrap_or_else(|_| Err(io::Error::other("the thread that should start it ended")))
        })
    }

    /// Holds the calling thread, and all that it will start, to the bounds.
    fn enter(&self) -> Result<RestrictionStatus, RulesetError> {
        let everything = AccessFs::from_all(NEWEST);
        // Devices are no files of a package's.
        let writing = everything & !(AccessFs::MakeBlock | AccessFs::MakeChar);
        Ruleset::default()
            .handle_access(everything)?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(self.readable(), AccessFs::from_read(NEWEST)))?
            .add_rules(path_beneath_rules(FOR_ALL.iter().map(Path::new).chain(self.writable.iter().map(PathBuf::as_path)), writing))?
            .restrict_self()
    }

    /// What lies beside the way to everything that is hidden: the kernel knows what is allowed, and nothing that is taken away from that again.
    fn readable(&self) -> Vec<PathBuf> {
        let hidden: Vec<PathBuf> = self.hidden.iter().map(|path| real(path)).collect();
        let (mut readable, mut looked_at) = (Vec::new(), vec![PathBuf::from("/")]);
        while let Some(path) = looked_at.pop() {
            let within = |hidden: &&PathBuf| hidden.starts_with(&path);
            if hidden.contains(&path) {
                continue;
            }
            if !hidden.iter().any(|hidden| within(&hidden)) {
                readable.push(path);
                continue;
            }
            let mut inner: Vec<PathBuf> = fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            // A directory that may be passed and not read: what leads on is known.
            inner.extend(hidden.iter().filter(within).filter_map(|hidden| {
                let next = hidden.strip_prefix(&path).ok()?.components().next()?;
                Some(path.join(next))
            }));
            // What a link leads to is reached by its own way, or not at all.
            inner.retain(|path| fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_symlink()));
            inner.sort();
            inner.dedup();
            looked_at.extend(inner);
        }
        readable
    }
}

/// A path without links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), ..) => real,
        (Err(_), Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    }
}

/// What a program of root's keeps of root's powers: those over files, which its directories bound. Others would lead out of any bounds: into other
/// processes, devices, the kernel (capabilities(7)).
const KEPT: CapabilitySet =
    CapabilitySet::CHOWN.union(CapabilitySet::DAC_OVERRIDE).union(CapabilitySet::FOWNER).union(CapabilitySet::FSETID);

/// Gives up, for the calling thread and all that it will start, what it has beyond that; and the way to get it back by a program.
fn give_up_powers() -> io::Result<()> {
    set_no_new_privs(true)?;
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    if (permitted | inheritable).is_empty() {
        // Nothing is there to be given up; and where that is so, the call itself may be kept from the agent.
        return Ok(());
    }
    let left = CapabilitySets { effective: effective & KEPT, permitted: permitted & KEPT, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, left)?)
}

/// The limit that nothing goes by any more (getrlimit(2), `RLIMIT_LOCKS`). It is inherited; from nothing at all it can be neither lowered nor raised; and
/// so it tells what was started within bounds, whatever else that makes of itself. A host that sets it for reasons of its own sets something.
const TELLTALE: u64 = 0;

/// What `/proc/PID/limits` calls the telltale.
pub(super) const TELLTALE_LINE: &str = "Max file locks";

/// Holds this process, a supervisor, and what it will start to a number of processes, and gives it the telltale. The program inherits both, so nothing of
/// it ever runs without them.
pub(super) fn limit() -> io::Result<()> {
    let most = threads_of_user().saturating_add(MORE_PROCESSES);
    // What cannot be told from other programs later is not let run.
    setrlimit(Resource::Locks, Rlimit { current: Some(TELLTALE), maximum: Some(TELLTALE) })?;
    // A host that allows fewer processes stays as it is.
    let _ = setrlimit(Resource::Nproc, Rlimit { current: Some(most), maximum: Some(most) });
    Ok(())
}

/// The processes and threads that the agent's user has, which is what the kernel counts (getrlimit(2), `RLIMIT_NPROC`).
fn threads_of_user() -> u64 {
    let own = nix::unistd::getuid().to_string();
    let threads = |entry: fs::DirEntry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
        (field("Uid:")? == own).then(|| field("Threads:")?.parse::<u64>().ok()).flatten()
    };
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(threads).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_hidden_is_in_nothing_that_may_be_read() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        for dir in ["state", "root/releases/a", "root/venv", "open"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        symlink(root.join("state"), root.join("way-in")).unwrap();
        symlink(&root, root.join("open/round")).unwrap();
        let hidden = vec![root.join("way-in"), root.join("root/releases"), root.join("not/there/yet")];
        let readable = Bounds { writable: vec![], hidden }.readable();
        let reads = |path: &str| readable.iter().any(|allowed| root.join(path).starts_with(allowed));
        assert!(reads("open") && reads("root/venv") && readable.contains(&"/usr".into()), "{readable:?}");
        for path in ["state", "root/releases/a", "not/there/yet", "way-in", ""] {
            assert!(!reads(path), "{path}: {readable:?}");
        }
        assert_eq!(Bounds::default().readable(), [PathBuf::from("/")]);
    }

    #[test]
    fn each_version_of_the_kernel_is_told_by_what_it_does_not_hold() {
        let of = |abi: ABI| judged(LandlockStatus::Available { effective_abi: abi, kernel_abi: None });
        assert_eq!(judged(LandlockStatus::NotEnabled), Held::Nothing);
        assert!(matches!(of(ABI::V1), Held::AllBut(what) if what.contains("ports")));
        assert!(matches!(of(ABI::V5), Held::AllBut(what) if what.contains("signals") && !what.contains("ports")));
        assert!(matches!(of(ABI::V7), Held::AllBut(what) if what.contains("sockets") && !what.contains("signals")));
        assert_eq!(of(ABI::V9), Held::All);
    }
}
