//! Log lines whose number outsiders decide: some are written, and the others are counted.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How many are told in a while.
const MOST: u32 = 10;
/// The length of a period.
const WHILE: Duration = Duration::from_secs(10);

/// One kind of line.
pub(super) struct RateLimitedLog(Mutex<State>);

struct State {
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl RateLimitedLog {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(State { since: None, told: 0, untold: 0 }))
    }

    /// Whether to write one more line, with the number of suppressed lines before it.
    pub(super) fn tells(&self) -> Option<u64> {
        self.tells_at(Instant::now())
    }

    fn tells_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.since.is_none_or(|since| now.duration_since(since) >= WHILE) {
            state.since = Some(now);
            state.told = 0;
        }
        if state.told >= MOST {
            state.untold += 1;
            return None;
        }
        state.told += 1;
        Some(std::mem::take(&mut state.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_of_and_counted() {
        let (lines, begin) = (RateLimitedLog::new(), Instant::now());
        let told = |seconds: u64| lines.tells_at(begin + Duration::from_secs(seconds));
        assert_eq!((0..100).filter_map(|_| told(1)).count(), 10);
        assert_eq!(told(12), Some(90));
        assert_eq!(told(12), Some(0));
    }
}
