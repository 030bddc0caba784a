//! What comes before the visitors: `[restart]` with a reading for each strategy, and `[[worker]]`.

use std::path::PathBuf;

use agent_model::names::AppName;

use crate::http::Check;
use crate::restart::handover::{KeepWarm, Starter};
use crate::restart::in_place::{command, gunicorn, units, uwsgi_fifo};
use crate::restart::worker::Worker;
use crate::restart::{Restart, handover};
use crate::root::Slot;
use crate::settings::defaults;
use crate::settings::kinds::{self, Unit, absolute, one_of, some_list, switch, timeout, unit, wait};
use crate::settings::reader::{Section, Value};

#[derive(Clone, Copy)]
enum Strategy {
    None,
    Handover,
    UwsgiFifo,
    Systemd,
    Gunicorn,
    Command,
}

const STRATEGIES: &[(&str, Strategy)] = &[
    ("handover", Strategy::Handover),
    ("uwsgi-fifo", Strategy::UwsgiFifo),
    ("systemd", Strategy::Systemd),
    ("gunicorn", Strategy::Gunicorn),
    ("command", Strategy::Command),
    ("none", Strategy::None),
];

/// No section: nothing is restarted. A section without a strategy: the one that is recommended.
pub(super) fn restart(app: &AppName, top: &Section<'_>, checks: &[Check]) -> Option<Restart> {
    if !top.has("restart") {
        let _ = top.table("restart");
        return Some(Restart::None);
    }
    let section = top.table("restart")?;
    let strategy = section.get("strategy", one_of(STRATEGIES));
    if strategy.is_none() && section.has("strategy") {
        section.forgive();
        return None;
    }
    match strategy.unwrap_or(Strategy::Handover) {
        Strategy::None => Some(Restart::None),
        Strategy::Handover => handover(app, &section, checks).map(Restart::Handover),
        Strategy::UwsgiFifo => uwsgi_fifo(&section).map(Restart::UwsgiFifo),
        Strategy::Systemd => systemd(app, &section).map(Restart::Systemd),
        Strategy::Gunicorn => gunicorn(&section).map(Restart::Gunicorn),
        Strategy::Command => command(&section).map(Restart::Command),
    }
}

/// A dot and the name of a release, which instances append to the socket.
const RELEASE_SUFFIX: usize = 1 + 32;

fn handover(app: &AppName, section: &Section<'_>, checks: &[Check]) -> Option<handover::Settings> {
    let socket = section.get("socket", kinds::socket(RELEASE_SUFFIX));
    let template = section.get("unit", unit(Unit::Template));
    let command = section.get("command", |value| {
        let command = kinds::command(value)?;
        if command.iter().any(|word| word.contains("{socket}")) {
            Some(command)
        } else {
            value.complain("tells the instance nowhere on which socket to listen", Some("put {socket} where it belongs".to_owned()))
        }
    });
    let slots = section.get("slots", slots);
    if section.has("slots") && section.has("command") {
        section.complain("slots", "are for units: what the agent starts itself is called by its release", "leave it out");
    }
    let keep_warm = section.get("keep_warm", switch).unwrap_or(false);
    let start_timeout = section.get("start_timeout", timeout).unwrap_or(defaults::START_TIMEOUT);
    let drain = section.get("drain", wait).unwrap_or(defaults::DRAIN);
    // An operator who has checks go on for longer, or for no time at all, means this time as well.
    let stable = checks.iter().map(|check| check.stable_for).max();
    let confirm = section.get("confirm", wait).unwrap_or(stable.unwrap_or(defaults::CHECK_STABLE));
    let starter = match (section.has("unit"), section.has("command")) {
        (true, true) => {
            section.complain("command", "and unit cannot both start an instance", "leave one of them out");
            None
        }
        (true, false) => template.map(Starter::Unit),
        (false, true) => command.map(Starter::Command),
        (false, false) => Some(Starter::Unit(format!("{app}@.service"))),
    };
    let socket = if section.has("socket") { socket } else { Some(PathBuf::from(format!("/run/{app}/web.sock"))) };
    let keep_warm = if keep_warm { KeepWarm::Former } else { KeepWarm::No };
    let slots = if section.has("slots") { slots? } else { Vec::new() };
    Some(handover::Settings { socket: socket?, starter: starter?, slots, start_timeout, drain, confirm, keep_warm })
}

/// Two at least: a release is asked in one while another serves in the other.
fn slots(value: &Value<'_>) -> Option<Vec<Slot>> {
    let slots: Vec<Slot> = kinds::list(kinds::parsed(str::parse))(value)?;
    if !(2..=8).contains(&slots.len()) {
        return value.complain(format!("must be 2 to 8 slots, and are {}", slots.len()), Some("[\"blue\", \"green\"] will do".to_owned()));
    }
    match slots.iter().enumerate().find(|(at, slot)| slots[..*at].contains(slot)) {
        Some((_, twice)) => value.complain(format!("{:?} is named twice", twice.as_str()), None),
        None => Some(slots),
    }
}

fn uwsgi_fifo(section: &Section<'_>) -> Option<uwsgi_fifo::Settings> {
    use uwsgi_fifo::FifoCommand as How;
    const SIGNALS: &[(&str, How)] = &[("r", How::Graceful), ("c", How::Chain), ("w", How::Workers), ("R", How::Brutal), ("Q", How::Quit)];
    let fifo = section.need("fifo", absolute);
    let how = section.get("signal", one_of(SIGNALS)).unwrap_or(How::Graceful);
    let stats = section.get("stats", kinds::socket(0));
    let unit = section.get("unit", unit(Unit::Startable));
    let timeout = section.get("timeout", timeout).unwrap_or(defaults::RESTART_TIMEOUT);
    if how == How::Quit && !section.has("unit") {
        section.complain("signal", "\"Q\" ends uWSGI, and nothing is named that starts it again", "add unit = \"….service\"");
    }
    Some(uwsgi_fifo::Settings { fifo: fifo?, how, stats, unit, timeout })
}

fn systemd(app: &AppName, section: &Section<'_>) -> Option<units::Settings> {
    use crate::systemd::UnitAction as How;
    const ACTIONS: &[(&str, How)] = &[("reload-or-restart", How::ReloadOrRestart), ("restart", How::Restart)];
    let one = section.get("unit", unit(Unit::Startable));
    let several = section.get("units", some_list("nothing would be restarted", unit(Unit::Startable)));
    let how = section.get("action", one_of(ACTIONS)).unwrap_or(How::ReloadOrRestart);
    let watch_for = section.get("watch", wait).unwrap_or(defaults::WATCH);
    let timeout = section.get("timeout", timeout).unwrap_or(defaults::RESTART_TIMEOUT);
    let units = match (section.has("unit"), section.has("units")) {
        (true, true) => {
            section.complain("unit", "and units cannot both be set", "put all of them into units, in their order");
            None
        }
        (true, false) => one.map(|unit| vec![unit]),
        (false, true) => several,
        (false, false) => Some(vec![format!("{app}.service")]),
    };
    Some(units::Settings { units: units?, how, watch_for, timeout })
}

fn gunicorn(section: &Section<'_>) -> Option<gunicorn::Settings> {
    use gunicorn::MasterSignal as How;
    let pid_file = section.need("pid_file", absolute);
    let how = section.get("signal", one_of(&[("HUP", How::Hup), ("USR2", How::Usr2)])).unwrap_or(How::Hup);
    let timeout = section.get("timeout", timeout).unwrap_or(defaults::RESTART_TIMEOUT);
    let unit = section.get("unit", unit(Unit::Startable));
    Some(gunicorn::Settings { pid_file: pid_file?, how, unit, timeout })
}

fn command(section: &Section<'_>) -> Option<command::Settings> {
    let run = section.need("run", kinds::command);
    let back = section.get("back", kinds::command);
    let timeout = section.get("timeout", timeout).unwrap_or(defaults::RESTART_TIMEOUT);
    Some(command::Settings { run: run?, back, timeout })
}

/// Without a restart that can be read, a template is not complained of: it may well belong to it.
pub(super) fn workers(top: &Section<'_>, restart: Option<&Restart>) -> Vec<Worker> {
    top.tables("worker").iter().filter_map(|section| worker(section, restart)).collect()
}

fn worker(section: &Section<'_>, restart: Option<&Restart>) -> Option<Worker> {
    let unit = section.need("unit", unit(Unit::Any));
    let watch_for = section.get("watch", wait).unwrap_or(defaults::WATCH);
    let timeout = section.get("timeout", timeout).unwrap_or(defaults::WORKER_TIMEOUT);
    let worker = Worker { unit: unit?, watch_for, timeout };
    if worker.is_template() && restart.is_some_and(|restart| !matches!(restart, Restart::Handover(_))) {
        let says = format!("{:?} is a template, and only handover gives each release an instance of its own", worker.unit);
        section.complain("unit", says, "set strategy = \"handover\" under [restart], or name a unit that is restarted");
    }
    Some(worker)
}
