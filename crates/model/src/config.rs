//! Hyperparameters, read from metadata and checked once.

use crate::error::BindError;
use crate::kernels::{KvLayout, KvType};
use crate::rope::RopeScaling;
use rawrz_gguf::{Gguf, Value};

/// Bounds on what a file may claim, far above any real model: they keep all later sizes within 64 bits.
const MAX_LAYERS: u32 = 512;
const MAX_DIM: u32 = 1 << 20;
const MAX_CONTEXT: u32 = 1 << 28;
/// So few that the likeliest of them has more than 6e-5 of the probability: reference implementations do not let the sum
/// that weights are divided by fall below that.
const MAX_EXPERTS: u32 = 1 << 10;

/// Keys of one architecture.
pub(crate) struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'static str,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(gguf: &'a Gguf, architecture: &'static str) -> Keys<'a> {
        Keys { gguf, architecture }
    }

    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn bad(&self, key: &str, problem: impl Into<String>) -> BindError {
        BindError::BadValue { key: self.name(key), problem: problem.into() }
    }

    /// An error when the key is there at all with another value than `false` or 0.
    pub(crate) fn refuse(&self, key: &str, what: &str) -> Result<(), BindError> {
        let name = self.name(key);
        match self.gguf.get(&name) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(value) if value.as_integer() == Some(0) => Ok(()),
            Some(_) => Err(BindError::Unsupported { what: format!("{what} (metadata key {name})") }),
        }
    }

    /// An error when the key is there with an integer that is not one of `known`.
    fn refuse_other(&self, key: &str, known: &[i128], what: &str) -> Result<(), BindError> {
        let name = self.name(key);
        match self.gguf.get(&name) {
            None => Ok(()),
            Some(value) if value.as_integer().is_some_and(|v| known.contains(&v)) => Ok(()),
            Some(_) => Err(BindError::Unsupported { what: format!("{what} (metadata key {name})") }),
        }
    }

    pub(crate) fn f32(&self, key: &str) -> Result<Option<f32>, BindError> {
        let value = self.gguf.get_f32(&self.name(key))?;
        match value {
            Some(v) if !v.is_finite() => Err(self.bad(key, format!("{v} is not a finite number"))),
            value => Ok(value),
        }
    }

    pub(crate) fn bool(&self, key: &str) -> Result<Option<bool>, BindError> {
        Ok(self.gguf.get_bool(&self.name(key))?)
    }

    pub(crate) fn str(&self, key: &str) -> Result<Option<&'a str>, BindError> {
        Ok(self.gguf.get_str(&self.name(key))?)
    }

    /// An integer in `1..=max`, or `None` when the key is missing.
    pub(crate) fn count(&self, key: &str, max: u32) -> Result<Option<usize>, BindError> {
        match self.gguf.get_u32(&self.name(key))? {
            Some(v) if v == 0 || v > max => Err(self.bad(key, format!("{v} is outside 1 to {max}"))),
            value => Ok(value.map(|v| v as usize)),
        }
    }

    fn required_count(&self, key: &str, max: u32) -> Result<usize, BindError> {
        self.count(key, max)?.ok_or_else(|| BindError::MissingKey { key: self.name(key) })
    }

    /// A count that may be given once for each layer; layers that differ are refused.
    fn uniform_count(&self, key: &str, n_layers: usize) -> Result<Option<usize>, BindError> {
        let Some(Value::Array(array)) = self.gguf.get(&self.name(key)) else {
            return self.count(key, MAX_DIM);
        };
        if array.len() != n_layers {
            return Err(self.bad(key, format!("{} values for {n_layers} layers", array.len())));
        }
        let mut values = array.integers().ok_or_else(|| self.bad(key, "not an array of integers"))?;
        let first = values.next().unwrap_or_default();
        if values.any(|v| v != first) {
            let what = format!("a value of its own for each layer (metadata key {})", self.name(key));
            return Err(BindError::Unsupported { what });
        }
        match usize::try_from(first) {
            Ok(v) if (1..=MAX_DIM as usize).contains(&v) => Ok(Some(v)),
            _ => Err(self.bad(key, format!("{first} is outside 1 to {MAX_DIM}"))),
        }
    }

    /// The pattern of layers: `true` where a layer sees only the sliding window. A number n means that every
    /// n-th layer sees everything.
    pub(crate) fn window_pattern(&self, default: usize, n_layers: usize) -> Result<Vec<bool>, BindError> {
        let key = "attention.sliding_window_pattern";
        let every = |n: usize| (0..n_layers).map(|layer| n == 0 || layer % n < n - 1).collect();
        let Some(value) = self.gguf.get(&self.name(key)) else { return Ok(every(default)) };
        let Value::Array(array) = value else {
            let n = self.gguf.get_u32(&self.name(key))?.unwrap_or_default();
            return Ok(every(n as usize));
        };
        let flags = array.iter().map(|value| match value {
            Value::Bool(flag) => Some(flag),
            value => value.as_integer().map(|v| v != 0),
        });
        let flags: Option<Vec<bool>> = flags.collect();
        match flags {
            Some(flags) if flags.len() == n_layers => Ok(flags),
            _ => Err(self.bad(key, format!("not one flag for each of {n_layers} layers"))),
        }
    }
}

/// The experts of each feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub n_experts: usize,
    /// How many of them each token uses.
    pub n_used: usize,
}

impl Experts {
    /// Reads the counts and refuses what is not a softmax router over experts that are alike, with the weights of
    /// those in use made to sum to 1.
    fn read(keys: &Keys<'_>) -> Result<Experts, BindError> {
        keys.refuse("expert_shared_count", "an expert that all tokens share")?;
        keys.refuse("leading_dense_block_count", "dense layers before those with experts")?;
        keys.refuse_other("moe_every_n_layers", &[0, 1], "dense layers between those with experts")?;
        keys.refuse_other("expert_group_count", &[0, 1], "groups of experts")?;
        keys.refuse_other("expert_group_used_count", &[0, 1], "groups of experts")?;
        keys.refuse_other("expert_gating_func", &[0, 1], "a router that is no softmax")?;
        let unsupported = |what: &str, key: &str| BindError::Unsupported {
            what: format!("{what} (metadata key {})", keys.name(key)),
        };
        let key = "expert_weights_scale";
        // 0 is how converters spell "not scaled".
        if keys.f32(key)?.is_some_and(|scale| scale != 1.0 && scale != 0.0) {
            return Err(unsupported("a scale of expert weights", key));
        }
        let key = "expert_weights_norm";
        if keys.bool(key)? == Some(false) {
            return Err(unsupported("expert weights that do not sum to 1", key));
        }
        let n_experts = keys.required_count("expert_count", MAX_EXPERTS)?;
        let n_used = keys.required_count("expert_used_count", MAX_EXPERTS)?;
        if n_used > n_experts {
            return Err(keys.bad("expert_used_count", format!("{n_used} of {n_experts} experts are used")));
        }
        Ok(Experts { n_experts, n_used })
    }
}

/// What every transformer of this crate has. Lengths count elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Transformer layers.
    pub n_layers: usize,
    /// Length of the residual stream.
    pub dim: usize,
    /// Length of the hidden layer of a feed-forward block, or of one expert.
    pub ffn_dim: usize,
    /// Of models whose feed-forward blocks are mixtures of experts.
    pub experts: Option<Experts>,
    /// Query heads.
    pub n_heads: usize,
    /// Key-value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Length of a query or key head.
    pub head_dim: usize,
    /// Length of a value head.
    pub value_dim: usize,
    /// Entries of the vocabulary.
    pub vocab_len: usize,
    /// Added under the root of RMS norms.
    pub rms_eps: f32,
    /// Positions the model was trained for.
    pub context_len: usize,
    /// Elements of a head that are rotated; even.
    pub rope_dim: usize,
    /// Base of the rotation angles.
    pub rope_base: f32,
    /// How angles are stretched for longer contexts.
    pub rope_scaling: RopeScaling,
}

impl Config {
    /// Reads the keys of a model whose feed-forward blocks are mixtures of experts, or else are dense, as
    /// `has_experts` says.
    pub(crate) fn read(gguf: &Gguf, keys: &Keys<'_>, has_experts: bool) -> Result<Config, BindError> {
        let experts = match has_experts {
            true => Some(Experts::read(keys)?),
            false => {
                keys.refuse("expert_count", "a mixture of experts")?;
                keys.refuse("expert_used_count", "a mixture of experts")?;
                None
            }
        };
        keys.refuse("nextn_predict_layers", "multi-token prediction")?;
        if keys.bool("attention.causal")? == Some(false) {
            let what =
                format!("attention that is not causal (metadata key {})", keys.name("attention.causal"));
            return Err(BindError::Unsupported { what });
        }
        let n_layers = keys.required_count("block_count", MAX_LAYERS)?;
        let dim = keys.required_count("embedding_length", MAX_DIM)?;
        let missing = |key: &str| BindError::MissingKey { key: keys.name(key) };
        let key = if has_experts { "expert_feed_forward_length" } else { "feed_forward_length" };
        let ffn_dim = keys.uniform_count(key, n_layers)?.ok_or_else(|| missing(key))?;
        let n_heads = keys
            .uniform_count("attention.head_count", n_layers)?
            .ok_or_else(|| missing("attention.head_count"))?;
        let n_kv_heads = keys.uniform_count("attention.head_count_kv", n_layers)?.unwrap_or(n_heads);
        if !n_heads.is_multiple_of(n_kv_heads) {
            let problem = format!("{n_kv_heads} key-value heads do not divide {n_heads} heads");
            return Err(keys.bad("attention.head_count_kv", problem));
        }
        let head_dim = keys.count("attention.key_length", MAX_DIM)?.unwrap_or(dim / n_heads);
        let value_dim = keys.count("attention.value_length", MAX_DIM)?.unwrap_or(dim / n_heads);
        if head_dim == 0 || value_dim == 0 {
            return Err(keys.bad("attention.head_count", format!("{n_heads} heads share {dim} elements")));
        }
        let rope_dim = keys.count("rope.dimension_count", MAX_DIM)?.unwrap_or(head_dim);
        if rope_dim > head_dim || !rope_dim.is_multiple_of(2) {
            let problem = format!("{rope_dim} is not an even part of a head of {head_dim}");
            return Err(keys.bad("rope.dimension_count", problem));
        }
        let rms_eps = keys
            .f32("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| missing("attention.layer_norm_rms_epsilon"))?;
        let rope_base = keys.f32("rope.freq_base")?.unwrap_or(10_000.0);
        if rope_base <= 0.0 || rms_eps < 0.0 {
            return Err(keys.bad("rope.freq_base", "neither base nor epsilon may be negative"));
        }
        let context_len = keys.required_count("context_length", MAX_CONTEXT)?;
        let vocab_len = gguf
            .get_array("tokenizer.ggml.tokens")?
            .map(|tokens| tokens.len())
            .ok_or_else(|| BindError::MissingKey { key: "tokenizer.ggml.tokens".to_owned() })?;
        Ok(Config {
            architecture: keys.architecture,
            n_layers,
            dim,
            ffn_dim,
            experts,
            n_heads,
            n_kv_heads,
            head_dim,
            value_dim,
            vocab_len,
            rms_eps,
            context_len,
            rope_dim,
            rope_base,
            rope_scaling: RopeScaling::read(keys, context_len)?,
        })
    }

    /// An error unless whole heads rotate: for architectures that know nothing else.
    pub(crate) fn check_whole_heads_rotate(&self, keys: &Keys<'_>) -> Result<(), BindError> {
        if self.rope_dim == self.head_dim {
            return Ok(());
        }
        let problem = format!("{} where a head has {}", self.rope_dim, self.head_dim);
        Err(keys.bad("rope.dimension_count", problem))
    }

    /// How a cache of type `ty` holds keys and values.
    pub(crate) fn kv_layout(&self, ty: KvType) -> KvLayout {
        KvLayout { ty, key_dim: self.head_dim, value_dim: self.value_dim }
    }

    /// Length of all query heads of a token.
    pub fn query_len(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Length of all key heads of a token.
    pub fn key_len(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Length of all value heads of a token.
    pub fn value_len(&self) -> usize {
        self.n_kv_heads * self.value_dim
    }

    /// Length of the attention output of a token.
    pub fn attention_len(&self) -> usize {
        self.n_heads * self.value_dim
    }
}
