//! The model's tokens as the parser wants them.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use models::Tokenizer;

/// A trie of the bytes of all tokens that are text. Control tokens have no bytes here, so no grammar can ask for one; the
/// ending ones are allowed by the parser itself where the grammar may stop.
pub(super) struct Vocabulary {
    trie: TokTrie,
}

impl Vocabulary {
    pub(super) fn environment(tokenizer: &Tokenizer) -> TokEnv {
        let size = tokenizer.vocab_size() as u32;
        let eos = tokenizer.eos_ids();
        let text = |id| if tokenizer.is_control(id) { &[][..] } else { tokenizer.token_bytes(id) };
        // The parser keeps 0xFF for tokens that are no text; a lone byte 0xFF is never part of UTF-8 either.
        let word =
            |id| if eos.contains(&id) || text(id).contains(&0xff) { Vec::new() } else { text(id).to_vec() };
        let words: Vec<Vec<u8>> = (0..size).map(word).collect();
        let trie = TokTrie::from(&TokRxInfo::new(size, eos[0]), &words).with_eos_tokens(eos);
        Arc::new(Self { trie })
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, s: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(s)
    }

    /// The model chooses how to spell what the grammar forces.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
