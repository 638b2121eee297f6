//! Files that lie: each is refused with a reason, none panics or allocates on a lie's word.

use std::io::Write;

use models::gguf::{GgufError, Header, TensorProblem};
use models::{Card, LoadError, load};
use proptest::prelude::*;

use crate::sample::{
    Sample, array_head, f32_tensor, f32_value, i32s_value, text_value, texts_value, u32_value,
};

fn parse(bytes: &[u8]) -> Result<Header, GgufError> {
    Header::parse(bytes, bytes.len() as u64)
}

/// The error for a small sample that `change` has spoilt.
fn spoilt(change: impl FnOnce(&mut Sample)) -> GgufError {
    let mut sample = Sample::small();
    change(&mut sample);
    parse(&sample.bytes()).unwrap_err()
}

fn problem(change: impl FnOnce(&mut Sample)) -> TensorProblem {
    match spoilt(change) {
        GgufError::Tensor { problem, .. } => problem,
        other => panic!("{other}"),
    }
}

#[test]
fn a_sound_file_is_read_as_it_is() {
    for version in [2, 3] {
        let mut sample = Sample::small();
        sample.version = version;
        let header = parse(&sample.bytes()).unwrap();
        assert_eq!(header.string("general.architecture").unwrap(), Some("llama"));
        assert_eq!(header.integers("a.numbers").unwrap(), [1, -2, 3]);
        assert_eq!(header.strings("a.texts").unwrap().iter().collect::<Vec<_>>(), ["x", "", "yz"]);
        assert_eq!(header.float("a.float").unwrap(), Some(0.5));
        let one = header.tensor("one").unwrap();
        assert_eq!((one.cols(), one.rows(), one.bytes), (4, 3, 48));
        assert!(matches!(header.strings("a.numbers"), Err(GgufError::WrongType { .. })));
        assert!(matches!(header.strings("absent"), Err(GgufError::Missing(_))));
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = Sample::small().bytes();
    for len in 0..bytes.len() {
        assert!(parse(&bytes[..len]).is_err(), "cut at {len}");
        // The length may also be a lie: the file shrinks while it is read.
        let header = Sample::small().header().len();
        if len < header {
            assert!(Header::parse(&bytes[..len], bytes.len() as u64).is_err(), "shrunk to {len}");
        }
    }
}

#[test]
fn counts_and_lengths_that_lie() {
    assert!(matches!(spoilt(|s| s.magic = *b"GGML"), GgufError::Magic { .. }));
    for version in [0, 1, 4, 99, 3u32.swap_bytes()] {
        assert!(matches!(spoilt(|s| s.version = version), GgufError::Version(v) if v == version));
    }
    for count in [1 << 63, u64::MAX, 65_537] {
        assert!(matches!(spoilt(|s| s.tensor_count = Some(count)), GgufError::TooLarge { .. }));
        assert!(matches!(spoilt(|s| s.entry_count = Some(count)), GgufError::TooLarge { .. }));
    }
    assert!(matches!(spoilt(|s| s.entry_count = Some(1 << 32)), GgufError::TooLarge { .. }));
    spoilt(|s| s.tensor_count = Some(65_536));
    spoilt(|s| s.entry_count = Some(65_536));
    let text_of_length = |n: u64| [&8u32.to_le_bytes()[..], &n.to_le_bytes(), b"x"].concat();
    for len in [1 << 63, u64::MAX, (16 << 20) + 1] {
        assert!(matches!(spoilt(|s| s.set("k", text_of_length(len))), GgufError::TooLarge { .. }));
    }
    assert!(matches!(spoilt(|s| s.set("k", text_of_length(16 << 20))), GgufError::Truncated { .. }));
    for element in [0, 4, 8, 12] {
        for len in [1 << 40, 1 << 61, 1 << 63, u64::MAX] {
            assert!(matches!(spoilt(|s| s.set("k", array_head(element, len))), GgufError::Truncated { .. }));
        }
    }
}

#[test]
fn metadata_of_the_wrong_kind() {
    assert!(matches!(spoilt(|s| s.set("k", array_head(9, 1))), GgufError::ValueType { value_type: 9, .. }));
    assert!(matches!(spoilt(|s| s.set("k", array_head(77, 1))), GgufError::ValueType { value_type: 77, .. }));
    assert!(matches!(spoilt(|s| s.set("k", 13u32.to_le_bytes().to_vec())), GgufError::ValueType { .. }));
    let boolean = [&7u32.to_le_bytes()[..], &[2]].concat();
    assert!(matches!(spoilt(|s| s.set("k", boolean)), GgufError::Boolean { value: 2, .. }));
    let not_utf8 = [&8u32.to_le_bytes()[..], &1u64.to_le_bytes(), &[0xFF]].concat();
    assert!(matches!(spoilt(|s| s.set("k", not_utf8)), GgufError::NotUtf8 { .. }));
    assert!(matches!(spoilt(|s| s.set("", u32_value(1))), GgufError::Name { .. }));
    let twice = ("a.float".to_owned(), f32_value(1.0));
    assert!(matches!(spoilt(|s| s.entries.push(twice)), GgufError::Name { .. }));
    for alignment in [0, 3, 48, 1 << 30] {
        let error = spoilt(|s| s.set("general.alignment", u32_value(alignment)));
        assert!(matches!(error, GgufError::Alignment(a) if a == u64::from(alignment)));
    }
    assert!(matches!(spoilt(|s| s.set("general.alignment", text_value("32"))), GgufError::WrongType { .. }));
}

#[test]
fn tensors_that_lie() {
    assert_eq!(problem(|s| s.tensors[0].dims.clear()), TensorProblem::Dimensions(0));
    assert_eq!(problem(|s| s.tensors[0].dims = vec![1; 5]), TensorProblem::Dimensions(5));
    assert_eq!(problem(|s| s.tensors[0].dims = vec![4, 0]), TensorProblem::Size);
    assert_eq!(problem(|s| s.tensors[0].dims = vec![1 << 32, 1 << 32]), TensorProblem::Size);
    assert_eq!(problem(|s| s.tensors[0].dims = vec![1 << 62]), TensorProblem::Size);
    for id in [4, 5, 9, 10, 11, 13, 31, 99, u32::MAX] {
        assert_eq!(problem(|s| s.tensors[0].type_id = id), TensorProblem::Type(id));
    }
    assert_eq!(problem(|s| s.tensors[1].type_id = 3), TensorProblem::Row { cols: 5, block: 32 });
    assert!(matches!(problem(|s| s.tensors[0].offset = 8), TensorProblem::Misaligned { .. }));
    for offset in [1 << 20, 1 << 63, u64::MAX - 31] {
        assert!(matches!(problem(|s| s.tensors[0].offset = offset), TensorProblem::OutOfFile { .. }));
    }
    assert!(matches!(problem(|s| s.tensors[0].dims = vec![1 << 40]), TensorProblem::OutOfFile { .. }));
    assert_eq!(problem(|s| s.tensors[1].offset = 32), TensorProblem::Overlap);
    assert_eq!(problem(|s| s.tensors[1].offset = 0), TensorProblem::Overlap);
    assert!(matches!(spoilt(|s| s.tensors[1].name = "one".into()), GgufError::Name { .. }));
    assert!(matches!(spoilt(|s| s.tensors[1].name = "n".repeat(65)), GgufError::TooLarge { .. }));
}

/// What `load` says to this sample.
fn load_sample(sample: &Sample) -> Result<models::Loaded, LoadError> {
    let mut file = tempfile::Builder::new().prefix("sample").suffix(".gguf").tempfile().unwrap();
    file.write_all(&sample.bytes()).unwrap();
    let card = Card::from_file(file.path()).map_err(|_| LoadError::File(GgufError::Version(0)))?;
    load(file.path(), card, &|_| {})
}

fn refusal(change: impl FnOnce(&mut Sample)) -> String {
    let mut sample = Sample::model();
    change(&mut sample);
    sample.place();
    match load_sample(&sample) {
        Ok(_) => panic!("a spoilt model was loaded"),
        Err(error) => error.to_string(),
    }
}

fn set(key: &'static str, value: Vec<u8>) -> impl FnOnce(&mut Sample) {
    move |s: &mut Sample| s.set(key, value)
}

#[test]
fn a_small_model_loads() {
    let loaded = load_sample(&Sample::model()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(loaded.model.config().head_dim, 8);
    assert_eq!(loaded.tokenizer.eos_ids(), [95]);
    assert_eq!(loaded.tokenizer.encode_text("a <end>").unwrap().len(), 7);
}

#[test]
fn models_that_contradict_themselves() {
    let cases: Vec<(String, &str)> = vec![
        (refusal(set("general.architecture", text_value("mamba"))), "\"mamba\" is not supported"),
        (refusal(|s| s.remove("general.architecture")), "missing"),
        (refusal(set("llama.attention.head_count", u32_value(0))), "expected 1 to"),
        (refusal(set("llama.attention.head_count", u32_value(3))), "a divisor"),
        (refusal(set("llama.attention.head_count_kv", u32_value(5))), "expected 1 to 2"),
        (refusal(set("llama.embedding_length", u32_value(32))), "expected [32, 96]"),
        (refusal(set("llama.vocab_size", u32_value(7))), "the embedding's 96 rows"),
        (refusal(set("llama.block_count", u32_value(2))), "\"blk.1.attn_norm.weight\" is missing"),
        (refusal(set("llama.context_length", u32_value(u32::MAX))), "context_length"),
        (refusal(set("llama.expert_count", u32_value(8))), "expert_count = 8 is not supported"),
        (refusal(set("llama.rope.scaling.type", text_value("yarn"))), "yarn"),
        (refusal(set("llama.rope.freq_base", f32_value(f32::NAN))), "freq_base"),
        (refusal(|s| s.tensors.push(f32_tensor("blk.0.attn_q.bias", &[16]))), "attn_q.bias"),
        (refusal(|s| s.tensors[1].data[..4].copy_from_slice(&f32::NAN.to_le_bytes())), "not finite"),
        (refusal(|s| s.remove("tokenizer.ggml.model")), "tokenizer.ggml.model"),
        (refusal(set("tokenizer.ggml.model", text_value("bert"))), "\"bert\" is not supported"),
        (refusal(set("tokenizer.ggml.model", text_value("llama"))), "tokenizer.ggml.scores\" is missing"),
        (refusal(set("tokenizer.ggml.pre", text_value("odd"))), "\"odd\" is not supported"),
        (refusal(|s| s.remove("tokenizer.ggml.tokens")), "missing"),
        (refusal(set("tokenizer.ggml.tokens", texts_value(&["a"]))), "96 entries, expected 1"),
        (refusal(set("tokenizer.ggml.token_type", i32s_value(&[1]))), "1 entries, expected 96"),
        (refusal(set("tokenizer.ggml.merges", texts_value(&["ab"]))), "merge 0"),
        (refusal(set("tokenizer.ggml.merges", texts_value(&["a b"]))), "merge 0"),
        (refusal(set("tokenizer.ggml.eos_token_id", u32_value(96))), "eos_token_id is 96"),
        (refusal(|s| s.remove("tokenizer.ggml.eos_token_id")), "no end-of-text token"),
        (refusal(set("tokenizer.chat_template", text_value("{% for %}"))), "chat template is invalid"),
        (refusal(set("tokenizer.chat_template", text_value("{% include 'x' %}"))), "chat template"),
        (
            refusal(set(
                "tokenizer.chat_template",
                text_value("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
            )),
            "instructions",
        ),
    ];
    for (message, part) in cases {
        assert!(message.contains(part), "{message:?} does not name {part:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Any bytes changed, any cut: an error or a header whose tensors lie inside the file. The limits hold for
    /// what is kept: no more than the file itself has.
    #[test]
    fn mutations_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        model in any::<bool>(),
    ) {
        let sample = if model { Sample::model() } else { Sample::small() };
        let mut bytes = sample.bytes();
        let header = sample.header().len();
        for (at, value) in changes {
            bytes[at.index(header)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(header) = parse(&bytes) {
            for tensor in &header.tensors {
                prop_assert!(tensor.offset + tensor.bytes as u64 <= bytes.len() as u64);
            }
            let _ = models::ModelConfig::from_header(&header);
            let _ = models::Tokenizer::from_header(&header);
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
        let with_magic = [&b"GGUF\x03\0\0\0"[..], &bytes].concat();
        let _ = parse(&with_magic);
    }
}
