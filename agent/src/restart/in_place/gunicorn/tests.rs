use std::sync::OnceLock;

use super::*;
use crate::http::{Target, listens};
use crate::process::Program;
use crate::restart::Restart;
use crate::restart::tests::{A, APP, B, Stage, Visitors, all_answered, visit};

const BROKEN: &str = "import nothing_of_that_name\n";

/// The gunicorn that tests/run has installed, or one that is installed here, once for all tests.
pub(in crate::restart) fn gunicorn() -> &'static Path {
    static VENV: OnceLock<PathBuf> = OnceLock::new();
    VENV.get_or_init(|| {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let installed = target.join("test-tools/venv");
        if installed.join("bin/gunicorn").exists() {
            return installed;
        }
        let venv = target.join("test-gunicorn");
        let run = |program: &Path, args: &[&str]| assert!(std::process::Command::new(program).args(args).status().unwrap().success());
        if !venv.join("bin/gunicorn").exists() {
            run(Path::new("python3"), &["-m", "venv", "--clear", venv.to_str().unwrap()]);
            run(&venv.join("bin/pip"), &["install", "--quiet", "gunicorn"]);
        }
        venv
    })
}

/// Starts a gunicorn in this directory's link.
fn start(root: &Path, program: &[&str], options: &[&str]) {
    let log = fs::OpenOptions::new().create(true).append(true).open(root.join("log")).unwrap();
    let mut argv: Vec<String> = program.iter().map(|part| gunicorn().join("bin").join(part).to_string_lossy().into_owned()).collect();
    if program == ["python"] {
        argv.extend(["-m".to_owned(), "gunicorn".to_owned()]);
    }
    let mut child = Program::from_argv(&argv)
        .args(["--workers=2", "--graceful-timeout=5", "--no-control-socket"])
        .arg(format!("--bind=unix:{}", root.join("web.sock").display()))
        .arg(format!("--pid={}", root.join("pid").display()))
        .arg(format!("--chdir={}", root.join("app").display()))
        .args(options)
        .arg("app:application")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .start_server(log)
        .unwrap();
    std::thread::spawn(move || child.wait());
}

struct Play {
    stage: Stage,
    settings: Settings,
}

impl Play {
    fn new(how: MasterSignal, program: &[&str], options: &[&str]) -> Self {
        let mut stage = Stage::new();
        let socket = stage.path("web.sock");
        stage.checks = vec![stage.check(Target::Unix(socket.clone()))];
        let release = stage.release(A, APP);
        stage.link(&release);
        let settings = Settings { pid_file: stage.path("pid"), unit: None, how, timeout: Duration::from_secs(10) };
        start(&stage.path(""), program, options);
        let end = Instant::now() + Duration::from_secs(10);
        while !(listens(&socket) && read(&settings.pid_file).is_some_and(|master| master.children().len() == 2)) {
            assert!(Instant::now() < end, "gunicorn does not come up: {}", fs::read_to_string(stage.path("log")).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { stage, settings }
    }

    fn restart(&self) -> Restart {
        Restart::Gunicorn(self.settings.clone())
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        for pid_file in [self.settings.second(), self.settings.pid_file.clone()] {
            if let Some(master) = read(&pid_file) {
                master.children().iter().for_each(|worker| worker.signal(Signal::SIGKILL));
                master.signal(Signal::SIGKILL);
            }
        }
    }
}

#[test]
fn hup_loses_no_request_and_every_worker_is_new() {
    let play = Play::new(MasterSignal::Hup, &["gunicorn"], &[]);
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, APP));
    let visitors = Visitors::come(&play.stage.path("web.sock"));
    play.stage.switch(&play.restart(), &b, Some(&a)).unwrap();
    let (seen, silence) = visitors.go();
    eprintln!("HUP: {} visits, longest silence {silence:?}", seen.len());
    all_answered(&seen);
    assert_eq!(seen.last(), Some(&Ok(B.to_owned())));
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
}

#[test]
fn hup_to_a_release_that_cannot_be_loaded_ends_the_master_and_is_told_with_its_traceback() {
    let mut play = Play::new(MasterSignal::Hup, &["gunicorn"], &[]);
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, BROKEN));
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(error.to_string().contains("ended: it could not load"), "{error}");
    assert!(error.tail().iter().any(|line| line.contains("nothing_of_that_name")), "{:?}", error.tail());
    // Nothing starts it again: the agent waits for that and reports it.
    play.settings.timeout = Duration::from_secs(1);
    let stuck = play.stage.back(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(stuck.to_string().contains("names no process that runs") && stuck.hint().unwrap().contains("unit"), "{stuck}");
}

#[test]
fn a_master_that_hup_ended_is_waited_for_where_something_else_starts_it() {
    let play = Play::new(MasterSignal::Hup, &["gunicorn"], &[]);
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, BROKEN));
    play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    let root = play.stage.path("");
    let supervisor = std::thread::spawn(move || {
        // Like supervisord a second later: the first try may still load the release that failed.
        std::thread::sleep(Duration::from_millis(1500));
        start(&root, &["gunicorn"], &[]);
    });
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
    supervisor.join().unwrap();
    assert_eq!(visit(&play.stage.path("web.sock"), "/").unwrap(), A);
}

#[test]
fn a_master_that_ends_once_more_on_the_way_back_is_waited_for_again() {
    // Like a gunicorn that was started again while the link still led to the broken release.
    let configuration = tempfile::NamedTempFile::with_suffix(".py").unwrap();
    fs::write(configuration.path(), "def on_reload(server):\n    raise SystemExit(1)\n").unwrap();
    let play = Play::new(MasterSignal::Hup, &["gunicorn"], &[&format!("--config={}", configuration.path().display())]);
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, BROKEN));
    let (root, before) = (play.stage.path(""), read(&play.settings.pid_file).unwrap());
    let supervisor = std::thread::spawn(move || {
        while before.is_alive() {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_secs(1));
        start(&root, &["gunicorn"], &[]);
    });
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
    supervisor.join().unwrap();
    assert_ne!(read(&play.settings.pid_file), Some(before));
    assert_eq!(visit(&play.stage.path("web.sock"), "/").unwrap(), A);
}

#[test]
fn the_first_release_waits_for_the_gunicorn_that_can_only_start_in_it() {
    let mut stage = Stage::new();
    stage.checks = vec![stage.check(Target::Unix(stage.path("web.sock")))];
    let settings = Settings { pid_file: stage.path("pid"), unit: None, how: MasterSignal::Hup, timeout: Duration::from_secs(30) };
    let a = stage.release(A, APP);
    let root = stage.path("");
    let operator = std::thread::spawn(move || {
        let end = Instant::now() + Duration::from_secs(20);
        while !root.join("app").exists() {
            assert!(Instant::now() < end, "the link never comes");
            std::thread::sleep(Duration::from_millis(20));
        }
        start(&root, &["gunicorn"], &[]);
    });
    let play = Play { stage, settings };
    let switched = play.stage.switch(&play.restart(), &a, None);
    operator.join().unwrap();
    switched.unwrap();
    assert!(play.stage.warnings()[0].contains("start gunicorn as soon as"), "{:?}", play.stage.warnings());
}

#[test]
fn hup_with_preload_changes_nothing_and_is_found_out() {
    let play = Play::new(MasterSignal::Hup, &["gunicorn"], &["--preload"]);
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, APP));
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(matches!(error, RestartError::SetUp { .. }) && error.to_string().contains("forks the old app again"), "{error}");
    // Where neither the command line nor the configuration shows it, the answers do.
    let configuration = tempfile::NamedTempFile::with_suffix(".py").unwrap();
    fs::write(configuration.path(), "preload_app = bool(1)\n").unwrap();
    let mut play = Play::new(MasterSignal::Hup, &["gunicorn"], &[&format!("--config={}", configuration.path().display())]);
    play.stage.checks[0].within = Duration::from_secs(1);
    play.settings.timeout = Duration::from_secs(3);
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, APP));
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    let chain = format!("{error} {:?}", std::error::Error::source(&error).map(ToString::to_string));
    assert!(chain.contains("another release"), "{chain}");
}

#[test]
fn usr2_brings_a_second_master_and_lets_the_first_one_go() {
    let play = Play::new(MasterSignal::Usr2, &["gunicorn"], &[]);
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, APP));
    let before = read(&play.settings.pid_file).unwrap();
    let visitors = Visitors::come(&play.stage.path("web.sock"));
    play.stage.switch(&play.restart(), &b, Some(&a)).unwrap();
    let (seen, silence) = visitors.go();
    eprintln!("USR2: {} visits, longest silence {silence:?}", seen.len());
    all_answered(&seen);
    assert_eq!(seen.last(), Some(&Ok(B.to_owned())));
    assert!(!before.is_alive());
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
}

#[test]
fn usr2_to_a_release_that_cannot_be_loaded_leaves_the_old_master_alone() {
    let play = Play::new(MasterSignal::Usr2, &["gunicorn"], &[]);
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, BROKEN));
    let before = read(&play.settings.pid_file).unwrap();
    let visitors = Visitors::come(&play.stage.path("web.sock"));
    let error = play.stage.switch(&play.restart(), &b, Some(&a)).unwrap_err();
    assert!(error.to_string().contains("the old one still serves"), "{error}");
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
    all_answered(&visitors.go().0);
    assert!(before.is_alive());
}
