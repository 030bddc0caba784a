use std::os::unix::net::UnixListener;

use nix::sys::signal::Signal;

use super::*;
use crate::http::Target;
use crate::restart::Restart;
use crate::restart::tests::{A, APP, B, C, Release, Stage, Visitors, all_answered, visit};

pub(super) const UWSGI: [&str; 10] = [
    "/usr/bin/uwsgi",
    "--plugin",
    "python3",
    "--master",
    "--need-app",
    "--processes=2",
    "--listen=1024",
    "--wsgi-file=app.py",
    "--http-socket={socket}",
    "--die-on-term",
];

pub(super) struct Play {
    pub(super) stage: Stage,
    pub(super) settings: Settings,
}

impl Play {
    pub(super) fn new(argv: &[&str]) -> Self {
        let mut stage = Stage::new();
        fs::create_dir(stage.path("run")).unwrap();
        let socket = stage.path("run/web.sock");
        stage.checks = vec![stage.check(Target::Unix(socket.clone()))];
        let settings = Settings {
            socket,
            starter: Starter::Command(argv.iter().map(|arg| (*arg).to_owned()).collect()),
            slots: Vec::new(),
            start_timeout: Duration::from_secs(15),
            drain: Duration::from_secs(5),
            confirm: Duration::ZERO,
            keep_warm: KeepWarm::No,
        };
        Self { stage, settings }
    }

    pub(super) fn restart(&self) -> Restart {
        Restart::Handover(self.settings.clone())
    }

    pub(super) fn switch(&self, new: &Release, former: Option<&Release>) -> Result<ServingProof, RestartError> {
        self.stage.switch(&self.restart(), new, former)
    }

    pub(super) fn masters(&self, release: &Release) -> Vec<crate::process::Process> {
        self.stage.with_scene(|context| {
            let instances = Instances::open(&self.settings, context).unwrap();
            match instances.find(&release.name).unwrap() {
                Some(Instance::Processes { masters, .. }) => masters,
                _ => Vec::new(),
            }
        })
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        self.stage.with_scene(|context| {
            let instances = Instances::open(&self.settings, context).unwrap();
            for release in instances.running().unwrap() {
                instances.stop(&release, Duration::ZERO).unwrap();
            }
        });
    }
}

#[test]
fn no_visitor_notices_a_handover_and_the_former_instance_goes() {
    let play = Play::new(&UWSGI);
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, APP));
    let proof = play.switch(&a, None).unwrap();
    assert!(proof.notes[0].contains(&format!("answered 200 from {A}")), "{proof:?}");
    assert!(proof.warnings.is_empty(), "{proof:?}");
    let visitors = Visitors::come(&play.settings.socket);
    play.switch(&b, Some(&a)).unwrap();
    let (seen, silence) = visitors.go();
    all_answered(&seen);
    assert!(seen.contains(&Ok(A.to_owned())) && seen.contains(&Ok(B.to_owned())));
    eprintln!("{} visits, longest silence {silence:?}; {:#?}", seen.len(), play.stage.said.borrow());
    assert!(play.masters(&a).is_empty() && play.masters(&b).len() == 1);
    assert!(
        !play.settings.socket_of(&play.stage.path("app"), &a.name).exists() && play.stage.warnings().is_empty(),
        "{:?}",
        play.stage.warnings()
    );
    let link = fs::read_link(&play.settings.socket).unwrap();
    assert_eq!(link, PathBuf::from(format!("web.sock.{B}")), "the link is relative");
}

#[test]
fn a_release_that_cannot_be_imported_meets_no_visitor_and_leaves_its_traceback() {
    let play = Play::new(&UWSGI);
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, "import nothing_of_that_name\n"));
    play.switch(&a, None).unwrap();
    let visitors = Visitors::come(&play.settings.socket);
    let error = play.switch(&b, Some(&a)).unwrap_err();
    let (seen, _) = visitors.go();
    all_answered(&seen);
    assert!(error.to_string().starts_with(&format!("the instance of {B} ended, with exit status: 22")), "{error}");
    assert!(error.tail().iter().any(|line| line.contains("No module named 'nothing_of_that_name'")), "{:?}", error.tail());
    assert!(error.hint().is_some() && play.masters(&b).is_empty() && !play.settings.socket_of(&play.stage.path("app"), &b.name).exists());
}

#[test]
fn a_release_that_dies_or_fails_after_its_first_answers_meets_no_visitor() {
    let mut play = Play::new(&UWSGI);
    play.stage.checks[0].stable_for = Duration::from_secs(2);
    let a = play.stage.release(A, APP);
    play.switch(&a, None).unwrap();
    // The master loads the app, then forks. The child that stays behind ends the master.
    let kills = "\nif os.fork() == 0:\n    time.sleep(1)\n    os.kill(os.getppid(), 9)\n    os._exit(0)\n";
    let dies = play.stage.release(B, &format!("{APP}{kills}"));
    let too_old = "
BORN = time.time()
answer = application
def application(environ, start_response):
    assert time.time() < BORN + 1.2, 'too old'
    return answer(environ, start_response)
";
    let fails = play.stage.release(C, &format!("{APP}{too_old}"));
    let visitors = Visitors::come(&play.settings.socket);
    let died = play.switch(&dies, Some(&a)).unwrap_err();
    let failed = play.switch(&fails, Some(&a)).unwrap_err();
    let (seen, _) = visitors.go();
    all_answered(&seen);
    assert!(died.to_string().contains("ended, with signal: 9"), "{died}");
    assert!(failed.to_string().contains("no longer after"), "{failed}");
    assert!(failed.tail().iter().any(|line| line.contains("too old")), "{:?}", failed.tail());
    assert!(seen.iter().all(|seen| *seen == Ok(A.to_owned())));
}

#[test]
fn a_warm_instance_is_back_at_once_and_older_ones_go() {
    let mut play = Play::new(&UWSGI);
    play.settings.keep_warm = KeepWarm::Former;
    let (a, b, c) = (play.stage.release(A, APP), play.stage.release(B, APP), play.stage.release(C, APP));
    play.switch(&a, None).unwrap();
    play.switch(&b, Some(&a)).unwrap();
    assert_eq!((play.masters(&a).len(), play.masters(&b).len()), (1, 1));
    let visitors = Visitors::come(&play.settings.socket);
    let begun = Instant::now();
    play.stage.with_scene(|context| {
        let Restart::Handover(settings) = play.restart() else { panic!() };
        assert_eq!(settings.stand(context, a.serving()).unwrap(), Stood::Ours);
    });
    let stood = begun.elapsed();
    assert_eq!(visit(&play.settings.socket, "/").unwrap(), A);
    eprintln!("stood after {stood:?}, answered after {:?}", begun.elapsed());
    let begun = Instant::now();
    play.stage.with_scene(|context| play.restart().prepare(context, b.serving()).map(drop)).unwrap();
    eprintln!("a warm instance is prepared in {:?}", begun.elapsed());
    play.switch(&b, Some(&a)).unwrap();
    play.switch(&c, Some(&b)).unwrap();
    all_answered(&visitors.go().0);
    assert_eq!((play.masters(&a).len(), play.masters(&b).len(), play.masters(&c).len()), (0, 1, 1));
}

#[test]
fn the_way_back_is_the_same_whatever_was_left_and_can_be_gone_twice() {
    let play = Play::new(&UWSGI);
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, APP));
    play.switch(&a, None).unwrap();
    // The agent died right after the rename, before it recorded the process that it had started.
    play.stage.with_scene(|context| {
        let mut prepared = play.restart().prepare(context, b.serving()).unwrap();
        play.restart().act(context, b.serving(), &mut prepared).unwrap();
    });
    let record = play.stage.path(".agent/instances").join(format!("{B}.json"));
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace(&text[text.find("\"process\"").unwrap()..], "\"process\":null}")).unwrap();
    assert_eq!(play.masters(&b).len(), 1, "it is found by its environment");
    let visitors = Visitors::come(&play.settings.socket);
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
    let (seen, _) = visitors.go();
    all_answered(&seen);
    assert_eq!(seen.last(), Some(&Ok(A.to_owned())));
    assert!(play.masters(&b).is_empty() && !record.exists());
    // After a reboot nothing runs, and the records are of another boot.
    play.stage.with_scene(|context| Instances::open(&play.settings, context).unwrap().stop(&a.name, Duration::ZERO)).unwrap();
    let record = play.stage.path(".agent/instances").join(format!("{A}.json"));
    fs::write(&record, format!(r#"{{"release":"{A}","socket":"x","boot":"another","process":[1,1]}}"#)).unwrap();
    fs::remove_file(&play.settings.socket).unwrap();
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
    assert_eq!(visit(&play.settings.socket, "/").unwrap(), A);
}

#[test]
fn a_live_instance_that_is_gone_is_revived() {
    let play = Play::new(&UWSGI);
    let a = play.stage.release(A, APP);
    let revive = || play.stage.with_scene(|context| play.restart().revive(context, a.serving())).unwrap();
    assert_eq!(revive(), Revived::NotNeeded, "it was never started");
    play.switch(&a, None).unwrap();
    assert_eq!(revive(), Revived::NotNeeded);
    let master = play.masters(&a)[0];
    master.end_group();
    while master.is_alive() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let gone = play.stage.with_scene(|context| play.restart().look(context, a.serving())).unwrap_err();
    assert!(gone.to_string().contains("there is no instance"), "{gone}");
    assert_eq!(revive(), Revived::Started);
    let proof = play.stage.with_scene(|context| play.restart().look(context, a.serving())).unwrap();
    assert_eq!(proof.notes.len(), 1, "{proof:?}");
}

/// Until nothing of it is there.
pub(super) fn kill(process: crate::process::Process) {
    process.signal(Signal::SIGKILL);
    while process.is_alive() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_live_instance_that_ends_is_gone_and_is_started_again_and_counted() {
    let play = Play::new(&UWSGI);
    let a = play.stage.release(A, APP);
    let standing = |known: &[_]| play.stage.with_scene(|context| play.restart().standing(context, &a.name, known)).unwrap();
    let again = |now| play.stage.with_scene(|context| play.restart().start_again(context, a.serving(), now)).unwrap();
    assert_eq!(standing(&[]), Standing::Unwatched, "it was never started");
    play.switch(&a, None).unwrap();
    let Standing::Serves(masters) = standing(&[]) else { panic!("it serves") };
    assert_eq!(masters, play.masters(&a));
    // The workers of a uWSGI whose master was killed keep listening for a while, and nothing replaces them.
    kill(masters[0]);
    assert_eq!(standing(&masters), Standing::Gone);
    assert_eq!(again(7), Some(StartedAgain { times: 1, last: 7 }));
    let Standing::Serves(masters) = standing(&masters) else { panic!("it serves again") };
    assert_eq!((masters.len(), visit(&play.settings.socket, "/").unwrap()), (1, A.to_owned()));
    // Nothing is left of the instance, as after a kill of the whole group.
    masters[0].end_group();
    kill(masters[0]);
    assert_eq!(standing(&[]), Standing::Gone);
    assert_eq!(again(9), Some(StartedAgain { times: 2, last: 9 }));
    assert_eq!(started_again(&play.stage.path(".agent/instances"), &a.name), Some(StartedAgain { times: 2, last: 9 }));
    // An instance that the agent itself stopped stays stopped.
    play.stage.with_scene(|context| Instances::open(&play.settings, context).unwrap().stop(&a.name, Duration::ZERO)).unwrap();
    assert_eq!(standing(&[]), Standing::Unwatched);
}

#[test]
fn workers_that_are_replaced_while_they_are_watched_are_no_proof() {
    let gunicorn = crate::restart::in_place::gunicorn::tests::gunicorn().join("bin/gunicorn").to_string_lossy().into_owned();
    let gunicorn = [&gunicorn, "--workers=2", "--no-control-socket", "--bind=unix:{socket}", "app:application"];
    let uwsgi: Vec<&str> = UWSGI.into_iter().chain(["--lazy-apps"]).collect();
    for argv in [&uwsgi[..], &gunicorn[..]] {
        let mut play = Play::new(argv);
        // Each worker loads the app by itself and ends a second later. The master soon has a replacement ready, so most checks pass.
        play.stage.checks[0].stable_for = Duration::from_secs(3);
        let ends = "\nimport threading\nthreading.Timer(1, os._exit, [0]).start()\n";
        let a = play.stage.release(A, &format!("{APP}{ends}"));
        let error = play.switch(&a, None).unwrap_err();
        eprintln!("{error}");
        assert!(error.to_string().contains("were replaced") || error.to_string().contains("no longer after"), "{error}");
        assert!(play.masters(&a).is_empty(), "nothing of it is left");
    }
}

#[test]
fn a_death_within_the_time_of_confirmation_leaves_the_former_instance_to_go_back_to() {
    let mut play = Play::new(&UWSGI);
    play.settings.confirm = Duration::from_secs(20);
    let a = play.stage.release(A, APP);
    play.stage.with_scene(|context| assert_eq!(play.settings.prepare(context, a.serving()).unwrap(), Duration::from_secs(20)));
    play.stage.with_scene(|context| {
        let seen = RestartContext { steadiness: Steadiness::Seen, ..*context };
        assert_eq!(play.settings.prepare(&seen, a.serving()).unwrap(), Duration::ZERO, "it was watched before");
    });
    play.settings.confirm = Duration::ZERO;
    play.switch(&a, None).unwrap();
    play.settings.confirm = Duration::from_secs(20);
    // It outlives the checks, but not the time of watching after them.
    let dies = "\nif os.fork() == 0:\n    time.sleep(2.5)\n    os.kill(os.getppid(), 9)\n    os._exit(0)\n";
    let b = play.stage.release(B, &format!("{APP}{dies}"));
    let visitors = Visitors::come(&play.settings.socket);
    let died = play.switch(&b, Some(&a)).unwrap_err();
    assert!(died.to_string().contains("ended"), "{died}");
    assert_eq!(play.masters(&a).len(), 1, "the former instance is there");
    play.stage.back(&play.restart(), &b, Some(&a)).unwrap();
    let (seen, _) = visitors.go();
    assert_eq!(seen.last(), Some(&Ok(A.to_owned())));
    assert!(play.masters(&b).is_empty());
}

#[test]
fn without_a_former_release_nothing_is_left() {
    let play = Play::new(&UWSGI);
    let a = play.stage.release(A, APP);
    play.switch(&a, None).unwrap();
    play.stage.back(&play.restart(), &a, None).unwrap();
    assert!(play.masters(&a).is_empty());
    assert_eq!(fs::read_dir(play.stage.path("run")).unwrap().count(), 0);
}

#[test]
fn uwsgis_own_protocol_is_found_out() {
    let mut argv = UWSGI;
    argv[8] = "--socket={socket}";
    let play = Play::new(&argv);
    let a = play.stage.release(A, APP);
    let proof = play.switch(&a, None).unwrap();
    assert!(proof.notes[0].contains(&format!("200 from {A}")), "{proof:?}");
}

#[test]
fn an_instance_that_takes_term_for_a_reload_goes_all_the_same() {
    let play = Play::new(&UWSGI[..9]);
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, APP));
    play.switch(&a, None).unwrap();
    let visitors = Visitors::come(&play.settings.socket);
    play.switch(&b, Some(&a)).unwrap();
    all_answered(&visitors.go().0);
    assert!(play.stage.warnings().iter().any(|warning| warning.contains("die-on-term")), "{:?}", play.stage.warnings());
    assert!(play.masters(&a).is_empty());
}

#[test]
fn what_stands_in_the_way_is_said_before_anything_is_started() {
    let mut play = Play::new(&["./start"]);
    let a = play.stage.release(A, APP);
    let prepare = |play: &Play| play.stage.with_scene(|context| play.restart().prepare(context, a.serving()).map(drop)).unwrap_err();
    let missing = prepare(&play);
    assert!(std::error::Error::source(&missing).unwrap().to_string().contains("there is no program"), "{missing:?}");
    let listener = UnixListener::bind(&play.settings.socket).unwrap();
    assert!(prepare(&play).to_string().contains("a server listens at"));
    drop(listener);
    assert!(prepare(&play).to_string().contains("is in the way"));
    let socket = std::mem::replace(&mut play.settings.socket, play.stage.path(&format!("run/{}", "x".repeat(70))));
    assert!(prepare(&play).to_string().contains("Linux allows 107"));
    play.settings.socket = play.stage.path("nowhere/web.sock");
    assert!(prepare(&play).to_string().contains("does not exist"));
    play.settings.socket = socket;
}

#[test]
fn an_instance_that_binds_nothing_is_given_up_in_time() {
    let mut play = Play::new(&["/bin/sh", "-c", "echo I bind nothing; exec sleep 300"]);
    play.settings.start_timeout = Duration::from_millis(300);
    let a = play.stage.release(A, APP);
    let error = play.switch(&a, None).unwrap_err();
    assert!(error.to_string().contains("did not accept connections"), "{error}");
    assert_eq!(error.tail(), ["I bind nothing"]);
    assert!(play.masters(&a).is_empty());
}

/// nginx in front of the name, as on a host; its own socket is the public address.
struct Nginx(std::process::Child);

impl Nginx {
    fn before(play: &mut Play) -> (Self, PathBuf) {
        let public = play.stage.path("public.sock");
        let (dir, name) = (play.stage.path(""), play.settings.socket.display().to_string());
        let (log, pid) = (dir.join("nginx.log"), dir.join("nginx.pid"));
        let text = format!(
            "error_log {log}; pid {pid}; daemon off; worker_processes 2; events {{ worker_connections 1024; }} user root;
             http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;
             scgi_temp_path {dir}/s; server {{ listen unix:{public}; location / {{ proxy_pass http://unix:{name}; }} }} }}",
            log = log.display(),
            pid = pid.display(),
            dir = dir.display(),
            public = public.display(),
        );
        let conf = dir.join("nginx.conf");
        fs::write(&conf, text).unwrap();
        let child = std::process::Command::new("nginx").arg("-c").arg(&conf).arg("-e").arg(&log).spawn().unwrap();
        while !http::listens(&public) {
            std::thread::sleep(Duration::from_millis(10));
        }
        play.stage.checks = vec![play.stage.check(Target::Unix(public.clone()))];
        (Self(child), public)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        crate::process::Process::of(self.0.id()).signal(Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn behind_nginx_no_visitor_notices_either() {
    let gunicorn = crate::restart::in_place::gunicorn::tests::gunicorn().join("bin/gunicorn").to_string_lossy().into_owned();
    let gunicorn =
        [&gunicorn, "--workers=2", "--preload", "--backlog=1024", "--no-control-socket", "--bind=unix:{socket}", "app:application"];
    for argv in [&UWSGI[..], &gunicorn[..]] {
        let mut play = Play::new(argv);
        let (_nginx, public) = Nginx::before(&mut play);
        let (a, b) = (play.stage.release(A, APP), play.stage.release(B, APP));
        play.switch(&a, None).unwrap();
        let visitors = Visitors::come(&public);
        for _ in 0..2 {
            play.switch(&b, Some(&a)).unwrap();
            play.switch(&a, Some(&b)).unwrap();
        }
        let (seen, silence) = visitors.go();
        eprintln!("{}: {} visits in four handovers, longest silence {silence:?}", argv[0], seen.len());
        all_answered(&seen);
        assert!(play.stage.warnings().is_empty(), "{:?}", play.stage.warnings());
    }
}

/// Slots as they are configured, without asking for their units: tests only what the links show.
fn slotted() -> Play {
    let mut play = Play::new(&[]);
    play.settings.starter = Starter::Unit("shop@.service".to_owned());
    play.settings.slots = ["blue", "green"].map(|slot| slot.parse().unwrap()).to_vec();
    play
}

impl Play {
    fn take(&self, slot: &str, release: &Release) {
        self.slots().point(&slot.parse().unwrap(), &release.name).unwrap();
    }

    fn slots(&self) -> Slots {
        Slots::beside(&self.stage.path("app"))
    }
}

#[test]
fn an_instance_is_called_by_the_slot_that_leads_to_its_release() {
    let play = std::mem::ManuallyDrop::new(slotted());
    let (a, b, link) = (play.stage.release(A, APP), play.stage.release(B, APP), play.stage.path("app"));
    let settings = &play.settings;
    assert_eq!(settings.called(&link, &a.name), A, "one from before there were slots");
    play.take("blue", &a);
    play.take("green", &b);
    assert_eq!((settings.called(&link, &a.name), settings.called(&link, &b.name)), ("blue".to_owned(), "green".to_owned()));
    assert_eq!(settings.socket_of(&link, &a.name), play.stage.path("run/web.sock.blue"));
    settings.name(&link, &a.name).unwrap();
    assert_eq!(fs::read_link(&settings.socket).unwrap(), Path::new("web.sock.blue"));
    assert!(settings.names(&link, &a.name) && !settings.names(&link, &b.name));
    play.take("blue", &b);
    assert!(!settings.names(&link, &a.name), "what is in the slot now is another release");
    assert!(settings.names(&link, &b.name), "of two slots, the one that visitors are led to counts");
    play.take("old", &a);
    assert_eq!(settings.called(&link, &a.name), "old", "a slot that is no longer set is found as long as it leads to a release");
    settings.unname().unwrap();
    assert!(fs::symlink_metadata(&settings.socket).is_err());
    symlink("web.sock.theirs", &settings.socket).unwrap();
    settings.unname().unwrap();
    assert!(fs::symlink_metadata(&settings.socket).is_ok(), "a link that the agent did not make stays");
    fs::remove_dir_all(play.stage.path("")).unwrap();
}

#[test]
fn the_record_of_an_instance_ends_when_its_slot_leads_elsewhere() {
    let play = std::mem::ManuallyDrop::new(slotted());
    let (a, b) = (play.stage.release(A, APP), play.stage.release(B, APP));
    play.take("blue", &a);
    // The listener in the slot answers for whatever release the slot leads to.
    let socket = play.stage.path("run/web.sock.blue");
    let _listener = UnixListener::bind(&socket).unwrap();
    let record = play.stage.path(".agent/instances").join(format!("{A}.json"));
    let slot = play.slots().link(&"blue".parse().unwrap());
    fs::write(&record, format!(r#"{{"release":"{A}","socket":{socket:?},"boot":"x","process":null,"slot":{slot:?}}}"#)).unwrap();
    assert_eq!(recorded(&record), crate::root::Instance::Runs);
    play.take("blue", &b);
    assert_eq!(recorded(&record), crate::root::Instance::Gone);
    play.slots().free(&"blue".parse().unwrap()).unwrap();
    assert_eq!(recorded(&record), crate::root::Instance::Gone);
    fs::remove_dir_all(play.stage.path("")).unwrap();
}

#[test]
fn no_release_can_be_removed_that_a_slot_leads_to_while_systemd_does_not_answer() {
    let play = std::mem::ManuallyDrop::new(slotted());
    let a = play.stage.release(A, APP);
    play.take("green", &a);
    if !Path::new("/run/dbus/system_bus_socket").exists() {
        let held = play.stage.with_scene(|context| play.restart().in_units(context.link, context.workers, context.watch));
        assert_eq!(held, std::slice::from_ref(&a.name));
    }
    assert_eq!(play.stage.with_scene(|context| Restart::None.in_units(context.link, context.workers, context.watch)), []);
    fs::remove_dir_all(play.stage.path("")).unwrap();
}
