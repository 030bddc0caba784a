//! What the agent knows about Celery.

use std::path::Path;

use crate::systemd::Unit;

pub(super) const ONE_CLOCK: &str = "name a plain unit for it, which is restarted: it stops before it starts";

/// What a unit runs Celery for.
pub(super) struct Does {
    /// `worker`, `beat`, `multi`, …
    pub(super) command: String,
    /// The words after the subcommand.
    arguments: Vec<String>,
}

/// The options of `celery` itself that take their value from the next word (`celery --help` of 5.5).
const WITH_VALUE: &[&str] = &["-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir"];

impl Does {
    /// Finds Celery however it is started: by its script, as a Python module, by env(1), or by a shell.
    pub(super) fn of(unit: &Unit) -> Option<Self> {
        let argv = unit.exec_start.first()?;
        let shell = || {
            argv.first().and_then(|program| Path::new(program).file_name()).is_some_and(|name| SHELLS.iter().any(|shell| name == *shell))
        };
        let script = argv.iter().position(|word| word.starts_with('-') && word.ends_with('c')).and_then(|at| argv.get(at + 1));
        match script.filter(|_| shell()) {
            // Unbalanced quotes are left for the shell to report.
            Some(script) => shlex::split(script)?.split(|word| SEPARATORS.contains(&word.as_str())).find_map(Self::in_words),
            None => Self::in_words(argv),
        }
    }

    fn in_words(words: &[String]) -> Option<Self> {
        let before = |at: usize| at.checked_sub(1).map(|before| words[before].as_str());
        let is_program = |at: usize| match before(at) {
            None | Some("-m" | "exec" | "env") => true,
            // A variable assignment of the shell or of env.
            Some(word) => words[at].contains('/') || word.ends_with("/env") || !word.starts_with('-') && word.contains('='),
        };
        let celery = (0..words.len().min(6)).find(|at| Path::new(&words[*at]).ends_with("celery") && is_program(*at))?;
        let mut rest = words[celery + 1..].iter();
        let command = loop {
            let word = rest.next()?;
            if WITH_VALUE.contains(&word.as_str()) {
                rest.next();
            } else if !word.starts_with('-') {
                break word.clone();
            }
        };
        Some(Self { command, arguments: rest.cloned().collect() })
    }
}

const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "zsh"];
const SEPARATORS: &[&str] = &["&&", "||", ";", "|", "&"];

/// Whether the unit is Celery's scheduler (beat), or embeds one. Each running scheduler sends every due task once, so two of them send it twice.
pub(super) fn is_clock(unit: &Unit) -> bool {
    // Short options without values can be combined (`-EB`).
    let with_a_clock = |arg: &str| {
        arg == "--beat" || arg.strip_prefix('-').is_some_and(|flags| flags.ends_with('B') && flags.chars().all(|flag| "BDE".contains(flag)))
    };
    Does::of(unit).is_some_and(|does| match does.command.as_str() {
        "beat" => true,
        "worker" | "multi" => does.arguments.iter().any(|arg| with_a_clock(arg)),
        _ => false,
    })
}

pub(super) fn two_clocks(unit: &str) -> String {
    format!(
        "{unit} is Celery's beat in a template: two of them would run while one release takes over from another, and send everything twice"
    )
}
