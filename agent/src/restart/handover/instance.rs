//! The instances of an app. The agent finds them again after a crash, starts them, and stops them without losing a request.

mod ending;

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use agent_model::names::ReleaseName;

use super::record::{Record, SOCKET, StartedAgain};
use super::{Settings, Starter, file_name};
use crate::http;
use crate::process::{Process, Program, boot, holding, topmost, unix_socket, with_variable};
use crate::restart::proof::last_lines;
use crate::restart::worker::templates;
use crate::restart::{ReleaseRef, RestartContext, RestartError, variables};
use crate::root::{Slot, Slots};
use crate::systemd::{Bus, SystemdError, UnitAction, instance_name};
use ending::could_not_be_ended;

/// How long a unit may take to stop after the time for its last requests: `DefaultTimeoutStopSec` and a little more.
const STOPPING: Duration = Duration::from_secs(95);

pub(super) enum Instance {
    /// Started by the agent: one master, or several where something went wrong.
    Processes { masters: Vec<Process>, ended: Option<Receiver<ExitStatus>>, log_from: u64 },
    /// Started by systemd. `restarts` is the unit's restart counter when the agent first read it.
    Unit { unit: String, restarts: u32 },
}

/// A slot and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seat {
    slot: Slot,
    release: Option<ReleaseName>,
    /// Whether the slot's units are stopped.
    down: bool,
}

/// The slot that a new release takes. In order: the one that leads to it, one that leads nowhere, one that is stopped, one that visitors do not need.
/// The slot that the public name leads to stays with its release.
fn choose<'s>(seats: &'s [Seat], new: &ReleaseName, live: Option<&ReleaseName>, is_public: impl Fn(&Seat) -> bool) -> Option<&'s Seat> {
    if let Some(own) = seats.iter().find(|seat| seat.release.as_ref() == Some(new)) {
        return Some(own);
    }
    let rank = |seat: &&Seat| match (seat.down, &seat.release) {
        (true, None) => 0,
        (true, Some(_)) => 1,
        (false, release) if release.is_none() || release.as_ref() != live => 2,
        (false, _) => 3,
    };
    seats.iter().filter(|seat| !is_public(seat)).min_by_key(rank)
}

pub(super) struct Instances<'a> {
    pub(super) context: &'a RestartContext<'a>,
    pub(super) settings: &'a Settings,
    /// The connection to systemd, where any part of the app is a unit.
    pub(super) bus: Option<Bus<'a>>,
    /// The restart count to write into the next record; `None` keeps the recorded count.
    pub(super) again: Cell<Option<StartedAgain>>,
}

impl<'a> Instances<'a> {
    pub(super) fn open(settings: &'a Settings, context: &'a RestartContext<'a>) -> Result<Self, RestartError> {
        let has_units = matches!(settings.starter, Starter::Unit(_)) || templates(context).next().is_some();
        let bus = if has_units { Some(Bus::of(context.app, context.watch)?) } else { None };
        Ok(Self { context, settings, bus, again: Cell::new(None) })
    }

    fn unit(&self, release: &ReleaseName) -> Option<(&Bus<'a>, String)> {
        self.unit_called(&self.settings.called(self.context.link, release))
    }

    fn unit_called(&self, called: &str) -> Option<(&Bus<'a>, String)> {
        let Starter::Unit(template) = &self.settings.starter else { return None };
        // systemd escapes nothing in the names of releases and slots but hyphens, and %i leaves those as they are.
        self.bus.as_ref().map(|bus| (bus, instance_name(template, called)))
    }

    pub(super) fn slots(&self) -> Slots {
        Slots::beside(self.context.link)
    }

    /// Checks that the starter and the workers can be started at all.
    pub(super) fn check_starter(&self, new: ReleaseRef<'_>) -> Result<(), RestartError> {
        for called in self.names(new.name) {
            for unit in self.workers_called(&called) {
                self.examine_worker(&unit)?;
            }
        }
        match &self.settings.starter {
            Starter::Unit(template) if !template.contains("@.") => Err(RestartError::SetUp {
                what: format!("{template} is no template unit"),
                hint: format!("name a template, such as {}@.service", self.context.app),
            }),
            Starter::Unit(_) => {
                let called = self.names(new.name);
                called.iter().filter_map(|called| self.unit_called(called)).try_for_each(|(bus, unit)| Ok(bus.usable(&unit).map(drop)?))
            }
            Starter::Command(argv) if argv.is_empty() => Err(RestartError::SetUp {
                what: "the command that starts an instance is empty".to_owned(),
                hint: "set it under [restart]".to_owned(),
            }),
            Starter::Command(_) => Ok(()),
        }
    }

    /// The names that an instance of a release may have.
    fn names(&self, release: &ReleaseName) -> Vec<String> {
        let slots: Vec<String> = self.settings.slots.iter().map(|slot| slot.to_string()).collect();
        if slots.is_empty() { vec![release.to_string()] } else { slots }
    }

    /// Whether no unit of this name runs.
    fn is_down(&self, called: &str) -> Result<bool, RestartError> {
        let Some(bus) = &self.bus else { return Ok(true) };
        let units = self.unit_called(called).map(|(_, unit)| unit).into_iter().chain(self.workers_called(called));
        for unit in units {
            if !bus.unit(&unit)?.is_down() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn record_path(&self, release: &str) -> PathBuf {
        self.context.instances.join(format!("{release}.json"))
    }

    fn log_path(&self, release: &str) -> PathBuf {
        self.context.instances.join(format!("{release}.log"))
    }

    fn record(&self, release: &str) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.record_path(release)).ok()?).ok()
    }

    /// Whether an instance of this release was ever started and not stopped since. A reboot in between does not count as a stop.
    pub(super) fn knows(&self, release: &ReleaseName) -> bool {
        self.record_path(release.as_str()).exists() || self.settings.slot_of(self.context.link, release).is_some()
    }

    pub(super) fn write_record(&self, record: &Record) -> Result<(), RestartError> {
        self.write_record_at(&self.record_path(&record.release), record)
    }

    pub(super) fn write_record_at(&self, path: &Path, record: &Record) -> Result<(), RestartError> {
        // The form of this name shows a later agent that the file is temporary, and which record it belongs to.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            File::open(self.context.instances)?.sync_all()
        };
        // The error reports the cause. The agent removes a leftover temporary file at its next start.
        let written = write().inspect_err(|_| drop(fs::remove_file(&temporary)));
        written.map_err(|source| RestartError::File { act: "write down the instance in", path: path.to_owned(), source })
    }

    /// The instance of a release, if it runs.
    pub(super) fn find(&self, release: &ReleaseName) -> Result<Option<Instance>, RestartError> {
        if let Some((bus, unit)) = self.unit(release) {
            let state = bus.unit(&unit)?;
            let running = matches!(state.active_state.as_str(), "active" | "activating" | "reloading");
            return Ok(running.then_some(Instance::Unit { unit, restarts: state.restarts }));
        }
        let masters = self.masters(release);
        Ok((!masters.is_empty()).then_some(Instance::Processes { masters, ended: None, log_from: 0 }))
    }

    /// Whether the instance of a release runs, accepts connections, and was not told to end.
    pub(super) fn serves(&self, release: &ReleaseName) -> Result<bool, RestartError> {
        Ok(self.find(release)?.is_some() && http::listens(&self.socket_of(release)) && !self.is_leaving(release))
    }

    /// Whether the instance of a release was told to end, even by an earlier agent that did not see it end.
    pub(super) fn is_leaving(&self, release: &ReleaseName) -> bool {
        self.record(release.as_str()).is_some_and(|record| record.leaving && record.boot == boot())
    }

    /// Records, before the first signal, that an instance will end. An agent that dies in between would otherwise rely on an instance that still
    /// answers.
    fn note_leaving(&self, release: &ReleaseName, masters: &[Process]) {
        let process = masters.first().and_then(|master| Some((master.pid(), master.started()?)));
        let record = Record { process, leaving: true, ..self.new_record(release) };
        if let Err(err) = self.write_record(&record) {
            (self.context.warn)(&format!("{err}"));
        }
    }

    fn masters(&self, release: &ReleaseName) -> Vec<Process> {
        let recorded = self.record(release.as_str());
        processes_of(recorded.as_ref(), &self.socket_of(release))
    }

    fn socket_of(&self, release: &ReleaseName) -> PathBuf {
        self.settings.socket_of(self.context.link, release)
    }

    /// A record without a process.
    pub(super) fn new_record(&self, release: &ReleaseName) -> Record {
        let slot = self.settings.slot_of(self.context.link, release).map(|slot| self.slots().link(&slot));
        let socket = self.socket_of(release);
        let again = self.again.get().or_else(|| self.record(release.as_str())?.again);
        Record { release: release.to_string(), socket, boot: boot(), process: None, slot, leaving: false, again }
    }

    /// Finds a slot for a release and points it there. The slot's unit is stopped first, and stays stopped until the agent starts it.
    fn take_slot(&self, new: &ReleaseName) -> Result<(), RestartError> {
        let (slots, link) = (self.slots(), self.context.link);
        let state = |slot: &Slot| -> Result<Seat, RestartError> {
            Ok(Seat { slot: slot.clone(), release: slots.release_of(slot), down: self.is_down(slot.as_str())? })
        };
        let free = self.settings.slots.iter().filter(|slot| !self.is_kept(new, slot));
        let seats = free.map(state).collect::<Result<Vec<_>, _>>()?;
        let public = self.settings.named().map(|socket| file_name(&socket));
        let is_public = |seat: &Seat| public.as_deref() == Some(&*file_name(&self.settings.socket_called(seat.slot.as_str())));
        let live = fs::read_link(link).ok().and_then(|target| target.file_name()?.to_str()?.parse::<ReleaseName>().ok());
        let Some(seat) = choose(&seats, new, live.as_ref(), is_public) else {
            return Err(RestartError::SetUp {
                what: "there is no slot that visitors do not need".to_owned(),
                hint: "name another one under [restart] slots, and let agentctl setup app make its grants".to_owned(),
            });
        };
        if seat.release.as_ref() == Some(new) {
            return Ok(());
        }
        if !seat.down {
            let former = seat.release.as_ref().map_or_else(|| "something else".to_owned(), |release| format!("the instance of {release}"));
            (self.context.note)(&format!("{former} gives up the slot {} to {new}", seat.slot));
            self.empty(seat)?;
        }
        if let Some(former) = &seat.release {
            self.forget(former)?;
        }
        slots.point(&seat.slot, new)?;
        Ok(())
    }

    /// Stops the unit in a slot and verifies that it is down. A unit that still ran would restart into another release through the changed link.
    fn empty(&self, seat: &Seat) -> Result<(), RestartError> {
        let Some((bus, unit)) = self.unit_called(seat.slot.as_str()) else { return Ok(()) };
        let called = seat.release.as_ref().map_or_else(|| seat.slot.to_string(), ReleaseName::to_string);
        self.drain(&called, &self.settings.socket_called(seat.slot.as_str()), self.settings.drain);
        self.stop_unit(&unit, seat.release.as_ref(), self.settings.drain)?;
        let workers = self.workers_called(seat.slot.as_str());
        self.await_finished(&self.let_finish(&workers)?, Duration::MAX)?;
        for unit in std::iter::once(&unit).chain(&workers) {
            if !bus.unit(unit)?.is_down() {
                return Err(bus.failed(unit, "was stopped, and is not down".to_owned()).into());
            }
        }
        Ok(())
    }

    fn stop_unit(&self, unit: &str, release: Option<&ReleaseName>, drain: Duration) -> Result<(), RestartError> {
        let Some(bus) = &self.bus else { return Ok(()) };
        release.iter().for_each(|release| self.note_leaving(release, &[]));
        let stopped = bus.job(UnitAction::Stop, unit, drain + STOPPING);
        if let (Err(SystemdError::Denied { .. } | SystemdError::SetUp { .. }), Some(release)) = (&stopped, release) {
            // Nothing told it to end, so the agent can rely on it as before.
            self.write_record(&self.new_record(release))?;
        }
        Ok(stopped?)
    }

    /// Starts the instance of a release and does not wait until it is ready.
    pub(super) fn start(&self, serving: ReleaseRef<'_>) -> Result<Instance, RestartError> {
        if !self.settings.slots.is_empty() {
            self.take_slot(serving.name)?;
        }
        let socket = self.socket_of(serving.name);
        if socket.exists() && !http::listens(&socket) {
            fs::remove_file(&socket).map_err(|source| RestartError::File {
                act: "remove the socket that a dead instance left,",
                path: socket.clone(),
                source,
            })?;
        }
        let mut record = self.new_record(serving.name);
        self.write_record(&record)?;
        let release = serving.name.as_str();
        if self.bus.is_some() {
            variables::write(self.context, &self.settings.called(self.context.link, serving.name), serving)?;
        }
        if let Some((bus, unit)) = self.unit(serving.name) {
            bus.job(UnitAction::Start, &unit, self.settings.start_timeout)?;
            return Ok(Instance::Unit { unit, restarts: 0 });
        }
        let argv: &[String] = match &self.settings.starter {
            Starter::Command(argv) => argv,
            Starter::Unit(_) => &[],
        };
        let (log, log_from) = self.open_log(release)?;
        let act = || format!("cannot start the instance of {release}");
        let mut child = command(argv, serving, &socket, self.context.env)
            .start_server(log)
            .map_err(|source| RestartError::Program { act: act(), source })?;
        let master = Process::of(child.id());
        let (sender, ended) = channel();
        // The process outlives this run, and then the receiver is gone.
        std::thread::spawn(move || {
            if let Ok(status) = child.wait() {
                let _ = sender.send(status);
            }
        });
        record.process = master.started().map(|started| (master.pid(), started));
        self.write_record(&record)?;
        Ok(Instance::Processes { masters: vec![master], ended: Some(ended), log_from })
    }

    fn open_log(&self, release: &str) -> Result<(File, u64), RestartError> {
        let path = self.log_path(release);
        let open = || -> io::Result<(File, u64)> {
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        open().map_err(|source| RestartError::File { act: "open the instance's log", path: path.clone(), source })
    }

    /// Fails when the instance is gone.
    pub(super) fn alive(&self, instance: &Instance, release: &ReleaseName) -> Result<(), RestartError> {
        match instance {
            Instance::Processes { masters, .. } if masters.iter().any(Process::is_alive) => Ok(()),
            Instance::Processes { ended, .. } => {
                // The waiting thread may need a moment to report.
                let status = ended.as_ref().and_then(|ended| ended.recv_timeout(Duration::from_millis(100)).ok());
                let how = status.map_or_else(String::new, |status| format!(", with {status}"));
                Err(RestartError::Process {
                    what: format!("the instance of {release} ended{how}"),
                    hint: Some(format!("all that it said is in {}", self.log_path(release.as_str()).display())),
                    tail: self.tail(instance, release),
                })
            }
            Instance::Unit { unit, restarts } => {
                let Some(bus) = &self.bus else { return Ok(()) };
                let state = bus.unit(unit)?;
                if matches!(state.active_state.as_str(), "active" | "reloading" | "activating") && state.restarts == *restarts {
                    return Ok(());
                }
                let what = if state.restarts > *restarts { "was restarted by systemd: its process ended" } else { "does not stay active" };
                Err(bus.failed(unit, what.to_owned()).into())
            }
        }
    }

    /// How many processes answer.
    pub(super) fn workers(&self, instance: &Instance) -> usize {
        let count = match instance {
            Instance::Processes { masters, .. } => masters.iter().map(|master| master.children().len()).sum(),
            Instance::Unit { unit, .. } => {
                let unit = self.bus.as_ref().and_then(|bus| bus.unit(unit).ok());
                unit.map_or(1, |unit| unit.workers().len())
            }
        };
        count.max(1)
    }

    /// The processes that answer.
    pub(super) fn crew(&self, instance: &Instance, release: &ReleaseName) -> Vec<Process> {
        let masters = match instance {
            Instance::Processes { masters, .. } => masters.clone(),
            Instance::Unit { unit, .. } => {
                let unit = self.bus.as_ref().and_then(|bus| bus.unit(unit).ok()).filter(|unit| unit.main_pid != 0);
                unit.map(|unit| Process::of(unit.main_pid)).into_iter().collect()
            }
        };
        let listener = unix_socket(&self.socket_of(release)).map(|state| state.listener);
        masters.iter().flat_map(|master| master.crew(listener)).collect()
    }

    /// The last lines that the instance logged since it was started.
    pub(super) fn tail(&self, instance: &Instance, release: &ReleaseName) -> Vec<String> {
        match instance {
            Instance::Processes { log_from, .. } => last_lines(&self.log_path(release.as_str()), *log_from),
            Instance::Unit { unit, .. } => self.bus.as_ref().map(|bus| bus.journal(unit)).unwrap_or_default(),
        }
    }

    /// The last lines of an instance that is gone.
    pub(super) fn last_log(&self, release: &ReleaseName) -> Vec<String> {
        match self.unit(release) {
            Some((bus, unit)) => bus.journal(&unit),
            None => last_lines(&self.log_path(release.as_str()), 0),
        }
    }

    /// The releases that have an instance, or leftovers of one.
    pub(super) fn running(&self) -> Result<Vec<ReleaseName>, RestartError> {
        let mut names: Vec<ReleaseName> = fs::read_dir(self.context.instances)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok())
            .collect();
        if !self.settings.slots.is_empty() {
            names.extend(self.slots().taken().into_iter().map(|(_, release)| release));
        }
        if let (Some(bus), Starter::Unit(template)) = (&self.bus, &self.settings.starter) {
            let (before, after) = template.split_once("@.").unwrap_or((template, "service"));
            for unit in bus.running(&format!("{before}@*.{after}"))? {
                let instance = unit.strip_prefix(&format!("{before}@")).and_then(|rest| rest.strip_suffix(&format!(".{after}")));
                // An instance whose name is no release belongs to someone else.
                names.extend(instance.and_then(|instance| instance.parse::<ReleaseName>().ok()));
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Lets an instance finish its requests for at most `drain`, and stops it. The record of an instance that is gone is removed.
    pub(super) fn stop(&self, release: &ReleaseName, drain: Duration) -> Result<(), RestartError> {
        let socket = self.socket_of(release);
        match self.find(release)? {
            None => {
                if let Some((bus, unit)) = self.unit(release) {
                    bus.forget_failure(&unit);
                }
            }
            Some(Instance::Unit { unit, .. }) => {
                self.drain(release.as_str(), &socket, drain);
                self.stop_unit(&unit, Some(release), drain)?;
            }
            Some(Instance::Processes { masters, .. }) => {
                self.drain(release.as_str(), &socket, drain);
                self.note_leaving(release, &masters);
                masters.iter().for_each(|master| self.end(release, master, drain));
                if let Some(master) = masters.iter().find(|master| master.is_alive()) {
                    return Err(could_not_be_ended(release, master));
                }
            }
        }
        if socket.exists() && !http::listens(&socket) {
            // A leftover socket is removed before the next instance binds it.
            let _ = fs::remove_file(&socket);
        }
        self.leave_slot(release)?;
        self.forget(release)
    }

    /// Frees the slot of a release, unless one of its units still runs or visitors are led to it.
    pub(super) fn leave_slot(&self, release: &ReleaseName) -> Result<(), RestartError> {
        let Some(slot) = self.settings.slot_of(self.context.link, release) else { return Ok(()) };
        if self.settings.names(self.context.link, release) || !self.is_down(slot.as_str())? {
            return Ok(());
        }
        Ok(self.slots().free(&slot)?)
    }

    /// Removes the record of an instance that is gone.
    fn forget(&self, release: &ReleaseName) -> Result<(), RestartError> {
        match fs::remove_file(self.record_path(release.as_str())) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RestartError::File { act: "forget the instance in", path: self.record_path(release.as_str()), source })
            }
            _ => Ok(()),
        }
    }

    /// Waits until the socket has no connection left, accepted or not. No new one arrives, because the name leads elsewhere.
    fn drain(&self, release: &str, socket: &Path, drain: Duration) {
        if drain.is_zero() {
            return;
        }
        let end = Instant::now() + drain.min(self.context.watch.left());
        let mut quiet = 0;
        loop {
            let Some(state) = unix_socket(socket) else {
                if http::listens(socket) {
                    // The server listens in another network namespace, where the agent cannot count its connections.
                    std::thread::sleep(drain.min(Duration::from_secs(2)));
                }
                return;
            };
            quiet = if state.connections == 0 { quiet + 1 } else { 0 };
            if quiet == 3 {
                return;
            }
            if Instant::now() > end {
                (self.context.warn)(&format!(
                    "{} connections to the instance of {release} were still open after {} s, and it is stopped all the same: requests that take \
                     longer than drain, or connections that the proxy keeps open (nginx: keepalive without a keepalive_time that is shorter)",
                    state.connections,
                    drain.as_secs()
                ));
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Removes the logs of releases that are no longer on disk.
    pub(super) fn sweep_logs(&self, live: ReleaseRef<'_>) {
        let Some(releases) = live.dir.parent() else { return };
        for entry in fs::read_dir(self.context.instances).into_iter().flatten().flatten() {
            let name = entry
                .file_name()
                .to_str()
                .and_then(|name| name.strip_suffix(".log.1").or_else(|| name.strip_suffix(".log"))?.parse::<ReleaseName>().ok());
            if name.is_some_and(|name| !releases.join(name.as_str()).exists()) {
                // A leftover log is harmless.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The masters of an instance, by its record. If the record is incomplete or its process is gone, they are found by the variable that every process
/// of the instance has, and by the listening socket.
fn processes_of(record: Option<&Record>, socket: &Path) -> Vec<Process> {
    let recorded = record.filter(|record| record.boot == boot()).and_then(|record| record.process);
    if let Some(process) = recorded.map(|(pid, started)| Process::recorded(pid, started)).filter(Process::is_alive) {
        return vec![process];
    }
    let mut processes = with_variable(SOCKET, &socket.to_string_lossy());
    if let Some(state) = unix_socket(socket) {
        processes.extend(holding(Path::new(&format!("socket:[{}]", state.listener))));
    }
    processes.sort_by_key(Process::pid);
    processes.dedup();
    topmost(&processes)
}

/// The program of an instance, with the variables that describe the instance.
fn command(argv: &[String], serving: ReleaseRef<'_>, socket: &Path, env: &[(String, String)]) -> Program {
    let (socket, dir) = (socket.to_string_lossy(), serving.dir.to_string_lossy());
    let filled = |arg: &String| arg.replace("{socket}", &socket).replace("{release}", serving.name.as_str()).replace("{dir}", &dir);
    let argv: Vec<String> = argv.iter().map(filled).collect();
    serving.program(&argv, env).env(SOCKET, &*socket)
}

#[cfg(test)]
mod tests;
