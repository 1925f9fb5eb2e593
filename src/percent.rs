//! Percent-encoding of addresses (RFC 3986, section 2.1).

/// The bytes that a part of an address stands for. A `%` that no two hexadecimal digits follow is itself.
pub fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_bytes_and_everything_else_is_itself() {
        assert_eq!(decoded("hf%3Aorg%2Frepo:x.gguf"), b"hf:org/repo:x.gguf");
        assert_eq!(decoded("%zz%4%+1%ff%"), b"%zz%4%+1\xff%");
    }
}
