//! Whether the journal is the one that accepted the last requests. A state directory from a backup knows less than the roots, and each root remembers
//! the last request. So no request is carried out twice.

use agent_model::names::RunId;
use chrono::{DateTime, TimeDelta, Utc};

use super::journal::{Evidence, JournalError};
use super::{AppEngine, Engines};
use crate::root::LastSigned;
use crate::work::chain;

/// A lock is written a moment after the request for it. A lock that is later by more than this belongs to another journal.
const WRITTEN_LATER: TimeDelta = TimeDelta::seconds(10);

impl AppEngine {
    /// Records a run in the root if the same bytes could be sent again. Over the socket the kernel identifies the caller, so there is nothing to
    /// record.
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

    /// Removes runs older than `[journal] keep` from the journal.
    pub(super) fn forget_old_runs(&self) -> Result<(), JournalError> {
        let Some(keep) = self.settings().keep_runs.and_then(|keep| TimeDelta::from_std(keep).ok()) else { return Ok(()) };
        // The unreadable directory may hold releases, so no run is removed.
        let Ok(there) = self.root.release_names() else { return Ok(()) };
        let forgotten = self.journal.forget_old(&self.name, Utc::now() - keep, &there)?;
        if forgotten > 0 {
            tracing::info!(app = %self.name, forgotten, "the journal has forgotten runs that ended longer ago than [journal] keep says");
        }
        Ok(())
    }

    /// A moment that the root remembers and the journal does not know. `newest` is the newest that the journal knows.
    fn missed(&self, newest: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, JournalError> {
        let remembered = match self.root.last_signed() {
            Some(last) if last.journal == self.journal.id() => {
                let knows = last.run <= self.journal.last_number()? && last.not_before <= self.journal.not_before();
                (!knows).then_some(last.at)
            }
            last => last.map(|last| last.at).filter(|at| *at > newest),
        };
        // A new journal does not know its newest time.
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
    /// Checks whether the journal is older than the roots: it was exchanged, or came from a backup. Then it rejects all earlier requests. `newest` is
    /// its newest time before this start wrote anything.
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
