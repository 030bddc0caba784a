//! uWSGI's options and their measured effects.

use std::path::Path;

use agent_wire::view::{Finding, Level};

use super::finding;
use crate::restart::server::uwsgi_options::{LAZY, Options, PYTHONPATH, is_through};
use crate::restart::server::{ReloadKind, Server};

/// The options that are wrong now, or will be one day.
pub(super) fn lint(server: &Server, way: ReloadKind, link: &Path) -> Vec<Finding> {
    let options = Options::of(server);
    let mut found = found_in(&options, server, way, link);
    if let Some(source) = &options.unread {
        // An unreadable source may say otherwise, so no release fails by this finding.
        for finding in found.iter_mut().filter(|finding| finding.level == Level::Error) {
            finding.level = Level::Warning;
            finding.text = format!("{} (as far as its options can be read; {source} cannot)", finding.text);
        }
    }
    found
}

fn found_in(options: &Options, server: &Server, way: ReloadKind, link: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let releases = link.with_file_name("releases");
    let named = |path: &str, base: &Path| Path::new(path).starts_with(base);
    let chdir = options.all(&["chdir", "chdir2"]);
    let pythonpath = options.all(&PYTHONPATH);
    let lazy = options.on(&LAZY);
    let follows = |paths: &[&str]| paths.iter().any(|path| is_through(path, link));
    // Such a file may put its own directory before others in the path.
    let by_file = follows(&options.all(&["wsgi-file", "file"]))
        || options.all(&["mount"]).iter().any(|mount| mount.split_once('=').is_some_and(|(_, file)| is_through(file, link)));
    let if_old = if by_file { Level::Warning } else { Level::Error };

    if way == ReloadKind::Fork && !(lazy && follows(&pythonpath)) {
        let (level, text) = if lazy {
            (
                if_old,
                "a chain reload (c, w) of uWSGI forks from a master that stays in the former release: with lazy-apps and without pythonpath it runs the \
                 old code with the new environment",
            )
        } else {
            (Level::Error, "a chain reload (c, w) of uWSGI without lazy-apps forks the old app again: nothing changes, and nothing says so")
        };
        let hint = "use the graceful reload (r), or give uWSGI lazy-apps and pythonpath = <the link app>";
        found.push(finding(level, text, Some(hint)));
    } else if way == ReloadKind::Fork && follows(&chdir) {
        let text = "a chain reload (c, w) of uWSGI keeps the working directory of the release in which its master was started: the workers run the new \
                    code, and a file that it opens by a relative path is the former one's";
        found.push(finding(Level::Warning, text, Some("remove chdir from uWSGI's options, or use the graceful reload (r)")));
    }
    if way == ReloadKind::Fork && options.on(&["need-app"]) {
        let text = "with need-app, the first worker that cannot load the release takes the master down in a chain reload";
        found.push(finding(Level::Warning, text, Some("use the graceful reload (r), or remove need-app")));
    }
    if way == ReloadKind::Reload {
        let started_in_release = server.dir.as_ref().is_some_and(|dir| dir.starts_with(link) || dir.starts_with(&releases));
        if chdir.is_empty() && pythonpath.is_empty() && started_in_release {
            let text = "uWSGI was started inside the release and has no chdir: on a reload it goes back to the directory that it was started in, and runs \
                        the old code with the new environment";
            let hint = "set chdir = <the link app> in uWSGI's options; WorkingDirectory in the unit does not do it";
            found.push(finding(if_old, text, Some(hint)));
        }
        let http = options.all(&["http", "https", "http-router"]);
        if !http.is_empty() {
            let text = "uWSGI's own http router (http = …) drops connections on a reload: 15 of 100 requests failed in a measurement";
            found.push(finding(Level::Warning, text, Some("use http-socket, or socket behind nginx")));
        }
    }
    let fixed: Vec<&str> =
        options.all(&["chdir", "chdir2", "pythonpath", "python-path", "pp", "virtualenv", "venv", "home", "pyhome", "wsgi-file"]);
    if matches!(way, ReloadKind::Reload | ReloadKind::Fork | ReloadKind::Restart)
        && let Some(path) = fixed.iter().find(|path| named(path, &releases))
    {
        let text = format!("uWSGI's options name a release itself ({path}): no reload ever leaves it");
        found.push(finding(
            Level::Error,
            text,
            Some("name the link app instead, or use the strategy handover, where each release has its own process"),
        ));
    }
    if way == ReloadKind::Anew
        && let Some(path) = fixed.iter().find(|path| named(path, link))
    {
        let text =
            format!("uWSGI's options name the link ({path}): an instance of a former release that starts again would load the live one");
        found.push(finding(Level::Warning, text, Some("name the release's own directory: %i in a template unit, {dir} in a command")));
    }
    if way == ReloadKind::Anew && !options.on(&["need-app"]) {
        let text = "without need-app, a release that cannot be loaded is only noticed when its checks have failed for their whole time";
        found.push(finding(Level::Warning, text, Some("give uWSGI need-app")));
    }
    let queue = options.get("listen").and_then(|value| value.parse::<u32>().ok());
    if queue.is_none_or(|queue| queue < 512) {
        let queue = queue.map_or_else(|| "left at 100".to_owned(), |queue| queue.to_string());
        let text = format!("uWSGI's listen queue is {queue}: in a reload under load it overflows, and visitors get 502");
        found.push(finding(Level::Warning, text, Some("set listen = 1024 (net.core.somaxconn must allow it)")));
    }
    let dies = options.on(&["die-on-term"]);
    match &server.unit {
        Some(unit) if unit.kill_signal == 15 && !dies && unit.exec_stop.is_empty() => {
            let text = format!(
                "{} stops uWSGI by SIGTERM, which it takes for a reload: stopping lasts until TimeoutStopSec and ends in a kill",
                unit.name
            );
            // Only a restart stops it before another one starts.
            let level = if way == ReloadKind::Restart { Level::Error } else { Level::Warning };
            found.push(finding(level, text, Some("give uWSGI die-on-term, or the unit KillSignal=SIGQUIT")));
        }
        None if way == ReloadKind::Anew && !dies => {
            let text = "the instances are ended by SIGTERM, which uWSGI takes for a reload";
            found.push(finding(Level::Warning, text, Some("give uWSGI die-on-term")));
        }
        _ => {}
    }
    if let Some(unit) = &server.unit
        && lazy
        && unit.kind.starts_with("notify")
    {
        let text = format!("{} is Type=notify and its uWSGI has lazy-apps: it says READY before any app is loaded", unit.name);
        found.push(finding(Level::Warning, text, Some("remove lazy-apps; without it READY is true")));
    }
    found
}
