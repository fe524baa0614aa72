//! `rawrz maps ..`

use crate::cli::MapsCommand;
use crate::output::{Output, printable};
use crate::{interrupt, locate};
use anyhow::{Context, bail};
use rawrz_engine::{Size, process_memory};
use rawrz_interop::ModelRecord;
use rawrz_interop::maps::{Added, Entry, MapName};
use rawrz_residency::{MappedSource, PartedFile};
use serde_json::{Value as Json, json};
use std::time::Duration;

pub(crate) fn main(command: &MapsCommand) -> anyhow::Result<()> {
    let maps = locate::maps()?;
    let mut out = Output::new();
    match command {
        MapsCommand::Add { name, model } => {
            let model = ModelRecord::of(&locate::model(model)?)?;
            let added = maps.add(&MapName::parse(name)?, &model)?;
            let size = Size(model.len_bytes());
            out.line(&match added {
                Added::New => format!("{name} stands for a model of {size}"),
                Added::Same => format!("{name} stands for it already; nothing changed"),
                Added::Refreshed => format!("{name} stands for the files as they are now, {size}"),
            })
        }
        MapsCommand::Alias { alias, name } => {
            let added = maps.alias(&MapName::parse(alias)?, &MapName::parse(name)?)?;
            let already = if added == Added::Same { " already; nothing changed" } else { "" };
            out.line(&format!("{alias} is an alias of {name}{already}"))
        }
        MapsCommand::List { json } => {
            let list = maps.list()?;
            if *json {
                return out.json(&list.iter().map(as_json).collect());
            }
            if list.is_empty() {
                eprintln!("no maps; `rawrz maps add NAME MODEL` makes one");
            }
            list.iter().try_for_each(|entry| out.line(&printable(&as_text(entry))))
        }
        MapsCommand::Remove { name } => {
            let aliases = maps.remove(&MapName::parse(name)?)?;
            out.line(&format!("{name} is removed; its files stay"))?;
            aliases.iter().try_for_each(|alias| out.line(&format!("{alias}, an alias of it, is removed")))
        }
        MapsCommand::Hold { name, lock } => hold(name, *lock, &mut out),
    }
}

fn as_text(entry: &Entry) -> String {
    let alias = entry.alias_of.as_ref().map_or(String::new(), |target| format!(", alias of {target}"));
    let record = match &entry.record {
        Ok(record) => record,
        Err(error) => return format!("{}{alias}: {error}", entry.name),
    };
    let path = record.model.path().map_or_else(String::new, |path| path.display().to_string());
    let n_files = record.model.files().count();
    let files = if n_files > 1 { format!(" and {} more files", n_files - 1) } else { String::new() };
    let mut text = format!("{}{alias}: {path}{files}, {}", entry.name, Size(record.model.len_bytes()));
    for link in &record.links {
        text += &format!("\n  {link}");
    }
    if let Some(what) = record.model.change() {
        text += &format!("\n  {what}");
    }
    text
}

fn as_json(entry: &Entry) -> Json {
    let mut object = json!({ "name": entry.name.as_str() });
    if let Some(target) = &entry.alias_of {
        object["alias_of"] = json!(target.as_str());
    }
    match &entry.record {
        Err(error) => object["error"] = json!(error.to_string()),
        Ok(record) => {
            let paths: Vec<_> = record.model.files().map(|file| file.path.display().to_string()).collect();
            object["files"] = json!(paths);
            object["bytes"] = json!(record.model.len_bytes());
            object["links"] = record.links.iter().map(|link| Json::from(link.to_string())).collect();
            object["change"] = json!(record.model.change());
        }
    }
    object
}

/// How often a held model's files are looked at.
const PERIOD: Duration = Duration::from_millis(500);

fn hold(name: &str, lock: bool, out: &mut Output) -> anyhow::Result<()> {
    let name = MapName::parse(name)?;
    let entry = locate::maps()?.get(&name)?.with_context(|| format!("there is no map {name}"))?;
    let record = entry.record?;
    if let Some(what) = record.model.change() {
        bail!("{what}; `rawrz maps add {name} ..` records it as it is now");
    }
    let cancel = interrupt::cancel_on_signal()?;
    let paths = record
        .model
        .shards
        .iter()
        .map(|parts| parts.iter().map(|file| file.path.clone()).collect::<Vec<_>>());
    let files = paths.map(|parts| PartedFile::open(&parts)).collect::<Result<_, _>>()?;
    let source = MappedSource::new(files)?;
    let held = source.hold(name.as_str(), lock, &|| cancel.is_cancelled()).with_context(|| {
        let hint =
            if lock { "; --lock needs a limit of locked memory (`ulimit -l`) above its size" } else { "" };
        format!("{name} cannot be held{hint}")
    })?;
    let resident = process_memory().file_backed.map_or(String::new(), |n| format!(", {} in memory", Size(n)));
    out.line(&format!("{name} is held: {}{resident}; Ctrl-C ends it", Size(record.model.len_bytes())))?;
    if let Some(section) = held.section_name() {
        out.line(&format!("other programs open the section {section}"))?;
    }
    while !cancel.is_cancelled() {
        std::thread::sleep(PERIOD);
        if let Some(what) = record.model.change() {
            bail!("{what}; it is held no longer");
        }
    }
    Ok(())
}
