//! The plan for a request: cards in order, each a step to do or to skip.

/// Whether a step must be undone when the run fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// It leaves nothing that matters.
    Nothing,
    /// It must be undone, even when it failed or was cut off half-way. A step with a permanent effect (a migration) undoes nothing, and uses the call
    /// to determine and report which changes stay.
    TakeBack,
}

/// The effect of a step's failure on the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The run goes back.
    Unwind,
    /// The run continues, with a warning.
    Warn,
}

/// The facts about a step that the engine needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nature {
    /// Whether it must be undone.
    pub undo: Undo,
    /// The effect of its failure on the run.
    pub on_failure: OnFailure,
}

/// A step's part in a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// The step runs. It may still find that there is nothing to do.
    Do,
    /// The step is skipped, for a reason that people can read.
    Skip(String),
    /// The step has no part in this kind of request, and is not shown.
    Absent,
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The step's name, such as `migrate`.
    pub step: &'static str,
    /// The step's undo and failure behaviour.
    pub nature: Nature,
    /// The reason for skipping it; `None` when it runs.
    pub skipped: Option<String>,
}

/// The purpose of a run, which decides the word for its good end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// A release goes live.
    Serve,
    /// Maintenance (prune, check); the live release stays.
    Tend,
}

/// The cards of a run, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The purpose of the run.
    pub aim: Aim,
    /// The cards, skipped ones included.
    pub cards: Vec<Card>,
}

impl Plan {
    /// Makes the plan from each step's choice.
    pub fn draw(aim: Aim, chosen: impl IntoIterator<Item = (&'static str, Nature, Choice)>) -> Self {
        let cards = chosen.into_iter().filter_map(|(step, nature, choice)| match choice {
            Choice::Do => Some(Card { step, nature, skipped: None }),
            Choice::Skip(reason) => Some(Card { step, nature, skipped: Some(reason) }),
            Choice::Absent => None,
        });
        Self { aim, cards: cards.collect() }
    }

    /// The cards that are not skipped, in order: the steps of the run.
    pub fn steps(&self) -> impl Iterator<Item = &Card> {
        self.cards.iter().filter(|card| card.skipped.is_none())
    }
}
