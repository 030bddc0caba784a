//! The fault battery: the real agent, stopped at a named place in the middle of what it does, and then killed, cut off from power, or left with a full
//! disk or a failing system call; and afterwards what must hold whatever happened.
//!
//! A [`Group`] is one rig, on which its cases run one after the other. Each case asserts that its fault really happened: a case that passes
//! without it is worse than none.

mod calls;
mod cut;
mod disks;
mod full;
mod kill;
mod model;
mod places;
mod rig;
mod runner;
mod soak;
mod strace;

pub use runner::{Choice, Tally, names, run};

use rig::{NotHere, Rig};

/// One case, on the rig of its group. It answers with how many faults happened.
pub(crate) struct Case {
    name: String,
    act: Box<dyn Fn(&mut Rig) -> u32 + Send>,
    /// Whether it belongs to the quick selection.
    quick: bool,
}

impl Case {
    pub(crate) fn new(name: impl Into<String>, act: impl Fn(&mut Rig) -> u32 + Send + 'static) -> Self {
        Self { name: name.into(), act: Box::new(act), quick: false }
    }

    pub(crate) fn quick_when(mut self, quick: bool) -> Self {
        self.quick = quick;
        self
    }
}

/// Cases that share a rig.
pub(crate) struct Group {
    make: Box<dyn Fn() -> Result<Rig, NotHere> + Send>,
    cases: Vec<Case>,
    /// What remains to be shown when all its cases have run.
    last: fn(&mut Rig),
}

impl Group {
    pub(crate) fn new(make: impl Fn() -> Result<Rig, NotHere> + Send + 'static, cases: Vec<Case>) -> Self {
        Self { make: Box::new(make), cases, last: |_| () }
    }

    pub(crate) fn last(mut self, last: fn(&mut Rig)) -> Self {
        self.last = last;
        self
    }
}

/// Everything, in the order in which it is begun.
fn groups() -> Vec<Group> {
    let all = [cut::groups(), kill::groups(), soak::groups(), strace::groups(), calls::groups(), full::groups(), model::groups()];
    all.into_iter().flatten().collect()
}
