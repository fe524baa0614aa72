//! Any bytes are refused or read; what is read can be walked, and lies inside the file.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rawrz_gguf::{Array, Gguf, ShardSet, Value, decode_row};

fuzz_target!(|file: &[u8]| {
    let file_len = file.len() as u64;
    // A prefix of a longer file: more tensors are inside, none may lead out of the prefix.
    if let Ok(gguf) = Gguf::parse(Arc::new(file.to_vec()), file_len * 64) {
        walk(&gguf);
    }
    let Ok(gguf) = Gguf::parse(Arc::new(file.to_vec()), file_len) else {
        return;
    };
    walk(&gguf);
    for tensor in gguf.tensors() {
        let data = &file[tensor.file_offset as usize..][..tensor.len_bytes as usize];
        // A tensor without rows may claim any row length.
        let row_len = tensor.dims.row_len() as usize;
        let row_bytes = tensor.ty.row_bytes(row_len);
        if let Some(blocks) = row_bytes.and_then(|row_bytes| data.get(..row_bytes)) {
            let mut row = vec![0.0; row_len];
            decode_row(tensor.ty, blocks, &mut row).expect("a row of whole blocks decodes");
        }
    }
    let _ = ShardSet::new(vec![gguf]);
});

fn walk(gguf: &Gguf) {
    for (key, value) in gguf.metadata() {
        assert!(!key.is_empty());
        assert!(gguf.get(key).is_some());
        let _ = gguf.get_u32(key);
        let _ = gguf.get_f32(key);
        let _ = gguf.get_str(key);
        if let Value::Array(array) = value {
            elements(&array);
        }
    }
    for tensor in gguf.tensors() {
        let found = gguf.tensor(tensor.name).expect("a listed tensor is found");
        assert_eq!(found, tensor);
        assert!(tensor.file_offset >= gguf.header_len());
        assert!(tensor.file_offset + tensor.len_bytes <= gguf.file_len());
        let dims = tensor.dims;
        assert_eq!(dims.n_elements(), dims.row_len() * dims.n_rows());
    }
}

fn elements(array: &Array<'_>) {
    assert!(array.depth() <= rawrz_gguf::MAX_ARRAY_DEPTH);
    let mut n = 0;
    for value in array.iter() {
        assert_eq!(value.value_type(), array.element_type());
        if let Value::Array(inner) = value {
            elements(&inner);
        }
        n += 1;
    }
    assert_eq!(n, array.len());
    if let Some(strings) = array.strings() {
        let spans = strings.clone().spans();
        for (text, span) in strings.zip(spans) {
            assert_eq!(text.as_bytes(), &array.raw_bytes()[span]);
        }
    }
}
