//! `apps/<app>.toml`. Every key has a default but `repository`, and but what a section that somebody wrote cannot guess: the commands, the unit
//! of a worker, the address of a check, the FIFO and the pid file of a restart, the kind of database of a backup, whom a report tells.

mod auto;
mod checks;
mod origin;
mod programs;
mod serving;

#[cfg(test)]
pub(super) use programs::STEPS;

use std::path::{Path, PathBuf};

use agent_model::names::AppName;
use agent_model::request::WhenBusy;

use super::kinds::{absolute, integer, list, one_of, size, switch, within_release};
use super::reader::{self, Section};
use super::{App, Complaint, ExecutorKind, Submodules, defaults, environment, refs, report};
use crate::database;
use crate::root::{Limits, Shared};

/// Reads the settings of the app called `name` from `text`, which stands in `file`.
pub(crate) fn parse(name: &AppName, file: &Path, text: &str) -> Result<App, Vec<Complaint>> {
    reader::read(file, text, |top| read(name, top))
}

/// Reads everything before it looks at what is missing, so that every complaint is made.
pub(super) fn read(name: &AppName, top: &Section<'_>) -> Option<App> {
    let root = root(name, top);
    let git = origin::read(top);
    let refs = refs::read(top, "nothing could be released");
    let auto = auto::read(top, refs.as_deref());
    let mut python = programs::python(top);
    let env = programs::env(top);
    let build_env = programs::build_env(top);
    let django = programs::django(top, [("env", &env), ("build_env", &build_env)]);
    if let Some(python) = &mut python {
        python.module = environment::module(django.as_ref(), &env).map(str::to_owned);
    }
    let backup = backup(top);
    let checks = checks::read(top);
    let restart = serving::restart(name, top, &checks);
    let workers = serving::workers(top, restart.as_ref());
    let shared = shared(top);
    let hooks = programs::hooks(top, django.as_ref(), &shared);
    let reports = report::read(name, top);
    Some(App {
        name: name.clone(),
        refs: refs.unwrap_or_else(defaults::refs),
        follows: auto.follows,
        auto_pause: auto.pause,
        auto_paths: auto.paths,
        webhook_files: auto.webhook_files,
        webhooks: Vec::new(),
        submodules: top
            .get("submodules", one_of(&[("refuse", Submodules::Refuse), ("ignore", Submodules::Ignore)]))
            .unwrap_or(Submodules::Refuse),
        keep_releases: top.get("keep_releases", count(10_000)).unwrap_or(defaults::KEEP_RELEASES),
        when_busy: top
            .get("when_busy", one_of(&[("queue", WhenBusy::Queue), ("latest", WhenBusy::Latest), ("refuse", WhenBusy::Refuse)]))
            .unwrap_or(WhenBusy::Queue),
        read_only: top.get("read_only", switch).unwrap_or(false),
        limits: limits(top),
        timeouts: programs::timeouts(top),
        python,
        django,
        env,
        build_env,
        secrets: top.table("secrets").and_then(|secrets| secrets.get("files", list(absolute))).unwrap_or_default(),
        shared,
        backup,
        checks,
        workers,
        hooks,
        reports,
        executor: ExecutorKind::Direct,
        hidden: Vec::new(),
        keep_runs: None,
        config: PathBuf::new(),
        stale: None,
        // Last, because a question mark ends the reading.
        root: root?,
        git: git?,
        restart: restart?,
    })
}

/// A number of things, at least one.
fn count(most: u64) -> impl Fn(&reader::Value<'_>) -> Option<usize> {
    move |value| integer(1..=most)(value).and_then(|number| usize::try_from(number).ok())
}

/// Directories that belong to the system: nothing is made or removed right in them.
const SYSTEM: [&str; 24] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/local",
    "/var",
    "/var/lib/release-agent",
    "/etc/release-agent",
];

/// What stands in `/var` on a Linux host (FHS 3.0, Debian and Red Hat): no root for an app that happens to have such a name.
const IN_VAR: [&str; 20] = [
    "account", "adm", "backups", "cache", "crash", "db", "empty", "games", "lib", "local", "lock", "log", "mail", "nis", "opt", "preserve",
    "run", "snap", "spool", "tmp",
];

fn root(name: &AppName, top: &Section<'_>) -> Option<PathBuf> {
    let root = top.get("root", |value| {
        let path = absolute(value)?;
        let in_var = path.strip_prefix("/var").ok().and_then(Path::to_str).is_some_and(|rest| IN_VAR.contains(&rest));
        let virtual_system = ["/proc", "/sys", "/dev"].iter().any(|system| path.starts_with(system));
        if in_var || virtual_system || SYSTEM.iter().any(|system| path == Path::new(system)) {
            let hint = format!("give the app a directory of its own, such as /srv/{name}");
            return value.complain(format!("{} belongs to the system", path.display()), Some(hint));
        }
        Some(path)
    });
    if top.has("root") {
        return root;
    }
    if IN_VAR.contains(&name.as_str()) {
        top.complain(
            "root",
            format!("would be /var/{name}, which belongs to the system"),
            format!("add root = \"/srv/{name}\" or another"),
        );
        return None;
    }
    Some(Path::new("/var").join(name.as_str()))
}

fn limits(top: &Section<'_>) -> Limits {
    let limits = top.table("limits");
    let limits = limits.as_ref();
    Limits {
        files: limits.and_then(|limits| limits.get("files", integer(1..=100_000_000))).unwrap_or(defaults::LIMIT_FILES),
        bytes: limits.and_then(|limits| limits.get("bytes", size)).unwrap_or(defaults::LIMIT_BYTES),
    }
}

fn shared(top: &Section<'_>) -> Shared {
    let Some(section) = top.table("shared") else { return Shared::default() };
    let dirs = section.get("dirs", list(within_release)).unwrap_or_default();
    let files = section.get("files", list(within_release)).unwrap_or_default();
    let named: Vec<(&str, &PathBuf)> = dirs.iter().map(|path| ("dirs", path)).chain(files.iter().map(|path| ("files", path))).collect();
    for (place, (key, path)) in named.iter().enumerate() {
        if let Some((_, other)) = named.iter().take(place).find(|(_, other)| path.starts_with(other) || other.starts_with(path)) {
            section.complain(
                key,
                format!("{} and {} lie within each other", other.display(), path.display()),
                "a link stands for a whole directory; name the outer one only",
            );
        }
    }
    Shared { dirs, files }
}

const BACKUPS: [(&str, Option<database::DatabaseKind>); 3] =
    [("auto", None), ("postgres", Some(database::DatabaseKind::Postgres)), ("sqlite", Some(database::DatabaseKind::Sqlite))];

fn backup(top: &Section<'_>) -> Option<database::Settings> {
    let section = top.table("backup")?;
    let kind = section.get("database", one_of(&BACKUPS)).flatten();
    let keep = section.get("keep", count(10_000)).unwrap_or(defaults::KEEP_BACKUPS);
    if !top.has("django") {
        section.complain("", "is made before a migration, and there is none without [django]", "add [django], or leave [backup] out");
    }
    Some(database::Settings { kind, keep })
}
