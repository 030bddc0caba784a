//! systemd through D-Bus. The engine's threads block, so calls on the bus run in a runtime of their own here.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant, SystemTime};

use agent_model::names::AppName;

use tokio::runtime::Runtime;
use zbus::{DynamicType, OwnedObjectPath, OwnedVariant};

use super::action::UnitAction;
use super::error::{SystemdError, is_denied};
use super::unit::Unit;
use crate::process::{Program, Watch};

/// How long a call may take that starts nothing.
pub(super) const ANSWER: Duration = Duration::from_secs(25);
const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// A connection to systemd, for the duration of one action.
pub(crate) struct Bus<'a> {
    // Dropped before the runtime that it runs in.
    connection: zbus::Connection,
    runtime: Runtime,
    pub(super) watch: &'a Watch<'a>,
    pub(super) app: Option<&'a AppName>,
    /// The units that were started, and when: earlier log lines belong to another instance.
    pub(super) started: RefCell<HashMap<String, SystemTime>>,
}

/// Properties as `GetAll` returns them.
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
    pub(crate) fn open(watch: &'a Watch<'a>) -> Result<Self, SystemdError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| SystemdError::File {
            act: "start a runtime for",
            path: "D-Bus".into(),
            source,
        })?;
        let connection = bounded(&runtime, watch, ANSWER, "reach systemd", zbus::Connection::system())?;
        let bus = Self { runtime, connection, watch, app: None, started: RefCell::default() };
        bus.call::<()>("hear of jobs", "Subscribe", &()).map(|()| bus)
    }

    /// Like [`Self::open`], for an action on behalf of an app.
    pub(crate) fn of(app: &'a AppName, watch: &'a Watch<'a>) -> Result<Self, SystemdError> {
        Self::open(watch).map(|bus| Self { app: Some(app), ..bus })
    }

    /// Runs a future to its end, but not beyond the limit, the watch's deadline, or a cancel.
    pub(crate) fn wait<T>(&self, act: &str, limit: Duration, future: impl Future<Output = zbus::Result<T>>) -> Result<T, SystemdError> {
        bounded(&self.runtime, self.watch, limit, act, future)
    }

    pub(super) fn call<T: serde::de::DeserializeOwned + zbus::Type>(
        &self,
        act: &str,
        method: &str,
        body: &(impl serde::Serialize + DynamicType),
    ) -> Result<T, SystemdError> {
        self.wait(act, ANSWER, async {
            let reply = self.connection.call_method(Some(SERVICE), "/org/freedesktop/systemd1", Some(MANAGER), method, body).await?;
            reply.body().deserialize::<T>()
        })
    }

    /// A unit, loaded if it was not; one call reads all properties, so they are consistent.
    pub(crate) fn unit(&self, name: &str) -> Result<Unit, SystemdError> {
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

    /// A unit that can be started: it exists, it is not masked, and its file can be read.
    pub(crate) fn usable(&self, name: &str) -> Result<Unit, SystemdError> {
        let unit = self.unit(name)?;
        let unmask = format!("systemctl unmask {name}");
        let (what, hint) = match unit.load_state.as_str() {
            "loaded" => return Ok(unit),
            "not-found" => ("does not exist", "install the unit, then systemctl daemon-reload; or correct its name in the app's file"),
            "masked" => ("is masked", unmask.as_str()),
            _ => ("has a unit file that systemd cannot read", "systemd-analyze verify says what is wrong with it"),
        };
        Err(SystemdError::Unit { unit: name.to_owned(), what: what.to_owned(), hint: Some(hint.to_owned()), tail: Vec::new() })
    }

    /// The result of a job, as systemd names it.
    pub(super) fn ask_systemd(&self, act: UnitAction, name: &str, limit: Duration) -> Result<String, SystemdError> {
        if matches!(act, UnitAction::Start | UnitAction::Restart | UnitAction::ReloadOrRestart) && self.unit(name)?.active_state == "failed"
        {
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
            SystemdError::Bus { source, .. } if is_denied(&source) => self.denied(act, name, source),
            error => error,
        })
    }

    pub(super) fn reset_failed(&self, name: &str) {
        let _ = self.call::<()>("reset", "ResetFailedUnit", &(name));
    }

    /// A failure of a unit, with all that systemd knows about it.
    pub(crate) fn failed(&self, name: &str, mut what: String) -> SystemdError {
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
        SystemdError::Unit { unit: name.to_owned(), what, hint, tail: self.journal(name) }
    }

    /// Ignores log lines from before the unit's current start, because they belong to another instance.
    pub(crate) fn hear_of(&self, unit: &Unit) {
        self.started.borrow_mut().insert(unit.name.clone(), SystemTime::UNIX_EPOCH + Duration::from_micros(unit.started_at));
    }

    /// The last lines that a unit wrote, where the agent may read them. A starting server writes two dozen lines before its traceback.
    pub(crate) fn journal(&self, name: &str) -> Vec<String> {
        // A slot's unit has earlier log lines about other releases.
        let since = self.started.borrow().get(name).and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let since = since.map(|since| format!("--since=@{}.{:06}", since.as_secs(), since.subsec_micros()));
        self.read_journal(["-u", name].into_iter().chain(since.as_deref()))
    }

    /// The last lines of one invocation of a unit.
    pub(crate) fn journal_of(&self, invocation: &[u8]) -> Vec<String> {
        self.read_journal([format!("_SYSTEMD_INVOCATION_ID={}", hex::encode(invocation)).as_str()])
    }

    fn read_journal<'s>(&self, which: impl IntoIterator<Item = &'s str>) -> Vec<String> {
        let nothing = |_, _: &str| {};
        let deadline = Instant::now() + Duration::from_secs(5);
        let watch = Watch { marker: self.watch.marker, deadline, cancel: self.watch.cancel, lines: &nothing };
        // In reverse, because with --since journalctl would return the first lines instead of the last.
        let last = ["-n", "80", "--reverse", "--no-pager", "-q", "-o", "cat"];
        let read = Program::new("journalctl").args(last).args(which).quiet().capture(&watch);
        read.map(|read| read.text().lines().rev().map(str::to_owned).collect()).unwrap_or_default()
    }

    /// The units that exist and are neither inactive nor failed, by a pattern such as `shop@*.service`.
    pub(crate) fn running(&self, pattern: &str) -> Result<Vec<String>, SystemdError> {
        type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);
        let states = ["active", "activating", "reloading", "deactivating"];
        let act = format!("list {pattern}");
        let units: Vec<Listed> = self.call(&act, "ListUnitsByPatterns", &(&states[..], &[pattern][..]))?;
        Ok(units.into_iter().map(|unit| unit.0).collect())
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
) -> Result<T, SystemdError> {
    runtime.block_on(async {
        let cancelled = async {
            while !watch.cancel.asked() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            result = future => result.map_err(|source| SystemdError::Bus { act: act.to_owned(), source: Box::new(source) }),
            () = tokio::time::sleep(limit.min(watch.left())) => Err(SystemdError::TimedOut(format!("trying to {act}"))),
            () = cancelled => Err(SystemdError::Cancelled(format!("the attempt to {act}"))),
        }
    })
}
