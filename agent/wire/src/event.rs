//! The events of a run. An event is stored in the journal, streamed to followers and rendered by the ctl, all in this one form. The state of a run
//! follows from its events.

use agent_model::run::Outcome;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The number of the run.
    pub run: u64,
    /// The event's number within the run, from 1 without gaps.
    pub n: u64,
    /// The time of the event.
    pub at: DateTime<Utc>,
    /// The kind of event with its members.
    #[serde(flatten)]
    pub what: What,
}

/// The kind of event. A reader decodes kinds newer than itself as [`What::Unknown`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// The agent accepted the request.
    Accepted {
        /// The app's name.
        app: String,
        /// The action's word.
        action: String,
        /// The subject as the caller wrote it: a ref, a release, a run.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<String>,
        /// The caller, such as `unix:anna`.
        caller: String,
    },
    /// It waits behind another run.
    Waits {
        /// The run ahead of it.
        behind: u64,
    },
    /// It begins with this plan. The plan follows from the current settings, and the run keeps them to its end.
    Planned {
        /// The word for a good end: `serve` or `tend`.
        aim: AimWord,
        /// The steps in order, skipped ones included.
        steps: Vec<PlannedStep>,
        /// The live release when the run begins.
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
        /// The step's name.
        step: String,
    },
    /// A program of the step wrote a line.
    Output {
        /// The step's name.
        step: String,
        /// The stream of the line.
        stream: Stream,
        /// The line, secrets masked, bytes that are not UTF-8 replaced, cut at 8 KiB.
        line: String,
    },
    /// An informational message about a step.
    Note {
        /// The step's name.
        step: String,
        /// The message, one sentence.
        text: String,
    },
    /// A warning that does not stop the run.
    Warning {
        /// The step's name, if the warning is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// The warning, one sentence.
        text: String,
    },
    /// A step's progress.
    Progress {
        /// The step's name.
        step: String,
        /// The amount done.
        done: u64,
        /// The total amount.
        total: u64,
    },
    /// From here on visitors may meet the new release.
    Exposed {
        /// The step's name.
        step: String,
    },
    /// A step is complete.
    StepDone {
        /// The step's name.
        step: String,
        /// The duration of the step, in milliseconds.
        ms: u64,
        /// Why there was nothing to do, if the step found nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nothing: Option<String>,
    },
    /// A step failed.
    StepFailed {
        /// The step's name.
        step: String,
        /// The duration of the step, in milliseconds.
        ms: u64,
        /// The whole chain of causes, outermost first.
        reason: String,
        /// What the operator should do, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
        /// The last lines of the tool that failed.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tail: Vec<String>,
    },
    /// The undo of a step is about to begin.
    UndoStarted {
        /// The step's name.
        step: String,
    },
    /// A step is undone, as far as possible.
    Undone {
        /// The step's name.
        step: String,
        /// The duration of the undo, in milliseconds.
        ms: u64,
        /// Whether any of its changes stays.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        stands: bool,
    },
    /// A step could not be undone.
    UndoFailed {
        /// The step's name.
        step: String,
        /// The whole chain of causes, outermost first.
        reason: String,
    },
    /// A change stays in spite of the failure.
    Stands {
        /// The change, as a sentence.
        text: String,
        /// The command that would restore the former state, where there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restore: Option<String>,
    },
    /// The health of the live release at the end of a run that made nothing live: each check was sent once.
    LiveAsked {
        /// The name of the live release.
        release: String,
        /// Whether it passes its checks.
        answers: bool,
        /// The failed check, if it does not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        /// Whether it answered when the run began; `None` if that was not checked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<bool>,
    },
    /// A caller cancelled the run.
    CancelAsked {
        /// The caller that cancelled it.
        caller: String,
    },
    /// The agent stopped in the middle of the run, and has started again.
    Stopped,
    /// The run is over. Always the last event.
    Ended {
        /// How the run ended.
        outcome: OutcomeWord,
        /// The release that is live now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        live: Option<String>,
        /// The duration of the run from its beginning, in milliseconds.
        ms: u64,
        /// The changes of an undone run that are, or may be, in the database: `board.0003_x was begun and is not atomic: the database may be half
        /// migrated`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        database: Option<String>,
    },
    /// An event kind of a newer agent.
    #[serde(other)]
    Unknown,
}

/// A line of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// The step's name.
    pub step: String,
    /// Whether it must be undone.
    pub undo: bool,
    /// Whether its failure is only a warning.
    pub warn: bool,
    /// The reason for skipping it; absent when it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
}

/// A stream of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// The program's standard output.
    Stdout,
    /// The program's standard error.
    Stderr,
}

/// [`agent_model::plan::Aim`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AimWord {
    /// A release goes live.
    Serve,
    /// Maintenance; the live release stays.
    Tend,
}

/// [`Outcome`] on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeWord {
    /// The release is live, and was seen to serve.
    Live,
    /// The requested act is done.
    Done,
    /// It failed; the former release served all the time.
    Failed,
    /// It was live for a moment, and was undone.
    RolledBack,
    /// It could not be undone: a person must look.
    Stuck,
    /// It was cancelled and undone.
    Cancelled,
    /// A newer request superseded it.
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

    /// The exit code of a ctl that followed the run.
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
