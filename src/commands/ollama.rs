//! `rawrz ollama ..`

use crate::cli::OllamaCommand;
use crate::ollama::{self, LinkOptions, launch};
use crate::output::{Output, printable};
use crate::{interrupt, locate};
use rawrz_engine::{ModelFiles, Size};
use rawrz_interop::ModelRecord;
use rawrz_interop::ollama::{Model, OllamaName};
use serde_json::{Value as Json, json};

pub(crate) fn main(command: &OllamaCommand) -> anyhow::Result<()> {
    let mut out = Output::new();
    match command {
        OllamaCommand::Link { name, model, ctx, copy } => {
            let (store, name) = (ollama::store()?, OllamaName::parse(name)?);
            let options = LinkOptions { context_len: ctx.map(|ctx| ctx as u64), may_copy: *copy };
            let cancel = interrupt::cancel_on_signal()?;
            let path = locate::model(model)?;
            let record = ModelRecord::of(&path)?;
            let file = ollama::one_file(&record, &path)?;
            let files = ModelFiles::open(&path)?;
            let linked = ollama::link(&store, &name, file, &files, &options, &cancel)?;
            let how = linked.how.as_str();
            out.line(&match linked.was_there {
                true => format!("{name} is in Ollama's store already ({how}); nothing changed"),
                false => format!("{name} is in Ollama's store {} ({how})", store.root().display()),
            })
        }
        OllamaCommand::Unlink { name } => {
            let name = OllamaName::parse(name)?;
            let unlinked = ollama::store()?.unlink(&name)?;
            if unlinked.blobs_kept {
                eprintln!(
                    "note: a manifest in the store cannot be read, so links stay until Ollama clears them"
                );
            }
            out.line(&format!("{name} is no longer in Ollama's store; the model's file stays"))
        }
        OllamaCommand::List { json } => {
            let listing = ollama::store()?.list()?;
            for path in &listing.unreadable {
                eprintln!("note: {} is no manifest of Ollama's", path.display());
            }
            if *json {
                return out.json(&listing.models.iter().map(as_json).collect());
            }
            listing.models.iter().try_for_each(|model| out.line(&printable(&as_text(model))))
        }
        OllamaCommand::Launch { name, memory, prompt } => {
            let name = name.as_deref().map(OllamaName::parse).transpose()?;
            launch::launch(name.as_ref(), *memory, prompt, &mut out)
        }
    }
}

fn as_text(model: &Model) -> String {
    let from = model.origin.as_ref().map_or_else(
        || "Ollama's own".to_owned(),
        |origin| format!("{} to {}", origin.how.as_str(), origin.source.path.display()),
    );
    let trouble = model.trouble.as_ref().map_or(String::new(), |what| format!("\n  {what}"));
    format!("{}, {}, {from}{trouble}", model.name, Size(model.len_bytes))
}

fn as_json(model: &Model) -> Json {
    json!({
        "name": model.name.to_string(),
        "bytes": model.len_bytes,
        "source": model.origin.as_ref().map(|origin| origin.source.path.display().to_string()),
        "link": model.origin.as_ref().map(|origin| origin.how.as_str()),
        "trouble": model.trouble,
    })
}
