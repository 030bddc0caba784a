//! What will be done for a request: cards in order, each a step to do or to skip.

/// Whether a step leaves something behind that must be taken back when the run fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// It leaves nothing that matters.
    Nothing,
    /// It must be taken back, even when it failed or was cut off half-way. A step whose effect stands for good (a migration) takes back nothing,
    /// and uses the call to find out and to say what stands.
    TakeBack,
}

/// What the failure of a step means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The run goes backward.
    Unwind,
    /// The run goes on, with a warning.
    Warn,
}

/// What the engine has to know of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nature {
    /// Whether it must be taken back.
    pub undo: Undo,
    /// What its failure means.
    pub on_failure: OnFailure,
}

/// What becomes of a step in a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// It is done. It may still find out on its own that there is nothing to do.
    Do,
    /// It is not done, for a reason that people can read.
    Skip(String),
    /// It has no part in this kind of request, and is not spoken of.
    Absent,
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The step's name.
    pub step: &'static str,
    /// Its nature.
    pub nature: Nature,
    /// Why it is skipped, or nothing when it is done.
    pub skipped: Option<String>,
}

/// What a run is for: it decides the word for its good end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// A release goes live.
    Serve,
    /// Something is tended (pruned, checked); what is live stays.
    Tend,
}

/// The cards of a run, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the run is for.
    pub aim: Aim,
    /// The cards, skipped ones included.
    pub cards: Vec<Card>,
}

impl Plan {
    /// Draws the plan from what each step chose.
    pub fn draw(aim: Aim, chosen: impl IntoIterator<Item = (&'static str, Nature, Choice)>) -> Self {
        let cards = chosen.into_iter().filter_map(|(step, nature, choice)| match choice {
            Choice::Do => Some(Card { step, nature, skipped: None }),
            Choice::Skip(reason) => Some(Card { step, nature, skipped: Some(reason) }),
            Choice::Absent => None,
        });
        Self { aim, cards: cards.collect() }
    }

    /// The cards that are done, in order: the steps of the run.
    pub fn steps(&self) -> impl Iterator<Item = &Card> {
        self.cards.iter().filter(|card| card.skipped.is_none())
    }
}
