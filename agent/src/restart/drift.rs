//! Compares the variables of the serving programs with those that the release was made with. The variables come from the kernel's process table, or
//! from systemd's unit properties where the process belongs to another user.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use agent_wire::view::{Finding, Level};

use super::{ReleaseRef, Restart, RestartContext, variables};
use crate::process::Process;
use crate::systemd::{Bus, Unit, environment_file};

const SETTINGS_MODULE: &str = "DJANGO_SETTINGS_MODULE";

/// A program that serves, or the unit that starts it.
struct Seen {
    /// The program's name in messages.
    who: String,
    /// The variables that could be read.
    has: BTreeMap<String, String>,
    unit: Option<OfUnit>,
}

/// Facts that only a unit has.
struct OfUnit {
    /// The unit's file of variables, and whether the unit reads it.
    file: PathBuf,
    reads: Reads,
    /// Files of its variables that the agent may not read.
    unread: Vec<PathBuf>,
    /// Whether the unit was started before its file was changed.
    started: Started,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reads {
    Its,
    NotIts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    Since,
    Before,
}

pub(crate) struct MadeWith<'a> {
    /// The settings module; `None` where it cannot be determined.
    pub module: Option<&'a str>,
    /// The settings module that the project's WSGI or ASGI module chooses when the variable is unset; `None` where that is not known.
    pub by_default: Option<&'a str>,
}

/// Every difference, worst first.
pub(super) fn find(restart: &Restart, context: &RestartContext<'_>, live: ReleaseRef<'_>, made: &MadeWith<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for seen in look(restart, context, live) {
        findings.extend(of_module(&seen, context, made));
        findings.extend(of_others(&seen, context));
    }
    findings.sort_by_key(|finding| finding.level);
    findings.dedup();
    findings
}

fn of_module(seen: &Seen, context: &RestartContext<'_>, made: &MadeWith<'_>) -> Option<Finding> {
    let wanted = made.module?;
    let app = context.app;
    let set = format!("set settings = {wanted:?} under [django], and let the server have that: {}", hint_of(seen, context));
    match seen.has.get(SETTINGS_MODULE) {
        Some(has) if has == wanted => None,
        Some(has) => {
            let text = format!("{} has {SETTINGS_MODULE}={has}, and the release was made with {wanted}", seen.who);
            let own = seen.unit.as_ref().map_or_else(|| set.clone(), |_| format!("take {SETTINGS_MODULE} out of the unit, or: {set}"));
            Some(finding(Level::Error, text, own))
        }
        // The variable may stand in a file that the agent must not read.
        None if seen.unit.as_ref().is_some_and(|unit| !unit.unread.is_empty()) && made.by_default == Some(wanted) => None,
        None => match made.by_default {
            Some(chosen) if chosen == wanted => None,
            Some(chosen) => {
                let text = format!(
                    "{} does not set {SETTINGS_MODULE}, so the project chooses {chosen}, and the release was made with {wanted}",
                    seen.who
                );
                Some(finding(Level::Error, text, set))
            }
            None => {
                let text = format!(
                    "{} does not set {SETTINGS_MODULE}: the settings of {app} are what wsgi.py chooses, and the release was made with {wanted}",
                    seen.who
                );
                Some(finding(Level::Warning, text, set))
            }
        },
    }
}

fn of_others(seen: &Seen, context: &RestartContext<'_>) -> Option<Finding> {
    let wanted = wanted(context, seen);
    let differ: Vec<&str> =
        wanted.iter().filter(|(name, value)| seen.has.get(name.as_str()) != Some(*value)).map(|(name, _)| name.as_str()).collect();
    let stale = seen.unit.as_ref().is_some_and(|unit| unit.reads == Reads::Its && unit.started == Started::Before);
    if differ.is_empty() && !stale {
        return None;
    }
    let text = match &seen.unit {
        Some(OfUnit { reads: Reads::NotIts, file, .. }) => {
            format!("{} does not read {}, so that it lacks what the app's file says of {}", seen.who, file.display(), named(&differ))
        }
        Some(_) if differ.is_empty() => format!("{} was started before its variables were changed", seen.who),
        _ => format!("{} was started with other values of {} than the app's file and its secrets have now", seen.who, named(&differ)),
    };
    Some(finding(Level::Warning, text, hint_of(seen, context)))
}

/// The variables that a program should have. A process should have all that the agent knows; a unit should have those in its file. The settings
/// module is reported separately.
fn wanted<'s>(context: &'s RestartContext<'_>, seen: &Seen) -> BTreeMap<&'s String, &'s String> {
    let plain = context.variables.plain;
    let is_plain = |name: &str| plain.iter().any(|(other, _)| other == name);
    let of_release = |name: &str| name.starts_with("RELEASE_") || matches!(name, "REVISION" | "PREVIOUS_REVISION");
    // A unit reads its secrets from another file, which the agent cannot always read.
    let all =
        context.env.iter().filter(|(name, _)| !of_release(name) && name != SETTINGS_MODULE && (seen.unit.is_none() || is_plain(name)));
    let replaced = |name: &str, value: &str| seen.unit.is_some() && !plain.iter().any(|(other, plain)| other == name && plain == value);
    all.filter(|(name, value)| !replaced(name, value)).map(|(name, value)| (name, value)).collect()
}

fn hint_of(seen: &Seen, context: &RestartContext<'_>) -> String {
    match &seen.unit {
        Some(OfUnit { reads: Reads::NotIts, file, .. }) => {
            format!(
                "agentctl setup app {}; or add EnvironmentFile=-{} to the unit, and agentctl --app {0} restart",
                context.app,
                file.display()
            )
        }
        _ => format!("agentctl --app {} restart", context.app),
    }
}

fn named(names: &[&str]) -> String {
    match names {
        [_, _, _, _, more @ ..] => format!("{} and {} more", names[..3].join(", "), more.len() + 1),
        _ => names.join(", "),
    }
}

fn finding(level: Level, text: String, hint: String) -> Finding {
    Finding { app: None, what: "environment".to_owned(), level, text, hint: Some(hint) }
}

/// The programs that serve, as far as the agent can inspect them. Other code reports those that it cannot.
fn look(restart: &Restart, context: &RestartContext<'_>, live: ReleaseRef<'_>) -> Vec<Seen> {
    let bus = Bus::open(context.watch).ok();
    let of_unit = |unit: &str| bus.as_ref().and_then(|bus| bus.unit(unit).ok()).filter(|unit| unit.active_state == "active");
    let in_place = |units: &[&String]| -> Vec<Seen> {
        units.iter().filter_map(|unit| of_unit(unit)).map(|unit| seen_of(&unit, context, variables::LIVE)).collect()
    };
    let mut seen = match restart {
        Restart::None | Restart::Command(_) => Vec::new(),
        Restart::Systemd(settings) => in_place(&settings.units.iter().collect::<Vec<_>>()),
        Restart::UwsgiFifo(settings) => settings.master().and_then(|master| of_process(&master.process, "uWSGI")).into_iter().collect(),
        Restart::Gunicorn(settings) => settings.master().and_then(|master| of_process(&master.process, "gunicorn")).into_iter().collect(),
        Restart::Handover(settings) => match settings.served_by(context, live.name) {
            Ok((Some(unit), _)) => of_unit(&unit).map(|unit| seen_of(&unit, context, &called(&unit))).into_iter().collect(),
            Ok((None, masters)) => masters.iter().filter_map(|master| of_process(master, "the instance")).collect(),
            Err(_) => Vec::new(),
        },
    };
    for name in restart.workers_of(context, live.name) {
        let template = name.contains('@');
        seen.extend(of_unit(&name).map(|unit| seen_of(&unit, context, &if template { called(&unit) } else { variables::LIVE.to_owned() })));
    }
    seen
}

/// The instance name of a template unit.
fn called(unit: &Unit) -> String {
    let rest = unit.name.split_once('@').map_or(unit.name.as_str(), |(_, rest)| rest);
    rest.strip_suffix(".service").unwrap_or(rest).to_owned()
}

/// Reads a unit's variables from its process where the kernel allows it, and otherwise from systemd's properties.
fn seen_of(unit: &Unit, context: &RestartContext<'_>, called: &str) -> Seen {
    let file = context.variables.file(called);
    // The root may be a link, while setup writes the resolved path.
    let whole = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
    let is_its = |path: &PathBuf| *path == file || *path == whole;
    let reads = if unit.environment_files.iter().any(is_its) { Reads::Its } else { Reads::NotIts };
    if let Some(has) = Process::of(unit.main_pid).variables() {
        let of_unit = OfUnit { file, reads, unread: Vec::new(), started: Started::Since };
        return Seen { who: unit.name.clone(), has, unit: Some(of_unit) };
    }
    let mut has: BTreeMap<String, String> = BTreeMap::new();
    for set in &unit.environment {
        if let Some((name, value)) = set.split_once('=') {
            has.insert(name.to_owned(), value.to_owned());
        }
    }
    let mut unread = Vec::new();
    for path in &unit.environment_files {
        let read = fs::read_to_string(path).ok().and_then(|text| environment_file::parse(&text).ok());
        match read {
            Some(read) => has.extend(read.into_iter().map(|one| (one.name, one.value))),
            None => unread.push(path.clone()),
        }
    }
    let started_at = SystemTime::UNIX_EPOCH + Duration::from_micros(unit.started_at);
    let changed = changed_at(&file).is_some_and(|changed| changed > started_at);
    let started = if changed { Started::Before } else { Started::Since };
    Seen { who: unit.name.clone(), has, unit: Some(OfUnit { file, reads, unread, started }) }
}

fn changed_at(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|meta| meta.modified()).ok()
}

fn of_process(process: &Process, what: &str) -> Option<Seen> {
    process.variables().map(|has| Seen { who: format!("{what} (process {})", process.pid()), has, unit: None })
}
