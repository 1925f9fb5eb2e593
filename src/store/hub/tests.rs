//! The Hub against a server in this process, with faults on demand.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use bitnetc_frontend_gguf::testing::TinyModel;

use super::*;
use crate::error::Error;
use crate::load::LoadOptions;
use crate::store::{Opening, PlanCache, Used, open};

#[path = "../../../tests/common/hub_server.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod hub_server;

use hub_server::{COMMIT, Fault, NEWER, Server, answer, git_hash, listen, read_request, sha256};

/// A server and a cache.
struct Setup {
    server: Server,
    folder: tempfile::TempDir,
}

impl std::ops::Deref for Setup {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl Setup {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        Self { server: Server::new(files), folder: tempfile::tempdir().unwrap() }
    }

    fn hub(&self) -> Hub {
        let settings = HubSettings {
            endpoint: self.endpoint.clone(),
            cache: self.folder.path().join("hub"),
            token: Some("secret".to_owned()),
            offline: false,
        };
        let patience = Patience { attempts: 3, first_wait: Duration::from_millis(1) };
        Hub { patience, ..Hub::new(settings) }
    }

    fn offline(&self) -> Hub {
        let hub = self.hub();
        Hub::new(HubSettings { offline: true, ..hub.settings })
    }

    fn pull(&self, name: &str) -> Result<Pulled, StoreError> {
        self.hub().pull(&name.parse().unwrap(), &mut |_| true)
    }
}

/// Bytes that differ everywhere.
fn content(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Bytes of a file that are here.
fn done(progress: &Progress) -> u64 {
    match progress {
        Progress::Asking => 0,
        Progress::File { done, .. } => *done,
    }
}

/// No file of the cache has an unfinished name.
fn assert_nothing_unfinished(cache: &Path) {
    let blobs = cache.join("models--org--repo/blobs");
    let names: Vec<_> = std::fs::read_dir(blobs).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().contains('.')), "{names:?}");
}

#[test]
fn a_model_is_fetched_into_the_layout_of_the_hubs_own_tools() {
    let bytes = content(1, 3_000_000);
    let server = Setup::new(&[("README.md", b"hi".to_vec()), ("model.gguf", bytes.clone())]);
    let mut seen = Vec::new();
    let pulled = server.hub().pull(&"hf:org/repo".parse().unwrap(), &mut |p| {
        if let Progress::File { done, total, .. } = p {
            seen.push((*done, *total));
        }
        true
    });
    let pulled = pulled.unwrap();
    assert_eq!((pulled.bytes, pulled.fetched, pulled.commit.as_str()), (3_000_000, 1, COMMIT));
    assert_eq!(std::fs::read(&pulled.path).unwrap(), bytes);
    assert!(seen.len() >= 3 && seen.is_sorted() && *seen.last().unwrap() == (3_000_000, 3_000_000));

    let root = server.folder.path().join("hub/models--org--repo");
    assert_eq!(std::fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let snapshot = root.join("snapshots").join(COMMIT).join("model.gguf");
    assert_eq!(pulled.path, snapshot);
    #[cfg(unix)]
    assert_eq!(std::fs::read_link(&snapshot).unwrap(), Path::new(&format!("../../blobs/{}", sha256(&bytes))));
    assert_nothing_unfinished(&server.folder.path().join("hub"));

    // The token went to the Hub and not to its storage.
    for request in &server.state().requests {
        assert_eq!(request.token.as_deref(), (!request.storage).then_some("Bearer secret"), "{request:?}");
    }

    // A second time nothing is fetched; from the cache nothing is asked.
    assert_eq!(server.pull("hf:org/repo").unwrap().fetched, 0);
    assert_eq!(server.ranges().len(), 1);
    let requests = server.state().requests.len();
    let got = server.hub().get(&"hf:org/repo:model.gguf".parse().unwrap(), &mut |_| true).unwrap();
    assert_eq!((got.path, server.state().requests.len()), (snapshot, requests));
}

#[test]
fn broken_connections_go_on_where_they_broke() {
    let bytes = content(2, 2_500_000);
    let server = Setup::new(&[("model.gguf", bytes.clone())]);
    server.faults(&[Fault::CutAfter(700_000), Fault::Silent, Fault::Status(503), Fault::CutAfter(1_000_000)]);
    let pulled = server.pull("hf:org/repo").unwrap();
    assert_eq!(std::fs::read(pulled.path).unwrap(), bytes);
    let ranges = server.ranges();
    let expected = [None, Some(700_000), Some(700_000), Some(700_000), Some(1_700_000)];
    assert_eq!(ranges, expected.map(|from| from.map(|n: u32| format!("bytes={n}-"))));
}

#[test]
fn an_interrupted_pull_goes_on_in_another_process() {
    let bytes = content(3, 4_000_000);
    let server = Setup::new(&[("model.gguf", bytes.clone())]);
    let stopped = server.hub().pull(&"hf:org/repo".parse().unwrap(), &mut |p| done(p) < 2_000_000);
    assert!(matches!(stopped, Err(StoreError::Interrupted)));
    assert_eq!(server.hub().find(&"hf:org/repo".parse().unwrap()).unwrap(), None);
    let pulled = server.pull("hf:org/repo").unwrap();
    assert_eq!(std::fs::read(pulled.path).unwrap(), bytes);
    let ranges = server.ranges();
    assert_eq!(ranges.len(), 2);
    let from: usize = ranges[1].as_deref().unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
    assert!((2_000_000..4_000_000).contains(&from), "{from}");
}

#[test]
fn a_server_that_stays_away_is_given_up() {
    let server = Setup::new(&[("model.gguf", content(4, 1000))]);
    server.faults(&[Fault::Silent; 3]);
    let error = server.pull("hf:org/repo").unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { attempts: 3, .. }), "{error}");
    // What failed before counts no more once something has arrived.
    server.faults(&[Fault::Silent, Fault::Silent, Fault::CutAfter(10), Fault::Silent, Fault::Silent]);
    server.pull("hf:org/repo").unwrap();
    server.state().statuses = VecDeque::from([502; 3]);
    assert!(matches!(server.pull("hf:org/repo"), Err(StoreError::Unreachable { .. })));
    server.state().statuses = VecDeque::from([429, 500]);
    server.pull("hf:org/repo").unwrap();
}

#[test]
fn bytes_that_are_not_the_announced_ones_never_become_a_blob() {
    let bytes = content(5, 100_000);
    let server = Setup::new(&[("model.gguf", bytes.clone())]);
    server.faults(&[Fault::Damages]);
    let error = server.pull("hf:org/repo").unwrap_err();
    assert!(
        matches!(&error, StoreError::Checksum { algorithm: "SHA-256", expected, .. } if *expected == sha256(&bytes)),
        "{error}"
    );
    assert_eq!(server.hub().find(&"hf:org/repo".parse().unwrap()).unwrap(), None);
    // Damage in what an earlier run has left.
    let blobs = server.folder.path().join("hub/models--org--repo/blobs");
    let unfinished = blobs.join(format!("{}.incomplete", sha256(&bytes)));
    std::fs::write(&unfinished, &bytes[1..5001]).unwrap();
    assert!(matches!(server.pull("hf:org/repo"), Err(StoreError::Checksum { .. })));
    // Too much of it, and all of it.
    std::fs::write(&unfinished, [bytes.clone(), bytes.clone()].concat()).unwrap();
    assert_eq!(std::fs::read(server.pull("hf:org/repo").unwrap().path).unwrap(), bytes);
    server.hub().cache().remove(&RepoId { owner: "org".into(), name: "repo".into() }, None).unwrap();
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(&unfinished, &bytes).unwrap();
    let before = server.ranges().len();
    assert_eq!(std::fs::read(server.pull("hf:org/repo").unwrap().path).unwrap(), bytes);
    assert_eq!(server.ranges().len(), before);
    assert_nothing_unfinished(&server.folder.path().join("hub"));
}

#[test]
fn servers_that_do_not_resume_are_coped_with() {
    let bytes = content(6, 300_000);
    let server = Setup::new(&[("model.gguf", bytes.clone())]);
    server.faults(&[Fault::CutAfter(100_000), Fault::IgnoresRange]);
    assert_eq!(std::fs::read(server.pull("hf:org/repo").unwrap().path).unwrap(), bytes);
    server.hub().cache().remove(&RepoId { owner: "org".into(), name: "repo".into() }, None).unwrap();
    server.faults(&[Fault::CutAfter(100_000), Fault::WrongRange]);
    assert!(matches!(server.pull("hf:org/repo"), Err(StoreError::Answer { .. })));
    server.faults(&[Fault::Status(416)]);
    assert_eq!(std::fs::read(server.pull("hf:org/repo").unwrap().path).unwrap(), bytes);
}

#[test]
fn bytes_that_come_again_are_no_progress() {
    let server = Setup::new(&[("model.gguf", content(12, 300_000))]);
    server.faults(&[Fault::NeverResumes(50_000)]);
    let error = server.pull("hf:org/repo").unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { attempts: 3, .. }), "{error}");
}

/// A server that answers every request with this.
fn hub_of(folder: &Path, reply: impl Fn(&str, &mut std::net::TcpStream) + Send + 'static) -> Hub {
    let address = listen(move |mut stream| {
        if let Some(seen) = read_request(&mut stream, false) {
            reply(&seen.line, &mut stream);
        }
    });
    let (endpoint, cache) = (format!("http://{address}"), folder.join("hub"));
    let patience = Patience { attempts: 2, first_wait: Duration::from_millis(1) };
    Hub { patience, ..Hub::new(HubSettings { endpoint, cache, token: None, offline: false }) }
}

/// The server says nothing for as long as the client listens: what ends the work is that it was asked for.
#[test]
fn a_silent_server_is_left_when_that_is_asked_for() {
    let server = Setup::new(&[("model.gguf", content(13, 300_000))]);
    server.faults(&[Fault::Hangs(1000)]);
    let mut told = 0;
    let stopped = server.hub().pull(&"hf:org/repo".parse().unwrap(), &mut |p| {
        told += u32::from(done(p) == 1000);
        told < 3
    });
    assert!(matches!(stopped, Err(StoreError::Interrupted)), "{stopped:?}");
    for silent_about in ["GET /api", "HEAD /"] {
        let folder = tempfile::tempdir().unwrap();
        let body = format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{{\"rfilename\":\"a.gguf\"}}]}}");
        let hub = hub_of(folder.path(), move |line, stream| match line.starts_with(silent_about) {
            true => drop(std::io::Read::read(stream, &mut [0])),
            false => answer(stream, 200, "", body.as_bytes(), body.len()),
        });
        let mut asked = 0;
        let stopped = hub.pull(&"hf:o/r".parse().unwrap(), &mut |p| {
            asked += u32::from(*p == Progress::Asking);
            asked < 3
        });
        assert!(matches!(stopped, Err(StoreError::Interrupted)), "{silent_about}: {stopped:?}");
    }
}

#[test]
fn what_a_server_states_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let pull = |siblings: String| {
        let body = format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{siblings}]}}");
        let hub =
            hub_of(folder.path(), move |_, stream| answer(stream, 200, "", body.as_bytes(), body.len()));
        hub.pull(&"hf:o/r".parse().unwrap(), &mut |_| true).unwrap_err()
    };
    // Lists in lists, which have no names, and more of them than a tree of values has room for.
    let error = pull(vec!["0"; 4_000_000].join(","));
    assert!(matches!(&error, StoreError::Answer { why, .. } if why.contains("lists no files")), "{error}");
    let error = pull(format!("[{}]", vec!["0"; 4_000_000].join(",")));
    assert!(matches!(&error, StoreError::Answer { why, .. } if why.contains("lists no files")), "{error}");
    let named =
        |n: usize| (0..n).map(|i| format!("{{\"rfilename\":\"x{i}.gguf\"}}")).collect::<Vec<_>>().join(",");
    let error = pull(named(30_000)).to_string();
    assert!(error.len() < 2000 && error.contains("and 29980 more"), "{error}");
    let error = pull(named(200_001));
    assert!(matches!(&error, StoreError::Answer { why, .. } if why.contains("200000 files")), "{error}");
    let error = pull(format!("{{\"rfilename\":\"{}\"}}", "x".repeat(33 << 20)));
    assert!(matches!(&error, StoreError::Answer { why, .. } if why.contains("longer than")), "{error}");
}

/// A server that has one file, of this size and with this hash.
fn with_file(folder: &Path, size: u64, etag: &'static str, bytes: &'static [u8]) -> Hub {
    hub_of(folder, move |line, stream| {
        let body = format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{{\"rfilename\":\"a.gguf\"}}]}}");
        let headers = format!("X-Linked-Size: {size}\r\nETag: \"{etag}\"\r\n");
        match line.starts_with("GET /api") {
            true => answer(stream, 200, "", body.as_bytes(), body.len()),
            false if line.starts_with("HEAD") => answer(stream, 200, &headers, b"", 0),
            false => answer(stream, 200, &headers, bytes, bytes.len()),
        }
    })
}

#[cfg(unix)]
#[test]
fn more_than_the_disk_has_room_for_is_not_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let hub = with_file(folder.path(), 63 << 40, "abc", b"GGUF");
    let error = hub.pull(&"hf:o/r".parse().unwrap(), &mut |_| true).unwrap_err();
    assert!(matches!(error, StoreError::NoRoom { needed, .. } if needed == 63 << 40), "{error}");
}

#[test]
fn a_file_without_a_hash_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let pulled = with_file(folder.path(), 4, "abc", b"GGUF").pull(&"hf:o/r".parse().unwrap(), &mut |_| true);
    assert_eq!(pulled.unwrap().unchecked, ["a.gguf"]);
    let server = Setup::new(&[("model.gguf", content(14, 100))]);
    assert_eq!(server.pull("hf:org/repo").unwrap().unchecked, [""; 0]);
}

/// A user who can write to the cache cannot have other files written or removed by a command of another user.
#[cfg(unix)]
#[test]
fn links_in_the_cache_do_not_lead_out_of_it() {
    use std::os::unix::fs::symlink;
    let name = "hf:org/repo".parse().unwrap();
    let repo = RepoId { owner: "org".into(), name: "repo".into() };
    for (place, is_folder) in
        [("", true), ("blobs", true), ("snapshots", true), ("refs", true), ("refs/main", false)]
    {
        let server = Setup::new(&[("model.gguf", content(15, 1000))]);
        let outside = server.folder.path().join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("precious"), "kept").unwrap();
        let link = server.folder.path().join("hub/models--org--repo").join(place);
        let link = link.components().collect::<std::path::PathBuf>();
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(if is_folder { outside.clone() } else { outside.join("precious") }, &link).unwrap();
        let error = server.hub().pull(&name, &mut |_| true).unwrap_err();
        assert!(matches!(&error, StoreError::Link { path } if *path == link), "{place}: {error}");
        let _ = server.hub().cache().remove(&repo, Some("model.gguf"));
        let _ = server.hub().cache().remove(&repo, None);
        let left: Vec<_> = std::fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["precious"], "{place}");
        assert_eq!(std::fs::read(outside.join("precious")).unwrap(), b"kept", "{place}");
    }
    // The place where a file arrives.
    let server = Setup::new(&[("model.gguf", content(15, 1000))]);
    let blobs = server.folder.path().join("hub/models--org--repo/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let link = blobs.join(format!("{}.incomplete", sha256(&content(15, 1000))));
    symlink(server.folder.path().join("outside"), &link).unwrap();
    let error = server.hub().pull(&name, &mut |_| true).unwrap_err();
    assert!(matches!(&error, StoreError::Link { path } if *path == link), "{error}");
    assert!(!server.folder.path().join("outside").exists());
}

#[test]
fn refusals_say_what_to_do() {
    let server = Setup::new(&[("model.gguf", content(7, 100))]);
    server.state().needs_token = Some("Bearer other".to_owned());
    let error = server.pull("hf:org/repo").unwrap_err().to_string();
    assert!(error.contains("401") && error.contains("HF_TOKEN"), "{error}");
    server.state().needs_token = None;
    for name in ["hf:org/absent", "hf:org/repo@v9"] {
        let error = server.pull(name).unwrap_err();
        assert!(matches!(error, StoreError::Status { status: 404, .. }), "{error}");
    }
    let error = server.pull("hf:org/repo:other.gguf").unwrap_err().to_string();
    assert!(error.contains("other.gguf") && error.contains("model.gguf"), "{error}");
    server.faults(&[Fault::Status(403)]);
    assert!(matches!(server.pull("hf:org/repo"), Err(StoreError::Status { status: 403, .. })));
    let settings = HubSettings { endpoint: "http://127.0.0.1:1".to_owned(), ..server.hub().settings };
    let patience = Patience { attempts: 2, first_wait: Duration::from_millis(1) };
    let nowhere = Hub { patience, ..Hub::new(settings) };
    let error = nowhere.pull(&"hf:org/repo".parse().unwrap(), &mut |_| true).unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
}

#[test]
fn offline_asks_nobody() {
    let server = Setup::new(&[("model.gguf", content(8, 1000))]);
    let name = "hf:org/repo".parse().unwrap();
    let error = server.offline().pull(&name, &mut |_| true).unwrap_err();
    assert!(matches!(error, StoreError::Offline { .. }), "{error}");
    assert_eq!(server.state().requests.len(), 0);
    let pulled = server.pull("hf:org/repo").unwrap();
    let requests = server.state().requests.len();
    assert_eq!(server.offline().pull(&name, &mut |_| true).unwrap().path, pulled.path);
    assert_eq!(server.state().requests.len(), requests);
}

#[test]
fn a_new_commit_keeps_the_old_snapshot() {
    let server = Setup::new(&[("model.gguf", content(9, 1000)), ("config.json", b"{}".to_vec())]);
    let old = server.pull("hf:org/repo:model.gguf").unwrap();
    server.state().commit = NEWER.to_owned();
    server.state().files.insert("model.gguf".to_owned(), content(10, 2000));
    // Without asking, the revision is what it was.
    assert_eq!(server.hub().get(&"hf:org/repo".parse().unwrap(), &mut |_| true).unwrap().path, old.path);
    let new = server.pull("hf:org/repo:model.gguf").unwrap();
    assert_eq!((new.bytes, new.commit.as_str()), (2000, NEWER));
    assert_eq!(std::fs::read(&old.path).unwrap(), content(9, 1000));
    let by_commit = format!("hf:org/repo@{COMMIT}:model.gguf").parse().unwrap();
    assert_eq!(server.hub().find(&by_commit).unwrap().unwrap().path, old.path);
    assert_eq!(server.hub().cache().list().unwrap().len(), 2);
}

#[test]
fn small_files_are_checked_by_their_git_hash_and_names_redirect() {
    let server = Setup::new(&[("sub/tiny.gguf", content(11, 500))]);
    server.state().small.push("sub/tiny.gguf".to_owned());
    let pulled = server.pull("hf:org/repo:sub/tiny.gguf").unwrap();
    assert_eq!(std::fs::read(&pulled.path).unwrap(), content(11, 500));
    assert_eq!(server.ranges().len(), 0);
    let blob = std::fs::canonicalize(&pulled.path).unwrap();
    assert_eq!(blob.file_name().unwrap().to_str().unwrap(), git_hash(&content(11, 500)));
    let client = server.hub();
    let (commit, _) =
        client.describe(&RepoId { owner: "old".into(), name: "name".into() }, "main", &mut |_| true).unwrap();
    assert_eq!(commit, COMMIT);
}

#[test]
fn the_model_of_a_repository_is_found_or_asked_for() {
    let repo = RepoId { owner: "o".into(), name: "r".into() };
    let choose = |files: &[&str], wanted| {
        let files: Vec<String> = files.iter().map(|f| (*f).to_owned()).collect();
        choose(&repo, &files, wanted)
    };
    assert_eq!(choose(&["README.md", "a.gguf"], None).unwrap(), ["a.gguf"]);
    let split = ["x/m-00001-of-00002.gguf", "x/m-00002-of-00002.gguf", "b.txt"];
    assert_eq!(choose(&split, None).unwrap(), split[..2]);
    assert_eq!(choose(&split, Some("x/m-00001-of-00002.gguf")).unwrap(), split[..2]);
    assert!(matches!(choose(&split[..1], None), Err(StoreError::NoFile { .. })));
    let two = ["m-I2_S.gguf", "m-tq1_0.gguf"];
    assert_eq!(choose(&two, Some("i2_s")).unwrap(), ["m-I2_S.gguf"]);
    let error = choose(&two, None).unwrap_err();
    assert!(matches!(&error, StoreError::Ambiguous { files, .. } if files.len() == 2), "{error}");
    assert!(error.to_string().contains("hf:o/r:m-tq1_0.gguf"), "{error}");
    assert!(matches!(choose(&two, Some("q8")), Err(StoreError::NoFile { .. })));
    assert!(matches!(choose(&["config.json"], None), Err(StoreError::NoFile { .. })));
}

#[test]
fn refusals_that_last_are_not_repeated() {
    for status in [401, 403, 404, 410] {
        let server = Setup::new(&[("model.gguf", content(15, 1000))]);
        server.state().statuses = VecDeque::from([status; 3]);
        let error = server.pull("hf:org/repo").unwrap_err();
        assert!(matches!(error, StoreError::Status { status: found, .. } if found == status), "{error}");
        assert_eq!(server.state().requests.len(), 1, "{status}");
    }
    let folder = tempfile::tempdir().unwrap();
    let settings = HubSettings {
        endpoint: "http://no-such-host.invalid".to_owned(),
        cache: folder.path().to_owned(),
        token: None,
        offline: false,
    };
    // A second try would wait for longer than the test may take.
    let patience = Patience { attempts: 3, first_wait: Duration::from_secs(600) };
    let hub = Hub { patience, ..Hub::new(settings) };
    let error = hub.pull(&"hf:org/repo".parse().unwrap(), &mut |_| true).unwrap_err();
    assert!(matches!(error, StoreError::NoNetwork { .. }), "{error}");
}

#[test]
fn answers_that_are_no_json_are_named() {
    let empty = format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[]}}");
    for (body, expected) in [
        (&b"\x1f\x8b\x08\0\0"[..], "compressed (gzip)"),
        (b"\n<!DOCTYPE html><html>", "an HTML page"),
        (b"", "the answer is empty"),
        (b"OK", "it is not its JSON"),
        (empty.as_bytes(), "lists no files for o/r"),
    ] {
        let (folder, body) = (tempfile::tempdir().unwrap(), body.to_vec());
        let hub = hub_of(folder.path(), move |_, stream| answer(stream, 200, "", &body, body.len()));
        let error = hub.pull(&"hf:o/r".parse().unwrap(), &mut |_| true).unwrap_err();
        assert!(matches!(&error, StoreError::Answer { why, .. } if why.contains(expected)), "{error}");
    }
}

#[test]
fn what_an_earlier_run_has_left_is_hashed_visibly() {
    let bytes = content(16, 3_000_000);
    let server = Setup::new(&[("model.gguf", bytes.clone())]);
    let blobs = server.folder.path().join("hub/models--org--repo/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{}.incomplete", sha256(&bytes))), &bytes[..2_900_000]).unwrap();
    let name = "hf:org/repo".parse().unwrap();
    let mut seen = Vec::new();
    server
        .hub()
        .pull(&name, &mut |p| {
            seen.push(done(p));
            true
        })
        .unwrap();
    assert!(seen.iter().filter(|done| (1..2_900_000).contains(*done)).count() >= 2, "{seen:?}");
}

#[test]
fn nonsense_from_the_server_is_refused() {
    for body in ["", "[]", "{\"sha\":\"x\"}", "{\"sha\":7,\"siblings\":{}}"] {
        let length = body.len();
        let address = listen(move |mut stream| {
            read_request(&mut stream, false);
            answer(&mut stream, 200, "", body.as_bytes(), length);
        });
        let folder = tempfile::tempdir().unwrap();
        let settings = HubSettings {
            endpoint: format!("http://{address}"),
            cache: folder.path().to_owned(),
            token: None,
            offline: false,
        };
        let error = Hub::new(settings).pull(&"hf:org/repo".parse().unwrap(), &mut |_| true).unwrap_err();
        assert!(matches!(error, StoreError::Answer { .. } | StoreError::NoFile { .. }), "{body}: {error}");
    }
}

#[test]
fn a_model_opens_by_its_name_and_the_work_can_be_stopped() {
    let server = Setup::new(&[("tiny.gguf", TinyModel::default().to_gguf())]);
    let plans = PlanCache::new(server.folder.path().join("plans"));
    let (name, options) = ("hf:org/repo".parse().unwrap(), LoadOptions::default());
    let open_with =
        |watch: &mut dyn FnMut(&Opening) -> bool| open(&name, &server.hub(), &plans, &options, watch);
    let stopped = open_with(&mut |step| !matches!(step, Opening::Fetching(_)));
    assert!(matches!(stopped, Err(Error::Store(StoreError::Interrupted))), "{stopped:?}");
    let stopped = open_with(&mut |step| !matches!(step, Opening::Compiling { .. }));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    // The file is there by now; what is left is to compile it, once.
    let mut steps = Vec::new();
    let opened = open_with(&mut |step| {
        steps.push(step.clone());
        true
    });
    assert_eq!(opened.unwrap().1, Used::Compiled);
    assert!(
        !steps.is_empty() && steps.iter().all(|step| matches!(step, Opening::Compiling { .. })),
        "{steps:?}"
    );
    assert_eq!(open_with(&mut |_| false).unwrap().1, Used::Found);
}
