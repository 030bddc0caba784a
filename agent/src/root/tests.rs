use agent_model::request::Lock;

use super::*;
use std::os::unix::fs::symlink;

const OLD: &str = "2026-11-20-22-45-23-1a2b3c4d5e6f";
const NEW: &str = "2026-11-20-22-45-24-abcdefabcdef";

fn commit(name: &ReleaseName) -> CommitId {
    format!("{}{}", name.commit_digits(), "0".repeat(28)).parse().unwrap()
}

fn app_root() -> (tempfile::TempDir, AppRoot, RootLock) {
    let dir = tempfile::tempdir().unwrap();
    let root = AppRoot::open(&dir.path().join("root")).unwrap();
    let lock = root.hold().unwrap();
    (dir, root, lock)
}

fn sealed(root: &AppRoot, name: &str) -> ReleaseName {
    let name: ReleaseName = name.parse().unwrap();
    let dir = root.release_dir(&name);
    fs::create_dir_all(dir.join("static")).unwrap();
    fs::write(dir.join("static/site.css"), "body {}").unwrap();
    symlink("static/site.css", dir.join("link")).unwrap();
    fs::write(dir.join("REVISION"), format!("{}\n", commit(&name))).unwrap();
    let sealing = Sealing {
        app: "shop",
        release: &name,
        commit: &commit(&name),
        reference: Some("refs/heads/main"),
        subject: None,
        caller: "unix:anna",
        run: 1,
        now: Utc::now(),
        read_only: false,
        made_by: None,
    };
    root.seal(&sealing).unwrap();
    name
}

#[test]
fn the_link_is_relative_and_swaps_over_a_stale_temporary_one() {
    let (_dir, root, lock) = app_root();
    let (old, new) = (sealed(&root, OLD), sealed(&root, NEW));
    assert_eq!(root.live().unwrap(), None);
    root.swap(&old, &lock).unwrap();
    symlink("releases/nowhere", root.path().join(format!(".app.{}-{new}", std::process::id()))).unwrap();
    symlink("releases/nowhere", root.path().join(".app.1-stale")).unwrap();
    root.swap(&new, &lock).unwrap();
    assert_eq!(fs::read_link(root.link()).unwrap(), Path::new("releases").join(NEW));
    let stale = fs::read_dir(root.path()).unwrap().flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(".app."));
    assert!(!stale);
    root.unlink(&lock).unwrap();
    assert_eq!(root.live().unwrap(), None);
}

#[test]
fn what_is_not_a_link_to_a_release_is_never_replaced() {
    let (_dir, root, lock) = app_root();
    let old = sealed(&root, OLD);
    fs::create_dir(root.link()).unwrap();
    assert!(matches!(root.swap(&old, &lock), Err(RootError::NotALink { .. })));
    fs::remove_dir(root.link()).unwrap();
    fs::write(root.link(), "mine").unwrap();
    assert!(matches!(root.swap(&old, &lock), Err(RootError::NotALink { .. })));
    assert_eq!(fs::read_to_string(root.link()).unwrap(), "mine");
    fs::remove_file(root.link()).unwrap();
    symlink("/etc", root.link()).unwrap();
    assert!(matches!(root.live(), Err(RootError::NotALink { .. })));
}

#[test]
fn a_release_is_sealed_when_its_manifest_agrees_and_only_then() {
    let (_dir, root, _lock) = app_root();
    let name = sealed(&root, OLD);
    let manifest = root.manifest(&name).unwrap();
    assert_eq!((manifest.files, manifest.bytes), (3, 48));
    let facts = root.release_dir(&name).join(FACTS);
    let saved = fs::read(facts.join("files")).unwrap();
    fs::write(facts.join("files"), "other").unwrap();
    assert!(matches!(root.manifest(&name), Err(RootError::NotSealed { .. })));
    fs::write(facts.join("files"), saved).unwrap();
    assert!(root.manifest(&name).is_ok());
    let other: ReleaseName = NEW.parse().unwrap();
    fs::rename(root.release_dir(&name), root.release_dir(&other)).unwrap();
    assert!(matches!(root.manifest(&other), Err(RootError::NotSealed { .. })), "another's manifest is no seal");
    fs::remove_file(root.release_dir(&other).join(FACTS).join("manifest.json")).unwrap();
    assert!(root.manifest(&other).is_err());
    assert!(root.survey().unwrap()[0].manifest.is_none());
}

#[test]
fn a_stale_temporary_file_of_a_dead_agent_with_this_number_is_in_nobodys_way() {
    let (_dir, root, _lock) = app_root();
    let stale = root.path().join(format!(".agent/.lock.json.{}", std::process::id()));
    fs::write(&stale, "half").unwrap();
    fs::set_permissions(&stale, fs::Permissions::from_mode(0o444)).unwrap();
    let lock = Lock { who: "anna".to_owned(), why: "a test".to_owned(), since: 1 };
    root.set_lock(Some(&lock)).unwrap();
    assert_eq!(root.lock().unwrap(), Some(lock));
    assert!(!stale.exists());
}

#[test]
fn what_was_checked_out_and_is_gone_is_not_sealed() {
    let (_dir, root, _lock) = app_root();
    let name = sealed(&root, OLD);
    fs::remove_dir_all(root.release_dir(&name)).unwrap();
    let again = Sealing {
        app: "shop",
        release: &name,
        commit: &commit(&name),
        reference: None,
        subject: None,
        caller: "unix:anna",
        run: 1,
        now: Utc::now(),
        read_only: false,
        made_by: None,
    };
    assert!(matches!(root.seal(&again), Err(RootError::Vanished(_))));
    assert!(!root.release_dir(&name).exists(), "nothing is made anew");
}

#[test]
fn the_live_release_is_never_removed() {
    let (_dir, root, lock) = app_root();
    let (old, new) = (sealed(&root, OLD), sealed(&root, NEW));
    root.swap(&new, &lock).unwrap();
    assert!(matches!(root.remove_release(&new), Err(RootError::IsLive(_))));
    root.remove_release(&old).unwrap();
    assert!(root.manifest(&new).is_ok() && root.manifest(&old).is_err());
}

#[test]
fn a_root_has_one_holder() {
    let (_dir, root, lock) = app_root();
    let Err(RootError::Held { holder, .. }) = root.hold() else { panic!("two hold the root") };
    assert_eq!(holder, std::process::id().to_string());
    drop(lock);
    root.hold().unwrap();
}

#[test]
fn a_name_is_never_used_twice() {
    let (_dir, root, _lock) = app_root();
    let now: DateTime<Utc> = "2026-11-20T22:45:23Z".parse().unwrap();
    let commit: CommitId = "1a2b3c4d5e6f0000000000000000000000000000".parse().unwrap();
    assert_eq!(root.new_name(&commit, now).as_str(), OLD);
    fs::create_dir(root.release_dir(&OLD.parse().unwrap())).unwrap();
    assert_eq!(root.new_name(&commit, now).as_str(), "2026-11-20-22-45-24-1a2b3c4d5e6f");
    // Another commit of the same second is later too, whatever its digits; and so is one after the clock went back.
    let other: CommitId = "0000000000000000000000000000000000000000".parse().unwrap();
    assert_eq!(root.new_name(&other, now).as_str(), "2026-11-20-22-45-24-000000000000");
    assert_eq!(root.new_name(&other, now - chrono::Duration::hours(1)).as_str(), "2026-11-20-22-45-24-000000000000");
}

#[test]
fn removal_follows_no_link_and_stops_at_no_missing_write_bit() {
    let (dir, root, _lock) = app_root();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let name = sealed(&root, OLD);
    symlink(&outside, root.release_dir(&name).join("way-out")).unwrap();
    tree::set_write_bits(&root.release_dir(&name), tree::Bits::AllOff).unwrap();
    root.remove_release(&name).unwrap();
    assert!(outside.join("precious").exists());
    assert!(root.survey().unwrap().is_empty());
    // A release that is a link is not a release, and is not followed.
    symlink(&outside, root.release_dir(&name)).unwrap();
    assert!(root.survey().unwrap().is_empty());
    root.remove_release(&name).unwrap();
    assert!(outside.join("precious").exists());
}

#[test]
fn what_is_shared_is_linked_and_must_exist() {
    let (_dir, root, _lock) = app_root();
    let name = sealed(&root, OLD);
    let shared = Shared { dirs: vec!["var/media".into()], files: vec![".env".into()] };
    let err = root.link_shared(&name, &shared).unwrap_err();
    assert!(err.hint().unwrap().starts_with("mkdir -p"), "{err}");
    fs::create_dir_all(root.path().join("shared/var/media")).unwrap();
    fs::write(root.path().join("shared/.env"), "A=1").unwrap();
    fs::create_dir_all(root.release_dir(&name).join("var/media")).unwrap();
    fs::write(root.release_dir(&name).join("var/media/.gitkeep"), "").unwrap();
    fs::write(root.release_dir(&name).join(".env"), "tracked").unwrap();
    let gave_way = root.link_shared(&name, &shared).unwrap();
    assert_eq!(gave_way, [PathBuf::from(".env")]);
    assert_eq!(fs::read_to_string(root.release_dir(&name).join(".env")).unwrap(), "A=1");
    assert_eq!(fs::read_link(root.release_dir(&name).join("var/media")).unwrap(), Path::new("../../../shared/var/media"));
    assert!(root.release_dir(&name).join("var/media").is_dir());
}

#[test]
fn nothing_is_shared_through_a_link_of_the_tree() {
    let (_dir, root, _lock) = app_root();
    let name = sealed(&root, OLD);
    fs::create_dir_all(root.path().join("shared/media/pics")).unwrap();
    fs::write(root.path().join("shared/media/pics/precious"), "x").unwrap();
    fs::create_dir_all(root.path().join("shared/uploads/pics")).unwrap();
    // The commit ships a link that leads to what is shared once that is in place.
    symlink("media", root.release_dir(&name).join("uploads")).unwrap();
    let shared = Shared { dirs: vec!["media".into(), "uploads/pics".into()], files: vec![] };
    let err = root.link_shared(&name, &shared).unwrap_err();
    assert!(matches!(err, RootError::SharedThroughLink { .. }) && err.hint().is_some(), "{err}");
    assert!(root.path().join("shared/media/pics/precious").exists());
}

#[test]
fn the_operators_lock_and_pins_are_kept_on_disk() {
    let (_dir, root, _lock) = app_root();
    let name = sealed(&root, OLD);
    let lock = agent_model::request::Lock { who: "unix:anna".into(), why: "audit".into(), since: 5 };
    root.set_lock(Some(&lock)).unwrap();
    assert_eq!(root.lock().unwrap(), Some(lock));
    root.set_lock(None).unwrap();
    assert_eq!(root.lock().unwrap(), None);
    root.pin(&name).unwrap();
    assert!(root.survey().unwrap()[0].pinned);
    root.unpin(&name).unwrap();
    root.unpin(&name).unwrap();
    assert!(!root.survey().unwrap()[0].pinned);
}

#[test]
fn a_sweep_finishes_what_was_cut_off_and_touches_nothing_else() {
    let (_dir, root, lock) = app_root();
    let name = sealed(&root, OLD);
    fs::create_dir_all(root.path().join("releases/.trash-x/a")).unwrap();
    fs::create_dir_all(root.path().join("environments/.trash-y")).unwrap();
    for key in ["a1", "b2", "c3"] {
        fs::create_dir_all(root.environment(key)).unwrap();
    }
    root.seal_environment("c3", "told").unwrap().finish().unwrap();
    fs::write(root.path().join("backups").join(format!("{name}.dump.part")), "half").unwrap();
    fs::write(root.path().join("backups").join(format!("{name}.dump")), "whole").unwrap();
    root.sweep(&|path| path.ends_with("b2"), &lock).unwrap();
    assert_eq!(root.survey().unwrap().len(), 1);
    assert_eq!(root.backups().unwrap().len(), 1);
    let mut environments = root.environments().unwrap();
    environments.sort();
    assert_eq!(environments, ["b2", "c3"]);
    assert!(!root.path().join("releases/.trash-x").exists() && !root.path().join("environments/.trash-y").exists());
}

#[test]
fn what_was_never_sealed_is_not_verified() {
    let (_dir, root, _lock) = app_root();
    let release: ReleaseName = OLD.parse().unwrap();
    let told = || {
        let mut report = FsckReport::default();
        root.verify_releases("shop", &|| true, &mut report).unwrap();
        report.findings.into_iter().map(|finding| finding.text).collect::<Vec<_>>().join("; ")
    };
    fs::create_dir_all(root.release_dir(&release)).unwrap();
    assert_eq!(told(), "", "it has nothing to be held against");
    sealed(&root, OLD);
    assert_eq!(told(), "");
    fs::write(root.release_dir(&release).join("REVISION"), "0000").unwrap();
    assert!(told().contains("REVISION"), "{}", told());
}

#[test]
fn a_temporary_file_is_known_by_its_name_and_the_agents_own_by_its_age() {
    use super::leftovers::temporary_of;
    for (name, pid) in
        [(".lock.json.7", Some(7)), ("..complete.12", Some(12)), (".7", None), ("lock.json.7", None), (".a.7x", None), (".a.", None)]
    {
        assert_eq!(temporary_of(name), pid, "{name}");
    }
    let (_dir, root, lock) = app_root();
    let around = Around { served: &[], in_use: &|_| false, instance: &|_| Instance::Gone };
    let left = || root.leftovers(&around, &mut FsckReport::default()).unwrap();
    let own = root.path().join(format!(".agent/.lock.json.{}", std::process::id()));
    fs::write(&own, "").unwrap();
    assert_eq!(left(), [], "it may be written at this moment");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(61);
    fs::File::open(&own).unwrap().set_modified(old).unwrap();
    assert_eq!(left().len(), 1);
    root.remove_leftover(&left()[0], &lock).unwrap();
    assert!(!own.exists());
}

#[test]
fn what_was_never_sealed_may_go_unless_something_hangs_on_it() {
    let (_dir, root, lock) = app_root();
    let release: ReleaseName = OLD.parse().unwrap();
    let dir = root.release_dir(&release);
    fs::create_dir_all(dir.join(FACTS)).unwrap();
    let left = |served: &[ReleaseName], in_use: bool| {
        let mut report = FsckReport::default();
        let around = Around { served, in_use: &|path| in_use && path == dir, instance: &|_| Instance::Gone };
        let left = root.leftovers(&around, &mut report).unwrap();
        (left.len(), report.findings.into_iter().map(|finding| finding.text).collect::<Vec<_>>().join("; "))
    };
    assert_eq!(left(&[], false), (1, String::new()));
    let kept = |why: &str| (0, format!("{OLD} has no manifest, and {why}"));
    assert_eq!(left(std::slice::from_ref(&release), false), kept("it was live once"));
    assert_eq!(left(&[], true), kept("a process runs from it"));
    root.pin(&release).unwrap();
    assert_eq!(left(&[], false), kept("it is pinned"));
    root.unpin(&release).unwrap();
    fs::write(dir.join(FACTS).join("migrated.json"), "{").unwrap();
    assert_eq!(left(&[], false), kept("it has migrated a database"));
    fs::remove_file(dir.join(FACTS).join("migrated.json")).unwrap();
    root.swap(&release, &lock).unwrap();
    assert_eq!(left(&[], false), kept("it is live"));
}

#[test]
fn a_lock_that_cannot_be_read_locks_and_can_be_ended() {
    let (_dir, root, _lock) = app_root();
    fs::write(root.lock_file(), "{").unwrap();
    assert!(root.read_lock().is_err());
    assert!(root.lock().unwrap().is_some_and(|lock| lock.why.contains("cannot be understood")));
    root.set_lock(None).unwrap();
    assert_eq!(root.lock().unwrap(), None);
}

#[test]
fn one_damaged_fact_keeps_no_other_release_from_being_listed() {
    let (_dir, root, _lock) = app_root();
    let (old, new) = (sealed(&root, OLD), sealed(&root, NEW));
    fs::write(root.release_dir(&old).join(FACTS).join("served.json"), "{").unwrap();
    let names: Vec<ReleaseName> = root.survey().unwrap().into_iter().map(|found| found.name).collect();
    assert_eq!(names, [new, old]);
}

#[test]
fn what_is_taken_over_is_ours_alone_whatever_the_builder_made() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let dir = tempfile::tempdir().unwrap();

    let root = AppRoot::open(dir.path()).unwrap();
    let tree = dir.path().join("releases/tree");
    fs::create_dir_all(tree.join("ours/deep")).unwrap();
    for (path, text) in [("ours/file", "checked out"), ("ours/deep/run", "#!"), ("ours/linked", "two names")] {
        fs::write(tree.join(path), text).unwrap();
    }
    fs::set_permissions(tree.join("ours/deep/run"), fs::Permissions::from_mode(0o755)).unwrap();
    root.open_to_builder(&tree).unwrap();
    assert_eq!(tree.join("ours/deep/run").metadata().unwrap().mode() & 0o7777, 0o775);
    assert_eq!(tree.join("ours/file").metadata().unwrap().mode() & 0o7777, 0o664);
    // Somebody keeps a second name of a file elsewhere, to write in it later.
    fs::hard_link(tree.join("ours/linked"), dir.path().join("kept")).unwrap();
    fs::create_dir_all(tree.join("theirs/private")).unwrap();
    fs::write(tree.join("theirs/private/made"), "built").unwrap();
    symlink("private/made", tree.join("theirs/link")).unwrap();
    nix::unistd::mkfifo(&tree.join("theirs/fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let written = filetime(&tree.join("theirs/private/made"));
    fs::set_permissions(tree.join("theirs/private/made"), fs::Permissions::from_mode(0o4777)).unwrap();
    // What the agent keeps there itself is not the builder's to bring.
    fs::create_dir(tree.join(".release")).unwrap();
    fs::write(tree.join(".release/manifest.json"), "{}").unwrap();
    // Whoever has a file open from before has it open no more.
    let mut open = fs::OpenOptions::new().append(true).open(tree.join("ours/file")).unwrap();
    // Only root can make files of somebody else's; without that the rest still has to be right.
    let root_runs = nix::unistd::geteuid().is_root();
    if root_runs {
        for path in ["theirs", "theirs/private", "theirs/private/made", "theirs/link"] {
            std::os::unix::fs::lchown(tree.join(path), Some(12345), Some(12345)).unwrap();
        }
    }
    let mut kept = fs::OpenOptions::new().append(true).open(dir.path().join("kept")).unwrap();
    root.claim(&tree, &[".release"], &|| true).unwrap();
    for file in [&mut open, &mut kept] {
        std::io::Write::write_all(file, b" and more").unwrap();
    }
    assert_eq!(fs::read_to_string(tree.join("ours/file")).unwrap(), "checked out");
    assert_eq!(fs::read_to_string(tree.join("ours/linked")).unwrap(), "two names");
    assert_eq!(fs::read_to_string(tree.join("theirs/link")).unwrap(), "built");
    assert_eq!(filetime(&tree.join("theirs/private/made")), written);
    assert!(!tree.join("theirs/fifo").exists() && !tree.join(".release").exists());
    let left: Vec<_> = fs::read_dir(dir.path().join("releases")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["tree"]);
    let mut looked_at = vec![tree.clone()];
    while let Some(path) = looked_at.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!(meta.uid(), nix::unistd::geteuid().as_raw(), "{}", path.display());
        if !meta.is_symlink() {
            assert_eq!(meta.mode() & 0o7022, 0, "{}: {:o}", path.display(), meta.mode());
        }
        if meta.is_dir() {
            looked_at.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

fn filetime(path: &std::path::Path) -> (i64, i64) {
    use std::os::unix::fs::MetadataExt;
    let meta = path.metadata().unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

#[test]
fn what_was_made_to_be_in_the_way_is_given_up_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let root = AppRoot::open(dir.path()).unwrap();
    let tree = dir.path().join("releases/tree");
    let taken =
        |go_on: &dyn Fn() -> bool| root.claim(&tree, &[], go_on).map_err(|err| std::error::Error::source(&err).unwrap().to_string());
    fs::create_dir_all(tree.join("d/".repeat(300))).unwrap();
    assert!(taken(&|| true).unwrap_err().contains("200 deep"));
    fs::remove_dir_all(tree.join("d")).unwrap();
    fs::File::create(tree.join("hole")).unwrap().set_len(1 << 40).unwrap();
    assert!(taken(&|| true).unwrap_err().contains("a hole"));
    fs::remove_file(tree.join("hole")).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    assert!(taken(&|| false).is_err());
    taken(&|| true).unwrap();
    assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), "x");
}

#[test]
fn what_a_build_has_put_under_the_agents_own_names_is_neither_followed_nor_believed() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let root = AppRoot::open(dir.path()).unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "kept").unwrap();
    // The list of an environment, as a link to what is the agent's to write.
    let environment = root.make_environment("abc").unwrap();
    symlink(&victim, environment.join(".files")).unwrap();
    root.seal_environment("abc", "told").unwrap().finish().unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
    assert!(root.has_environment("abc") && !environment.join(".files").is_symlink());
    // A directory where the marker belongs: it gets none, and whoever waits for it is told.
    let without = root.make_environment("ace").unwrap();
    fs::create_dir_all(without.join(".complete/in")).unwrap();
    let told = root.seal_environment("ace", "told").unwrap().finish().unwrap_err().to_string();
    assert!(told.contains(".complete") && !root.has_environment("ace"), "{told}");
    // A marker, a manifest and a fact that are links, and a commit without end.
    let other = root.make_environment("def").unwrap();
    symlink(&victim, other.join(".complete")).unwrap();
    assert!(!root.has_environment("def"));
    let release: ReleaseName = "2026-11-20-22-45-23-1a2b3c4d5e6f".parse().unwrap();
    let facts = root.release_dir(&release).join(".release");
    fs::create_dir_all(&facts).unwrap();
    symlink("/dev/zero", facts.join("manifest.json")).unwrap();
    symlink("/dev/zero", facts.join("migrated.json")).unwrap();
    assert!(root.manifest(&release).is_err() && root.fact::<Migrated>(&release).is_err());
    fs::remove_dir_all(&facts).unwrap();
    symlink("/dev/zero", root.release_dir(&release).join("REVISION")).unwrap();
    let commit = "1a2b3c4d5e6f1a2b3c4d5e6f1a2b3c4d5e6f1a2b".parse().unwrap();
    let sealing = Sealing {
        app: "shop",
        release: &release,
        commit: &commit,
        reference: None,
        subject: None,
        caller: "unix:anna",
        run: 1,
        now: Utc::now(),
        read_only: false,
        made_by: None,
    };
    assert!(root.seal(&sealing).is_err());
}

#[test]
fn what_is_under_way_has_ended_when_nobody_waits_for_it_any_more() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let ended = Arc::new(AtomicBool::new(false));
    let told = ended.clone();
    let rest = move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        told.store(true, Ordering::Release);
        Err(RootError::Vanished("2026-01-01-00-00-00-0123456789ab".parse().unwrap()))
    };
    let begin = |rest| BackgroundTask::begin("try", Path::new("/"), rest).unwrap();
    drop(begin(rest.clone()));
    assert!(ended.load(Ordering::Acquire), "it goes on beside whoever comes next");
    assert!(matches!(begin(rest).finish(), Err(RootError::Vanished(_))), "how it ended is not told");
}
