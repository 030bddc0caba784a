//! Derives from an app's file what its host needs: a pure list.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::Refusal;
use super::action::{Action, GroupOf, Owner};
use super::people::{AGENT, People};
use super::texts::{self, Served, Server};
use crate::python::Installer;
use crate::restart::Restart;
use crate::restart::handover::{self, Starter};
use crate::root::layout::{self, Group};
use crate::settings::App;
use crate::work::Role;

/// The host's state, as far as the list depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    /// The root, links resolved.
    pub root: PathBuf,
    pub file: PathBuf,
    /// The units of the app's file that exist.
    pub units: BTreeSet<String>,
    /// The server that a unit could start.
    pub server: Option<Server>,
    /// Files of earlier setups.
    pub written: BTreeSet<PathBuf>,
    /// Files with secrets that are missing or empty.
    pub empty: BTreeSet<PathBuf>,
    /// Shared directories that contain files of other users, each with that user.
    pub shared_with: Vec<(PathBuf, String)>,
    /// Enabled helpers that no app's file needs.
    pub idle: Vec<String>,
    pub index: Index,
    /// A polkit rule for the same purpose.
    pub polkit: Option<PathBuf>,
}

/// Whether the package index of the host has the agent's installer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Index {
    Unknown,
    /// It had none within the last day. A host without a network is set up all the same, and is not asked each time.
    HasNone,
}

/// What is to be done, and what only a person can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Drawn {
    pub actions: Vec<Action>,
    /// Sentences, each complete.
    pub notes: Vec<String>,
}

/// The job of a helper on its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verb {
    Restart,
    Reload,
    Start,
    Stop,
}

impl Verb {
    pub(super) const ALL: [Self; 4] = [Self::Restart, Self::Reload, Self::Start, Self::Stop];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

/// The socket of a helper.
pub(super) fn helper(verb: Verb, unit: &str) -> String {
    format!("release-agent-{}@{unit}.socket", verb.word())
}

/// The jobs that the agent needs on units for this app. Setup grants exactly these.
pub(super) fn grants(app: &App) -> Vec<(Verb, String)> {
    let of = |units: Vec<String>, verbs: [Verb; 2]| units.into_iter().flat_map(move |unit| verbs.map(|verb| (verb, unit.clone())));
    let mut grants: Vec<(Verb, String)> = match &app.restart {
        Restart::Systemd(settings) => of(settings.units.clone(), [Verb::Restart, Verb::Reload]).collect(),
        Restart::Handover(settings) => of(instances(settings), [Verb::Start, Verb::Stop]).collect(),
        Restart::None | Restart::UwsgiFifo(_) | Restart::Gunicorn(_) | Restart::Command(_) => Vec::new(),
    };
    for worker in &app.workers {
        match &app.restart {
            Restart::Handover(settings) if worker.is_template() => {
                grants.extend(of(in_slots(settings, &worker.unit), [Verb::Start, Verb::Stop]));
            }
            _ => grants.push((Verb::Restart, worker.unit.clone())),
        }
    }
    grants
}

/// The units of the slots.
fn instances(settings: &handover::Settings) -> Vec<String> {
    let Starter::Unit(template) = &settings.starter else { return Vec::new() };
    in_slots(settings, template)
}

fn in_slots(settings: &handover::Settings, template: &str) -> Vec<String> {
    let stem = template.trim_end_matches(".service");
    settings.slots.iter().map(|slot| format!("{stem}{slot}.service")).collect()
}

/// Every unit that the app's file names.
pub(super) fn named_units(app: &App) -> Vec<String> {
    let served = match &app.restart {
        Restart::Systemd(settings) => settings.units.clone(),
        Restart::Handover(handover::Settings { starter: Starter::Unit(template), .. }) => vec![template.clone()],
        _ => Vec::new(),
    };
    served.into_iter().chain(app.workers.iter().map(|worker| worker.unit.clone())).collect()
}

/// The directory of the handover's sockets.
pub(super) fn sockets(app: &App) -> Option<&Path> {
    match &app.restart {
        Restart::Handover(settings) => settings.socket.parent(),
        _ => None,
    }
}

const SYSTEM: &str = "/etc/systemd/system";

/// The drop-in of an app's runner.
pub(super) fn drop_in(app: &App, role: Role) -> PathBuf {
    Path::new(SYSTEM).join(format!("release-agent-{}@{}.service.d/setup.conf", role.word(), app.name))
}

/// The drop-in of the agent for an app.
pub(super) fn agent_drop_in(app: &App) -> PathBuf {
    Path::new(SYSTEM).join(format!("release-agent.service.d/app-{}.conf", app.name))
}

/// The drop-in of one of the app's own units.
pub(super) fn variables_drop_in(unit: &str) -> PathBuf {
    Path::new(SYSTEM).join(format!("{unit}.d/release-agent.conf"))
}

/// The file for tmpfiles.d.
pub(super) fn tmpfiles_line(app: &App) -> PathBuf {
    PathBuf::from(format!("/etc/tmpfiles.d/release-agent-{}.conf", app.name))
}

/// The list.
///
/// # Errors
/// [`Refusal`] when the app's file asks for something that root must not do.
pub(super) fn draw(app: &App, people: &People, host: &Host) -> Result<Drawn, Refusal> {
    let mut drawn = Drawn::default();
    users(people, host, &mut drawn);
    directories(app, people, host, &mut drawn);
    files(app, people, host, &mut drawn);
    services(app, people, host, &mut drawn)?;
    server(app, people, host, &mut drawn);
    variables(app, host, &mut drawn);
    enabling(app, people, &mut drawn);
    if let Some(python) = app.python.as_ref().filter(|python| python.installer == Installer::Auto && host.index == Index::Unknown) {
        drawn.actions.push(Action::Installer { interpreter: python.interpreter.clone() });
    }
    if app.backup.is_none() && app.django.as_ref().is_some_and(|django| django.migrate) {
        drawn.notes.push(format!("no dump will be made before migrations: add [backup] to {}", host.file.display()));
    }
    for unit in &host.idle {
        drawn.notes.push(format!(
            "{unit} lets the agent act, and no app's file asks for it any more. To take that back: systemctl disable --now {unit}"
        ));
    }
    if let Some(rule) = &host.polkit {
        drawn.notes.push(format!("{} gives the agent rights that it needs no more: remove it, unless another app does", rule.display()));
    }
    Ok(drawn)
}

fn users(people: &People, host: &Host, drawn: &mut Drawn) {
    for (person, what) in [(&people.builder, "who builds, and knows no secret"), (&people.app, "who serves, and knows the secrets")] {
        let group = if person.has_group { GroupOf::There } else { GroupOf::Made };
        drawn.actions.push(Action::User { name: person.name.clone(), home: host.root.clone(), group, what });
    }
    drawn.actions.push(Action::Member { group: people.builder.group().to_owned() });
}

fn directories(app: &App, people: &People, host: &Host, drawn: &mut Drawn) {
    let agents = Owner::new(AGENT, AGENT);
    for part in layout::parts(&host.root) {
        let group = match part.group {
            Group::Agent => AGENT,
            Group::Builder => people.builder.group(),
        };
        drawn.actions.push(Action::Directory { path: part.path, owner: Owner::new(AGENT, group), mode: part.mode });
    }
    let shared = layout::shared(&host.root);
    let theirs = Owner::new(&people.app.name, people.app.group());
    let mut between = BTreeSet::new();
    for path in app.shared.dirs.iter().chain(&app.shared.files) {
        let above: Vec<&Path> = path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).collect();
        for above in above.into_iter().rev() {
            if between.insert(above) {
                drawn.actions.push(Action::Directory { path: shared.join(above), owner: agents.clone(), mode: 0o755 });
            }
        }
    }
    for dir in &app.shared.dirs {
        drawn.actions.push(Action::Directory { path: shared.join(dir), owner: theirs.clone(), mode: 0o755 });
    }
    for file in &app.shared.files {
        let owner = Owner::new("root", people.app.group());
        let what = "shared with every release".to_owned();
        drawn.actions.push(Action::File { path: shared.join(file), owner, mode: 0o640, what });
    }
    for (dir, whose) in &host.shared_with {
        drawn.notes.push(format!(
            "some of what lies in {0} belongs to {whose}, and {1} may not be able to change it. To give it all to {1}: chown -hR {1}: {0}",
            dir.display(),
            people.app.name
        ));
    }
}

fn files(app: &App, people: &People, host: &Host, drawn: &mut Drawn) {
    for path in &app.secrets {
        let what = "secrets, which systemd reads as root and hands over".to_owned();
        drawn.actions.push(Action::File { path: path.clone(), owner: Owner::root(), mode: 0o600, what });
        if host.empty.contains(path) {
            drawn.notes.push(format!("{} holds no secret yet: write NAME=value lines into it, as root", path.display()));
        }
    }
    let what = format!("the step runners read it as {} and {}", people.builder.name, people.app.name);
    drawn.actions.push(Action::File { path: host.file.clone(), owner: Owner::root(), mode: 0o644, what });
}

fn services(app: &App, people: &People, host: &Host, drawn: &mut Drawn) -> Result<(), Refusal> {
    let sides = [
        (Role::Build, texts::builds(app, &host.root, people), "who builds, and where"),
        (Role::App, texts::serves(app, &host.root, people), "who checks and migrates, where, and with which secrets"),
    ];
    for (role, text, what) in sides {
        let path = drop_in(app, role);
        match text {
            Some(text) => drawn.actions.push(Action::Text { path, text, what: what.to_owned() }),
            None if host.written.contains(&path) => drawn.actions.push(Action::Gone { path }),
            None => {}
        }
    }
    let sockets = sockets(app);
    let text = texts::agent(app, &host.root, sockets);
    drawn.actions.push(Action::Text {
        path: agent_drop_in(app),
        text,
        what: "the agent may write there, and the service manager lets it".to_owned(),
    });
    let line = tmpfiles_line(app);
    match sockets {
        Some(path) if path == Path::new("/run") => {
            return Err(Refusal {
                what: "the socket under [restart] lies right in /run, which belongs to the system".to_owned(),
                hint: format!("give it a directory of its own: socket = \"/run/{}/web.sock\"", app.name),
            });
        }
        Some(path) if path.starts_with("/run") => {
            let text = texts::tmpfiles(&app.name, path, &people.app.name);
            let what = "the directory of sockets, made at each boot".to_owned();
            drawn.actions.push(Action::Text { path: line.clone(), text, what });
            let owner = Owner::new(&people.app.name, AGENT);
            drawn.actions.push(Action::Sockets { line, path: path.to_owned(), owner, mode: 0o775 });
        }
        other => {
            if host.written.contains(&line) {
                drawn.actions.push(Action::Gone { path: line });
            }
            if let Some(path) = other {
                drawn.notes.push(format!(
                    "sockets lie in {0}, which is not below /run: make it yourself, writable for {1} and {AGENT} (install -d -o {1} -g {AGENT} -m 2775 {0})",
                    path.display(),
                    people.app.name
                ));
            }
        }
    }
    Ok(())
}

/// Writes the unit of the app's server, if it is missing and can be guessed; notes other missing units.
fn server(app: &App, people: &People, host: &Host, drawn: &mut Drawn) {
    let mut missing: Vec<String> = named_units(app).into_iter().filter(|unit| !host.units.contains(unit)).collect();
    if let (Some(_), Restart::Handover(handover::Settings { starter: Starter::Unit(template), socket, .. })) = (&app.django, &app.restart)
        && missing.contains(template)
    {
        missing.retain(|unit| unit != template);
        match host.server {
            Some(server) => {
                let module = texts::guessed_module(app);
                let (root, user, group) = (&*host.root, &*people.app.name, people.app.group());
                let text = texts::unit(&Served { app, root, user, group, server, module: &module, socket });
                let program = match server {
                    Server::Gunicorn => "the release's own gunicorn",
                    Server::Uwsgi => "the host's uWSGI",
                };
                let path = Path::new(SYSTEM).join(template);
                drawn.notes.push(format!(
                    "{} loads {module}, which is a guess from the name of the settings module, or else of the app: change it there if the project calls \
                     it otherwise",
                    path.display()
                ));
                drawn.actions.push(Action::Unit { path, text, what: format!("{program} with {module}, in each slot") });
            }
            None => drawn.notes.push(format!(
                "the unit {template} is missing, and no server is known that it could start: set packages = [\"gunicorn\"] under [python] in {}, or \
                 apt-get install uwsgi-core uwsgi-plugin-python3; then ask for this setup again. Or write the unit yourself",
                host.file.display()
            )),
        }
    }
    for unit in missing {
        drawn.notes.push(format!("the unit {unit}, which the app's file names, is missing: write it, in {SYSTEM}"));
    }
}

/// Makes the app's units read their files of variables.
fn variables(app: &App, host: &Host, drawn: &mut Drawn) {
    let mut units = named_units(app);
    units.retain(|unit| unit.ends_with(".service"));
    units.sort();
    units.dedup();
    for unit in units {
        let text = texts::variables_drop_in(app, &host.root, &unit);
        let what = format!("{unit} has the variables of the app's file, which the agent writes down for it");
        drawn.actions.push(Action::Text { path: variables_drop_in(&unit), text, what });
    }
}

fn enabling(app: &App, people: &People, drawn: &mut Drawn) {
    let units = [Role::Build, Role::App].map(|role| format!("release-agent-{}@{}.service", role.word(), app.name));
    let units = units.into_iter().chain(["release-agent.service".to_owned()]).collect();
    drawn.actions.push(Action::ReadUnits { units });
    for (role, what) in [(Role::Build, "the agent can have releases built"), (Role::App, "the agent can have them checked and migrated")] {
        let socket = format!("release-agent-{}@{}.socket", role.word(), app.name);
        drawn.actions.push(Action::Enable { socket, what: what.to_owned() });
    }
    for (verb, unit) in grants(app) {
        let what = match verb {
            Verb::Reload => format!("the agent may reload or restart {unit}"),
            verb => format!("the agent may {} {unit}", verb.word()),
        };
        drawn.actions.push(Action::Enable { socket: helper(verb, &unit), what });
    }
    drawn.actions.push(Action::Agent { drop_in: agent_drop_in(app), group: people.builder.group().to_owned() });
}
