//! Releases, each cut off at a random moment: most by a kill or a power cut, some by a cancel, by the end of the agent, or by a machine that stood still.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::disks::DiskKind;
use super::kill::{first_release, one_more};
use super::rig::{MOST, Rig, What};
use super::{Case, Group};

/// How many releases.
const RELEASES: u64 = 200;
/// About as long as a release of the demo takes.
const LENGTH: Duration = Duration::from_millis(4500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillAgent,
    KillAll,
    Cut,
    Cancel,
    Stop,
    StandStill,
}

impl Fault {
    /// 85 of 100 are a kill or a cut.
    fn draw(random: &mut fastrand::Rng) -> Self {
        match random.u32(0..100) {
            0..40 => Self::KillAgent,
            40..55 => Self::KillAll,
            55..85 => Self::Cut,
            85..90 => Self::Cancel,
            90..95 => Self::Stop,
            _ => Self::StandStill,
        }
    }

    /// How the run may have ended.
    fn outcomes(self) -> &'static [&'static str] {
        match self {
            Self::Cancel => &["cancelled", "live"],
            Self::Stop | Self::StandStill => &["live"],
            Self::KillAgent | Self::KillAll | Self::Cut => &["live", "failed", "rolled_back"],
        }
    }
}

pub(crate) fn groups() -> Vec<Group> {
    // Two machines, so that two run side by side.
    (0..2)
        .map(|machine| {
            let cases = (1..=RELEASES)
                .filter(|number| number % 2 == machine)
                .map(|number| Case::new(format!("soak.{number:03}"), move |rig| one(rig, number)).quick_when(number <= 4));
            Group::new(
                || {
                    let rig = Rig::new("soak", What::Demo, Some(DiskKind::Ext4))?;
                    rig.bench.ctl(["pin", &first_release(&rig)]).expect(0);
                    rig.settle(3);
                    rig.bench.reload();
                    Ok(rig)
                },
                cases.collect(),
            )
            .last(one_more)
        })
        .collect()
}

fn one(rig: &mut Rig, number: u64) -> u32 {
    let mut random = fastrand::Rng::with_seed(number);
    let fault = Fault::draw(&mut random);
    let mut after = LENGTH.mul_f64(random.f64());
    // A moment before the request was taken, or when the run was over already, is none: then it was later or earlier.
    for _ in 0..8 {
        match try_at(rig, fault, after) {
            Moment::Within => return 1,
            Moment::Before => after += Duration::from_millis(20),
            Moment::Behind => after /= 2,
        }
    }
    0
}

/// Where in a run a fault came.
enum Moment {
    Before,
    Within,
    Behind,
}

/// Tells whether the fault met the run.
fn try_at(rig: &mut Rig, fault: Fault, after: Duration) -> Moment {
    if !rig.bench.is_running() {
        rig.start();
    }
    rig.forget_migrations();
    rig.commit();
    let before = rig.newest_number();
    let begun = Instant::now();
    let mut asking = rig.bench.ctl_begin(["release", "main"]);
    // The moment is chosen blindly, which is the point.
    std::thread::sleep(after.saturating_sub(begun.elapsed()));
    let mut met = !asking.is_over();
    match fault {
        Fault::KillAgent => rig.kill_agent(),
        Fault::KillAll => rig.kill_all(),
        Fault::Cut => rig.cut(),
        Fault::Cancel => {
            let run = rig.newest_number().unwrap_or_default().to_string();
            // It may be over, or before the visitors, by now.
            met &= rig.bench.ctl(["cancel", &run]).code == 0;
        }
        Fault::Stop => drop(rig.bench.stop()),
        Fault::StandStill => {
            rig.bench.signal(Signal::SIGSTOP);
            std::thread::sleep(Duration::from_secs(1));
            rig.go_on();
        }
    }
    if !rig.bench.is_running() {
        asking.signal(Signal::SIGKILL);
        rig.start();
    }
    drop(asking.finish(MOST));
    let run = rig.ended();
    let taken = run["run"].as_u64() != before;
    if taken {
        let events = rig.bench.events(run["run"].as_u64().unwrap_or_default());
        let outcome = run["outcome"].as_str().unwrap_or_default();
        assert!(fault.outcomes().contains(&outcome), "{fault:?} after {after:?}: {outcome}: {events:#?}");
    }
    rig.assert_sound();
    let first = first_release(rig);
    if run["outcome"] != "live" {
        assert_eq!(rig.bench.live(rig.app()), Some(first), "{fault:?} after {after:?}");
    }
    rig.back_to_first();
    match (taken, met) {
        (false, _) => Moment::Before,
        (true, true) => Moment::Within,
        (true, false) => Moment::Behind,
    }
}
