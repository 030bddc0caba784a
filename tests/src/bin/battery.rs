//! The generated cases of the fault battery. `tests/battery` builds what it needs, runs it, and makes a table of what it says.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it prints is what it is for")]

use std::process::ExitCode;

use agent_tests::battery::{Choice, names, run};

fn main() -> ExitCode {
    let mut choice = Choice { jobs: 2, ..Choice::default() };
    let mut list = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--quick" => choice.quick = true,
            "--list" => list = true,
            "--jobs" => match arguments.next().and_then(|jobs| jobs.parse().ok()) {
                Some(jobs) => choice.jobs = jobs,
                None => {
                    eprintln!("battery: --jobs takes a number");
                    return ExitCode::from(2);
                }
            },
            word if word.starts_with('-') => {
                eprintln!("battery: what is {word}? It takes --quick, --list, --jobs N, and parts of names");
                return ExitCode::from(2);
            }
            word => choice.words.push(word.to_owned()),
        }
    }
    if list {
        names(&choice).iter().for_each(|name| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let tally = run(&choice, &|line| println!("{line}"));
    ExitCode::from(u8::from(!tally.failed.is_empty() || tally.passed == 0))
}
