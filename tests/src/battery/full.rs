//! The disk is full, of blocks or of inodes, at every place that writes. The run ends with a sentence that says how much is missing and what would be
//! free again, and that the disk is full is written down in any case.

use std::fs;

use super::disks::{DiskKind, Filler};
use super::kill::{first_release, one_more};
use super::rig::{Rig, What};
use super::{Case, Group};

/// Which disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    /// That of the app's root.
    Root = 0,
    /// That of the agent's state.
    State = 1,
}

struct Place {
    name: &'static str,
    /// Where the agent is stopped while the disk is filled.
    point: &'static str,
    ask: &'static [&'static str],
    which: Which,
    /// How the run ends with no block left, and with no inode left.
    outcomes: [&'static str; 2],
}

const RELEASE: &[&str] = &["release", "main"];
const REBUILD: &[&str] = &["release", "--rebuild", "main"];

const PLACES: &[Place] = &[
    Place { name: "accept", point: "accepted", ask: RELEASE, which: Which::State, outcomes: ["live", "live"] },
    Place { name: "fetch", point: "fetch.started", ask: RELEASE, which: Which::Root, outcomes: ["failed", "failed"] },
    Place { name: "checkout", point: "checkout.started", ask: RELEASE, which: Which::Root, outcomes: ["failed", "failed"] },
    Place { name: "environment", point: "environment.started", ask: REBUILD, which: Which::Root, outcomes: ["failed", "failed"] },
    Place {
        name: "install",
        point: "environment.tool=2*off->1*return(stop)",
        ask: REBUILD,
        which: Which::Root,
        outcomes: ["failed", "failed"],
    },
    Place { name: "collectstatic", point: "collectstatic.started", ask: RELEASE, which: Which::Root, outcomes: ["failed", "failed"] },
    Place { name: "backup", point: "backup.started", ask: RELEASE, which: Which::Root, outcomes: ["failed", "failed"] },
    Place { name: "manifest", point: "seal.synced", ask: RELEASE, which: Which::Root, outcomes: ["failed", "failed"] },
    // A short link takes no block.
    Place { name: "link", point: "switch.exposed", ask: RELEASE, which: Which::Root, outcomes: ["live", "rolled_back"] },
    Place { name: "served", point: "switch.proven", ask: RELEASE, which: Which::Root, outcomes: ["live", "live"] },
    Place { name: "log", point: "check.started", ask: RELEASE, which: Which::State, outcomes: ["live", "live"] },
    Place { name: "prune", point: "prune.started", ask: RELEASE, which: Which::Root, outcomes: ["live", "live"] },
];

pub(crate) fn groups() -> Vec<Group> {
    let fillers = [(Filler::Blocks, "blocks"), (Filler::Inodes, "inodes")];
    let mut cases: Vec<Case> = Vec::new();
    for (index, (filler, word)) in fillers.into_iter().enumerate() {
        for place in PLACES {
            let quick = matches!((place.name, word), ("manifest", "blocks") | ("link", "inodes"));
            let case = Case::new(format!("full.{}.{word}", place.name), move |rig| fill(rig, place, filler, place.outcomes[index]));
            cases.push(case.quick_when(quick));
        }
        cases.push(Case::new(format!("full.journal.{word}"), move |rig| no_journal(rig, filler)));
    }
    vec![Group::new(|| Rig::new("full disks", What::Demo, Some(DiskKind::Memory)), cases).last(one_more)]
}

fn fill(rig: &mut Rig, place: &Place, filler: Filler, outcome: &str) -> u32 {
    rig.settle(20);
    rig.forget_migrations();
    rig.commit();
    rig.stop_in(&if place.point.contains('=') { place.point.to_owned() } else { format!("{}=1*return(stop)", place.point) }, place.ask);
    let disks = rig.disks.as_ref().expect("this rig has disks of its own");
    disks.fill(place.which as usize, filler);
    let full = match place.which {
        Which::Root => rig.root().join("not-even-this"),
        Which::State => rig.bench.path("state/not-even-this"),
    };
    let refused = fs::write(&full, "x").expect_err("the disk is not full");
    assert_eq!(refused.raw_os_error(), Some(nix::errno::Errno::ENOSPC as i32), "{refused}");
    let _ = fs::remove_file(&full);
    rig.go_on();
    let goes_on = rig.over();
    assert!(goes_on, "the agent ended:\n{}", rig.bench.log());
    let run = rig.ended();
    let events = rig.bench.events(run["run"].as_u64().expect("a run has a number"));
    assert_eq!(run["outcome"], outcome, "{events:#?}");
    let failed: Vec<_> = events.iter().filter(|event| event["what"] == "step_failed").collect();
    if outcome == "live" {
        assert!(failed.is_empty(), "{failed:#?}");
    } else {
        // For whoever reads what the bench tells.
        drop(rig.bench.ctl(["logs", &run["run"].to_string()]));
        let hint = failed[0]["hint"].as_str().unwrap_or_default();
        for part in ["the disk is full", "are free on that of", " like ", " takes ", "`agentctl prune` would free"] {
            assert!(hint.contains(part), "{part} is not told: {:#?}", failed[0]);
        }
    }
    rig.disks.as_ref().expect("this rig has disks of its own").empty();
    rig.assert_sound();
    if outcome != "live" {
        assert_eq!(rig.bench.live(rig.app()), Some(first_release(rig)));
    }
    rig.back_to_first();
    1
}

/// There is no room even for an empty journal: the agent does not start, and says why; with room it does.
fn no_journal(rig: &mut Rig, filler: Filler) -> u32 {
    if rig.bench.is_running() {
        rig.bench.stop();
    }
    let (state, kept) = (rig.bench.path("state"), rig.bench.path("kept-state"));
    let copied = std::process::Command::new("cp").args(["-a", "--"]).arg(&state).arg(&kept).status();
    assert!(copied.is_ok_and(|copied| copied.success()));
    for entry in fs::read_dir(&state).into_iter().flatten().flatten() {
        fs::remove_file(entry.path()).expect("the state has files only");
    }
    let disks = rig.disks.as_ref().expect("this rig has disks of its own");
    disks.fill(1, filler);
    rig.bench.variable("FAILPOINTS", "");
    let refused = rig.bench.start_refused();
    assert_eq!(refused.code, 74, "{}", refused.stderr);
    let text = refused.stderr.to_lowercase();
    assert!(text.contains("full") || text.contains("no space"), "{text}");
    disks.empty();
    for entry in fs::read_dir(&state).into_iter().flatten().flatten() {
        let _ = fs::remove_file(entry.path());
    }
    for entry in fs::read_dir(&kept).into_iter().flatten().flatten() {
        fs::copy(entry.path(), state.join(entry.file_name())).expect("there is room again");
    }
    let _ = fs::remove_dir_all(&kept);
    rig.start();
    rig.assert_sound();
    1
}
