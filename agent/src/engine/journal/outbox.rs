//! The outbox: pending deliveries about runs to forges and receivers. The reporter, behind the engine, writes them from the journal's events. The
//! same transaction marks the run as reported so far, so that a crash neither loses an event nor reports it twice.
//!
//! ```text
//!   run:     told 0 --- commit known ---> 1 --- over ---> 2            (over, and the commit was never known: 2 at once)
//!   delivery:  waits --- delivered ---> gone
//!              | ^ '--- refused for good, or too old ---> given up --- the same got through again ---> gone
//!              '-' failed: due again later
//! ```
//!
//! Everything here is written with the durability of output lines: a power cut may bring back a delivery that was made, but none is lost, because its
//! events are lost with it.

use std::sync::Arc;

use agent_model::names::AppName;
use agent_wire::event::{OutcomeWord, What};
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::connection::connection_to;
use super::{Journal, JournalError, moment};

/// The most given-up deliveries that are kept.
const MOST_GIVEN_UP: u32 = 1000;

/// The outbox, with a connection of its own for reading.
pub(crate) struct Outbox {
    journal: Arc<Journal>,
    reader: Connection,
}

/// A run with something to report.
#[derive(Debug)]
pub(crate) struct News {
    pub run: u64,
    pub app: String,
    /// The phases to report, in this order.
    pub phases: Vec<Phase>,
    pub over: bool,
}

/// The phase of a run that a delivery reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The commit is known, and the run is in progress.
    Started,
    /// The run is over.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryKind {
    /// The status of a commit.
    Status,
    /// A new deployment.
    Deployment,
    /// The state of that deployment.
    DeploymentState,
    /// A message.
    Message,
}

/// One message to one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Its number: the order of delivery, and its id.
    pub delivery: u64,
    pub app: String,
    /// The target's name in the settings.
    pub target: String,
    pub run: u64,
    pub phase: Phase,
    pub kind: DeliveryKind,
    /// The time since which it waits.
    pub made: DateTime<Utc>,
    /// The time of the next try.
    pub due: DateTime<Utc>,
    /// How often it failed.
    pub tries: u32,
}

/// The facts that a delivery reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub run: u64,
    pub app: String,
    /// The action's word.
    pub action: String,
    /// The caller.
    pub caller: String,
    /// The whole commit id.
    pub commit: String,
    /// The ref that reached it.
    pub reference: Option<String>,
    pub release: String,
    pub outcome: Option<OutcomeWord>,
    /// The target's number for the deployment of this run.
    pub deployment: Option<u64>,
}

/// The reports that one target has not received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unheard {
    /// The target's name in the settings.
    pub target: String,
    /// How many deliveries wait.
    pub waiting: u64,
    /// The error of the last try, if one was made.
    pub failed: Option<String>,
    /// How many deliveries were given up.
    pub given_up: u64,
    /// The error of the last one given up.
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

/// The first three conditions match the partial index, so old runs cost nothing.
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
    pub(crate) fn open(journal: Arc<Journal>) -> Result<Self, JournalError> {
        let reader = connection_to(&journal.path)?;
        reader.pragma_update(None, "query_only", "on")?;
        Ok(Self { journal, reader })
    }

    pub(crate) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Runs with something to report, oldest first, at most so many.
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

    /// Writes the deliveries of a run, and marks it as reported.
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

    /// The first waiting delivery for each target of each app: the only one that may be sent.
    pub(crate) fn heads(&self) -> Result<Vec<Delivery>, JournalError> {
        let mut query = self.reader.prepare_cached(&format!(
            "{DELIVERY} WHERE delivery IN (SELECT min(delivery) FROM outbox WHERE given_up IS NULL GROUP BY app, target) ORDER BY delivery"
        ))?;
        let rows = query.query_map([], delivery_of)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The facts that a delivery reports.
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

    /// Records that a delivery got through; `number` is the target's number for the run from now on.
    pub(crate) fn delivered(&self, delivery: &Delivery, number: Option<u64>) -> Result<(), JournalError> {
        self.journal.write_soon(|tx| {
            if let Some(number) = number {
                tx.prepare_cached("INSERT OR REPLACE INTO deployment (run, target, number) VALUES (?, ?, ?)")?.execute(params![
                    delivery.run,
                    delivery.target,
                    number
                ])?;
            }
            // The cause of earlier failures of the same kind is fixed.
            tx.prepare_cached(
                "DELETE FROM outbox WHERE delivery = ?1 OR (app = ?2 AND target = ?3 AND what = ?4 AND given_up IS NOT NULL)",
            )?
            .execute(params![delivery.delivery, delivery.app, delivery.target, delivery.kind.word()])?;
            forget_deployment(tx, delivery)
        })
    }

    /// Records that a delivery failed, and when to try again.
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

    /// Records that a delivery is not tried any more; it stays for the status.
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

    /// Removes a delivery that has no target or nothing to report.
    pub(crate) fn dropped(&self, delivery: &Delivery) -> Result<(), JournalError> {
        self.journal.write_soon(|tx| {
            tx.prepare_cached("DELETE FROM outbox WHERE delivery = ?")?.execute([delivery.delivery])?;
            forget_deployment(tx, delivery)
        })
    }
}

/// After the last delivery about a deployment, its number is not needed any more.
fn forget_deployment(tx: &Connection, delivery: &Delivery) -> Result<(), JournalError> {
    if delivery.kind == DeliveryKind::DeploymentState && delivery.phase == Phase::Ended {
        tx.prepare_cached("DELETE FROM deployment WHERE run = ? AND target = ?")?.execute(params![delivery.run, delivery.target])?;
    }
    Ok(())
}

impl Journal {
    /// The reports that each target of an app is missing. Targets that have received everything are left out.
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
