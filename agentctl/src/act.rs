//! Sends a request and follows its run: the common path of all verbs that act.

use agent_model::names::{AppName, ReleaseName};
use agent_model::request::Right;
use agent_wire::form::Form;
use agent_wire::view::Taken;
use clap::Args;

use crate::client::{self, ApiAnswer};
use crate::fault::{Exit, Fault};
use crate::follow;
use crate::render;
use crate::session::{Manner, Session};

/// What the verbs that take their turn have in common.
#[derive(Debug, Args)]
pub(crate) struct Following {
    /// Print the run's number and do not wait for its end
    #[arg(long)]
    pub(crate) no_follow: bool,
}

/// A condition that a caller can set.
#[derive(Debug, Args)]
pub(crate) struct Expecting {
    /// Refuse unless this release, named in full, is the live one when the request is taken
    #[arg(long, value_name = "RELEASE")]
    pub(crate) expect_live: Option<ReleaseName>,
}

impl Expecting {
    /// The condition in the form.
    pub(crate) fn prev(&self) -> Option<String> {
        self.expect_live.as_ref().map(ToString::to_string)
    }
}

/// A form for an app, with a nonce of its own.
pub(crate) fn form(app: &AppName, right: Right) -> Result<Form, Fault> {
    Ok(Form::new(app.as_str(), right, client::nonce()?))
}

/// Sends a request whose run waits for its turn, and follows the run or not.
pub(crate) async fn take_turn(session: &mut Session<'_>, form: &Form, following: &Following) -> Result<Exit, Fault> {
    let taken = ask(session, form).await?;
    if following.no_follow {
        let number = match session.manner {
            Manner::Json => without_token(&taken.raw),
            Manner::Words(_) | Manner::Quiet => taken.view.run.to_string(),
        };
        session.out.data(&number)?;
        if matches!(session.manner, Manner::Words(_)) {
            session.out.words(&render::goes_on(taken.view.run, &session.client.called));
        }
        return Ok(Exit::GOOD);
    }
    if matches!(session.manner, Manner::Words(_)) {
        session.out.words(&render::taken(taken.view.run, form));
    }
    follow::mine(session, taken.view).await
}

/// Sends a request that is done at once.
pub(crate) async fn at_once(session: &mut Session<'_>, form: &Form) -> Result<Exit, Fault> {
    let taken = ask(session, form).await?;
    follow::mine(session, taken.view).await
}

/// Asks, and follows nothing.
pub(crate) async fn ask(session: &mut Session<'_>, form: &Form) -> Result<ApiAnswer<Taken>, Fault> {
    let Session { client, out, .. } = session;
    let comeback = client.patience.comeback;
    client.ask(form, || out.words(&render::asking_again(comeback))).await
}

/// The agent's answer for standard output, which may end up in logs: without the token, which would let their readers read the run's events.
fn without_token(raw: &str) -> String {
    let mut answer: serde_json::Map<String, serde_json::Value> = serde_json::from_str(raw).unwrap_or_default();
    answer.remove("token");
    serde_json::Value::Object(answer).to_string()
}
