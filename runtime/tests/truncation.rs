//! Files that are cut short while they are mapped. The handler of SIGBUS is the process', so these tests have one of their own.
#![cfg(unix)]

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use bitnetc_runtime::map::{MapMode, Mapping, any_lost, survive_truncation};

const LENGTH: usize = 1 << 20;

fn file(folder: &Path, name: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    let bytes: Vec<u8> = (0..LENGTH).map(|i| (i / 4096) as u8 | 1).collect();
    std::fs::File::create(&path).unwrap().write_all(&bytes).unwrap();
    path
}

fn cut(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[test]
fn lost_pages_read_as_zeros_and_are_told_of() {
    survive_truncation().unwrap();
    survive_truncation().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let other = Mapping::open(&file(folder.path(), "other"), MapMode::Mapped).unwrap();
    assert!(!any_lost());
    for round in 0..100u64 {
        let path = file(folder.path(), "cut");
        let mapping =
            Mapping::open(&path, [MapMode::Mapped, MapMode::Populated][round as usize % 2]).unwrap();
        assert_eq!(mapping.as_slice()[LENGTH - 1], 255);
        mapping.check().unwrap();
        let left = round * 4096 * 2;
        cut(&path, left);
        // Kernels read from many threads.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let sum: u64 =
                        mapping.as_slice()[left as usize..].iter().map(|&byte| u64::from(byte)).sum();
                    assert_eq!(sum, 0);
                });
            }
        });
        assert!(mapping.as_slice()[..left as usize].iter().all(|&byte| byte != 0));
        let error = mapping.check().unwrap_err().to_string();
        assert!(error.contains("cut") && error.contains("while it was in use"), "{error}");
    }
    assert!(any_lost());
    other.check().unwrap();
    assert_eq!(other.as_slice()[LENGTH - 1], 255);
}
