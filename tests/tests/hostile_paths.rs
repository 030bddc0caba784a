//! What paths and names may do: each case shows that the attack happened, that it fails its own release at the most, and that the same thing in a
//! harmless form passes.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_tests::{Bench, Hostile, wait_until};
use serde_json::json;

/// Asks for a release by a word that is no name of one, in every way that there is: nothing begins, and nothing is touched.
#[track_caller]
fn no_release(name: &str, words: &[&str]) {
    let hostile = Hostile::new(name, "");
    // What such a word would lead to is there, and looks like a release.
    for place in ["apps/plain/x", "apps/plain/releases/.trash-x", "x"] {
        hostile.bench.write(format!("{place}/page.html"), "bad");
        hostile.bench.write(format!("{place}/.release/manifest.json"), "{}");
    }
    hostile.knows(&["the removal of a release was cut off"]);
    let live = hostile.bench.live("plain");
    for word in words {
        for action in ["activate", "pin", "unpin"] {
            hostile.refuses(action, &json!({ "release": word }));
            if !word.contains('\0') {
                hostile.fails_with(&[action, "--", word], 2, &[]);
            }
        }
        hostile.refuses("release", &json!({ "ref": "main", "prev": word }));
        let quoted: String = word.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = hostile.bench.ask(&format!("/v1/apps/plain/releases/{quoted}"));
        assert!((400..500).contains(&answer.status) && !answer.body.contains("bad\""), "{word:?}: {} {}", answer.status, answer.body);
        assert_eq!(hostile.bench.live("plain"), live);
    }
    assert_eq!(fs::read_to_string(hostile.bench.path("apps/plain/x/page.html")).unwrap(), "bad");
    fs::remove_dir_all(hostile.bench.path("apps/plain/x")).unwrap();
    // By its name, and by the beginning of it.
    let live = live.unwrap();
    for word in [live.as_str(), &live[20..28]] {
        hostile.passes(&["activate", word]);
        hostile.passes(&["pin", word]);
        hostile.passes(&["unpin", word]);
    }
}

#[test]
fn pth_01_a_release_that_climbs() {
    no_release(
        "pth 01",
        &["../x", "..", ".", "../../canary", "x/../../x", "2026-11-20-22-45-23-1a2b3c4d5e6f/../../x", "..\\x", "%2e%2e/x"],
    );
}

#[test]
fn pth_02_a_release_by_an_absolute_path() {
    no_release("pth 02", &["/etc", "/", "//tmp", "/var/app/releases/x", "file:///etc"]);
}

#[test]
fn pth_03_a_release_without_a_name() {
    no_release("pth 03", &["", " ", "\t", "\n"]);
}

#[test]
fn pth_04_a_release_with_a_nul() {
    no_release("pth 04", &["\0", "2026-11-20-22-45-23-1a2b3c4d5e6f\0", "../x\0-1a2b3c4d5e6f", "\0/../x"]);
}

#[test]
fn pth_05_a_release_of_letters_that_look_alike() {
    no_release(
        "pth 05",
        &[
            "２０２６-11-20-22-45-23-1a2b3c4d5e6f",
            "2026‐11‐20‐22‐45‐23‐1a2b3c4d5e6f",
            "prevіous",
            "1а2b3c4d5e6f",
            "․․/x",
            "\u{202e}previous",
            "..／x",
        ],
    );
}

#[test]
fn pth_06_a_release_that_is_being_removed() {
    no_release("pth 06", &[".trash-x", ".trash-2026-11-20-22-45-23-1a2b3c4d5e6f", ".release", ".app.1-x"]);
}

#[test]
fn pth_07_a_commit_that_ships_an_environment() {
    let python = "[python]\ninterpreter = \"/usr/bin/python3\"\npackages = []\n";
    let hostile = Hostile::new("pth 07", "");
    hostile.repo.write("requirements.txt", "");
    for shipped in ["link", "absolute", "directory", "file"] {
        let place = hostile.repo.path().join("venv");
        match shipped {
            // Within the release: where the agent would make its own, a program of the commit's choice stands.
            "link" => symlink("own", &place).unwrap(),
            "absolute" => symlink(hostile.canary("inner"), &place).unwrap(),
            "directory" => drop(hostile.repo.write_program("venv/bin/python", "#!/bin/sh\n")),
            _ => fs::write(&place, "x").unwrap(),
        }
        hostile.repo.write_program("own/bin/python", "#!/bin/sh\n").commit("Ship an environment");
        hostile.set(python);
        hostile.fails(&["release", "main"], &["venv"]);
        // For an app without Python it is a name like any.
        if shipped != "absolute" {
            hostile.set("");
            hostile.releases();
        }
        if place.is_dir() && !place.is_symlink() { fs::remove_dir_all(&place).unwrap() } else { fs::remove_file(&place).unwrap() }
    }
    hostile.repo.write("venvs/venv/x", "x").write("venv-notes", "x").write("requirements.txt", "./ok\n");
    hostile.repo.write("ok/pyproject.toml", "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n").write(
        "ok/backend.py",
        "import zipfile\ndef build_wheel(d, c=None, m=None):\n    with zipfile.ZipFile(d + '/ok-1-py3-none-any.whl', 'w') as z:\n        \
         z.writestr('ok.py', '')\n        z.writestr('ok-1.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: ok\\nVersion: 1\\n')\n        \
         z.writestr('ok-1.dist-info/WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n        \
         z.writestr('ok-1.dist-info/RECORD', '')\n    return 'ok-1-py3-none-any.whl'\n",
    );
    hostile.repo.commit("Names like it");
    hostile.set(python);
    assert!(hostile.releases().join("venv/bin/python").exists());
}

#[test]
fn pth_08_a_commit_that_ships_a_manifest() {
    let hostile = Hostile::new("pth 08", "");
    let live = hostile.live();
    // A manifest that is true of another release, word for word.
    let manifest = fs::read_to_string(live.join(".release/manifest.json")).unwrap();
    let files = fs::read(live.join(".release/files")).unwrap();
    hostile.repo.write(".release/manifest.json", &manifest).write(".release/files", &files).commit("Ship a manifest");
    hostile.fails(&["release", "main"], &[".release", "rename it"]);
    hostile.repo.remove(".release/files").remove(".release/manifest.json").write(".release/served.json", "{}").commit("Ship a fact");
    hostile.fails(&["release", "main"], &[".release", "rename it"]);
    // Code of the release itself writes it later, where it stands in the way of the seal; what counts is what the agent saw and wrote.
    hostile.repo.remove(".release/served.json");
    let program = "#!/bin/sh\nmkdir -p .release\nprintf '{\"v\":1}' >.release/manifest.json\nprintf x >.release/files\n";
    hostile.repo.write_program("forge", program).commit("Forge a manifest");
    hostile.set("[[hook]]\nbefore = \"seal\"\nrun = [\"./forge\"]\n");
    let live = hostile.releases();
    let manifest: serde_json::Value = serde_json::from_str(&fs::read_to_string(live.join(".release/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["commit"], hostile.repo.head());
    // A link that leads out instead: the facts of the release would be written there.
    hostile.repo.write_program("forge", format!("#!/bin/sh\nln -s {} .release\n", hostile.canary("inner").display())).commit("Lead out");
    let live = hostile.releases();
    assert!(!live.join(".release").is_symlink() && live.join(".release/served.json").exists());
    // And a link that comes later, to facts that are true, when more of them are to be written.
    let facts = hostile.bench.path("facts");
    let program = "#!/bin/sh\ncp -r .release FACTS\nrm -r .release\nln -s FACTS .release\n".replace("FACTS", facts.to_str().unwrap());
    hostile.repo.write_program("forge", program).commit("Lead out later");
    hostile.set("[[hook]]\nbefore = \"switch\"\nrun = [\"./forge\"]\n");
    hostile.fails(&["release", "main"], &["is incomplete"]);
    assert!(facts.join("manifest.json").exists() && !facts.join("served.json").exists());
    hostile
        .repo
        .write_program("forge", "#!/bin/sh\nexit 0\n")
        .write("MANIFEST", "x")
        .write("release/manifest.json", "x")
        .commit("Names like it");
    let live = hostile.releases();
    assert_eq!(fs::read_to_string(live.join("MANIFEST")).unwrap(), "x");
}

#[test]
fn pth_09_static_files_that_lead_outside() {
    let hostile = Hostile::new("pth 09", "");
    hostile.repo.write_program("collect", "#!/bin/sh\n").commit("Collect nothing");
    hostile.set("[[hook]]\nbefore = \"seal\"\nrun = [\"./collect\"]\n");
    hostile.releases();
    // In the commit.
    symlink(hostile.canary(""), hostile.repo.path().join("static")).unwrap();
    hostile.repo.commit("Shipped");
    hostile.fails(&["release", "main"], &["\"static\"", "leads out"]);
    hostile.repo.remove("static");
    // Made while the release is: whoever looks for files afterwards does not follow it, and neither does the seal that takes write bits away.
    let canary = hostile.canary("");
    let program = format!("#!/bin/sh\nln -s {} static\nln -s {} secret\n", canary.display(), hostile.canary("inner/secret").display());
    hostile.repo.write_program("collect", program).commit("Made");
    hostile.set("read_only = true\n[[hook]]\nbefore = \"seal\"\nrun = [\"./collect\"]\n");
    let live = hostile.releases();
    let listed = fs::read_to_string(live.join(".release/files")).unwrap();
    assert!(listed.contains("static") && !listed.contains("static/") && live.join("static").is_symlink(), "{listed:?}");
    let mode = fs::metadata(live.join("page.html")).unwrap().permissions().mode();
    assert_eq!(mode & 0o222, 0, "the tree was to lose its write bits");
    // And it goes with the release, alone.
    hostile.repo.write_program("collect", "#!/bin/sh\nmkdir static\ntouch static/site.css\n").commit("Harmless");
    hostile.releases();
    hostile.releases();
    hostile.set("keep_releases = 1\n[[hook]]\nbefore = \"seal\"\nrun = [\"./collect\"]\n");
    hostile.passes(&["prune"]);
    assert!(!live.exists() && hostile.canary("inner/secret").exists());
}

#[test]
fn pth_10_a_shared_directory_that_is_exchanged() {
    let bench = Bench::new("pth 10");
    fs::create_dir_all(bench.path("apps/plain/shared/media")).unwrap();
    bench.write("apps/plain/shared/media/upload", "upload");
    let hooks = "[[hook]]\nafter = \"link-shared\"\nrun = [\"./exchange\"]\n[[hook]]\nbefore = \"switch\"\nrun = [\"./fail\"]\n";
    let more = format!("keep_releases = 1\n[shared]\ndirs = [\"media\"]\n{hooks}");
    bench.write("repos/plain/exchange", "#!/bin/sh\n");
    bench.write("repos/plain/fail", "#!/bin/sh\n");
    for program in ["exchange", "fail"] {
        fs::set_permissions(bench.path("repos/plain").join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let hostile = Hostile::on(bench, &more);
    let upload = hostile.bench.path("apps/plain/shared/media/upload");
    // The link in the release, and then the directory itself, lead to the canary tree when the release is taken back.
    for exchange in [
        format!("rm media; ln -s {} media", hostile.canary("").display()),
        format!("rm media; mkdir media; ln -s {} media/inner", hostile.canary("").display()),
        format!("mv ../../shared/media ../../shared/former; ln -s {} ../../shared/media", hostile.canary("").display()),
    ] {
        hostile
            .repo
            .write_program("exchange", format!("#!/bin/sh\n{exchange}\n"))
            .write_program("fail", "#!/bin/sh\nexit 1\n")
            .commit("Exchange");
        hostile.fails(&["release", "main"], &["hook"]);
        if exchange.contains("former") {
            let shared = hostile.bench.path("apps/plain/shared");
            assert!(shared.join("media").is_symlink(), "nothing was exchanged");
            fs::remove_file(shared.join("media")).unwrap();
            fs::rename(shared.join("former"), shared.join("media")).unwrap();
        }
        assert_eq!(fs::read_to_string(&upload).unwrap(), "upload");
    }
    // A release that has done so and serves is pruned like any.
    hostile
        .repo
        .write_program("exchange", format!("#!/bin/sh\nrm media; ln -s {} media\n", hostile.canary("").display()))
        .write_program("fail", "#!/bin/sh\n")
        .commit("Exchange and serve");
    let live = hostile.releases();
    assert_eq!(fs::read_link(live.join("media")).unwrap(), hostile.canary(""));
    hostile.repo.write_program("exchange", "#!/bin/sh\n").commit("Harmless");
    hostile.releases();
    let live = hostile.releases();
    hostile.passes(&["prune"]);
    assert_eq!(fs::read_to_string(live.join("media/upload")).unwrap(), "upload");
}

/// Something else stands where the link was, when the run comes to the switch: it is not replaced, and what it holds or leads to is not touched.
#[track_caller]
fn another_link(name: &str, exchange: &str, parts: &[&str]) {
    let hostile = Hostile::new(name, "");
    hostile.repo.write_program("exchange", "#!/bin/sh\n").commit("Harmless");
    hostile.set("[[hook]]\nbefore = \"switch\"\nrun = [\"./exchange\"]\n");
    let former = hostile.releases();
    let root = hostile.bench.root_of("plain");
    let link = root.join("app");
    let exchange = exchange.replace("APP", link.to_str().unwrap()).replace("CANARY", hostile.canary("").to_str().unwrap());
    hostile.repo.write_program("exchange", format!("#!/bin/sh\n{exchange}\n")).commit("Exchange");
    let done = hostile.bench.ctl(["release", "main"]);
    assert_ne!(done.code, 0, "{}", done.stdout);
    let done = done.says(parts);
    assert!(!done.stderr.contains("panicked") && !hostile.bench.log().contains("panicked"));
    let is_link = fs::read_link(&link).is_ok_and(|target| target.parent() == Some(Path::new("releases")));
    assert!(!is_link, "it was replaced by a link");
    // Whatever asks afterwards is told so, too, and the next release begins with the hint.
    hostile.bench.ctl(["doctor"]).expect(1).says(&["app", "move"]);
    hostile.bench.ctl(["status"]);
    // Moved away as the hint says, all is as it was.
    fs::rename(&link, hostile.bench.path("moved")).unwrap();
    symlink(Path::new("releases").join(former.file_name().unwrap()), &link).unwrap();
    hostile.bench.ctl(["activate", former.file_name().unwrap().to_str().unwrap()]).expect(0);
    hostile.holds();
    hostile.repo.write_program("exchange", "#!/bin/sh\n").commit("Harmless again");
    hostile.releases();
}

#[test]
fn pth_11_a_directory_where_the_link_was() {
    another_link("pth 11", "rm APP; mkdir APP; echo precious >APP/page.html", &["plain/app", "is no link", "move"]);
    another_link("pth 11, a file", "rm APP; echo precious >APP", &["plain/app", "is no link", "move"]);
}

#[test]
fn pth_12_a_link_that_leads_outside() {
    another_link("pth 12", "rm APP; ln -s CANARY APP", &["plain/app", "is a link to", "move"]);
    another_link("pth 12, by steps", "rm APP; ln -s releases/../../../canary APP", &["plain/app", "is a link to", "move"]);
}

#[test]
fn pth_13_releases_that_are_a_link() {
    let hostile = Hostile::new("pth 13", "");
    hostile.repo.write_program("exchange", "#!/bin/sh\n").commit("Harmless");
    hostile.set("keep_releases = 1\n[[hook]]\nafter = \"checkout\"\nrun = [\"./exchange\"]\n");
    hostile.releases();
    let releases = hostile.bench.path("apps/plain/releases");
    let elsewhere = hostile.bench.path("elsewhere");
    fs::create_dir_all(elsewhere.join("2026-01-01-00-00-00-1a2b3c4d5e6f")).unwrap();
    fs::write(elsewhere.join("2026-01-01-00-00-00-1a2b3c4d5e6f/precious"), "precious").unwrap();
    // Mid-run: everything that is written or removed afterwards would be so elsewhere.
    let program = format!("#!/bin/sh\nmv {r} {r}.kept\nln -s {} {r}\n", elsewhere.display(), r = releases.display());
    hostile.repo.write_program("exchange", program).commit("Exchange");
    let done = hostile.bench.ctl(["release", "main"]);
    assert_ne!(done.code, 0, "{}", done.stdout);
    assert!(done.stderr.contains("releases") && !hostile.bench.log().contains("panicked"), "{}", done.stderr);
    assert!(releases.is_symlink(), "nothing was exchanged");
    for verb in ["prune", "release"] {
        let done = hostile.bench.ctl(if verb == "prune" { vec!["prune"] } else { vec!["release", "main"] });
        assert_ne!(done.code, 0, "{verb}: {}", done.stdout);
    }
    let names: Vec<_> = fs::read_dir(&elsewhere).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["2026-01-01-00-00-00-1a2b3c4d5e6f"], "something was made or removed elsewhere");
    assert!(elsewhere.join("2026-01-01-00-00-00-1a2b3c4d5e6f/precious").exists());
    // Nor at the start.
    hostile.bench.stop();
    hostile.bench.start_refused().expect(69).says(&["releases", "is a link"]);
    fs::remove_file(&releases).unwrap();
    fs::rename(hostile.bench.path("apps/plain/releases.kept"), &releases).unwrap();
    hostile.bench.start();
    let live = hostile.live();
    hostile.bench.ctl(["activate", live.file_name().unwrap().to_str().unwrap()]).expect(0);
    hostile.repo.write_program("exchange", "#!/bin/sh\n").commit("Harmless again");
    hostile.releases();
    // A root that is reached by a link is no attack: operators have large disks elsewhere.
    hostile.bench.stop();
    let root = hostile.bench.root_of("plain");
    fs::rename(&root, hostile.bench.path("large-disk")).unwrap();
    symlink(hostile.bench.path("large-disk"), &root).unwrap();
    hostile.bench.start();
    hostile.repo.write("page.html", "two").commit("Two");
    hostile.releases();
}

#[test]
fn pth_13_environments_that_are_a_link() {
    let hostile = Hostile::new("pth 13, environments", "");
    let environments = hostile.bench.path("apps/plain/environments");
    // What no release uses goes: where this leads, that would be everything.
    fs::create_dir(environments.join("0123abcd")).unwrap();
    hostile.passes(&["prune"]);
    assert!(!environments.join("0123abcd").exists());
    fs::remove_dir(&environments).unwrap();
    symlink(hostile.canary(""), &environments).unwrap();
    let done = hostile.bench.ctl(["prune"]);
    assert!(done.stderr.contains("environments is a link"), "{}", done.stderr);
    hostile.knows(&["environments is a link", "environments/page.html is no environment", "environments/inner is no environment"]);
    hostile.fails(&["release", "main"], &["environments is a link", "put the directory"]);
    fs::remove_file(&environments).unwrap();
    fs::create_dir(&environments).unwrap();
    hostile.knows(&[]);
    hostile.passes(&["release", "main"]);
}

#[test]
fn pth_14_a_hard_link_to_a_file_of_the_agents() {
    let hostile = Hostile::new("pth 14", "");
    hostile.repo.write_program("collect", "#!/bin/sh\n").commit("Harmless");
    hostile.set("read_only = true\n[[hook]]\nbefore = \"seal\"\nrun = [\"./collect\"]\n");
    hostile.releases();
    let trusted = hostile.bench.write("config/allowed_signers", "# nobody\n");
    fs::set_permissions(&trusted, fs::Permissions::from_mode(0o600)).unwrap();
    let program =
        format!("#!/bin/sh\nln {} signers\nln {} .env\n", trusted.display(), hostile.bench.path("config/apps/plain.toml").display());
    hostile.repo.write_program("collect", program).commit("Link");
    let live = hostile.releases();
    assert_eq!(fs::metadata(&trusted).unwrap().nlink(), 2, "nothing was linked");
    // The seal takes write bits away by name; a file that has another name elsewhere keeps its own.
    assert_eq!(fs::metadata(&trusted).unwrap().permissions().mode() & 0o777, 0o600, "the mode of the agent's file was changed");
    assert_eq!(fs::metadata(live.join("page.html")).unwrap().permissions().mode() & 0o222, 0);
    // It goes with its release: the name, and not the file.
    hostile.repo.write_program("collect", "#!/bin/sh\ncp page.html copy\nln copy again\n").commit("A link within");
    let within = hostile.releases();
    assert_eq!(fs::metadata(within.join("copy")).unwrap().nlink(), 2);
    hostile.releases();
    hostile.set("keep_releases = 1\n");
    hostile.passes(&["prune"]);
    assert!(!live.exists());
    assert_eq!(fs::read_to_string(&trusted).unwrap(), "# nobody\n");
    assert_eq!(fs::metadata(&trusted).unwrap().nlink(), 1);
}

#[test]
fn pth_15_apps_whose_names_look_alike() {
    let hostile = Hostile::new("pth 15", "");
    let text = fs::read_to_string(hostile.bench.path("config/apps/plain.toml")).unwrap();
    let gone = |file: PathBuf| {
        fs::remove_file(file).unwrap();
        wait_until("the agent is content", Duration::from_secs(20), || {
            hostile.bench.ask_json("/v1/apps")["complaints"].as_array().unwrap().is_empty()
        });
    };
    for name in ["Plain", "PLAIN", "plain ", "plaın", "plain.bak", "plain\u{200b}", "-plain"] {
        let file = hostile.bench.write(format!("config/apps/{name}.toml"), &text);
        hostile.bench.reload();
        hostile.bench.ctl(["--app", "plain", "doctor"]).expect(1).says(&["named like its app"]);
        hostile.passes(&["--app", "plain", "release", "main"]);
        let answer = hostile.asks("release", &json!({ "app": name, "ref": "main" }));
        assert!((400..500).contains(&answer.status), "{name:?}: {} {}", answer.status, answer.body);
        gone(file);
    }
    // Another name, and the same root.
    let file = hostile.bench.write("config/apps/second.toml", &text);
    hostile.bench.reload();
    hostile.bench.ctl(["--app", "plain", "doctor"]).expect(1).says(&["root of the app"]);
    gone(file);
    hostile.bench.app("plain-2", &hostile.settings("")).reload();
    hostile.passes(&["--app", "plain-2", "release", "main"]);
}

#[test]
fn pth_16_a_release_that_is_exchanged_while_it_is_removed() {
    let hostile = Hostile::new("pth 16", "keep_releases = 1\n");
    for number in 0..3 {
        hostile.repo.write("page.html", number.to_string());
        for file in 0..60 {
            hostile.repo.write(&format!("d{file}/e/file"), "x");
        }
        hostile.repo.commit("More");
        hostile.set("keep_releases = 20\n");
        hostile.releases();
    }
    // While the agent removes what is old, every directory of it is exchanged, again and again, for a link to the canary tree.
    let releases = hostile.bench.path("apps/plain/releases");
    let (canary, live) = (hostile.canary(""), hostile.live());
    let (over, exchanged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let kept = hostile.bench.releases("plain").into_iter().rev().take(2).collect::<Vec<_>>();
    let exchanger = std::thread::spawn({
        let (over, exchanged) = (over.clone(), exchanged.clone());
        move || {
            let mut number = 0;
            while !over.load(Ordering::Acquire) {
                for entry in fs::read_dir(&releases).into_iter().flatten().flatten() {
                    if kept.iter().any(|name| entry.file_name() == name.as_str()) {
                        continue;
                    }
                    for inner in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                        number += 1;
                        let aside = releases.join(format!(".trash-aside-{number}"));
                        if inner.path().is_dir() && !inner.path().is_symlink() && fs::rename(inner.path(), &aside).is_ok() {
                            let linked = symlink(&canary, inner.path()).is_ok();
                            exchanged.fetch_or(linked, Ordering::AcqRel);
                        }
                    }
                }
            }
        }
    });
    wait_until("the exchange is under way", Duration::from_secs(20), || exchanged.load(Ordering::Acquire));
    hostile.set("keep_releases = 1\n");
    let done = hostile.bench.ctl(["prune"]);
    over.store(true, Ordering::Release);
    exchanger.join().unwrap();
    assert!(!hostile.bench.log().contains("panicked"), "{}", done.stderr);
    assert_eq!(hostile.live(), live);
    assert_eq!(fs::read_to_string(hostile.canary("inner/secret")).unwrap(), "canary");
    // A whole release that is a link to elsewhere is no release.
    let name = "2020-01-01-00-00-00-1a2b3c4d5e6f";
    symlink(hostile.canary(""), hostile.bench.path("apps/plain/releases").join(name)).unwrap();
    hostile.bench.ctl(["prune"]).expect(0);
    hostile.bench.ctl(["activate", name]).expect(2);
    let _ = fs::remove_file(hostile.bench.path("apps/plain/releases").join(name));
    hostile.bench.stop();
    hostile.bench.start();
    hostile.passes(&["prune"]);
    hostile.repo.write("page.html", "last").commit("Last");
    hostile.releases();
}
