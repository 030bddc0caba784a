//! Requests, and whether one may be accepted now.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::names::{AppName, BadName, RefName, ReleaseName, ReleaseSelector, Revision, RunId};

/// A request about an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The app that it is about.
    pub app: AppName,
    /// The requested act.
    pub act: Act,
    /// The release that the caller expects to be live. If another is live, the agent refuses the request (compare-and-swap).
    pub expect_live: Option<ReleaseName>,
}

/// Whether an earlier environment may be reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rebuild {
    /// An environment with the same key is reused.
    #[default]
    WhenNeeded,
    /// The environment is always rebuilt.
    Always,
}

/// What an activate does with a release whose code does not fit the schema of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SchemaChoice {
    /// It is not made live.
    #[default]
    MustFit,
    /// It is made live all the same, and the schema stays.
    Keep,
    /// The newer migrations are reversed first, by the code of the live release.
    Reverse(DataLoss),
}

/// Whether data may go with what is reversed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataLoss {
    /// It may not: nothing is reversed where rows or values would go.
    #[default]
    Refused,
    /// It may.
    Accepted,
}

/// The acts that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Make a release of a commit and make it live.
    Release {
        /// The branch, tag or commit to release.
        revision: Revision,
        /// The branch or tag that must reach it, where the request names one beside the commit.
        via: Option<RefName>,
        /// Whether the environment is rebuilt.
        rebuild: Rebuild,
    },
    /// Make a release of a commit, and leave the live release alone: an activate makes it live later.
    Stage {
        /// The branch, tag or commit to release.
        revision: Revision,
        /// The branch or tag that must reach it, where the request names one beside the commit.
        via: Option<RefName>,
        /// Whether the environment is rebuilt.
        rebuild: Rebuild,
    },
    /// Make an existing release live. One that never served is migrated first.
    Activate {
        /// The release to make live.
        release: ReleaseSelector,
        /// What happens where its code does not fit the database.
        schema: SchemaChoice,
    },
    /// Restart the live release, with the current variables and secrets.
    Restart,
    /// Remove old releases.
    Prune,
    /// Remove leftovers in the root that belong to nothing.
    Mend,
    /// Run the health checks of the live release now.
    Check,
    /// Refuse every release and activate until unlocked.
    Lock {
        /// The reason, shown to callers who meet the lock.
        why: String,
    },
    /// End the lock.
    Unlock,
    /// Keep a release for ever.
    Pin {
        /// The release to keep.
        release: ReleaseSelector,
    },
    /// Let prune remove the release again.
    Unpin {
        /// The release to unpin.
        release: ReleaseSelector,
    },
    /// Stop a run and undo its changes.
    Cancel {
        /// The run to stop.
        run: RunId,
    },
    /// Run a command of the app's own, as the app's user, at the terminal of the host.
    Exec {
        /// In which release; without it, in the live one.
        release: Option<ReleaseSelector>,
        /// The program and its arguments.
        command: Vec<String>,
    },
    /// Say that what runs may have left in the database was looked at, and is settled.
    Settle {
        /// The run that left it; `None` for all runs.
        run: Option<RunId>,
    },
}

impl Act {
    /// The right that it needs, which is also its word on the wire.
    pub fn right(&self) -> Right {
        match self {
            Self::Release { .. } => Right::Release,
            Self::Stage { .. } => Right::Stage,
            Self::Activate { schema: SchemaChoice::Reverse(_), .. } => Right::Reverse,
            Self::Activate { .. } => Right::Activate,
            Self::Restart => Right::Restart,
            Self::Prune => Right::Prune,
            Self::Mend => Right::Mend,
            Self::Check => Right::Check,
            Self::Lock { .. } => Right::Lock,
            Self::Unlock => Right::Unlock,
            Self::Pin { .. } => Right::Pin,
            Self::Unpin { .. } => Right::Unpin,
            Self::Cancel { .. } => Right::Cancel,
            Self::Settle { .. } => Right::Settle,
            Self::Exec { .. } => Right::Exec,
        }
    }

    /// Whether it waits for its turn among the runs of its app; the other acts are done at once.
    pub fn takes_turns(&self) -> bool {
        matches!(
            self,
            Self::Release { .. } | Self::Stage { .. } | Self::Activate { .. } | Self::Restart | Self::Prune | Self::Mend | Self::Check
        )
    }

    /// Whether it makes a release of a commit.
    pub fn makes_a_release(&self) -> bool {
        matches!(self, Self::Release { .. } | Self::Stage { .. })
    }

    /// Whether it makes a release live, including the one that is live already.
    pub fn makes_live(&self) -> bool {
        matches!(self, Self::Release { .. } | Self::Activate { .. } | Self::Restart)
    }
}

/// The rights of grants. `Plan` and `Read` only allow reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Right {
    /// `release`, and `stage` with it
    Release,
    /// `stage`
    Stage,
    /// `activate`, and `rollback` with it
    Activate,
    /// `reverse`: an activate that reverses the newer migrations first
    Reverse,
    /// `restart`
    Restart,
    /// `prune`
    Prune,
    /// `mend`
    Mend,
    /// `check`
    Check,
    /// `lock`
    Lock,
    /// `unlock`
    Unlock,
    /// `pin`
    Pin,
    /// `unpin`
    Unpin,
    /// `cancel`
    Cancel,
    /// `settle`
    Settle,
    /// `exec`, and `manage` with it
    Exec,
    /// `plan`
    Plan,
    /// `read`: status, lists, runs and their events
    Read,
}

impl Right {
    /// All of them, in the order in which they are documented.
    pub const ALL: [Self; 17] = [
        Self::Release,
        Self::Stage,
        Self::Activate,
        Self::Reverse,
        Self::Restart,
        Self::Prune,
        Self::Mend,
        Self::Check,
        Self::Lock,
        Self::Unlock,
        Self::Pin,
        Self::Unpin,
        Self::Cancel,
        Self::Settle,
        Self::Exec,
        Self::Plan,
        Self::Read,
    ];

    /// The word for it in configuration and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Stage => "stage",
            Self::Activate => "activate",
            Self::Reverse => "reverse",
            Self::Restart => "restart",
            Self::Prune => "prune",
            Self::Mend => "mend",
            Self::Check => "check",
            Self::Lock => "lock",
            Self::Unlock => "unlock",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::Cancel => "cancel",
            Self::Settle => "settle",
            Self::Exec => "exec",
            Self::Plan => "plan",
            Self::Read => "read",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.word())
    }
}

impl FromStr for Right {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::ALL.into_iter().find(|right| right.word() == text).ok_or_else(|| BadName {
            what: "action",
            text: text.chars().take(80).collect(),
            rule: "is none of release, stage, activate, reverse, restart, prune, mend, check, lock, unlock, pin, unpin, cancel, settle, exec, plan, read",
        })
    }
}

/// The handling of a request that comes while a run is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenBusy {
    /// It waits for its turn.
    #[default]
    Queue,
    /// It waits, and supersedes the waiting ones.
    Latest,
    /// It is refused.
    Refuse,
}

/// A lock on an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The caller that locked it.
    pub who: String,
    /// The reason that the caller gave.
    pub why: String,
    /// The time of locking, in seconds since 1970 UTC.
    pub since: i64,
}

/// An app's state when a request comes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// The active run.
    pub running: Option<RunId>,
    /// The waiting runs, oldest first, each with its kind (only releases of a commit can be superseded).
    pub waiting: Vec<(RunId, Waiting)>,
    /// The current lock.
    pub lock: Option<Lock>,
    /// The run that ended stuck, until a release is live again.
    pub stuck: Option<RunId>,
    /// The app's setting for requests during a run.
    pub when_busy: WhenBusy,
    /// The live release.
    pub live: Option<ReleaseName>,
    /// Whether the agent is about to stop.
    pub draining: bool,
}

/// The kind of a waiting run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It would make a release of a commit, and make it live.
    Release,
    /// It would make a release of a commit, and leave the live release alone.
    Stage,
    /// Any other act; never superseded.
    Other,
}

/// The most runs that may wait for one app.
pub const MOST_WAITING: usize = 100;

/// The most waiting runs of one caller, for all apps together. The agent's own user and root have no limit.
pub const MOST_WAITING_OF_ONE: usize = 20;
/// The most accepted requests of one caller within a minute, likewise.
pub const MOST_A_MINUTE: usize = 60;

/// One caller's current use of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// The caller's waiting runs.
    pub waiting: usize,
    /// The caller's accepted requests within the last minute.
    pub lately: usize,
}

impl Share {
    /// Whether one more request of this caller may be accepted.
    ///
    /// # Errors
    /// [`Refusal::TooManyWait`] or [`Refusal::TooOften`]
    pub fn admit(self, caller: &str) -> Result<(), Refusal> {
        if self.waiting >= MOST_WAITING_OF_ONE {
            return Err(Refusal::TooManyWait(caller.to_owned()));
        }
        if self.lately >= MOST_A_MINUTE { Err(Refusal::TooOften(caller.to_owned())) } else { Ok(()) }
    }
}

/// The conditions of an acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The waiting runs that it supersedes.
    pub supersedes: Vec<RunId>,
}

/// Why a request is not accepted. A refusal is not a failure: nothing was begun.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No grant gives the caller this right.
    #[error("{caller} may not {right} {app}: no grant says so")]
    NotAllowed {
        /// The caller, as a grant names it.
        caller: String,
        /// The missing right.
        right: Right,
        /// The app that the request names.
        app: AppName,
    },
    /// The caller was known when the request was accepted, and is no longer.
    #[error("{caller} is trusted no more: {why}")]
    Untrusted {
        /// The caller, as a grant names it.
        caller: String,
        /// The reason why the proof no longer holds.
        why: String,
    },
    /// The app is locked.
    #[error("the app is locked by {}: {}", .0.who, .0.why)]
    Locked(Lock),
    /// Another run is active, and the app's setting is to refuse.
    #[error("run {0} is under way, and the app is set to refuse while it is busy")]
    Busy(RunId),
    /// Too many runs wait for the app.
    #[error("{MOST_WAITING} runs are waiting already")]
    QueueFull,
    /// Too many runs of one caller wait.
    #[error("{0} has {MOST_WAITING_OF_ONE} runs waiting already")]
    TooManyWait(String),
    /// One caller sends too many requests.
    #[error("{0} has asked {MOST_A_MINUTE} times within a minute")]
    TooOften(String),
    /// A run ended stuck.
    #[error("run {0} ended stuck: a person must look, and nothing but activate is taken until a release is live again")]
    Stuck(RunId),
    /// Another release is live than the caller expects.
    #[error("the request expects {expected} to be live, but {} is", .found.as_ref().map_or("nothing", ReleaseName::as_str))]
    Stale {
        /// The release that the caller expects.
        expected: ReleaseName,
        /// The release that is live.
        found: Option<ReleaseName>,
    },
    /// The agent is about to stop.
    #[error("the agent is stopping and takes nothing new")]
    Draining,
}

impl Standing {
    /// Whether the act may begin now. Checked when a request is accepted, and again when its turn comes, because the state may have changed.
    ///
    /// # Errors
    /// The [`Refusal`] that prevents it.
    pub fn may_begin(&self, request: &Request) -> Result<(), Refusal> {
        let act = &request.act;
        if let Some(expected) = &request.expect_live
            && self.live.as_ref() != Some(expected)
        {
            return Err(Refusal::Stale { expected: expected.clone(), found: self.live.clone() });
        }
        if let Some(lock) = &self.lock
            && act.makes_live()
        {
            return Err(Refusal::Locked(lock.clone()));
        }
        match self.stuck {
            Some(run) if act.takes_turns() && !matches!(act, Act::Activate { .. } | Act::Check) => Err(Refusal::Stuck(run)),
            _ => Ok(()),
        }
    }

    /// Whether the act may be accepted now, and which runs it supersedes.
    ///
    /// # Errors
    /// The [`Refusal`] that prevents it.
    pub fn admit(&self, request: &Request) -> Result<Admission, Refusal> {
        let act = &request.act;
        if self.draining {
            return Err(Refusal::Draining);
        }
        self.may_begin(request)?;
        if !act.takes_turns() {
            return Ok(Admission { supersedes: Vec::new() });
        }
        let ahead = self.running.or(self.waiting.first().map(|(run, _)| *run));
        // A run supersedes only its own kind: a stage that superseded a release would leave a caller without the requested release.
        let takes_place_of = match act {
            Act::Release { .. } => Some(Waiting::Release),
            Act::Stage { .. } => Some(Waiting::Stage),
            _ => None,
        };
        match (self.when_busy, ahead, takes_place_of) {
            (WhenBusy::Refuse, Some(run), _) => Err(Refusal::Busy(run)),
            (WhenBusy::Latest, _, Some(alike)) => {
                let older = self.waiting.iter().filter(|(_, kind)| *kind == alike);
                Ok(Admission { supersedes: older.map(|(run, _)| *run).collect() })
            }
            _ if self.waiting.len() >= MOST_WAITING => Err(Refusal::QueueFull),
            _ => Ok(Admission { supersedes: Vec::new() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(act: Act) -> Request {
        Request { app: "shop".parse().unwrap(), act, expect_live: None }
    }

    fn release() -> Act {
        Act::Release { revision: "main".parse().unwrap(), via: None, rebuild: Rebuild::WhenNeeded }
    }

    fn stage() -> Act {
        Act::Stage { revision: "main".parse().unwrap(), via: None, rebuild: Rebuild::WhenNeeded }
    }

    fn activate() -> Act {
        Act::Activate { release: ReleaseSelector::Previous, schema: SchemaChoice::MustFit }
    }

    #[test]
    fn a_lock_stops_what_changes_the_live_release_and_nothing_else() {
        let lock = Lock { who: "unix:anna".into(), why: "audit".into(), since: 0 };
        let standing = Standing { lock: Some(lock.clone()), ..Standing::default() };
        assert_eq!(standing.admit(&request(release())), Err(Refusal::Locked(lock.clone())));
        assert_eq!(standing.admit(&request(activate())), Err(Refusal::Locked(lock.clone())));
        assert_eq!(standing.admit(&request(Act::Restart)), Err(Refusal::Locked(lock)));
        for act in [stage(), Act::Prune, Act::Mend, Act::Check, Act::Unlock, Act::Cancel { run: RunId(1) }] {
            assert!(standing.admit(&request(act)).is_ok());
        }
    }

    #[test]
    fn stuck_leaves_only_activate_check_and_what_is_done_on_the_spot() {
        let standing = Standing { stuck: Some(RunId(7)), ..Standing::default() };
        assert_eq!(standing.admit(&request(release())), Err(Refusal::Stuck(RunId(7))));
        for act in [stage(), Act::Restart, Act::Prune, Act::Mend] {
            assert_eq!(standing.admit(&request(act)), Err(Refusal::Stuck(RunId(7))));
        }
        assert!(standing.admit(&request(activate())).is_ok());
        assert!(standing.admit(&request(Act::Unlock)).is_ok());
    }

    #[test]
    fn the_newest_release_takes_the_place_of_waiting_releases_only() {
        let waiting =
            vec![(RunId(2), Waiting::Release), (RunId(3), Waiting::Other), (RunId(4), Waiting::Release), (RunId(5), Waiting::Stage)];
        let standing = Standing { running: Some(RunId(1)), waiting, when_busy: WhenBusy::Latest, ..Standing::default() };
        assert_eq!(standing.admit(&request(release())).unwrap().supersedes, [RunId(2), RunId(4)]);
        assert_eq!(standing.admit(&request(stage())).unwrap().supersedes, [RunId(5)], "a stage takes no release's place");
        assert!(standing.admit(&request(activate())).unwrap().supersedes.is_empty());
    }

    #[test]
    fn busy_refuses_where_it_is_set_and_a_full_queue_always() {
        let busy = Standing { running: Some(RunId(1)), when_busy: WhenBusy::Refuse, ..Standing::default() };
        assert_eq!(busy.admit(&request(release())), Err(Refusal::Busy(RunId(1))));
        let full = Standing { waiting: vec![(RunId(1), Waiting::Release); MOST_WAITING], ..Standing::default() };
        assert_eq!(full.admit(&request(release())), Err(Refusal::QueueFull));
    }

    #[test]
    fn compare_and_swap_holds_for_whatever_is_asked() {
        let live: ReleaseName = "2026-11-20-22-45-23-1a2b3c4d5e6f".parse().unwrap();
        let other: ReleaseName = "2026-11-20-22-45-24-1a2b3c4d5e6f".parse().unwrap();
        let standing = Standing { live: Some(live.clone()), ..Standing::default() };
        let mut asked = request(release());
        asked.expect_live = Some(other.clone());
        assert_eq!(standing.admit(&asked), Err(Refusal::Stale { expected: other, found: Some(live.clone()) }));
        asked.expect_live = Some(live);
        assert!(standing.admit(&asked).is_ok());
    }

    #[test]
    fn what_may_begin_is_asked_again_when_the_turn_comes_and_turns_do_not_count_then() {
        let stuck = Standing { stuck: Some(RunId(7)), ..Standing::default() };
        assert_eq!(stuck.may_begin(&request(release())), Err(Refusal::Stuck(RunId(7))));
        assert!(stuck.may_begin(&request(activate())).is_ok() && stuck.may_begin(&request(Act::Unlock)).is_ok());
        let busy = Standing { running: Some(RunId(1)), when_busy: WhenBusy::Refuse, ..Standing::default() };
        assert!(busy.may_begin(&request(release())).is_ok(), "it is its own turn");
    }
}
