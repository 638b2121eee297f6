use models::Tokenizer;
use serde_json::json;

use super::*;
use crate::testing;

fn compiler() -> GrammarCompiler {
    let tokenizer: Arc<Tokenizer> = testing::tokenizer();
    GrammarCompiler::new(tokenizer, GrammarLimits::default())
}

fn schema(schema: Value) -> GrammarSource {
    GrammarSource::JsonSchema { schema, strict: true }
}

/// Whether the grammar takes the whole text and may end there.
fn accepts(compiler: &GrammarCompiler, source: &GrammarSource, text: &str) -> bool {
    let grammar = compiler.compile(source).unwrap_or_else(|error| panic!("{source:?}: {error}"));
    let mut constraint = grammar.begin(vec![testing::END_OF_TEXT]);
    for byte in text.bytes() {
        constraint.prepare();
        let mut logits = vec![0.0; testing::VOCAB];
        if constraint.is_complete() || !constraint.apply(&mut logits) || logits[usize::from(byte)] != 0.0 {
            return false;
        }
        constraint.advance(u32::from(byte));
    }
    constraint.prepare();
    let mut logits = vec![0.0; testing::VOCAB];
    constraint.is_complete() || constraint.apply(&mut logits) && logits[testing::END_OF_TEXT as usize] == 0.0
}

#[test]
fn each_kind_takes_what_it_should() {
    let compiler = compiler();
    let tree = json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "additionalProperties": false,
        "required": ["next"], "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}}}});
    let lark = "start: \"a\" inner* \"@\"\ninner: /[0-9]/ | \"(\" inner \")\"";
    let composed = GrammarSource::Composed {
        text: "start: \"say \" @one".to_owned(),
        parts: vec![("one".to_owned(), schema(json!({"type": "integer"})))],
    };
    let cases = [
        (GrammarSource::json_object(), vec!["{}", "{\"a\": [1, null]}"], vec!["[]", "{", "{}}", "1"]),
        (schema(json!({"type": "integer"})), vec!["1", "-20"], vec!["1.5", "\"1\"", "01"]),
        (
            schema(json!({"type": "array", "items": {"enum": ["x", 2]}})),
            vec!["[]", "[\"x\",2]"],
            vec!["[3]", "[,]"],
        ),
        (schema(tree), vec!["{\"next\": {\"next\": null}}"], vec!["{\"next\": 1}", "{}"]),
        (schema(json!(true)), vec!["1", "{}"], vec!["x"]),
        (GrammarSource::Regex("^[a-z]{2}/\\d$".to_owned()), vec!["ab/1"], vec!["a/1", "ab/12", "ab/"]),
        (
            GrammarSource::Choice(vec!["yes".to_owned(), "y\"é".to_owned()]),
            vec!["yes", "y\"é"],
            vec!["y", "no"],
        ),
        (GrammarSource::Lark(lark.to_owned()), vec!["a@", "a1((2))@"], vec!["a(@", "a(1@"]),
        (composed, vec!["say 12"], vec!["12", "say x"]),
    ];
    for (source, good, bad) in cases {
        for text in good {
            assert!(accepts(&compiler, &source, text), "{source:?} refuses {text}");
        }
        for text in bad {
            assert!(!accepts(&compiler, &source, text), "{source:?} takes {text}");
        }
    }
}

#[test]
fn white_space_between_parts_is_bounded() {
    let (compiler, source) = (compiler(), GrammarSource::json_object());
    for space in ["", " ", "\n", "\r\n", " \n", &format!("\n{}", " ".repeat(32)), "\n\t\t"] {
        assert!(accepts(&compiler, &source, &format!("{{{space}}}")), "{space:?}");
    }
    for space in ["\n\n", "\t", "   ", &format!("\n{}", " ".repeat(33))] {
        assert!(!accepts(&compiler, &source, &format!("{{{space}}}")), "{space:?}");
    }
    assert!(accepts(&compiler, &source, "{\n  \"a\": [\n    1,\n    null\n  ]\n}"));
    assert!(!accepts(&compiler, &source, "{} "));
}

#[test]
fn numbers_end() {
    let compiler = compiler();
    let digits = |count| "7".repeat(count);
    let number = schema(json!({"type": "number"}));
    let composed = GrammarSource::Composed {
        text: "start: /[a-z0-9]*/ \" \" @one".to_owned(),
        parts: vec![("one".to_owned(), schema(json!({"type": "array", "items": {"type": "integer"}})))],
    };
    let object = GrammarSource::json_object();
    let (long, longer) = (digits(20), digits(21));
    for text in [long.clone(), format!("-{long}.{long}e-99"), format!("{long}E10"), "0.1e7".to_owned()] {
        assert!(accepts(&compiler, &number, &text), "{text}");
        assert!(
            accepts(&compiler, &object, &format!("{{\"a\": [{text}, {text}], \"b\": {text}}}")),
            "{text}"
        );
    }
    for text in [longer.clone(), format!("1.{longer}"), "1e100".to_owned(), "1e+100".to_owned()] {
        assert!(!accepts(&compiler, &number, &text), "{text}");
        assert!(!accepts(&compiler, &object, &format!("{{\"a\": {text}}}")), "{text}");
    }
    // Text, and what is no JSON, has as many as it likes; nor does a number stop where it must go on.
    assert!(accepts(&compiler, &object, &format!("{{\"{longer}\": \"{longer}\"}}")));
    let pattern = schema(json!({"type": "string", "pattern": "^[0-9]*$"}));
    assert!(accepts(&compiler, &pattern, &format!("\"{}\"", digits(64))));
    assert!(accepts(&compiler, &GrammarSource::Regex("[0-9]+".to_owned()), &digits(64)));
    assert!(accepts(&compiler, &composed, &format!("{longer} [{long}, 1]")));
    assert!(!accepts(&compiler, &composed, &format!("x [{longer}]")));
    let even = schema(json!({"type": "integer", "multipleOf": 2}));
    assert!(accepts(&compiler, &even, &format!("{longer}2")) && accepts(&compiler, &even, &"2".repeat(20)));
    assert!(!accepts(&compiler, &even, &format!("{long}22")), "even after the first 2");
}

#[test]
fn a_lenient_schema_passes_over_what_cannot_be_enforced() {
    let compiler = compiler();
    let source = json!({"type": "array", "items": {"type": "integer"}, "uniqueItems": true, "format": "odd"});
    assert!(matches!(compiler.compile(&schema(source.clone())), Err(GrammarError::Invalid(_))));
    let lenient = GrammarSource::JsonSchema { schema: source, strict: false };
    assert!(accepts(&compiler, &lenient, "[1,1]"));
    // What a caller says about our own options is not heard.
    let sly = json!({"type": "object", "x-guidance": {"lenient": true}, "uniqueItems": true, "not": {}});
    assert!(matches!(compiler.compile(&schema(sly)), Err(GrammarError::Invalid(_))));
}

fn nested(depth: usize, wrap: impl Fn(Value) -> Value) -> Value {
    (0..depth).fold(json!({"type": "string"}), |inner, _| wrap(inner))
}

/// Definitions that refer to each other in a row.
fn chain(length: usize) -> Value {
    let mut defs = serde_json::Map::new();
    for i in 0..length {
        defs.insert(
            format!("d{i}"),
            json!({"type": "array", "items": {"$ref": format!("#/$defs/d{}", i + 1)}}),
        );
    }
    defs.insert(format!("d{length}"), json!({"type": "null"}));
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

#[test]
fn hostile_schemas_are_refused() {
    let compiler = compiler();
    let many = |n: usize| (0..n).map(|i| json!({"const": format!("v{i}")})).collect::<Vec<_>>();
    let wide = |n: usize| {
        (0..n).map(|i| (format!("p{i}"), json!({"type": "string"}))).collect::<serde_json::Map<_, _>>()
    };
    let cases = [
        ("no schema", json!([1])),
        ("nothing is allowed", json!(false)),
        ("no such type", json!({"type": "strnig"})),
        ("depth", nested(100, |inner| json!({"type": "array", "items": inner}))),
        ("depth of objects", nested(100, |inner| json!({"type": "object", "properties": {"a": inner}}))),
        ("depth of unions", nested(100, |inner| json!({"anyOf": [inner, {"type": "null"}]}))),
        ("depth of references", chain(500)),
        ("self", json!({"$ref": "#"})),
        (
            "circle",
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}}),
        ),
        ("outside", json!({"$ref": "http://169.254.169.254/latest"})),
        ("file", json!({"$ref": "file:///etc/passwd"})),
        ("nowhere", json!({"$ref": "#/$defs/none"})),
        ("enum", json!({"enum": (0..20_000).collect::<Vec<_>>()})),
        ("product", json!({"allOf": vec![json!({"anyOf": many(40)}); 8]})),
        ("product of objects", json!({"type": "object", "properties": wide(2_000), "anyOf": many(2_000)})),
        ("comparisons", json!({"oneOf": many(9_000)})),
        ("length", json!({"enum": ["x".repeat(300_000)]})),
        (
            "patterns",
            json!({"anyOf": (0..400).map(|i| json!({"pattern": format!("^{i}")})).collect::<Vec<_>>()}),
        ),
        ("bad pattern", json!({"type": "string", "pattern": "("})),
        ("huge bounds", json!({"type": "number", "minimum": -1e300, "maximum": 1e-300})),
        ("contradiction", json!({"type": "integer", "minimum": 3, "maximum": 2})),
        ("conditions", json!({"if": {"type": "string"}, "then": {"minLength": 3}})),
    ];
    for (name, case) in cases {
        let error = compiler.compile(&schema(case)).expect_err(name);
        assert!(!matches!(error, GrammarError::Slow { .. } | GrammarError::Busy { .. }), "{name}: {error}");
        assert!(error.to_string().len() < 2_000, "{name}: {error}");
    }
}

#[test]
fn unusual_but_legal_schemas_compile() {
    let compiler = compiler();
    let cases = [
        json!({"type": "array", "items": {"type": "null"}, "maxItems": 1_000_000}),
        json!({"type": "string", "pattern": "^(a+)+$"}),
        json!({"type": "string", "pattern": "^((a{1000}){1000}){1000}$"}),
        json!({"type": ["string", "null"], "maxLength": 40}),
        json!({"type": "object", "patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": false}),
        nested(25, |inner| json!({"type": "object", "properties": {"a": inner}, "required": ["a"]})),
        chain(25),
        json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": [], "additionalProperties": false}),
    ];
    for case in cases {
        if let Err(error) = compiler.compile(&schema(case.clone())) {
            panic!("{case}: {error}");
        }
    }
}

#[test]
fn hostile_texts_are_refused() {
    let compiler = compiler();
    let long = "a".repeat(300_000);
    let cases = [
        GrammarSource::Regex("(".to_owned()),
        GrammarSource::Regex("(?=a)b".to_owned()),
        GrammarSource::Regex(long.clone()),
        GrammarSource::Regex("(".repeat(50_000)),
        GrammarSource::Choice(vec![]),
        GrammarSource::Choice(vec![String::new()]),
        GrammarSource::Choice(vec![long.clone()]),
        GrammarSource::Lark(String::new()),
        GrammarSource::Lark("begin: \"a\"".to_owned()),
        GrammarSource::Lark("start: \"a".to_owned()),
        GrammarSource::Lark("start: start".to_owned()),
        GrammarSource::Lark("start: other".to_owned()),
        GrammarSource::Lark("start: %json {\"type\": \"object\"}".to_owned()),
        GrammarSource::Lark("start: <|im_start|>".to_owned()),
        GrammarSource::Lark(format!("start: {}\"a\"{}", "(".repeat(50_000), ")".repeat(50_000))),
        GrammarSource::Lark("start: @none".to_owned()),
        GrammarSource::Composed { text: "start: @none".to_owned(), parts: vec![] },
    ];
    for case in cases {
        let name: String = format!("{case:?}").chars().take(80).collect();
        let error = compiler.compile(&case).expect_err(&name);
        assert!(!matches!(error, GrammarError::Slow { .. } | GrammarError::Busy { .. }), "{name}: {error}");
    }
}

#[test]
fn a_look_at_one_token_says_what_the_whole_mask_says() {
    let compiler = compiler();
    let record = json!({"type": "object", "additionalProperties": false, "required": ["n", "s"],
        "properties": {"n": {"type": "number"}, "s": {"type": "string", "maxLength": 9}}});
    let sources = [
        schema(record),
        schema(json!({"type": "array", "items": {"type": "integer"}})),
        GrammarSource::Regex(r"(\w+ ?){2,9}\d{4}|\p{L}+x".to_owned()),
        GrammarSource::Choice(vec!["yes".to_owned(), "yesterday".to_owned()]),
        GrammarSource::Lark("start: \"a\" inner* \"@\"\ninner: /[0-9]/ | \"(\" inner \")\"".to_owned()),
    ];
    let mut random = 7u64;
    for source in sources {
        let grammar = compiler.compile(&source).expect("it compiles");
        for _ in 0..20 {
            let mut constraint = grammar.begin(vec![testing::END_OF_TEXT]);
            for _ in 0..40 {
                if constraint.is_complete() {
                    break;
                }
                // Asked one by one before the mask is there.
                let looks: Vec<Option<bool>> =
                    (0..testing::VOCAB as u32).map(|token| grammar_look(&mut constraint, token)).collect();
                constraint.prepare();
                let mut logits = vec![0.0; testing::VOCAB];
                assert!(constraint.apply(&mut logits));
                for (token, look) in looks.iter().enumerate() {
                    assert!(look.is_none_or(|look| look == (logits[token] == 0.0)), "{source:?}: {token}");
                    assert_eq!(constraint.allows(token as u32), Some(logits[token] == 0.0));
                }
                let allowed: Vec<u32> =
                    (0..testing::VOCAB as u32).filter(|token| logits[*token as usize] == 0.0).collect();
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                constraint.advance(allowed[(random >> 33) as usize % allowed.len()]);
            }
        }
    }
}

/// What a look says while no mask is there; `None` where only a mask can tell.
fn grammar_look(constraint: &mut Constraint, token: u32) -> Option<bool> {
    if constraint.needs_mask(token) { None } else { constraint.allows(token) }
}
