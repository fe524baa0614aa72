//! `rawrz chat`: a conversation in the terminal, with a server that runs already or one of its own.
//!
//! One thread draws and takes keys; another reads an answer as it comes and sends what happens over a channel.

mod client;
mod command;
mod connect;
mod view;

pub(crate) use connect::{Connection, connect};

use client::{ChatEvent, ChatMessage, ChatRequest, Client, Figures, StopFlag};
use command::Command;
use ratatui::crossterm::event::{
    self, DisableBracketedPaste, EnableBracketedPaste, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
};
use ratatui::crossterm::execute;
use rawrz_documents::Limits;
use std::path::Path;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// How long a key is waited for before the screen is drawn again.
const TICK: Duration = Duration::from_millis(50);

/// How often the server's figures are asked for.
const FIGURES_PERIOD: Duration = Duration::from_secs(1);

/// Lines that a turn of the page keys moves.
const PAGE: usize = 10;

/// Something in the transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    /// What the user said; attached files are named, not shown.
    User { text: String, files: Vec<String> },
    /// What the model answered.
    Answer(String),
    /// What the program says.
    Note(String),
}

/// A file to go with the next message.
struct Attached {
    name: String,
    text: String,
}

/// An answer that is being made.
struct Running {
    events: Receiver<ChatEvent>,
    stop: StopFlag,
    /// Tokens of the prompt that were read, of how many.
    prompt: Option<(u64, u64)>,
}

/// A conversation and what is on the screen.
struct Chat {
    client: Client,
    model: String,
    system: Option<String>,
    messages: Vec<ChatMessage>,
    entries: Vec<Entry>,
    attached: Vec<Attached>,
    input: String,
    /// Lines that the transcript is scrolled up from its end.
    scrolled: usize,
    running: Option<Running>,
    /// Of the last answer.
    last_speed: Option<String>,
    figures: Option<Figures>,
    figures_at: Option<Instant>,
    is_over: bool,
}

/// Runs until the user ends it. The terminal is as before afterwards, also after a panic.
pub(crate) fn run(connection: Connection, system: Option<String>) -> anyhow::Result<()> {
    let mut chat = Chat::new(connection.client.clone(), connection.model.clone(), system);
    chat.note(&format!("{} at {}; /help lists the commands, Ctrl-D ends", chat.model, chat.client.base()));
    let mut terminal = ratatui::try_init()?;
    // Lines that are pasted come as one text then, and are not sent one by one.
    let _ = execute!(std::io::stdout(), EnableBracketedPaste);
    let result = chat.serve(&mut terminal);
    let _ = execute!(std::io::stdout(), DisableBracketedPaste);
    ratatui::restore();
    drop(connection);
    result
}

impl Chat {
    fn new(client: Client, model: String, system: Option<String>) -> Chat {
        Chat {
            client,
            model,
            system,
            messages: Vec::new(),
            entries: Vec::new(),
            attached: Vec::new(),
            input: String::new(),
            scrolled: 0,
            running: None,
            last_speed: None,
            figures: None,
            figures_at: None,
            is_over: false,
        }
    }

    fn serve(&mut self, terminal: &mut ratatui::DefaultTerminal) -> anyhow::Result<()> {
        while !self.is_over {
            self.take_events();
            self.ask_figures();
            terminal.draw(|frame| view::draw(self, frame))?;
            if event::poll(TICK)? {
                match event::read()? {
                    Event::Key(key) if key.kind != KeyEventKind::Release => self.key(key),
                    Event::Paste(text) => self.input.push_str(&text.replace('\r', "\n")),
                    _ => {}
                }
            }
        }
        if let Some(running) = &self.running {
            running.stop.set();
        }
        Ok(())
    }

    fn note(&mut self, text: &str) {
        self.entries.push(Entry::Note(text.to_owned()));
        self.scrolled = 0;
    }

    fn key(&mut self, key: KeyEvent) {
        let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('d') if with_control => self.is_over = true,
            // With nothing to stop it ends the program, as elsewhere.
            KeyCode::Char('c') if with_control && self.running.is_none() => self.is_over = true,
            KeyCode::Char('c') if with_control => self.stop(),
            KeyCode::Esc => self.stop(),
            KeyCode::Char('j') if with_control => self.input.push('\n'),
            KeyCode::Enter if key.modifiers.intersects(KeyModifiers::ALT | KeyModifiers::SHIFT) => {
                self.input.push('\n')
            }
            KeyCode::Enter => self.enter(),
            KeyCode::Char('u') if with_control => self.input.clear(),
            KeyCode::Char(c) if !with_control => self.input.push(c),
            KeyCode::Backspace => _ = self.input.pop(),
            KeyCode::PageUp => self.scrolled += PAGE,
            KeyCode::PageDown => self.scrolled = self.scrolled.saturating_sub(PAGE),
            KeyCode::Up => self.scrolled += 1,
            KeyCode::Down => self.scrolled = self.scrolled.saturating_sub(1),
            _ => {}
        }
    }

    fn stop(&mut self) {
        if let Some(running) = &self.running {
            running.stop.set();
        }
    }

    fn enter(&mut self) {
        let input = std::mem::take(&mut self.input);
        let text = input.trim();
        if text.is_empty() {
            return;
        }
        match Command::parse(text) {
            Some(Ok(command)) => self.command(command),
            Some(Err(problem)) => self.note(&problem),
            None if self.running.is_some() => {
                // Not lost: it can be sent when the answer is there.
                self.input = input;
                self.note("an answer is being made; Esc stops it");
            }
            None => self.send(text.to_owned()),
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Help => self.note(command::HELP),
            Command::Quit => self.is_over = true,
            Command::Clear => {
                self.stop();
                self.running = None;
                self.messages.clear();
                self.entries.clear();
                self.attached.clear();
                self.note("a new conversation");
            }
            Command::System(text) => {
                let said = if text.is_some() {
                    "the system message is set"
                } else {
                    "there is no system message now"
                };
                self.system = text;
                self.note(said);
            }
            Command::File(path) => self.attach(&path),
            Command::Save(path) => {
                let result = std::fs::write(&path, self.as_markdown());
                self.note(&match result {
                    Ok(()) => format!("saved to {path}"),
                    Err(error) => format!("{path} was not saved: {error}"),
                });
            }
            Command::Model(None) => {
                let names = self.client.models();
                self.note(&match names {
                    Ok(names) => format!("models: {}", names.join(", ")),
                    Err(error) => format!("the models cannot be listed: {error:#}"),
                });
            }
            Command::Model(Some(name)) => match self.client.models() {
                Ok(names) if names.iter().any(|known| is_named(known, &name)) => {
                    self.note(&format!("the next answer is {name}'s"));
                    self.model = name;
                    self.figures = None;
                }
                Ok(names) => self.note(&format!("there is no model {name}; there are {}", names.join(", "))),
                Err(error) => self.note(&format!("the models cannot be listed: {error:#}")),
            },
            Command::Stats => {
                let figures = self.client.figures(&self.model);
                self.note(&match figures {
                    Ok(Some(figures)) => figures.in_full(),
                    Ok(None) => {
                        "the server tells nothing of this model: it is not loaded, or not RawrZ's".to_owned()
                    }
                    Err(error) => format!("{error:#}"),
                });
            }
        }
    }

    fn attach(&mut self, path: &str) {
        let path = Path::new(path);
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        let limits = Limits::default();
        let read = match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => Err("not a file".to_owned()),
            // Looked at first, so that a file of any size is not read to be refused.
            Ok(metadata) if metadata.len() > limits.max_file_bytes as u64 => Err(format!(
                "{} bytes, more than the {} that are taken",
                metadata.len(),
                limits.max_file_bytes
            )),
            Ok(_) => std::fs::read(path).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let document = read.and_then(|bytes| {
            rawrz_documents::extract(&name, &bytes, &limits).map_err(|error| error.to_string())
        });
        match document {
            Ok(document) => {
                // Four bytes are about a token of English.
                let n_tokens = document.text.len() / 4;
                self.note(&format!("{name} goes with the next message, about {n_tokens} tokens"));
                self.attached.push(Attached { name, text: document.text });
            }
            Err(problem) => self.note(&format!("{}: {problem}", path.display())),
        }
    }

    fn send(&mut self, text: String) {
        let attached = std::mem::take(&mut self.attached);
        let mut content = String::new();
        for file in &attached {
            content += &format!("File {}:\n\n{}\n\n", file.name, file.text.trim_end());
        }
        content += &text;
        self.entries.push(Entry::User { text, files: attached.into_iter().map(|file| file.name).collect() });
        self.messages.push(ChatMessage { role: "user", content });
        let system = self.system.clone().map(|content| ChatMessage { role: "system", content });
        let messages = system.into_iter().chain(self.messages.iter().cloned()).collect();
        let (events, stop) = self.client.chat(ChatRequest { model: self.model.clone(), messages });
        self.entries.push(Entry::Answer(String::new()));
        self.running = Some(Running { events, stop, prompt: None });
        self.scrolled = 0;
    }

    /// Takes what came of the answer.
    fn take_events(&mut self) {
        while let Some(running) = &mut self.running {
            match running.events.try_recv() {
                Ok(ChatEvent::Prompt { done, total }) => running.prompt = Some((done, total)),
                Ok(ChatEvent::Text(text)) => {
                    running.prompt = None;
                    if let Some(Entry::Answer(answer)) = self.entries.last_mut() {
                        answer.push_str(&text);
                    }
                }
                Ok(ChatEvent::Done { speed }) => {
                    self.last_speed = speed;
                    self.end_answer();
                }
                Ok(ChatEvent::Failed(problem)) => {
                    self.end_answer();
                    self.note(&problem);
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.end_answer(),
            }
        }
    }

    /// What was said counts as the model's turn; without a word the question is taken back, so that it can be asked again.
    fn end_answer(&mut self) {
        self.running = None;
        let Some(Entry::Answer(answer)) = self.entries.last() else { return };
        if answer.is_empty() {
            self.entries.pop();
            self.messages.pop();
        } else {
            self.messages.push(ChatMessage { role: "assistant", content: answer.clone() });
        }
    }

    fn ask_figures(&mut self) {
        if self.figures_at.is_none_or(|at| at.elapsed() >= FIGURES_PERIOD) {
            self.figures = self.client.figures(&self.model).ok().flatten();
            self.figures_at = Some(Instant::now());
        }
    }

    fn as_markdown(&self) -> String {
        let mut out = format!("# Conversation with {}\n", self.model);
        if let Some(system) = &self.system {
            out += &format!("\n## System\n\n{system}\n");
        }
        for entry in &self.entries {
            match entry {
                Entry::User { text, files } if files.is_empty() => out += &format!("\n## User\n\n{text}\n"),
                Entry::User { text, files } => {
                    out += &format!("\n## User\n\n(with {})\n\n{text}\n", files.join(", "))
                }
                Entry::Answer(text) => out += &format!("\n## Assistant\n\n{text}\n"),
                Entry::Note(_) => {}
            }
        }
        out
    }
}

/// `smollm2:latest` goes by `smollm2`, too.
fn is_named(known: &str, name: &str) -> bool {
    known == name || known.strip_suffix(":latest") == Some(name)
}

#[cfg(test)]
mod tests;
