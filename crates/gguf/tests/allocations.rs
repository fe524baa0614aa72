//! Opening a file takes few allocations, however large its vocabulary.

mod common;

use std::alloc::System;
use std::sync::Arc;

use rawrz_gguf::{Bytes, Gguf, Header, TensorType, Writer};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations and bytes that parsing takes.
fn count(bytes: &Bytes) -> (usize, usize) {
    let file_len = (**bytes).as_ref().len() as u64;
    let region = Region::new(GLOBAL);
    let gguf = Gguf::parse(bytes.clone(), file_len).unwrap();
    let change = region.change();
    drop(gguf);
    (change.allocations + change.reallocations, change.bytes_allocated)
}

/// One test, since other threads would be counted too.
#[test]
fn opening_takes_few_allocations() {
    let tokens: Vec<String> = (0..150_000).map(|i| format!("token{i}")).collect();
    let names: Vec<String> = (0..1000).map(|i| format!("blk.{i}.attn_q.weight")).collect();
    let mut header = Header::new();
    header.set("tokenizer.ggml.tokens", &tokens[..]).unwrap();
    for name in &names {
        header.add_tensor(name, TensorType::F32, &[1]).unwrap();
    }
    let mut writer = Writer::start(Vec::new(), &header).unwrap();
    for name in &names {
        writer.write_tensor(name, &[0; 4]).unwrap();
    }
    let file: Bytes = Arc::new(writer.finish().unwrap());
    let (n, bytes) = count(&file);
    assert!(n <= 16, "{n} allocations");
    assert!(bytes <= 200_000, "{bytes} bytes for 1000 tensors");

    if let Some(path) = common::model(common::QWEN) {
        let file: Bytes = Arc::new(std::fs::read(path).unwrap());
        let (n, bytes) = count(&file);
        println!("qwen: {n} allocations, {bytes} bytes");
        assert!(n <= 2000, "{n} allocations");
    }
}
