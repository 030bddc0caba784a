//! Every sentence and every table that the user sees, as pure functions from answers to text. The clock and the width of the terminal are parameters.
//! The text is styled; [`crate::out`] strips styles that the reader cannot show.
//!
//! 1. [`words`]: times, sizes, colours, and sanitized text from elsewhere;
//! 2. [`ending`]: the sentence that a run ends with;
//! 3. [`run`]: a run, shown event by event;
//! 4. [`table`]: releases and runs in columns;
//! 5. [`page`], [`fsck`]: the other reading verbs;
//! 6. [`sign`], [`init`]: the verbs that need no agent;
//! 7. [`hint`]: the remedy for each fault.

pub(crate) mod words;

mod ending;
pub(crate) mod run;

mod fsck;
mod page;
mod table;

pub(crate) mod evidence;
pub(crate) mod init;
pub(crate) mod sign;

mod hint;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use agent_wire::form::Form;
use agent_wire::view::Plan;

pub(crate) use fsck::fsck;
pub(crate) use page::{doctor, plan, prunable, release, status, whoami};
pub(crate) use table::{releases, runs};

use crate::fault::Fault;
use words::{BAD, BOLD, DIM, WARN, clean, clean_line, painted, short};

/// The text after the agent has accepted a request.
pub(crate) fn taken(run: u64, form: &Form) -> String {
    let of = form.revision.as_deref().or(form.commit.as_deref()).or(form.release.as_deref()).unwrap_or_default();
    painted(BOLD, format!("run {run}: {}", words::action(&form.action, Some(of), Some(&form.app))))
}

/// The text about a run that is not followed; `called` is the command line that reaches its agent again.
pub(crate) fn goes_on(run: u64, called: &str) -> String {
    format!("run {run} goes on; follow it with: {called} logs -f {run}")
}

/// The text when the connection is lost in the middle of a run, shown once.
pub(crate) fn lost(comeback: Duration) -> String {
    painted(
        WARN,
        format!("! the connection to the agent is lost; trying to have it back for {} s (the run goes on without us)", comeback.as_secs()),
    )
}

/// The text when the agent goes away before it has answered a request, shown once.
pub(crate) fn asking_again(comeback: Duration) -> String {
    painted(
        WARN,
        format!(
            "! the agent broke off before it answered; asking it again for {} s (it never does the same request twice)",
            comeback.as_secs()
        ),
    )
}

/// The text when a short name was resolved for a signed request.
pub(crate) fn found(revision: &str, plan: &Plan) -> String {
    let reached = plan.reference.as_deref().map(|name| format!(", reached by {}", clean_line(name))).unwrap_or_default();
    format!("{} is commit {}{reached}", clean_line(revision), short(&plan.commit))
}

/// The text when requests wait for a touch, shown once.
pub(crate) fn touched(key: &Path) -> String {
    format!("each request waits for a touch of the key {}", key.display())
}

/// The text after manual pages were written.
pub(crate) fn pages_written(dir: &Path) -> String {
    format!("wrote the manual pages to {}", dir.display())
}

/// The text of a fault: the sentence, its causes, and the hint. `None` where silence is the better answer.
pub(crate) fn fault(fault: &Fault) -> Option<String> {
    match fault {
        Fault::ReaderGone => return None,
        Fault::Detached { run, called } => return Some(goes_on(*run, called)),
        _ => {}
    }
    let what = match fault.exit_code() {
        4 => "refused",
        _ => "error",
    };
    let mut sentence = clean(&fault.to_string());
    let mut source = fault.source();
    while let Some(cause) = source {
        let cause_text = clean(&cause.to_string());
        // Some errors of libraries repeat their causes.
        if !sentence.contains(&cause_text) {
            sentence = format!("{sentence}: {cause_text}");
        }
        source = cause.source();
    }
    let mut text = format!("{}: {sentence}", painted(BAD, what));
    if let Some(hint) = hint::hint(fault) {
        text = format!("{text}\n{}: {hint}", painted(DIM, "hint"));
    }
    Some(text)
}
