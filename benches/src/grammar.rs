//! Micro-benchmark of grammars: time to compile, time to work out the masks of a whole batch, and what whole steps of an
//! engine take with and without, one table line a grammar.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use engine::grammar::{Constraint, GrammarCompiler};
use engine::{
    Engine, EngineConfig, Grammar, GrammarLimits, GrammarSource, Request, SamplingParams, Stop, TokenStream,
};
use models::gguf::GgufFile;
use models::{Card, Tokenizer};
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
    /// Times that whole steps are measured, with and without in turn; 0 leaves it out.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Tokens of each sequence in a round.
    #[arg(long, default_value_t = 96)]
    tokens: u32,
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

/// Grammars that go on for longer than a round, so that the batch stays full.
fn endless() -> Vec<(&'static str, GrammarSource)> {
    let list = |items| {
        let schema = json!({"type": "array", "items": items, "minItems": 2_000});
        GrammarSource::JsonSchema { schema, strict: true }
    };
    let record = json!({"type": "object", "additionalProperties": false, "required": ["name", "age", "mail", "tags"],
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "mail": {"type": "string", "format": "email"},
            "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}}}});
    vec![
        ("any objects", list(json!({"type": "object"}))),
        ("records", list(record)),
        ("regex of ASCII words", GrammarSource::Regex(r"(\w+ ){500,2000}\d{4}-\d\d-\d\d".to_owned())),
        ("regex of letters of all scripts", GrammarSource::Regex(r"(\p{L}+ ){500,2000}end".to_owned())),
    ]
}

/// Microseconds of each full step of a batch.
fn full_steps(engine: &Engine, args: &Args, grammar: Option<&Grammar>) -> Result<Vec<u64>, String> {
    let prompt = engine.tokenizer().encode_text("Write a list.").map_err(|error| error.to_string())?;
    let submit = |i: usize| {
        engine.submit(Request {
            prompt: prompt.clone(),
            sampling: SamplingParams {
                temperature: 1.0,
                seed: args.seed + i as u64,
                ignore_eos: true,
                ..Default::default()
            },
            stop: Stop { max_tokens: args.tokens, ..Stop::default() },
            grammar: grammar.cloned(),
            ..Request::default()
        })
    };
    let streams: Vec<TokenStream> =
        (0..args.batch).map(submit).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let (mut times, mut before) = (Vec::new(), engine.stats());
    loop {
        let now = engine.stats();
        // One step, and each sequence got a token in it.
        let is_full = now.steps == before.steps + 1
            && now.generated_tokens - before.generated_tokens == args.batch as u64;
        if is_full {
            times.push(now.last_step_us);
        }
        if now.running + now.waiting == 0 && now.steps > before.steps {
            break;
        }
        before = now;
        std::thread::sleep(Duration::from_micros(500));
    }
    drop(streams);
    times.sort_unstable();
    Ok(times)
}

/// Whole steps of a real engine, with and without a grammar in turn.
fn whole_steps(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let loaded = models::load(&args.model, Card::from_file(&args.model)?, &|_| ())?;
    let config = EngineConfig {
        max_num_seqs: args.batch,
        // Nobody reads, so nothing may wait for a reader.
        stream_capacity: args.tokens as usize * 2 + 64,
        prefix_cache: false,
        ..EngineConfig::default()
    };
    let engine = Engine::start(loaded, config)?;
    println!("\n| batch of {} | median step ms without | with | overhead |\n|---|---|---|---|", args.batch);
    for (name, source) in endless() {
        let grammar = engine.compile(&source)?;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..args.rounds {
            without.extend(full_steps(&engine, args, None)?);
            with.extend(full_steps(&engine, args, Some(&grammar))?);
        }
        without.sort_unstable();
        with.sort_unstable();
        let median = |times: &[u64]| times.get(times.len() / 2).map_or(f64::NAN, |us| *us as f64 / 1e3);
        let (a, b) = (median(&without), median(&with));
        println!("| {name} | {a:.2} | {b:.2} | {:+.1} % |", (b / a - 1.0) * 100.0);
    }
    engine.shutdown(Duration::ZERO);
    Ok(())
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
    if args.rounds > 0 { whole_steps(&args) } else { Ok(()) }
}
