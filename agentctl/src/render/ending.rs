//! The last sentence of a run. It claims only what the agent reported: a release is live only if the last event names it so.

use agent_wire::event::OutcomeWord;

use super::words::{BOLD, DIM, clean, clean_line, count, painted, shortened, style_of, took};

/// The facts of a run at its end.
#[derive(Debug, Default)]
pub(super) struct RunFacts {
    pub(super) run: u64,
    /// The command line that reaches the same agent again.
    pub(super) called: String,
    pub(super) app: Option<String>,
    /// The action's word.
    pub(super) action: String,
    /// The subject of the action.
    pub(super) of: Option<String>,
    /// The release that it made, or made live.
    pub(super) release: Option<String>,
    /// Why it failed.
    pub(super) cause: Option<Cause>,
    /// How many warnings there were.
    pub(super) warnings: usize,
    /// The changes of the run that are, or may be, in the database.
    pub(super) database: Option<String>,
    /// The health of the live release at the end.
    pub(super) asked: Option<LiveAsked>,
}

/// The health of the live release at the end of a run.
#[derive(Debug)]
pub(super) struct LiveAsked {
    /// Whether it passes its checks.
    pub(super) answers: bool,
    /// The observation instead.
    pub(super) text: Option<String>,
    /// Whether it answered when the run began; `None` if that was not checked.
    pub(super) before: Option<bool>,
}

/// Why a run failed.
#[derive(Debug)]
pub(super) enum Cause {
    /// A step failed.
    Step {
        /// The step's name.
        step: String,
        /// A short reason; `None` where the step gave none.
        why: Option<String>,
    },
    /// The agent stopped, perhaps in the middle of a step.
    Stopped(Option<String>),
}

/// The sentence, and below it the next step for the user, where that helps.
pub(super) fn sentence(known: &RunFacts, outcome: OutcomeWord, live: Option<&str>, ms: u64) -> Vec<String> {
    let app = known.app.as_deref().map_or_else(|| "the app".to_owned(), clean_line);
    let run = known.run;
    let live = live.map(clean_line);
    let release = known.release.as_deref().map(clean_line);
    let of = known.of.as_deref().map(clean_line);
    let what = match outcome {
        OutcomeWord::Live if known.action == "restart" => {
            let release = live.or(release).unwrap_or_else(|| "the release".into());
            format!("{app}: {release} was started anew, and is live{}", warned(known.warnings))
        }
        OutcomeWord::Live => {
            let release = live.or(release).unwrap_or_else(|| "the release".into());
            format!("{app}: {release} is live{}", warned(known.warnings))
        }
        OutcomeWord::Done => format!("{app}: {}{}", done(known, of.as_deref(), live.as_deref()), warned(known.warnings)),
        OutcomeWord::Failed if serves(&known.action) => {
            let stands = match (live, &known.asked) {
                (None, _) => "no release is live".into(),
                // The former release serves on, but its database may have changed.
                (Some(live), Some(asked)) if asked.answers && known.database.is_some() => {
                    format!("the former release {live} still serves on it")
                }
                (Some(live), Some(asked)) if asked.answers => format!("the former release {live} still serves and was never left"),
                (Some(live), Some(asked)) => format!("the former release {live} was never left, but {}", silent(asked)),
                (Some(live), None) => format!("the former release {live} was never left; no check says whether it serves"),
            };
            format!("{app}: failed{}; {}{stands}", at(known), in_the_database(known))
        }
        OutcomeWord::Failed if known.action == "check" => {
            let whom =
                live.map_or_else(|| "there is no live release to be checked".into(), |live| format!("{live} is live, and did not pass"));
            format!("{app}: the check failed: {whom}")
        }
        OutcomeWord::Failed => format!("{app}: {} failed{}", named(&known.action), at(known)),
        OutcomeWord::RolledBack if known.action == "restart" => {
            let stands = live.map_or_else(|| "no release is live now".into(), |live| format!("{live} serves again"));
            format!("{app}: the restart was taken back{}; {stands}", at(known))
        }
        OutcomeWord::RolledBack => {
            let release = release.unwrap_or_else(|| "the new release".into());
            let stands = match (live, &known.asked) {
                (None, _) => "no release is live now".into(),
                (Some(live), Some(asked)) if asked.answers => format!("{live} serves again"),
                (Some(live), Some(asked)) => format!("{live} is live again, but {}", silent(asked)),
                (Some(live), None) => format!("{live} is live again; no check says whether it serves"),
            };
            format!("{app}: rolled back{}; {release} was live for a moment; {}{stands}", at(known), in_the_database(known))
        }
        OutcomeWord::Stuck => {
            let stands = live.map(|live| format!("; the link names {live}")).unwrap_or_default();
            let database = in_the_database(known);
            format!("{app}: stuck{}; {database}a person must look: agentctl doctor, agentctl logs {run}{stands}", at(known))
        }
        OutcomeWord::Cancelled => {
            let stands = match live {
                Some(live) if serves(&known.action) => match &known.asked {
                    Some(asked) if asked.answers => format!("; {live} still serves"),
                    Some(asked) => format!("; {live} was never left, but {}", silent(asked)),
                    None => format!("; {live} was never left"),
                },
                None if serves(&known.action) => "; no release is live".into(),
                _ => String::new(),
            };
            match &known.database {
                None => format!("{app}: cancelled and taken back{stands}"),
                Some(database) => format!("{app}: cancelled: {}{stands}", clean_line(database)),
            }
        }
        OutcomeWord::Superseded => format!("{app}: superseded: a newer request took its place, and nothing was done"),
    };
    let mut lines = vec![format!("{} {}", painted(style_of(outcome), what), painted(DIM, format!("(run {run}, {})", took(ms))))];
    if let Some(next) = next(known, outcome) {
        lines.push(format!("{} {next}", painted(BOLD, "next:")));
    }
    lines
}

/// The most characters of a cause in the last line.
const MOST_CAUSE: usize = 120;

/// A short reason for a step's failure: the exception that the tool ended with and where it was raised, else the first line of the step's own reason.
pub(super) fn why(reason: &str, tail: &[String]) -> Option<String> {
    let tail: Vec<String> = tail.iter().map(|line| clean_line(line)).collect();
    let raised = tail.iter().enumerate().rev().find_map(|(place, line)| Some((place, exception(line)?)));
    let why = match raised {
        Some((place, raised)) => match frame(&tail[..place]) {
            Some(frame) => format!("{raised} ({frame})"),
            None => raised,
        },
        None => match tail.iter().rev().find_map(|line| said_wrong(line)) {
            Some(said) => said.to_owned(),
            None => clean(reason).lines().next().map(str::trim).unwrap_or_default().to_owned(),
        },
    };
    (!why.is_empty()).then(|| shortened(&why, MOST_CAUSE))
}

/// What a line says that tells an error, as git, ssh, pip and uv write it; nothing where another line says why.
fn said_wrong(line: &str) -> Option<&str> {
    let line = line.trim().trim_end_matches('.');
    // uv puts the cause behind what follows from it.
    let refused = ["401 Unauthorized", "403 Forbidden"].iter().any(|words| line.contains(words));
    if let Some(said) = line.strip_prefix("hint: ").filter(|_| refused) {
        return Some(said);
    }
    if line.starts_with("ssh: ") {
        return Some(line);
    }
    let said = ["cause: ", "ERROR: ", "error: ", "fatal: "].iter().find_map(|start| line.strip_prefix(start)).map(str::trim)?;
    // git ends with it whatever went wrong.
    (said != "Could not read from remote repository").then_some(said)
}

/// The text of the last line of a Python traceback: `pkg.ModuleNotFoundError: No module named 'x'`. A message of a single word means nothing without
/// the name of its exception (`KeyError: 'DB'`).
fn exception(line: &str) -> Option<String> {
    let (name, message) = line.split_once(": ")?;
    let class = name.rsplit('.').next()?;
    let named = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let kinds = ["Error", "Exception", "Configured", "NotReady", "NotFound", "DoesNotExist", "Exit"];
    if !name.split('.').all(named)
        || !class.starts_with(|c: char| c.is_ascii_uppercase())
        || !kinds.iter().any(|kind| class.ends_with(kind))
    {
        return None;
    }
    let message = message.trim();
    Some(if message.split_whitespace().count() > 2 { message.to_owned() } else { format!("{class}: {message}") })
}

/// The innermost place in the traceback within the project's own code, as `wsgi.py:5`, because a line of a library helps no one.
fn frame(traceback: &[String]) -> Option<String> {
    let frames = traceback.iter().rev().filter_map(|line| {
        let (file, rest) = line.trim().strip_prefix("File \"")?.split_once("\", line ")?;
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((file.to_owned(), number))
    });
    let frames: Vec<(String, String)> = frames.collect();
    let own = |(file, _): &&(String, String)| !file.contains("/site-packages/") && !file.contains("/lib/python") && !file.starts_with('<');
    let (file, number) = frames.iter().find(own)?;
    Some(format!("{}:{number}", file.rsplit('/').next().unwrap_or(file)))
}

/// The part about the database, before the part about releases.
fn in_the_database(known: &RunFacts) -> String {
    known.database.as_deref().map(|database| format!("{}; ", clean_line(database))).unwrap_or_default()
}

/// The part about a live release that does not answer, and whether it did when the run began.
fn silent(asked: &LiveAsked) -> String {
    let seen = asked.text.as_deref().map(|text| format!(": {}", shortened(&clean_line(text), MOST_CAUSE))).unwrap_or_default();
    let before = match asked.before {
        Some(true) => " (it did when this run began)",
        Some(false) => " (nor did it when this run began)",
        None => "",
    };
    format!("does not answer{seen}{before}")
}

/// Whether the action makes a release live.
fn serves(action: &str) -> bool {
    matches!(action, "release" | "activate" | "reverse" | "restart" | "")
}

fn named(action: &str) -> String {
    if action.is_empty() { "the run".into() } else { clean_line(action) }
}

fn at(known: &RunFacts) -> String {
    match &known.cause {
        Some(Cause::Step { step, why }) => {
            let step = if *step == known.action { String::new() } else { format!(" at {}", clean_line(step)) };
            why.as_ref().map_or_else(|| step.clone(), |why| format!("{step}: {why}"))
        }
        Some(Cause::Stopped(Some(step))) => format!(", because the agent stopped during {}", clean_line(step)),
        Some(Cause::Stopped(None)) => ", because the agent stopped".into(),
        None => String::new(),
    }
}

fn warned(warnings: usize) -> String {
    if warnings == 0 { String::new() } else { format!(", with {}", count(warnings, "warning", "warnings")) }
}

fn done(known: &RunFacts, of: Option<&str>, live: Option<&str>) -> String {
    let release = || known.release.as_deref().map(clean_line).or_else(|| of.map(str::to_owned)).unwrap_or_else(|| "the release".into());
    match known.action.as_str() {
        "stage" => match (live, &known.asked) {
            (None, _) => format!("{} is staged", release()),
            (Some(live), Some(asked)) if asked.answers => format!("{} is staged, and {live} still serves", release()),
            (Some(live), Some(asked)) => format!("{} is staged; {live} is live, but {}", release(), silent(asked)),
            (Some(live), None) => format!("{} is staged, and {live} is still live", release()),
        },
        "check" => live.map_or_else(|| "every check passed".into(), |live| format!("{live} passed every check")),
        "prune" => "what was too old is gone".into(),
        "mend" => "what was left over is gone".into(),
        "lock" => "locked: no release or activate until it is unlocked".into(),
        "unlock" => "unlocked".into(),
        "pin" => format!("{} is kept for ever", release()),
        "unpin" => format!("{} may be pruned again when it is old", release()),
        "cancel" => format!("run {} is asked to stop", of.unwrap_or("that was named")),
        "exec" => format!("{} was started at a terminal", of.unwrap_or("a command")),
        "settle" => match of {
            Some(run) => format!("what run {run} may have left in the database is settled"),
            None => "what runs may have left in the database is settled".into(),
        },
        other => format!("{} is done", named(other)),
    }
}

fn next(known: &RunFacts, outcome: OutcomeWord) -> Option<String> {
    let (run, agentctl) = (known.run, &known.called);
    match outcome {
        OutcomeWord::Failed | OutcomeWord::RolledBack | OutcomeWord::Cancelled if known.database.is_some() => {
            Some(format!("{agentctl} status tells what is not settled; {agentctl} logs {run} shows all output"))
        }
        OutcomeWord::Failed | OutcomeWord::RolledBack if serves(&known.action) || known.action == "stage" => {
            Some(format!("{agentctl} logs {run} shows all output"))
        }
        OutcomeWord::Done if known.action == "stage" => {
            known.release.as_deref().map(|release| format!("{agentctl} activate {} makes it live", clean_line(release)))
        }
        OutcomeWord::Done if known.action == "mend" => Some(format!("{agentctl} fsck says what else differs")),
        OutcomeWord::Stuck => Some(format!("when it is understood: {agentctl} activate RELEASE")),
        OutcomeWord::Done if known.action == "cancel" => {
            known.of.as_deref().map(|of| format!("{agentctl} logs -f {} shows how it ends", clean_line(of)))
        }
        _ => None,
    }
}
