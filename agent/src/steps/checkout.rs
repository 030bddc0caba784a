//! `checkout`: the tree of the commit into the release's directory.

use std::fs;

use agent_model::plan::{Choice, Nature};
use agent_model::request::Act;
use chrono::Utc;

use super::{Cx, Did, Failure, Step, TAKEN_BACK, chain, in_a_release};
use crate::settings::{App, Submodules};
use crate::site::{FACTS, Failed, Migrated, Site, remove_tree};
use crate::tools::git::{Budget, Tree};

pub(super) struct Checkout;

impl Step for Checkout {
    fn name(&self) -> &'static str {
        "checkout"
    }

    fn nature(&self) -> Nature {
        TAKEN_BACK
    }

    fn choose(&self, act: &Act, _app: &App) -> Choice {
        in_a_release(act)
    }

    fn run(&self, cx: &mut Cx<'_>) -> Result<Did, Failure> {
        let (target, dir) = (cx.target()?, cx.dir()?);
        let tree = cx.git(|git, watch| git.tree(&target.commit, watch))?;
        judge(cx, &tree)?;
        room_for(cx, &tree)?;
        fs::create_dir(&dir).map_err(|source| failure_at("make the directory", &dir, &source))?;
        let index = cx.site.scratch(&format!("index-{}", cx.run));
        let written = cx.git(|git, watch| git.checkout(&target.commit, &dir, &index, watch));
        remove_tree(&index)?;
        written?;
        let revision = dir.join("REVISION");
        remove_tree(&revision)?;
        fs::write(&revision, format!("{}\n", target.commit)).map_err(|source| failure_at("write", &revision, &source))?;
        cx.note(format!("{}, {}", counted(tree.files(), "file"), bytes(tree.bytes())));
        Ok(Did::It)
    }

    /// The directory goes, unless a migration of this release stands: only its code can reverse that.
    fn undo(&self, cx: &mut Cx<'_>) -> Result<(), Failure> {
        let Some(target) = &cx.target else { return Ok(()) };
        let release = &target.release;
        remove_tree(&cx.site.scratch(&format!("index-{}", cx.run)))?;
        let migrated: Option<Migrated> = cx.site.fact(release)?;
        let stands = migrated.and_then(|migrated| migrated.applied).is_some_and(|applied| !applied.is_empty());
        if stands && cx.site.manifest(release).is_ok() {
            cx.site.set_fact(release, &Failed { at: Utc::now(), run: cx.run.0 })?;
            cx.note(format!("{} is kept: only its code can reverse the migrations that stand", cx.site.release_dir(release).display()));
            return Ok(());
        }
        // This run had not come to its switch, and yet the link may name the release: somebody set it while the agent was away.
        if cx.site.live().is_ok_and(|live| live.as_ref() == Some(release)) && cx.former.as_ref() != Some(release) {
            match &cx.former {
                Some(former) => cx.site.swap(former, cx.lock)?,
                None => cx.site.unlink(cx.lock)?,
            }
            let former = cx.former.as_ref().map_or("nothing", |former| former.as_str());
            cx.warn(format!("the link named {release} before this run had switched to it; it names {former} again"));
        }
        Ok(cx.site.remove_release(release)?)
    }
}

fn judge(cx: &Cx<'_>, tree: &Tree) -> Result<(), Failure> {
    let mut reserved = vec![FACTS];
    if cx.app.python.is_some() {
        reserved.push("venv");
    }
    let budget = Budget { files: cx.app.limits.files, bytes: cx.app.limits.bytes };
    tree.judge(budget, &reserved).map_err(|err| Failure { reason: chain(&err), hint: err.hint(), tail: Vec::new() })?;
    let submodules = tree.submodules();
    if !submodules.is_empty() {
        if cx.app.submodules == Submodules::Refuse {
            let err = crate::tools::git::TreeError::Submodules(submodules);
            return Err(Failure { reason: chain(&err), hint: err.hint(), tail: Vec::new() });
        }
        cx.warn(format!("the directories of {} submodule(s) stay empty: {}", submodules.len(), submodules.join(", ")));
    }
    let pointers = tree.lfs_pointers();
    if !pointers.is_empty() {
        let shown = pointers.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
        cx.warn(format!("{} file(s) are Git LFS pointers, and their contents are not fetched: {shown}", pointers.len()));
    }
    if tree.has("REVISION") {
        cx.warn("the REVISION file that the commit ships is replaced by the agent's");
    }
    Ok(())
}

fn room_for(cx: &Cx<'_>, tree: &Tree) -> Result<(), Failure> {
    let disk = cx.site.disk()?;
    // Blocks are 4 KiB on the file systems that servers have: half of one is lost a file.
    let needed = tree.bytes() + tree.files() * 2048;
    if needed > disk.free || (disk.inodes > 0 && tree.files() > disk.inodes) {
        let gain = prunable(cx.site, cx.app.keep_releases);
        let reason = format!(
            "the disk is full: the tree needs {} and {} inodes, and {} and {} inodes are free",
            bytes(needed),
            tree.files(),
            bytes(disk.free),
            disk.inodes
        );
        return Err(Failure::new(reason).with_hint(gain));
    }
    Ok(())
}

fn prunable(site: &Site, keep: usize) -> String {
    let releases = site.survey().unwrap_or_default();
    let old: u64 = releases.iter().skip(keep.max(2)).filter_map(|found| found.manifest.as_ref()).map(|manifest| manifest.bytes).sum();
    let all: u64 = releases.iter().skip(2).filter_map(|found| found.manifest.as_ref()).map(|manifest| manifest.bytes).sum();
    match (old, all) {
        (0, 0) => format!("there is nothing that `agentctl prune` could remove: make room on the file system of {}", site.root().display()),
        (old, all) if old >= all => {
            format!("`agentctl prune` would free {}, and the environments that only those releases use", bytes(old))
        }
        (old, all) => format!(
            "`agentctl prune` would free {} now; with keep_releases = 2 it would free {}, and the environments that only those releases use",
            bytes(old),
            bytes(all)
        ),
    }
}

/// A number of things for people.
pub(super) fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

/// A number of bytes for people.
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{} kB", count / 1000),
        10_000_000..10_000_000_000 => format!("{} MB", count / 1_000_000),
        _ => format!("{} GB", count / 1_000_000_000),
    }
}

fn failure_at(act: &'static str, path: &std::path::Path, source: &std::io::Error) -> Failure {
    crate::site::SiteError::Io { act, path: path.to_owned(), source: std::io::Error::from(source.kind()) }.into()
}
