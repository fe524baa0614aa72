//! The real models, where this machine has them: opened by a prefix, and written again byte for byte.

mod common;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use common::{GEMMA, QWEN, SMOLLM2, model};
use rawrz_gguf::{Error, Gguf, Header, TensorType, Writer, decode_row};

/// Parses a growing prefix, as a caller does that cannot map the file.
fn open(path: &Path) -> Gguf {
    let file_len = path.metadata().unwrap().len();
    let mut prefix_len = 64 << 10;
    loop {
        let mut header = Vec::new();
        let mut file = File::open(path).unwrap();
        (&mut file).take(prefix_len).read_to_end(&mut header).unwrap();
        match Gguf::parse(Arc::new(header), file_len) {
            Err(Error::Truncated { .. }) if prefix_len < file_len => prefix_len *= 4,
            result => return result.unwrap(),
        }
    }
}

/// Compares what is written with a file, so that no second copy is needed.
struct Compare {
    file: io::BufReader<File>,
    n_written: u64,
}

impl Write for Compare {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut expected = vec![0; bytes.len()];
        self.file.read_exact(&mut expected)?;
        assert!(
            expected == bytes,
            "differs between {} and {}",
            self.n_written,
            self.n_written + bytes.len() as u64
        );
        self.n_written += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn rewrite(path: &Path) {
    let gguf = open(path);
    let compare =
        Compare { file: io::BufReader::with_capacity(1 << 20, File::open(path).unwrap()), n_written: 0 };
    let mut writer = Writer::start(compare, &Header::copy_of(&gguf).unwrap()).unwrap();
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for tensor in gguf.tensors() {
        writer.begin_tensor(tensor.name).unwrap();
        file.seek(SeekFrom::Start(tensor.file_offset)).unwrap();
        let mut left = tensor.len_bytes;
        while left > 0 {
            let chunk = &mut buffer[..left.min(1 << 20) as usize];
            file.read_exact(chunk).unwrap();
            writer.write_data(chunk).unwrap();
            left -= chunk.len() as u64;
        }
    }
    assert_eq!(writer.finish().unwrap().n_written, gguf.file_len());
}

#[test]
fn smollm2() {
    let Some(path) = model(SMOLLM2) else { return };
    let gguf = open(&path);
    assert_eq!(gguf.get_str("general.architecture").unwrap(), Some("llama"));
    assert_eq!(gguf.get_u32("llama.block_count").unwrap(), Some(30));
    assert_eq!(gguf.n_tensors(), 272);
    rewrite(&path);
}

#[test]
fn qwen() {
    let Some(path) = model(QWEN) else { return };
    let gguf = open(&path);
    let tokens = gguf.get_array("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!(tokens.len(), 151_936);
    assert_eq!(tokens.strings().unwrap().nth(151_643), Some("<|endoftext|>"));
    let embeddings = gguf.tensor("token_embd.weight").unwrap();
    assert_eq!((embeddings.ty, embeddings.dims.as_slice()), (TensorType::Q5_0, &[896, 151_936][..]));
    rewrite(&path);
}

#[test]
fn gemma() {
    let Some(path) = model(GEMMA) else { return };
    let gguf = open(&path);
    let scores = gguf.get_array("tokenizer.ggml.scores").unwrap().unwrap();
    assert_eq!(scores.f32s().unwrap().len(), 262_144);
    rewrite(&path);
}

/// The norms of a trained model are finite and not all alike.
#[test]
fn weights_decode_to_sane_values() {
    for name in [SMOLLM2, QWEN, GEMMA] {
        let Some(path) = model(name) else { continue };
        let gguf = open(&path);
        let mut file = File::open(&path).unwrap();
        for tensor in gguf.tensors().take(20) {
            let row_len = tensor.dims.row_len() as usize;
            let mut raw = vec![0; tensor.ty.row_bytes(row_len).unwrap()];
            file.seek(SeekFrom::Start(tensor.file_offset)).unwrap();
            file.read_exact(&mut raw).unwrap();
            let mut row = vec![0.0; row_len];
            decode_row(tensor.ty, &raw, &mut row).unwrap();
            assert!(row.iter().all(|w| w.is_finite() && w.abs() < 1e3), "{}", tensor.name);
            assert!(row.iter().any(|w| *w != row[0]), "{}", tensor.name);
        }
    }
}
