//! `rawrz down NAME`

use crate::cli::DownArgs;
use crate::locate;
use crate::ollama::unlink_if_there;
use crate::output::Output;
use anyhow::{Context, bail};
use rawrz_interop::hf_folder;
use rawrz_interop::maps::{Link, MapName, Maps};
use rawrz_interop::ollama::{OllamaName, Store};

pub(crate) fn main(args: &DownArgs) -> anyhow::Result<()> {
    let maps = locate::maps()?;
    let name = MapName::parse(&args.name)?;
    let entry = maps.get(&name)?.with_context(|| format!("there is no map {name}"))?;
    if let Some(target) = entry.alias_of {
        bail!("{name} is an alias of {target}; `rawrz down {target}` undoes what was made of it");
    }
    let record = entry.record?;
    let mut out = Output::new();
    // Last made, first undone. Each is struck off when it is gone, so that a failure leaves no more than is recorded.
    for link in record.links.iter().rev() {
        let was_there = undo(link)?;
        maps.update(&name, |record| record.links.retain(|other| other != link))?;
        out.line(&format!("{link}: {}", if was_there { "removed" } else { "was gone already" }))?;
    }
    finish(&maps, &name, record.goes_with_links, &mut out)
}

fn finish(maps: &Maps, name: &MapName, goes_with_links: bool, out: &mut Output) -> anyhow::Result<()> {
    if !goes_with_links {
        return out.line(&format!("the map {name} was there before `up`, and stays"));
    }
    for alias in maps.remove(name)? {
        out.line(&format!("{alias}, an alias of it, is removed"))?;
    }
    out.line(&format!("{name} is removed; the model's files stay"))
}

/// Undoes what was made of a model; says whether it was there.
pub(crate) fn undo(link: &Link) -> anyhow::Result<bool> {
    match link {
        Link::Ollama { store, name } => {
            let store = Store::new(store.clone(), locate::own_folder("locks")?);
            unlink_if_there(&store, &OllamaName::parse(name)?)
        }
        Link::HfFolder { path } => {
            let removal = hf_folder::remove(path)?;
            for kept in &removal.kept {
                eprintln!("note: {} is not of the export, or was changed since; it stays", kept.display());
            }
            Ok(!removal.removed.is_empty())
        }
        Link::Shards { files } => {
            let mut was_there = false;
            for file in files.iter().filter(|file| file.is_there()) {
                if let Some(what) = file.change() {
                    eprintln!("note: {what}; it stays");
                    continue;
                }
                std::fs::remove_file(&file.path)
                    .with_context(|| format!("cannot remove {}", file.path.display()))?;
                was_there = true;
            }
            // Where others put something beside them it stays.
            if let Some(folder) = files.first().and_then(|file| file.path.parent()) {
                let _ = std::fs::remove_dir(folder);
            }
            Ok(was_there)
        }
    }
}
