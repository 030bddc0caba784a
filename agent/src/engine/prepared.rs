//! A run that is about to go on: planned now, or read back from the journal after the agent stopped in the middle of it.

use agent_model::grant::{Back, RefPattern};
use agent_model::names::{ReleaseName, ReleaseSelector, Selected};
use agent_model::plan::{Aim, Plan};
use agent_model::request::{Act, Request};
use agent_model::run::{Mark, Outcome, Run};
use agent_wire::event::What;
use agent_wire::form::Form;

use super::admission::previous;
use super::app_thread::AppThread;
use super::journal::{Due, JournalError, word_of};
use super::not_taken::no_release;
use super::replay::{Replayed, planned, replay};
use super::run_log::RunLog;
use crate::faults;
use crate::root::{Reversed, Served};
use crate::settings::App;
use crate::steps::{Brief, PIPELINE, Past, Target};
use crate::work::{Failure, chain};

/// A run with everything that was decided before its next step.
pub(super) struct PreparedRun {
    /// The state of the run, its steps, and the releases that it is about.
    pub replayed: Replayed,
    /// The refs that the caller's grant is narrowed to.
    pub refs: Option<Vec<RefPattern>>,
    /// From where the caller may go back behind the live release.
    pub back: Back,
    /// The release that the act chose among those that are there, where it chooses one.
    pub chosen: Option<Result<ReleaseName, Failure>>,
    /// What stands in the way before the first step. It fails the first step, with the words and the end of any other failure.
    pub obstacle: Option<Failure>,
}

/// The request of a run. It was understood when it was taken; only an older agent can meet a form that it does not know.
pub(super) fn request_of(due: &Due) -> Option<Request> {
    let form = Form::parse(&due.form).ok()?;
    Request::try_from(&form).ok()
}

/// The plan for an act, from what each step chooses.
pub(super) fn draw(brief: &Brief<'_>) -> Plan {
    let aim = if brief.act.makes_live() { Aim::Serve } else { Aim::Tend };
    Plan::draw(aim, PIPELINE.iter().map(|step| (step.name(), step.nature(), step.choose(brief))))
}

impl AppThread {
    /// Prepares a run; nothing where it has ended by that.
    pub(super) fn prepare(&self, due: &Due, request: &Request, app: &App, log: &RunLog<'_>) -> Result<Option<PreparedRun>, JournalError> {
        let mut obstacle = None;
        let live = self.engine.root.live().unwrap_or_else(|err| {
            obstacle = Some(Failure::from(err));
            None
        });
        if due.begun { self.resume(due, live, obstacle, log) } else { self.begin(due, request, app, live, obstacle) }
    }

    /// A run that a dead agent had begun, from its events.
    fn resume(
        &self,
        due: &Due,
        live: Option<ReleaseName>,
        obstacle: Option<Failure>,
        log: &RunLog<'_>,
    ) -> Result<Option<PreparedRun>, JournalError> {
        match replay(due.run, &self.engine.journal.marks(due.run)?) {
            Ok(mut replayed) => {
                log.mark(What::Stopped)?;
                note_mark(&mut replayed.run, Mark::Stopped);
                Ok(Some(PreparedRun { replayed, refs: refs_of(due), back: due.back.clone(), chosen: None, obstacle }))
            }
            Err(why) => {
                log.mark(What::Warning { step: None, text: why })?;
                let live = live.map(|live| live.to_string());
                log.mark(What::Ended { outcome: word_of(Outcome::Stuck), live, ms: 0, database: None })?;
                Ok(None)
            }
        }
    }

    /// A new run: planned, written down, and authorised again.
    fn begin(
        &self,
        due: &Due,
        request: &Request,
        app: &App,
        live: Option<ReleaseName>,
        obstacle: Option<Failure>,
    ) -> Result<Option<PreparedRun>, JournalError> {
        let engine = &self.engine;
        // Whether the release has served decides what is to be done, so it is looked up before the plan is drawn.
        let chosen = self.chosen(&request.act, live.as_ref());
        let past = self.past_of(chosen.as_ref().and_then(|chosen| chosen.as_ref().ok()))?;
        let plan = draw(&Brief { act: &request.act, app, past });
        // A run can be cancelled while it waits.
        if !engine.journal.begin(due.run, &planned(&plan, live.as_ref()))? {
            return Ok(None);
        }
        faults::within("plan", "");
        faults::at("acted");
        let standing = engine.journal.standing(&engine.name)?;
        let refused = engine.standing(standing).map_err(Failure::from).and_then(|standing| {
            standing.may_begin(request).map_err(|refusal| Failure::new(format!("while it waited for its turn: {refusal}")))
        });
        let mut obstacle = obstacle.or(refused.err());
        // The keys and the grants may have changed since the request was taken.
        let (refs, back) = match engine.may_still(due, request) {
            Ok(Some(authorised)) => (authorised.refs().map(<[RefPattern]>::to_vec), authorised.back().clone()),
            Ok(None) => (refs_of(due), due.back.clone()),
            Err(failure) => {
                obstacle = obstacle.or(Some(failure));
                (refs_of(due), due.back.clone())
            }
        };
        let natures = plan.steps().map(|card| card.nature).collect();
        let steps = plan.steps().map(|card| card.step).collect();
        let replayed = Replayed { run: Run::new(plan.aim, natures), steps, former: live, target: None };
        Ok(Some(PreparedRun { replayed, refs, back, chosen, obstacle }))
    }

    /// Finds the target of an act that names a release which is there already. Nothing is looked for behind an obstacle.
    pub(super) fn find_target(&self, prepared: &mut PreparedRun, act: &Act, log: &RunLog<'_>) -> Result<(), JournalError> {
        if prepared.replayed.target.is_some() || prepared.obstacle.is_some() {
            return Ok(());
        }
        let chosen = prepared.chosen.take().or_else(|| self.chosen(act, prepared.replayed.former.as_ref()));
        match chosen.map(|chosen| chosen.and_then(|release| self.target_of(&release))) {
            Some(Ok(target)) => {
                log.mark(resolved(&target))?;
                prepared.replayed.target = Some(target);
            }
            Some(Err(failure)) => prepared.obstacle = Some(failure),
            None => {}
        }
        Ok(())
    }

    /// The target of a release that is on disk.
    pub(super) fn target_of(&self, release: &ReleaseName) -> Result<Target, Failure> {
        let manifest = self.engine.root.manifest(release)?;
        let commit = manifest.commit.parse().map_err(|err| Failure::new(chain(&err)))?;
        let reference = manifest.reference.and_then(|reference| reference.parse().ok());
        Ok(Target { release: release.clone(), commit, reference, subject: manifest.subject })
    }

    /// The release that an act makes live and does not make: it is there already.
    fn chosen(&self, act: &Act, live: Option<&ReleaseName>) -> Option<Result<ReleaseName, Failure>> {
        match act {
            Act::Activate { release, .. } => Some(self.find(release, live)),
            Act::Restart => {
                let none = || Failure::new("no release is live").with_hint("make one: agentctl release REF");
                Some(live.cloned().ok_or_else(none))
            }
            _ => None,
        }
    }

    fn find(&self, selector: &ReleaseSelector, live: Option<&ReleaseName>) -> Result<ReleaseName, Failure> {
        let engine = &self.engine;
        let names = engine.root.release_names()?;
        let before = previous(&engine.journal, &engine.root, &engine.name, live);
        match selector.select(&names, before.as_ref()) {
            Selected::One(release) => Ok(release.clone()),
            Selected::None => Err(Failure::new(no_release(selector)).with_hint("agentctl list shows the releases")),
            Selected::Several(several) => {
                let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
                Err(Failure::new(format!("{selector} may be {}", names.join(" or "))).with_hint("give more of the name"))
            }
        }
    }

    /// Whether a release has served. The journal knows it of a release whose fact is lost.
    fn past_of(&self, release: Option<&ReleaseName>) -> Result<Past, JournalError> {
        let Some(release) = release else { return Ok(Past::Served) };
        let served = self.engine.root.fact::<Served>(release).is_ok_and(|served| served.is_some());
        let served = served || self.engine.journal.ever_live(&self.engine.name)?.contains(release);
        // Its migrations are to be applied again.
        let served = served && !self.engine.root.fact::<Reversed>(release).is_ok_and(|reversed| reversed.is_some());
        Ok(if served { Past::Served } else { Past::Unserved })
    }
}

/// The event that names the target of a run.
fn resolved(target: &Target) -> What {
    What::Resolved {
        commit: target.commit.to_string(),
        reference: target.reference.as_ref().map(ToString::to_string),
        release: target.release.to_string(),
        subject: target.subject.clone(),
    }
}

/// The refs of a grant, as they were when the request was taken.
fn refs_of(due: &Due) -> Option<Vec<RefPattern>> {
    due.refs.as_ref().map(|refs| refs.iter().filter_map(|pattern| pattern.parse().ok()).collect())
}

/// Records a mark that is on disk already. One that cannot follow would be a fault of the agent; the journal has it, and the next replay says so.
pub(super) fn note_mark(run: &mut Run, mark: Mark) {
    if let Err(err) = run.record(mark) {
        tracing::error!("{err}");
    }
}
