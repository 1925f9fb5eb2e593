//! Tests of mappings and buffers.

use super::*;

fn file_with(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

#[test]
fn every_mode_gives_the_bytes() {
    let bytes: Vec<u8> = (0..300_000u32).map(|i| i as u8 ^ (i >> 8) as u8).collect();
    let file = file_with(&bytes);
    for mode in [MapMode::Mapped, MapMode::Populated, MapMode::Copied] {
        let mapping = Mapping::open(file.path(), mode).unwrap();
        assert_eq!(mapping.as_slice(), bytes);
        assert_eq!(mapping.is_mapped(), mode != MapMode::Copied);
        assert_eq!(mapping.as_slice().as_ptr().addr() % 64, 0);
    }
}

#[test]
fn copies_are_whole_at_every_border_of_parts() {
    for length in [READ_AT_ONCE - 1, READ_AT_ONCE, 2 * READ_AT_ONCE + 5] {
        let bytes: Vec<u8> = (0..length as u32).map(|i| (i ^ (i >> 7) ^ (i >> 17)) as u8).collect();
        let file = file_with(&bytes);
        assert!(Mapping::open(file.path(), MapMode::Copied).unwrap().as_slice() == bytes);
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_read_is_named() {
    let file = file_with(&[7; 100]);
    let opened = File::open(file.path()).unwrap();
    for length in [101, READ_AT_ONCE + 1, 3 * READ_AT_ONCE] {
        match read_all(&opened, length, file.path()) {
            Err(MapError::Shrunk { expected, found, .. }) => assert_eq!((expected, found), (length, 100)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_copy_does_not_follow_the_file() {
    let file = file_with(b"before");
    let mapping = Mapping::open(file.path(), MapMode::Copied).unwrap();
    std::fs::write(file.path(), b"after!").unwrap();
    assert_eq!(mapping.as_slice(), b"before");
}

#[test]
fn empty_files_are_empty() {
    let file = file_with(b"");
    for mode in [MapMode::Mapped, MapMode::Copied] {
        assert_eq!(Mapping::open(file.path(), mode).unwrap().as_slice(), b"");
    }
}

#[test]
fn missing_files_are_named() {
    let error = Mapping::open(Path::new("/no/such/model.gguf"), MapMode::Mapped).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/no/such/model.gguf") && text.contains("os error 2"), "{text}");
}

#[cfg(unix)]
#[test]
fn other_kinds_of_files_are_refused_at_once() {
    let kind = |path: &Path| match Mapping::open(path, MapMode::Mapped) {
        Err(MapError::NotAFile { kind, .. }) => kind,
        other => panic!("{other:?}"),
    };
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(kind(directory.path()), "a directory");
    assert_eq!(kind(Path::new("/dev/zero")), "a device");
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    assert_eq!(kind(&pipe), "a named pipe");
}

#[test]
fn buffers_are_zeroed_aligned_and_writable() {
    for len in [0, 1, 63, 4096, 5 << 20] {
        let mut buffer = AlignedBuffer::zeroed(len).unwrap();
        assert_eq!((buffer.len(), buffer.is_empty()), (len, len == 0));
        assert!(buffer.as_slice().iter().all(|&byte| byte == 0));
        assert_eq!(buffer.as_ptr().addr() % AlignedBuffer::ALIGNMENT, 0);
        buffer.as_mut_slice().fill(7);
        assert_eq!(buffer.as_slice().iter().filter(|&&byte| byte == 7).count(), len);
        assert_eq!(buffer.as_mut_ptr().cast_const(), buffer.as_ptr());
    }
}

#[test]
fn impossible_sizes_are_errors() {
    assert!(AlignedBuffer::zeroed(usize::MAX).is_err());
}

#[cfg(target_os = "linux")]
#[test]
fn guarded_buffers_stand_between_pages_without_access() {
    let page = rustix::param::page_size();
    for len in [1, 64, page - 1, page, 3 * page + 5] {
        let (map, start) = map_guarded(len).unwrap();
        let first = map.as_ptr().addr() + start;
        assert!(first.is_multiple_of(AlignedBuffer::ALIGNMENT));
        let end = first + len.next_multiple_of(AlignedBuffer::ALIGNMENT);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let access = |address: usize| {
            let line = maps.lines().find(|line| {
                let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
                let [from, to] = [from, to].map(|hex| usize::from_str_radix(hex, 16).unwrap());
                (from..to).contains(&address)
            });
            line.unwrap_or_else(|| panic!("{address:x}")).split(' ').nth(1).unwrap().to_owned()
        };
        assert_eq!((access(end - 1), access(end)), ("rw-p".to_owned(), "---p".to_owned()), "{len}");
        assert_eq!(access(first / page * page - 1), "---p", "{len}");
    }
}
