//! gunicorn's command line and configuration file, and their measured effects.

use std::fs;
use std::path::{Path, PathBuf};

use agent_wire::view::{Finding, Level};

use super::finding;
use crate::restart::server::{ReloadKind, Server};

/// The app's directories, as gunicorn sees them.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub link: &'a Path,
    /// The release to be served.
    pub dir: &'a Path,
}

impl Place<'_> {
    /// Whether a server that was started as `program` finds the modules of this release's environment.
    fn has_environment(&self, program: &Path) -> bool {
        let real = |path: &Path| fs::canonicalize(path).ok();
        let of_program = program.parent().and_then(Path::parent).and_then(real);
        of_program.is_some_and(|environment| Some(environment) == real(&self.dir.join("venv")))
    }
}

/// The interpreter that a script's first line names.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let text = fs::read(script).ok()?;
    let line = text.split(|byte| *byte == b'\n').next()?;
    Some(PathBuf::from(String::from_utf8_lossy(line.strip_prefix(b"#!")?).trim()))
}

/// gunicorn's settings: from its command line, from GUNICORN_CMD_ARGS, and from its configuration file.
struct Configuration {
    words: Vec<String>,
    file: PathBuf,
    text: String,
}

impl Configuration {
    fn of(server: &Server, way: ReloadKind, place: Place<'_>) -> Self {
        let by_env = server.env.iter().find(|(name, _)| name == "GUNICORN_CMD_ARGS").and_then(|(_, value)| shlex::split(value));
        let words: Vec<String> = server.argv.iter().cloned().chain(by_env.unwrap_or_default()).collect();
        let follows = |word: &str| matches!(word, "-c" | "--config");
        let named = words.iter().find_map(|word| word.strip_prefix("--config=").map(str::to_owned));
        let named = named.or_else(|| words.windows(2).find(|pair| follows(&pair[0])).map(|pair| pair[1].clone()));
        let named = named.map(|file| file.replace("{dir}", &place.dir.to_string_lossy()));
        let file = Path::new(named.as_deref().unwrap_or("gunicorn.conf.py"));
        // A file that is named through the link, or relative to a release, is judged as the next release has it.
        let releases = place.link.with_file_name("releases");
        let started_in =
            server.dir.as_deref().filter(|dir| way != ReloadKind::Anew && !dir.starts_with(place.link) && !dir.starts_with(releases));
        let file = match file.strip_prefix(place.link) {
            Ok(within) => place.dir.join(within),
            Err(_) => started_in.unwrap_or(place.dir).join(file),
        };
        // A file that cannot be read is not judged.
        let text = fs::read_to_string(&file).unwrap_or_default();
        Self { words, file, text }
    }

    /// The place where a setting is on, if it is: one of these options, or an assignment that depends on nothing.
    fn on(&self, options: &[&str], setting: &str) -> Option<String> {
        let is_set = |word: &&String| {
            options.iter().any(|option| word == option || word.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')))
        };
        let value = |line: &str| {
            let (name, value) = line.split('#').next()?.split_once('=')?;
            (name.trim_end() == setting).then(|| value.trim().to_owned())
        };
        let assigned = self.text.lines().filter_map(value).next_back();
        let by_file = || (assigned.as_deref() == Some("True")).then(|| format!("{setting} = True in {}", self.file.display()));
        self.words.iter().find(is_set).cloned().or_else(by_file)
    }
}

/// The settings that are wrong now, or will be one day.
pub(super) fn lint(server: &Server, way: ReloadKind, place: Place<'_>) -> Vec<Finding> {
    let Place { link, dir } = place;
    let mut found = Vec::new();
    let configuration = Configuration::of(server, way, place);
    let as_module = server.argv.windows(2).any(|pair| pair[0] == "-m" && pair[1].starts_with("gunicorn"));
    let script = server.argv.iter().take(2).find(|arg| arg.ends_with("/gunicorn"));
    let reloads = matches!(way, ReloadKind::Reload | ReloadKind::Second);
    if reloads
        && let Some(script) = script
        && let Ok(within) = Path::new(script).strip_prefix(link)
    {
        let running = server.program.as_ref().map(PathBuf::from).filter(|program| !program.ends_with("gunicorn"));
        let started_as = || server.argv.first().map(PathBuf::from).filter(|program| !program.ends_with("gunicorn"));
        let program = running.or_else(started_as).or_else(|| interpreter(&dir.join(within)));
        let hint = "start it as <the link app>/venv/bin/python -m gunicorn, or use the strategy handover";
        let text =
            format!("gunicorn runs as the script {script}: its first line names the environment of the release in which it was started");
        match program {
            Some(program) if program.starts_with(link) => {}
            Some(program) if place.has_environment(&program) => {
                let text = format!("{text}, so that a release with another environment will not be served");
                found.push(finding(Level::Warning, text, Some(hint)));
            }
            _ => {
                let text = format!("{text}, so that after a reload the new code runs with the old environment");
                found.push(finding(Level::Error, text, Some(hint)));
            }
        }
    }
    if way == ReloadKind::Second && as_module {
        let text = "gunicorn was started by python -m gunicorn: on USR2 it executes its __main__.py, and then its own package http hides Python's, so that \
                    the new master cannot load an app that imports http, as Django does";
        found.push(finding(Level::Warning, text, Some("set signal = \"HUP\" under [restart]")));
    }
    if way == ReloadKind::Reload
        && let Some(preload) = configuration.on(&["--preload", "--preload-app"], "preload_app")
    {
        let text = format!("gunicorn with {preload} forks the old app again on HUP: nothing changes, and nothing says so");
        found.push(finding(Level::Error, text, Some("remove it, or use the strategy handover")));
    }
    let is_supervised = server.unit.as_ref().map_or(way == ReloadKind::Anew, |unit| unit.kind != "forking");
    if is_supervised && let Some(daemon) = configuration.on(&["--daemon", "-D"], "daemon") {
        let text =
            format!("gunicorn with {daemon} ends as soon as it is started, and another process goes on, which nobody watches or stops");
        found.push(finding(Level::Error, text, Some("remove it: what starts gunicorn keeps it in the background by itself")));
    }
    if way == ReloadKind::Second
        && let Some(unit) = &server.unit
        && unit.kind != "forking"
    {
        let text = format!(
            "{} ends with its first process (Type={}): when USR2 has brought a second master and the first goes, systemd stops both",
            unit.name, unit.kind
        );
        found.push(finding(Level::Error, text, Some("set signal = \"HUP\" under [restart]")));
    }
    if way == ReloadKind::Anew && server.argv.iter().any(|arg| Path::new(arg).starts_with(link)) {
        let text =
            "the command line of an instance names the link: an instance of a former release that starts again would load the live one";
        found.push(finding(Level::Warning, text, Some("name the release's own directory: %i in a template unit, {dir} in a command")));
    }
    found
}
