//! Flags of the commands that share models with other programs.

use super::context_len;
use crate::size;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// .gguf files or built-in names
    #[arg(required = true, value_name = "MODEL", value_hint = ValueHint::FilePath)]
    pub(crate) models: Vec<String>,
    /// The name [default: what the file's name suggests]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The folder that the Hugging Face folder NAME is made in [default: hf in RawrZ's data folder]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out_dir: Option<PathBuf>,
    /// Write a copy in shards of this size too, into NAME-shards beside the Hugging Face folder
    #[arg(long, value_name = "BYTES", value_parser = shard_size)]
    pub(crate) shard_size: Option<u64>,
    /// Start Ollama, wait until it shows the model, and have it answer once
    #[arg(long)]
    pub(crate) launch_ollama: bool,
    /// Memory limit for the Ollama that --launch-ollama starts
    #[arg(long, value_name = "BYTES", value_parser = size::parse, requires = "launch_ollama")]
    pub(crate) memory: Option<u64>,
    /// Print one JSON object for each model, in an array
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    /// The name
    pub(crate) name: String,
}

/// What to do with the table of names.
#[derive(Debug, Subcommand)]
pub(crate) enum MapsCommand {
    /// Make NAME stand for a model
    ///
    /// Names have letters, digits, `.`, `_` and `-`; capitals count as small letters. All files of a model in several are
    /// recorded with their length and time of change, so that a later change is noticed.
    Add {
        /// The name
        name: String,
        /// A .gguf file or a built-in name
        #[arg(value_hint = ValueHint::FilePath)]
        model: String,
    },
    /// Make ALIAS stand for what NAME stands for
    Alias {
        /// The new name
        alias: String,
        /// The name that is there
        name: String,
    },
    /// Show all names, what they stand for and what was made of it
    List {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Remove NAME and its aliases; the model's files stay
    Remove {
        /// The name
        name: String,
    },
    /// Keep a model in memory until Ctrl-C
    ///
    /// On Windows its memory is also the named section `Local\NAME`, which other programs open with OpenFileMapping; on
    /// other systems they map the file.
    Hold {
        /// The name
        name: String,
        /// The system may not take the memory for anything else
        #[arg(long)]
        lock: bool,
    },
}

/// What to do with Ollama's store.
#[derive(Debug, Subcommand)]
pub(crate) enum OllamaCommand {
    /// Make a model appear in Ollama
    ///
    /// The store gets a hard link to the file, else a symbolic link, else a reflink; only with --copy a copy. Chat
    /// template, context and the texts that end an answer go with it. A running Ollama needs no restart.
    Link {
        /// NAME or NAME:TAG
        name: String,
        /// A .gguf file, a map or a built-in name
        #[arg(value_hint = ValueHint::FilePath)]
        model: String,
        /// Context in tokens that Ollama loads it with [default: 4096, or what it was made for if less]
        #[arg(long, value_name = "N", value_parser = context_len)]
        ctx: Option<usize>,
        /// Copy the file where no link works
        #[arg(long)]
        copy: bool,
    },
    /// Take a model that was linked out of the store again
    Unlink {
        /// NAME or NAME:TAG
        name: String,
    },
    /// Show all models of the store and what they are linked to
    List {
        /// Print one JSON array
        #[arg(long)]
        json: bool,
    },
    /// Start Ollama with settings for mapped models, and have a model answer once
    Launch {
        /// The model [default: none is asked]
        name: Option<String>,
        /// Memory limit of the server and its children
        #[arg(long, value_name = "BYTES", value_parser = size::parse)]
        memory: Option<u64>,
        /// What it is asked
        #[arg(long, value_name = "TEXT", default_value = crate::ollama::launch::PROMPT)]
        prompt: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ExportHfArgs {
    /// A .gguf file or a built-in name
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) model: String,
    /// The folder to make
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// Write the weights as safetensors of this type, instead of linking the GGUF
    #[arg(long, value_enum, value_name = "TYPE")]
    pub(crate) safetensors: Option<Safetensors>,
    /// Most bytes of weights in a safetensors file [512MiB, 4GiB, 1GB, plain bytes]
    #[arg(long, value_name = "BYTES", value_parser = shard_size, default_value = "5GB", requires = "safetensors")]
    pub(crate) shard_size: u64,
    /// Print one JSON object instead of the folder
    #[arg(long)]
    pub(crate) json: bool,
}

/// Types of safetensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Safetensors {
    /// 16-bit floats
    Fp16,
    /// The upper halves of 32-bit floats
    Bf16,
    /// 32-bit floats: what the model decodes to, exactly
    Fp32,
}

#[derive(Debug, Args)]
pub(crate) struct SplitArgs {
    /// A .gguf file or a built-in name
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) model: String,
    /// What the names of the files begin with; of a folder that exists, the model's name in it
    #[arg(long, value_name = "PREFIX_OR_DIR", value_hint = ValueHint::AnyPath)]
    pub(crate) out: PathBuf,
    /// Most bytes of tensors in a file; the first has the metadata beside them [512MiB, 4GiB, 1GB, plain bytes]
    #[arg(long, value_name = "BYTES", value_parser = shard_size, default_value = "512MiB", conflicts_with = "tensors")]
    pub(crate) shard_size: u64,
    /// Most tensors in a file, instead of bytes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) tensors: Option<u64>,
    /// Delete the model's own files at the end, when all that was written has been compared with them
    #[arg(long)]
    pub(crate) remove_source: bool,
    /// Print one JSON object instead of the paths
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    /// The first file of the model
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) model: String,
    /// The file to write
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: PathBuf,
    /// Delete the model's own files at the end, when all that was written has been compared with them
    #[arg(long)]
    pub(crate) remove_source: bool,
    /// Print one JSON object instead of the path
    #[arg(long)]
    pub(crate) json: bool,
}

fn shard_size(text: &str) -> Result<u64, String> {
    match size::parse(text)? {
        0 => Err("more than 0 bytes".into()),
        bytes => Ok(bytes),
    }
}
