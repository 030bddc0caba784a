//! `doctor`: checks everything that a release of an app needs, and reports each problem with its remedy. It changes nothing.

mod database;
mod live;

use std::time::{Duration, Instant};

use agent_wire::event::Stream;
use agent_wire::view::{Finding, Level};
use nix::unistd::{AccessFlags, User, access, geteuid};

use super::AppEngine;
use super::admission::previous;
use crate::git::{Git, Repository};
use crate::https;
use crate::process::sandbox::Held;
use crate::process::{Cancel, Program, Watch, sandbox};
use crate::python;
use crate::restart::drift::MadeWith;
use crate::restart::{ReleaseRef, Renewal, Restart, RestartContext, Steadiness, Variables};
use crate::settings::ExecutorKind;
use crate::work::{chain, users_of_runners};

/// How long one check may take.
const LIMIT: Duration = Duration::from_secs(20);

struct DoctorReport {
    app: String,
    findings: Vec<Finding>,
}

impl DoctorReport {
    fn add(&mut self, what: &str, level: Level, text: impl Into<String>, hint: Option<String>) {
        self.findings.push(Finding { app: Some(self.app.clone()), what: what.to_owned(), level, text: text.into(), hint });
    }
}

impl AppEngine {
    /// The findings about this app.
    pub(crate) fn examine(&self) -> Vec<Finding> {
        let mut report = DoctorReport { app: self.name.to_string(), findings: Vec::new() };
        let cancel = Cancel::default();
        let lines = |_: Stream, line: &str| tracing::debug!("{line}");
        let marker = format!("{}:doctor", self.journal.id());
        let watch = || Watch { marker: &marker, deadline: Instant::now() + LIMIT, cancel: &cancel, lines: &lines };
        self.examine_root(&mut report);
        self.examine_executor(&mut report);
        self.examine_git(&mut report, &watch());
        self.examine_webhooks(&mut report);
        self.examine_python(&mut report, &watch());
        self.examine_bounds(&mut report);
        self.examine_serving(&mut report);
        self.examine_readiness(&mut report);
        self.examine_live(&mut report);
        self.examine_database(&mut report, &watch());
        self.examine_variables(&mut report, &watch());
        self.examine_reports(&mut report);
        report.findings
    }

    fn examine_root(&self, report: &mut DoctorReport) {
        let root = self.root.path();
        match access(root, AccessFlags::W_OK) {
            Ok(()) => report.add("root", Level::Good, format!("{} is writable", root.display()), None),
            Err(_) => report.add(
                "root",
                Level::Error,
                format!("{} is not writable for the agent", root.display()),
                Some(format!("chown -R the agent's user {}", root.display())),
            ),
        }
        match self.root.live() {
            Ok(Some(live)) => match self.root.manifest(&live) {
                Ok(_) => report.add("live", Level::Good, format!("{live} is live and complete"), None),
                Err(err) => report.add(
                    "live",
                    Level::Error,
                    chain(&err),
                    Some("activate a release that is complete (agentctl list), or make another one: agentctl release REF".to_owned()),
                ),
            },
            Ok(None) => {
                report.add("live", Level::Good, "no release is live yet", Some("make the first one: agentctl release REF".to_owned()))
            }
            Err(err) => report.add("live", Level::Error, chain(&err), err.hint()),
        }
        if let Ok(disk) = self.root.disk() {
            let percent = disk.free.saturating_mul(100) / disk.total.max(1);
            let text = format!("{percent} % of the file system is free, and {} inodes", disk.inodes);
            let hint = || Some("agentctl prune, or a lower keep_releases".to_owned());
            match percent {
                0..2 => report.add("disk", Level::Error, text, hint()),
                2..10 => report.add("disk", Level::Warning, text, hint()),
                _ => report.add("disk", Level::Good, text, None),
            }
        }
        let app = self.settings();
        for (paths, kind) in [(&app.shared.dirs, "directory"), (&app.shared.files, "file")] {
            for path in paths.iter().map(|path| root.join("shared").join(path)).filter(|path| !path.exists()) {
                report.add(
                    "shared",
                    Level::Error,
                    format!("the shared {kind} {} does not exist", path.display()),
                    Some("make it before the next release".to_owned()),
                );
            }
        }
        let unreadable = if app.executor == ExecutorKind::Direct { app.read_secrets(&app.secrets).err() } else { None };
        for complaint in unreadable.unwrap_or_default() {
            let hint = "put the file right, or change [secrets] files in the app's file".to_owned();
            report.add("secrets", Level::Error, complaint.to_string(), Some(hint));
        }
        // A clock far outside of this range was never set, and the names of releases and the time windows of requests depend on it.
        let year: i32 = chrono::Utc::now().format("%Y").to_string().parse().unwrap_or(0);
        if !(2025..2060).contains(&year) {
            report.add(
                "clock",
                Level::Error,
                format!("the clock says that it is the year {year}"),
                Some("set it: timedatectl set-ntp true".to_owned()),
            );
        }
    }

    /// Which user's rights the programs of a release have.
    fn examine_executor(&self, report: &mut DoctorReport) {
        let app = self.settings();
        if app.executor == ExecutorKind::Direct {
            let text = "the agent runs hooks and manage.py as its own user: the app's code could change every release, the journal, and who may ask";
            let hint = "where that matters: the package of Debian, and executor = \"units\" in agent.toml".to_owned();
            return report.add("executor", Level::Good, text, Some(hint));
        }
        match users_of_runners(&self.name) {
            Err(failure) => report.add("executor", Level::Error, failure.reason, failure.hint),
            Ok((build, serving)) => {
                let own = User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
                if build == serving || own.as_ref().is_some_and(|own| *own == build || *own == serving) {
                    let text =
                        format!("{build} builds and {serving} serves, and the agent is {}: they must be three", own.unwrap_or_default());
                    let hint = format!(
                        "as root: agentctl setup app {}; then look at the drop-ins of release-agent-build@{0} and release-agent-app@{0}",
                        self.name
                    );
                    report.add("executor", Level::Error, text, Some(hint));
                } else {
                    report.add("executor", Level::Good, format!("{build} builds, {serving} checks, migrates and serves"), None);
                }
            }
        }
        for path in app.secrets.iter().filter(|path| access(path.as_path(), AccessFlags::R_OK).is_ok()) {
            let text = format!("the agent itself can read {}, and need not", path.display());
            let hint = format!("chown root: {0} && chmod 0600 {0}: the service manager hands it to whom it is for", path.display());
            report.add("secrets", Level::Warning, text, Some(hint));
        }
    }

    fn examine_git(&self, report: &mut DoctorReport, watch: &Watch<'_>) {
        let app = self.settings();
        let cache = self.root.cache();
        let proxy = match &app.git.repository {
            Repository::Https(url) => https::proxy_of(url),
            Repository::Ssh(_) | Repository::Local(_) => None,
        };
        let through = proxy.map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
        match Git::new(&app.git, &cache).remote_refs(watch) {
            Ok(refs) => {
                let allowed = refs.keys().filter(|reference| app.refs.iter().any(|pattern| pattern.fits_ref(reference))).count();
                if allowed == 0 {
                    let text = format!("the repository answers, but none of its {} branches and tags may be released", refs.len());
                    report.add("git", Level::Error, text, Some("name those that may be released in `branches` and `tags`".to_owned()));
                } else {
                    report.add(
                        "git",
                        Level::Good,
                        format!("the repository answers{through}, and {allowed} of its {} branches and tags may be released", refs.len()),
                        None,
                    );
                }
            }
            Err(err) => {
                let said = err.tail().last().map(|line| format!(" ({line})")).unwrap_or_default();
                report.add("git", Level::Error, format!("{}{said}", chain(&err)), err.hint());
            }
        }
    }

    fn examine_webhooks(&self, report: &mut DoctorReport) {
        let app = self.settings();
        let Some(follows) = &app.follows else { return };
        let mut sources: Vec<&str> = app.webhooks.iter().map(|webhook| webhook.from.word()).collect();
        sources.dedup();
        if sources.is_empty() {
            let hint = "add a [[webhook]], or take `auto` away".to_owned();
            report.add("webhook", Level::Warning, format!("the app follows {follows}, and nobody may say that it has moved"), Some(hint));
        } else {
            let paths = if app.auto_paths.is_empty() { String::new() } else { format!(", for changes in {}", app.auto_paths.join(", ")) };
            report.add("webhook", Level::Good, format!("the app follows {follows}, and hears {}{paths}", sources.join(", ")), None);
        }
    }

    fn examine_python(&self, report: &mut DoctorReport, watch: &Watch<'_>) {
        let app = self.settings();
        let Some(python) = &app.python else { return };
        let asked = Program::new(&python.interpreter)
            .args(["-c", "import platform, venv, ensurepip; print(platform.python_version())"])
            .capture(watch);
        match asked {
            Ok(said) => report.add("python", Level::Good, format!("{} is Python {}", python.interpreter, said.text()), None),
            Err(err) => {
                let said = err.tail().last().map(|line| format!(" ({line})")).unwrap_or_default();
                report.add(
                    "python",
                    Level::Error,
                    format!("{}{said}", chain(&err)),
                    Some("install it with its venv module: apt install python3-venv".to_owned()),
                );
            }
        }
        self.examine_interpreters(report);
        // With units the caches belong to the builder, and the agent cannot read them.
        let refused = app.executor == ExecutorKind::Direct && python::installer_was_refused(&self.root.caches());
        let own = python::own_installer();
        match python.installer {
            python::Installer::Auto if refused => report.add(
                "installer",
                Level::Warning,
                format!("pip installs: the package index had no {own} when it was asked within the last day"),
                Some("see that the index has it; agentctl release REF --rebuild asks again".to_owned()),
            ),
            python::Installer::Auto => {
                let text = match python::shared_installer() {
                    Some(program) => format!("the agent's own {own} installs: {}", program.display()),
                    None => format!("{own} installs; the first release that builds an environment fetches it"),
                };
                report.add("installer", Level::Good, text, None);
            }
            python::Installer::Uv => {
                report.add("installer", Level::Good, format!("the uv of the host installs, and {own} where there is none"), None)
            }
            python::Installer::Pip => report.add("installer", Level::Good, "pip installs, as [python] installer says", None),
        }
    }

    /// Whether the releases that may have to be started still have the interpreters that they were made with.
    fn examine_interpreters(&self, report: &mut DoctorReport) {
        let live = self.root.live().ok().flatten();
        let before = previous(&self.journal, &self.root, &self.name, live.as_ref());
        for (release, role) in [(live, "live"), (before, "previous")] {
            let Some(release) = release else { continue };
            let Some(gone) = self.root.interpreter_gone(&release) else { continue };
            let text = format!("the interpreter of the {role} release {release}, {}, is gone: it cannot be started again", gone.display());
            let hint = "install that interpreter again, or make the commit anew with the one that is set: agentctl release REF --rebuild"
                .to_owned();
            report.add("python", Level::Error, text, Some(hint));
        }
    }

    /// The limits on packages during their installation.
    fn examine_bounds(&self, report: &mut DoctorReport) {
        if self.settings().python.is_none() {
            return;
        }
        match sandbox::kernel() {
            Held::All => {
                report.add(
                    "bounds",
                    Level::Good,
                    "the kernel holds installers, and the packages that they run, to their own directories",
                    None,
                );
            }
            Held::AllBut(what) => {
                let text =
                    format!("the kernel holds installers, and the packages that they run, to their own directories, but not in the {what}");
                report.add("bounds", Level::Good, text, Some("a newer kernel holds more".to_owned()));
            }
            Held::Nothing => {
                let text = "nothing holds what installers run: the kernel has no Landlock, and packages may write wherever the agent may";
                let hint = "run a kernel of 5.13 or later with `landlock` among its security modules (lsm=landlock,… on its command line)";
                report.add("bounds", Level::Warning, text, Some(hint.to_owned()));
            }
        }
        for cache in python::shared_caches() {
            let text =
                format!("the installers of all apps share {}: what the packages of one leave there, another may install", cache.display());
            let hint = "take PIP_CACHE_DIR, UV_CACHE_DIR and POETRY_CACHE_DIR out of the agent's environment: then each app has its own";
            report.add("bounds", Level::Warning, text, Some(hint.to_owned()));
        }
    }

    fn examine_serving(&self, report: &mut DoctorReport) {
        let app = self.settings();
        if app.restart == Restart::None {
            let hint = "set [restart]: agentctl init writes an example".to_owned();
            report.add("restart", Level::Warning, "nothing is restarted, and nothing proves which processes serve", Some(hint));
        } else if app.checks.is_empty() {
            let hint = "add a [[check]] with a release_header".to_owned();
            report.add("check", Level::Warning, "no [[check]] is set: a release whose pages fail would be called live", Some(hint));
        } else if app.checks.iter().all(|check| check.release_header.is_none()) {
            let hint = "let the app name its release in a header, and set release_header".to_owned();
            let (level, text) = match (app.executor, &app.restart) {
                // The agent cannot see the working directories of another user's processes.
                (ExecutorKind::Units, Restart::Systemd(_)) => (
                    Level::Warning,
                    "no check asks which release answers, and the agent cannot see where the app's processes work: old code would pass",
                ),
                _ => (Level::Good, "no check asks which release answers; the processes are the proof"),
            };
            report.add("check", level, text, Some(hint));
        }
        let lints = app.restart.lints(&self.root.link(), &app.workers, app.timeout_of("switch"));
        let silent = lints.is_empty();
        report.findings.extend(lints.into_iter().map(|finding| Finding { app: Some(self.name.to_string()), ..finding }));
        if silent && app.restart != Restart::None {
            report.add("restart", Level::Good, "no misconfiguration was found in the way the app is restarted", None);
        }
    }

    /// Whether the serving programs have the variables of the app's file.
    fn examine_variables(&self, report: &mut DoctorReport, watch: &Watch<'_>) {
        let app = self.settings();
        let Ok(Some(live)) = self.root.live() else { return };
        let Some(commit) = self.root.manifest(&live).ok().and_then(|manifest| manifest.commit.parse().ok()) else { return };
        let secrets = match app.executor {
            ExecutorKind::Direct => app.read_secrets(&app.secrets),
            ExecutorKind::Units => Ok(Vec::new()),
        };
        // Unreadable secrets were reported already.
        let Ok(secrets) = secrets else { return };
        let (env, plain) = (app.variables(secrets), app.plain_variables());
        let (link, instances, variables) = (self.root.link(), self.root.instances(), self.root.variables());
        let dir = self.root.release_dir(&live);
        let silent = |_: &str| {};
        let context = RestartContext {
            app: &app.name,
            link: &link,
            instances: &instances,
            env: &env,
            variables: Variables { dir: &variables, plain: &plain },
            checks: &app.checks,
            workers: &app.workers,
            lacking: &[],
            steadiness: Steadiness::Seen,
            renewal: Renewal::No,
            watch,
            note: &silent,
            warn: &silent,
        };
        let serving = ReleaseRef { name: &live, commit: &commit, dir: &dir };
        let drift = app.restart.drift(&context, serving, &MadeWith { module: app.settings_module(), by_default: None });
        report.findings.extend(drift.into_iter().map(|finding| Finding { app: Some(self.name.to_string()), ..finding }));
    }

    fn examine_reports(&self, report: &mut DoctorReport) {
        let app = self.settings();
        let unheard = self.journal.unheard(&self.name).unwrap_or_default();
        for target in &app.reports {
            let shown = target.shown();
            if let Err(complaint) = target.examine() {
                let hint = format!("put the file right, or change {} in report[{}]", target.secret_key(), target.place);
                report.add("report", Level::Error, format!("{shown} cannot be told anything: {complaint}"), Some(hint));
            }
            let Some(unheard) = unheard.iter().find(|unheard| unheard.target == target.key()) else {
                let proxy = https::proxy_of(&target.url).map(|proxy| format!("; it is told through the proxy {proxy}")).unwrap_or_default();
                report.add("report", Level::Good, format!("for {shown} nothing waits to be told{proxy}"), None);
                continue;
            };
            match &unheard.failed {
                Some(failed) => {
                    let text = format!("{shown}: {} report(s) wait; the last try failed: {failed}", unheard.waiting);
                    let hint = "they are tried for a day, more and more seldom; see to it that the agent can reach it".to_owned();
                    report.add("report", Level::Warning, text, Some(hint));
                }
                None if unheard.waiting > 0 => {
                    report.add("report", Level::Good, format!("{shown}: {} report(s) are on their way", unheard.waiting), None);
                }
                None => {}
            }
            if let Some(refused) = &unheard.refused {
                let text = format!("{shown}: {} report(s) were given up; the last one: {refused}", unheard.given_up);
                let hint = "look at the token and its rights, and at repository and url; the next run is told again".to_owned();
                report.add("report", Level::Warning, text, Some(hint));
            }
        }
    }
}
