//! The sentence that a run ends with. It claims only what the agent said: no release is called live unless the last event names it so.

use agent_wire::event::OutcomeWord;

use super::words::{BOLD, DIM, clean_line, count, painted, style_of, took};

/// What is known of a run when it ends.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The run.
    pub(super) run: u64,
    /// How this program is called to reach the same agent again.
    pub(super) called: String,
    /// The app.
    pub(super) app: Option<String>,
    /// The action's word.
    pub(super) action: String,
    /// What it was about.
    pub(super) of: Option<String>,
    /// The release that it made, or made live.
    pub(super) release: Option<String>,
    /// Why it went wrong.
    pub(super) cause: Option<Cause>,
    /// How many warnings there were.
    pub(super) warnings: usize,
}

/// Why a run went wrong.
#[derive(Debug)]
pub(super) enum Cause {
    /// A step failed.
    Step(String),
    /// The agent stopped, perhaps in the middle of a step.
    Stopped(Option<String>),
}

/// The sentence, and below it what to do next, where that helps.
pub(super) fn sentence(known: &Known, outcome: OutcomeWord, live: Option<&str>, ms: u64) -> Vec<String> {
    let app = known.app.as_deref().map_or_else(|| "the app".to_owned(), clean_line);
    let run = known.run;
    let live = live.map(clean_line);
    let release = known.release.as_deref().map(clean_line);
    let of = known.of.as_deref().map(clean_line);
    let what = match outcome {
        OutcomeWord::Live => {
            let release = live.or(release).unwrap_or_else(|| "the release".into());
            format!("{app}: {release} is live{}", warned(known.warnings))
        }
        OutcomeWord::Done => format!("{app}: {}{}", done(known, of.as_deref(), live.as_deref()), warned(known.warnings)),
        OutcomeWord::Failed if serves(&known.action) => {
            let stands = match live {
                Some(live) => format!("the former release {live} still serves and was never left"),
                None => "no release is live".into(),
            };
            format!("{app}: failed{}: {stands}", at(known))
        }
        OutcomeWord::Failed if known.action == "check" => {
            let whom =
                live.map_or_else(|| "there is no live release to be checked".into(), |live| format!("{live} is live, and did not pass"));
            format!("{app}: the check failed: {whom}")
        }
        OutcomeWord::Failed => format!("{app}: {} failed{}", named(&known.action), at(known)),
        OutcomeWord::RolledBack => {
            let release = release.unwrap_or_else(|| "the new release".into());
            let stands = live.map_or_else(|| "no release is live now".into(), |live| format!("{live} serves again"));
            format!("{app}: rolled back{}: {release} was live for a moment; {stands}", at(known))
        }
        OutcomeWord::Stuck => {
            let stands = live.map(|live| format!("; the link names {live}")).unwrap_or_default();
            format!("{app}: stuck{}: a person must look: agentctl doctor, agentctl logs {run}{stands}", at(known))
        }
        OutcomeWord::Cancelled => {
            let stands = match live {
                Some(live) if serves(&known.action) => format!("; {live} still serves"),
                None if serves(&known.action) => "; no release is live".into(),
                _ => String::new(),
            };
            format!("{app}: cancelled and taken back{stands}")
        }
        OutcomeWord::Superseded => format!("{app}: superseded: a newer request took its place, and nothing was done"),
    };
    let mut lines = vec![format!("{} {}", painted(style_of(outcome), what), painted(DIM, format!("(run {run}, {})", took(ms))))];
    if let Some(next) = next(known, outcome) {
        lines.push(format!("{} {next}", painted(BOLD, "next:")));
    }
    lines
}

/// Whether the action is one that makes a release live.
fn serves(action: &str) -> bool {
    matches!(action, "release" | "activate" | "")
}

fn named(action: &str) -> String {
    if action.is_empty() { "the run".into() } else { clean_line(action) }
}

fn at(known: &Known) -> String {
    match &known.cause {
        Some(Cause::Step(step)) if *step == known.action => String::new(),
        Some(Cause::Step(step)) => format!(" at {}", clean_line(step)),
        Some(Cause::Stopped(Some(step))) => format!(", for the agent stopped during {}", clean_line(step)),
        Some(Cause::Stopped(None)) => ", for the agent stopped".into(),
        None => String::new(),
    }
}

fn warned(warnings: usize) -> String {
    if warnings == 0 { String::new() } else { format!(", with {}", count(warnings, "warning", "warnings")) }
}

fn done(known: &Known, of: Option<&str>, live: Option<&str>) -> String {
    let release = || known.release.as_deref().map(clean_line).or_else(|| of.map(str::to_owned)).unwrap_or_else(|| "the release".into());
    match known.action.as_str() {
        "stage" => format!("{} is staged{}", release(), live.map(|live| format!(", and {live} still serves")).unwrap_or_default()),
        "check" => live.map_or_else(|| "every check passed".into(), |live| format!("{live} passed every check")),
        "prune" => "what was too old is gone".into(),
        "mend" => "what was left over is gone".into(),
        "lock" => "locked: no release or activate until it is unlocked".into(),
        "unlock" => "unlocked".into(),
        "pin" => format!("{} is kept for ever", release()),
        "unpin" => format!("{} may be pruned again when it is old", release()),
        "cancel" => format!("run {} is asked to stop, and is taken back", of.unwrap_or("that was named")),
        other => format!("{} is done", named(other)),
    }
}

fn next(known: &Known, outcome: OutcomeWord) -> Option<String> {
    let (run, agentctl) = (known.run, &known.called);
    match outcome {
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
