//! The verbs on the command line, and the one-line help of each. The arguments of a verb are in the verb's own file.

use std::ffi::OsString;

use agent_model::names::AppName;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::fault::{Exit, Fault};
use crate::out::Out;
use crate::render::run::Detail;
use crate::route::Route;
use crate::session::{Manner, Session};
use crate::{
    activate, cancel, check, doctor, exec, fsck, init, list, lock, logs, pin, plan, prune, release, restart, restore, runs, settle, setup,
    shell, show, sign, status, whoami,
};

/// The command line as a value: completions and manual pages are made from it.
pub fn command() -> clap::Command {
    Cli::command()
}

const EXIT_CODES: &str = "\
Exit codes:
  0  the release is live, or what was asked is done
  1  failed: visitors never met the new release
  2  the arguments make no sense, or name something that is not there
  3  rolled back: visitors may have met the new release for a moment
  4  refused: right, lock, busy, stuck, stale, stopping
  5  the agent is out of reach, or could not do it
  6  stuck: an operator must look
  7  cancelled, or superseded by a newer request
  130  Ctrl-C: agentctl left; the run goes on

Data goes to stdout, words to stderr. NO_COLOR is respected.";

/// Releases Django apps, and whatever else is configured, through the release agent of this host or another.
#[derive(Debug, Parser)]
#[command(name = "agentctl", version, after_help = EXIT_CODES, arg_required_else_help = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
struct Common {
    /// The app; may be left out when there is only one
    #[arg(short, long, global = true, env = "AGENTCTL_APP", hide_env_values = true)]
    app: Option<AppName>,
    #[command(flatten)]
    route: Route,
    /// Print data: what a reading verb read, or a run's events, one a line
    #[arg(long, global = true)]
    json: bool,
    /// Print only the last line, and only when it went wrong
    #[arg(short, long, global = true, conflicts_with = "json")]
    quiet: bool,
    /// Print what each step found, and the proof that the release serves; -vv prints all output too
    #[arg(short, long, global = true, action = ArgAction::Count, env = "AGENTCTL_VERBOSE", hide_env_values = true)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(flatten)]
    Agent(AgentVerb),
    /// Write a commented configuration file for a new app, or a certificate for a first try
    #[command(after_help = "\
Examples:
  agentctl init shop --repository git@github.com:acme/shop.git
  agentctl init --repository https://github.com/acme/shop.git --dir ./config
  agentctl init --tls web1.example.org 10.0.0.5     # tls/cert.pem and tls/key.pem, self-signed")]
    Init(init::Init),
    /// Make what an app needs on this host: users, directories, units, grants
    #[command(after_help = "\
All of it is shown first, and what is so already is left as it is: asked again,
there is nothing to do. It is for executor = \"units\" in agent.toml, which is
what the package says. Afterwards the agent needs no right of root's.
release-agent(8) has what is made, and how to take it back.

Examples:
  agentctl setup app shop --dry-run
  agentctl setup app shop
  agentctl setup app shop --user deploy --yes      # an existing user serves

Exits 0 when all is so, 1 when something failed, 2 for the configuration, and 4
when it is refused: not root, no answer, or something that must not be.")]
    Setup(setup::Setup),
    /// Put a dump from before a migration back, as root
    #[command(after_help = "\
A run that fails after it migrated prints this command, complete. Rows that were
written since the dump are lost, and tables that were made since are removed. All of
it is one transaction: the database is as in the dump, or nothing has changed.
Extensions of PostgreSQL stay as they are.

The command reaches the database as Django does, by the settings and the app's
secrets, as the user who made the dump. Nobody types a password.

Example:
  agentctl restore shop --user=shop /var/shop/backups/2026-11-20-22-45-23-1a2b3c4d5e6f.dump

Exits 0 when it is done, 1 when it failed, 2 for the configuration or a file that is
no dump, and 4 when somebody else than root asks.")]
    Restore(restore::Restore),
    /// Write a signed request to a file, for curl or for another day
    #[command(after_help = sign::EXAMPLES)]
    Sign(sign::Sign),
    /// Print a script that completes the arguments of agentctl in a shell
    #[command(after_help = "Example:\n  agentctl completions bash > /etc/bash_completion.d/agentctl")]
    Completions(shell::Completions),
    /// Print the manual page, or write all of them to a directory
    Man(shell::Man),
}

/// The verbs that the agent is asked for.
#[derive(Debug, Subcommand)]
enum AgentVerb {
    /// Make a release of a branch, tag or commit, and make it live
    #[command(
        visible_alias = "deploy",
        after_help = "\
Examples:
  agentctl release main
  agentctl release v1.4.2 --dry-run
  agentctl --app shop release 1a2b3c4d --rebuild
  agentctl release main --no-follow        # prints the number of the run

Ctrl-C cancels nothing; agentctl logs -f follows again."
    )]
    Release(release::Release),
    /// Make a release and seal it; `activate` makes it live later
    #[command(after_help = "\
Examples:
  agentctl stage main
  agentctl activate 1a2b3c4d       # now: the database is dumped and migrated, and visitors are handed over
  agentctl stage v1.4.2 --no-follow

The database is neither dumped nor migrated before the activate. A lock does not
keep a release from being staged. `list` shows one that never served as sealed.")]
    Stage(release::Stage),
    /// List the releases, newest first, with the live one marked
    #[command(after_help = "\
Examples:
  agentctl list
  agentctl list --json | jq -r '.releases[] | select(.pinned) | .name'")]
    List,
    /// Make a release live that was live before, or was staged
    #[command(after_help = "\
One that never served is migrated first, after a backup, as `release` does it.

Examples:
  agentctl activate previous
  agentctl activate 1a2b3c4d
  agentctl activate 2026-11-20-22-45-23-1a2b3c4d5e6f")]
    Activate(activate::Activate),
    /// Make the release live again that was live before, the same as `activate previous`
    Rollback(activate::Rollback),
    /// Start the live release anew, with the variables and secrets of now
    #[command(after_help = "\
What [env] and the files with secrets say now is what it is started with. It is
done by the app's strategy and proven as a release is: with handover a second
instance is asked before visitors meet it, and when that one does not serve, the
first one was never left. Nothing is built, dumped or migrated.

Examples:
  agentctl restart
  agentctl --app shop restart")]
    Restart(restart::Restart),
    /// Show how every app stands: live release, run, queue, lock, last outcome, disk
    Status,
    /// Show one release with its manifest; the live one when none is named
    #[command(after_help = show::EXAMPLES)]
    Show(show::Show),
    /// List the runs, newest first; those of all apps when none is named
    Runs(runs::Runs),
    /// Print a run's events again, with all output, or as they come
    #[command(after_help = "\
Examples:
  agentctl logs            # the newest run
  agentctl logs 12
  agentctl logs -f 12      # and go on until it ends; exits as release would have
  agentctl logs 12 --json | jq -r 'select(.what == \"output\") | .line'")]
    Logs(logs::Logs),
    /// Show what `release` would do, and change nothing
    #[command(after_help = "Example:\n  agentctl plan main")]
    Plan(plan::Plan),
    /// Stop a run and take back what it did; refused once the release was switched
    Cancel(cancel::Cancel),
    /// Say that a database that may be half migrated is in order
    #[command(after_help = "\
When a migration fails, or is cut off, that the database does not take back as a whole, `status`,
`list` and `doctor` name it with the dump from before. That ends by itself when a later release
applies the migration. Where you have restored the dump, or put the database right by hand, say so:

Examples:
  agentctl settle 12       # what run 12 left is settled
  agentctl settle          # all of it is")]
    Settle(settle::Settle),
    /// Run a command of the app's own at this terminal, in the live or a named release
    #[command(after_help = exec::EXAMPLES)]
    Exec(exec::Exec),
    /// Run manage.py of the live or a named release at this terminal
    #[command(after_help = exec::MANAGE_EXAMPLES)]
    Manage(exec::Manage),
    /// Let no release and no activate happen until `unlock`
    #[command(after_help = "Example:\n  agentctl lock -m \"black friday: ask anna\"")]
    Lock(lock::Lock),
    /// End the lock
    Unlock,
    /// Keep a release for ever
    Pin(pin::Pin),
    /// Let a release be pruned again when it is old
    Unpin(pin::Pin),
    /// Remove the releases that are too old to be kept, now
    Prune(prune::Prune),
    /// Run the health checks of the live release now
    Check(check::Check),
    /// Say what of the root differs from what was written down
    #[command(
        visible_alias = "verify",
        after_help = "\
Every file of every release and environment is read, every backup, the git cache and the journal:
it may take long, and changes nothing. Exits 1 when anything differs.

--mend removes what was left over and belongs to nothing: temporary links and files, removals that
were cut off, releases that were never sealed, pins and records of releases that are gone. It
touches neither the link, nor what was ever sealed, nor a backup, nor the journal; what to do about
those is said with each.

Examples:
  agentctl fsck
  agentctl fsck --json | jq -r '.findings[] | select(.level == \"error\") | .path'
  agentctl fsck --mend && agentctl fsck"
    )]
    Fsck(fsck::Fsck),
    /// Show who the agent takes you for, and what you may do
    Whoami,
    /// Look the set-up over; each finding comes with its hint
    #[command(after_help = "Exits 1 when a release would fail.")]
    Doctor,
}

impl Cli {
    /// Parses the arguments.
    pub(crate) fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, Fault> {
        // An empty variable counts as unset.
        let unset = |arg: &clap::Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        let command = Self::command().mut_args(|arg| if unset(&arg) { arg.env(None) } else { arg });
        let matches = command.try_get_matches_from(arguments).map_err(Fault::Usage)?;
        let mut cli = Self::from_arg_matches(&matches).map_err(Fault::Usage)?;
        // The variable sets a default; only two options that were typed contradict each other.
        if cli.common.quiet && matches.value_source("verbose") == Some(ValueSource::CommandLine) {
            let says = "the argument '--quiet' cannot be used with '--verbose'";
            return Err(Fault::Usage(Self::command().error(ErrorKind::ArgumentConflict, says)));
        }
        cli.common.route.settle::<Self>(&matches)?;
        Ok(cli)
    }

    /// Runs the verb.
    pub(crate) fn run(self, out: &mut Out) -> Result<Exit, Fault> {
        let Self { common, verb } = self;
        match verb {
            Verb::Init(init) => init.run(out),
            Verb::Setup(setup) => setup.run(),
            Verb::Restore(restore) => restore.run(),
            Verb::Completions(completions) => completions.run(out, command()),
            Verb::Man(man) => man.run(out, command()),
            Verb::Sign(sign) => sign.run::<Self>(out, common.app, common.route),
            Verb::Agent(verb) => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(|err| Fault::Host { act: "wait for an answer", source: err.into() })?;
                let manner = common.manner();
                let mut session = Session::new(out, common.route.client::<Self>()?, common.app, manner);
                let ended = runtime.block_on(verb.run(&mut session));
                // A signature may still wait for a touch of the key.
                runtime.shutdown_background();
                ended
            }
        }
    }
}

impl Common {
    fn manner(&self) -> Manner {
        match (self.json, self.quiet, self.verbose) {
            (true, _, _) => Manner::Json,
            (_, true, _) => Manner::Quiet,
            (_, _, 0) => Manner::Words(Detail::Usual),
            (_, _, 1) => Manner::Words(Detail::Sentences),
            _ => Manner::Words(Detail::Full),
        }
    }
}

impl AgentVerb {
    async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        match self {
            Self::Release(release) => release.run(session).await,
            Self::Stage(stage) => stage.run(session).await,
            Self::List => list::run(session).await,
            Self::Activate(activate) => activate.run(session).await,
            Self::Rollback(rollback) => rollback.run(session).await,
            Self::Restart(restart) => restart.run(session).await,
            Self::Status => status::run(session).await,
            Self::Show(show) => show.run(session).await,
            Self::Runs(runs) => runs.run(session).await,
            Self::Logs(logs) => logs.run(session).await,
            Self::Plan(plan) => plan.run(session).await,
            Self::Cancel(cancel) => cancel.run(session).await,
            Self::Settle(settle) => settle.run(session).await,
            Self::Exec(exec) => exec.run(session).await,
            Self::Manage(manage) => manage.run(session).await,
            Self::Lock(lock) => lock.run(session).await,
            Self::Unlock => lock::unlock(session).await,
            Self::Pin(pin) => pin.pin(session).await,
            Self::Unpin(pin) => pin.unpin(session).await,
            Self::Prune(prune) => prune.run(session).await,
            Self::Check(check) => check.run(session).await,
            Self::Fsck(fsck) => fsck.run(session).await,
            Self::Whoami => whoami::run(session).await,
            Self::Doctor => doctor::run(session).await,
        }
    }
}
