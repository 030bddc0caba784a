//! Visitors at a fixed rate, whatever they meet: one in a hundred asks for the slow path, one in ten posts to the other one, one in
//! five comes over a connection that stays open. They come until standard input ends; then one line of JSON tells what they met. For tests/bench.
//!
//! ```text
//! visitors SOCKET PER-SECOND PATH SLOW-PATH
//! ```
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::io;
use std::time::Duration;

use agent_tests::{Load, Met, Rate};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [socket, per_second, path, slow_path] = words.as_slice() else { return Err("see the top of tests/src/bin/visitors.rs".into()) };
    let rate = Rate { socket: socket.into(), per_second: per_second.parse()?, path: path.clone(), slow_path: slow_path.clone() };
    let load = Load::begin(rate);
    io::copy(&mut io::stdin(), &mut io::sink())?;
    let visits = load.end();
    let met = Met::of(&visits);
    let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let why = visits.iter().filter(|visit| visit.is_lost()).map(|visit| format!("{:?}", visit.result)).next();
    println!(
        "{}",
        json!({
            "visits": met.visits, "kept": met.kept, "slow": met.slow, "lost": met.lost, "first_lost": why, "median_ms": ms(met.median),
            "p99_ms": ms(met.p99), "slowest_ms": ms(met.slowest), "slowest_slow_ms": ms(met.slowest_slow), "silence_ms": ms(met.silence),
            "releases": met.releases,
        })
    );
    Ok(())
}
