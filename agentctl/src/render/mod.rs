//! Every sentence and every table that the user sees, as pure functions from what was read to text. The clock and the width of the terminal come
//! in as values. The text is styled; [`crate::out`] strips what the reader cannot show.
//!
//! 1. [`words`]: times, sizes, colours, and text from elsewhere made harmless;
//! 2. [`ending`]: the sentence that a run ends with;
//! 3. [`run`]: a run, told event by event;
//! 4. [`table`]: releases and runs in columns;
//! 5. [`page`]: what the other reading verbs show.

pub(crate) mod words;

mod ending;
pub(crate) mod run;

mod page;
mod table;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::path::Path;
use std::time::Duration;

use agent_wire::form::Form;

pub(crate) use page::{doctor, plan, prunable, release, status};
pub(crate) use table::{releases, runs};

use crate::fault::Fault;
use words::{BAD, BOLD, DIM, WARN, clean, listed, painted};

/// Said when the agent has taken a request.
pub(crate) fn taken(run: u64, form: &Form) -> String {
    let of = form.revision.as_deref().or(form.release.as_deref()).unwrap_or_default();
    painted(BOLD, format!("run {run}: {}", words::action(&form.action, Some(of), Some(&form.app))))
}

/// Said about a run that is not followed.
pub(crate) fn goes_on(run: u64) -> String {
    format!("run {run} goes on; follow it with: agentctl logs -f {run}")
}

/// Said once when the connection is lost in the middle of a run.
pub(crate) fn lost(comeback: Duration) -> String {
    painted(
        WARN,
        format!("! the connection to the agent is lost; trying to have it back for {} s (the run goes on without us)", comeback.as_secs()),
    )
}

/// Said once when the agent goes away before it has answered a request.
pub(crate) fn asking_again(comeback: Duration) -> String {
    painted(
        WARN,
        format!(
            "! the agent broke off before it answered; asking it again for {} s (it never does the same request twice)",
            comeback.as_secs()
        ),
    )
}

/// Said after an app file was written.
pub(crate) fn written(path: &Path, app: &str) -> String {
    let path = path.display();
    format!(
        "wrote {path}
next: read it and set what differs, then
  agentctl --app {app} doctor          checks everything it names
  agentctl --app {app} plan main       shows what a release would do
  agentctl --app {app} release main    makes the first one"
    )
}

/// Said after manual pages were written.
pub(crate) fn pages_written(dir: &Path) -> String {
    format!("wrote the manual pages to {}", dir.display())
}

/// Why something could not be done: the sentence, its causes, and what to do. None where silence is the better answer.
pub(crate) fn fault(fault: &Fault) -> Option<String> {
    match fault {
        Fault::ReaderGone => return None,
        Fault::Detached { run } => return Some(goes_on(*run)),
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
        // Some errors of libraries repeat what lies below them.
        if !sentence.contains(&cause_text) {
            sentence = format!("{sentence}: {cause_text}");
        }
        source = cause.source();
    }
    let mut text = format!("{}: {sentence}", painted(BAD, what));
    if let Some(hint) = hint(fault) {
        text = format!("{text}\n{}: {hint}", painted(DIM, "hint"));
    }
    Some(text)
}

fn hint(fault: &Fault) -> Option<String> {
    match fault {
        Fault::NoApp => Some("write the first one with: agentctl init NAME --repository URL".into()),
        Fault::ManyApps(names) => Some(format!("say which with --app or AGENTCTL_APP: {}", listed(names))),
        Fault::NoRun => Some("the first one begins with: agentctl release REF".into()),
        Fault::OutOfReach { socket, source } => Some(out_of_reach(socket, source.kind())),
        Fault::Broken { .. } | Fault::Silent { .. } => {
            Some("systemctl status release-agent shows how it is, journalctl -u release-agent why".into())
        }
        Fault::Strange { source, .. } => Some(match source {
            Some(_) => "agentctl --version and the agent's version should be the same; is something else listening there?".into(),
            None => "journalctl -u release-agent may tell why".into(),
        }),
        Fault::Lost { run, source } => {
            let cure = hint(source).map(|cure| format!("; {cure}")).unwrap_or_default();
            Some(format!("follow it again with: agentctl logs -f {run}{cure}"))
        }
        Fault::Refused(problem) => problem.hint.as_deref().map(clean),
        Fault::Exists(path) => Some(format!("edit it, or remove it first: {}", path.display())),
        Fault::Disk { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Some("as root it would be /etc/release-agent; --dir names another directory".into())
        }
        _ => None,
    }
}

fn out_of_reach(socket: &Path, kind: io::ErrorKind) -> String {
    let socket = socket.display();
    match kind {
        io::ErrorKind::NotFound => "no agent has made this socket: systemctl status release-agent tells whether it runs (start it with systemctl start \
             release-agent); --socket or AGENTCTL_SOCKET names another"
            .into(),
        io::ErrorKind::ConnectionRefused => {
            "the socket is there, but the agent behind it is gone: systemctl restart release-agent, and journalctl -u release-agent tells why it went".into()
        }
        io::ErrorKind::PermissionDenied => format!(
            "only the socket's owner and group may use it: ls -l {socket} names the group; join it with usermod -aG GROUP USER, and log in again"
        ),
        _ => "systemctl status release-agent tells whether it runs; --socket or AGENTCTL_SOCKET names another socket".into(),
    }
}
