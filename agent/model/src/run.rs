//! The execution of a plan. Marks record what has happened; [`Run::next`] returns the next action. Going forward, going back and recovering after a
//! crash use the same function of the same marks.
//!
//! ```text
//!            Started            Done
//!  Waiting ----------> Running ------> Done ----------.          (Idle: done, with nothing to take back)
//!                         | Failed                     | (the run goes backward)
//!                         | Stopped                    | UndoStarted
//!                         v                            v             Undone
//!                       Broken --------------------> Undoing ---------------> Undone
//!                                 UndoStarted          | ^ Stopped (again)
//!                                                      | UndoFailed
//!                                                      v
//!                                                    Stuck
//! ```
//!
//! The run goes back as soon as it has a *cause*: a step with `Unwind` failed, a caller cancelled, or the agent stopped before a step that matters
//! was done. The run keeps the first cause to the end; later ones never replace it.

use thiserror::Error;

use crate::plan::{Aim, Nature, OnFailure, Undo};

/// A run that was cut off more often than this ends [`Outcome::Stuck`]: something kills the agent at the same place every time.
pub const MOST_STOPS: u32 = 5;

/// An event in a run. A mark is on disk before the action that it announces begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Step `i` is about to begin.
    Started(usize),
    /// From here on visitors may meet the effect of step `i`; the run can no longer be cancelled.
    Exposed(usize),
    /// Step `i` is complete.
    Done(usize),
    /// Step `i` had nothing to do, and left nothing to undo.
    Idle(usize),
    /// Step `i` failed.
    Failed(usize),
    /// The undo of step `i` is about to begin.
    UndoStarted(usize),
    /// Step `i` is undone.
    Undone(usize),
    /// Step `i` could not be undone.
    UndoFailed(usize),
    /// A caller cancelled the run.
    CancelAsked,
    /// The agent itself had stopped in the middle of the run.
    Stopped,
    /// The run is over.
    Ended,
}

/// The next action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Begin step `i`.
    Do(usize),
    /// Undo step `i`.
    Undo(usize),
    /// End the run with this outcome.
    End(Outcome),
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The release is live, and was seen to serve.
    Live,
    /// The requested act is done, and did not concern the live release.
    Done,
    /// It failed before visitors could meet it: the former release served all the time.
    Failed,
    /// Visitors may have met it for a moment; the former release serves again.
    RolledBack,
    /// It could not be undone: a person must look.
    Stuck,
    /// A caller cancelled it, and it was undone.
    Cancelled,
    /// A newer request superseded it before it began.
    Superseded,
}

/// A mark that cannot follow those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the mark {0:?} cannot follow the marks before it")]
pub struct Impossible(pub Mark);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Waiting,
    Running,
    Done,
    Idle,
    Broken,
    Undoing,
    Undone,
    Stuck,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Failed,
    Cancelled,
    Stopped,
}

/// A run's state, derived from its marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    aim: Aim,
    natures: Vec<Nature>,
    places: Vec<Place>,
    cause: Option<Cause>,
    exposed: bool,
    cut_short: bool,
    stops: u32,
    ended: bool,
}

impl Run {
    /// A run that has not begun. `natures` are those of the steps that the plan does, in order.
    pub fn new(aim: Aim, natures: Vec<Nature>) -> Self {
        let places = vec![Place::Waiting; natures.len()];
        Self { aim, natures, places, cause: None, exposed: false, cut_short: false, stops: 0, ended: false }
    }

    /// Whether visitors may have met the run's changes.
    pub fn is_exposed(&self) -> bool {
        self.exposed
    }

    /// Whether the run goes back.
    pub fn goes_back(&self) -> bool {
        self.cause.is_some()
    }

    /// Applies a mark.
    ///
    /// # Errors
    /// [`Impossible`] when the mark cannot follow those before it; the run is unchanged then.
    pub fn record(&mut self, mark: Mark) -> Result<(), Impossible> {
        let impossible = Impossible(mark);
        if self.ended {
            return Err(impossible);
        }
        let place_of = |run: &Self, i: usize| run.places.get(i).copied().ok_or(impossible);
        match mark {
            Mark::Started(i) => {
                if self.next() != Next::Do(i) || self.places.contains(&Place::Running) {
                    return Err(impossible);
                }
                self.places[i] = Place::Running;
            }
            Mark::Exposed(i) => {
                if place_of(self, i)? != Place::Running || self.cause.is_some() {
                    return Err(impossible);
                }
                self.exposed = true;
            }
            Mark::Done(i) | Mark::Idle(i) => {
                if place_of(self, i)? != Place::Running {
                    return Err(impossible);
                }
                self.places[i] = if mark == Mark::Done(i) { Place::Done } else { Place::Idle };
            }
            Mark::Failed(i) => {
                if place_of(self, i)? != Place::Running {
                    return Err(impossible);
                }
                self.places[i] = Place::Broken;
                if self.natures[i].on_failure == OnFailure::Unwind {
                    self.cause.get_or_insert(Cause::Failed);
                }
            }
            Mark::UndoStarted(i) => {
                if self.next() != Next::Undo(i) {
                    return Err(impossible);
                }
                self.places[i] = Place::Undoing;
            }
            Mark::Undone(i) => {
                if place_of(self, i)? != Place::Undoing {
                    return Err(impossible);
                }
                self.places[i] = Place::Undone;
            }
            Mark::UndoFailed(i) => {
                if place_of(self, i)? != Place::Undoing {
                    return Err(impossible);
                }
                self.places[i] = Place::Stuck;
            }
            Mark::CancelAsked => {
                if self.exposed {
                    return Err(impossible);
                }
                if self.all_that_matters_is_done() {
                    self.cut_short = true;
                } else {
                    self.cause.get_or_insert(Cause::Cancelled);
                }
            }
            Mark::Stopped => {
                self.stops += 1;
                for place in &mut self.places {
                    if *place == Place::Running {
                        *place = Place::Broken;
                    }
                }
                if self.all_that_matters_is_done() {
                    self.cut_short = true;
                } else {
                    self.cause.get_or_insert(Cause::Stopped);
                }
            }
            Mark::Ended => {
                if !matches!(self.next(), Next::End(_)) {
                    return Err(impossible);
                }
                self.ended = true;
            }
        }
        Ok(())
    }

    /// The next action. A pure function of the marks.
    pub fn next(&self) -> Next {
        if self.places.contains(&Place::Stuck) || self.stops > MOST_STOPS {
            return Next::End(Outcome::Stuck);
        }
        let Some(cause) = self.cause else {
            return match self.places.iter().position(|place| *place == Place::Waiting) {
                Some(i) if !self.cut_short => Next::Do(i),
                _ => Next::End(match self.aim {
                    Aim::Serve => Outcome::Live,
                    Aim::Tend => Outcome::Done,
                }),
            };
        };
        let to_take_back = (0..self.places.len()).rev().find(|i| {
            let left_something = matches!(self.places[*i], Place::Running | Place::Done | Place::Broken | Place::Undoing);
            left_something && self.natures[*i].undo == Undo::TakeBack
        });
        match (to_take_back, cause) {
            (Some(i), _) => Next::Undo(i),
            (None, _) if self.exposed => Next::End(Outcome::RolledBack),
            (None, Cause::Failed | Cause::Stopped) => Next::End(Outcome::Failed),
            (None, Cause::Cancelled) => Next::End(Outcome::Cancelled),
        }
    }

    fn all_that_matters_is_done(&self) -> bool {
        self.natures
            .iter()
            .zip(&self.places)
            .all(|(nature, place)| nature.on_failure == OnFailure::Warn || matches!(place, Place::Done | Place::Idle))
    }
}

#[cfg(test)]
mod tests;
