//! What all verbs share: the client, the output, and the app.

use agent_model::names::AppName;
use agent_wire::view::{Apps, Run};
use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;

use crate::client::{ApiAnswer, Client, Effort, encoded};
use crate::fault::{Exit, Fault};
use crate::out::Out;
use crate::render;
use crate::render::run::Detail;

/// The style of a verb's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// In words and tables.
    Words(Detail),
    /// Only errors.
    Quiet,
    /// As data.
    Json,
}

/// One invocation of the program.
pub(crate) struct Session<'a> {
    pub(crate) client: Client,
    pub(crate) out: &'a mut Out,
    pub(crate) manner: Manner,
    /// The app, where one was named.
    pub(crate) app: Option<AppName>,
    /// The time at the start of the program.
    pub(crate) now: DateTime<Utc>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(out: &'a mut Out, client: Client, app: Option<AppName>, manner: Manner) -> Self {
        let touched = client.network().into_iter().flat_map(|network| network.keys.iter()).find(|key| key.is_touched());
        if let (Manner::Words(_), Some(key)) = (manner, touched) {
            out.words(&render::touched(key.path()));
        }
        Self { client, out, manner, app, now: Utc::now() }
    }

    /// The named app, else the only one that exists.
    pub(crate) async fn app(&self) -> Result<AppName, Fault> {
        if let Some(app) = &self.app {
            return Ok(app.clone());
        }
        let apps: Apps = match self.client.read("/v1/apps", Effort::Little).await {
            Ok(apps) => apps.view,
            Err(fault) if fault.is_want_of_right() => return Err(Fault::UnknownApps(Box::new(fault))),
            Err(fault) => return Err(fault),
        };
        match apps.apps.as_slice() {
            [] => Err(Fault::NoApp),
            [app] => Ok(app.name.parse()?),
            _ => Err(Fault::ManyApps(apps.apps.into_iter().map(|app| app.name).collect())),
        }
    }

    /// Reads a run by its number.
    pub(crate) async fn run(&self, run: u64) -> Result<Run, Fault> {
        Ok(self.client.read(&format!("/v1/runs/{run}"), Effort::Little).await?.view)
    }

    /// The beginning of all paths about an app.
    pub(crate) fn path(app: &AppName) -> String {
        format!("/v1/apps/{}", encoded(app.as_str()))
    }

    /// Reads a view and shows it: raw with `--json`, else in the words of `words`.
    pub(crate) async fn show<T: DeserializeOwned>(
        &mut self,
        path: &str,
        effort: Effort,
        words: impl FnOnce(&T, &Self) -> String,
    ) -> Result<Exit, Fault> {
        let answer = self.client.read(path, effort).await?;
        let text = self.told(&answer, words);
        self.out.data(&text)?;
        Ok(Exit::GOOD)
    }

    /// The output for an answer.
    pub(crate) fn told<T>(&self, answer: &ApiAnswer<T>, words: impl FnOnce(&T, &Self) -> String) -> String {
        match self.manner {
            Manner::Json => answer.raw.clone(),
            Manner::Words(_) | Manner::Quiet => words(&answer.view, self),
        }
    }
}
