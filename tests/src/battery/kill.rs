//! Killed at every place: the agent alone, or the agent and all that it started.

use super::places::{Death, PLACES};
use super::rig::{Rig, What};
use super::{Case, Group};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Agent,
    All,
}

pub(crate) fn groups() -> Vec<Group> {
    [(Who::Agent, "agent"), (Who::All, "all")]
        .into_iter()
        .map(|(who, word)| {
            let cases = PLACES.iter().map(|place| {
                let quick = who == Who::All && ["seal.synced", "switch.renamed", "migrate.migrated"].contains(&place.name);
                Case::new(format!("kill.{}.{word}", place.name), move |rig| {
                    place.stop(rig);
                    match who {
                        Who::Agent => rig.kill_agent(),
                        Who::All => rig.kill_all(),
                    }
                    rig.start();
                    let first = first_release(rig);
                    place.judge(rig, &first, Death::Kill);
                    1
                })
                .quick_when(quick)
            });
            Group::new(move || Rig::new(&format!("kill {word}"), What::Demo, None), cases.collect()).last(one_more)
        })
        .collect()
}

/// The release that is live between two cases: the oldest.
pub(crate) fn first_release(rig: &Rig) -> String {
    rig.bench.releases(rig.app()).into_iter().find(|name| !name.starts_with('.')).expect("the first release is there")
}

/// After all of it, a release goes live as if nothing had been.
pub(crate) fn one_more(rig: &mut Rig) {
    let commit = rig.commit();
    rig.bench.ctl(["release", "main"]).expect(0);
    assert_eq!(rig.live_commit(), Some(commit));
    rig.assert_sound();
}
