//! The live instance that the agent itself started: whether it still runs, and how the agent starts it again.

use std::time::Duration;

use agent_model::names::ReleaseName;

use super::instance::{Instance, Instances};
use super::record::{StartedAgain, started_again};
use super::{Settings, Starter};
use crate::http;
use crate::process::Process;
use crate::restart::{ReleaseRef, RestartContext, RestartError};

/// The state of the live instance.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The agent has not started it, or was told to stop it.
    Unwatched,
    /// It accepts connections. When the first of these processes ends, the agent must look again.
    Serves(Vec<Process>),
    /// It has ended without being told to.
    Gone,
}

impl Settings {
    /// The state of the live release's instance; `known` are the masters of the previous look.
    pub(in crate::restart) fn standing(
        &self,
        context: &RestartContext<'_>,
        live: &ReleaseName,
        known: &[Process],
    ) -> Result<Standing, RestartError> {
        if matches!(self.starter, Starter::Unit(_)) {
            return Ok(Standing::Unwatched);
        }
        let instances = Instances::open(self, context)?;
        let masters = match instances.find(live)? {
            Some(Instance::Processes { masters, .. }) => masters,
            _ => Vec::new(),
        };
        if masters.is_empty() {
            return Ok(if instances.knows(live) { Standing::Gone } else { Standing::Unwatched });
        }
        // Workers outlive a killed master, and nothing replaces them. A master that was exchanged on purpose has workers of its own.
        let is_orphaned = !known.is_empty()
            && !known.iter().any(Process::is_alive)
            && !matches!(masters.as_slice(), [successor] if !successor.children().is_empty());
        let listens = http::listens(&self.socket_of(context.link, live));
        Ok(if listens && !is_orphaned { Standing::Serves(masters) } else { Standing::Gone })
    }

    /// Starts the ended instance of the live release again, and counts the restart.
    pub(in crate::restart) fn start_again(
        &self,
        context: &RestartContext<'_>,
        live: ReleaseRef<'_>,
        now: i64,
    ) -> Result<StartedAgain, RestartError> {
        if let Some(obstacle) = self.obstacle() {
            return Err(obstacle);
        }
        let instances = Instances::open(self, context)?;
        let before = started_again(context.instances, live.name).map_or(0, |before| before.times);
        let again = StartedAgain { times: before.saturating_add(1), last: now };
        instances.again.set(Some(again));
        if instances.find(live.name)?.is_some() {
            instances.stop(live.name, Duration::ZERO)?;
        }
        self.bring_up(&instances, live)?;
        self.name(context.link, live.name)?;
        Ok(again)
    }
}
