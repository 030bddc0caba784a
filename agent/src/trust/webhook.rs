//! Webhooks: what a forge or a registry sends when something may have changed there, and how each proves that it comes from whom the operator gave
//! the secret to. What a webhook says is never read; only whether its bytes are those that were signed.
//!
//! | source | proof |
//! |---|---|
//! | `github` | `X-Hub-Signature-256: sha256=<hex>`, the code of the body (GitHub, "Validating webhook deliveries"); it has no time in it |
//! | `gitlab`, `generic` | `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,<base64>`, the code of `id.timestamp.body` (Standard Webhooks 1.0) |
//! | `gitlab-token` | `X-Gitlab-Token` is the secret itself |
//! | `docker-hub` | the last part of the address is the secret itself; nothing else is there to be checked |

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::hmac::{CODE_BYTES, Code, Secret};

/// Where a webhook comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// GitHub, and what signs as it does.
    Github,
    /// GitLab with a signing token.
    Gitlab,
    /// GitLab with a secret token, which it sends as it is.
    GitlabToken,
    /// Docker Hub, which signs nothing.
    DockerHub,
    /// Whatever keeps to Standard Webhooks.
    Generic,
}

impl Source {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::Github, Self::Gitlab, Self::GitlabToken, Self::DockerHub, Self::Generic];

    /// The word for it: in settings, addresses and callers.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::GitlabToken => "gitlab-token",
            Self::DockerHub => "docker-hub",
            Self::Generic => "generic",
        }
    }

    /// The source that a word means.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.word() == word)
    }

    /// The secret that stands in a text, as each source wants it.
    ///
    /// # Errors
    /// Why it is none, in words that repeat nothing of it.
    pub(crate) fn secret(self, text: &str) -> Result<Secret, &'static str> {
        let text = text.trim();
        if text.is_empty() {
            return Err("is empty: without a secret anybody could send webhooks");
        }
        if text.lines().nth(1).is_some() {
            return Err("must hold one secret on one line");
        }
        if !text.bytes().all(|byte| (b'!'..=b'~').contains(&byte)) {
            return Err("must hold a secret of ASCII characters without spaces");
        }
        let bytes = match self {
            Self::Gitlab | Self::Generic => {
                let key = text.strip_prefix(KEY_PREFIX).ok_or("must hold a key as whsec_ followed by base64 (Standard Webhooks)")?;
                STANDARD.decode(key).map_err(|_| "holds something else than base64 behind whsec_")?
            }
            Self::DockerHub if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)) => {
                return Err("must hold a secret of letters, digits, hyphens, dots, underscores and tildes: it is part of an address");
            }
            Self::Github | Self::GitlabToken | Self::DockerHub => text.as_bytes().to_vec(),
        };
        Secret::new(bytes).ok_or("holds a secret of fewer than 16 bytes, which can be guessed; openssl rand -hex 32 makes one")
    }
}

/// What a key of Standard Webhooks begins with.
const KEY_PREFIX: &str = "whsec_";
/// How far the clock of a sender may be from ours, in seconds, both ways (Standard Webhooks leaves the number open; its libraries have this one).
const CLOCK_SKEW: u64 = 5 * 60;
/// The most signatures of one webhook: enough for every key of a rotation.
const MOST_SIGNATURES: usize = 8;

/// A webhook whose headers say that it can be proven; whether it is hangs on its body and the secrets.
pub(crate) struct Claim(WebhookProof);

enum WebhookProof {
    /// Codes of what stands before the body, and the body.
    Codes { before: Vec<u8>, codes: Vec<[u8; CODE_BYTES]> },
    /// The secret itself.
    Secret(Vec<u8>),
}

impl Claim {
    /// Reads it from the headers, of which `header` gives those that came exactly once; `in_address` is the secret in the address, and `now` is in
    /// seconds since 1970 UTC. Nothing when it cannot be one.
    pub(crate) fn of<'h>(
        source: Source,
        header: impl Fn(&'static str) -> Option<&'h str>,
        in_address: Option<&str>,
        now: u64,
    ) -> Option<Self> {
        let proof = match (source, in_address) {
            // Signatures by SHA-1 (`X-Hub-Signature`) are never looked at.
            (Source::Github, None) => {
                let code = hex(header("x-hub-signature-256")?.strip_prefix("sha256=")?)?;
                WebhookProof::Codes { before: Vec::new(), codes: vec![code] }
            }
            (Source::Gitlab | Source::Generic, None) => {
                let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
                // The dot is what divides: an id with one could be taken for another id and another time.
                let fits = (1..=256).contains(&id.len()) && !id.contains('.');
                let at = decimal(timestamp)?;
                if !fits || at.abs_diff(now) > CLOCK_SKEW {
                    return None;
                }
                let signatures = header("webhook-signature")?.split(' ').take(MOST_SIGNATURES);
                let codes = signatures.filter_map(|signature| STANDARD.decode(signature.strip_prefix("v1,")?).ok()?.try_into().ok());
                WebhookProof::Codes { before: format!("{id}.{timestamp}.").into_bytes(), codes: codes.collect() }
            }
            (Source::GitlabToken, None) => WebhookProof::Secret(header("x-gitlab-token")?.as_bytes().to_vec()),
            (Source::DockerHub, Some(secret)) => WebhookProof::Secret(secret.as_bytes().to_vec()),
            _ => return None,
        };
        Some(Self(proof))
    }

    /// Begins to listen to the body. Without any secret it is listened to all the same: how long an answer takes tells nobody what is set.
    pub(crate) fn listen<'s>(self, secrets: impl Iterator<Item = &'s Secret>) -> Listening {
        let secrets: Vec<&Secret> = secrets.collect();
        match self.0 {
            WebhookProof::Secret(known) => {
                let known = secrets.iter().fold(false, |is_one, secret| is_one | secret.is(&known));
                Listening { ears: Vec::new(), codes: Vec::new(), known }
            }
            WebhookProof::Codes { before, codes } => {
                let mut ears: Vec<Code> = secrets.iter().map(|secret| secret.code()).collect();
                let codes = if ears.is_empty() {
                    ears.extend(Secret::new(DECOY).map(|decoy| decoy.code()));
                    Vec::new()
                } else {
                    codes
                };
                ears.iter_mut().for_each(|ear| ear.hear(&before));
                Listening { ears, codes, known: false }
            }
        }
    }
}

/// Stands in where there is no secret. What it makes is compared with nothing.
const DECOY: [u8; CODE_BYTES] = [0; CODE_BYTES];

/// A claim whose body is being read.
pub(crate) struct Listening {
    /// One for each secret.
    ears: Vec<Code>,
    codes: Vec<[u8; CODE_BYTES]>,
    known: bool,
}

impl Listening {
    /// Hears one more piece of the body.
    pub(crate) fn hear(&mut self, piece: &[u8]) {
        self.ears.iter_mut().for_each(|ear| ear.hear(piece));
    }

    /// Whether the sender knows one of the secrets, now that the whole body was heard.
    pub(crate) fn proven(self) -> bool {
        let codes = self.codes;
        // All are asked, for the same reason.
        self.ears.into_iter().fold(self.known, |proven, ear| proven | ear.fits_one_of(&codes))
    }
}

fn hex(text: &str) -> Option<[u8; CODE_BYTES]> {
    let digits: Vec<u8> = text.chars().map(|char| char.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect::<Option<_>>()?;
    if digits.len() != 2 * CODE_BYTES {
        return None;
    }
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<u8>>().try_into().ok()
}

/// A number written as any program would write it: no sign, no leading zero.
fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
