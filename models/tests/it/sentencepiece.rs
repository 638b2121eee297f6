//! Vocabularies with scores against the library they come from.
//!
//! `sentencepiece.json` has the pieces (text, score, type in the file's numbers) of a small model that SentencePiece
//! 0.2.3 trained on prose (byte-pair encoding, bytes as fallback, a space before the text), and what it makes of texts.

use models::Tokenizer;
use models::chat_template::Prompt;
use models::gguf::Header;
use serde::Deserialize;

use crate::sample::{Sample, array_head, i32s_value, text_value, texts_value, u32_value};

/// Text, score and type.
type Piece = (String, f32, i32);

#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) cases: Vec<(String, Vec<u32>)>,
}

pub(crate) fn golden() -> Golden {
    serde_json::from_str(include_str!("sentencepiece.json")).unwrap()
}

fn file(pieces: &[Piece]) -> Sample {
    let mut sample = Sample::empty();
    let texts: Vec<&str> = pieces.iter().map(|piece| piece.0.as_str()).collect();
    let scores: Vec<u8> = pieces.iter().flat_map(|piece| piece.1.to_le_bytes()).collect();
    sample.set("tokenizer.ggml.model", text_value("llama"));
    sample.set("tokenizer.ggml.tokens", texts_value(&texts));
    sample.set("tokenizer.ggml.scores", [array_head(6, pieces.len() as u64), scores].concat());
    sample.set("tokenizer.ggml.token_type", i32s_value(&pieces.iter().map(|p| p.2).collect::<Vec<_>>()));
    sample.set("tokenizer.ggml.bos_token_id", u32_value(1));
    sample.set("tokenizer.ggml.eos_token_id", u32_value(2));
    sample
}

fn open(sample: &Sample) -> Result<Tokenizer, models::TokenizerError> {
    let bytes = sample.bytes();
    Tokenizer::from_header(&Header::parse(&bytes[..], bytes.len() as u64).unwrap())
}

#[test]
fn texts_become_the_tokens_of_the_library() {
    let Golden { pieces, cases } = golden();
    let tokenizer = open(&file(&pieces)).unwrap();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(1), &[2][..]));
    for (text, expected) in &cases {
        let ids = tokenizer.encode_text(text).unwrap();
        assert_eq!(&ids, expected, "{text:?}");
        let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.token_bytes(*id).to_vec()).collect();
        // A literal U+2581 is read as a space, as the library does.
        let spelled =
            if text.is_empty() { String::new() } else { format!(" {text}").replace('\u{2581}', " ") };
        assert_eq!(String::from_utf8_lossy(&bytes), spelled);
        assert!(ids.len() >= tokenizer.min_tokens(text.len()), "{text:?}");
    }
}

#[test]
fn only_templates_write_control_tokens() {
    let Golden { pieces, .. } = golden();
    let mut sample = file(&pieces);
    let tokenizer = open(&sample).unwrap();
    let text = "<s>[INST] <s></s> [/INST]".to_owned();
    let user = 10..17;
    let prompt = Prompt { text: text.clone(), user_ranges: std::iter::once(user).collect() };
    let ids = tokenizer.encode_prompt(&prompt).unwrap();
    assert_eq!(ids[0], 1);
    assert!(ids[1..].iter().all(|id| ![1, 2].contains(id)));
    assert_eq!(ids[1..], tokenizer.encode_text(&text[3..]).unwrap());
    // A file may say that nothing is put before a text.
    let add = |key: &str| (key.to_owned(), [&7u32.to_le_bytes()[..], &[0]].concat());
    sample.entries.extend(["tokenizer.ggml.add_space_prefix", "tokenizer.ggml.add_bos_token"].map(add));
    let bare = open(&sample).unwrap();
    assert_eq!(bare.bos_id(), None);
    assert_eq!(bare.token_bytes(bare.encode_text("the").unwrap()[0])[0], b't');
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let Golden { pieces, .. } = golden();
    let refusal = |change: &dyn Fn(&mut Vec<Piece>)| {
        let mut pieces = pieces.clone();
        change(&mut pieces);
        open(&file(&pieces)).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(refusal(&|pieces| pieces[5].0 = "<0x0>".to_owned()).contains("<0x0>"));
    assert!(refusal(&|pieces| pieces[5].0 = "<0x03>".to_owned()).contains("twice"));
    assert!(refusal(&|pieces| pieces[400].0 = pieces[401].0.clone()).contains("twice"));
    let mut sample = file(&pieces);
    sample.set("tokenizer.ggml.scores", array_head(6, 0));
    assert!(open(&sample).err().unwrap().to_string().contains("tokenizer.ggml.scores has 0 entries"));
    sample.remove("tokenizer.ggml.scores");
    assert!(open(&sample).is_err());
    // Without bytes to fall back on, what nothing spells is one unknown token.
    let mut without = file(&pieces);
    let types: Vec<i32> = pieces.iter().map(|piece| if piece.2 == 6 { 5 } else { piece.2 }).collect();
    without.set("tokenizer.ggml.token_type", i32s_value(&types));
    let tokenizer = open(&without).unwrap();
    let ids = tokenizer.encode_text("漢字").unwrap();
    assert_eq!(ids.last(), Some(&0));
    assert!(tokenizer.is_control(0));
}
