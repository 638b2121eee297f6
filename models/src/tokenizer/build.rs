//! From metadata to a [`Tokenizer`].

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, Vocab};

use super::bytes::ByteAlphabet;
use super::control::ControlTokens;
use super::{Tokenizer, TokenizerError, pre};
use crate::dialect::is_visible;
use crate::gguf::{Header, StringArray};

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPE: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// Names under which models end a turn, besides the one their file declares.
const END_NAMES: [&str; 6] = ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "</s>"];

/// What the file says a token is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    /// No text: it steers the model.
    Control,
    /// Text, but written by templates only.
    UserDefined,
    /// Never produced by text: unknown-word and padding entries.
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
    let model = header.string("tokenizer.ggml.model")?.unwrap_or_default();
    if model != "gpt2" {
        return Err(TokenizerError::Model(model.to_owned()));
    }
    let tokens = header.strings(TOKENS)?;
    let vocabulary = Vocabulary::read(tokens, kinds(header, tokens)?)?;
    let (pre_tokenizer, whole_words) =
        pre::pre_tokenizer(header.string("tokenizer.ggml.pre")?.unwrap_or("default"))?;
    let merges = merges(header.strings(MERGES)?, &vocabulary, tokens)?;
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
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.words.into_iter().collect::<Vocab>(), merges)
        .ignore_merges(whole_words)
        .build()
        .map_err(|e| TokenizerError::Build(e.to_string()))?;
    let mut encoder = tokenizers::Tokenizer::new(bpe);
    encoder.with_pre_tokenizer(Some(pre_tokenizer));
    Ok(Tokenizer {
        encoder,
        control: ControlTokens::new(vocabulary.special),
        bytes: vocabulary.bytes,
        starts: vocabulary.starts,
        is_control: vocabulary.kinds.iter().map(|k| matches!(k, Kind::Control | Kind::Unused)).collect(),
        eos_ids,
        bos_id,
        adds_bos: header.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(false),
        bos_text: text_of(bos_id),
        eos_text: text_of(eos_id),
        max_token_bytes: vocabulary.max_token_bytes,
    })
}

fn kinds(header: &Header, tokens: &StringArray) -> Result<Vec<Kind>, TokenizerError> {
    let types = header.integers(TOKEN_TYPE)?;
    if types.len() != tokens.len() {
        return Err(TokenizerError::Length { what: TOKEN_TYPE, found: types.len(), expected: tokens.len() });
    }
    Ok(types
        .into_iter()
        .zip(tokens.iter())
        .map(|(t, text)| match t {
            1 | 6 => Kind::Normal,
            // Who reads the output must see what opens a call; templates alone write it all the same.
            3 if is_visible(text) => Kind::UserDefined,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            _ => Kind::Unused,
        })
        .collect())
}

impl Vocabulary {
    fn read(tokens: &StringArray, kinds: Vec<Kind>) -> Result<Self, TokenizerError> {
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
                    if !alphabet.append(text, &mut bytes) {
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
                Kind::Unused => bytes.extend_from_slice(text.as_bytes()),
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
