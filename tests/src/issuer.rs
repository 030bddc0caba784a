//! An issuer of ID tokens, as GitHub and GitLab run one: a server with a discovery document and a key set, and the private keys behind it. It can be
//! told to answer badly, and it signs whatever it is told to.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::bench::Bench;

/// How an address is answered: the status, headers, and the body.
type Reply = (u16, Vec<(String, String)>, Vec<u8>);

/// How the issuer answers when it is asked for its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replies {
    /// With its keys.
    Well,
    /// With nothing.
    Nothing,
    /// With a key set that is empty.
    NoKeys,
    /// With a page for people.
    Html,
    /// With its keys, and 10 MiB of blanks before them.
    Huge,
    /// By leading to an address without TLS where the keys are.
    RedirectToHttp,
    /// With an error.
    Status500,
    /// From a discovery document that says it is another issuer's.
    OtherDiscovery,
    /// From a discovery document that says the keys are at another port, where they are, too.
    KeysElsewhere,
}

/// The issuer. It serves until the test ends.
pub struct Issuer {
    name: String,
    port: u16,
    ca: PathBuf,
    rsa: Arc<RsaKeyPair>,
    p256: EcdsaKeyPair,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    documents: BTreeMap<&'static str, Reply>,
    asked: BTreeMap<String, usize>,
    offers: Option<(Value, Value)>,
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/keys";
const OFFER: &str = "/token?api-version=2.0";

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Issuer {
    /// Starts one; the certificate of its host is written into the bench.
    pub fn new(name: &str, bench: &Bench) -> Self {
        let ca = bench.certificate(&format!("issuers/{name}"), &["localhost"]);
        let state = Arc::new(Mutex::new(State::default()));
        let rsa = Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("a key can be made"));
        let port = serve(Some(server(&ca)), state.clone(), Some(rsa.clone()));
        let issuer = Self {
            name: name.to_owned(),
            port,
            ca,
            rsa,
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key can be made"),
            state,
        };
        issuer.reply(Replies::Well);
        issuer
    }

    /// What its tokens say that they are of.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The name of its RSA key. No other issuer has one of that name.
    pub fn kid(&self) -> String {
        format!("{}-rsa", self.name)
    }

    /// The name of its other key, one of P-256.
    pub fn p256_kid(&self) -> String {
        format!("{}-p256", self.name)
    }

    /// `[[issuer]]` for an agent; `more` are further lines.
    pub fn settings(&self, kind: &str, more: &str) -> String {
        let (name, url, ca) = (&self.name, self.url(), &self.ca);
        format!("[[issuer]]\nname = {name:?}\nkind = {kind:?}\nurl = {url:?}\nca = {ca:?}\n{more}\n")
    }

    /// The public keys, as it publishes them.
    pub fn jwks(&self) -> Value {
        // RSAPublicKey of 2048 bits (RFC 8017, appendix A.1.1): its head, the modulus behind a zero, and the exponent 65537.
        let der = self.rsa.public_key().as_ref();
        let point = self.p256.public_key().as_ref();
        json!({"keys": [
            {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid(), "n": base64url(&der[9..265]), "e": base64url(&der[267..])},
            {"kty": "EC", "use": "sig", "alg": "ES256", "kid": self.p256_kid(), "crv": "P-256",
                "x": base64url(&point[1..33]), "y": base64url(&point[33..])},
        ]})
    }

    /// How it answers from now on.
    pub fn reply(&self, replies: Replies) {
        let keys = self.jwks().to_string();
        let json = |body: String| (200, vec![("Content-Type".to_owned(), "application/json".to_owned())], body.into_bytes());
        let discovery =
            |issuer: String, host: String| json(json!({"issuer": issuer, "jwks_uri": format!("https://{host}{KEYS}")}).to_string());
        let own = format!("localhost:{}", self.port);
        let mut documents = BTreeMap::from([(DISCOVERY, discovery(self.url(), own.clone())), (KEYS, json(keys.clone()))]);
        match replies {
            Replies::Well => {}
            Replies::Nothing => drop(documents.insert(KEYS, json(String::new()))),
            Replies::NoKeys => drop(documents.insert(KEYS, json(json!({"keys": []}).to_string()))),
            Replies::Html => {
                let page = (200, vec![("Content-Type".to_owned(), "text/html".to_owned())], b"<html>Welcome</html>".to_vec());
                documents.insert(KEYS, page);
            }
            Replies::Huge => drop(documents.insert(KEYS, json(format!("{}{keys}", " ".repeat(10 << 20))))),
            Replies::RedirectToHttp => {
                let plain = Arc::new(Mutex::new(State::default()));
                locked(&plain).documents.insert(KEYS, json(keys));
                let location = format!("http://localhost:{}{KEYS}", serve(None, plain, None));
                documents.insert(KEYS, (302, vec![("Location".to_owned(), location)], Vec::new()));
            }
            Replies::Status500 => drop(documents.insert(KEYS, (500, Vec::new(), keys.into_bytes()))),
            Replies::OtherDiscovery => drop(documents.insert(DISCOVERY, discovery("https://localhost".to_owned(), own))),
            Replies::KeysElsewhere => {
                // Somebody else on that host, who has keys of that kind to show.
                let other = Arc::new(Mutex::new(State::default()));
                locked(&other).documents.insert(KEYS, json(keys));
                let port = serve(Some(server(&self.ca)), other, None);
                documents.insert(DISCOVERY, discovery(self.url(), format!("localhost:{port}")));
            }
        }
        locked(&self.state).documents = documents;
    }

    /// The address at which a job gets a token, as from GitHub: with the audience that it asks for, and these claims.
    pub fn offer(&self, header: &Value, claims: &Value) -> String {
        locked(&self.state).offers = Some((header.clone(), claims.clone()));
        format!("{}{OFFER}", self.url())
    }

    /// The certificate of its host.
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// How often it was asked for its keys.
    pub fn asked(&self) -> usize {
        locked(&self.state).asked.get(KEYS).copied().unwrap_or_default()
    }

    /// A token, signed as its header says: RS256, ES256, HS256 with the public key as the secret, or not at all.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// The same, of texts that need not be JSON.
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", base64url(header), base64url(claims));
        let random = SystemRandom::new();
        let signature = if header.contains("\"none\"") {
            Vec::new()
        } else if header.contains("\"HS256\"") {
            let secret = hmac::Key::new(hmac::HMAC_SHA256, self.rsa.public_key().as_ref());
            hmac::sign(&secret, signed.as_bytes()).as_ref().to_vec()
        } else if header.contains("\"ES256\"") {
            self.p256.sign(&random, signed.as_bytes()).expect("it signs").as_ref().to_vec()
        } else {
            rs256(&self.rsa, &signed)
        };
        format!("{signed}.{}", base64url(signature))
    }
}

fn rs256(key: &RsaKeyPair, signed: &str) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).expect("it signs");
    signature
}

/// What a server needs to be whom its certificate names; its key lies beside it.
fn server(certificate: &Path) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).expect("the bench wrote it");
    let key = PrivateKeyDer::from_pem_file(certificate.with_file_name("key.pem")).expect("the bench wrote it");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = builder.and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    Arc::new(config.expect("the key is the certificate's"))
}

/// Serves documents on a port of its own, which is the answer, with TLS or without.
fn serve(tls: Option<Arc<ServerConfig>>, state: Arc<Mutex<State>>, key: Option<Arc<RsaKeyPair>>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback interface has a free port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (tls, state, key) = (tls.clone(), state.clone(), key.clone());
            std::thread::spawn(move || {
                let limit = Some(Duration::from_secs(60));
                // Who leaves early has what they wanted.
                let _ = stream.set_read_timeout(limit).and_then(|()| stream.set_write_timeout(limit));
                match tls.map(ServerConnection::new) {
                    Some(Ok(connection)) => answer(StreamOwned::new(connection, stream), &state, key.as_deref()),
                    Some(Err(_)) => {}
                    None => answer(stream, &state, key.as_deref()),
                }
            });
        }
    });
    port
}

fn answer(mut stream: impl Read + Write + Finish, state: &Mutex<State>, key: Option<&RsaKeyPair>) {
    let mut heard = Vec::new();
    while !heard.windows(4).any(|window| window == b"\r\n\r\n") {
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk) {
            Ok(count) if count > 0 => heard.extend_from_slice(&chunk[..count]),
            _ => return,
        }
    }
    let heard = String::from_utf8_lossy(&heard);
    let path = heard.split(' ').nth(1).unwrap_or_default().to_owned();
    let (status, headers, body) = {
        let mut state = locked(state);
        *state.asked.entry(path.clone()).or_default() += 1;
        let offered = path.strip_prefix(OFFER).and_then(|rest| rest.strip_prefix("&audience=")).zip(state.offers.clone()).zip(key);
        match offered {
            Some(((audience, (header, mut claims)), key)) => {
                claims["aud"] = audience.replace("%23", "#").replace("%3D", "=").into();
                let signed = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
                let token = format!("{signed}.{}", base64url(rs256(key, &signed)));
                (200, Vec::new(), json!({"count": token.len(), "value": token}).to_string().into_bytes())
            }
            None => state.documents.get(path.as_str()).cloned().unwrap_or((404, Vec::new(), Vec::new())),
        }
    };
    let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    // Who leaves early has what they wanted.
    let _ = stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(&body)).and_then(|()| stream.flush());
    stream.finish();
}

/// How a connection is ended.
trait Finish {
    fn finish(&mut self);
}

impl Finish for TcpStream {
    fn finish(&mut self) {}
}

impl Finish for StreamOwned<ServerConnection, TcpStream> {
    fn finish(&mut self) {
        self.conn.send_close_notify();
        let _ = self.flush();
    }
}
