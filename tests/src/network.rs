//! The agent over the network: a certificate of the bench's own, keys that sign, and requests as a client would send them, or as an attacker would.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use agent_wire::REQUEST_TYPE;
use agent_wire::sshsig::{Hash, NAMESPACE, PublicKey, RawSignature, Sshsig};
use aws_lc_rs::digest::{SHA256, SHA512, digest};
use aws_lc_rs::rand::{SystemRandom, fill};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::http::{Answer, Place, request};
use crate::wait::free_port;

/// What the agent of a bench is called.
pub const HOST: &str = "web1.test";

/// An Ed25519 key that signs.
#[derive(Debug)]
pub struct SigningKey {
    pair: Ed25519KeyPair,
}

impl Default for SigningKey {
    fn default() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("there is randomness");
        Self { pair: Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("it was made a moment ago") }
    }
}

impl SigningKey {
    /// The key of a seed of 32 bytes.
    pub fn from_seed(seed: &[u8]) -> Self {
        Self { pair: Ed25519KeyPair::from_seed_unchecked(seed).expect("a seed has 32 bytes") }
    }

    fn bytes(&self) -> [u8; 32] {
        self.pair.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes")
    }

    fn raw(&self, bytes: &[u8]) -> [u8; 64] {
        self.pair.sign(bytes).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey::Ed25519(self.bytes())
    }

    /// The public half of the same key, as if it were in a hardware authenticator.
    pub fn public_hardware(&self) -> PublicKey {
        self.public_hardware_for("ssh:")
    }

    /// The same, made for any application.
    pub fn public_hardware_for(&self, application: &str) -> PublicKey {
        PublicKey::Hardware { key: self.bytes(), application: application.to_owned() }
    }

    /// Its line in `allowed_signers`.
    pub fn line(&self, principal: &str) -> String {
        format!("{principal} {}\n", self.public().to_line())
    }

    /// A signature of a request.
    pub fn sign(&self, body: &str) -> Sshsig {
        self.sign_for(body, NAMESPACE, Hash::Sha512)
    }

    /// A signature for any namespace.
    pub fn sign_for(&self, body: &str, namespace: &str, hash: Hash) -> Sshsig {
        let proof = RawSignature::Ed25519(self.raw(&signed(body, namespace, hash)));
        Sshsig { key: self.public(), namespace: namespace.to_owned(), hash, proof }
    }

    /// A signature as a hardware authenticator makes it, touched or not.
    pub fn sign_in_hardware(&self, body: &str, flags: u8) -> Sshsig {
        self.sign_in_hardware_for(body, flags, "ssh:")
    }

    /// The same, with a key that was made for any application.
    pub fn sign_in_hardware_for(&self, body: &str, flags: u8, application: &str) -> Sshsig {
        let mut bytes = digest(&SHA256, application.as_bytes()).as_ref().to_vec();
        bytes.push(flags);
        bytes.extend_from_slice(&7_u32.to_be_bytes());
        bytes.extend_from_slice(digest(&SHA256, &signed(body, NAMESPACE, Hash::Sha512)).as_ref());
        let proof = RawSignature::Hardware { signature: self.raw(&bytes), flags, counter: 7 };
        Sshsig { key: self.public_hardware_for(application), namespace: NAMESPACE.to_owned(), hash: Hash::Sha512, proof }
    }
}

fn signed(body: &str, namespace: &str, hash: Hash) -> Vec<u8> {
    let algorithm = if hash == Hash::Sha256 { &SHA256 } else { &SHA512 };
    Sshsig::signed_bytes(namespace, hash, digest(algorithm, body.as_bytes()).as_ref())
}

/// Now, in seconds since 1970 UTC.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// 128 random bits.
pub fn nonce() -> String {
    let mut bytes = [0; 16];
    fill(&mut bytes).expect("there is randomness");
    hex::encode(bytes)
}

/// A request that is right: for this host, for now, with a nonce of its own. `more` replaces and adds members; `null` takes one away.
pub fn form(action: &str, more: Value) -> Value {
    let mut form = json!({ "v": 1, "aud": [HOST], "app": "plain", "action": action, "iat": now(), "exp": now() + 300, "nonce": nonce() });
    for (member, value) in more.as_object().into_iter().flatten() {
        form[member] = value.clone();
    }
    if let Some(members) = form.as_object_mut() {
        members.retain(|_, value| !value.is_null());
    }
    form
}

/// The way to the agent of a bench over the network.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its port on the loopback interface.
    pub port: u16,
    /// The certificate, to be trusted.
    pub ca: PathBuf,
}

impl Bench {
    /// Writes `agent.toml` with an API on the network, and its certificate. `top` are the keys above all sections, `sections` what follows `[https]`.
    pub fn network(&self, top: &str, sections: &str, allowed_signers: &str) -> Network {
        let port = free_port();
        let ca = self.certificate("config/tls", &[HOST, "localhost"]);
        self.write("config/allowed_signers", allowed_signers);
        self.agent_settings(&format!("{top}\n[https]\nhost = {HOST:?}\nlisten = [\"127.0.0.1:{port}\"]\n{sections}\n"));
        Network { port, ca }
    }

    /// A self-signed certificate for these hosts, with its key, as `cert.pem` and `key.pem` of a directory of the bench; answers with the path of the certificate.
    pub fn certificate(&self, directory: &str, hosts: &[&str]) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(hosts).expect("the names are names");
        // Each under another name first: the agent watches.
        let put = |name: &str, text: &str| {
            let new = self.write(format!("{directory}/.{name}.new"), text);
            fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("the bench is ours");
            let file = self.path(directory).join(name);
            fs::rename(new, &file).expect("the bench is ours");
            file
        };
        put("key.pem", &made.signing_key.serialize_pem());
        put("cert.pem", &made.cert.pem())
    }
}

impl Network {
    /// The place to ask.
    pub fn place(&self) -> Place {
        Place::Tls { port: self.port, host: HOST.to_owned(), ca: self.ca.clone() }
    }

    /// The address for other programs. It is by another name than the agent's, which resolves nowhere: they are to be told [`HOST`] beside it.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// A stream, to say what no client would say.
    #[track_caller]
    pub fn stream(&self) -> impl std::io::Read + std::io::Write + Send + use<> {
        tls(self.port, HOST, &self.ca, &[]).expect("the agent takes the connection")
    }

    /// Which of these protocols the agent agrees to speak (RFC 7301); nothing when it agrees to none.
    #[track_caller]
    pub fn agreed(&self, protocols: &[&[u8]]) -> Option<Vec<u8>> {
        let mut stream = tls(self.port, HOST, &self.ca, protocols).expect("the agent takes the connection");
        // A handshake that fails for want of a protocol has agreed to none.
        let _ = stream.conn.complete_io(&mut stream.sock);
        stream.conn.alpn_protocol().map(<[u8]>::to_vec)
    }

    /// Sends a body with these signatures, in the order given.
    #[track_caller]
    pub fn send(&self, body: &str, signatures: &[Sshsig]) -> Answer {
        let texts: Vec<String> = signatures.iter().map(Sshsig::to_base64).collect();
        self.send_with(body, &texts.iter().map(|text| ("Agent-Signature", text.as_str())).collect::<Vec<_>>())
    }

    /// Sends a body with these headers beside the type.
    #[track_caller]
    pub fn send_with(&self, body: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("Content-Type", REQUEST_TYPE)];
        all.extend_from_slice(headers);
        request(&self.place(), "POST", "/v1/requests", &all, body).expect("the agent answers")
    }

    /// Asks for something as this key, and as nobody else.
    #[track_caller]
    pub fn ask(&self, key: &SigningKey, form: &Value) -> Answer {
        let body = form.to_string();
        self.send(&body, &[key.sign(&body)])
    }

    /// Reads a path as this key.
    #[track_caller]
    pub fn read(&self, key: &SigningKey, path: &str) -> Answer {
        self.ask(key, &form("read", json!({ "app": null, "path": path })))
    }
}

/// A TLS stream to a port of the loopback interface.
pub(crate) fn tls(
    port: u16,
    host: &str,
    ca: &std::path::Path,
    protocols: &[&[u8]],
) -> std::io::Result<StreamOwned<ClientConnection, std::net::TcpStream>> {
    use std::io::{Error, ErrorKind};
    let wrong = |err: &dyn std::fmt::Display| Error::new(ErrorKind::InvalidInput, err.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).map_err(|err| wrong(&err))? {
        roots.add(certificate.map_err(|err| wrong(&err))?).map_err(|err| wrong(&err))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(|err| wrong(&err))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(host.to_owned()).map_err(|err| wrong(&err))?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(|err| wrong(&err))?;
    let stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    let most = Some(std::time::Duration::from_secs(60));
    stream.set_read_timeout(most)?;
    stream.set_write_timeout(most)?;
    Ok(StreamOwned::new(connection, stream))
}
