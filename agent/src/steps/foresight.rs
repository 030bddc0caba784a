//! What a run can know before it is done, from the live release: how that was made, and what has changed since.
//!
//! Static files are taken over where it is proven that collectstatic would make the same. That there is no migration to apply is only foreseen: then
//! Django's check and the question to the database go along with the start of the new instance, and both must have come out well before any visitor
//! can meet it.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use agent_model::names::ReleaseName;
use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::kept::nothing_in_the_release;
use super::room::counted;
use super::{Failure, StepContext, migrate};
use crate::restart::Restart;
use crate::root::MadeBy;
use crate::settings::App;
use crate::tools::Watch;
use crate::tools::manage::{Grounds, Inspection, identity, some_of};
use crate::work::{Bytecode, Job, JobAnswer};

/// The steps that make a release before it is sealed, and that a hook may have a part in.
const MAKING: [&str; 7] = ["fetch", "checkout", "link-shared", "environment", "check", "collectstatic", "seal"];
/// Files of these kinds become part of a static file only where collectstatic reads them by its interpreter, which tells of it.
const PLAIN: [&str; 7] = ["py", "html", "txt", "md", "rst", "po", "mo"];
/// So many sources are compiled one by one; where more have changed, Django does it while it checks.
const MOST_CHANGED: usize = 500;

/// What was put off until the new instance starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PutOff {
    /// The question to the database.
    Schema,
    /// The check as well.
    Check,
}

/// How a release was made, for the ones after it.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    settings: String,
    collected: Option<Grounds>,
    /// Whether migrate does nothing there when no migration is to be applied: nobody but Django hears it, and it is Django's own command.
    #[serde(default)]
    quiet: Option<bool>,
}

/// What a seal writes down of it.
pub(super) fn made(cx: &StepContext<'_>) -> Option<MadeBy> {
    let made = Made { settings: settings_of(cx.app), collected: cx.collected.clone(), quiet: is_quiet(cx) };
    serde_json::to_value(made).ok().map(MadeBy)
}

/// What the project said of it; where it was not asked yet, because that goes along with the start of the new instance, what the live release said.
fn is_quiet(cx: &StepContext<'_>) -> Option<bool> {
    match &cx.inspection {
        Some(inspection) => {
            let believed = cx.app.django.as_ref()?.post_migrate;
            inspection.schema.as_ref().ok().map(|schema| schema.is_quiet(believed))
        }
        None if cx.put_off.is_some() => since(cx).ok()?.made.quiet,
        None => None,
    }
}

/// A digest over the settings that decide how a release is made. Files with secrets count by what tells whether they were changed.
fn settings_of(app: &App) -> String {
    let App { python, django, env, build_env, secrets, shared, hooks, executor, read_only, .. } = app;
    let secrets: Vec<_> = secrets.iter().map(|file| (file, identity(file))).collect();
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("{version} {python:?} {django:?} {env:?} {build_env:?} {secrets:?} {shared:?} {hooks:?} {executor:?} {read_only}");
    digest(&SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The live release, and what of the commit has changed since: git's letter for how, and the path.
pub(crate) struct Since {
    former: ReleaseName,
    made: Made,
    changed: Vec<(char, String)>,
}

/// What has changed since the live release; where too much has to know anything, a part of a sentence that says what.
fn since<'c>(cx: &'c StepContext<'_>) -> Result<&'c Since, &'c String> {
    cx.since.get_or_init(|| compare(cx)).as_ref()
}

fn compare(cx: &StepContext<'_>) -> Result<Since, String> {
    let former = cx.former.clone().ok_or("no release is live")?;
    let target = cx.target().map_err(|failure| failure.reason)?;
    let untold = || format!("{former} does not tell how it was made");
    let MadeBy(made) = cx.root.fact(&former).ok().flatten().ok_or_else(untold)?;
    let made: Made = serde_json::from_value(made).map_err(|_| untold())?;
    if made.settings != settings_of(cx.app) {
        return Err("the app's settings, its secrets or the agent are others".to_owned());
    }
    if cx.root.environment_of(&former) != cx.root.environment_of(&target.release) {
        return Err("the environment is another".to_owned());
    }
    let commit = cx.former_commit().ok_or_else(untold)?;
    let changed = cx.git(|git, watch| git.changed(commit, &target.commit, watch));
    let changed = changed.map_err(|_| format!("the commit of {former} is not in the repository any more"))?;
    Ok(Since { former, made, changed })
}

/// What proves that collectstatic would make the files that the live release has.
pub(super) struct StaticProof {
    /// The live release.
    pub former: ReleaseName,
    /// What collectstatic went by there.
    pub grounds: Grounds,
    /// The proof, for people.
    pub told: String,
}

/// The proof that collectstatic would make what the live release has, or why there is none.
pub(super) fn same_static_files(cx: &StepContext<'_>) -> Result<StaticProof, String> {
    if let Some(hook) = cx.app.hooks.iter().find(|hook| MAKING.contains(&hook.step.as_str())) {
        return Err(format!("the hooks at {} may make static files", hook.step));
    }
    let Since { former, made, changed } = since(cx)?;
    let grounds = made.collected.as_ref().ok_or_else(|| format!("{former} does not tell what its static files were made of"))?;
    if let Some(unsure) = &grounds.unsure {
        return Err(format!("{unsure}, so what it makes may be something else each time"));
    }
    if let Some((path, _)) = grounds.elsewhere.iter().find(|(path, was)| identity(path) != *was) {
        return Err(format!("{} has changed, which it reads", path.display()));
    }
    let tree = cx.tree.as_ref().ok_or("the commit was not checked out in this run")?;
    for (how, path) in changed {
        let plain = Path::new(path).extension().is_some_and(|ending| PLAIN.iter().any(|plain| ending == *plain));
        match how {
            'M' if grounds.read.contains(Path::new(path)) => return Err(format!("{path} has changed, which it reads")),
            'M' if plain && tree.has_file(path) => {}
            'M' => return Err(format!("{path} has changed, and may go into a static file")),
            'A' => return Err(format!("{path} is new")),
            'D' => return Err(format!("{path} is gone")),
            _ => return Err(format!("{path} is of another kind")),
        }
    }
    let read = counted(grounds.read.len() as u64, "file");
    let told = format!("it read {read} of the release, and none of them has changed since {former}, nor have settings and environment");
    Ok(StaticProof { former: former.clone(), grounds: grounds.clone(), told })
}

/// Whether the check can go along with the start of the new instance: then it is told so. The sources that have changed are compiled, and others get the
/// bytecode that the live release has, so that the instance need not compile them at each start.
pub(super) fn put_check_off(cx: &mut StepContext<'_>) -> Result<Option<String>, Failure> {
    if !cx.act.makes_live() {
        return Ok(None);
    }
    let Some((why, changed)) = no_migration(cx) else { return Ok(None) };
    cx.work(&Job::Bytecode { changed })?;
    cx.put_off = Some(PutOff::Check);
    Ok(Some(format!("goes along with the start of the new instance, for no migration depends on it: {why}")))
}

/// Why no migration is to be applied, where that is foreseen; the database is then asked later.
pub(super) fn nothing_to_migrate(cx: &mut StepContext<'_>) -> Option<String> {
    if cx.inspection.is_some() {
        return None;
    }
    let (why, _) = no_migration(cx)?;
    cx.put_off.get_or_insert(PutOff::Schema);
    Some(format!("no migration to apply, for {why}; the database is asked along with the start of the new instance"))
}

/// Why no migration is to be applied, and the sources that have changed; nothing where that cannot be foreseen, or the switch has no start of a new
/// instance that anything could go along with.
fn no_migration(cx: &StepContext<'_>) -> Option<(String, Vec<PathBuf>)> {
    let hooked = cx.app.hooks.iter().any(|hook| ["check", "backup", "migrate"].contains(&hook.step.as_str()));
    if hooked || !matches!(cx.app.restart, Restart::Handover(_)) || !cx.app.django.as_ref().is_some_and(|django| django.migrate) {
        return None;
    }
    let Since { former, changed, made } = since(cx).ok()?;
    // What hears of each migrate wants it run; and what an earlier run has not brought to its end is brought there.
    if made.quiet != Some(true) || !cx.root.unsettled().is_empty() {
        return None;
    }
    cx.root.find(former).served?;
    let sources =
        changed.iter().filter(|(how, path)| *how != 'D' && path.ends_with(".py")).map(|(_, path)| PathBuf::from(path)).collect::<Vec<_>>();
    if changed.iter().any(|(_, path)| decides_migrations(path)) || sources.len() > MOST_CHANGED {
        return None;
    }
    Some((format!("since {former} neither migrations, settings nor environment have changed"), sources))
}

/// Whether a file may have a say in which migrations there are: a migration, or settings, which name the apps, or what chooses the settings. It need not be
/// all of them, for the database is asked in any case.
fn decides_migrations(path: &str) -> bool {
    path.split('/')
        .any(|part| part.starts_with("migrations") || part.contains("settings") || ["apps.py", "conf", "manage.py"].contains(&part))
}

/// Does something, and what was put off beside it. Both must come out well; the first that does not ends the other.
///
/// # Errors
/// [`Failure`] of the check, of a database that is not as was foreseen, or of what was done.
pub(super) fn beside<T>(cx: &mut StepContext<'_>, act: impl FnOnce(&StepContext<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
    let Some(put_off) = cx.put_off.take() else { return act(cx) };
    let job = match put_off {
        PutOff::Check => Job::Examine(Bytecode::NotWritten),
        PutOff::Schema => Job::Inspect(Bytecode::NotWritten),
    };
    let deadline = Instant::now() + cx.app.timeout_of("check");
    let (order, executor, marker) = (cx.order(), cx.executor, cx.marker);
    let (of_act, of_check) = (cx.cancel.of_a_part(), cx.cancel.of_a_part());
    let (say, said) = mpsc::channel();
    cx.cut = Some(of_act.clone());
    let (done, judged) = thread::scope(|scope| {
        let (cancel, of_act) = (&of_check, &of_act);
        let asked = scope.spawn(move || {
            // Whoever listens is there until this thread has ended.
            let lines = |stream, line: &str| drop(say.send((stream, line.to_owned())));
            let answer = executor.ask(&order, &job, None, &Watch { marker, deadline, cancel, lines: &lines }, &|_| {});
            answer.and_then(inspection_of).inspect_err(|_| of_act.ask())
        });
        let done = act(cx).inspect_err(|_| {
            if !of_act.asked() {
                of_check.ask();
            }
        });
        (done, asked.join())
    });
    cx.cut = None;
    for (stream, line) in said {
        cx.events.output(cx.step, stream, &line);
    }
    let judged = judged.map_err(|_| Failure::new("the check beside the start of the new instance ended without an answer"))?;
    let (inspection, warnings) = match (judged, &done) {
        (Ok(judged), _) => judged,
        // It was ended because of the other.
        (Err(_), Err(failure)) if of_check.asked() && !cx.cancel.asked() => return Err(failure.clone()),
        (Err(failure), _) => return Err(failure),
    };
    // First, for whatever else is wrong may be wrong for that.
    nothing_in_the_release(cx, &inspection)?;
    warnings.iter().for_each(|warning| cx.warn(warning));
    let schema = migrate::schema_of(&inspection)?;
    migrate::warn_of_what_is_ahead(cx, schema);
    migrate::warn_of_what_is_left_out(cx, schema);
    let pending = &schema.pending;
    if !pending.is_empty() {
        // From now on nothing is foreseen from that release.
        if let Some(former) = &cx.former {
            cx.root.remove_fact::<MadeBy>(former)?;
        }
        let reason = format!("the database is not as the live release left it: to be applied are {}", some_of(pending));
        let hint = match (inspection.empty, &cx.former) {
            (true, Some(former)) => format!(
                "the database that the settings name is empty: see which one {former} serves from, and whether [env] and [secrets] name that one"
            ),
            _ => "was an older copy put back? Ask for the release again: it applies them before anything else".to_owned(),
        };
        return Err(Failure::new(reason).with_hint(hint));
    }
    let done = done?;
    // New since the live release: nobody has met this one yet, so it is not too late.
    let does = migrate::effects(cx, schema);
    if !does.is_empty() {
        foresee_nothing_from(cx, &cx.target()?.release)?;
        cx.note(format!("migrate is run, though no migration is to be applied: {}", does.join("; ")));
        migrate::migrate_without_any(cx)?;
    }
    cx.note(match put_off {
        PutOff::Check => "the check found no error, and the database has every migration",
        PutOff::Schema => "the database has every migration",
    });
    cx.inspection = Some(*inspection);
    Ok(done)
}

/// What was believed of a release because the one before it was so is written down as it is.
fn foresee_nothing_from(cx: &StepContext<'_>, release: &ReleaseName) -> Result<(), Failure> {
    if let Some(MadeBy(mut made)) = cx.root.fact(release)? {
        made["quiet"] = false.into();
        cx.root.set_fact(release, &MadeBy(made))?;
    }
    Ok(())
}

/// A database that cannot be asked is a failure as well.
fn inspection_of(answer: JobAnswer) -> Result<(Box<Inspection>, Vec<String>), Failure> {
    let (inspection, warnings) = match answer {
        JobAnswer::Examined(inspection, warnings) => (inspection, warnings),
        JobAnswer::Inspected(inspection) => (inspection, Vec::new()),
        other => return Err(other.unexpected()),
    };
    migrate::schema_of(&inspection)?;
    Ok((inspection, warnings))
}
