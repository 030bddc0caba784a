//! Runs groups side by side, their cases one after the other, and counts.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::rig::Rig;
use super::{Group, groups};

/// Which cases are run.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    /// Those that have one of these words in their names; without a word, all.
    pub words: Vec<String>,
    /// Only the quick selection.
    pub quick: bool,
    /// How many groups at a time.
    pub jobs: usize,
}

/// What came of them.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many passed.
    pub passed: usize,
    /// The names of those that failed.
    pub failed: Vec<String>,
    /// How many could not be tried here.
    pub not_here: usize,
}

/// The names of the cases that are chosen.
pub fn names(choice: &Choice) -> Vec<String> {
    chosen(choice).iter().flat_map(|group| group.cases.iter().map(|case| case.name.clone())).collect()
}

fn chosen(choice: &Choice) -> VecDeque<Group> {
    let mut groups = groups();
    for group in &mut groups {
        group.cases.retain(|case| {
            (!choice.quick || case.quick) && (choice.words.is_empty() || choice.words.iter().any(|word| case.name.contains(word)))
        });
    }
    groups.into_iter().filter(|group| !group.cases.is_empty()).collect()
}

/// Runs them; says a line for each through `say`: what came of it, its name, its seconds, and how many faults happened or why not.
pub fn run(choice: &Choice, say: &(dyn Fn(&str) + Sync)) -> Tally {
    let groups = Mutex::new(chosen(choice));
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..choice.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = groups.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(group) = next else { return };
                    run_group(group, &tally, say);
                }
            });
        }
    });
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn run_group(group: Group, tally: &Mutex<Tally>, say: &(dyn Fn(&str) + Sync)) {
    let count = |add: &dyn Fn(&mut Tally)| add(&mut tally.lock().unwrap_or_else(PoisonError::into_inner));
    let mut kept: Option<Rig> = None;
    let mut last = None;
    for case in &group.cases {
        let begun = Instant::now();
        let rig = match kept.take() {
            Some(rig) => Ok(rig),
            None => catch_unwind(AssertUnwindSafe(|| (group.make)())).unwrap_or_else(|_| Err("FAILED".to_owned())),
        };
        let rig = match rig {
            Ok(rig) => rig,
            Err(why) if why == "FAILED" => {
                say(&line("FAILED", &case.name, begun.elapsed(), "its rig could not be made"));
                count(&|tally| tally.failed.push(case.name.clone()));
                continue;
            }
            Err(why) => {
                say(&line("NOT HERE", &case.name, begun.elapsed(), &why));
                count(&|tally| tally.not_here += 1);
                continue;
            }
        };
        // A rig whose case failed goes away with it, and says what its agent said.
        let done = catch_unwind(AssertUnwindSafe(move || {
            let mut rig = rig;
            let faults = (case.act)(&mut rig);
            (rig, faults)
        }));
        match done {
            Ok((rig, 0)) => {
                drop(rig);
                say(&line("FAILED", &case.name, begun.elapsed(), "no fault has happened, so it shows nothing"));
                count(&|tally| tally.failed.push(case.name.clone()));
            }
            Ok((rig, faults)) => {
                kept = Some(rig);
                say(&line("passed", &case.name, begun.elapsed(), &faults.to_string()));
                count(&|tally| tally.passed += 1);
            }
            Err(_) => {
                say(&line("FAILED", &case.name, begun.elapsed(), ""));
                count(&|tally| tally.failed.push(case.name.clone()));
            }
        }
        last = Some(&case.name);
    }
    if let (Some(mut rig), Some(name)) = (kept, last) {
        let begun = Instant::now();
        let act = group.last;
        if catch_unwind(AssertUnwindSafe(move || act(&mut rig))).is_err() {
            let name = format!("{name}.and-then");
            say(&line("FAILED", &name, begun.elapsed(), "after all cases of the group"));
            count(&|tally| tally.failed.push(name.clone()));
        }
    }
}

fn line(what: &str, name: &str, took: Duration, more: &str) -> String {
    let mut text = format!("{what}\t{name}\t{:.1}", took.as_secs_f32());
    let _ = write!(text, "\t{more}");
    text
}
