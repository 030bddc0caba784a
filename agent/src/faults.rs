//! Places where a test may stop the agent, to see what dies with it. They are compiled in by the feature `failpoints`, which only tests set; without
//! it a place is nothing at all.
//!
//! A test names the place in the variable `FAILPOINTS`, as the crate `fail` reads it: `seal.synced=return(stop)`, or `fetch.tool=1*off->return(stop)` for
//! the second time. There the whole agent stops by SIGSTOP, with every thread in the middle of whatever it does, and waits for what the test makes of
//! it: SIGKILL, a power cut, a full disk, a changed clock, SIGCONT.
//!
//! The name of a place begins with what the app's thread is at: a step (`switch.renamed`), or the way back of one (`switch.undo.renamed`).

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("the feature `failpoints` is for tests: a variable of its environment could stop such an agent in the middle of a release");

#[cfg(feature = "failpoints")]
pub(crate) use compiled::{at, begin, within};

#[cfg(not(feature = "failpoints"))]
pub(crate) use nothing::{at, begin, within};

#[cfg(not(feature = "failpoints"))]
mod nothing {
    /// What keeps the places that were named.
    pub(crate) struct Begun;

    /// Reads which places were named.
    pub(crate) fn begin() -> Begun {
        Begun
    }

    /// Says what this thread is at from here on.
    #[inline]
    pub(crate) fn within(_: &str, _: &str) {}

    /// A place.
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

    /// What keeps the places that were named.
    pub(crate) type Begun = fail::FailScenario<'static>;

    /// Reads which places were named.
    pub(crate) fn begin() -> Begun {
        if std::env::var_os("FAILPOINTS").is_some() {
            tracing::warn!("this agent stops at places that the variable FAILPOINTS names: it is for tests only");
        }
        fail::FailScenario::setup()
    }

    /// Says what this thread is at from here on.
    pub(crate) fn within(step: &str, way: &str) {
        WHERE.with_borrow_mut(|place| *place = format!("{step}{way}"));
    }

    /// A place.
    pub(crate) fn at(label: &str) {
        let name = WHERE.with_borrow(|place| if place.is_empty() { label.to_owned() } else { format!("{place}.{label}") });
        let asked = fail::eval(&name, |what| what);
        if asked.flatten().as_deref() == Some("stop") {
            tracing::warn!("stopped at {name}");
            // Only a signal that does not exist could be refused.
            let _ = raise(Signal::SIGSTOP);
        }
    }
}
