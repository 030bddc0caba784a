//! Accepts requests: resolves the names in them, checks whether they may begin, and gives each a number. Every accepted run reaches an end.

use agent_model::grant::{Authorised, Caller, RefPattern};
use agent_model::names::{AppName, CommitId, ReleaseName, ReleaseSelector, Selected};
use agent_model::request::{Act, Request, Standing};
use agent_wire::form::Form;
use chrono::{DateTime, Utc};

use super::journal::{Evidence, Journal, Limit, NewRun, RunFlag, Taken};
use super::{Accepted, AppEngine, NotTaken, rights};
use crate::faults;
use crate::root::{AppRoot, RootError};

impl AppEngine {
    pub(super) fn standing(&self, mut standing: Standing) -> Result<Standing, RootError> {
        standing.lock = self.root.lock()?;
        standing.live = self.root.live().unwrap_or_default();
        standing.when_busy = self.settings().when_busy;
        standing.draining = self.draining();
        Ok(standing)
    }

    /// Accepts a request. From here on the run has a number, and reaches an end.
    pub(crate) fn take(&self, authorised: &Authorised, request: &Request, form: &Form, evidence: &Evidence) -> Result<Accepted, NotTaken> {
        let caller = authorised.caller().to_string();
        if let Err(refused) = self.refuse_what_cannot_be_meant(&request.act) {
            // An accepted request keeps its answer, even if a new one would fail by now: the run to cancel is over, the release to activate is
            // pruned.
            return match self.journal.asked_before(&form.nonce, &evidence.text, &caller)? {
                Some(Taken::Before(run)) => Ok(Accepted::Before(run)),
                Some(Taken::NonceReused) => Err(NotTaken::NonceReused),
                _ => Err(refused),
            };
        }
        rights::allows_the_ref(authorised, &request.act)?;
        let proof = self.rights.remember(authorised.caller());
        if matches!(request.act, Act::Exec { .. }) && !authorised.caller().is_local() {
            return Err(NotTaken::OnlyHere);
        }
        let of = form
            .command
            .as_ref()
            .map(|command| shown(command))
            .or_else(|| form.revision.clone())
            .or_else(|| form.commit.clone())
            .or_else(|| form.release.clone())
            .or_else(|| form.run.map(|run| run.to_string()))
            .or_else(|| form.why.clone());
        let token = match authorised.caller() {
            Caller::Token { issuer, id, .. } => Some(format!("{issuer} {id}")),
            _ => None,
        };
        let refs: Option<Vec<String>> =
            authorised.refs().map(|refs| refs.iter().map(|pattern: &RefPattern| pattern.as_str().to_owned()).collect());
        // A person or a program may ask for a commit twice; a webhook only says that there may be a new one.
        let first_for = match authorised.caller() {
            Caller::Webhook { .. } => form.commit.as_ref().and_then(|commit| commit.parse::<CommitId>().ok()),
            _ => None,
        };
        let asked = NewRun {
            app: &self.name,
            action: request.act.right().word(),
            of: of.as_deref(),
            caller: &caller,
            evidence,
            proof: proof.as_deref(),
            refs: refs.as_deref(),
            back: authorised.back(),
            nonce: &form.nonce,
            token: token.as_deref(),
            limit: if authorised.caller().has_no_limit() { Limit::None } else { Limit::Share },
            takes_turns: request.act.takes_turns(),
            first_for: first_for.as_ref(),
        };
        // The facts of the root are read before the transaction, because only this app's requests change them.
        let about_the_root = self.standing(Standing::default())?;
        let taken = self.journal.take(&asked, |standing| {
            let standing =
                Standing { running: standing.running, waiting: standing.waiting, stuck: standing.stuck, ..about_the_root.clone() };
            standing.admit(request)
        })?;
        match taken {
            Taken::New(run) => {
                faults::at("accepted");
                self.remember(run, evidence, token.as_deref());
                if request.act.takes_turns() {
                    self.wake();
                } else {
                    self.on_the_spot(run, &request.act, &caller)?;
                }
                Ok(Accepted::New(run))
            }
            Taken::Before(run) => Ok(Accepted::Before(run)),
            Taken::NonceReused => Err(NotTaken::NonceReused),
            Taken::TokenReused => Err(NotTaken::TokenReused),
            Taken::AskedBefore => Err(NotTaken::AskedBefore),
            Taken::TooEarly => Err(NotTaken::TooEarly),
            Taken::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// Resolves the names of releases and runs before the request is accepted, so that a typo is answered at once.
    fn refuse_what_cannot_be_meant(&self, act: &Act) -> Result<(), NotTaken> {
        match act {
            Act::Activate { release, .. } | Act::Pin { release } | Act::Unpin { release } => self.find(release).map(|_| ()),
            Act::Exec { release, .. } => self.find_or_live(release.as_ref()).map(drop),
            Act::Cancel { run } => {
                let known = self.journal.run(*run)?.filter(|known| known.app == self.name.as_str()).ok_or(NotTaken::NoRun(*run))?;
                if known.ended.is_some() {
                    return Err(NotTaken::Over(*run));
                }
                if self.journal.has(*run, RunFlag::Exposed)? { Err(NotTaken::TooLate(*run)) } else { Ok(()) }
            }
            Act::Release { .. }
            | Act::Stage { .. }
            | Act::Restart
            | Act::Prune
            | Act::Mend
            | Act::Check
            | Act::Lock { .. }
            | Act::Unlock
            | Act::Settle { .. } => Ok(()),
        }
    }

    /// Looks a release up, or the live one where none is named.
    pub(super) fn find_or_live(&self, selector: Option<&ReleaseSelector>) -> Result<ReleaseName, NotTaken> {
        match selector {
            Some(selector) => self.find(selector),
            None => self.root.live()?.ok_or(NotTaken::NothingLive),
        }
    }

    /// When anything was last released here, as far as the root can tell.
    pub(crate) fn last_released(&self) -> Option<DateTime<Utc>> {
        let found = self.root.survey().unwrap_or_default();
        found.iter().map(|found| found.manifest.as_ref().map_or_else(DateTime::default, |manifest| manifest.made)).max()
    }

    /// Resolves a selector to a release.
    pub(crate) fn find(&self, selector: &ReleaseSelector) -> Result<ReleaseName, NotTaken> {
        let there = self.root.release_names()?;
        let live = self.root.live().unwrap_or_default();
        let before = previous(&self.journal, &self.root, &self.name, live.as_ref());
        match selector.select(&there, before.as_ref()) {
            Selected::One(release) => Ok(release.clone()),
            Selected::None => Err(NotTaken::NoRelease { selector: selector.clone(), there: there.clone() }),
            Selected::Several(fitting) => {
                Err(NotTaken::Ambiguous { selector: selector.clone(), fitting: fitting.into_iter().cloned().collect() })
            }
        }
    }
}

/// The longest command that lists of runs show, in characters.
const MOST_SHOWN: usize = 200;

/// A command as a shell would take it, for people.
fn shown(command: &[String]) -> String {
    let whole = shlex::try_join(command.iter().map(String::as_str)).unwrap_or_else(|_| command.join(" "));
    let cut: String = whole.chars().take(MOST_SHOWN).collect();
    if cut.len() < whole.len() { format!("{cut}…") } else { whole }
}

/// The release that was live before `live`, if it ended well and is still there.
pub(super) fn previous(journal: &Journal, root: &AppRoot, app: &AppName, live: Option<&ReleaseName>) -> Option<ReleaseName> {
    let there = |release: &ReleaseName| Some(release) != live && root.manifest(release).is_ok();
    let in_journal = journal.gone_live(app).unwrap_or_default();
    let known = live.is_none_or(|live| in_journal.contains(live));
    let in_journal = in_journal.into_iter().find(|release| known && there(release));
    // A journal that does not know the live release, or none before it, may be a new one. Then the facts of the releases decide.
    in_journal.or_else(|| {
        let live = live?;
        let mut served = root.survey().unwrap_or_default().into_iter().filter(|found| found.served.is_some() && found.name < *live);
        served.find(|found| there(&found.name)).map(|found| found.name)
    })
}
