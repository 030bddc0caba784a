//! The interpreter of a release belongs to the host, which may be upgraded below it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use agent_tests::Bench;

#[test]
fn a_release_whose_interpreter_is_gone_is_told_before_anybody_goes_back_to_it() {
    let bench = Bench::new("interpreter-gone");
    let repo = bench.repo("shop");
    repo.write("requirements.txt", "six==1.16.0\n").commit("One");
    // An interpreter that can be taken away: a copy of the host's.
    let (first, second) = (bench.path("one/python3"), bench.path("two/python3"));
    for copy in [&first, &second] {
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(fs::canonicalize("/usr/bin/python3").unwrap(), copy).unwrap();
    }
    let app = |interpreter: &std::path::Path| {
        let toml = format!(
            "repository = {:?}\nallow_local = true\nrefs = [\"refs/heads/main\"]\n[python]\ninterpreter = {interpreter:?}\n",
            repo.path()
        );
        bench.app("shop", &toml);
    };
    app(&first);
    bench.start();
    bench.ctl(["release", "main"]).expect(0);
    let old = bench.live("shop").unwrap();
    repo.write("requirements.txt", "six==1.17.0\n").commit("Two");
    app(&second);
    bench.reload();
    bench.ctl(["release", "main"]).expect(0);
    let live = bench.live("shop").unwrap();

    bench.ctl(["doctor"]).says(&[&format!("{} is Python 3", second.display())]);
    fs::remove_file(&first).unwrap();
    let gone = format!("the interpreter of the previous release {old}, {}, is gone", first.display());
    bench.ctl(["doctor"]).expect(1).says(&[&gone, "agentctl release REF --rebuild"]);
    let words = format!("the interpreter of {old}, {}, is not on this host any more", first.display());
    bench.ctl(["rollback"]).expect(1).says(&[&words, "install it again, or make the commit anew"]);
    assert_eq!(bench.live("shop"), Some(live));
}

#[test]
fn the_installer_that_all_apps_share_is_used_where_only_the_agents_user_could_have_put_it_there() {
    let bench = Bench::new("shared-installer");
    let cache = bench.path("cache");
    bench.variable("RELEASE_AGENT_CACHE", cache.to_str().unwrap()).variable("PATH", "/usr/bin:/bin");
    let fetch = || bench.agent(["--fetch-installer"]);
    let said = fetch().expect(0).stderr;
    assert!(said.starts_with("uv ") && said.contains(&format!(" is at {}", cache.display())), "{said}");
    let program = said.trim().rsplit_once(" is at ").unwrap().1.to_owned();
    let fetched = fs::metadata(&program).unwrap().modified().unwrap();
    // It is there, so no index is asked.
    assert_eq!(fetch().expect(0).stderr, said);
    assert_eq!(fs::metadata(&program).unwrap().modified().unwrap(), fetched);

    let repo = bench.repo("shop");
    repo.write("requirements.txt", "six==1.16.0\n").commit("One");
    let toml = format!("repository = {:?}\nallow_local = true\nrefs = [\"refs/heads/main\"]\n[python]\n", repo.path());
    bench.app("shop", &toml).start();
    bench.ctl(["release", "main"]).expect(0);
    bench.ctl(["doctor"]).says(&[&program]);
    let of_app = bench.root_of("shop").join(".agent/caches/agent-uv");
    assert!(!of_app.exists(), "the app has fetched one of its own into {}", of_app.display());

    // What others could have changed installs nothing.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
    bench.ctl(["doctor"]).says(&["the first release that builds an environment fetches it"]);
    assert_eq!(fetch().expect(0).stderr, said);
    assert_eq!(fs::metadata(&program).unwrap().mode() & 0o777, 0o755, "it was fetched again");
    bench.ctl(["doctor"]).says(&[&format!("the agent's own {}", &said[..said.find(" is at ").unwrap()])]);
}
