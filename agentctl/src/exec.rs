//! `exec` and `manage`: a command of the app's own, at this terminal. The agent authorises and records it; the daemon's program, which knows the settings,
//! becomes the command.

use std::ffi::OsString;
use std::path::PathBuf;

use agent_model::names::ReleaseSelector;
use agent_model::request::Right;
use clap::Args;

use crate::act;
use crate::fault::{Exit, Fault};
use crate::session::Session;
use crate::setup::become_the_daemon;

/// Examples of use, for the help.
pub(crate) const EXAMPLES: &str = "\
The command runs on this host as the app's user, with the app's variables and secrets, and with
the environment of the release in PATH. It waits while a migration runs. The run is recorded with
its command line, so put no secret there. Ask as root, or as the app's user.

Examples:
  agentctl exec -- python -c 'import django; print(django.__version__)'
  agentctl exec -- psql service=shop < report.sql
  */5 * * * * root agentctl --app shop exec -- venv/bin/python cleanup.py     # in a crontab";

/// Examples of `manage`.
pub(crate) const MANAGE_EXAMPLES: &str = "\
As `exec`, with manage.py of the release. Options of agentctl come before the command.

Examples:
  agentctl manage createsuperuser
  agentctl manage shell
  agentctl manage --release previous showmigrations";

/// Where a command runs.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Run in this release: a name, the beginning of its name or of its commit, or `previous` [default: the live one]
    #[arg(long)]
    release: Option<ReleaseSelector>,
    /// The configuration directory [default: /etc/release-agent]
    #[arg(long, value_name = "DIR", env = "RELEASE_AGENT_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

/// What `exec` takes.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    place: Place,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// What `manage` takes.
#[derive(Debug, Args)]
pub(crate) struct Manage {
    #[command(flatten)]
    place: Place,
    /// The arguments of manage.py
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "ARGS")]
    command: Vec<String>,
}

impl Exec {
    /// Becomes the command. Comes back only when that cannot be.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        self.place.start(session, self.command.clone(), &[], self.command).await
    }
}

impl Manage {
    /// Becomes manage.py. Comes back only when that cannot be.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let recorded = std::iter::once("manage.py".to_owned()).chain(self.command.iter().cloned()).collect();
        self.place.start(session, recorded, &["--manage"], self.command).await
    }
}

impl Place {
    async fn start(self, session: &mut Session<'_>, recorded: Vec<String>, more: &[&str], command: Vec<String>) -> Result<Exit, Fault> {
        let app = session.app().await?;
        let mut form = act::form(&app, Right::Exec)?;
        form.command = Some(recorded);
        form.release = self.release.as_ref().map(ToString::to_string);
        let taken = act::ask(session, &form).await?;
        // The release that was recorded, by its full name: another one may be live a moment later.
        let release = session.run(taken.view.run).await?.release;
        // With an equals sign, so that nothing is taken for an option.
        let mut arguments: Vec<OsString> = vec![format!("--exec={app}").into()];
        arguments.extend(release.map(|release| format!("--release={release}").into()));
        arguments.extend(self.config.map(|config| {
            let mut option = OsString::from("--config=");
            option.push(config);
            option
        }));
        arguments.extend(more.iter().map(OsString::from));
        arguments.push("--".into());
        arguments.extend(command.into_iter().map(OsString::from));
        become_the_daemon(arguments)
    }
}
