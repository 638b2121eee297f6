//! Writes small GGUF files, well-formed unless told otherwise.

/// A file under construction.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) tensor_count: Option<u64>,
    pub(crate) entry_count: Option<u64>,
    pub(crate) entries: Vec<(String, Vec<u8>)>,
    pub(crate) tensors: Vec<SampleTensor>,
    pub(crate) alignment: u64,
}

/// One tensor: description and data.
#[derive(Clone)]
pub(crate) struct SampleTensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) type_id: u32,
    pub(crate) offset: u64,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn u32_value(n: u32) -> Vec<u8> {
    [4u32.to_le_bytes(), n.to_le_bytes()].concat()
}

pub(crate) fn f32_value(n: f32) -> Vec<u8> {
    [6u32.to_le_bytes(), n.to_le_bytes()].concat()
}

pub(crate) fn text_value(text: &str) -> Vec<u8> {
    [&8u32.to_le_bytes()[..], &string(text)].concat()
}

pub(crate) fn texts_value(texts: &[&str]) -> Vec<u8> {
    let mut out = array_head(8, texts.len() as u64);
    texts.iter().for_each(|t| out.extend(string(t)));
    out
}

pub(crate) fn i32s_value(numbers: &[i32]) -> Vec<u8> {
    let mut out = array_head(5, numbers.len() as u64);
    numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
    out
}

pub(crate) fn array_head(element: u32, len: u64) -> Vec<u8> {
    [&9u32.to_le_bytes()[..], &element.to_le_bytes(), &len.to_le_bytes()].concat()
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

pub(crate) fn f32_tensor(name: &str, dims: &[u64]) -> SampleTensor {
    let n: u64 = dims.iter().product();
    // Small, varied, without a random generator.
    let data = (0..n).flat_map(|i| (((i * 37 % 101) as f32 - 50.0) / 400.0).to_le_bytes()).collect();
    SampleTensor { name: name.to_owned(), dims: dims.to_vec(), type_id: 0, offset: 0, data }
}

impl Sample {
    /// Two tensors and a few entries; no model.
    pub(crate) fn small() -> Self {
        let mut sample = Self::empty();
        sample.set("general.architecture", text_value("llama"));
        sample.set("a.numbers", i32s_value(&[1, -2, 3]));
        sample.set("a.texts", texts_value(&["x", "", "yz"]));
        sample.set("a.float", f32_value(0.5));
        sample.tensors = vec![f32_tensor("one", &[4, 3]), f32_tensor("two", &[5])];
        sample.place();
        sample
    }

    pub(crate) fn empty() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
        }
    }

    /// A complete Llama of one block over bytes as words, plus `<end>` as its only control token.
    pub(crate) fn model() -> Self {
        let mut sample = Self::empty();
        let words: Vec<String> = ('!'..='~').map(String::from).chain(["Ġ".into(), "<end>".into()]).collect();
        let texts: Vec<&str> = words.iter().map(String::as_str).collect();
        let vocab = texts.len() as u64;
        sample.set("general.architecture", text_value("llama"));
        for (key, n) in [
            ("embedding_length", 16),
            ("block_count", 1),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("feed_forward_length", 24),
            ("context_length", 64),
        ] {
            sample.set(&format!("llama.{key}"), u32_value(n));
        }
        sample.set("llama.attention.layer_norm_rms_epsilon", f32_value(1e-5));
        sample.set("tokenizer.ggml.model", text_value("gpt2"));
        sample.set("tokenizer.ggml.pre", text_value("gpt-2"));
        sample.set("tokenizer.ggml.tokens", texts_value(&texts));
        let mut types = vec![1; texts.len()];
        types[texts.len() - 1] = 3;
        sample.set("tokenizer.ggml.token_type", i32s_value(&types));
        sample.set("tokenizer.ggml.merges", texts_value(&[]));
        sample.set("tokenizer.ggml.eos_token_id", u32_value(texts.len() as u32 - 1));
        sample.set("tokenizer.chat_template", text_value("{{ messages[0].content }}<end>"));
        sample.tensors = vec![
            f32_tensor("token_embd.weight", &[16, vocab]),
            f32_tensor("output_norm.weight", &[16]),
            f32_tensor("blk.0.attn_norm.weight", &[16]),
            f32_tensor("blk.0.attn_q.weight", &[16, 16]),
            f32_tensor("blk.0.attn_k.weight", &[16, 8]),
            f32_tensor("blk.0.attn_v.weight", &[16, 8]),
            f32_tensor("blk.0.attn_output.weight", &[16, 16]),
            f32_tensor("blk.0.ffn_norm.weight", &[16]),
            f32_tensor("blk.0.ffn_gate.weight", &[16, 24]),
            f32_tensor("blk.0.ffn_up.weight", &[16, 24]),
            f32_tensor("blk.0.ffn_down.weight", &[24, 16]),
        ];
        sample.place();
        sample
    }

    pub(crate) fn set(&mut self, key: &str, value: Vec<u8>) {
        match self.entries.iter_mut().find(|(k, _)| k == key) {
            Some(entry) => entry.1 = value,
            None => self.entries.push((key.to_owned(), value)),
        }
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.entries.retain(|(k, _)| k != key);
    }

    /// Lays the tensors out one after the other.
    pub(crate) fn place(&mut self) {
        let mut at = 0u64;
        for tensor in &mut self.tensors {
            tensor.offset = at;
            at = (at + tensor.data.len() as u64).next_multiple_of(self.alignment);
        }
    }

    pub(crate) fn header(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            out.extend(string(key));
            out.extend(value);
        }
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(tensor.type_id.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out
    }

    /// Data is written in list order with padding, whatever the offsets say.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
            out.extend(&tensor.data);
        }
        out
    }
}
