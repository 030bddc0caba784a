//! systemd through D-Bus. The engine's threads are blocking ones: what waits for the bus runs in a runtime of its own here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use agent_model::names::{AppName, ReleaseName};

use tokio::runtime::Runtime;
use zbus::{DynamicType, OwnedObjectPath, OwnedVariant};

use super::error::is_denied;
use super::helper::{self, HelperAnswer};
use super::{RestartContext, RestartError};
use crate::tools::{Process, Program, Watch};

/// How long a question may take that starts nothing.
const ANSWER: Duration = Duration::from_secs(25);
/// How often a unit is looked at that was told to stop.
const POLL: Duration = Duration::from_millis(50);

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// A connection to systemd, for the length of one act.
pub(super) struct Bus<'a> {
    // Dropped before the runtime that it runs in.
    connection: zbus::Connection,
    runtime: Runtime,
    watch: &'a Watch<'a>,
    app: Option<&'a AppName>,
    /// The units that were started, and when: what they said before is another instance's.
    started: RefCell<HashMap<String, SystemTime>>,
}

/// What is done to a unit: a method of `org.freedesktop.systemd1.Manager`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Start,
    Stop,
    Restart,
    ReloadOrRestart,
}

impl Act {
    fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Stop => "StopUnit",
            Self::Restart => "RestartUnit",
            Self::ReloadOrRestart => "ReloadOrRestartUnit",
        }
    }

    /// For people, and in the names of helpers.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::ReloadOrRestart => "reload",
        }
    }
}

/// A unit as systemd sees it: org.freedesktop.systemd1(5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unit {
    pub name: String,
    pub load_state: String,
    pub active_state: String,
    pub sub_state: String,
    pub result: String,
    pub status_text: String,
    pub kind: String,
    pub main_pid: u32,
    pub restarts: u32,
    pub exit_status: i32,
    pub kill_signal: i32,
    pub kill_mode: String,
    pub invocation: Vec<u8>,
    pub working_directory: String,
    pub needs_daemon_reload: bool,
    pub can_reload: bool,
    pub exec_start: Vec<Vec<String>>,
    pub exec_reload: Vec<Vec<String>>,
    pub exec_stop: Vec<Vec<String>>,
    /// `Environment=`: `NAME=value` each.
    pub environment: Vec<String>,
    /// `EnvironmentFile=`, in their order: what comes later counts.
    pub environment_files: Vec<PathBuf>,
    /// `TimeoutStopSec=`; nothing where it is infinite.
    pub stop_timeout: Option<Duration>,
    /// When it was told to stop the last time, when it was down, and when it was started, in microseconds of the monotonic clock.
    pub told_to_stop: u64,
    pub went_down: u64,
    pub was_started: u64,
    /// The same as the last, by the wall clock.
    pub started_at: u64,
}

/// Properties as `GetAll` gives them.
struct Properties(HashMap<String, OwnedVariant>);

impl Properties {
    fn take<T: TryFrom<OwnedVariant> + Default>(&mut self, name: &str) -> T {
        self.0.remove(name).and_then(|value| T::try_from(value).ok()).unwrap_or_default()
    }

    /// The argument vectors of `ExecStart` and the like: `a(sasbttttuii)`.
    fn commands(&mut self, name: &str) -> Vec<Vec<String>> {
        type Command = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);
        let value = self.0.remove(name);
        let commands = value.and_then(|value| Vec::<Command>::try_from(value).ok()).unwrap_or_default();
        commands.into_iter().map(|command| command.1).collect()
    }
}

impl<'a> Bus<'a> {
    /// Connects; the address is systemd's own, or that of `DBUS_SYSTEM_BUS_ADDRESS`.
    pub(super) fn open(watch: &'a Watch<'a>) -> Result<Self, RestartError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| RestartError::File {
            act: "start a runtime for",
            path: "D-Bus".into(),
            source,
        })?;
        let connection = bounded(&runtime, watch, ANSWER, "reach systemd", zbus::Connection::system())?;
        let bus = Self { runtime, connection, watch, app: None, started: RefCell::default() };
        bus.call::<()>("hear of jobs", "Subscribe", &()).map(|()| bus)
    }

    /// The same, to do something for an app.
    pub(super) fn of(context: &'a RestartContext<'a>) -> Result<Self, RestartError> {
        Self::open(context.watch).map(|bus| Self { app: Some(context.app), ..bus })
    }

    /// Runs a future to its end, but not beyond the limit, the watch's deadline, or a cancel.
    pub(super) fn wait<T>(&self, act: &str, limit: Duration, future: impl Future<Output = zbus::Result<T>>) -> Result<T, RestartError> {
        bounded(&self.runtime, self.watch, limit, act, future)
    }

    fn call<T: serde::de::DeserializeOwned + zbus::Type>(
        &self,
        act: &str,
        method: &str,
        body: &(impl serde::Serialize + DynamicType),
    ) -> Result<T, RestartError> {
        self.wait(act, ANSWER, async {
            let reply = self.connection.call_method(Some(SERVICE), "/org/freedesktop/systemd1", Some(MANAGER), method, body).await?;
            reply.body().deserialize::<T>()
        })
    }

    /// A unit, loaded if it was not; all that is read of it is of one moment.
    pub(super) fn unit(&self, name: &str) -> Result<Unit, RestartError> {
        let act = format!("look at {name}");
        let path: OwnedObjectPath = self.call(&act, "LoadUnit", &(name))?;
        let properties = self.wait(&act, ANSWER, async {
            let properties = Some("org.freedesktop.DBus.Properties");
            // The empty name stands for every interface that the object has.
            let reply = self.connection.call_method(Some(SERVICE), &path, properties, "GetAll", &("")).await?;
            reply.body().deserialize::<HashMap<String, OwnedVariant>>()
        })?;
        let mut unit = Properties(properties);
        Ok(Unit {
            name: name.to_owned(),
            load_state: unit.take("LoadState"),
            active_state: unit.take("ActiveState"),
            sub_state: unit.take("SubState"),
            invocation: unit.take("InvocationID"),
            needs_daemon_reload: unit.take("NeedDaemonReload"),
            can_reload: unit.take("CanReload"),
            result: unit.take("Result"),
            status_text: unit.take("StatusText"),
            kind: unit.take("Type"),
            main_pid: unit.take("MainPID"),
            restarts: unit.take("NRestarts"),
            exit_status: unit.take("ExecMainStatus"),
            kill_signal: unit.take("KillSignal"),
            kill_mode: unit.take("KillMode"),
            working_directory: unit.take("WorkingDirectory"),
            exec_start: unit.commands("ExecStart"),
            exec_reload: unit.commands("ExecReload"),
            exec_stop: unit.commands("ExecStop"),
            environment: unit.take("Environment"),
            environment_files: unit.take::<Vec<(String, bool)>>("EnvironmentFiles").into_iter().map(|(path, _)| path.into()).collect(),
            stop_timeout: Some(unit.take("TimeoutStopUSec")).filter(|time| *time != u64::MAX).map(Duration::from_micros),
            told_to_stop: unit.take("ActiveExitTimestampMonotonic"),
            went_down: unit.take("InactiveEnterTimestampMonotonic"),
            was_started: unit.take("InactiveExitTimestampMonotonic"),
            started_at: unit.take("InactiveExitTimestamp"),
        })
    }

    /// A unit that can be started: it is there, it is not masked, and its file can be read.
    pub(super) fn usable(&self, name: &str) -> Result<Unit, RestartError> {
        let unit = self.unit(name)?;
        let unmask = format!("systemctl unmask {name}");
        let (what, hint) = match unit.load_state.as_str() {
            "loaded" => return Ok(unit),
            "not-found" => ("does not exist", "install the unit, then systemctl daemon-reload; or correct its name in the app's file"),
            "masked" => ("is masked", unmask.as_str()),
            _ => ("has a unit file that systemd cannot read", "systemd-analyze verify says what is wrong with it"),
        };
        Err(RestartError::Unit { unit: name.to_owned(), what: what.to_owned(), hint: Some(hint.to_owned()), tail: Vec::new() })
    }

    /// Does something to a unit and waits for the end of it: by its helper where it has one, else by a job of systemd's.
    pub(super) fn job(&self, act: Act, name: &str, timeout: Duration) -> Result<(), RestartError> {
        let limit = timeout.min(self.watch.left());
        if act == Act::Start {
            self.started.borrow_mut().insert(name.to_owned(), SystemTime::now());
        }
        let result = match helper::ask(self, act, name, limit) {
            Ok(HelperAnswer::Done) => return Ok(()),
            Ok(HelperAnswer::Nobody) => self.ask_systemd(act, name, limit),
            Err(error) => Err(error),
        };
        let result = match result {
            Err(RestartError::TimedOut(_)) if !self.watch.left().is_zero() => {
                return Err(self.failed(name, format!("took more than {} s to {}", timeout.as_secs(), act.word())));
            }
            result => result?,
        };
        match result.as_str() {
            "done" => Ok(()),
            "dependency" => Err(self.failed(name, format!("did not {}: a unit that it depends on failed", act.word()))),
            "timeout" => Err(self.failed(name, format!("did not {} within its own timeout", act.word()))),
            "canceled" => Err(self.failed(name, format!("did not {}: somebody cancelled the job", act.word()))),
            other => Err(self.failed(name, format!("did not {} ({other})", act.word()))),
        }
    }

    /// Has a unit stop, and waits only until it is about to: what it is at, it finishes.
    pub(super) fn let_finish(&self, name: &str) -> Result<(), RestartError> {
        let end = Instant::now() + ANSWER;
        loop {
            match helper::tell(self, Act::Stop, name)? {
                HelperAnswer::Done => {}
                HelperAnswer::Nobody => self.tell_to_stop(name)?,
            }
            // A helper that was at it already takes no notice; so it is told again.
            for _ in 0..10 {
                if !self.unit(name)?.goes_on() {
                    return Ok(());
                }
                if self.watch.left().is_zero() {
                    return Err(RestartError::TimedOut(format!("telling {name} to stop")));
                }
                self.watch.pause(POLL);
            }
            if Instant::now() > end {
                return Err(self.failed(name, "was told to stop, and goes on".to_owned()));
            }
        }
    }

    fn tell_to_stop(&self, name: &str) -> Result<(), RestartError> {
        match self.call::<OwnedObjectPath>(&format!("stop {name}"), Act::Stop.method(), &(name, "replace")) {
            Err(RestartError::Bus { source, .. }) if is_denied(&source) => Err(self.denied(Act::Stop, name, source)),
            told => told.map(drop),
        }
    }

    /// Makes sure, before anything is done, that the agent may do this to a unit. A job of the one mode is for stopping alone, of the other for starting;
    /// any other is refused by systemd, but not before it has looked whether it is allowed.
    pub(super) fn may(&self, act: Act, name: &str) -> Result<(), RestartError> {
        if helper::is_there(act, name) || nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let mode = if act == Act::Stop { "isolate" } else { "triggering" };
        match self.call::<OwnedObjectPath>(&format!("{} {name}", act.word()), act.method(), &(name, mode)) {
            Err(RestartError::Bus { source, .. }) if is_denied(&source) => Err(self.denied(act, name, source)),
            // Where it is asked in earnest, all else is told.
            _ => Ok(()),
        }
    }

    /// The result of a job, as systemd names it.
    fn ask_systemd(&self, act: Act, name: &str, limit: Duration) -> Result<String, RestartError> {
        if matches!(act, Act::Start | Act::Restart | Act::ReloadOrRestart) && self.unit(name)?.active_state == "failed" {
            self.reset_failed(name);
        }
        let result = self.wait(&format!("{} {name}", act.word()), limit, async {
            let rule = zbus::MatchRule::builder()
                .msg_type(zbus::message::Type::Signal)
                .sender(SERVICE)
                .interface(MANAGER)
                .member("JobRemoved")
                .build()?;
            let queue = NonZeroUsize::new(4096);
            let mut signals = zbus::MessageStream::for_match_rule(rule, &self.connection, queue).await?;
            let path = "/org/freedesktop/systemd1";
            let reply = self.connection.call_method(Some(SERVICE), path, Some(MANAGER), act.method(), &(name, "replace")).await?;
            let job: OwnedObjectPath = reply.body().deserialize()?;
            while let Some(signal) = next(&mut signals).await {
                let body = signal?.body();
                let (_, removed, _, result): (u32, OwnedObjectPath, String, String) = body.deserialize()?;
                if removed == job {
                    return Ok(result);
                }
            }
            Err(zbus::Error::InvalidReply)
        });
        result.map_err(|error| match error {
            RestartError::Bus { source, .. } if is_denied(&source) => self.denied(act, name, source),
            error => error,
        })
    }

    /// That neither a helper nor systemd does this for the agent, and what to do.
    fn denied(&self, act: Act, name: &str, source: Box<zbus::Error>) -> RestartError {
        let app = self.app.map_or("APP", AppName::as_str);
        let of_release = name
            .split_once('@')
            .and_then(|(_, rest)| rest.split_once('.'))
            .is_some_and(|(instance, _)| instance.parse::<ReleaseName>().is_ok());
        let hint = if of_release {
            format!(
                "a helper is for a unit whose name stays: set slots = [\"blue\", \"green\"] under [restart], and agentctl setup app {app}; or allow this \
                 very unit by a polkit rule"
            )
        } else {
            let socket = helper::socket_unit(act, name);
            format!("systemctl enable --now {socket}, or agentctl setup app {app}; a polkit rule for this very unit will do as well")
        };
        RestartError::Denied { act: format!("{} {name}", act.word()), hint, source }
    }

    /// A unit that failed is remembered by systemd, and not started again when that was too often. Whoever may not do this may still start it.
    pub(super) fn forget_failure(&self, name: &str) {
        if !self.unit(name).is_ok_and(|unit| unit.active_state == "failed") {
            return;
        }
        // The helper that stops a unit forgets what it failed by. What systemd remembers all the same does no harm.
        if !matches!(helper::ask(self, Act::Stop, name, ANSWER), Ok(HelperAnswer::Done)) {
            self.reset_failed(name);
        }
    }

    fn reset_failed(&self, name: &str) {
        let _ = self.call::<()>("reset", "ResetFailedUnit", &(name));
    }

    /// A failure of a unit, with all that systemd knows of it.
    pub(super) fn failed(&self, name: &str, mut what: String) -> RestartError {
        if let Ok(unit) = self.unit(name) {
            what.push_str(&format!("; it is now {} ({})", unit.active_state, unit.sub_state));
            if unit.restarts > 0 {
                what.push_str(&format!(", restarted {} times", unit.restarts));
            }
            if !matches!(unit.result.as_str(), "" | "success") {
                what.push_str(&format!(", result {}", unit.result));
            }
            if unit.exit_status != 0 {
                what.push_str(&format!(", exit status {}", unit.exit_status));
            }
            if !unit.status_text.is_empty() {
                what.push_str(&format!(", and says {:?}", unit.status_text));
            }
        }
        let hint = Some(format!("journalctl -u {name} has the whole story"));
        RestartError::Unit { unit: name.to_owned(), what, hint, tail: self.journal(name) }
    }

    /// What a unit said before it was started as it is now is another's.
    pub(super) fn hear_of(&self, unit: &Unit) {
        self.started.borrow_mut().insert(unit.name.clone(), SystemTime::UNIX_EPOCH + Duration::from_micros(unit.started_at));
    }

    /// The last lines that a unit wrote, where the agent may read them. A server that starts says two dozen lines before its traceback.
    pub(super) fn journal(&self, name: &str) -> Vec<String> {
        // A slot's unit has said things of other releases before.
        let since = self.started.borrow().get(name).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let since = since.map(|since| format!("--since=@{}.{:06}", since.as_secs(), since.subsec_micros()));
        self.read_journal(["-u", name].into_iter().chain(since.as_deref()))
    }

    /// The last lines of one invocation of a unit.
    pub(super) fn journal_of(&self, invocation: &[u8]) -> Vec<String> {
        let invocation: String = invocation.iter().map(|byte| format!("{byte:02x}")).collect();
        self.read_journal([format!("_SYSTEMD_INVOCATION_ID={invocation}").as_str()])
    }

    fn read_journal<'s>(&self, which: impl IntoIterator<Item = &'s str>) -> Vec<String> {
        let nothing = |_, _: &str| {};
        let deadline = Instant::now() + Duration::from_secs(5);
        let watch = Watch { marker: self.watch.marker, deadline, cancel: self.watch.cancel, lines: &nothing };
        // Backwards, for with --since the first lines would come, and not the last ones.
        let last = ["-n", "80", "--reverse", "--no-pager", "-q", "-o", "cat"];
        let read = Program::new("journalctl").args(last).args(which).quiet().capture(&watch);
        read.map(|read| read.text().lines().rev().map(str::to_owned).collect()).unwrap_or_default()
    }

    /// The units that are there and neither inactive nor failed, by a pattern such as `shop@*.service`.
    pub(super) fn running(&self, pattern: &str) -> Result<Vec<String>, RestartError> {
        type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);
        let states = ["active", "activating", "reloading", "deactivating"];
        let act = format!("list {pattern}");
        let units: Vec<Listed> = self.call(&act, "ListUnitsByPatterns", &(&states[..], &[pattern][..]))?;
        Ok(units.into_iter().map(|unit| unit.0).collect())
    }
}

impl Unit {
    /// Whether anything of it runs or may run without being asked, as while systemd waits before it starts it again.
    pub(super) fn is_down(&self) -> bool {
        matches!(self.active_state.as_str(), "inactive" | "failed")
    }

    /// Whether it does what it is there for, or is about to: not down, and not told to stop.
    pub(super) fn goes_on(&self) -> bool {
        !self.is_down() && self.active_state != "deactivating"
    }

    /// How long ago it was told to stop, where it is about to.
    pub(super) fn stopping_for(&self) -> Option<Duration> {
        let now = Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).ok()?);
        now.checked_sub(Duration::from_micros(self.told_to_stop)).filter(|_| self.active_state == "deactivating")
    }

    /// How long it may take to stop: `ExecStop=` has the time of `TimeoutStopSec=`, and what runs then has it once more.
    pub(super) fn may_stop_for(&self) -> Option<Duration> {
        self.stop_timeout.map(|time| if self.exec_stop.is_empty() { time } else { time * 2 })
    }

    /// How long it took to stop, where it did so after it was as `before`, and systemd remembers it.
    pub(super) fn took_to_stop(&self, before: &Self) -> Option<Duration> {
        // One that did not come up after that went down once more.
        let started_since = (self.told_to_stop..self.went_down).contains(&self.was_started);
        let is_remembered = self.went_down != 0;
        let took = self.went_down.checked_sub(self.told_to_stop);
        let took = took.filter(|_| is_remembered && self.went_down != before.went_down && !started_since);
        took.map(Duration::from_micros)
    }

    /// The main process and all that came from it; the leaves are the workers.
    pub(super) fn processes(&self) -> Vec<Process> {
        if self.main_pid == 0 {
            return Vec::new();
        }
        let mut found = vec![Process::of(self.main_pid)];
        let mut at = 0;
        while at < found.len() {
            found.extend(found[at].children());
            at += 1;
        }
        found
    }

    /// The processes that do the work: the children of the main process, or itself when there are none.
    pub(super) fn workers(&self) -> Vec<Process> {
        let mut processes = self.processes();
        if processes.len() > 1 {
            processes.remove(0);
        }
        processes
    }
}

async fn next(signals: &mut zbus::MessageStream) -> Option<zbus::Result<zbus::Message>> {
    use futures_core::Stream;
    let mut signals = std::pin::Pin::new(signals);
    std::future::poll_fn(move |context| signals.as_mut().poll_next(context)).await
}

/// Runs a future to its end, but not beyond the limit, the watch's deadline, or a cancel.
fn bounded<T>(
    runtime: &Runtime,
    watch: &Watch<'_>,
    limit: Duration,
    act: &str,
    future: impl Future<Output = zbus::Result<T>>,
) -> Result<T, RestartError> {
    runtime.block_on(async {
        let cancelled = async {
            while !watch.cancel.asked() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            result = future => result.map_err(|source| RestartError::Bus { act: act.to_owned(), source: Box::new(source) }),
            () = tokio::time::sleep(limit.min(watch.left())) => Err(RestartError::TimedOut(format!("trying to {act}"))),
            () = cancelled => Err(RestartError::Cancelled(format!("the attempt to {act}"))),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_unit_took_to_stop_is_known_while_systemd_remembers_it() {
        let at = |told_to_stop, went_down, was_started| Unit { told_to_stop, went_down, was_started, ..Unit::default() };
        let took = |before: &Unit, now: &Unit| now.took_to_stop(before).map(|took| took.as_micros());
        let working = at(0, 0, 1);
        assert_eq!(took(&working, &at(5, 9, 1)), Some(4));
        assert_eq!(took(&working, &working), None, "it has not stopped");
        assert_eq!(took(&at(5, 9, 10), &at(5, 9, 10)), None, "that was before");
        assert_eq!(took(&at(5, 9, 10), &at(0, 0, 0)), None, "forgotten, and no stop that took no time");
        assert_eq!(took(&working, &at(5, 9, 7)), None, "it went down once more");
    }
}
