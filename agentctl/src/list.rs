//! `list`: the releases of an app.

use agent_wire::view::Releases;

use crate::client::Effort;
use crate::fault::{Exit, Fault};
use crate::render;
use crate::session::Session;

/// Shows the releases.
pub(crate) async fn run(session: &mut Session<'_>) -> Result<Exit, Fault> {
    let path = format!("{}/releases", Session::path(&session.app().await?));
    session.show::<Releases>(&path, Effort::Little, |releases, session| render::releases(releases, session.now, session.out.width)).await
}
