//! Any file is refused or exported as a Hugging Face folder; what is refused leaves nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rawrz_fuzz::Files;
use rawrz_interop::hf_folder::{Dtype, Weights, export, remove};
use std::ops::ControlFlow;

fuzz_target!(|file: &[u8]| {
    let dir = rawrz_fuzz::scratch();
    let Some(files) = Files::open(dir.path(), file) else {
        return;
    };
    let folder = dir.path().join("hf");
    let weights = Weights::Safetensors { dtype: Dtype::Fp32, shard_bytes: 100 };
    let made = export(&files.model(), &folder, weights, &mut |_, _| ControlFlow::Continue(()));
    assert_eq!(made.is_ok(), folder.exists());
    if made.is_ok() {
        remove(&folder).expect("what was made is removed");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("it reads").collect();
    assert_eq!(left.len(), 1, "{left:?}");
});
