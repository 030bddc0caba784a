//! `runs`: shows the requests, and their results.

use agent_model::names::RunId;
use agent_wire::view;
use clap::Args;

use crate::client::{Effort, encoded};
use crate::fault::{Exit, Fault};
use crate::render;
use crate::session::Session;

/// What `runs` takes.
#[derive(Debug, Args)]
pub(crate) struct Runs {
    /// At most so many, the newest first
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only runs after this one
    #[arg(long, value_name = "RUN")]
    after: Option<RunId>,
}

impl Runs {
    /// Shows them; those of all apps when none is named.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let mut path = format!("/v1/runs?limit={}", self.limit);
        if let Some(app) = &session.app {
            path = format!("{path}&app={}", encoded(app.as_str()));
        }
        if let Some(after) = self.after {
            path = format!("{path}&after={after}");
        }
        session.show::<view::Runs>(&path, Effort::Little, |runs, session| render::runs(runs, session.now, session.out.width)).await
    }
}
