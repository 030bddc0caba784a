use std::io;

use agent_model::request::Right;
use agent_wire::event::{AimWord, Event, OutcomeWord, PlannedStep, Stream, What};
use agent_wire::problem::Problem;
use agent_wire::view::{
    App, Apps, Commit, Doctor, Finding, Fsck, FsckFinding, GrantView, Level, Lock, Plan, Release, ReleaseDetail, ReleaseState, Releases,
    Run, RunState, Runs, StartedAgain, Unsettled, Verified, Whoami,
};
use chrono::{DateTime, TimeDelta, Utc};
use insta::assert_snapshot;

use super::run::{Detail, Opening, Story};
use super::*;
use crate::address::Address;
use crate::tls::Distrust;

const OLD: &str = "2026-11-20-20-00-00-0a1b2c3d4e5f";
const NEW: &str = "2026-11-20-22-45-23-1a2b3c4d5e6f";

fn now() -> DateTime<Utc> {
    "2026-11-20T23:00:00Z".parse().unwrap()
}

fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}

/// The whole output of a run with these events.
fn told_with(detail: Detail, opening: Opening, whats: Vec<What>) -> String {
    let mut story = Story::new(12, detail, opening, "agentctl");
    let mut lines = Vec::new();
    for (n, what) in (1..).zip(whats) {
        let told = story.tell(&Event { run: 12, n, at: now(), what });
        lines.extend(told.lines);
        lines.extend(told.ending.into_iter().flat_map(|(_, sentence)| sentence));
    }
    plain(&lines.join("\n"))
}

fn told(whats: Vec<What>) -> String {
    told_with(Detail::Usual, Opening::Told, whats)
}

fn accepted(action: &str, of: Option<&str>) -> What {
    What::Accepted { app: "shop".into(), action: action.into(), of: of.map(Into::into), caller: "unix:anna".into() }
}

fn planned() -> What {
    let step =
        |step: &str, warn, skipped: Option<&str>| PlannedStep { step: step.into(), undo: true, warn, skipped: skipped.map(Into::into) };
    What::Planned {
        aim: AimWord::Serve,
        steps: vec![
            step("fetch", false, None),
            step("link-shared", false, Some("nothing is shared")),
            step("migrate", false, None),
            step("switch", false, None),
            step("prune", true, Some("nothing is too old")),
        ],
        live: Some(OLD.into()),
    }
}

fn resolved() -> What {
    What::Resolved {
        commit: "1a2b3c4d5e6f7a8b9c0d1a2b3c4d5e6f7a8b9c0d".into(),
        reference: Some("refs/heads/main".into()),
        release: NEW.into(),
        subject: Some("Fix the cart".into()),
    }
}

fn started(step: &str) -> What {
    What::StepStarted { step: step.into() }
}

fn done(step: &str, ms: u64) -> What {
    What::StepDone { step: step.into(), ms, nothing: None }
}

fn output(step: &str, line: &str) -> What {
    What::Output { step: step.into(), stream: Stream::Stdout, line: line.into() }
}

fn failed(step: &str) -> What {
    What::StepFailed {
        step: step.into(),
        ms: 2100,
        reason: "manage.py migrate: exit status 1".into(),
        hint: Some("the column must have a default".into()),
        tail: vec!["Applying shop.0042_total...".into(), "IntegrityError: NOT NULL".into()],
    }
}

fn asked(text: Option<&str>, before: Option<bool>) -> What {
    What::LiveAsked { release: OLD.into(), answers: text.is_none(), text: text.map(Into::into), before }
}

fn ended(outcome: OutcomeWord, live: Option<&str>) -> What {
    What::Ended { outcome, live: live.map(Into::into), ms: 8400, database: None }
}

#[test]
fn a_release_that_goes_live() {
    let whats = vec![
        accepted("release", Some("main")),
        What::Waits { behind: 11 },
        planned(),
        started("fetch"),
        output("fetch", "remote: Counting objects"),
        resolved(),
        done("fetch", 320),
        started("migrate"),
        What::Note { step: "migrate".into(), text: "two migrations\nto apply".into() },
        What::Warning { step: Some("migrate".into()), text: "it took a lock".into() },
        done("migrate", 61_000),
        started("switch"),
        What::Exposed { step: "switch".into() },
        done("switch", 1200),
        What::Unknown,
        ended(OutcomeWord::Live, Some(NEW)),
    ];
    assert_snapshot!(told(whats.clone()), @r"
    · waits behind run 11
    · commit 1a2b3c4d5e6f Fix the cart, reached by main
    ✓ fetch            0.3 s
    – link-shared    skipped: nothing is shared
    ! migrate: it took a lock
    ✓ migrate        1 min 01 s  two migrations to apply
    ✓ switch           1.2 s
    – prune          skipped: nothing is too old
    shop: 2026-11-20-22-45-23-1a2b3c4d5e6f is live, with 1 warning (run 12, 8.4 s)
    ");
    assert_snapshot!(told_with(Detail::Sentences, Opening::Told, whats.clone()), @r"
    · waits behind run 11
    · commit 1a2b3c4d5e6f Fix the cart, reached by main
    · release 2026-11-20-22-45-23-1a2b3c4d5e6f
    ✓ fetch            0.3 s
    – link-shared    skipped: nothing is shared
    · migrate        two migrations
                     to apply
    ! migrate: it took a lock
    ✓ migrate        1 min 01 s
    ✓ switch           1.2 s
    – prune          skipped: nothing is too old
    shop: 2026-11-20-22-45-23-1a2b3c4d5e6f is live, with 1 warning (run 12, 8.4 s)
    ");
    assert_snapshot!(told_with(Detail::Full, Opening::ToTell, whats), @r"
    run 12: release main of shop, by unix:anna, 2026-11-20 23:00:00 UTC
    · waits behind run 11
      │ remote: Counting objects
    · commit 1a2b3c4d5e6f Fix the cart, reached by main
    · release 2026-11-20-22-45-23-1a2b3c4d5e6f
    ✓ fetch            0.3 s
    – link-shared    skipped: nothing is shared
    · migrate        two migrations
                     to apply
    ! migrate: it took a lock
    ✓ migrate        1 min 01 s
    · from here on visitors may meet the new release
    ✓ switch           1.2 s
    · (something that only a newer agentctl can tell)
    – prune          skipped: nothing is too old
    shop: 2026-11-20-22-45-23-1a2b3c4d5e6f is live, with 1 warning (run 12, 8.4 s)
    ");
}

#[test]
fn a_release_that_fails_before_the_switch() {
    let whats = |live| {
        vec![
            accepted("release", Some("main")),
            planned(),
            resolved(),
            started("fetch"),
            done("fetch", 320),
            started("migrate"),
            failed("migrate"),
            What::UndoStarted { step: "fetch".into() },
            What::Undone { step: "fetch".into(), ms: 20, stands: false },
            What::Stands { text: "shop.0041 is applied".into(), restore: Some("pg_restore -d shop /var/shop/backups/x.dump".into()) },
            asked(None, Some(true)),
            ended(OutcomeWord::Failed, live),
        ]
    };
    assert_snapshot!(told(whats(Some(OLD))), @r"
    · commit 1a2b3c4d5e6f Fix the cart, reached by main
    ✓ fetch            0.3 s
    – link-shared    skipped: nothing is shared
    ✗ migrate          2.1 s  manage.py migrate: exit status 1
      │ Applying shop.0042_total...
      │ IntegrityError: NOT NULL
      hint: the column must have a default
    ↩ fetch          taken back (0.0 s)
    ! stands: shop.0041 is applied
      restore with, as root: pg_restore -d shop /var/shop/backups/x.dump
    shop: failed at migrate: IntegrityError: NOT NULL; the former release 2026-11-20-20-00-00-0a1b2c3d4e5f still serves and was never left (run 12, 8.4 s)
    next: agentctl logs 12 shows all output
    ");
    let without = told(whats(None));
    assert_snapshot!(without.lines().rev().nth(1).unwrap(), @"shop: failed at migrate: IntegrityError: NOT NULL; no release is live (run 12, 8.4 s)");
    // Lines that were shown already are not repeated.
    assert!(!told_with(Detail::Full, Opening::Told, whats(None)).contains("│ IntegrityError"));
}

/// The unsettled database of run 12.
fn left() -> Unsettled {
    Unsettled {
        run: 12,
        release: NEW.into(),
        at: now(),
        text: "shop.0041 was begun and is not atomic: the database may be half migrated".into(),
        backup: Some("/var/shop/backups/x.dump".into()),
        restore: Some("pg_restore -d shop /var/shop/backups/x.dump".into()),
    }
}

#[test]
fn what_stands_is_never_followed_by_taken_back_and_the_last_line_has_the_word_of_the_database() {
    let whats = |outcome| {
        vec![
            accepted("release", Some("main")),
            planned(),
            resolved(),
            started("migrate"),
            failed("migrate"),
            What::UndoStarted { step: "migrate".into() },
            What::Stands { text: left().text, restore: left().restore },
            What::Undone { step: "migrate".into(), ms: 20, stands: true },
            What::UndoStarted { step: "fetch".into() },
            What::Undone { step: "fetch".into(), ms: 20, stands: false },
            asked(None, Some(true)),
            What::Ended { outcome, live: Some(OLD.into()), ms: 8400, database: Some(left().text) },
        ]
    };
    let shown = told(whats(OutcomeWord::Failed));
    assert_snapshot!(shown.lines().skip(6).collect::<Vec<_>>().join("\n"), @r"
    ! stands: shop.0041 was begun and is not atomic: the database may be half migrated
      restore with, as root: pg_restore -d shop /var/shop/backups/x.dump
    ↩ migrate        not taken back (0.0 s)
    ↩ fetch          taken back (0.0 s)
    shop: failed at migrate: IntegrityError: NOT NULL; shop.0041 was begun and is not atomic: the database may be half migrated; the former release 2026-11-20-20-00-00-0a1b2c3d4e5f still serves on it (run 12, 8.4 s)
    next: agentctl status tells what is not settled; agentctl logs 12 shows all output
    ");
    for (outcome, words) in [
        (OutcomeWord::Cancelled, "shop: cancelled: shop.0041 was begun"),
        (OutcomeWord::RolledBack, "was live for a moment; shop.0041 was begun"),
        (OutcomeWord::Stuck, "stuck at migrate: IntegrityError: NOT NULL; shop.0041 was begun"),
    ] {
        let shown = told(whats(outcome));
        let last = shown.lines().find(|line| line.starts_with("shop: ")).unwrap();
        assert!(last.contains(words) && !last.contains("taken back") && !last.contains("never left"), "{last}");
    }
}

#[test]
fn what_a_run_may_have_left_in_the_database_stands_in_status_and_list() {
    let list = Releases { releases: vec![release(NEW, ReleaseState::Failed)], unsettled: vec![left()] };
    let shown = plain(&releases(&list, now(), None));
    assert!(
        shown.ends_with(
            "! 2026-11-20-22-45-23-1a2b3c4d5e6f: since run 12: shop.0041 was begun and is not atomic: the database may be half migrated\n  \
         restore with: pg_restore -d shop /var/shop/backups/x.dump\n  when it is in order: agentctl settle 12"
        ),
        "{shown}"
    );
}

#[test]
fn a_release_that_is_taken_back() {
    let whats = |outcome, live| {
        vec![
            accepted("release", Some("main")),
            planned(),
            resolved(),
            started("switch"),
            What::Exposed { step: "switch".into() },
            What::StepFailed { step: "switch".into(), ms: 30_000, reason: "old workers answer".into(), hint: None, tail: vec![] },
            What::UndoStarted { step: "switch".into() },
            match outcome {
                OutcomeWord::Stuck => What::UndoFailed { step: "switch".into(), reason: "the unit\ndoes not start".into() },
                _ => What::Undone { step: "switch".into(), ms: 400, stands: false },
            },
            asked(None, None),
            ended(outcome, live),
        ]
    };
    assert_snapshot!(told(whats(OutcomeWord::RolledBack, Some(OLD))), @r"
    · commit 1a2b3c4d5e6f Fix the cart, reached by main
    – link-shared    skipped: nothing is shared
    ✗ switch          30.0 s  old workers answer
    ↩ switch         taken back (0.4 s)
    shop: rolled back at switch: old workers answer; 2026-11-20-22-45-23-1a2b3c4d5e6f was live for a moment; 2026-11-20-20-00-00-0a1b2c3d4e5f serves again (run 12, 8.4 s)
    next: agentctl logs 12 shows all output
    ");
    assert_snapshot!(told(whats(OutcomeWord::RolledBack, None)).lines().rev().nth(1).unwrap(), @"shop: rolled back at switch: old workers answer; 2026-11-20-22-45-23-1a2b3c4d5e6f was live for a moment; no release is live now (run 12, 8.4 s)");
    assert_snapshot!(told(whats(OutcomeWord::Stuck, Some(NEW))), @r"
    · commit 1a2b3c4d5e6f Fix the cart, reached by main
    – link-shared    skipped: nothing is shared
    ✗ switch          30.0 s  old workers answer
    ✗ switch         could not be taken back: the unit
                     does not start
    shop: stuck at switch: old workers answer; a person must look: agentctl doctor, agentctl logs 12; the link names 2026-11-20-22-45-23-1a2b3c4d5e6f (run 12, 8.4 s)
    next: when it is understood: agentctl activate RELEASE
    ");
}

#[test]
fn a_run_that_is_stopped_from_outside() {
    let cancelled = vec![
        accepted("release", Some("main")),
        planned(),
        started("fetch"),
        What::CancelAsked { caller: "unix:bert".into() },
        What::Undone { step: "fetch".into(), ms: 10, stands: false },
        asked(None, None),
        ended(OutcomeWord::Cancelled, Some(OLD)),
    ];
    assert_snapshot!(told(cancelled), @r"
    ! unix:bert asks for it to be stopped and taken back
    ↩ fetch          taken back (0.0 s)
    shop: cancelled and taken back; 2026-11-20-20-00-00-0a1b2c3d4e5f still serves (run 12, 8.4 s)
    ");
    let superseded = vec![accepted("release", Some("main")), ended(OutcomeWord::Superseded, Some(OLD))];
    assert_snapshot!(told(superseded), @"shop: superseded: a newer request took its place, and nothing was done (run 12, 8.4 s)");
    let stopped = vec![
        accepted("release", Some("main")),
        planned(),
        started("migrate"),
        What::Stopped,
        asked(None, None),
        ended(OutcomeWord::Failed, Some(OLD)),
    ];
    assert_snapshot!(told(stopped), @r"
    – link-shared    skipped: nothing is shared
    ! the agent stopped in the middle of this run, and has started again
    shop: failed, because the agent stopped during migrate; the former release 2026-11-20-20-00-00-0a1b2c3d4e5f still serves and was never left (run 12, 8.4 s)
    next: agentctl logs 12 shows all output
    ");
}

#[test]
fn no_release_is_said_to_serve_that_was_not_asked_or_did_not_answer() {
    let silent = "GET unix:/run/web.sock:/ found no such socket";
    let mut lines = Vec::new();
    for (action, outcome) in [
        ("release", OutcomeWord::Failed),
        ("release", OutcomeWord::Cancelled),
        ("activate", OutcomeWord::RolledBack),
        ("stage", OutcomeWord::Done),
    ] {
        for seen in [None, Some(asked(None, None)), Some(asked(Some(silent), Some(false))), Some(asked(Some(silent), Some(true)))] {
            let whats = [accepted(action, Some("main")), resolved()].into_iter().chain(seen).chain([ended(outcome, Some(OLD))]);
            let told = told(whats.collect());
            let line = told.lines().find(|line| line.starts_with("shop: ")).unwrap_or_default().to_owned();
            lines.push(line.replace(OLD, "OLD").replace(NEW, "NEW").replace(" (run 12, 8.4 s)", ""));
        }
    }
    assert_snapshot!(lines.join("\n"), @r"
    shop: failed; the former release OLD was never left; no check says whether it serves
    shop: failed; the former release OLD still serves and was never left
    shop: failed; the former release OLD was never left, but does not answer: GET unix:/run/web.sock:/ found no such socket (nor did it when this run began)
    shop: failed; the former release OLD was never left, but does not answer: GET unix:/run/web.sock:/ found no such socket (it did when this run began)
    shop: cancelled and taken back; OLD was never left
    shop: cancelled and taken back; OLD still serves
    shop: cancelled and taken back; OLD was never left, but does not answer: GET unix:/run/web.sock:/ found no such socket (nor did it when this run began)
    shop: cancelled and taken back; OLD was never left, but does not answer: GET unix:/run/web.sock:/ found no such socket (it did when this run began)
    shop: rolled back; NEW was live for a moment; OLD is live again; no check says whether it serves
    shop: rolled back; NEW was live for a moment; OLD serves again
    shop: rolled back; NEW was live for a moment; OLD is live again, but does not answer: GET unix:/run/web.sock:/ found no such socket (nor did it when this run began)
    shop: rolled back; NEW was live for a moment; OLD is live again, but does not answer: GET unix:/run/web.sock:/ found no such socket (it did when this run began)
    shop: NEW is staged, and OLD is still live
    shop: NEW is staged, and OLD still serves
    shop: NEW is staged; OLD is live, but does not answer: GET unix:/run/web.sock:/ found no such socket (nor did it when this run began)
    shop: NEW is staged; OLD is live, but does not answer: GET unix:/run/web.sock:/ found no such socket (it did when this run began)
    ");
}

#[test]
fn what_only_warns_does_not_fail_a_run() {
    let prune = PlannedStep { step: "prune".into(), undo: false, warn: true, skipped: None };
    let whats = vec![
        accepted("release", Some("main")),
        What::Planned { aim: AimWord::Serve, steps: vec![prune], live: None },
        started("prune"),
        What::StepFailed { step: "prune".into(), ms: 5, reason: "permission denied".into(), hint: None, tail: vec![] },
        ended(OutcomeWord::Live, Some(NEW)),
    ];
    assert_snapshot!(told(whats), @r"
    ! prune            0.0 s  permission denied (the run goes on without it)
    shop: 2026-11-20-22-45-23-1a2b3c4d5e6f is live, with 1 warning (run 12, 8.4 s)
    ");
}

#[test]
fn acts_that_tend_end_in_their_own_words() {
    let mut lines = Vec::new();
    for (action, of) in [
        ("check", None),
        ("prune", None),
        ("mend", None),
        ("lock", Some("black friday")),
        ("unlock", None),
        ("pin", Some(NEW)),
        ("unpin", Some(NEW)),
        ("cancel", Some("11")),
    ] {
        for outcome in [OutcomeWord::Done, OutcomeWord::Failed] {
            lines.push(told(vec![accepted(action, of), ended(outcome, Some(OLD))]));
        }
    }
    assert_snapshot!(lines.join("\n"), @r"
    shop: 2026-11-20-20-00-00-0a1b2c3d4e5f passed every check (run 12, 8.4 s)
    shop: the check failed: 2026-11-20-20-00-00-0a1b2c3d4e5f is live, and did not pass (run 12, 8.4 s)
    shop: what was too old is gone (run 12, 8.4 s)
    shop: prune failed (run 12, 8.4 s)
    shop: what was left over is gone (run 12, 8.4 s)
    next: agentctl fsck says what else differs
    shop: mend failed (run 12, 8.4 s)
    shop: locked: no release or activate until it is unlocked (run 12, 8.4 s)
    shop: lock failed (run 12, 8.4 s)
    shop: unlocked (run 12, 8.4 s)
    shop: unlock failed (run 12, 8.4 s)
    shop: 2026-11-20-22-45-23-1a2b3c4d5e6f is kept for ever (run 12, 8.4 s)
    shop: pin failed (run 12, 8.4 s)
    shop: 2026-11-20-22-45-23-1a2b3c4d5e6f may be pruned again when it is old (run 12, 8.4 s)
    shop: unpin failed (run 12, 8.4 s)
    shop: run 11 is asked to stop (run 12, 8.4 s)
    next: agentctl logs -f 11 shows how it ends
    shop: cancel failed (run 12, 8.4 s)
    ");
    let restarts = [OutcomeWord::Live, OutcomeWord::Failed, OutcomeWord::RolledBack];
    let restarts = restarts.map(|outcome| told(vec![accepted("restart", None), ended(outcome, Some(OLD))]));
    assert_snapshot!(restarts.map(|lines| lines.lines().next().unwrap_or_default().to_owned()).join("\n"), @r"
    shop: 2026-11-20-20-00-00-0a1b2c3d4e5f was started anew, and is live (run 12, 8.4 s)
    shop: failed; the former release 2026-11-20-20-00-00-0a1b2c3d4e5f was never left; no check says whether it serves (run 12, 8.4 s)
    shop: the restart was taken back; 2026-11-20-20-00-00-0a1b2c3d4e5f serves again (run 12, 8.4 s)
    ");
    let nothing = What::StepDone { step: "prune".into(), ms: 3, nothing: Some("all are young".into()) };
    assert_snapshot!(told(vec![accepted("prune", None), started("prune"), nothing, ended(OutcomeWord::Done, None)]), @r"
    – prune          skipped: all are young
    shop: what was too old is gone (run 12, 8.4 s)
    ");
}

#[test]
fn the_line_that_moves_knows_the_last_output_and_the_progress() {
    let mut story = Story::new(12, Detail::Usual, Opening::Told, "agentctl");
    let mut tell = |what| {
        story.tell(&Event { run: 12, n: 1, at: now(), what });
        story.now().cloned()
    };
    assert_eq!(tell(accepted("release", None)), None);
    let began = tell(started("environment")).unwrap();
    assert_eq!((began.title().as_str(), began.since), ("environment", now()));
    assert_eq!(tell(output("environment", "\x1b[31mCollecting\x1b[0m django\r")).unwrap().line.as_deref(), Some("Collecting django"));
    assert_eq!(tell(output("environment", "  ")).unwrap().line.as_deref(), Some("Collecting django"));
    assert_eq!(tell(What::Progress { step: "environment".into(), done: 3, total: 9 }).unwrap().progress, Some((3, 9)));
    assert_eq!(tell(done("environment", 5)), None);
    assert_eq!(tell(What::UndoStarted { step: "environment".into() }).unwrap().title(), "↩ environment");
    assert_eq!(tell(ended(OutcomeWord::Failed, None)), None);
}

#[test]
fn what_others_wrote_moves_no_cursor_and_turns_no_line() {
    let text = words::clean("a\x1b[2Jb\x07\x1b]0;title\x07c\u{202e}d\te\r\nf");
    assert_eq!(text, "abcd    e\nf");
    let line = told(vec![What::Warning { step: None, text: "x\x1b[1A\x1b[2Ky".into() }]);
    assert_eq!(line, "! xy");
}

#[test]
fn times_and_sizes_are_short() {
    for (ms, text) in
        [(0, "0.0 s"), (340, "0.3 s"), (59_999, "59.9 s"), (60_000, "1 min 00 s"), (225_000, "3 min 45 s"), (3_720_000, "1 h 02 min")]
    {
        assert_eq!(words::took(ms), text);
    }
    for (seconds, text) in [
        (-5, "just now"),
        (9, "just now"),
        (12, "12 s ago"),
        (61, "1 min ago"),
        (3 * 3600, "3 h ago"),
        (3 * 86_400, "3 days ago"),
        (90 * 86_400, "2026-08-22"),
    ] {
        assert_eq!(words::ago(now() - TimeDelta::seconds(seconds), now()), text);
    }
    for (bytes, text) in
        [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (26_400_000, "26.4 MB"), (40_000_000_000, "40.0 GB"), (u64::MAX, "18446.7 PB")]
    {
        assert_eq!(words::bytes(bytes), text);
    }
}

fn release(name: &str, state: ReleaseState) -> Release {
    Release {
        name: name.into(),
        commit: format!("{}aaaaaaaaaaaaaaaaaaaaaaaaaaaa", &name[20..]),
        reference: Some("refs/heads/main".into()),
        state,
        previous: state == ReleaseState::Good,
        pinned: state == ReleaseState::Good,
        caller: Some("unix:anna".into()),
        run: Some(12),
        made: Some(now() - TimeDelta::hours(3)),
        ms: Some(8400),
        subject: Some("Fix the cart, which forgot what was in it".into()),
        fault: None,
    }
}

fn run(number: u64, state: RunState, outcome: Option<OutcomeWord>) -> Run {
    Run {
        run: number,
        app: "shop".into(),
        action: "release".into(),
        of: Some("main".into()),
        caller: "unix:anna".into(),
        state,
        outcome,
        release: outcome.map(|_| NEW.into()),
        step: Some("migrate".into()),
        accepted: now() - TimeDelta::minutes(4),
        ended: outcome.map(|_| now() - TimeDelta::minutes(3)),
        ms: outcome.map(|_| 8400),
    }
}

#[test]
fn releases_stand_in_columns() {
    let bare = Release {
        reference: None,
        caller: None,
        made: None,
        ms: None,
        subject: None,
        ..release("2026-11-19-10-00-00-ffffffffffff", ReleaseState::Incomplete)
    };
    let list = Releases { releases: vec![release(NEW, ReleaseState::Live), release(OLD, ReleaseState::Good), bare], unsettled: Vec::new() };
    assert_snapshot!(plain(&releases(&list, now(), None)), @r"
       release                           state                   subject                                    when     ref   who        commit        took
    *  2026-11-20-22-45-23-1a2b3c4d5e6f  live                    Fix the cart, which forgot what was in it  3 h ago  main  unix:anna  1a2b3c4d5e6f  8.4 s
       2026-11-20-20-00-00-0a1b2c3d4e5f  good, previous, pinned  Fix the cart, which forgot what was in it  3 h ago  main  unix:anna  0a1b2c3d4e5f  8.4 s
       2026-11-19-10-00-00-ffffffffffff  incomplete                                                                                   ffffffffffff
    ");
    // A narrow terminal loses columns, and no word is broken.
    assert_snapshot!(plain(&releases(&list, now(), Some(100))), @r"
       release                           state                   subject                   when     ref
    *  2026-11-20-22-45-23-1a2b3c4d5e6f  live                    Fix the cart, which for…  3 h ago  main
       2026-11-20-20-00-00-0a1b2c3d4e5f  good, previous, pinned  Fix the cart, which for…  3 h ago  main
       2026-11-19-10-00-00-ffffffffffff  incomplete
    ");
    assert_snapshot!(plain(&releases(&list, now(), Some(80))), @r"
       release                           state                   subject
    *  2026-11-20-22-45-23-1a2b3c4d5e6f  live                    Fix the car…
       2026-11-20-20-00-00-0a1b2c3d4e5f  good, previous, pinned  Fix the car…
       2026-11-19-10-00-00-ffffffffffff  incomplete
    ");
    assert_snapshot!(plain(&releases(&list, now(), Some(60))), @r"
       release                           state
    *  2026-11-20-22-45-23-1a2b3c4d5e6f  live
       2026-11-20-20-00-00-0a1b2c3d4e5f  good, previous, pinned
       2026-11-19-10-00-00-ffffffffffff  incomplete
    ");
    for width in 48..140 {
        let text = plain(&releases(&list, now(), Some(width)));
        assert!(text.lines().all(|line| words::width(line) <= usize::from(width)), "{width}:\n{text}");
        assert!(text.contains(NEW));
    }
    assert!(releases(&list, now(), None).contains("\x1b["));
    assert_snapshot!(releases(&Releases { releases: vec![], unsettled: Vec::new() }, now(), None), @"no release yet; the first one is made with: agentctl release REF");
    assert_snapshot!(plain(&prunable(&Releases { releases: vec![release(OLD, ReleaseState::Sealed)], unsettled: Vec::new() }, now(), None)), @r"
      release                           state   subject                                    when     ref   who        commit        took
      2026-11-20-20-00-00-0a1b2c3d4e5f  sealed  Fix the cart, which forgot what was in it  3 h ago  main  unix:anna  0a1b2c3d4e5f  8.4 s

    prune would remove 1 release
    ");
    assert_snapshot!(prunable(&Releases { releases: vec![], unsettled: Vec::new() }, now(), None), @"prune would remove nothing");
}

#[test]
fn runs_stand_in_columns() {
    let list = Runs {
        runs: vec![
            run(14, RunState::Waiting, None),
            run(13, RunState::Running, None),
            run(12, RunState::Ended, Some(OutcomeWord::Failed)),
            run(11, RunState::Ended, Some(OutcomeWord::Live)),
            run(10, RunState::Ended, Some(OutcomeWord::Superseded)),
        ],
    };
    assert_snapshot!(plain(&runs(&list, now(), None)), @r"
    run  app   what          outcome             when       took   who        release
    14   shop  release main  waiting             4 min ago         unix:anna
    13   shop  release main  running at migrate  4 min ago         unix:anna
    12   shop  release main  failed at migrate   4 min ago  8.4 s  unix:anna  2026-11-20-22-45-23-1a2b3c4d5e6f
    11   shop  release main  live                4 min ago  8.4 s  unix:anna  2026-11-20-22-45-23-1a2b3c4d5e6f
    10   shop  release main  superseded          4 min ago  8.4 s  unix:anna  2026-11-20-22-45-23-1a2b3c4d5e6f
    ");
    assert_snapshot!(plain(&runs(&list, now(), Some(80))), @r"
    run  app   what          outcome             when       who
    14   shop  release main  waiting             4 min ago  unix:anna
    13   shop  release main  running at migrate  4 min ago  unix:anna
    12   shop  release main  failed at migrate   4 min ago  unix:anna
    11   shop  release main  live                4 min ago  unix:anna
    10   shop  release main  superseded          4 min ago  unix:anna
    ");
    assert_snapshot!(plain(&runs(&list, now(), Some(60))), @r"
    run  app   what          outcome             when
    14   shop  release main  waiting             4 min ago
    13   shop  release main  running at migrate  4 min ago
    12   shop  release main  failed at migrate   4 min ago
    11   shop  release main  live                4 min ago
    10   shop  release main  superseded          4 min ago
    ");
    for width in 50..140 {
        let text = plain(&runs(&list, now(), Some(width)));
        assert!(text.lines().all(|line| words::width(line) <= usize::from(width)), "{width}:\n{text}");
    }
    assert_snapshot!(runs(&Runs { runs: vec![] }, now(), None), @"no run yet; the first one begins with: agentctl release REF");
}

#[test]
fn status_tells_what_matters_first() {
    let shop = App {
        name: "shop".into(),
        root: "/var/shop".into(),
        live: Some(Release { fault: Some("GET unix:/run/web.sock:/ found no such socket".into()), ..release(NEW, ReleaseState::Live) }),
        running: Some(run(13, RunState::Running, None)),
        waiting: vec![run(14, RunState::Waiting, None)],
        lock: Some(Lock { who: "unix:bert".into(), why: "black friday".into(), since: now() - TimeDelta::hours(2) }),
        stuck: Some(9),
        last: Some(run(12, RunState::Ended, Some(OutcomeWord::RolledBack))),
        disk_free: 12_300_000_000,
        disk_total: 40_000_000_000,
        follows: Some("refs/heads/main".into()),
        unsettled: Vec::new(),
        started_again: Some(StartedAgain { times: 3, last: now() - TimeDelta::minutes(5) }),
    };
    let blog = App {
        name: "blog".into(),
        live: None,
        running: None,
        waiting: vec![],
        lock: None,
        stuck: None,
        last: None,
        follows: None,
        started_again: None,
        ..shop.clone()
    };
    let half = App { unsettled: vec![left()], ..blog.clone() };
    let shown = plain(&status(&Apps { agent: "0.1.0".into(), draining: false, apps: vec![half], complaints: vec![] }, now()));
    for line in ["database     since run 12: shop.0041 was begun", "restore with: pg_restore -d shop", "agentctl settle 12"] {
        assert!(shown.contains(line), "{shown}");
    }
    let apps =
        Apps { agent: "0.1.0".into(), draining: true, apps: vec![shop, blog], complaints: vec!["apps/blog.toml:3: unknown key".into()] };
    assert_snapshot!(plain(&status(&apps, now())), @r"
    ! the agent is about to stop, and takes no request

    ! not in force, as it is on disk now:
      apps/blog.toml:3: unknown key

    shop  2026-11-20-22-45-23-1a2b3c4d5e6f is live
      made         3 h ago, of main, by unix:anna
      no answer    GET unix:/run/web.sock:/ found no such socket: agentctl doctor
      restarts     the instance ended and was started again 3 times, last 5 min ago
      stuck        run 9 needs a person to look: agentctl logs 9
      follows      refs/heads/main, when a webhook says so
      locked       by unix:bert, 2 h ago: black friday
      running      run 13: release main by unix:anna, at migrate, taken 4 min ago
      waiting      run 14: release main by unix:anna
      last         run 12: release main by unix:anna: rolled back at migrate, 3 min ago
      disk         12.3 GB free of 40.0 GB

    blog  no release is live
      disk         12.3 GB free of 40.0 GB
    ");
    let none = Apps { agent: "0.1.0".into(), draining: false, apps: vec![], complaints: vec![] };
    assert_snapshot!(status(&none, now()), @"no app is configured; write the first one with: agentctl init NAME --repository URL");
}

#[test]
fn a_release_is_shown_with_its_manifest() {
    let detail = ReleaseDetail {
        release: release(NEW, ReleaseState::Live),
        path: "/var/shop/releases/x".into(),
        manifest: serde_json::json!({"v": 1}),
        migrations: vec!["shop.0041".into(), "shop.0042".into()],
        backup: Some("/var/shop/backups/x.dump".into()),
        environment: None,
    };
    assert_snapshot!(plain(&super::release(&detail, now())), @r#"
    2026-11-20-22-45-23-1a2b3c4d5e6f
      state        live
      commit       1a2b3c4d5e6faaaaaaaaaaaaaaaaaaaaaaaaaaaa
      ref          main
      who          unix:anna
      run          12
      made         2026-11-20 20:00:00 UTC (3 h ago)
      took         8.4 s
      path         /var/shop/releases/x
      backup       /var/shop/backups/x.dump
      migrations   shop.0041
                   shop.0042
      manifest     {
                     "v": 1
                   }
    "#);
}

#[test]
fn a_plan_is_readable() {
    let commit = |commit: &str, subject: &str| Commit { commit: commit.repeat(10), author: "Anna".into(), subject: subject.into() };
    let mut draft = Plan {
        commit: "1a2b3c4d5e6f7a8b9c0d1a2b3c4d5e6f7a8b9c0d".into(),
        reference: Some("refs/heads/main".into()),
        live: Some("0a1b2c3d4e5f7a8b9c0d1a2b3c4d5e6f7a8b9c0d".into()),
        commits: vec![commit("1a2b", "Fix the cart"), commit("2b3c", "Try to")],
        ahead: 5,
        requirements: vec!["requirements/production.txt".into()],
        migrations: vec![],
        steps: vec![
            PlannedStep { step: "fetch".into(), undo: false, warn: false, skipped: None },
            PlannedStep { step: "backup".into(), undo: false, warn: false, skipped: Some("no migration to apply".into()) },
        ],
        bytes: 26_400_000,
        disk_free: 12_300_000_000,
        warnings: vec!["locked by unix:bert: black friday".into()],
    };
    assert_snapshot!(plain(&plan(&draft, "shop")), @r"
    shop: a release of 1a2b3c4d5e6f (main)
    5 commits since the live one, 0a1b2c3d4e5f:
      1a2b1a2b1a2b Fix the cart (Anna)
      2b3c2b3c2b3c Try to (Anna)
      … and 3 more
    requirements changed:
      requirements/production.txt
    migrations: unchanged
    steps:
      · fetch
      – backup         skipped: no migration to apply
    disk: the tree takes 26.4 MB, 12.3 GB are free
    ! locked by unix:bert: black friday
    nothing has been changed
    ");
    let second = |plan_: &Plan| plain(&plan(plan_, "shop")).lines().nth(1).unwrap().to_owned();
    draft.ahead = -2;
    draft.commits.clear();
    assert_snapshot!(second(&draft), @"! the live release, 0a1b2c3d4e5f, is 2 commits ahead: this would go back");
    draft.ahead = 0;
    assert_snapshot!(second(&draft), @"the live release is of the same commit, 0a1b2c3d4e5f");
    draft.live = None;
    assert_snapshot!(second(&draft), @"no release is live to compare with");
}

#[test]
fn the_doctor_tells_the_worst_first() {
    let finding = |level, text: &str, hint: Option<&str>| Finding {
        app: Some("shop".into()),
        what: "git".into(),
        level,
        text: text.into(),
        hint: hint.map(Into::into),
    };
    let findings = vec![
        finding(Level::Good, "the repository answers", None),
        finding(Level::Error, "the key is not accepted", Some("add it\nto the project")),
        Finding { app: None, ..finding(Level::Warning, "the clock is 3 s off", Some("run a time service")) },
    ];
    assert_snapshot!(plain(&doctor(&Doctor { findings })), @r"
    ✗ shop git: the key is not accepted
      hint: add it
            to the project
    ! git: the clock is 3 s off
      hint: run a time service
    ✓ shop git: the repository answers
    1 error, 1 warning
    ");
    assert_snapshot!(plain(&doctor(&Doctor { findings: vec![finding(Level::Good, "fine", None)] })), @r"
    ✓ shop git: fine
    all is as it should be
    ");
}

#[test]
fn fsck_tells_the_worst_first_and_each_hint_once_below_what_it_is_for() {
    let difference = |level, path: &str, text: &str, hint: Option<&str>| FsckFinding {
        what: "release".into(),
        level,
        path: (!path.is_empty()).then(|| path.to_owned()),
        text: text.into(),
        hint: hint.map(str::to_owned),
        mend: false,
    };
    let verified = Verified { releases: 2, environments: 1, files: 12_345, bytes: 67_800_000, backups: 1, runs: 7, events: 890 };
    let found = |run, findings| Fsck { app: "shop".into(), run, verified: verified.clone(), findings };
    let anew = Some("agentctl release 1a2b3c4d5e6f makes this commit anew");
    let findings = vec![
        difference(Level::Warning, "/srv/shop/x", "x of the release is new", Some("remove it")),
        FsckFinding {
            mend: true,
            ..difference(
                Level::Warning,
                "/srv/shop/.app.1-x",
                "the temporary link .app.1-x is left",
                Some("agentctl fsck --mend removes it"),
            )
        },
        difference(Level::Error, "/srv/shop/a", "a of the release is gone", anew),
        difference(Level::Error, "/srv/shop/b", "b\x1b[2J of the release is gone", anew),
        difference(Level::Good, "", "run 3 made it live", None),
    ];
    assert_snapshot!(plain(&fsck(&found(None, findings))), @r"
    ✗ release: a of the release is gone
      /srv/shop/a
    ✗ release: b of the release is gone
      /srv/shop/b
      hint: agentctl release 1a2b3c4d5e6f makes this commit anew
    ! release: x of the release is new
      /srv/shop/x
      hint: remove it
    ! release: the temporary link .app.1-x is left
      /srv/shop/.app.1-x
      hint: agentctl fsck --mend removes it
    · release: run 3 made it live
    2 errors, 2 warnings; agentctl fsck --mend removes 1 of them
    looked at: 2 releases and 1 environment with 12345 files (67.8 MB), 1 backup, 7 runs with 890 events
    ");
    assert_snapshot!(plain(&fsck(&found(Some(12), vec![]))), @r"
    ! run 12 is under way: what belongs to it is left out; ask again when it has ended
    all is as it was written down
    looked at: 2 releases and 1 environment with 12345 files (67.8 MB), 1 backup, 7 runs with 890 events
    ");
    assert_snapshot!(plain(&fsck(&found(None, vec![]))), @r"
    all is as it was written down
    looked at: 2 releases and 1 environment with 12345 files (67.8 MB), 1 backup, 7 runs with 890 events
    ");
}

#[test]
fn faults_name_the_thing_and_the_hint() {
    let told = |fault_: Fault| plain(&fault(&fault_).unwrap());
    let denied = || Fault::OutOfReach { address: Address::Socket("/run/x.sock".into()), source: io::ErrorKind::PermissionDenied.into() };
    assert_snapshot!(told(denied()), @r"
    error: the agent is out of reach at /run/x.sock: permission denied
    hint: only the socket's owner and group may use it: ls -l /run/x.sock names the group; join it with usermod -aG GROUP USER, and log in again
    ");
    let lost = Fault::Lost {
        run: 12,
        called: "agentctl".into(),
        source: Box::new(Fault::OutOfReach { address: Address::Socket("/run/x.sock".into()), source: io::ErrorKind::NotFound.into() }),
    };
    assert_snapshot!(told(lost), @r"
    error: the connection to the agent was lost and did not come back; run 12 may have gone on: the agent is out of reach at /run/x.sock: entity not found
    hint: follow it again with: agentctl logs -f 12; no agent has made this socket: systemctl status release-agent tells whether it runs (start it with systemctl start release-agent); --socket or AGENTCTL_SOCKET names another, --url an agent elsewhere
    ");
    let problem =
        |status| Problem { status, code: "locked".into(), detail: "shop is locked\x1b[2J".into(), hint: Some("agentctl unlock".into()) };
    assert_snapshot!(told(Fault::Refused { problem: problem(423), again: None }), @r"
    refused: shop is locked
    hint: agentctl unlock
    ");
    assert_snapshot!(told(Fault::Refused { problem: problem(404), again: None }), @r"
    error: shop is locked
    hint: agentctl unlock
    ");
    assert_snapshot!(told(Fault::ManyApps(vec!["blog".into(), "shop".into()])), @r"
    error: there are several apps, and --app names none of them
    hint: say which with --app or AGENTCTL_APP: blog, shop
    ");
    assert_snapshot!(told(Fault::NoApp), @r"
    error: no app is configured
    hint: write the first one with: agentctl init NAME --repository URL
    ");
    assert_snapshot!(told(Fault::Detached { run: 12, called: "agentctl".into() }), @"run 12 goes on; follow it with: agentctl logs -f 12");
    assert_eq!(fault(&Fault::ReaderGone), None);
}

#[test]
fn whoami_tells_who_and_what() {
    let words = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let narrow = GrantView {
        to: words(&["key:anna@acme"]),
        apps: Some(words(&["shop"])),
        actions: Some(words(&["release", "plan", "read"])),
        refs: Some(words(&["main", "v*"])),
        signatures: 1,
        claims: Default::default(),
        downgrade: false,
    };
    let wide = GrantView {
        to: words(&["key:anna@acme", "key:ben@acme"]),
        apps: None,
        actions: None,
        refs: None,
        signatures: 2,
        claims: [("environment".to_owned(), "production".to_owned())].into(),
        downgrade: true,
    };
    let mut who = Whoami { caller: "key:anna@acme".into(), principals: words(&["key:anna@acme"]), all: false, grants: vec![narrow, wide] };
    assert_snapshot!(plain(&whoami(&who)), @r"
    key:anna@acme
      in grants    key:anna@acme
      may do       release, plan, read of shop, from main, v*
      may do       everything of all apps, also back to older commits, when 2 of key:anna@acme, key:ben@acme sign, where environment is production
    ");
    who.grants.clear();
    assert_snapshot!(plain(&whoami(&who)), @r"
    key:anna@acme
      in grants    key:anna@acme
      may do       nothing: no [[grant]] in agent.toml is for this caller
    ");
    who.all = true;
    who.principals = words(&["unix-user:root", "unix-group:root"]);
    who.caller = "unix:root".into();
    assert_snapshot!(plain(&whoami(&who)), @r"
    unix:root
      in grants    unix-user:root, unix-group:root
      may do       everything, and needs no grant for it
    ");
}

#[test]
fn what_a_handshake_says_is_told_with_its_hint() {
    let told = |why, ca: Option<&str>| {
        let address = Address::Network("https://web1.example.org:8443".parse().unwrap());
        plain(&fault(&Fault::Untrusted { address, why, ca: ca.map(Into::into), source: None }).unwrap())
    };
    assert_snapshot!(told(Distrust::Issuer, None), @r"
    error: https://web1.example.org:8443 is not believed to be the agent: nobody that is trusted here has issued its certificate
    hint: --ca FILE (or AGENTCTL_CA) names a certificate to believe: a copy of tls/cert.pem from that host, or its authority's
    ");
    assert_snapshot!(told(Distrust::Issuer, Some("/etc/web1.pem")), @r"
    error: https://web1.example.org:8443 is not believed to be the agent: nobody that is trusted here has issued its certificate
    hint: the certificate there is none of those in /etc/web1.pem: was it renewed? fetch it from the host again; should it be the same one, somebody may stand between
    ");
    assert_snapshot!(told(Distrust::NoTls, None), @r"
    error: https://web1.example.org:8443 is not believed to be the agent: what answers there speaks no TLS
    hint: something else listens there: `listen` in [https] of agent.toml names the port of the agent
    ");
}

#[test]
fn the_first_line_says_what_was_asked() {
    let mut form = Form::new("shop", Right::Release, "0123456789abcdef".into());
    form.revision = Some("main".into());
    assert_eq!(plain(&taken(12, &form)), "run 12: release main of shop");
    assert_eq!(plain(&taken(13, &Form::new("shop", Right::Prune, "0123456789abcdef".into()))), "run 13: prune shop");
}

#[test]
fn the_last_line_says_why_in_the_words_of_what_failed() {
    let said = |reason: &str, tail: &str| ending::why(reason, &tail.lines().map(str::to_owned).collect::<Vec<_>>());
    let traceback = "\
Traceback (most recent call last):
  File \"/srv/shop/releases/x/venv/lib/python3.11/site-packages/gunicorn/util.py\", line 370, in import_app
    mod = importlib.import_module(module)
  File \"/usr/lib/python3.11/importlib/__init__.py\", line 126, in import_module
    return _bootstrap._gcd_import(name[level:], package, level)
  File \"<frozen importlib._bootstrap>\", line 1206, in _gcd_import
  File \"/srv/shop/releases/x/menu/wsgi.py\", line 5, in <module>
    import menu.nope
ModuleNotFoundError: No module named 'menu.nope'
unable to load app 0";
    assert_eq!(said("the instance ended", traceback).as_deref(), Some("No module named 'menu.nope' (wsgi.py:5)"));
    assert_eq!(said("exit status 1", "KeyError: 'DB'").as_deref(), Some("KeyError: 'DB'"));
    let wrapped = "django.db.utils.OperationalError: no such table: shop_order";
    assert_eq!(said("exit status 1", wrapped).as_deref(), Some("no such table: shop_order"));
    let library = "  File \"/x/venv/lib/python3.11/site-packages/psycopg/cursor.py\", line 117, in execute\nOperationalError: canceling statement due to lock timeout";
    assert_eq!(said("exit status 1", library).as_deref(), Some("canceling statement due to lock timeout"));
    let uv = "error: No solution found when resolving dependencies\n  cause: Because six was not found, we\n\nhint: x";
    assert_eq!(said("exit status 1", uv).as_deref(), Some("Because six was not found, we"));
    assert_eq!(said("exit status 128", "fatal: not a tree").as_deref(), Some("not a tree"));
    let ssh = "ssh: connect to host 127.0.0.1 port 22: Connection refused\nfatal: Could not read from remote repository.\n\nand the repository exists.";
    assert_eq!(said("exit status 128", ssh).as_deref(), Some("ssh: connect to host 127.0.0.1 port 22: Connection refused"));
    let index = "  cause: Because django was not found in the package registry.\n\nhint: An index URL (http://x/) could not be queried (401 Unauthorized)";
    assert_eq!(said("exit status 1", index).as_deref(), Some("An index URL (http://x/) could not be queried (401 Unauthorized)"));
    // Lines that only look like it, and no tail at all.
    assert_eq!(said("cannot fetch main\nfrom there", "remote: ERROR: access denied").as_deref(), Some("cannot fetch main"));
    assert_eq!(said("", ""), None);
    let long = said(&"word ".repeat(100), "").unwrap();
    assert!(words::width(&long) <= 120 && long.ends_with('…'), "{long}");
}

#[test]
fn a_step_has_one_line_that_ends_where_the_terminal_does() {
    let whats = [
        accepted("release", Some("main")),
        planned(),
        started("fetch"),
        What::Note { step: "fetch".into(), text: "a long sentence about the cache, which was up to date, and so on".into() },
        What::Note { step: "fetch".into(), text: "another one".into() },
        done("fetch", 320),
        started("migrate"),
        What::StepDone { step: "migrate".into(), ms: 3, nothing: Some("a reason that goes on and on, far beyond the end".into()) },
    ];
    let mut story = Story::new(12, Detail::Usual, Opening::Told, "agentctl").fit(Some(60));
    let mut lines = Vec::new();
    for (n, what) in (1..).zip(whats) {
        lines.extend(story.tell(&Event { run: 12, n, at: now(), what }).lines);
    }
    assert_snapshot!(plain(&lines.join("\n")), @r"
    ✓ fetch            0.3 s  a long sentence about the cache,…
    – link-shared    skipped: nothing is shared
    – migrate        skipped: a reason that goes on and on, far…
    ");
    assert!(lines.iter().all(|line| words::width(&plain(line)) <= 60));
}
