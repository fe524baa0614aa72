//! What begins with a slash.

/// Shown by `/help`.
pub(super) const HELP: &str = "\
/file PATH      text, code, PDF or DOCX goes with the next message
/system [TEXT]  sets the system message, or takes it away
/model [NAME]   lists the models, or goes on with another
/save PATH      writes the conversation as Markdown
/stats          speed, memory and placement
/clear          begins anew
/quit           ends, as Ctrl-D does
Enter sends, Ctrl-J makes a new line, Esc stops an answer, PageUp and PageDown scroll, Ctrl-U empties the line";

/// A command as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Quit,
    Clear,
    System(Option<String>),
    File(String),
    Save(String),
    Model(Option<String>),
    Stats,
}

impl Command {
    /// `None` when `text` is no command but something to say; a text that begins with two slashes, or with a slash and no
    /// letter, is.
    pub(super) fn parse(text: &str) -> Option<Result<Command, String>> {
        let rest =
            text.strip_prefix('/').filter(|rest| rest.starts_with(|c: char| c.is_ascii_alphabetic()))?;
        let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let argument = argument.trim();
        let optional = || (!argument.is_empty()).then(|| argument.to_owned());
        let needed = |what: &str| optional().ok_or_else(|| format!("/{name} takes {what}"));
        Some(match name {
            "help" => Ok(Command::Help),
            "quit" | "exit" | "bye" => Ok(Command::Quit),
            "clear" | "new" => Ok(Command::Clear),
            "system" => Ok(Command::System(optional())),
            "file" => needed("the path of a file").map(Command::File),
            "save" => needed("the path of a file to write").map(Command::Save),
            "model" => Ok(Command::Model(optional())),
            "stats" => Ok(Command::Stats),
            _ => Err(format!("there is no /{name}; /help lists the commands")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_what_is_none() {
        assert_eq!(Command::parse("/file a b.txt "), Some(Ok(Command::File("a b.txt".to_owned()))));
        assert_eq!(Command::parse("/system"), Some(Ok(Command::System(None))));
        assert_eq!(Command::parse("/model qwen"), Some(Ok(Command::Model(Some("qwen".to_owned())))));
        assert_eq!(Command::parse("/quit"), Some(Ok(Command::Quit)));
        for wrong in ["/file", "/save  ", "/nonsense", "/File x"] {
            assert!(matches!(Command::parse(wrong), Some(Err(_))), "{wrong}");
        }
        for said in ["hello", "// a comment", "/", "/ x", "a /quit", "/2"] {
            assert_eq!(Command::parse(said), None, "{said}");
        }
    }
}
