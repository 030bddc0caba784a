//! TLS with certificates that a test makes for itself.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use crate::http::{Answer, exchange};

/// A certificate that nobody else signed, with its key: both in PEM form.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate; who believes it believes itself.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Identity {
    /// One for these names and addresses.
    pub fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("a certificate can be made");
        Self { certificate: cert.pem(), key: signing_key.serialize_pem() }
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect::<Result<_, _>>().expect("it is one of ours")
    }

    /// What a server needs to be it.
    pub fn server(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("it is one of ours");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.map(|builder| builder.with_no_client_auth().with_single_cert(self.chain(), key));
        Arc::new(config.expect("the provider has the usual versions").expect("the key is the certificate's"))
    }

    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.chain());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        Arc::new(builder.expect("the provider has the usual versions").with_root_certificates(roots).with_no_client_auth())
    }
}

/// Sends a request over TLS to a port of the loopback interface, where it believes `peer` alone, and reads the answer to its end.
pub fn tls_request(port: u16, peer: &Identity, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> io::Result<Answer> {
    const MOST: Duration = Duration::from_secs(60);
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(MOST))?;
    stream.set_write_timeout(Some(MOST))?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let connection = ClientConnection::new(peer.client(), name).map_err(io::Error::other)?;
    exchange(StreamOwned::new(connection, stream), method, path, headers, body)
}
