//! Finds the files of a model from the path of one of them.
//!
//! Two ways to cut a model exist and may be combined. *Shards* (`name-00001-of-00003.gguf`) are GGUF files of their own,
//! written by `llama-gguf-split`. *Parts* are plain byte ranges, cut with `split` and the like; joined in order they are
//! the file. Spellings of parts: `.part00 .part01 ..` from 0 or 1 and with any number of digits, `.partaa .partab ..`,
//! `.part1of3 .part2of3 ..`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Why the files of a model could not be listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoverError {
    /// Neither the path nor parts of it exist.
    #[error("{}: no such file", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// The path is a folder or a device.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The name's shard number is 0 or above its count.
    #[error("{}: shard {number} of {count} cannot be", path.display())]
    BadShardNumber {
        /// The path.
        path: PathBuf,
        /// The number in the name.
        number: u32,
        /// The count in the name.
        count: u32,
    },
    /// A shard that the name promises is absent.
    #[error("{}: this shard of the model is missing", path.display())]
    MissingShard {
        /// The absent file.
        path: PathBuf,
    },
    /// A part between others, or before the first or after the last, is absent.
    #[error("{}: part {number} of this file is missing", path.display())]
    MissingPart {
        /// The file that the parts form.
        path: PathBuf,
        /// The number of the part, counted as the names do.
        number: u64,
    },
    /// Two files claim to be the same part, or the parts are spelt in two ways.
    #[error("{} and {}: only one of them can be the part", first.display(), second.display())]
    AmbiguousPart {
        /// One of the files.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The operating system refused.
    #[error("{}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// The files of the model that `path` belongs to: its shards in order, each a list of parts to be read as one file.
/// A plain file gives `[[path]]`. `path` may be any shard, any part, or the name that parts form.
///
/// # Errors
/// When a file is missing or ambiguous, or a folder cannot be read. Contents are not looked at; `ShardSet` checks them.
pub fn discover(path: &Path) -> Result<Vec<Vec<PathBuf>>, DiscoverError> {
    let whole = match path.file_name().and_then(|name| name.to_str()) {
        Some(name) => match PartName::parse(name) {
            // A file that merely looks like a part, next to no sibling, is still taken as part one of its whole.
            Some(part) => path.with_file_name(part.stem),
            None => path.to_owned(),
        },
        None => path.to_owned(),
    };
    let paths = shard_paths(&whole)?;
    let alone = paths.len() == 1;
    paths
        .into_iter()
        .map(|shard| match files_of(&shard, path)? {
            Some(files) => Ok(files),
            None if alone => Err(DiscoverError::NotFound { path: path.to_owned() }),
            None => Err(DiscoverError::MissingShard { path: shard }),
        })
        .collect()
}

/// All shards of the model that `path` is a shard of; `path` itself when its name is no shard's.
fn shard_paths(path: &Path) -> Result<Vec<PathBuf>, DiscoverError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let Some((stem, number, count)) = name.and_then(parse_shard_name) else {
        return Ok(vec![path.to_owned()]);
    };
    if number == 0 || number > count {
        return Err(DiscoverError::BadShardNumber { path: path.to_owned(), number, count });
    }
    Ok((1..=count).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{count:05}.gguf"))).collect())
}

/// Splits `stem-00001-of-00003.gguf` into stem, number and count.
fn parse_shard_name(name: &str) -> Option<(&str, u32, u32)> {
    fn number(text: &str) -> Option<u32> {
        let plain = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse().ok())?
    }
    let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, no) = rest.rsplit_once('-')?;
    Some((stem, number(no)?, number(count)?))
}

/// The file itself, or its parts; `None` when there is neither. `asked` is what the user named: if it is a part, parts
/// are taken even where the whole file lies beside them.
fn files_of(file: &Path, asked: &Path) -> Result<Option<Vec<PathBuf>>, DiscoverError> {
    if file == asked || !is_part_of(asked, file) {
        match std::fs::metadata(file) {
            Ok(meta) if meta.is_file() => return Ok(Some(vec![file.to_owned()])),
            Ok(_) => {
                return Err(DiscoverError::NotAFile { path: file.to_owned() });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(DiscoverError::Io { path: file.to_owned(), source });
            }
        }
    }
    parts_of(file)
}

fn is_part_of(part: &Path, whole: &Path) -> bool {
    let name = part.file_name().and_then(|name| name.to_str());
    name.and_then(PartName::parse).is_some_and(|name| part.with_file_name(name.stem) == whole)
}

/// How the parts of a file are numbered. All parts of one file share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbering {
    /// `.part0`, `.part00`, `.part1` ..
    Digits,
    /// `.partaa`, `.partab` ..
    Letters,
    /// `.part1of3`; the count
    OneOf(u64),
}

#[derive(Debug, PartialEq, Eq)]
struct PartName<'a> {
    stem: &'a str,
    numbering: Numbering,
    number: u64,
}

impl<'a> PartName<'a> {
    fn parse(name: &'a str) -> Option<PartName<'a>> {
        let (stem, suffix) = name.rsplit_once(".part")?;
        let digits = |text: &str| {
            let plain = (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| text.parse::<u64>().ok())?
        };
        let letters = suffix.len() == 2 && suffix.bytes().all(|byte| byte.is_ascii_lowercase());
        let (numbering, number) = if let Some(number) = digits(suffix) {
            (Numbering::Digits, number)
        } else if letters {
            let number = suffix.bytes().fold(0, |n, byte| n * 26 + u64::from(byte - b'a'));
            (Numbering::Letters, number)
        } else {
            let (number, count) = suffix.split_once("of")?;
            (Numbering::OneOf(digits(count)?), digits(number)?)
        };
        (!stem.is_empty()).then_some(PartName { stem, numbering, number })
    }
}

/// The parts of `file` in order; `None` when there are none.
fn parts_of(file: &Path) -> Result<Option<Vec<PathBuf>>, DiscoverError> {
    let Some(stem) = file.file_name().and_then(|name| name.to_str()) else {
        return Ok(None);
    };
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let io_error = |source| DiscoverError::Io { path: folder.to_owned(), source };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(error)),
    };
    let mut parts: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut seen: Option<(Numbering, PathBuf)> = None;
    for entry in entries {
        let name = entry.map_err(io_error)?.file_name();
        let Some(part) = name.to_str().and_then(PartName::parse) else {
            continue;
        };
        if part.stem != stem {
            continue;
        }
        let path = file.with_file_name(&name);
        let clash = match &seen {
            Some((numbering, first)) if *numbering != part.numbering => Some(first.clone()),
            _ => parts.get(&part.number).cloned(),
        };
        if let Some(first) = clash {
            let (first, second) = if first <= path { (first, path) } else { (path, first) };
            return Err(DiscoverError::AmbiguousPart { first, second });
        }
        seen.get_or_insert_with(|| (part.numbering, path.clone()));
        parts.insert(part.number, path);
    }
    let Some((numbering, _)) = seen else {
        return Ok(None);
    };
    check_complete(file, numbering, &parts)?;
    Ok(Some(parts.into_values().collect()))
}

fn check_complete(
    file: &Path,
    numbering: Numbering,
    parts: &BTreeMap<u64, PathBuf>,
) -> Result<(), DiscoverError> {
    let first = match numbering {
        // People count from 0 or from 1.
        Numbering::Digits => u64::from(!parts.contains_key(&0)),
        Numbering::Letters => 0,
        Numbering::OneOf(_) => 1,
    };
    let count = match numbering {
        Numbering::OneOf(count) => count.max(parts.len() as u64),
        _ => parts.len() as u64,
    };
    match (first..first + count).find(|number| !parts.contains_key(number)) {
        Some(number) => Err(DiscoverError::MissingPart { path: file.to_owned(), number }),
        None => Ok(()),
    }
}
