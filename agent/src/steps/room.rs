//! Room on the disk: checks it before a checkout, and explains its lack afterwards.

use agent_model::names::ReleaseName;

use super::prune::{self, Beyond};
use super::words::{bytes, counted};
use super::{Failure, StepContext};
use crate::git::Tree;
use crate::root::Size;

/// The messages of tools and the kernel about a full disk (errno(3): ENOSPC, EDQUOT; SQLite's and PostgreSQL's own words).
const SAID: &[&str] =
    &["No space left on device", "Disk quota exceeded", "database or disk is full", "disk is full", "could not extend file"];

/// Each file wastes about half of a 4 KiB block, the usual block size of servers' file systems.
const LOST_BYTES_PER_FILE: u64 = 2048;

/// Refuses a tree that does not fit.
pub(super) fn for_tree(cx: &StepContext<'_>, tree: &Tree) -> Result<(), Failure> {
    let disk = cx.run.root.disk()?;
    let needed = tree.bytes() + tree.files() * LOST_BYTES_PER_FILE;
    if needed > disk.free || (disk.inodes_in_all > 0 && tree.files() > disk.inodes) {
        let reason = format!(
            "the disk is full: the tree needs {} and {}, and {} and {} are free",
            bytes(needed),
            counted(tree.files(), "inode"),
            bytes(disk.free),
            counted(disk.inodes, "inode")
        );
        return Err(Failure::new(reason));
    }
    Ok(())
}

/// With less free space than this, a tool's message about a full disk probably means this disk.
const SCARCE_BYTES: u64 = 64 * 1024 * 1024;
const SCARCE_INODES: u64 = 1000;

/// Adds to a failure from a full disk: how much is free, how much a release takes, and how much `prune` would free.
pub(crate) fn explain(cx: &StepContext<'_>, failure: Failure) -> Failure {
    let says = |text: &str| SAID.iter().any(|said| text.contains(said));
    if !says(&failure.reason) && !failure.tail.iter().any(|line| says(line)) {
        return failure;
    }
    let Ok(disk) = cx.run.root.disk() else { return failure };
    let free = Size { bytes: disk.free, inodes: disk.inodes };
    let (makes_inodes, root) = (disk.inodes_in_all == 0, cx.run.root.path().display());
    let shown = |size: Size| match makes_inodes {
        true => bytes(size.bytes),
        false => format!("{} and {}", bytes(size.bytes), counted(size.inodes, "inode")),
    };
    let like = cx.found.former.as_ref().map(|former| model(cx, former));
    let wanted = like.map_or(Size::default(), |(_, size)| size);
    let is_scarce = free.bytes < SCARCE_BYTES.max(wanted.bytes) || (!makes_inodes && free.inodes < SCARCE_INODES.max(wanted.inodes));
    // Another disk is full: that of a database, of a hook, of /tmp.
    if !is_scarce {
        return failure;
    }
    cx.run.root.give_up_reserve();
    let mut told = format!("the disk is full: {} are free on that of {root}", shown(free));
    if let Some((what, size)) = like {
        told += &format!("; {what} takes {}", shown(size));
        let missing = Size { bytes: size.bytes.saturating_sub(free.bytes), inodes: size.inodes.saturating_sub(free.inodes) };
        match (missing.bytes, missing.inodes) {
            (0, 0) => {}
            (0, inodes) if makes_inodes || inodes == 0 => {}
            (0, inodes) => told += &format!(", so about {} are missing", counted(inodes, "inode")),
            (missing, _) => told += &format!(", so about {} are missing", bytes(missing)),
        }
    }
    told += &format!("; {}", gain(cx));
    Failure { hint: Some(told), ..failure }
}

/// The part of the live release that corresponds to the part without room.
fn model(cx: &StepContext<'_>, former: &ReleaseName) -> (&'static str, Size) {
    match cx.run.root.environment_of(former) {
        Some(key) if cx.scope.step == "environment" => {
            ("an environment like that of the live release", cx.run.root.size_of_environment(&key))
        }
        _ => ("a release like the live one", cx.run.root.size_of_release(former)),
    }
}

/// The space that `prune` would free, as text.
fn gain(cx: &StepContext<'_>) -> String {
    let way_back: Option<&ReleaseName> = cx.found.before_former.as_ref();
    let frees = |beyond| prune::frees(cx, way_back, beyond).unwrap_or_default();
    match (frees(Beyond::AsSet), frees(Beyond::TheWayBack)) {
        (0, 0) => "`agentctl prune` would free nothing: make room by other means".to_owned(),
        (now, most) if now >= most => format!("`agentctl prune` would free {}", bytes(now)),
        (0, most) => format!("`agentctl prune` would free nothing now, and {} with keep_releases = 2", bytes(most)),
        (now, most) => format!("`agentctl prune` would free {}, and {} with keep_releases = 2", bytes(now), bytes(most)),
    }
}
