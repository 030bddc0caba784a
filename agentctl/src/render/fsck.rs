//! The output of `fsck`.

use agent_wire::view::{Fsck, FsckFinding, Level, Verified};

use super::words::{BAD, BOLD, DIM, GOOD, WARN, bytes, clean_line, count, indented, painted};

/// The mismatches, worst first, and the number of inspected things.
pub(crate) fn fsck(fsck: &Fsck) -> String {
    let mut lines = Vec::new();
    if let Some(run) = fsck.run {
        lines.push(painted(WARN, format!("! run {run} is under way: what belongs to it is left out; ask again when it has ended")));
    }
    let mut findings: Vec<&FsckFinding> = fsck.findings.iter().collect();
    findings.sort_by_key(|finding| finding.level);
    for (at, finding) in findings.iter().enumerate() {
        lines.extend(told(finding));
        // A hint for several consecutive findings appears once, after the last.
        let again = findings.get(at + 1).is_some_and(|next| next.hint == finding.hint && next.level == finding.level);
        if let Some(hint) = finding.hint.as_ref().filter(|_| !again) {
            lines.push(format!("  {} {}", painted(BOLD, "hint:"), indented(hint, 8)));
        }
    }
    lines.push(conclusion(&findings));
    lines.push(painted(DIM, looked_at(&fsck.verified)));
    lines.join("\n")
}

fn told(finding: &FsckFinding) -> Vec<String> {
    let glyph = match finding.level {
        Level::Error => painted(BAD, "✗"),
        Level::Warning => painted(WARN, "!"),
        Level::Good => painted(DIM, "·"),
    };
    let head = format!("{glyph} {}: {}", painted(BOLD, clean_line(&finding.what)), indented(&finding.text, 2));
    let place = finding.path.as_ref().map(|path| format!("  {}", painted(DIM, clean_line(path))));
    [head].into_iter().chain(place).collect()
}

fn conclusion(findings: &[&FsckFinding]) -> String {
    let number = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings) = (number(Level::Error), number(Level::Warning));
    let mended = match findings.iter().filter(|finding| finding.mend).count() {
        0 => String::new(),
        some if some == errors + warnings => "; agentctl fsck --mend removes all of it".into(),
        some => format!("; agentctl fsck --mend removes {some} of them"),
    };
    match (errors, warnings) {
        (0, 0) => painted(GOOD, "all is as it was written down"),
        (0, _) => painted(WARN, format!("no error, {}{mended}", count(warnings, "warning", "warnings"))),
        (_, _) => painted(BAD, format!("{}, {}{mended}", count(errors, "error", "errors"), count(warnings, "warning", "warnings"))),
    }
}

fn looked_at(verified: &Verified) -> String {
    let Verified { releases, environments, files, bytes: size, backups, runs, events } = verified;
    let some = |number: &u64, one: &str, several: &str| count(usize::try_from(*number).unwrap_or(usize::MAX), one, several);
    format!(
        "looked at: {} and {} with {} ({}), {}, {} with {}",
        some(releases, "release", "releases"),
        some(environments, "environment", "environments"),
        some(files, "file", "files"),
        bytes(*size),
        some(backups, "backup", "backups"),
        some(runs, "run", "runs"),
        some(events, "event", "events"),
    )
}
