use super::*;
use agent_model::request::Admission;

fn journal() -> (tempfile::TempDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&dir.path().join("state")).unwrap();
    (dir, journal)
}

fn shop() -> AppName {
    "shop".parse().unwrap()
}

fn ask(journal: &Journal, nonce: &str, form: &str, supersedes: &[RunId]) -> Taken {
    let app = shop();
    let asked = Asked {
        app: &app,
        action: "release",
        of: Some("main"),
        caller: "unix:anna",
        form,
        refs: None,
        back: &Back::Never,
        nonce,
        token: None,
        takes_turns: true,
        first_for: None,
    };
    journal.take(&asked, |_| Ok(Admission { supersedes: supersedes.to_vec() })).unwrap()
}

fn planned() -> What {
    What::Planned { aim: agent_wire::event::AimWord::Serve, steps: vec![], live: None }
}

fn ended(outcome: OutcomeWord) -> What {
    What::Ended { outcome, live: None, ms: 1 }
}

#[test]
fn the_same_bytes_are_one_run_and_a_nonce_serves_once() {
    let (dir, journal) = journal();
    assert_eq!(ask(&journal, "n1", "{}", &[]), Taken::New(RunId(1)));
    assert_eq!(ask(&journal, "n1", "{}", &[]), Taken::Before(RunId(1)));
    assert_eq!(ask(&journal, "n1", "{ }", &[]), Taken::NonceReused);
    drop(journal);
    let journal = Journal::open(&dir.path().join("state")).unwrap();
    assert_eq!(ask(&journal, "n1", "{}", &[]), Taken::Before(RunId(1)), "across a restart too");
    assert_eq!(ask(&journal, "n2", "{}", &[]), Taken::New(RunId(2)));
}

#[test]
fn what_was_appended_is_what_is_read_without_a_gap() {
    let (_dir, journal) = journal();
    ask(&journal, "n1", "{}", &[]);
    let run = RunId(1);
    journal.append(run, &[planned(), What::StepStarted { step: "fetch".into() }]).unwrap();
    journal.append_soon(run, &What::Note { step: "fetch".into(), text: "a".into() }).unwrap();
    journal.append(run, &[ended(OutcomeWord::Live)]).unwrap();
    let events = journal.events(run, 0, 100).unwrap();
    assert_eq!(events.iter().map(|event| event.n).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(journal.events(run, 3, 1).unwrap()[0].n, 4);
    let told = journal.run(run).unwrap().unwrap();
    assert_eq!((told.state, told.outcome), (view::RunState::Ended, Some(OutcomeWord::Live)));
}

#[test]
fn standing_is_what_the_runs_say() {
    let (_dir, journal) = journal();
    for nonce in ["n1", "n2", "n3"] {
        ask(&journal, nonce, "{}", &[]);
    }
    journal.append(RunId(1), &[planned()]).unwrap();
    let standing = journal.standing(&shop()).unwrap();
    assert_eq!(standing.running, Some(RunId(1)));
    assert_eq!(standing.waiting, [(RunId(2), Waiting::Release), (RunId(3), Waiting::Release)]);
    let due: Vec<(u64, bool)> = journal.due(&shop()).unwrap().into_iter().map(|due| (due.run.0, due.begun)).collect();
    assert_eq!(due, [(1, true), (2, false), (3, false)]);
    assert_eq!(ask(&journal, "n4", "{}", &[RunId(2), RunId(3)]), Taken::New(RunId(4)));
    assert_eq!(journal.run(RunId(2)).unwrap().unwrap().outcome, Some(OutcomeWord::Superseded));
    journal.append(RunId(1), &[ended(OutcomeWord::Stuck)]).unwrap();
    assert_eq!(journal.standing(&shop()).unwrap().stuck, Some(RunId(1)));
    journal.append(RunId(4), &[planned(), ended(OutcomeWord::Failed)]).unwrap();
    assert_eq!(journal.standing(&shop()).unwrap().stuck, Some(RunId(1)), "a failure ends no stuckness");
    ask(&journal, "n5", "{}", &[]);
    journal.append(RunId(5), &[planned(), ended(OutcomeWord::Live)]).unwrap();
    assert_eq!(journal.standing(&shop()).unwrap().stuck, None);
}

#[test]
fn expose_and_cancel_exclude_each_other() {
    let (_dir, journal) = journal();
    ask(&journal, "n1", "{}", &[]);
    let cancel = What::CancelAsked { caller: "unix:anna".into() };
    let expose = What::Exposed { step: "switch".into() };
    assert!(journal.append_unless(RunId(1), &expose, "cancel_asked").unwrap());
    assert!(!journal.append_unless(RunId(1), &cancel, "exposed").unwrap());
    ask(&journal, "n2", "{}", &[]);
    assert!(journal.append_unless(RunId(2), &cancel, "exposed").unwrap());
    assert!(!journal.append_unless(RunId(2), &expose, "cancel_asked").unwrap());
}

#[test]
fn one_agent_at_a_time_and_no_newer_file() {
    let (dir, journal) = journal();
    let state = dir.path().join("state");
    assert!(matches!(Journal::open(&state), Err(JournalError::Held(_))));
    locked(&journal.writer).pragma_update(None, "user_version", 99).unwrap();
    drop(journal);
    let Err(err) = Journal::open(&state) else { panic!("a newer journal was opened") };
    assert!(matches!(err, JournalError::Newer { found: 99, .. }), "{err}");
}

#[test]
fn nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, journal) = journal();
    ask(&journal, "n1", "{}", &[]);
    assert_eq!(fs::metadata(dir.path().join("state")).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(dir.path().join("state")).unwrap().flatten() {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o077;
        assert_eq!(mode & 0o066 & if entry.file_name() == "reserve" { 0 } else { 0o077 }, 0, "{:?}", entry.file_name());
    }
}
