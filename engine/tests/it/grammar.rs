//! Answers of a given form, from a model that babbles.

use engine::testing::{END_OF_TEXT, FakeModel};
use engine::{Engine, EngineConfig, FinishReason, Grammar, GrammarSource, Request, SamplingParams, Stop};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::support::{Said, bytes, greedy, run, run_all, small};

/// A form of JSON with its schema and, written independently of it, its check.
#[derive(Clone, Debug)]
enum Shape {
    Null,
    Bool,
    Integer(i64, i64),
    Number,
    Text(usize, usize),
    OneOf(Vec<String>),
    Date,
    List(Box<Shape>, usize, usize),
    Record(Vec<(String, Shape, bool)>),
    Either(Vec<Shape>),
}

impl Shape {
    fn schema(&self) -> Value {
        match self {
            Shape::Null => json!({"type": "null"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Integer(min, max) => json!({"type": "integer", "minimum": min, "maximum": max}),
            Shape::Number => json!({"type": "number"}),
            Shape::Text(min, max) => json!({"type": "string", "minLength": min, "maxLength": max}),
            Shape::OneOf(texts) => json!({"enum": texts}),
            Shape::Date => json!({"type": "string", "format": "date"}),
            Shape::List(item, min, max) => {
                json!({"type": "array", "items": item.schema(), "minItems": min, "maxItems": max})
            }
            Shape::Record(fields) => {
                let properties: Map<_, _> =
                    fields.iter().map(|(name, shape, _)| (name.clone(), shape.schema())).collect();
                let required: Vec<_> = fields.iter().filter(|field| field.2).map(|field| &field.0).collect();
                json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
            }
            Shape::Either(shapes) => json!({"anyOf": shapes.iter().map(Shape::schema).collect::<Vec<_>>()}),
        }
    }

    fn accepts(&self, value: &Value) -> bool {
        match (self, value) {
            (Shape::Null, Value::Null)
            | (Shape::Bool, Value::Bool(_))
            | (Shape::Number, Value::Number(_)) => true,
            // `-0` is an integer too, which this parser reads as a float.
            (Shape::Integer(min, max), Value::Number(number)) => {
                let n = number.as_i64().or_else(|| (number.as_f64() == Some(0.0)).then_some(0));
                n.is_some_and(|n| n >= *min && n <= *max)
            }
            (Shape::Text(min, max), Value::String(text)) => (*min..=*max).contains(&text.chars().count()),
            (Shape::OneOf(texts), Value::String(text)) => texts.contains(text),
            (Shape::Date, Value::String(text)) => {
                let parts: Vec<_> = text.split('-').map(str::parse::<u32>).collect();
                matches!(parts[..], [Ok(0..=9999), Ok(1..=12), Ok(1..=31)])
            }
            (Shape::List(item, min, max), Value::Array(items)) => {
                (*min..=*max).contains(&items.len()) && items.iter().all(|value| item.accepts(value))
            }
            (Shape::Record(fields), Value::Object(map)) => {
                map.keys().all(|key| fields.iter().any(|field| field.0 == *key))
                    && fields.iter().all(|(name, shape, required)| match map.get(name) {
                        Some(value) => shape.accepts(value),
                        None => !required,
                    })
            }
            (Shape::Either(shapes), value) => shapes.iter().any(|shape| shape.accepts(value)),
            _ => false,
        }
    }
}

fn shapes() -> impl Strategy<Value = Shape> {
    let leaf = prop_oneof![
        Just(Shape::Null),
        Just(Shape::Bool),
        (-50_i64..50, 0_i64..1000).prop_map(|(min, more)| Shape::Integer(min, min + more)),
        Just(Shape::Number),
        (0_usize..4, 0_usize..6).prop_map(|(min, more)| Shape::Text(min, min + more)),
        prop::collection::vec("[a-zé\"\\\\ /\n]{1,6}", 1..4).prop_map(Shape::OneOf),
        Just(Shape::Date),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let field = ("[a-z\"é]{1,5}", inner.clone(), any::<bool>());
        prop_oneof![
            (inner.clone(), 0_usize..3, 0_usize..3).prop_map(|(item, min, more)| Shape::List(
                item.into(),
                min,
                min + more
            )),
            prop::collection::vec(field, 0..4).prop_map(|mut fields| {
                let mut names = std::collections::HashSet::new();
                fields.retain(|field| names.insert(field.0.clone()));
                Shape::Record(fields)
            }),
            prop::collection::vec(inner, 1..3).prop_map(Shape::Either),
        ]
    })
}

fn engine(num_blocks: usize) -> Engine {
    FakeModel::default().start(EngineConfig { num_blocks, ..small() })
}

fn compiled(engine: &Engine, source: &GrammarSource) -> Option<Grammar> {
    Some(engine.compile(source).unwrap_or_else(|error| panic!("{source:?}: {error}")))
}

/// Nearly even odds for every possible token, but no white space, and numbers that come to an end.
fn babble(prompt: &str, seed: u64, grammar: Option<Grammar>) -> Request {
    let dull = [b' ', b'\n', b'\r', b'\t', b'e', b'E'].map(|byte| (u32::from(byte), -100.0));
    let ends = [b',', b'}', b']', b'"'].map(|byte| (u32::from(byte), 1.0));
    let logit_bias = dull.into_iter().chain(ends).collect();
    let sampling = SamplingParams { temperature: 4.0, seed, logit_bias, ..SamplingParams::default() };
    Request { sampling, grammar, ..greedy(&bytes(prompt), 1_500) }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_the_model_says_is_valid_and_does_not_depend_on_the_batch(
        forms in prop::collection::vec(shapes(), 1..6), seed in any::<u64>())
    {
        // Few blocks: sequences lose theirs and are computed again.
        let engine = engine(400);
        let requests: Vec<Request> = forms.iter().enumerate().map(|(i, form)| {
            let source = GrammarSource::JsonSchema { schema: form.schema(), strict: true };
            babble(&format!("prompt {i}"), seed.wrapping_add(i as u64), compiled(&engine, &source))
        }).collect();
        let (together, alone) = runtime().block_on(async {
            let together = run_all(&engine, requests.clone()).await;
            let mut alone = Vec::new();
            for request in requests {
                alone.push(run(&engine, request).await);
            }
            (together, alone)
        });
        for ((form, said), alone) in forms.iter().zip(&together).zip(&alone) {
            prop_assert_eq!(&said.text, &alone.text);
            prop_assert_eq!(&said.finish.reason, &FinishReason::Stop, "{}", &said.text);
            let value: Value = serde_json::from_str(&said.text)
                .map_err(|error| TestCaseError::fail(format!("{error}: {}", said.text)))?;
            prop_assert!(form.accepts(&value), "{:?} does not accept {}", form, said.text);
        }
    }
}

async fn ask(source: GrammarSource, change: impl FnOnce(&mut Request)) -> Said {
    let engine = engine(1_000);
    let mut request = babble("x", 7, compiled(&engine, &source));
    change(&mut request);
    run(&engine, request).await
}

#[tokio::test]
async fn a_complete_answer_ends_without_another_token() {
    let said = ask(GrammarSource::Regex("[a-z]{3}".to_owned()), |_| {}).await;
    assert_eq!((said.text.len(), said.tokens.len()), (3, 3));
    assert_eq!(said.finish.reason, FinishReason::Stop);
    // Also when the last token is the last that is allowed.
    let said = ask(GrammarSource::Regex("[a-z]{3}".to_owned()), |request| request.stop.max_tokens = 3).await;
    assert_eq!((said.text.len(), said.finish.reason), (3, FinishReason::Stop));
}

#[tokio::test]
async fn an_answer_that_is_cut_says_so() {
    let said = ask(GrammarSource::Regex("[a-z]{9}".to_owned()), |request| request.stop.max_tokens = 5).await;
    assert_eq!((said.text.len(), said.finish.reason), (5, FinishReason::Length));
}

#[tokio::test]
async fn ending_tokens_are_possible_only_where_the_grammar_may_stop() {
    let eager = |request: &mut Request| {
        request.sampling.temperature = 0.0;
        request.sampling.logit_bias = vec![(END_OF_TEXT, 100.0)];
    };
    let source = || GrammarSource::Regex("[a-z]{4,9}".to_owned());
    let said = ask(source(), eager).await;
    assert_eq!((said.text.len(), said.tokens.last()), (4, Some(&END_OF_TEXT)));
    let said = ask(source(), |request| {
        eager(request);
        request.sampling.ignore_eos = true;
    })
    .await;
    assert_eq!((said.text.len(), said.finish.reason), (9, FinishReason::Stop));
    let said = ask(source(), |request| {
        eager(request);
        request.sampling.min_tokens = 6;
    })
    .await;
    assert_eq!(said.text.len(), 6);
    // A letter that ends the sequence: not before four others, unless the grammar leaves nothing else.
    let q = u32::from(b'q');
    let said = ask(source(), |request| {
        request.sampling.logit_bias = vec![(q, 100.0)];
        request.stop = Stop { token_ids: vec![q], max_tokens: 20, ..Stop::default() };
    })
    .await;
    assert_eq!((said.text.len(), said.tokens.last()), (4, Some(&q)));
    let said = ask(GrammarSource::Regex("aqa".to_owned()), |request| {
        request.stop = Stop { token_ids: vec![q], max_tokens: 20, ..Stop::default() };
    })
    .await;
    assert_eq!((said.text.as_str(), said.finish.reason), ("a", FinishReason::Stop));
}

#[tokio::test]
async fn log_probabilities_are_the_models_own() {
    let said =
        ask(GrammarSource::Choice(vec!["~".to_owned()]), |request| request.sampling.logprobs = Some(1)).await;
    let free = engine(1_000);
    let mut request = babble("x", 7, None);
    request.sampling.logprobs = Some(1);
    request.stop.max_tokens = 1;
    let free = run(&free, request).await;
    assert_eq!(said.text, "~");
    assert_eq!(said.logprobs[0].top, free.logprobs[0].top);
    assert!(said.logprobs[0].logprob < said.logprobs[0].top[0].1, "the forced token was not the likeliest");
}

#[tokio::test]
async fn other_sequences_are_left_alone() {
    let engine = engine(1_000);
    let free = greedy(&bytes("free"), 40);
    let alone = run(&engine, free.clone()).await;
    let grammar = compiled(&engine, &GrammarSource::json_object());
    let together = run_all(&engine, vec![free, babble("x", 1, grammar)]).await;
    assert_eq!(alone.text, together[0].text);
    serde_json::from_str::<Map<String, Value>>(&together[1].text).expect("an object");
}
