//! `show`: one release, with its manifest.

use agent_model::names::{BadName, ReleaseSelector};
use agent_wire::view::ReleaseDetail;
use clap::Args;

use crate::client::{Effort, encoded};
use crate::fault::{Exit, Fault};
use crate::render;
use crate::session::Session;

/// What `show` takes.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// A release's name, the beginning of its name or of its commit, `previous`, or `live`
    #[arg(default_value = "live", value_parser = selector)]
    release: String,
}

fn selector(text: &str) -> Result<String, BadName> {
    match text {
        "live" => Ok(text.to_owned()),
        other => other.parse::<ReleaseSelector>().map(|selector| selector.to_string()),
    }
}

impl Show {
    /// Shows it.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let path = format!("{}/releases/{}", Session::path(&session.app().await?), encoded(&self.release));
        session.show::<ReleaseDetail>(&path, Effort::Little, |detail, session| render::release(detail, session.now)).await
    }
}
