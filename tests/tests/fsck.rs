//! `fsck` finds and names whatever differs from what was written down, and mends what belongs to nothing, and only that.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent_tests::{Bench, Repo, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
/// A release that is not there.
const GONE: &str = "2020-01-01-00-00-00-0123456789ab";

/// Waits in every release as long as the file `gate` is there.
const GATE: &str = "touch \"$1.reached\"; while [ -e \"$1\" ]; do sleep 0.02; done";

/// A bench with two releases of the app `site`, each with an environment and something shared.
fn site(name: &str) -> (Bench, Repo) {
    let bench = Bench::new(name);
    let repo = bench.repo("site");
    repo.write("static/site.css", "body {}")
        .write("lib/shop.py", "x = 1")
        .write("page.html", "one")
        .write("requirements.txt", "")
        .commit("One");
    bench.write("apps/site/shared/media/cat.jpg", "cat");
    let gate = bench.path("gate");
    bench.app(
        "site",
        &format!(
            "repository = {:?}\nbranches = [\"main\"]\n[python]\ninterpreter = \"/usr/bin/python3\"\nrequirements = [\"requirements.txt\"]\n[shared]\ndirs = [\"media\"]\n\
             [[hook]]\nafter = \"checkout\"\nrun = [\"sh\", \"-c\", {GATE:?}, \"sh\", {gate:?}]\n",
            repo.path()
        ),
    );
    bench.start();
    bench.ctl(["release", "main"]).expect(0);
    repo.write("page.html", "two").commit("Two");
    bench.ctl(["release", "main"]).expect(0);
    (bench, repo)
}

/// What differs, and is no mere remark.
fn differences(bench: &Bench) -> Vec<Value> {
    // With its name: which apps there are, a damaged journal may not say.
    let done = bench.ctl(["fsck", "--app", "site", "--json"]);
    let all = done.json()["findings"].as_array().unwrap().clone();
    let found: Vec<Value> = all.into_iter().filter(|finding| finding["level"] != "good").collect();
    assert_eq!(done.code, i32::from(!found.is_empty()), "{found:#?}");
    found
}

#[track_caller]
fn assert_clean(bench: &Bench) {
    let found = differences(bench);
    assert!(found.is_empty(), "{found:#?}");
}

fn sqlite(file: &Path, sql: &str) -> String {
    let output = Command::new("sqlite3").arg(file).arg(sql).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A root as it is: every path in it with what is there.
fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    fn into(dir: &Path, root: &Path, picture: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            let what = if meta.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if meta.is_dir() {
                into(&path, root, picture);
                format!("{:o}", meta.permissions().mode())
            } else {
                format!("{:o} {:?}", meta.permissions().mode(), fs::read(&path).unwrap())
            };
            picture.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    let mut whole = BTreeMap::new();
    into(root, root, &mut whole);
    whole
}

/// The one environment.
fn environment(bench: &Bench) -> PathBuf {
    let mut entries = fs::read_dir(bench.root_of("site").join("environments")).unwrap().flatten();
    let found = entries.next().unwrap().path();
    assert!(entries.next().is_none(), "both releases use one");
    found
}

/// A sound backup under its final name.
fn backup(bench: &Bench) -> PathBuf {
    let path = bench.root_of("site").join(format!("backups/{}.sqlite3", bench.live("site").unwrap()));
    sqlite(
        &path,
        "CREATE TABLE stock (id INTEGER PRIMARY KEY, name TEXT); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO stock SELECT i, hex(randomblob(20)) FROM n",
    );
    path
}

/// Turns one bit of a file over, whatever its mode.
fn turn_a_bit(path: &Path) {
    let mode = fs::metadata(path).unwrap().permissions().mode();
    let mut bytes = fs::read(path).unwrap();
    bytes[0] ^= 1;
    set_mode(path, 0o644);
    fs::write(path, bytes).unwrap();
    set_mode(path, mode);
}

/// A way to damage a root: what is damaged, by its path in the root; how; and what must be said of it there.
type Damage<'a> = (PathBuf, Box<dyn Fn(&Path) + 'a>, &'static str);

/// Every kind of damage to what was written down and sealed. Each is to one path, and no two touch the same.
fn damages(bench: &Bench) -> Vec<Damage<'_>> {
    let live = format!("releases/{}", bench.live("site").unwrap());
    let of = |path: &str| PathBuf::from(format!("{live}/{path}"));
    let root = bench.root_of("site");
    let environment = environment(bench).strip_prefix(&root).unwrap().to_owned();
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    vec![
        (of("static/site.css"), Box::new(turn_a_bit), "static/site.css of the live release"),
        (of("page.html"), Box::new(|path| set_mode(path, 0o600)), "has the mode 600, and was sealed with 644"),
        (of("lib/shop.py"), Box::new(remove), "lib/shop.py of the live release"),
        (of("lib/more.py"), Box::new(|path| fs::write(path, "import os").unwrap()), "was not there when it was sealed"),
        (
            of("media"),
            Box::new(|path| {
                fs::remove_file(path).unwrap();
                symlink("../../../elsewhere", path).unwrap();
            }),
            "the link media of the live release",
        ),
        (of("REVISION"), Box::new(turn_a_bit), "REVISION of the live release"),
        (of(".release/served.json"), Box::new(|path| fs::write(path, "{").unwrap()), ".release/served.json of the live release"),
        (of(".release/notes"), Box::new(|path| fs::write(path, "mine").unwrap()), "is not the agent's"),
        (environment.join("pyvenv.cfg"), Box::new(turn_a_bit), "pyvenv.cfg of the environment"),
        (environment.join("bin/activate"), Box::new(remove), "is gone"),
        (environment.join("bin/more"), Box::new(|path| fs::write(path, "").unwrap()), "was not there"),
        (PathBuf::from("releases/mine"), Box::new(|path| fs::create_dir(path).unwrap()), "is no release"),
        (PathBuf::from("environments/.mine"), Box::new(|path| fs::write(path, "").unwrap()), "is no environment"),
        (PathBuf::from("backups/mine"), Box::new(|path| fs::write(path, "").unwrap()), "is no backup"),
        (PathBuf::from(".agent/lock.json"), Box::new(|path| fs::write(path, "locked").unwrap()), "the lock cannot be read"),
    ]
}

/// Every kind of thing that may go, as it is made, by its path in the root.
fn leftovers(bench: &Bench) -> Vec<PathBuf> {
    let root = bench.root_of("site");
    let live = bench.live("site").unwrap();
    let unsealed = "2026-01-01-00-00-00-aaaaaaaaaaaa";
    let mut paths = Vec::new();
    let mut add = |path: String, make: &dyn Fn(&Path)| {
        let whole = root.join(&path);
        fs::create_dir_all(whole.parent().unwrap()).unwrap();
        make(&whole);
        paths.push(PathBuf::from(path));
    };
    let file = |path: &Path| fs::write(path, "x").unwrap();
    let dir = |path: &Path| {
        fs::create_dir(path).unwrap();
        fs::write(path.join("in"), "x").unwrap();
    };
    add(format!(".app.1-{GONE}"), &|path| symlink(format!("releases/{GONE}"), path).unwrap());
    add(format!("releases/.trash-{GONE}"), &dir);
    add(format!("releases/{unsealed}"), &|path| {
        dir(path);
        // What only it uses goes with it.
        symlink("../../environments/aa11", path.join("venv")).unwrap();
    });
    add("environments/aa11".into(), &dir);
    add("environments/.trash-old".into(), &dir);
    add(format!("backups/{live}.sqlite3.part"), &file);
    add(format!(".agent/pins/{GONE}"), &file);
    add(format!(".agent/pins/.{live}.1"), &file);
    add(".agent/.lock.json.1".into(), &file);
    add(".agent/tmp/index-7".into(), &file);
    add(format!("releases/{live}/.release/.served.json.1"), &file);
    add(format!(".agent/instances/{GONE}.json"), &|path| {
        let record = format!(r#"{{"release":"{GONE}","socket":"/nowhere/web.sock.{GONE}","boot":"","process":[1,1]}}"#);
        fs::write(path, record).unwrap();
    });
    add(format!(".agent/instances/.{live}.json.1"), &file);
    paths
}

#[test]
fn each_damage_is_found_where_it_is_and_a_sound_root_is_called_sound() {
    let (bench, _repo) = site("damage");
    let root = bench.root_of("site");
    let dump = backup(&bench);
    bench.ctl(["fsck"]).expect(0).says(&["all is as it was written down", "looked at: 2 releases and 1 environment", "1 backup, 2 runs"]);
    let verified = bench.ctl(["verify", "--json"]).expect(0).json()["verified"].clone();
    assert!(verified["files"].as_u64().unwrap() > 12 && verified["bytes"].as_u64().unwrap() > 1000, "{verified}");

    for (path, damage, says) in damages(&bench) {
        let whole = root.join(&path);
        let before = picture(&root);
        let copy = bench.path("copy");
        Command::new("cp").arg("-a").arg(&whole).arg(&copy).status().unwrap();
        damage(&whole);
        let found = differences(&bench);
        assert_eq!(found.len(), 1, "{}: {found:#?}", path.display());
        let text = found[0]["text"].as_str().unwrap();
        assert!(text.contains(says), "{}: {text}", path.display());
        assert_eq!(found[0]["path"].as_str(), whole.to_str(), "{text}");
        assert!(found[0]["hint"].is_string() && found[0]["mend"] == false, "{found:#?}");
        let members: Vec<&str> = found[0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["hint", "level", "mend", "path", "text", "what"]);
        Command::new("rm").arg("-rf").arg(&whole).status().unwrap();
        if copy.symlink_metadata().is_ok() {
            fs::rename(&copy, &whole).unwrap();
        }
        assert_eq!(picture(&root), before, "the test does not put {} right", path.display());
    }
    assert_clean(&bench);

    // What Python keeps for itself is told, and is no damage.
    let cache = environment(&bench).join("lib/__pycache__/x.cpython-311.pyc");
    fs::create_dir_all(cache.parent().unwrap()).unwrap();
    fs::write(&cache, "").unwrap();
    bench.ctl(["fsck"]).expect(0).says(&["1 compiled file of Python's in the environment"]);
    fs::remove_dir_all(cache.parent().unwrap()).unwrap();

    // Many files of one release are one sentence in the end.
    let live = root.join("releases").join(bench.live("site").unwrap());
    (0..30).for_each(|number| fs::write(live.join(format!("extra-{number:02}")), "").unwrap());
    let found = differences(&bench);
    assert_eq!(found.len(), 21);
    assert!(found[20]["text"].as_str().unwrap().starts_with("10 more files of the live release"), "{found:#?}");
    (0..30).for_each(|number| fs::remove_file(live.join(format!("extra-{number:02}"))).unwrap());

    // A dump that is cut short, and one with a page that is nothing.
    let whole = fs::read(&dump).unwrap();
    for broken in [whole[..whole.len() / 2].to_vec(), [&whole[..4096], &vec![0xff; whole.len() - 4096][..]].concat()] {
        fs::write(&dump, broken).unwrap();
        let found = differences(&bench);
        assert_eq!((found.len(), found[0]["path"].as_str()), (1, dump.to_str()), "{found:#?}");
        assert!(found[0]["text"].as_str().unwrap().contains("does not verify"), "{found:#?}");
    }
    fs::write(&dump, whole).unwrap();

    // An object of the cache.
    let pack = walk(&root.join("git_cache/objects")).into_iter().find(|path| path.is_file()).unwrap();
    let bytes = fs::read(&pack).unwrap();
    set_mode(&pack, 0o644);
    fs::write(&pack, [&bytes[..bytes.len() / 2], b"????", &bytes[bytes.len() / 2 + 4..]].concat()).unwrap();
    let found = differences(&bench);
    assert_eq!((found.len(), found[0]["what"].as_str()), (1, Some("git")), "{found:#?}");
    fs::write(&pack, bytes).unwrap();
    assert_clean(&bench);
    bench.assert_sound();
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn the_link_and_what_makes_a_release_whole_are_held_against_the_journal() {
    let (bench, _repo) = site("link");
    let root = bench.root_of("site");
    let (link, live) = (root.join("app"), bench.live("site").unwrap());
    let former = bench.releases("site").into_iter().find(|name| *name != live).unwrap();
    let relink = |to: &Path| {
        let _ = fs::remove_file(&link);
        symlink(to, &link).unwrap();
    };
    let sound = Path::new("releases").join(&live);
    let one = |says: &str, hint: &str| {
        let found = differences(&bench);
        assert_eq!((found.len(), &found[0]["what"]), (1, &Value::from("link")), "{found:#?}");
        assert!(found[0]["text"].as_str().unwrap().contains(says), "{found:#?}");
        assert!(found[0]["hint"].as_str().unwrap().contains(hint), "{found:#?}");
    };
    relink(&Path::new("releases").join(&former));
    one(&format!("names {former}, and the journal says that {live} was live last (run 2)"), &format!("agentctl activate {live}"));
    // What is done meanwhile does not make it right.
    bench.ctl(["fsck", "--mend"]).expect(0);
    one("was live last (run 2)", "agentctl activate");
    relink(&root.join("releases").join(&live));
    one("where a link to a release is expected", "move it away");
    relink(&Path::new("releases").join(GONE));
    one("is not there", "agentctl activate");
    fs::remove_file(&link).unwrap();
    one("there is no link", &format!("agentctl activate {live}"));
    bench.ctl(["activate", &live]).expect(0);
    assert_eq!(fs::read_link(&link).unwrap(), sound);
    assert_clean(&bench);

    // What was sealed and has lost its seal is damaged, and not left over.
    for release in [&live, &former] {
        let facts = root.join("releases").join(release).join(".release");
        for lost in ["manifest.json", "files", ""] {
            let (from, to) = (facts.join(lost), bench.path("lost"));
            fs::rename(&from, &to).unwrap();
            let found = differences(&bench);
            assert_eq!(found.len(), 1, "{lost}: {found:#?}");
            assert!(found[0]["text"].as_str().unwrap().contains(release.as_str()), "{found:#?}");
            assert_eq!((&found[0]["level"], &found[0]["mend"]), (&Value::from("error"), &Value::from(false)), "{found:#?}");
            bench.ctl(["fsck", "--mend"]).expect(0).says(&["nothing is left over"]);
            fs::rename(&to, &from).unwrap();
        }
    }
    let manifest = root.join("releases").join(&live).join(".release/manifest.json");
    let whole = fs::read(&manifest).unwrap();
    let of_another = fs::read(root.join("releases").join(&former).join(".release/manifest.json")).unwrap();
    for (text, says) in [(of_another, "has the manifest of another release"), (b"{".to_vec(), "has a manifest that cannot be understood")] {
        fs::write(&manifest, text).unwrap();
        let found = differences(&bench);
        assert_eq!((found.len(), found[0]["text"].as_str()), (1, Some(format!("the release {live} {says}").as_str())), "{found:#?}");
    }
    fs::write(&manifest, whole).unwrap();
    let environment = environment(&bench);
    fs::rename(environment.join(".complete"), bench.path("lost")).unwrap();
    let found = differences(&bench);
    assert_eq!(found.len(), 2, "both releases are told: {found:#?}");
    assert!(found.iter().all(|finding| finding["text"].as_str().unwrap().contains("is incomplete")), "{found:#?}");
    bench.ctl(["fsck", "--mend"]).expect(0).says(&["nothing is left over"]);
    fs::rename(bench.path("lost"), environment.join(".complete")).unwrap();
    fs::rename(root.join("shared/media"), bench.path("lost")).unwrap();
    let found = differences(&bench);
    assert_eq!((found.len(), &found[0]["what"]), (1, &Value::from("shared")), "{found:#?}");
    fs::rename(bench.path("lost"), root.join("shared/media")).unwrap();
    assert_clean(&bench);
    bench.assert_sound();
}

#[test]
fn mending_removes_what_belongs_to_nothing_and_leaves_all_else_as_it_is() {
    let (bench, repo) = site("mending");
    let root = bench.root_of("site");
    backup(&bench);
    bench.ctl(["pin", "previous"]).expect(0);
    bench.ctl(["fsck", "--mend"]).expect(0).says(&["nothing is left over"]);
    let sound = picture(&root);
    let left = leftovers(&bench);
    let found = differences(&bench);
    let mut told: Vec<PathBuf> = found.iter().map(|found| PathBuf::from(found["path"].as_str().unwrap())).collect();
    told.sort();
    let mut made: Vec<PathBuf> = left.iter().map(|path| root.join(path)).collect();
    made.sort();
    assert_eq!(told, made);
    assert!(found.iter().all(|found| found["mend"] == true && found["level"] == "warning"), "{found:#?}");
    bench.ctl(["fsck"]).expect(1).says(&["no error, 13 warnings; agentctl fsck --mend removes all of it"]);
    bench.ctl(["fsck", "--mend"]).expect(0).says(&["what was left over is gone", "agentctl fsck says what else differs"]);
    assert_eq!(picture(&root), sound, "nothing is left, and nothing else was touched");
    assert_clean(&bench);

    // With everything damaged that can be, the same goes, and the damage stays for a person.
    let damages: Vec<Damage<'_>> = damages(&bench).into_iter().filter(|(path, ..)| !path.ends_with("lock.json")).collect();
    damages.iter().for_each(|(path, damage, _)| damage(&root.join(path)));
    let damaged = picture(&root);
    let number = damages.len();
    leftovers(&bench);
    assert_eq!(differences(&bench).len(), number + 13);
    bench.ctl(["fsck"]).expect(1).says(&["agentctl fsck --mend removes 13 of them"]);
    bench.ctl(["fsck", "--mend"]).expect(0);
    let mended = picture(&root);
    let touched: Vec<_> = damaged.iter().filter(|(path, what)| mended.get(*path) != Some(*what)).collect();
    assert!(touched.is_empty() && mended.len() == damaged.len(), "{touched:#?}");
    let found = differences(&bench);
    assert_eq!(found.len(), number, "{found:#?}");

    // Each of the run's notes says what went, and the agent releases as ever.
    let run = bench.last_run()["run"].as_u64().unwrap();
    let notes =
        bench.events(run).into_iter().filter(|event| event["what"] == "note" && event["text"].as_str().unwrap().starts_with("removed "));
    assert_eq!(notes.count(), 13);
    fs::remove_file(root.join("releases").join(bench.live("site").unwrap()).join(".release/served.json")).unwrap();
    repo.write("page.html", "three").commit("Three");
    bench.ctl(["release", "main"]).expect(0).says(&["is live"]);
    bench.ctl(["rollback"]).expect(0).says(&["is live"]);
}

#[test]
fn what_belongs_to_a_run_under_way_is_left_alone() {
    let (bench, repo) = site("under way");
    let root = bench.root_of("site");
    repo.write("page.html", "three").commit("Three");
    bench.write("gate", "");
    let _ = fs::remove_file(bench.path("gate.reached"));
    let run = bench.ctl(["release", "--no-follow", "main"]).expect(0).stdout.trim().to_owned();
    wait_until("the release is in the middle", SOON, || bench.path("gate.reached").exists());
    let unsealed = bench.releases("site").len();
    assert_eq!(unsealed, 3);
    bench
        .ctl(["fsck"])
        .expect(0)
        .says(&[&format!("run {run} is under way: what belongs to it is left out"), "all is as it was written down"]);
    // What was sealed before is looked at all the same.
    let extra = root.join("releases").join(bench.live("site").unwrap()).join("extra");
    fs::write(&extra, "").unwrap();
    assert_eq!(differences(&bench).len(), 1);
    fs::remove_file(extra).unwrap();
    let mend = bench.ctl(["fsck", "--mend", "--no-follow"]).expect(0).stdout.trim().to_owned();
    assert_eq!(bench.ask_json(&format!("/v1/runs/{mend}"))["state"], "waiting", "it waits for its turn");
    fs::remove_file(bench.path("gate")).unwrap();
    bench.ctl(["logs", "-f", &run]).expect(0);
    bench.ctl(["logs", "-f", &mend]).expect(0).says(&["nothing is left over"]);
    assert_clean(&bench);
    bench.assert_sound();
}

#[test]
fn the_journal_is_held_against_itself() {
    let (bench, _repo) = site("journal");
    let journal = bench.path("state/journal.db");
    let live = bench.live("site").unwrap();
    let own = |text: &str| format!("SELECT quote({text}) FROM run WHERE run = 2");
    for (column, other, says) in [
        ("outcome", "'failed'", "run 2: its row says something else than its events: outcome"),
        ("release", "'x'", "events: release"),
        ("begun", "begun + 1", "events: begun"),
        ("caller", "'unix:mallory'", "events: caller"),
    ] {
        let was = sqlite(&journal, &own(column));
        sqlite(&journal, &format!("UPDATE run SET {column} = {other} WHERE run = 2"));
        let found = differences(&bench);
        assert_eq!((found.len(), &found[0]["what"]), (1, &Value::from("journal")), "{column}: {found:#?}");
        assert!(found[0]["text"].as_str().unwrap().contains(says), "{column}: {found:#?}");
        sqlite(&journal, &format!("UPDATE run SET {column} = {was} WHERE run = 2"));
    }
    assert_clean(&bench);
    let events: u64 = sqlite(&journal, "SELECT max(n) FROM event WHERE run = 1").parse().unwrap();
    let ended = sqlite(&journal, &format!("SELECT what FROM event WHERE run = 1 AND n = {events}"));
    let at = sqlite(&journal, &format!("SELECT at FROM event WHERE run = 1 AND n = {events}"));
    let append = |n: u64, what: &str| sqlite(&journal, &format!("INSERT INTO event VALUES (1, {n}, {at}, '{what}')"));
    let cut = |n: u64| sqlite(&journal, &format!("DELETE FROM event WHERE run = 1 AND n = {n}"));
    let one = |says: &str| {
        let found = differences(&bench);
        let texts: Vec<&str> = found.iter().map(|found| found["text"].as_str().unwrap()).collect();
        assert!(texts.iter().any(|text| text.starts_with("run 1: ") && text.contains(says)), "{says}: {texts:#?}");
        assert!(found.iter().all(|found| found["what"] == "journal" && found["mend"] == false), "{found:#?}");
    };
    append(events + 1, &ended);
    one("it has ended 2 times");
    cut(events + 1);
    append(events + 2, r#"{"what":"stopped"}"#);
    one("stands where");
    cut(events + 2);
    append(events + 1, r#"{"what":"stopped"}"#);
    one("go on behind `ended`");
    cut(events + 1);
    append(events + 1, "nonsense");
    one("cannot be understood");
    cut(events + 1);
    assert_clean(&bench);

    // One that began, and that nobody carries out; the agent's next start ends it.
    cut(events);
    sqlite(&journal, "UPDATE run SET ended = NULL, outcome = NULL WHERE run = 1");
    let found = differences(&bench);
    assert!(found.iter().any(|found| found["text"] == "run 1 has begun and not ended, and nobody carries it out"), "{found:#?}");
    sqlite(&journal, "UPDATE run SET ended = 1, outcome = 'live' WHERE run = 1");
    append(events, &ended);
    sqlite(&journal, &format!("UPDATE run SET ended = {at} WHERE run = 1"));
    assert_clean(&bench);

    // A release that was taken away by hand is told, and is nobody's fault.
    let former = bench.releases("site").into_iter().find(|name| *name != live).unwrap();
    fs::rename(bench.root_of("site").join("releases").join(&former), bench.path("away")).unwrap();
    bench.ctl(["fsck"]).expect(0).says(&[&format!("run 1 made {former} live; it is gone, and no run pruned it")]);
    fs::rename(bench.path("away"), bench.root_of("site").join("releases").join(&former)).unwrap();

    // Pages that are none, under an agent that has looked its journal through when it started.
    assert_eq!(bench.stop(), 0);
    bench.start();
    let bytes = fs::read(&journal).unwrap();
    let page =
        usize::try_from(sqlite(&journal, "SELECT rootpage FROM sqlite_schema WHERE name = 'run_of_app'").parse::<u64>().unwrap()).unwrap();
    let mut broken = bytes.clone();
    broken[(page - 1) * 4096 + 100..page * 4096 - 2000].fill(0);
    broken[(page - 1) * 4096 + 8..(page - 1) * 4096 + 14].fill(0xff);
    fs::write(&journal, &broken).unwrap();
    let found = differences(&bench);
    assert!(found.iter().any(|found| found["text"].as_str().unwrap().starts_with("the journal is damaged: ")), "{found:#?}");
}
