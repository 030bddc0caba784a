use super::*;
use crate::http::Target;
use crate::process::{Leftovers, Program};
use crate::restart::Restart;
use crate::restart::tests::{A, APP, B, Release, Stage, Visitors, nearly_all_answered, visit};

const BROKEN: &str = "import nothing_of_that_name\n";

/// Starts a uWSGI; `{link}` in its options is the link, `{root}` its directory.
fn start(root: &Path, options: &[String]) -> Process {
    let log = fs::OpenOptions::new().create(true).append(true).open(root.join("log")).unwrap();
    let text = |path: &str| root.join(path).to_string_lossy().into_owned();
    let mut child = Program::new("/usr/bin/uwsgi")
        .args(["--plugin", "python3", "--master", "--processes=2", "--listen=1024", "--die-on-term", "--py-call-osafterfork"])
        .arg(format!("--http-socket={}", text("web.sock")))
        .arg(format!("--master-fifo={}", text("fifo")))
        .arg(format!("--stats={}", text("stats")))
        .args(options.iter().map(|option| option.replace("{link}", &text("app")).replace("{root}", &text(""))))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .leftovers(Leftovers::Leave)
        .start_server(log)
        .unwrap();
    let master = Process::of(child.id());
    std::thread::spawn(move || child.wait());
    master
}

/// A uWSGI that runs already, as on an existing host.
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
            how: FifoCommand::Graceful,
            stats: Some(stage.path("stats")),
            unit: None,
            timeout: Duration::from_secs(20),
        };
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let master = start(&stage.path(""), &options);
        let play = Self { stage, settings, master };
        let end = Instant::now() + Duration::from_secs(10);
        while !(crate::http::listens(&socket)
            && play.settings.workers().is_some_and(|workers| workers.iter().all(|(_, state)| *state != State::Loading)))
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
    play.settings.how = FifoCommand::Chain;
    let (a, b) = (play.live(), play.stage.release(B, APP));
    let visitors = Visitors::come(&play.stage.path("web.sock"));
    play.stage.switch(&play.restart(), &b, Some(&a)).unwrap();
    nearly_all_answered(&visitors.go().0);
}

/// The options of our own example and of uWSGI's manual.
const CHAIN: [&str; 4] = ["--lazy-apps", "--pythonpath={link}", "--chdir={link}", "--module=app"];

#[test]
fn workers_that_keep_the_masters_directory_and_load_the_new_code_are_believed() {
    for (how, release_header, stats) in
        [(FifoCommand::Chain, Some("X-Release"), true), (FifoCommand::Workers, Some("X-Release"), false), (FifoCommand::Chain, None, true)]
    {
        let mut play = Play::new(APP, &CHAIN);
        play.settings.how = how;
        play.stage.checks[0].release_header = release_header.map(str::to_owned);
        if !stats {
            play.settings.stats = None;
        }
        let (a, b) = (play.live(), play.stage.release(B, APP));
        let visitors = Visitors::come(&play.stage.path("web.sock"));
        play.stage.switch(&play.restart(), &b, Some(&a)).unwrap();
        // The directory of the master and of each worker is that of the former release; the code is not.
        assert!(play.master.children().iter().all(|worker| worker.cwd().unwrap() == a.dir));
        assert_eq!(visit(&play.stage.path("web.sock"), "/").unwrap(), B);
        assert!(play.stage.warnings()[0].contains("a file that it opens by a relative path"), "{:?}", play.stage.warnings());
        play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
        let (seen, _) = visitors.go();
        nearly_all_answered(&seen);
        assert_eq!(seen.last(), Some(&Ok(A.to_owned())));
    }
}

#[test]
fn a_chain_reload_that_would_only_fork_the_old_app_again_is_refused_before_anything_is_switched() {
    for options in [["--chdir={link}", "--wsgi-file=app.py"], ["--pythonpath={link}", "--module=app"]] {
        let mut play = Play::new(APP, &options);
        play.settings.how = FifoCommand::Chain;
        play.stage.checks[0].release_header = None;
        let (a, b) = (play.live(), play.stage.release(B, APP));
        let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
        assert!(matches!(error, RestartError::SetUp { .. }) && error.to_string().contains("forks the old app again"), "{error}");
        assert!(error.hint().unwrap().contains("lazy-apps and pythonpath"));
        assert_eq!(fs::canonicalize(play.stage.path("app")).unwrap(), a.dir);
    }
}

#[test]
fn a_chain_reload_that_only_forked_the_old_app_again_is_found_out_where_no_option_can_be_read() {
    let of_ini = |text: &str| {
        let root = tempfile::tempdir().unwrap();
        let ini = root.path().join("app.ini");
        fs::write(&ini, format!("[uwsgi]\n{text}\n")).unwrap();
        let mut play = Play::new(APP, &[&format!("--ini={}", ini.display()), "--pythonpath={link}"]);
        fs::remove_file(ini).unwrap();
        play.settings.how = FifoCommand::Workers;
        play.settings.timeout = Duration::from_secs(2);
        play.stage.checks[0].within = Duration::from_secs(1);
        play
    };
    let mut play = of_ini("wsgi-file = app.py\nchdir = %(pythonpath)");
    // No answer names its release, so the directory must.
    play.stage.checks[0].release_header = None;
    let (a, b) = (play.live(), play.stage.release(B, APP));
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(error.to_string().contains("still works in another release"), "{error}");
    assert!(error.hint().unwrap().contains("release_header"), "{:?}", error.hint());
    // No directory shows the release, so the answers must.
    let play = of_ini("module = app");
    let (a, b) = (play.live(), play.stage.release(B, APP));
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains(&format!("answers still come from {A}")), "{cause}");
}

#[test]
fn a_release_without_an_app_is_taken_back_as_soon_as_the_answers_show_it() {
    let chdir = ["--chdir={link}", "--wsgi-file=app.py"];
    for (how, options, stats) in [
        (FifoCommand::Graceful, chdir.as_slice(), true),
        (FifoCommand::Graceful, chdir.as_slice(), false),
        (FifoCommand::Chain, CHAIN.as_slice(), true),
        (FifoCommand::Workers, CHAIN.as_slice(), false),
    ] {
        let mut play = Play::new(APP, options);
        play.settings.how = how;
        play.settings.timeout = Duration::from_secs(50);
        play.stage.checks[0].within = Duration::from_secs(50);
        if !stats {
            play.settings.stats = None;
        }
        let (a, b) = (play.live(), play.stage.release(B, BROKEN));
        let visitors = Visitors::come(&play.stage.path("web.sock"));
        let begun = Instant::now();
        let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
        assert!(error.to_string().contains("uWSGI has no app: it could not load"), "{how:?}: {error}");
        assert!(error.tail().iter().any(|line| line.contains("nothing_of_that_name") || line.contains("no python application")));
        play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
        let took = begun.elapsed();
        let (seen, _) = visitors.go();
        // Waiting for both in turn would have taken longer.
        assert!(took < Duration::from_secs(40), "{how:?} took {took:?}");
        assert_eq!(seen.last(), Some(&Ok(A.to_owned())), "{how:?}");
    }
    // Without checks, the stats server is the evidence.
    let mut play = Play::new(APP, &chdir);
    play.settings.timeout = Duration::from_secs(50);
    play.stage.checks.clear();
    let (a, b) = (play.live(), play.stage.release(B, BROKEN));
    let begun = Instant::now();
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(error.to_string().contains("none has an app") && begun.elapsed() < Duration::from_secs(30), "{error}");
}

#[test]
fn a_second_chain_reload_that_uwsgi_ignores_is_asked_for_again() {
    let mut play = Play::new(APP, &CHAIN);
    play.settings.how = FifoCommand::Chain;
    let (a, b) = (play.live(), play.stage.release(B, APP));
    play.stage.link(&b);
    let former = play.master.children();
    play.stage.with_scene(|context| play.settings.write(context, b'c')).unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    // One worker has the new release by now, and the chain has not reached the other one.
    while !play.settings.workers().unwrap().iter().any(|(worker, state)| !former.contains(worker) && *state == State::Ready) {
        assert!(Instant::now() < end, "no worker is replaced");
    }
    assert!(former.iter().any(Process::is_alive));
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
    assert!((0..10).all(|_| visit(&play.stage.path("web.sock"), "/").unwrap() == A));
}

#[test]
fn a_master_that_its_release_ended_is_waited_for_where_something_else_starts_it() {
    let play = Play::chdir(&["--need-app"]);
    let (a, b) = (play.live(), play.stage.release(B, BROKEN));
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(error.to_string().contains("ended: it could not load"), "{error}");
    let (root, options) = (play.stage.path(""), ["--chdir={link}", "--wsgi-file=app.py", "--need-app"].map(str::to_owned));
    let supervisor = std::thread::spawn(move || {
        // Longer than the agent looks for a FIFO that is being remade.
        std::thread::sleep(Duration::from_secs(3));
        start(&root, &options)
    });
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
    assert_eq!(visit(&play.stage.path("web.sock"), "/").unwrap(), A);
    supervisor.join().unwrap().end_group();
}

#[test]
fn the_first_release_waits_for_the_server_that_can_only_start_in_it() {
    let stage = || {
        let mut stage = Stage::new();
        stage.checks = vec![stage.check(Target::Unix(stage.path("web.sock")))];
        stage
    };
    let settings = |stage: &Stage, timeout: u64| Settings {
        fifo: stage.path("fifo"),
        how: FifoCommand::Graceful,
        stats: Some(stage.path("stats")),
        unit: None,
        timeout: Duration::from_secs(timeout),
    };
    let first = stage();
    let a = first.release(A, APP);
    let root = first.path("");
    let operator = std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(20);
        while !root.join("app").exists() {
            assert!(Instant::now() < end, "the link never comes");
            std::thread::sleep(Duration::from_millis(20));
        }
        start(&root, &["--chdir={link}".to_owned(), "--wsgi-file=app.py".to_owned()])
    });
    let switched = first.switch(&Restart::UwsgiFifo(settings(&first, 30)), &a, None);
    operator.join().unwrap().end_group();
    switched.unwrap();
    assert!(first.warnings()[0].contains("start uWSGI as soon as"), "{:?}", first.warnings());
    // If nothing starts it, no release becomes live.
    let alone = stage();
    let a = alone.release(A, APP);
    let error = alone.switch(&Restart::UwsgiFifo(settings(&alone, 1)), &a, None).unwrap_err();
    assert!(error.to_string().contains("uWSGI was not started within 1 s") && error.hint().unwrap().contains("unit under"), "{error}");
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
    // The way back after a crash may run again.
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
}

#[test]
fn a_master_that_ends_for_need_app_is_told_with_its_traceback() {
    let mut play = Play::chdir(&["--need-app"]);
    let (a, b) = (play.live(), play.stage.release(B, BROKEN));
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    play.settings.timeout = Duration::from_secs(1);
    assert!(error.to_string().contains("ended: it could not load"), "{error}");
    assert!(error.tail().iter().any(|line| line.contains("No module named 'nothing_of_that_name'")), "{:?}", error.tail());
    let stuck = play.stage.back(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(stuck.to_string().contains("nobody reads the FIFO") && stuck.hint().unwrap().contains("unit"), "{stuck}");
}

#[test]
fn nobody_there_is_an_error_with_its_hint_and_never_a_wait() {
    let stage = Stage::new();
    let a = stage.release(A, APP);
    stage.link(&a);
    let fifo = stage.path("fifo");
    let mut settings =
        Settings { fifo: fifo.clone(), how: FifoCommand::Graceful, stats: None, unit: None, timeout: Duration::from_secs(1) };
    let prepare = |settings: &Settings| stage.with_scene(|context| settings.prepare(context, a.serving())).unwrap_err();
    let absent = prepare(&settings);
    assert!(absent.to_string().contains("nobody reads the FIFO") && absent.hint().is_some(), "{absent}");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(prepare(&settings).to_string().contains("nobody reads the FIFO"));
    let written = stage.with_scene(|context| settings.act(context, a.serving(), None)).unwrap_err();
    assert!(written.to_string().contains("nobody reads the FIFO"), "{written}");
    settings.how = FifoCommand::Quit;
    assert!(prepare(&settings).to_string().contains("no unit is named"));
    settings.how = FifoCommand::Graceful;
    fs::remove_file(&fifo).unwrap();
    fs::write(&fifo, "").unwrap();
    assert!(prepare(&settings).to_string().contains("is no FIFO"));
}

#[test]
fn a_fifo_that_is_made_anew_between_two_bytes_is_waited_for() {
    let stage = Stage::new();
    let fifo = stage.path("fifo");
    let settings = Settings { fifo: fifo.clone(), how: FifoCommand::Graceful, stats: None, unit: None, timeout: Duration::from_secs(5) };
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        fs::read(&fifo).unwrap()
    });
    stage.with_scene(|context| settings.write(context, b'r')).unwrap();
    assert_eq!(reader.join().unwrap(), b"r");
}
