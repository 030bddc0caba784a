//! The host: reads its state, checks whether an action is needed, and carries it out.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::action::{Action, GroupOf, Owner};
use super::draw::{self, Index, Verb};
use super::people::{self, AGENT, Chosen, People};
use super::places::{self, PlaceKind, Seen};
use super::texts::{self, Server};
use super::{Refusal, SetupError, SetupRequest};
use crate::process::{Cancel, Program, Watch};
use crate::python;
use crate::root::layout::{self, Group};
use crate::settings::{App, Settings};
use crate::work::Role;

/// The directories of units, in systemd's search order.
const UNIT_DIRS: [&str; 5] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
/// How long a program may take. The agent finishes its runs before it restarts.
const LONG: Duration = Duration::from_secs(45 * 60);
/// Files that declare a project's requirements.
const REQUIREMENTS: [&str; 6] = ["requirements.txt", "pyproject.toml", "uv.lock", "poetry.lock", "Pipfile", "Pipfile.lock"];

/// Whether an action's result is already there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    So,
    /// The text describes the current state, where that helps.
    Not(Option<String>),
}

/// The root with its links resolved, as far as it exists.
pub(super) fn real_root(root: &Path) -> Result<PathBuf, SetupError> {
    places::only_root_above(root)?;
    let mut rest = Vec::new();
    for above in root.ancestors() {
        match above.canonicalize() {
            Ok(real) => {
                let real: PathBuf = std::iter::once(real).chain(rest.into_iter().rev()).collect();
                places::only_root_above(&real)?;
                return Ok(real);
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => rest.extend(above.file_name().map(PathBuf::from)),
            Err(source) => return Err(places::PlaceError::Io { act: "resolve", path: above.to_owned(), source }.into()),
        }
    }
    Ok(root.to_owned())
}

/// The users that build and serve: from the request, else from an earlier setup, else by the app's name.
pub(super) fn people(app: &App, request: &SetupRequest) -> Result<People, SetupError> {
    let earlier = |role| -> Result<Option<String>, SetupError> {
        let drop_in = places::read(&draw::drop_in(app, role))?;
        Ok(drop_in.as_deref().and_then(texts::user_in).map(str::to_owned))
    };
    let choose = |said: &Option<String>, earlier: Option<String>, usual: String| match said.clone().or(earlier) {
        Some(name) => (name, Chosen::Said),
        None => (usual, Chosen::ByApp),
    };
    let (user, app_chosen) = choose(&request.user, earlier(Role::App)?, app.name.to_string());
    let (builder, builder_chosen) = choose(&request.build_user, earlier(Role::Build)?, format!("{}-build", app.name));
    let agent = people::known(AGENT).ok_or_else(|| Refusal {
        what: format!("there is no user {AGENT}"),
        hint: "install the package, or run systemd-sysusers with systemd/sysusers.d/release-agent.conf".to_owned(),
    })?;
    let with_agent = people::person(AGENT).companions;
    Ok(People { app: people::person(&user), app_chosen, builder: people::person(&builder), builder_chosen, agent, with_agent })
}

/// The facts that the list depends on.
pub(super) fn facts(settings: &Settings, app: &App, people: &People, root: PathBuf, file: PathBuf) -> Result<draw::Host, SetupError> {
    let units = draw::named_units(app).into_iter().filter(|unit| has_unit(unit)).collect();
    let written = [draw::drop_in(app, Role::Build), draw::drop_in(app, Role::App), draw::tmpfiles_line(app)];
    let mut there = BTreeSet::new();
    for path in written {
        if places::read(&path)?.is_some_and(|text| texts::is_ours(&text)) {
            there.insert(path);
        }
    }
    let is_empty = |path: &&PathBuf| fs::metadata(path).map_or(true, |meta| meta.len() == 0);
    let empty = app.secrets.iter().filter(is_empty).cloned().collect();
    let polkit = PathBuf::from(format!("/etc/polkit-1/rules.d/60-release-agent-{}.rules", app.name));
    Ok(draw::Host {
        server: server(app, &root),
        shared_with: shared_with(app, people, &root),
        units,
        written: there,
        empty,
        idle: idle(settings),
        index: if python::installer_was_refused(&python::shared_place()) { Index::HasNone } else { Index::Unknown },
        polkit: polkit.exists().then_some(polkit),
        root,
        file,
    })
}

/// Prerequisites that setup does not install.
pub(super) fn ready(app: &App) -> Result<(), Refusal> {
    if !Path::new("/run/systemd/system").is_dir() {
        return Err(Refusal {
            what: "systemd does not run here, and step runners are its units".to_owned(),
            hint: "set executor = \"direct\" in agent.toml, where the agent runs everything itself".to_owned(),
        });
    }
    let runners = [Role::Build, Role::App].map(|role| format!("release-agent-{}@.socket", role.word()));
    let helpers = draw::grants(app).into_iter().map(|(verb, _)| draw::helper(verb, ""));
    let needed = runners.into_iter().chain(helpers).chain(["release-agent.service".to_owned()]);
    match needed.into_iter().find(|unit| !has_unit(unit)) {
        Some(unit) => Err(Refusal {
            what: format!("the unit {unit} is not installed"),
            hint: "install the package, or copy systemd/system to /usr/local/lib/systemd/system".to_owned(),
        }),
        None => Ok(()),
    }
}

/// Files in the root that belong to another user: the agent could neither change nor vouch for them.
pub(super) fn strangers(people: &People, root: &Path) -> Result<(), Refusal> {
    let builder = people.builder.known.as_ref().map(|known| known.uid);
    let mut found: Vec<(PathBuf, u32)> = Vec::new();
    for part in layout::parts(root).iter().skip(1).filter(|part| part.path != layout::shared(root)) {
        let allowed = |uid: u32| uid == people.agent.uid || part.group == Group::Builder && Some(uid) == builder;
        for entry in fs::read_dir(&part.path).into_iter().flatten().flatten() {
            found.extend(stranger(&entry.path(), &allowed).map(|uid| (entry.path(), uid)));
        }
    }
    let Some((first, uid)) = found.first() else { return Ok(()) };
    let more = if found.len() > 1 { format!(", and there are {} more such", found.len() - 1) } else { String::new() };
    Err(Refusal {
        what: format!(
            "{} belongs to {}, or something in it does{more}; the agent could neither change nor remove it",
            first.display(),
            people::user_of(*uid)
        ),
        hint: format!(
            "move out of {} what the agent did not make; give it what it did make: chown -hR {AGENT}: {}",
            first.parent().unwrap_or(root).display(),
            first.display()
        ),
    })
}

/// The owner of the first file whose owner is not allowed.
fn stranger(path: &Path, allowed: &dyn Fn(u32) -> bool) -> Option<u32> {
    let meta = fs::symlink_metadata(path).ok()?;
    if !allowed(meta.uid()) {
        return Some(meta.uid());
    }
    if !meta.is_dir() {
        return None;
    }
    fs::read_dir(path).into_iter().flatten().flatten().find_map(|entry| stranger(&entry.path(), allowed))
}

fn shared_with(app: &App, people: &People, root: &Path) -> Vec<(PathBuf, String)> {
    let owner = people.app.known.as_ref().map(|known| known.uid);
    let theirs = |dir: PathBuf| {
        let mut entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        let uid = entries.find_map(|entry| stranger(&entry.path(), &|uid| Some(uid) == owner))?;
        Some((dir, people::user_of(uid)))
    };
    app.shared.dirs.iter().filter_map(|dir| theirs(layout::shared(root).join(dir))).collect()
}

/// Whether systemd knows a unit, or its template.
fn has_unit(unit: &str) -> bool {
    let template = unit.split_once('@').zip(unit.rsplit_once('.')).map(|((stem, _), (_, suffix))| format!("{stem}@.{suffix}"));
    let names = std::iter::once(unit.to_owned()).chain(template);
    names.into_iter().any(|name| UNIT_DIRS.iter().any(|dir| Path::new(dir).join(&name).symlink_metadata().is_ok()))
}

/// The server that a unit could start: the one that the app's file or its live release requires, else one on the host.
fn server(app: &App, root: &Path) -> Option<Server> {
    let python = app.python.as_ref()?;
    let is_gunicorn =
        |word: &str| word.trim().to_ascii_lowercase().strip_prefix("gunicorn").is_some_and(|rest| !rest.starts_with(char::is_alphanumeric));
    let live = root.join("app");
    let named = python.requirements.iter().cloned().chain(REQUIREMENTS.map(PathBuf::from));
    let asks = |file: PathBuf| {
        let path = live.join(file);
        // A pipe would never be read to its end.
        let is_file = fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() < 16 * 1024 * 1024);
        let text = if is_file { fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        text.split(|char: char| char.is_whitespace() || "\"'=<>~!,;[]()".contains(char)).any(is_gunicorn)
    };
    if python.packages.iter().any(|package| is_gunicorn(package)) || named.into_iter().any(asks) {
        return Some(Server::Gunicorn);
    }
    let uwsgi = ["/usr/bin/uwsgi", "/usr/lib/uwsgi/plugins/python3_plugin.so"];
    uwsgi.iter().all(|file| Path::new(file).exists()).then_some(Server::Uwsgi)
}

/// Enabled helpers that no app needs.
fn idle(settings: &Settings) -> Vec<String> {
    let asked: BTreeSet<String> =
        settings.apps.values().flat_map(|app| draw::grants(app)).map(|(verb, unit)| draw::helper(verb, &unit)).collect();
    let enabled = fs::read_dir("/etc/systemd/system/sockets.target.wants").into_iter().flatten().flatten();
    let names = enabled.filter_map(|entry| entry.file_name().into_string().ok());
    let is_helper = |name: &String| Verb::ALL.iter().any(|verb| name.starts_with(&format!("release-agent-{}@", verb.word())));
    let mut idle: Vec<String> = names.filter(is_helper).filter(|name| !asked.contains(name)).collect();
    idle.sort();
    idle
}

fn numbers(owner: &Owner) -> Option<(u32, u32)> {
    let user = nix::unistd::User::from_name(&owner.user).ok().flatten()?;
    let group = nix::unistd::Group::from_name(&owner.group).ok().flatten()?;
    Some((user.uid.as_raw(), group.gid.as_raw()))
}

fn placed(path: &Path, kind: PlaceKind, owner: &Owner, mode: u32) -> Result<State, SetupError> {
    let Some(seen) = places::look(path, kind)? else { return Ok(State::Not(None)) };
    if numbers(owner) == Some((seen.uid, seen.gid)) && seen.mode == mode {
        return Ok(State::So);
    }
    let told = format!("is {}:{} {:04o}", people::user_of(seen.uid), people::group_of(seen.gid), seen.mode);
    Ok(State::Not(Some(told)))
}

fn is_so(so: bool) -> State {
    if so { State::So } else { State::Not(None) }
}

/// Whether an action's result is already there.
pub(super) fn look(action: &Action) -> Result<State, SetupError> {
    Ok(match action {
        Action::User { name, .. } => is_so(people::known(name).is_some()),
        Action::Member { group } => is_so(people::is_in(AGENT, group)),
        Action::Directory { path, owner, mode } => placed(path, PlaceKind::Directory, owner, *mode)?,
        Action::File { path, owner, mode, .. } => {
            if owner.user == "root" && owner.group == "root" {
                places::only_root_above(path)?;
            }
            placed(path, PlaceKind::File, owner, *mode)?
        }
        Action::Text { path, text, .. } => match places::read(path)? {
            Some(there) if !texts::is_ours(&there) => {
                return Err(Refusal {
                    what: format!("{} is there, and no setup has written it", path.display()),
                    hint: "move it away, or give it another name, which counts as well".to_owned(),
                }
                .into());
            }
            Some(there) if there == *text => placed(path, PlaceKind::File, &Owner::root(), 0o644)?,
            Some(_) => State::Not(Some("says something else".to_owned())),
            None => State::Not(None),
        },
        Action::Unit { path, .. } => is_so(places::look(path, PlaceKind::File)?.is_some()),
        Action::Gone { path } => is_so(places::look(path, PlaceKind::File)?.is_none()),
        Action::Sockets { path, owner, mode, .. } => {
            places::only_root_above(path)?;
            let state = placed(path, PlaceKind::Directory, owner, *mode)?;
            let seen = places::look(path, PlaceKind::Directory)?;
            if let (State::Not(_), Some(seen)) = (&state, seen) {
                may_be_taken(path, owner, seen)?;
            }
            state
        }
        Action::ReadUnits { units } => {
            let mut so = true;
            for unit in units {
                so &= property(unit, "NeedDaemonReload")? != "yes";
            }
            is_so(so)
        }
        Action::Enable { socket, .. } => is_so(says(&["is-enabled", socket]) && says(&["is-active", socket])),
        Action::Installer { .. } => is_so(python::shared_installer().is_some()),
        Action::Agent { drop_in, group } => agent(drop_in, group)?,
    })
}

/// Refuses to take a directory of sockets from another user.
fn may_be_taken(path: &Path, owner: &Owner, seen: Seen) -> Result<(), Refusal> {
    let theirs = [owner.user.as_str(), AGENT].contains(&people::user_of(seen.uid).as_str());
    let empty = || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if theirs || seen.uid == 0 && empty() {
        return Ok(());
    }
    Err(Refusal {
        what: format!("{} is there, belongs to {}, and has something in it", path.display(), people::user_of(seen.uid)),
        hint: "give the app's socket a directory of its own: socket = under [restart]".to_owned(),
    })
}

/// Whether the agent runs with its groups and paths.
fn agent(drop_in: &Path, group: &str) -> Result<State, SetupError> {
    let unit = "release-agent.service";
    if property(unit, "ActiveState")? != "active" {
        return Ok(State::Not(Some("it does not run, and is started".to_owned())));
    }
    let main: u32 = property(unit, "MainPID")?.parse().unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{main}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    let gid = nix::unistd::Group::from_name(group).ok().flatten().map(|group| group.gid.as_raw().to_string());
    let has_group = gid.is_some_and(|gid| groups.split_whitespace().any(|one| one == gid));
    if has_group && !changed_since_start(drop_in)? { Ok(State::So) } else { Ok(State::Not(Some(RESTART.to_owned()))) }
}

/// The effect of a restart of the agent on others.
pub(super) const RESTART: &str = "it is restarted; runs under way are finished first";

/// Whether a file is newer than the agent's process.
fn changed_since_start(path: &Path) -> Result<bool, SetupError> {
    let Ok(written) = fs::metadata(path).and_then(|meta| meta.modified()) else { return Ok(false) };
    let micros: u64 = property("release-agent.service", "ActiveEnterTimestampMonotonic")?.parse().unwrap_or_default();
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime: f64 = uptime.split_whitespace().next().and_then(|seconds| seconds.parse().ok()).unwrap_or_default();
    let running = (Duration::from_secs_f64(uptime.max(0.0))).saturating_sub(Duration::from_micros(micros));
    // A file with a future time counts as new.
    Ok(SystemTime::now().duration_since(written).map_or(true, |age| age < running))
}

pub(super) fn carry_out(action: &Action) -> Result<(), SetupError> {
    match action {
        Action::User { name, home, group, .. } => {
            let own_group: &[&str] = match group {
                GroupOf::Made => &["--user-group"],
                GroupOf::There => &["--gid", name],
            };
            let program = Program::new("useradd").args(["--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "--home-dir"]);
            run(program.arg(home).args(own_group).args(["--", name]))
        }
        Action::Member { group } => run(Program::new("usermod").args(["--append", "--groups", group, AGENT])),
        Action::Directory { path, owner, mode } => make(path, PlaceKind::Directory, owner, *mode),
        Action::File { path, owner, mode, .. } => make(path, PlaceKind::File, owner, *mode),
        Action::Text { path, text, .. } | Action::Unit { path, text, .. } => Ok(places::write(path, text)?),
        Action::Gone { path } => Ok(places::remove(path)?),
        Action::Sockets { line, .. } => run(Program::new("systemd-tmpfiles").arg("--create").arg(line)),
        Action::ReadUnits { .. } => run(systemctl(&["daemon-reload"])),
        Action::Enable { socket, .. } => run(systemctl(&["enable", "--now", "--", socket])),
        Action::Installer { interpreter } => Ok(watched(|watch| python::fetch_shared_installer(interpreter, watch)).map(drop)?),
        Action::Agent { drop_in, group } => match agent(drop_in, group)? {
            State::So => run(systemctl(&["reload", "release-agent.service"])),
            State::Not(_) => {
                // systemd would not start a unit that failed too often. There may be nothing to reset.
                let _ = run(systemctl(&["reset-failed", "release-agent.service"]));
                run(systemctl(&["restart", "release-agent.service"]))
            }
        },
    }
}

fn make(path: &Path, kind: PlaceKind, owner: &Owner, mode: u32) -> Result<(), SetupError> {
    let (uid, gid) = numbers(owner).ok_or_else(|| Refusal {
        what: format!("there is no user {} with the group {}", owner.user, owner.group),
        hint: "getent passwd and getent group say what the host knows".to_owned(),
    })?;
    Ok(places::make(path, kind, Seen { uid, gid, mode })?)
}

fn systemctl(args: &[&str]) -> Program {
    Program::new("systemctl").arg("--no-ask-password").args(args)
}

/// Replaces the caller's PATH: a shell from `su` has no directories for root in it.
fn prepared(program: Program) -> Program {
    program.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

fn watched<T>(use_it: impl FnOnce(&Watch<'_>) -> T) -> T {
    let cancel = Cancel::default();
    use_it(&Watch { marker: "setup", deadline: Instant::now() + LONG, cancel: &cancel, lines: &|_, _| {} })
}

fn run(program: Program) -> Result<(), SetupError> {
    Ok(watched(|watch| prepared(program).run(watch))?)
}

/// Whether systemctl answers yes by its exit code.
fn says(args: &[&str]) -> bool {
    watched(|watch| prepared(systemctl(args)).run(watch)).is_ok()
}

fn property(unit: &str, name: &str) -> Result<String, SetupError> {
    let program = systemctl(&["show", "--value", "--property", name, "--", unit]);
    Ok(watched(|watch| prepared(program).capture(watch))?.text().trim().to_owned())
}
