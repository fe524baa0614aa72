//! Models by name: a lookup table of one small file for each name, in a folder of the user's.
//!
//! # Invariants
//! - A file of the table is replaced in one step; readers need no lock and see the old or the new content.
//! - Who changes the table holds its lock, so that changes made at once are all kept.
//! - A damaged file of the table is an error for its name alone.

mod name;

use crate::identity::{FileRecord, ModelRecord};
use crate::staged::write_whole;
pub use name::{MapName, NameError};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Version of the files of the table.
const FORMAT: u32 = 1;

/// Ending of the files of the table.
const ENDING: &str = "json";

/// Most bytes of a file of the table that are read: a model of a thousand shards fits many times.
const MAX_BYTES: u64 = 4 << 20;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MapRecord {
    /// The files of the model as they were.
    pub model: ModelRecord,
    /// What was made of the model elsewhere.
    #[serde(default)]
    pub links: Vec<Link>,
    /// The name was made along with the links, and goes with them.
    #[serde(default)]
    pub goes_with_links: bool,
}

impl MapRecord {
    /// A model without links.
    pub fn of(model: ModelRecord) -> MapRecord {
        MapRecord { model, links: Vec::new(), goes_with_links: false }
    }
}

/// Something that was made of a model, to be undone with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Link {
    /// A model in Ollama's store.
    Ollama {
        /// Root of the store.
        store: PathBuf,
        /// Its name there, with the tag.
        name: String,
    },
    /// A Hugging Face folder.
    HfFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A copy in shards.
    Shards {
        /// Its files as they were made.
        files: Vec<FileRecord>,
    },
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    #[serde(flatten)]
    target: Target,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Target {
    Alias { alias_of: String },
    Model(MapRecord),
}

/// Why the table could not be used or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The text is no name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is no map of that name.
    #[error("there is no map {name}")]
    Unknown {
        /// The name.
        name: MapName,
    },
    /// The name stands for something else.
    #[error("{name} is {what} already; remove it first, or take another name")]
    Taken {
        /// The name.
        name: MapName,
        /// What it stands for.
        what: String,
    },
    /// Something was made of the model that removing the name would leave behind.
    #[error("{name} is linked elsewhere ({what}); `rawrz down {name}` undoes that too")]
    Linked {
        /// The name.
        name: MapName,
        /// Where.
        what: String,
    },
    /// A file of the table is damaged, or of a later version.
    #[error("{}: not a map that this version can read; delete it if it is of no use", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
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

/// What [`Maps::add`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// The name is new.
    New,
    /// It stood for the same files already.
    Same,
    /// It stood for the same paths, whose files changed since; they are recorded as they are now.
    Refreshed,
}

/// A name of the table.
#[derive(Debug)]
pub struct Entry {
    /// The name.
    pub name: MapName,
    /// The name it is an alias of.
    pub alias_of: Option<MapName>,
    /// What it stands for, or why that cannot be told.
    pub record: Result<MapRecord, MapError>,
}

/// The table.
#[derive(Clone, Debug)]
pub struct Maps {
    folder: PathBuf,
}

impl Maps {
    /// The table in `folder`, which is made when a name is first added.
    pub fn new(folder: PathBuf) -> Maps {
        Maps { folder }
    }

    /// What `name` stands for, through an alias if it is one; `None` when there is no such name.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn get(&self, name: &MapName) -> Result<Option<Entry>, MapError> {
        match self.read(name)? {
            None => Ok(None),
            Some(Target::Model(record)) => {
                Ok(Some(Entry { name: name.clone(), alias_of: None, record: Ok(record) }))
            }
            Some(Target::Alias { alias_of }) => {
                let target = MapName::parse(&alias_of).map_err(|_| self.damaged(name))?;
                let record = match self.read(&target)? {
                    Some(Target::Model(record)) => Ok(record),
                    // An alias is made of a model's own name, so this is a table that was edited by hand.
                    _ => Err(MapError::Unknown { name: target.clone() }),
                };
                Ok(Some(Entry { name: name.clone(), alias_of: Some(target), record }))
            }
        }
    }

    /// All names in order.
    ///
    /// # Errors
    /// When the folder cannot be read. A damaged file is told in its entry.
    pub fn list(&self) -> Result<Vec<Entry>, MapError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(self.io(&self.folder)(source)),
        };
        let mut list = Vec::new();
        for entry in entries {
            let path = entry.map_err(self.io(&self.folder))?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let Some(name) = stem.and_then(|stem| MapName::parse(stem).ok()) else { continue };
            // The lock, and files that are being written, have other names.
            if path != self.path(&name) {
                continue;
            }
            match self.get(&name) {
                Ok(Some(entry)) => list.push(entry),
                // Removed since the folder was read.
                Ok(None) => {}
                Err(error) => list.push(Entry { name, alias_of: None, record: Err(error) }),
            }
        }
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// Makes `name` stand for `model`.
    ///
    /// # Errors
    /// [`MapError::Taken`] when it stands for another model, or is an alias.
    pub fn add(&self, name: &MapName, model: &ModelRecord) -> Result<Added, MapError> {
        let _lock = self.lock()?;
        let (record, added) = match self.read(name)? {
            None => (MapRecord::of(model.clone()), Added::New),
            Some(Target::Model(record)) if record.model == *model => return Ok(Added::Same),
            Some(Target::Model(record)) if record.model.path() == model.path() => {
                (MapRecord { model: model.clone(), ..record }, Added::Refreshed)
            }
            Some(target) => {
                let what = match target {
                    Target::Alias { alias_of } => format!("an alias of {alias_of}"),
                    Target::Model(record) => shown(&record.model),
                };
                return Err(MapError::Taken { name: name.clone(), what });
            }
        };
        self.write(name, Target::Model(record))?;
        Ok(added)
    }

    /// Makes `alias` stand for what `name` stands for. An alias of an alias is one of the model's own name.
    ///
    /// # Errors
    /// [`MapError::Unknown`] when there is no `name`, [`MapError::Taken`] when `alias` stands for something else.
    pub fn alias(&self, alias: &MapName, name: &MapName) -> Result<Added, MapError> {
        let _lock = self.lock()?;
        let entry = self.get(name)?.ok_or_else(|| MapError::Unknown { name: name.clone() })?;
        entry.record?;
        let target = entry.alias_of.unwrap_or_else(|| name.clone());
        match self.read(alias)? {
            None => {}
            Some(Target::Alias { alias_of }) if alias_of == target.as_str() => return Ok(Added::Same),
            Some(Target::Alias { alias_of }) => {
                return Err(MapError::Taken { name: alias.clone(), what: format!("an alias of {alias_of}") });
            }
            Some(Target::Model(record)) => {
                return Err(MapError::Taken { name: alias.clone(), what: shown(&record.model) });
            }
        }
        self.write(alias, Target::Alias { alias_of: target.to_string() })?;
        Ok(Added::New)
    }

    /// Changes the record of `name`, an own name and no alias.
    ///
    /// # Errors
    /// [`MapError::Unknown`] when it is not there.
    pub fn update(&self, name: &MapName, change: impl FnOnce(&mut MapRecord)) -> Result<(), MapError> {
        let _lock = self.lock()?;
        let Some(Target::Model(mut record)) = self.read(name)? else {
            return Err(MapError::Unknown { name: name.clone() });
        };
        change(&mut record);
        self.write(name, Target::Model(record))
    }

    /// Removes `name` and all aliases of it; the model's files stay. Gives the aliases.
    ///
    /// # Errors
    /// [`MapError::Unknown`] when it is not there, [`MapError::Linked`] while something is recorded that was made of the
    /// model.
    pub fn remove(&self, name: &MapName) -> Result<Vec<MapName>, MapError> {
        let _lock = self.lock()?;
        match self.read(name) {
            Ok(None) => return Err(MapError::Unknown { name: name.clone() }),
            Ok(Some(Target::Model(record))) => {
                if let Some(link) = record.links.first() {
                    return Err(MapError::Linked { name: name.clone(), what: link.to_string() });
                }
            }
            // A damaged map can be removed.
            Ok(Some(Target::Alias { .. })) | Err(MapError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        let aliases: Vec<_> =
            self.list()?.into_iter().filter(|e| e.alias_of.as_ref() == Some(name)).collect();
        for gone in aliases.iter().map(|entry| &entry.name).chain([name]) {
            let path = self.path(gone);
            std::fs::remove_file(&path).map_err(self.io(&path))?;
        }
        Ok(aliases.into_iter().map(|entry| entry.name).collect())
    }

    fn path(&self, name: &MapName) -> PathBuf {
        self.folder.join(format!("{name}.{ENDING}"))
    }

    fn damaged(&self, name: &MapName) -> MapError {
        MapError::Damaged { path: self.path(name) }
    }

    fn io(&self, path: &Path) -> impl FnOnce(io::Error) -> MapError + use<> {
        let path = path.to_owned();
        move |source| MapError::Io { path, source }
    }

    /// Whoever holds this may change the table. It goes with the process.
    fn lock(&self) -> Result<File, MapError> {
        std::fs::create_dir_all(&self.folder).map_err(self.io(&self.folder))?;
        let path = self.folder.join(".lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        file.and_then(|file| file.lock().map(|()| file)).map_err(self.io(&path))
    }

    fn read(&self, name: &MapName) -> Result<Option<Target>, MapError> {
        use io::Read;
        let path = self.path(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.io(&path)(source)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(self.io(&path))?;
        match serde_json::from_slice::<Stored>(&bytes) {
            Ok(Stored { format: FORMAT, target }) => match &target {
                Target::Model(record) if record.model.path().is_none() => Err(self.damaged(name)),
                _ => Ok(Some(target)),
            },
            _ => Err(self.damaged(name)),
        }
    }

    fn write(&self, name: &MapName, target: Target) -> Result<(), MapError> {
        let path = self.path(name);
        let json = serde_json::to_vec_pretty(&Stored { format: FORMAT, target });
        json.map_err(io::Error::from).and_then(|json| write_whole(&path, &json)).map_err(self.io(&path))
    }
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Link::Ollama { store, name } => write!(f, "{name} in Ollama's store {}", store.display()),
            Link::HfFolder { path } => write!(f, "the Hugging Face folder {}", path.display()),
            Link::Shards { files } => match files.first() {
                Some(first) => write!(f, "{} shards from {} on", files.len(), first.path.display()),
                None => f.write_str("no shards"),
            },
        }
    }
}

fn shown(model: &ModelRecord) -> String {
    model.path().map_or_else(|| "a map".to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        maps: Maps,
    }

    impl Fixture {
        fn new() -> Fixture {
            let dir = tempfile::tempdir().unwrap();
            let maps = Maps::new(dir.path().join("data/maps"));
            Fixture { dir, maps }
        }

        fn model(&self, name: &str, content: &str) -> ModelRecord {
            let path = self.dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            ModelRecord::of(&path).unwrap()
        }
    }

    fn name(text: &str) -> MapName {
        MapName::parse(text).unwrap()
    }

    #[test]
    fn a_name_stands_for_its_model_until_it_is_removed() {
        let f = Fixture::new();
        let model = f.model("m.gguf", "abc");
        assert!(f.maps.get(&name("m")).unwrap().is_none());
        assert!(f.maps.list().unwrap().is_empty());
        assert_eq!(f.maps.add(&name("m"), &model).unwrap(), Added::New);
        assert_eq!(f.maps.add(&name("M"), &model).unwrap(), Added::Same);
        assert_eq!(f.maps.get(&name("m")).unwrap().unwrap().record.unwrap().model, model);
        let changed = f.model("m.gguf", "abcd");
        assert_eq!(f.maps.add(&name("m"), &changed).unwrap(), Added::Refreshed);
        let other = f.model("other.gguf", "abcd");
        assert!(matches!(f.maps.add(&name("m"), &other), Err(MapError::Taken { .. })));
        assert_eq!(f.maps.remove(&name("m")).unwrap(), []);
        assert!(matches!(f.maps.remove(&name("m")), Err(MapError::Unknown { .. })));
        assert!(f.dir.path().join("m.gguf").is_file());
    }

    #[test]
    fn aliases_go_with_their_name() {
        let f = Fixture::new();
        let model = f.model("m.gguf", "abc");
        f.maps.add(&name("m"), &model).unwrap();
        assert!(matches!(f.maps.alias(&name("x"), &name("none")), Err(MapError::Unknown { .. })));
        assert_eq!(f.maps.alias(&name("x"), &name("m")).unwrap(), Added::New);
        assert_eq!(f.maps.alias(&name("y"), &name("x")).unwrap(), Added::New);
        assert_eq!(f.maps.alias(&name("x"), &name("m")).unwrap(), Added::Same);
        assert!(matches!(f.maps.alias(&name("m"), &name("x")), Err(MapError::Taken { .. })));
        assert!(matches!(f.maps.add(&name("x"), &model), Err(MapError::Taken { .. })));
        let entry = f.maps.get(&name("y")).unwrap().unwrap();
        assert_eq!((entry.alias_of, entry.record.unwrap().model), (Some(name("m")), model));
        assert_eq!(f.maps.list().unwrap().len(), 3);
        assert_eq!(f.maps.remove(&name("m")).unwrap(), [name("x"), name("y")]);
        assert!(f.maps.list().unwrap().is_empty());
    }

    #[test]
    fn a_linked_name_is_not_removed() {
        let f = Fixture::new();
        f.maps.add(&name("m"), &f.model("m.gguf", "abc")).unwrap();
        let links = vec![Link::HfFolder { path: "/x".into() }];
        f.maps.update(&name("m"), |record| record.links = links.clone()).unwrap();
        assert_eq!(f.maps.get(&name("m")).unwrap().unwrap().record.unwrap().links, links);
        assert!(matches!(f.maps.remove(&name("m")), Err(MapError::Linked { .. })));
        f.maps.update(&name("m"), |record| record.links.clear()).unwrap();
        f.maps.remove(&name("m")).unwrap();
    }

    #[test]
    fn a_damaged_map_is_told_and_can_be_removed() {
        let f = Fixture::new();
        f.maps.add(&name("good"), &f.model("m.gguf", "abc")).unwrap();
        for (i, text) in ["", "{}", "[1]", r#"{"format":2,"alias_of":"good"}"#, r#"{"format":1,"model":[]}"#]
            .iter()
            .enumerate()
        {
            let bad = name(&format!("bad{i}"));
            std::fs::write(f.maps.path(&bad), text).unwrap();
            assert!(matches!(f.maps.get(&bad), Err(MapError::Damaged { .. })), "{text}");
            let list = f.maps.list().unwrap();
            assert_eq!(list.iter().filter(|entry| entry.record.is_ok()).count(), 1, "{text}");
            assert_eq!(list.len(), 2);
            f.maps.remove(&bad).unwrap();
        }
        // An alias of what is not there, and one of itself.
        for target in ["gone", "self"] {
            std::fs::write(f.maps.path(&name("self")), format!(r#"{{"format":1,"alias_of":"{target}"}}"#))
                .unwrap();
            assert!(f.maps.get(&name("self")).unwrap().unwrap().record.is_err());
        }
    }

    #[test]
    fn changes_made_at_once_are_all_kept() {
        let f = Fixture::new();
        let model = f.model("m.gguf", "abc");
        f.maps.add(&name("m"), &model).unwrap();
        std::thread::scope(|scope| {
            for i in 0..20 {
                let (maps, model) = (&f.maps, &model);
                scope.spawn(move || {
                    maps.add(&name(&format!("n{i}")), model).unwrap();
                    maps.alias(&name(&format!("a{i}")), &name("m")).unwrap();
                    assert!(maps.list().unwrap().iter().all(|entry| entry.record.is_ok()));
                });
            }
        });
        assert_eq!(f.maps.list().unwrap().len(), 41);
    }
}
