//! Checks a caller again later: a run waits for its turn, and a token is used after a while. The proof is kept with the run, and is compared with the
//! keys, grants and issuers then in force.

use std::collections::{BTreeMap, BTreeSet};

use agent_model::grant::{Authorised, Caller, Power, authorise};
use agent_model::names::AppName;
use agent_model::request::{Refusal, Right};
use agent_wire::sshsig::Sshsig;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::signed;
use crate::engine::Rights;
use crate::engine::journal::CallerProof;
use crate::settings::watch::InForce;
use crate::work::chain;

/// The stored form of a caller. It contains no keys, because the signatures name them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kept {
    Unix { user: String, groups: Vec<String>, own: bool },
    Keys,
    Token { issuer: String, subject: String, claims: BTreeMap<String, String>, unusual: BTreeSet<String>, id: String },
    Webhook { source: String, follows: String },
    Agent,
}

impl From<&Caller> for Kept {
    fn from(caller: &Caller) -> Self {
        match caller.clone() {
            Caller::Unix { user, groups, power } => Self::Unix { user, groups, own: power == Power::Own },
            Caller::Keys(_) => Self::Keys,
            Caller::Token { issuer, subject, claims, unusual, id } => Self::Token { issuer, subject, claims, unusual, id },
            Caller::Webhook { source, follows } => Self::Webhook { source, follows: follows.to_string() },
            Caller::Agent => Self::Agent,
        }
    }
}

/// The caller of a run by the current settings; `None` where an older agent stored too little.
///
/// # Errors
/// [`Refusal::Untrusted`] when the proof would not identify that caller today.
pub(in crate::api) fn caller(
    proof: &CallerProof,
    told: &str,
    app: &AppName,
    in_force: &InForce,
    now: DateTime<Utc>,
) -> Result<Option<Caller>, Refusal> {
    let untrusted = |why: String| Refusal::Untrusted { caller: told.to_owned(), why };
    let Some(kept) = &proof.caller else { return Ok(None) };
    let kept: Kept = serde_json::from_str(kept).map_err(|_| untrusted("its record cannot be read by this agent".to_owned()))?;
    let settings = in_force.settings();
    Ok(Some(match kept {
        Kept::Unix { user, groups, own } => Caller::Unix { user, groups, power: if own { Power::Own } else { Power::Granted } },
        Kept::Keys => {
            let material = in_force.material();
            let signer = |text: &String| {
                let signature = Sshsig::from_base64(text).map_err(|err| untrusted(format!("its signature {err}")))?;
                signed::known(&signature, &material, now).map_err(|err| untrusted(chain(&err)))
            };
            let signers = proof.signatures.iter().map(signer).collect::<Result<Vec<_>, _>>()?;
            if signers.is_empty() {
                return Err(untrusted("its signatures are not in the journal".to_owned()));
            }
            Caller::Keys(signers)
        }
        Kept::Token { issuer, subject, claims, unusual, id } => {
            if !settings.agent.issuers.iter().any(|known| known.name == issuer) {
                return Err(untrusted(format!("agent.toml has no issuer {issuer}")));
            }
            Caller::Token { issuer, subject, claims, unusual, id }
        }
        Kept::Webhook { source, follows } => {
            let set = settings.apps.get(app).filter(|set| set.webhooks.iter().any(|webhook| webhook.from.word() == source));
            let Some(follows) = set.and_then(|set| set.follows.clone()).filter(|now| now.as_str() == follows) else {
                return Err(untrusted(format!("{app} does not follow {follows} by webhooks of {source} any more")));
            };
            Caller::Webhook { source, follows }
        }
        Kept::Agent => Caller::Agent,
    }))
}

/// The current rights, which the engines check when a run's turn has come.
pub(crate) struct InForceRights(pub InForce);

impl Rights for InForceRights {
    fn remember(&self, caller: &Caller) -> Option<String> {
        // Texts of names and lists always serialize. A caller that did not could not be checked again.
        serde_json::to_string(&Kept::from(caller)).ok()
    }

    fn again(&self, proof: &CallerProof, told: &str, right: Right, app: &AppName) -> Result<Option<Authorised>, Refusal> {
        let Some(caller) = caller(proof, told, app, &self.0, Utc::now())? else { return Ok(None) };
        authorise(caller, right, app, &self.0.settings().agent.grants).map(Some)
    }
}
