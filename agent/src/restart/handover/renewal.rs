//! A second instance of the live release, for `restart`. The agent starts it beside the first one, with the current variables and secrets, and ends
//! the first one after visitors were led to the second.
//!
//! Meanwhile the record of the first instance is set aside, so that lookups by release find the second one; on the way back the agent restores it.
//! With slots, the second instance takes another slot. One that the agent starts itself gets a socket of another name.
//!
//! ```text
//!               set aside              asked, named            drained, told to stop
//! RELEASE.json ──────────▶ RELEASE.former.json ───────────────────────────▶ (nothing)
//!      ▲                            │ the second does not serve
//!      └────────────────────────────┘
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_model::names::ReleaseName;

use super::instance::Instances;
use super::record::Record;
use super::{Settings, Starter};
use crate::http;
use crate::http::MOST_SOCKET_PATH;
use crate::restart::{ReleaseRef, Renewal, RestartContext, RestartError};
use crate::root::{self, Slots};

/// The suffix of the release in the name of the second instance's socket.
const SECOND: &str = ".2";
const CURRENT: &str = "json";
const FORMER: &str = "former.json";
const FAILED: &str = "failed.json";

fn read(path: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn of(link: &Path, release: &ReleaseName, ending: &str) -> Option<Record> {
    read(&root::instances_beside(link).join(format!("{release}.{ending}")))
}

/// The release in the name of an instance that the agent started itself.
pub(super) fn release_in(called: &str) -> Option<ReleaseName> {
    called.strip_suffix(SECOND).unwrap_or(called).parse().ok()
}

impl Settings {
    /// The name of a release's instance without a slot: the release, or the second name for it.
    pub(super) fn called_without_slot(&self, link: &Path, release: &ReleaseName) -> String {
        let second = format!("{release}{SECOND}");
        let is_second = |record: &Record| record.socket == self.socket_called(&second);
        let is_first = |record: &Record| record.socket == self.socket_called(release.as_str());
        let in_second = match of(link, release, CURRENT) {
            Some(current) => is_second(&current),
            None => of(link, release, FORMER).is_some_and(|former| is_first(&former)),
        };
        if in_second { second } else { release.to_string() }
    }

    /// Ranks a slot that leads to a release; the lowest rank is the slot of its current instance.
    pub(super) fn rank_of_slot(&self, link: &Path, release: &ReleaseName, slot: &root::Slot) -> (bool, bool) {
        let place = Some(Slots::beside(link).link(slot));
        let of = |ending| of(link, release, ending).and_then(|record| record.slot);
        (of(CURRENT) != place, of(FORMER) == place)
    }

    /// Restores the first instance and ends the second one. Does nothing where no second one was begun.
    pub(in crate::restart) fn bring_back(
        &self,
        context: &RestartContext<'_>,
        release: &ReleaseName,
        drain: Duration,
    ) -> Result<(), RestartError> {
        Instances::open(self, context)?.bring_back(release, drain)
    }

    /// Whether visitors are led to an instance of the release that accepts connections.
    pub(in crate::restart) fn is_served(&self, context: &RestartContext<'_>, release: &ReleaseName) -> Result<bool, RestartError> {
        Ok(self.names(context.link, release) && Instances::open(self, context)?.serves(release)?)
    }
}

impl Instances<'_> {
    fn place(&self, release: &ReleaseName, ending: &str) -> PathBuf {
        self.context.instances.join(format!("{release}.{ending}"))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), RestartError> {
        let renamed = fs::rename(from, to).and_then(|()| File::open(self.context.instances)?.sync_all());
        renamed.map_err(|source| RestartError::File { act: "put aside", path: from.to_owned(), source })
    }

    fn remove(&self, path: &Path) -> Result<(), RestartError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(RestartError::File { act: "forget the instance in", path: path.to_owned(), source })
            }
            _ => Ok(()),
        }
    }

    /// Sets the running instance of a release aside when a restart is due. An instance that does not run needs no second one beside it.
    pub(super) fn set_aside(&self, serving: ReleaseRef<'_>) -> Result<(), RestartError> {
        let release = serving.name;
        if self.context.renewal == Renewal::No || self.find(release)?.is_none() {
            return Ok(());
        }
        if let (Starter::Unit(template), true) = (&self.settings.starter, self.settings.slots.is_empty()) {
            return Err(RestartError::SetUp {
                what: format!("{template} has one unit for each release, so that no second one can be started beside it"),
                hint: "set slots = [\"blue\", \"green\"] under [restart]".to_owned(),
            });
        }
        let second = self.settings.socket_called(&format!("{release}{SECOND}"));
        if self.settings.slots.is_empty() && second.as_os_str().len() > MOST_SOCKET_PATH {
            return Err(RestartError::SetUp {
                what: format!(
                    "the socket of a second instance would have a path of {} bytes, and Linux allows {MOST_SOCKET_PATH}",
                    second.as_os_str().len()
                ),
                hint: "shorten socket under [restart]".to_owned(),
            });
        }
        // An instance that an earlier restart could not end blocks this one.
        self.end_former(release, Duration::ZERO)?;
        if read(&self.place(release, CURRENT)).is_none() {
            self.write_record(&self.new_record(release))?;
        }
        self.rename(&self.place(release, CURRENT), &self.place(release, FORMER))
    }

    /// Whether the instance of a release was set aside, and the second one is still to be started.
    pub(super) fn is_set_aside(&self, release: &ReleaseName) -> bool {
        self.place(release, FORMER).exists() && !self.place(release, CURRENT).exists()
    }

    /// Whether a slot belongs to an instance that was set aside.
    pub(super) fn is_kept(&self, release: &ReleaseName, slot: &root::Slot) -> bool {
        read(&self.place(release, FORMER)).and_then(|former| former.slot) == Some(self.slots().link(slot))
    }

    /// Ends the first instance once the second one serves.
    pub(super) fn end_former(&self, release: &ReleaseName, drain: Duration) -> Result<(), RestartError> {
        let place = self.place(release, FORMER);
        let Some(former) = read(&place) else { return self.remove(&place) };
        // Recorded before the first signal: after a crash the agent must not go back to an instance that is about to end.
        self.write_record_at(&place, &Record { leaving: true, ..former.clone() })?;
        self.end_recorded(release, &former, drain)?;
        (self.context.note)(&format!("the former instance of {release} has finished and stopped"));
        self.remove(&place)
    }

    fn bring_back(&self, release: &ReleaseName, drain: Duration) -> Result<(), RestartError> {
        let (current, former, failed) = (self.place(release, CURRENT), self.place(release, FORMER), self.place(release, FAILED));
        if let Some(first) = read(&former) {
            if first.leaving || !http::listens(&first.socket) {
                // Only the second instance is left.
                self.end_recorded(release, &first, drain)?;
                return self.remove(&former);
            }
            if current.exists() {
                self.rename(&current, &failed)?;
            }
            self.rename(&former, &current)?;
            // Visitors are led back before the second one ends.
            self.settings.name(self.context.link, release)?;
        }
        if let Some(second) = read(&failed) {
            self.end_recorded(release, &second, drain)?;
        }
        self.remove(&failed)
    }

    /// Ends an instance by its record, but never the one that serves the release.
    fn end_recorded(&self, release: &ReleaseName, record: &Record, drain: Duration) -> Result<(), RestartError> {
        let is_current = read(&self.place(release, CURRENT)).is_some_and(|current| current.socket == record.socket);
        if is_current || self.settings.named().as_ref() == Some(&record.socket) {
            return Ok(());
        }
        let slot = record.slot.as_ref().and_then(|slot| slot.file_name()?.to_str()?.parse::<root::Slot>().ok());
        match slot {
            // Another release has taken the slot, so it is no longer this one's to stop.
            Some(slot) if self.slots().release_of(&slot).as_ref() != Some(release) => Ok(()),
            Some(slot) => self.leave(release, &slot, drain),
            None => self.end_processes(release, record, drain),
        }
    }
}

#[cfg(test)]
mod tests;
