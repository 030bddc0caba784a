//! What processes use of a root: by what the kernel says of them, and by the words of their command lines, which it shows of all users' processes where
//! /proc is not mounted with `hidepid` (proc(5)).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use nix::time::{ClockId, clock_gettime};
use rayon::prelude::*;

use super::processes::{Process, every, file_of};

/// Where it is looked.
pub(crate) struct Place<'a> {
    /// The root.
    pub root: &'a Path,
    /// What directories of it are looked for, those in `releases` and `environments`.
    pub parts: &'a [&'a str],
    /// The link to the live release.
    pub link: &'a Path,
}

/// What processes use.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// The directories, each directly in one of the parts.
    pub dirs: BTreeSet<PathBuf>,
    /// The processes that use a release which only the time of their start tells.
    pub since: Vec<Since>,
}

/// A process that uses the release that was live when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Since {
    /// When it started.
    pub started: DateTime<Utc>,
    /// Nothing where it names the link. Else nobody may see where it works: its release is that one only if it has one of these files.
    pub has_one_of: Vec<PathBuf>,
}

/// So many arguments are looked at where a working directory is hidden: an interpreter, an option, and what it runs.
const FIRST_ARGUMENTS: usize = 3;

/// Looks through all processes.
pub(crate) fn usage(place: &Place<'_>) -> Usage {
    let real = place.root.canonicalize().unwrap_or_else(|_| place.root.to_owned());
    let clock = Clock::read();
    let of = |process: Process, ticks: u64| of_process(process.pid(), &Within { place, real: &real }, || clock.time_of(ticks));
    every().map(|(process, stat)| of(process, stat.started)).reduce(Usage::default, |mut all, more| {
        all.dirs.extend(more.dirs);
        all.since.extend(more.since);
        all
    })
}

/// A root by both its names: as it is configured, and as the kernel has it.
struct Within<'a> {
    place: &'a Place<'a>,
    real: &'a Path,
}

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
enum Leads {
    To(PathBuf),
    ThroughTheLink,
    Elsewhere,
}

impl Within<'_> {
    fn leads(&self, path: &Path) -> Leads {
        let Some(inner) = [self.place.root, self.real].iter().find_map(|root| path.strip_prefix(root).ok()) else {
            return Leads::Elsewhere;
        };
        let mut names = inner.components().map(Component::as_os_str);
        let Some(first) = names.next() else { return Leads::Elsewhere };
        if self.place.link.file_name() == Some(first) {
            return Leads::ThroughTheLink;
        }
        match names.next().filter(|_| self.place.parts.iter().any(|part| first == *part)) {
            Some(name) => Leads::To(self.place.root.join(first).join(name)),
            None => Leads::Elsewhere,
        }
    }
}

fn of_process(pid: u32, within: &Within<'_>, started: impl Fn() -> DateTime<Utc>) -> Usage {
    let link = |name: &str| fs::read_link(format!("/proc/{pid}/{name}"));
    let cwd = link("cwd");
    let maps = file_of(pid, "maps").unwrap_or_default();
    let mapped = maps.split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b'/')?;
        Some(PathBuf::from(OsStr::from_bytes(&line[at..])))
    });
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let open = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    let seen = cwd.as_ref().ok().cloned().into_iter().chain(link("exe").ok()).chain(mapped).chain(open);
    let mut dirs: BTreeSet<PathBuf> =
        seen.filter_map(|path| if let Leads::To(dir) = within.leads(&path) { Some(dir) } else { None }).collect();
    let works_in_one = cwd.as_ref().is_ok_and(|cwd| matches!(within.leads(cwd), Leads::To(_)));
    let cmdline = file_of(pid, "cmdline").unwrap_or_default();
    let arguments: Vec<&[u8]> = cmdline.split(|byte| *byte == 0).collect();
    let mut through_the_link = false;
    for word in arguments.iter().flat_map(|argument| argument.split(|byte| b":;,= '\"".contains(byte))).filter(|word| word.contains(&b'/'))
    {
        let path = Path::new(OsStr::from_bytes(word));
        let path = if let Ok(cwd) = &cwd { cwd.join(path) } else { path.to_owned() };
        match within.leads(&plain(&path)) {
            Leads::To(dir) => drop(dirs.insert(dir)),
            Leads::ThroughTheLink => through_the_link = true,
            Leads::Elsewhere => {}
        }
    }
    let is_hidden = cwd.is_err_and(|err| err.kind() == io::ErrorKind::PermissionDenied);
    let relative = arguments.iter().take(FIRST_ARGUMENTS).map(|argument| Path::new(OsStr::from_bytes(argument))).filter(|path| {
        let is_named = path.components().count() > 1 || path.extension().is_some_and(|ending| ending == "py");
        path.is_relative() && is_named && !path.as_os_str().as_bytes().starts_with(b"-")
    });
    let relative: Vec<PathBuf> = if is_hidden { relative.map(Path::to_owned).collect() } else { Vec::new() };
    let mut since = Vec::new();
    // A server that was restarted in place, and works in the release that it has now, was started through the link long ago.
    if through_the_link && !works_in_one {
        since.push(Since { started: started(), has_one_of: Vec::new() });
    } else if !relative.is_empty() {
        since.push(Since { started: started(), has_one_of: relative });
    }
    Usage { dirs, since }
}

/// A path without `.` and `..`, by its words alone.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// What turns ticks since the boot into a time.
struct Clock {
    now: DateTime<Utc>,
    since_boot: Duration,
    ticks_in_a_second: u64,
}

impl Clock {
    fn read() -> Self {
        let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        Self { now: Utc::now(), since_boot, ticks_in_a_second: ticks.filter(|ticks| *ticks > 0).unwrap_or(100) }
    }

    fn time_of(&self, ticks: u64) -> DateTime<Utc> {
        let after_boot = Duration::from_millis(ticks.saturating_mul(1000) / self.ticks_in_a_second);
        self.now - self.since_boot.saturating_sub(after_boot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Program;

    #[test]
    fn a_path_leads_to_a_release_to_an_environment_or_through_the_link() {
        let (root, link) = (Path::new("/srv/shop"), Path::new("/srv/shop/app"));
        let place = Place { root, parts: &["releases", "environments"], link };
        let within = Within { place: &place, real: Path::new("/data/shop") };
        let leads = |path: &str| within.leads(&plain(Path::new(path)));
        assert_eq!(leads("/srv/shop/releases/1/manage.py"), Leads::To("/srv/shop/releases/1".into()));
        assert_eq!(leads("/data/shop/environments/k/bin/python"), Leads::To("/srv/shop/environments/k".into()));
        assert_eq!(leads("/srv/shop/app/venv/bin/python"), Leads::ThroughTheLink);
        assert_eq!(leads("/srv/shop/shared/../app/manage.py"), Leads::ThroughTheLink);
        for elsewhere in ["/srv/shop", "/srv/shop/releases", "/srv/shop/shared/releases/1", "/srv/shop2/releases/1", "/etc/passwd"] {
            assert_eq!(leads(elsewhere), Leads::Elsewhere, "{elsewhere}");
        }
    }

    #[test]
    fn a_file_that_is_open_and_a_word_of_the_command_line_count() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        for release in ["releases/open", "releases/named", "releases/other"] {
            fs::create_dir_all(root.join(release)).unwrap();
        }
        fs::write(root.join("releases/open/data"), "").unwrap();
        let look = || usage(&Place { root: &root, parts: &["releases"], link: &root.join("app") });
        let before = Utc::now();
        // Each is looked at while it runs. What they name is neither opened nor entered, but for the first and the last.
        let during = |script: &str| {
            let (seen, looked) = (std::cell::RefCell::new(Usage::default()), root.join("looked"));
            let lines = |_: agent_wire::event::Stream, line: &str| {
                if line == "here" {
                    *seen.borrow_mut() = look();
                    fs::write(&looked, "").unwrap();
                }
            };
            let cancel = super::super::Cancel::default();
            let deadline = std::time::Instant::now() + Duration::from_secs(60);
            let watch = super::super::Watch { marker: "t:60", deadline, cancel: &cancel, lines: &lines };
            let script = format!("{script}; echo here; until [ -e {} ]; do sleep 0.02; done", looked.display());
            Program::new("/bin/sh").args(["-c", &script]).run(&watch).unwrap();
            fs::remove_file(&looked).unwrap();
            seen.into_inner()
        };
        let seen =
            during(&format!("cd {0}/..; exec 3<\"$PWD/{1}/releases/open/data\"", root.display(), root.file_name().unwrap().display()));
        assert!(seen.dirs.contains(&root.join("releases/open")), "{seen:?}");
        let seen = during(&format!(": --chdir={}/releases/named", root.display()));
        assert_eq!(seen.dirs, [root.join("releases/named")].into());
        let seen = during(&format!(": {}/app/venv/bin/python", root.display()));
        assert!(seen.dirs.is_empty() && seen.since.len() == 1, "{seen:?}");
        assert!(seen.since[0].has_one_of.is_empty());
        let slack = chrono::Duration::seconds(1);
        assert!(seen.since[0].started > before - slack && seen.since[0].started < Utc::now() + slack, "{seen:?}");
        // A server that works in a release, and was started through the link.
        let seen = during(&format!("cd {0}/releases/other; : {0}/app", root.display()));
        assert_eq!(seen, Usage { dirs: [root.join("releases/other")].into(), since: vec![] });
    }
}
