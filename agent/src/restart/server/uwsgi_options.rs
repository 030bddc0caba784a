//! uWSGI's options, from the environment, the command line and ini files.

use std::fs;
use std::path::{Path, PathBuf};

use super::Server;

/// The options in their order. uWSGI treats all sources alike.
#[derive(Debug, Default)]
pub(in crate::restart) struct Options {
    list: Vec<(String, String)>,
    /// A source of options that could not be read, so its options are unknown.
    pub(in crate::restart) unread: Option<String>,
}

/// Options that name further sources, in formats other than ini.
const OTHER_SOURCES: [&str; 10] =
    ["xml", "yaml", "yml", "json", "config", "ini-paste", "ini-paste-logged", "sqlite3", "ldap", "zerg-config"];

impl Options {
    pub(in crate::restart) fn of(server: &Server) -> Self {
        let mut options = Self::default();
        for (name, value) in &server.env {
            // uWSGI reads its environment in this way: UWSGI_LAZY_APPS is lazy-apps.
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
                // Many options without a value are unknown here and would take the next word as theirs; among the options that matter, this does no
                // harm.
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

    /// The lines of one section; `%d` is the file's directory, `%(name)` an earlier option.
    pub(in crate::restart) fn read_ini(&mut self, text: &str, wanted: &str, file: &Path, depth: usize) {
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

    pub(in crate::restart) fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether an option without a value is on.
    pub(in crate::restart) fn on(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.get(name).is_some_and(|value| !matches!(value, "false" | "0" | "no" | "off")))
    }

    pub(in crate::restart) fn all(&self, names: &[&str]) -> Vec<&str> {
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

/// Whether a path leads through the link, literally or by another link that leads to the same place.
pub(in crate::restart) fn is_through(path: &str, link: &Path) -> bool {
    let (path, releases) = (Path::new(path), link.with_file_name("releases"));
    let real = |path: &Path| fs::canonicalize(path).ok();
    let leads_there = || path.is_absolute() && real(path).zip(real(link)).is_some_and(|(path, live)| path.starts_with(live));
    path.starts_with(link) || !path.starts_with(releases) && leads_there()
}

pub(in crate::restart) const PYTHONPATH: [&str; 3] = ["pythonpath", "python-path", "pp"];
pub(in crate::restart) const LAZY: [&str; 2] = ["lazy-apps", "lazy"];

/// Whether the readable options show that each worker loads the app by itself, through the link.
pub(in crate::restart) fn loads_from(server: &Server, link: &Path) -> bool {
    let options = Options::of(server);
    server.runs("uwsgi") && options.on(&LAZY) && options.all(&PYTHONPATH).iter().any(|path| is_through(path, link))
}
