//! Mixtures of experts on a tiny model: the order in which experts arrive, and files that are refused.

use rawrz_engine::{Cancel, Engine, OpenOptions, Session};
use rawrz_gguf::{Gguf, Header, Writer};
use rawrz_residency::{Arrived, Extent, Lease, Planned, ReadError, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Eight experts, two of them used by each token.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny/qwen3moe.gguf")
}

fn tokens(n: u32) -> Vec<u32> {
    (0..n).map(|i| 5 + i * 7 % 200).collect()
}

fn options(threads: usize) -> OpenOptions {
    OpenOptions { ctx_len: Some(64), threads: Some(threads), ..OpenOptions::default() }
}

/// The logits after `tokens(40)`, run in passes of `width`.
fn logits(engine: &Arc<Engine>, width: u32) -> Vec<u32> {
    let mut session = Session::new(engine).unwrap();
    for end in (width..40).step_by(width as usize).chain([40]) {
        session.sync(&tokens(end), &Cancel::default()).unwrap();
    }
    session.logits().iter().map(|l| l.to_bits()).collect()
}

/// Lets experts arrive in an order of its own, and takes on only so many at a time.
struct Shuffled {
    inner: Arc<dyn Source>,
    max_requested: usize,
    /// Whether experts come together, as from memory, or each by itself.
    together: bool,
    on_the_way: AtomicUsize,
    n_taken: AtomicUsize,
}

impl Shuffled {
    fn take<'a>(&'a self, wanted: &[&[Extent]]) -> Result<Arrived<'a>, ReadError> {
        let n_taken = self.n_taken.fetch_add(1, Ordering::Relaxed);
        self.on_the_way.fetch_sub(1, Ordering::Relaxed);
        let index = (n_taken * 7 + 3) % wanted.len();
        let leases =
            wanted[index].iter().map(|extent| self.inner.lease(*extent)).collect::<Result<_, _>>()?;
        Ok(Arrived { index, leases })
    }
}

impl Source for Shuffled {
    fn begin_pass(&self, reads: &[Planned]) -> Result<(), ReadError> {
        self.inner.begin_pass(reads)
    }

    fn lease_len(&self, extent: Extent, unit: u64) -> u64 {
        self.inner.lease_len(extent, unit)
    }

    fn max_held_bytes(&self) -> u64 {
        self.inner.max_held_bytes()
    }

    fn lease(&self, extent: Extent) -> Result<Lease<'_>, ReadError> {
        self.inner.lease(extent)
    }

    fn request(&self, wanted: &[&[Extent]]) -> Result<usize, ReadError> {
        let n = wanted.len().min(self.max_requested);
        let before = self.on_the_way.fetch_add(n, Ordering::Relaxed);
        assert_eq!(before, 0, "what was requested is taken before more is asked for");
        Ok(n)
    }

    fn take_any(&self, wanted: &[&[Extent]]) -> Result<Arrived<'_>, ReadError> {
        self.take(wanted)
    }

    fn take_ready(&self, wanted: &[&[Extent]]) -> Result<Option<Arrived<'_>>, ReadError> {
        self.together.then(|| self.take(wanted)).transpose()
    }

    fn end_pass(&self) -> Result<(), ReadError> {
        assert_eq!(self.on_the_way.load(Ordering::Relaxed), 0, "what was requested is taken");
        self.inner.end_pass()
    }
}

#[test]
fn the_order_of_arrival_changes_no_bit_for_any_batch_and_threads() {
    let expected = logits(&Engine::open(&tiny(), &options(1)).unwrap(), 1);
    for threads in 1..=3 {
        for (max_requested, together) in [(1, true), (3, false), (3, true), (8, false), (8, true)] {
            let mut handle = None;
            let wrap = |inner: Arc<dyn Source>| -> Arc<dyn Source> {
                let (on_the_way, n_taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
                let source = Arc::new(Shuffled { inner, max_requested, together, on_the_way, n_taken });
                handle = Some(Arc::clone(&source));
                source
            };
            let engine = Engine::open_through(&tiny(), &options(threads), wrap).unwrap();
            for width in [1, 2, 7, 16, 40] {
                let what = format!("{threads} threads, width {width}, {max_requested} at a time");
                assert!(logits(&engine, width) == expected, "{what}, together: {together}");
            }
            let n_taken = handle.unwrap().n_taken.load(Ordering::Relaxed);
            // Three layers. A token takes two experts in each, and a batch takes none twice.
            assert!(n_taken <= 3 * (40 * 2 + 20 * 4 + (6 + 3 + 1) * 8), "{n_taken}");
        }
    }
}

#[test]
fn sweeps_read_the_experts_of_one_token() {
    let engine = Engine::open(&tiny(), &options(2)).unwrap();
    let (bytes, _) = engine.sweep_weights().unwrap();
    let gguf = Gguf::from_vec(std::fs::read(tiny()).unwrap()).unwrap();
    let expected = gguf.tensors().filter(|tensor| tensor.name != "token_embd.weight").map(|tensor| {
        let is_expert = tensor.name.contains("_exps");
        if is_expert { tensor.len_bytes / 8 * 2 } else { tensor.len_bytes }
    });
    assert_eq!(bytes, expected.sum::<u64>());
}

/// The tiny model `name` with keys whose u32 value is another one, or that are not there (`None`).
fn patched(name: &str, keys: &[(&str, Option<u32>)]) -> Vec<u8> {
    let mut file = std::fs::read(tiny().with_file_name(name)).unwrap();
    for (key, value) in keys {
        let length = [&(key.len() as u64).to_le_bytes(), key.as_bytes()].concat();
        let at = file.windows(length.len()).position(|window| window == length).unwrap() + 8;
        match value {
            Some(value) => file[at + key.len() + 4..][..4].copy_from_slice(&value.to_le_bytes()),
            None => file[at] = b'x',
        }
    }
    file
}

/// `file` with one more key.
fn with_key(file: Vec<u8>, set: impl FnOnce(&mut Header<'_>)) -> Vec<u8> {
    let gguf = Gguf::from_vec(file.clone()).unwrap();
    let mut header = Header::copy_of(&gguf).unwrap();
    set(&mut header);
    let mut writer = Writer::start(Vec::new(), &header).unwrap();
    for tensor in gguf.tensors() {
        let data = &file[tensor.file_offset as usize..][..tensor.len_bytes as usize];
        writer.write_tensor(tensor.name, data).unwrap();
    }
    writer.finish().unwrap()
}

/// Why `file` is refused.
fn refusal(file: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, file).unwrap();
    Engine::open(&path, &options(1)).err().expect("the file is refused").to_string()
}

#[test]
fn counts_and_shapes_that_do_not_fit_are_refused_by_name() {
    for (keys, named) in [
        (&[("qwen3moe.expert_count", Some(0))][..], "qwen3moe.expert_count"),
        (&[("qwen3moe.expert_count", Some(1 << 20))], "qwen3moe.expert_count"),
        (&[("qwen3moe.expert_count", None)], "qwen3moe.expert_count is missing"),
        (&[("qwen3moe.expert_used_count", Some(0))], "qwen3moe.expert_used_count"),
        (&[("qwen3moe.expert_used_count", Some(9))], "9 of 8 experts"),
        (&[("qwen3moe.expert_used_count", None)], "qwen3moe.expert_used_count is missing"),
        (&[("qwen3moe.expert_feed_forward_length", None)], "qwen3moe.expert_feed_forward_length is missing"),
        (&[("qwen3moe.expert_count", Some(4))], "ffn_gate_inp.weight has shape [64, 8]"),
        (&[("qwen3moe.expert_feed_forward_length", Some(64))], "ffn_gate_exps.weight has shape [64, 32, 8]"),
    ] {
        let text = refusal(&patched("qwen3moe.gguf", keys));
        assert!(text.contains(named), "{keys:?}: {text}");
    }
}

#[test]
fn what_is_no_softmax_router_over_like_experts_is_refused_by_name() {
    let file = || patched("qwen3moe.gguf", &[]);
    for (key, value) in [
        ("expert_shared_count", 1u32),
        ("leading_dense_block_count", 1),
        ("moe_every_n_layers", 2),
        ("expert_group_count", 2),
        ("expert_group_used_count", 2),
        ("expert_gating_func", 2),
    ] {
        let key = format!("qwen3moe.{key}");
        let text = refusal(&with_key(file(), |header| header.set(key.clone(), value).unwrap()));
        assert!(text.contains(&key), "{key}: {text}");
    }
    let text = refusal(&with_key(file(), |h| h.set("qwen3moe.expert_weights_scale", 2.5f32).unwrap()));
    assert!(text.contains("qwen3moe.expert_weights_scale"), "{text}");
    let text = refusal(&with_key(file(), |h| h.set("qwen3moe.expert_weights_norm", false).unwrap()));
    assert!(text.contains("qwen3moe.expert_weights_norm"), "{text}");
    let dense = patched("qwen3-tied.gguf", &[]);
    let text = refusal(&with_key(dense, |h| h.set("qwen3.expert_count", 8u32).unwrap()));
    assert!(text.contains("a mixture of experts") && text.contains("qwen3.expert_count"), "{text}");
}
