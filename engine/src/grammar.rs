//! Grammars: which tokens may come next, so that an answer has the form that was asked for.
//!
//! A [`GrammarSource`] is checked against the [`GrammarLimits`], compiled once by [`GrammarCompiler::compile`] and then
//! shared; each sequence walks it with a [`Constraint`] of its own. The parser is the crate `llguidance`; nothing
//! outside this module names it.

mod constraint;
mod digits;
mod schema;
mod vocabulary;
mod workers;

use std::fmt;
use std::sync::{Arc, OnceLock};

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv};
use llguidance::{JsonCompileOptions, Matcher, ParserFactory, regex_to_lark};
use models::Tokenizer;
use serde_json::Value;

pub use constraint::Constraint;
use digits::{Digits, NumberTokens};
use workers::Workers;

/// White space between the parts of a JSON answer: as people write it, so that a model cannot spend its budget on it. A
/// space or two, or the end of a line and what the next one is indented by.
const JSON_SPACE: &str = r"(\x20{1,2}|\x20?\x0D?\x0A[\x20\x09]{0,32})";
/// Longest part of the parser's own message that is passed on, characters.
const MAX_REASON: usize = 300;

/// Bounds on what a caller may ask to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrammarLimits {
    /// Bytes of a schema, regular expression or grammar. Published schemas of large interfaces stay below 200 KB.
    pub max_source_bytes: usize,
    /// Levels of a schema, `$ref` included. Compiling recurses.
    pub max_depth: usize,
    /// Subschemas, properties and enum values together.
    pub max_schema_nodes: usize,
    /// Subschemas after unions beside other keywords are multiplied out; guards time and memory.
    pub max_schema_work: u64,
    /// Patterns and formats of one schema; each may take a millisecond.
    pub max_patterns: usize,
    /// Milliseconds that a caller waits for compilation, the wait for a thread included.
    pub compile_ms: u64,
    /// Threads that compile.
    pub workers: usize,
    /// Compilations that wait or run, those included that outlived their caller's patience.
    pub max_compiling: usize,
    /// Lexer states of one sequence, about 2 KB each: bounds the memory that a hostile pattern takes while it decodes.
    pub max_lexer_states: usize,
    /// Symbols of a compiled grammar; the largest published schemas take 200,000.
    pub max_grammar_size: usize,
}

impl Default for GrammarLimits {
    fn default() -> Self {
        Self {
            max_source_bytes: 256 << 10,
            max_depth: 64,
            max_schema_nodes: 10_000,
            max_schema_work: 200_000,
            max_patterns: 256,
            compile_ms: 2_000,
            workers: 2,
            max_compiling: 8,
            max_lexer_states: 20_000,
            max_grammar_size: 250_000,
        }
    }
}

/// The form of an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum GrammarSource {
    /// JSON that satisfies a schema. `{"type": "object"}` is any object.
    JsonSchema {
        /// Draft 2020-12 (or as its `$schema` says); refers to itself only.
        schema: Value,
        /// Refuse keywords that cannot be enforced; else they are passed over, and `oneOf` counts as `anyOf`.
        strict: bool,
    },
    /// The whole answer matches a regular expression; `\\d`, `\\w` and `\\s` are ASCII, as in JSON Schema.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A context-free grammar in Lark syntax with rule `start`.
    Lark(String),
    /// Our own Lark text that refers to the named parts as `@name`.
    Composed {
        /// Lark text.
        text: String,
        /// Names and what they stand for; not [`Self::Composed`] again.
        parts: Vec<(String, GrammarSource)>,
    },
}

impl GrammarSource {
    /// Any JSON object.
    pub fn json_object() -> Self {
        Self::JsonSchema { schema: serde_json::json!({"type": "object"}), strict: true }
    }
}

/// Why a grammar is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// A bound is exceeded.
    #[error("{what} {value} exceeds the limit of {limit}")]
    Limit {
        /// What is too much.
        what: &'static str,
        /// How much it is, as far as it was counted.
        value: u64,
        /// The bound.
        limit: u64,
    },
    /// A `$ref` that leads outside, nowhere or in a circle.
    #[error("$ref {reference:?} {reason}")]
    Reference {
        /// The reference.
        reference: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It is not well formed, or asks for what cannot be enforced or satisfied.
    #[error("{0}")]
    Invalid(String),
    /// A part of a composed grammar is refused.
    #[error("{source}")]
    Part {
        /// The part's name.
        name: String,
        /// Why.
        source: Box<GrammarError>,
    },
    /// Compilation takes too long.
    #[error("it takes more than {limit_ms} ms to compile")]
    Slow {
        /// The bound.
        limit_ms: u64,
    },
    /// Too many grammars are being compiled, or no thread became free in time.
    #[error("{limit} grammars are being compiled already")]
    Busy {
        /// The bound.
        limit: usize,
    },
}

fn invalid(error: impl fmt::Display) -> GrammarError {
    let text = error.to_string();
    let line = text.split("\n<").next().unwrap_or_default();
    GrammarError::Invalid(line.chars().take(MAX_REASON).collect())
}

/// A compiled grammar; clones share it.
#[derive(Clone)]
pub struct Grammar {
    start: Arc<Matcher>,
    eos: Arc<[u32]>,
    /// For JSON, whose numbers are to end.
    numbers: Option<Arc<NumberTokens>>,
}

impl Grammar {
    /// The state before the first token of a sequence that ends with one of `ending`.
    pub fn begin(&self, ending: Vec<u32>) -> Constraint {
        let digits = self.numbers.clone().map(Digits::new);
        Constraint::new(self.start.deep_clone(), Arc::clone(&self.eos), ending, digits)
    }
}

impl PartialEq for Grammar {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.start, &other.start)
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammar").finish_non_exhaustive()
    }
}

/// Compiles grammars for one vocabulary.
pub struct GrammarCompiler {
    tokenizer: Arc<Tokenizer>,
    limits: GrammarLimits,
    /// Made when the first grammar comes.
    ready: OnceLock<Result<Ready, GrammarError>>,
}

/// What knows the whole vocabulary.
struct Ready {
    /// Threads that have it as the parser wants it.
    workers: Workers,
    numbers: Arc<NumberTokens>,
}

impl GrammarCompiler {
    /// A compiler for the tokens of `tokenizer`.
    pub fn new(tokenizer: Arc<Tokenizer>, limits: GrammarLimits) -> Self {
        Self { tokenizer, limits, ready: OnceLock::new() }
    }

    /// Checks and compiles. Blocks for up to [`GrammarLimits::compile_ms`]: not for the engine's thread, nor for one that
    /// serves connections.
    ///
    /// # Errors
    /// See [`GrammarError`].
    pub fn compile(&self, source: &GrammarSource) -> Result<Grammar, GrammarError> {
        self.compile_whole(source).map_err(|error| self.blame(source, error))
    }

    /// Finds the part that is at fault.
    fn blame(&self, source: &GrammarSource, error: GrammarError) -> GrammarError {
        let GrammarSource::Composed { parts, .. } = source else { return error };
        if matches!(error, GrammarError::Busy { .. } | GrammarError::Slow { .. }) {
            return error;
        }
        let refused = |(name, part): &(String, GrammarSource)| {
            let source = Box::new(self.compile_whole(part).err()?);
            Some(GrammarError::Part { name: name.clone(), source })
        };
        parts.iter().find_map(refused).unwrap_or(error)
    }

    fn compile_whole(&self, source: &GrammarSource) -> Result<Grammar, GrammarError> {
        let grammar = self.prepare(source)?;
        let Ready { workers, numbers } = self.ready()?;
        let matcher = workers.compile(grammar)?;
        let is_json = matches!(source, GrammarSource::JsonSchema { .. } | GrammarSource::Composed { .. });
        let numbers = is_json.then(|| Arc::clone(numbers));
        Ok(Grammar { start: Arc::new(matcher), eos: self.tokenizer.eos_ids().into(), numbers })
    }

    fn ready(&self) -> Result<&Ready, GrammarError> {
        let make = || {
            let vocabulary = vocabulary::Vocabulary::environment(&self.tokenizer);
            let numbers = Arc::new(NumberTokens::new(&self.tokenizer, vocabulary.tok_trie()));
            Ok(Ready { workers: Workers::start(&self.make_factory(&vocabulary)?, self.limits)?, numbers })
        };
        self.ready.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    fn make_factory(&self, vocabulary: &TokEnv) -> Result<Arc<ParserFactory>, GrammarError> {
        let slices = SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(vocabulary, InferenceCapabilities::default(), &slices).map_err(invalid)?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.verbose_errors = false;
        limits.max_lexer_states = self.limits.max_lexer_states;
        limits.max_grammar_size = self.limits.max_grammar_size;
        Ok(Arc::new(factory))
    }

    /// Checks the bounds and brings the source into the parser's form.
    fn prepare(&self, source: &GrammarSource) -> Result<TopLevelGrammar, GrammarError> {
        let grammars = match source {
            GrammarSource::Composed { text, parts } => {
                let mut grammars = vec![lark("start", text.clone())];
                for (name, part) in parts {
                    grammars.push(self.single(name, part)?);
                }
                grammars
            }
            other => vec![self.single("start", other)?],
        };
        Ok(TopLevelGrammar { grammars, max_tokens: None })
    }

    fn single(&self, name: &str, source: &GrammarSource) -> Result<GrammarWithLexer, GrammarError> {
        match source {
            GrammarSource::JsonSchema { schema, strict } => {
                schema::check(schema, &self.limits)?;
                let json_schema = Some(with_options(schema, *strict)?);
                Ok(GrammarWithLexer { name: Some(name.to_owned()), json_schema, lark_grammar: None })
            }
            GrammarSource::Regex(pattern) => {
                self.check_length("the pattern's length", pattern.len())?;
                // The whole answer must match anyway, and the parser knows no anchors.
                let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
                let end = pattern.strip_suffix('$').filter(|rest| !rest.ends_with('\\'));
                Ok(lark(name, format!("start: /{}/", regex_to_lark(end.unwrap_or(pattern), "dws"))))
            }
            GrammarSource::Choice(texts) => {
                self.check_length("the choices' length", texts.iter().map(|text| text.len() + 4).sum())?;
                if texts.is_empty() || texts.iter().any(String::is_empty) {
                    return Err(invalid("a choice needs at least one text and no empty one"));
                }
                let quoted: Vec<String> =
                    texts.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
                Ok(lark(name, format!("start: {}", quoted.join(" | "))))
            }
            GrammarSource::Lark(text) => {
                self.check_length("the grammar's length", text.len())?;
                // A schema inside would escape the checks of a schema.
                if text.contains("%json") {
                    return Err(invalid(
                        "%json is not supported in a grammar: ask for a JSON schema instead",
                    ));
                }
                Ok(lark(name, text.clone()))
            }
            GrammarSource::Composed { .. } => Err(invalid("a composed grammar cannot be part of another")),
        }
    }

    fn check_length(&self, what: &'static str, bytes: usize) -> Result<(), GrammarError> {
        within(what, bytes as u64, self.limits.max_source_bytes as u64)
    }
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").field("limits", &self.limits).finish_non_exhaustive()
    }
}

fn lark(name: &str, text: String) -> GrammarWithLexer {
    GrammarWithLexer { name: Some(name.to_owned()), lark_grammar: Some(text), json_schema: None }
}

/// The schema with our way of compiling it; what a caller wrote there is replaced.
fn with_options(schema: &Value, strict: bool) -> Result<Value, GrammarError> {
    let options = JsonCompileOptions {
        whitespace_pattern: Some(JSON_SPACE.to_owned()),
        coerce_one_of: !strict,
        lenient: !strict,
        ..JsonCompileOptions::default()
    };
    let mut schema = match schema {
        Value::Object(_) => schema.clone(),
        Value::Bool(true) => Value::Object(serde_json::Map::new()),
        Value::Bool(false) => return Err(invalid("the schema false allows nothing")),
        _ => return Err(invalid("a schema is an object or a boolean")),
    };
    options.apply_to(&mut schema);
    Ok(schema)
}

fn within(what: &'static str, value: u64, limit: u64) -> Result<(), GrammarError> {
    if value > limit { Err(GrammarError::Limit { what, value, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
