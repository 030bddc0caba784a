//! What is asked, by whom, and whether it may be taken now.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::names::{AppName, BadName, ReleaseName, ReleaseSelector, Revision, RunId};

/// What somebody wants of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The app.
    pub app: AppName,
    /// What is wanted.
    pub act: Act,
    /// The release that the caller believes to be live; the request is refused when it is another (compare-and-swap).
    pub expect_live: Option<ReleaseName>,
}

/// Whether an environment that was built before may be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rebuild {
    /// One for the same key is taken over.
    #[default]
    WhenNeeded,
    /// It is built anew.
    Always,
}

/// The acts that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Make a release of a commit and make it live.
    Release {
        /// Which commit.
        revision: Revision,
        /// Whether the environment is built anew.
        rebuild: Rebuild,
    },
    /// Make an existing release live.
    Activate {
        /// Which one.
        release: ReleaseSelector,
    },
    /// Remove what is too old to be kept.
    Prune,
    /// Run the health checks of the live release now.
    Check,
    /// Take no release and no activate until unlocked.
    Lock {
        /// Why, for those who meet the lock.
        why: String,
    },
    /// End the lock.
    Unlock,
    /// Keep a release for ever.
    Pin {
        /// Which one.
        release: ReleaseSelector,
    },
    /// Let a release grow old again.
    Unpin {
        /// Which one.
        release: ReleaseSelector,
    },
    /// Stop a run and take back what it did.
    Cancel {
        /// Which one.
        run: RunId,
    },
}

impl Act {
    /// The right that it needs, which is also its word on the wire.
    pub fn right(&self) -> Right {
        match self {
            Self::Release { .. } => Right::Release,
            Self::Activate { .. } => Right::Activate,
            Self::Prune => Right::Prune,
            Self::Check => Right::Check,
            Self::Lock { .. } => Right::Lock,
            Self::Unlock => Right::Unlock,
            Self::Pin { .. } => Right::Pin,
            Self::Unpin { .. } => Right::Unpin,
            Self::Cancel { .. } => Right::Cancel,
        }
    }

    /// Whether it waits for its turn among the runs of its app; the others are done on the spot.
    pub fn takes_turns(&self) -> bool {
        matches!(self, Self::Release { .. } | Self::Activate { .. } | Self::Prune | Self::Check)
    }
}

/// What a grant can allow. `Plan` and `Read` are rights to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Right {
    /// `release`
    Release,
    /// `activate`, and `rollback` with it
    Activate,
    /// `prune`
    Prune,
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
    /// `plan`
    Plan,
    /// `read`: status, lists, runs and their events
    Read,
}

impl Right {
    /// All of them, in the order in which they are documented.
    pub const ALL: [Self; 11] = [
        Self::Release,
        Self::Activate,
        Self::Prune,
        Self::Check,
        Self::Lock,
        Self::Unlock,
        Self::Pin,
        Self::Unpin,
        Self::Cancel,
        Self::Plan,
        Self::Read,
    ];

    /// The word for it in configuration and on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Activate => "activate",
            Self::Prune => "prune",
            Self::Check => "check",
            Self::Lock => "lock",
            Self::Unlock => "unlock",
            Self::Pin => "pin",
            Self::Unpin => "unpin",
            Self::Cancel => "cancel",
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
            rule: "is none of release, activate, prune, check, lock, unlock, pin, unpin, cancel, plan, read",
        })
    }
}

/// Who asks, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A process on this host, by what the kernel says of its socket.
    Unix {
        /// The user's name, or the number where the host has no name for it.
        user: String,
        /// The names of the groups.
        groups: Vec<String>,
        /// Whether the caller could do all that the agent can without asking it.
        power: Power,
    },
    /// The agent itself.
    Agent,
}

/// Whether a local caller needs a grant at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// The user that the agent runs as, or root: a refusal would only hide what they can do anyway.
    Own,
    /// Anybody else: only what a grant says.
    Granted,
}

impl fmt::Display for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { user, .. } => write!(formatter, "unix:{user}"),
            Self::Agent => formatter.write_str("agent"),
        }
    }
}

/// Whom a grant is for. Every principal has a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// `unix-user:anna`
    UnixUser(String),
    /// `unix-group:deployers`
    UnixGroup(String),
}

impl Principal {
    /// Whether the caller is meant.
    pub fn means(&self, caller: &Caller) -> bool {
        match (self, caller) {
            (Self::UnixUser(name), Caller::Unix { user, .. }) => name == user,
            (Self::UnixGroup(name), Caller::Unix { groups, .. }) => groups.contains(name),
            (_, Caller::Agent) => false,
        }
    }
}

impl FromStr for Principal {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let named = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
        match text.split_once(':') {
            Some(("unix-user", name)) if named(name) => Ok(Self::UnixUser(name.to_owned())),
            Some(("unix-group", name)) if named(name) => Ok(Self::UnixGroup(name.to_owned())),
            _ => {
                Err(BadName { what: "principal", text: text.chars().take(80).collect(), rule: "must be unix-user:NAME or unix-group:NAME" })
            }
        }
    }
}

/// What names a scope: everything, or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope<T> {
    /// `*`
    All,
    /// These.
    Only(Vec<T>),
}

impl<T: PartialEq> Scope<T> {
    /// Whether `item` is within.
    pub fn holds(&self, item: &T) -> bool {
        match self {
            Self::All => true,
            Self::Only(items) => items.contains(item),
        }
    }
}

/// A pattern for the short name of a branch or tag: `*` stands for any characters, slashes too; every other character for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefPattern(String);

impl RefPattern {
    /// Whether the short name of a ref fits.
    pub fn fits(&self, short: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = short.strip_prefix(first) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RefPattern {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let fits = !text.is_empty()
            && !text.starts_with('-')
            && !text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || b"~^:?[\\".contains(&byte));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            let rule = "must be the name of a branch or tag, where * stands for any characters";
            Err(BadName { what: "ref pattern", text: text.chars().take(80).collect(), rule })
        }
    }
}

/// What an operator allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whom.
    pub to: Principal,
    /// For which apps.
    pub apps: Scope<AppName>,
    /// To do what.
    pub rights: Scope<Right>,
    /// Releases of commits that one of these reaches; nothing means whatever the app allows.
    pub refs: Option<Vec<RefPattern>>,
}

/// The proof that a caller may do a thing to an app. Only [`authorise`] makes it, and what acts asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorised {
    caller: Caller,
    right: Right,
    refs: Option<Vec<RefPattern>>,
}

impl Authorised {
    /// Who asks.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// What was allowed.
    pub fn right(&self) -> Right {
        self.right
    }

    /// The refs that the grant is narrowed to, if it is.
    pub fn refs(&self) -> Option<&[RefPattern]> {
        self.refs.as_deref()
    }
}

/// Whether `caller` may use `right` on `app`.
///
/// # Errors
/// [`Refusal::NotAllowed`], with the grant that is missing.
pub fn authorise(caller: Caller, right: Right, app: &AppName, grants: &[Grant]) -> Result<Authorised, Refusal> {
    if matches!(caller, Caller::Agent | Caller::Unix { power: Power::Own, .. }) {
        return Ok(Authorised { caller, right, refs: None });
    }
    let fitting: Vec<&Grant> =
        grants.iter().filter(|grant| grant.to.means(&caller) && grant.apps.holds(app) && grant.rights.holds(&right)).collect();
    if fitting.is_empty() {
        return Err(Refusal::NotAllowed { caller: caller.to_string(), right, app: app.clone() });
    }
    // One grant without refs allows all refs; otherwise the patterns of every fitting grant count.
    let refs = fitting.iter().map(|grant| grant.refs.clone()).collect::<Option<Vec<_>>>().map(|lists| lists.concat());
    Ok(Authorised { caller, right, refs })
}

/// What an app does with a request that comes while a run is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenBusy {
    /// It waits for its turn.
    #[default]
    Queue,
    /// It waits, and takes the place of those that wait.
    Latest,
    /// It is refused.
    Refuse,
}

/// A lock on an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// Who locked it.
    pub who: String,
    /// Why.
    pub why: String,
    /// When, in seconds since 1970 UTC.
    pub since: i64,
}

/// How an app stands when a request comes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// The run under way.
    pub running: Option<RunId>,
    /// Those that wait, oldest first, each with whether it would make a release live (only such can be superseded).
    pub waiting: Vec<(RunId, Waiting)>,
    /// The lock.
    pub lock: Option<Lock>,
    /// The run that ended stuck, until a release is live again.
    pub stuck: Option<RunId>,
    /// What the app does when busy.
    pub when_busy: WhenBusy,
    /// The release that is live.
    pub live: Option<ReleaseName>,
    /// Whether the agent is about to stop.
    pub draining: bool,
}

/// What kind of run waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It would make a release of a commit.
    Release,
    /// Anything else; never superseded.
    Other,
}

/// The most runs that may wait for one app.
pub const MOST_WAITING: usize = 100;

/// How a request is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// The waiting runs whose place it takes.
    pub supersedes: Vec<RunId>,
}

/// Why a request is not taken. A refusal is not a failure: nothing was begun.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No grant.
    #[error("{caller} may not {right} {app}: no grant says so")]
    NotAllowed {
        /// Who asked.
        caller: String,
        /// The right that is missing.
        right: Right,
        /// The app.
        app: AppName,
    },
    /// Locked.
    #[error("the app is locked by {}: {}", .0.who, .0.why)]
    Locked(Lock),
    /// Another run is under way and the app takes no second one.
    #[error("run {0} is under way, and the app is set to refuse while it is busy")]
    Busy(RunId),
    /// Too many wait.
    #[error("{MOST_WAITING} runs are waiting already")]
    QueueFull,
    /// A run ended stuck.
    #[error("run {0} ended stuck: a person must look, and nothing but activate is taken until a release is live again")]
    Stuck(RunId),
    /// Another release is live than the caller believes.
    #[error("the request expects {expected} to be live, but {} is", .found.as_ref().map_or("nothing", ReleaseName::as_str))]
    Stale {
        /// What the caller believes.
        expected: ReleaseName,
        /// What is so.
        found: Option<ReleaseName>,
    },
    /// The agent stops.
    #[error("the agent is stopping and takes nothing new")]
    Draining,
}

impl Standing {
    /// Whether the act may begin now. Asked when a request is taken, and once more when its turn comes: what was so then may have changed.
    ///
    /// # Errors
    /// The [`Refusal`] that stands in its way.
    pub fn may_begin(&self, request: &Request) -> Result<(), Refusal> {
        let act = &request.act;
        if let Some(expected) = &request.expect_live
            && self.live.as_ref() != Some(expected)
        {
            return Err(Refusal::Stale { expected: expected.clone(), found: self.live.clone() });
        }
        let changes_what_is_live = matches!(act, Act::Release { .. } | Act::Activate { .. });
        if let Some(lock) = &self.lock
            && changes_what_is_live
        {
            return Err(Refusal::Locked(lock.clone()));
        }
        match self.stuck {
            Some(run) if act.takes_turns() && !matches!(act, Act::Activate { .. } | Act::Check) => Err(Refusal::Stuck(run)),
            _ => Ok(()),
        }
    }

    /// Whether the act may be taken now, and what it displaces.
    ///
    /// # Errors
    /// The [`Refusal`] that stands in its way.
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
        match (self.when_busy, ahead) {
            (WhenBusy::Refuse, Some(run)) => Err(Refusal::Busy(run)),
            (WhenBusy::Latest, _) if matches!(act, Act::Release { .. }) => {
                let releases = self.waiting.iter().filter(|(_, kind)| *kind == Waiting::Release);
                Ok(Admission { supersedes: releases.map(|(run, _)| *run).collect() })
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
        Act::Release { revision: "main".parse().unwrap(), rebuild: Rebuild::WhenNeeded }
    }

    fn activate() -> Act {
        Act::Activate { release: ReleaseSelector::Previous }
    }

    #[test]
    fn a_lock_stops_what_changes_the_live_release_and_nothing_else() {
        let lock = Lock { who: "unix:anna".into(), why: "audit".into(), since: 0 };
        let standing = Standing { lock: Some(lock.clone()), ..Standing::default() };
        assert_eq!(standing.admit(&request(release())), Err(Refusal::Locked(lock.clone())));
        assert_eq!(standing.admit(&request(activate())), Err(Refusal::Locked(lock)));
        for act in [Act::Prune, Act::Check, Act::Unlock, Act::Cancel { run: RunId(1) }] {
            assert!(standing.admit(&request(act)).is_ok());
        }
    }

    #[test]
    fn stuck_leaves_only_activate_check_and_what_is_done_on_the_spot() {
        let standing = Standing { stuck: Some(RunId(7)), ..Standing::default() };
        assert_eq!(standing.admit(&request(release())), Err(Refusal::Stuck(RunId(7))));
        assert_eq!(standing.admit(&request(Act::Prune)), Err(Refusal::Stuck(RunId(7))));
        assert!(standing.admit(&request(activate())).is_ok());
        assert!(standing.admit(&request(Act::Unlock)).is_ok());
    }

    #[test]
    fn the_newest_release_takes_the_place_of_waiting_releases_only() {
        let waiting = vec![(RunId(2), Waiting::Release), (RunId(3), Waiting::Other), (RunId(4), Waiting::Release)];
        let standing = Standing { running: Some(RunId(1)), waiting, when_busy: WhenBusy::Latest, ..Standing::default() };
        assert_eq!(standing.admit(&request(release())).unwrap().supersedes, [RunId(2), RunId(4)]);
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

    #[test]
    fn nobody_is_let_in_by_default_and_a_grant_gives_what_it_says() {
        let app: AppName = "shop".parse().unwrap();
        let anna = Caller::Unix { user: "anna".into(), groups: vec!["deployers".into()], power: Power::Granted };
        assert!(matches!(authorise(anna.clone(), Right::Read, &app, &[]), Err(Refusal::NotAllowed { .. })));
        let narrow = Grant {
            to: "unix-group:deployers".parse().unwrap(),
            apps: Scope::Only(vec![app.clone()]),
            rights: Scope::Only(vec![Right::Release]),
            refs: Some(vec!["v*".parse().unwrap()]),
        };
        let allowed = authorise(anna.clone(), Right::Release, &app, std::slice::from_ref(&narrow)).unwrap();
        assert_eq!(allowed.refs().unwrap().len(), 1);
        assert!(authorise(anna.clone(), Right::Activate, &app, std::slice::from_ref(&narrow)).is_err());
        assert!(authorise(anna.clone(), Right::Release, &"other".parse().unwrap(), std::slice::from_ref(&narrow)).is_err());
        let wide = Grant { refs: None, ..narrow.clone() };
        assert!(authorise(anna, Right::Release, &app, &[narrow.clone(), wide]).unwrap().refs().is_none());
        let ben = Caller::Unix { user: "ben".into(), groups: vec![], power: Power::Granted };
        assert!(authorise(ben, Right::Release, &app, &[narrow]).is_err());
    }

    #[test]
    fn patterns_of_refs() {
        for (pattern, name, fits) in [
            ("main", "main", true),
            ("main", "main2", false),
            ("v*", "v1.0", true),
            ("v*", "main/v1", false),
            ("release/*", "release/2026/11", true),
            ("*", "anything/at/all", true),
            ("v*-rc*", "v1-rc2", true),
            ("v*-rc*", "v1", false),
            ("a*a", "a", false),
            ("a*b*a", "aba", true),
        ] {
            assert_eq!(pattern.parse::<RefPattern>().unwrap().fits(name), fits, "{pattern} {name}");
        }
    }
}
