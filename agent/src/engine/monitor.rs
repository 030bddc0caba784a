//! The monitor of an app: a thread that notices the end of a live instance that the agent itself started, and starts it again. It only waits for
//! events; nothing wakes it while the instance runs.
//!
//! ```text
//!            the master ends             after the pause
//! serves ───────────────────▶ gone ─────────────────────────▶ started again ──▶ serves
//!                              ▲                                    │ does not come up
//!                              └────────────────────────────────────┘ the pause doubles
//! ```
//!
//! A run that switches has the turn: until it is over, only the run starts and stops instances.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_model::grant::Back;
use agent_model::names::RunId;
use agent_model::request::Act;
use parking_lot::Mutex;

use super::app_thread::{AppThread, Silent, executor_of, secrets_of};
use super::health::Seen;
use super::instance_logs::InstanceLogs;
use crate::process::exits::{Exit, Waiter, Waker, waker};
use crate::process::{Cancel, Process};
use crate::restart::handover::{Standing, StartedAgain};
use crate::restart::{ReleaseRef, RestartContext, RestartError, Revived, Turn};
use crate::settings::App;
use crate::steps::{Findings, RunContext, StepContext, StepScope};
use crate::work::Failure;

/// The first pause before an instance that did not stay up is started again; each later pause doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After it has served for this long, an instance's earlier ends no longer count.
const STEADY: Duration = Duration::from_secs(60);

/// The monitor, for all threads but its own.
#[derive(Debug, Default)]
pub(super) struct Monitor {
    /// The turn to start and stop instances.
    pub turn: Turn,
    thread: Mutex<Option<(Waker, JoinHandle<()>)>>,
    /// The last health answer that readers got about the live release.
    pub seen: Seen,
    /// Why the live instance does not run; `None` while it does.
    down: Mutex<Option<String>>,
}

impl Monitor {
    /// Why the live instance does not run; `None` while it does.
    pub(super) fn down(&self) -> Option<String> {
        self.down.lock().clone()
    }

    /// Makes the monitor look again, because the live release or the settings may have changed.
    fn wake(&self) -> bool {
        let thread = self.thread.lock();
        thread.iter().for_each(|(waker, _)| waker.wake());
        thread.is_some()
    }

    /// Ends the thread and its current work; instances keep running.
    pub(super) fn end(&self) {
        self.turn.end_monitor();
        let Some((waker, thread)) = self.thread.lock().take() else { return };
        drop(waker);
        // A panic was reported already.
        let _ = thread.join();
    }
}

/// When an instance may be started again.
#[derive(Debug, Default)]
struct Backoff {
    /// How often it was started again since it was steady.
    tries: u32,
    tried: Option<Instant>,
    serves_since: Option<Instant>,
}

impl Backoff {
    fn serves(&mut self, now: Instant) {
        self.serves_since.get_or_insert(now);
    }

    /// Records that the instance is gone, and returns the pause before the next start. The first start has no pause.
    fn gone(&mut self, now: Instant) -> Duration {
        if self.serves_since.take().is_some_and(|since| now.saturating_duration_since(since) >= STEADY) {
            self.tries = 0;
        }
        let Some(tried) = self.tried.filter(|_| self.tries > 0) else { return Duration::ZERO };
        let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.tries - 1));
        (tried + doubled.min(LONGEST_PAUSE)).saturating_duration_since(now)
    }

    fn tries(&mut self, now: Instant) {
        self.tries = self.tries.saturating_add(1);
        self.tried = Some(now);
    }
}

impl AppThread {
    /// Makes the monitor look at the live release. Starts the monitor where the agent itself starts the instances.
    pub(super) fn monitor(self: &Arc<Self>) {
        let monitor = &self.engine.monitor;
        if monitor.wake() || !self.engine.settings().restart.is_monitored() {
            return;
        }
        let begun = waker().and_then(|(waker, waiter)| {
            let watcher = self.clone();
            let thread = std::thread::Builder::new().name(format!("watch-{}", self.engine.name));
            thread.spawn(move || watcher.watch(waiter)).map(|thread| (waker, thread))
        });
        match begun {
            Ok(begun) => *monitor.thread.lock() = Some(begun),
            Err(err) => {
                tracing::error!(app = %self.engine.name, "nobody watches the live instance: {err}; agentctl doctor shows whether it answers");
            }
        }
    }

    fn watch(&self, mut waiter: Waiter) {
        let engine = &self.engine;
        let mut backoff = Backoff::default();
        let mut known = Vec::new();
        let mut logs = InstanceLogs::within(engine.root.instances());
        loop {
            let (exits, pause) = self.look_after(&mut backoff, &mut known);
            let pause = logs.look().into_iter().chain(pause).min();
            if engine.monitor.turn.is_over() {
                return;
            }
            if let Err(err) = waiter.wait(&exits, logs.written(), pause) {
                tracing::error!(app = %engine.name, "the live instance is watched no longer: {err}");
                return;
            }
        }
    }

    /// Looks at the live instance, and starts it again when that is due. Returns the events to wait for.
    fn look_after(&self, backoff: &mut Backoff, known: &mut Vec<Process>) -> (Vec<Exit>, Option<Duration>) {
        let engine = &self.engine;
        let turn = engine.monitor.turn.of_monitor();
        if turn.cancel.asked() {
            // A run wants the turn, and the app's thread wakes the monitor when that is over.
            return (Vec::new(), None);
        }
        let say_down = |why: Option<String>| *engine.monitor.down.lock() = why;
        let standing = match self.standing(known, &turn.cancel) {
            Ok(standing) => standing,
            Err(failure) => {
                tracing::error!(app = %engine.name, "how the live instance stands cannot be told: {}", failure.reason);
                Standing::Unwatched
            }
        };
        match standing {
            Standing::Unwatched => {
                say_down(None);
                known.clear();
                (Vec::new(), None)
            }
            Standing::Serves(masters) => match masters.iter().map(|master| Exit::of(*master)).collect::<io::Result<Option<Vec<Exit>>>>() {
                Ok(Some(exits)) => {
                    say_down(None);
                    backoff.serves(Instant::now());
                    *known = masters;
                    (exits, None)
                }
                // A process has ended meanwhile.
                Ok(None) => (Vec::new(), Some(Duration::from_millis(10))),
                Err(err) => {
                    tracing::error!(app = %engine.name, "the live instance cannot be watched: {err}");
                    (Vec::new(), None)
                }
            },
            Standing::Gone => {
                let pause = backoff.gone(Instant::now());
                if !pause.is_zero() {
                    say_down(Some(format!("it ended and is started again in {} s", pause.as_secs().max(1))));
                    return (Vec::new(), Some(pause));
                }
                say_down(Some("it ended and is being started again".to_owned()));
                backoff.tries(Instant::now());
                let log = engine.root.live().ok().flatten().map(|live| engine.root.instances().join(format!("{live}.log")));
                let log = log.unwrap_or_default();
                let log = log.display();
                tracing::error!(app = %engine.name, "the live instance ended; it is started again. All that it said is in {log}");
                match self.start_again(&turn.cancel) {
                    Ok(again) => {
                        let times = again.map(|again| again.times).unwrap_or_default();
                        tracing::warn!(app = %engine.name, times, "the live instance was started again");
                    }
                    Err(failure) if turn.cancel.asked() => {
                        tracing::info!(app = %engine.name, "the live instance was not started again, for a run is about to: {}", failure.reason);
                    }
                    Err(failure) => {
                        say_down(Some(format!("it ended and could not be started again: {}", failure.reason)));
                        tracing::error!(app = %engine.name, "the live instance could not be started again: {}", failure.reason);
                    }
                }
                *known = Vec::new();
                // The monitor looks again at once, and waits if the instance is gone then.
                (Vec::new(), Some(Duration::ZERO))
            }
        }
    }
}

impl AppThread {
    /// Starts the live release after a boot, because nothing else starts an instance that the agent itself started.
    pub(super) fn revive(&self) {
        let engine = &self.engine;
        let revived = self.env_of_live();
        let revived =
            revived.and_then(|env| self.with_live(&env, &Cancel::default(), |context, app, live| app.restart.revive(context, live)));
        let Ok(Some(live)) = engine.root.live() else { return };
        match revived {
            Ok(Some(Revived::Started)) => {
                tracing::info!(app = %engine.name, release = %live, "nothing served: the live release was started again")
            }
            Ok(_) => {}
            Err(failure) => {
                tracing::error!(app = %engine.name, release = %live, "the live release could not be started again: {}", failure.reason)
            }
        }
    }

    /// The state of the live instance, where the agent itself has started it.
    fn standing(&self, known: &[Process], cancel: &Cancel) -> Result<Standing, Failure> {
        let standing = self.with_live(&[], cancel, |context, app, live| app.restart.standing(context, live.name, known))?;
        Ok(standing.unwrap_or(Standing::Unwatched))
    }

    /// Starts the ended live instance again.
    fn start_again(&self, cancel: &Cancel) -> Result<Option<StartedAgain>, Failure> {
        let now = chrono::Utc::now().timestamp();
        let env = self.env_of_live()?;
        Ok(self.with_live(&env, cancel, |context, app, live| app.restart.start_again(context, live, now))?.flatten())
    }

    /// The environment of the app's own programs. With other settings than its own, the app could serve something else altogether.
    fn env_of_live(&self) -> Result<Vec<(String, String)>, Failure> {
        let app = self.engine.settings();
        let secrets = secrets_of(&app).map_err(|_| Failure::new("the secrets cannot be read"))?;
        Ok(app.variables(secrets))
    }

    /// Runs a function on the live release outside of any run; `None` where none is live.
    fn with_live<T>(
        &self,
        env: &[(String, String)],
        cancel: &Cancel,
        act: impl FnOnce(&RestartContext<'_>, &App, ReleaseRef<'_>) -> Result<T, RestartError>,
    ) -> Result<Option<T>, Failure> {
        let (engine, app) = (&self.engine, self.engine.settings());
        let Some(live) = engine.root.live()? else { return Ok(None) };
        let (silent, check) = (Silent, Act::Check);
        let executor = executor_of(engine, &app, env);
        let run = RunContext {
            id: RunId(0),
            app: &app,
            root: &engine.root,
            lock: &self.lock,
            act: &check,
            caller: "agent",
            refs: None,
            back: &Back::Always,
            marker: "revive",
            executor: &executor,
            turn: &engine.monitor.turn,
            env,
            begun: Instant::now(),
        };
        let found = Findings { target: self.target_of(&live).ok(), ..Findings::default() };
        let mut cx = StepContext { run, scope: StepScope::new(&silent, cancel), found };
        cx.at("switch");
        cx.release_ref(&live, |serving| Ok(cx.restart_context(|context| act(context, &app, serving))?)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_are_forgiven() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let mut backoff = Backoff::default();
        backoff.serves(at(0));
        let mut now = 3;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let pause = backoff.gone(at(now));
            pauses.push(pause.as_secs());
            now += pause.as_secs();
            assert_eq!(backoff.gone(at(now)), Duration::ZERO, "the pause is over");
            backoff.tries(at(now));
            backoff.serves(at(now));
        }
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff.gone(at(now + 59)).as_secs(), 1, "it had not served for a minute");
        backoff.serves(at(now + 60));
        assert_eq!(backoff.gone(at(now + 120)), Duration::ZERO, "it had, so it is started again at once");
        backoff.tries(at(now + 120));
        assert_eq!(backoff.gone(at(now + 120)).as_secs(), 1);
    }
}
