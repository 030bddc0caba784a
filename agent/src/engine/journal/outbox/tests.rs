use std::path::Path;

use agent_model::grant::Back;
use agent_model::names::RunId;
use agent_model::request::Admission;

use super::*;
use crate::engine::journal::{Evidence, Limit, NewRun, Taken};

const COMMIT: &str = "1a2b3c4d5e6f1a2b3c4d5e6f1a2b3c4d5e6f1a2b";

fn open(state: &Path) -> (Arc<Journal>, Outbox) {
    let journal = Arc::new(Journal::open(state).unwrap());
    (journal.clone(), Outbox::open(journal).unwrap())
}

fn run(journal: &Journal, action: &str, nonce: &str) -> RunId {
    let asked = NewRun {
        app: &"shop".parse().unwrap(),
        action,
        of: Some("main"),
        caller: "unix:anna",
        evidence: &Evidence { text: "{}".to_owned(), ..Evidence::default() },
        proof: None,
        refs: None,
        back: &Back::Never,
        nonce,
        token: None,
        limit: Limit::None,
        takes_turns: matches!(action, "release" | "activate" | "prune"),
        first_for: None,
    };
    match journal.take(&asked, |_| Ok(Admission { supersedes: Vec::new() })).unwrap() {
        Taken::New(run) => run,
        other => panic!("{other:?}"),
    }
}

fn resolved() -> What {
    What::Resolved { commit: COMMIT.into(), reference: Some("refs/heads/main".into()), release: "r1".into(), subject: Some("x".into()) }
}

fn ended() -> What {
    What::Ended { outcome: OutcomeWord::Live, live: None, ms: 1, database: None }
}

fn status(phase: Phase) -> (String, Phase, DeliveryKind) {
    ("github:1".to_owned(), phase, DeliveryKind::Status)
}

#[test]
fn a_run_is_news_when_its_commit_is_known_and_when_it_is_over_and_never_again() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, outbox) = open(dir.path());
    let first = run(&journal, "release", "n1");
    assert!(outbox.news(10).unwrap().is_empty(), "nobody knows of which commit it is");
    journal.append(first, &[resolved()]).unwrap();
    let news = outbox.news(10).unwrap();
    assert_eq!((news.len(), news[0].phases.as_slice(), news[0].over), (1, [Phase::Started].as_slice(), false));
    outbox.note(&news[0], &[status(Phase::Started)]).unwrap();
    assert!(outbox.news(10).unwrap().is_empty());
    journal.append(first, &[ended()]).unwrap();
    drop((journal, outbox));
    let (journal, outbox) = open(dir.path());
    let news = outbox.news(10).unwrap();
    assert_eq!(news[0].phases, [Phase::Ended], "across a restart too");
    outbox.note(&news[0], &[]).unwrap();
    let second = run(&journal, "activate", "n2");
    journal.append(second, &[resolved(), ended()]).unwrap();
    assert_eq!(outbox.news(10).unwrap()[0].phases, [Phase::Started, Phase::Ended], "one that was quick is told whole");
}

#[test]
fn what_has_no_commit_or_makes_nothing_live_is_no_news() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, outbox) = open(dir.path());
    for (action, nonce) in [("prune", "n1"), ("lock", "n2")] {
        let run = run(&journal, action, nonce);
        journal.append(run, &[resolved(), ended()]).unwrap();
    }
    assert!(outbox.news(10).unwrap().is_empty());
    let failed = run(&journal, "release", "n3");
    journal.append(failed, &[ended()]).unwrap();
    let news = outbox.news(10).unwrap();
    assert_eq!((news.len(), news[0].phases.len()), (1, 0));
    outbox.note(&news[0], &[]).unwrap();
    assert!(outbox.news(10).unwrap().is_empty() && outbox.heads().unwrap().is_empty());
}

#[test]
fn each_target_has_a_row_and_only_the_first_in_it_may_go() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, outbox) = open(dir.path());
    let run = run(&journal, "release", "n1");
    journal.append(run, &[resolved(), ended()]).unwrap();
    let news = outbox.news(10).unwrap().remove(0);
    let other = |phase| ("webhook:2".to_owned(), phase, DeliveryKind::Message);
    outbox.note(&news, &[status(Phase::Started), other(Phase::Started), status(Phase::Ended), other(Phase::Ended)]).unwrap();
    let heads = outbox.heads().unwrap();
    assert_eq!(heads.iter().map(|delivery| delivery.phase).collect::<Vec<_>>(), [Phase::Started; 2]);
    let due = Utc::now() + chrono::TimeDelta::seconds(60);
    outbox.postponed(&heads[0], due, "no route").unwrap();
    outbox.delivered(&heads[1], None).unwrap();
    drop((journal, outbox));
    let (journal, outbox) = open(dir.path());
    let heads = outbox.heads().unwrap();
    assert_eq!(
        (heads[0].phase, heads[0].tries, heads[0].due.timestamp()),
        (Phase::Started, 1, due.timestamp()),
        "it stands before the next"
    );
    assert_eq!(heads[1].phase, Phase::Ended);
    let unheard = journal.unheard(&"shop".parse().unwrap()).unwrap();
    let of = |target: &str, waiting, failed: Option<&str>| Unheard {
        target: target.into(),
        waiting,
        failed: failed.map(str::to_owned),
        given_up: 0,
        refused: None,
    };
    assert_eq!(unheard, [of("github:1", 2, Some("no route")), of("webhook:2", 1, None)], "what was never tried has not failed");
}

#[test]
fn what_was_given_up_is_told_of_until_the_same_gets_through() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, outbox) = open(dir.path());
    let run = run(&journal, "release", "n1");
    journal.append(run, &[resolved(), ended()]).unwrap();
    let news = outbox.news(10).unwrap().remove(0);
    outbox.note(&news, &[status(Phase::Started), status(Phase::Ended)]).unwrap();
    outbox.given_up(&outbox.heads().unwrap()[0], "the answer was 401").unwrap();
    let shop = "shop".parse().unwrap();
    let unheard = journal.unheard(&shop).unwrap();
    assert_eq!((unheard[0].waiting, &unheard[0].failed), (1, &None));
    assert_eq!((unheard[0].given_up, unheard[0].refused.as_deref()), (1, Some("the answer was 401")));
    let next = outbox.heads().unwrap().remove(0);
    assert_eq!(next.phase, Phase::Ended);
    outbox.delivered(&next, None).unwrap();
    assert!(journal.unheard(&shop).unwrap().is_empty() && outbox.heads().unwrap().is_empty());
}

#[test]
fn the_number_of_a_deployment_survives_and_goes_with_the_last_letter() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, outbox) = open(dir.path());
    let run = run(&journal, "release", "n1");
    journal.append(run, &[resolved(), ended()]).unwrap();
    let news = outbox.news(10).unwrap().remove(0);
    let of = |phase, kind| ("github:1".to_owned(), phase, kind);
    outbox.note(&news, &[of(Phase::Started, DeliveryKind::Deployment), of(Phase::Ended, DeliveryKind::DeploymentState)]).unwrap();
    let made = outbox.heads().unwrap().remove(0);
    assert_eq!(outbox.subject(&made).unwrap().unwrap().deployment, None);
    outbox.delivered(&made, Some(42)).unwrap();
    drop((journal, outbox));
    let (_journal, outbox) = open(dir.path());
    let state = outbox.heads().unwrap().remove(0);
    let subject = outbox.subject(&state).unwrap().unwrap();
    assert_eq!((subject.deployment, subject.commit.as_str(), subject.outcome), (Some(42), COMMIT, Some(OutcomeWord::Live)));
    outbox.delivered(&state, None).unwrap();
    assert_eq!(outbox.subject(&state).unwrap().unwrap().deployment, None);
}

#[test]
fn ten_thousand_old_runs_are_passed_over_by_an_index() {
    let dir = tempfile::tempdir().unwrap();
    let (_journal, outbox) = open(dir.path());
    let plan: String = outbox.reader.query_row(&format!("EXPLAIN QUERY PLAN {NEWS}"), [1], |row| row.get(3)).unwrap();
    assert!(plan.contains("run_untold"), "{plan}");
}

#[test]
fn runs_that_ended_before_there_was_an_outbox_are_told_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let old = Connection::open(dir.path().join("journal.db")).unwrap();
    old.execute_batch(crate::engine::journal::schema::TABLES).unwrap();
    let run = "INSERT INTO run (app, action, caller, form, nonce, accepted, turns, ended, release) VALUES ('shop', 'release', 'x', '{}', ?, 1, 1, ?, 'r')";
    old.execute(run, params!["n1", Some(2)]).unwrap();
    old.execute(run, params!["n2", None::<i64>]).unwrap();
    old.execute("INSERT INTO about VALUES ('id', '0a')", []).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    drop(old);
    let (_journal, outbox) = open(dir.path());
    let news = outbox.news(10).unwrap();
    assert_eq!(news.iter().map(|news| news.run).collect::<Vec<_>>(), [2], "and what is under way is");
}
