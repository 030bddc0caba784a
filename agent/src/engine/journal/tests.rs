use super::reading::{GONE_LIVE, LAST_ENDED, NEXT, ON_THE_SPOT, OUTCOMES, PAGE, PAST_OUTCOMES, RUN, UNDER_WAY};
use super::spent::SPOT;
use super::*;
use agent_model::names::ReleaseName;
use agent_model::request::Admission;
use agent_wire::event::Event;
use agent_wire::view;
use rusqlite::{StatementStatus, params_from_iter};

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
    let evidence = Evidence { text: form.to_owned(), ..Evidence::default() };
    let asked = NewRun {
        app: &app,
        action: "release",
        of: Some("main"),
        caller: "unix:anna",
        evidence: &evidence,
        proof: None,
        refs: None,
        back: &Back::Never,
        nonce,
        token: None,
        limit: Limit::None,
        takes_turns: true,
        first_for: None,
    };
    journal.take(&asked, |_| Ok(Admission { supersedes: supersedes.to_vec() })).unwrap()
}

fn planned() -> What {
    What::Planned { aim: agent_wire::event::AimWord::Serve, steps: vec![], live: None }
}

fn ended(outcome: OutcomeWord) -> What {
    What::Ended { outcome, live: None, ms: 1, database: None }
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

fn output(number: usize, length: usize) -> What {
    What::Output { step: "fetch".into(), stream: agent_wire::event::Stream::Stdout, line: format!("{number} {}", "x".repeat(length)) }
}

/// The numbers of a run's lines, in order; also asserts that its events have no gap.
fn said(journal: &Journal, run: RunId) -> Vec<usize> {
    let events = journal.events(run, 0, u32::MAX).unwrap();
    assert!(events.iter().zip(1..).all(|(event, n)| event.n == n));
    let number = |event: &Event| match &event.what {
        What::Output { line, .. } => Some(line.split(' ').next().unwrap().parse().unwrap()),
        _ => None,
    };
    events.iter().filter_map(number).collect()
}

#[test]
fn what_was_said_stands_before_the_mark_behind_it_and_is_kept_without_one() {
    let (dir, journal) = journal();
    let (one, other) = (RunId(1), RunId(2));
    ask(&journal, "n1", "{}", &[]);
    ask(&journal, "n2", "{}", &[]);
    for number in 0..100 {
        journal.say(one, &output(number, 10)).unwrap();
        // A mark of another run writes them as well.
        journal.append(if number % 3 == 0 { other } else { one }, &[What::StepStarted { step: "fetch".into() }]).unwrap();
        assert_eq!(said(&journal, one).len(), number + 1);
    }
    assert_eq!(said(&journal, one), (0..100).collect::<Vec<_>>());
    journal.say(one, &output(100, 10)).unwrap();
    assert_eq!(journal.settle(one).unwrap(), 0, "nothing was lost");
    assert_eq!(said(&journal, one).last(), Some(&100));
    journal.say(one, &output(101, 10)).unwrap();
    // An agent that ends in good order writes the pending lines.
    drop(journal);
    let journal = Journal::open(&dir.path().join("state")).unwrap();
    assert_eq!(said(&journal, one).last(), Some(&101));
}

#[test]
fn more_than_may_wait_is_written_in_the_order_in_which_each_run_said_it() {
    let (_dir, journal) = journal();
    ask(&journal, "n1", "{}", &[]);
    ask(&journal, "n2", "{}", &[]);
    std::thread::scope(|scope| {
        for run in [RunId(1), RunId(2)] {
            let journal = &journal;
            scope.spawn(move || (0..1000).for_each(|number| journal.say(run, &output(number, 2000)).unwrap()));
        }
    });
    for run in [RunId(1), RunId(2)] {
        journal.settle(run).unwrap();
        assert_eq!(said(&journal, run), (0..1000).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn whoever_follows_a_run_is_woken_by_that_run_alone_and_without_a_mark() {
    let (_dir, journal) = journal();
    ask(&journal, "n1", "{}", &[]);
    ask(&journal, "n2", "{}", &[]);
    let (mut one, other, mut any) = (journal.changes_of(RunId(1)), journal.changes_of(RunId(2)), journal.changes());
    journal.say(RunId(1), &output(0, 10)).unwrap();
    let most = std::time::Duration::from_secs(60);
    tokio::time::timeout(most, one.changed()).await.expect("it rings").unwrap();
    assert_eq!(said(&journal, RunId(1)), [0]);
    assert!(!other.has_changed().unwrap());
    assert!(any.borrow_and_update().gt(&2));
    journal.append(RunId(2), &[planned()]).unwrap();
    assert!(other.has_changed().unwrap() && !one.has_changed().unwrap() && any.has_changed().unwrap());
}

#[test]
fn a_page_has_what_is_worth_a_turn_and_the_next_one_goes_on() {
    let (_dir, journal) = journal();
    ask(&journal, "n1", "{}", &[]);
    (0..100).for_each(|number| journal.say(RunId(1), &output(number, 8000)).unwrap());
    journal.append(RunId(1), &[ended(OutcomeWord::Failed)]).unwrap();
    let (mut after, mut read, mut goes_on) = (0, 0, true);
    while goes_on {
        let Page { events, over, more } = journal.page(RunId(1), after).unwrap();
        assert!(over);
        goes_on = more;
        let Some((last, ..)) = events.last() else { break };
        assert!(events.iter().map(|(_, _, text)| text.len()).sum::<usize>() < PAGE + 9000);
        assert!(events.iter().zip(after + 1..).all(|((n, ..), wanted)| *n == wanted));
        (after, read) = (*last, read + 1);
    }
    assert_eq!(after, 102);
    assert!(read > 5, "{read} pages");
    assert_eq!(journal.marks(RunId(1)).unwrap().iter().map(|event| event.n).collect::<Vec<_>>(), [1, 102]);
}

#[test]
fn what_is_asked_at_each_start_and_of_each_app_goes_through_no_history() {
    let (_dir, journal) = journal();
    let reader = journal.reader.lock();
    let last_ended = format!("{RUN} {LAST_ENDED}");
    for query in [&last_ended, OUTCOMES, PAST_OUTCOMES, SPOT, GONE_LIVE, STUCK, UNDER_WAY, ON_THE_SPOT, schema::NEWEST] {
        let mut explain = reader.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
        let steps: Vec<String> = explain
            .query_map(params_from_iter(["shop"].iter().take(query.matches('?').count().min(1))), |row| row.get(3))
            .unwrap()
            .flatten()
            .collect();
        let scans = |step: &&String| step.starts_with("SCAN") && *step != "SCAN CONSTANT ROW" && !step.contains("run_unended");
        assert_eq!(steps.iter().find(scans), None, "{query}: {steps:?}");
        // The few active runs may be sorted.
        assert!(query == UNDER_WAY || !steps.iter().any(|step| step.contains("TEMP B-TREE")), "{query}: {steps:?}");
    }
}

#[test]
fn what_is_asked_again_with_other_values_is_not_planned_again() {
    let (_dir, journal) = journal();
    for (run, nonce) in [(RunId(1), "n1"), (RunId(2), "n2"), (RunId(3), "n3")] {
        ask(&journal, nonce, "{}", &[]);
        journal.append(run, &[planned()]).unwrap();
        assert!(journal.page(run, 1).unwrap().events.iter().any(|(_, _, text)| text.contains("planned")));
    }
    let often = |connection: &Connection, statement: &str| {
        let statement = connection.prepare_cached(statement).unwrap();
        [StatementStatus::Run, StatementStatus::RePrepare].map(|status| statement.get_status(status))
    };
    for [runs, anew] in [journal.writer.with_connection(|writer| often(writer, APPEND)), often(&journal.reader.lock(), NEXT)] {
        assert!(runs >= 3 && anew == 0, "of {runs} times {anew} were planned anew");
    }
}

#[test]
fn nothing_is_written_into_a_journal_that_is_damaged() {
    let (dir, journal) = journal();
    assert_eq!(ask(&journal, "nonce-one", "{}", &[]), Taken::New(RunId(1)));
    drop(journal);
    let state = dir.path().join("state");
    let file = state.join("journal.db");
    let mut bytes = fs::read(&file).unwrap();
    // Changes the nonce either in the row or in its index, but not in both.
    let at = bytes.windows(9).rposition(|bytes| bytes == b"nonce-one").unwrap();
    bytes[at + 8] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let journal = Journal::open(&state).unwrap();
    assert_eq!(journal.runs(&shop(), 0, 10).unwrap().len(), 1, "it can be read");
    let damaged = |wrote: Result<(), JournalError>| matches!(wrote, Err(JournalError::Damaged { .. }));
    assert!(damaged(journal.append(RunId(1), &[planned()])) && damaged(journal.looked_through()));
    assert!(damaged(journal.append_soon(RunId(1), &What::Stopped)) && damaged(journal.say(RunId(1), &output(0, 1))));
    assert!(damaged(journal.append_unless(RunId(1), &planned(), RunFlag::Ended).map(|_| ())));
    drop(journal);
    assert_eq!(fs::read(&file).unwrap(), bytes, "and it is left as it is");
}

#[test]
fn a_journal_of_before_is_brought_up_to_date_by_its_events() {
    let (dir, journal) = journal();
    for nonce in ["n1", "n2", "n3"] {
        ask(&journal, nonce, "{}", &[]);
    }
    journal.append(RunId(1), &[planned(), What::Exposed { step: "switch".into() }]).unwrap();
    journal.append(RunId(2), &[What::CancelAsked { caller: "unix:anna".into() }]).unwrap();
    let stands = |journal: &Journal| {
        [RunId(1), RunId(2), RunId(3)].map(|run| [RunFlag::Exposed, RunFlag::CancelAsked].map(|flag| journal.has(run, flag).unwrap()))
    };
    let wanted = [[true, false], [false, true], [false, false]];
    assert_eq!(stands(&journal), wanted);
    journal.writer.with_connection(|connection| {
        let back = "DROP INDEX run_last_ended; DROP INDEX run_of_outcome; DROP INDEX run_accepted; DROP INDEX run_ended;
            ALTER TABLE run DROP COLUMN commit_id; ALTER TABLE run DROP COLUMN proof; ALTER TABLE run DROP COLUMN signatures;
            DROP INDEX run_on_the_spot; DROP TABLE past; DROP TABLE past_outcome; DELETE FROM about WHERE key = 'newest';
            ALTER TABLE run DROP COLUMN keys;
            ALTER TABLE run DROP COLUMN exposed; ALTER TABLE run DROP COLUMN cancel_asked; PRAGMA user_version = 2";
        connection.execute_batch(back).unwrap();
    });
    drop(journal);
    let journal = Journal::open(&dir.path().join("state")).unwrap();
    assert_eq!(stands(&journal), wanted);
    assert_eq!(journal.check(&shop(), &|| true).flaws, []);
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
    assert!(journal.append_unless(RunId(1), &expose, RunFlag::CancelAsked).unwrap());
    assert!(!journal.append_unless(RunId(1), &cancel, RunFlag::Exposed).unwrap());
    ask(&journal, "n2", "{}", &[]);
    assert!(journal.append_unless(RunId(2), &cancel, RunFlag::Exposed).unwrap());
    assert!(!journal.append_unless(RunId(2), &expose, RunFlag::CancelAsked).unwrap());
}

#[test]
fn a_step_that_has_ended_is_written_down_though_a_cancel_keeps_the_next_one_from_beginning() {
    let (_dir, journal) = journal();
    ask(&journal, "n1", "{}", &[]);
    let done = |step: &str| What::StepDone { step: step.into(), ms: 1, nothing: None };
    let begins = |step: &str| What::StepStarted { step: step.into() };
    assert!(journal.go_on(RunId(1), Some(&done("fetch")), &begins("checkout"), RunFlag::CancelAsked).unwrap());
    let cancel = What::CancelAsked { caller: "unix:anna".into() };
    assert!(journal.append_unless(RunId(1), &cancel, RunFlag::Exposed).unwrap());
    assert!(!journal.go_on(RunId(1), Some(&done("checkout")), &begins("seal"), RunFlag::CancelAsked).unwrap());
    let told: Vec<What> = journal.marks(RunId(1)).unwrap().into_iter().map(|event| event.what).collect();
    assert_eq!(told[told.len() - 4..], [done("fetch"), begins("checkout"), cancel, done("checkout")]);
}

#[test]
fn one_agent_at_a_time_and_no_newer_file() {
    let (dir, journal) = journal();
    let state = dir.path().join("state");
    assert!(matches!(Journal::open(&state), Err(JournalError::Held(_))));
    journal.writer.with_connection(|connection| connection.pragma_update(None, "user_version", 99).unwrap());
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

/// An immediate action that happened so many hours ago.
fn on_the_spot(journal: &Journal, nonce: &str, hours: i64) -> RunId {
    let (app, evidence) = (shop(), Evidence { text: "{}".to_owned(), ..Evidence::default() });
    let asked = NewRun {
        app: &app,
        action: "lock",
        of: None,
        caller: "unix:anna",
        evidence: &evidence,
        proof: None,
        refs: None,
        back: &Back::Never,
        nonce,
        token: None,
        limit: Limit::None,
        takes_turns: false,
        first_for: None,
    };
    let Taken::New(run) = journal.take(&asked, |_| Ok(Admission { supersedes: Vec::new() })).unwrap() else { panic!("not taken") };
    journal.append(run, &[ended(OutcomeWord::Done)]).unwrap();
    age(journal, run, hours);
    run
}

fn age(journal: &Journal, run: RunId, hours: i64) {
    let by = hours * 3_600_000;
    journal.writer.with_connection(|connection| {
        connection
            .execute(
                "UPDATE run SET accepted = accepted - ?1, begun = begun - ?1, ended = ended - ?1 WHERE run = ?2",
                [by, run.0.cast_signed()],
            )
            .unwrap();
        connection.execute("UPDATE event SET at = at - ?1 WHERE run = ?2", [by, run.0.cast_signed()]).unwrap();
    });
}

fn numbers(journal: &Journal) -> Vec<u64> {
    journal.runs(&shop(), 0, 1000).unwrap().into_iter().map(|run| run.run).collect()
}

#[test]
fn locks_and_unlocks_without_end_are_not_kept_for_ever() {
    let (dir, journal) = journal();
    ask(&journal, "first", "{}", &[]);
    for n in 0..150 {
        on_the_spot(&journal, &format!("old {n}"), 4);
    }
    for n in 0..120 {
        on_the_spot(&journal, &format!("new {n}"), 0);
    }
    let kept = numbers(&journal);
    // All young ones are kept, and of the older ones none beyond the hundredth; a release does not count among them.
    assert_eq!((kept.len(), kept.contains(&1)), (1 + 120, true), "{kept:?}");
    assert_eq!(journal.check(&shop(), &|| true).flaws, []);
    assert_eq!(journal.last_number().unwrap(), 271, "a number is never given twice");
    // The newest time survives the removal of the newest run.
    let newest = journal.newest();
    journal.writer.with_connection(|connection| {
        connection.execute("UPDATE about SET value = ? WHERE key = 'newest'", [(newest.timestamp_millis() + 5_000).to_string()]).unwrap()
    });
    drop(journal);
    assert!(Journal::open(&dir.path().join("state")).unwrap().newest() > newest);
}

#[test]
fn old_runs_are_forgotten_and_what_is_asked_of_them_is_not() {
    let (_dir, journal) = journal();
    let commit = |n: u64| format!("{n:012x}{:028}", 0);
    let release = |n: u64, outcome: OutcomeWord| {
        ask(&journal, &format!("n{n}"), "{}", &[]);
        let release = format!("2026-01-01-00-00-{n:02}-{}", &commit(n)[..12]);
        journal
            .append(RunId(n), &[planned(), What::Resolved { commit: commit(n), reference: None, release, subject: None }, ended(outcome)])
            .unwrap();
        age(&journal, RunId(n), 1000);
    };
    for n in 1..=40 {
        release(n, if n % 2 == 0 { OutcomeWord::Live } else { OutcomeWord::Failed });
    }
    let before = journal.outcomes(&shop()).unwrap();
    let there: ReleaseName = format!("2026-01-01-00-00-04-{}", &commit(4)[..12]).parse().unwrap();
    let day = |hours: i64| Utc::now() - chrono::TimeDelta::hours(hours);
    assert_eq!(journal.forget_old(&shop(), day(2000), std::slice::from_ref(&there)).unwrap(), 0, "none is so old");
    assert_eq!(journal.forget_old(&shop(), day(24), std::slice::from_ref(&there)).unwrap(), 19);
    let kept = numbers(&journal);
    assert_eq!((kept.len(), kept.contains(&4), kept.contains(&1)), (21, true, false), "{kept:?}");
    assert_eq!(journal.outcomes(&shop()).unwrap(), before, "counters never go back");
    assert_eq!(journal.check(&shop(), &|| true).flaws, []);
    // A webhook never has a commit released a second time, however long ago the first time was.
    for (n, asked) in [(1, true), (4, true), (40, true), (41, false)] {
        let commit: CommitId = commit(n).parse().unwrap();
        assert_eq!(was_asked_for(&journal.reader.lock(), &shop(), &commit).unwrap(), asked, "{n}");
    }
}
