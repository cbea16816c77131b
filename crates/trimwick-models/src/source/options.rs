//! How the hub is reached: the variables that Hugging Face's own tools read.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::text_file::read_text;

/// A string that is never shown: an access token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that sends it.
    #[cfg_attr(not(feature = "hub"), allow(dead_code))] // nothing is sent without the hub
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Called while a file is downloaded with its name, the bytes that are there and the bytes there will be.
pub type Progress = Arc<dyn Fn(&str, u64, u64) + Send + Sync>;

/// Where hub models come from and are kept.
#[derive(Clone, Default)]
pub struct HubOptions {
    /// Folder of the cache; the hub library's default where there is none.
    pub cache_dir: Option<PathBuf>,
    /// Address of the hub; `https://huggingface.co` where there is none.
    pub endpoint: Option<String>,
    /// Access token for private and gated models.
    pub token: Option<Secret>,
    /// Whether only the cache is read.
    pub offline: bool,
    /// Told about downloads.
    pub progress: Option<Progress>,
}

impl fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("cache_dir", &self.cache_dir)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token)
            .field("offline", &self.offline)
            .field("progress", &self.progress.is_some())
            .finish()
    }
}

impl HubOptions {
    /// As the environment says: `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`; `HF_ENDPOINT`;
    /// `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `token` in `HF_HOME`, none if `HF_HUB_DISABLE_IMPLICIT_TOKEN`;
    /// `HF_HUB_OFFLINE`. `HF_HOME` is `huggingface` in `XDG_CACHE_HOME`, else in `~/.cache`, unless set.
    pub fn from_env() -> Self {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// As [`HubOptions::from_env`], from any table of variables. An empty variable counts as unset.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let get = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let home = get("HF_HOME").map(PathBuf::from).or_else(|| {
            let cache = get("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| get("HOME").map(|home| PathBuf::from(home).join(".cache")));
            cache.map(|cache| cache.join("huggingface"))
        });
        let cache_dir = get("HF_HUB_CACHE").or_else(|| get("HUGGINGFACE_HUB_CACHE")).map(PathBuf::from);
        let from_file = |path: PathBuf| {
            const MAX_TOKEN: u64 = 64 << 10;
            let text = read_text(&path, MAX_TOKEN).ok()??;
            Some(text.trim().to_string()).filter(|text| !text.is_empty())
        };
        let token = if get("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() {
            None
        } else {
            get("HF_TOKEN")
                .map(|token| token.trim().to_string())
                .or_else(|| from_file(get("HF_TOKEN_PATH")?.into()))
                .or_else(|| from_file(home.as_ref()?.join("token")))
        };
        let yes =
            |value: String| matches!(value.trim().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        Self {
            cache_dir: cache_dir.or_else(|| home.map(|home| home.join("hub"))),
            endpoint: get("HF_ENDPOINT"),
            token: token.map(Secret::new),
            offline: get("HF_HUB_OFFLINE").is_some_and(yes),
            progress: None,
        }
    }
}

/// How a model is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// Revision of a hub id that does not carry one.
    pub revision: Option<String>,
    /// How the hub is reached.
    pub hub: HubOptions,
}

impl Default for OpenOptions {
    /// The hub's main branch, reached as the environment says.
    fn default() -> Self {
        Self { revision: None, hub: HubOptions::from_env() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variables<'a> = &'a [(&'a str, &'a str)];

    fn read(pairs: Variables) -> HubOptions {
        let find = |name: &str| pairs.iter().find(|(k, _)| *k == name).map(|(_, v)| v.to_string());
        HubOptions::from_lookup(find)
    }

    #[test]
    fn the_cache_is_found_as_the_python_tools_find_it() {
        let table: [(Variables, Option<&str>); 6] = [
            (&[("HOME", "/h")], Some("/h/.cache/huggingface/hub")),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], Some("/x/huggingface/hub")),
            (&[("HOME", "/h"), ("HF_HOME", "/hf")], Some("/hf/hub")),
            (&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], Some("/c")),
            (&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "")], Some("/old")),
            (&[], None),
        ];
        for (pairs, expected) in table {
            assert_eq!(read(pairs).cache_dir.as_deref(), expected.map(std::path::Path::new), "{pairs:?}");
        }
    }

    #[test]
    fn offline_is_what_huggingface_hub_takes_for_yes() {
        for yes in ["1", "ON", "yes", "True"] {
            assert!(read(&[("HF_HUB_OFFLINE", yes)]).offline, "{yes}");
        }
        for no in ["", "0", "false", "off", "2"] {
            assert!(!read(&[("HF_HUB_OFFLINE", no)]).offline, "{no}");
        }
    }

    #[test]
    fn tokens_come_from_variable_or_file_and_are_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_from_home\n").unwrap();
        let other = dir.path().join("other");
        std::fs::write(&other, "hf_from_path").unwrap();
        let home = dir.path().to_str().unwrap();
        let path = other.to_str().unwrap();
        let table: [(Variables, Option<&str>); 4] = [
            (&[("HF_TOKEN", " hf_direct "), ("HF_HOME", home)], Some("hf_direct")),
            (&[("HF_TOKEN_PATH", path), ("HF_HOME", home)], Some("hf_from_path")),
            (&[("HF_HOME", home)], Some("hf_from_home")),
            (&[("HF_HOME", home), ("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None),
        ];
        for (pairs, expected) in table {
            let options = read(pairs);
            assert_eq!(options.token.as_ref().map(Secret::expose), expected, "{pairs:?}");
            let shown = format!("{:?} {:?}", options, OpenOptions { revision: None, hub: options.clone() });
            assert!(!shown.contains("hf_"), "{shown}");
        }
    }
}
