//! `fsck`: shows each mismatch between an app's root and its manifests or the journal, and requests the removal of leftovers.

use agent_model::request::Right;
use agent_wire::view::{self, Level};
use clap::Args;

use crate::act::{self, Following};
use crate::client::Effort;
use crate::fault::{Exit, Fault};
use crate::render;
use crate::session::Session;

/// What `fsck` takes.
#[derive(Debug, Args)]
pub(crate) struct Fsck {
    /// Remove what was left over and belongs to nothing
    #[arg(long)]
    mend: bool,
    /// With --mend: print the run's number and do not wait for its end
    #[arg(long, requires = "mend")]
    no_follow: bool,
}

impl Fsck {
    /// Shows the mismatches, or requests the removal of leftovers.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let app = session.app().await?;
        if self.mend {
            let form = act::form(&app, Right::Mend)?;
            return act::take_turn(session, &form, &Following { no_follow: self.no_follow }).await;
        }
        let answer = session.client.read::<view::Fsck>(&format!("{}/fsck", Session::path(&app)), Effort::All).await?;
        let text = session.told(&answer, |fsck, _| render::fsck(fsck));
        session.out.data(&text)?;
        let differs = answer.view.findings.iter().any(|finding| finding.level != Level::Good);
        Ok(if differs { Exit(1) } else { Exit::GOOD })
    }
}
