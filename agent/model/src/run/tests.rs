//! Every plan of up to four steps, with every nature of each, through every failure, every crash and every cancel.
//!
//! The test's world mirrors a real one: for each step an effect that is there or not, and a link that visitors follow. After every history, the
//! outcome must agree with that world.

use super::*;

const NATURES: [Nature; 4] = [
    Nature { undo: Undo::Nothing, on_failure: OnFailure::Unwind },
    Nature { undo: Undo::TakeBack, on_failure: OnFailure::Unwind },
    Nature { undo: Undo::Nothing, on_failure: OnFailure::Warn },
    Nature { undo: Undo::TakeBack, on_failure: OnFailure::Warn },
];

/// The faults of one history, and their places. Points count every mark that is about to be written.
#[derive(Debug, Clone, Copy, Default)]
struct Trouble {
    fails: Option<usize>,
    /// This step exposes the run (if it gets so far).
    exposes: Option<usize>,
    /// This step has nothing to do.
    idle: Option<usize>,
    /// The undo of this step fails.
    undo_fails: Option<usize>,
    /// The agent dies at this point: after the mark, before its effect (even) or after its effect (odd).
    dies_at: Option<usize>,
    /// The agent dies once more at this point.
    dies_again_at: Option<usize>,
    /// A caller cancels before this point.
    cancelled_at: Option<usize>,
}

#[derive(Default)]
struct World {
    effects: Vec<bool>,
    started: Vec<u32>,
    order_undone: Vec<usize>,
    visitors_met: bool,
}

struct History {
    marks: Vec<Mark>,
    world: World,
    outcome: Outcome,
    points: usize,
    cancel_taken: bool,
}

fn replay(aim: Aim, natures: &[Nature], marks: &[Mark]) -> Run {
    let mut run = Run::new(aim, natures.to_vec());
    for mark in marks {
        run.record(*mark).expect("what was written once can be read again");
    }
    run
}

/// Plays one history to its end. `None` in the middle of the inner function is the agent's death; it then starts again from the marks alone.
fn play(natures: &[Nature], trouble: Trouble) -> History {
    let mut marks: Vec<Mark> = Vec::new();
    let mut world = World { effects: vec![false; natures.len()], started: vec![0; natures.len()], ..World::default() };
    let mut point = 0;
    let mut cancel_taken = false;
    for life in 0_u32.. {
        assert!(life <= MOST_STOPS + 2, "a run must end: {natures:?} {trouble:?}");
        if life > 0 {
            marks.push(Mark::Stopped);
        }
        let mut run = replay(Aim::Serve, natures, &marks);
        let ended = live_once(&mut run, natures, trouble, &mut marks, &mut world, &mut point, &mut cancel_taken);
        assert_eq!(run, replay(Aim::Serve, natures, &marks), "memory and journal agree");
        if let Some(outcome) = ended {
            return History { marks, world, outcome, points: point, cancel_taken };
        }
    }
    panic!("the loop above only ends by returning")
}

fn live_once(
    run: &mut Run,
    natures: &[Nature],
    trouble: Trouble,
    marks: &mut Vec<Mark>,
    world: &mut World,
    point: &mut usize,
    cancel_taken: &mut bool,
) -> Option<Outcome> {
    let write = |run: &mut Run, marks: &mut Vec<Mark>, mark: Mark| {
        run.record(mark).unwrap_or_else(|err| panic!("{err}: {natures:?} {trouble:?} {marks:?}"));
        marks.push(mark);
    };
    let dies = |point: &mut usize| {
        let now = *point;
        *point += 1;
        trouble.dies_at == Some(now) || trouble.dies_again_at == Some(now)
    };
    loop {
        if trouble.cancelled_at == Some(*point) && !*cancel_taken && !run.is_exposed() {
            write(run, marks, Mark::CancelAsked);
            *cancel_taken = true;
        }
        match run.next() {
            Next::Do(i) => {
                write(run, marks, Mark::Started(i));
                world.started[i] += 1;
                if dies(point) {
                    return None;
                }
                if trouble.exposes == Some(i) && run.record(Mark::Exposed(i)).is_ok() {
                    marks.push(Mark::Exposed(i));
                    world.visitors_met = true;
                }
                world.effects[i] = trouble.idle != Some(i);
                if dies(point) {
                    return None;
                }
                let end = match (trouble.fails == Some(i), trouble.idle == Some(i)) {
                    (true, _) => Mark::Failed(i),
                    (false, true) => Mark::Idle(i),
                    (false, false) => Mark::Done(i),
                };
                write(run, marks, end);
            }
            Next::Undo(i) => {
                write(run, marks, Mark::UndoStarted(i));
                if dies(point) {
                    return None;
                }
                if trouble.undo_fails == Some(i) {
                    write(run, marks, Mark::UndoFailed(i));
                    continue;
                }
                world.effects[i] = false;
                world.order_undone.push(i);
                if dies(point) {
                    return None;
                }
                write(run, marks, Mark::Undone(i));
            }
            Next::End(outcome) => {
                if dies(point) {
                    return None;
                }
                write(run, marks, Mark::Ended);
                return Some(outcome);
            }
        }
    }
}

/// The message of a failed check. There are millions of histories, so it is formatted only for the one that fails.
struct FailedCheck<'h>(&'h [Nature], Trouble, &'h History);

impl std::fmt::Display for FailedCheck<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(natures, trouble, history) = self;
        write!(f, "{natures:?} {trouble:?} {:?} -> {:?}", history.marks, history.outcome)
    }
}

fn check(natures: &[Nature], trouble: Trouble, history: &History) {
    let told = FailedCheck(natures, trouble, history);
    let world = &history.world;
    assert!(world.started.iter().all(|times| *times <= 1), "no step is started twice: {told}");
    let mut run = replay(Aim::Serve, natures, &history.marks);
    assert!(run.record(Mark::Stopped).is_err(), "an ended run takes no more marks: {told}");

    let done = |i: usize| history.marks.contains(&Mark::Done(i)) || history.marks.contains(&Mark::Idle(i));
    let matters = |i: usize| natures[i].on_failure == OnFailure::Unwind;
    match history.outcome {
        Outcome::Live => {
            assert!((0..natures.len()).all(|i| !matters(i) || done(i)), "live means that all that matters is done: {told}");
            assert!(world.order_undone.is_empty(), "nothing of a live run is taken back: {told}");
        }
        Outcome::Failed | Outcome::RolledBack | Outcome::Cancelled => {
            for (i, nature) in natures.iter().enumerate() {
                assert!(nature.undo == Undo::Nothing || !world.effects[i], "step {i} is left behind: {told}");
            }
            let first_times: Vec<usize> =
                world.order_undone.iter().enumerate().filter(|(at, i)| !world.order_undone[..*at].contains(i)).map(|(_, i)| *i).collect();
            assert!(first_times.is_sorted_by(|a, b| a > b), "taken back in reverse: {told}");
            assert_eq!(history.outcome == Outcome::RolledBack, world.visitors_met, "rolled back says that visitors met it: {told}");
            let something_mattered = (0..natures.len()).any(|i| matters(i) && !done(i));
            assert!(something_mattered, "a run in which all that matters was done is not taken back: {told}");
        }
        Outcome::Stuck => {
            assert!(history.marks.iter().any(|mark| matches!(mark, Mark::UndoFailed(_))), "stuck means that an undo failed: {told}");
        }
        Outcome::Done | Outcome::Superseded => panic!("not an outcome of a run that serves: {told}"),
    }
    if history.outcome == Outcome::Cancelled {
        assert!(history.cancel_taken, "nobody cancelled: {told}");
    }
    let failed_first = history.marks.iter().position(|mark| matches!(mark, Mark::Failed(i) if matters(*i)));
    let cancelled_first = history.marks.iter().position(|mark| *mark == Mark::CancelAsked);
    if let (Some(failed), Some(cancelled), Outcome::Cancelled) = (failed_first, cancelled_first, history.outcome) {
        assert!(cancelled < failed, "the first cause is the one that is told: {told}");
    }
}

fn every_plan(mut visit: impl FnMut(&[Nature])) {
    for length in 0..=4_u32 {
        for code in 0..NATURES.len().pow(length) {
            let natures: Vec<Nature> = (0..length).map(|place| NATURES[code / NATURES.len().pow(place) % NATURES.len()]).collect();
            visit(&natures);
        }
    }
}

fn nothing_or(steps: impl Iterator<Item = usize>) -> impl Iterator<Item = Option<usize>> {
    std::iter::once(None).chain(steps.map(Some))
}

#[test]
fn every_history_of_every_short_plan_ends_in_agreement_with_the_world() {
    let mut histories = 0_u64;
    every_plan(|natures| {
        for fails in nothing_or(0..natures.len()) {
            // After a step whose failure sends the run back, no step begins, so varying it makes no other history. Nor does the undo of a step that
            // has none.
            let last = fails.filter(|i| natures[*i].on_failure == OnFailure::Unwind);
            let begun = last.map_or(natures.len(), |last| last + 1);
            let taken_back = (0..begun).filter(|i| natures[*i].undo == Undo::TakeBack);
            // In each history at most one step either exposes the run or has nothing to do.
            let idle = (0..begun).filter(|i| fails != Some(*i)).map(|idle| (None, Some(idle)));
            for (exposes, idle) in nothing_or(0..begun).map(|exposes| (exposes, None)).chain(idle) {
                for undo_fails in nothing_or(taken_back.clone()) {
                    let calm = Trouble { fails, exposes, idle, undo_fails, ..Trouble::default() };
                    let points = play(natures, calm).points;
                    // Each crash point alone, each cancel point alone, and each pair of the two; the later of two crashes happens on the way back.
                    for dies_at in nothing_or(0..points + 2) {
                        for cancelled_at in nothing_or(0..points + 2) {
                            let trouble = Trouble { dies_at, cancelled_at, ..calm };
                            let history = play(natures, trouble);
                            check(natures, trouble, &history);
                            histories += 1;
                        }
                        let Some(first) = dies_at else { continue };
                        for again in first + 1..first + 6 {
                            let trouble = Trouble { dies_at, dies_again_at: Some(again), ..calm };
                            let history = play(natures, trouble);
                            check(natures, trouble, &history);
                            histories += 1;
                        }
                    }
                }
            }
        }
    });
    println!("{histories} histories replayed");
    assert!(histories > 1_000_000, "the search has shrunk to {histories} histories");
}

#[test]
fn a_crash_loop_ends_stuck_and_not_never() {
    let natures = vec![NATURES[1]];
    let mut run = Run::new(Aim::Serve, natures);
    run.record(Mark::Started(0)).unwrap();
    for _ in 0..MOST_STOPS {
        run.record(Mark::Stopped).unwrap();
        assert_eq!(run.next(), Next::Undo(0));
        run.record(Mark::UndoStarted(0)).unwrap();
    }
    run.record(Mark::Stopped).unwrap();
    assert_eq!(run.next(), Next::End(Outcome::Stuck));
}

#[test]
fn a_mark_out_of_order_is_an_error_and_changes_nothing() {
    let mut run = Run::new(Aim::Tend, vec![NATURES[1], NATURES[1]]);
    let every = [
        Mark::Started(1),
        Mark::Done(0),
        Mark::Failed(0),
        Mark::Exposed(0),
        Mark::UndoStarted(0),
        Mark::Undone(0),
        Mark::Ended,
        Mark::Done(9),
    ];
    for mark in every {
        let before = run.clone();
        assert_eq!(run.record(mark), Err(Impossible(mark)));
        assert_eq!(run, before);
    }
    run.record(Mark::Started(0)).unwrap();
    run.record(Mark::Exposed(0)).unwrap();
    assert!(run.record(Mark::CancelAsked).is_err(), "what visitors may have met cannot be cancelled");
}

#[test]
fn tending_ends_done() {
    let mut run = Run::new(Aim::Tend, vec![NATURES[2]]);
    run.record(Mark::Started(0)).unwrap();
    run.record(Mark::Done(0)).unwrap();
    assert_eq!(run.next(), Next::End(Outcome::Done));
}
