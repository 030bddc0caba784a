//! What a repository may hold, and what may be asked of it: each case shows that the attack works on a git that nobody holds, that here it fails its
//! own release at the most, and that the same thing in a harmless form passes.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the way to fail")]

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use agent_tests::{Bench, Hostile, Repo, is_root};
use serde_json::json;

/// Runs git in a repository with something to read, and past all of its own checks.
fn git_with(repo: &Repo, input: &[u8], args: &[&str]) -> String {
    use std::io::Write;
    let mut git = Command::new("git");
    git.arg("-C").arg(repo.path()).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = git.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "git {args:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A tree of any entries at all: `(mode, name, id)`, in the order given.
fn tree(repo: &Repo, entries: &[(&str, &[u8], &str)]) -> String {
    let mut raw = Vec::new();
    for (mode, name, id) in entries {
        raw.extend_from_slice(mode.as_bytes());
        raw.push(b' ');
        raw.extend_from_slice(name);
        raw.push(0);
        raw.extend((0..20).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).unwrap()));
    }
    git_with(repo, &raw, &["hash-object", "-t", "tree", "-w", "--stdin", "--literally"])
}

/// Puts a commit of a tree on `main`, whatever the tree holds.
fn commit_tree(repo: &Repo, tree: &str) -> String {
    let commit = repo.git(["commit-tree", "-m", "Made by hand", "-p", "HEAD", tree]);
    repo.git(["update-ref", "refs/heads/main", &commit]);
    commit
}

fn blob(repo: &Repo, bytes: &[u8]) -> String {
    git_with(repo, bytes, &["hash-object", "-w", "--stdin"])
}

/// A program that leaves a trace when it runs.
fn leaves(trace: &Path) -> String {
    format!("#!/bin/sh\ntouch {}\nexit 0\n", trace.display())
}

fn program(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn git_01_a_ref_that_is_an_option() {
    let hostile = Hostile::new("git 01", "");
    let trace = hostile.bench.path("trace");
    let option = format!("--upload-pack=touch {};:", trace.display());
    let at = hostile.repo.path().to_str().unwrap();
    hostile.beside(&["git", "-C", at, "fetch", at, &option], &[]);
    assert!(trace.exists(), "a bare `git fetch URL REF` runs the option's command");
    fs::remove_file(&trace).unwrap();
    for option in [option.as_str(), "-x", "--all", "--", "-oProxyCommand=x"] {
        hostile.fails_with(&["release", "--", option], 2, &[]);
        hostile.refuses("release", &json!({ "ref": option }));
        hostile.refuses("release", &json!({ "commit": option }));
    }
    assert!(!trace.exists());
    // Hyphens elsewhere are nothing special.
    hostile.repo.git(["branch", "v-x--upload-pack"]);
    hostile.passes(&["release", "v-x--upload-pack"]);
}

#[test]
fn git_02_a_ref_that_is_more_than_a_name() {
    let hostile = Hostile::new("git 02", "");
    for wrong in [
        "main\nmain",
        "main\rx",
        "a..b",
        "main@{1}",
        "@{-1}",
        "main:page.html",
        ":/Good",
        "main^",
        "main^{tree}",
        "main~1",
        "a b",
        "x.lock",
        "a//b",
        "/main",
        "main/",
        ".main",
        "a/.b",
        "main.",
        "@",
        "a\\b",
        "a*",
        "a?",
        "a[b",
        "main\u{7f}",
        "\u{0}",
        "refs/heads/",
        "",
    ] {
        hostile.refuses("release", &json!({ "ref": wrong }));
        if !wrong.contains('\0') {
            hostile.fails_with(&["release", "--", wrong], 2, &[]);
        }
    }
    // Words that only look like those.
    for right in ["v.lockx", "v-a@b", "v/a.b", "v{x}", "vä"] {
        hostile.repo.git(["branch", right]);
        hostile.passes(&["release", right]);
    }
}

#[test]
fn git_03_a_branch_whose_name_is_an_option() {
    let hostile = Hostile::new("git 03", "");
    let trace = hostile.bench.path("trace");
    // git itself lets such a ref exist.
    let names = ["refs/heads/-oProxyCommand=x".to_owned(), format!("refs/heads/v1/--upload-pack=touch${{IFS}}{}", trace.display())];
    for name in &names {
        hostile.repo.git(["update-ref", name, "HEAD"]);
        hostile.fails_with(&["release", "--", name], 2, &["hyphen"]);
        hostile.refuses("release", &json!({ "ref": name }));
    }
    assert!(hostile.repo.git(["for-each-ref", "--format=%(refname)"]).contains("-oProxyCommand"));
    // It is there when everything is fetched, and is passed over.
    hostile.bench.app("plain", &format!("repository = {:?}\n", hostile.repo.path())).reload();
    hostile.repo.write("page.html", "two").commit("Two");
    hostile.releases();
    let cached = hostile.beside(&["git", "--git-dir", "apps/plain/git_cache", "for-each-ref"], &[]).expect(0);
    assert!(cached.stdout.contains("refs/heads/main") && !cached.stdout.contains("Proxy"), "{}", cached.stdout);
    assert!(!trace.exists());
    hostile.repo.git(["update-ref", "refs/heads/oProxyCommand=x", "HEAD"]);
    hostile.passes(&["release", "oProxyCommand=x"]);
}

#[test]
fn git_04_a_commit_that_is_not_quite_one() {
    let hostile = Hostile::new("git 04", "");
    let head = hostile.repo.head();
    hostile.repo.git(["tag", "--annotate", "--message", "One", "v1"]);
    let tag = hostile.repo.git(["rev-parse", "v1"]);
    assert_ne!(tag, head);
    for short in [&head[..6], &head[..4]] {
        hostile.fails(&["release", short], &["no branch, tag or commit"]);
    }
    for wrong in
        [head.to_uppercase(), format!("{head}0"), head[..39].to_owned() + "g", tag.clone(), hostile.repo.git(["rev-parse", "HEAD^{tree}"])]
    {
        hostile.fails(&["release", &wrong], &[&wrong]);
    }
    for wrong in [&head[..12], head.to_uppercase().as_str(), &format!("{head}0"), &format!(" {head}"), &format!("{head}^0")] {
        hostile.refuses("release", &json!({ "commit": wrong, "ref": "refs/heads/main" }));
    }
    let answer = hostile.asks("release", &json!({ "commit": tag, "ref": "refs/tags/v1" }));
    assert_eq!(answer.status, 202, "{}", answer.body);
    let run = hostile.bench.last_run()["run"].as_u64().unwrap();
    assert_eq!(hostile.bench.events(run).last().unwrap()["outcome"], "failed", "the id of a tag is not the id of a commit");
    hostile.holds();
    for right in [head.as_str(), &head[..7], "v1"] {
        hostile.passes(&["release", right]);
    }
}

#[test]
fn git_05_a_commit_that_only_a_fork_has() {
    let hostile = Hostile::new("git 05", "");
    // What a forge keeps of a pull request: its commits are in the repository, and on none of its branches.
    let foreign = hostile.repo.branch("fork").write("page.html", "bad").commit("Foreign");
    hostile.repo.git(["update-ref", "refs/pull/1/head", &foreign]);
    hostile.repo.branch("main").git(["branch", "--delete", "--force", "fork"]);
    let at = hostile.repo.path().to_str().unwrap();
    let scratch = hostile.bench.repo("scratch");
    hostile.repo.git(["config", "uploadpack.allowAnySHA1InWant", "true"]);
    scratch.git(["fetch", "--quiet", "--", at, &foreign]);
    scratch.git(["cat-file", "-e", &foreign]);
    hostile.bench.app("plain", &format!("repository = {at:?}\n")).reload();
    hostile.fails(&["release", &foreign], &[&foreign]);
    hostile.fails(&["release", &foreign[..12]], &[&foreign[..12]]);
    // A name without refs/heads/ or refs/tags/ means a branch of that name, and there is none.
    hostile.fails(&["release", "refs/pull/1/head"], &["refs/pull/1/head"]);
    hostile.refuses("release", &json!({ "commit": foreign, "ref": "refs/pull/1/head" }));
    // Merged, it is as good as any.
    hostile.repo.reset(&foreign);
    hostile.passes(&["release", &foreign]);
}

#[test]
fn git_06_a_commit_on_a_branch_that_is_not_allowed() {
    let hostile = Hostile::new("git 06", "");
    let foreign = hostile.repo.branch("attack").write("page.html", "bad").commit("Foreign");
    hostile.fails(&["release", "attack"], &["refs/heads/attack", "allows only refs/heads/main, "]);
    hostile.fails(&["release", &foreign], &[&foreign[..12]]);
    let answer = hostile.asks("release", &json!({ "commit": foreign, "ref": "refs/heads/main" }));
    assert_eq!(answer.status, 202, "{}", answer.body);
    let run = hostile.bench.last_run()["run"].as_u64().unwrap();
    assert_eq!(hostile.bench.events(run).last().unwrap()["outcome"], "failed");
    hostile.holds();
    hostile.repo.branch("main").reset("attack");
    hostile.passes(&["release", &foreign]);
}

#[test]
fn git_07_a_branch_that_moves_while_it_is_fetched() {
    let hostile = Hostile::new("git 07", "");
    let first = hostile.repo.write("page.html", "first").commit("First");
    let second = hostile.repo.reset("HEAD~1").write("page.html", "second").commit("Second");
    hostile.repo.reset(&first);
    // Between the question for the refs and the fetch, the branch is another.
    let at = hostile.repo.path().display();
    let script = format!(
        "#!/bin/sh\nfor arg; do if [ \"$arg\" = fetch ]; then env -i /usr/bin/git -C {at} update-ref refs/heads/main {second}; touch {}; fi; done\n\
         exec /usr/bin/git \"$@\"\n",
        hostile.bench.path("moved").display()
    );
    hostile.bench.pretend("git", &script);
    // The agent looks for git anew for every command.
    hostile.passes(&["release", "main"]);
    assert!(hostile.bench.path("moved").exists(), "the branch did not move");
    let live = hostile.live();
    assert_eq!(fs::read_to_string(live.join("REVISION")).unwrap().trim(), second);
    assert_eq!(fs::read_to_string(live.join("page.html")).unwrap(), "second");
    // The same again, for the commit that the branch has left.
    hostile.repo.git(["update-ref", "refs/heads/main", &first]);
    hostile.fails(&["release", &first], &[&first[..7]]);
    fs::remove_file(hostile.bench.path("bin/git")).unwrap();
    hostile.repo.git(["update-ref", "refs/heads/main", &first]);
    hostile.passes(&["release", &first]);
}

/// Such an address is refused at the start and later, and nothing is run for it.
#[track_caller]
fn refused_addresses(name: &str, addresses: &[(String, &str)], trace: Option<&str>) {
    let hostile = Hostile::new(name, "");
    for (address, says) in addresses {
        let address = address.replace("TRACE", &hostile.bench.path("trace").display().to_string());
        hostile.bench.app("plain", &format!("repository = {address:?}\nallow_local = false\n")).reload();
        hostile.bench.ctl(["doctor"]).expect(1).says(&["plain.toml", says]);
        // The good one is still in force.
        hostile.passes(&["release", "main"]);
        hostile.bench.stop();
        hostile.bench.start_refused().expect(64).says(&["plain.toml", says]);
        assert!(!hostile.bench.path("trace").exists(), "{address} ran something");
        hostile.bench.app("plain", &hostile.settings(""));
        hostile.bench.start();
    }
    if let Some(trace) = trace {
        let trace = trace.replace("TRACE", &hostile.bench.path("trace").display().to_string());
        hostile.beside(&["sh", "-c", &trace], &[]);
        assert!(hostile.bench.path("trace").exists(), "the attack does not work where nobody holds it: {trace}");
    }
    hostile.passes(&["release", "main"]);
}

#[test]
fn git_08_an_address_that_is_a_command() {
    let addresses = [
        ("ext::sh%20-c%20touch%TRACE".into(), "helper program"),
        ("ext::touch".into(), "helper program"),
        ("fd::3".into(), "helper program"),
    ];
    refused_addresses("git 08", &addresses, Some("git -c protocol.ext.allow=always ls-remote 'ext::touch TRACE'"));
}

#[test]
fn git_09_an_address_whose_host_is_an_option() {
    let addresses = [
        ("ssh://-oProxyCommand=touch${IFS}TRACE/x".into(), "begins with a hyphen"),
        ("git@-oProxyCommand=touch:x".into(), "begins with a hyphen"),
        ("-oProxyCommand=id:x".into(), "begins with a hyphen"),
    ];
    // ssh itself takes such a host for an option; the git of today refuses to hand it over.
    refused_addresses("git 09", &addresses, Some("ssh -oProxyCommand='touch TRACE' host"));
}

#[test]
fn git_10_an_address_on_this_host() {
    let bench = Bench::new("git 10");
    let foreign = bench.repo("foreign");
    foreign.write("page.html", "bad").commit("Foreign");
    let at = foreign.path().display().to_string();
    let clone = format!("git clone --quiet {at} TRACE");
    let addresses = [
        (at.clone(), "allow_local"),
        (format!("file://{at}"), "file://"),
        ("/etc/../etc".into(), "\"..\""),
        ("../foreign".into(), "slash"),
    ];
    refused_addresses("git 10", &addresses, Some(&clone));
}

#[test]
fn git_11_a_hook_in_the_cache() {
    let hostile = Hostile::new("git 11", "");
    let cache = hostile.bench.path("apps/plain/git_cache");
    let trace = hostile.bench.path("trace");
    for hook in ["reference-transaction", "post-checkout", "post-index-change", "pre-auto-gc", "post-rewrite", "update"] {
        program(&cache.join("hooks").join(hook), &leaves(&trace));
    }
    hostile.beside(&["git", "--git-dir", cache.to_str().unwrap(), "update-ref", "refs/heads/other", &hostile.repo.head()], &[]).expect(0);
    assert!(trace.exists(), "the hook runs where nobody holds it");
    fs::remove_file(&trace).unwrap();
    hostile.repo.write("page.html", "two").commit("Two");
    hostile.releases();
    hostile.bench.ctl(["plan", "main"]).expect(0);
    assert!(!trace.exists(), "a hook in the cache ran");
}

#[test]
fn git_12_settings_in_the_cache() {
    let hostile = Hostile::new("git 12", "");
    let cache = hostile.bench.path("apps/plain/git_cache");
    let trace = hostile.bench.path("trace");
    let foreign = hostile.bench.repo("foreign");
    foreign.write("page.html", "bad").commit("Foreign");
    hostile.repo.write(".gitattributes", "*.html filter=bad\n").write("page.html", "two").commit("Two");
    let good = fs::read_to_string(cache.join("config")).unwrap();
    let touch = format!("touch {}; cat", trace.display());
    let bad = format!(
        "{good}[core]\n\tsshCommand = {touch:?}\n\tfsmonitor = {touch:?}\n\tpager = {touch:?}\n\thooksPath = {:?}\n[url {:?}]\n\tinsteadOf = {:?}\n\
         [filter \"bad\"]\n\tsmudge = {touch:?}\n\trequired = true\n[alias]\n\tls-tree = {:?}\n[uploadpack]\n\tpackObjectsHook = {touch:?}\n",
        hostile.bench.path("hooks"),
        foreign.path(),
        hostile.repo.path(),
        format!("!{touch}")
    );
    let plant = || fs::write(cache.join("config"), &bad).unwrap();
    plant();
    program(&hostile.bench.path("hooks/reference-transaction"), &leaves(&trace));
    let of_cache = ["git", "--git-dir", cache.to_str().unwrap()];
    let said = hostile.beside(&[&of_cache[..], &["ls-remote", hostile.repo.path().to_str().unwrap()]].concat(), &[]).expect(0);
    assert!(said.stdout.contains(&foreign.head()), "the address is another one where nobody holds it");
    // At every step something could plant it anew.
    let hooks = "[[hook]]\nafter = \"fetch\"\nrun = [\"cp\", \"CONFIG\", \"CACHE/config\"]\n[[hook]]\nbefore = \"fetch\"\nrun = [\"cp\", \"CONFIG\", \"CACHE/config\"]\n";
    let config = hostile.bench.write("planted", &bad);
    hostile.set(&hooks.replace("CONFIG", config.to_str().unwrap()).replace("CACHE", cache.to_str().unwrap()));
    let live = hostile.releases();
    assert_eq!(fs::read_to_string(live.join("page.html")).unwrap(), "two");
    assert!(!trace.exists(), "a setting of the cache ran something");
    // A history that is made up: with it the foreign commit would be an ancestor of main.
    let foreign = hostile.repo.branch("attack").write("page.html", "bad").commit("Foreign");
    hostile.repo.branch("main");
    hostile.beside(
        &[&of_cache[..], &["fetch", "--quiet", hostile.repo.path().to_str().unwrap(), "attack"]].concat(),
        &[("GIT_CONFIG_GLOBAL", "/dev/null")],
    );
    hostile.beside(
        &["git", "-C", hostile.repo.path().to_str().unwrap(), "--git-dir", cache.to_str().unwrap(), "fetch", "--quiet", ".", "attack"],
        &[],
    );
    fs::create_dir_all(cache.join("info")).unwrap();
    fs::write(cache.join("info/grafts"), format!("{} {foreign}\n", hostile.repo.head())).unwrap();
    hostile.set("");
    hostile.fails(&["release", &foreign], &[&foreign[..12]]);
    hostile.passes(&["release", "main"]);
}

#[test]
fn git_13_a_cache_that_belongs_to_somebody_else() {
    if !is_root("that a cache of another user's is not used") {
        return;
    }
    let hostile = Hostile::new("git 13", "");
    let cache = hostile.bench.path("apps/plain/git_cache");
    let own = |user: &str| hostile.beside(&["chown", "--recursive", user, cache.to_str().unwrap()], &[]).expect(0);
    own("daemon");
    hostile.knows(&["belongs to another user than the agent"]);
    hostile.repo.write("page.html", "two").commit("Two");
    hostile.fails(&["release", "main"], &["git_cache", "belongs to", "chown -R"]);
    own("root");
    hostile.knows(&[]);
    hostile.releases();
}

/// Commits a link, which must be refused; and then another, which must not.
#[track_caller]
fn links(name: &str, bad: &[(&str, &str)], parts: &[&str], good: &[(&str, &str)]) {
    let hostile = Hostile::new(name, "");
    let lay = |links: &[(&str, &str)]| {
        for (path, target) in links {
            let place = hostile.repo.path().join(path);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            let target = target.replace("CANARY", &hostile.bench.path("canary").display().to_string());
            symlink(target, place).unwrap();
        }
        hostile.repo.commit("Links");
    };
    for at in 0..bad.len() {
        lay(&bad[at..=at]);
        // Where it lies, it leads to what it should not: a checkout without a look would, too.
        hostile.fails(&["release", "main"], parts);
        hostile.repo.remove(bad[at].0);
    }
    lay(good);
    let live = hostile.releases();
    for (path, target) in good {
        assert_eq!(fs::read_link(live.join(path)).unwrap(), Path::new(target));
    }
}

#[test]
fn git_14_a_link_to_an_absolute_path() {
    let bad = [("static", "CANARY"), ("a/b/passwd", "/etc/passwd"), ("page", "//etc/passwd"), ("root", "/")];
    links(
        "git 14",
        &bad,
        &["leads out of the release"],
        &[("static", "page.html"), ("a/b/page", "../../page.html"), ("later", "not-yet/there")],
    );
}

#[test]
fn git_15_a_link_by_many_steps_up() {
    let bad = [("static", "../../../../canary"), ("a/b/c", "../../../../x"), ("d", "a/../../x"), ("e", "./././../x"), ("f", "..")];
    links("git 15", &bad, &["leads out of the release"], &[("a/up", "../page.html"), ("a/here", "."), ("g", "a/../page.html")]);
    // Through other links, each of which stays within.
    let hostile = Hostile::new("git 15, by others", "");
    fs::create_dir_all(hostile.repo.path().join("deep/er")).unwrap();
    hostile.repo.write("deep/er/file", "x");
    symlink("deep/er", hostile.repo.path().join("jump")).unwrap();
    symlink("jump/../../canary", hostile.repo.path().join("out")).unwrap();
    symlink("jump/../../../x", hostile.repo.path().join("far")).unwrap();
    hostile.repo.commit("By others");
    hostile.fails(&["release", "main"], &["leads out of the release"]);
    hostile.repo.remove("far").commit("Without the one that leads out");
    hostile.releases();
}

#[test]
fn git_16_a_directory_where_a_link_was() {
    let hostile = Hostile::new("git 16", "");
    // From commit to commit: each is written on its own.
    symlink(".", hostile.repo.path().join("a")).unwrap();
    hostile.repo.commit("A link");
    hostile.releases();
    hostile.repo.remove("a").write("a/page.html", "in a directory").commit("A directory");
    let live = hostile.releases();
    assert_eq!(fs::read_to_string(live.join("a/page.html")).unwrap(), "in a directory");
    assert_eq!(fs::read_to_string(live.join("page.html")).unwrap(), "good");
    // In one commit, both under one name: what is written into the directory would go through the link.
    let target = blob(&hostile.repo, hostile.bench.path("canary").to_str().unwrap().as_bytes());
    let inner = tree(&hostile.repo, &[("100644", b"page.html", &blob(&hostile.repo, b"bad"))]);
    let here = blob(&hostile.repo, b".");
    for target in [&target, &here] {
        let both = tree(&hostile.repo, &[("120000", b"a", target), ("40000", b"a", &inner)]);
        commit_tree(&hostile.repo, &both);
        hostile.fails(&["release", "main"], &[]);
    }
    hostile.repo.git(["update-ref", "refs/heads/main", &hostile.repo.id("main~2")]);
    hostile.repo.reset("main").write("page.html", "three").commit("Three");
    hostile.releases();
}

#[test]
fn git_17_submodules_with_odd_paths_and_hooks() {
    let hostile = Hostile::new("git 17", "");
    let inner = hostile.bench.repo("inner");
    inner.write("payload", "payload").commit("Payload");
    let trace = hostile.bench.path("trace");
    inner.write_program("hooks/post-checkout", leaves(&trace)).commit("Hooks");
    let modules = |path: &str| format!("[submodule \"sub\"]\n\tpath = {path}\n\turl = {}\n", inner.path().display());
    for path in ["\"sub\\r\"", "sub", "../../canary", ".git/hooks"] {
        hostile.repo.write(".gitmodules", modules(path));
        hostile.repo.git(["update-index", "--add", "--cacheinfo", &format!("160000,{},sub\r", inner.head())]);
        hostile.repo.git(["add", ".gitmodules"]);
        hostile.repo.git(["commit", "--quiet", "--message", "A submodule"]);
        hostile.set("");
        hostile.fails(&["release", "main"], &[]);
        assert!(!trace.exists());
    }
    // Where their directories may stay empty, they do: nothing is fetched for them.
    hostile.repo.git(["rm", "--quiet", "--cached", "sub\r"]);
    hostile.repo.write(".gitmodules", modules("sub"));
    hostile.repo.git(["update-index", "--add", "--cacheinfo", &format!("160000,{},sub", inner.head())]);
    hostile.repo.git(["add", ".gitmodules"]);
    hostile.repo.git(["commit", "--quiet", "--message", "A plain submodule"]);
    let clone = ["git", "-c", "protocol.file.allow=always", "clone", "--quiet", "--recurse-submodules", "repos/plain", "clone"];
    hostile.beside(&clone, &[]);
    assert!(hostile.bench.path("clone/sub/payload").exists(), "a clone that recurses has the submodule");
    hostile.fails(&["release", "main"], &["submodule"]);
    hostile.set("submodules = \"ignore\"");
    let live = hostile.releases();
    assert!(!live.join("sub/payload").exists() && !trace.exists());
}

#[test]
fn git_18_attributes_that_ask_for_filters() {
    let bench = Bench::new("git 18");
    let trace = bench.path("trace");
    // What a person's own configuration may well have: git-lfs is such a filter.
    let filter = format!("[filter \"bad\"]\n\tsmudge = \"touch {}; cat\"\n\tprocess = \"touch {}\"\n", trace.display(), trace.display());
    bench.write("home/.gitconfig", &filter);
    bench.variable("HOME", bench.path("home").to_str().unwrap());
    let hostile = Hostile::on(bench, "");
    hostile
        .repo
        .write(".gitattributes", "*.txt filter=bad\nkept export-ignore\nsubst export-subst\n*.sh diff=bad merge=bad\n")
        .write("a.txt", "a")
        .write("kept", "kept")
        .write("subst", "$Format:%H$")
        .commit("Attributes");
    hostile.beside(&["git", "clone", "--quiet", "repos/plain", "clone"], &[]);
    assert!(trace.exists(), "a clone of a person's runs the filter");
    fs::remove_file(&trace).unwrap();
    let live = hostile.releases();
    assert!(!trace.exists(), "a filter ran");
    assert_eq!(fs::read_to_string(live.join("a.txt")).unwrap(), "a");
    assert_eq!(fs::read_to_string(live.join("kept")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(live.join("subst")).unwrap(), "$Format:%H$");
}

#[test]
fn git_19_a_tree_with_a_repository_in_it() {
    let hostile = Hostile::new("git 19", "");
    let config = blob(&hostile.repo, b"[core]\n\tbare = false\n\tfsmonitor = touch /tmp/x\n");
    let link = blob(&hostile.repo, b"gitdir: ../../git_cache\n");
    let dir = tree(&hostile.repo, &[("100644", b"config", &config)]);
    for name in [".git", ".GIT", ".giT", "git~1"] {
        for entry in [("100644", name.as_bytes(), link.as_str()), ("40000", name.as_bytes(), dir.as_str())] {
            let whole = tree(&hostile.repo, &[entry]);
            commit_tree(&hostile.repo, &whole);
            hostile.fails(&["release", "main"], &["cannot fetch"]);
            let below = tree(&hostile.repo, &[("40000", b"sub", &whole)]);
            commit_tree(&hostile.repo, &below);
            hostile.fails(&["release", "main"], &["cannot fetch"]);
        }
    }
    hostile.repo.git(["update-ref", "refs/heads/main", &hostile.repo.id(&format!("main~{}", 16))]);
    hostile.repo.git(["reset", "--quiet", "--hard", "main"]);
    hostile.repo.write(".gitignore", "x\n").write(".github/workflows/ci.yml", "x").write("git", "x").commit("Only names like it");
    let live = hostile.releases();
    assert!(live.join(".github/workflows/ci.yml").exists() && !live.join(".git").exists());
}

#[test]
fn git_20_names_of_every_kind() {
    let hostile = Hostile::new("git 20", "");
    let long = "l".repeat(255);
    let odd: Vec<&[u8]> = vec![
        b"new\nline",
        b"caf\xe9\xff",
        b"tab\tbell\x07",
        b"\x1b[2Jclear",
        b"-rf",
        b"MANIFEST",
        b"manifest.json",
        b" ",
        b"~",
        b"$(touch x)",
        b"a\\b",
        long.as_bytes(),
        b"REVISION\n",
        ".rele\u{200d}ase".as_bytes(),
    ];
    for name in &odd {
        fs::write(hostile.repo.path().join(OsStr::from_bytes(name)), name).unwrap();
    }
    hostile.repo.commit("\u{1b}[31mred\u{1b}[0m \u{7}");
    let live = hostile.releases();
    for name in &odd {
        assert_eq!(fs::read(live.join(OsStr::from_bytes(name))).unwrap(), *name);
    }
    assert!(!live.join("x").exists());
    let said = hostile.bench.ctl(["list"]).expect(0);
    assert!(!said.stdout.contains('\u{1b}') && !said.stdout.contains('\u{7}'), "{:?}", said.stdout);
    // What the agent's own would lie on, in every kind.
    let head = hostile.repo.head();
    let text = blob(&hostile.repo, b"{}");
    let dir = tree(&hostile.repo, &[("100644", b"manifest.json", &text)]);
    let dot = blob(&hostile.repo, b".");
    for entry in [("100644", text.as_str()), ("40000", &dir), ("120000", &dot), ("160000", &head)] {
        hostile.set("submodules = \"ignore\"");
        commit_tree(&hostile.repo, &tree(&hostile.repo, &[(entry.0, b".release", entry.1)]));
        hostile.fails(&["release", "main"], &[".release", "rename it"]);
    }
    // REVISION gives way, whatever it is.
    for entry in [("40000", dir.as_str()), ("120000", &dot), ("160000", &head)] {
        commit_tree(&hostile.repo, &tree(&hostile.repo, &[(entry.0, b"REVISION", entry.1), ("100644", b"page.html", &text)]));
        hostile.passes(&["release", "main"]);
        assert_eq!(fs::read_to_string(hostile.live().join("REVISION")).unwrap().trim(), hostile.repo.id("main"));
    }
    // One byte too many for any file system.
    commit_tree(&hostile.repo, &tree(&hostile.repo, &[("100644", "l".repeat(256).as_bytes(), &text)]));
    hostile.fails(&["release", "main"], &[]);
}

#[test]
fn git_21_a_tree_without_end() {
    let hostile = Hostile::new("git 21", "[limits]\nfiles = 2000\nbytes = \"1 MiB\"\n");
    let text = blob(&hostile.repo, b"x");
    // A few objects that unfold to ten to the eighth files.
    let names: Vec<Vec<u8>> = (0..10).map(|at| format!("f{at}").into_bytes()).collect();
    let mut level = tree(&hostile.repo, &names.iter().map(|name| ("100644", name.as_slice(), text.as_str())).collect::<Vec<_>>());
    for _ in 0..7 {
        level = tree(&hostile.repo, &names.iter().map(|name| ("40000", name.as_slice(), level.as_str())).collect::<Vec<_>>());
    }
    commit_tree(&hostile.repo, &level);
    let begun = std::time::Instant::now();
    hostile.fails(&["release", "main"], &["limits.files"]);
    assert!(begun.elapsed().as_secs() < 20, "it was read to its end");
    // One large file, named often.
    hostile.repo.git(["update-ref", "refs/heads/main", "main~1"]);
    let large = blob(&hostile.repo, &vec![0; 900_000]);
    commit_tree(&hostile.repo, &tree(&hostile.repo, &[("100644", b"a", &large), ("100644", b"b", &large)]));
    hostile.fails(&["release", "main"], &["limits.bytes"]);
    // Deeper than a path may be long.
    hostile.repo.git(["update-ref", "refs/heads/main", "main~1"]);
    let mut deep = tree(&hostile.repo, &[("100644", b"f", &text)]);
    let mut moderate = String::new();
    for at in 0..1500 {
        deep = tree_fast(&hostile.repo, &deep);
        if at == 50 {
            moderate.clone_from(&deep);
        }
    }
    commit_tree(&hostile.repo, &deep);
    hostile.fails(&["release", "main"], &[]);
    hostile.repo.git(["update-ref", "refs/heads/main", "main~1"]);
    commit_tree(&hostile.repo, &moderate);
    hostile.passes(&["release", "main"]);
}

/// A tree with one directory in it, whose name is three letters: written without starting git.
fn tree_fast(repo: &Repo, inner: &str) -> String {
    tree(repo, &[("40000", b"ddd", inner)])
}

#[test]
fn git_22_objects_that_are_broken_or_elsewhere() {
    let hostile = Hostile::new("git 22", "");
    let object = |id: &str| hostile.repo.path().join(".git/objects").join(&id[..2]).join(&id[2..]);
    // A blob that is gone, and one whose bytes are others.
    hostile.repo.write("page.html", "two").commit("Two");
    let id = hostile.repo.git(["rev-parse", "HEAD:page.html"]);
    let whole = fs::read(object(&id)).unwrap();
    fs::remove_file(object(&id)).unwrap();
    hostile.fails(&["release", "main"], &["cannot fetch"]);
    let other = fs::read(object(&blob(&hostile.repo, b"bad"))).unwrap();
    fs::write(object(&id), &other).unwrap();
    hostile.fails(&["release", "main"], &["cannot fetch"]);
    fs::write(object(&id), &whole[..whole.len() / 2]).unwrap();
    hostile.fails(&["release", "main"], &["cannot fetch"]);
    fs::write(object(&id), &whole).unwrap();
    // An offer to get the objects elsewhere.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/bundle", listener.local_addr().unwrap());
    for (name, value) in
        [("uploadpack.advertiseBundleURIs", "true"), ("bundle.version", "1"), ("bundle.mode", "all"), ("bundle.a.uri", url.as_str())]
    {
        hostile.repo.git(["config", name, value]);
    }
    let live = hostile.releases();
    assert_eq!(fs::read_to_string(live.join("page.html")).unwrap(), "two");
    fs::remove_dir_all(hostile.bench.path("apps/plain/git_cache")).unwrap();
    hostile.passes(&["release", "main"]);
    assert!(listener.accept().is_err(), "the offer was taken");
    let clone =
        ["timeout", "5", "git", "-c", "transfer.bundleURI=true", "-c", "protocol.version=2", "clone", "--quiet", "file://REPO", "clone"];
    let clone: Vec<String> = clone.iter().map(|word| word.replace("REPO", hostile.repo.path().to_str().unwrap())).collect();
    hostile.beside(&clone.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    assert!(listener.accept().is_ok(), "a git that is told to takes the offer");
    // Bytes of a pack in the cache that are others: what is released is what the commit says, or nothing.
    hostile.repo.write("page.html", "three").commit("Three");
    hostile.releases();
}
