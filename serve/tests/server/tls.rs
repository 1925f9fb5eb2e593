//! https with the test certificates.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnetc_serve::{ServeError, Server, TlsFiles};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::http_client::connect;
use crate::running::{Running, options, source};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/tls").join(name)
}

#[test]
fn an_answer_comes_over_tls() {
    let mut secure = options();
    secure.tls = Some(TlsFiles { certificate: data("server.pem"), key: data("server.key") });
    let server = Running::new(secure);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(data("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls_graviola::default_provider());
    let config =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, connect(server.address));
    stream.write_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("\"tiny\""), "{text}");
}

#[test]
fn files_that_are_no_certificates_are_named() {
    let mut wrong = options();
    wrong.tls = Some(TlsFiles { certificate: data("nothing.pem"), key: data("server.key") });
    let error =
        Server::bind(wrong, vec![source("a")], Arc::new(|_: &str| {}), Arc::new(|_: &str| {})).unwrap_err();
    assert!(matches!(error, ServeError::Tls { .. }) && error.to_string().contains("nothing.pem"), "{error}");
}

#[test]
fn a_port_that_is_taken_is_said() {
    let server = Running::new(options());
    let mut taken = options();
    taken.port = server.address.port();
    let error =
        Server::bind(taken, vec![source("a")], Arc::new(|_: &str| {}), Arc::new(|_: &str| {})).unwrap_err();
    assert!(matches!(error, ServeError::InUse { .. }), "{error}");
}

#[test]
fn a_key_of_another_certificate_is_refused_in_words() {
    let mut wrong = options();
    wrong.tls = Some(TlsFiles { certificate: data("server.pem"), key: data("other.key") });
    let error =
        Server::bind(wrong, vec![source("a")], Arc::new(|_: &str| {}), Arc::new(|_: &str| {})).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("other.key\"") && text.contains("it is not the key of the certificate"), "{text}");
}
