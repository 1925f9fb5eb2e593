//! A connection to a server, plain or encrypted. Its reads return without data ([`is_silence`]) after a while, so that the reader
//! can ask whether to continue.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_platform_verifier::BuilderVerifierExt;

use super::LoadError;

/// How connections to a server are encrypted.
#[derive(Clone)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// For a server of this name or address, whose certificate the system trusts.
    ///
    /// # Errors
    /// A name that no certificate can have; certificates of the system that cannot be read.
    pub(super) fn new(host: &str) -> Result<Self, LoadError> {
        let failed = |why: String| LoadError::Tls { why };
        let name = ServerName::try_from(host.to_owned()).map_err(|e| failed(format!("{host}: {e}")))?;
        let provider = Arc::new(rustls_graviola::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(BuilderVerifierExt::with_platform_verifier)
            .map_err(|e| failed(e.to_string()))?
            .with_no_client_auth();
        Ok(Self { config: Arc::new(config), name })
    }

    /// Encrypts a connection. `wait` is called while the server is silent; its error ends the attempt.
    pub(super) fn connect(
        &self,
        mut stream: TcpStream,
        mut wait: impl FnMut() -> Result<(), LoadError>,
        failed: impl Fn(io::Error) -> LoadError,
    ) -> Result<Socket, LoadError> {
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        let mut connection = connection.map_err(|e| LoadError::Tls { why: e.to_string() })?;
        while connection.is_handshaking() {
            match connection.complete_io(&mut stream) {
                Ok(_) => {}
                Err(e) if is_silence(&e) => wait()?,
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(Socket::Encrypted(Box::new(StreamOwned::new(connection, stream))))
    }
}

/// Whether a read has returned because nothing came.
pub(super) fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// See the module.
#[derive(Debug)]
pub(super) enum Socket {
    Plain(TcpStream),
    Encrypted(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Encrypted(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Encrypted(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Encrypted(stream) => stream.flush(),
        }
    }
}
