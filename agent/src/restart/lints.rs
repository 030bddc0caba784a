//! Set-ups that behave differently than they seem to, as measurements showed, with a hint each. This module only inspects: the command lines of
//! running processes, the units, the options in ini files.

mod celery;
mod gunicorn;
#[cfg(test)]
mod tests;
mod uwsgi;

use std::path::Path;
use std::time::{Duration, Instant};

use agent_wire::view::{Finding, Level};

use super::celery::{ONE_CLOCK, is_clock, two_clocks};
use super::handover::{self, Starter};
use super::in_place::{gunicorn as by_signal, uwsgi_fifo};
use super::server::{ReloadKind, Server, reload_kind_of};
use super::unit_jobs::takes_too_long;
use super::worker::Worker;
use super::{Restart, RestartError};
use crate::process::{Cancel, Process, Watch};
use crate::root::Slots;
use crate::systemd::{Bus, HELPERS, Unit, UnitAction, instance_name};

/// All findings for `doctor`: the obstacles and the misconfigurations.
pub(super) fn find(restart: &Restart, link: &Path, workers: &[Worker], time: Duration) -> Vec<Finding> {
    let mut findings = quickly(|watch| obstacles(restart, workers, link, watch));
    findings.extend(grants(restart, workers));
    findings.extend(of_server(restart, link, link));
    findings.extend(of_workers(restart, workers, link, time));
    // Without a restart there is no server to find.
    if findings.is_empty() && *restart != Restart::None {
        findings.push(finding(
            Level::Good,
            "what restarts the app is there, and none of the known misconfigurations is in its set-up",
            None,
        ));
    }
    findings.sort_by_key(|finding| finding.level);
    findings
}

/// The misconfigurations of the server: each release warns of them, or fails by them. `dir` is the release that it is to serve.
pub(super) fn of_server(restart: &Restart, link: &Path, dir: &Path) -> Vec<Finding> {
    let mut findings = quickly(|watch| slots(restart, link, watch));
    for (server, way) in quickly(|watch| servers(restart, watch)) {
        let found = if server.runs("uwsgi") {
            uwsgi::lint(&server, way, link)
        } else if server.runs("gunicorn") {
            gunicorn::lint(&server, way, gunicorn::Place { link, dir })
        } else {
            Vec::new()
        };
        for finding in found {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings
}

/// The misconfigurations of the workers, likewise. `time` is what a switch may take.
pub(super) fn of_workers(restart: &Restart, workers: &[Worker], link: &Path, time: Duration) -> Vec<Finding> {
    if workers.is_empty() {
        return Vec::new();
    }
    let look = |watch: &Watch<'_>| -> Result<Vec<Finding>, RestartError> {
        let bus = Bus::open(watch)?;
        let mut findings: Vec<Finding> = workers
            .iter()
            .filter(|worker| worker.is_template())
            .flat_map(|worker| in_its_slot(restart, &worker.unit, link, watch))
            .collect();
        for worker in workers.iter().filter(|worker| worker.is_template()) {
            let plain = worker.unit.replace("@.", ".");
            if bus.unit(&plain)?.goes_on() {
                let text = format!("{plain} runs beside the instances of {}, in a release that no switch changes", worker.unit);
                findings.push(finding(Level::Warning, text, Some(&format!("systemctl disable --now {plain}"))));
            }
        }
        // The instances of a template are alike.
        for name in workers.iter().filter_map(|worker| units_of_worker(restart, worker).into_iter().next()) {
            let unit = bus.unit(&name)?;
            findings.extend(celery::lint(&unit));
            findings.extend(takes_too_long(&unit, time).map(|(text, hint)| finding(Level::Warning, text, Some(hint))));
        }
        Ok(findings)
    };
    // Without systemd there is an obstacle, and that is reported as one.
    quickly(look).unwrap_or_default()
}

/// Runs a look at things that answer at once or not at all, with a time limit of 5 s.
fn quickly<T>(look: impl FnOnce(&Watch<'_>) -> T) -> T {
    let cancel = Cancel::default();
    look(&Watch { marker: "", deadline: Instant::now() + Duration::from_secs(5), cancel: &cancel, lines: &|_, _| {} })
}

fn finding(level: Level, text: impl Into<String>, hint: Option<&str>) -> Finding {
    Finding { app: None, what: "restart".to_owned(), level, text: text.into(), hint: hint.map(str::to_owned) }
}

fn of_error(error: &RestartError) -> Finding {
    let source = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    Finding { hint: error.hint(), ..finding(Level::Error, format!("{error}{source}"), None) }
}

/// The units of the slots. For a template without slots: one unit that is the instance of no release.
fn instances_of(settings: &handover::Settings, template: &str) -> Vec<String> {
    if settings.slots.is_empty() {
        return vec![instance_name(template, "2000-01-01-00-00-00-000000000000")];
    }
    settings.slots.iter().map(|slot| instance_name(template, slot.as_str())).collect()
}

fn units_of(restart: &Restart) -> Vec<String> {
    match restart {
        Restart::Handover(settings) => match &settings.starter {
            Starter::Unit(template) => instances_of(settings, template),
            Starter::Command(_) => Vec::new(),
        },
        Restart::Systemd(settings) => settings.units.clone(),
        Restart::UwsgiFifo(settings) => settings.unit.iter().cloned().collect(),
        Restart::Gunicorn(settings) => settings.unit.iter().cloned().collect(),
        Restart::None | Restart::Command(_) => Vec::new(),
    }
}

/// The units of a worker. For a template without slots: one unit that is the instance of no release.
fn units_of_worker(restart: &Restart, worker: &Worker) -> Vec<String> {
    match restart {
        Restart::Handover(settings) if worker.is_template() => instances_of(settings, &worker.unit),
        _ => vec![worker.unit.clone()],
    }
}

/// The jobs that the agent runs on units, as far as they are known beforehand.
fn acts_of(restart: &Restart, workers: &[Worker]) -> Vec<(UnitAction, String)> {
    let of = |acts: &[UnitAction]| -> Vec<(UnitAction, String)> {
        let units = units_of(restart);
        units.iter().flat_map(|unit| acts.iter().map(|act| (*act, unit.clone()))).collect()
    };
    let mut acts = match restart {
        Restart::Handover(settings) if settings.slots.is_empty() => Vec::new(),
        Restart::Handover(_) => of(&[UnitAction::Start, UnitAction::Stop]),
        Restart::Systemd(settings) => of(&[settings.how]),
        Restart::UwsgiFifo(_) | Restart::Gunicorn(_) => of(&[UnitAction::Restart]),
        Restart::None | Restart::Command(_) => Vec::new(),
    };
    for worker in workers {
        match restart {
            Restart::Handover(settings) if worker.is_template() => {
                // Without slots, the names of the units are not known beforehand.
                let units = if settings.slots.is_empty() { Vec::new() } else { instances_of(settings, &worker.unit) };
                acts.extend(units.iter().flat_map(|unit| [UnitAction::Start, UnitAction::Stop].map(|act| (act, unit.clone()))));
            }
            _ => acts.push((UnitAction::Restart, worker.unit.clone())),
        }
    }
    acts
}

/// The jobs that no helper allows, on a host with helpers and for an agent that is not root.
fn grants(restart: &Restart, workers: &[Worker]) -> Vec<Finding> {
    if nix::unistd::geteuid().is_root() || !Path::new(HELPERS).is_dir() {
        return Vec::new();
    }
    let missing = acts_of(restart, workers).into_iter().filter(|(act, unit)| !act.has_helper(unit));
    let told = missing.map(|(act, unit)| {
        let text = format!("there is no helper to {} {unit}: only a polkit rule could let the agent do it", act.word());
        finding(Level::Warning, text, Some(&format!("systemctl enable --now {}", act.helper_socket(&unit))))
    });
    told.collect()
}

/// Units that do not know which release is in their slot.
fn slots(restart: &Restart, link: &Path, watch: &Watch<'_>) -> Vec<Finding> {
    match restart {
        Restart::Handover(handover::Settings { starter: Starter::Unit(template), .. }) => in_its_slot(restart, template, link, watch),
        _ => Vec::new(),
    }
}

fn in_its_slot(restart: &Restart, template: &str, link: &Path, watch: &Watch<'_>) -> Vec<Finding> {
    let Restart::Handover(handover::Settings { slots, .. }) = restart else { return Vec::new() };
    let Some(slot) = slots.first() else { return Vec::new() };
    let unit = Bus::open(watch).and_then(|bus| bus.unit(&instance_name(template, slot.as_str())));
    let place = Slots::beside(link).link(slot);
    let knows = |unit: &Unit| {
        let words = unit.exec_start.iter().flatten().chain([&unit.working_directory]);
        words.into_iter().any(|word| word.contains(&*place.to_string_lossy()))
    };
    match unit {
        Ok(unit) if unit.load_state == "loaded" && !knows(&unit) => {
            let text = format!("{} does not name {}: it cannot know which release is in its slot", unit.name, place.display());
            let hint = format!("set WorkingDirectory={} in {template}", place.with_file_name("%i").display());
            vec![finding(Level::Error, text, Some(&hint))]
        }
        _ => Vec::new(),
    }
}

fn obstacles(restart: &Restart, workers: &[Worker], link: &Path, watch: &Watch<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let of_workers = workers.iter().flat_map(|worker| units_of_worker(restart, worker));
    let units: Vec<String> = units_of(restart).into_iter().chain(of_workers).collect();
    if !units.is_empty() {
        match Bus::open(watch) {
            Err(error) => findings.push(of_error(&error.into())),
            Ok(bus) => {
                for unit in units {
                    match bus.usable(&unit) {
                        Err(error) => findings.push(of_error(&error.into())),
                        Ok(found) if is_clock(&found) && !workers.iter().any(|worker| worker.unit == unit) => {
                            findings.push(finding(Level::Error, two_clocks(&unit), Some(ONE_CLOCK)));
                        }
                        Ok(unit) if unit.needs_daemon_reload => {
                            let text = format!("{} was changed on disk, and systemd has not read it again", unit.name);
                            findings.push(finding(Level::Warning, text, Some("systemctl daemon-reload")));
                        }
                        Ok(_) => {}
                    }
                }
            }
        }
    }
    let absent = |started_by: &Option<String>, text: String, hint: &str| match started_by {
        Some(unit) => finding(Level::Warning, format!("{text}; a release would start {unit}"), None),
        // No server can run in a link that does not exist yet.
        None if link.symlink_metadata().is_err() => {
            finding(Level::Warning, format!("{text}; the first release waits for it to be started, once {} is there", link.display()), None)
        }
        None => finding(Level::Error, text, Some(hint)),
    };
    match restart {
        Restart::Handover(settings) => {
            findings.extend(settings.obstacle().as_ref().map(of_error));
            if let Starter::Command(argv) = &settings.starter
                && let Some(program) = argv.first()
                && program.starts_with('/')
                && !Path::new(program).exists()
            {
                findings.push(finding(
                    Level::Error,
                    format!("{program}, which starts an instance, is not there"),
                    Some("install it, or correct its path"),
                ));
            }
        }
        Restart::UwsgiFifo(settings) if settings.master().is_none() => {
            let text = format!("nobody reads the FIFO {}", settings.fifo.display());
            findings.push(absent(&settings.unit, text, "start uWSGI with master-fifo set to that path, or name its unit under [restart]"));
        }
        Restart::Gunicorn(settings) if settings.master().is_none() => {
            let text = format!("the pid file {} names no process that runs", settings.pid_file.display());
            findings.push(absent(&settings.unit, text, "start gunicorn with --pid set to that path, or name its unit under [restart]"));
        }
        _ => {}
    }
    findings
}

fn servers(restart: &Restart, watch: &Watch<'_>) -> Vec<(Server, ReloadKind)> {
    let bus = if units_of(restart).is_empty() { None } else { Bus::open(watch).ok() };
    let unit = |name: &str| bus.as_ref().and_then(|bus| bus.unit(name).ok()).filter(|unit| unit.load_state == "loaded");
    let running = |process: Option<Process>, name: Option<&String>| {
        let unit = name.and_then(|name| unit(name));
        match (process.map(|process| Server::of(&process, unit.clone())), unit) {
            // gunicorn overwrites its command line with a title where setproctitle is installed.
            (Some(server), _) if !server.argv.first().is_some_and(|title| title.starts_with("gunicorn: ")) => Some(server),
            (_, unit) => unit.map(Server::of_unit),
        }
    };
    let one = |server: Option<Server>, way: ReloadKind| server.map(|server| (server, way)).into_iter().collect();
    match restart {
        Restart::None | Restart::Command(_) => Vec::new(),
        Restart::Handover(settings) => match &settings.starter {
            Starter::Unit(template) => {
                let first = instances_of(settings, template).into_iter().next();
                one(first.and_then(|first| unit(&first)).map(Server::of_unit), ReloadKind::Anew)
            }
            Starter::Command(argv) => one(Some(Server { argv: argv.clone(), ..Server::default() }), ReloadKind::Anew),
        },
        Restart::Systemd(settings) => {
            let units = settings.units.iter().filter_map(|name| unit(name));
            units.map(|unit| (reload_kind_of(&unit, settings.how), Server::of_unit(unit))).map(|(way, server)| (server, way)).collect()
        }
        Restart::UwsgiFifo(settings) => {
            let way = match settings.how {
                uwsgi_fifo::FifoCommand::Graceful | uwsgi_fifo::FifoCommand::Brutal => ReloadKind::Reload,
                uwsgi_fifo::FifoCommand::Chain | uwsgi_fifo::FifoCommand::Workers => ReloadKind::Fork,
                uwsgi_fifo::FifoCommand::Quit => ReloadKind::Restart,
            };
            one(running(settings.master().map(|master| master.process), settings.unit.as_ref()), way)
        }
        Restart::Gunicorn(settings) => {
            let way = match settings.how {
                by_signal::MasterSignal::Hup => ReloadKind::Reload,
                by_signal::MasterSignal::Usr2 => ReloadKind::Second,
            };
            one(running(settings.master().map(|master| master.process), settings.unit.as_ref()), way)
        }
    }
}
