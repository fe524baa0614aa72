//! Hyperparameters as `config.json` wants them, read from metadata.

use super::{ExportError, rope};
use rawrz_gguf::{ShardSet, Value};
use rawrz_residency::MappedSource;
use rawrz_text::Tokenizer;
use serde_json::{Value as Json, json};

/// The architectures whose Hugging Face form is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arch {
    Llama,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    Gemma3,
}

impl Arch {
    fn of(name: &str) -> Option<Arch> {
        Some(match name {
            "llama" => Arch::Llama,
            "qwen2" => Arch::Qwen2,
            "qwen3" => Arch::Qwen3,
            "qwen3moe" => Arch::Qwen3Moe,
            "gemma3" => Arch::Gemma3,
            _ => return None,
        })
    }

    /// The class that runs it, and `model_type`.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Arch::Llama => ("LlamaForCausalLM", "llama"),
            Arch::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
            Arch::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
            Arch::Qwen3Moe => ("Qwen3MoeForCausalLM", "qwen3_moe"),
            Arch::Gemma3 => ("Gemma3ForCausalLM", "gemma3_text"),
        }
    }
}

/// Most layers and experts; far above any real model, so that names made from them are few.
const MAX_LAYERS: u64 = 512;
const MAX_EXPERTS: u64 = 1 << 10;

/// Every sixth layer of Gemma 3 sees everything, unless the file says otherwise.
const GEMMA3_PATTERN: usize = 6;
/// Rotation base of the local layers of Gemma 3, unless the file says otherwise.
const GEMMA3_LOCAL_BASE: f32 = 10_000.0;
/// The 27B of Gemma 3 divides scores by its width per head, not by the length of a head; only its depth tells it.
const LAYERS_OF_GEMMA3_27B: u64 = 62;

/// What a model is made of. Lengths count elements.
#[derive(Debug)]
pub(super) struct Hyper {
    pub(super) arch: Arch,
    pub(super) n_layers: u64,
    pub(super) dim: u64,
    pub(super) ffn_dim: u64,
    pub(super) n_heads: u64,
    pub(super) n_kv_heads: u64,
    pub(super) head_dim: u64,
    /// 0 for none.
    pub(super) n_experts: u64,
    pub(super) vocab_len: u64,
    pub(super) context_len: u64,
    pub(super) is_tied: bool,
    pub(super) has_attention_bias: bool,
    pub(super) has_mlp_bias: bool,
}

/// Keys of one architecture.
pub(super) struct Keys<'a> {
    pub(super) shards: &'a ShardSet,
    prefix: &'a str,
}

impl<'a> Keys<'a> {
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn bad(&self, key: &str, problem: impl Into<String>) -> ExportError {
        ExportError::BadValue { key: self.name(key), problem: problem.into() }
    }

    fn get(&self, key: &str) -> Option<Value<'a>> {
        self.shards.first().get(&self.name(key))
    }

    /// An integer from 1 to 2^32 - 1, or one that is the same for each layer.
    pub(super) fn count(&self, key: &str) -> Result<Option<u64>, ExportError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = match value {
            Value::Array(array) => {
                let mut values = array.integers().ok_or_else(|| self.bad(key, "not an array of integers"))?;
                let first = values.next().ok_or_else(|| self.bad(key, "an empty array"))?;
                if values.any(|value| value != first) {
                    let what = format!("a value of its own for each layer (metadata key {})", self.name(key));
                    return Err(ExportError::Unsupported { what });
                }
                Some(first)
            }
            value => value.as_integer(),
        };
        let number = number.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
        number.map(|number| Some(number.into())).ok_or_else(|| self.bad(key, "not a positive 32-bit integer"))
    }

    fn required(&self, key: &str) -> Result<u64, ExportError> {
        self.count(key)?.ok_or_else(|| ExportError::MissingKey { key: self.name(key) })
    }

    pub(super) fn f32(&self, key: &str) -> Result<Option<f32>, ExportError> {
        match self.shards.first().get_f32(&self.name(key))? {
            Some(value) if !value.is_finite() => {
                Err(self.bad(key, format!("{value} is not a finite number")))
            }
            value => Ok(value),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ExportError> {
        Ok(self.shards.first().get_str(&self.name(key))?)
    }
}

/// The shortest decimal that is this number, not the digits of its neighbourhood in f64.
pub(super) fn decimal(number: f32) -> Json {
    number.to_string().parse::<f64>().map_or(Json::Null, Json::from)
}

/// Reads the model's hyperparameters and what `config.json` says.
pub(super) fn read(
    shards: &ShardSet,
    source: &MappedSource,
    tokenizer: &Tokenizer,
    dtype: &str,
) -> Result<(Hyper, Json), ExportError> {
    const ARCH: &str = "general.architecture";
    let prefix =
        shards.first().get_str(ARCH)?.ok_or_else(|| ExportError::MissingKey { key: ARCH.to_owned() })?;
    let arch = Arch::of(prefix)
        .ok_or_else(|| ExportError::Unsupported { what: format!("the architecture {prefix:?}") })?;
    let keys = Keys { shards, prefix };
    let hyper = hyper(arch, &keys)?;
    let mut config = json!({
        "architectures": [arch.names().0],
        "model_type": arch.names().1,
        "dtype": dtype,
        "torch_dtype": dtype,
        "vocab_size": hyper.vocab_len,
        "hidden_size": hyper.dim,
        "intermediate_size": hyper.ffn_dim,
        "num_hidden_layers": hyper.n_layers,
        "num_attention_heads": hyper.n_heads,
        "num_key_value_heads": hyper.n_kv_heads,
        "head_dim": hyper.head_dim,
        "max_position_embeddings": hyper.context_len,
        "tie_word_embeddings": hyper.is_tied,
        "use_cache": true,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.special_tokens().bos,
        "eos_token_id": tokenizer.special_tokens().eos,
        "pad_token_id": tokenizer.special_tokens().pad,
    });
    let key = "attention.layer_norm_rms_epsilon";
    let eps = keys.f32(key)?.ok_or_else(|| ExportError::MissingKey { key: keys.name(key) })?;
    config["rms_norm_eps"] = decimal(eps);
    config["rope_theta"] = decimal(keys.f32("rope.freq_base")?.unwrap_or(10_000.0));
    config["rope_scaling"] = rope::scaling(&keys, &hyper, source)?;
    match arch {
        Arch::Llama => {
            config["hidden_act"] = "silu".into();
            config["attention_bias"] = hyper.has_attention_bias.into();
            config["mlp_bias"] = hyper.has_mlp_bias.into();
        }
        Arch::Qwen2 => {
            config["hidden_act"] = "silu".into();
            config["use_sliding_window"] = false.into();
        }
        Arch::Qwen3 | Arch::Qwen3Moe => {
            config["hidden_act"] = "silu".into();
            config["use_sliding_window"] = false.into();
            config["attention_bias"] = hyper.has_attention_bias.into();
        }
        Arch::Gemma3 => gemma3(&keys, &hyper, &mut config)?,
    }
    if arch == Arch::Qwen3Moe {
        config["num_experts"] = hyper.n_experts.into();
        config["num_experts_per_tok"] = keys.required("expert_used_count")?.into();
        config["moe_intermediate_size"] = hyper.ffn_dim.into();
        config["norm_topk_prob"] = true.into();
        config["decoder_sparse_step"] = 1.into();
        config["mlp_only_layers"] = json!([]);
    }
    Ok((hyper, config))
}

fn hyper(arch: Arch, keys: &Keys<'_>) -> Result<Hyper, ExportError> {
    let limited = |key: &str, count: u64, limit: u64| match count <= limit {
        true => Ok(count),
        false => Err(keys.bad(key, format!("{count} is more than {limit}"))),
    };
    let is_moe = arch == Arch::Qwen3Moe;
    let n_experts = keys.get("expert_count").and_then(|value| value.as_integer()).unwrap_or(0);
    if !is_moe && n_experts != 0 {
        let what = format!("a mixture of experts in the architecture {}", keys.prefix);
        return Err(ExportError::Unsupported { what });
    }
    let n_layers = limited("block_count", keys.required("block_count")?, MAX_LAYERS)?;
    let dim = keys.required("embedding_length")?;
    let n_heads = keys.required("attention.head_count")?;
    if matches!(arch, Arch::Llama | Arch::Gemma3) && !dim.is_multiple_of(n_heads) {
        let what =
            format!("{n_heads} heads where the embedding has {dim} elements, which they must divide there");
        return Err(ExportError::Unsupported { what });
    }
    let head_dim = keys.count("attention.key_length")?.unwrap_or(dim / n_heads);
    let value_dim = keys.count("attention.value_length")?.unwrap_or(dim / n_heads);
    if head_dim == 0 || !head_dim.is_multiple_of(2) || value_dim != head_dim {
        return Err(keys.bad("attention.key_length", format!("heads of {head_dim} and {value_dim}")));
    }
    if keys.count("rope.dimension_count")?.is_some_and(|rotated| rotated != head_dim) {
        return Err(ExportError::Unsupported { what: "heads that are rotated in part".to_owned() });
    }
    let embedding = keys.shards.tensor("token_embd.weight");
    let (_, embedding) =
        embedding.ok_or_else(|| ExportError::MissingTensor { name: "token_embd.weight".to_owned() })?;
    let has = |name: &str| keys.shards.tensor(name).is_some();
    Ok(Hyper {
        arch,
        n_layers,
        dim,
        ffn_dim: keys.required(if is_moe { "expert_feed_forward_length" } else { "feed_forward_length" })?,
        n_heads,
        n_kv_heads: keys.count("attention.head_count_kv")?.unwrap_or(n_heads),
        head_dim,
        n_experts: match is_moe {
            true => limited("expert_count", keys.required("expert_count")?, MAX_EXPERTS)?,
            false => 0,
        },
        vocab_len: embedding.dims[1],
        context_len: keys.required("context_length")?,
        is_tied: !has("output.weight"),
        has_attention_bias: has("blk.0.attn_q.bias"),
        has_mlp_bias: has("blk.0.ffn_gate.bias"),
    })
}

fn gemma3(keys: &Keys<'_>, hyper: &Hyper, config: &mut Json) -> Result<(), ExportError> {
    let window = keys.count("attention.sliding_window")?;
    let is_local: Vec<bool> = match (window, keys.get("attention.sliding_window_pattern")) {
        (None, _) => vec![false; hyper.n_layers as usize],
        (Some(_), Some(Value::Array(array))) => {
            let flag = |value: Value<'_>| match value {
                Value::Bool(flag) => Some(flag),
                value => value.as_integer().map(|number| number != 0),
            };
            let flags: Option<Vec<bool>> = array.iter().map(flag).collect();
            flags
                .filter(|flags| flags.len() as u64 == hyper.n_layers)
                .ok_or_else(|| keys.bad("attention.sliding_window_pattern", "not one flag for each layer"))?
        }
        (Some(_), other) => {
            let every = other.and_then(|value| value.as_integer()).map_or(GEMMA3_PATTERN, |n| n as usize);
            (0..hyper.n_layers as usize).map(|layer| every == 0 || layer % every < every - 1).collect()
        }
    };
    let kinds = is_local.iter().map(|local| if *local { "sliding_attention" } else { "full_attention" });
    config["layer_types"] = kinds.collect::<Vec<_>>().into();
    // The class wants a number even where no layer uses it.
    config["sliding_window"] = window.unwrap_or(hyper.context_len).into();
    let local_base = keys.f32("rope.freq_base_swa")?.unwrap_or(GEMMA3_LOCAL_BASE);
    config["rope_local_base_freq"] = decimal(local_base);
    config["query_pre_attn_scalar"] = match hyper.n_layers {
        LAYERS_OF_GEMMA3_27B => (hyper.dim / hyper.n_heads).into(),
        _ => hyper.head_dim.into(),
    };
    config["hidden_activation"] = "gelu_pytorch_tanh".into();
    config["attention_bias"] = false.into();
    config["attn_logit_softcapping"] = Json::Null;
    let cap = keys.f32("final_logit_softcapping")?.filter(|cap| *cap != 0.0);
    config["final_logit_softcapping"] = cap.map_or(Json::Null, decimal);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_as_they_were_meant() {
        assert_eq!(decimal(1e-5).to_string(), "0.00001");
        assert_eq!(decimal(1_000_000.0).to_string(), "1000000.0");
    }
}
