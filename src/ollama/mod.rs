//! Ollama on this machine: where its store is, and a model of the user's linked into it.

pub(crate) mod launch;

use crate::locate;
use crate::progress::Watched;
use crate::prompt::local_time;
use anyhow::{Context, bail};
use rawrz_engine::{Cancel, ModelFiles};
use rawrz_interop::ollama::{
    LinkRequest, Linked, OllamaError, OllamaName, Store, for_ollama, hidden_from_others,
};
use rawrz_interop::{About, DigestError, Digests, FileRecord, ModelRecord};
use rawrz_text::{ChatTemplate, TokenId, Tokenizer};
use std::path::{Path, PathBuf};

/// Context that Ollama gives a model unless told otherwise: what RawrZ takes by itself, too.
const CONTEXT_LEN: u64 = 4096;

/// Most texts that end an answer; a model has one to four.
const MAX_STOPS: usize = 8;

/// The store of Ollama as a service on Linux.
const SERVICE_STORE: &str = "/usr/share/ollama/.ollama/models";

/// Where Ollama keeps models: `$OLLAMA_MODELS`, else `.ollama/models` in the user's home folder, else, if only that is
/// there, the store of the service.
pub(crate) fn store() -> anyhow::Result<Store> {
    let root = match locate::environment_path("OLLAMA_MODELS") {
        Some(root) => root,
        None => {
            let home = etcetera::home_dir().context("the home folder is not known; set OLLAMA_MODELS")?;
            let own = home.join(".ollama").join("models");
            let service = Path::new(SERVICE_STORE);
            if !own.exists() && service.exists() { service.to_owned() } else { own }
        }
    };
    Ok(Store::new(root, locate::own_folder("locks")?))
}

/// The program `ollama`, in `$PATH` or where installers put it.
pub(crate) fn program() -> Option<PathBuf> {
    let name = format!("ollama{}", std::env::consts::EXE_SUFFIX);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/local/bin", "/usr/bin", "/opt/homebrew/bin"].map(PathBuf::from));
    folders.push("/Applications/Ollama.app/Contents/Resources".into());
    if let Some(local) = locate::environment_path("LOCALAPPDATA") {
        folders.push(local.join("Programs").join("Ollama"));
    }
    folders.into_iter().map(|folder| folder.join(&name)).find(|program| program.is_file())
}

/// How Ollama is installed on this system.
pub(crate) fn how_to_install() -> &'static str {
    if cfg!(windows) {
        "winget install Ollama.Ollama"
    } else if cfg!(target_os = "macos") {
        "brew install ollama"
    } else {
        "curl -fsSL https://ollama.com/install.sh | sh"
    }
}

/// How to link.
#[derive(Debug, Default)]
pub(crate) struct LinkOptions {
    /// Tokens of context; by default 4096, or what the model was made for if that is less.
    pub(crate) context_len: Option<u64>,
    /// Take a copy where no link works.
    pub(crate) may_copy: bool,
}

/// The file of the model at `path`, which has to be one for Ollama.
pub(crate) fn one_file<'a>(record: &'a ModelRecord, path: &Path) -> anyhow::Result<&'a FileRecord> {
    let Some(file) = record.single() else {
        bail!(
            "{} is in {} files, and Ollama takes models of one; `rawrz merge {} --out ONE.gguf` makes it one",
            path.display(),
            record.files().count(),
            path.display()
        );
    };
    Ok(file)
}

/// Links a model, opened as `files`, into `store`. Notes for the user go to standard error.
pub(crate) fn link(
    store: &Store,
    name: &OllamaName,
    file: &FileRecord,
    files: &ModelFiles,
    options: &LinkOptions,
    cancel: &Cancel,
) -> anyhow::Result<Linked> {
    let about = About::of(files.shards());
    let tokenizer = Tokenizer::from_gguf(files.shards().first())?;
    let template = template(files, &tokenizer, name);
    let stops = stops(&tokenizer);
    let digest = digest(file, cancel)?;
    let longest = about.context_len.unwrap_or(CONTEXT_LEN);
    let linked = store.link(&LinkRequest {
        name,
        file,
        digest,
        about: &about,
        template: template.as_deref(),
        stops: &stops,
        context_len: options.context_len.unwrap_or(CONTEXT_LEN.min(longest)),
        may_copy: options.may_copy,
    })?;
    if is_of_another_user(store.root())
        && let Some(hidden) = hidden_from_others(&file.path)
    {
        eprintln!(
            "note: Ollama runs as another user, who cannot reach {}; let others read it (chmod o+rX)",
            hidden.display()
        );
    }
    Ok(linked)
}

/// SHA-256 of the file, with progress; remembered.
fn digest(file: &FileRecord, cancel: &Cancel) -> anyhow::Result<rawrz_interop::Digest> {
    let digests = Digests::new(locate::own_folder("digests")?);
    let mut watched = Watched::new("hashing", cancel);
    match digests.of(file, &mut |n_bytes| watched.at(n_bytes, file.len_bytes)) {
        Err(DigestError::Stopped) => Err(crate::exit::Interrupted.into()),
        other => Ok(other?),
    }
}

/// The model's chat template in Ollama's language, where there is one that does the same.
fn template(files: &ModelFiles, tokenizer: &Tokenizer, name: &OllamaName) -> Option<String> {
    let template = match ChatTemplate::from_gguf(files.shards().first(), tokenizer) {
        Ok(Some(template)) => template,
        Ok(None) => {
            eprintln!("note: the model has no chat template; Ollama will give {name} the plain prompt");
            return None;
        }
        Err(error) => {
            eprintln!("note: {error}; Ollama will give {name} the plain prompt");
            return None;
        }
    };
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos()).and_then(|id| tokenizer.token_text(id));
    let Some(made) = for_ollama(&template, bos, local_time()) else {
        eprintln!(
            "note: the model's chat template does more than Ollama's language can; Ollama will give {name} the plain \
             prompt (`rawrz serve` uses the template itself)"
        );
        return None;
    };
    if made.tells_date {
        eprintln!("note: the model's chat template tells the date; in Ollama it stays that of today");
    }
    Some(made.text)
}

/// Texts of the tokens that end an answer.
fn stops(tokenizer: &Tokenizer) -> Vec<String> {
    let is_text = |id: &&TokenId| tokenizer.is_control(**id);
    let ids = tokenizer.eog_ids().iter().filter(is_text);
    ids.filter_map(|id| tokenizer.token_text(*id)).take(MAX_STOPS).map(str::to_owned).collect()
}

#[cfg(unix)]
fn is_of_another_user(store: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let home = etcetera::home_dir().ok().and_then(|home| std::fs::metadata(home).ok());
    let owner = |metadata: std::fs::Metadata| metadata.uid();
    match (std::fs::metadata(store), home) {
        (Ok(store), Some(home)) => owner(store) != owner(home),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_of_another_user(_store: &Path) -> bool {
    false
}

/// Takes a model out of the store again; that it is gone already is no error. Says whether it was there.
pub(crate) fn unlink_if_there(store: &Store, name: &OllamaName) -> anyhow::Result<bool> {
    match store.unlink(name) {
        Ok(_) => Ok(true),
        Err(OllamaError::Unknown { .. }) => Ok(false),
        Err(OllamaError::NotOurs { .. }) => {
            eprintln!("note: {name} in Ollama's store is no longer what RawrZ linked; it stays");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
