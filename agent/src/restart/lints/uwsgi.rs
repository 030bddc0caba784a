//! uWSGI's options, from the command line and from ini files, and what was measured of them.

use std::fs;
use std::path::{Path, PathBuf};

use agent_wire::view::{Finding, Level};

use super::{ReloadKind, Server, finding};

/// The options in their order. uWSGI takes them from every source alike.
#[derive(Debug, Default)]
pub(super) struct Options {
    list: Vec<(String, String)>,
    /// A source of options that could not be read: what it says is not known.
    unread: Option<String>,
}

/// Sources of options in other words than those of ini files.
const OTHER_SOURCES: [&str; 10] =
    ["xml", "yaml", "yml", "json", "config", "ini-paste", "ini-paste-logged", "sqlite3", "ldap", "zerg-config"];

impl Options {
    pub(super) fn of(server: &Server) -> Self {
        let mut options = Self::default();
        for (name, value) in &server.env {
            // As uWSGI does with its environment: UWSGI_LAZY_APPS is lazy-apps.
            if let Some(name) = name.strip_prefix("UWSGI_") {
                options.add(&name.to_ascii_lowercase(), value.clone(), &server.dir.clone().unwrap_or_default(), 0);
            } else if name == "PYTHONPATH" {
                value.split(':').for_each(|path| options.list.push(("pythonpath".to_owned(), path.to_owned())));
            }
        }
        let mut args = server.argv.iter().skip_while(|arg| !arg.contains("uwsgi")).skip(1).peekable();
        let dir = server.dir.clone().unwrap_or_default();
        while let Some(arg) = args.next() {
            let value_follows = args.peek().is_some_and(|next| !next.starts_with('-'));
            let mut take = |inline: Option<&str>| match inline {
                Some(value) => value.to_owned(),
                None if value_follows => args.next().cloned().unwrap_or_default(),
                None => String::new(),
            };
            if let Some(long) = arg.strip_prefix("--") {
                let (name, inline) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
                // Options without a value are followed by one only where something else begins; for those that matter here that is harmless.
                let value = if FLAGS.contains(&name) && inline.is_none() { String::new() } else { take(inline) };
                options.add(name, value, &dir, 0);
            } else if let Some(short) = arg.strip_prefix('-') {
                let (letter, rest) = short.split_at(short.chars().next().map_or(0, char::len_utf8));
                let name = match letter {
                    "l" => "listen",
                    "H" => "virtualenv",
                    "w" => "module",
                    "s" => "socket",
                    "p" => "processes",
                    _ => continue,
                };
                let value = take((!rest.is_empty()).then_some(rest));
                options.add(name, value, &dir, 0);
            } else if arg.ends_with(".ini") {
                options.add("ini", arg.clone(), &dir, 0);
            } else if [".xml", ".yaml", ".yml", ".json"].iter().any(|end| arg.ends_with(end)) {
                options.add("config", arg.clone(), &dir, 0);
            } else if let Some((name, value)) = arg.split_once('=') {
                options.add(name, value.to_owned(), &dir, 0);
            }
        }
        options
    }

    fn add(&mut self, name: &str, value: String, dir: &Path, depth: usize) {
        let name = name.replace('_', "-");
        if matches!(name.as_str(), "ini" | "include" | "inherit") && depth < 4 {
            let (file, section) = value.split_once(':').unwrap_or((&value, "uwsgi"));
            let file = dir.join(file);
            match fs::read_to_string(&file) {
                Ok(text) => self.read_ini(&text, section, &file, depth + 1),
                Err(_) => self.unread = Some(value.clone()),
            }
        } else if OTHER_SOURCES.contains(&name.as_str()) {
            self.unread = Some(value.clone());
        }
        self.list.push((name, value));
    }

    /// The lines of one section; `%d` is the file's directory, `%(name)` an option from before.
    pub(super) fn read_ini(&mut self, text: &str, wanted: &str, file: &Path, depth: usize) {
        let dir: PathBuf = file.parent().map(Path::to_owned).unwrap_or_default();
        let mut inside = false;
        for line in text.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                inside = section == wanted;
            } else if inside && !line.starts_with([';', '#']) && !line.is_empty() {
                let (name, value) = line.split_once('=').unwrap_or((line, ""));
                let mut value = value.trim().replace("%d", &format!("{}/", dir.display()));
                for (known, replacement) in self.list.clone() {
                    value = value.replace(&format!("%({known})"), &replacement);
                }
                self.add(name.trim(), value, &dir, depth);
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether an option without a value is on.
    fn on(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.get(name).is_some_and(|value| !matches!(value, "false" | "0" | "no" | "off")))
    }

    fn all(&self, names: &[&str]) -> Vec<&str> {
        self.list.iter().filter(|(known, _)| names.contains(&known.as_str())).map(|(_, value)| value.as_str()).collect()
    }
}

/// Options that take no value, as far as they matter.
const FLAGS: [&str; 12] = [
    "master",
    "lazy-apps",
    "lazy",
    "need-app",
    "die-on-term",
    "enable-threads",
    "vacuum",
    "single-interpreter",
    "thunder-lock",
    "py-call-osafterfork",
    "auto-procname",
    "strict",
];

/// Whether a path leads through the link, by its own words or by another link that leads where it does.
fn is_through(path: &str, link: &Path) -> bool {
    let (path, releases) = (Path::new(path), link.with_file_name("releases"));
    let real = |path: &Path| fs::canonicalize(path).ok();
    let leads_there = || path.is_absolute() && real(path).zip(real(link)).is_some_and(|(path, live)| path.starts_with(live));
    path.starts_with(link) || !path.starts_with(releases) && leads_there()
}

const PYTHONPATH: [&str; 3] = ["pythonpath", "python-path", "pp"];
const LAZY: [&str; 2] = ["lazy-apps", "lazy"];

/// Whether each worker loads the app by itself, and from where the link leads: what can be read of the options says so.
pub(super) fn loads_from(server: &Server, link: &Path) -> bool {
    let options = Options::of(server);
    server.runs("uwsgi") && options.on(&LAZY) && options.all(&PYTHONPATH).iter().any(|path| is_through(path, link))
}

/// What is wrong, or will be one day.
pub(super) fn lint(server: &Server, way: ReloadKind, link: &Path) -> Vec<Finding> {
    let options = Options::of(server);
    let mut found = found_in(&options, server, way, link);
    if let Some(source) = &options.unread {
        // What cannot be read may say otherwise, so no release fails by it.
        for finding in found.iter_mut().filter(|finding| finding.level == Level::Error) {
            finding.level = Level::Warning;
            finding.text = format!("{} (as far as its options can be read; {source} cannot)", finding.text);
        }
    }
    found
}

fn found_in(options: &Options, server: &Server, way: ReloadKind, link: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let releases = link.with_file_name("releases");
    let named = |path: &str, base: &Path| Path::new(path).starts_with(base);
    let chdir = options.all(&["chdir", "chdir2"]);
    let pythonpath = options.all(&PYTHONPATH);
    let lazy = options.on(&LAZY);
    let follows = |paths: &[&str]| paths.iter().any(|path| is_through(path, link));
    // Such a file may well put its own directory before others.
    let by_file = follows(&options.all(&["wsgi-file", "file"]))
        || options.all(&["mount"]).iter().any(|mount| mount.split_once('=').is_some_and(|(_, file)| is_through(file, link)));
    let if_old = if by_file { Level::Warning } else { Level::Error };

    if way == ReloadKind::Fork && !(lazy && follows(&pythonpath)) {
        let (level, text) = if lazy {
            (
                if_old,
                "a chain reload (c, w) of uWSGI forks from a master that stays in the former release: with lazy-apps and without pythonpath it runs the \
                 old code with the new environment",
            )
        } else {
            (Level::Error, "a chain reload (c, w) of uWSGI without lazy-apps forks the old app again: nothing changes, and nothing says so")
        };
        let hint = "use the graceful reload (r), or give uWSGI lazy-apps and pythonpath = <the link app>";
        found.push(finding(level, text, Some(hint)));
    } else if way == ReloadKind::Fork && follows(&chdir) {
        let text = "a chain reload (c, w) of uWSGI keeps the working directory of the release in which its master was started: the workers run the new \
                    code, and a file that it opens by a relative path is the former one's";
        found.push(finding(Level::Warning, text, Some("remove chdir from uWSGI's options, or use the graceful reload (r)")));
    }
    if way == ReloadKind::Fork && options.on(&["need-app"]) {
        let text = "with need-app, the first worker that cannot load the release takes the master down in a chain reload";
        found.push(finding(Level::Warning, text, Some("use the graceful reload (r), or remove need-app")));
    }
    if way == ReloadKind::Reload {
        let started_in_release = server.dir.as_ref().is_some_and(|dir| dir.starts_with(link) || dir.starts_with(&releases));
        if chdir.is_empty() && pythonpath.is_empty() && started_in_release {
            let text = "uWSGI was started inside the release and has no chdir: on a reload it goes back to the directory that it was started in, and runs \
                        the old code with the new environment";
            let hint = "set chdir = <the link app> in uWSGI's options; WorkingDirectory in the unit does not do it";
            found.push(finding(if_old, text, Some(hint)));
        }
        let http = options.all(&["http", "https", "http-router"]);
        if !http.is_empty() {
            let text = "uWSGI's own http router (http = …) drops connections on a reload: 15 of 100 requests failed in a measurement";
            found.push(finding(Level::Warning, text, Some("use http-socket, or socket behind nginx")));
        }
    }
    let fixed: Vec<&str> =
        options.all(&["chdir", "chdir2", "pythonpath", "python-path", "pp", "virtualenv", "venv", "home", "pyhome", "wsgi-file"]);
    if matches!(way, ReloadKind::Reload | ReloadKind::Fork | ReloadKind::Restart)
        && let Some(path) = fixed.iter().find(|path| named(path, &releases))
    {
        let text = format!("uWSGI's options name a release itself ({path}): no reload ever leaves it");
        found.push(finding(
            Level::Error,
            text,
            Some("name the link app instead, or use the strategy handover, where each release has its own process"),
        ));
    }
    if way == ReloadKind::Anew
        && let Some(path) = fixed.iter().find(|path| named(path, link))
    {
        let text =
            format!("uWSGI's options name the link ({path}): an instance of a former release that starts again would load the live one");
        found.push(finding(Level::Warning, text, Some("name the release's own directory: %i in a template unit, {dir} in a command")));
    }
    if way == ReloadKind::Anew && !options.on(&["need-app"]) {
        let text = "without need-app, a release that cannot be loaded is only noticed when its checks have failed for their whole time";
        found.push(finding(Level::Warning, text, Some("give uWSGI need-app")));
    }
    let queue = options.get("listen").and_then(|value| value.parse::<u32>().ok());
    if queue.is_none_or(|queue| queue < 512) {
        let queue = queue.map_or_else(|| "left at 100".to_owned(), |queue| queue.to_string());
        let text = format!("uWSGI's listen queue is {queue}: in a reload under load it overflows, and visitors get 502");
        found.push(finding(Level::Warning, text, Some("set listen = 1024 (net.core.somaxconn must allow it)")));
    }
    let dies = options.on(&["die-on-term"]);
    match &server.unit {
        Some(unit) if unit.kill_signal == 15 && !dies && unit.exec_stop.is_empty() => {
            let text = format!(
                "{} stops uWSGI by SIGTERM, which it takes for a reload: stopping lasts until TimeoutStopSec and ends in a kill",
                unit.name
            );
            // Only a restart stops it before another one starts.
            let level = if way == ReloadKind::Restart { Level::Error } else { Level::Warning };
            found.push(finding(level, text, Some("give uWSGI die-on-term, or the unit KillSignal=SIGQUIT")));
        }
        None if way == ReloadKind::Anew && !dies => {
            let text = "the instances are ended by SIGTERM, which uWSGI takes for a reload";
            found.push(finding(Level::Warning, text, Some("give uWSGI die-on-term")));
        }
        _ => {}
    }
    if let Some(unit) = &server.unit
        && lazy
        && unit.kind.starts_with("notify")
    {
        let text = format!("{} is Type=notify and its uWSGI has lazy-apps: it says READY before any app is loaded", unit.name);
        found.push(finding(Level::Warning, text, Some("remove lazy-apps; without it READY is true")));
    }
    found
}
