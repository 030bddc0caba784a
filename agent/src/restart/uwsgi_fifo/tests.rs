use super::*;
use crate::restart::Restart;
use crate::restart::tests::{A, APP, B, Release, Stage, Visitors, nearly_all_answered};
use crate::tools::http::Target;
use crate::tools::{Leftovers, Program};

const BROKEN: &str = "import nothing_of_that_name\n";

/// A uWSGI that runs already, as one finds it on a host.
struct Play {
    stage: Stage,
    settings: Settings,
    master: Process,
}

impl Play {
    /// Started in the live release; `{link}` in its options is the link.
    fn new(live: &str, options: &[&str]) -> Self {
        let mut stage = Stage::new();
        let socket = stage.path("web.sock");
        stage.checks = vec![stage.check(Target::Unix(socket.clone()))];
        let release = stage.release(A, live);
        stage.link(&release);
        let settings = Settings {
            fifo: stage.path("fifo"),
            how: How::Graceful,
            stats: Some(stage.path("stats")),
            unit: None,
            timeout: Duration::from_secs(20),
        };
        let log = fs::File::create(stage.path("log")).unwrap();
        let link = stage.path("app");
        let mut child = Program::new("/usr/bin/uwsgi")
            .args(["--plugin", "python3", "--master", "--processes=2", "--listen=1024", "--die-on-term", "--py-call-osafterfork"])
            .arg(format!("--http-socket={}", socket.display()))
            .arg(format!("--master-fifo={}", settings.fifo.display()))
            .arg(format!("--stats={}", stage.path("stats").display()))
            .args(options.iter().map(|option| option.replace("{link}", &link.to_string_lossy())))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .leftovers(Leftovers::Leave)
            .start_server(log)
            .unwrap();
        let master = Process::of(child.id());
        std::thread::spawn(move || child.wait());
        let play = Self { stage, settings, master };
        let end = Instant::now() + Duration::from_secs(10);
        while !(crate::tools::http::listens(&socket)
            && play.settings.stats().is_some_and(|stats| stats.workers.iter().all(|worker| worker.accepting == 1)))
        {
            assert!(Instant::now() < end, "uWSGI does not come up: {}", fs::read_to_string(play.stage.path("log")).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        play
    }

    fn chdir(options: &[&str]) -> Self {
        Self::new(APP, &[&["--chdir={link}", "--wsgi-file=app.py"], options].concat())
    }

    fn restart(&self) -> Restart {
        Restart::UwsgiFifo(self.settings.clone())
    }

    fn live(&self) -> Release {
        self.stage.release(A, APP)
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        self.master.end_group();
    }
}

#[test]
fn a_graceful_reload_loses_next_to_no_request_and_every_worker_is_new() {
    for stats in [true, false] {
        let mut play = Play::chdir(&[]);
        if !stats {
            play.settings.stats = None;
        }
        let (a, b) = (play.live(), play.stage.release(B, APP));
        let visitors = Visitors::come(&play.stage.path("web.sock"));
        let proof = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap();
        let (seen, silence) = visitors.go();
        eprintln!("r: {} visits, longest silence {silence:?}", seen.len());
        nearly_all_answered(&seen);
        assert!(proof.notes[0].contains(&format!("200 from {B}")), "{proof:?}");
        assert!(seen.last() == Some(&Ok(B.to_owned())) && seen.contains(&Ok(A.to_owned())));
        assert!(play.master.children().iter().all(|worker| worker.cwd().unwrap() == b.dir));
    }
}

#[test]
fn a_chain_reload_with_the_right_options_brings_the_new_release() {
    let mut play = Play::new(APP, &["--lazy-apps", "--pythonpath={link}", "--module=app"]);
    play.settings.how = How::Chain;
    let (a, b) = (play.live(), play.stage.release(B, APP));
    let visitors = Visitors::come(&play.stage.path("web.sock"));
    play.stage.switch(&play.restart(), &b, Some(&a)).unwrap();
    nearly_all_answered(&visitors.go().0);
}

#[test]
fn a_chain_reload_that_only_forks_the_old_app_again_is_found_out() {
    let mut play = Play::chdir(&[]);
    play.settings.how = How::Workers;
    play.settings.timeout = Duration::from_secs(2);
    let (a, b) = (play.live(), play.stage.release(B, APP));
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(error.to_string().contains("still works in another release"), "{error}");
    // With no directory to betray them, the answers do.
    let mut play = Play::new(APP, &["--pythonpath={link}", "--module=app"]);
    play.settings.how = How::Workers;
    play.stage.checks[0].within = Duration::from_secs(1);
    let (a, b) = (play.live(), play.stage.release(B, APP));
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains(&format!("answers still come from {A}")), "{cause}");
}

#[test]
fn a_release_that_cannot_be_loaded_is_taken_back() {
    let mut play = Play::chdir(&[]);
    play.stage.checks[0].within = Duration::from_secs(1);
    let (a, b) = (play.live(), play.stage.release(B, BROKEN));
    play.settings.stats = None;
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("status 500"), "{error:?}");
    assert!(
        error.tail().iter().any(|line| line.contains("nothing_of_that_name") || line.contains("no python application")),
        "{:?}",
        error.tail()
    );
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
    // The way back after a crash may be gone again.
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
    // The stats server knows at once that no app was loaded.
    play.settings.stats = Some(play.stage.path("stats"));
    play.settings.timeout = Duration::from_secs(2);
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(error.to_string().contains("loaded"), "{error}");
}

#[test]
fn a_master_that_ends_for_need_app_is_told_with_its_traceback() {
    let play = Play::chdir(&["--need-app"]);
    let (a, b) = (play.live(), play.stage.release(B, BROKEN));
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(error.to_string().contains("ended: it could not load"), "{error}");
    assert!(error.tail().iter().any(|line| line.contains("No module named 'nothing_of_that_name'")), "{:?}", error.tail());
    let stuck = play.stage.back(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(stuck.to_string().contains("nobody reads the FIFO") && stuck.hint().unwrap().contains("unit"), "{stuck}");
}

#[test]
fn nobody_there_is_an_error_with_its_cure_and_never_a_wait() {
    let stage = Stage::new();
    let a = stage.release(A, APP);
    let fifo = stage.path("fifo");
    let mut settings = Settings { fifo: fifo.clone(), how: How::Graceful, stats: None, unit: None, timeout: Duration::from_secs(5) };
    let prepare = |settings: &Settings| stage.with_scene(|scene| settings.prepare(scene, a.serving())).unwrap_err();
    let absent = prepare(&settings);
    assert!(absent.to_string().contains("nobody reads the FIFO") && absent.hint().is_some(), "{absent}");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(prepare(&settings).to_string().contains("nobody reads the FIFO"));
    let written = stage.with_scene(|scene| settings.act(scene, a.serving())).unwrap_err();
    assert!(written.to_string().contains("nobody reads the FIFO"), "{written}");
    settings.how = How::Quit;
    assert!(prepare(&settings).to_string().contains("no unit is named"));
    settings.how = How::Graceful;
    fs::remove_file(&fifo).unwrap();
    fs::write(&fifo, "").unwrap();
    assert!(prepare(&settings).to_string().contains("is no FIFO"));
}

#[test]
fn a_fifo_that_is_made_anew_between_two_bytes_is_waited_for() {
    let stage = Stage::new();
    let fifo = stage.path("fifo");
    let settings = Settings { fifo: fifo.clone(), how: How::Graceful, stats: None, unit: None, timeout: Duration::from_secs(5) };
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        fs::read(&fifo).unwrap()
    });
    stage.with_scene(|scene| settings.write(scene, b'r')).unwrap();
    assert_eq!(reader.join().unwrap(), b"r");
}
