//! A tiny BERT with seeded weights, and the same network in plain f64 loops.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use models::EncoderInput;
use serde_json::json;

const HIDDEN: usize = 16;
const INNER: usize = 24;
const HEADS: usize = 2;
const LAYERS: usize = 2;
const VOCAB: usize = 8;
const POSITIONS: usize = 12;
const EPS: f64 = 1e-12;

/// Tensors by name: shape and values. The classifier's tensors are kept apart.
pub(super) struct Tiny {
    pub(super) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    classifier: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Tiny {
    pub(super) fn new(seed: u64) -> Self {
        let mut state = seed;
        let mut tensor = |shape: &[usize]| {
            let values = (0..shape.iter().product()).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.7
            });
            (shape.to_vec(), values.collect())
        };
        let mut tensors = BTreeMap::new();
        let mut put = |name: String, shape: &[usize]| drop(tensors.insert(name, tensor(shape)));
        for (table, rows) in [("word", VOCAB), ("position", POSITIONS), ("token_type", 2)] {
            put(format!("embeddings.{table}_embeddings.weight"), &[rows, HIDDEN]);
        }
        let mut layer = |name: String, rows: usize, columns: usize| {
            put(format!("{name}.weight"), &[rows, columns]);
            put(format!("{name}.bias"), &[rows]);
        };
        for i in 0..LAYERS {
            let p = format!("encoder.layer.{i}");
            for part in ["self.query", "self.key", "self.value", "output.dense"] {
                layer(format!("{p}.attention.{part}"), HIDDEN, HIDDEN);
            }
            layer(format!("{p}.intermediate.dense"), INNER, HIDDEN);
            layer(format!("{p}.output.dense"), HIDDEN, INNER);
        }
        layer("pooler.dense".to_owned(), HIDDEN, HIDDEN);
        let norms = (0..LAYERS)
            .flat_map(|i| {
                ["attention.output", "output"].map(|part| format!("encoder.layer.{i}.{part}.LayerNorm"))
            })
            .chain(["embeddings.LayerNorm".to_owned()]);
        for norm in norms {
            put(format!("{norm}.weight"), &[HIDDEN]);
            put(format!("{norm}.bias"), &[HIDDEN]);
        }
        let classifier = BTreeMap::from([
            ("classifier.weight".to_owned(), tensor(&[1, HIDDEN])),
            ("classifier.bias".to_owned(), tensor(&[1])),
        ]);
        Self { tensors, classifier }
    }

    /// The weights as a file; those of a scorer are nested under `bert.`.
    pub(super) fn file(&self, scores: bool) -> Vec<u8> {
        let prefix = if scores { "bert." } else { "" };
        let own = self.tensors.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor));
        let head = self.classifier.iter().filter(|_| scores).map(|(name, tensor)| (name.clone(), tensor));
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        for (name, (shape, values)) in own.chain(head) {
            let start = data.len();
            data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            let info = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
            header.insert(name, info);
        }
        let header = serde_json::Value::Object(header).to_string();
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
    }

    /// Writes a model directory; returns the path of the weights.
    pub(super) fn write(&self, directory: &Path, scores: bool) -> PathBuf {
        fs::create_dir_all(directory).unwrap();
        let mut config = json!({
            "model_type": "bert", "architectures": ["BertModel"], "hidden_size": HIDDEN, "hidden_act": "gelu",
            "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": INNER,
            "vocab_size": VOCAB, "max_position_embeddings": POSITIONS, "type_vocab_size": 2, "layer_norm_eps": EPS,
        });
        if scores {
            config["architectures"] = json!(["BertForSequenceClassification"]);
            config["id2label"] = json!({"0": "LABEL_0"});
        }
        let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"];
        let vocab: serde_json::Map<_, _> =
            tokens.iter().zip(0..).map(|(t, id)| ((*t).to_owned(), json!(id))).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                      "max_input_chars_per_word": 100, "vocab": vocab},
        });
        fs::write(directory.join("config.json"), config.to_string()).unwrap();
        fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let path = directory.join("model.safetensors");
        fs::write(&path, self.file(scores)).unwrap();
        path
    }

    fn values(&self, name: &str) -> Vec<f64> {
        let tensor = self.tensors.get(name).or_else(|| self.classifier.get(name));
        tensor.unwrap_or_else(|| panic!("no {name}")).1.iter().map(|v| f64::from(*v)).collect()
    }

    fn linear(&self, x: &[f64], name: &str) -> Vec<f64> {
        let (weight, bias) = (self.values(&format!("{name}.weight")), self.values(&format!("{name}.bias")));
        let dot = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        weight.chunks(x.len()).zip(bias).map(|(row, b)| dot(row) + b).collect()
    }

    fn norm(&self, x: &[f64], name: &str) -> Vec<f64> {
        let (weight, bias) = (self.values(&format!("{name}.weight")), self.values(&format!("{name}.bias")));
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let scaled = x.iter().map(|v| (v - mean) / (variance + EPS).sqrt());
        scaled.zip(weight.iter().zip(&bias)).map(|(v, (w, b))| v * w + b).collect()
    }

    /// Rows of the last layer.
    pub(super) fn rows(&self, input: &EncoderInput) -> Vec<Vec<f64>> {
        let row = |table: &str, at: usize| {
            self.values(&format!("embeddings.{table}_embeddings.weight"))[at * HIDDEN..][..HIDDEN].to_vec()
        };
        let begin = input.tokens.iter().zip(&input.type_ids).enumerate().map(|(i, (token, ty))| {
            let parts = [row("word", *token as usize), row("position", i), row("token_type", *ty as usize)];
            self.norm(&sum(&sum(&parts[0], &parts[1]), &parts[2]), "embeddings.LayerNorm")
        });
        let mut x: Vec<Vec<f64>> = begin.collect();
        for i in 0..LAYERS {
            let p = format!("encoder.layer.{i}");
            let part = |name: &str| -> Vec<Vec<f64>> {
                x.iter().map(|x| self.linear(x, &format!("{p}.attention.self.{name}"))).collect()
            };
            let (q, k, v) = (part("query"), part("key"), part("value"));
            let seen = (0..x.len()).map(|t| attend(&q[t], &k, &v));
            let after = seen.zip(&x).map(|(seen, x)| {
                let out = self.linear(&seen, &format!("{p}.attention.output.dense"));
                self.norm(&sum(&out, x), &format!("{p}.attention.output.LayerNorm"))
            });
            let after: Vec<Vec<f64>> = after.collect();
            let last = after.iter().map(|x| {
                let inner = self.linear(x, &format!("{p}.intermediate.dense"));
                let inner: Vec<f64> = inner.into_iter().map(gelu).collect();
                self.norm(
                    &sum(&self.linear(&inner, &format!("{p}.output.dense")), x),
                    &format!("{p}.output.LayerNorm"),
                )
            });
            x = last.collect();
        }
        x
    }

    /// A scorer's result from the first row.
    pub(super) fn logit(&self, first: &[f64]) -> f64 {
        let pooled: Vec<f64> = self.linear(first, "pooler.dense").into_iter().map(f64::tanh).collect();
        self.linear(&pooled, "classifier")[0]
    }
}

fn attend(q: &[f64], k: &[Vec<f64>], v: &[Vec<f64>]) -> Vec<f64> {
    let width = HIDDEN / HEADS;
    (0..HEADS)
        .flat_map(|head| {
            let part = head * width..(head + 1) * width;
            let score = |k: &Vec<f64>| {
                let dot: f64 = q[part.clone()].iter().zip(&k[part.clone()]).map(|(q, k)| q * k).sum();
                (dot / (width as f64).sqrt()).exp()
            };
            let weights: Vec<f64> = k.iter().map(score).collect();
            let total: f64 = weights.iter().sum();
            let value = |i: usize| weights.iter().zip(v).map(|(w, v)| w * v[i]).sum::<f64>() / total;
            part.clone().map(value).collect::<Vec<_>>()
        })
        .collect()
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

pub(super) fn mean(rows: &[Vec<f64>]) -> Vec<f64> {
    let total = rows.iter().fold(vec![0.0; HIDDEN], |total, row| sum(&total, row));
    total.into_iter().map(|v| v / rows.len() as f64).collect()
}

/// The error function by Simpson's rule over its own definition: slow, and nothing like the one under test.
fn gelu(x: f64) -> f64 {
    let (end, steps) = (x / std::f64::consts::SQRT_2, 2_000);
    let h = end / f64::from(steps);
    let f = |i: i32| (-(h * f64::from(i)).powi(2)).exp();
    let inner: f64 = (1..steps).map(|i| f(i) * if i % 2 == 0 { 2.0 } else { 4.0 }).sum();
    let erf = std::f64::consts::FRAC_2_SQRT_PI * h / 3.0 * (f(0) + inner + f(steps));
    x / 2.0 * (1.0 + erf)
}
