//! SentencePiece vocabularies (`tokenizer.ggml.model` = `"llama"`): Llama 2, Mistral and their like.
//!
//! A piece has a score instead of a place among merge rules, and the pair that makes the piece of the highest score is
//! merged first. That is byte-pair encoding whose rules are the ways to cut each piece in two, ranked by its score.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::Replace;

use super::TokenizerError;

/// What stands for a space inside pieces.
const SPACE: &str = "\u{2581}";

/// Appends the bytes of a piece of text.
pub(super) fn append_text(piece: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(piece.replace(SPACE, " ").as_bytes());
}

/// The byte of a piece like `<0x0A>`, which stands for what no other piece spells.
pub(super) fn byte_of(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    let is_hex = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The encoder of `pieces`: text, id and score of those that text is made of; `bytes` and `unknown` are what remains.
pub(super) fn encoder(
    pieces: &[(&str, u32, f64)],
    bytes: &[(&str, u32)],
    unknown: Option<(&str, u32)>,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let others = bytes.iter().copied().chain(unknown);
    let words: Vocab = pieces
        .iter()
        .map(|(text, id, _)| (*text, *id))
        .chain(others)
        .map(|(t, id)| (t.to_owned(), id))
        .collect();
    let mut builder =
        BPE::builder().vocab_and_merges(words, merges(pieces)).byte_fallback(true).fuse_unk(true);
    if let Some((text, _)) = unknown {
        builder = builder.unk_token(text.to_owned());
    }
    let refused = |error: tokenizers::Error| TokenizerError::Build(error.to_string());
    let mut encoder = tokenizers::Tokenizer::new(builder.build().map_err(refused)?);
    encoder.with_normalizer(Some(Replace::new(" ", SPACE).map_err(refused)?));
    Ok(encoder)
}

/// All ways to make a piece of two others, the highest score first.
fn merges(pieces: &[(&str, u32, f64)]) -> Vec<(String, String)> {
    let known: std::collections::HashSet<&str> = pieces.iter().map(|(text, ..)| *text).collect();
    let mut ranked: Vec<&(&str, u32, f64)> = pieces.iter().collect();
    ranked.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.1.cmp(&b.1)));
    let mut merges = Vec::new();
    for (text, ..) in ranked {
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let made = cuts.filter(|(left, right)| known.contains(left) && known.contains(right));
        merges.extend(made.map(|(left, right)| (left.to_owned(), right.to_owned())));
    }
    merges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_two_digits() {
        assert_eq!([byte_of("<0x0A>"), byte_of("<0xff>")], [Some(10), Some(255)]);
        assert!(
            ["<0x>", "<0x0>", "<0x00A>", "<0xGG>", "0x0A", "<0x+1>"]
                .iter()
                .all(|text| byte_of(text).is_none())
        );
    }

    #[test]
    fn the_highest_score_merges_first() {
        let ids = |pieces: &[(&str, u32, f64)], text: &str| {
            encoder(pieces, &[], None).unwrap().encode_fast(text, false).unwrap().get_ids().to_vec()
        };
        let mut pieces = vec![("a", 0, -3.0), ("b", 1, -3.0), ("ab", 2, -2.0), ("ba", 3, -1.0)];
        assert_eq!(ids(&pieces, "abab"), [0, 3, 1]);
        // Whatever merges is merged, in the end also what has a low score.
        pieces.push(("aba", 4, -4.0));
        assert_eq!(ids(&pieces, "abab"), [4, 1]);
    }
}
