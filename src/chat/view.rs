//! What is on the screen: the conversation, a line of figures, and what is being typed.

use super::{Chat, Entry};
use crate::output::printable;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Position};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Wrap};
use rawrz_engine::Size;

/// Most lines of the input that are shown.
const MAX_INPUT_LINES: u16 = 8;

pub(super) fn draw(chat: &mut Chat, frame: &mut Frame) {
    let width = usize::from(frame.area().width).max(1);
    let input = printable(&chat.input).into_owned();
    let input_lines = input.split('\n').map(|line| columns(line) / width + 1).sum::<usize>();
    let input_height = u16::try_from(input_lines).unwrap_or(u16::MAX).min(MAX_INPUT_LINES) + 1;
    let areas =
        Layout::vertical([Constraint::Min(1), Constraint::Length(1), Constraint::Length(input_height)]);
    let [transcript, status, entry] = areas.areas(frame.area());

    let lines = transcript_lines(&chat.entries);
    let paragraph = Paragraph::new(lines).wrap(Wrap { trim: false });
    let past = paragraph.line_count(transcript.width).saturating_sub(usize::from(transcript.height));
    chat.scrolled = chat.scrolled.min(past);
    let offset = u16::try_from(past - chat.scrolled).unwrap_or(u16::MAX);
    frame.render_widget(paragraph.scroll((offset, 0)), transcript);

    let reversed = Style::new().add_modifier(Modifier::REVERSED);
    frame.render_widget(Paragraph::new(status_line(chat)).style(reversed), status);

    let hidden = input_lines.saturating_sub(usize::from(MAX_INPUT_LINES));
    let box_ = Block::new().borders(Borders::BOTTOM);
    let shown = Paragraph::new(input.as_str()).wrap(Wrap { trim: false }).block(box_);
    frame.render_widget(shown.scroll((u16::try_from(hidden).unwrap_or(u16::MAX), 0)), entry);
    let last = columns(input.rsplit('\n').next().unwrap_or_default());
    let row = u16::try_from(input_lines - 1 - hidden).unwrap_or(0);
    let column = u16::try_from(last % width).unwrap_or(0);
    frame.set_cursor_position(Position::new(entry.x + column, entry.y + row));
}

fn columns(text: &str) -> usize {
    Span::raw(text).width()
}

/// The conversation, line by line.
pub(super) fn transcript_lines(entries: &[Entry]) -> Vec<Line<'static>> {
    let (bold, dim) = (Style::new().add_modifier(Modifier::BOLD), Style::new().add_modifier(Modifier::DIM));
    let mut lines = Vec::new();
    for entry in entries {
        let (head, text, style) = match entry {
            Entry::User { text, files } if files.is_empty() => ("You".to_owned(), text, Style::new()),
            Entry::User { text, files } => (format!("You, with {}", files.join(", ")), text, Style::new()),
            Entry::Answer(text) => ("Answer".to_owned(), text, Style::new()),
            Entry::Note(text) => (String::new(), text, dim),
        };
        if !head.is_empty() {
            lines.push(Line::styled(printable(&head).into_owned(), bold));
        }
        // Text of a model or a file cannot drive the terminal. Tabs have no width of their own there.
        for line in printable(text).replace('\t', "    ").split('\n') {
            lines.push(Line::styled(line.to_owned(), style));
        }
        lines.push(Line::default());
    }
    lines
}

pub(super) fn status_line(chat: &Chat) -> String {
    let mut parts = vec![printable(&chat.model).into_owned()];
    match &chat.running {
        Some(running) => parts.push(match running.prompt {
            Some((done, total)) => format!("reading {done} of {total} tokens"),
            None => "answering, Esc stops".to_owned(),
        }),
        None => parts.extend(chat.last_speed.clone()),
    }
    if let Some(figures) = &chat.figures {
        if chat.running.is_some() && figures.tok_s > 0.0 {
            parts.push(format!("{:.1} tok/s", figures.tok_s));
        }
        if let Some(share) = figures.share_of_bound.filter(|_| chat.running.is_some()) {
            parts.push(format!("{:.0} % of the bound", share * 100.0));
        }
        parts.push(format!("context {}", figures.context_len));
        parts.extend(match (figures.resident_bytes, figures.budget_bytes) {
            (Some(resident), Some(budget)) => Some(format!("memory {} of {}", Size(resident), Size(budget))),
            (Some(resident), None) => Some(format!("memory {}", Size(resident))),
            _ => None,
        });
    }
    if !chat.attached.is_empty() {
        parts.push(format!("{} file(s) attached", chat.attached.len()));
    }
    format!(" {}", parts.join("  |  "))
}
