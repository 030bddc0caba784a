//! The outbox: what is still to be said of runs to forges and receivers. It is written by the reporter, behind the engine, from what the journal
//! says of a run, and in the same transaction the run is marked as told so far: what was read once is neither lost nor noted twice, whatever dies.
//!
//! ```text
//!   run:     told 0 --- commit known ---> 1 --- over ---> 2            (over, and the commit was never known: 2 at once)
//!   delivery:  waits --- delivered ---> gone
//!              | ^ '--- refused for good, or too old ---> given up --- the same got through again ---> gone
//!              '-' failed: due again later
//! ```
//!
//! Everything here is written as lines of output are: a power cut may bring back a delivery that was made, and none is lost with the events that
//! it tells of.

use std::sync::Arc;

use agent_model::names::AppName;
use agent_wire::event::{OutcomeWord, What};
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::connection::connection_to;
use super::{Journal, JournalError, moment};

/// The most deliveries that are kept of those that were given up.
const MOST_GIVEN_UP: u32 = 1000;

/// The outbox, with a connection of its own for reading.
pub(crate) struct Outbox {
    journal: Arc<Journal>,
    reader: Connection,
}

/// A run of which something is to be said.
#[derive(Debug)]
pub(crate) struct News {
    /// Its number.
    pub run: u64,
    /// Its app.
    pub app: String,
    /// What is to be said, in this order.
    pub phases: Vec<Phase>,
    /// Whether it is over.
    pub over: bool,
}

/// Of what a delivery tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The commit is known, and the run is in progress.
    Started,
    /// The run is over.
    Ended,
}

/// What a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryKind {
    /// The status of a commit.
    Status,
    /// A deployment is made.
    Deployment,
    /// The state of that deployment.
    DeploymentState,
    /// A message.
    Message,
}

/// One thing that is to be said to one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Its number: order, and what it is known by.
    pub delivery: u64,
    /// The app.
    pub app: String,
    /// What the settings call the target.
    pub target: String,
    /// The run.
    pub run: u64,
    /// Of what it tells.
    pub phase: Phase,
    /// What it is.
    pub kind: DeliveryKind,
    /// Since when it waits.
    pub made: DateTime<Utc>,
    /// When it is to be tried.
    pub due: DateTime<Utc>,
    /// How often it was tried in vain.
    pub tries: u32,
}

/// What a delivery tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The run.
    pub run: u64,
    /// The app.
    pub app: String,
    /// The action's word.
    pub action: String,
    /// Who asked.
    pub caller: String,
    /// The whole commit id.
    pub commit: String,
    /// The ref that reached it.
    pub reference: Option<String>,
    /// The release's name.
    pub release: String,
    /// How it ended.
    pub outcome: Option<OutcomeWord>,
    /// What the target calls the run.
    pub deployment: Option<u64>,
}

/// What one target has not heard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unheard {
    /// What the settings call the target.
    pub target: String,
    /// So many deliveries wait.
    pub waiting: u64,
    /// What went wrong at the last try of one of them, where one was tried.
    pub failed: Option<String>,
    /// So many were given up.
    pub given_up: u64,
    /// Why the last of those was.
    pub refused: Option<String>,
}

impl Phase {
    fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Ended => "ended",
        }
    }
}

impl DeliveryKind {
    fn word(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Deployment => "deployment",
            Self::DeploymentState => "deployment_state",
            Self::Message => "message",
        }
    }
}

/// The first three conditions are those of the index: old runs cost nothing.
const NEWS: &str = "SELECT run, app, told, release IS NOT NULL, ended IS NOT NULL FROM run
 WHERE told < 2 AND turns AND action IN ('release', 'activate')
   AND (ended IS NOT NULL OR (told = 0 AND release IS NOT NULL)) ORDER BY run LIMIT ?";

const DELIVERY: &str = "SELECT delivery, app, target, run, phase, what, made, due, tries FROM outbox";

fn delivery_of(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    let (phase, kind): (String, String) = (row.get(4)?, row.get(5)?);
    Ok(Delivery {
        delivery: row.get(0)?,
        app: row.get(1)?,
        target: row.get(2)?,
        run: row.get(3)?,
        phase: if phase == "started" { Phase::Started } else { Phase::Ended },
        kind: match kind.as_str() {
            "deployment" => DeliveryKind::Deployment,
            "deployment_state" => DeliveryKind::DeploymentState,
            "message" => DeliveryKind::Message,
            _ => DeliveryKind::Status,
        },
        made: moment(row.get(6)?),
        due: moment(row.get(7)?),
        tries: row.get(8)?,
    })
}

impl Outbox {
    /// Opens it.
    pub(crate) fn open(journal: Arc<Journal>) -> Result<Self, JournalError> {
        let reader = connection_to(&journal.path)?;
        reader.pragma_update(None, "query_only", "on")?;
        Ok(Self { journal, reader })
    }

    /// The journal.
    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Runs of which something is to be said, oldest first, at most so many.
    pub(crate) fn news(&self, most: u32) -> Result<Vec<News>, JournalError> {
        let mut query = self.reader.prepare_cached(NEWS)?;
        let rows = query.query_map([most], |row| {
            let (told, known, over): (u8, bool, bool) = (row.get(2)?, row.get(3)?, row.get(4)?);
            let started = (known && told == 0).then_some(Phase::Started);
            let ended = (known && over).then_some(Phase::Ended);
            Ok(News { run: row.get(0)?, app: row.get(1)?, phases: started.into_iter().chain(ended).collect(), over })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Notes what is to be said of a run, and that it is noted.
    pub(crate) fn note(&self, news: &News, deliveries: &[(String, Phase, DeliveryKind)]) -> Result<(), JournalError> {
        let now = Utc::now().timestamp_millis();
        self.journal.write_soon(|tx| {
            let mut insert =
                tx.prepare_cached("INSERT INTO outbox (app, target, run, phase, what, made, due) VALUES (?, ?, ?, ?, ?, ?, ?)")?;
            for (target, phase, kind) in deliveries {
                insert.execute(params![news.app, target, news.run, phase.word(), kind.word(), now, now])?;
            }
            tx.prepare_cached("UPDATE run SET told = ? WHERE run = ?")?.execute(params![if news.over { 2 } else { 1 }, news.run])?;
            Ok(())
        })
    }

    /// The first delivery that waits for each target of each app: the only one that may be sent.
    pub(crate) fn heads(&self) -> Result<Vec<Delivery>, JournalError> {
        let mut query = self.reader.prepare_cached(&format!(
            "{DELIVERY} WHERE delivery IN (SELECT min(delivery) FROM outbox WHERE given_up IS NULL GROUP BY app, target) ORDER BY delivery"
        ))?;
        let rows = query.query_map([], delivery_of)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What a delivery tells of.
    pub(crate) fn subject(&self, delivery: &Delivery) -> Result<Option<Subject>, JournalError> {
        let mut query = self.reader.prepare_cached(
            "SELECT run.action, run.caller, run.outcome, event.what, event.n,
                    (SELECT number FROM deployment WHERE run = run.run AND target = ?2)
             FROM run JOIN event ON event.run = run.run AND event.what ->> 'what' = 'resolved' WHERE run.run = ?1 ORDER BY event.n LIMIT 1",
        )?;
        type Found = (String, String, Option<String>, String, u64, Option<u64>);
        let found: Option<Found> = query
            .query_row(params![delivery.run, delivery.target], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
            })
            .optional()?;
        let Some((action, caller, outcome, text, n, deployment)) = found else { return Ok(None) };
        let what = serde_json::from_str(&text).map_err(|source| JournalError::Malformed { run: delivery.run, n, source })?;
        let What::Resolved { commit, reference, release, .. } = what else { return Ok(None) };
        let outcome = outcome.and_then(|word| serde_json::from_value(word.into()).ok());
        let (run, app) = (delivery.run, delivery.app.clone());
        Ok(Some(Subject { run, app, action, caller, commit, reference, release, outcome, deployment }))
    }

    /// The delivery got through; `number` is what the target calls the run from now on.
    pub(crate) fn delivered(&self, delivery: &Delivery, number: Option<u64>) -> Result<(), JournalError> {
        self.journal.write_soon(|tx| {
            if let Some(number) = number {
                tx.prepare_cached("INSERT OR REPLACE INTO deployment (run, target, number) VALUES (?, ?, ?)")?.execute(params![
                    delivery.run,
                    delivery.target,
                    number
                ])?;
            }
            // What was given up of the same kind has been mended.
            tx.prepare_cached(
                "DELETE FROM outbox WHERE delivery = ?1 OR (app = ?2 AND target = ?3 AND what = ?4 AND given_up IS NOT NULL)",
            )?
            .execute(params![delivery.delivery, delivery.app, delivery.target, delivery.kind.word()])?;
            forget_deployment(tx, delivery)
        })
    }

    /// The delivery did not get through, and is tried again when it is due.
    pub(crate) fn postponed(&self, delivery: &Delivery, due: DateTime<Utc>, error: &str) -> Result<(), JournalError> {
        self.journal.write_soon(|tx| {
            tx.prepare_cached("UPDATE outbox SET due = ?, tries = tries + 1, error = ? WHERE delivery = ?")?.execute(params![
                due.timestamp_millis(),
                error,
                delivery.delivery
            ])?;
            Ok(())
        })
    }

    /// The delivery is not tried any more, and stays to be told of.
    pub(crate) fn given_up(&self, delivery: &Delivery, error: &str) -> Result<(), JournalError> {
        let now = Utc::now().timestamp_millis();
        self.journal.write_soon(|tx| {
            tx.prepare_cached("UPDATE outbox SET given_up = ?, error = ? WHERE delivery = ?")?.execute(params![now, error, delivery.delivery])?;
            tx.prepare_cached(
                "DELETE FROM outbox WHERE delivery IN (SELECT delivery FROM outbox WHERE given_up IS NOT NULL ORDER BY delivery DESC LIMIT -1 OFFSET ?)",
            )?
            .execute([MOST_GIVEN_UP])?;
            forget_deployment(tx, delivery)
        })
    }

    /// The delivery has nobody to go to, or nothing to tell of.
    pub(crate) fn dropped(&self, delivery: &Delivery) -> Result<(), JournalError> {
        self.journal.write_soon(|tx| {
            tx.prepare_cached("DELETE FROM outbox WHERE delivery = ?")?.execute([delivery.delivery])?;
            forget_deployment(tx, delivery)
        })
    }
}

/// After the last delivery about a deployment nobody asks for its number.
fn forget_deployment(tx: &Connection, delivery: &Delivery) -> Result<(), JournalError> {
    if delivery.kind == DeliveryKind::DeploymentState && delivery.phase == Phase::Ended {
        tx.prepare_cached("DELETE FROM deployment WHERE run = ? AND target = ?")?.execute(params![delivery.run, delivery.target])?;
    }
    Ok(())
}

impl Journal {
    /// What the targets of an app have not heard; those that have heard everything are not there.
    pub(crate) fn unheard(&self, app: &AppName) -> Result<Vec<Unheard>, JournalError> {
        let reader = self.reader.lock();
        let mut query =
            reader.prepare_cached("SELECT target, given_up IS NOT NULL, error FROM outbox WHERE app = ? ORDER BY target, delivery")?;
        let mut rows = query.query([app.as_str()])?;
        let mut unheard: Vec<Unheard> = Vec::new();
        while let Some(row) = rows.next()? {
            let (target, is_given_up, error): (String, bool, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if unheard.last().is_none_or(|last| last.target != target) {
                unheard.push(Unheard { target, waiting: 0, failed: None, given_up: 0, refused: None });
            }
            let Some(last) = unheard.last_mut() else { continue };
            let (count, why) = if is_given_up { (&mut last.given_up, &mut last.refused) } else { (&mut last.waiting, &mut last.failed) };
            *count += 1;
            *why = error.or(why.take());
        }
        Ok(unheard)
    }
}

#[cfg(test)]
mod tests;
