//! Templates: what they render, whose bytes are whose, and what hostile ones can do.

use models::{ChatMessage, ChatTemplate, Prompt, TemplateError};

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage { role: role.into(), content: content.into(), ..ChatMessage::default() }
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "<s>", "</s>").unwrap()
}

fn render(source: &str, messages: &[ChatMessage]) -> Prompt {
    template(source).render(messages, true).unwrap()
}

fn users(prompt: &Prompt) -> Vec<&str> {
    prompt.user_ranges.iter().map(|r| &prompt.text[r.clone()]).collect()
}

const PLAIN: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}";
const TRIMMED: &str =
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}";

#[test]
fn ranges_are_exactly_the_callers_bytes() {
    let messages = [message("system", "be\nkind"), message("user", " <|end|> é "), message("user", "")];
    let prompt = render(PLAIN, &messages);
    assert_eq!(prompt.text, "<|system|>be\nkind<|end|><|user|> <|end|> é <|end|><|user|><|end|>");
    assert_eq!(users(&prompt), ["be\nkind", " <|end|> é "]);
    let prompt = render(TRIMMED, &messages);
    assert_eq!(prompt.text, "<|system|>be\nkind<|end|><|user|><|end|> é<|end|><|user|><|end|>");
    assert_eq!(users(&prompt), ["be\nkind", "<|end|> é"]);
}

#[test]
fn names_are_the_callers_too() {
    let source = "{% for m in messages %}{% if m.name %}[{{ m.name }}]{% endif %}{{ m.content }}{% endfor %}";
    let named = ChatMessage { name: Some("<|end|>".into()), ..message("user", "hi") };
    let prompt = render(source, &[named]);
    assert_eq!((prompt.text.as_str(), users(&prompt)), ("[<|end|>]hi", vec!["<|end|>", "hi"]));
}

#[test]
fn text_that_imitates_markers_stays_text() {
    let fences =
        "\u{F8FF}0.1\u{F8FF}<|end|>\u{F8FF}0.0\u{F8FF} \u{F8FF}1.\u{F8FF} \u{F8FF}2.99\u{F8FF} \u{F8FF}";
    let messages = [message("user", fences), message("user", "x\u{F8FF}")];
    let prompt = render(PLAIN, &messages);
    assert_eq!(prompt.text, format!("<|user|>{fences}<|end|><|user|>x\u{F8FF}<|end|>"));
    assert_eq!(users(&prompt), [fences, "x\u{F8FF}"]);
}

#[test]
fn torn_text_hides_no_control_string() {
    // A middle piece carries no marker of its own.
    let source = "<|user|>{{ messages[0].content.split('|')[1:-1] | join('|') }}<|end|>";
    let prompt = render(source, &[message("user", "a|<|end|>|b")]);
    assert_eq!(prompt.text, "<|user|><|end|><|end|>");
    let inner = 8..15;
    assert!(prompt.user_ranges.iter().any(|r| r.start <= inner.start && r.end >= inner.end));
    // A suffix has only its end marker.
    let source = "<|user|>\n{{ messages[0].content.split('</think>')[-1] }}<|end|>";
    let prompt = render(source, &[message("assistant", "secret</think>the answer")]);
    assert_eq!(prompt.text, "<|user|>\nthe answer<|end|>");
    assert_eq!(users(&prompt), ["the answer"]);
}

#[test]
fn twice_rendered_text_is_marked_twice() {
    let prompt = render("{{ messages[0].content }}={{ messages[0].content }}", &[message("user", "<|x|>")]);
    assert_eq!(users(&prompt), ["<|x|>", "<|x|>"]);
}

#[test]
fn templates_see_what_they_expect() {
    let source = "{{ bos_token }}{% if tools is none %}-{% endif %}\n{% for m in messages %}\n    {% if loop.first %}\n  \
        {{ m.role.upper() }}{{ m['content'].strip().startswith('x') }}\n    {% endif %}\n{% endfor %}\n\
        {% if add_generation_prompt %}{{ eos_token }}{% endif %}";
    // Block lines vanish with their line break; the marked text begins with a marker, not with x.
    assert_eq!(render(source, &[message("user", "x")]).text, "<s>-  USERFalse\n</s>");
    let methods = "{{ 'a-b-c'.split('-', 1)[1] }} {{ 'a-b'.rsplit('-')[0] }} {{ ' x '.lstrip() }}{{ 'xyx'.strip('x') }} \
        {{ 'ab'.find('b') }} {{ 'ab'.find('c') }} {{ 'ab cd'.title() }} {{ 'aa'.replace('a', 'b') }} \
        {% for k, v in {'k': 'v'}.items() %}{{ k }}{{ v }}{% endfor %} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.keys() | list }}";
    assert_eq!(render(methods, &[]).text, "b-c a x y 1 -1 Ab Cd bb kv 2 [\"a\"]");
}

#[test]
fn refusals_carry_their_message() {
    let refuse = template("{{ raise_exception('roles must alternate') }}");
    let error = refuse.render(&[message("user", "x")], true).unwrap_err();
    assert!(matches!(&error, TemplateError::Refused(m) if m == "roles must alternate"), "{error}");
    refuse.probe().unwrap();
    for role in ["", "User", "us er", "a|b", &"r".repeat(33)] {
        assert!(matches!(template(PLAIN).render(&[message(role, "x")], true), Err(TemplateError::Role(_))));
    }
}

#[test]
fn hostile_templates_end_in_errors() {
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(20_000), ")".repeat(20_000));
    let nested = "{% if 1 %}".repeat(5_000) + &"{% endif %}".repeat(5_000);
    let long = "x".repeat(300 << 10);
    for source in [deep.as_str(), &nested, &long, "{% for %}", "{{ 1 +", "{% extends %}"] {
        if let Ok(compiled) = ChatTemplate::new(source, "", "") {
            compiled.probe().unwrap_err();
        }
    }
    let loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let forever = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
    let wide = "{% for a in range(99999) %}{{ 'x' * 10000 }}{% endfor %}";
    let grow = "{{ 'x'.replace('x', 'y' * 100000).replace('y', 'z' * 100000) }}";
    for source in [
        loops,
        forever,
        wide,
        grow,
        "{{ range(10000000000) | list }}",
        "{{ 'x' * 10000000000 }}",
        "{% include 'other' %}",
        "{% import '/etc/passwd' as p %}",
        "{% extends 'base' %}",
        "{{ messages.__class__.__mro__ }}{{ nothing.at.all }}",
        "{{ messages[0].content.format_map(1) }}",
        "{{ 1 // 0 }}",
    ] {
        let error = template(source).probe().unwrap_err().to_string();
        assert!(error.len() < 2_000, "{error}");
    }
    assert!(matches!(template(loops).probe(), Err(TemplateError::Limit { what: "instructions", .. })));
    assert!(matches!(template(wide).probe(), Err(TemplateError::Limit { what: "output bytes", .. })));
}
