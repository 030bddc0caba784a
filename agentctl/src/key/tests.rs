use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::*;

/// A key pair that `ssh-keygen` made, with few rounds where it is encrypted.
pub(crate) fn made(dir: &Path, name: &str, kind: &[&str], passphrase: &str) -> PathBuf {
    let path = dir.join(name);
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-a", "1", "-N", passphrase, "-C", name]).args(kind).arg("-f").arg(&path);
    assert!(command.status().unwrap().success());
    path
}

/// A plain Ed25519 key.
pub(crate) fn plain(dir: &Path, name: &str) -> PathBuf {
    made(dir, name, &["-t", "ed25519"], "")
}

/// The verdict of `ssh-keygen -Y verify` on a header's value, with `public` as anna's key.
pub(crate) fn verified(dir: &Path, public: &Path, signature: &str, body: &[u8]) -> bool {
    let allowed = format!("anna namespaces=\"release-agent.v1\" {}", std::fs::read_to_string(public).unwrap());
    std::fs::write(dir.join("allowed"), allowed).unwrap();
    let lines: Vec<String> = signature.as_bytes().chunks(70).map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
    let armour = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"));
    std::fs::write(dir.join("signature"), armour).unwrap();
    std::fs::write(dir.join("body"), body).unwrap();
    let verify = Command::new("ssh-keygen")
        .args(["-Y", "verify", "-n", NAMESPACE, "-I", "anna", "-f"])
        .arg(dir.join("allowed"))
        .arg("-s")
        .arg(dir.join("signature"))
        .stdin(std::fs::File::open(dir.join("body")).unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    verify.unwrap().success()
}

/// OpenSSH's ssh-agent, for the duration of a test.
struct RealAgent {
    process: Child,
    socket: PathBuf,
}

impl RealAgent {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("ssh-agent.sock");
        let mut command = Command::new("ssh-agent");
        let process = command.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let began = std::time::Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(began.elapsed().as_secs() < 20, "the ssh-agent does not answer");
            std::thread::yield_now();
        }
        Self { process, socket }
    }

    fn add(&self, key: &Path) {
        let added = Command::new("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket).stdin(Stdio::null()).status();
        assert!(added.unwrap().success());
    }

    fn means(&self) -> Means {
        Means { ssh_agent: Some(self.socket.clone()), passphrase_file: None }
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn never(_: &Path) -> io::Result<String> {
    panic!("nobody should be asked");
}

fn nobody(_: &Path) -> io::Result<String> {
    Err(io::ErrorKind::NotFound.into())
}

fn dir() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn public(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.pub", path.display()))
}

/// Signs with a key, and verifies with OpenSSH.
fn assert_signs(dir: &Path, key: &Key, public: &Path) {
    let signature = key.sign(b"what is asked").unwrap().to_base64();
    assert!(verified(dir, public, &signature, b"what is asked"), "{signature}");
    assert!(!verified(dir, public, &signature, b"something else"));
}

#[test]
fn openssh_verifies_what_a_plain_key_signs() {
    let dir = dir();
    let path = plain(dir.path(), "key");
    assert_signs(dir.path(), &Key::load(&path, &Means::default(), never).unwrap(), &public(&path));
}

/// Secrets of a CI often lack the last newline, or have the line ends of another system.
#[test]
fn a_key_is_read_whatever_its_line_ends() {
    let dir = dir();
    let path = plain(dir.path(), "key");
    let text = std::fs::read_to_string(&path).unwrap();
    for text in [text.trim_end().to_owned(), text.replace('\n', "\r\n"), format!("\n{text}\n")] {
        std::fs::write(&path, text).unwrap();
        assert_signs(dir.path(), &Key::load(&path, &Means::default(), never).unwrap(), &public(&path));
    }
}

#[test]
fn openssh_verifies_what_an_encrypted_key_signs() {
    let dir = dir();
    let path = made(dir.path(), "key", &["-t", "ed25519"], "open sesame");
    let file = dir.path().join("passphrase");
    std::fs::write(&file, "open sesame\n").unwrap();
    let means = Means { passphrase_file: Some(file.clone()), ssh_agent: None };
    assert_signs(dir.path(), &Key::load(&path, &means, never).unwrap(), &public(&path));

    // The passphrase is asked for, and right the second time.
    let mut answers = vec!["open sesame", "wrong"];
    let key = Key::load(&path, &Means::default(), |_| Ok(answers.pop().unwrap().to_owned())).unwrap();
    assert_signs(dir.path(), &key, &public(&path));

    let mut asked = 0;
    let wrong = Key::load(&path, &Means::default(), |_| {
        asked += 1;
        Ok("wrong".to_owned())
    });
    assert!(matches!(wrong, Err(KeyError::Passphrase { .. })) && asked == ATTEMPTS);
    assert!(matches!(Key::load(&path, &Means::default(), nobody), Err(KeyError::NoTerminal { .. })));
    std::fs::write(&file, "wrong").unwrap();
    assert!(matches!(Key::load(&path, &means, never), Err(KeyError::Passphrase { .. })));
}

#[test]
fn openssh_verifies_what_an_ssh_agent_signs() {
    let dir = dir();
    let path = plain(dir.path(), "key");
    let agent = RealAgent::start(dir.path());
    let key = Key::load(&public(&path), &agent.means(), never).unwrap();
    assert!(matches!(key.sign(b"x"), Err(KeyError::AgentRefused { .. })), "it does not have the key yet");
    agent.add(&path);
    assert_signs(dir.path(), &key, &public(&path));

    // The private half is elsewhere; its name is enough.
    std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    assert_signs(dir.path(), &Key::load(&path, &agent.means(), never).unwrap(), &public(&path));
}

#[test]
fn an_encrypted_key_that_the_ssh_agent_has_is_not_asked_for() {
    let dir = dir();
    let path = plain(dir.path(), "key");
    let agent = RealAgent::start(dir.path());
    agent.add(&path);
    let encrypt =
        Command::new("ssh-keygen").args(["-q", "-p", "-a", "1", "-N", "open sesame", "-f"]).arg(&path).stdout(Stdio::null()).status();
    assert!(encrypt.unwrap().success());
    assert_signs(dir.path(), &Key::load(&path, &agent.means(), never).unwrap(), &public(&path));
}

#[test]
fn what_signs_nothing_is_told_by_its_reason() {
    let dir = dir();
    let load = |path: &Path| Key::load(path, &Means::default(), never);
    let ecdsa = made(dir.path(), "ecdsa", &["-t", "ecdsa"], "");
    assert!(matches!(load(&ecdsa), Err(KeyError::Kind { .. })));
    assert!(matches!(load(&public(&ecdsa)), Err(KeyError::Kind { .. })));
    let old = made(dir.path(), "old", &["-t", "rsa", "-b", "2048", "-m", "PEM"], "");
    assert!(matches!(load(&old), Err(KeyError::Kind { .. })));
    let text = dir.path().join("text");
    std::fs::write(&text, "no key at all").unwrap();
    assert!(matches!(load(&text), Err(KeyError::NoKey { .. })));
    std::fs::write(&text, [0xff, 0xfe]).unwrap();
    assert!(matches!(load(&text), Err(KeyError::NoKey { .. })));
    assert!(matches!(load(&dir.path().join("none")), Err(KeyError::Read { .. })));

    let path = plain(dir.path(), "key");
    assert!(matches!(load(&public(&path)), Err(KeyError::NoAgent { .. })));
    let gone = Means { ssh_agent: Some(dir.path().join("none")), passphrase_file: None };
    let key = Key::load(&public(&path), &gone, never).unwrap();
    assert!(matches!(key.sign(b"x"), Err(KeyError::AgentOutOfReach { .. })));
}

/// There is no authenticator here, so the test covers only the path to it: the file of such a key leads to the ssh-agent.
#[test]
fn a_key_in_hardware_is_the_ssh_agents() {
    let dir = dir();
    let path = dir.path().join("key.pub");
    let hardware = PublicKey::Hardware { key: [7; 32], application: "ssh:".into() };
    std::fs::write(&path, format!("{} anna\n", hardware.to_line())).unwrap();
    let agent = RealAgent::start(dir.path());
    let key = Key::load(&path, &agent.means(), never).unwrap();
    assert!(key.is_touched());
    assert_eq!(key.public(), &hardware);
    assert!(matches!(key.sign(b"x"), Err(KeyError::AgentRefused { .. })));
}

#[test]
fn an_empty_variable_names_nothing() {
    let means = Means::of_environment(|name| Some(if name == "SSH_AUTH_SOCK" { "" } else { "/p" }.into()));
    assert_eq!((means.ssh_agent, means.passphrase_file), (None, Some("/p".into())));
}
