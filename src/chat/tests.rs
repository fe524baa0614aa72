//! What keys and answers make of a conversation, without a terminal or a server.

use super::*;
use std::sync::mpsc::{Sender, channel};

fn chat() -> Chat {
    // Nobody listens there: what asks the server gets an error at once.
    Chat::new(Client::new("http://127.0.0.1:1"), "m".to_owned(), None)
}

fn type_in(chat: &mut Chat, text: &str) {
    for c in text.chars() {
        chat.key(KeyEvent::from(KeyCode::Char(c)));
    }
    chat.key(KeyEvent::from(KeyCode::Enter));
}

/// A question whose answer comes over the channel.
fn asked(chat: &mut Chat) -> Sender<ChatEvent> {
    type_in(chat, "why?");
    let (sender, events) = channel();
    chat.running = Some(Running { events, stop: StopFlag::default(), prompt: None });
    sender
}

fn last_note(chat: &Chat) -> &str {
    match chat.entries.last() {
        Some(Entry::Note(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_becomes_a_turn() {
    let mut chat = chat();
    let sender = asked(&mut chat);
    sender.send(ChatEvent::Prompt { done: 1, total: 4 }).unwrap();
    chat.take_events();
    assert!(view::status_line(&chat).contains("reading 1 of 4 tokens"));
    for text in ["Be", "cause."] {
        sender.send(ChatEvent::Text(text.to_owned())).unwrap();
    }
    sender.send(ChatEvent::Done { speed: Some("9.0 tok/s".to_owned()) }).unwrap();
    chat.take_events();
    assert!(chat.running.is_none() && view::status_line(&chat).contains("9.0 tok/s"));
    let roles: Vec<_> = chat.messages.iter().map(|m| (m.role, m.content.as_str())).collect();
    assert_eq!(roles, [("user", "why?"), ("assistant", "Because.")]);
    assert!(chat.as_markdown().ends_with("## User\n\nwhy?\n\n## Assistant\n\nBecause.\n"));
}

#[test]
fn a_question_without_an_answer_is_taken_back() {
    let mut chat = chat();
    let sender = asked(&mut chat);
    sender.send(ChatEvent::Failed("the model is gone".to_owned())).unwrap();
    chat.take_events();
    assert!(chat.messages.is_empty());
    assert_eq!(last_note(&chat), "the model is gone");
    // One that was stopped in the middle stays.
    let sender = asked(&mut chat);
    sender.send(ChatEvent::Text("Be".to_owned())).unwrap();
    drop(sender);
    chat.take_events();
    assert_eq!(chat.messages.len(), 2);
}

#[test]
fn what_is_typed_while_an_answer_comes_is_not_lost() {
    let mut chat = chat();
    let _sender = asked(&mut chat);
    type_in(&mut chat, "and then?");
    assert_eq!((chat.input.as_str(), chat.messages.len()), ("and then?", 1));
    chat.key(KeyEvent::new(KeyCode::Char('u'), KeyModifiers::CONTROL));
    assert_eq!(chat.input, "");
    // The first Ctrl-C stops, the next ends.
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    chat.key(control_c);
    assert!(!chat.is_over);
    chat.running = None;
    chat.key(control_c);
    assert!(chat.is_over);
}

#[test]
fn files_go_with_the_next_message() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    std::fs::write(&path, "the sky is green\n").unwrap();
    let mut chat = chat();
    type_in(&mut chat, &format!("/file {}", path.display()));
    assert!(last_note(&chat).starts_with("notes.txt goes with the next message"));
    type_in(&mut chat, "What colour?");
    assert_eq!(chat.messages[0].content, "File notes.txt:\n\nthe sky is green\n\nWhat colour?");
    assert!(chat.attached.is_empty());
    chat.running = None;
    for bad in [dir.path().to_path_buf(), dir.path().join("missing")] {
        type_in(&mut chat, &format!("/file {}", bad.display()));
        assert!(chat.attached.is_empty() && last_note(&chat).starts_with(&bad.display().to_string()));
    }
}

#[test]
fn commands_do_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let mut chat = chat();
    type_in(&mut chat, "/system Be brief.");
    assert_eq!(chat.system.as_deref(), Some("Be brief."));
    let path = dir.path().join("out.md");
    type_in(&mut chat, &format!("/save {}", path.display()));
    assert!(std::fs::read_to_string(&path).unwrap().contains("Be brief."));
    type_in(&mut chat, "/save /no/such/folder/x");
    assert!(last_note(&chat).contains("was not saved"));
    type_in(&mut chat, "/model other");
    assert!(last_note(&chat).contains("cannot be listed"));
    type_in(&mut chat, "/what");
    assert!(last_note(&chat).contains("/help"));
    type_in(&mut chat, "/clear");
    assert_eq!(chat.entries.len(), 1);
    type_in(&mut chat, "/quit");
    assert!(chat.is_over);
}

#[test]
fn what_a_model_says_cannot_drive_the_terminal() {
    let entries = [Entry::Answer("a\u{1b}[2Jb\tc\nd".to_owned())];
    let lines = view::transcript_lines(&entries);
    let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["Answer", "a\\u{1b}[2Jb    c", "d", ""]);
}

#[test]
fn the_screen_is_drawn_at_any_size() {
    let mut chat = chat();
    chat.entries.push(Entry::Answer("word ".repeat(300)));
    chat.input = "a long line\n".repeat(30);
    for (width, height) in [(1, 1), (3, 2), (20, 5), (80, 24), (200, 60)] {
        let backend = ratatui::backend::TestBackend::new(width, height);
        let mut terminal = ratatui::Terminal::new(backend).unwrap();
        chat.scrolled = usize::MAX;
        terminal.draw(|frame| view::draw(&mut chat, frame)).unwrap();
    }
}
