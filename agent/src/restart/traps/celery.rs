//! What is known of Celery.

use std::path::Path;

use agent_wire::view::{Finding, Level};

use super::finding;
use crate::restart::bus::Unit;

pub(in crate::restart) const ONE_CLOCK: &str = "name a plain unit for it, which is restarted: it stops before it starts";

/// The words after `celery`, however it is started.
fn arguments(unit: &Unit) -> Option<&[String]> {
    let argv = unit.exec_start.first()?;
    let is_program = |at: usize| at == 0 || argv[at].contains('/') || argv[at - 1] == "-m" || argv[at - 1].ends_with("/env");
    let celery = (0..argv.len().min(4)).find(|at| Path::new(&argv[*at]).ends_with("celery") && is_program(*at))?;
    argv.get(celery + 1..)
}

/// Whether it is Celery's clock, or has one: what it sends when it is time is sent once for each of them.
pub(in crate::restart) fn is_clock(unit: &Unit) -> bool {
    arguments(unit).is_some_and(|arguments| arguments.iter().any(|arg| matches!(arg.as_str(), "beat" | "-B" | "--beat")))
}

pub(in crate::restart) fn two_clocks(unit: &str) -> String {
    format!(
        "{unit} is Celery's beat in a template: two of them would run while one release takes over from another, and send everything twice"
    )
}

pub(super) fn judge(unit: &Unit) -> Vec<Finding> {
    let mut findings = Vec::new();
    // The clock has none.
    let has_children = arguments(unit).is_some_and(|arguments| arguments.iter().any(|arg| arg == "worker"));
    if has_children && unit.kill_mode == "control-group" {
        let text = format!(
            "{} has KillMode=control-group, which is what a unit has that sets none: systemd tells Celery's children to stop as well, and they do, in \
             the middle of their tasks",
            unit.name
        );
        findings.push(finding(Level::Warning, text, Some("set KillMode=mixed in its unit, then systemctl daemon-reload")));
    }
    findings
}
