//! Access control: the `Host` and `Origin` of a request, its key, and the CORS headers of answers.
//!
//! Two checks protect a server on the loopback that has no key from web pages. A page of another origin can send requests, but
//! requests of type `application/json` only after a preflight (CORS), which is off by default. A page whose host name was pointed at
//! the loopback (DNS rebinding) has the same origin as the server, but its requests have a foreign `Host`.

use axum::body::Body;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_TYPE, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING, VARY,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use axum::response::Response;

use crate::failure::Failure;
use crate::options::{Access, Key, Options};

/// The checks that the head of a request must pass.
#[derive(Debug)]
pub(crate) struct Gate {
    access: Access,
    /// Whether `Host` must be a name of this machine.
    checks_host: bool,
    /// Whether the server's own pages have the scheme `https`. Without TLS they may have either, because a proxy can terminate TLS.
    is_encrypted: bool,
}

/// Paths that need no key.
const FREE: [&str; 5] = ["/", "/health", "/v1/health", "/ready", "/favicon.ico"];

impl Gate {
    pub(crate) fn new(options: &Options) -> Self {
        let checks_host = options.host.is_loopback() && options.access.keys.is_empty();
        Self { access: options.access.clone(), checks_host, is_encrypted: options.tls.is_some() }
    }

    /// Checks the head of a request.
    ///
    /// # Errors
    /// Why the request is refused.
    pub(crate) fn check(&self, request: &Request<Body>) -> Result<(), Failure> {
        let headers = request.headers();
        if headers.get_all(HOST).iter().nth(1).is_some() {
            let message = "the request has more than one header Host";
            return Err(Failure::new(StatusCode::BAD_REQUEST, "invalid_host", message).closing());
        }
        if self.checks_host {
            self.check_host(headers, request.uri().authority().map(Authority::as_str))?;
        }
        if request.method() == Method::OPTIONS {
            return Ok(());
        }
        let path = request.uri().path();
        self.check_site(path, headers)?;
        self.check_origin(headers)?;
        match (path, &self.access.metrics_key) {
            ("/metrics", Some(key)) => has_key(headers, std::slice::from_ref(key)),
            _ if FREE.contains(&path) || self.access.keys.is_empty() => Ok(()),
            _ => has_key(headers, &self.access.keys),
        }
    }

    fn check_host(&self, headers: &HeaderMap, of_uri: Option<&str>) -> Result<(), Failure> {
        let header = headers.get(HOST).and_then(|host| host.to_str().ok());
        let authority = of_uri.or(header).unwrap_or_default();
        let name = without_port(authority);
        let allowed = |allowed: &String| {
            [name, authority].iter().any(|it| allowed.eq_ignore_ascii_case(it)) || allowed == "*"
        };
        let is_local =
            ["localhost", "127.0.0.1", "[::1]"].iter().any(|local| local.eq_ignore_ascii_case(name));
        if is_local || self.access.allowed_hosts.iter().any(allowed) {
            return Ok(());
        }
        if name.is_empty() {
            let message = "the request has no header Host: send one with localhost, 127.0.0.1 or [::1]";
            return Err(Failure::new(StatusCode::BAD_REQUEST, "missing_host", message));
        }
        let message = format!(
            "the host name {0} is not allowed: use localhost, 127.0.0.1 or [::1], or start the server with --allowed-hosts {0}",
            name.escape_debug()
        );
        Err(Failure::new(StatusCode::FORBIDDEN, "host_not_allowed", message))
    }

    /// Checks `Sec-Fetch-Site`. Images and links send no `Origin`; if their page belongs to another site, they may only read what
    /// reveals nothing.
    fn check_site(&self, path: &str, headers: &HeaderMap) -> Result<(), Failure> {
        let is_foreign =
            headers.get_all("sec-fetch-site").iter().any(|site| site == "cross-site" || site == "same-site");
        let is_allowed = headers.get(ORIGIN).is_some_and(|origin| self.allowed(origin).is_some());
        if !is_foreign || is_allowed || ["/", "/health", "/v1/health"].contains(&path) {
            return Ok(());
        }
        let message = "web pages of other origins may not ask: start the server with --cors-origins and the origin of the page";
        Err(Failure::new(StatusCode::FORBIDDEN, "origin_not_allowed", message))
    }

    /// Checks `Origin` and the type of the body: a page may only send JSON, which requires a preflight if the origin is another one.
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
        let is_one = headers.get_all(ORIGIN).iter().nth(1).is_none();
        if !is_one || !self.is_own(origin, headers) && self.allowed(origin).is_none() {
            let message = match origin.as_bytes() {
                b"null" => "the web page has no origin (a file, or a frame in a sandbox): only --cors-origins '*' allows it".to_owned(),
                origin => format!(
                    "the origin of the web page is not allowed: start the server with --cors-origins {}; a proxy must pass the \
                     header Host on unchanged",
                    String::from_utf8_lossy(origin).escape_debug()
                ),
            };
            return Err(Failure::new(StatusCode::FORBIDDEN, "origin_not_allowed", message));
        }
        let kind = headers.get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
        let is_json = |kind: &str| {
            kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        };
        match kind {
            Some(kind) if !is_json(kind) => {
                let message = "requests from web pages must be of type application/json";
                Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
            }
            _ => Ok(()),
        }
    }

    /// Whether the page was loaded from this server.
    fn is_own(&self, origin: &HeaderValue, headers: &HeaderMap) -> bool {
        let origin = origin.to_str().unwrap_or_default();
        let plain = origin.strip_prefix("http://").filter(|_| !self.is_encrypted);
        let authority = plain.or_else(|| origin.strip_prefix("https://"));
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        authority.is_some() && authority == host
    }

    /// The value of `Access-Control-Allow-Origin`; `None` if the origin is not allowed.
    fn allowed(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        let list = &self.access.cors_origins;
        if list.iter().any(|each| each == "*") {
            return Some(HeaderValue::from_static("*"));
        }
        list.iter().any(|each| each.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }

    /// Adds the CORS headers that let the page read the answer, if its origin is allowed. Credentials are never allowed: keys are sent
    /// in a header.
    pub(crate) fn allow(&self, origin: Option<&HeaderValue>, is_preflight: bool, response: &mut Response) {
        if self.access.cors_origins.is_empty() {
            return;
        }
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_static("origin"));
        let Some(allowed) = origin.and_then(|origin| self.allowed(origin)) else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("x-request-id, x-seed, retry-after"),
        );
        if is_preflight {
            let methods = HeaderValue::from_static("GET, HEAD, POST, OPTIONS");
            let wanted = "authorization, content-type, x-api-key, x-request-id, anthropic-version";
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(wanted));
            headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
        }
    }
}

/// Refuses encodings and expectations that are not supported: compressed bodies, and `Expect` other than `100-continue`.
pub(crate) fn check_encodings(headers: &HeaderMap) -> Result<(), Failure> {
    let other = |name, known: &str| {
        headers
            .get_all(name)
            .iter()
            .any(|value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(known.as_bytes()))
    };
    if other(CONTENT_ENCODING, "identity") {
        let message = "bodies are read as they are: send them without Content-Encoding";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Failure::new(status, "unsupported_encoding", message).closing());
    }
    if other(EXPECT, "100-continue") {
        let message = "the only expectation that is met is 100-continue";
        return Err(Failure::new(StatusCode::EXPECTATION_FAILED, "expectation_failed", message).closing());
    }
    check_framing(headers)
}

/// Refuses what can be read in two ways: a body whose length is given twice, and codings of the transfer that are not undone here.
fn check_framing(headers: &HeaderMap) -> Result<(), Failure> {
    if !headers.contains_key(TRANSFER_ENCODING) {
        return Ok(());
    }
    if headers.contains_key(CONTENT_LENGTH) {
        let message = "the request has both Transfer-Encoding and Content-Length: send one of them";
        return Err(Failure::new(StatusCode::BAD_REQUEST, "invalid_framing", message).closing());
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(is_chunked) && codings.next().is_none() {
        return Ok(());
    }
    let message = "the only Transfer-Encoding that is read is chunked";
    Err(Failure::new(StatusCode::NOT_IMPLEMENTED, "unsupported_encoding", message).closing().for_good())
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => authority,
    }
}

/// Checks that a request has one of the keys. It is compared with all of them, so that the time does not depend on which one it is.
fn has_key(headers: &HeaderMap, keys: &[Key]) -> Result<(), Failure> {
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let bearer = headers.get(AUTHORIZATION).and_then(text).and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim().to_owned())
    });
    let given = bearer.or_else(|| headers.get("x-api-key").and_then(text));
    let Some(given) = given else {
        let message = "a key is needed: send it as `Authorization: Bearer …` or as `x-api-key`";
        return Err(Failure::new(StatusCode::UNAUTHORIZED, "missing_api_key", message));
    };
    let given = Key::new(&given);
    match keys.iter().fold(false, |found, key| key.is(&given) | found) {
        true => Ok(()),
        false => Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "the key is not valid: use one of the server's keys",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(gate: &Gate, path: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        gate.check(&request.body(Body::empty()).unwrap())
            .map_or_else(|failure| failure.refusal.status, |()| 200)
    }

    #[test]
    fn hosts_of_the_loopback() {
        let mut options = Options::default();
        options.access.allowed_hosts = vec!["box.local".to_owned(), "port.local:8443".to_owned()];
        let gate = Gate::new(&options);
        for (host, expected) in [
            ("localhost", 200),
            ("LocalHost:8080", 200),
            ("127.0.0.1:1", 200),
            ("[::1]:8080", 200),
            ("[::1]", 200),
            ("box.local:80", 200),
            ("Port.local:8443", 200),
            ("port.local:80", 403),
            ("port.local", 403),
            ("evil.example", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example:8080", 403),
            ("", 400),
        ] {
            assert_eq!(status(&gate, "/props", &[("host", host)]), expected, "{host}");
        }
        options.access.keys = vec![Key::new("k")];
        let gate = Gate::new(&options);
        assert_eq!(
            status(&gate, "/health", &[("host", "evil.example")]),
            200,
            "a page does not know the key"
        );
    }

    #[test]
    fn keys() {
        let mut options = Options::default();
        options.access.keys = vec![Key::new("one"), Key::new("two")];
        options.access.metrics_key = Some(Key::new("three"));
        let gate = Gate::new(&options);
        let bearer = |key: &str| format!("Bearer {key}");
        assert_eq!(status(&gate, "/v1/models", &[]), 401);
        assert_eq!(status(&gate, "/v1/models", &[("authorization", &bearer("one"))]), 200);
        assert_eq!(status(&gate, "/v1/models", &[("authorization", "bearer two")]), 200);
        assert_eq!(status(&gate, "/v1/models", &[("x-api-key", "two")]), 200);
        assert_eq!(status(&gate, "/v1/models", &[("x-api-key", "tw")]), 401);
        assert_eq!(status(&gate, "/v1/models", &[("authorization", "Basic one")]), 401);
        assert_eq!((status(&gate, "/health", &[]), status(&gate, "/", &[])), (200, 200));
        options.access.metrics_key = None;
        let without = Gate::new(&options);
        assert_eq!(status(&without, "/metrics", &[]), 401);
        assert_eq!(status(&without, "/metrics", &[("x-api-key", "one")]), 200);
        assert_eq!(status(&gate, "/metrics", &[("x-api-key", "one")]), 401);
        assert_eq!(status(&gate, "/metrics", &[("x-api-key", "three")]), 200);
        assert!(!format!("{options:?}").contains("three"));
    }

    #[test]
    fn web_pages() {
        let mut options = Options::default();
        let own = [("host", "localhost:8080"), ("origin", "http://localhost:8080")];
        let foreign = [
            ("host", "localhost:8080"),
            ("origin", "https://a.example"),
            ("content-type", "application/json"),
        ];
        let gate = Gate::new(&options);
        assert_eq!((status(&gate, "/", &own), status(&gate, "/", &foreign)), (200, 403));
        let form = [own[0], own[1], ("content-type", "text/plain")];
        assert_eq!(status(&gate, "/completion", &form), 415);
        options.access.cors_origins = vec!["https://a.example".to_owned()];
        let gate = Gate::new(&options);
        assert_eq!(status(&gate, "/", &foreign), 200);
        let mut response = Response::new(Body::empty());
        gate.allow(Some(&HeaderValue::from_static("https://a.example")), true, &mut response);
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
        let mut response = Response::new(Body::empty());
        gate.allow(Some(&HeaderValue::from_static("https://b.example")), true, &mut response);
        assert!(!response.headers().contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
    }

    #[test]
    fn bodies_have_one_length_and_are_chunked_at_most() {
        let status = |values: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in values {
                headers.append(*name, HeaderValue::from_static(value));
            }
            check_encodings(&headers).map_or_else(|failure| failure.refusal.status, |()| 200)
        };
        let coding = "transfer-encoding";
        assert_eq!(status(&[("content-length", "1")]), 200);
        assert_eq!((status(&[(coding, "chunked")]), status(&[(coding, "Chunked")])), (200, 200));
        for other in ["gzip, chunked", "chunked, chunked", "identity", "gzip", "chunked;q=1", ""] {
            assert_eq!(status(&[(coding, other)]), 501, "{other}");
        }
        assert_eq!(status(&[(coding, "gzip"), (coding, "chunked")]), 501);
        assert_eq!(status(&[(coding, "chunked"), ("content-length", "1")]), 400);
    }

    #[test]
    fn requests_of_other_sites_and_doubled_headers() {
        let mut options = Options::default();
        options.access.cors_origins = vec!["https://a.example".to_owned()];
        let gate = Gate::new(&options);
        let host = ("host", "localhost:8080");
        for site in ["cross-site", "same-site"] {
            let foreign = [host, ("sec-fetch-site", site)];
            assert_eq!(
                ["/", "/health", "/slots", "/metrics"].map(|path| status(&gate, path, &foreign)),
                [200, 200, 403, 403]
            );
            let allowed = [host, ("sec-fetch-site", site), ("origin", "https://a.example")];
            assert_eq!(status(&gate, "/slots", &allowed), 200);
        }
        for site in ["same-origin", "none"] {
            assert_eq!(status(&gate, "/slots", &[host, ("sec-fetch-site", site)]), 200);
        }
        assert_eq!(status(&gate, "/", &[host, host]), 400);
        let own = ("origin", "http://localhost:8080");
        assert_eq!((status(&gate, "/", &[host, own]), status(&gate, "/", &[host, own, own])), (200, 403));
        options.tls = Some(crate::options::TlsFiles { certificate: "c".into(), key: "k".into() });
        let encrypted = Gate::new(&options);
        assert_eq!(status(&encrypted, "/", &[host, own]), 403);
        assert_eq!(status(&encrypted, "/", &[host, ("origin", "https://localhost:8080")]), 200);
    }
}
