//! Random sequences of what people and the world do, held against a small model of what must come of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::disks::{DiskKind, Filler};
use super::rig::{Fails, MOST, Rig, What};
use super::{Case, Group};

/// So many sequences; any other is run by its name: `model.seed-4711`.
const SEEDS: u64 = 60;
/// Those that found something once.
const KEPT: &[u64] = &[22, 27, 36, 37, 40, 58];
/// So many things happen in one.
const LENGTH: usize = 14;
/// `keep_releases`
const KEEP: usize = 3;

pub(crate) fn groups() -> Vec<Group> {
    let named = std::env::args().filter_map(|word| word.strip_prefix("model.seed-")?.parse().ok());
    let seeds: BTreeSet<u64> = (1..=SEEDS).chain(KEPT.iter().copied()).chain(named).collect();
    // A rig for each: what one sequence left is nothing that another one should begin with.
    seeds
        .into_iter()
        .map(|seed| {
            let case = Case::new(format!("model.seed-{seed}"), move |rig| sequence(rig, seed)).quick_when(seed <= 3);
            Group::new(move || Rig::new(&format!("model {seed}"), What::Plain, Some(DiskKind::Small)), vec![case])
        })
        .collect()
}

/// What must be so when nothing is under way.
#[derive(Debug, Default)]
struct Model {
    /// The sealed releases, oldest first.
    releases: BTreeSet<String>,
    /// Those that went live, in their order.
    gone_live: Vec<String>,
    pinned: BTreeSet<String>,
    locked: bool,
}

impl Model {
    fn live(&self) -> &str {
        self.gone_live.last().map_or("", String::as_str)
    }

    fn previous(&self) -> Option<&String> {
        self.gone_live.iter().rev().find(|release| *release != self.live() && self.releases.contains(*release))
    }

    /// What `prune` must leave: the newest, the live one, the way back, and what is pinned.
    fn kept(&self) -> BTreeSet<String> {
        let newest = self.releases.iter().rev().take(KEEP);
        let held = self
            .releases
            .iter()
            .filter(|release| release.as_str() == self.live() || Some(*release) == self.previous() || self.pinned.contains(*release));
        newest.chain(held).cloned().collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Release,
    ReleaseThatFails,
    ReleaseThatIsTakenBack,
    Activate,
    Rollback,
    Prune,
    Pin,
    Unpin,
    Lock,
    Unlock,
    Kill,
    Cut,
    Cancel,
    Restart,
    FullDisk,
    Clock,
}

const ACTS: &[(Act, u32)] = &[
    (Act::Release, 5),
    (Act::ReleaseThatFails, 2),
    (Act::ReleaseThatIsTakenBack, 2),
    (Act::Activate, 3),
    (Act::Rollback, 2),
    (Act::Prune, 1),
    (Act::Pin, 1),
    (Act::Unpin, 1),
    (Act::Lock, 1),
    (Act::Unlock, 2),
    (Act::Kill, 4),
    (Act::Cut, 4),
    (Act::Cancel, 2),
    (Act::Restart, 1),
    (Act::FullDisk, 1),
    (Act::Clock, 2),
];

fn draw(random: &mut fastrand::Rng) -> Act {
    let mut at = random.u32(0..ACTS.iter().map(|(_, weight)| weight).sum());
    for (act, weight) in ACTS {
        match at.checked_sub(*weight) {
            None => return *act,
            Some(rest) => at = rest,
        }
    }
    Act::Release
}

/// The library that gives a process another clock (package faketime), and the file that it reads how far it is off.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

fn sequence(rig: &mut Rig, seed: u64) -> u32 {
    let mut random = fastrand::Rng::with_seed(seed);
    rig.settle(u32::try_from(KEEP).unwrap_or(3));
    rig.bench.stop();
    let has_clock = Path::new(FAKETIME).exists();
    if has_clock {
        rig.bench.write("clock", "+0");
        rig.bench.variable("LD_PRELOAD", FAKETIME).variable("FAKETIME_NO_CACHE", "1").variable("DONT_FAKE_MONOTONIC", "1");
        rig.bench.variable("FAKETIME_TIMESTAMP_FILE", &rig.bench.path("clock").display().to_string());
    }
    rig.start();
    let first = rig.bench.live(rig.app()).expect("the rig begins with a live release");
    let mut model = Model { releases: BTreeSet::from([first.clone()]), gone_live: vec![first], ..Model::default() };
    let mut done: Vec<Act> = Vec::new();
    for _ in 0..LENGTH {
        let act = draw(&mut random);
        if act == Act::Clock && !has_clock {
            continue;
        }
        done.push(act);
        step(rig, &mut model, act, &mut random, &done);
        compare(rig, &model, &done);
    }
    let is_fault = |act: &&Act| {
        matches!(act, Act::Kill | Act::Cut | Act::Cancel | Act::FullDisk | Act::Clock | Act::ReleaseThatFails | Act::ReleaseThatIsTakenBack)
    };
    u32::try_from(done.iter().filter(is_fault).count()).unwrap_or(u32::MAX)
}

fn step(rig: &mut Rig, model: &mut Model, act: Act, random: &mut fastrand::Rng, done: &[Act]) {
    let expect = |ctl: crate::Done, code: i32| assert_eq!(ctl.code, code, "{done:?}: {}{}", ctl.stdout, ctl.stderr);
    let refused = |model: &Model, code: i32| if model.locked { 4 } else { code };
    match act {
        Act::Release => {
            rig.commit();
            expect(rig.bench.ctl(["release", "main"]), refused(model, 0));
            if !model.locked {
                went_live(rig, model);
                model.releases = model.kept();
            }
        }
        Act::ReleaseThatFails | Act::ReleaseThatIsTakenBack => {
            let (gate, code) = if act == Act::ReleaseThatFails { ("fail-migrate", 1) } else { ("fail-switch", 3) };
            rig.commit();
            rig.gate(gate, Fails::Yes);
            expect(rig.bench.ctl(["release", "main"]), refused(model, code));
            rig.gate(gate, Fails::No);
        }
        Act::Activate => {
            let to = random.choice(model.releases.iter()).expect("one release is there at least").clone();
            expect(rig.bench.ctl(["activate", &to]), refused(model, 0));
            if !model.locked && to != model.live() {
                model.gone_live.push(to);
            }
        }
        Act::Rollback => match model.previous().cloned() {
            Some(to) => {
                expect(rig.bench.ctl(["rollback"]), refused(model, 0));
                if !model.locked {
                    model.gone_live.push(to);
                }
            }
            None => assert_ne!(rig.bench.ctl(["rollback"]).code, 0, "{done:?}: there is nothing to go back to"),
        },
        Act::Prune => {
            expect(rig.bench.ctl(["prune"]), 0);
            model.releases = model.kept();
        }
        Act::Pin => {
            let release = random.choice(model.releases.iter()).expect("one release is there at least").clone();
            expect(rig.bench.ctl(["pin", &release]), 0);
            model.pinned.insert(release);
        }
        Act::Unpin => {
            if let Some(release) = model.pinned.pop_first() {
                expect(rig.bench.ctl(["unpin", &release]), 0);
            }
        }
        Act::Lock => {
            expect(rig.bench.ctl(["lock", "-m", "the model says so"]), 0);
            model.locked = true;
        }
        Act::Unlock => {
            expect(rig.bench.ctl(["unlock"]), 0);
            model.locked = false;
        }
        Act::Kill | Act::Cut | Act::Cancel => interrupted(rig, model, act, random, done),
        Act::Restart => {
            assert_eq!(rig.bench.stop(), 0, "{done:?}");
            rig.start();
        }
        Act::FullDisk => {
            rig.commit();
            let disks = rig.disks.as_ref().expect("this rig has disks of its own");
            disks.fill(0, Filler::Blocks);
            let ctl = rig.bench.ctl(["release", "main"]);
            disks.empty();
            expect(ctl, refused(model, 1));
        }
        Act::Clock => {
            // An hour back, a day ahead: from one moment to the next.
            let offset = random.i32(-3600..86_400);
            rig.bench.write("clock", format!("{offset:+}"));
        }
    }
}

/// A release or a way back that is cut off at some moment. How it ended is the journal's to say; what follows from that is the model's.
fn interrupted(rig: &mut Rig, model: &mut Model, act: Act, random: &mut fastrand::Rng, done: &[Act]) {
    let back = model.previous().cloned().filter(|_| random.bool());
    if back.is_none() {
        rig.commit();
    }
    let before = rig.newest_number();
    let asking = rig.bench.ctl_begin(if back.is_some() { ["rollback", "--quiet"].as_slice() } else { ["release", "main"].as_slice() });
    // The moment is chosen blindly, which is the point.
    std::thread::sleep(Duration::from_millis(random.u64(0..250)));
    match act {
        Act::Cut => rig.cut(),
        Act::Kill => rig.kill_agent(),
        _ => {
            let run = rig.newest_number().unwrap_or_default().to_string();
            rig.bench.ctl(["cancel", &run]);
        }
    }
    if !rig.bench.is_running() {
        asking.signal(Signal::SIGKILL);
        rig.start();
    }
    drop(asking.finish(MOST));
    let run = rig.ended();
    if run["run"].as_u64() == before {
        return;
    }
    assert!(!model.locked || run["outcome"] != "live", "{done:?}: it went live in spite of the lock");
    if run["outcome"] != "live" {
        return;
    }
    went_live(rig, model);
    // Whether it came to the removal of what is old is open: what must stay is there, and nothing is there that was not.
    let there: BTreeSet<String> = rig.bench.releases(rig.app()).into_iter().collect();
    assert!(there.is_superset(&model.kept()) && there.is_subset(&model.releases), "{done:?}: {there:?} of {model:?}");
    model.releases = there;
}

fn went_live(rig: &Rig, model: &mut Model) {
    let live = rig.bench.live(rig.app()).expect("a release went live");
    model.releases.insert(live.clone());
    if model.live() != live {
        model.gone_live.push(live);
    }
}

#[track_caller]
fn compare(rig: &Rig, model: &Model, done: &[Act]) {
    rig.assert_sound();
    assert_eq!(rig.bench.live(rig.app()).as_deref(), Some(model.live()), "{done:?}");
    let there: BTreeSet<String> = rig.bench.releases(rig.app()).into_iter().collect();
    assert_eq!(there, model.releases, "{done:?}: {model:?}");
    let said = rig.bench.ctl(["list", "--json"]).expect(0).json();
    let said = said["releases"].as_array().cloned().unwrap_or_default();
    let named = |holds: &dyn Fn(&serde_json::Value) -> bool| -> BTreeSet<String> {
        said.iter().filter(|release| holds(release)).filter_map(|release| release["name"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(named(&|_| true), model.releases, "{done:?}");
    let pinned: BTreeSet<String> = model.pinned.intersection(&model.releases).cloned().collect();
    assert_eq!(named(&|release| release["pinned"] == true), pinned, "{done:?}");
    assert_eq!(named(&|release| release["previous"] == true), model.previous().into_iter().cloned().collect(), "{done:?}: {model:?}");
}
