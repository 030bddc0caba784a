//! `[[issuer]]` of `agent.toml`: who gives CI jobs ID tokens; and what a grant to such jobs must say.

use std::collections::BTreeMap;

use agent_model::grant::Principal;

use super::kinds::{absolute, one_of, parsed, some_list};
use super::reader::{Section, nearest, shown};
use crate::https::check_address;
use crate::trust::{Algorithm, Bind, Issuer, IssuerKind};

/// The kind of each issuer that has a name, by it; nothing where the kind is wrong and complained of.
pub(super) type Kinds = BTreeMap<String, Option<IssuerKind>>;

/// Reads all of them; their names, too, of those that are wrong otherwise, so that a grant to one is not complained of besides.
pub(super) fn read_all(top: &Section<'_>) -> (Vec<Issuer>, Kinds) {
    let (mut issuers, mut kinds) = (Vec::<Issuer>::new(), Kinds::new());
    for section in top.tables("issuer") {
        let name = section.need("name", parsed(parse_name));
        let kind = section.need("kind", one_of(&[("github", IssuerKind::GitHub), ("gitlab", IssuerKind::GitLab)]));
        let url = section.get("url", parsed(parse_url));
        let ca = section.get("ca", absolute);
        let algorithms = section.get("algorithms", some_list("no token could be signed", one_of(&Algorithm::ALL)));
        let bind = section.get("bind", one_of(&[("host", Bind::Host), ("body", Bind::Body)]));
        let Some(name) = name else { continue };
        if kinds.insert(name.clone(), kind).is_some() {
            section.complain("name", "is that of another issuer", "a grant to oidc:NAME must mean one of them");
        }
        let Some(kind) = kind else { continue };
        let url = match (section.has("url"), url) {
            (true, None) => continue,
            (_, url) => url.unwrap_or_else(|| kind.usual_url().to_owned()),
        };
        if let Some(other) = issuers.iter().find(|other| other.url == url) {
            let says = format!("is that of the issuer {} too", other.name);
            section.complain("url", says, "the token says only the address: one issuer each");
        }
        let algorithms = algorithms.unwrap_or_else(|| vec![Algorithm::Rs256]);
        issuers.push(Issuer { name, kind, url, ca, algorithms, bind: bind.unwrap_or(Bind::Host) });
    }
    (issuers, kinds)
}

/// Complains where a grant means jobs of an issuer that is not there, or of projects that others could take over.
pub(super) fn check_grant(section: &Section<'_>, to: &[Principal], claims: &[(String, String)], kinds: &Kinds) {
    for name in to.iter().filter_map(|to| if let Principal::Oidc(name) = to { Some(name) } else { None }) {
        let Some(kind) = kinds.get(name) else {
            let says = format!("names the issuer {:?}, and there is no [[issuer]] of that name", shown(name));
            let hint = match nearest(name, kinds.keys().map(String::as_str)) {
                Some(near) => format!("did you mean \"oidc:{near}\"?"),
                None => format!("add [[issuer]] with name = {:?} and its kind", shown(name)),
            };
            section.complain("to", says, hint);
            continue;
        };
        let Some(wanted) = kind.map(IssuerKind::number_claim).filter(|_| !claims.is_empty()) else { continue };
        let number = claims.iter().find(|(claim, _)| claim == wanted).map(|(_, value)| value);
        if !number.is_some_and(|value| value.bytes().all(|byte| byte.is_ascii_digit())) {
            let says = format!("must have {wanted}, a number: a name that was given up can be taken by somebody else");
            section.complain("claims", says, format!("add {wanted} = \"…\", the number that the CI itself shows"));
        }
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    let fits = (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-');
    if fits { Ok(text.to_owned()) } else { Err(format!("{:?} must be 1 to 32 lower-case letters, digits and hyphens", shown(text))) }
}

/// What `iss` says, to the letter. Whoever could answer there without TLS could make tokens.
fn parse_url(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:/[]".contains(&byte));
    if !text.starts_with("https://") || !plain || check_address(text).is_err() {
        return Err(format!("{:?} is no address that begins with https://", shown(text)));
    }
    if text.ends_with('/') {
        return Err(format!("{:?} must not end with a slash: the token's `iss` has none", shown(text)));
    }
    Ok(text.to_owned())
}
