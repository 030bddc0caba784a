//! When an issuer is asked for its keys, and for how long they are believed: often enough that a new key is known soon, and never so often that
//! strangers could make the agent hammer the issuer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::jwks::Keys;

/// How long keys are used without asking again, unless the issuer says a shorter time.
pub(crate) const FRESH: Duration = Duration::from_secs(60 * 60);
/// How long they are used at the most while the issuer cannot be asked.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// The least time between two askings while there are keys: whoever makes up names of keys causes no more.
pub(crate) const BETWEEN: Duration = Duration::from_secs(60);
/// The same while there are none.
pub(crate) const BETWEEN_EMPTY: Duration = Duration::from_secs(10);

/// What is known of one issuer's keys.
#[derive(Debug, Default)]
pub(crate) struct Keyring {
    held: Option<Held>,
    asked: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    keys: Arc<Keys>,
    since: Instant,
    fresh: Duration,
}

/// What to do for a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Check it with these, whether its key is among them or not.
    Use(Arc<Keys>),
    /// Ask the issuer first.
    Ask,
    /// There are no keys, and the issuer was asked a moment ago.
    Wait,
}

impl Keyring {
    /// What to do for a token that says it was made with the key `kid`.
    pub(crate) fn next(&self, kid: &str, now: Instant) -> Next {
        let held = self.held.as_ref().filter(|held| now.saturating_duration_since(held.since) < KEPT);
        if let Some(held) = held
            && now.saturating_duration_since(held.since) < held.fresh
            && held.keys.get(kid).is_some()
        {
            return Next::Use(held.keys.clone());
        }
        let pause = if held.is_some() { BETWEEN } else { BETWEEN_EMPTY };
        match held {
            _ if self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= pause) => Next::Ask,
            Some(held) => Next::Use(held.keys.clone()),
            None => Next::Wait,
        }
    }

    /// The issuer was asked, whatever came of it.
    pub(crate) fn asked(&mut self, now: Instant) {
        self.asked = Some(now);
    }

    /// It answered with these, which are good for `fresh` by its own word.
    pub(crate) fn answered(&mut self, keys: Keys, fresh: Option<Duration>, now: Instant) {
        self.held = Some(Held { keys: Arc::new(keys), since: now, fresh: fresh.unwrap_or(FRESH).min(FRESH) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(kid: &str) -> Keys {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        Keys::parse(format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":{kid:?},"x":{x:?}}}]}}"#).as_bytes()).unwrap()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn holding(fresh: Option<Duration>, now: Instant) -> Keyring {
        let mut ring = Keyring::default();
        assert_eq!(ring.next("a", now), Next::Ask);
        ring.asked(now);
        ring.answered(keys("a"), fresh, now);
        ring
    }

    #[test]
    fn keys_are_used_for_an_hour_or_for_the_shorter_time_that_the_issuer_says() {
        let now = Instant::now();
        let used = Next::Use(Arc::new(keys("a")));
        for (fresh, until) in [(None, 3600), (Some(seconds(300)), 300), (Some(seconds(86_400)), 3600), (Some(seconds(0)), 60)] {
            let ring = holding(fresh, now);
            assert_eq!(ring.next("a", now + seconds(until - 1)), used, "{fresh:?}");
            assert_eq!(ring.next("a", now + seconds(until)), Next::Ask, "{fresh:?}");
        }
    }

    #[test]
    fn a_key_that_is_not_known_causes_one_asking_a_minute() {
        let now = Instant::now();
        let mut ring = holding(None, now);
        let used = Next::Use(Arc::new(keys("a")));
        assert_eq!(ring.next("x", now + seconds(59)), used);
        assert_eq!(ring.next("x", now + seconds(60)), Next::Ask);
        ring.asked(now + seconds(60));
        assert_eq!(ring.next("y", now + seconds(119)), used);
        assert_eq!(ring.next("y", now + seconds(120)), Next::Ask);
    }

    #[test]
    fn an_issuer_that_is_down_is_believed_for_a_day_and_asked_once_a_minute() {
        let now = Instant::now();
        let mut ring = holding(None, now);
        let used = Next::Use(Arc::new(keys("a")));
        let last = now + seconds(86_399);
        assert_eq!(ring.next("a", last), Next::Ask);
        ring.asked(last);
        assert_eq!(ring.next("a", last), used);
        assert_eq!(ring.next("a", now + seconds(86_400)), Next::Wait);
    }

    #[test]
    fn an_issuer_that_never_answered_is_asked_again_in_ten_seconds() {
        let now = Instant::now();
        let mut ring = Keyring::default();
        ring.asked(now);
        assert_eq!(ring.next("a", now + seconds(9)), Next::Wait);
        assert_eq!(ring.next("a", now + seconds(10)), Next::Ask);
    }
}
