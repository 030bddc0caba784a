use std::error::Error;

use parking_lot::Mutex;
use rcgen::{CertificateParams, CertifiedKey, KeyPair, date_time_ymd, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server that gives every connection the same answer, and remembers what was asked.
struct Server {
    port: u16,
    ca: tempfile::NamedTempFile,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(certified: CertifiedKey<KeyPair>, answer: &'static [u8]) -> Self {
        let ca = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ca.path(), certified.cert.pem()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(certified.signing_key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                answer_one(stream, answer, &hears).await;
            }
        });
        Self { port, ca, heard }
    }

    async fn new(answer: &'static [u8]) -> Self {
        Self::start(generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap(), answer).await
    }

    fn call(&self) -> Call {
        Call { roots: Roots::File(self.ca.path().to_owned()), ..call(format!("https://localhost:{}/a/b?c=d", self.port)) }
    }
}

/// A proxy that passes on what it is asked to, and remembers how it was asked.
async fn proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(stream.read_u8().await.unwrap());
            }
            let asked = String::from_utf8(asked).unwrap();
            hears.lock().push(asked.clone());
            let allowed = asked.to_ascii_lowercase().contains("proxy-authorization: basic yw5uytpodw50zxiy");
            if !allowed {
                stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                continue;
            }
            let to = asked.split_whitespace().nth(1).unwrap().to_owned();
            let mut there = TcpStream::connect(to).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut there).await });
        }
    });
    (port, heard)
}

#[tokio::test]
async fn a_call_goes_through_the_proxy_of_the_environment_which_reads_nothing_of_it() {
    let server = Server::new(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let (port, heard) = proxy().await;
    let through = |login: &str, no: &str| {
        let proxies = Arc::new(Matcher::builder().all(format!("http://{login}127.0.0.1:{port}")).no(no).build());
        Call { proxies, ..server.call() }
    };
    let reply = through("anna:hunter2@", "").send().await.unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (200, b"ok".as_slice()));
    let asked = heard.lock().remove(0);
    assert!(asked.starts_with(&format!("CONNECT localhost:{} HTTP/1.1\r\n", server.port)), "{asked}");
    assert!(!asked.contains("/a/b") && !asked.contains("Bearer"), "{asked}");
    // Without its login it is told so; the login stands in no sentence.
    let told = failure(through("anna:wrong@", "")).await;
    assert!(told.contains(&format!("through the proxy http://127.0.0.1:{port}: it wants a user and a password")), "{told}");
    assert!(!told.contains("wrong"), "{told}");
    heard.lock().clear();
    assert_eq!(through("anna:wrong@", "localhost").send().await.unwrap().status, 200, "NO_PROXY names it");
    assert_eq!(heard.lock().len(), 0);
}

async fn answer_one(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8], heard: &Mutex<Vec<String>>) {
    let mut asked = Vec::new();
    // The last thing that the calls here send is a closing brace, or the end of the headers where there is no body.
    let is_bare = |asked: &[u8]| asked.ends_with(b"\r\n\r\n") && asked.windows(21).any(|part| part == b"\r\ncontent-length: 0\r\n");
    while !asked.ends_with(b"}") && !is_bare(&asked) {
        let mut chunk = [0; 1024];
        match stream.read(&mut chunk).await {
            Ok(count) if count > 0 => asked.extend_from_slice(&chunk[..count]),
            _ => return,
        }
    }
    heard.lock().push(String::from_utf8(asked).unwrap());
    if answer.is_empty() {
        // Silence, until the caller goes.
        let _ = stream.read(&mut [0; 1]).await;
    }
    // The caller may have heard enough.
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

fn call(url: String) -> Call {
    Call {
        method: Method::POST,
        url,
        headers: vec![("authorization", "Bearer hunter2".to_owned())],
        body: b"{}".to_vec(),
        timeout: Duration::from_secs(20),
        most_bytes: 1000,
        roots: Roots::System,
        proxies: Arc::new(Matcher::builder().build()),
    }
}

async fn failure(call: Call) -> String {
    let err = call.send().await.unwrap_err();
    let mut told = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        told.push_str(&format!(": {err}"));
        cause = err.source();
    }
    assert!(!told.contains("hunter2") && !told.contains("/a/b"), "{told}");
    told
}

#[tokio::test]
async fn it_asks_over_tls_and_reads_the_reply() {
    let server = Server::new(b"HTTP/1.1 201 Created\r\nX-One: 1\r\nContent-Length: 2\r\n\r\nok").await;
    let reply = server.call().send().await.unwrap();
    assert_eq!((reply.status, reply.header("x-one"), reply.body.as_slice()), (201, Some("1"), b"ok".as_slice()));
    let heard = server.heard.lock().join("\n");
    assert!(heard.starts_with("POST /a/b?c=d HTTP/1.1\r\n"), "{heard}");
    assert!(heard.contains(&format!("host: localhost:{}\r\n", server.port)) && heard.contains("user-agent: release-agent/"), "{heard}");
    assert!(heard.contains("authorization: Bearer hunter2\r\n") && heard.contains("content-length: 2\r\n"), "{heard}");
}

#[tokio::test]
async fn a_post_without_a_body_names_its_length_too() {
    let server = Server::new(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
    server.call().send().await.unwrap();
    Call { body: Vec::new(), ..server.call() }.send().await.unwrap();
    let heard = server.heard.lock().clone();
    assert_eq!(heard.iter().map(|heard| heard.matches("content-length: ").count()).collect::<Vec<_>>(), [1, 1], "{heard:?}");
    assert!(heard[1].contains("content-length: 0\r\n"), "{heard:?}");
}

#[tokio::test]
async fn a_redirect_is_a_reply_like_any_other() {
    let server = Server::new(b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n").await;
    let reply = server.call().send().await.unwrap();
    assert_eq!((reply.status, reply.header("location")), (302, Some("https://elsewhere.example/")));
    assert_eq!(server.heard.lock().len(), 1);
}

#[tokio::test]
async fn a_host_that_nobody_vouches_for_hears_nothing() {
    let server = Server::new(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let told = failure(Call { roots: Roots::System, ..server.call() }).await;
    assert!(told.contains("no TLS connection can be made"), "{told}");
    let other = Server::new(b"").await;
    let told = failure(Call { roots: Roots::File(other.ca.path().to_owned()), ..server.call() }).await;
    assert!(told.contains("no TLS connection can be made"), "{told}");
    let told = failure(Call { url: format!("https://127.0.0.1:{}/a/b", server.port), ..server.call() }).await;
    assert!(told.contains("no TLS connection can be made"), "another name than the certificate's: {told}");
    assert!(server.heard.lock().is_empty());
}

#[tokio::test]
async fn a_certificate_that_has_run_out_is_told() {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let signing_key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&signing_key).unwrap();
    let server = Server::start(CertifiedKey { cert, signing_key }, b"").await;
    let told = failure(server.call()).await;
    assert!(told.contains("expired"), "{told}");
}

#[tokio::test]
async fn a_body_without_end_and_a_silence_without_end_have_one() {
    let server = Server::new(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").await;
    let told = failure(Call { most_bytes: 2, ..server.call() }).await;
    assert!(told.contains("more than 2 bytes"), "{told}");
    let server = Server::new(b"HTTP/1.1 500 Oh\r\nContent-Length: 3\r\n\r\nabc").await;
    let reply = Call { most_bytes: 2, ..server.call() }.send().await.unwrap();
    assert_eq!((reply.status, reply.body.as_slice()), (500, b"ab".as_slice()));
    let server = Server::new(b"").await;
    let told = failure(Call { timeout: Duration::from_millis(300), ..server.call() }).await;
    assert!(told.contains("did not answer within 0.3 s"), "{told}");
    let server = Server::new(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").await;
    assert!(failure(server.call()).await.contains("gave no whole answer"));
}

#[tokio::test]
async fn unencrypted_it_asks_this_host_and_no_other() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        answer_one(stream, b"HTTP/1.1 204 No Content\r\n\r\n", &hears).await;
    });
    assert_eq!(call(format!("http://127.0.0.1:{port}/a/b")).send().await.unwrap().status, 204);
    assert!(failure(call(format!("http://127.0.0.1:{port}/a/b"))).await.contains("cannot be reached"));
    assert!(failure(call("http://forge.example/a/b".to_owned())).await.contains("must begin with https://"));
    assert_eq!(heard.lock().len(), 1);
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_named() {
    let server = Server::new(b"").await;
    let none = tempfile::NamedTempFile::new().unwrap();
    for path in [none.path().to_owned(), none.path().with_extension("gone")] {
        let told = failure(Call { roots: Roots::File(path.clone()), ..server.call() }).await;
        assert!(told.contains(path.to_str().unwrap()), "{told}");
    }
}

#[test]
fn addresses_are_taken_or_refused_before_anything_is_called() {
    for good in ["https://forge.example", "https://forge.example:8443/x", "https://[::1]:1/", "http://localhost:80/x", "http://[::1]/"] {
        assert_eq!(check_address(good), Ok(()), "{good}");
    }
    for (bad, why) in [
        ("https://user:pass@forge.example/", BadAddress::Userinfo),
        ("https://token@forge.example/", BadAddress::Userinfo),
        ("http://forge.example/", BadAddress::Unencrypted),
        ("http://127.0.0.1.forge.example/", BadAddress::Unencrypted),
        ("ftp://forge.example/", BadAddress::Unreadable),
        ("forge.example", BadAddress::Unreadable),
        ("/x", BadAddress::Unreadable),
        ("https://", BadAddress::Unreadable),
        ("https://forge.example:0/", BadAddress::Unreadable),
        ("https://forge.example:x/", BadAddress::Unreadable),
        ("https://forge.example/#x", BadAddress::Unreadable),
        ("https://forge example/", BadAddress::Unreadable),
        ("", BadAddress::Unreadable),
    ] {
        assert_eq!(check_address(bad), Err(why), "{bad}");
    }
}
