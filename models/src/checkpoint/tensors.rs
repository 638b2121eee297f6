//! The tensors of all weights files, under GGUF's names.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use kernels::WeightType;
use safetensors::Dtype;
use serde::Deserialize;

use super::settings::Config;
use super::{CheckpointError, Place, optional, refused};
use crate::gguf::TensorInfo;
use crate::safetensors::TensorFile;

/// Most files of one model; the largest published ones have about 200.
const MAX_FILES: usize = 1_000;

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

type Opened = (Vec<File>, Vec<TensorInfo>, HashMap<String, Place>);

/// Opens the files of `dir`: those that its index names, else `path` alone.
pub(super) fn open(dir: &Path, path: &Path, config: &Config) -> Result<Opened, CheckpointError> {
    let (mut files, mut tensors, mut places) = (Vec::new(), Vec::new(), HashMap::new());
    for (number, path) in paths(dir, path)?.into_iter().enumerate() {
        let file = TensorFile::open(&path)
            .map_err(|error| CheckpointError::Weights { path: path.clone(), error })?;
        for (name, info) in file.tensors() {
            let Some(name) = gguf_name(&name, config) else { continue };
            let ty = match info.dtype {
                Dtype::F32 => WeightType::F32,
                Dtype::F16 => WeightType::F16,
                Dtype::BF16 => WeightType::BF16,
                other => {
                    return Err(refused(
                        "a tensor's type",
                        format!("{other:?}"),
                        "supported are F32, F16 and BF16",
                    ));
                }
            };
            if !(1..=2).contains(&info.shape.len()) || info.shape.contains(&0) {
                return Err(refused(
                    "a tensor's shape",
                    format!("{:?}", info.shape),
                    "a vector or a matrix is expected",
                ));
            }
            let (from, to) = info.data_offsets;
            tensors.push(TensorInfo {
                name: name.clone(),
                dims: info.shape.iter().rev().copied().collect(),
                ty,
                offset: file.data_start() + from as u64,
                bytes: to - from,
            });
            if places.insert(name.clone(), Place::File(number)).is_some() {
                return Err(refused("a tensor's name", name, "it occurs twice"));
            }
        }
        files.push(file.into_file());
    }
    Ok((files, tensors, places))
}

fn paths(dir: &Path, path: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    const INDEX: &str = "model.safetensors.index.json";
    let Some(index) = optional::<Index>(dir, INDEX)? else { return Ok(vec![path.to_owned()]) };
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    // The names are written by the model's author: only a plain one stays inside the directory.
    let is_plain = |name: &&String| Path::new(name).file_name().is_some_and(|plain| plain == name.as_str());
    if let Some(name) = names.iter().find(|name| !is_plain(name)) {
        return Err(refused(
            "a file of model.safetensors.index.json",
            format!("{name:?}"),
            "not a plain name",
        ));
    }
    if names.is_empty() || names.len() > MAX_FILES {
        return Err(refused(
            "the files of model.safetensors.index.json",
            names.len(),
            "1 to 1000 are supported",
        ));
    }
    Ok(names.iter().map(|name| dir.join(name)).collect())
}

/// The name that GGUF has for a tensor; its own where there is none, so that it is refused by it. None: not needed.
fn gguf_name(name: &str, config: &Config) -> Option<String> {
    let short = name.strip_prefix("model.").unwrap_or(name);
    match short {
        "embed_tokens.weight" => return Some("token_embd.weight".to_owned()),
        "norm.weight" => return Some("output_norm.weight".to_owned()),
        // A copy of the embedding.
        "lm_head.weight" if config.tie_word_embeddings == Some(true) => return None,
        "lm_head.weight" => return Some("output.weight".to_owned()),
        _ => {}
    }
    let Some((layer, part)) = short.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) else {
        return Some(name.to_owned());
    };
    let (part, kind) = part.rsplit_once('.').unwrap_or((part, ""));
    let part = match part {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        // A table that follows from the settings.
        "self_attn.rotary_emb" => return None,
        _ => return Some(name.to_owned()),
    };
    Some(format!("blk.{layer}.{part}.{kind}"))
}

/// A vector that no file has.
pub(super) fn made(name: &str, values: &[f32]) -> (TensorInfo, Vec<u8>) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let info = TensorInfo {
        name: name.to_owned(),
        dims: vec![values.len()],
        ty: WeightType::F32,
        offset: 0,
        bytes: bytes.len(),
    };
    (info, bytes)
}
