//! SOURCE as typed: a built-in name, `hf:..`, or an address.

use super::http::{Address, is_allowed};
use crate::catalog::{self, BuiltIn};
use crate::exit::Usage;

/// Where Hugging Face's files are, unless `$HF_ENDPOINT` names a mirror.
const HUGGING_FACE: &str = "https://huggingface.co";

/// What SOURCE names.
#[derive(Debug)]
pub(crate) enum Source {
    /// A model that we know by name.
    BuiltIn(&'static BuiltIn),
    /// Files of one model on a server, each with the names of the folders (below the models folder) that
    /// it goes to, and its own name.
    Files { folder: Vec<String>, files: Vec<(String, Address)> },
}

/// Parses SOURCE.
pub(crate) fn parse(text: &str) -> Result<Source, Usage> {
    if let Some(model) = catalog::find(text) {
        return Ok(Source::BuiltIn(model));
    }
    if let Some(rest) = text.strip_prefix("hf:") {
        return hugging_face(rest).ok_or_else(|| {
            Usage(format!("`{text}` is not of the form hf:OWNER/REPO/FILE or hf:OWNER/REPO@REV/FILE"))
        });
    }
    if text.starts_with("https://") || text.starts_with("http://") {
        is_allowed(text).map_err(Usage)?;
        let name = file_name_of(text)
            .ok_or_else(|| Usage(format!("`{text}` does not end in a file name that can be used here")))?;
        return Ok(Source::Files {
            folder: Vec::new(),
            files: vec![(name, Address::plain(text.to_owned()))],
        });
    }
    Err(Usage(format!(
        "`{text}` is not a source; use one of {}, hf:OWNER/REPO/FILE, or an https:// address",
        catalog::names()
    )))
}

/// `OWNER/REPO[@REV]/path/FILE`. For the first of several shards, all of them.
fn hugging_face(text: &str) -> Option<Source> {
    let (owner, rest) = text.split_once('/')?;
    let (repo, path) = rest.split_once('/')?;
    let (repo, revision) = repo.split_once('@').unwrap_or((repo, "main"));
    let mut folders: Vec<&str> = path.split('/').collect();
    let file = folders.pop()?;
    let parts = [owner, repo, revision, file];
    if !parts.iter().chain(&folders).all(|part| is_safe_name(part)) {
        return None;
    }
    let folder = [&["hf", owner, repo], &folders[..]].concat().into_iter().map(str::to_owned).collect();
    let parent = path.strip_suffix(file)?;
    let files = shard_names(file)
        .into_iter()
        .map(|name| {
            let address =
                hugging_face_address(&format!("{owner}/{repo}"), revision, &format!("{parent}{name}"));
            (name, address)
        })
        .collect();
    Some(Source::Files { folder, files })
}

/// The address of a file in a repository of Hugging Face or the mirror in `$HF_ENDPOINT`.
pub(crate) fn hugging_face_address(repo: &str, revision: &str, file: &str) -> Address {
    let setting = |name| std::env::var(name).ok().filter(|value: &String| !value.trim().is_empty());
    let endpoint = setting("HF_ENDPOINT").unwrap_or_else(|| HUGGING_FACE.to_owned());
    let endpoint = endpoint.trim().trim_end_matches('/');
    let encode = |part: &str| part.split('/').map(percent_encode).collect::<Vec<_>>().join("/");
    Address {
        url: format!("{endpoint}/{}/resolve/{}/{}", encode(repo), encode(revision), encode(file)),
        token: setting("HF_TOKEN").map(|token| token.trim().to_owned()),
        is_hugging_face: true,
    }
}

/// The names of all shards of which `name` is one (`x-00002-of-00003.gguf`), else `name` alone.
fn shard_names(name: &str) -> Vec<String> {
    let five_digits = |text: &str| {
        (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u32>().ok())?
    };
    let parts = || {
        let stem = name.strip_suffix(".gguf")?;
        let (stem, total) = stem.rsplit_once("-of-")?;
        let (stem, index) = stem.rsplit_once('-')?;
        let (index, total) = (five_digits(index)?, five_digits(total)?);
        (1..=total).contains(&index).then_some((stem, total))
    };
    match parts() {
        Some((stem, total)) => (1..=total).map(|i| format!("{stem}-{i:05}-of-{total:05}.gguf")).collect(),
        None => vec![name.to_owned()],
    }
}

/// The last part of an address's path, if a file can be called that everywhere.
fn file_name_of(url: &str) -> Option<String> {
    let path = url.split(['?', '#']).next()?;
    let path = path.split_once("://")?.1.split_once('/')?.1;
    let name = percent_decode(path.rsplit('/').next()?)?;
    is_safe_name(&name).then_some(name)
}

/// Whether a file or folder may be called that, on any system: no path, no hidden name, no device.
fn is_safe_name(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().to_ascii_uppercase();
    let is_device = matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL")
        || (stem.len() == 4 && (stem.starts_with("COM") || stem.starts_with("LPT")));
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with(['.', '-', ' '])
        && !name.ends_with(['.', ' '])
        && !name.contains(|c: char| c.is_control() || r#"/\:*?"<>|"#.contains(c))
        && !is_device
}

fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let [high, low, tail @ ..] = tail else { return None };
            let digit = |c: &u8| char::from(*c).to_digit(16);
            bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(text: &str) -> (String, Vec<(String, String)>) {
        match parse(text).unwrap() {
            Source::Files { folder, files } => {
                (folder.join("/"), files.into_iter().map(|(name, address)| (name, address.url)).collect())
            }
            Source::BuiltIn(_) => panic!("{text} is not built in"),
        }
    }

    #[test]
    fn built_in_names() {
        assert!(matches!(parse("gemma").unwrap(), Source::BuiltIn(model) if model.alias == "gemma"));
    }

    #[test]
    fn hugging_face_names() {
        let (folder, found) = files("hf:owner/repo/sub/file q4.gguf");
        assert_eq!(folder, "hf/owner/repo/sub");
        let [(name, url)] = &found[..] else { panic!("{found:?}") };
        assert_eq!(name, "file q4.gguf");
        assert!(url.ends_with("/owner/repo/resolve/main/sub/file%20q4.gguf"), "{url}");
        assert!(files("hf:o/r@v1.0/f.gguf").1[0].1.ends_with("/o/r/resolve/v1.0/f.gguf"));
    }

    #[test]
    fn all_shards_of_a_model() {
        let (_, found) = files("hf:o/r/m-00002-of-00003.gguf");
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]);
        for single in ["m-00004-of-00003.gguf", "m-1-of-3.gguf", "m-00000-of-00000.gguf", "m.gguf"] {
            assert_eq!(shard_names(single), [single]);
        }
    }

    #[test]
    fn names_out_of_addresses() {
        let name = |url| files(url).1[0].0.clone();
        assert_eq!(name("https://example.org/a/m%2Dx.gguf?download=true#top"), "m-x.gguf");
        assert_eq!(name("http://127.0.0.1:8000/m.gguf"), "m.gguf");
        assert_eq!(name("http://[::1]:8000/m.gguf"), "m.gguf");
    }

    #[test]
    fn sources_that_are_refused() {
        for text in [
            "",
            "model",
            "hf:",
            "hf:owner",
            "hf:owner/repo",
            "hf:owner/repo/",
            "hf:../repo/f.gguf",
            "hf:o/r/../f.gguf",
            "hf:o/r@/f.gguf",
            "hf:o/r/.hidden",
            "hf:o/r/a\nb.gguf",
            "hf:o/r/nul.gguf",
            "ftp://example.org/m.gguf",
            "https://example.org",
            "https://example.org/",
            "https://example.org/a/..",
            "https://example.org/%2e%2e",
            "https://example.org/a%2Fb.gguf",
            "https://example.org/a%00.gguf",
            "https://example.org/a%zz.gguf",
            "http://example.org/m.gguf",
            "http://127.0.0.1.example.org/m.gguf",
            "http://user@127.0.0.1/m.gguf",
            "https://example.org/COM1.gguf",
            "https://example.org/m.gguf ",
        ] {
            assert!(parse(text).is_err(), "{text:?} was taken: {:?}", parse(text));
        }
    }
}
