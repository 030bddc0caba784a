//! `checkout`: puts the tree of the commit into the release's directory.

use std::fs;

use agent_model::plan::{Choice, Nature};

use super::room;
use super::words::{bytes, counted};
use super::{Brief, Did, Failure, Step, StepContext, TAKEN_BACK, chain, grant_access, in_a_release, migrate};
use crate::faults;
use crate::git::{Budget, Tree};
use crate::root::{FACTS, IoContext, remove_tree};
use crate::settings::{ExecutorKind, Submodules};

pub(super) struct Checkout;

impl Step for Checkout {
    fn name(&self) -> &'static str {
        "checkout"
    }

    fn nature(&self) -> Nature {
        TAKEN_BACK
    }

    fn choose(&self, brief: &Brief<'_>) -> Choice {
        in_a_release(brief)
    }

    fn run(&self, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
        let (target, dir) = (cx.target()?.clone(), cx.dir()?);
        let tree = cx.git(|git, watch| git.tree(&target.commit, cx.run.app.limits.files, watch))?;
        check_tree(cx, &tree)?;
        room::for_tree(cx, &tree)?;
        cx.run.root.check()?;
        fs::create_dir(&dir).on_path("make the directory", &dir)?;
        let index = cx.run.root.scratch(&format!("index-{}", cx.run.id));
        let written = cx.git(|git, watch| git.checkout(&target.commit, &dir, &index, watch));
        remove_tree(&index)?;
        written?;
        faults::at("written");
        cx.run.root.write_revision(&target.release, &target.commit)?;
        if cx.run.app.executor == ExecutorKind::Units {
            cx.run.root.open_to_builder(&dir)?;
        }
        let pointers = tree.lfs_pointers(&dir);
        if !pointers.is_empty() {
            let shown = pointers.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            cx.warn(format!("{} file(s) are Git LFS pointers, and their contents are not fetched: {shown}", pointers.len()));
        }
        cx.note(format!("{}, {}", counted(tree.files(), "file"), bytes(tree.bytes())));
        cx.found.tree = Some(tree);
        cx.found.before_seal.push(cx.run.root.begin_to_sync(&dir)?);
        Ok(Did::It)
    }

    /// Removes the directory, unless a migration of this release is applied, wholly or in part: only its code can reverse it.
    fn undo(&self, cx: &mut StepContext<'_>) -> Result<(), Failure> {
        let Some(target) = &cx.found.target else { return Ok(()) };
        let release = &target.release;
        // No process may work in the removed directory, and files of a builder can be removed only after he has granted access.
        if let Err(failure) = grant_access(cx) {
            cx.warn(format!("{}; what was built is put aside, and goes with the next sweep (agentctl fsck --mend)", failure.reason));
            return Ok(cx.run.root.put_aside(release).map(drop)?);
        }
        remove_tree(&cx.run.root.scratch(&format!("index-{}", cx.run.id)))?;
        if migrate::left_something(cx, release)? && cx.run.root.manifest(release).is_ok() {
            return migrate::keep(cx, release);
        }
        // This run had not come to its switch, and yet the link may name the release: somebody set it while the agent was away.
        if cx.run.root.live().is_ok_and(|live| live.as_ref() == Some(release)) && cx.found.former.as_ref() != Some(release) {
            match &cx.found.former {
                Some(former) => cx.run.root.swap(former, cx.run.lock)?,
                None => cx.run.root.unlink(cx.run.lock)?,
            }
            let former = cx.found.former.as_ref().map_or("nothing", |former| former.as_str());
            cx.warn(format!("the link named {release} before this run had switched to it; it names {former} again"));
        }
        Ok(cx.run.root.remove_release(release)?)
    }
}

fn check_tree(cx: &StepContext<'_>, tree: &Tree) -> Result<(), Failure> {
    let mut reserved = vec![FACTS];
    if cx.run.app.python.is_some() {
        reserved.push("venv");
    }
    let budget = Budget { files: cx.run.app.limits.files, bytes: cx.run.app.limits.bytes };
    tree.check(budget, &reserved).map_err(|err| Failure { reason: chain(&err), hint: err.hint(), tail: Vec::new() })?;
    let submodules = tree.submodules();
    if !submodules.is_empty() {
        if cx.run.app.submodules == Submodules::Refuse {
            let err = crate::git::TreeError::Submodules(submodules);
            return Err(Failure { reason: chain(&err), hint: err.hint(), tail: Vec::new() });
        }
        cx.warn(format!("the directories of {} submodule(s) stay empty: {}", submodules.len(), submodules.join(", ")));
    }
    if tree.has("REVISION") {
        cx.warn("the REVISION file that the commit ships is replaced by the agent's");
    }
    Ok(())
}
