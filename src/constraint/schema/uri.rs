//! References to schemas: relative resolution (RFC 3986, 5.2) and percent escapes.

use crate::percent;

/// The parts of a URI reference, without its fragment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parts<'u> {
    scheme: Option<&'u str>,
    authority: Option<&'u str>,
    path: &'u str,
    query: Option<&'u str>,
}

fn parts(uri: &str) -> Parts<'_> {
    let mut parts = Parts::default();
    let mut rest = uri;
    if let Some((scheme, after)) = rest.split_once(':') {
        let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
        if named && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)) {
            (parts.scheme, rest) = (Some(scheme), after);
        }
    }
    if let Some((path, query)) = rest.split_once('?') {
        (parts.query, rest) = (Some(query), path);
    }
    if let Some(after) = rest.strip_prefix("//") {
        let end = after.find('/').unwrap_or(after.len());
        (parts.authority, rest) = (after.get(..end), after.get(end..).unwrap_or_default());
    }
    parts.path = rest;
    parts
}

/// A path without `.` and `..`.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let rooted = path.starts_with('/');
    let mut segments = path.split('/').skip(usize::from(rooted)).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("{}{}", if rooted { "/" } else { "" }, kept.join("/"))
}

/// `reference`, which has no fragment, as seen from `base`.
pub(super) fn resolve(base: &str, reference: &str) -> String {
    let (base, to) = (parts(base), parts(reference));
    let merged = || match base.path.rsplit_once('/') {
        Some((folder, _)) => format!("{folder}/{}", to.path),
        None if base.authority.is_some() => format!("/{}", to.path),
        None => to.path.to_owned(),
    };
    let (scheme, authority, path, query) = if to.scheme.is_some() {
        (to.scheme, to.authority, without_dots(to.path), to.query)
    } else if to.authority.is_some() {
        (base.scheme, to.authority, without_dots(to.path), to.query)
    } else if to.path.is_empty() {
        (base.scheme, base.authority, base.path.to_owned(), to.query.or(base.query))
    } else if to.path.starts_with('/') {
        (base.scheme, base.authority, without_dots(to.path), to.query)
    } else {
        (base.scheme, base.authority, without_dots(&merged()), to.query)
    };
    let mut uri = String::new();
    scheme.into_iter().for_each(|scheme| uri.extend([scheme, ":"]));
    authority.into_iter().for_each(|authority| uri.extend(["//", authority]));
    uri.push_str(&path);
    query.into_iter().for_each(|query| uri.extend(["?", query]));
    uri
}

/// Text with its percent escapes resolved; `None` where they are no UTF-8.
pub(super) fn unescape(text: &str) -> Option<String> {
    String::from_utf8(percent::decoded(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved_as_in_rfc_3986() {
        for (reference, expected) in [
            ("g:h", "g:h"),
            ("g", "http://a/b/c/g"),
            ("./g", "http://a/b/c/g"),
            ("g/", "http://a/b/c/g/"),
            ("/g", "http://a/g"),
            ("//g", "http://g"),
            ("?y", "http://a/b/c/d;p?y"),
            ("g?y", "http://a/b/c/g?y"),
            ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"),
            ("..", "http://a/b/"),
            ("../g", "http://a/b/g"),
            ("../../../g", "http://a/g"),
            ("g;x=1/../y", "http://a/b/c/y"),
        ] {
            assert_eq!(resolve("http://a/b/c/d;p?q", reference), expected, "{reference}");
        }
        assert_eq!(resolve("", "item.json"), "item.json");
        assert_eq!(resolve("urn:uuid:1", ""), "urn:uuid:1");
        assert_eq!(unescape("a%25b%C3%a9%2"), Some("a%bé%2".to_owned()));
        assert_eq!(unescape("%ff"), None);
    }
}
