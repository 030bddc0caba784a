//! `show`: one release with its manifest, or the proof of who requested a run.

use std::fs;
use std::path::PathBuf;

use agent_model::names::{BadName, ReleaseSelector, RunId};
use agent_wire::view::{Evidence, ReleaseDetail};
use clap::Args;

use crate::client::{Effort, encoded};
use crate::fault::{Exit, Fault};
use crate::render;
use crate::render::evidence::Files;
use crate::session::{Manner, Session};

/// Examples of use, for the help.
pub(crate) const EXAMPLES: &str = "\
Examples:
  agentctl show
  agentctl show 1a2b3c4d
  agentctl show 12 --evidence ./audit     # of run 12: its request, its signatures, and the command that verifies them";

/// What `show` takes.
#[derive(Debug, Args)]
pub(crate) struct Show {
    /// A release's name, the beginning of its name or of its commit, `previous`, or `live`; with --evidence, a run's number
    #[arg(default_value = "live", value_parser = selector)]
    release: String,
    /// Write the run's request and the signatures of it to this directory, for ssh-keygen -Y verify
    #[arg(long, value_name = "DIR")]
    evidence: Option<PathBuf>,
}

/// The name of a release or a run; only the other arguments decide between the two.
fn selector(text: &str) -> Result<String, BadName> {
    match text {
        "live" => Ok(text.to_owned()),
        other if other.parse::<RunId>().is_ok() => Ok(other.to_owned()),
        other => other.parse::<ReleaseSelector>().map(|selector| selector.to_string()),
    }
}

impl Show {
    /// Shows it.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        if let Some(directory) = self.evidence {
            return evidence(&self.release, &directory, session).await;
        }
        if self.release != "live" {
            self.release.parse::<ReleaseSelector>()?;
        }
        let path = format!("{}/releases/{}", Session::path(&session.app().await?), encoded(&self.release));
        session.show::<ReleaseDetail>(&path, Effort::Little, |detail, session| render::release(detail, session.now)).await
    }
}

async fn evidence(run: &str, directory: &std::path::Path, session: &mut Session<'_>) -> Result<Exit, Fault> {
    let run: RunId = run.parse()?;
    let answer = session.client.read::<Evidence>(&format!("/v1/runs/{run}/evidence"), Effort::Little).await?;
    let files = Files::of(&answer.view, directory);
    fs::create_dir_all(directory).map_err(|source| Fault::Disk { act: "make", path: directory.to_owned(), source })?;
    for (path, text) in files.contents(&answer.view) {
        fs::write(path, text).map_err(|source| Fault::Disk { act: "write", path: path.clone(), source })?;
    }
    let text = if session.manner == Manner::Json { answer.raw } else { files.told(&answer.view) };
    session.out.data(&text)?;
    Ok(Exit::GOOD)
}
