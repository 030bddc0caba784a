//! The texts of setup's files: drop-ins, a line for tmpfiles.d, and a unit for the app's server, made from the shipped examples.

use std::path::Path;

use agent_model::names::AppName;

use super::people::{AGENT, People};
use crate::restart::LIVE;
use crate::root::{AppRoot, layout};
use crate::settings::App;

/// The beginning of each of setup's files. Setup changes no other files.
const MARK: &str = "# Written by agentctl setup app ";

const GUNICORN: &str = include_str!("../../../systemd/examples/shop-gunicorn@.service");
const UWSGI: &str = include_str!("../../../systemd/examples/shop@.service");

/// Whether setup wrote the text.
pub(super) fn is_ours(text: &str) -> bool {
    text.starts_with(MARK)
}

fn begun(app: &AppName) -> String {
    format!("{MARK}{app}, which writes it anew each time.\n")
}

/// The user that a drop-in of an earlier setup names.
pub(super) fn user_in(drop_in: &str) -> Option<&str> {
    let user = drop_in.lines().find_map(|line| line.strip_prefix("User="));
    user.filter(|_| is_ours(drop_in))
}

/// The drop-in of the runner that builds, where its template does not suffice.
pub(super) fn builds(app: &App, root: &Path, people: &People) -> Option<String> {
    let mut text = String::new();
    if people.builder.name != format!("{}-build", app.name) {
        text.push_str(&format!("User={}\n", people.builder.name));
    }
    if root != usual_root(&app.name) {
        let closed = layout::kept(root).into_iter().chain([layout::shared(root)]);
        let closed = std::iter::once("/var/lib/release-agent".into()).chain(closed);
        let open = layout::parts(root).into_iter().filter(|part| part.group == layout::Group::Builder).map(|part| part.path);
        text.push_str(&paths("ReadWritePaths", open));
        text.push_str(&paths("InaccessiblePaths", closed));
    }
    (!text.is_empty()).then(|| format!("{}[Service]\n{text}", begun(&app.name)))
}

/// The drop-in of the runner with the app's own user, likewise.
pub(super) fn serves(app: &App, root: &Path, people: &People) -> Option<String> {
    let mut text = String::new();
    if people.app.name != app.name.as_str() {
        text.push_str(&format!("User={}\n", people.app.name));
    }
    if root != usual_root(&app.name) {
        let open = [layout::shared(root), Path::new("/run").join(app.name.as_str())];
        let closed = std::iter::once("/var/lib/release-agent".into()).chain(layout::kept(root));
        text.push_str(&paths("ReadWritePaths", open));
        text.push_str(&paths("InaccessiblePaths", closed));
    }
    for (at, path) in app.secrets.iter().enumerate() {
        text.push_str(&format!("LoadCredential=secrets-{at}:{}\n", specified(&path.to_string_lossy())));
    }
    (!text.is_empty()).then(|| format!("{}[Service]\n{text}", begun(&app.name)))
}

/// The drop-in of the agent itself.
pub(super) fn agent(app: &App, root: &Path, sockets: Option<&Path>) -> String {
    let places = std::iter::once(root).chain(sockets);
    // The hyphen lets the agent start even if one app's root is gone.
    let lines: String = places.map(|path| format!("ReadWritePaths={}\n", word(&format!("-{}", path.display())))).collect();
    format!("{}[Service]\n{lines}", begun(&app.name))
}

/// The line for tmpfiles.d: the directory where servers bind their sockets, and where the agent puts the name that nginx connects to.
pub(super) fn tmpfiles(app: &AppName, sockets: &Path, user: &str) -> String {
    format!("{}d {} 0775 {user} {AGENT} -\n", begun(app), word(&sockets.display().to_string()))
}

/// Which server a unit starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Server {
    /// The gunicorn of the release's own environment.
    Gunicorn,
    /// The uWSGI of the host.
    Uwsgi,
}

/// The parameters of a template unit for the app's server.
pub(super) struct Served<'a> {
    pub app: &'a App,
    pub root: &'a Path,
    pub user: &'a str,
    pub group: &'a str,
    pub server: Server,
    /// `shop.wsgi:application`
    pub module: &'a str,
    pub socket: &'a Path,
}

/// The unit, made from the example: the same lines, with the app's own names.
pub(super) fn unit(served: &Served<'_>) -> String {
    let Served { app, root, user, group, server, module, socket } = served;
    let example = match server {
        Server::Gunicorn => GUNICORN,
        Server::Uwsgi => UWSGI,
    };
    let mut text = format!(
        "# Begun by agentctl setup app {0}, and never changed by it again: what the app needs beyond this is yours to say here.\n",
        app.name
    );
    let from_unit = example.lines().skip_while(|line| !line.starts_with("[Unit]"));
    for line in from_unit {
        let line = match line.split_once('=') {
            Some(("Description", _)) => format!("Description={}, %i", app.name),
            Some(("User", _)) => format!("User={user}"),
            Some(("Group", _)) => format!("Group={group}"),
            // The first of them stands for all.
            Some(("EnvironmentFile", file)) if !file.starts_with('-') => continue,
            Some(("EnvironmentFile", _)) => {
                text.push_str(&variables(app, root, "%i"));
                continue;
            }
            Some(("ReadWritePaths", _)) => {
                let sockets = socket.parent().unwrap_or(Path::new("/run"));
                let places = [layout::shared(root).display().to_string(), sockets.display().to_string()];
                format!("ReadWritePaths={}", places.map(|path| word(&path)).join(" "))
            }
            _ => line
                .replace("/var/shop/slots", &word(&root.join("slots").to_string_lossy()))
                .replace("/run/shop/web.sock", &word(&socket.to_string_lossy()))
                .replace("shop.wsgi", module),
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// The files of a unit's variables. `called` is the agent's name for the unit's own file.
fn variables(app: &App, root: &Path, called: &str) -> String {
    let file = AppRoot::at(root).variables();
    // The agent writes it before it starts the unit; until then it does not exist.
    let plain = format!("EnvironmentFile=-{}/{called}\n", specified(&file.to_string_lossy()));
    let secret = app.secrets.iter().map(|path| format!("EnvironmentFile={}\n", specified(&path.to_string_lossy())));
    // Later files override earlier ones, and secrets override public values, as for the agent's own programs.
    std::iter::once(plain).chain(secret).collect()
}

/// The drop-in of a unit that serves or works: it gives the unit `[env]`, `[django] settings` and `[secrets]` of the app's file, like the agent's own
/// programs.
pub(super) fn variables_drop_in(app: &App, root: &Path, unit: &str) -> String {
    let called = if unit.contains("@.") { "%i" } else { LIVE };
    format!("{}[Service]\n{}", begun(&app.name), variables(app, root, called))
}

fn usual_root(app: &AppName) -> std::path::PathBuf {
    Path::new("/var").join(app.as_str())
}

/// A systemd list that starts empty, so that it drops the template's other paths.
fn paths(key: &str, paths: impl IntoIterator<Item = std::path::PathBuf>) -> String {
    let words: Vec<String> = paths.into_iter().map(|path| word(&format!("-{}", path.display()))).collect();
    format!("{key}=\n{key}={}\n", words.join(" "))
}

/// A text in which systemd replaces nothing (systemd.unit(5), "Specifiers").
fn specified(text: &str) -> String {
    text.replace('%', "%%")
}

/// A word as systemd reads it (systemd.syntax(7), "Quoting").
fn word(text: &str) -> String {
    let text = specified(text);
    let plain = |char: char| !char.is_whitespace() && !char.is_control() && !"\"'\\;#".contains(char);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            '"' | '\\' => quoted.extend(['\\', char]),
            _ => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

/// The module that a WSGI server loads, guessed from the settings' module: `shop.settings.production` lies in the package `shop`.
pub(super) fn guessed_module(app: &App) -> String {
    let said = app.django.as_ref().and_then(|django| django.settings.clone());
    let in_env = || app.env.iter().find(|(name, _)| name == "DJANGO_SETTINGS_MODULE").map(|(_, value)| value.clone());
    let settings = said.or_else(in_env);
    let package = settings.as_deref().and_then(|settings| settings.split('.').next()).filter(|package| *package != "settings");
    let package = package.map_or_else(|| app.name.as_str().replace('-', "_"), str::to_owned);
    format!("{package}.wsgi:application")
}
