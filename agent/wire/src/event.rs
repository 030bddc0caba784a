//! What happens in a run. An event is stored in the journal, streamed to whoever follows and rendered by the ctl, all in this one form; the state
//! of a run is what its events say.

use agent_model::run::Outcome;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The run.
    pub run: u64,
    /// Its place among the run's events, from 1 without gaps.
    pub n: u64,
    /// When.
    pub at: DateTime<Utc>,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened. A reader meets words that are newer than itself as [`What::Unknown`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The request was taken.
    Accepted {
        /// The app.
        app: String,
        /// The action's word.
        action: String,
        /// What it is about, as the caller put it: a ref, a release, a run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<String>,
        /// Who asked.
        caller: String,
    },
    /// It waits behind another run.
    Waits {
        /// The run ahead of it.
        behind: u64,
    },
    /// It begins: the plan, drawn from the settings in force, which stay its settings to the end.
    Planned {
        /// The word for a good end: `serve` or `tend`.
        aim: AimWord,
        /// The steps in order, skipped ones included.
        steps: Vec<PlannedStep>,
        /// The release that is live as the run begins.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        live: Option<String>,
    },
    /// The commit and the release are known.
    Resolved {
        /// The whole commit id.
        commit: String,
        /// The ref that reached it.
        #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
        /// The release's name.
        release: String,
        /// The first line of the commit's message.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        subject: Option<String>,
    },
    /// A step is about to begin.
    StepStarted {
        /// Its name.
        step: String,
    },
    /// A program that the step started said a line.
    Output {
        /// The step.
        step: String,
        /// Which stream.
        stream: Stream,
        /// The line, secrets masked, bytes that are not UTF-8 replaced, cut at 8 KiB.
        line: String,
    },
    /// Something worth knowing about a step.
    Note {
        /// The step.
        step: String,
        /// The sentence.
        text: String,
    },
    /// Something that should be looked at, though it does not stop the run.
    Warning {
        /// The step, where it is of one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// The sentence.
        text: String,
    },
    /// How far a step has come.
    Progress {
        /// The step.
        step: String,
        /// So much is done.
        done: u64,
        /// Of so much.
        total: u64,
    },
    /// From here on visitors may meet the new release.
    Exposed {
        /// The step.
        step: String,
    },
    /// A step is complete.
    StepDone {
        /// The step.
        step: String,
        /// How long it took.
        ms: u64,
        /// Why there was nothing to do, where it found out on its own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nothing: Option<String>,
    },
    /// A step failed.
    StepFailed {
        /// The step.
        step: String,
        /// How long it took.
        ms: u64,
        /// What went wrong: the whole chain, outermost first.
        reason: String,
        /// What to do about it, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
        /// The last lines of the tool that failed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tail: Vec<String>,
    },
    /// A step is about to be taken back.
    UndoStarted {
        /// The step.
        step: String,
    },
    /// A step is taken back, as far as it can be.
    Undone {
        /// The step.
        step: String,
        /// How long it took.
        ms: u64,
        /// Whether something that it did stands.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stands: bool,
    },
    /// A step could not be taken back.
    UndoFailed {
        /// The step.
        step: String,
        /// What went wrong.
        reason: String,
    },
    /// Something stands in spite of the failure.
    Stands {
        /// What: a sentence.
        text: String,
        /// The command that would restore what was before, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restore: Option<String>,
    },
    /// At the end of a run that made nothing live, the release that is live was asked its checks, once.
    LiveAsked {
        /// The release.
        release: String,
        /// Whether it answers as they say.
        answers: bool,
        /// What was seen instead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// Whether it answered when the run began, where it was asked then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<bool>,
    },
    /// Somebody asked that the run be stopped and taken back.
    CancelAsked {
        /// Who.
        caller: String,
    },
    /// The agent stopped in the middle of the run, and has started again.
    Stopped,
    /// The run is over. Always the last event.
    Ended {
        /// How.
        outcome: OutcomeWord,
        /// The release that is live now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        live: Option<String>,
        /// How long the run took, from its beginning.
        ms: u64,
        /// What of a run that went back stands in the database, or may: `board.0003_x was begun and is not atomic: the database may be half migrated`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        database: Option<String>,
    },
    /// A word of a newer agent.
    #[serde(other)]
    Unknown,
}

/// A line of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// The step's name.
    pub step: String,
    /// Whether it must be taken back.
    pub undo: bool,
    /// Whether its failure is only a warning.
    pub warn: bool,
    /// Why it is skipped; absent when it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// A stream of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Its standard output.
    Stdout,
    /// Its standard error.
    Stderr,
}

/// [`agent_model::plan::Aim`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AimWord {
    /// A release goes live.
    Serve,
    /// Something is tended.
    Tend,
}

/// [`Outcome`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeWord {
    /// The release is live, and was seen to serve.
    Live,
    /// What was asked is done.
    Done,
    /// It failed; the former release was never left.
    Failed,
    /// It was live for a moment, and was taken back.
    RolledBack,
    /// A person must look.
    Stuck,
    /// It was cancelled and taken back.
    Cancelled,
    /// A newer request took its place.
    Superseded,
}

impl OutcomeWord {
    /// The word, as it is stored and shown.
    pub fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::Stuck => "stuck",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
        }
    }

    /// The exit code that a ctl which followed the run ends with.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Live | Self::Done => 0,
            Self::Failed => 1,
            Self::RolledBack => 3,
            Self::Stuck => 6,
            Self::Cancelled | Self::Superseded => 7,
        }
    }
}

impl From<Outcome> for OutcomeWord {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Live => Self::Live,
            Outcome::Done => Self::Done,
            Outcome::Failed => Self::Failed,
            Outcome::RolledBack => Self::RolledBack,
            Outcome::Stuck => Self::Stuck,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Superseded => Self::Superseded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_object_and_reads_back() {
        let event = Event {
            run: 7,
            n: 3,
            at: "2026-11-20T22:45:23.5Z".parse().unwrap(),
            what: What::StepFailed {
                step: "migrate".into(),
                ms: 12,
                reason: "exit status 1".into(),
                hint: None,
                tail: vec!["boom".into()],
            },
        };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(
            text,
            r#"{"run":7,"n":3,"at":"2026-11-20T22:45:23.500Z","what":"step_failed","step":"migrate","ms":12,"reason":"exit status 1","tail":["boom"]}"#
        );
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }

    #[test]
    fn a_newer_word_is_survived() {
        let event: Event = serde_json::from_str(r#"{"run":7,"n":3,"at":"2026-11-20T22:45:23Z","what":"sang","song":["la",1]}"#).unwrap();
        assert_eq!(event.what, What::Unknown);
    }

    #[test]
    fn every_outcome_has_the_exit_code_that_is_promised() {
        let promised = [
            (OutcomeWord::Live, 0),
            (OutcomeWord::Done, 0),
            (OutcomeWord::Failed, 1),
            (OutcomeWord::RolledBack, 3),
            (OutcomeWord::Stuck, 6),
            (OutcomeWord::Cancelled, 7),
            (OutcomeWord::Superseded, 7),
        ];
        for (outcome, code) in promised {
            assert_eq!(outcome.exit_code(), code);
            assert_eq!(serde_json::to_string(&outcome).unwrap(), format!("{:?}", outcome.word()));
        }
    }
}
