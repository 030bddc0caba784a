use super::*;

fn app(name: &str) -> AppName {
    name.parse().unwrap()
}

#[test]
fn the_file_is_toml_with_the_apps_own_names_in_it() {
    let text = filled(&app("web"), r#"https://example.com/a "b"\c.git"#, RunBy::Agent);
    let file: toml::Table = text.parse().unwrap();
    assert_eq!(file["repository"].as_str(), Some(r#"https://example.com/a "b"\c.git"#));
    assert_eq!(file["restart"]["strategy"].as_str(), Some("handover"));
    assert_eq!(file["restart"]["unit"].as_str(), Some("web@.service"));
    assert!(!text.contains("shop"), "{text}");
}

/// Uncommenting a line of the template must not expose a mistake of ours.
#[test]
fn what_is_commented_out_is_toml_as_well() {
    let lines = [RunBy::Agent, RunBy::Units].map(|run_by| filled(&app("shop"), "git@example.com:shop.git", run_by));
    lines.iter().for_each(|lines| is_toml_without_its_comments(lines));
}

fn is_toml_without_its_comments(lines: &str) {
    let uncommented: String = lines
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.starts_with('[') || setting.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) => setting,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let file: toml::Table = uncommented.parse().unwrap();
    for section in ["python", "django", "env", "secrets", "shared", "backup", "restart", "check", "worker", "hook"] {
        assert!(file.contains_key(section), "{section} is missing");
    }
    assert_eq!(file["hook"][0]["after"].as_str(), Some("environment"));
    assert!(lines.lines().any(|line| line == "[backup]"), "there is a dump before migrations unless somebody takes the section out");
}

#[test]
fn a_repository_suggests_the_apps_name() {
    for (repository, name) in [
        ("git@github.com:acme/shop.git", "shop"),
        ("git@host:shop.git", "shop"),
        ("https://example.com/acme/My_Shop/", "my-shop"),
        ("/srv/git/shop.example", "shop-example"),
    ] {
        assert_eq!(name_of(repository).unwrap(), app(name), "{repository}");
    }
    for repository in ["https://example.com/2048.git", "/", "git@host:über"] {
        assert_eq!(name_of(repository).unwrap_err().exit_code(), 2, "{repository}");
    }
}

#[test]
fn the_directory_is_the_systems_for_root_and_the_users_else() {
    let with = |pairs: &'static [(&str, &str)]| {
        usual_dir(Uid::from_raw(1000), |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())).ok()
    };
    assert_eq!(usual_dir(Uid::from_raw(0), |_| None).unwrap(), PathBuf::from("/etc/release-agent"));
    assert_eq!(with(&[("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")]), Some("/c/release-agent".into()));
    assert_eq!(with(&[("XDG_CONFIG_HOME", "c"), ("HOME", "/h")]), Some("/h/.config/release-agent".into()));
    assert_eq!(with(&[]), None);
}

#[test]
fn nothing_is_overwritten_and_nothing_is_left_beside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop.toml");
    write_new(&path, "one", For::Everybody).unwrap();
    let fault = write_new(&path, "two", For::Everybody).unwrap_err();
    assert!(matches!(fault, Fault::Exists(_)));
    assert_eq!(fault.exit_code(), 2);
    assert_eq!(fs::read_to_string(&path).unwrap(), "one");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn where_units_run_everything_the_file_leads_to_the_setup() {
    for (usual, _) in FOR_UNITS {
        assert!(TEMPLATE.contains(usual), "the template does not say {usual:?} any more");
    }
    let text = filled(&app("web"), "https://example.com/web.git", RunBy::Units);
    let file: toml::Table = text.parse().unwrap();
    assert_eq!(file["restart"]["slots"].as_array().map(Vec::len), Some(2));
    assert!(text.contains("agentctl setup app web") && !text.contains("shop"), "{text}");

    for (text, said) in [
        ("executor = \"units\"\n", Some(RunBy::Units)),
        ("drain_timeout = \"1m\"\nexecutor=\"direct\" # \n", Some(RunBy::Agent)),
        ("# executor = \"units\"\n", None),
        ("[https]\nexecutor = \"units\"\n", None),
        ("", None),
    ] {
        assert_eq!(said_of_executor(text), said, "{text}");
    }
}
