//! https with the certificate and the key of two files, and the same cryptography as for downloads.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::ServeError;
use crate::options::TlsFiles;

/// Returns the acceptor for the certificate and the key of `files`.
pub(crate) fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ServeError> {
    let failed = |path: &std::path::Path, why: String| ServeError::Tls { path: path.to_owned(), why };
    let of_certificate = |why: String| failed(&files.certificate, why);
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(|all| all.collect::<Result<Vec<_>, _>>())
        .map_err(|why| of_certificate(why.to_string()))?;
    if certificates.is_empty() {
        return Err(of_certificate("it has no certificate: expected PEM".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|why| failed(&files.key, why.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, key))
        .map_err(|why| match why {
            rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch) => {
                failed(&files.key, format!("it is not the key of the certificate {:?}", files.certificate))
            }
            why => failed(&files.key, why.to_string()),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
