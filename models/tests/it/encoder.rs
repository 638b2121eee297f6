//! Embedders and cross-encoders: golden vectors of the demo embedder, a tiny cross-encoder against plain loops, bad files.

mod plain;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use models::fetch::ensure_test_embedder;
use models::{Card, EncoderInput, LoadedEncoder, ModelKind, Sequences, load_encoder};
use proptest::prelude::*;
use serde_json::{Value, json};

use plain::Tiny;

/// Token ids and vectors written by `tests/golden/minilm.py`, which shares no code with this project.
const GOLDEN: &str = include_str!("../golden/minilm.json");

fn demo() -> LoadedEncoder {
    let card = models::card("all-minilm-l6-v2").unwrap();
    load_encoder(&ensure_test_embedder(), card).unwrap_or_else(|e| panic!("{e}"))
}

fn encode(model: &LoadedEncoder, inputs: &[EncoderInput]) -> Vec<Vec<f32>> {
    let mut sequences = Sequences::new();
    inputs.iter().for_each(|input| sequences.push(input));
    model.encoder.encode(&sequences).unwrap_or_else(|e| panic!("{e}"))
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Little-endian f32 values in base64 without line breaks.
fn decoded(text: &str) -> Vec<f32> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => u32::from(c - b'A'),
        b'a'..=b'z' => u32::from(c - b'a') + 26,
        b'0'..=b'9' => u32::from(c - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let (bytes, _) = text.as_bytes().as_chunks::<4>();
    let bytes: Vec<u8> = bytes
        .iter()
        .flat_map(|c| {
            let bits = c.iter().fold(0, |bits, c| bits << 6 | if *c == b'=' { 0 } else { digit(*c) });
            bits.to_be_bytes()[1..].to_vec()
        })
        .collect();
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn the_demo_embedder_agrees_with_an_independent_implementation() {
    let model = demo();
    let cases: Vec<Value> = serde_json::from_str(GOLDEN).unwrap();
    assert!(cases.len() >= 10);
    let inputs: Vec<EncoderInput> = cases
        .iter()
        .map(|case| {
            let input = model.tokenizer.encode(case["text"].as_str().unwrap()).unwrap();
            assert_eq!(json!(input.tokens), case["tokens"], "{}", case["text"]);
            input
        })
        .collect();
    let vectors = encode(&model, &inputs);
    for ((case, vector), input) in cases.iter().zip(&vectors).zip(&inputs) {
        let expected = decoded(case["vector"].as_str().unwrap());
        let found = cosine(vector, &expected);
        assert!(found >= 0.99999, "cosine {found} for {}", case["text"]);
        let length: f64 = vector.iter().map(|v| f64::from(*v).powi(2)).sum();
        assert!((length - 1.0).abs() < 1e-6, "length {length}");
        // What else is in the batch does not show.
        assert_eq!(&encode(&model, std::slice::from_ref(input))[0], vector);
    }
    // The figures that the authors' own library prints in its introduction, to the digits it prints.
    for (a, b, published) in [(0, 1, 0.6660), (0, 2, 0.1046), (1, 2, 0.1411)] {
        let found = cosine(&vectors[a], &vectors[b]);
        assert!((found - published).abs() < 5e-5, "{a} and {b}: {found}, published {published}");
    }
}

#[test]
fn texts_are_taken_whole_and_never_become_control_tokens() {
    let model = demo();
    let words = |count: usize| model.tokenizer.encode(&"word ".repeat(count)).unwrap().tokens.len();
    // The file asks for truncation and padding to 128.
    assert_eq!((words(1), words(300)), (3, 302));
    let ids = model.tokenizer.encode("[CLS] [SEP] [MASK] [PAD] [UNK]").unwrap().tokens;
    assert!(ids[1..ids.len() - 1].iter().all(|id| ![0, 100, 101, 102, 103].contains(id)), "{ids:?}");
    let pair = model.tokenizer.encode_pair("a", "b c").unwrap();
    assert_eq!(pair.type_ids, [0, 0, 0, 1, 1, 1]);
    assert_eq!(model.tokenizer.decode(&ids).unwrap(), "[ cls ] [ sep ] [ mask ] [ pad ] [ unk ]");
    assert_eq!((model.tokenizer.vocab_size(), model.tokenizer.around_one()), (30_522, 2));
}

#[test]
fn impossible_batches_are_refused() {
    let model = demo();
    let refused = |tokens: Vec<u32>, type_ids: Vec<u32>, starts: Vec<u32>| {
        model.encoder.encode(&Sequences { token_ids: tokens, type_ids, starts }).unwrap_err().to_string()
    };
    assert!(refused(vec![30_522], vec![0], vec![0, 1]).contains("30522"));
    assert!(refused(vec![1], vec![2], vec![0, 1]).contains("segment 2"));
    assert!(refused(vec![1; 513], vec![0; 513], vec![0, 513]).contains("513 tokens"));
    assert!(refused(vec![1], vec![0], vec![0, 0, 1]).contains("0 tokens"));
    assert!(refused(vec![1, 1], vec![0, 0], vec![0, 1]).contains("end at"));
    assert!(encode(&model, &[]).is_empty());
}

#[test]
fn a_directory_tells_what_its_model_is() {
    let card = Card::from_file(&ensure_test_embedder()).unwrap();
    // The demo's own directory has no sentence-transformers files beside the model.
    assert_eq!(
        (card.id.as_str(), card.kind, card.context_len),
        ("all-minilm-l6-v2", ModelKind::Embedding, Some(512))
    );
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new(1).write(&folder.path().join("Tiny Scorer"), false);
    let put = |name: &str, value: Value| fs::write(path.with_file_name(name), value.to_string()).unwrap();
    put("sentence_bert_config.json", json!({"max_seq_length": 9}));
    put(
        "modules.json",
        json!([{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"}]),
    );
    fs::create_dir(path.with_file_name("1_Pooling")).unwrap();
    let pooling = path.with_file_name("1_Pooling").join("config.json");
    fs::write(&pooling, json!({"pooling_mode_cls_token": true}).to_string()).unwrap();
    let card = Card::from_file(&path).unwrap();
    assert_eq!((card.id.as_str(), card.context_len), ("tiny-scorer", Some(9)));
    let embedding = card.embedding.unwrap();
    assert_eq!((embedding.pooling, embedding.normalize), (models::Pooling::Cls, false));
    fs::write(&pooling, json!({"pooling_mode_max_tokens": true}).to_string()).unwrap();
    assert!(Card::from_file(&path).unwrap_err().to_string().contains("pooling"));
    put("modules.json", json!([{"type": "x.Pooling", "path": "../../etc"}]));
    assert!(Card::from_file(&path).unwrap_err().to_string().contains("../../etc"));
    put("modules.json", json!([{"type": "x.Dense", "path": "2_Dense"}]));
    assert!(Card::from_file(&path).unwrap_err().to_string().contains("x.Dense"));
}

#[test]
fn a_cross_encoder_and_each_pooling_agree_with_plain_loops() {
    for seed in 1..4 {
        let tiny = Tiny::new(seed);
        let folder = tempfile::tempdir().unwrap();
        let path = tiny.write(&folder.path().join("scorer"), true);
        let card = Card::from_file(&path).unwrap();
        assert_eq!(card.kind, ModelKind::Rerank);
        let model = load_encoder(&path, card).unwrap_or_else(|e| panic!("{e}"));
        let input = EncoderInput { tokens: vec![2, 5, 6, 3, 7, 7, 3], type_ids: vec![0, 0, 0, 0, 1, 1, 1] };
        let rows = tiny.rows(&input);
        let found =
            encode(&model, &[EncoderInput { tokens: vec![2, 3], type_ids: Vec::new() }, input.clone()]);
        let expected = tiny.logit(&rows[0]);
        assert_eq!(found[1].len(), 1);
        assert!((f64::from(found[1][0]) - expected).abs() < 1e-4, "seed {seed}: {found:?}, {expected}");

        let path = tiny.write(&folder.path().join("embedder"), false);
        for (pooling, expected) in [
            (models::Pooling::Cls, rows[0].clone()),
            (models::Pooling::Last, rows[rows.len() - 1].clone()),
            (models::Pooling::Mean, plain::mean(&rows)),
        ] {
            let mut card = Card::from_file(&path).unwrap();
            card.embedding =
                Some(models::EmbeddingCard { pooling, normalize: false, ..models::EmbeddingCard::default() });
            let model = load_encoder(&path, card).unwrap_or_else(|e| panic!("{e}"));
            for (a, b) in encode(&model, std::slice::from_ref(&input))[0].iter().zip(&expected) {
                assert!((f64::from(*a) - b).abs() < 1e-4, "{pooling:?}: {a}, {b}");
            }
        }
    }
}

struct Files {
    _folder: tempfile::TempDir,
    path: PathBuf,
    weights: Vec<u8>,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new(9).write(&folder.path().join("m"), false);
    let weights = fs::read(&path).unwrap();
    Files { _folder: folder, path, weights }
});

fn try_load(weights: &[u8]) -> Result<LoadedEncoder, models::EncoderLoadError> {
    let file =
        tempfile::Builder::new().suffix(".safetensors").tempfile_in(FILES.path.parent().unwrap()).unwrap();
    fs::write(file.path(), weights).unwrap();
    load_encoder(file.path(), Card::from_file(&FILES.path).unwrap())
}

#[test]
fn bad_weight_files_are_refused_by_name() {
    let whole = &FILES.weights;
    assert!(try_load(whole).is_ok());
    let refused = |weights: &[u8]| try_load(weights).err().expect("a refusal").to_string();
    for length in [0, 7, 8, 100, whole.len() - 1] {
        refused(&whole[..length]);
    }
    assert!(refused(&[whole.as_slice(), b"x"].concat()).contains("the file at byte"));
    let mut huge = whole.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refused(&huge).contains("limit"));
    let tiny = |change: fn(&mut Tiny)| {
        let mut tiny = Tiny::new(9);
        change(&mut tiny);
        refused(&tiny.file(false))
    };
    assert!(tiny(|t| drop(t.tensors.remove("embeddings.LayerNorm.bias"))).contains("missing"));
    assert!(tiny(|t| drop(t.tensors.insert("extra".into(), (vec![1], vec![0.0])))).contains("extra"));
    assert!(
        tiny(|t| t.tensors.get_mut("embeddings.LayerNorm.bias").unwrap().1[0] = f32::NAN).contains("finite")
    );
    let shape = |t: &mut Tiny| t.tensors.get_mut("embeddings.LayerNorm.bias").unwrap().0 = vec![1, 16];
    assert!(tiny(shape).contains("shape"));
}

#[test]
fn bad_configurations_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = Tiny::new(9).write(&folder.path().join("m"), false);
    let config = path.with_file_name("config.json");
    let good: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    let card = Card::from_file(&path).unwrap();
    for (field, value) in [
        ("model_type", json!("roberta")),
        ("hidden_act", json!("relu")),
        ("position_embedding_type", json!("relative_key")),
        ("hidden_size", json!(0)),
        ("num_hidden_layers", json!(1_000_000)),
        ("num_attention_heads", json!(3)),
        ("vocab_size", json!(5)),
        ("layer_norm_eps", json!(-1.0)),
        ("max_position_embeddings", json!("many")),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        fs::write(&config, bad.to_string()).unwrap();
        assert!(load_encoder(&path, card.clone()).is_err(), "{field}");
    }
    fs::write(&config, good.to_string()).unwrap();
    for (name, text) in [("tokenizer.json", "{}"), ("config.json", "[")] {
        fs::write(path.with_file_name(name), text).unwrap();
        let error = load_encoder(Path::new(&path), card.clone()).err().expect("a refusal").to_string();
        assert!(error.contains(name), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever a few bytes of the header become: refused or loaded, never a panic.
    #[test]
    fn damaged_headers_do_no_harm(changes in prop::collection::vec((0..1_500_usize, any::<u8>()), 1..4)) {
        let mut weights = FILES.weights.clone();
        for (at, byte) in changes {
            weights[at] = byte;
        }
        let _ = try_load(&weights);
    }
}
