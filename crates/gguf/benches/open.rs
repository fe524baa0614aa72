//! Opening a real model that is in memory, and finding its tensors by name.
//!
//! Needs the qwen model in `RAWRZ_MODELS` or where `rawrz pull` puts it. Goals: open within 10 ms, a lookup within 200 ns.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, criterion_group, criterion_main};
use rawrz_gguf::{Bytes, Gguf};

fn benches(c: &mut Criterion) {
    let Some(path) = common::model(common::QWEN) else {
        return;
    };
    // Header and directory are all that parsing touches.
    let file_len = path.metadata().expect("the model can be read").len();
    let bytes: Bytes = Arc::new(std::fs::read(path).expect("the model can be read"));
    let open = || Gguf::parse(black_box(bytes.clone()), file_len).expect("the model is sound");
    c.bench_function("open", |b| b.iter(open));

    let gguf = open();
    let names: Vec<String> = gguf.tensors().map(|tensor| tensor.name.to_owned()).collect();
    c.bench_function("lookup", |b| {
        // Every name in turn, so that no one stays in the fastest cache.
        b.iter_custom(|n| {
            let start = Instant::now();
            for i in 0..n {
                let name = &names[(i as usize * 61) % names.len()];
                black_box(gguf.tensor(black_box(name)));
            }
            start.elapsed()
        });
    });
    c.bench_function("walk the vocabulary", |b| {
        let tokens = gguf.get_array("tokenizer.ggml.tokens");
        let tokens = tokens.ok().flatten().expect("the model has a vocabulary");
        b.iter(|| tokens.strings().map(|tokens| tokens.map(str::len).sum::<usize>()));
    });
}

criterion_group!(group, benches);
criterion_main!(group);
