//! Chat templates for Ollama, which does not read those of model files but has its own language (that of Go).
//!
//! What the model's template puts around messages is found out by rendering short conversations with it. The result is
//! checked by rendering longer ones both ways; a template that does more than to put text around messages is refused.

use rawrz_text::{ChatInput, ChatTemplate, LocalTime, Message};

/// A template in Ollama's language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoTemplate {
    /// Its text.
    pub text: String,
    /// The model's template tells the date, which stands in the text as it was when this was made.
    pub tells_date: bool,
}

/// The text around a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Around {
    before: String,
    after: String,
}

/// Where the system message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum System {
    /// It is a message of its own, in place of the default one.
    Message(Around),
    /// It stands at the head of the first user message, with this text between.
    InFirstUser(String),
    /// The template takes none.
    Refused,
}

/// What a regular template consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    /// Before all messages when none is the system's: nothing, or a default system message.
    head: String,
    system: System,
    user: Around,
    assistant: Around,
    /// Where the answer begins.
    generation: String,
}

/// Texts that no template contains by itself.
const SYSTEM: &str = "aqsystemqa";
const USERS: [&str; 3] = ["aquseroneqa", "aqusertwoqa", "aquser threeqa"];
const ANSWERS: [&str; 2] = ["aqansweroneqa", "aqanswer\ntwoqa"];

/// The template for Ollama that does what `template` does with conversations of text; `None` when no such is found.
/// `bos` is the text of the token that the tokenizer puts first by itself, which must not stand in the text then.
pub fn for_ollama(template: &ChatTemplate, bos: Option<&str>, now: LocalTime) -> Option<GoTemplate> {
    let at = |now: LocalTime| {
        move |conversation: &[(&str, &str)], generation: bool| {
            let messages = conversation.iter().map(|(role, text)| Message::text(role, text)).collect();
            let input = ChatInput {
                messages,
                add_generation_prompt: generation,
                now: Some(now),
                ..ChatInput::default()
            };
            let text = template.render(&input).ok()?;
            Some(match bos.and_then(|bos| text.strip_prefix(bos)) {
                Some(rest) => rest.to_owned(),
                None => text,
            })
        }
    };
    let layout = Layout::infer(&at(now))?;
    let long_after = LocalTime { unix_s: now.unix_s + 40 * 24 * 3600, ..now };
    let tells_date = Layout::infer(&at(long_after)).as_ref() != Some(&layout);
    Some(GoTemplate { text: layout.to_go(), tells_date })
}

/// Renders a conversation of roles and texts, up to where the answer begins if so told.
type Render<'a> = dyn Fn(&[(&str, &str)], bool) -> Option<String> + 'a;

impl Layout {
    fn infer(render: &Render) -> Option<Layout> {
        let [one, two, _] = USERS.map(|text| ("user", text));
        let answer = ("assistant", ANSWERS[0]);
        let first = render(&[one], true)?;
        let (before_one, after_one) = first.split_once(one.1)?;
        let turns = render(&[one, answer, two], true)?;
        let rest = turns.strip_prefix(before_one)?.strip_prefix(one.1)?;
        let (one_to_answer, rest) = rest.split_once(answer.1)?;
        let (answer_to_two, _) = rest.split_once(two.1)?;

        // What ends a message is what follows it when nothing else does. Templates that need a question at the end do not
        // tell; then it counts to the next message, which comes to the same in every conversation that they take.
        let end = |conversation: &[(&str, &str)], text: &str| {
            let rendered = render(conversation, false)?;
            Some(rendered.split_once(text)?.1.to_owned())
        };
        let user_end = end(&[one], one.1)
            .filter(|end| one_to_answer.starts_with(&**end) && after_one.starts_with(&**end))
            .unwrap_or_default();
        let answer_end = end(&[one, answer], answer.1)
            .filter(|end| {
                answer_to_two.strip_prefix(&**end).is_some_and(|before_two| before_one.ends_with(before_two))
            })
            .unwrap_or_else(|| {
                let shared = common_suffix(before_one, answer_to_two);
                answer_to_two[..answer_to_two.len() - shared].to_owned()
            });
        let user = Around { before: answer_to_two[answer_end.len()..].to_owned(), after: user_end };
        let assistant = Around { before: one_to_answer[user.after.len()..].to_owned(), after: answer_end };
        let generation = after_one[user.after.len()..].to_owned();
        let head = before_one.strip_suffix(&*user.before)?.to_owned();

        let system = match render(&[("system", SYSTEM), one], true) {
            None => System::Refused,
            Some(text) => {
                let (before, rest) = text.split_once(SYSTEM)?;
                let (between, _) = rest.split_once(one.1)?;
                match between.strip_suffix(&*user.before) {
                    Some(after) if !user.before.is_empty() || before != before_one => {
                        System::Message(Around { before: before.to_owned(), after: after.to_owned() })
                    }
                    _ if before == before_one => System::InFirstUser(between.to_owned()),
                    _ => return None,
                }
            }
        };
        let layout = Layout { head, system, user, assistant, generation };
        layout.agrees_with(render).then_some(layout)
    }

    fn agrees_with(&self, render: &Render) -> bool {
        let turns: Vec<_> = USERS.iter().zip(ANSWERS.iter().map(Some).chain([None])).collect();
        (1..=turns.len()).all(|n_turns| {
            let mut conversation = Vec::new();
            for (i, (user, answer)) in turns[..n_turns].iter().enumerate() {
                conversation.push(("user", **user));
                if let Some(answer) = answer
                    && i + 1 < n_turns
                {
                    conversation.push(("assistant", **answer));
                }
            }
            let plain = render(&conversation, true) == Some(self.render(&conversation));
            conversation.insert(0, ("system", SYSTEM));
            let with_system = self.system == System::Refused
                || render(&conversation, true) == Some(self.render(&conversation));
            plain && with_system
        })
    }

    /// What the text of [`Layout::to_go`] makes of a conversation that ends with a question.
    fn render(&self, conversation: &[(&str, &str)]) -> String {
        let system = conversation.iter().find(|(role, _)| *role == "system").map(|(_, text)| *text);
        let mut out = String::new();
        if system.is_none() || matches!(self.system, System::InFirstUser(_)) {
            out += &self.head;
        }
        for (i, (role, text)) in conversation.iter().enumerate() {
            let around = match (*role, &self.system) {
                ("system", System::Message(around)) => around,
                ("system", _) => continue,
                ("user", _) => &self.user,
                _ => &self.assistant,
            };
            out += &around.before;
            if let (System::InFirstUser(between), Some(system), "user", true) =
                (&self.system, system, *role, i <= 1)
            {
                out += system;
                out += between;
            }
            out += text;
            out += &around.after;
        }
        out + &self.generation
    }

    fn to_go(&self) -> String {
        let mut out = String::new();
        let (system, in_user) = match &self.system {
            System::Message(around) => {
                let message = format!(
                    r#"{{{{ if eq $m.Role "system" }}}}{}{{{{ $m.Content }}}}{}{{{{ else }}}}"#,
                    literal(&around.before),
                    literal(&around.after)
                );
                (message, String::new())
            }
            System::InFirstUser(between) => {
                let between = literal(between);
                let text =
                    format!("{{{{ if and $.System (le $i 1) }}}}{{{{ $.System }}}}{between}{{{{ end }}}}");
                (r#"{{ if ne $m.Role "system" }}"#.to_owned(), text)
            }
            System::Refused => (r#"{{ if ne $m.Role "system" }}"#.to_owned(), String::new()),
        };
        let always = !matches!(self.system, System::Message(_));
        if !self.head.is_empty() {
            let head = literal(&self.head);
            out += &if always { head } else { format!("{{{{ if not .System }}}}{head}{{{{ end }}}}") };
        }
        out += "{{ range $i, $m := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}";
        out += &system;
        out += &format!(
            r#"{{{{ if eq $m.Role "user" }}}}{}{in_user}{{{{ $m.Content }}}}{}"#,
            literal(&self.user.before),
            literal(&self.user.after)
        );
        // An answer that is to be gone on with is left open.
        out += &format!(
            r#"{{{{ else if eq $m.Role "assistant" }}}}{}{{{{ $m.Content }}}}{{{{ if not $last }}}}{}{{{{ end }}}}"#,
            literal(&self.assistant.before),
            literal(&self.assistant.after)
        );
        out += "{{ end }}{{ end }}";
        out += &format!(
            r#"{{{{ if and $last (ne $m.Role "assistant") }}}}{}{{{{ end }}}}{{{{ end }}}}"#,
            literal(&self.generation)
        );
        out
    }
}

/// Text as it stands in a Go template.
fn literal(text: &str) -> String {
    text.replace("{{", r#"{{ "{{" }}"#)
}

/// Bytes that both texts end with, whole characters.
fn common_suffix(a: &str, b: &str) -> usize {
    a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: LocalTime = LocalTime { unix_s: 1_780_000_000, utc_offset_s: 0 };

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, None, &[("bos_token", Some("<s>"))]).unwrap()
    }

    fn go(source: &str) -> Option<GoTemplate> {
        for_ollama(&template(source), Some("<s>"), NOW)
    }

    const CHATML: &str = "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe kind<|im_end|>\n\
        {% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    #[test]
    fn chatml_with_a_default_system_message() {
        let go = go(CHATML).unwrap();
        assert!(!go.tells_date);
        assert_eq!(
            go.text,
            "{{ if not .System }}<|im_start|>system\nBe kind<|im_end|>\n{{ end }}\
             {{ range $i, $m := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}\
             {{ if eq $m.Role \"system\" }}<|im_start|>system\n{{ $m.Content }}<|im_end|>\n{{ else }}\
             {{ if eq $m.Role \"user\" }}<|im_start|>user\n{{ $m.Content }}<|im_end|>\n\
             {{ else if eq $m.Role \"assistant\" }}<|im_start|>assistant\n{{ $m.Content }}\
             {{ if not $last }}<|im_end|>\n{{ end }}{{ end }}{{ end }}\
             {{ if and $last (ne $m.Role \"assistant\") }}<|im_start|>assistant\n{{ end }}{{ end }}"
        );
    }

    #[test]
    fn a_system_message_inside_the_first_question() {
        let source = "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}\
            {% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}\
            {% for m in rest %}<start>{{ 'model' if m.role == 'assistant' else m.role }}\n\
            {{ (first if loop.first else '') + m.content }}<end>\n{% endfor %}\
            {% if add_generation_prompt %}<start>model\n{% endif %}";
        let text = go(source).unwrap().text;
        assert!(text.contains(
            "<start>user\n{{ if and $.System (le $i 1) }}{{ $.System }}\n\n{{ end }}{{ $m.Content }}<end>"
        ));
        assert!(!text.contains("<s>"), "the tokenizer puts it there: {text}");
    }

    #[test]
    fn a_template_that_knows_no_generation_prompt() {
        let source = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]\
            {% elif m.role == 'assistant' %} {{ m.content }}</s>{% else %}{{ raise_exception('no') }}{% endif %}{% endfor %}";
        let text = go(source).unwrap().text;
        assert!(text.contains("[INST] {{ $m.Content }} [/INST]"), "{text}");
    }

    #[test]
    fn braces_are_quoted_and_dates_told() {
        let source = CHATML.replace("Be kind", "{{ '{{' }} {{ strftime_now('%d %b %Y') }}");
        let go = go(&source).unwrap();
        assert!(go.tells_date);
        assert!(go.text.contains(r#"{{ "{{" }} 28 May 2026"#), "{}", go.text);
    }

    #[test]
    fn what_is_not_regular_is_refused() {
        for source in [
            // Counts messages.
            "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n{% endfor %}A:",
            // Shows the last question only.
            "Q: {{ messages[-1].content }}\nA:",
            // Changes what it is given.
            "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}A:",
            // Does not say who speaks twice.
            "{{ raise_exception('never') }}",
        ] {
            assert_eq!(go(source), None, "{source}");
        }
    }
}
