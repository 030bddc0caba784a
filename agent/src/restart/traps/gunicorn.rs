//! gunicorn's command line, and what was measured of it.

use std::path::Path;

use agent_wire::view::{Finding, Level};

use super::{Server, Way, finding};

/// What is wrong, or will be one day.
pub(super) fn judge(server: &Server, way: Way, link: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let has =
        |option: &str| server.argv.iter().any(|arg| arg == option || arg.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')));
    let as_module = server.argv.windows(2).any(|pair| pair[0] == "-m" && pair[1].starts_with("gunicorn"));
    let script = server.argv.iter().take(2).find(|arg| arg.ends_with("/gunicorn"));
    let reloads = matches!(way, Way::Reload | Way::Second);
    if reloads
        && let Some(script) = script
        && Path::new(script).starts_with(link)
    {
        let text = format!(
            "gunicorn runs as the script {script}: its first line names the environment of the release in which it was started, so that after a reload the \
             new code runs with the old environment"
        );
        found.push(finding(Level::Error, text, Some("start it as <the link app>/venv/bin/python -m gunicorn with HUP, or use handover")));
    }
    if way == Way::Second && as_module {
        let text = "gunicorn was started by python -m gunicorn: on USR2 it executes its __main__.py, which cannot be imported like this, and no new master ever comes";
        found.push(finding(Level::Error, text, Some("use how = \"hup\", or handover")));
    }
    if way == Way::Reload && (has("--preload") || has("--preload-app")) {
        let text = "gunicorn with --preload forks the old app again on HUP: nothing changes, and nothing says so";
        found.push(finding(Level::Error, text, Some("remove --preload, or use restart or handover")));
    }
    if way == Way::Second
        && let Some(unit) = &server.unit
        && unit.kind != "forking"
    {
        let text = format!(
            "{} ends with its first process (Type={}): when USR2 has brought a second master and the first goes, systemd stops both",
            unit.name, unit.kind
        );
        found.push(finding(Level::Error, text, Some("use how = \"hup\", handover, or Type=forking with PIDFile=")));
    }
    if way == Way::Anew && server.argv.iter().any(|arg| Path::new(arg).starts_with(link)) {
        let text =
            "the command line of an instance names the link: an instance of a former release that starts again would load the live one";
        found.push(finding(Level::Warning, text, Some("name the release's own directory: %i in a template unit, {dir} in a command")));
    }
    found
}
