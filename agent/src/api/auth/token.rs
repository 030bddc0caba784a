//! Identifies a CI job by the ID token from its issuer: `Authorization: Bearer` beside the body of the request. The token names this host, and may
//! name this body. The agent fetches the issuer's keys when they are needed, and keeps them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agent_model::grant::Caller;
use agent_model::request::Act;
use agent_wire::form::{Form, NotNow};
use axum::http::{HeaderMap, Method};
use chrono::{DateTime, Utc};
use parking_lot::Mutex;
use thiserror::Error;

use super::ticket;
use crate::api::ApiState;
use crate::api::answer::Refused;
use crate::api::rate_limited_log::RateLimitedLog;
use crate::https::{Call, CallError, Reply, Roots, proxies};
use crate::trust::{BadKeys, BadToken, CiJob, Here, Issuer, Jwt, Keyring, Keys, MOST_KEYS_BYTES, Next, place_of_keys};
use crate::work::chain;

/// How long an issuer may take to return its keys, including the document that says where they are.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why the caller is unknown. The reason goes to the log, never to the client.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(in crate::api) enum Unproven {
    /// The token is not valid.
    #[error(transparent)]
    Token(#[from] BadToken),
    /// There is not exactly one token.
    #[error("it has not exactly one Authorization header with one Bearer token")]
    NotOne,
    /// This host has no name for a token to name.
    #[error("it has an ID token, and this host has no name in [https] that one could be for")]
    NoHost,
    /// The token cannot be judged, because the issuer does not return its keys.
    #[error("the keys of the issuer {0} are not known, and it was asked a moment ago")]
    NoKeys(String),
}

/// The caller by the ID token of a request, and the job that the token names.
pub(in crate::api) async fn caller(
    state: &ApiState,
    headers: &HeaderMap,
    body: &[u8],
    now: DateTime<Utc>,
) -> Result<(Caller, CiJob), Unproven> {
    let token = ticket::bearer(headers).ok_or(Unproven::NotOne)?;
    let agent = &state.settings.settings().agent;
    let host = agent.https.as_ref().map(|https| &https.host).ok_or(Unproven::NoHost)?;
    let now = u64::try_from(now.timestamp()).unwrap_or_default();
    state.tokens.prove(&agent.issuers, token, Here { host, body, now }).await
}

/// Whether a job may send this request, regardless of its grants. The job may only release a commit and ref that it runs for. A token older than the
/// journal's memory may have started a run before.
pub(in crate::api) fn check_request(job: &CiJob, form: &Form, act: &Act, not_before: u64) -> Result<(), Refused> {
    if job.issued < not_before {
        return Err(NotNow::TooOld.into());
    }
    match act {
        Act::Release { .. } | Act::Stage { .. } => Ok(job.is_of(form.commit.as_deref(), form.revision.as_deref())?),
        _ => Ok(()),
    }
}

/// The keys of the issuers, as far as they were needed.
#[derive(Clone, Default)]
pub(in crate::api) struct Tokens(Arc<Mutex<BTreeMap<String, Arc<Source>>>>);

/// One issuer and its keys.
struct Source {
    issuer: Issuer,
    ring: Mutex<Keyring>,
    /// Held during a fetch, so that many concurrent requests cause one fetch.
    asking: tokio::sync::Mutex<()>,
}

impl Tokens {
    /// The caller by this token, and the job that it names: a release must be one of the job's own commit and ref.
    ///
    /// # Errors
    /// [`Unproven`]
    async fn prove(&self, issuers: &[Issuer], token: &str, here: Here<'_>) -> Result<(Caller, CiJob), Unproven> {
        let token = Jwt::parse(token)?;
        let source = self.source(issuers, token.claimed_issuer()?)?;
        // Checked before any fetch.
        token.algorithm(&source.issuer.algorithms)?;
        let keys = source.keys(token.kid()).await?;
        let job = source.issuer.verify(token, &keys, here)?;
        static UNUSUAL: RateLimitedLog = RateLimitedLog::new();
        if !job.unusual.is_empty() && UNUSUAL.tells().is_some() {
            let unusual: Vec<&str> = job.unusual.iter().map(String::as_str).collect();
            tracing::info!("a job of {} is unusual: only a grant that names {} means it", job.subject, unusual.join(" and "));
        }
        let caller = Caller::Token {
            issuer: source.issuer.name.clone(),
            subject: job.subject.clone(),
            claims: job.claims.clone(),
            unusual: job.unusual.clone(),
            id: job.id.clone(),
        };
        Ok((caller, job))
    }

    /// The known keys of the issuer at `url`. An issuer with changed settings counts as another one.
    fn source(&self, issuers: &[Issuer], url: &str) -> Result<Arc<Source>, BadToken> {
        let issuer = issuers.iter().find(|issuer| issuer.url == url).ok_or_else(|| BadToken::unknown_issuer(url))?;
        let mut sources = self.0.lock();
        sources.retain(|_, source| issuers.contains(&source.issuer));
        let source = sources.entry(issuer.name.clone()).or_insert_with(|| {
            let (issuer, ring, asking) = (issuer.clone(), Mutex::default(), tokio::sync::Mutex::default());
            Arc::new(Source { issuer, ring, asking })
        });
        Ok(source.clone())
    }
}

impl Source {
    /// The keys to check a token with the key id `kid`.
    async fn keys(self: &Arc<Self>, kid: &str) -> Result<Arc<Keys>, Unproven> {
        if let Some(known) = self.known(kid) {
            return known;
        }
        let (source, wanted) = (self.clone(), kid.to_owned());
        // A task of its own: a client that leaves meanwhile does not abort the fetch for the others.
        let asked = tokio::spawn(async move {
            let _asking = source.asking.lock().await;
            // Another request may have fetched while this one waited.
            if source.known(&wanted).is_none() {
                source.ask().await;
            }
        });
        // A task that panicked has brought no keys, and that shows below.
        let _ = asked.await;
        self.known(kid).unwrap_or_else(|| Err(self.has_no_keys()))
    }

    fn has_no_keys(&self) -> Unproven {
        Unproven::NoKeys(self.issuer.name.clone())
    }

    /// The answer without a fetch, if there is one.
    fn known(&self, kid: &str) -> Option<Result<Arc<Keys>, Unproven>> {
        match self.ring.lock().next(kid, Instant::now()) {
            Next::Use(keys) => Some(Ok(keys)),
            Next::Wait => Some(Err(self.has_no_keys())),
            Next::Ask => None,
        }
    }

    async fn ask(&self) {
        let fetched = tokio::time::timeout(DEADLINE, fetch(&self.issuer)).await.unwrap_or(Err(Unfetched::Late));
        // Not before it answered: whoever comes meanwhile waits for that, too.
        self.ring.lock().asked(Instant::now());
        match fetched {
            Ok((keys, fresh)) => {
                tracing::debug!(issuer = self.issuer.name, "its keys were fetched");
                self.ring.lock().answered(keys, fresh, Instant::now());
            }
            Err(err) => tracing::warn!("the issuer {} does not say its keys: {}", self.issuer.name, chain(&err)),
        }
    }
}

/// Why the keys of an issuer could not be fetched.
#[derive(Debug, Error)]
enum Unfetched {
    #[error("it took longer than {} s", DEADLINE.as_secs())]
    Late,
    /// There was no reply.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The reply is not a success; redirects are not followed.
    #[error("{document} is answered with the status {status}")]
    Status {
        /// The name of the document in messages.
        document: &'static str,
        status: u16,
    },
    /// The reply is of no use.
    #[error("{document} {source}")]
    Document {
        /// The name of the document in messages.
        document: &'static str,
        source: BadKeys,
    },
}

/// The keys, and how long they are valid by the issuer's own word.
async fn fetch(issuer: &Issuer) -> Result<(Keys, Option<Duration>), Unfetched> {
    let bad = |document| move |source| Unfetched::Document { document, source };
    let document = "its discovery document";
    let discovery = get(issuer, issuer.discovery(), document).await?;
    let place = place_of_keys(&issuer.url, &discovery.body).map_err(bad(document))?;
    let document = "its key set";
    let set = get(issuer, place, document).await?;
    let keys = Keys::parse(&set.body).map_err(bad(document))?;
    Ok((keys, set.header("cache-control").and_then(max_age)))
}

async fn get(issuer: &Issuer, url: String, document: &'static str) -> Result<Reply, Unfetched> {
    let roots = issuer.ca.clone().map_or(Roots::System, Roots::File);
    let headers = vec![("accept", "application/json".to_owned())];
    let (timeout, most_bytes) = (DEADLINE, MOST_KEYS_BYTES);
    let reply = Call { method: Method::GET, url, headers, body: Vec::new(), timeout, most_bytes, roots, proxies: proxies() }.send().await?;
    if reply.status == 200 { Ok(reply) } else { Err(Unfetched::Status { document, status: reply.status }) }
}

/// How long a reply may be kept (RFC 9111, section 5.2.2); `None` when it does not say.
fn max_age(header: &str) -> Option<Duration> {
    let directives = || header.split(',').map(|directive| directive.trim().to_ascii_lowercase());
    if directives().any(|directive| directive == "no-store" || directive == "no-cache") {
        return Some(Duration::ZERO);
    }
    let seconds = directives().find_map(|directive| directive.strip_prefix("max-age=").map(str::to_owned))?;
    seconds.trim_matches('"').parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::{Bind, IssuerKind};

    fn issuer(url: &str, ca: Option<&str>) -> Issuer {
        let (name, url, ca) = ("ci".to_owned(), url.to_owned(), ca.map(Into::into));
        Issuer { name, kind: IssuerKind::GitHub, url, ca, algorithms: Vec::new(), bind: Bind::Host }
    }

    #[tokio::test]
    async fn keys_that_are_held_serve_while_the_issuer_is_down_and_no_longer_than_a_day() {
        // Port 1 (tcpmux) has no listener.
        let down = "https://127.0.0.1:1";
        let tokens = Tokens::default();
        let source = tokens.source(&[issuer(down, None)], down).unwrap();
        let hours = |hours: u64| Instant::now().checked_sub(Duration::from_secs(hours * 3600)).unwrap();
        let keys =
            || Keys::parse(br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#);
        for (since, known) in [(2, true), (25, false)] {
            let mut ring = Keyring::default();
            ring.asked(hours(since));
            ring.answered(keys().unwrap(), None, hours(since));
            *source.ring.lock() = ring;
            assert_eq!(source.keys("a").await.ok(), known.then(|| Arc::new(keys().unwrap())), "after {since} hours");
        }
    }

    #[test]
    fn how_long_a_reply_may_be_kept() {
        for (header, seconds) in [
            ("max-age=300", Some(300)),
            ("public, max-age=600, must-revalidate", Some(600)),
            ("Max-Age=\"5\"", Some(5)),
            ("no-store, max-age=600", Some(0)),
            ("no-cache", Some(0)),
            ("public", None),
            ("s-maxage=3", None),
            ("max-age=x", None),
            ("", None),
        ] {
            assert_eq!(max_age(header), seconds.map(Duration::from_secs), "{header}");
        }
    }

    #[test]
    fn what_is_known_of_an_issuer_is_forgotten_when_it_is_set_differently() {
        let tokens = Tokens::default();
        let (own, other_ca) = (issuer("https://a", None), issuer("https://a", Some("/ca.pem")));
        let first = tokens.source(std::slice::from_ref(&own), "https://a").unwrap();
        let again = tokens.source(std::slice::from_ref(&own), "https://a").unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let changed = tokens.source(std::slice::from_ref(&other_ca), "https://a").unwrap();
        assert!(!Arc::ptr_eq(&first, &changed));
        assert!(tokens.source(&[own], "https://a/").is_err());
    }
}
