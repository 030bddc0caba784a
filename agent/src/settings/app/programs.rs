//! What is run: `[python]`, `[django]`, `[env]`, `[timeouts]`, `[[hook]]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::root::Shared;
use crate::settings::environment::{NAME_IT_ONCE, SETTINGS_MODULE};
use crate::settings::kinds::{
    absolute, command, duration, list, one_of, parsed, some_list, switch, texts_by_name, timeout, variable_name, within_release,
};
use crate::settings::reader::{Section, shown};
use crate::settings::{Hook, When, defaults};
use crate::{django, python};

pub(super) fn python(top: &Section<'_>) -> Option<python::Settings> {
    use python::Installer;
    let section = top.table("python")?;
    let interpreter = section.get("interpreter", parsed(parse_interpreter));
    let installer = section.get("installer", one_of(&[("auto", Installer::Auto), ("uv", Installer::Uv), ("pip", Installer::Pip)]));
    let requirements = section.get("requirements", list(within_release));
    let packages = section.get("packages", list(parsed(parse_package)));
    let install = section.get("install", some_list("leave it out to have the requirements installed", command));
    if section.has("install") {
        for key in ["installer", "requirements", "packages"].into_iter().filter(|key| section.has(key)) {
            section.complain(key, "does nothing beside install, which replaces all the rest", format!("leave out {key} or install"));
        }
    }
    Some(python::Settings {
        interpreter: interpreter.unwrap_or_else(|| defaults::INTERPRETER.to_owned()),
        installer: installer.unwrap_or(Installer::Auto),
        requirements: requirements.unwrap_or_default(),
        packages: packages.unwrap_or_default(),
        install: install.unwrap_or_default(),
        writable: section.get("writable", list(absolute)).unwrap_or_default(),
        module: None,
    })
}

fn parse_interpreter(text: &str) -> Result<String, String> {
    let plain =
        !text.is_empty() && !text.starts_with('-') && text.chars().all(|char| char.is_ascii_alphanumeric() || "._+-/".contains(char));
    if plain && (text.starts_with('/') || !text.contains('/')) {
        Ok(text.to_owned())
    } else {
        Err(format!("{:?} must be a program in the agent's PATH, such as \"python3.11\", or an absolute path", shown(text)))
    }
}

fn parse_package(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err(format!("{:?} is an option, not a package; options belong into a requirements file", shown(text)));
    }
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("a package must be a name, with a version where one is wanted, such as \"gunicorn==23.0\"".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn django(top: &Section<'_>, sets: [(&str, &[(String, String)]); 2]) -> Option<django::Settings> {
    let section = top.table("django")?;
    if !top.has("python") {
        section.complain("", "needs a virtual environment to run manage.py in", "add [python]; an empty section will do");
    }
    let settings = section.get("settings", parsed(parse_module));
    for (table, variables) in sets {
        let named = variables.iter().find(|(name, _)| name == SETTINGS_MODULE);
        if let (Some(here), Some((_, there))) = (&settings, named)
            && here != there
        {
            let says = format!("is {here:?}, and {SETTINGS_MODULE} in [{table}] is {:?}", shown(there));
            section.complain("settings", says, NAME_IT_ONCE);
        }
    }
    let lock_timeout = duration(Duration::from_millis(1)..=Duration::from_secs(3600));
    let (database, others) = databases(&section);
    let post_migrate = section.get("post_migrate", one_of(&[("run", django::PostMigrate::Runs), ("idle", django::PostMigrate::Idle)]));
    Some(django::Settings {
        manage: section.get("manage", within_release).unwrap_or_else(|| PathBuf::from(defaults::MANAGE)),
        settings,
        check: section.get("check", switch).unwrap_or(true),
        collectstatic: section.get("collectstatic", switch).unwrap_or(true),
        migrate: section.get("migrate", switch).unwrap_or(true),
        database,
        others,
        post_migrate: post_migrate.unwrap_or(django::PostMigrate::Runs),
        lock_timeout: section.get("lock_timeout", lock_timeout).unwrap_or(defaults::LOCK_TIMEOUT),
    })
}

/// The databases that are migrated: the first one, and which others.
fn databases(section: &Section<'_>) -> (String, django::Others) {
    let named = section.get("database", |value| match value.items() {
        Some(_) => some_list("leave it out to have the databases found by the routers", parsed(parse_alias))(value),
        None => parsed(parse_alias)(value).map(|alias| vec![alias]),
    });
    match named.as_deref() {
        Some([first, others @ ..]) => (first.clone(), django::Others::These(others.to_vec())),
        _ => (defaults::DATABASE.to_owned(), django::Others::Kept),
    }
}

fn parse_alias(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        Err("must not be empty".to_owned())
    } else if text.contains([',', '*']) {
        Err(format!("{:?} must be the name of one database in DATABASES; several are written as a list", shown(text)))
    } else {
        Ok(text.to_owned())
    }
}

fn parse_module(text: &str) -> Result<String, String> {
    let identifier = |part: &str| {
        part.starts_with(|char: char| char.is_alphabetic() || char == '_') && part.chars().all(|char| char.is_alphanumeric() || char == '_')
    };
    if text.split('.').all(identifier) {
        Ok(text.to_owned())
    } else if text.ends_with(".py") || text.contains('/') {
        let module = text.trim_end_matches(".py").replace('/', ".");
        Err(format!("{:?} must be the name of a module, not a file: write {:?}", shown(text), shown(&module)))
    } else {
        Err(format!("{:?} must be the name of a module, such as \"shop.settings.production\"", shown(text)))
    }
}

pub(super) fn env(top: &Section<'_>) -> Vec<(String, String)> {
    top.get("env", texts_by_name(|name, _| variable_name(name))).unwrap_or_default()
}

pub(super) fn build_env(top: &Section<'_>) -> Vec<(String, String)> {
    top.get("build_env", texts_by_name(|name, _| variable_name(name))).unwrap_or_default()
}

/// The steps of a release, in their order.
pub(in crate::settings) const STEPS: [&str; 11] =
    ["fetch", "checkout", "link-shared", "environment", "check", "collectstatic", "seal", "backup", "migrate", "switch", "prune"];

/// What other tools call the steps.
const OTHER_WORDS: [(&str, &str); 22] = [
    ("assets", "collectstatic"),
    ("bundle", "environment"),
    ("checks", "check"),
    ("clean", "prune"),
    ("cleanup", "prune"),
    ("clone", "fetch"),
    ("collect", "collectstatic"),
    ("deploy", "switch"),
    ("dump", "backup"),
    ("linked_dirs", "link-shared"),
    ("migration", "migrate"),
    ("pip", "environment"),
    ("publish", "switch"),
    ("publishing", "switch"),
    ("pull", "fetch"),
    ("reload", "switch"),
    ("restart", "switch"),
    ("shared", "link-shared"),
    ("static", "collectstatic"),
    ("swap", "switch"),
    ("symlink", "switch"),
    ("venv", "environment"),
];

/// `install` is what everybody calls the step that makes the environment, and is taken for it.
fn parse_step(text: &str) -> Result<&'static str, (String, Option<String>)> {
    let word = if text == "install" { "environment" } else { text };
    if let Some(step) = STEPS.iter().find(|step| **step == word) {
        return Ok(step);
    }
    let near = OTHER_WORDS.iter().find(|(other, _)| *other == word).map(|(_, step)| *step);
    let near = near.or_else(|| crate::settings::reader::nearest(word, STEPS));
    let says = format!("there is no step {:?}; the steps are {}", shown(text), STEPS.join(", "));
    Err((says, near.map(|near| format!("did you mean {near}?"))))
}

pub(super) fn timeouts(top: &Section<'_>) -> BTreeMap<String, Duration> {
    let read = top.get("timeouts", |value| {
        let Some(entries) = value.entries() else { return value.mistaken("a section of steps and times", None) };
        let entries = entries.iter().filter_map(|(name, value)| match parse_step(name) {
            Ok(step) => Some((step.to_owned(), timeout(value)?)),
            Err((says, hint)) => value.complain(says, hint),
        });
        Some(entries.collect())
    });
    read.unwrap_or_default()
}

pub(super) fn hooks(top: &Section<'_>, django: Option<&django::Settings>, shared: &Shared) -> Vec<Hook> {
    top.tables("hook").iter().filter_map(|section| hook(section, |step| why_never(step, top, django, shared))).collect()
}

/// Why a step has no part in any release of the app, where that is so: a hook of it would wait for ever, and nobody would know.
fn why_never(step: &str, top: &Section<'_>, django: Option<&django::Settings>, shared: &Shared) -> Option<&'static str> {
    let off = |on: fn(&django::Settings) -> bool| match django {
        None if top.has("django") => None,
        None => Some("there is no [django]"),
        Some(django) if !on(django) => Some("it is turned off in [django]"),
        Some(_) => None,
    };
    match step {
        "environment" if !top.has("python") => Some("there is no [python]"),
        "link-shared" if shared.dirs.is_empty() && shared.files.is_empty() => Some("nothing is shared"),
        "check" => off(|django| django.check),
        "collectstatic" => off(|django| django.collectstatic),
        "migrate" => off(|django| django.migrate),
        "backup" if !top.has("backup") => Some("there is no [backup]"),
        "backup" => off(|django| django.migrate),
        _ => None,
    }
}

fn hook(section: &Section<'_>, why_never: impl Fn(&str) -> Option<&'static str>) -> Option<Hook> {
    let step = |key| {
        section.get(key, |value| match parse_step(value.item().as_str().unwrap_or_default()) {
            Ok(step) => match why_never(step) {
                Some(why) => {
                    let hint = "name a step that is always there, such as checkout, seal or switch".to_owned();
                    value.complain(format!("the step {step} has no part in this app's releases: {why}"), Some(hint))
                }
                None => Some(step.to_owned()),
            },
            Err((says, hint)) => value.complain(says, hint),
        })
    };
    let (before, after) = (step("before"), step("after"));
    let run = section.need("run", command);
    let timeout = section.get("timeout", timeout).unwrap_or(defaults::HOOK_TIMEOUT);
    match (section.has("before"), section.has("after")) {
        (true, true) => section.complain("before", "and after cannot both be set", "write two hooks"),
        (false, false) => section.complain("", "belongs to no step", "add before = \"…\" or after = \"…\""),
        _ => {}
    }
    let (when, step) = match before {
        Some(step) => (When::Before, step),
        None => (When::After, after?),
    };
    Some(Hook { when, step, run: run?, timeout })
}
