//! `switch`: makes the new release live, and proves that visitors get it. One step, because its parts must be undone together.

use agent_model::names::ReleaseName;
use agent_model::plan::{Choice, Nature};
use agent_model::request::{Act, SchemaChoice};
use agent_wire::view::Level;
use chrono::Utc;

use super::context::Ask;
use super::deferred::beside;
use super::half_migrated::{settle_what_is_applied, warn_of_unsettled};
use super::migrate::schema_of;
use super::{Brief, Did, Failure, Step, StepContext, TAKEN_BACK, chain};
use crate::django::{Fit, some_of};
use crate::faults;
use crate::restart::drift::MadeWith;
use crate::restart::{Prepared, ReleaseRef, Restart, ServingProof, Steadiness};
use crate::root::{Migrated, RootError, Served};
use crate::work::{Bytecode, Job};

pub(super) struct Switch;

impl Step for Switch {
    fn name(&self) -> &'static str {
        "switch"
    }

    fn nature(&self) -> Nature {
        TAKEN_BACK
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        if brief.act.makes_live() { Choice::Do } else { Choice::Absent }
    }

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        let release = cx.target()?.release.clone();
        // Nothing unsealed ever goes live, whoever asks.
        cx.run.root.manifest(&release)?;
        if let Some(interpreter) = cx.run.root.interpreter_gone(&release) {
            return Err(Failure::new(format!("the interpreter of {release}, {}, is not on this host any more", interpreter.display()))
                .with_hint(format!(
                    "install it again, or make the commit anew with the interpreter that is set: agentctl release {}",
                    cx.target()?.commit
                )));
        }
        // What stands where the link belongs must be ours to replace; said while nothing is exposed.
        cx.run.root.live()?;
        warn_of_newer_migrations(cx, &release)?;
        warn_of_unsettled(cx);
        if *cx.run.act == Act::Restart && cx.run.app.restart == Restart::None {
            return Err(Failure::new("there is nothing to restart: no [restart] is set").with_hint("agentctl init writes an example"));
        }
        say_what_activate_does_not_do(cx, &release);
        load_before_what_cannot_hand_over(cx)?;
        let served: Option<Served> = cx.run.root.fact(&release).ok().flatten();
        // With other variables nobody has seen it serve.
        if served.is_some() && *cx.run.act != Act::Restart {
            cx.found.steadiness.set(Steadiness::Seen);
        }
        let prepared =
            beside(cx, |cx| cx.release_ref(&release, |new| Ok(cx.restart_context(|context| cx.run.app.restart.prepare(context, new))?)))?;
        cx.found.before_end = cx.release_ref(&release, |new| {
            let mut prepared = prepared;
            faults::at("prepared");
            cx.scope.events.expose(self.name())?;
            faults::at("exposed");
            cx.run.root.swap(&release, cx.run.lock)?;
            cx.restart_context(|context| cx.run.app.restart.act(context, new, &mut prepared))?;
            faults::at("handed-over");
            if matches!(cx.run.app.restart, Restart::Handover(_)) {
                // The instance was watched for the whole time before anybody could meet it.
                cx.found.steadiness.set(Steadiness::Seen);
            }
            let proof = cx.restart_context(|context| cx.run.app.restart.prove(context, new, &prepared))?;
            faults::at("proven");
            tell(cx, &proof);
            settle_what_is_applied(cx);
            warn_of_other_settings(cx, new);
            let workers = Some(cx.run.app.workers.iter().map(|worker| worker.unit.clone()).collect());
            let mut writing = None;
            if served.as_ref().is_none_or(|served| served.workers != workers) {
                let ms = u64::try_from(cx.elapsed().as_millis()).unwrap_or(u64::MAX);
                let first = served.unwrap_or(Served { at: Utc::now(), ms, workers: None });
                // Should the fact be lost, the journal knows.
                match cx.run.root.begin_fact(&release, &Served { workers, ..first }) {
                    Ok(begun) => writing = Some(begun),
                    Err(err) => cx.warn(not_written_down(&err)),
                }
            }
            // From here on the new release serves, and was seen to. A failure to end the former one is only a warning.
            if let Err(failure) = settle(cx, &release, &prepared) {
                cx.warn(failure.reason);
            }
            Ok(writing)
        })?;
        Ok(Did::It)
    }

    fn undo(&self, cx: &mut StepContext<'_>) -> Result<(), Failure> {
        let Some(target) = &cx.found.target else { return Ok(()) };
        let release = &target.release;
        let live = match cx.run.root.live() {
            // The link was never touched: whatever stands there now is no business of this run.
            Err(_) if !cx.found.exposed => None,
            live => live?,
        };
        // An app that was activated anew goes back to itself.
        if cx.found.former.as_ref() != Some(release) && live.as_ref() == Some(release) {
            match &cx.found.former {
                Some(former) => cx.run.root.swap(former, cx.run.lock)?,
                None => cx.run.root.unlink(cx.run.lock)?,
            }
        }
        if !cx.run.root.release_dir(release).is_dir() {
            return Ok(());
        }
        if !cx.found.exposed {
            // The former release was never left; only what was started for the new one has to go.
            return cx.release_ref(release, |failed| {
                cx.restart_context(|context| cx.run.app.restart.forget(context, failed, cx.found.former.as_ref()));
                Ok(())
            });
        }
        cx.found.steadiness.set(Steadiness::Seen);
        cx.release_ref(release, |failed| match &cx.found.former {
            Some(former) => {
                let lacking = workers_that_it_never_had(cx, former);
                cx.release_ref(former, |former| {
                    Ok(cx.restart_context_without(&lacking, |context| cx.run.app.restart.back(context, failed, Some(former)))?)
                })
            }
            None => Ok(cx.restart_context(|context| cx.run.app.restart.back(context, failed, None))?),
        })
    }
}

/// The release serves, and was seen to: going back because of an unwritten record would help no one.
pub(crate) fn not_written_down(err: &RootError) -> String {
    format!("it is not written down in the release that it has served: {}", chain(err))
}

/// The workers of the app, by their configured units, that a release is known to lack.
fn workers_that_it_never_had(cx: &StepContext<'_>, release: &ReleaseName) -> Vec<String> {
    let had = cx.run.root.fact::<Served>(release).ok().flatten().and_then(|served| served.workers);
    // Of one that no list was written down of, they are all believed to be its own.
    let Some(had) = had else { return Vec::new() };
    cx.run.app.workers.iter().map(|worker| worker.unit.clone()).filter(|unit| !had.contains(unit)).collect()
}

fn settle(cx: &StepContext<'_>, release: &ReleaseName, prepared: &Prepared) -> Result<(), Failure> {
    let former = cx.found.former.as_ref().filter(|former| *former != release);
    cx.release_ref(release, |new| match former {
        Some(former) => cx.release_ref(former, |former| {
            Ok(cx.restart_context(|context| cx.run.app.restart.settle(context, new, Some(former), prepared))?)
        }),
        None => Ok(cx.restart_context(|context| cx.run.app.restart.settle(context, new, None, prepared))?),
    })
}

fn tell(cx: &StepContext<'_>, proof: &ServingProof) {
    for note in &proof.notes {
        cx.note(note);
    }
    // These warnings follow from the settings: later releases leave them to doctor.
    for warning in &proof.warnings {
        if cx.run.root.tell_once(warning) { cx.warn(warning) } else { cx.note(format!("{warning} (told before)")) }
    }
}

/// A person who activates the live release may expect a restart.
fn say_what_activate_does_not_do(cx: &StepContext<'_>, release: &ReleaseName) {
    let is_live = matches!(cx.run.act, Act::Activate { .. }) && cx.found.former.as_ref() == Some(release);
    if is_live && cx.restart_context(|context| cx.run.app.restart.is_served(context, release)) {
        cx.warn(format!(
            "{release} is live and serves already, so that activate changes nothing: agentctl --app {} restart starts it anew",
            cx.run.app.name
        ));
    }
}

/// A server with other settings than the migration's may use another database altogether.
fn warn_of_other_settings(cx: &StepContext<'_>, new: ReleaseRef<'_>) {
    let inspection = cx.found.inspection.as_ref();
    let made = MadeWith {
        module: inspection.map(|inspection| inspection.settings_module.as_str()).or_else(|| cx.run.app.settings_module()),
        by_default: inspection.and_then(|inspection| inspection.chosen_by_default.as_deref()),
    };
    let drift = cx.restart_context(|context| cx.run.app.restart.drift(context, new, &made));
    for finding in drift {
        // Another settings module is told in each run. Other variables are told once, and then by doctor: they are the same with every release.
        if finding.level != Level::Error && !cx.run.root.tell_once(&finding.text) {
            continue;
        }
        let hint = finding.hint.map_or_else(String::new, |hint| format!(": {hint}"));
        cx.warn(format!("{}{hint}", finding.text));
    }
}

/// Old code on a newer schema passes its checks and fails at the first write. This names the migrations of newer releases that the database still
/// has.
fn warn_of_newer_migrations(cx: &mut StepContext<'_>, release: &ReleaseName) -> Result<(), Failure> {
    if !matches!(cx.run.act, Act::Activate { .. }) {
        return Ok(());
    }
    let mut newer = Vec::new();
    for name in cx.run.root.release_names()?.into_iter().filter(|name| name > release) {
        let migrated = cx.run.root.fact::<Migrated>(&name).unwrap_or_else(|err| {
            cx.warn(format!("what the newer release {name} migrated cannot be told: {}", chain(&err)));
            None
        });
        newer.extend(migrated.filter(|migrated| !migrated.all_applied().is_empty()).map(|migrated| (name, migrated)));
    }
    if newer.is_empty() {
        return Ok(());
    }
    let fits = fits_or_refuse(cx, release)?;
    // What was reversed, or restored from a dump, is no trouble any more: only the database knows.
    let asked = cx.inspect(Bytecode::NotWritten, Ask::Once).and_then(|inspection| schema_of(&inspection).cloned());
    for (name, migrated) in newer {
        let applied = migrated.all_applied();
        let (unknown, doubt) = match &asked {
            Ok(schema) => {
                let unknown = |migration: &String| schema.ahead.contains(migration) || schema.strangers.contains(migration);
                (applied.into_iter().filter(unknown).collect::<Vec<_>>(), "does not know".to_owned())
            }
            Err(failure) => (applied, format!("may not know (the database was not asked: {})", failure.reason)),
        };
        if unknown.is_empty() {
            continue;
        }
        let (lost, can_be): (Vec<String>, Vec<String>) =
            unknown.iter().cloned().partition(|name| migrated.all_irreversible().contains(name));
        let dir = cx.run.root.release_dir(&name);
        let way = match (can_be.is_empty(), lost.is_empty()) {
            (_, true) => format!("only {} can reverse them", dir.display()),
            (true, _) => "they cannot be reversed".to_owned(),
            (false, false) => format!("only {} can reverse {}, and {} cannot be reversed", dir.display(), some_of(&can_be), some_of(&lost)),
        };
        let text = format!("the newer release {name} applied {}, which this one {doubt}; {way}", some_of(&unknown));
        match fits {
            Fits::Yes => cx.note(text),
            Fits::No => cx.warn(text),
            Fits::Unknown => cx.warn(format!("{text}; pages can pass while writes fail")),
        }
    }
    Ok(())
}

/// Whether the code of a release fits the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fits {
    Yes,
    No,
    Unknown,
}

/// Compares the models of an older release with the tables of the database. One that does not fit is refused, unless the request says otherwise.
fn fits_or_refuse(cx: &StepContext<'_>, release: &ReleaseName) -> Result<Fits, Failure> {
    let contract = match cx.contract_of(release) {
        Ok(contract) => contract,
        Err(failure) => {
            cx.warn(format!("whether {release} fits the database cannot be told: {}", failure.reason));
            return Ok(Fits::Unknown);
        }
    };
    if contract.fit() == Fit::Fits {
        cx.note(format!("the models of {release} fit the database: {}", contract.looked_at()));
        return Ok(Fits::Yes);
    }
    let text = format!("{release} does not fit the database: {}", contract.why_not());
    if matches!(cx.run.act, Act::Activate { schema: SchemaChoice::Keep, .. }) {
        cx.warn(text);
        return Ok(Fits::No);
    }
    Err(Failure::new(text).with_hint(format!(
        "agentctl activate {release} --reverse reverses the newer migrations first; --keep-schema goes there all the same; or restore the dump from before"
    )))
}

/// Where the switch is a restart in place, a release that cannot be imported would be an outage: it is loaded once before.
fn load_before_what_cannot_hand_over(cx: &StepContext<'_>) -> Result<(), Failure> {
    match cx.run.app.restart {
        Restart::None | Restart::Handover(_) => Ok(()),
        Restart::UwsgiFifo(_) | Restart::Systemd(_) | Restart::Gunicorn(_) | Restart::Command(_) => {
            if cx.run.app.django.is_some() {
                for note in cx.work(&Job::Load)?.warnings() {
                    cx.note(note);
                }
            }
            Ok(())
        }
    }
}
