//! The app `shop` of the examples, in a machine with a systemd of its own: what serves it, and whoever visits it.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::bench::project;
use crate::http::{Place, get};
use crate::nspawn::Booted;

/// An example of systemd/ as it is shipped; only the demo's module has another name than the example's.
#[track_caller]
pub fn example(path: &str) -> String {
    let shipped = fs::read_to_string(project("systemd/examples").join(path)).expect("the example is shipped");
    shipped.replace("shop.wsgi", "noticeboard.wsgi").replace("--app shop ", "--app noticeboard ")
}

/// The app's file, for a repository that is a directory of the machine; `restart` is what stands between the secrets and the check.
pub fn shop_file(repository: &str, restart: &str) -> String {
    format!(
        r#"
repository = "{repository}"
allow_local = true

[python]
interpreter = "/usr/bin/python3"
packages = ["gunicorn==27.0.1", "celery==5.5.3"]

[django]

[secrets]
files = ["/etc/shop/shop.env"]

{restart}

[[check]]
url = "unix:/run/shop/web.sock:/healthz"
contains = "ok"
release_header = "X-Release"
stable = "500ms"
"#
    )
}

/// What a visitor gets from the socket: the commit that its answer names.
#[track_caller]
pub fn serving(machine: &Booted) -> String {
    let answer = get(&machine.socket("/run/shop/web.sock"), "/healthz").expect("the app answers");
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.header("x-release").expect("the answer names its release").to_owned()
}

/// Says which stage of the story begins, and how long the one before it took.
#[derive(Debug)]
pub struct Stages(Instant);

impl Default for Stages {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Stages {
    /// Begins one.
    #[expect(clippy::print_stderr, reason = "the stages of a long story are told as they come")]
    pub fn begin(&mut self, name: &str) {
        eprintln!("--- after {:.1} s: {name}", self.0.elapsed().as_secs_f64());
    }
}

/// What a visitor met: how often each release answered, and what else there was.
type Seen = (BTreeMap<String, u32>, Vec<String>);

/// Visitors who ask without pause.
#[derive(Debug)]
pub struct Visitors {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
}

impl Visitors {
    /// They come.
    pub fn come(place: &Place) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let visit = |stop: Arc<AtomicBool>, place: Place| {
            let (mut answers, mut failures) = (BTreeMap::<String, u32>::new(), Vec::new());
            while !stop.load(Ordering::Relaxed) {
                match get(&place, "/healthz") {
                    Ok(answer) if answer.status == 200 => {
                        *answers.entry(answer.header("x-release").unwrap_or_default().to_owned()).or_default() += 1
                    }
                    Ok(answer) => failures.push(format!("{}: {}", answer.status, answer.body)),
                    Err(err) => failures.push(err.to_string()),
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            (answers, failures)
        };
        let threads = (0..4).map(|_| (stop.clone(), place.clone())).map(|(stop, place)| std::thread::spawn(move || visit(stop, place)));
        Self { threads: threads.collect(), stop }
    }

    /// How many answers each release gave. Nobody may have met anything else.
    #[track_caller]
    pub fn go(self) -> BTreeMap<String, u32> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = BTreeMap::new();
        for thread in self.threads {
            let (answers, failures) = thread.join().expect("visitors do not panic");
            assert!(failures.is_empty(), "{} visitors met something else: {:?}", failures.len(), &failures[..failures.len().min(3)]);
            answers.into_iter().for_each(|(release, count)| *sum.entry(release).or_default() += count);
        }
        sum
    }
}
