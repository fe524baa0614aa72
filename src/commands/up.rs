//! `rawrz up MODEL ..`

use crate::cli::UpArgs;
use crate::commands::down::undo;
use crate::commands::pull;
use crate::exit::{Interrupted, Usage};
use crate::fetch::Watch;
use crate::ollama::{self, LinkOptions, launch};
use crate::output::{Output, printable};
use crate::progress::Watched;
use crate::{catalog, interrupt, locate};
use anyhow::Context;
use rawrz_engine::{Cancel, ModelFiles, Size};
use rawrz_interop::hf_folder::{self, Weights};
use rawrz_interop::maps::{Added, Link, MapName, Maps};
use rawrz_interop::ollama::OllamaName;
use rawrz_interop::shards::{self, ShardLimit, ShardsError, SplitOptions};
use rawrz_interop::{FileRecord, ModelRecord, OutputError};
use serde_json::{Value as Json, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) fn main(args: &UpArgs) -> anyhow::Result<()> {
    if args.name.is_some() && args.models.len() > 1 {
        return Err(Usage("--name is for one model".into()).into());
    }
    let cancel = interrupt::cancel_on_signal()?;
    let mut out = Output::new();
    let mut made = Vec::new();
    for model in &args.models {
        let up = up(model, args, &cancel)
            .with_context(|| format!("{model} is not up, and nothing of it is left"))?;
        if !args.json {
            out.line(&printable(&up.as_text()))?;
        }
        made.push(up);
    }
    if args.json {
        out.json(&made.iter().map(Up::as_json).collect())?;
    }
    if args.launch_ollama {
        for up in &made {
            launch::launch(Some(&up.ollama_name), args.memory, launch::PROMPT, &mut out)?;
        }
    }
    Ok(())
}

/// What became of one of the things that are made of a model.
struct Step {
    what: &'static str,
    outcome: String,
    is_changed: bool,
}

/// A model that is up.
struct Up {
    name: MapName,
    ollama_name: OllamaName,
    path: PathBuf,
    len_bytes: u64,
    steps: Vec<Step>,
    seconds: f64,
}

impl Up {
    fn is_changed(&self) -> bool {
        self.steps.iter().any(|step| step.is_changed)
    }

    fn as_text(&self) -> String {
        let mut text = format!("{}: {}, {}", self.name, self.path.display(), Size(self.len_bytes));
        for step in &self.steps {
            text += &format!("\n  {:<8} {}", step.what, step.outcome);
        }
        match self.is_changed() {
            true => {
                text +=
                    &format!("\n  ready in {:.1} s; next: rawrz run {} -p \"Hello\"", self.seconds, self.name)
            }
            false => text += "\n  all was there already; nothing changed",
        }
        text
    }

    fn as_json(&self) -> Json {
        let steps: serde_json::Map<_, _> =
            self.steps.iter().map(|step| (step.what.to_owned(), Json::from(&*step.outcome))).collect();
        json!({
            "name": self.name.as_str(),
            "file": self.path.display().to_string(),
            "bytes": self.len_bytes,
            "steps": steps,
            "changed": self.is_changed(),
            "seconds": self.seconds,
        })
    }
}

/// What was made so far; undone when it is dropped before all is there.
struct Undo<'a> {
    maps: &'a Maps,
    name: MapName,
    links: Vec<Link>,
    name_is_new: bool,
    is_armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        for link in self.links.iter().rev() {
            if let Err(error) = undo(link) {
                eprintln!("note: {link} could not be undone: {error:#}");
            }
        }
        if self.name_is_new
            && let Err(error) = self.maps.remove(&self.name)
        {
            eprintln!("note: the map {} could not be removed: {error}", self.name);
        }
    }
}

fn up(model: &str, args: &UpArgs, cancel: &Cancel) -> anyhow::Result<Up> {
    let started = Instant::now();
    let path = find(model, cancel)?;
    // Whatever else it is, it must be a model: nothing is made of what is not.
    let files = ModelFiles::open(&path)?;
    files.check()?;
    let maps = locate::maps()?;
    let name = name(model, &path, args)?;
    let ollama_name = OllamaName::parse(name.as_str())?;
    let record = ModelRecord::of(&path)?;

    let added = maps.add(&name, &record)?;
    let mut undo = Undo {
        maps: &maps,
        name: name.clone(),
        links: Vec::new(),
        name_is_new: added == Added::New,
        is_armed: true,
    };
    let outcome = match added {
        Added::New => "registered",
        Added::Same => "was there",
        Added::Refreshed => "brought up to date",
    };
    let mut steps = vec![Step { what: "map", outcome: outcome.to_owned(), is_changed: added != Added::Same }];
    let mut links = Vec::new();
    let mut take = |(step, link): (Step, Option<Link>), undo: &mut Undo| {
        if step.is_changed {
            undo.links.extend(link.clone());
        }
        links.extend(link);
        steps.push(step);
    };
    let folder = match &args.out_dir {
        Some(folder) => folder.clone(),
        None => locate::own_folder("hf")?,
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let folder = std::path::absolute(folder)?;
    take(make_folder(&files, &folder.join(name.as_str()))?, &mut undo);
    if let Some(shard_size) = args.shard_size {
        take(make_shards(&files, &folder, &name, shard_size, cancel)?, &mut undo);
    }
    take(link_into_ollama(&ollama_name, &path, &record, &files, cancel)?, &mut undo);
    drop(files);

    let is_new = added == Added::New;
    maps.update(&name, |record| {
        record.goes_with_links |= is_new;
        // Links elsewhere, made by an earlier `up` with other settings, stay recorded.
        record.links.retain(|link| !links.contains(link));
        record.links.extend(links);
    })?;
    undo.is_armed = false;
    drop(undo);
    let (len_bytes, seconds) = (record.len_bytes(), started.elapsed().as_secs_f64());
    Ok(Up { name, ollama_name, path, len_bytes, steps, seconds })
}

/// The file of MODEL; a built-in model is fetched where it is not there yet.
fn find(model: &str, cancel: &Cancel) -> anyhow::Result<PathBuf> {
    if let Some(built_in) = catalog::find(model)
        && !locate::built_in_path(built_in)?.exists()
    {
        return pull::built_in(built_in, &Watch { cancel: cancel.clone(), tell: None });
    }
    locate::model(model)
}

/// The name that was asked for; else the one that MODEL is, else what its file suggests.
fn name(model: &str, path: &Path, args: &UpArgs) -> anyhow::Result<MapName> {
    if let Some(name) = &args.name {
        return Ok(MapName::parse(name)?);
    }
    if let Ok(name) = MapName::parse(model) {
        if let Some(entry) = locate::maps()?.get(&name)? {
            return Ok(entry.alias_of.unwrap_or(name));
        }
        if catalog::find(model).is_some() {
            return Ok(name);
        }
    }
    let file = path.file_name().and_then(|name| name.to_str()).and_then(MapName::suggested_by);
    file.with_context(|| format!("{} suggests no name; give one with --name", path.display()))
}

/// The Hugging Face folder. Of a model that has no form there, none is made, and that is said.
fn make_folder(files: &ModelFiles, folder: &Path) -> anyhow::Result<(Step, Option<Link>)> {
    let model = locate::opened(files);
    // The weights are linked, so there is nothing to wait for.
    let report =
        match hf_folder::export(&model, folder, Weights::Linked, &mut |_, _| ControlFlow::Continue(())) {
            Ok(report) => report,
            Err(error) if error.is_of_model() => {
                let step = Step { what: "folder", outcome: format!("not made: {error}"), is_changed: false };
                return Ok((step, None));
            }
            Err(error) => return Err(error.into()),
        };
    let (is_changed, path) = (!report.was_present, report.folder);
    let how = if is_changed { "made" } else { "was there" };
    let outcome = format!("{} {how}; AutoTokenizer.from_pretrained(\"{}\")", path.display(), path.display());
    Ok((Step { what: "folder", outcome, is_changed }, Some(Link::HfFolder { path })))
}

fn make_shards(
    files: &ModelFiles,
    folder: &Path,
    name: &MapName,
    shard_size: u64,
    cancel: &Cancel,
) -> anyhow::Result<(Step, Option<Link>)> {
    let folder = folder.join(format!("{name}-shards"));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let limit = ShardLimit::Bytes(shard_size);
    let options = SplitOptions { prefix: folder.join(name.as_str()), limit, remove_source: false };
    let mut watched = Watched::new("splitting", cancel);
    let made = shards::split(&locate::opened(files), &options, &mut |done, total| watched.at(done, total));
    let report = match made {
        Err(ShardsError::Output(OutputError::Stopped)) => return Err(Interrupted.into()),
        other => other?,
    };
    let is_changed = report.files.iter().any(|file| !file.was_present);
    let outcome = match is_changed {
        true => format!("{} made in {}, a second copy", report.files.len(), folder.display()),
        false => format!("{} were there", report.files.len()),
    };
    let files = report.files.iter().map(|file| FileRecord::of(&file.path)).collect::<Result<_, _>>()?;
    Ok((Step { what: "shards", outcome, is_changed }, Some(Link::Shards { files })))
}

fn link_into_ollama(
    name: &OllamaName,
    path: &Path,
    record: &ModelRecord,
    files: &ModelFiles,
    cancel: &Cancel,
) -> anyhow::Result<(Step, Option<Link>)> {
    let store = ollama::store()?;
    if !store.root().is_dir() && ollama::program().is_none() {
        let outcome = format!(
            "not installed (`{}`); run this again then, or `rawrz serve` in its place",
            ollama::how_to_install()
        );
        return Ok((Step { what: "ollama", outcome, is_changed: false }, None));
    }
    let file = ollama::one_file(record, path)?;
    let linked = ollama::link(&store, name, file, files, &LinkOptions::default(), cancel)?;
    let how = linked.how.as_str();
    let outcome = match linked.was_there {
        true => format!("{name} was there ({how})"),
        false => format!("{name} linked ({how}); ollama run {name}"),
    };
    let link = Link::Ollama { store: std::path::absolute(store.root())?, name: name.to_string() };
    Ok((Step { what: "ollama", outcome, is_changed: !linked.was_there }, Some(link)))
}
