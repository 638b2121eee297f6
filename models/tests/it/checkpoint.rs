//! Directories as Hugging Face's libraries write them, against GGUF files of the same values.

use std::path::{Path, PathBuf};

use kernels::WeightType;
use models::{Architecture, Card, ChatMessage, Loaded, ModelKind, Pooling, card, load, load_encoder};
use serde_json::{Value, json};

use crate::architectures::logits_of;
use crate::random_llama::{Sizes, llama};
use crate::sample::{Sample, SampleTensor, f32_tensor};
use crate::sentencepiece::golden;

const SIZES: Sizes = Sizes {
    architecture: Architecture::LLAMA,
    hidden: 64,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    inner: 96,
    tied: false,
};

/// A directory under construction.
struct Checkpoint {
    dir: tempfile::TempDir,
    config: Value,
    tokenizer: Value,
}

impl Checkpoint {
    /// The same network as `sample`, in two weights files.
    fn of(sample: &Sample, sizes: &Sizes) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut files, mut map) = ([Vec::new(), Vec::new()], json!({}));
        for (number, tensor) in sample.tensors.iter().enumerate() {
            let name = their_name(&tensor.name);
            map[&name] = json!(file_name(number % 2));
            files[number % 2].push((name, in_their_order(tensor, sizes)));
        }
        for (number, tensors) in files.iter().enumerate() {
            let shape = |tensor: &SampleTensor| tensor.dims.iter().rev().map(|n| *n as usize).collect();
            let views = tensors.iter().map(|(name, tensor)| {
                let view = safetensors::tensor::TensorView::new(
                    safetensors::Dtype::F32,
                    shape(tensor),
                    &tensor.data,
                );
                (name, view.unwrap())
            });
            let bytes = safetensors::serialize(views, None).unwrap();
            std::fs::write(dir.path().join(file_name(number)), bytes).unwrap();
        }
        let index = json!({"metadata": {}, "weight_map": map});
        std::fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        let kind =
            if sizes.architecture == Architecture::LLAMA { "mistral" } else { sizes.architecture.name };
        let architectures = [format!("{kind}ForCausalLM")];
        let config = json!({"architectures": architectures, "model_type": kind, "hidden_size": sizes.hidden,
            "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.kv_heads,
            "head_dim": sizes.head_dim, "intermediate_size": sizes.inner, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "hidden_act": "silu", "tie_word_embeddings": sizes.tied,
            "rope_scaling": null, "sliding_window": 64, "use_sliding_window": kind == "mistral"});
        let words = ('!'..='~').map(String::from).chain(["Ġ".to_owned()]).enumerate();
        let vocab: Value =
            words.map(|(id, word)| (word, json!(id))).collect::<serde_json::Map<_, _>>().into();
        let tokenizer = json!({"model": {"type": "BPE", "vocab": vocab, "merges": []},
            "added_tokens": [{"id": 95, "content": "<end>", "special": true}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}});
        let own = Self { dir, config, tokenizer };
        own.put(
            "tokenizer_config.json",
            &json!({"eos_token": {"content": "<end>"}, "bos_token": null,
            "chat_template": [{"name": "tools", "template": "x"},
                {"name": "default", "template": "{{ messages[0].content }}<end>"}]}),
        );
        own.put(
            "generation_config.json",
            &json!({"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": true}),
        );
        own
    }

    fn put(&self, name: &str, json: &Value) {
        std::fs::write(self.dir.path().join(name), json.to_string()).unwrap();
    }

    fn path(&self) -> PathBuf {
        self.put("config.json", &self.config);
        self.put("tokenizer.json", &self.tokenizer);
        self.dir.path().join(file_name(0))
    }

    fn open(&self) -> Loaded {
        let path = self.path();
        load(&path, Card::from_file(&path).unwrap(), &|_| {}).unwrap_or_else(|e| panic!("{e}"))
    }

    fn refusal(&self) -> String {
        load(&self.path(), demo(), &|_| {}).err().unwrap().to_string()
    }
}

fn demo() -> Card {
    card("smollm2-135m-instruct").unwrap()
}

fn file_name(number: usize) -> String {
    format!("model-0000{}-of-00002.safetensors", number + 1)
}

fn their_name(name: &str) -> String {
    match name {
        "token_embd.weight" => return "model.embed_tokens.weight".to_owned(),
        "output_norm.weight" => return "model.norm.weight".to_owned(),
        "output.weight" => return "lm_head.weight".to_owned(),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).unwrap();
    let (part, kind) = part.rsplit_once('.').unwrap();
    let part = match part {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        other => panic!("{other}"),
    };
    format!("model.layers.{layer}.{part}.{kind}")
}

/// The rows of Llama's q and k in the order before the conversion to GGUF, which makes pairs neighbours.
fn in_their_order(tensor: &SampleTensor, sizes: &Sizes) -> SampleTensor {
    let permuted = ["attn_q.weight", "attn_k.weight"].iter().any(|name| tensor.name.ends_with(name));
    if !permuted || sizes.architecture != Architecture::LLAMA {
        return tensor.clone();
    }
    let (row, half) = (tensor.dims[0] as usize * 4, sizes.head_dim / 2);
    let mut data = tensor.data.clone();
    for (number, bytes) in tensor.data.chunks(row).enumerate() {
        let (head, within) = (number / sizes.head_dim, number % sizes.head_dim);
        let place = head * sizes.head_dim + within % 2 * half + within / 2;
        data[place * row..][..row].copy_from_slice(bytes);
    }
    SampleTensor { data, ..tensor.clone() }
}

fn from_gguf(sample: &Sample) -> Loaded {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), sample.bytes()).unwrap();
    load(file.path(), demo(), &|_| {}).unwrap_or_else(|e| panic!("{e}"))
}

fn assert_same(ours: &Loaded, other: &Loaded, what: &str) {
    let tokens: Vec<u32> = (0..40u32).map(|i| (i * 37 + 11) % 96).collect();
    let chunks = [&tokens[..30], &tokens[30..31], &tokens[31..]];
    for (a, b) in logits_of(ours, &chunks).iter().zip(&logits_of(other, &chunks)) {
        let deviation = (b.iter().map(|x| x * x).sum::<f32>() / b.len() as f32).sqrt();
        let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Sums in another order.
        assert!(worst < 0.002 * deviation, "{what}: {worst} of {deviation}");
    }
}

#[test]
fn a_directory_is_the_model_of_its_gguf_file() {
    for architecture in Architecture::ALL {
        for tied in [true, false] {
            let sizes = Sizes { architecture, tied, ..SIZES };
            let (_, plain) = llama(&sizes, 31, |_| WeightType::F32);
            let (ours, gguf) = (Checkpoint::of(&plain, &sizes).open(), from_gguf(&plain));
            assert_same(&ours, &gguf, architecture.name);
            let text = "Hello, world! <end>";
            assert_eq!(ours.tokenizer.encode_text(text).unwrap(), gguf.tokenizer.encode_text(text).unwrap());
            assert_eq!((ours.tokenizer.eos_ids(), ours.tokenizer.bos_id()), (&[95][..], None));
            let message =
                ChatMessage { role: "user".into(), content: "Hi <end>".into(), ..ChatMessage::default() };
            let prompt = ours.template.render(&[message], true).unwrap();
            assert_eq!(ours.tokenizer.encode_prompt(&prompt).unwrap().last(), Some(&95));
            let sampling = ours.card.sampling;
            assert_eq!(
                (ours.card.kind, sampling.temperature, sampling.top_k),
                (ModelKind::Chat, 0.6, Some(20))
            );
            // Beyond a window not every token would see all before it.
            let context = if architecture == Architecture::LLAMA { 64 } else { 2048 };
            assert_eq!(ours.model.config().context_len, context);
        }
    }
}

#[test]
fn periods_are_stretched_as_llama_3_says() {
    let mut checkpoint = Checkpoint::of(&llama(&SIZES, 32, |_| WeightType::F32).1, &SIZES);
    let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    checkpoint.config["rope_scaling"] = scaling.clone();
    let (_, mut plain) = llama(&SIZES, 32, |_| WeightType::F32);
    // The definition, case by case.
    let factor = |pair: usize| {
        let wavelength = std::f64::consts::TAU * 10_000f64.powf(2.0 * pair as f64 / SIZES.head_dim as f64);
        if wavelength < 64.0 / 4.0 {
            1.0
        } else if wavelength > 64.0 / 1.0 {
            8.0
        } else {
            let smooth = (64.0 / wavelength - 1.0) / (4.0 - 1.0);
            1.0 / ((1.0 - smooth) / 8.0 + smooth)
        }
    };
    let factors: Vec<f32> = (0..SIZES.head_dim / 2).map(|pair| factor(pair) as f32).collect();
    assert!(factors.contains(&1.0) && factors.contains(&8.0) && factors.iter().any(|f| *f > 1.0 && *f < 8.0));
    let mut tensor = f32_tensor("rope_freqs.weight", &[8]);
    tensor.data = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
    plain.tensors.push(tensor);
    plain.place();
    let gguf = from_gguf(&plain);
    assert_same(&checkpoint.open(), &gguf, "rope_scaling");
    // As newer versions write it.
    checkpoint.config["rope_scaling"] = Value::Null;
    checkpoint.config["rope_theta"] = Value::Null;
    checkpoint.config["rope_parameters"] = scaling;
    checkpoint.config["rope_parameters"]["rope_theta"] = json!(10_000.0);
    assert_same(&checkpoint.open(), &gguf, "rope_parameters");
}

#[test]
fn rules_of_merging_are_scores_of_pieces() {
    let golden = golden();
    let sizes = Sizes { tied: true, ..SIZES };
    let (_, plain) = llama(&sizes, 33, |_| WeightType::F32);
    let mut checkpoint = Checkpoint::of(&plain, &sizes);
    // Rows for all words; the network itself is not used.
    let rows = golden.pieces.len() + 4;
    let words = f32_tensor("token_embd.weight", &[64, rows as u64]);
    let mut other = plain.clone();
    *other.tensors.iter_mut().find(|tensor| tensor.name == "token_embd.weight").unwrap() = words;
    checkpoint.dir = Checkpoint::of(&other, &sizes).dir;
    let mut ranked: Vec<_> = golden.pieces.iter().filter(|piece| piece.2 == 1).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let known = |text: &str| ranked.iter().any(|piece| piece.0 == text);
    let mut merges = Vec::new();
    for (piece, ..) in &ranked {
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        merges.extend(cuts.filter(|(left, right)| known(left) && known(right)).map(|(l, r)| json!([l, r])));
    }
    let vocab = golden.pieces.iter().enumerate().map(|(id, piece)| (piece.0.clone(), json!(id)));
    let added = |id: usize| json!({"id": id, "content": golden.pieces[id].0, "special": true});
    checkpoint.tokenizer = json!({"model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>",
            "vocab": Value::Object(vocab.collect()), "merges": merges},
        "added_tokens": [added(0), added(1), added(2)], "pre_tokenizer": null,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}]}});
    checkpoint.put("tokenizer_config.json", &json!({"bos_token": "<s>", "eos_token": "</s>"}));
    let loaded = checkpoint.open();
    assert_eq!((loaded.tokenizer.bos_id(), loaded.tokenizer.eos_ids()), (Some(1), &[2][..]));
    assert_eq!(loaded.tokenizer.vocab_size(), rows);
    for (text, expected) in &golden.cases {
        assert_eq!(&loaded.tokenizer.encode_text(text).unwrap(), expected, "{text:?}");
    }
}

#[test]
fn a_decoder_with_modules_is_an_embedder() {
    let sizes = Sizes { architecture: Architecture::QWEN3, head_dim: 32, tied: true, ..SIZES };
    let (_, plain) = llama(&sizes, 34, |_| WeightType::F32);
    let mut checkpoint = Checkpoint::of(&plain, &sizes);
    let module = |name: &str, path: &str| json!({"type": format!("sentence_transformers.models.{name}"), "path": path});
    let modules =
        [module("Transformer", ""), module("Pooling", "1_Pooling"), module("Normalize", "2_Normalize")];
    checkpoint.put("modules.json", &json!(modules));
    std::fs::create_dir(checkpoint.dir.path().join("1_Pooling")).unwrap();
    checkpoint.put("1_Pooling/config.json", &json!({"pooling_mode_lasttoken": true}));
    checkpoint.tokenizer["post_processor"] = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"},
        {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "<end>", "type_id": 0}}]}]});
    let path = checkpoint.path();
    let card = Card::from_file(&path).unwrap();
    let embedding = card.embedding.clone().unwrap();
    assert_eq!(
        (card.kind, embedding.pooling, embedding.append_eos),
        (ModelKind::Embedding, Pooling::Last, true)
    );
    let model = load_encoder(&path, card).unwrap_or_else(|e| panic!("{e}"));
    let input = model.tokenizer.encode("Hello").unwrap();
    assert_eq!(input.tokens.last(), Some(&95));
    let mut sequences = models::Sequences::new();
    sequences.push(&input);
    let vector = model.encoder.encode(&sequences).unwrap().remove(0);
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let (_, plain) = llama(&SIZES, 35, |_| WeightType::F32);
    let with = |change: &dyn Fn(&mut Checkpoint)| {
        let mut checkpoint = Checkpoint::of(&plain, &SIZES);
        change(&mut checkpoint);
        checkpoint.refusal()
    };
    let config = |key: &'static str, value: Value| with(&move |own| own.config[key] = value.clone());
    let tokenizer = |key: &'static str, value: Value| with(&move |own| own.tokenizer[key] = value.clone());
    let traversal = json!({"weight_map": {"x": "../model.safetensors"}});
    let cases = [
        (config("model_type", json!("gpt_oss")), "model_type is \"gpt_oss\""),
        (config("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})), "rope_type is \"yarn\""),
        (config("rope_scaling", json!({"type": "llama3", "factor": 4.0})), "low_freq_factor"),
        (config("attention_bias", json!(true)), "attention_bias"),
        (config("hidden_act", json!("gelu")), "hidden_act"),
        (config("hidden_size", json!("64")), "config.json"),
        (config("num_attention_heads", json!(0)), "attention.head_count"),
        (config("num_hidden_layers", json!(3)), "blk.2."),
        (config("num_hidden_layers", json!(1)), "\"blk.1."),
        (tokenizer("model", json!({"type": "Unigram", "vocab": {}, "merges": []})), "Unigram"),
        (tokenizer("added_tokens", json!([{"id": 96, "content": "<x>"}])), "96"),
        (tokenizer("pre_tokenizer", json!({"type": "Whitespace"})), "Whitespace"),
        (with(&|own| own.put("model.safetensors.index.json", &traversal)), "not a plain name"),
        (with(&|own| own.put("model.safetensors.index.json", &json!({"weight_map": {}}))), "is 0"),
        (with(&|own| std::fs::write(own.dir.path().join(file_name(1)), b"short").unwrap()), "00002"),
        (
            with(&|own| std::fs::remove_file(own.dir.path().join("tokenizer_config.json")).unwrap()),
            "end-of-text",
        ),
    ];
    for (message, part) in cases {
        assert!(message.contains(part), "{message:?} does not name {part:?}");
    }
    // Nothing is allocated on the word of a header: no row of these exists.
    for shape in [vec![], vec![1 << 50, 0], vec![0, 1 << 40, 1 << 40], vec![1, 1, 64]] {
        let size = if shape.contains(&0) { 0 } else { shape.iter().product::<usize>() * 4 };
        let bytes = vec![0; size];
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), &bytes).unwrap();
        let file = safetensors::serialize([("model.embed_tokens.weight", view)], None).unwrap();
        let refusal = with(&|own| std::fs::write(own.dir.path().join(file_name(0)), &file).unwrap());
        assert!(refusal.contains("a tensor's shape"), "{shape:?}: {refusal}");
    }
    let wide = with(&|own| {
        own.config["head_dim"] = json!(1u64 << 60);
        own.config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
    });
    assert!(wide.contains("head_dim"), "{wide}");
    let twice = with(&|own| own.tokenizer["model"]["vocab"]["xyz"] = json!(7));
    assert!(twice.contains("two words"), "{twice}");
    let missing = load(Path::new("nowhere/model.safetensors"), demo(), &|_| {}).err().unwrap().to_string();
    assert!(missing.contains("nowhere"), "{missing}");
}
