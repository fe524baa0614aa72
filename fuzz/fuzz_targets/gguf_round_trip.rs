//! What the reader accepts can be written again, reads back the same, and the second copy equals the first.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rawrz_gguf::{Gguf, Header, WriteError, Writer};

fuzz_target!(|file: &[u8]| {
    let Ok(original) = Gguf::from_vec(file.to_vec()) else {
        return;
    };
    // Padding alone could be gigabytes.
    if original.alignment() > 1 << 16 {
        return;
    }
    let Some(first) = copy(&original, file) else {
        return;
    };
    let again = Gguf::from_vec(first.clone()).expect("what is written is read");
    assert_eq!(original.n_keys(), again.n_keys());
    for ((key_a, a), (key_b, b)) in original.metadata().zip(again.metadata()) {
        // By text, so that NaN equals NaN; arrays compare by their bytes.
        let same = a == b || format!("{a:?}") == format!("{b:?}");
        assert!(key_a == key_b && same, "{key_a:?} became {key_b:?}");
    }
    assert_eq!(original.n_tensors(), again.n_tensors());
    for (a, b) in original.tensors().zip(again.tensors()) {
        assert_eq!((a.name, a.ty, a.dims), (b.name, b.ty, b.dims));
        let data = |file: &[u8], start: u64| file[start as usize..][..a.len_bytes as usize].to_vec();
        assert_eq!(data(file, a.file_offset), data(&first, b.file_offset));
    }
    let second = copy(&again, &first).expect("a copy can be copied");
    assert!(first == second, "the copy of a copy differs");
});

/// `None` when the file has a tensor name that the writer refuses for llama.cpp's sake.
fn copy(gguf: &Gguf, file: &[u8]) -> Option<Vec<u8>> {
    let header = match Header::copy_of(gguf) {
        Ok(header) => header,
        Err(WriteError::NameTooLong { .. }) => return None,
        Err(error) => panic!("{error}"),
    };
    let mut writer = Writer::start(Vec::new(), &header).expect("a copy has room");
    for tensor in gguf.tensors() {
        let data = &file[tensor.file_offset as usize..][..tensor.len_bytes as usize];
        writer.write_tensor(tensor.name, data).expect("the data fits");
    }
    Some(writer.finish().expect("all data was written"))
}
