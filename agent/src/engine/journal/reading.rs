//! Queries of the journal: runs, events, and the state of an app.

use std::collections::BTreeMap;

use agent_model::names::{AppName, ReleaseName, RunId};
use agent_model::request::Standing;
use agent_wire::event::{Event, What};
use agent_wire::view;
use chrono::{DateTime, Utc};
use rusqlite::{OptionalExtension, Row, params};

use super::{CallerProof, Due, Journal, JournalError, back_of, has_unresolved, moment, standing};

/// A page of a run's events for its followers.
pub(crate) struct Page {
    /// Each event: its number, its time, and its text.
    pub events: Vec<(u64, DateTime<Utc>, String)>,
    /// Whether the run was over before they were read.
    pub over: bool,
    /// Whether there may be more of them already.
    pub more: bool,
}

/// The bytes of events that are read for a follower at a time.
pub(super) const PAGE: usize = 128 * 1024;

// Frequent queries use an index, so they cost the same with any number of runs.
pub(super) const LAST_ENDED: &str = "WHERE app = ? AND ended IS NOT NULL AND turns ORDER BY ended DESC, run DESC LIMIT 1";
pub(super) const OUTCOMES: &str = "SELECT outcome, count(*) FROM run WHERE app = ? AND outcome IS NOT NULL AND turns GROUP BY outcome";
pub(super) const PAST_OUTCOMES: &str = "SELECT outcome, count FROM past_outcome WHERE app = ?";
pub(super) const GONE_LIVE: &str =
    "SELECT release FROM run WHERE app = ? AND outcome = 'live' AND turns AND release IS NOT NULL ORDER BY run DESC LIMIT 200";
pub(super) const NEXT: &str = "SELECT n, at, what FROM event WHERE run = ? AND n > ? ORDER BY n";
pub(super) const UNDER_WAY: &str = "SELECT app, run, step FROM run WHERE ended IS NULL AND begun IS NOT NULL AND turns ORDER BY app";
pub(super) const ON_THE_SPOT: &str = "SELECT run FROM run WHERE ended IS NULL AND NOT turns";

/// A run's duration comes from its last event, because the clock may have been changed in between.
pub(super) const RUN: &str = "SELECT run, app, action, of, caller, accepted, begun, ended, outcome, release, step, \
    (SELECT what ->> 'ms' FROM event WHERE event.run = run.run AND ended IS NOT NULL ORDER BY n DESC LIMIT 1) FROM run";

fn run_of(row: &Row<'_>) -> rusqlite::Result<view::Run> {
    let (begun, ended): (Option<i64>, Option<i64>) = (row.get(6)?, row.get(7)?);
    let outcome: Option<String> = row.get(8)?;
    Ok(view::Run {
        run: row.get(0)?,
        app: row.get(1)?,
        action: row.get(2)?,
        of: row.get(3)?,
        caller: row.get(4)?,
        state: match (begun, ended) {
            (_, Some(_)) => view::RunState::Ended,
            (Some(_), None) => view::RunState::Running,
            (None, None) => view::RunState::Waiting,
        },
        outcome: outcome.and_then(|word| serde_json::from_value(word.into()).ok()),
        release: row.get(9)?,
        step: row.get(10)?,
        accepted: moment(row.get(5)?),
        ended: ended.map(moment),
        ms: begun.and(row.get(11)?),
    })
}

impl Journal {
    /// The immediate actions that have not ended, because the agent stopped in between.
    pub(crate) fn cut_off_on_the_spot(&self) -> Result<Vec<RunId>, JournalError> {
        let reader = self.reader.lock();
        let mut query = reader.prepare_cached(ON_THE_SPOT)?;
        let rows = query.query_map([], |row| row.get(0).map(RunId))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The events of a run after `after`, at most `limit`.
    pub(crate) fn events(&self, run: RunId, after: u64, limit: u32) -> Result<Vec<Event>, JournalError> {
        let reader = self.reader.lock();
        let mut query = reader.prepare_cached("SELECT n, at, what FROM event WHERE run = ? AND n > ? ORDER BY n LIMIT ?")?;
        let rows = query.query_map(params![run.0, after, limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let mut events = Vec::new();
        for row in rows {
            let (n, at, text): (u64, i64, String) = row?;
            let what = serde_json::from_str(&text).map_err(|source| JournalError::Malformed { run: run.0, n, source })?;
            events.push(Event { run: run.0, n, at: moment(at), what });
        }
        Ok(events)
    }

    /// All events of a run except the output of tools.
    pub(crate) fn marks(&self, run: RunId) -> Result<Vec<Event>, JournalError> {
        let reader = self.reader.lock();
        let mut query = reader.prepare_cached("SELECT n, at, what FROM event WHERE run = ? ORDER BY n")?;
        let mut rows = query.query([run.0])?;
        let mut marks = Vec::new();
        while let Some(row) = rows.next()? {
            let (n, at, text): (u64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let what = serde_json::from_str(&text).map_err(|source| JournalError::Malformed { run: run.0, n, source })?;
            if !matches!(what, What::Output { .. }) {
                marks.push(Event { run: run.0, n, at: moment(at), what });
            }
        }
        Ok(marks)
    }

    /// Events of a run after `after`: at least one if there is one, and about one page of bytes.
    pub(crate) fn page(&self, run: RunId, after: u64) -> Result<Page, JournalError> {
        let reader = self.reader.lock();
        // Whether it is over is asked first: then what is read afterwards is all that there will ever be.
        let over = {
            let mut query = reader.prepare_cached("SELECT ended IS NOT NULL FROM run WHERE run = ?")?;
            query.query_row([run.0], |row| row.get(0)).optional()?.unwrap_or(true)
        };
        let mut query = reader.prepare_cached(NEXT)?;
        let mut rows = query.query(params![run.0, after])?;
        let (mut events, mut bytes) = (Vec::new(), 0);
        while bytes < PAGE
            && let Some(row) = rows.next()?
        {
            let (n, at, text): (u64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            bytes += text.len();
            events.push((n, moment(at), text));
        }
        Ok(Page { events, over, more: bytes >= PAGE })
    }

    /// The runs that have begun and not ended: app, number, and current step.
    pub(crate) fn under_way(&self) -> Result<Vec<(String, RunId, Option<String>)>, JournalError> {
        let reader = self.reader.lock();
        let mut query = reader.prepare_cached(UNDER_WAY)?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1).map(RunId)?, row.get(2)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The runs of an app that have begun and not ended, then those that wait, each in their order.
    pub(crate) fn due(&self, app: &AppName) -> Result<Vec<Due>, JournalError> {
        let reader = self.reader.lock();
        let mut query = reader.prepare_cached(
            "SELECT run, form, caller, refs, begun IS NOT NULL, back, proof, signatures FROM run WHERE app = ? AND ended IS NULL AND turns ORDER BY begun IS NULL, run",
        )?;
        let rows = query.query_map([app.as_str()], |row| {
            let refs: Option<String> = row.get(3)?;
            let refs = refs.and_then(|refs| serde_json::from_str(&refs).ok());
            let back = back_of(row.get(5)?);
            let signatures: Option<String> = row.get(7)?;
            let proof = CallerProof::of_columns(row.get(6)?, signatures.as_deref());
            Ok(Due { run: RunId(row.get(0)?), form: row.get(1)?, caller: row.get(2)?, refs, back, proof, begun: row.get(4)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The state of an app's runs; the caller fills in lock, live release and settings.
    pub(crate) fn standing(&self, app: &AppName) -> Result<Standing, JournalError> {
        standing(&self.reader.lock(), app)
    }

    /// The last number that was given to a run, whether the run is kept or not.
    pub(crate) fn last_number(&self) -> Result<u64, JournalError> {
        let reader = self.reader.lock();
        let mut query = reader.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'run'")?;
        Ok(query.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
    }

    pub(crate) fn run(&self, run: RunId) -> Result<Option<view::Run>, JournalError> {
        let reader = self.reader.lock();
        let mut query = reader.prepare_cached(&format!("{RUN} WHERE run = ?"))?;
        Ok(query.query_row([run.0], run_of).optional()?)
    }

    /// The runs of an app, newest first, with numbers above `after`.
    pub(crate) fn runs(&self, app: &AppName, after: u64, limit: u32) -> Result<Vec<view::Run>, JournalError> {
        let reader = self.reader.lock();
        let mut query = reader.prepare_cached(&format!("{RUN} WHERE app = ? AND run > ? ORDER BY run DESC LIMIT ?"))?;
        let rows = query.query_map(params![app.as_str(), after, limit], run_of)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The last run of an app that ended, among those that take turns.
    pub(crate) fn last_ended(&self, app: &AppName) -> Result<Option<view::Run>, JournalError> {
        let reader = self.reader.lock();
        let mut query = reader.prepare_cached(&format!("{RUN} {LAST_ENDED}"))?;
        Ok(query.query_row([app.as_str()], run_of).optional()?)
    }

    /// Whether a run of an app has not resolved the commit that it is to release.
    pub(crate) fn has_unresolved(&self, app: &AppName) -> Result<bool, JournalError> {
        Ok(has_unresolved(&self.reader.lock(), app)?)
    }

    /// How many runs of an app ended in each way.
    pub(crate) fn outcomes(&self, app: &AppName) -> Result<BTreeMap<String, u64>, JournalError> {
        let reader = self.reader.lock();
        let mut counts = BTreeMap::new();
        for query in [OUTCOMES, PAST_OUTCOMES] {
            let mut query = reader.prepare_cached(query)?;
            let rows = query.query_map([app.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?)))?;
            for row in rows {
                let (outcome, count) = row?;
                *counts.entry(outcome).or_default() += count;
            }
        }
        Ok(counts)
    }

    /// The releases of an app that went live and were proven, the latest first.
    pub(crate) fn gone_live(&self, app: &AppName) -> Result<Vec<ReleaseName>, JournalError> {
        let reader = self.reader.lock();
        let mut query = reader.prepare_cached(GONE_LIVE)?;
        let rows = query.query_map([app.as_str()], |row| row.get::<_, String>(0))?;
        Ok(rows.flatten().filter_map(|name| name.parse().ok()).collect())
    }

    /// Every release of an app that ever went live.
    pub(crate) fn ever_live(&self, app: &AppName) -> Result<Vec<ReleaseName>, JournalError> {
        let reader = self.reader.lock();
        let mut query =
            reader.prepare_cached("SELECT DISTINCT release FROM run WHERE app = ? AND outcome = 'live' AND release IS NOT NULL")?;
        let rows = query.query_map([app.as_str()], |row| row.get::<_, String>(0))?;
        Ok(rows.flatten().filter_map(|name| name.parse().ok()).collect())
    }
}
