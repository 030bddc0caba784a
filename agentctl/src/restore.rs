//! `restore`: root restores a dump. The daemon's program knows the settings, so it does the work, at this terminal.

use std::ffi::OsString;
use std::path::PathBuf;

use agent_model::names::AppName;
use clap::Args;

use crate::fault::{Exit, Fault};
use crate::setup::become_the_daemon;

/// What `restore` takes.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The app's name
    name: AppName,
    /// The dump: a file in backups/ of the app's root
    dump: PathBuf,
    /// Who made the dump, and whom the database knows [default: whoever asks]
    #[arg(long)]
    user: Option<String>,
    /// The configuration directory [default: /etc/release-agent]
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
}

impl Restore {
    /// Executes the daemon's program, which does the work. Returns only when that cannot be started.
    pub(crate) fn run(self) -> Result<Exit, Fault> {
        become_the_daemon(self.arguments())
    }

    fn arguments(self) -> Vec<OsString> {
        let Self { name, dump, user, config } = self;
        // With an equals sign, so that no value is taken for an option.
        let option = |name: &str, value: OsString| {
            let mut option = OsString::from(format!("--{name}="));
            option.push(value);
            option
        };
        let mut arguments = vec![option("restore", name.as_str().into()), option("dump", dump.into())];
        arguments.extend(user.map(|user| option("user", user.into())));
        arguments.extend(config.map(|config| option("config", config.into())));
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_asked_for_what_was_asked() {
        let restore = Restore { name: "shop".parse().unwrap(), dump: "-a.dump".into(), user: Some("deploy".into()), config: None };
        assert_eq!(restore.arguments(), ["--restore=shop", "--dump=-a.dump", "--user=deploy"]);
    }
}
