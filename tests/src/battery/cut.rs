//! The power is cut at every place, on each file system.

use super::disks::DiskKind;
use super::kill::{first_release, one_more};
use super::places::{Death, PLACES};
use super::rig::{Rig, What};
use super::{Case, Group};

/// What the file system has done on its own by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// It has committed its journal, as it does every few seconds: names are durable, and what the files hold may not be.
    Commit,
}

const WAYS: &[(DiskKind, Before, &str)] = &[
    (DiskKind::Ext4, Before::Nothing, "ext4"),
    (DiskKind::Ext4, Before::Commit, "ext4-committed"),
    (DiskKind::Xfs, Before::Nothing, "xfs"),
    (DiskKind::Btrfs, Before::Nothing, "btrfs"),
];

pub(crate) fn groups() -> Vec<Group> {
    WAYS.iter()
        .map(|(kind, before, word)| {
            let at_places = PLACES.iter().map(|place| {
                let quick = *word == "ext4" && ["checkout.written", "seal.acted", "switch.acted", "end.acted"].contains(&place.name);
                Case::new(format!("cut.{}.{word}", place.name), move |rig| {
                    place.stop(rig);
                    cut(rig, *before);
                    let first = first_release(rig);
                    place.check(rig, &first, Death::PowerCut);
                    1
                })
                .quick_when(quick)
            });
            let cases =
                at_places.chain([Case::new(format!("cut.answered.{word}"), move |rig| answered(rig, *before)).quick_when(*word == "ext4")]);
            Group::new(move || Rig::new(&format!("cut {word}"), What::Demo, Some(*kind)), cases.collect()).last(one_more)
        })
        .collect()
}

fn cut(rig: &Rig, before: Before) {
    if before == Before::Commit {
        rig.disks.as_ref().expect("this rig has disks of its own").commit();
    }
    rig.cut();
    rig.start();
}

/// What was answered with success is still so after a cut that comes right then.
fn answered(rig: &mut Rig, before: Before) -> u32 {
    if !rig.bench.is_running() {
        rig.start();
    }
    let first = first_release(rig);
    let shown = |rig: &Rig| {
        let status = rig.bench.ctl(["status", "--json"]).expect(0).json();
        let list = rig.bench.ctl(["list", "--json"]).expect(0).json();
        let release = list["releases"].as_array().into_iter().flatten().find(|release| release["name"] == first.as_str()).cloned();
        (!status["apps"][0]["lock"].is_null(), release.is_some_and(|release| release["pinned"] == true))
    };
    for (asks, wanted) in [
        ([["lock", "-m", "why"].as_slice(), &["pin", &first]], (true, true)),
        ([["unlock"].as_slice(), &["unpin", &first]], (false, false)),
    ] {
        for ask in asks {
            rig.bench.ctl(ask).expect(0);
        }
        assert_eq!(shown(rig), wanted, "before the cut");
        cut(rig, before);
        assert_eq!(shown(rig), wanted, "after the cut");
        rig.assert_sound();
    }
    2
}
