//! Every place at which a run is cut off: what is asked for so that it comes there, and how the run must end when the agent dies there.

use super::rig::{Fails, Rig};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// A release of a new commit.
    Release,
    /// The same, with an environment that is built anew.
    Rebuild,
    /// A release with a migration that is no transaction, and has done its part.
    HalfMigrated,
    /// A release that fails before its migrations are applied.
    FailsEarly,
    /// A release that fails when visitors have met it.
    FailsLate,
    /// A release of a new commit that is not made live.
    Stage,
    /// The release that was live before.
    Activate,
    /// A release that was staged, and has something to migrate.
    ActivateStaged,
    /// The removal of what is old, by a release or by itself.
    ReleaseAndPrune,
    Prune,
    /// The removal of what was left over.
    Mend,
    /// A lock, which is done on the spot.
    Lock,
}

/// A place, and what must come of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// The name that the case has.
    pub name: &'static str,
    /// The place, as `FAILPOINTS` names it.
    pub point: &'static str,
    pub ask: Ask,
    /// How the run ends when the agent died there.
    pub outcome: &'static str,
    /// Whether it had begun and not ended, and so must have been stopped.
    pub cut_off: bool,
    /// Whether that it had begun is on the disk only with the next mark, before which nothing is done: after a power cut it may be carried out.
    pub may_be_forgotten: bool,
}

/// What the agent died of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// What it has written is there.
    Kill,
    /// What it has written and not synced may be gone.
    PowerCut,
}

const fn place(name: &'static str, point: &'static str, ask: Ask, outcome: &'static str) -> Place {
    Place { name, point, ask, outcome, cut_off: true, may_be_forgotten: false }
}

/// In the order of a run. `started` is right after the mark that says so, `acted` right before the mark that says that it is done; what is between
/// them is the middle.
pub(crate) const PLACES: &[Place] = &[
    // It has not begun, and so nothing is to be taken back: it is carried out.
    Place { cut_off: false, ..place("accept.acted", "accepted", Ask::Release, "live") },
    Place { may_be_forgotten: true, ..place("plan.acted", "plan.acted", Ask::Release, "failed") },
    place("fetch.started", "fetch.started", Ask::Release, "failed"),
    place("fetch.middle", "fetch.tool", Ask::Release, "failed"),
    place("fetch.second", "fetch.tool=1*off->1*return(stop)", Ask::Release, "failed"),
    place("fetch.acted", "fetch.acted", Ask::Release, "failed"),
    place("checkout.started", "checkout.started", Ask::Release, "failed"),
    place("checkout.middle", "checkout.tool=1*off->1*return(stop)", Ask::Release, "failed"),
    place("checkout.written", "checkout.written", Ask::Release, "failed"),
    place("checkout.acted", "checkout.acted", Ask::Release, "failed"),
    place("link-shared.started", "link-shared.started", Ask::Release, "failed"),
    place("link-shared.middle", "link-shared.linked", Ask::Release, "failed"),
    place("link-shared.acted", "link-shared.acted", Ask::Release, "failed"),
    place("environment.started", "environment.started", Ask::Rebuild, "failed"),
    place("environment.middle", "environment.tool=2*off->1*return(stop)", Ask::Rebuild, "failed"),
    place("environment.built", "environment.built", Ask::Rebuild, "failed"),
    place("environment.synced", "environment.synced", Ask::Rebuild, "failed"),
    place("environment.acted", "environment.acted", Ask::Rebuild, "failed"),
    place("check.started", "check.started", Ask::Release, "failed"),
    place("check.middle", "check.tool", Ask::Release, "failed"),
    place("check.acted", "check.acted", Ask::Release, "failed"),
    place("collectstatic.started", "collectstatic.started", Ask::Release, "failed"),
    place("collectstatic.middle", "collectstatic.tool", Ask::Release, "failed"),
    place("collectstatic.acted", "collectstatic.acted", Ask::Release, "failed"),
    place("seal.started", "seal.started", Ask::Release, "failed"),
    place("seal.listed", "seal.listed", Ask::Rebuild, "failed"),
    place("seal.synced", "seal.synced", Ask::Release, "failed"),
    place("seal.named", "seal.named", Ask::Release, "failed"),
    place("seal.acted", "seal.acted", Ask::Release, "failed"),
    place("backup.started", "backup.started", Ask::Release, "failed"),
    place("backup.middle", "backup.dumped", Ask::Release, "failed"),
    place("backup.renamed", "backup.renamed", Ask::Release, "failed"),
    place("backup.acted", "backup.acted", Ask::Release, "failed"),
    place("migrate.started", "migrate.started", Ask::Release, "failed"),
    place("migrate.recorded", "migrate.recorded", Ask::Release, "failed"),
    place("migrate.middle", "migrate.tool", Ask::Release, "failed"),
    // Behind the hook before the step.
    place("migrate.half", "migrate.tool=1*off->1*return(stop)", Ask::HalfMigrated, "failed"),
    place("migrate.migrated", "migrate.migrated", Ask::Release, "failed"),
    place("migrate.acted", "migrate.acted", Ask::Release, "failed"),
    place("switch.started", "switch.started", Ask::Release, "failed"),
    place("switch.prepared", "switch.prepared", Ask::Release, "failed"),
    place("switch.exposed", "switch.exposed", Ask::Release, "rolled_back"),
    place("switch.linked", "switch.linked", Ask::Release, "rolled_back"),
    place("switch.renamed", "switch.renamed", Ask::Release, "rolled_back"),
    place("switch.handed-over", "switch.handed-over", Ask::Release, "rolled_back"),
    place("switch.proven", "switch.proven", Ask::Release, "rolled_back"),
    // The former instance answers still, and is about to go.
    place("switch.settling", "switch.told-to-end", Ask::Release, "rolled_back"),
    place("switch.acted", "switch.acted", Ask::Release, "rolled_back"),
    // All that matters is done.
    place("prune.started", "prune.started", Ask::ReleaseAndPrune, "live"),
    place("prune.middle", "prune.trashed", Ask::ReleaseAndPrune, "live"),
    place("prune.acted", "prune.acted", Ask::ReleaseAndPrune, "live"),
    place("end.started", "end.started", Ask::Release, "live"),
    Place { cut_off: false, ..place("end.acted", "end.acted", Ask::Release, "live") },
    place("checkout.undo.started", "checkout.undo.started", Ask::FailsEarly, "failed"),
    place("checkout.undo.middle", "checkout.undo.trashed", Ask::FailsEarly, "failed"),
    place("checkout.undo.acted", "checkout.undo.acted", Ask::FailsEarly, "failed"),
    place("backup.undo.started", "backup.undo.started", Ask::FailsEarly, "failed"),
    place("backup.undo.acted", "backup.undo.acted", Ask::FailsEarly, "failed"),
    place("migrate.undo.started", "migrate.undo.started", Ask::FailsLate, "rolled_back"),
    place("migrate.undo.acted", "migrate.undo.acted", Ask::FailsLate, "rolled_back"),
    place("switch.undo.started", "switch.undo.started", Ask::FailsLate, "rolled_back"),
    place("switch.undo.linked", "switch.undo.linked", Ask::FailsLate, "rolled_back"),
    place("switch.undo.renamed", "switch.undo.renamed", Ask::FailsLate, "rolled_back"),
    place("switch.undo.acted", "switch.undo.acted", Ask::FailsLate, "rolled_back"),
    place("activate.started", "switch.started", Ask::Activate, "failed"),
    place("activate.middle", "switch.renamed", Ask::Activate, "rolled_back"),
    place("activate.acted", "switch.acted", Ask::Activate, "rolled_back"),
    place("stage.fetch", "fetch.acted", Ask::Stage, "failed"),
    place("stage.checkout", "checkout.written", Ask::Stage, "failed"),
    place("stage.seal", "seal.named", Ask::Stage, "failed"),
    place("stage.sealed", "seal.acted", Ask::Stage, "failed"),
    // All that matters is done.
    place("stage.prune", "prune.started", Ask::Stage, "done"),
    place("stage.end", "end.started", Ask::Stage, "done"),
    place("activate-staged.dumped", "backup.renamed", Ask::ActivateStaged, "failed"),
    place("activate-staged.recorded", "migrate.recorded", Ask::ActivateStaged, "failed"),
    place("activate-staged.middle", "migrate.tool", Ask::ActivateStaged, "failed"),
    place("activate-staged.migrated", "migrate.migrated", Ask::ActivateStaged, "failed"),
    place("activate-staged.switch", "switch.started", Ask::ActivateStaged, "failed"),
    place("activate-staged.linked", "switch.renamed", Ask::ActivateStaged, "rolled_back"),
    place("activate-staged.acted", "switch.acted", Ask::ActivateStaged, "rolled_back"),
    place("prune-alone.started", "prune.started", Ask::Prune, "done"),
    place("prune-alone.middle", "prune.trashed", Ask::Prune, "done"),
    place("prune-alone.acted", "prune.acted", Ask::Prune, "done"),
    place("mend.started", "mend.started", Ask::Mend, "failed"),
    place("mend.acted", "mend.acted", Ask::Mend, "failed"),
    place("lock.started", "accepted", Ask::Lock, "failed"),
    place("lock.acted", "done-on-the-spot", Ask::Lock, "failed"),
];

impl Place {
    /// `FAILPOINTS` for it.
    fn variable(&self) -> String {
        if self.point.contains('=') { self.point.to_owned() } else { format!("{}=1*return(stop)", self.point) }
    }

    /// Brings the agent to the place, where it stops.
    #[track_caller]
    pub(crate) fn stop(&self, rig: &mut Rig) {
        let old = matches!(self.ask, Ask::ReleaseAndPrune | Ask::Prune);
        if old || self.ask == Ask::Activate {
            prepare_others(rig, if old { 4 } else { 2 });
        }
        if self.ask == Ask::ActivateStaged {
            stage_another(rig);
        }
        rig.settle(if old { 2 } else { 20 });
        rig.gate("fail-migrate", if self.ask == Ask::FailsEarly { Fails::Yes } else { Fails::No });
        rig.gate("fail-switch", if self.ask == Ask::FailsLate { Fails::Yes } else { Fails::No });
        rig.forget_migrations();
        if self.ask == Ask::Mend {
            rig.bench.write(format!("apps/{}/.agent/pins/2020-01-01-00-00-00-0123456789ab", rig.app()), "");
        }
        if self.ask == Ask::HalfMigrated {
            rig.half_migration(Fails::Yes);
        }
        let newest = rig.bench.releases(rig.app()).pop().unwrap_or_default();
        rig.commit();
        let ask: &[&str] = match self.ask {
            Ask::Release | Ask::HalfMigrated | Ask::FailsEarly | Ask::FailsLate | Ask::ReleaseAndPrune => &["release", "main"],
            Ask::Rebuild => &["release", "--rebuild", "main"],
            Ask::Stage => &["stage", "main"],
            Ask::Activate | Ask::ActivateStaged => &["activate", &newest],
            Ask::Prune => &["prune"],
            Ask::Mend => &["fsck", "--mend"],
            Ask::Lock => &["lock", "-m", "a test"],
        };
        rig.stop_in(&self.variable(), ask);
        if self.ask == Ask::HalfMigrated {
            rig.await_half();
        }
    }

    /// Looks at what came of the death, once the agent was started again; leaves the rig as it was before the case.
    #[track_caller]
    pub(crate) fn check(&self, rig: &mut Rig, former: &str, death: Death) {
        rig.gate("fail-migrate", Fails::No);
        rig.gate("fail-switch", Fails::No);
        let run = rig.ended();
        let events = rig.bench.events(run["run"].as_u64().expect("a run has a number"));
        let stops = events.iter().filter(|event| event["what"] == "stopped").count();
        let forgotten = self.may_be_forgotten && death == Death::PowerCut && stops == 0;
        let (cut_off, outcome) = if forgotten { (false, "live") } else { (self.cut_off, self.outcome) };
        assert_eq!(stops, usize::from(cut_off), "how often the run was stopped: {events:#?}");
        assert_eq!(run["outcome"], outcome, "{events:#?}");
        if self.ask == Ask::Mend {
            // It can be asked for again, and then nothing is left to be mended.
            rig.bench.ctl(["fsck", "--mend"]).expect(0);
        }
        rig.assert_sound();
        if self.ask == Ask::ActivateStaged {
            // Another run made it: it stays whatever becomes of this one.
            let release = run["release"].as_str().unwrap_or_default();
            let found = rig.bench.ctl(["show", release, "--json"]).expect(0).json();
            assert!(found["manifest"].is_object(), "what was staged is gone: {events:#?}");
        }
        let live = rig.bench.live(rig.app()).unwrap_or_default();
        assert_eq!(live != former, outcome == "live", "{live} is live, and {former} was: {events:#?}");
        // What is named to whoever has to restore it must be there.
        for stands in events.iter().filter(|event| event["what"] == "stands") {
            let restore = stands["restore"].as_str().unwrap_or_default();
            let backup = restore.split([' ', '\'', '\\']).find(|word| word.contains("/backups/"));
            assert!(backup.is_some_and(|backup| std::path::Path::new(backup).is_file()), "the backup that is named is not there: {stands}");
        }
        if self.ask == Ask::HalfMigrated {
            rig.half_migration(Fails::No);
            rig.assert_half(&events);
            rig.forget_migrations();
        }
        let left = rig.bench.releases(rig.app()).into_iter().filter(|name| name.starts_with('.')).count();
        assert_eq!(left, 0, "something is left in releases/");
        if self.ask == Ask::Lock {
            rig.bench.ctl(["unlock"]);
        }
        rig.back_to_first();
    }
}

/// A release that was staged, and nothing else.
fn stage_another(rig: &mut Rig) {
    if rig.bench.is_running() {
        rig.bench.stop();
    }
    rig.settle(20);
    rig.start();
    rig.commit();
    rig.bench.ctl(["stage", "main"]).expect(0);
}

/// Releases that may be activated, or removed.
fn prepare_others(rig: &mut Rig, count: usize) {
    if rig.bench.releases(rig.app()).len() >= count {
        return;
    }
    if rig.bench.is_running() {
        rig.bench.stop();
    }
    rig.settle(20);
    rig.start();
    while rig.bench.releases(rig.app()).len() < count {
        rig.commit();
        rig.bench.ctl(["release", "main"]).expect(0);
    }
    rig.back_to_first();
}
