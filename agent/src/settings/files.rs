//! The files of a configuration directory: `agent.toml` and `apps/*.toml`, read together, and checked against each other.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use agent_model::names::{AppName, BadName};

use super::secrets::refuse_writable;
use super::secrets::{read_text, read_webhooks};
use super::trusted::refuse_open_directories;
use super::{App, Complaint, ExecutorKind, Settings, Stale, agent, app, defaults, reader};
use crate::restart::Restart;
use crate::restart::handover::{self, Starter};
use crate::root::closed_parts;

/// Whose agent it is, when nobody says where its configuration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// The system's: it runs as root, or as a user of its own that the system made.
    System,
    /// A person's.
    User,
}

/// A directory that the service manager made for a service (systemd.exec(5): `CONFIGURATION_DIRECTORY`, `STATE_DIRECTORY`, `RUNTIME_DIRECTORY`; of
/// several, the first). A system service that has a user of its own is found so where one of root's would be.
pub(crate) fn directory_of_service(kind: &str, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let listed = env(&format!("{kind}_DIRECTORY"))?;
    listed.split(':').next().map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The configuration directory: what is `given`, else what the service manager says, else `/etc/release-agent`, else `release-agent` in `XDG_CONFIG_HOME` or `~/.config` (XDG Base
/// Directory Specification 0.8). The environment comes in as a function. Nothing when a person's agent has no home.
pub(crate) fn directory(given: Option<&Path>, whose: Whose, env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let of_service = directory_of_service("CONFIGURATION", &env);
    match (given.map(Path::to_owned).or(of_service), whose) {
        (Some(given), _) => Some(given),
        (None, Whose::System) => Some(PathBuf::from("/etc/release-agent")),
        (None, Whose::User) => {
            let base = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
            Some(base.join("release-agent"))
        }
    }
}

/// What the files say, as far as they are right.
pub(crate) struct Loaded {
    /// Nothing where `agent.toml` itself is wrong: it says who may do what to every app.
    pub settings: Option<Settings>,
    /// What is wrong, in all files.
    pub complaints: Vec<Complaint>,
}

/// The settings that were in force, and since when those of each app were.
#[derive(Clone, Copy)]
pub(crate) struct Before<'a> {
    pub settings: &'a Settings,
    pub since: &'a BTreeMap<AppName, SystemTime>,
}

/// Reads everything in `config_dir`; every complaint of every file when there is any. A file or directory that is not there sets nothing.
#[cfg(test)]
pub(crate) fn load(config_dir: &Path) -> Result<Settings, Vec<Complaint>> {
    match load_over(config_dir, None) {
        Loaded { settings: Some(settings), complaints } if complaints.is_empty() => Ok(settings),
        Loaded { complaints, .. } => Err(complaints),
    }
}

/// Reads everything in `config_dir`. A mistake in an app's file stops that app alone: it keeps the settings from before, or has none.
pub(crate) fn load_over(config_dir: &Path, before: Option<Before<'_>>) -> Loaded {
    let mut complaints = refuse_open_directories(config_dir);
    let agent_file = config_dir.join("agent.toml");
    let agent_text = read_if_there(&agent_file).unwrap_or_else(|complaint| {
        complaints.push(*complaint);
        None
    });
    let agent = agent::parse(&agent_file, agent_text.as_deref().unwrap_or_default()).map_err(|more| complaints.extend(more)).ok();
    let is_agent_right = complaints.is_empty();

    let mut wrong = Wrong::default();
    let mut read: Vec<Read> = Vec::new();
    for file in app_files(config_dir).unwrap_or_else(|complaint| {
        complaints.push(*complaint);
        Vec::new()
    }) {
        match read_app(&file) {
            Ok(one) => read.push(one),
            Err(more) => match name_of(&file) {
                Ok(name) => wrong.note(&name, more),
                Err(_) => complaints.extend(more),
            },
        }
    }
    let executor = agent.as_ref().map_or(ExecutorKind::Direct, |agent| agent.executor);
    for one in &mut read {
        carried_out_by(&mut one.app, executor);
        let of_executor = match executor {
            ExecutorKind::Direct => one.app.read_secrets(&one.app.secrets).err().unwrap_or_default(),
            // With units the secrets are not the agent's to read.
            ExecutorKind::Units => one.fits_units(),
        };
        wrong.note(&one.app.name, of_executor);
        match read_webhooks(&one.app.webhook_files) {
            Ok(webhooks) => one.app.webhooks = webhooks,
            Err(more) => wrong.note(&one.app.name, more),
        }
    }
    let right = |read: &mut Vec<Read>, wrong: &Wrong| {
        read.retain(|one| !wrong.of_apps.contains_key(&one.app.name));
        wrong.kept(before, executor)
    };
    let mut others = right(&mut read, &wrong);
    // An app that keeps its earlier settings may quarrel with one whose new ones are right in themselves; then that one keeps its own, too.
    loop {
        let quarrels = read.iter().enumerate().map(|(place, one)| {
            let earlier = read.get(..place).unwrap_or_default().iter().map(|other| &other.app);
            (one.app.name.clone(), one.quarrels_with(earlier.chain(&others)))
        });
        let quarrels: Vec<(AppName, Vec<Complaint>)> = quarrels.filter(|(_, quarrels)| !quarrels.is_empty()).collect();
        if quarrels.is_empty() {
            break;
        }
        quarrels.into_iter().for_each(|(name, quarrels)| wrong.note(&name, quarrels));
        others = right(&mut read, &wrong);
    }
    let settings = agent.filter(|_| is_agent_right).map(|agent| {
        let key = agent.https.as_ref().and_then(|https| https.key_file(config_dir));
        let mut apps: Vec<App> = read.into_iter().map(|one| one.app).chain(others).collect();
        let hidden: Vec<PathBuf> = hidden(config_dir, apps.iter()).into_iter().chain(key).collect();
        for app in &mut apps {
            (app.hidden, app.keep_runs) = (hidden.clone(), agent.keep_runs);
            app.config = config_dir.to_owned();
        }
        let apps: BTreeMap<AppName, Arc<App>> = apps.into_iter().map(|app| (app.name.clone(), Arc::new(app))).collect();
        let broken = wrong.of_apps.iter().filter(|(name, _)| !apps.contains_key(*name));
        let broken = broken.filter_map(|(name, told)| Some((name.clone(), told.first()?.to_string()))).collect();
        Settings { agent, apps, broken }
    });
    complaints.extend(wrong.of_apps.into_values().flatten());
    Loaded { settings, complaints }
}

/// What is wrong with the files of apps.
#[derive(Default)]
struct Wrong {
    of_apps: BTreeMap<AppName, Vec<Complaint>>,
}

impl Wrong {
    fn note(&mut self, name: &AppName, complaints: Vec<Complaint>) {
        if !complaints.is_empty() {
            self.of_apps.entry(name.clone()).or_default().extend(complaints);
        }
    }

    /// The settings from before of each app whose file is wrong now.
    fn kept(&self, before: Option<Before<'_>>, executor: ExecutorKind) -> Vec<App> {
        let kept = self.of_apps.iter().filter_map(|(name, complaints)| {
            let before = before?;
            let mut app = App::clone(before.settings.apps.get(name)?);
            carried_out_by(&mut app, executor);
            let since = app.stale.as_ref().map(|stale| stale.since).or(before.since.get(name).copied());
            app.stale = Some(Stale { complaint: complaints.first()?.to_string(), since: since.unwrap_or_else(SystemTime::now) });
            Some(app)
        });
        kept.collect()
    }
}

/// What `agent.toml` alone says of who runs programs; nothing when it cannot be read.
pub(crate) fn executor(config_dir: &Path) -> Option<ExecutorKind> {
    let file = config_dir.join("agent.toml");
    let text = read_if_there(&file).ok()?;
    agent::parse(&file, text.as_deref().unwrap_or_default()).ok().map(|agent| agent.executor)
}

/// With units, instances take turns in slots where nothing else is said: then the units that the agent may start and stop have names that never change.
fn carried_out_by(app: &mut App, executor: ExecutorKind) {
    app.executor = executor;
    if let (ExecutorKind::Units, Restart::Handover(handover)) = (executor, &mut app.restart)
        && handover.slots.is_empty()
    {
        handover.slots = defaults::SLOTS.iter().filter_map(|slot| slot.parse().ok()).collect();
    }
}

/// Reads the file of one app, for a process that is concerned with nothing else.
pub(crate) fn load_app(config_dir: &Path, name: &AppName) -> Result<App, Vec<Complaint>> {
    let file = config_dir.join("apps").join(format!("{name}.toml"));
    let mut app = read_app(&file)?.app;
    carried_out_by(&mut app, ExecutorKind::Units);
    // What other apps have is hidden from whoever builds; a file of theirs that cannot be read is theirs to put right.
    let others = app_files(config_dir).unwrap_or_default().iter().filter_map(|file| read_app(file).ok()).collect::<Vec<_>>();
    (app.hidden, app.config) = (hidden(config_dir, others.iter().map(|other| &other.app)), config_dir.to_owned());
    Ok(app)
}

/// What is nobody's to read but the agent's: its configuration, the files with secrets that it names, and what the roots hold.
fn hidden<'a>(config_dir: &Path, apps: impl Iterator<Item = &'a App>) -> Vec<PathBuf> {
    let of_app = |app: &App| {
        let files = app.secrets.iter().chain(&app.git.ssh_key).chain(app.webhook_files.iter().map(|webhook| &webhook.secret_file));
        let files = files.chain(app.reports.iter().map(|report| &report.secret_file)).cloned();
        closed_parts(&app.root).chain(files).collect::<Vec<_>>()
    };
    std::iter::once(config_dir.to_owned()).chain(apps.flat_map(of_app)).collect()
}

/// An app, and the text that it was read from.
struct Read {
    app: App,
    file: PathBuf,
    text: String,
}

impl Read {
    /// What this app and one of `others` both claim.
    fn quarrels_with<'a>(&self, others: impl Iterator<Item = &'a App>) -> Vec<Complaint> {
        let mut complaints = Vec::new();
        for other in others {
            let (mine, theirs) = (&self.app.root, &other.root);
            if mine.starts_with(theirs) || theirs.starts_with(mine) {
                let says = if mine == theirs {
                    format!("{} is the root of the app {} too", mine.display(), other.name)
                } else {
                    format!("{} and {}, the root of the app {}, lie within each other", mine.display(), theirs.display(), other.name)
                };
                complaints.push(self.complain(&["root"], says, "give each app a directory of its own"));
            }
            let (Restart::Handover(mine), Restart::Handover(theirs)) = (&self.app.restart, &other.restart) else { continue };
            if mine.socket == theirs.socket {
                let says = format!("{} is the socket of the app {} too", mine.socket.display(), other.name);
                complaints.push(self.complain(&["restart", "socket"], says, "give each app a socket of its own"));
            }
            if let (Starter::Unit(unit), Starter::Unit(other_unit)) = (&mine.starter, &theirs.starter)
                && unit == other_unit
            {
                let says = format!("{unit} starts the instances of the app {} too", other.name);
                complaints.push(self.complain(&["restart", "unit"], says, "give each app a template unit of its own"));
            }
        }
        complaints
    }

    /// What cannot be done where the agent has no right over the app's processes.
    fn fits_units(&self) -> Vec<Complaint> {
        let says = |what: &str| format!("{what}, and with `executor = \"units\"` in agent.toml the agent may not");
        let by_unit = "let a unit do it: strategy = \"systemd\" with ExecReload= in the unit, or \"handover\" with a template unit";
        match &self.app.restart {
            Restart::Handover(handover::Settings { starter: Starter::Command(_), .. }) => {
                vec![self.complain(
                    &["restart", "command"],
                    says("has the agent start the server itself"),
                    "name a template unit instead: unit = \"….service\"",
                )]
            }
            Restart::UwsgiFifo(_) => vec![self.complain(&["restart", "strategy"], says("writes to a FIFO of the app's user"), by_unit)],
            Restart::Gunicorn(_) => vec![self.complain(&["restart", "strategy"], says("sends a signal to the app's processes"), by_unit)],
            Restart::Command(_) => vec![self.complain(&["restart", "strategy"], says("runs a program of the app's"), by_unit)],
            Restart::None | Restart::Systemd(_) | Restart::Handover(_) => Vec::new(),
        }
    }

    fn complain(&self, path: &[&str], says: String, hint: &str) -> Complaint {
        let complaint = Complaint { key: path.join("."), ..Complaint::of_file(&self.file, says).hint(hint) };
        match reader::find(&self.text, path) {
            Some(at) => complaint.at(&self.text, at),
            None => complaint,
        }
    }
}

/// The text of a file, or nothing when there is none.
fn read_if_there(file: &Path) -> Result<Option<String>, Box<Complaint>> {
    match fs::symlink_metadata(file) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
        _ => read_trusted(file).map(Some),
    }
}

/// What stands in these files is run, so nobody else may write in them.
fn read_trusted(file: &Path) -> Result<String, Box<Complaint>> {
    let text = read_text(file)?;
    refuse_writable(file)?;
    Ok(text)
}

/// `apps/*.toml`, by name. What begins with a dot, or ends otherwise, is some editor's or package's own.
fn app_files(config_dir: &Path) -> Result<Vec<PathBuf>, Box<Complaint>> {
    let dir = config_dir.join("apps");
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(Box::new(Complaint::of_file(&dir, format!("cannot be read: {err}")))),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|err| Box::new(Complaint::of_file(&dir, format!("cannot be read: {err}"))))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The name of the app that a file is for.
fn name_of(file: &Path) -> Result<AppName, BadName> {
    file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default().parse()
}

/// Endings by which people, editors and packages say that a file is put aside.
const ASIDE: [&str; 14] =
    ["bak", "backup", "orig", "old", "off", "disabled", "example", "sample", "swp", "tmp", "rpmnew", "rpmsave", "md", "inactive"];

/// Files in `apps/` that are read by nobody, and do not look as if that were meant: `x.tml`.
pub(crate) fn unread_files(config_dir: &Path) -> Vec<PathBuf> {
    let is_aside = |name: &str| {
        let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
        name.starts_with('.') || name.ends_with('~') || ending.starts_with("dpkg-") || ending == "toml" || ASIDE.contains(&ending)
    };
    let entries = fs::read_dir(config_dir.join("apps")).into_iter().flatten().flatten();
    let mut unread: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()) && !is_aside(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    unread.sort();
    unread
}

fn read_app(file: &Path) -> Result<Read, Vec<Complaint>> {
    let name = name_of(file).map_err(|err| {
        let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let better: String = stem.to_lowercase().chars().map(|char| if matches!(char, '_' | ' ' | '.') { '-' } else { char }).collect();
        let complaint = Complaint::of_file(file, format!("the file is named like its app, and {err}"));
        vec![match better.parse::<AppName>() {
            Ok(better) => complaint.hint(format!("rename it to {better}.toml")),
            Err(_) => complaint,
        }]
    })?;
    let text = read_trusted(file).map_err(|complaint| vec![*complaint])?;
    let app = app::parse(&name, file, &text)?;
    Ok(Read { app, file: file.to_owned(), text })
}
