//! `plan`: shows what `release` would do, and changes nothing.

use agent_model::names::{AppName, Revision};
use agent_wire::view;
use clap::Args;

use crate::client::{ApiAnswer, Effort, encoded};
use crate::fault::{Exit, Fault};
use crate::render;
use crate::session::Session;

/// What `plan` takes.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Branch, tag, or commit, whole or its first digits
    #[arg(value_name = "REF")]
    revision: Revision,
}

impl Plan {
    /// Shows the plan.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        show(session, &self.revision).await
    }
}

/// Shows the plan for a revision.
pub(crate) async fn show(session: &mut Session<'_>, revision: &Revision) -> Result<Exit, Fault> {
    let app = session.app().await?;
    session.show::<view::Plan>(&path(&app, revision), Effort::Much, |plan, _| render::plan(plan, app.as_str())).await
}

/// Reads the plan for a revision.
pub(crate) async fn read(session: &Session<'_>, app: &AppName, revision: &Revision) -> Result<ApiAnswer<view::Plan>, Fault> {
    session.client.read(&path(app, revision), Effort::Much).await
}

fn path(app: &AppName, revision: &Revision) -> String {
    format!("{}/plan?ref={}", Session::path(app), encoded(revision.as_str()))
}
