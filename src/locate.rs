//! What MODEL means: the name of a map, a built-in name that stands for a file in the models folder, or a path.

use crate::catalog::{self, BuiltIn};
use anyhow::{Context, anyhow, bail};
use etcetera::BaseStrategy;
use rawrz_engine::ModelFiles;
use rawrz_gguf::{DiscoverError, discover};
use rawrz_interop::OpenModel;
use rawrz_interop::maps::{MapName, Maps};
use std::path::{Path, PathBuf};

/// The folder that fetched models live in: `$RAWRZ_MODELS`, else `models` in the data folder.
pub(crate) fn models_folder() -> anyhow::Result<PathBuf> {
    if let Some(folder) = environment_path("RAWRZ_MODELS") {
        return Ok(folder);
    }
    Ok(data_folder("RAWRZ_MODELS to the folder that models should live in")?.join("models"))
}

/// The table of models by name.
pub(crate) fn maps() -> anyhow::Result<Maps> {
    Ok(Maps::new(own_folder("maps")?))
}

/// A folder of our own in the data folder.
pub(crate) fn own_folder(name: &str) -> anyhow::Result<PathBuf> {
    Ok(data_folder("RAWRZ_DATA to a folder for what RawrZ keeps")?.join(name))
}

/// `$RAWRZ_DATA`, else `rawrz` in the user's data folder (on Windows the local one: models must not roam from machine to
/// machine). `or_set` is what to set where neither is known.
fn data_folder(or_set: &str) -> anyhow::Result<PathBuf> {
    if let Some(folder) = environment_path("RAWRZ_DATA") {
        return Ok(folder);
    }
    let user = etcetera::choose_base_strategy()
        .with_context(|| format!("the user's home folder is not known; set {or_set}"))?;
    let base = if cfg!(windows) { user.cache_dir() } else { user.data_dir() };
    Ok(base.join("rawrz"))
}

/// A path in the environment; what is empty counts as not set.
pub(crate) fn environment_path(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The file of a built-in model, whether it is there or not.
pub(crate) fn built_in_path(model: &BuiltIn) -> anyhow::Result<PathBuf> {
    Ok(models_folder()?.join(model.file_name))
}

/// The file that MODEL names. It exists, but nothing of it was read.
pub(crate) fn model(name: &str) -> anyhow::Result<PathBuf> {
    if let Some(path) = mapped(name)? {
        return Ok(path);
    }
    if let Some(model) = catalog::find(name) {
        let path = built_in_path(model)?;
        if !exists(&path)? {
            bail!(
                "{} is not fetched yet ({} is not there); run `rawrz pull {name}`",
                model.title,
                path.display()
            );
        }
        return Ok(path);
    }
    let path = PathBuf::from(name);
    if path.is_dir() {
        bail!("{name} is a folder; give the .gguf file in it (of a model in several files, the first)");
    }
    match discover(&path) {
        Ok(_) => Ok(path),
        Err(DiscoverError::NotFound { .. }) => Err(anyhow!(
            "there is no file {name}, and no map or built-in model of that name; give a path to a .gguf file, or one of: {}",
            catalog::names()
        )),
        Err(error) => Err(error.into()),
    }
}

/// The first file of the map of that name; `None` when there is none. A model that changed since is told of.
fn mapped(name: &str) -> anyhow::Result<Option<PathBuf>> {
    let Ok(name) = MapName::parse(name) else { return Ok(None) };
    let Some(entry) = maps()?.get(&name)? else { return Ok(None) };
    let model = entry.record?.model;
    if let Some(gone) = model.files().find(|file| !file.is_there()) {
        bail!(
            "the map {name} stands for {}, which is gone; put it back, or `rawrz down {name}`",
            gone.path.display()
        );
    }
    if let Some(what) = model.change() {
        eprintln!("note: {what}; `rawrz up` brings what was made of {name} up to date");
    }
    Ok(model.path().map(Path::to_owned))
}

/// What was opened, as those take it who make something of it for other programs.
pub(crate) fn opened(files: &ModelFiles) -> OpenModel<'_> {
    OpenModel { shards: files.shards(), source: files.source(), paths: files.paths() }
}

fn exists(path: &Path) -> anyhow::Result<bool> {
    path.try_exists().with_context(|| format!("cannot look at {}", path.display()))
}
