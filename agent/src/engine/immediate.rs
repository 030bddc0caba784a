//! The actions that wait for no turn, such as `lock` and `cancel`: they are done at once, and their runs ended.

use agent_model::names::RunId;
use agent_model::request::{Act, Lock};
use agent_wire::event::{OutcomeWord, What};
use chrono::Utc;

use super::journal::RunFlag;
use super::{AppEngine, NotTaken};
use crate::faults;
use crate::work::chain;

impl AppEngine {
    /// Does an immediate action, and ends its run.
    pub(super) fn on_the_spot(&self, run: RunId, act: &Act, caller: &str) -> Result<(), NotTaken> {
        let meant = self.meant(act);
        let done = self.do_now(act, caller);
        faults::at("done-on-the-spot");
        let live = self.root.live().unwrap_or_default().map(|live| live.to_string());
        let end = |outcome| What::Ended { outcome, live, ms: 0, database: None };
        let told = match done {
            Ok(()) => meant.into_iter().chain([end(OutcomeWord::Done)]).collect(),
            Err(err) => vec![What::Warning { step: None, text: chain(&err) }, end(OutcomeWord::Failed)],
        };
        Ok(self.journal.append(run, &told)?)
    }

    /// The release that `previous` or the beginning of a name means, recorded for later readers of the run.
    fn meant(&self, act: &Act) -> Option<What> {
        let release = match act {
            Act::Pin { release } | Act::Unpin { release } => self.find(release).ok()?,
            Act::Exec { release, .. } => self.find_or_live(release.as_ref()).ok()?,
            _ => return None,
        };
        let manifest = self.root.manifest(&release).ok()?;
        let (commit, reference, subject) = (manifest.commit, manifest.reference, manifest.subject);
        Some(What::Resolved { commit, reference, release: release.to_string(), subject })
    }

    fn do_now(&self, act: &Act, caller: &str) -> Result<(), NotTaken> {
        match act {
            Act::Lock { why } => {
                let lock = Lock { who: caller.to_owned(), why: why.clone(), since: Utc::now().timestamp() };
                Ok(self.root.set_lock(Some(&lock))?)
            }
            Act::Unlock => Ok(self.root.set_lock(None)?),
            Act::Pin { release } => Ok(self.root.pin(&self.find(release)?)?),
            Act::Unpin { release } => Ok(self.root.unpin(&self.find(release)?)?),
            Act::Cancel { run } => self.cancel(*run, caller),
            Act::Settle { run } => Ok(self.root.settle(|entry| run.is_none_or(|run| entry.run == run.0)).map(drop)?),
            // agentctl runs the command, at the terminal of its user.
            Act::Exec { .. } => Ok(()),
            Act::Release { .. } | Act::Stage { .. } | Act::Activate { .. } | Act::Restart | Act::Prune | Act::Mend | Act::Check => Ok(()),
        }
    }

    pub(super) fn cancel(&self, run: RunId, caller: &str) -> Result<(), NotTaken> {
        let live = self.root.live().unwrap_or_default().map(|live| live.to_string());
        // The run has not begun and never will, or it goes back from where it is.
        let end = What::Ended { outcome: OutcomeWord::Cancelled, live, ms: 0, database: None };
        if self.journal.append_unless(run, &end, RunFlag::Planned)? {
            return Ok(());
        }
        if !self.journal.append_unless(run, &What::CancelAsked { caller: caller.to_owned() }, RunFlag::Exposed)? {
            return Err(if self.journal.has(run, RunFlag::Ended)? { NotTaken::Over(run) } else { NotTaken::TooLate(run) });
        }
        if let Some((current, cancel)) = self.current.lock().as_ref()
            && *current == run
        {
            cancel.ask();
        }
        Ok(())
    }
}
