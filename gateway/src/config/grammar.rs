//! Bounds on the schemas, patterns and grammars that callers may ask to be held to.

use engine::GrammarLimits;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::sections::{Bound, section};

section! {
    /// Schemas, patterns and grammars of callers. What exceeds a bound is refused with `invalid_schema`.
    GrammarSection, "grammar",
    numbers {
        /// A schema, regular expression or grammar as text; published schemas of large interfaces stay below 200 KB.
        max_source_bytes: usize = 262_144, 256, 16_777_216, "bytes";
        /// Nesting of a schema, references included; compiling recurses, on a stack that is made for this.
        max_depth: usize = 64, 4, 256, "levels";
        /// Subschemas, properties and enum values together; each becomes a symbol or a piece of the lexer.
        max_schema_nodes: usize = 10_000, 16, 1_000_000, "nodes";
        /// Subschemas after unions beside other keywords are multiplied out; the guard against schema bombs.
        max_schema_work: u64 = 200_000, 16, 10_000_000, "nodes";
        /// Patterns and formats of one schema; each may take a millisecond to compile.
        max_patterns: usize = 256, 1, 10_000, "patterns";
        /// How long a caller waits for its grammar, the wait for a thread included.
        compile_ms: u64 = 2_000, 10, 60_000, "ms";
        /// Threads that compile, for each model. One that has a slow grammar is lost to the others until that is done.
        workers: usize = 2, 1, 64, "threads";
        /// Grammars that wait or are compiled, those included whose caller has waited long enough; more are told to come
        /// back.
        max_compiling: usize = 8, 1, 1024, "grammars";
        /// Lexer states of one sequence, about 2 KB each: what a hostile pattern may take while it decodes.
        max_lexer_states: usize = 20_000, 100, 1_000_000, "states";
        /// Symbols of a compiled grammar; the largest published schemas take 200,000.
        max_grammar_size: usize = 250_000, 1_000, 10_000_000, "symbols";
    }
    others {}
}

impl GrammarSection {
    /// The same for the engine.
    pub fn limits(&self) -> GrammarLimits {
        GrammarLimits {
            max_source_bytes: self.max_source_bytes,
            max_depth: self.max_depth,
            max_schema_nodes: self.max_schema_nodes,
            max_schema_work: self.max_schema_work,
            max_patterns: self.max_patterns,
            compile_ms: self.compile_ms,
            workers: self.workers,
            max_compiling: self.max_compiling,
            max_lexer_states: self.max_lexer_states,
            max_grammar_size: self.max_grammar_size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_engines() {
        assert_eq!(GrammarSection::default().limits(), GrammarLimits::default());
    }
}
