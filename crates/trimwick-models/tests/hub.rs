//! Hub models, from a server of our own on the loopback interface and from the cache it fills.
#![cfg(feature = "hub")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use trimwick_models::source::{HubOptions, ModelFiles, ModelSource, OpenOptions, Secret, open};
use trimwick_models::{Error, Result};

const ID: &str = "test-org/tiny.llama_v2";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_VerySecretToken";

/// How the server misbehaves.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Answers 401 and repeats the request's headers in its error message.
    Denied,
    /// Answers downloads, not their announcements, with an error page.
    HalfWay,
}

#[derive(Debug, Clone)]
struct Request {
    method: String,
    path: String,
    authorization: Option<String>,
}

/// A hub that serves one repository at one commit.
struct Server {
    address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(files: BTreeMap<String, Vec<u8>>, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        // The thread ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = serve(stream, &files, fault, &log);
            }
        });
        Self { address, seen }
    }

    fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    fn options(&self, cache: &Path) -> HubOptions {
        HubOptions {
            cache_dir: Some(cache.into()),
            endpoint: Some(self.address.clone()),
            token: Some(Secret::new(TOKEN)),
            ..HubOptions::default()
        }
    }
}

fn serve(
    mut stream: TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    fault: Fault,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ').map(str::to_string);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut authorization = None;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            authorization = Some(value.to_string());
        }
    }
    log.lock().unwrap().push(Request {
        method: method.clone(),
        path: path.clone(),
        authorization: authorization.clone(),
    });
    let mut answer = |status: &str, headers: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n{headers}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        if method != "HEAD" { stream.write_all(body) } else { Ok(()) }
    };
    if fault == Fault::Denied {
        let echo = format!("X-Error-Message: no entry with {}\r\n", authorization.unwrap_or_default());
        return answer("401 Unauthorized", &echo, b"{}");
    }
    let rest = path.strip_prefix(&format!("/{ID}/resolve/")).and_then(|rest| rest.split_once('/'));
    let known = rest.filter(|(revision, _)| ["main", "v1", "refs%2Fpr%2F1", COMMIT].contains(revision));
    match known.and_then(|(_, file)| files.get(file)) {
        Some(_) if fault == Fault::HalfWay && method == "GET" => {
            answer("404 Not Found", "", b"<html>no</html>")
        }
        Some(body) => {
            let etag =
                format!("ETag: \"{:x}-{}\"\r\n", body.len(), path.rsplit('/').next().unwrap_or_default());
            answer("200 OK", &etag, body)
        }
        None => answer("404 Not Found", "X-Error-Code: EntryNotFound\r\n", b""),
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn tokenizer() -> String {
    let file = trimwick_formats::gguf::GgufFile::open(golden("tokenizers/smollm.gguf")).unwrap();
    let json = trimwick_models::Tokenizer::from_gguf(&file, "t").unwrap().to_json().unwrap();
    assert!(json.len() > 1000);
    json
}

/// The files of a repository with one weight file.
fn repository() -> BTreeMap<String, Vec<u8>> {
    ["config.json", "model.safetensors"]
        .map(|name| (name.to_string(), std::fs::read(golden("smollm2").join(name)).unwrap()))
        .into()
}

fn fetch(id: &str, hub: HubOptions) -> Result<ModelFiles> {
    open(&ModelSource::Hub(id.into()), &OpenOptions { revision: None, hub })
}

fn offline(cache: &Path) -> HubOptions {
    HubOptions {
        cache_dir: Some(cache.into()),
        endpoint: Some("http://127.0.0.1:9".into()),
        offline: true,
        ..HubOptions::default()
    }
}

#[test]
fn a_model_is_fetched_at_one_commit_and_then_found_offline() {
    let cache = tempfile::tempdir().unwrap();
    let mut files = repository();
    files.insert("masks.safetensors".into(), b"masks".to_vec());
    files.insert("chat_template.jinja".into(), b"template".to_vec());
    files.insert("generation_config.json".into(), br#"{"eos_token_id": [2, 5]}"#.to_vec());
    let server = Server::start(files, Fault::None);
    let bytes = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&bytes);
    let mut options = server.options(cache.path());
    options.progress = Some(Arc::new(move |file: &str, done, total| {
        assert!(done <= total, "{file}");
        if file == "model.safetensors" {
            told.store(done, Ordering::Relaxed);
        }
    }));
    let fetched = fetch(ID, options).unwrap();
    assert_eq!(fetched.origin, format!("{ID}@{COMMIT}"));
    assert_eq!(fetched.config.eos_token_ids, [2, 5]);
    assert!(fetched.tokenizer.is_none());
    let length = std::fs::metadata(golden("smollm2/model.safetensors")).unwrap().len();
    assert_eq!(bytes.load(Ordering::Relaxed), length, "progress reaches the end");

    let requests = server.requests();
    assert!(requests.iter().all(|r| r.authorization.as_deref() == Some(&format!("Bearer {TOKEN}"))));
    for request in &requests {
        assert!(matches!(request.method.as_str(), "HEAD" | "GET"), "{request:?}");
        let pinned = request.path.starts_with(&format!("/{ID}/resolve/{COMMIT}/"));
        assert!(pinned || request.path.ends_with("/config.json"), "{request:?}");
        let kinds = [".json", ".safetensors", ".jinja"];
        assert!(kinds.iter().any(|kind| request.path.ends_with(kind)), "{request:?}");
    }
    for (file, bytes) in [("masks.safetensors", "masks"), ("chat_template.jinja", "template")] {
        let path = fetched.path.as_ref().unwrap().join(file);
        assert_eq!(std::fs::read_to_string(path).unwrap(), bytes, "{file} comes along");
    }

    let again = fetch(ID, offline(cache.path())).unwrap();
    assert_eq!((again.origin, again.path), (fetched.origin, fetched.path));
    assert_eq!(again.config, fetched.config);
    let load = |files: &ModelFiles| {
        let device = candle_core::Device::Cpu;
        let tensor = files.weights.load("model.norm.weight", candle_core::DType::F32, &device).unwrap();
        tensor.to_vec1::<f32>().unwrap()
    };
    assert_eq!(load(&fetch(ID, offline(cache.path())).unwrap()), load(&open_golden()));
    assert_eq!(server.requests().len(), requests.len(), "offline means that nothing is asked for");
}

fn open_golden() -> ModelFiles {
    open(&ModelSource::Folder(golden("smollm2")), &OpenOptions { revision: None, hub: HubOptions::default() })
        .unwrap()
}

#[test]
fn revisions_are_asked_for_and_checked() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(repository(), Fault::None);
    for (id, revision) in [(format!("{ID}@v1"), None), (ID.to_string(), Some("refs/pr/1"))] {
        let options =
            OpenOptions { revision: revision.map(str::to_string), hub: server.options(cache.path()) };
        let files = open(&ModelSource::Hub(id), &options).unwrap();
        assert_eq!(files.origin, format!("{ID}@{COMMIT}"));
    }
    let asked = |revision: &str| {
        server.requests().iter().any(|r| r.path == format!("/{ID}/resolve/{revision}/config.json"))
    };
    assert!(asked("v1") && asked("refs%2Fpr%2F1"));
    let before = server.requests().len();
    for id in ["test-org/x@../../etc", "test-org/x@", "test-org/x@a b", "../x/y", "test-org/..", "one"] {
        let error = fetch(id, server.options(cache.path())).unwrap_err();
        assert!(matches!(error, Error::Hub { .. }), "{id}: {error}");
    }
    assert_eq!(server.requests().len(), before, "none of these is worth a request");
    let error = fetch(&format!("{ID}@no-such-branch"), server.options(cache.path())).unwrap_err().to_string();
    assert!(error.contains("no-such-branch") && error.contains("config.json"), "{error}");
}

#[test]
fn the_tokenizer_comes_along() {
    let cache = tempfile::tempdir().unwrap();
    let mut files = repository();
    // Its vocabulary is larger than this model's: the message proves that it was fetched and read.
    files.insert("tokenizer.json".into(), tokenizer().into_bytes());
    let server = Server::start(files, Fault::None);
    let error = fetch(ID, server.options(cache.path())).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json") && error.contains("vocab_size"), "{error}");
}

/// Splits the golden model into two shards with an index.
fn sharded() -> BTreeMap<String, Vec<u8>> {
    use trimwick_formats::safetensors::{Dtype, NewTensor, Writer};
    let folder = trimwick_formats::folder::ModelFolder::open(golden("smollm2")).unwrap();
    let names: Vec<&str> = folder.names().collect();
    let values: Vec<Vec<f32>> = names.iter().map(|name| folder.read_f32(name).unwrap()).collect();
    let mut files = repository();
    files.remove("model.safetensors");
    let mut map = serde_json::Map::new();
    let middle = names.len() / 2;
    for (shard, range) in [(1, 0..middle), (2, middle..names.len())] {
        let file = format!("model-0000{shard}-of-00002.safetensors");
        let tensors = range.map(|i| {
            map.insert(names[i].into(), file.clone().into());
            NewTensor::floats(names[i], Dtype::F32, &folder.info(names[i]).unwrap().shape, &values[i])
        });
        let writer = Writer::new(tensors, &BTreeMap::new()).unwrap();
        let mut bytes = Vec::new();
        writer.write_to(&mut bytes).unwrap();
        files.insert(file, bytes);
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    files.insert("model.safetensors.index.json".into(), index.into_bytes());
    files
}

#[test]
fn shards_are_fetched_by_the_index() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(sharded(), Fault::None);
    let files = fetch(ID, server.options(cache.path())).unwrap();
    assert_eq!(files.weights.names(), open_golden().weights.names());
    fetch(ID, offline(cache.path())).unwrap();

    let mut missing = sharded();
    missing.remove("model-00002-of-00002.safetensors");
    let server = Server::start(missing, Fault::None);
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(ID, server.options(cache.path())).unwrap_err().to_string();
    assert!(error.contains("model-00002-of-00002.safetensors"), "{error}");
}

#[test]
fn an_index_cannot_name_files_elsewhere() {
    for name in [
        "../../evil.safetensors",
        "/etc/evil.safetensors",
        "a/b.safetensors",
        "..",
        ".safetensors",
        "model.bin",
        "a\u{0}.safetensors",
    ] {
        let cache = tempfile::tempdir().unwrap();
        let mut files = sharded();
        let index = serde_json::json!({"weight_map": {"model.norm.weight": name}}).to_string();
        files.insert("model.safetensors.index.json".into(), index.into_bytes());
        let server = Server::start(files, Fault::None);
        let error = fetch(ID, server.options(cache.path())).expect_err(name).to_string();
        assert!(error.contains("shard") && !error.contains('\n'), "{name}: {error}");
        let last = server.requests().pop().unwrap();
        assert!(last.path.ends_with("model.safetensors.index.json"), "{name}: {last:?}");
    }
}

#[test]
fn a_repository_without_safetensors_is_explained() {
    let cache = tempfile::tempdir().unwrap();
    let mut files = repository();
    files.remove("model.safetensors");
    files.insert("pytorch_model.bin".into(), b"PK".to_vec());
    let server = Server::start(files, Fault::None);
    let error = fetch(ID, server.options(cache.path())).unwrap_err().to_string();
    assert!(error.contains("safetensors") && error.contains("pickles"), "{error}");
    assert!(!server.requests().iter().any(|r| r.path.ends_with(".bin")));
}

#[test]
fn the_token_is_in_no_message() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(repository(), Fault::Denied);
    let options = server.options(cache.path());
    assert!(!format!("{options:?}").contains(TOKEN));
    let error = fetch(ID, options).unwrap_err();
    let (shown, debugged) = (error.to_string(), format!("{error:?}"));
    assert!(shown.contains("HF_TOKEN") && shown.contains(ID), "{shown}");
    assert!(!shown.contains(TOKEN) && !debugged.contains(TOKEN), "{shown} {debugged}");
    assert!(server.requests().iter().any(|r| r.authorization.is_some()), "it was sent");

    // A password in the address is a secret too.
    let mut options = HubOptions {
        endpoint: Some("http://user:pa55word@127.0.0.1:9".into()),
        ..server.options(cache.path())
    };
    options.token = None;
    let error = fetch(ID, options).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("pa55word"), "{error}");
}

#[test]
fn an_error_page_does_not_stay_in_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start(repository(), Fault::HalfWay);
    let error = fetch(ID, server.options(cache.path())).unwrap_err().to_string();
    assert!(error.contains("config.json") && error.contains("bytes of"), "{error}");
    // The same cache, with a server that has recovered.
    let server = Server::start(repository(), Fault::None);
    fetch(ID, server.options(cache.path())).unwrap();
}

#[test]
fn offline_without_the_model_says_so() {
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(ID, offline(cache.path())).unwrap_err().to_string();
    assert!(error.contains("HF_HUB_OFFLINE") && error.contains(ID), "{error}");

    // Half a model in the cache is told as such.
    let server = Server::start(repository(), Fault::None);
    fetch(ID, server.options(cache.path())).unwrap();
    let snapshot = cache.path().join("models--test-org--tiny.llama_v2/snapshots").join(COMMIT);
    std::fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    let error = fetch(ID, offline(cache.path())).unwrap_err().to_string();
    assert!(error.contains("weights are not in the cache"), "{error}");
}
