//! `checkout`: puts the tree of the commit into the release's directory.

use std::fs;

use agent_model::plan::{Choice, Nature};

use super::room;
use super::words::{bytes, counted};
use super::{Brief, Did, Failure, Step, StepContext, TAKEN_BACK, chain, grant_access, in_a_release, migrate};
use crate::faults;
use crate::root::{FACTS, IoContext, remove_tree};
use crate::settings::{ExecutorKind, Submodules};
use crate::tools::git::{Budget, Tree};

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
        let tree = cx.git(|git, watch| git.tree(&target.commit, cx.app.limits.files, watch))?;
        check_tree(cx, &tree)?;
        room::for_tree(cx, &tree)?;
        cx.root.check()?;
        fs::create_dir(&dir).on_path("make the directory", &dir)?;
        let index = cx.root.scratch(&format!("index-{}", cx.run));
        let written = cx.git(|git, watch| git.checkout(&target.commit, &dir, &index, watch));
        remove_tree(&index)?;
        written?;
        faults::at("written");
        cx.root.write_revision(&target.release, &target.commit)?;
        if cx.app.executor == ExecutorKind::Units {
            cx.root.open_to_builder(&dir)?;
        }
        let pointers = tree.lfs_pointers(&dir);
        if !pointers.is_empty() {
            let shown = pointers.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            cx.warn(format!("{} file(s) are Git LFS pointers, and their contents are not fetched: {shown}", pointers.len()));
        }
        cx.note(format!("{}, {}", counted(tree.files(), "file"), bytes(tree.bytes())));
        cx.tree = Some(tree);
        cx.before_seal.push(cx.root.begin_to_sync(&dir)?);
        Ok(Did::It)
    }

    /// Removes the directory, unless a migration of this release is applied, wholly or in part: only its code can reverse it.
    fn undo(&self, cx: &mut StepContext<'_>) -> Result<(), Failure> {
        let Some(target) = &cx.target else { return Ok(()) };
        let release = &target.release;
        // No process may work in the removed directory, and files of a builder can be removed only after he has granted access.
        if let Err(failure) = grant_access(cx) {
            cx.warn(format!("{}; what was built is put aside, and goes with the next sweep (agentctl fsck --mend)", failure.reason));
            return Ok(cx.root.put_aside(release).map(drop)?);
        }
        remove_tree(&cx.root.scratch(&format!("index-{}", cx.run)))?;
        if migrate::left_something(cx, release)? && cx.root.manifest(release).is_ok() {
            return migrate::keep(cx, release);
        }
        // This run had not reached its switch, and yet the link may name the release: someone set it while the agent was down.
        if cx.root.live().is_ok_and(|live| live.as_ref() == Some(release)) && cx.former.as_ref() != Some(release) {
            match &cx.former {
                Some(former) => cx.root.swap(former, cx.lock)?,
                None => cx.root.unlink(cx.lock)?,
            }
            let former = cx.former.as_ref().map_or("nothing", |former| former.as_str());
            cx.warn(format!("the link named {release} before this run had switched to it; it names {former} again"));
        }
        Ok(cx.root.remove_release(release)?)
    }
}

fn check_tree(cx: &StepContext<'_>, tree: &Tree) -> Result<(), Failure> {
    let mut reserved = vec![FACTS];
    if cx.app.python.is_some() {
        reserved.push("venv");
    }
    let budget = Budget { files: cx.app.limits.files, bytes: cx.app.limits.bytes };
    tree.check(budget, &reserved).map_err(|err| Failure { reason: chain(&err), hint: err.hint(), tail: Vec::new() })?;
    let submodules = tree.submodules();
    if !submodules.is_empty() {
        if cx.app.submodules == Submodules::Refuse {
            let err = crate::tools::git::TreeError::Submodules(submodules);
            return Err(Failure { reason: chain(&err), hint: err.hint(), tail: Vec::new() });
        }
        cx.warn(format!("the directories of {} submodule(s) stay empty: {}", submodules.len(), submodules.join(", ")));
    }
    if tree.has("REVISION") {
        cx.warn("the REVISION file that the commit ships is replaced by the agent's");
    }
    Ok(())
}
