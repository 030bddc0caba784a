//! Whether the journal is the one that took the last requests. A state directory that came back from a backup knows less than the roots do, and each
//! root remembers: so nothing that was carried out once is carried out again.

use agent_model::names::RunId;
use chrono::{DateTime, TimeDelta, Utc};

use super::journal::{Evidence, JournalError};
use super::{AppEngine, Engines};
use crate::root::LastSigned;
use crate::work::chain;

/// A lock is written a moment after the request for it: so much later it tells of another journal.
const WRITTEN_LATER: TimeDelta = TimeDelta::seconds(10);

impl AppEngine {
    /// Has the root remember a run that somebody could ask for again with the same bytes: over the socket the kernel says who asks, and nothing is gained.
    pub(super) fn remember(&self, run: RunId, evidence: &Evidence, token: Option<&str>) {
        if !evidence.signatures.is_empty() || token.is_some() {
            self.remember_from(run.0, Utc::now());
        }
    }

    fn remember_from(&self, run: u64, at: DateTime<Utc>) {
        let last = LastSigned { journal: self.journal.id().to_owned(), run, at, not_before: self.journal.not_before() };
        if let Err(err) = self.root.remember(&last) {
            tracing::warn!(app = %self.name, "a journal that is put back later may not be noticed: {}", chain(&err));
        }
    }

    /// Has the journal forget what is older than `[journal] keep` says.
    pub(super) fn forget_old_runs(&self) -> Result<(), JournalError> {
        let Some(keep) = self.settings().keep_runs.and_then(|keep| TimeDelta::from_std(keep).ok()) else { return Ok(()) };
        // A directory that cannot be read at the moment has releases that nobody knows of.
        let Ok(there) = self.root.release_names() else { return Ok(()) };
        let forgotten = self.journal.forget_old(&self.name, Utc::now() - keep, &there)?;
        if forgotten > 0 {
            tracing::info!(app = %self.name, forgotten, "the journal has forgotten runs that ended longer ago than [journal] keep says");
        }
        Ok(())
    }

    /// A moment that the journal should know of and does not, as far as the root tells. `newest` is the newest that it knows.
    fn missed(&self, newest: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, JournalError> {
        let remembered = match self.root.last_signed() {
            Some(last) if last.journal == self.journal.id() => {
                let knows = last.run <= self.journal.last_number()? && last.not_before <= self.journal.not_before();
                (!knows).then_some(last.at)
            }
            last => last.map(|last| last.at).filter(|at| *at > newest),
        };
        // One that is new cannot tell how late it was.
        let released = self.last_released().filter(|moment| self.journal.is_new() || *moment > newest);
        let locked = self
            .root
            .lock()
            .ok()
            .flatten()
            .and_then(|lock| DateTime::from_timestamp(lock.since, 0))
            .filter(|since| *since > newest + WRITTEN_LATER);
        Ok(remembered.into_iter().chain(released).chain(locked).max())
    }
}

impl Engines {
    /// Looks whether the journal is older than what was done here: it was exchanged, or came back from a backup. Then it trusts nobody from before.
    /// `newest` is what it knew before anything was written into it by this start.
    pub(crate) fn notice_an_older_journal(&self, newest: DateTime<Utc>) -> Result<(), JournalError> {
        let mut missed = None;
        for engine in self.all() {
            missed = missed.max(engine.missed(newest)?);
        }
        let Some(moment) = missed else { return Ok(()) };
        self.journal().has_been(moment);
        self.journal().reject_issued_before_now()?;
        let last = self.journal().last_number()?;
        self.all().iter().for_each(|engine| engine.remember_from(last, moment));
        Ok(())
    }
}
