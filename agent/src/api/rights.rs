//! The rights of callers: for a caller who asks about itself, and for one who inspects the whole set-up.

use std::path::Path;

use agent_model::grant::{Caller, Downgrade, Grant, KeyKinds, Principal, Scope};
use agent_wire::view::{Finding, GrantView, Level, Whoami};
use chrono::{DateTime, Utc};

use crate::settings::https::Material;
use crate::settings::trusted::{self, Open};
use crate::settings::{Agent, Settings};

/// How long before its end a certificate gets a warning: ACME clients renew at a third of 90 days.
const RENEW_DAYS: i64 = 14;

/// The agent's facts about a caller.
pub(super) fn whoami(caller: &Caller, grants: &[Grant]) -> Whoami {
    Whoami {
        caller: caller.to_string(),
        principals: caller.principals(),
        all: caller.needs_no_grant(),
        grants: grants.iter().filter(|grant| grant.means(caller)).map(view).collect(),
    }
}

fn view(grant: &Grant) -> GrantView {
    GrantView {
        to: grant.to.iter().map(Principal::to_string).collect(),
        apps: names(&grant.apps),
        actions: names(&grant.rights),
        refs: grant.refs.as_ref().map(|refs| refs.iter().map(|pattern| pattern.as_str().to_owned()).collect()),
        signatures: grant.signatures,
        claims: grant.claims.clone(),
        downgrade: grant.downgrade == Downgrade::Allowed,
    }
}

fn names<T: ToString>(scope: &Scope<T>) -> Option<Vec<String>> {
    match scope {
        Scope::All => None,
        Scope::Only(items) => Some(items.iter().map(T::to_string).collect()),
    }
}

/// A grant as a sentence.
fn told(grant: &Grant) -> String {
    let to: Vec<String> = grant.to.iter().map(Principal::to_string).collect();
    let list = |scope: Option<Vec<String>>, all: &str| scope.map_or_else(|| all.to_owned(), |items| items.join(", "));
    let mut told =
        format!("{} may {} {}", to.join(" or "), list(names(&grant.rights), "do everything to"), list(names(&grant.apps), "all apps"));
    if let Some(refs) = &grant.refs {
        let refs: Vec<&str> = refs.iter().map(|pattern| pattern.as_str()).collect();
        told += &format!(", from {}", refs.join(", "));
    }
    if grant.signatures > 1 {
        told += &format!(", with {} signatures", grant.signatures);
    }
    match grant.key_kinds {
        KeyKinds::Software => {}
        KeyKinds::Any => told += ", with hardware keys too",
        KeyKinds::Hardware => told += ", with hardware keys only",
    }
    if !grant.claims.is_empty() {
        let claims: Vec<String> = grant.claims.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        told += &format!(", when {}", claims.join(" and "));
    }
    if grant.downgrade == Downgrade::Allowed {
        told += ", and may go back";
    }
    told
}

/// Whether a caller may see all rights: only one who may read every app.
pub(super) fn may_see_all(caller: &Caller, grants: &[Grant]) -> bool {
    let reads_all =
        |grant: &Grant| grant.apps == Scope::All && grant.rights.holds(&agent_model::request::Right::Read) && grant.means(caller);
    caller.needs_no_grant() || grants.iter().any(reads_all)
}

/// `doctor`'s findings about rights, keys and the certificate.
pub(super) fn findings(settings: &Settings, material: &Material, newest: DateTime<Utc>, now: DateTime<Utc>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |what: &str, level: Level, text: String, hint: Option<&str>| {
        findings.push(Finding { app: None, what: what.to_owned(), level, text, hint: hint.map(str::to_owned) });
    };
    let Agent { grants, https, issuers, .. } = &settings.agent;
    for grant in grants {
        find("rights", Level::Good, told(grant), None);
        let named = match &grant.apps {
            Scope::All => &[][..],
            Scope::Only(apps) => apps,
        };
        for app in named.iter().filter(|app| !settings.apps.contains_key(*app)) {
            let text = format!("a grant is for the app {app}, and there is none of that name");
            find("rights", Level::Warning, text, Some("correct apps in the [[grant]] of agent.toml"));
        }
        for to in &grant.to {
            match to {
                Principal::Key(_) | Principal::Oidc(_) if https.is_none() => {
                    let text = format!("{to} is granted something, and the agent does not listen on the network");
                    find("rights", Level::Warning, text, Some(NO_HTTPS));
                }
                Principal::Key(name) if !material.signers.knows(name) => {
                    let text = format!("key:{name} is granted something, and no key of that name is in allowed_signers");
                    find("rights", Level::Warning, text, Some("add its line to allowed_signers, or take it out of the grant"));
                }
                _ => {}
            }
        }
    }
    let Some(https) = https else { return findings };
    let behind = newest.signed_duration_since(now).num_seconds();
    if behind > i64::try_from(agent_wire::form::CLOCK_SKEW).unwrap_or_default() {
        let until = newest.format("%Y-%m-%d %H:%M UTC");
        let text =
            format!("the clock is behind what the journal has seen, by {behind} s: signed requests are refused until it shows {until}");
        let hint = "set it right: timedatectl. Where it is right and was ahead before, wait until then, or stop the agent and move journal.db, with the \
                    files that begin so, out of the state directory: the new one takes nothing that was signed before it began, or before the newest release was made";
        find("clock", Level::Error, text, Some(hint));
    }
    for issuer in issuers {
        find("issuers", Level::Good, format!("oidc:{} comes with a token of {}", issuer.name, issuer.url), None);
    }
    for (principal, key, season) in material.signers.told() {
        let season = season.map(|season| format!(", good {season}")).unwrap_or_default();
        find("keys", Level::Good, format!("key:{principal} signs with {key}{season}"), None);
    }
    if material.revoked.len() > 0 {
        find("keys", Level::Good, format!("{} key(s) are revoked", material.revoked.len()), None);
    }
    let Some(certificate) = &material.certificate else { return findings };
    let left = certificate.not_after.signed_duration_since(now);
    let until = certificate.not_after.format("%Y-%m-%d %H:%M UTC");
    let renew = Some("renew it; the agent takes a new file up by itself");
    match left.num_days() {
        _ if left.num_seconds() < 0 => find("certificate", Level::Error, format!("it was good until {until}"), renew),
        days if days < RENEW_DAYS => find("certificate", Level::Warning, format!("it is good until {until} only"), renew),
        _ => find("certificate", Level::Good, format!("it is good until {until}"), None),
    }
    if !certificate.is_for(https.host.as_str()) {
        let text = format!("it is for {}, and the host is called {}", certificate.names.join(", "), https.host);
        find("certificate", Level::Warning, text, Some("clients that ask for the host by that name will not trust it"));
    }
    findings
}

/// Files of the configuration that users other than root and the agent can change.
pub(super) fn open_files(config_dir: &Path, settings: &Settings) -> Vec<Finding> {
    let finding = |open: Open| Finding { app: None, what: "files".to_owned(), level: Level::Error, text: open.says, hint: Some(open.hint) };
    trusted::look(config_dir, settings).into_iter().map(finding).collect()
}

const NO_HTTPS: &str = "set [https] in agent.toml";

#[cfg(test)]
mod tests {
    use agent_model::grant::Power;

    use super::*;

    #[test]
    fn a_grant_is_told_in_a_sentence() {
        let text = "[[grant]]\nto = [\"key:anna\", \"key:ben\"]\napps = [\"shop\"]\nactions = [\"release\", \"read\"]\ntags = [\"v*\"]\nsignatures = 2\n\
                    keys = \"hardware\"\ndowngrade = true\n[[grant]]\nto = \"unix-group:ops\"\napps = [\"*\"]\nactions = [\"*\"]\n";
        let agent = crate::settings::parse_agent(text);
        let told: Vec<String> = agent.grants.iter().map(told).collect();
        assert_eq!(
            told,
            [
                "key:anna or key:ben may release, read shop, from refs/tags/v*, with 2 signatures, with hardware keys only, and may go back",
                "unix-group:ops may do everything to all apps"
            ]
        );
    }

    #[test]
    fn who_is_not_named_learns_of_no_grant() {
        let agent = crate::settings::parse_agent("[[grant]]\nto = \"unix-user:ben\"\napps = [\"*\"]\nactions = [\"*\"]\n");
        let anna = Caller::Unix { user: "anna".into(), groups: vec!["staff".into()], power: Power::Granted };
        let who = whoami(&anna, &agent.grants);
        assert_eq!((who.caller.as_str(), who.all, who.grants.len()), ("unix:anna", false, 0));
        assert_eq!(who.principals, ["unix-user:anna", "unix-group:staff"]);
        assert!(!may_see_all(&anna, &agent.grants));
    }
}
