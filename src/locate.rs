//! What MODEL means: a path, or a built-in name that stands for a file in the models folder.

use crate::catalog::{self, BuiltIn};
use anyhow::{Context, anyhow, bail};
use etcetera::BaseStrategy;
use rawrz_gguf::{DiscoverError, discover};
use std::path::{Path, PathBuf};

/// The folder that fetched models live in: `$RAWRZ_MODELS`, else `rawrz/models` in the user's data folder
/// (on Windows the local one: models must not roam from machine to machine).
pub(crate) fn models_folder() -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os("RAWRZ_MODELS").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let user = etcetera::choose_base_strategy().context(
        "the user's home folder is not known; set RAWRZ_MODELS to the folder that models should live in",
    )?;
    let base = if cfg!(windows) { user.cache_dir() } else { user.data_dir() };
    Ok(base.join("rawrz").join("models"))
}

/// The file of a built-in model, whether it is there or not.
pub(crate) fn built_in_path(model: &BuiltIn) -> anyhow::Result<PathBuf> {
    Ok(models_folder()?.join(model.file_name))
}

/// The file that MODEL names. It exists, but nothing of it was read.
pub(crate) fn model(name: &str) -> anyhow::Result<PathBuf> {
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
            "there is no file {name}, and no built-in model of that name; give a path to a .gguf file, or one of: {}",
            catalog::names()
        )),
        Err(error) => Err(error.into()),
    }
}

fn exists(path: &Path) -> anyhow::Result<bool> {
    path.try_exists().with_context(|| format!("cannot look at {}", path.display()))
}
