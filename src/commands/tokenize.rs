//! `rawrz tokenize MODEL < TEXT`

use crate::cli::TokenizeArgs;
use crate::exit::Usage;
use crate::locate;
use crate::output::Output;
use anyhow::Context;
use rawrz_engine::ModelFiles;
use rawrz_text::{EncodeOptions, Tokenizer};
use std::io::{IsTerminal, Read};

pub(crate) fn main(args: &TokenizeArgs) -> anyhow::Result<()> {
    let files = ModelFiles::open(&locate::model(&args.model)?)?;
    let tokenizer = Tokenizer::from_gguf(files.shards().first())?;
    files.check()?;
    if std::io::stdin().is_terminal() {
        return Err(Usage(
            "tokenize reads its text from standard input; give it a file (`< FILE`) or a pipe".into(),
        )
        .into());
    }
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).context("cannot read standard input")?;
    let text =
        String::from_utf8(text).context("the text on standard input is not UTF-8; convert it first")?;
    let options = EncodeOptions { add_special: !args.no_bos, parse_special: !args.no_special };
    let ids = tokenizer.encode(&text, options)?;

    let mut out = Output::new();
    if args.json {
        return out.json(&ids.into());
    }
    let mut lines = String::new();
    for id in ids {
        let mut piece = Vec::new();
        tokenizer.append_piece(id, true, &mut piece);
        lines.push_str(&format!("{id:>7}  {:?}\n", String::from_utf8_lossy(&piece)));
    }
    out.text(&lines)
}
