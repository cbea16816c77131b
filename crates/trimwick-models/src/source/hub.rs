//! Models of the Hugging Face hub, through its cache on this machine.
//!
//! `config.json` is fetched first; its place in the cache names the commit, and every other file is fetched at that
//! commit, so that a model is never put together from two. Only JSON, safetensors and a chat template are fetched.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::repository::RepoTypeModel;
use hf_hub::{HFClient, HFError, HFRepositorySync};

use super::options::{HubOptions, Progress};
use super::parse::{is_hub_id, is_revision};
use crate::error::{Error, Result, quote};
use crate::text_file::read_text;

/// What a model may have beside its configuration and weights: what its text goes through, and the masks of a pruned one,
/// which must not be lost on the way here.
const OPTIONAL: [&str; 7] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "masks.safetensors",
];

/// Requests are repeated this often when the connection fails.
const RETRIES: usize = 3;

/// Fetches a model, or finds it in the cache: the folder of its commit, and the commit.
pub(super) fn fetch(id: &str, revision: &str, options: &HubOptions) -> Result<(PathBuf, String)> {
    let hub = Hub::new(id, revision, options)?;
    let Some(config) = hub.get("config.json", revision)? else {
        return Err(hub
            .fault("no config.json there; check the id and the revision, and HF_TOKEN for a private model"));
    };
    let folder = config.parent().map(Path::to_path_buf).unwrap_or_default();
    let commit = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for optional in OPTIONAL {
        hub.get(optional, &commit)?;
    }
    if hub.get("model.safetensors", &commit)?.is_none() {
        let Some(index) = hub.get("model.safetensors.index.json", &commit)? else {
            if options.offline {
                return Err(hub.fault("its weights are not in the cache, and HF_HUB_OFFLINE is set"));
            }
            let reason = "no model.safetensors and no model.safetensors.index.json there; \
                          pickles (.bin, .pt) are not loaded: take a safetensors revision";
            return Err(hub.fault(reason));
        };
        for shard in shards(&index)? {
            if hub.get(&shard, &commit)?.is_none() {
                let place = if options.offline { "in the cache, and HF_HUB_OFFLINE is set" } else { "there" };
                return Err(hub.fault(&format!("shard {} of its index is not {place}", quote(&shard))));
            }
        }
    }
    Ok((folder, commit))
}

struct Hub<'a> {
    id: &'a str,
    revision: &'a str,
    options: &'a HubOptions,
    repo: HFRepositorySync<RepoTypeModel>,
}

impl<'a> Hub<'a> {
    fn new(id: &'a str, revision: &'a str, options: &'a HubOptions) -> Result<Self> {
        let refuse = |reason: String| Error::Hub { repo: id.into(), revision: revision.into(), reason };
        if !is_hub_id(id) {
            return Err(refuse("an id is owner/name, of letters, digits, '.', '_' and '-'".into()));
        }
        if !is_revision(revision) {
            return Err(refuse("a revision is a branch, tag or commit".into()));
        }
        let mut builder = HFClient::builder().retry_max_attempts(RETRIES);
        if let Some(endpoint) = &options.endpoint {
            builder = builder.endpoint(endpoint.clone());
        }
        if let Some(cache) = &options.cache_dir {
            builder = builder.cache_dir(cache.clone());
        }
        if let Some(token) = &options.token {
            builder = builder.token(token.expose());
        }
        let client = builder.build_sync().map_err(|e| refuse(clean(&e.to_string(), options)))?;
        let (owner, name) = id.split_once('/').unwrap_or(("", id));
        Ok(Self { id, revision, options, repo: client.model(owner, name) })
    }

    fn fault(&self, reason: &str) -> Error {
        Error::Hub {
            repo: self.id.into(),
            revision: self.revision.into(),
            reason: clean(reason, self.options),
        }
    }

    /// One file, from the cache or the network; `None` if the repository does not have it.
    fn get(&self, file: &str, revision: &str) -> Result<Option<PathBuf>> {
        let watch = Arc::new(Watch {
            file: file.into(),
            expected: AtomicU64::new(0),
            progress: self.options.progress.clone(),
        });
        let sent = self
            .repo
            .download_file()
            .filename(file)
            .revision(revision)
            .local_files_only(self.options.offline)
            .progress(Arc::clone(&watch))
            .send();
        match sent {
            Ok(path) => self.check_length(&path, file, watch.expected.load(Ordering::Relaxed)).map(Some),
            Err(HFError::EntryNotFound { .. }) => Ok(None),
            // Offline, "unknown whether it exists" is no better than "does not exist".
            Err(HFError::LocalEntryNotFound { .. }) if file != "config.json" => Ok(None),
            Err(HFError::LocalEntryNotFound { .. }) => {
                Err(self.fault("not in the cache, and HF_HUB_OFFLINE is set; unset it to download the model"))
            }
            Err(HFError::AuthRequired { .. } | HFError::Forbidden { .. }) => {
                let advice = match self.options.token {
                    Some(_) => {
                        "the token in HF_TOKEN does not open it; for a gated model, accept its licence on its page"
                    }
                    None => "set HF_TOKEN to a token that may read it (the id may also be misspelled)",
                };
                Err(self.fault(&format!("{file}: access denied: {advice}")))
            }
            Err(error) => Err(self.fault(&format!("{file}: {error}"))),
        }
    }

    /// The library stores whatever a download request answers under the name of the content: an error page, or half a
    /// file. Such a file is removed, since it would be taken for the content from then on.
    fn check_length(&self, path: &Path, file: &str, expected: u64) -> Result<PathBuf> {
        let found = std::fs::metadata(path).map_err(|e| Error::io(path, "look at", e))?.len();
        if expected == 0 || found == expected {
            return Ok(path.into());
        }
        if let Ok(blob) = std::fs::canonicalize(path) {
            // Best effort: the message below stands either way.
            let _ = std::fs::remove_file(blob);
        }
        let _ = std::fs::remove_file(path);
        Err(self.fault(&format!("{file}: the download gave {found} bytes of {expected}; run again")))
    }
}

/// Learns the length of a file and passes progress on.
struct Watch {
    file: String,
    expected: AtomicU64,
    progress: Option<Progress>,
}

impl ProgressHandler for Watch {
    fn on_progress(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Download(DownloadEvent::Start { total_bytes, .. }) => {
                self.expected.store(*total_bytes, Ordering::Relaxed);
            }
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                if let (Some(tell), Some(file)) = (&self.progress, files.last()) {
                    tell(&self.file, file.bytes_completed, file.total_bytes);
                }
            }
            _ => {}
        }
    }
}

/// Names of the shards in an index, each one file of the repository's root. They become paths, so that nothing but a
/// plain name is asked for.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    const MAX_INDEX: u64 = 100_000_000;
    let origin = index.display().to_string();
    let wrong = |reason: String| Error::Json { origin: origin.clone(), reason };
    let text = read_text(index, MAX_INDEX)?.ok_or_else(|| wrong("no such file".into()))?;
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    let map = value.get("weight_map").and_then(serde_json::Value::as_object);
    let map = map.ok_or_else(|| wrong("no weight_map".into()))?;
    let plain = |name: &&str| {
        name.ends_with(".safetensors")
            && name.len() <= 255
            && !name.starts_with('.')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    map.values()
        .map(|value| {
            let name = value.as_str().filter(plain);
            name.map(str::to_string).ok_or_else(|| wrong(format!("shard {}", quote(&value.to_string()))))
        })
        .collect()
}

/// One line without secrets: servers echo headers, and addresses can hold a password.
fn clean(text: &str, options: &HubOptions) -> String {
    const SHOWN: usize = 400;
    let mut text = text.to_string();
    if let Some(token) = options.token.as_ref().filter(|t| !t.expose().is_empty()) {
        text = text.replace(token.expose(), "[token]");
    }
    if let Some((_, rest)) = options.endpoint.as_deref().and_then(|e| e.split_once("://"))
        && let Some((user, _)) = rest.split('/').next().unwrap_or("").rsplit_once('@')
    {
        text = text.replace(&format!("{user}@"), "");
    }
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > SHOWN { text.chars().take(SHOWN).collect::<String>() + "…" } else { text }
}
