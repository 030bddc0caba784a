//! Killed at every place: the agent alone, or the agent and all that it started.

use super::places::{Death, PLACES};
use super::rig::{Fails, Rig, What};
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
                    place.check(rig, &first, Death::Kill);
                    1
                })
                .quick_when(quick)
            });
            let cancelled = (who == Who::Agent).then(|| Case::new("kill.migrate.half-cancelled", cancelled));
            Group::new(move || Rig::new(&format!("kill {word}"), What::Demo, None), cases.chain(cancelled).collect()).last(one_more)
        })
        .collect()
}

/// Somebody cancels in the middle of a migration that is no transaction.
fn cancelled(rig: &mut Rig) -> u32 {
    if rig.bench.is_running() {
        rig.bench.stop();
    }
    rig.settle(20);
    rig.forget_migrations();
    rig.half_migration(Fails::Yes);
    rig.commit();
    rig.start();
    let run = rig.bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().to_owned();
    rig.await_half();
    rig.bench.ctl(["cancel", &run]).expect(0);
    assert_eq!(rig.ended()["outcome"], "cancelled");
    rig.half_migration(Fails::No);
    rig.assert_half(&rig.bench.events(run.parse().expect("a run has a number")));
    rig.forget_migrations();
    rig.assert_sound();
    1
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
