//! Micro-benchmark of grammars: time to compile, and time to work out the masks of a whole batch, one table line a grammar.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use engine::grammar::{Constraint, GrammarCompiler};
use engine::{GrammarLimits, GrammarSource};
use models::Tokenizer;
use models::gguf::GgufFile;
use rayon::prelude::*;
use serde_json::json;

/// Follows grammars with random tokens of a model's vocabulary.
#[derive(Parser)]
struct Args {
    /// A GGUF file; its tokenizer is used.
    model: PathBuf,
    /// Sequences of a batch.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Steps of a batch.
    #[arg(long, default_value_t = 200)]
    steps: usize,
    /// Seed of the tokens.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn sources() -> Vec<(&'static str, GrammarSource)> {
    let person = json!({"type": "object", "additionalProperties": false, "required": ["name", "age", "mail", "tags"],
        "properties": {"name": {"type": "string", "maxLength": 80}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "mail": {"type": "string", "format": "email"},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 8},
            "notes": {"type": "array", "items": {"type": "string"}}}});
    let tree = json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "required": ["label", "children"],
        "additionalProperties": false, "properties": {"label": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}});
    let schema = |schema| GrammarSource::JsonSchema { schema, strict: true };
    vec![
        ("any object", GrammarSource::json_object()),
        ("record", schema(person)),
        ("recursive", schema(tree)),
        ("regex", GrammarSource::Regex(r"(\w+ ){20,2000}\d{4}-\d\d-\d\d".to_owned())),
    ]
}

/// The first allowed token from a random place on.
fn pick(constraint: &Constraint, vocab: usize, random: &mut u64) -> Option<u32> {
    let mut logits = vec![0.0; vocab];
    if !constraint.apply(&mut logits) {
        return None;
    }
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    let start = *random as usize % vocab;
    (start..start + vocab).map(|i| i % vocab).find(|i| logits[*i] == 0.0).map(|i| i as u32)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let tokenizer = Arc::new(Tokenizer::from_header(GgufFile::open(&args.model)?.header())?);
    let (vocab, ending) = (tokenizer.vocab_size(), tokenizer.eos_ids().to_vec());
    let compiler = GrammarCompiler::new(Arc::clone(&tokenizer), GrammarLimits::default());
    let begin = Instant::now();
    compiler.compile(&GrammarSource::json_object())?;
    println!("{vocab} tokens; first grammar after {:.0} ms", begin.elapsed().as_secs_f64() * 1e3);
    println!(
        "| grammar | compile ms | masks of a step, mean us | p50 | p99 | us a mask and core |\n|---|---|---|---|---|---|"
    );
    for (name, source) in sources() {
        let begin = Instant::now();
        let grammar = compiler.compile(&source)?;
        let compile_ms = begin.elapsed().as_secs_f64() * 1e3;
        let mut random = args.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut batch: Vec<Constraint> = (0..args.batch).map(|_| grammar.begin(ending.clone())).collect();
        let mut times: Vec<Duration> = Vec::new();
        for _ in 0..args.steps {
            let begin = Instant::now();
            batch.par_iter_mut().for_each(Constraint::prepare);
            times.push(begin.elapsed());
            for constraint in &mut batch {
                match pick(constraint, vocab, &mut random) {
                    Some(token) if !ending.contains(&token) => constraint.advance(token),
                    _ => *constraint = grammar.begin(ending.clone()),
                }
                if constraint.is_complete() {
                    *constraint = grammar.begin(ending.clone());
                }
            }
        }
        times.sort_unstable();
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let mean = times.iter().sum::<Duration>() / times.len().max(1) as u32;
        let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        let each = us(mean) * rayon::current_num_threads() as f64 / args.batch as f64;
        println!(
            "| {name} | {compile_ms:.1} | {:.0} | {:.0} | {:.0} | {each:.1} |",
            us(mean),
            us(p50),
            us(p99)
        );
    }
    Ok(())
}
