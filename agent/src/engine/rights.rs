//! Whether a caller still has a right when the turn of its run comes. A run may wait for hours, and a revoked key or a removed grant must not be
//! carried out.

use agent_model::grant::{Authorised, Caller, missing_grant};
use agent_model::names::AppName;
use agent_model::request::{Act, Refusal, Request, Right};

use super::journal::{CallerProof, Due};
use super::{AppEngine, NotTaken};
use crate::work::{Failure, chain};

/// Checks a caller again. The API implements it, because only the API makes callers.
pub(crate) trait Rights: Send + Sync {
    /// The caller in the form that is kept with the run.
    fn remember(&self, caller: &Caller) -> Option<String>;

    /// Whether the caller of a run may do this now; `None` where an older agent kept too little to tell.
    ///
    /// # Errors
    /// The reason for the refusal.
    fn again(&self, proof: &CallerProof, caller: &str, right: Right, app: &AppName) -> Result<Option<Authorised>, Refusal>;
}

/// A release names the ref that must reach its commit; the grant must allow that ref.
pub(super) fn allows_the_ref(authorised: &Authorised, act: &Act) -> Result<(), NotTaken> {
    if let Act::Release { via: Some(via), .. } | Act::Stage { via: Some(via), .. } = act
        && !authorised.allows_ref(via)
    {
        let refs = authorised.refs().unwrap_or_default().iter().map(|pattern| pattern.as_str().to_owned()).collect();
        return Err(NotTaken::RefNotGranted { caller: authorised.caller().to_string(), reference: via.clone(), refs });
    }
    Ok(())
}

impl AppEngine {
    /// Checks the caller again when a run's turn has come, by the current keys and grants.
    pub(super) fn may_still(&self, due: &Due, request: &Request) -> Result<Option<Authorised>, Failure> {
        let right = request.act.right();
        let waited = "while it waited for its turn";
        let again = self.rights.again(&due.proof, &due.caller, right, &self.name).map_err(|refusal| {
            let failure = Failure::new(format!("{waited}: {refusal}"));
            match refusal {
                Refusal::NotAllowed { .. } => failure.with_hint(missing_grant(&due.caller, self.name.as_str(), right)),
                _ => failure,
            }
        })?;
        if let Some(authorised) = &again {
            allows_the_ref(authorised, &request.act).map_err(|err| Failure::new(format!("{waited}: {}", chain(&err))))?;
        }
        Ok(again)
    }
}
