use agent_wire::view::Level;

use super::super::tests::{Play, UWSGI, kill};
use super::*;
use crate::restart::drift::MadeWith;
use crate::restart::tests::{A, APP, B, Release, Visitors, all_answered, visit};

fn left(play: &Play) -> Vec<String> {
    let entries = fs::read_dir(play.stage.path(".agent/instances")).unwrap().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name.ends_with("json")).collect();
    names.sort();
    names
}

fn leads_to(play: &Play) -> String {
    fs::read_link(&play.settings.socket).unwrap().to_string_lossy().into_owned()
}

/// What the step does when the run goes back.
fn undo(play: &Play, release: &Release, exposed: bool) {
    play.stage.with_scene(|context| {
        if exposed {
            play.restart().back(context, release.serving(), Some(release.serving())).unwrap();
        } else {
            play.restart().forget(context, release.serving(), Some(&release.name));
        }
    });
}

#[test]
fn a_release_is_started_anew_beside_itself_and_no_visitor_notices() {
    let play = Play::new(&UWSGI);
    let a = play.stage.release(A, APP);
    play.switch(&a, None).unwrap();
    let first = play.masters(&a);
    play.stage.renewal.set(Renewal::Yes);
    for name in [format!("web.sock.{A}.2"), format!("web.sock.{A}")] {
        let before = play.masters(&a);
        let visitors = Visitors::come(&play.settings.socket);
        play.switch(&a, None).unwrap();
        let (seen, _) = visitors.go();
        all_answered(&seen);
        assert_eq!(leads_to(&play), name);
        assert!(play.masters(&a) != before && !before[0].is_alive(), "the former one has stopped");
        assert_eq!(left(&play), [format!("{A}.json")]);
    }
    assert!(!first[0].is_alive() && play.masters(&a).len() == 1);
    // The next release follows a restart like any other release.
    play.stage.renewal.set(Renewal::No);
    let b = play.stage.release(B, APP);
    play.switch(&b, Some(&a)).unwrap();
    assert!(play.masters(&a).is_empty());
    assert_eq!((leads_to(&play), left(&play)), (format!("web.sock.{B}"), vec![format!("{B}.json")]));
}

#[test]
fn a_second_instance_that_does_not_serve_leaves_the_first_one_as_it_was() {
    let play = Play::new(&UWSGI);
    let a = play.stage.release(A, APP);
    play.switch(&a, None).unwrap();
    let first = play.masters(&a);
    play.stage.renewal.set(Renewal::Yes);
    fs::write(a.dir.join("app.py"), "import nothing_of_that_name\n").unwrap();
    let visitors = Visitors::come(&play.settings.socket);
    let error = play.switch(&a, None).unwrap_err();
    assert!(error.tail().iter().any(|line| line.contains("nothing_of_that_name")), "{error}: {:?}", error.tail());
    undo(&play, &a, false);
    undo(&play, &a, false);
    let (seen, _) = visitors.go();
    all_answered(&seen);
    assert_eq!((play.masters(&a), leads_to(&play), left(&play)), (first, format!("web.sock.{A}"), vec![format!("{A}.json")]));
}

#[test]
fn visitors_are_led_back_to_the_first_instance_and_the_second_one_goes() {
    let play = Play::new(&UWSGI);
    let a = play.stage.release(A, APP);
    play.switch(&a, None).unwrap();
    let first = play.masters(&a);
    play.stage.renewal.set(Renewal::Yes);
    // The step was cut off after visitors were led to the second instance.
    let act = || {
        play.stage.with_scene(|context| {
            let mut prepared = play.restart().prepare(context, a.serving()).unwrap();
            play.restart().act(context, a.serving(), &mut prepared).unwrap();
        });
        play.masters(&a)
    };
    let second = act();
    assert!(second != first && first[0].is_alive() && second[0].is_alive());
    let visitors = Visitors::come(&play.settings.socket);
    undo(&play, &a, true);
    undo(&play, &a, true);
    let (seen, _) = visitors.go();
    all_answered(&seen);
    assert!(!second[0].is_alive());
    assert_eq!((play.masters(&a), leads_to(&play), left(&play)), (first.clone(), format!("web.sock.{A}"), vec![format!("{A}.json")]));
    // If the first instance has ended meanwhile, the second one stays, because visitors have no other.
    let second = act();
    first[0].end_group();
    kill(first[0]);
    undo(&play, &a, true);
    assert_eq!((play.masters(&a), visit(&play.settings.socket, "/").unwrap()), (second, A.to_owned()));
    assert_eq!(left(&play), [format!("{A}.json")]);
}

#[test]
fn what_an_instance_was_started_with_and_is_not_set_any_more_is_told() {
    let play = Play::new(&UWSGI);
    let a = play.stage.release(A, APP);
    play.switch(&a, None).unwrap();
    let findings = |more: &[(&str, &str)], module: Option<&str>| {
        play.stage.with_scene(|context| {
            let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let env: Vec<(String, String)> = context.env.iter().cloned().chain(more).collect();
            play.restart().drift(&RestartContext { env: &env, ..*context }, a.serving(), &MadeWith { module, by_default: None })
        })
    };
    assert_eq!(findings(&[], None), []);
    let [found] = &findings(&[("GREETING", "hunter2")], None)[..] else { panic!("one finding") };
    assert!(found.level == Level::Warning && found.text.contains("other values of GREETING"), "{found:?}");
    assert!(!found.text.contains("hunter2") && found.hint.as_deref() == Some("agentctl --app shop restart"), "{found:?}");
    let [found] = &findings(&[], Some("shop.prod"))[..] else { panic!("one finding") };
    assert!(found.level == Level::Warning && found.text.contains("does not set DJANGO_SETTINGS_MODULE"), "{found:?}");
}
