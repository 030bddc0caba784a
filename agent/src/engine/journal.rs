//! The journal: the only truth about runs. One SQLite file in WAL mode; the stored events are the ones that are streamed, and replayed after a crash.
//!
//! Marks are committed with `synchronous=FULL`: they are on disk when [`Journal::append`] returns. Lines of output are written in batches, and the
//! next mark makes them durable ([`Journal::say`]). Readers have a connection of their own, and each write wakes them.

mod check;
mod connection;
mod error;
mod evidence;
pub(crate) mod outbox;
mod writer;
mod reading;
mod schema;
mod sound;
mod spent;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use agent_model::grant::{Back, RefPattern};
use agent_model::names::{AppName, CommitId, RunId};
use agent_model::request::{Refusal, Standing, Waiting};
use agent_model::run::Outcome;
use agent_wire::event::{OutcomeWord, What};
use agent_wire::form::CLOCK_SKEW;
use chrono::{DateTime, Utc};
use nix::fcntl::Flock;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::watch;

pub(crate) use check::Checked;
pub(crate) use error::JournalError;
pub(crate) use evidence::{CallerProof, Evidence};

use crate::root::hold_for_good;
use connection::{connect, wait_for_others};
use evidence::Entry;
pub(crate) use reading::Page;
use sound::Verdict;
use writer::{Transaction, Weight, Writer};

/// A request to be accepted.
pub(crate) struct NewRun<'a> {
    pub app: &'a AppName,
    pub action: &'a str,
    /// The subject of the action, as the caller wrote it.
    pub of: Option<&'a str>,
    pub caller: &'a str,
    /// The form as received, with the proof of who sent it.
    pub evidence: &'a Evidence,
    /// The caller in a form that can be checked again.
    pub proof: Option<&'a str>,
    /// The ref patterns of the caller's grant.
    pub refs: Option<&'a [String]>,
    /// The refs whose releases the caller may leave when it goes back.
    pub back: &'a Back,
    pub nonce: &'a str,
    /// The ID token that speaks for the caller: it starts at most one run.
    pub token: Option<&'a str>,
    /// Whether the caller's share of the agent is limited.
    pub limit: Limit,
    /// Whether the run waits for its turn; else it ends at once.
    pub takes_turns: bool,
    /// The commit to release, if the request counts only when nobody has asked for that commit before.
    pub first_for: Option<&'a CommitId>,
}

/// Whether a caller is held to a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The agent's own user, root, and the agent itself.
    None,
    /// All other callers.
    Share,
}

/// The result of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    New(RunId),
    /// The same bytes had been accepted before.
    Before(RunId),
    /// The nonce was used for another request.
    NonceReused,
    /// The ID token has started another run already.
    TokenReused,
    /// An earlier request asked for the commit.
    AskedBefore,
    /// A run that is not over has not resolved its commit yet, and it may be the same.
    TooEarly,
    Refused(Refusal),
}

/// A run that is to be carried out, or was cut off.
#[derive(Debug, Clone)]
pub(crate) struct Due {
    pub run: RunId,
    /// The form as received.
    pub form: String,
    pub caller: String,
    /// The ref patterns of the caller's grant.
    pub refs: Option<Vec<String>>,
    /// The refs whose releases the caller may leave when it goes back.
    pub back: Back,
    /// How the caller was authenticated.
    pub proof: CallerProof,
    pub begun: bool,
}

/// Facts that a run's row repeats from its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunFlag {
    Planned,
    CancelAsked,
    /// Visitors may have met its release.
    Exposed,
    Ended,
}

impl RunFlag {
    /// The column that is set when the flag is.
    fn column(self) -> &'static str {
        match self {
            Self::Planned => "begun",
            Self::CancelAsked => "cancel_asked",
            Self::Exposed => "exposed",
            Self::Ended => "ended",
        }
    }
}

/// An event as stored.
struct Line {
    run: u64,
    at: i64,
    text: String,
}

pub(crate) struct Journal {
    path: PathBuf,
    about: schema::About,
    /// Requests issued before this time are refused, in seconds since 1970 UTC.
    not_before: AtomicU64,
    writer: Arc<Writer>,
    /// A panic while it is held rolls its transaction back; the connection itself stays sound.
    reader: Mutex<Connection>,
    verdict: Verdict,
    /// The thread that writes the pending lines of output.
    writing: Option<JoinHandle<()>>,
    _held: Flock<fs::File>,
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.writer.close();
        // The writer has already recorded which runs lost lines.
        let _ = self.writing.take().map(JoinHandle::join);
    }
}

impl Journal {
    /// Opens the journal in `state`, or makes it.
    pub(crate) fn open(state: &Path) -> Result<Self, JournalError> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
        let place = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Place { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(place(state))?;
        let holder = state.join("holder");
        let was_used = holder.exists();
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&holder).map_err(place(&holder))?;
        let held = hold_for_good(file).map_err(|_| JournalError::Held(state.to_owned()))?;
        let path = state.join("journal.db");
        // SQLite makes its other files with the mode of this one.
        fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(place(&path))?;
        let (writer, reader, about) = connect(&path).map_err(|err| match err {
            JournalError::Sqlite(source) => JournalError::Unopened { path: path.clone(), source },
            err => err,
        })?;
        let thread = |source| JournalError::Place { path: path.clone(), source };
        let writer = Arc::new(Writer::new(path.clone(), writer, about.newest));
        let writing = writer.clone();
        let writing = std::thread::Builder::new().name("journal".to_owned()).spawn(move || writing.write_lines()).map_err(thread)?;
        let not_before = AtomicU64::new(about.not_before);
        let (reader, verdict) = (Mutex::new(reader), Verdict::default());
        let journal = Self { path, not_before, about, writer, reader, verdict, writing: Some(writing), _held: held };
        if journal.about.is_new && was_used {
            journal.reject_issued_before_now()?;
        }
        Ok(journal)
    }

    /// Checks the whole file once after the start; an error when it is damaged. Nothing is written before that.
    pub(crate) fn looked_through(&self) -> Result<(), JournalError> {
        self.verdict.of(&self.path)
    }

    /// Whether the file was made by this start.
    pub(crate) fn is_new(&self) -> bool {
        self.about.is_new
    }

    /// Records a moment that the root remembers: a clock that shows an earlier one was set back.
    pub(crate) fn has_been(&self, moment: DateTime<Utc>) {
        self.writer.newest.fetch_max(moment.timestamp_millis(), Ordering::AcqRel);
    }

    /// Called for a journal that lacks part of this host's history: a new one that is not the first, or one from a backup. The requests that were
    /// carried out are unknown, so requests that may have been issued before now, by any clock, are refused.
    pub(crate) fn reject_issued_before_now(&self) -> Result<(), JournalError> {
        let not_before = u64::try_from(Utc::now().max(self.newest()).timestamp()).unwrap_or_default() + CLOCK_SKEW + 1;
        self.write(Weight::Mark, |tx| {
            tx.execute("UPDATE about SET value = ? WHERE key = 'not_before'", [not_before.to_string()])?;
            Ok(())
        })?;
        self.not_before.store(not_before, Ordering::Release);
        let known = if self.is_new() {
            "the journal is new, and another one was here before"
        } else {
            "the journal is older than what it should know"
        };
        tracing::warn!("{known}: signed requests are taken when they were issued after {CLOCK_SKEW} s from now");
        Ok(())
    }

    /// Requests issued before this time are refused, in seconds since 1970 UTC.
    pub(crate) fn not_before(&self) -> u64 {
        self.not_before.load(Ordering::Acquire)
    }

    /// The newest moment that the journal has seen: a clock that shows an earlier one was set back.
    pub(crate) fn newest(&self) -> DateTime<Utc> {
        moment(self.writer.newest.load(Ordering::Acquire))
    }

    /// The key of the tokens for reading one run's events. It never leaves the agent.
    pub(crate) fn events_key(&self) -> &str {
        &self.about.events_key
    }

    /// The directory of the journal.
    pub(crate) fn place(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// The unique id of this journal.
    pub(crate) fn id(&self) -> &str {
        &self.about.id
    }

    /// The value of the variable that marks a run's processes.
    pub(crate) fn marker(&self, run: RunId) -> String {
        format!("{}:{run}", self.id())
    }

    /// Notifies of every write.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.writer.changes()
    }

    /// Notifies of writes about one run.
    pub(crate) fn changes_of(&self, run: RunId) -> watch::Receiver<()> {
        self.writer.changes_of(run)
    }

    fn write<T>(&self, weight: Weight, act: impl Fn(&Transaction<'_>) -> Result<T, JournalError>) -> Result<T, JournalError> {
        self.looked_through()?;
        self.writer.write(weight, act)
    }

    /// Accepts or refuses a request in one transaction: it uses up the nonce, and gives the run its number and its first event.
    ///
    /// `admit` decides by the current runs of the app.
    pub(crate) fn take(
        &self,
        asked: &NewRun<'_>,
        admit: impl Fn(Standing) -> Result<agent_model::request::Admission, Refusal>,
    ) -> Result<Taken, JournalError> {
        // The disk may have room again since the reserve was released.
        self.writer.keep_reserve();
        self.write(Weight::Mark, |tx| {
            if let Some(before) = before(tx, asked.nonce, &asked.evidence.text, asked.caller)? {
                return Ok(before);
            }
            if let Some(token) = asked.token
                && tx.prepare_cached("SELECT 1 FROM run WHERE token = ?")?.exists([token])?
            {
                return Ok(Taken::TokenReused);
            }
            if let Some(commit) = asked.first_for {
                if has_unresolved(tx, asked.app)? {
                    return Ok(Taken::TooEarly);
                }
                if was_asked_for(tx, asked.app, commit)? {
                    return Ok(Taken::AskedBefore);
                }
            }
            if asked.limit == Limit::Share
                && let Err(refusal) = spent::share(tx, asked.caller)?.admit(asked.caller)
            {
                return Ok(Taken::Refused(refusal));
            }
            if !asked.takes_turns {
                spent::forget_spot(tx, asked.app)?;
            }
            let standing = standing(tx, asked.app)?;
            let (running, waiting): (_, Vec<RunId>) = (standing.running, standing.waiting.iter().map(|(run, _)| *run).collect());
            let admission = match admit(standing) {
                Ok(admission) => admission,
                Err(refusal) => return Ok(Taken::Refused(refusal)),
            };
            let now = Utc::now();
            let ahead = waiting.iter().rfind(|run| !admission.supersedes.contains(run)).copied().or(running);
            for run in admission.supersedes {
                let end = What::Ended { outcome: OutcomeWord::Superseded, live: None, ms: 0, database: None };
                insert(tx, run, now, &end)?;
            }
            let refs = asked.refs.map(|refs| serde_json::json!(refs).to_string());
            let Evidence { text, signatures, keys } = asked.evidence;
            let signatures = (!signatures.is_empty()).then(|| serde_json::json!(signatures).to_string());
            let keys = (!keys.is_empty()).then(|| keys.join(" "));
            tx.prepare_cached(
                "INSERT INTO run (app, action, of, caller, form, refs, back, nonce, token, accepted, turns, proof, signatures, keys)
                    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                asked.app.as_str(),
                asked.action,
                asked.of,
                asked.caller,
                text,
                refs,
                back_text(asked.back),
                asked.nonce,
                asked.token,
                now.timestamp_millis(),
                asked.takes_turns,
                asked.proof,
                signatures,
                keys
            ])?;
            let run = RunId(u64::try_from(tx.last_insert_rowid()).unwrap_or_default());
            let accepted = What::Accepted {
                app: asked.app.to_string(),
                action: asked.action.to_owned(),
                of: asked.of.map(str::to_owned),
                caller: asked.caller.to_owned(),
            };
            insert(tx, run, now, &accepted)?;
            if let (Some(ahead), true) = (ahead, asked.takes_turns) {
                insert(tx, run, now, &What::Waits { behind: ahead.0 })?;
            }
            Ok(Taken::New(run))
        })
    }

    /// The earlier use of a nonce: none, the run of the same request, or another request.
    pub(crate) fn asked_before(&self, nonce: &str, form: &str, caller: &str) -> Result<Option<Taken>, JournalError> {
        Ok(before(&self.reader.lock(), nonce, form, caller)?)
    }

    /// Appends marks; they are on disk when this returns.
    pub(crate) fn append(&self, run: RunId, whats: &[What]) -> Result<(), JournalError> {
        self.write(Weight::Mark, |tx| whats.iter().try_for_each(|what| insert(tx, run, Utc::now(), what)))
    }

    /// Appends an event that another mark follows before anything is done: it is on disk with that mark.
    pub(crate) fn head(&self, run: RunId, what: &What) -> Result<(), JournalError> {
        self.write(Weight::Heading, |tx| insert(tx, run, Utc::now(), what))
    }

    /// Appends an event that a power failure before the next mark may lose. On a full disk it may not use the reserve, which is for marks:
    /// [`JournalError::Full`].
    pub(crate) fn append_soon(&self, run: RunId, what: &What) -> Result<(), JournalError> {
        self.write_soon(|tx| insert(tx, run, Utc::now(), what))
    }

    fn write_soon<T>(&self, act: impl Fn(&Transaction<'_>) -> Result<T, JournalError>) -> Result<T, JournalError> {
        self.looked_through()?;
        self.writer.write_soon(act)
    }

    /// Accepts a line of a tool's output. It is written a moment later in a batch, and always before events that are appended afterwards. Returns the
    /// error of earlier lines.
    pub(crate) fn say(&self, run: RunId, what: &What) -> Result<(), JournalError> {
        self.looked_through()?;
        self.writer.take_line(Line { run: run.0, at: Utc::now().timestamp_millis(), text: text_of(run, what)? })
    }

    /// Writes the pending lines. Returns how many lines of a run were lost on a full disk since the last call.
    pub(crate) fn settle(&self, run: RunId) -> Result<u64, JournalError> {
        self.writer.settle(run)
    }

    /// Appends that a run begins, unless it is over; returns whether it was appended. Another mark follows before anything is done, and this one is
    /// on disk with it.
    pub(crate) fn begin(&self, run: RunId, planned: &What) -> Result<bool, JournalError> {
        self.go_on_with(Weight::Heading, run, None, planned, RunFlag::Ended)
    }

    /// Appends a mark unless the flag is set or the run is over; returns whether it was appended. So `expose` and `cancel` exclude each other.
    pub(crate) fn append_unless(&self, run: RunId, what: &What, flag: RunFlag) -> Result<bool, JournalError> {
        self.go_on(run, None, what, flag)
    }

    /// Like [`Self::append_unless`], and writes `ended` in the same transaction regardless of the flag.
    pub(crate) fn go_on(&self, run: RunId, ended: Option<&What>, what: &What, flag: RunFlag) -> Result<bool, JournalError> {
        self.go_on_with(Weight::Mark, run, ended, what, flag)
    }

    fn go_on_with(&self, weight: Weight, run: RunId, ended: Option<&What>, what: &What, flag: RunFlag) -> Result<bool, JournalError> {
        self.write(weight, |tx| {
            if let Some(ended) = ended {
                insert(tx, run, Utc::now(), ended)?;
            }
            let there = has(tx, run, flag)? || has(tx, run, RunFlag::Ended)?;
            if !there {
                insert(tx, run, Utc::now(), what)?;
            }
            Ok(!there)
        })
    }

    /// Whether a run's flag is set.
    pub(crate) fn has(&self, run: RunId, flag: RunFlag) -> Result<bool, JournalError> {
        Ok(has(&self.reader.lock(), run, flag)?)
    }
}

fn moment(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// Equal bytes are the same request only from the same caller: a caller who has seen another's request learns nothing of its run.
fn before(connection: &Connection, nonce: &str, form: &str, caller: &str) -> Result<Option<Taken>, rusqlite::Error> {
    let mut query = connection.prepare_cached("SELECT run, form = ?2 AND caller = ?3 FROM run WHERE nonce = ?1")?;
    let found: Option<(u64, bool)> = query.query_row([nonce, form, caller], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(found.map(|(run, same)| if same { Taken::Before(RunId(run)) } else { Taken::NonceReused }))
}

/// Whether any run of an app was ever asked to release or stage a commit, whatever its outcome. A release's name ends with the first digits of its
/// commit.
fn was_asked_for(connection: &Connection, app: &AppName, commit: &CommitId) -> Result<bool, rusqlite::Error> {
    let mut query = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM run WHERE app = ?1 AND action IN ('release', 'stage') AND (form ->> 'commit' = ?2 OR release LIKE '%-' || ?3))
            OR EXISTS (SELECT 1 FROM past WHERE app = ?1 AND commit_id IN (?2, ?3))",
    )?;
    query.query_row(params![app.as_str(), commit.as_str(), commit.short()], |row| row.get(0))
}

fn has_unresolved(connection: &Connection, app: &AppName) -> Result<bool, rusqlite::Error> {
    let mut query = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM run WHERE app = ? AND action IN ('release', 'stage') AND ended IS NULL AND release IS NULL AND form ->> 'commit' IS NULL)",
    )?;
    query.query_row([app.as_str()], |row| row.get(0))
}

/// The refs from which a caller may go back, as stored in the column.
fn back_text(back: &Back) -> Option<String> {
    match back {
        Back::Never => None,
        Back::Always => Some("null".to_owned()),
        Back::From(refs) => Some(serde_json::json!(refs.iter().map(RefPattern::as_str).collect::<Vec<_>>()).to_string()),
    }
}

fn back_of(text: Option<String>) -> Back {
    // An unreadable value allows nothing.
    match text.as_deref().map(serde_json::from_str::<Option<Vec<String>>>) {
        None | Some(Err(_)) => Back::Never,
        Some(Ok(None)) => Back::Always,
        Some(Ok(Some(refs))) => Back::From(refs.iter().filter_map(|pattern| pattern.parse().ok()).collect()),
    }
}

fn has(connection: &Connection, run: RunId, flag: RunFlag) -> Result<bool, rusqlite::Error> {
    let mut query = connection.prepare_cached(&format!("SELECT {} IS NOT NULL FROM run WHERE run = ?", flag.column()))?;
    Ok(query.query_row([run.0], |row| row.get(0)).optional()?.unwrap_or(false))
}

const STUCK: &str = "SELECT max(run) FROM run WHERE app = ?1 AND outcome = 'stuck' AND turns
    AND run > (SELECT coalesce(max(run), 0) FROM run WHERE app = ?1 AND outcome = 'live' AND turns)";

fn standing(connection: &Connection, app: &AppName) -> Result<Standing, JournalError> {
    let mut query = connection
        .prepare_cached("SELECT run, action, begun IS NOT NULL FROM run WHERE app = ? AND ended IS NULL AND turns ORDER BY run")?;
    let rows = query.query_map([app.as_str()], |row| Ok((RunId(row.get(0)?), row.get::<_, String>(1)?, row.get::<_, bool>(2)?)))?;
    let mut standing = Standing::default();
    for row in rows {
        match row? {
            (run, _, true) => standing.running = Some(run),
            (run, action, false) => {
                let kind = match action.as_str() {
                    "release" => Waiting::Release,
                    "stage" => Waiting::Stage,
                    _ => Waiting::Other,
                };
                standing.waiting.push((run, kind));
            }
        }
    }
    let mut query = connection.prepare_cached(STUCK)?;
    standing.stuck = query.query_row([app.as_str()], |row| row.get::<_, Option<u64>>(0))?.map(RunId);
    Ok(standing)
}

fn text_of(run: RunId, what: &What) -> Result<String, JournalError> {
    serde_json::to_string(what).map_err(|source| JournalError::Malformed { run: run.0, n: 0, source })
}

const APPEND: &str = "INSERT INTO event (run, n, at, what) VALUES (?1, (SELECT coalesce(max(n), 0) + 1 FROM event WHERE run = ?1), ?2, ?3)";

/// Appends one event that does not change the run's row.
fn insert_line(tx: &Transaction<'_>, line: &Line) -> Result<(), JournalError> {
    tx.runs.borrow_mut().insert(line.run);
    tx.prepare_cached(APPEND)?.execute(params![line.run, line.at, line.text])?;
    Ok(())
}

/// Appends one event, and updates the run's row in the same transaction.
fn insert(tx: &Transaction<'_>, run: RunId, at: DateTime<Utc>, what: &What) -> Result<(), JournalError> {
    let at = at.timestamp_millis();
    insert_line(tx, &Line { run: run.0, at, text: text_of(run, what)? })?;
    let set = |column: &str, value: &dyn rusqlite::ToSql| -> Result<(), JournalError> {
        tx.prepare_cached(&format!("UPDATE run SET {column} = ? WHERE run = ?"))?.execute(params![value, run.0])?;
        Ok(())
    };
    match what {
        What::Planned { .. } => set("begun", &at),
        What::StepStarted { step } => set("step", step),
        What::StepFailed { step, .. } => set("step", step),
        What::Resolved { commit, release, .. } => {
            set("commit_id", commit)?;
            set("release", release)
        }
        What::CancelAsked { .. } => set(RunFlag::CancelAsked.column(), &at),
        What::Exposed { .. } => set(RunFlag::Exposed.column(), &at),
        What::Ended { outcome, .. } => {
            set("outcome", &outcome.word())?;
            if matches!(outcome, OutcomeWord::Live | OutcomeWord::Done) {
                set("step", &rusqlite::types::Null)?;
            }
            set("ended", &at)?;
            tell(tx, run)
        }
        What::Accepted { .. } => tell(tx, run),
        _ => Ok(()),
    }
}

/// Writes a line about the run to the system log after the commit.
fn tell(tx: &Transaction<'_>, run: RunId) -> Result<(), JournalError> {
    tx.entries.borrow_mut().extend(Entry::of(tx, run)?);
    Ok(())
}

/// The word for an outcome that the model decided.
pub(crate) fn word_of(outcome: Outcome) -> OutcomeWord {
    outcome.into()
}

#[cfg(test)]
mod tests;
