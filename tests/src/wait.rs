//! Waiting for what will be, with an end. Nothing here stands for an order of events: a test waits until it has seen what it needs.

use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Waits until `look` finds something, and fails the test with `what` when it has not after `most`.
#[track_caller]
pub fn wait_for<T>(what: &str, most: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + most;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {} s in vain for this: {what}", most.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until `holds` says so, and fails the test with `what` when it has not after `most`.
#[track_caller]
pub fn wait_until(what: &str, most: Duration, mut holds: impl FnMut() -> bool) {
    wait_for(what, most, || holds().then_some(()));
}

/// A port of the loopback interface that nobody listens on at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("the loopback interface has a free port").port()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_late_is_seen_and_what_never_comes_is_named() {
        let mut looks = 0;
        let found = wait_for("the third look", Duration::from_secs(10), || {
            looks += 1;
            (looks == 3).then_some("there")
        });
        assert_eq!(found, "there");
        let failed = std::panic::catch_unwind(|| wait_until("a cow jumps", Duration::ZERO, || false)).unwrap_err();
        let text = failed.downcast_ref::<String>().map_or("", String::as_str);
        assert!(text.contains("a cow jumps"), "{text}");
    }
}
