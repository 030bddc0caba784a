//! `sign`: writes a signed request to a file, and prints the headers to send with it. It contacts no agent.

use std::path::PathBuf;
use std::time::Duration;

use agent_model::names::{AppName, CommitId, HostId, RefName, ReleaseSelector, RunId};
use agent_model::request::{Request, Right};
use agent_wire::form::{Envelope, Form, MOST_VALID};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory};

use crate::act::{self, Expecting};
use crate::client::{Signed, nonce};
use crate::fault::{Exit, Fault};
use crate::out::Out;
use crate::render;
use crate::route::{self, Route, misused};

pub(crate) const EXAMPLES: &str = "\
Examples:
  agentctl --app shop --key ~/.ssh/ci sign release --ref refs/heads/main --aud web1.example.org --out request.json --curl
  agentctl --key ~/.ssh/ci sign read --path /v1/apps --aud web1.example.org --out request.json > headers
  curl -H @headers -H 'Content-Type: application/vnd.release-agent.request.v1+json' \\
       --data-binary @request.json https://web1.example.org:8443/v1/requests

What is signed are the bytes of the file: they must be sent as they are, and in time.";

/// What `sign` takes.
#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// What is asked for: release, stage, activate, restart, prune, mend, check, lock, unlock, pin, unpin, cancel, settle or read
    action: Right,
    /// For release and stage: the branch or tag by its full name, such as refs/heads/main; beside --commit, the one that must reach it
    #[arg(long = "ref", value_name = "REF")]
    reference: Option<RefName>,
    /// For release and stage: the whole commit id
    #[arg(long)]
    commit: Option<CommitId>,
    /// For release and stage: build the environment anew
    #[arg(long)]
    rebuild: bool,
    /// For activate, pin and unpin: a release's name, the beginning of its name or of its commit, or `previous`
    #[arg(long)]
    release: Option<ReleaseSelector>,
    /// For cancel: the run's number
    #[arg(long)]
    run: Option<RunId>,
    /// For lock: why, in one line
    #[arg(short = 'm', long = "message", value_name = "WHY")]
    why: Option<String>,
    /// For read: the path with its query, such as /v1/apps
    #[arg(long)]
    path: Option<String>,
    #[command(flatten)]
    expecting: Expecting,
    /// A host that it is meant for, as its agent.toml calls it; several make it good for each of them [default: --host, or the URL's host]
    #[arg(long = "aud", value_name = "HOST")]
    hosts: Vec<HostId>,
    /// How long from now it may be taken, at most 15m
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = time)]
    valid: Duration,
    /// Where the request is written to
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Print the whole curl command instead of the header lines
    #[arg(long)]
    curl: bool,
}

/// A time such as `90s` or `5m`, within the limits of an agent.
fn time(text: &str) -> Result<Duration, String> {
    let seconds = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(seconds), _) => seconds.parse().ok(),
        (_, Some(minutes)) => minutes.parse::<u64>().ok().and_then(|minutes| minutes.checked_mul(60)),
        _ => None,
    };
    let fits = seconds.filter(|seconds| (1..=MOST_VALID).contains(seconds));
    fits.map(Duration::from_secs).ok_or_else(|| "must be a time such as 90s or 5m, and at most 15m".to_owned())
}

impl Sign {
    /// Signs the request.
    pub(crate) fn run<C: CommandFactory>(self, out: &mut Out, app: Option<AppName>, route: Route) -> Result<Exit, Fault> {
        let missing = |says| Err(misused::<C>(ErrorKind::MissingRequiredArgument, says));
        if route.keys.is_empty() {
            return missing("sign needs a --key (or AGENTCTL_KEY) to sign with");
        }
        let hosts = match (self.hosts.as_slice(), route.host, &route.url) {
            ([], Some(host), _) => vec![host],
            ([], None, Some(url)) => vec![url.host_id()?],
            ([], None, None) => return missing("sign needs an --aud: the host that the request is meant for"),
            (named, _, _) => named.to_vec(),
        };
        let mut form = match (self.action, &app) {
            (Right::Read, _) => Form::new("", Right::Read, nonce()?),
            (right, Some(app)) => act::form(app, right)?,
            (_, None) => return missing("sign needs an --app (or AGENTCTL_APP), for nobody is asked which there are"),
        };
        form.revision = self.reference.as_ref().map(ToString::to_string);
        form.commit = self.commit.as_ref().map(ToString::to_string);
        form.release = self.release.as_ref().map(ToString::to_string);
        form.run = self.run.map(|run| run.0);
        form.why = self.why;
        form.path = self.path;
        form.prev = self.expecting.prev();
        form.options.rebuild = self.rebuild;

        let keys = route::load(&route.keys)?;
        let signed = Signed::by(&keys, form, &hosts, self.valid)?;
        // Writes no file that an agent would refuse. The check uses the signed bytes, like the agent.
        let form: Form =
            serde_json::from_slice(&signed.body).map_err(|err| Fault::Host { act: "read the request again", source: err.into() })?;
        Envelope::of(&form)?;
        if form.reads()?.is_none() {
            Request::try_from(&form)?;
        }
        std::fs::write(&self.out, &signed.body).map_err(|source| Fault::Disk { act: "write", path: self.out.clone(), source })?;
        let url = route.url.map_or_else(|| format!("https://{}:8443", hosts[0]), |url| url.to_string());
        out.data(&if self.curl {
            render::sign::curl(&signed.signatures, &self.out, route.ca.as_deref(), &url)
        } else {
            render::sign::headers(&signed.signatures)
        })?;
        out.words(&render::sign::written(&self.out, &form));
        Ok(Exit::GOOD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_seconds_or_minutes_and_not_too_long() {
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("15m"), Ok(Duration::from_secs(900)));
        for text in ["0s", "16m", "5", "5h", "-1s", "m", "99999999999999999999m"] {
            assert!(time(text).is_err(), "{text} was taken");
        }
    }
}
