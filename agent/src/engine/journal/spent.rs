//! A caller's use of the agent, and the removal of runs: those without any effect and, where `[journal] keep` says so, old ones.
//!
//! Facts about removed runs are kept apart from them: which commits were asked for, how many runs ended in each way, and the newest time.

use agent_model::names::{AppName, ReleaseName};
use agent_model::request::Share;
use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{Connection, params};

use super::schema::NEWEST;
use super::writer::{Transaction, Weight};
use super::{Journal, JournalError};

/// Keeps a hundred immediate actions of an app, and all that are younger than this. By then no signed request and no ID token can be sent again.
const KEPT_FOR: TimeDelta = TimeDelta::hours(3);
/// How many runs one transaction removes, so that other writers wait only briefly.
const AT_ONCE: u32 = 200;
/// How many of an app's last runs are kept, however old they are.
const KEPT_AT_LEAST: u32 = 20;

/// A caller's use of the agent.
pub(super) fn share(tx: &Connection, caller: &str) -> Result<Share, JournalError> {
    let mut waiting = tx.prepare_cached("SELECT count(*) FROM run WHERE ended IS NULL AND begun IS NULL AND turns AND caller = ?")?;
    let mut lately = tx.prepare_cached("SELECT count(*) FROM run WHERE accepted > ? AND caller = ?")?;
    let since = (Utc::now() - TimeDelta::minutes(1)).timestamp_millis();
    Ok(Share {
        waiting: waiting.query_row([caller], |row| row.get(0))?,
        lately: lately.query_row(params![since, caller], |row| row.get(0))?,
    })
}

/// Removes old locks, unlocks and the like: each left its event in the run that it concerned, or its effect in the root.
pub(super) fn forget_spot(tx: &Transaction<'_>, app: &AppName) -> Result<(), JournalError> {
    let before = (Utc::now() - KEPT_FOR).timestamp_millis();
    let mut query = tx.prepare_cached(SPOT)?;
    let old = query.query_map([app.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let old: Vec<(u64, i64)> = old.collect::<Result<_, _>>()?;
    forget(tx, old.into_iter().filter(|(_, accepted)| *accepted < before).map(|(run, _)| run))
}

pub(super) const SPOT: &str =
    "SELECT run, accepted FROM run WHERE app = ? AND turns = 0 AND ended IS NOT NULL ORDER BY run DESC LIMIT 200 OFFSET 100";

/// Removes runs with their events, and keeps the newest time.
fn forget(tx: &Transaction<'_>, runs: impl IntoIterator<Item = u64>) -> Result<(), JournalError> {
    let mut runs = runs.into_iter().peekable();
    if runs.peek().is_none() {
        return Ok(());
    }
    tx.execute(&format!("UPDATE about SET value = max(CAST(value AS INTEGER), ({NEWEST})) WHERE key = 'newest'"), [])?;
    for run in runs {
        for table in ["event", "deployment", "run"] {
            tx.prepare_cached(&format!("DELETE FROM {table} WHERE run = ?"))?.execute([run])?;
        }
    }
    Ok(())
}

const OLD: &str = "SELECT run, outcome, coalesce(commit_id, form ->> 'commit', substr(release, -12)), action FROM run
    WHERE app = ?1 AND ended < ?2
    AND run < (SELECT max(run) FROM run WHERE app = ?1 AND outcome = 'live' AND turns)
    AND run NOT IN (SELECT run FROM run WHERE app = ?1 ORDER BY run DESC LIMIT ?3)
    AND run NOT IN (SELECT run FROM outbox)
    AND (release IS NULL OR release NOT IN (SELECT value FROM json_each(?4)))
    ORDER BY run LIMIT ?5";

impl Journal {
    /// Removes the runs of an app that ended before a moment. It keeps those after the last one that went live, those of existing releases, and those
    /// with a pending report. Returns how many it removed.
    pub(crate) fn forget_old(&self, app: &AppName, before: DateTime<Utc>, there: &[ReleaseName]) -> Result<usize, JournalError> {
        let there = serde_json::json!(there.iter().map(ReleaseName::as_str).collect::<Vec<_>>()).to_string();
        self.write(Weight::Mark, |tx| {
            let mut query = tx.prepare_cached(OLD)?;
            let rows = query.query_map(params![app.as_str(), before.timestamp_millis(), KEPT_AT_LEAST, there, AT_ONCE], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
            let old: Vec<(u64, Option<String>, Option<String>, String)> = rows.collect::<Result<_, _>>()?;
            for (_, outcome, commit, action) in &old {
                if let Some(outcome) = outcome {
                    tx.prepare_cached(COUNT)?.execute([app.as_str(), outcome])?;
                }
                if let (Some(commit), "release" | "stage") = (commit, action.as_str()) {
                    tx.prepare_cached("INSERT OR IGNORE INTO past VALUES (?, ?)")?.execute([app.as_str(), commit])?;
                }
            }
            forget(tx, old.iter().map(|(run, ..)| *run))?;
            Ok(old.len())
        })
    }
}

const COUNT: &str = "INSERT INTO past_outcome VALUES (?, ?, 1) ON CONFLICT (app, outcome) DO UPDATE SET count = count + 1";
