//! Just enough of GGUF (version 3) to read the tensors of the test models: an independent reading, for tests only.

use std::collections::BTreeMap;

/// A tensor: type id, sizes (fastest first) and data.
pub(crate) struct Stored<'a> {
    pub(crate) type_id: u32,
    pub(crate) dims: Vec<u64>,
    pub(crate) data: &'a [u8],
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        self.at += n;
        &self.bytes[self.at - n..self.at]
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("4 bytes"))
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("8 bytes"))
    }
    fn string(&mut self) -> String {
        let n = self.u64() as usize;
        String::from_utf8_lossy(self.take(n)).into_owned()
    }
    fn skip_value(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            10..=12 => self.at += 8,
            8 => drop(self.string()),
            9 => {
                let (kind, n) = (self.u32(), self.u64());
                (0..n).for_each(|_| self.skip_value(kind));
            }
            other => panic!("value type {other}"),
        }
    }
}

/// The tensors of a file by name; each one's data runs to the end of the file.
pub(crate) fn tensors(bytes: &[u8]) -> BTreeMap<String, Stored<'_>> {
    let mut c = Cursor { bytes, at: 0 };
    assert_eq!((c.take(4), c.u32()), (&b"GGUF"[..], 3));
    let (tensors, values) = (c.u64(), c.u64());
    for _ in 0..values {
        c.string();
        let kind = c.u32();
        c.skip_value(kind);
    }
    let mut infos = Vec::new();
    for _ in 0..tensors {
        let name = c.string();
        let n = c.u32();
        let dims: Vec<u64> = (0..n).map(|_| c.u64()).collect();
        infos.push((name, dims, c.u32(), c.u64() as usize));
    }
    let start = c.at.next_multiple_of(32);
    let read = |(name, dims, type_id, offset): (String, Vec<u64>, u32, usize)| {
        (name, Stored { type_id, dims, data: &bytes[start + offset..] })
    };
    infos.into_iter().map(read).collect()
}
