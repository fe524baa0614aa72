//! Any file is refused or split, at any place; what is merged again holds the same, to the byte where split says so.
//!
//! Input: a byte for the number of tensors in a shard, and the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rawrz_fuzz::Files;
use rawrz_interop::shards::{MergeOptions, ShardLimit, SplitOptions, merge, split};
use std::ops::ControlFlow;

fuzz_target!(|data: &[u8]| {
    let [n_tensors, file @ ..] = data else {
        return;
    };
    let dir = rawrz_fuzz::scratch();
    let Some(files) = Files::open(dir.path(), file) else {
        return;
    };
    // Padding alone could be gigabytes.
    if files.shards.first().alignment() > 1 << 16 {
        return;
    }
    let mut go_on = |_, _| ControlFlow::Continue(());
    let limit = ShardLimit::Tensors(u64::from(*n_tensors) + 1);
    let options = SplitOptions { prefix: dir.path().join("s"), limit, remove_source: false };
    let Ok(report) = split(&files.model(), &options, &mut go_on) else {
        return;
    };
    let shards = Files::of_path(&report.files[0].path).expect("shards that were written are read");
    assert_eq!(shards.shards.n_tensors(), files.shards.n_tensors());
    let merged = dir.path().join("merged.gguf");
    let options = MergeOptions { file: merged.clone(), remove_source: false };
    merge(&shards.model(), &options, &mut go_on).expect("shards that were written are merged");
    if report.restores_bytes == Some(true) {
        assert!(std::fs::read(&merged).expect("it reads") == file, "the bytes differ");
    }
});
