//! Polls the branch that an app follows, after a webhook said that it may have moved. The webhook only triggers the poll: the agent releases what the
//! repository says, with a request like any other.
//!
//! Each app has one poller, a thread that lives while there is something to poll for. Webhooks that come meanwhile are merged into one: at most one
//! poll is active, at most one is wanted, and two polls begin at least `auto_pause` apart.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent_model::grant::{Caller, authorise};
use agent_model::names::{BadName, CommitId, RefName};
use agent_model::request::{Refusal, Request, Right, WhenBusy};
use agent_wire::event::Stream;
use agent_wire::form::{BadForm, Form};
use parking_lot::{Condvar, Mutex};
use thiserror::Error;

use super::journal::{Evidence, JournalError};
use super::{Accepted, AppEngine, NotTaken};
use crate::git::{Allowed, Git, GitError};
use crate::process::{Cancel, ProgramError, Watch};
use crate::root::RootError;
use crate::trust::webhook::Source;
use crate::work::chain;

const LIMIT: Duration = Duration::from_secs(120);
/// How many webhooks may come from one poll to the next before their senders are told that they send too many.
const MOST_WEBHOOKS: u32 = 60;

/// The answer to a webhook. The agent polls in any case: no proven webhook is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    WillPoll(RefName),
    /// It will poll after this time, and enough webhooks have come.
    Enough(Duration),
}

/// Why a poll failed.
#[derive(Debug, Error)]
enum NotPolled {
    #[error("the repository has no {0}")]
    NoBranch(RefName),
    #[error("the repository's answer cannot be understood")]
    Answer(#[from] BadName),
    #[error("the request cannot be written down")]
    Form(#[from] BadForm),
    #[error("the request cannot be written down")]
    Text(#[from] serde_json::Error),
    #[error("the system has no random numbers")]
    NoRandom,
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
}

impl From<Refusal> for NotPolled {
    fn from(refusal: Refusal) -> Self {
        Self::NotTaken(refusal.into())
    }
}

/// The result of a poll.
enum Polled {
    /// Only commits that were asked for before.
    Nothing,
    /// A commit, and accepted this request for it.
    Took(Accepted, CommitId),
    /// A commit that changes nothing within `auto_paths`.
    Elsewhere(CommitId),
    /// A commit that cannot be judged yet: the current runs must progress first.
    TooEarly,
}

/// The poller of one app.
#[derive(Default)]
pub(super) struct RefPoller {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// The source of the webhook that waits for a poll.
    wanted: Option<Source>,
    /// How many came since the last poll began.
    heard: u32,
    /// When the last poll began.
    last: Option<Instant>,
    /// Ends the current poll.
    cancel: Cancel,
    thread: Option<JoinHandle<()>>,
}

impl RefPoller {
    /// Whether the poller polls, or waits to.
    pub(super) fn is_at_work(&self) -> bool {
        self.state.lock().thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the current poll and forgets the wanted one: an agent that stops, or an app that is removed, releases nothing new.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.wanted = None;
        state.cancel.ask();
        drop(state);
        self.wake.notify_all();
    }
}

impl AppEngine {
    /// Accepts a proven webhook.
    pub(crate) fn hear(self: &Arc<Self>, source: Source) -> Result<Heard, NotTaken> {
        let app = self.settings();
        let follows = app.follows.clone().ok_or_else(|| NotTaken::NoApp(self.name.clone()))?;
        let mut state = self.poller.state.lock();
        // Asked while the state is held: whoever ends the poller has said so before, and needs the state for it.
        if self.draining() {
            return Err(Refusal::Draining.into());
        }
        state.wanted = Some(source);
        state.heard = state.heard.saturating_add(1);
        if state.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            state.cancel = Cancel::default();
            let engine = self.clone();
            let thread = std::thread::Builder::new().name(format!("poll-{}", self.name)).spawn(move || engine.follow_webhooks());
            let thread = thread.map_err(|source| RootError::Io { act: "start a thread for", path: app.root.clone(), source })?;
            state.thread = Some(thread);
        }
        if state.heard <= MOST_WEBHOOKS {
            return Ok(Heard::WillPoll(follows));
        }
        let next = state.last.map_or(Duration::ZERO, |last| (last + app.auto_pause).saturating_duration_since(Instant::now()));
        Ok(Heard::Enough(next))
    }

    /// Polls as often as it is wanted.
    fn follow_webhooks(&self) {
        while let Some((source, cancel)) = self.next_poll() {
            let app = &self.name;
            let source_word = source.word();
            match self.poll(source, &cancel) {
                Ok(Polled::Nothing) => tracing::debug!(%app, source = source_word, "a webhook was followed: nothing is new"),
                Ok(Polled::Took(Accepted::New(run) | Accepted::Before(run), commit)) => {
                    tracing::info!(%app, source = source_word, run = run.0, commit = commit.short(), "a webhook was followed: a release was asked for");
                }
                Ok(Polled::Elsewhere(commit)) => {
                    let commit = commit.short();
                    tracing::info!(%app, source = source_word, commit, "a webhook was followed: the commit changes nothing within auto_paths");
                }
                Ok(Polled::TooEarly) => {
                    tracing::debug!(%app, source = source_word, "a webhook waits for the runs at hand");
                    let mut state = self.poller.state.lock();
                    if !cancel.asked() {
                        state.wanted.get_or_insert(source);
                    }
                }
                Err(NotPolled::NotTaken(NotTaken::Refused(refusal))) => {
                    tracing::info!(%app, source = source_word, "a webhook was followed, and its release was refused: {refusal}");
                }
                Err(NotPolled::Git(GitError::Program { source: ProgramError::Cancelled(_), .. })) => {}
                Err(NotPolled::Git(err)) => {
                    let said = err.tail().last().map(|line| format!(" ({line})")).unwrap_or_default();
                    tracing::warn!(%app, source = source_word, "a webhook led nowhere: {}{said}", chain(&err));
                }
                Err(err) => tracing::warn!(%app, source = source_word, "a webhook led nowhere: {}", chain(&err)),
            }
        }
    }

    /// Waits until a poll is wanted and allowed. `None` when none is wanted, or the engine ends: then the thread ends.
    fn next_poll(&self) -> Option<(Source, Cancel)> {
        let poller = &self.poller;
        let mut state = poller.state.lock();
        loop {
            if state.cancel.asked() {
                if self.draining() || state.wanted.is_none() {
                    state.thread = None;
                    return None;
                }
                // The app was removed and came back, and got a webhook since.
                state.cancel = Cancel::default();
            }
            let now = Instant::now();
            let wait = state.last.map_or(Duration::ZERO, |last| (last + self.settings().auto_pause).saturating_duration_since(now));
            if !wait.is_zero() {
                poller.wake.wait_for(&mut state, wait);
                continue;
            }
            let Some(source) = state.wanted.take() else {
                state.thread = None;
                return None;
            };
            state.last = Some(now);
            state.heard = 0;
            return Some((source, state.cancel.clone()));
        }
    }

    /// Polls once, and requests a release of a commit that was not asked for before.
    ///
    /// The branch's newest commit is released automatically once, whatever the result. A commit that failed, or was undone, cancelled or superseded,
    /// stays so until a person says otherwise, or a newer commit comes.
    fn poll(&self, source: Source, cancel: &Cancel) -> Result<Polled, NotPolled> {
        let app = self.settings();
        let Some(follows) = &app.follows else { return Ok(Polled::Nothing) };
        let standing = self.journal.standing(&self.name)?;
        let is_busy = standing.running.is_some() || !standing.waiting.is_empty();
        if self.journal.has_unresolved(&self.name)? || (is_busy && app.when_busy == WhenBusy::Refuse) {
            return Ok(Polled::TooEarly);
        }
        let cache = self.root.cache();
        let lines = |_: Stream, line: &str| tracing::debug!("{line}");
        let marker = format!("{}:poll", self.journal.id());
        let watch = Watch { marker: &marker, deadline: Instant::now() + LIMIT, cancel, lines: &lines };
        // Only lists the remote refs: the release fetches, so nothing waits for the cache meanwhile.
        let remote = Git::new(&app.git, &cache).remote_refs(&watch)?;
        let tip: CommitId = remote.get(follows).ok_or_else(|| NotPolled::NoBranch(follows.clone()))?.parse()?;
        let is_here = self.root.release_names()?.iter().any(|name| name.commit_digits() == tip.short());
        // The transaction that accepts the request also checks for earlier ones, so none can come in between.
        if is_here {
            return Ok(Polled::Nothing);
        }
        if self.touches_nothing_of(&app.auto_paths, follows, &tip, &watch) {
            return Ok(Polled::Elsewhere(tip));
        }
        let caller = Caller::Webhook { source: source.word().to_owned(), follows: follows.clone() };
        // No grant is needed: the app's own file is the grant, for this ref alone.
        let authorised = authorise(caller, Right::Release, &self.name, &[])?;
        let form = Form {
            revision: Some(follows.to_string()),
            commit: Some(tip.to_string()),
            ..Form::new(self.name.as_str(), Right::Release, nonce()?)
        };
        let text = serde_json::to_string(&form)?;
        let evidence = Evidence { text, ..Evidence::default() };
        match self.take(&authorised, &Request::try_from(&form)?, &form, &evidence) {
            Ok(accepted) => Ok(Polled::Took(accepted, tip)),
            // Another request came while the repository was polled.
            Err(NotTaken::AskedBefore) => Ok(Polled::Nothing),
            Err(NotTaken::TooEarly) => Ok(Polled::TooEarly),
            Err(err) => Err(err.into()),
        }
    }
}

impl AppEngine {
    /// Whether a commit is known to change nothing within these patterns since the live release. If they cannot be compared, the commit is released.
    fn touches_nothing_of(&self, patterns: &[String], follows: &RefName, tip: &CommitId, watch: &Watch<'_>) -> bool {
        let live = self.root.live().ok().flatten().and_then(|live| self.root.manifest(&live).ok()?.commit.parse::<CommitId>().ok());
        let (false, Some(live)) = (patterns.is_empty(), live) else { return false };
        let app = self.settings();
        let cache = self.root.cache();
        let compared = || -> Result<bool, NotPolled> {
            let _cache = self.root.hold_cache(&|| watch.pause(Duration::from_millis(50)))?;
            let git = Git::new(&app.git, &cache);
            let allowed = Allowed { app: &app.refs, grant: None, via: None, follows: Some(follows) };
            git.fetch(&follows.to_string().parse()?, allowed, watch)?;
            Ok(git.differs_within(&live, tip, patterns, watch)?)
        };
        match compared() {
            Ok(differs) => !differs,
            Err(err) => {
                tracing::warn!(app = %self.name, "auto_paths cannot be asked, so the commit is released: {}", chain(&err));
                false
            }
        }
    }
}

/// 128 random bits in hexadecimal.
fn nonce() -> Result<String, NotPolled> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NotPolled::NoRandom)?;
    Ok(hex::encode(bytes))
}
