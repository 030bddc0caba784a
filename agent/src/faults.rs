//! Places where a test may stop the agent, to see the effect of a crash there. The feature `failpoints`, which only tests set, compiles them in;
//! without it a place is empty code.
//!
//! A test names the place in the variable `FAILPOINTS`, in the syntax of the crate `fail`: `seal.synced=return(stop)`, or
//! `fetch.tool=1*off->return(stop)` for the second time. There the whole agent stops by SIGSTOP, with every thread in the middle of its work. The
//! test then decides: SIGKILL, a power cut, a full disk, a changed clock, SIGCONT.
//!
//! The name of a place begins with the current work of the app's thread: a step (`switch.renamed`), or the way back of one (`switch.undo.renamed`).

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("the feature `failpoints` is for tests: a variable of its environment could stop such an agent in the middle of a release");

#[cfg(feature = "failpoints")]
pub(crate) use compiled::{at, begin, within};

#[cfg(not(feature = "failpoints"))]
pub(crate) use nothing::{at, begin, within};

#[cfg(not(feature = "failpoints"))]
mod nothing {
    /// Keeps the named places active.
    pub(crate) struct Begun;

    /// Reads the names of the places.
    pub(crate) fn begin() -> Begun {
        Begun
    }

    /// Sets the current work of this thread.
    #[inline]
    pub(crate) fn within(_: &str, _: &str) {}

    #[inline]
    pub(crate) fn at(_: &str) {}
}

#[cfg(feature = "failpoints")]
mod compiled {
    use std::cell::RefCell;

    use nix::sys::signal::{Signal, raise};

    thread_local! {
        static WHERE: RefCell<String> = const { RefCell::new(String::new()) };
    }

    /// Keeps the named places active.
    pub(crate) type Begun = fail::FailScenario<'static>;

    /// Reads the names of the places.
    pub(crate) fn begin() -> Begun {
        if std::env::var_os("FAILPOINTS").is_some() {
            tracing::warn!("this agent stops at places that the variable FAILPOINTS names: it is for tests only");
        }
        fail::FailScenario::setup()
    }

    /// Sets the current work of this thread.
    pub(crate) fn within(step: &str, way: &str) {
        WHERE.with_borrow_mut(|place| *place = format!("{step}{way}"));
    }

    /// Stops the agent here if the test has named this place.
    pub(crate) fn at(label: &str) {
        let name = WHERE.with_borrow(|place| if place.is_empty() { label.to_owned() } else { format!("{place}.{label}") });
        let asked = fail::eval(&name, |what| what);
        if asked.flatten().as_deref() == Some("stop") {
            tracing::warn!("stopped at {name}");
            // raise fails only for an invalid signal.
            let _ = raise(Signal::SIGSTOP);
        }
    }
}
