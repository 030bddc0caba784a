//! Whose turn it is to start and stop the instances of an app: a run that switches, or the monitor that starts one again. The run goes first.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::process::Cancel;

/// The turn of an app.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    busy: Mutex<()>,
    /// How many runs wait for it, or have it.
    runs: AtomicUsize,
    /// Ends what the monitor is at.
    monitoring: Mutex<Cancel>,
    /// Whether the monitor is to end.
    over: AtomicBool,
}

/// A run's turn.
pub(crate) struct OfRun<'a> {
    turn: &'a Turn,
    _busy: MutexGuard<'a, ()>,
}

/// The monitor's turn.
pub(crate) struct OfMonitor<'a> {
    /// Asked when a run wants the turn.
    pub cancel: Cancel,
    _busy: MutexGuard<'a, ()>,
}

impl Turn {
    /// A run takes it; what the monitor is at is ended.
    pub(crate) fn of_run(&self) -> OfRun<'_> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.monitoring.lock().ask();
        OfRun { turn: self, _busy: self.busy.lock() }
    }

    /// The monitor takes it when no run has it.
    pub(crate) fn of_monitor(&self) -> OfMonitor<'_> {
        let busy = self.busy.lock();
        let cancel = Cancel::default();
        *self.monitoring.lock() = cancel.clone();
        // A run that came before this cancel was in place has asked the one before.
        if self.runs.load(Ordering::SeqCst) > 0 || self.is_over() {
            cancel.ask();
        }
        OfMonitor { cancel, _busy: busy }
    }

    /// Whether a run has it, or waits for it.
    pub(crate) fn is_of_run(&self) -> bool {
        self.runs.load(Ordering::SeqCst) > 0
    }

    /// Ends what the monitor is at, for good: the app's thread ends.
    pub(crate) fn end_monitor(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.monitoring.lock().ask();
    }

    /// Whether the monitor is to end.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

impl Drop for OfRun<'_> {
    fn drop(&mut self) {
        self.turn.runs.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_what_the_monitor_is_at_and_has_the_turn_alone() {
        let turn = Turn::default();
        let monitoring = turn.of_monitor();
        assert!(!monitoring.cancel.asked());
        std::thread::scope(|scope| {
            let run = scope.spawn(|| drop(turn.of_run()));
            while !monitoring.cancel.asked() {
                std::thread::yield_now();
            }
            assert!(!run.is_finished(), "it waits until the monitor has let go");
            drop(monitoring);
            run.join().unwrap();
        });
        assert!(!turn.of_monitor().cancel.asked(), "the run is over");
        turn.end_monitor();
        assert!(turn.of_monitor().cancel.asked());
    }
}
