//! Visitors who come at a fixed rate, whatever they meet.
//!
//! A visit is due at its time. It begins then, even when none before it was answered, and its latency counts from when it was due: a server that
//! stands still for a second is asked no less in that second, and what waits behind it is not forgiven.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{Answer, parse};

/// One visit of so many asks for what takes long.
const SLOW_EVERY: u64 = 100;
/// One visit of so many posts something: what a proxy may ask once, and never again.
const POST_EVERY: u64 = 10;
/// One visit of so many comes over a connection that stays open.
const KEPT_EVERY: u64 = 5;
/// How long an answer may take before it counts as lost.
const MOST: Duration = Duration::from_secs(30);
/// How many threads wait for their visits at the beginning. There is always one that waits: the last one that goes calls another.
const THREADS: usize = 8;
/// A visit needs little; there may be thousands at a time.
const STACK: usize = 128 * 1024;

/// Who comes, and how often.
#[derive(Debug, Clone)]
pub struct Rate {
    /// The Unix socket of the server in front.
    pub socket: PathBuf,
    /// How many visits are due in a second.
    pub per_second: u32,
    /// What they ask for, and one in ten posts to.
    pub path: String,
    /// What one in a hundred asks for.
    pub slow_path: String,
}

impl Rate {
    /// The same, or half of what is answered in a second when eight visitors come again as soon as they were answered, where that is less: of a load
    /// that a machine cannot bear, requests are lost whatever is released meanwhile.
    pub fn within_reach(self) -> Self {
        /// Whoever has just started is slow at first: what is answered in this time does not count.
        const WARM_UP: Duration = Duration::from_secs(1);
        const MEASURED: Duration = Duration::from_secs(2);
        let shared = Shared::new(self);
        let from = shared.begun + WARM_UP;
        let until = from + MEASURED;
        let answered: usize = std::thread::scope(|scope| {
            let visitors: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| shared.answered_between(from, until))).collect();
            visitors.into_iter().map(|visitor| visitor.join().expect("a visit does not panic")).sum()
        });
        let half = u32::try_from(answered).unwrap_or(u32::MAX) / u32::try_from(MEASURED.as_secs()).unwrap_or(1) / 2;
        let per_second = shared.rate.per_second.min(half.max(1));
        Self { per_second, ..shared.rate }
    }
}

/// What the visit asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// As quick as the server can.
    Quick,
    /// The same, by POST.
    Posted,
    /// It takes its time.
    Slow,
}

/// What a visit comes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// A connection of its own.
    New,
    /// A connection that stays open from visit to visit.
    Kept,
}

/// One visit, and what became of it.
#[derive(Debug, Clone)]
pub struct Visit {
    /// What it asked for.
    pub kind: RequestKind,
    /// What it came over.
    pub over: Over,
    /// When it was due.
    pub due: Instant,
    /// When it began.
    pub sent: Instant,
    /// When it was answered, or known to be lost.
    pub answered: Instant,
    /// The status, or why there is none.
    pub result: Result<u16, String>,
    /// The release that answered.
    pub release: Option<String>,
}

impl Visit {
    /// From when it was due until it was answered.
    pub fn latency(&self) -> Duration {
        self.answered - self.due
    }

    /// Whether the visitor did not get what he came for.
    pub fn is_lost(&self) -> bool {
        self.result != Ok(200)
    }
}

/// Visitors on their way.
#[derive(Debug)]
pub struct Load(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rate: Rate,
    begun: Instant,
    next: AtomicU64,
    /// How many threads wait until their visit is due.
    waiting: AtomicUsize,
    ended: OnceLock<Instant>,
    kept: Mutex<VecDeque<UnixStream>>,
    visits: Mutex<Vec<Visit>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Load {
    /// They come from now on.
    pub fn begin(rate: Rate) -> Self {
        let shared = Arc::new(Shared::new(rate));
        (0..THREADS).for_each(|_| shared.call());
        Self(shared)
    }

    /// No visit is due any more. Answers, in the order in which they were due, with all that were, when the last one is over.
    pub fn end(self) -> Vec<Visit> {
        self.0.ended.get_or_init(Instant::now);
        while let Some(thread) = { lock(&self.0.threads).pop() } {
            thread.join().expect("a visit does not panic");
        }
        let mut visits = std::mem::take(&mut *lock(&self.0.visits));
        visits.sort_by_key(|visit| visit.due);
        visits
    }
}

impl Shared {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            begun: Instant::now(),
            next: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            ended: OnceLock::new(),
            kept: Mutex::default(),
            visits: Mutex::default(),
            threads: Mutex::default(),
        }
    }

    /// One visitor comes again and again; tells how often he got what he came for between these moments.
    fn answered_between(&self, from: Instant, until: Instant) -> usize {
        let visits = std::iter::from_fn(|| Some(self.visit(1, Instant::now())).filter(|visit| visit.answered < until));
        visits.filter(|visit| visit.answered >= from && !visit.is_lost()).count()
    }

    /// Calls one more thread.
    fn call(self: &Arc<Self>) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(self);
        let spawned = std::thread::Builder::new().stack_size(STACK).spawn(move || shared.visit_on());
        match spawned {
            Ok(thread) => lock(&self.threads).push(thread),
            // Visits are late from here on, and their latency says so.
            Err(_) => drop(self.waiting.fetch_sub(1, Ordering::SeqCst)),
        }
    }

    fn visit_on(self: Arc<Self>) {
        loop {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let due = self.begun + Duration::from_nanos(number.saturating_mul(1_000_000_000 / u64::from(self.rate.per_second.max(1))));
            if !self.await_due(due) {
                return;
            }
            if self.waiting.fetch_sub(1, Ordering::SeqCst) == 1 {
                self.call();
            }
            let visit = self.visit(number, due);
            lock(&self.visits).push(visit);
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Whether the visit is to be made: not when the load has ended before it was due.
    fn await_due(&self, due: Instant) -> bool {
        const POLL: Duration = Duration::from_millis(100);
        loop {
            if self.ended.get().is_some_and(|ended| *ended <= due) {
                return false;
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(POLL));
        }
    }

    fn visit(&self, number: u64, due: Instant) -> Visit {
        let kind = match number {
            number if number % SLOW_EVERY == SLOW_EVERY / 2 => RequestKind::Slow,
            number if number % POST_EVERY == POST_EVERY / 3 => RequestKind::Posted,
            _ => RequestKind::Quick,
        };
        // Of the slow ones, every fifth as well.
        let over = if (number + number / SLOW_EVERY).is_multiple_of(KEPT_EVERY) { Over::Kept } else { Over::New };
        let sent = Instant::now();
        let answer = self.ask(kind, over);
        let answered = Instant::now();
        let release = answer.as_ref().ok().and_then(|answer| answer.header("x-release")).map(str::to_owned);
        let result = answer.map(|answer| answer.status).map_err(|err| err.to_string());
        Visit { kind, over, due, sent, answered, result, release }
    }

    fn ask(&self, kind: RequestKind, over: Over) -> io::Result<Answer> {
        let (method, path) = match kind {
            RequestKind::Quick => ("GET", &self.rate.path),
            RequestKind::Posted => ("POST", &self.rate.path),
            RequestKind::Slow => ("GET", &self.rate.slow_path),
        };
        let kept = if over == Over::Kept { lock(&self.kept).pop_front() } else { None };
        let mut stream = kept.map_or_else(|| self.connect(), Ok)?;
        let connection = if over == Over::Kept { "keep-alive" } else { "close" };
        stream.write_all(
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\nContent-Length: 0\r\n\r\n").as_bytes(),
        )?;
        let answer = read_answer(&mut stream)?;
        if over == Over::Kept && answer.header("connection") != Some("close") {
            lock(&self.kept).push_back(stream);
        }
        Ok(answer)
    }

    fn connect(&self) -> io::Result<UnixStream> {
        let stream = UnixStream::connect(&self.rate.socket)?;
        stream.set_read_timeout(Some(MOST))?;
        stream.set_write_timeout(Some(MOST))?;
        Ok(stream)
    }
}

/// Reads one answer, which says its own length or ends with its connection.
fn read_answer(stream: &mut UnixStream) -> io::Result<Answer> {
    let mut bytes = Vec::with_capacity(1024);
    let mut chunk = [0; 4096];
    loop {
        let count = stream.read(&mut chunk)?;
        bytes.extend_from_slice(&chunk[..count]);
        let answer = parse(&bytes);
        let says_length = |answer: &Answer| answer.header("content-length").or_else(|| answer.header("transfer-encoding")).is_some();
        match answer {
            Some(answer) if count == 0 || says_length(&answer) => return Ok(answer),
            None if count == 0 => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the answer ended after {} bytes", bytes.len())));
            }
            _ => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What many visits come to.
#[derive(Debug, Clone, PartialEq)]
pub struct Met {
    /// How many visits there were.
    pub visits: usize,
    /// How many came over connections that stay open.
    pub kept: usize,
    /// How many asked for what takes long.
    pub slow: usize,
    /// How many were lost.
    pub lost: usize,
    /// The latency that half of the quick visits did not exceed.
    pub median: Duration,
    /// The latency that 99 of 100 quick visits did not exceed.
    pub p99: Duration,
    /// The longest latency of a quick visit.
    pub slowest: Duration,
    /// The longest latency of a slow visit.
    pub slowest_slow: Duration,
    /// The longest time without any answer, from the first one until nobody was due any more.
    pub silence: Duration,
    /// How often each release answered.
    pub releases: BTreeMap<String, u32>,
}

impl Met {
    /// Sums them up; they are in the order in which they were due.
    pub fn of(visits: &[Visit]) -> Self {
        let latencies = |is: fn(&RequestKind) -> bool| {
            let mut latencies: Vec<Duration> = visits.iter().filter(|visit| is(&visit.kind)).map(Visit::latency).collect();
            latencies.sort_unstable();
            latencies
        };
        let (quick, slow) = (latencies(|kind| *kind != RequestKind::Slow), latencies(|kind| *kind == RequestKind::Slow));
        let at = |share: usize| quick.get(quick.len().saturating_sub(1) * share / 100).copied().unwrap_or_default();
        // When nobody is due any more, only the slow ones are still to be answered: that is no silence.
        let last = visits.last().map(|visit| visit.due);
        let mut answered: Vec<Instant> = visits
            .iter()
            .filter(|visit| !visit.is_lost())
            .map(|visit| visit.answered)
            .filter(|at| last.is_some_and(|last| *at <= last))
            .collect();
        answered.sort_unstable();
        let mut releases = BTreeMap::new();
        visits.iter().filter_map(|visit| visit.release.clone()).for_each(|release| *releases.entry(release).or_default() += 1);
        Self {
            visits: visits.len(),
            kept: visits.iter().filter(|visit| visit.over == Over::Kept).count(),
            slow: slow.len(),
            lost: visits.iter().filter(|visit| visit.is_lost()).count(),
            median: at(50),
            p99: at(99),
            slowest: at(100),
            slowest_slow: slow.last().copied().unwrap_or_default(),
            silence: answered.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default(),
            releases,
        }
    }
}

impl std::fmt::Display for Met {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        write!(
            f,
            "{} visits ({} over kept connections, {} slow), {} lost; median {:.0} ms, p99 {:.0} ms, slowest {:.0} ms, slowest slow one {:.0} ms, \
             longest silence {:.0} ms",
            self.visits,
            self.kept,
            self.slow,
            self.lost,
            ms(self.median),
            ms(self.p99),
            ms(self.slowest),
            ms(self.slowest_slow),
            ms(self.silence)
        )
    }
}

/// Which releases visitors may have been led to, and when.
#[derive(Debug, Default)]
pub struct Led(Vec<Switch>);

/// The time in which a release took over.
#[derive(Debug)]
struct Switch {
    to: String,
    asked: Instant,
    live: Option<Instant>,
}

impl Led {
    /// A release is asked for.
    pub fn asked(&mut self, to: &str) {
        self.0.push(Switch { to: to.to_owned(), asked: Instant::now(), live: None });
    }

    /// What was asked for last was said to be live.
    pub fn live(&mut self) {
        if let Some(last) = self.0.last_mut() {
            last.live = Some(Instant::now());
        }
    }

    /// Whether the release may have been the one that visitors are led to at some moment between these two.
    fn may_be(&self, release: &str, from: Instant, to: Instant) -> bool {
        let settled = self.0.iter().rposition(|switch| switch.live.is_some_and(|live| live <= from));
        let since = settled.map_or(&self.0[..], |settled| &self.0[settled..]);
        since.iter().any(|switch| switch.to == release && switch.asked <= to)
    }

    /// The visits that a release answered which visitors were led to neither when they were sent nor later.
    pub fn strangers<'v>(&self, visits: &'v [Visit]) -> Vec<&'v Visit> {
        let is_stranger = |visit: &&Visit| visit.release.as_ref().is_some_and(|release| !self.may_be(release, visit.sent, visit.answered));
        visits.iter().filter(is_stranger).collect()
    }

    /// The visits that a release answered later than so long after another one was said to be live.
    pub fn stragglers<'v>(&self, visits: &'v [Visit], drain: Duration) -> Vec<&'v Visit> {
        let from = |visit: &Visit| visit.answered.checked_sub(drain).unwrap_or(visit.answered);
        let is_late = |visit: &&Visit| visit.release.as_ref().is_some_and(|release| !self.may_be(release, from(visit), visit.answered));
        visits.iter().filter(is_late).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A server that answers a visit after `pause` milliseconds, on each connection in a thread of its own; the `cut`th connection is cut.
    fn serve(socket: &std::path::Path, pause: Duration, cut: usize) {
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut chunk = [0; 1024];
                    while let Ok(1..) = stream.read(&mut chunk) {
                        std::thread::sleep(pause);
                        let text = if number == cut {
                            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\no"
                        } else {
                            "HTTP/1.1 200 OK\r\nX-Release: one\r\nContent-Length: 2\r\n\r\nok"
                        };
                        if stream.write_all(text.as_bytes()).is_err() || number == cut {
                            return;
                        }
                    }
                });
            }
        });
    }

    fn rate(directory: &tempfile::TempDir) -> Rate {
        Rate { socket: directory.path().join("s"), per_second: 200, path: "/".into(), slow_path: "/slow".into() }
    }

    #[test]
    fn visits_come_at_their_rate_however_long_the_answers_take_and_what_is_cut_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        serve(&directory.path().join("s"), Duration::from_millis(300), 7);
        let load = Load::begin(rate(&directory));
        std::thread::sleep(Duration::from_secs(1));
        let visits = load.end();
        // Two hundred a second that take 300 ms each: sixty at a time, and not the eight that there are threads for at first.
        assert!(visits.len() >= 200, "{} visits", visits.len());
        assert!(visits.windows(2).all(|pair| pair[1].due - pair[0].due == Duration::from_millis(5)), "none was left out");
        let met = Met::of(&visits);
        assert_eq!((met.visits, met.lost, met.slow), (visits.len(), 1, (visits.len() + 49) / 100), "{met}");
        assert_eq!(met.releases.keys().collect::<Vec<_>>(), ["one"]);
        let lost = visits.iter().find(|visit| visit.is_lost()).unwrap();
        assert!(lost.result.as_ref().is_err_and(|err| err.contains("the answer ended after 39 bytes")), "{lost:?}");
        assert!(met.median >= Duration::from_millis(300) && met.kept > visits.len() / 6, "{met}");
    }

    #[test]
    fn a_server_is_asked_for_half_of_what_it_bears_at_the_most() {
        let directory = tempfile::tempdir().unwrap();
        serve(&directory.path().join("s"), Duration::from_millis(100), usize::MAX);
        // Eight visitors, each answered ten times a second at the most.
        let within = rate(&directory).within_reach().per_second;
        assert!((10..=40).contains(&within), "{within}");
        assert_eq!(Rate { per_second: 3, ..rate(&directory) }.within_reach().per_second, 3);
    }

    #[test]
    fn a_server_that_is_not_there_is_asked_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let load = Load::begin(rate(&directory));
        std::thread::sleep(Duration::from_millis(200));
        let met = Met::of(&load.end());
        assert!(met.lost == met.visits && met.visits >= 40, "{met}");
    }

    #[test]
    fn an_answer_of_a_release_that_was_left_is_found() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let switch = |to: &str, asked, live| Switch { to: to.to_owned(), asked: at(asked), live: Some(at(live)) };
        let led = Led(vec![switch("one", 0, 10), switch("two", 100, 200), switch("three", 1000, 1100)]);
        let visit = |release: &str, sent, answered| Visit {
            kind: RequestKind::Quick,
            over: Over::New,
            due: at(sent),
            sent: at(sent),
            answered: at(answered),
            result: Ok(200),
            release: Some(release.to_owned()),
        };
        let good = [visit("one", 50, 60), visit("one", 150, 160), visit("two", 150, 160), visit("one", 190, 900), visit("two", 990, 1001)];
        assert!(led.strangers(&good).is_empty());
        for stranger in [visit("two", 50, 60), visit("one", 201, 210), visit("three", 250, 260), visit("one", 1050, 1060)] {
            assert_eq!(led.strangers(std::slice::from_ref(&stranger)).len(), 1, "{stranger:?}");
        }
        let straggler = [visit("one", 190, 900)];
        assert_eq!(led.stragglers(&straggler, Duration::from_millis(600)).len(), 1);
        assert!(led.stragglers(&straggler, Duration::from_millis(800)).is_empty());
    }
}
