//! `rawrz chat [MODEL]`

use crate::chat;
use crate::cli::ChatArgs;
use crate::exit::Usage;
use std::io::IsTerminal;

pub(crate) fn main(args: &ChatArgs) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(
            Usage("chat needs a terminal; `rawrz run MODEL -p TEXT` answers without one".into()).into()
        );
    }
    let connection = chat::connect(args)?;
    chat::run(connection, args.system.clone())
}
