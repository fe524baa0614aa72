//! Chat templates: what Python's jinja2 would give, and what hostile templates cannot do.

mod common;

use common::{byte_pair, sentence_piece};
use proptest::prelude::*;
use rawrz_text::{ChatInput, ChatTemplate, Json, LocalTime, Message, TemplateError, ToolCall};

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, None, &[("bos_token", Some("<s>"))]).expect("the template is valid")
}

fn user(content: &str) -> ChatInput {
    ChatInput { messages: vec![Message::text("user", content)], ..ChatInput::default() }
}

fn render(source: &str) -> String {
    template(source).render(&user("hi")).expect("it renders")
}

fn fail(source: &str) -> TemplateError {
    template(source).render(&user("hi")).expect_err("it fails")
}

#[test]
fn blocks_swallow_their_lines() {
    assert_eq!(render("{% if true %}\n  a\n  {% endif %}\nb\n"), "  a\nb");
    assert_eq!(render("  {%- if true -%}  a  {%- endif -%}  b"), "ab");
    assert_eq!(render("{{ bos_token }}{{ eos_token }}|"), "<s>|");
}

#[test]
fn values_show_as_in_python() {
    let source =
        "{{ true }} {{ none }} {{ 1.0 }} {{ 2 }} {{ ['a', 1, none] }} {{ {'k': \"it's\"} }} {{ nothing }}|";
    assert_eq!(render(source), "True None 1.0 2 ['a', 1, None] {'k': \"it's\"} |");
    assert_eq!(render("{{ true | string }}{{ 'a' ~ 1 ~ none ~ nothing ~ [true] }}"), "Truea1None[True]");
}

#[test]
fn json_is_that_of_python() {
    let value = Json::parse(r#"{"b": [1, 2.50, true, null, {}], "a": "é<&>'\"\n\u0001", "z": []}"#).unwrap();
    let mut input = user("");
    input.extra.push(("x".to_owned(), value));
    let of = |source: &str| template(source).render(&input).unwrap();
    let plain = "{\"b\": [1, 2.5, true, null, {}], \"a\": \"é<&>'\\\"\\n\\u0001\", \"z\": []}";
    assert_eq!(of("{{ x | tojson }}"), plain);
    let indented = "{\n  \"b\": [\n    1,\n    2.5,\n    true,\n    null,\n    {}\n  ],\n  \"a\": \"é<&>'\\\"\\n\\u0001\",\n  \"z\": []\n}";
    assert_eq!(of("{{ x | tojson(indent=2) }}"), indented);
    assert_eq!(of("{{ x | tojson(2) }}"), indented);
    assert_eq!(of("{{ x.b | tojson(separators=(',', ':')) }}"), "[1,2.5,true,null,{}]");
    assert_eq!(of("{{ x.a | tojson(ensure_ascii=true) }}"), "\"\\u00e9<&>'\\\"\\n\\u0001\"");
    assert_eq!(
        of("{{ {'b': 1, 'a': '😀'} | tojson(sort_keys=true, ensure_ascii=true) }}"),
        r#"{"a": "\ud83d\ude00", "b": 1}"#
    );
    assert!(matches!(template("{{ nothing | tojson }}").render(&input), Err(TemplateError::Failed { .. })));
}

#[test]
fn methods_of_python_exist() {
    let source = "{{ ' Ab '.strip() }}{{ 'a,b'.split(',') | join('+') }}{{ 'abc'.startswith('ab') }}{{ {'k': 1}.items() | list }}\
        {{ {'k': 1}.get('x', 'd') }}{{ 'x.y.z'.rsplit('.', 1) }}{{ 'ab'.removeprefix('a') }}{{ 'ab'.removesuffix('b') }}\
        {{ 'a=b=c'.partition('=') }}{{ 'a=b=c'.rpartition('=') }}{{ 'q'.partition('=') }}{{ 'q'.rpartition('=') }}{{ 'ab'.upper() }}";
    assert_eq!(
        render(source),
        "Aba+bTrue[('k', 1)]d['x.y', 'z']ba('a', '=', 'b=c')('a=b', '=', 'c')('q', '', '')('', '', 'q')AB"
    );
}

#[test]
fn tests_are_those_of_python() {
    assert_eq!(
        render(
            "{{ none is iterable }}{{ 'a' is iterable }}{{ [] is iterable }}{{ {} is iterable }}{{ 1 is iterable }}"
        ),
        "FalseTrueTrueTrueFalse"
    );
    assert_eq!(
        render(
            "{{ none is none }}{{ {} is mapping }}{{ 'a' is string }}{{ [] is sequence }}{{ x is defined }}"
        ),
        "TrueTrueTrueTrueFalse"
    );
}

#[test]
fn loops_and_namespaces_work() {
    let source = "{% set ns = namespace(n=0) %}{% for x in [1, 2, 3, 4] %}{% if x == 2 %}{% continue %}{% endif %}\
        {% if x == 4 %}{% break %}{% endif %}{% set ns.n = ns.n + x %}{{ loop.index0 }}{{ loop.previtem }}{% endfor %}={{ ns.n }}";
    assert_eq!(render(source), "022=4");
    assert_eq!(
        render("{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ messages[-1].role }}"),
        "12user"
    );
}

#[test]
fn generation_tags_mark_and_do_nothing_else() {
    assert_eq!(render("x{%- generation -%} a {% endgeneration %}b"), "xa b");
    assert_eq!(render("{{ '{% raw' }} {% raw %}{% x {{ y {% endraw %}"), "{% raw {% x {{ y ");
}

#[test]
fn the_time_is_injected() {
    let mut input = user("");
    input.now = Some(LocalTime { unix_s: 1_709_222_709, utc_offset_s: 0 });
    assert_eq!(template("{{ strftime_now('%d %b %Y') }}").render(&input).unwrap(), "29 Feb 2024");
    assert_eq!(template("{{ strftime_now('%Y') }}").render(&user("")).unwrap(), "1970");
}

#[test]
fn a_refusal_keeps_the_template_s_words() {
    let raised = |source| TemplateError::Raised { message: String::from(source) };
    assert_eq!(fail("{{ raise_exception('Roles must alternate!') }}"), raised("Roles must alternate!"));
    assert_eq!(
        fail("{% macro m() %}{{ raise_exception('in a macro') }}{% endmacro %}{{ m() }}"),
        raised("in a macro")
    );
    assert!(fail("{{ raise_exception('x' * 100000) }}").to_string().len() < 1000);
}

#[test]
fn errors_name_the_line() {
    let error = ChatTemplate::new("a\nb\n{% if %}", None, &[]).unwrap_err();
    assert!(matches!(&error, TemplateError::Syntax { line: 3, .. }), "{error}");
    assert!(matches!(fail("a\n{{ 1 + 'x' }}"), TemplateError::Failed { line: 2, .. }));
    assert!(matches!(fail("{{ messages[0].x.y }}"), TemplateError::Failed { .. }));
    assert!(matches!(fail("{{ unknown_function() }}"), TemplateError::Failed { .. }));
    let long_tag = format!("\n{{{{ {}1 }}}}", "not ".repeat(5000));
    assert!(matches!(
        ChatTemplate::new(&long_tag, None, &[]),
        Err(TemplateError::TagTooLong { line: 2, .. })
    ));
    let long = "x".repeat((1 << 17) + 1);
    assert!(matches!(ChatTemplate::new(&long, None, &[]), Err(TemplateError::TooLong { .. })));
    assert!(matches!(ChatTemplate::new("", Some(&long), &[]), Err(TemplateError::TooLong { .. })));
}

#[test]
fn hostile_templates_are_stopped() {
    let stopped = |source: &str| {
        let error = match ChatTemplate::new(source, None, &[]) {
            Ok(template) => template.render(&user("hi")).expect_err(source),
            Err(error) => error,
        };
        assert!(error.to_string().len() < 1000);
        error
    };
    let fuel = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{{ 'x' * 999999999999 }}",
        "{{ ['x' * 1000] * 999999 | length }}{{ ([1] * 99999999) | length }}",
        "{{ 'a'.replace('', 'b' * 100000).replace('b', 'c' * 100000) }}",
        "{{ range(99999) | list | string | replace('1', '2' * 99999) }}",
    ];
    for source in fuel {
        let error = stopped(source);
        assert!(
            matches!(error, TemplateError::OutOfFuel | TemplateError::Failed { .. }),
            "{source}: {error}"
        );
    }
    assert!(matches!(
        stopped("{% set x = 'x' * 1000000 %}{% for i in range(99) %}{{ x }}{% endfor %}"),
        TemplateError::OutputTooLong { .. } | TemplateError::OutOfFuel
    ));
    stopped("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}");
    // No way out.
    for source in
        ["{% include '/etc/passwd' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{{ self.x() }}"]
    {
        stopped(source);
    }
}

/// Expressions as long as a template may be. The template engine recurses over them; what matters is that the process
/// lives.
#[test]
fn deep_expressions_do_not_end_the_process() {
    let n_bytes = (1 << 17) - 32;
    let fill =
        |start: &str, unit: &str, end: &str| format!("{start}{}{end}", unit.repeat(n_bytes / unit.len()));
    for source in [
        fill("{{ ", "(", "1 }}"),
        fill("{{ ", "[", "1 }}"),
        fill("", "{% if 1 %}", ""),
        fill("{{ ", "not ", "1 }}"),
        fill("{{ ", "-", "1 }}"),
        fill("{{ 1", "+1", " }}"),
        fill("{{ 1", "~1", " }}"),
        fill("{{ 1", "<1", " }}"),
        fill("{{ a", ".b", " }}"),
        fill("{{ a", "()", " }}"),
        fill("{{ a", "[0]", " }}"),
        fill("{{ 1", "|e", " }}"),
        fill("{{ 1", " or 1", " }}"),
        fill("{{ 1", " if 1", " }}"),
        fill("{{ 1", " is odd", " }}"),
        fill("{{ 1", " in 1", " }}"),
        fill("{% if 1 %}", "{% elif 1 %}", "{% endif %}"),
    ] {
        if let Ok(template) = ChatTemplate::new(&source, None, &[]) {
            let _ = template.render(&user("hi"));
        }
    }
}

/// Values nested as deep as fuel allows, and values whose parts are shared so often that they show as endless text.
#[test]
fn nested_and_shared_values_do_not_end_the_process() {
    let repeat = |n: usize, inner: &str| {
        format!("{{% for i in range({n}) %}}{{% set ns.x = {inner} %}}{{% endfor %}}")
    };
    let deep =
        format!("{{% set ns = namespace(x=[]) %}}{}{}", repeat(99_999, "[ns.x]"), repeat(40_000, "[ns.x]"));
    let deep_map = format!("{{% set ns = namespace(x={{}}) %}}{}", repeat(99_999, "{'k': ns.x}"));
    let shared = format!("{{% set ns = namespace(x=[], y=1) %}}{}", repeat(120, "[ns.x, ns.x]"));
    let ends = [
        "",
        "{{ ns.x | tojson }}",
        "{{ ns.x }}",
        "{{ ns.x | string }}",
        "{{ 'a' ~ ns.x }}",
        "{{ {ns.x: 1} | length }}",
        "{{ ns.x | upper }}{{ ns.x | trim }}{{ ns.x | e }}{{ ns.x | replace('a', 'b') }}{{ ns.x | indent }}",
        "{{ ns.x | map('upper') | list }}",
        "{{ 'a'.join([ns.x]) }}",
        "{{ [ns.x] | join('a') }}",
        "{{ '{} {}'.format(ns.x, ns.x) }}",
        "{{ '%s' | format(ns.x) }}",
        "{{ raise_exception(ns.x) }}",
        "{{ ns.x == 1 }}{{ ns.x in [1] }}{{ ns.x | length }}",
    ];
    for end in ends {
        for start in [&deep, &deep_map, &shared] {
            let _ = template(&format!("{start}{end}")).render(&user("hi"));
        }
    }
    let nested = format!("{{% set ns = namespace(x=[]) %}}{}", repeat(500, "[ns.x]"));
    assert!(matches!(fail(&format!("{nested}{{{{ ns.x | tojson }}}}")), TemplateError::Failed { .. }));
    assert_eq!(fail(&format!("{shared}{{{{ ns.x | tojson }}}}")), TemplateError::OutOfFuel);
    for end in ["{{ ns.x }}", "{{ 'a' ~ ns.x }}", "{{ ns.x | upper }}", "{{ [ns.x] | join }}"] {
        assert_eq!(fail(&format!("{shared}{end}")), TemplateError::OutOfFuel, "{end}");
    }
}

#[test]
fn methods_pay_for_the_text_they_make() {
    for source in [
        "{{ 'a'.replace('', 'b' * 100000).replace('b', 'c' * 100000) | length }}",
        "{{ ('a' * 100000).join(['b'] * 100000) | length }}",
        "{{ ('{0}' * 100000).format('a' * 100000) | length }}",
    ] {
        assert_eq!(fail(source), TemplateError::OutOfFuel, "{source}");
    }
    assert!(matches!(fail("{{ '{:>99999999}'.format('a') }}"), TemplateError::Failed { .. }));
    assert_eq!(
        render("{{ 'aXbX'.replace('X', '-') }}{{ 'aXbX'.replace('X', '-', 1) }}{{ '{:>3}|'.format('a') }}"),
        "a-b-a-bX  a|"
    );
}

#[test]
fn arguments_are_objects_unless_the_template_joins_text() {
    let mut input = user("hi");
    let arguments = Json::parse(r#"{"city": "Zürich", "n": 1}"#).unwrap();
    input.messages.push(Message {
        role: "assistant".to_owned(),
        tool_calls: vec![ToolCall { id: Some("c".to_owned()), name: "f".to_owned(), arguments }],
        ..Message::default()
    });
    let of = |source: &str| template(source).render(&input).unwrap();
    let call =
        "{% set call = messages[1].tool_calls[0] %}{{ call.id }} {{ call.type }} {{ call.function.name }} ";
    let object = of(&format!("{call}{{{{ call.function.arguments | tojson }}}}"));
    assert_eq!(object, r#"c function f {"city": "Zürich", "n": 1}"#);
    let text = of(&format!("{call}{{{{ 'x' + call.function.arguments }}}}"));
    assert_eq!(text, r#"c function f x{"city":"Zürich","n":1}"#);
}

#[test]
fn messages_have_what_they_were_given() {
    let mut message = Message::text("tool", "42");
    message.tool_call_id = Some("id".to_owned());
    message.name = Some("tool".to_owned());
    message.reasoning = Some("hm".to_owned());
    let bare = Message { role: "assistant".to_owned(), ..Message::default() };
    let input = ChatInput { messages: vec![message, bare], ..ChatInput::default() };
    let source = "{% for m in messages %}{{ m.role }}|{{ m.content }}|{{ m.tool_call_id }}|{{ m.name }}|{{ m.reasoning_content }}\
        |{{ m.tool_calls is defined }};{% endfor %}{{ tools }}{{ add_generation_prompt }}";
    assert_eq!(
        template(source).render(&input).unwrap(),
        "tool|42|id|tool|hm|False;assistant|None||||False;NoneFalse"
    );
}

#[test]
fn a_second_template_serves_tools() {
    let template = ChatTemplate::new("plain", Some("tools: {{ tools[0].name }}"), &[]).unwrap();
    let mut input = user("hi");
    assert_eq!(template.render(&input).unwrap(), "plain");
    input.tools = Some(Vec::new());
    assert_eq!(template.render(&input).unwrap(), "plain");
    input.tools = Some(vec![Json::parse(r#"{"name": "f"}"#).unwrap()]);
    assert_eq!(template.render(&input).unwrap(), "tools: f");
}

#[test]
fn the_fallback_is_chatml() {
    let mut input = user("hi");
    input.messages.insert(0, Message { role: "assistant".to_owned(), ..Message::default() });
    input.add_generation_prompt = true;
    assert_eq!(
        ChatTemplate::fallback().render(&input).unwrap(),
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn files_name_a_template_or_none() {
    let mut vocab = sentence_piece();
    let tokenizer = vocab.tokenizer();
    assert!(ChatTemplate::from_gguf(&vocab.gguf(), &tokenizer).unwrap().is_none());
    vocab.texts.push((
        "tokenizer.chat_template",
        "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}".to_owned(),
    ));
    let template = ChatTemplate::from_gguf(&vocab.gguf(), &tokenizer).unwrap().unwrap();
    let prompt = template.render(&user("he")).unwrap();
    assert_eq!(prompt, "<s>he</s>");
    assert!(template.source().starts_with("{{ bos_token }}"));
    // The prompt has its beginning of sequence already.
    assert_eq!(common::texts(&tokenizer, &tokenizer.encode_prompt(&prompt).unwrap()), ["<s>", "▁he", "</s>"]);

    let mut broken = byte_pair();
    broken.texts.push(("tokenizer.chat_template", "{% if".to_owned()));
    let error = ChatTemplate::from_gguf(&broken.gguf(), &broken.tokenizer()).unwrap_err();
    assert!(matches!(error, TemplateError::Syntax { .. }));
    let mut wrong = byte_pair();
    wrong.ids.push(("tokenizer.chat_template", 1));
    let error = ChatTemplate::from_gguf(&wrong.gguf(), &wrong.tokenizer()).unwrap_err();
    assert!(matches!(error, TemplateError::Metadata(_)));
}

proptest! {
    /// No template and no conversation ends the process.
    #[test]
    fn any_template_renders_or_fails(
        source in "([a-z {}%'\\[\\]().|+*~=<>0-9-]|\\{\\{|\\}\\}|\\{%|%\\}|messages|for|endfor|in|set|if|endif|range|tojson|macro){0,40}",
        content in any::<String>(),
    ) {
        if let Ok(template) = ChatTemplate::new(&source, None, &[]) {
            let _ = template.render(&user(&content));
        }
    }

    /// A text goes through a template and its JSON unharmed.
    #[test]
    fn text_survives(content in any::<String>()) {
        let template = template("{{ messages[0].content }}\u{0}{{ messages[0].content | tojson }}");
        let out = template.render(&user(&content)).unwrap();
        let json = out.strip_prefix(&content).and_then(|rest| rest.strip_prefix('\u{0}')).unwrap();
        prop_assert_eq!(Json::parse(json).unwrap(), Json::Str(content));
    }
}
