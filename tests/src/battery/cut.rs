//! The power is cut at every place, on each file system.

use super::disks::Kind;
use super::kill::{first_release, one_more};
use super::places::PLACES;
use super::rig::{Rig, What};
use super::{Case, Group};

pub(crate) fn groups() -> Vec<Group> {
    [Kind::Ext4, Kind::Xfs, Kind::Btrfs]
        .into_iter()
        .map(|kind| {
            let cases = PLACES.iter().map(|place| {
                let quick = kind == Kind::Ext4 && ["checkout.written", "seal.acted", "switch.acted"].contains(&place.name);
                Case::new(format!("cut.{}.{}", place.name, kind.name()), move |rig| {
                    place.stop(rig);
                    rig.cut();
                    rig.start();
                    let first = first_release(rig);
                    place.judge(rig, Some(&first));
                    1
                })
                .quick_when(quick)
            });
            let make = move || Rig::new(&format!("cut {}", kind.name()), What::Demo, Some(kind));
            Group::new(make, cases.collect()).last(one_more)
        })
        .collect()
}
