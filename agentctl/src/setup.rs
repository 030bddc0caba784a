//! `setup`: the work that root does once on the host of an app. The daemon's program knows the settings, so it does the work, at this terminal.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use agent_model::names::AppName;
use clap::{Args, ValueEnum};

use crate::fault::{Exit, Fault};

/// The daemon's program.
const DAEMON: &str = "release-agent";

/// What `setup` takes.
#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// What is set up
    what: What,
    /// The app's name: that of its file in /etc/release-agent/apps, without .toml
    name: AppName,
    /// Who serves the app, and knows its secrets [default: a user of the app's name, or whom an earlier setup was told]
    #[arg(long)]
    user: Option<String>,
    /// Who builds its releases, and knows no secret [default: NAME-build, or whom an earlier setup was told]
    #[arg(long, value_name = "USER")]
    build_user: Option<String>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Ask no question
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
}

/// What can be set up.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// An app: its users, directories, units and grants
    App,
}

impl Setup {
    /// Executes the daemon's program, which does the work. Returns only when that cannot be started.
    pub(crate) fn run(self) -> Result<Exit, Fault> {
        become_the_daemon(self.arguments())
    }

    fn arguments(self) -> Vec<OsString> {
        let Self { what: What::App, name, user, build_user, dry_run, yes } = self;
        let mut arguments: Vec<OsString> = vec!["--setup-app".into(), name.as_str().into()];
        // With an equals sign, so that no name is taken for an option.
        let option = |name: &str, value: Option<String>| value.map(|value| OsString::from(format!("--{name}={value}")));
        arguments.extend(option("user", user));
        arguments.extend(option("build-user", build_user));
        arguments.extend([(dry_run, "--dry-run"), (yes, "--yes")].into_iter().filter(|(is, _)| *is).map(|(_, word)| word.into()));
        arguments
    }
}

/// Executes the daemon's program with these arguments. Returns only when that cannot be started.
pub(crate) fn become_the_daemon(arguments: Vec<OsString>) -> Result<Exit, Fault> {
    let program = beside_us().unwrap_or_else(|| PathBuf::from(DAEMON));
    let source = Command::new(&program).args(arguments).exec();
    Err(Fault::Disk { act: "run", path: program, source })
}

/// The daemon's program that was installed with this one.
fn beside_us() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.with_file_name(DAEMON);
    beside.is_file().then_some(beside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_asked_for_what_was_asked() {
        let setup = |user: Option<&str>, dry_run: bool, yes: bool| {
            let name = "shop".parse().unwrap();
            Setup { what: What::App, name, user: user.map(str::to_owned), build_user: None, dry_run, yes }.arguments()
        };
        assert_eq!(setup(None, false, false), ["--setup-app", "shop"]);
        assert_eq!(setup(Some("--yes"), true, false), ["--setup-app", "shop", "--user=--yes", "--dry-run"]);
        assert_eq!(setup(Some("deploy"), false, true), ["--setup-app", "shop", "--user=deploy", "--yes"]);
    }
}
