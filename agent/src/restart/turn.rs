//! The lock for starting and stopping an app's instances. A run that switches and the monitor that restarts an instance take turns; the run goes
//! first.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::process::Cancel;

#[derive(Debug, Default)]
pub(crate) struct Turn {
    busy: Mutex<()>,
    /// How many runs wait for it, or have it.
    runs: AtomicUsize,
    /// Cancels the monitor's current work.
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
    /// Set when a run wants the turn.
    pub cancel: Cancel,
    _busy: MutexGuard<'a, ()>,
}

impl Turn {
    /// Takes the turn for a run, and cancels the monitor's current work.
    pub(crate) fn of_run(&self) -> OfRun<'_> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        self.monitoring.lock().ask();
        OfRun { turn: self, _busy: self.busy.lock() }
    }

    /// Takes the turn for the monitor once no run has it.
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

    /// Ends the monitor's current work for good, because the app's thread ends.
    pub(crate) fn end_monitor(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.monitoring.lock().ask();
    }

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
