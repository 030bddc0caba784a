//! A machine with a systemd of its own: this machine's files under an overlay, booted by systemd-nspawn, and gone without a trace afterwards.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use crate::bench::{Done, binaries, inherited, project};
use crate::http::Place;
use crate::repo::Repo;
use crate::wait::{wait_for, wait_until};

/// The longest that the machine may take to be up, or to be down.
const MOST: Duration = Duration::from_secs(120);
/// The longest that one command within it may take.
const MOST_COMMAND: Duration = Duration::from_secs(300);
/// What the installers fetched before, by the name that it has within the machine.
const HOME: &str = "/var/cache/release-agent-tests";

/// Whether a machine has the agent before the test does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agent {
    /// Its files lie where the package puts them.
    Installed,
    /// There is nothing of it: the test installs the package.
    Missing,
}

/// A booted machine. It has the agent installed as the package would, its network is that of this machine, and its processes are its own.
#[derive(Debug)]
pub struct Booted {
    name: String,
    directory: Option<TempDir>,
    nspawn: Child,
    leader: i32,
}

impl Booted {
    /// Boots one. The name is for whoever reads its output.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        Self::boot(name, Agent::Installed)
    }

    /// Boots one without the agent. Only a drop-in of its unit is there, for the installers of the tests.
    #[track_caller]
    pub fn bare(name: &str) -> Self {
        let booted = Self::boot(name, Agent::Missing);
        for program in ["release-agent", "agentctl"] {
            let installed = booted.path("/usr/bin").join(program);
            assert!(!installed.exists(), "the agent is installed on this machine, so that no machine without it can be made");
        }
        // Where this machine is a container image, it may say that packages start nothing. The booted one is a machine like any other.
        booted.run(["rm", "-f", "/usr/sbin/policy-rc.d"]).expect(0);
        booted
    }

    #[track_caller]
    fn boot(name: &str, agent: Agent) -> Self {
        assert!(geteuid().is_root(), "this test boots a machine with a systemd of its own, which only root can: run the tests as root");
        for program in ["systemd-nspawn", "nsenter", "setpriv"] {
            assert!(
                ["/usr/bin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(program).exists()),
                "this test needs {program}: tests/run installs it"
            );
        }
        // What the machine writes is in memory: it is gone with its mount, while removing as many files one by one takes longer than some tests.
        let directory = tempfile::Builder::new().prefix("ra-machine-").tempdir_in("/var/tmp").expect("/var/tmp takes a new directory");
        let root = directory.path();
        for part in ["root", "disk", "install", "srv"] {
            fs::create_dir(root.join(part)).expect("the new directory is ours");
        }
        if agent == Agent::Installed {
            install(&root.join("install"));
        }
        prepare(&root.join("install"));
        let home = project("target/test-home");
        fs::create_dir_all(&home).expect("target is ours");
        let boot = root.join("boot.log");
        let log = File::create(&boot).expect("the new directory is ours");
        let mut command = Command::new("setpriv");
        // Whatever becomes of the test, the machine does not outlive it (TERM makes nspawn halt it), and its mounts are nobody else's. Two machines at once must not meet in a
        // control group.
        command.args(["--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "private", "sh", "-euc", BOOT, "sh"]).arg(root);
        command.arg(format!("--bind={}:{HOME}", home.display())).arg(format!("--bind={}:/srv", root.join("srv").display()));
        if agent == Agent::Installed {
            for program in ["release-agent", "agentctl"] {
                command.arg(format!("--bind-ro={}:/usr/bin/{program}", binaries().join(program).display()));
            }
        }
        let uv = project("target/test-tools/venv/bin/uv");
        if uv.exists() {
            command.arg(format!("--bind-ro={}:/usr/local/bin/uv", uv.display()));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file can be opened twice")).stderr(log);
        let nspawn = command.spawn().expect("setpriv is there");
        let mut booted = Self { name: name.to_owned(), directory: Some(directory), nspawn, leader: 0 };
        booted.await_up(0);
        booted
    }

    /// Waits until the machine is up, with another first process than this one.
    #[track_caller]
    fn await_up(&mut self, before: i32) {
        self.leader = wait_for("the machine has a first process", MOST, || {
            let ended = self.nspawn.try_wait().expect("it is our child");
            assert!(ended.is_none(), "the machine was not booted:\n{}", self.boot_log());
            let child_of = |pid: u32| -> Option<u32> {
                let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
                children.split_whitespace().next()?.parse().ok()
            };
            let child = child_of(child_of(self.nspawn.id())?)?;
            // Until it is systemd, it is still nspawn itself.
            let is_systemd = fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.trim() == "systemd");
            i32::try_from(child).ok().filter(|child| is_systemd && *child != before)
        });
        wait_until("the machine is up", MOST, || self.run(["systemctl", "is-system-running"]).stdout.trim() == "running");
    }

    /// Has the machine shut down and boot again, in order or, with `--force --force`, as if the power had failed. What is in memory alone is gone.
    #[track_caller]
    pub fn reboot(&mut self, how: &[&str]) {
        let before = self.leader;
        // It may be gone before it has answered.
        let _ = self.run(["systemctl", "reboot"].iter().chain(how));
        self.await_up(before);
    }

    /// A path within the machine, from outside.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        Path::new(&format!("/proc/{}/root", self.leader)).join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// A socket within the machine.
    pub fn socket(&self, inside: &str) -> Place {
        Place::Socket(self.path(inside))
    }

    /// Writes a file within the machine. Whoever watches its directory never sees it half written.
    pub fn write(&self, inside: &str, text: impl AsRef<[u8]>) -> &Self {
        let file = self.path(inside);
        fs::create_dir_all(file.parent().expect("it is no root")).expect("the machine's files are ours");
        let temporary = file.with_extension("being-written");
        fs::write(&temporary, text).and_then(|()| fs::rename(temporary, file)).expect("the machine's files are ours");
        self
    }

    /// Reads one; nothing where there is none.
    pub fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap_or_default()
    }

    /// The demo project's repository with its releases up to `upto`; within the machine it is `/srv/<name>`.
    pub fn demo_repo(&self, name: &str, upto: u8) -> Repo {
        // git does not work in a directory that it only reaches through another process: /srv is ours, and the machine's as well.
        let directory = self.directory.as_ref().expect("it is there until the end").path();
        Repo::demo(directory.join("srv").join(name), upto)
    }

    /// A new repository; within the machine it is `/srv/<name>`.
    pub fn repo(&self, name: &str) -> Repo {
        let directory = self.directory.as_ref().expect("it is there until the end").path();
        Repo::new(directory.join("srv").join(name))
    }

    /// Lets the agent carry out by itself what releases run, as this user, with what the example of a drop-in allows; it is not running yet.
    pub fn direct(&self, user: &str) -> &Self {
        let example = fs::read_to_string(project("systemd/examples/direct.conf")).expect("the project has it");
        // Root is only root with its capabilities.
        let more = match user {
            "root" => "User=root\nGroup=root\nCapabilityBoundingSet=~\n".to_owned(),
            // The installers' files of this machine are root's.
            _ => "Environment=HOME=/var/lib/release-agent\n".to_owned(),
        };
        self.write("/etc/systemd/system/release-agent.service.d/direct.conf", format!("{example}{more}"))
    }

    /// Has no package that comes or goes make the index of all manual pages anew, which whoever installed it would wait for (man-db's trigger of dpkg).
    pub fn leave_the_index_of_pages(&self) {
        self.run(["rm", "--force", "/var/lib/man-db/auto-update"]).expect(0);
    }

    /// A program within the machine, with the environment of a login of root.
    pub fn command<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("nsenter");
        command.env_clear().env("PATH", PATH).env("HOME", "/root").env("LANG", "C.UTF-8").env("NO_COLOR", "1").stdin(Stdio::null());
        command.args(["--target", &self.leader.to_string(), "--all", "--"]).args(argv);
        command
    }

    /// Starts one whose end is waited for later.
    pub fn begin<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Inside {
        let mut command = self.command(argv);
        let shown = format!("{command:?}").split_once("\"--\" ").map_or_else(String::new, |(_, shown)| shown.to_owned());
        let file = || tempfile::tempfile().expect("/tmp takes a new file");
        let (stdout, stderr) = (file(), file());
        command.stdout(stdout.try_clone().expect("a file can be opened twice"));
        command.stderr(stderr.try_clone().expect("a file can be opened twice"));
        Inside { child: command.spawn().expect("nsenter is there"), shown, stdout, stderr }
    }

    /// Runs one to its end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = S>) -> Done {
        self.begin(argv).finish()
    }

    /// Runs the ctl to its end.
    #[track_caller]
    pub fn ctl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Done {
        self.run(["env", "AGENTCTL_VERBOSE=1", "agentctl"].into_iter().chain(args))
    }

    /// Runs systemctl, which must succeed; answers with what it printed.
    #[track_caller]
    pub fn systemctl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        self.run(["systemctl"].into_iter().chain(args)).expect(0).stdout
    }

    /// A property of a unit.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.systemctl(["show", "--value", "--property", name, "--", unit]).trim().to_owned()
    }

    /// What a unit said.
    pub fn journal(&self, unit: &str) -> String {
        self.run(["journalctl", "--quiet", "--no-pager", "--output", "cat", "--unit", unit]).stdout
    }

    /// A unit's main process, as this machine numbers it.
    #[track_caller]
    pub fn main_process(&self, unit: &str) -> i32 {
        let inside: i32 = self.property(unit, "MainPID").parse().expect("a number");
        assert_ne!(inside, 0, "{unit} has no main process");
        let numbers = fs::read_dir("/proc").expect("/proc is there").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let of_machine = fs::read_link(format!("/proc/{}/ns/pid", self.leader)).expect("the machine runs");
        let is = |pid: &i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let innermost = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().last()?.parse().ok());
            innermost == Some(inside) && fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|namespace| namespace == of_machine)
        };
        numbers.into_iter().find(is).expect("a process of the machine has that number")
    }

    /// The name of an app's live release: what the link says.
    pub fn live(&self, app: &str) -> Option<String> {
        let target = fs::read_link(self.path(format!("/var/{app}/app"))).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    fn boot_log(&self) -> String {
        let directory = self.directory.as_ref().map(TempDir::path);
        directory.and_then(|directory| fs::read_to_string(directory.join("boot.log")).ok()).unwrap_or_default()
    }
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `$1` is the machine's directory; what follows are options of nspawn. Only what every machine needs is started: not the timers and servers of
/// this one.
const BOOT: &str = r#"
    machine=$1
    shift
    mount -t tmpfs -o mode=0755 tmpfs "$machine/disk"
    mkdir "$machine/disk/work"
    cp -a "$machine/install" "$machine/disk/upper"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$machine/disk/upper,workdir=$machine/disk/work" "$machine/root"
    # An agent of this machine is not the one that is tested.
    rm -rf "$machine/root/etc/release-agent" "$machine/root/var/lib/release-agent"
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
        if [ -e "$hierarchy/cgroup.procs" ] && mkdir "$hierarchy/${machine##*/}" 2>/dev/null; then
            echo $$ >"$hierarchy/${machine##*/}/cgroup.procs"
        fi
    done
    # A reboot ends nspawn with 133, for whoever started it to start it again.
    code=133
    while [ "$code" = 133 ]; do
        code=0
        systemd-nspawn --directory "$machine/root" --machine "${machine##*/}" --register=no --keep-unit --boot --quiet --resolv-conf=off \
            --system-call-filter='landlock_create_ruleset landlock_add_rule landlock_restrict_self' \
            --timezone=off --link-journal=no --console=pipe "$@" -- --unit=basic.target --show-status=no &
        child=$!
        trap 'kill -TERM "$child"; wait "$child"' TERM
        wait "$child" || code=$?
    done
    exit "$code"
"#;

/// The agent's files, where the package puts them.
fn install(upper: &Path) {
    let copy = |from: &str, to: &str| {
        let to = upper.join(to);
        fs::create_dir_all(to.parent().expect("it is no root")).expect("the new directory is ours");
        fs::copy(project(from), to).expect("the project has its units");
    };
    for unit in fs::read_dir(project("systemd/system")).expect("the project has its units").flatten() {
        let name = unit.file_name().into_string().expect("the names are text");
        copy(&format!("systemd/system/{name}"), &format!("usr/lib/systemd/system/{name}"));
    }
    copy("systemd/sysusers.d/release-agent.conf", "usr/lib/sysusers.d/release-agent.conf");
    copy("systemd/tmpfiles.d/release-agent.conf", "usr/lib/tmpfiles.d/release-agent.conf");
}

/// A drop-in that lets the agent use what the installers of the tests use, and quiet.
fn prepare(upper: &Path) {
    let mut drop_in = format!("[Service]\nReadWritePaths={HOME}\nEnvironment=HOME={HOME}\n");
    for (name, value) in inherited() {
        drop_in.push_str(&format!("Environment=\"{name}={value}\"\n"));
    }
    let into = |unit: &str, name: &str, text: &str| {
        let directory = upper.join("etc/systemd/system").join(unit);
        fs::create_dir_all(&directory).expect("the new directory is ours");
        fs::write(directory.join(name), text).expect("the new directory is ours");
    };
    // Whoever builds has a home of its own.
    into(
        "release-agent-build@.service.d",
        "tests.conf",
        &drop_in.replace(&format!("ReadWritePaths={HOME}\nEnvironment=HOME={HOME}\n"), ""),
    );
    into("release-agent.service.d", "tests.conf", &drop_in);
    // What this machine does on its own is no business of the booted one.
    for unit in ["apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "man-db.timer", "fstrim.timer"]
    {
        symlink("/dev/null", upper.join("etc/systemd/system").join(unit)).expect("the new directory is ours");
    }
}

impl Drop for Booted {
    #[expect(clippy::print_stderr, reason = "this is where a failed test says what the machine said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("=== machine {}\n{}", self.name, self.boot_log());
            if self.leader != 0 {
                let journal = self.command(["journalctl", "--no-pager", "--output", "short-precise", "--lines", "400"]).output();
                eprintln!("{}", journal.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default());
            }
        }
        // With its first process, the kernel ends all that the machine runs. Nothing of it is to be kept, so nothing need be put away.
        if self.leader == 0 {
            if let Ok(pid) = i32::try_from(self.nspawn.id()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        } else {
            let _ = kill(Pid::from_raw(self.leader), Signal::SIGKILL);
        }
        // nspawn ends with its child.
        let _ = self.nspawn.wait();
        let Some(directory) = self.directory.take() else { return };
        if let Some(name) = directory.path().file_name() {
            for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"] {
                remove_groups(&Path::new(hierarchy).join(name));
            }
        }
        let _ = directory.close();
    }
}

/// Empty control groups, the innermost first.
fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// A program within the machine, on its way.
#[derive(Debug)]
pub struct Inside {
    child: Child,
    shown: String,
    stdout: File,
    stderr: File,
}

impl Inside {
    /// Waits until it has ended; kills it and fails the test when that takes too long.
    #[track_caller]
    pub fn finish(mut self) -> Done {
        let end = Instant::now() + MOST_COMMAND;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            if Instant::now() >= end {
                let _ = self.child.kill();
                let _ = self.child.wait();
                assert!(Instant::now() < end, "{} did not end:\n{}{}", self.shown, text(&mut self.stdout), text(&mut self.stderr));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Done { code: status.code().unwrap_or(-1), stdout: text(&mut self.stdout), stderr: text(&mut self.stderr) }
    }
}

fn text(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes));
    read.expect("a file of our own can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}
