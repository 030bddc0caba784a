//! Misconfigured units of Celery's workers.

use agent_wire::view::{Finding, Level};

use super::finding;
use crate::restart::celery::Does;
use crate::systemd::Unit;

pub(super) fn lint(unit: &Unit) -> Vec<Finding> {
    let mut findings = Vec::new();
    // The scheduler has no child processes.
    let has_children = Does::of(unit).is_some_and(|does| does.command == "worker");
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
