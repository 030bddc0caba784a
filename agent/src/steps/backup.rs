//! `backup`: a verified dump before migrations are applied.

use agent_model::plan::{Choice, Nature};
use agent_model::request::Act;

use super::cx::Ask;
use super::room::bytes;
use super::{Cx, Did, Failure, Step, TAKEN_BACK, migrate, with_django};
use crate::settings::App;
use crate::tools::database::Part;
use crate::work::{Answer, Bytecode, Job};

pub(super) struct Backup;

impl Step for Backup {
    fn name(&self) -> &'static str {
        "backup"
    }

    fn nature(&self) -> Nature {
        TAKEN_BACK
    }

    fn choose(&self, act: &Act, app: &App) -> Choice {
        match (with_django(act, app, "migrate", |django| django.migrate), &app.backup) {
            (Choice::Do, None) => Choice::Skip("no [backup] is set".to_owned()),
            (choice, _) => choice,
        }
    }

    fn run(&self, cx: &mut Cx<'_>) -> Result<Did, Failure> {
        let Some(settings) = &cx.app.backup else { return Ok(Did::Nothing("no [backup] is set".to_owned())) };
        let inspection = cx.inspect(Bytecode::NotWritten, Ask::Once)?;
        if migrate::schema_of(&inspection)?.pending.is_empty() {
            return Ok(Did::Nothing("no migration to apply".to_owned()));
        }
        let to = cx.site.backup(&cx.target()?.release, settings.kind.ending());
        let part = Part::create(&to)?;
        let restore = match cx.work_into(&Job::Dump, &part.file())? {
            Answer::Dumped { restore } => restore,
            other => return Err(other.unexpected()),
        };
        let dump = cx.watched(|watch| part.keep(settings.kind, restore, watch))?;
        cx.note(format!("{}, {}, verified", dump.path.display(), bytes(dump.bytes)));
        cx.dump = Some(dump);
        Ok(Did::It)
    }

    /// A dump before migrations that were never applied is of no use to anybody.
    fn undo(&self, cx: &mut Cx<'_>) -> Result<(), Failure> {
        let (Some(settings), Some(target)) = (&cx.app.backup, &cx.target) else { return Ok(()) };
        if migrate::stands(cx, &target.release)? {
            return Ok(());
        }
        let path = cx.site.backup(&target.release, settings.kind.ending());
        let mut part = path.clone().into_os_string();
        part.push(".part");
        cx.site.remove_backup(part.as_ref())?;
        Ok(cx.site.remove_backup(&path)?)
    }
}
