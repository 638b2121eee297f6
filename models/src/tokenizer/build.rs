//! From metadata to a [`Tokenizer`].

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Vocab};

use super::bytes::ByteAlphabet;
use super::control::ControlTokens;
use super::{Tokenizer, TokenizerError, pre, sentencepiece};
use crate::dialect::is_visible;
use crate::gguf::{Header, StringArray};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";

/// Names under which models end a turn, besides the one their file declares.
const END_NAMES: [&str; 6] = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "</s>"];

/// How tokens spell bytes, and what tells which pairs merge.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    /// A printable character for each byte; a list of merges.
    ByteLevel,
    /// Plain text and single bytes; scores.
    SentencePiece,
}

/// What the file says a token is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    /// A single byte, for text that no other token spells.
    Byte,
    /// Stands for text that nothing spells.
    Unknown,
    /// No text: it steers the model.
    Control,
    /// Text, but written by templates only.
    UserDefined,
    /// Never produced by text: padding entries.
    Unused,
}

/// The vocabulary as sorted out by kind.
struct Vocabulary {
    kinds: Vec<Kind>,
    words: HashMap<String, u32>,
    special: Vec<(String, u32)>,
    bytes: Vec<u8>,
    starts: Vec<u32>,
    max_token_bytes: usize,
}

pub(super) fn build(header: &Header) -> Result<Tokenizer, TokenizerError> {
    let scheme = match header.string("tokenizer.ggml.model")?.unwrap_or_default() {
        "gpt2" => Scheme::ByteLevel,
        "llama" => Scheme::SentencePiece,
        other => return Err(TokenizerError::Model(other.to_owned())),
    };
    let tokens = header.strings(TOKENS)?;
    let vocabulary = Vocabulary::read(tokens, kinds(header, tokens, scheme)?, scheme)?;
    let encoder = match scheme {
        Scheme::ByteLevel => byte_level(header, tokens, &vocabulary)?,
        Scheme::SentencePiece => scored(header, tokens, &vocabulary)?,
    };
    let special_id = |key| special_id(header, key, tokens.len());
    let bos_id = special_id("tokenizer.ggml.bos_token_id")?;
    let eos_id = special_id("tokenizer.ggml.eos_token_id")?;
    let eot_id = special_id("tokenizer.ggml.eot_token_id")?;
    let named = vocabulary.special.iter().filter(|(text, _)| END_NAMES.contains(&text.as_str()));
    let mut eos_ids: Vec<u32> = named.map(|(_, id)| *id).chain(eos_id).chain(eot_id).collect();
    eos_ids.sort_unstable();
    eos_ids.dedup();
    if eos_ids.is_empty() {
        return Err(TokenizerError::NoEnd);
    }
    let text_of =
        |id: Option<u32>| id.and_then(|id| tokens.iter().nth(id as usize)).unwrap_or_default().to_owned();
    // SentencePiece opens a text with a token and a space unless the file says otherwise.
    let opens = scheme == Scheme::SentencePiece;
    Ok(Tokenizer {
        encoder,
        control: ControlTokens::new(vocabulary.special),
        bytes: vocabulary.bytes,
        starts: vocabulary.starts,
        is_control: vocabulary
            .kinds
            .iter()
            .map(|k| matches!(k, Kind::Control | Kind::Unknown | Kind::Unused))
            .collect(),
        eos_ids,
        bos_id,
        adds_bos: header.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(opens),
        adds_space: opens && header.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
        bos_text: text_of(bos_id),
        eos_text: text_of(eos_id),
        max_token_bytes: vocabulary.max_token_bytes,
    })
}

fn byte_level(
    header: &Header,
    tokens: &StringArray,
    vocabulary: &Vocabulary,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let (pre_tokenizer, whole_words) =
        pre::pre_tokenizer(header.string("tokenizer.ggml.pre")?.unwrap_or("default"))?;
    let merges = merges(header.strings(MERGES)?, vocabulary, tokens)?;
    let words: Vocab = vocabulary.words.iter().map(|(text, id)| (text.clone(), *id)).collect();
    let bpe = BPE::builder()
        .vocab_and_merges(words, merges)
        .ignore_merges(whole_words)
        .build()
        .map_err(|e| TokenizerError::Build(e.to_string()))?;
    let mut encoder = tokenizers::Tokenizer::new(bpe);
    encoder.with_pre_tokenizer(Some(pre_tokenizer));
    Ok(encoder)
}

fn scored(
    header: &Header,
    tokens: &StringArray,
    vocabulary: &Vocabulary,
) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let scores = header.floats(SCORES)?;
    has_length(SCORES, scores.len(), tokens)?;
    let (mut pieces, mut bytes, mut unknown) = (Vec::new(), Vec::new(), None);
    for (((text, kind), score), id) in tokens.iter().zip(&vocabulary.kinds).zip(scores).zip(0..) {
        match kind {
            Kind::Normal => pieces.push((text, id, score)),
            Kind::Byte => bytes.push((text, id)),
            Kind::Unknown => unknown = Some((text, id)),
            Kind::Control | Kind::UserDefined | Kind::Unused => {}
        }
    }
    sentencepiece::encoder(&pieces, &bytes, unknown)
}

fn has_length(what: &'static str, found: usize, tokens: &StringArray) -> Result<(), TokenizerError> {
    if found == tokens.len() {
        return Ok(());
    }
    Err(TokenizerError::Length { what, found, expected: tokens.len() })
}

fn kinds(header: &Header, tokens: &StringArray, scheme: Scheme) -> Result<Vec<Kind>, TokenizerError> {
    let types = header.integers(TOKEN_TYPE)?;
    has_length(TOKEN_TYPE, types.len(), tokens)?;
    Ok(types
        .into_iter()
        .zip(tokens.iter())
        .map(|(t, text)| match t {
            6 if scheme == Scheme::SentencePiece => Kind::Byte,
            1 | 6 => Kind::Normal,
            2 if scheme == Scheme::SentencePiece => Kind::Unknown,
            // Who reads the output must see what opens a call; templates alone write it all the same.
            3 if is_visible(text) => Kind::UserDefined,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            _ => Kind::Unused,
        })
        .collect())
}

impl Vocabulary {
    fn read(tokens: &StringArray, kinds: Vec<Kind>, scheme: Scheme) -> Result<Self, TokenizerError> {
        let alphabet = ByteAlphabet::new();
        let mut words = HashMap::with_capacity(tokens.len());
        let mut special = Vec::new();
        let mut bytes = Vec::new();
        let mut starts = vec![0];
        let mut max_token_bytes = 1;
        let refuse =
            |id, text: &str, reason| Err(TokenizerError::Token { id, text: text.to_owned(), reason });
        for (id, (text, kind)) in tokens.iter().zip(&kinds).enumerate() {
            let token = u32::try_from(id).expect("a header holds far fewer than 2^32 tokens");
            let start = bytes.len();
            match kind {
                Kind::Normal => {
                    if scheme == Scheme::SentencePiece {
                        sentencepiece::append_text(text, &mut bytes);
                    } else if !alphabet.append(text, &mut bytes) {
                        return refuse(id, text, "it has a character outside the byte-level alphabet");
                    }
                    if text.is_empty() || words.insert(text.to_owned(), token).is_some() {
                        return refuse(id, text, "it is empty or occurs twice");
                    }
                    max_token_bytes = max_token_bytes.max(bytes.len() - start);
                }
                Kind::Control | Kind::UserDefined => {
                    bytes.extend_from_slice(text.as_bytes());
                    special.push((text.to_owned(), token));
                }
                Kind::Byte => match sentencepiece::byte_of(text) {
                    Some(byte) if words.insert(text.to_owned(), token).is_none() => bytes.push(byte),
                    _ => return refuse(id, text, "it is no byte like <0x0A>, or occurs twice"),
                },
                Kind::Unknown | Kind::Unused => bytes.extend_from_slice(text.as_bytes()),
            }
            starts.push(u32::try_from(bytes.len()).expect("a header is far smaller than 4 GiB"));
        }
        Ok(Self { kinds, words, special, bytes, starts, max_token_bytes })
    }
}

/// Merge rules as pairs. Rules that make or use a special token are dropped: text must not become one.
fn merges(
    list: &StringArray,
    vocabulary: &Vocabulary,
    tokens: &StringArray,
) -> Result<Vec<(String, String)>, TokenizerError> {
    let mut merges = Vec::with_capacity(list.len());
    let plain = |text: &str| vocabulary.words.contains_key(text);
    for (index, text) in list.iter().enumerate() {
        let refuse = || TokenizerError::Merge { index, text: text.to_owned() };
        let (left, right) = text.split_once(' ').ok_or_else(refuse)?;
        let whole = format!("{left}{right}");
        if plain(left) && plain(right) && plain(&whole) {
            merges.push((left.to_owned(), right.to_owned()));
        } else if [left, right, &whole].iter().any(|part| !plain(part) && !tokens.iter().any(|t| t == *part))
        {
            return Err(refuse());
        }
    }
    Ok(merges)
}

fn special_id(header: &Header, key: &'static str, vocab: usize) -> Result<Option<u32>, TokenizerError> {
    match header.unsigned(key)? {
        None => Ok(None),
        Some(id) => match u32::try_from(id) {
            Ok(small) if (small as usize) < vocab => Ok(Some(small)),
            _ => Err(TokenizerError::SpecialId { key, id, vocab }),
        },
    }
}
