//! Timelines kept on disk: a long conversation goes on after a restart, or after its cache had to go, without being read
//! again.
//!
//! # Invariants
//! - A file is only added to, or made anew and renamed: whenever the program or the machine stops, what was whole stays.
//! - What is loaded was checked; what is not as it was written is dropped, and computed again.
//! - A cache is only used for what made it: the same files of the model, computed and held alike.

mod file;

use file::Content;
use rawrz_model::KvCache;
use rawrz_text::TokenId;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Where and how much.
#[derive(Clone, Debug)]
pub struct SavedOptions {
    /// A folder for the timelines of one model; made when it is missing.
    pub folder: PathBuf,
    /// Bytes of all files; the least recently used go.
    pub max_bytes: u64,
    /// Shorter timelines are not worth it.
    pub min_len: usize,
}

impl SavedOptions {
    /// Up to 4 GiB of timelines of at least 128 tokens in `folder`.
    pub fn new(folder: PathBuf) -> SavedOptions {
        SavedOptions { folder, max_bytes: 4 << 30, min_len: 128 }
    }
}

/// Ending of the files.
const ENDING: &str = "kv";

/// A file whose content has less than half of its bytes, and this many more, is written anew.
const SLACK_BYTES: u64 = 1 << 20;

/// Tells a file among those of one [`Saved`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SavedId(u64);

struct Entry {
    id: SavedId,
    path: PathBuf,
    file: File,
    content: Content,
}

impl Entry {
    fn begins_with(&self, tokens: &[TokenId]) -> bool {
        self.content.n_tokens() >= tokens.len() && self.content.tokens().zip(tokens).all(|(a, b)| a == *b)
    }
}

/// The saved timelines of a model, which one process at a time has.
pub(crate) struct Saved {
    options: SavedOptions,
    identity: Vec<u8>,
    _lock: File,
    /// The least recently used first.
    entries: Vec<Entry>,
    n_ids: u64,
}

impl Saved {
    /// Reads what is in the folder. `identity` says what made the caches.
    ///
    /// # Errors
    /// When the folder cannot be used, or another process has it.
    pub(crate) fn open(options: &SavedOptions, identity: Vec<u8>) -> io::Result<Saved> {
        std::fs::create_dir_all(&options.folder)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(options.folder.join("lock"))?;
        lock.try_lock().map_err(io::Error::from)?;
        let mut saved =
            Saved { options: options.clone(), identity, _lock: lock, entries: Vec::new(), n_ids: 0 };
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&options.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == ENDING) {
                let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
                found.push((modified.ok(), path));
            }
        }
        found.sort();
        for (_, path) in found {
            let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
            match file::read(&mut file, &saved.identity, KvCache::SEGMENT_LEN)? {
                Some(content) if content.n_tokens() > 0 => {
                    let entry = saved.entry(path, file, content);
                    saved.entries.push(entry);
                }
                // Of the same model before it changed, or with other settings: nothing will ask for it.
                _ => std::fs::remove_file(&path)?,
            }
        }
        saved.keep_to_limit()?;
        Ok(saved)
    }

    fn entry(&mut self, path: PathBuf, file: File, content: Content) -> Entry {
        self.n_ids += 1;
        Entry { id: SavedId(self.n_ids), path, file, content }
    }

    /// Timelines that are saved.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn position(&self, id: SavedId) -> Option<usize> {
        self.entries.iter().position(|entry| entry.id == id)
    }

    /// Whether all of `tokens` are saved as `id`.
    pub(crate) fn holds(&self, id: SavedId, tokens: &[TokenId]) -> bool {
        self.position(id).is_some_and(|i| self.entries[i].begins_with(tokens))
    }

    /// Whether a timeline of so many tokens is saved at all.
    pub(crate) fn takes(&self, n_tokens: usize) -> bool {
        n_tokens >= self.options.min_len.max(1)
    }

    /// The timeline that has most of the beginning of `tokens`, and how much.
    pub(crate) fn best(&self, tokens: &[TokenId]) -> Option<(usize, SavedId)> {
        let common = |entry: &Entry| entry.content.tokens().zip(tokens).take_while(|(a, b)| a == *b).count();
        let best = self.entries.iter().map(|entry| (common(entry), entry.id)).max_by_key(|(len, _)| *len);
        best.filter(|(len, _)| self.takes(*len))
    }

    /// Positions that [`Saved::load`] fills for the first `len` tokens: whole records, as far as `capacity` goes.
    pub(crate) fn loaded_len(&self, id: SavedId, len: usize, capacity: usize) -> usize {
        let Some(i) = self.position(id) else { return 0 };
        let mut end = 0;
        for record in &self.entries[i].content.segments {
            if end >= len || end + record.tokens.len() > capacity {
                break;
            }
            end += record.tokens.len();
        }
        end
    }

    /// Fills the empty `cache` with what is saved as `id`, up to the record that has token `len`, and gives the tokens.
    /// What turns out to be damaged is deleted and left out.
    ///
    /// # Errors
    /// When the cache has no room.
    pub(crate) fn load(
        &mut self,
        id: SavedId,
        len: usize,
        cache: &mut KvCache,
    ) -> Result<Vec<TokenId>, rawrz_model::PassError> {
        let (mut tokens, end) = (Vec::new(), self.loaded_len(id, len, cache.capacity()));
        let Some(i) = self.position(id) else { return Ok(tokens) };
        let mut entry = self.entries.remove(i);
        let mut is_good = true;
        for (segment, record) in entry.content.segments.iter().enumerate() {
            if tokens.len() >= end {
                break;
            }
            match file::read_cache(&mut entry.file, segment, record) {
                Ok(bytes) if bytes.len() == cache.segment_bytes(record.tokens.len()) => {
                    cache.put_in(record.tokens.len(), &bytes)?;
                    tokens.extend(&record.tokens);
                }
                _ => {
                    is_good = false;
                    break;
                }
            }
        }
        if is_good {
            // Used last now, also for who comes after a restart.
            let _ = entry.file.set_modified(std::time::SystemTime::now());
            self.entries.push(entry);
        } else {
            let _ = std::fs::remove_file(&entry.path);
        }
        Ok(tokens)
    }

    /// Saves a timeline: what is new of it is added to `known`, where it was saved before, or to one that it goes on from.
    ///
    /// # Errors
    /// When the disk is full or fails. What was saved before stays.
    pub(crate) fn save(
        &mut self,
        known: Option<SavedId>,
        tokens: &[TokenId],
        cache: &KvCache,
    ) -> io::Result<Option<SavedId>> {
        assert_eq!(tokens.len(), cache.len());
        if let Some(entry) = self.entries.iter().find(|entry| entry.begins_with(tokens)) {
            return Ok(Some(entry.id));
        }
        let is_beginning = |e: &Entry| {
            e.content.n_tokens() <= tokens.len() && e.content.tokens().zip(tokens).all(|(a, b)| a == *b)
        };
        let known = known.and_then(|id| self.position(id));
        let at = known.or_else(|| self.entries.iter().position(is_beginning));
        let mut entry = match at {
            Some(i) => self.entries.remove(i),
            None => {
                let (path, file, content) = self.create()?;
                self.entry(path, file, content)
            }
        };
        let id = entry.id;
        let added = add(&mut entry, tokens, cache);
        if entry.content.n_tokens() == 0 {
            let _ = std::fs::remove_file(&entry.path);
            return added.map(|()| None);
        }
        let added = added.and_then(|()| self.write_anew_if_slack(&mut entry));
        self.entries.push(entry);
        added?;
        self.keep_to_limit()?;
        Ok(Some(id))
    }

    fn create(&self) -> io::Result<(PathBuf, File, Content)> {
        // Named by a random number, which no other file has.
        let temporary = tempfile::Builder::new()
            .suffix(&format!(".{ENDING}"))
            .prefix("")
            .rand_bytes(16)
            .tempfile_in(&self.options.folder)?;
        let (mut file, path) = temporary.keep().map_err(|error| error.error)?;
        let content =
            file::create(&mut file, &self.identity).inspect_err(|_| _ = std::fs::remove_file(&path))?;
        Ok((path, file, content))
    }

    /// Leaves out records that others took the place of, when they are most of the file.
    fn write_anew_if_slack(&self, entry: &mut Entry) -> io::Result<()> {
        if entry.content.end <= 2 * entry.content.live_bytes() + SLACK_BYTES {
            return Ok(());
        }
        let (path, mut file, mut content) = self.create()?;
        let copied = entry.content.segments.iter().enumerate().try_for_each(|(segment, record)| {
            let cache = file::read_cache(&mut entry.file, segment, record)?;
            file::append(&mut file, &mut content, segment, &record.tokens, &cache)
        });
        if let Err(error) = copied {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        let old = std::mem::replace(&mut entry.path, path);
        (entry.file, entry.content) = (file, content);
        remove(&old)
    }

    fn keep_to_limit(&mut self) -> io::Result<()> {
        let mut total: u64 = self.entries.iter().map(|entry| entry.content.end).sum();
        while total > self.options.max_bytes && !self.entries.is_empty() {
            let entry = self.entries.remove(0);
            total -= entry.content.end;
            remove(&entry.path)?;
        }
        Ok(())
    }
}

/// Writes the records of `entry` that differ from what `cache` holds.
fn add(entry: &mut Entry, tokens: &[TokenId], cache: &KvCache) -> io::Result<()> {
    let segments: Vec<&[TokenId]> = tokens.chunks(KvCache::SEGMENT_LEN).collect();
    let same =
        entry.content.segments.iter().zip(&segments).take_while(|(record, tokens)| record.tokens == **tokens);
    let n_same = same.count();
    let mut bytes = Vec::new();
    for (segment, tokens) in segments.iter().enumerate().skip(n_same) {
        bytes.clear();
        // What lies in a scratch file is not taken out of it.
        if !cache.take_out(segment, tokens.len(), &mut bytes) {
            break;
        }
        file::append(&mut entry.file, &mut entry.content, segment, tokens, &bytes)?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
