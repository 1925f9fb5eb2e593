//! The one bounded cursor through which every header byte of a file is read.
//!
//! Version 1 of the container writes lengths, counts and dimensions as u32, later versions as u64; a cursor knows which
//! ([`Width`]), so that nothing else has to.
//!
//! Invariants: `at <= bytes.len()`; a read either returns bytes that exist or an error that names what was being
//! read, and never allocates.

use std::fmt::Arguments;

use crate::error::GgufError;
use crate::limits;

/// What a failing read was reading; formatted only when it fails.
pub(crate) type What<'w> = Arguments<'w>;

/// Width of lengths, counts and dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    /// u32, in version 1.
    Narrow,
    /// u64, since version 2.
    Wide,
}

impl Width {
    /// Bytes of a length.
    pub(crate) fn bytes(self) -> u64 {
        match self {
            Self::Narrow => 4,
            Self::Wide => 8,
        }
    }
}

/// A position in the file's bytes.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    width: Width,
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `bytes`, for a container since version 2.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self::with_width(bytes, Width::Wide)
    }

    pub(crate) fn with_width(bytes: &'a [u8], width: Width) -> Self {
        Self { bytes, at: 0, width }
    }

    /// Sets the width of the lengths that follow.
    pub(crate) fn set_width(&mut self, width: Width) {
        self.width = width;
    }

    /// The width of lengths.
    pub(crate) fn width(&self) -> Width {
        self.width
    }

    /// Byte offset of the next read.
    pub(crate) fn offset(&self) -> u64 {
        self.at as u64
    }

    /// Bytes after the cursor.
    pub(crate) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The bytes from the earlier offset `start` up to the cursor.
    pub(crate) fn since(&self, start: u64) -> &'a [u8] {
        usize::try_from(start).ok().and_then(|start| self.bytes.get(start..self.at)).unwrap_or_default()
    }

    /// The next `n` bytes.
    pub(crate) fn take(&mut self, n: u64, what: What<'_>) -> Result<&'a [u8], GgufError> {
        let found = usize::try_from(n)
            .ok()
            .and_then(|n| self.at.checked_add(n))
            .and_then(|end| self.bytes.get(self.at..end));
        match found {
            Some(bytes) => {
                self.at += bytes.len();
                Ok(bytes)
            }
            None => Err(GgufError::Truncated {
                offset: self.offset(),
                what: what.to_string(),
                needed: n,
                available: self.left(),
            }),
        }
    }

    /// The next `N` bytes as an array.
    pub(crate) fn array<const N: usize>(&mut self, what: What<'_>) -> Result<[u8; N], GgufError> {
        let bytes = self.take(N as u64, what)?;
        let mut out = [0; N];
        out.copy_from_slice(bytes);
        Ok(out)
    }

    pub(crate) fn u8(&mut self, what: What<'_>) -> Result<u8, GgufError> {
        self.array::<1>(what).map(|[b]| b)
    }

    pub(crate) fn u32(&mut self, what: What<'_>) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: What<'_>) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length, count or dimension.
    pub(crate) fn length(&mut self, what: What<'_>) -> Result<u64, GgufError> {
        match self.width {
            Width::Narrow => self.u32(what).map(u64::from),
            Width::Wide => self.u64(what),
        }
    }

    /// A string's bytes: the length, then the bytes. The length is compared with `limit` and with what is left.
    pub(crate) fn string_bytes(&mut self, limit: u64, what: What<'_>) -> Result<&'a [u8], GgufError> {
        let offset = self.offset();
        let length = self.length(format_args!("the length of {what}"))?;
        if length > limit {
            return Err(GgufError::StringTooLong { offset, what: what.to_string(), length, limit });
        }
        self.take(length, what)
    }

    /// A string that must be UTF-8.
    pub(crate) fn string(&mut self, limit: u64, what: What<'_>) -> Result<&'a str, GgufError> {
        let bytes = self.string_bytes(limit, what)?;
        std::str::from_utf8(bytes).map_err(|e| GgufError::BadUtf8 {
            offset: self.offset() - bytes.len() as u64 + e.valid_up_to() as u64,
            what: what.to_string(),
        })
    }

    /// A count of records of at least `min_bytes` bytes each: at most `limit`, and at most as many as fit in the rest.
    pub(crate) fn count(&mut self, limit: u64, min_bytes: u64, what: What<'_>) -> Result<usize, GgufError> {
        let offset = self.offset();
        let count = self.length(what)?;
        self.check_count(offset, count, limit, min_bytes, what)
    }

    /// [`Cursor::count`] for a count that has already been read at `offset`.
    pub(crate) fn check_count(
        &self,
        offset: u64,
        count: u64,
        limit: u64,
        min_bytes: u64,
        what: What<'_>,
    ) -> Result<usize, GgufError> {
        let fit = self.left() / min_bytes.max(1);
        let too_large = |limit, reason| {
            Err(GgufError::CountTooLarge { offset, what: what.to_string(), count, limit, reason })
        };
        if count > limit {
            return too_large(limit, "are accepted");
        }
        if count > fit {
            return too_large(fit, "fit in the rest of the file");
        }
        usize::try_from(count).or_else(|_| too_large(limit, "are accepted"))
    }
}

/// Whether a key or name may be shown and matched as it is: no control characters (so no NUL, no escape sequences).
pub(crate) fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// A metadata key: not empty, at most [`limits::MAX_KEY_BYTES`] bytes, UTF-8, without control characters.
pub(crate) fn read_key<'a>(c: &mut Cursor<'a>) -> Result<&'a str, GgufError> {
    let offset = c.offset();
    let key = match c.string(limits::MAX_KEY_BYTES, format_args!("a metadata key")) {
        Err(GgufError::StringTooLong { length, .. }) if length <= c.left() => {
            return Err(GgufError::BadKey { offset, key: "…".into(), why: "is longer than 65535 bytes" });
        }
        other => other?,
    };
    let bad = |why| Err(GgufError::BadKey { offset, key: crate::error::printable(key), why });
    if key.is_empty() {
        return bad("is empty");
    }
    if !is_plain(key) {
        return bad("holds control characters");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stop_at_the_end() {
        let mut c = Cursor::new(&[1, 0, 0, 0, 9]);
        assert_eq!(c.u32(format_args!("x")), Ok(1));
        let err = c.u64(format_args!("the thing")).unwrap_err();
        let expect = GgufError::Truncated { offset: 4, what: "the thing".into(), needed: 8, available: 1 };
        assert_eq!(err, expect);
        assert_eq!(c.u8(format_args!("y")), Ok(9));
        assert_eq!(c.left(), 0);
        assert!(c.take(u64::MAX, format_args!("z")).is_err());
    }

    #[test]
    fn counts_are_bounded_by_the_bytes_left() {
        let bytes = [3u64.to_le_bytes(), [0; 8]].concat();
        assert_eq!(Cursor::new(&bytes).count(10, 2, format_args!("n")), Ok(3));
        assert_eq!(Cursor::new(&bytes).count(2, 2, format_args!("n")).unwrap_err().kind(), "CountTooLarge");
        assert_eq!(Cursor::new(&bytes).count(10, 4, format_args!("n")).unwrap_err().kind(), "CountTooLarge");
    }

    #[test]
    fn lengths_of_version_1_are_narrow() {
        let bytes = [&3u32.to_le_bytes()[..], b"abc", &2u32.to_le_bytes(), &[7, 8]].concat();
        let mut c = Cursor::with_width(&bytes, Width::Narrow);
        assert_eq!(c.string(10, format_args!("s")), Ok("abc"));
        assert_eq!(c.count(10, 1, format_args!("n")), Ok(2));
        assert_eq!(c.left(), 2);
    }

    #[test]
    fn bad_utf8_is_located() {
        let mut bytes = 3u64.to_le_bytes().to_vec();
        bytes.extend([b'a', 0xff, b'b']);
        let err = Cursor::new(&bytes).string(10, format_args!("s")).unwrap_err();
        assert_eq!(err, GgufError::BadUtf8 { offset: 9, what: "s".into() });
    }
}
