//! `release` and `stage`: make a release of a commit, and make it live, or not yet.

use agent_model::names::{AppName, CommitId, RefName, Revision};
use agent_model::request::Right;
use agent_wire::form::Form;
use clap::Args;

use crate::act::{self, Expecting, Following};
use crate::fault::{Exit, Fault};
use crate::plan;
use crate::render;
use crate::session::{Manner, Session};

/// What `release` takes.
#[derive(Debug, Args)]
pub(crate) struct Release {
    /// Only tell what would be done, as `plan` does
    #[arg(long, conflicts_with_all = ["no_follow", "expect_live"])]
    dry_run: bool,
    #[command(flatten)]
    making: Making,
}

/// What `stage` takes.
#[derive(Debug, Args)]
pub(crate) struct Stage {
    #[command(flatten)]
    making: Making,
}

/// What both take.
#[derive(Debug, Args)]
struct Making {
    /// Branch, tag, or commit, whole or its first digits
    #[arg(value_name = "REF")]
    revision: Revision,
    /// Build the environment anew, though there is one for the same requirements
    #[arg(long)]
    rebuild: bool,
    #[command(flatten)]
    expecting: Expecting,
    #[command(flatten)]
    following: Following,
}

impl Release {
    /// Requests the release.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        if self.dry_run {
            return plan::show(session, &self.making.revision).await;
        }
        self.making.ask(session, Right::Release).await
    }
}

impl Stage {
    /// Requests a release that is not made live.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        self.making.ask(session, Right::Stage).await
    }
}

impl Making {
    async fn ask(self, session: &mut Session<'_>, right: Right) -> Result<Exit, Fault> {
        let app = session.app().await?;
        let mut form = act::form(&app, right)?;
        match session.client.network() {
            // On the host, the agent resolves the name.
            None => form.revision = Some(self.revision.to_string()),
            Some(_) => name_for_good(session, &app, &self.revision, &mut form).await?,
        }
        form.prev = self.expecting.prev();
        form.options.rebuild = self.rebuild;
        act::take_turn(session, &form, &self.following).await
    }
}

/// Puts an unambiguous name into a form: a signature covers one commit, or one branch or tag by its full name, so that it cannot mean another
/// tomorrow.
async fn name_for_good(session: &mut Session<'_>, app: &AppName, revision: &Revision, form: &mut Form) -> Result<(), Fault> {
    if let Ok(full) = revision.as_str().parse::<RefName>() {
        form.revision = Some(full.to_string());
    } else if let Ok(whole) = revision.as_str().parse::<CommitId>() {
        form.commit = Some(whole.to_string());
    } else {
        let found = match plan::read(session, app, revision).await {
            Ok(found) => found.view,
            Err(source @ Fault::Refused { .. }) if source.is_want_of_right() => {
                return Err(Fault::Unresolved { revision: revision.clone(), source: Box::new(source) });
            }
            Err(fault) => return Err(fault),
        };
        if matches!(session.manner, Manner::Words(_)) {
            session.out.words(&render::found(revision.as_str(), &found));
        }
        form.revision = found.reference;
        form.commit = Some(found.commit);
    }
    Ok(())
}
