//! `backup`: a verified dump before migrations are applied.

use std::path::PathBuf;

use agent_model::names::ReleaseName;
use agent_model::plan::{Choice, Nature};

use super::context::Ask;
use super::foresight::nothing_to_migrate;
use super::words::bytes;
use super::{Brief, Did, Failure, Step, StepContext, TAKEN_BACK, before_it_serves_or_reversed, migrate, reverse, with_django};
use crate::database;
use crate::database::{DatabaseKind, Part};
use crate::work::{Bytecode, Job, JobAnswer};

pub(super) struct Backup;

impl Step for Backup {
    fn name(&self) -> &'static str {
        "backup"
    }

    fn nature(&self) -> Nature {
        TAKEN_BACK
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        match (with_django(before_it_serves_or_reversed(brief), brief.app, "migrate", |django| django.migrate), &brief.app.backup) {
            (Choice::Do, None) => Choice::Skip("no [backup] is set".to_owned()),
            (choice, _) => choice,
        }
    }

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        let Some(settings) = &cx.run.app.backup else { return Ok(Did::Nothing("no [backup] is set".to_owned())) };
        if reverse::asked(cx.run.act).is_some() {
            if reverse::ahead(cx, Ask::Once)?.is_empty() {
                return Ok(Did::Nothing("no migration to reverse".to_owned()));
            }
            let inspection = cx.inspect(Bytecode::NotWritten, Ask::Once)?;
            return dump(cx, settings.kind_of(&inspection.vendor)?);
        }
        if let Some(why) = nothing_to_migrate(cx) {
            return Ok(Did::Nothing(why));
        }
        let inspection = cx.inspect(Bytecode::NotWritten, Ask::Once)?;
        let schema = migrate::schema_of(&inspection)?;
        // Receivers of migrate's signals do not justify a dump in each release; records that migrate itself writes do.
        if schema.pending.is_empty() && schema.unrecorded.is_empty() {
            return Ok(Did::Nothing("no migration to apply".to_owned()));
        }
        migrate::refuse_invalid_indexes(schema)?;
        migrate::warn_of_an_empty_one(cx, &inspection);
        dump(cx, settings.kind_of(&inspection.vendor)?)
    }

    /// Removes the dump if no migration was begun. Once one was, the dump stays in any case.
    fn undo(&self, cx: &mut StepContext<'_>) -> Result<(), Failure> {
        let (Some(settings), Some(target)) = (&cx.run.app.backup, &cx.found.target) else { return Ok(()) };
        if reverse::asked(cx.run.act).is_some() {
            cx.scope.events.stays(cx.scope.step, "the dump stays: it has what the reversed migrations held");
            return Ok(());
        }
        if migrate::was_begun(cx, &target.release)? {
            cx.scope.events.stays(cx.scope.step, "the dump stays, for migrate was begun");
            return Ok(());
        }
        let alone = migrate::earlier(cx, &target.release)?.is_none();
        for kind in settings.kinds() {
            let plain = alone.then(|| cx.run.root.backup(&target.release, kind.ending()));
            for path in plain.into_iter().chain([beside(cx, &target.release, kind)]) {
                let mut part = path.clone().into_os_string();
                part.push(".part");
                cx.run.root.remove_backup(part.as_ref())?;
                cx.run.root.remove_backup(&path)?;
            }
        }
        Ok(())
    }
}

/// Dumps the database into a file that belongs to the release of the run, and verifies it.
fn dump(cx: &mut StepContext<'_>, kind: DatabaseKind) -> Result<Did, Failure> {
    let to = place(cx, &cx.target()?.release, kind)?;
    let part = Part::create(&to)?;
    let user = match cx.work_into(&Job::Dump, &part.file())? {
        JobAnswer::Dumped { user } => user,
        JobAnswer::NothingToDump(why) => return Ok(Did::Nothing(why)),
        other => return Err(other.unexpected()),
    };
    let dump = cx.watched(|watch| part.keep(kind, watch))?;
    let user = (user != "root").then_some(user.as_str());
    cx.found.restore = Some(database::restore_command(cx.run.app.name.as_str(), user, &cx.run.app.config, &dump.path));
    cx.note(format!("{}, {}, verified", dump.path.display(), bytes(dump.bytes)));
    cx.found.dump = Some(dump);
    Ok(Did::It)
}

/// Where the dump goes. It is bound to its release. Where an earlier run of the same release left migrations that stand, the dump from before them stays,
/// and this one goes beside it.
fn place(cx: &StepContext<'_>, release: &ReleaseName, kind: DatabaseKind) -> Result<PathBuf, Failure> {
    let plain = cx.run.root.backup(release, kind.ending());
    // One of a run that had begun to migrate, and whose migrations were all taken back, stays as well.
    let is_free = migrate::earlier(cx, release)?.is_none() && plain.symlink_metadata().is_err();
    Ok(if is_free { plain } else { beside(cx, release, kind) })
}

/// The path of a dump that has the number of its run.
fn beside(cx: &StepContext<'_>, release: &ReleaseName, kind: DatabaseKind) -> PathBuf {
    cx.run.root.backup(release, &format!("run-{}.{}", cx.run.id, kind.ending()))
}
