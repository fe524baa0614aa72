//! Weights as safetensors: decoded from the GGUF row by row and written as they come, so that memory does not grow with
//! the model.
//!
//! A file is the length of its header (u64), the header (JSON: for each tensor its type, shape and place) and the data.
//! The `safetensors` crate takes each tensor as one slice of memory, which for an embedding can be gigabytes, so the
//! header is written here.

use super::ExportError;
use super::tensors::HfTensor;
use crate::output::{OutputError, io_error};
use rawrz_gguf::{TensorType, decode_row, quant::encode_row};
use rawrz_residency::{Extent, MappedSource, Source};
use serde_json::{Value as Json, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// The type that weights are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE binary16.
    Fp16,
    /// The upper half of a binary32.
    Bf16,
    /// IEEE binary32: what the GGUF decodes to, exactly.
    Fp32,
}

impl Dtype {
    fn len_bytes(self) -> u64 {
        match self {
            Dtype::Fp16 | Dtype::Bf16 => 2,
            Dtype::Fp32 => 4,
        }
    }

    fn in_safetensors(self) -> &'static str {
        match self {
            Dtype::Fp16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::Fp32 => "F32",
        }
    }

    /// As `config.json` spells it.
    pub(super) fn in_config(self) -> &'static str {
        match self {
            Dtype::Fp16 => "float16",
            Dtype::Bf16 => "bfloat16",
            Dtype::Fp32 => "float32",
        }
    }

    fn tensor_type(self) -> TensorType {
        match self {
            Dtype::Fp16 => TensorType::F16,
            Dtype::Bf16 => TensorType::BF16,
            Dtype::Fp32 => TensorType::F32,
        }
    }
}

/// Values that are decoded at once; a multiple of every block length.
const CHUNK_LEN: u64 = 64 << 10;

/// Headers are padded with spaces to a multiple of this, so that data is aligned.
const HEADER_ALIGNMENT: usize = 8;

/// What the files are: tensors cut into files, in order.
pub(super) struct Layout<'t> {
    dtype: Dtype,
    tensors: Vec<HfTensor<'t>>,
    /// Each file's tensors, as the index past its last.
    ends: Vec<usize>,
}

impl<'t> Layout<'t> {
    /// Begins a file before its tensors take more than `limit_bytes`; one that does so alone is alone.
    pub(super) fn new(tensors: Vec<HfTensor<'t>>, dtype: Dtype, limit_bytes: u64) -> Layout<'t> {
        let (mut ends, mut bytes) = (Vec::new(), 0u64);
        for (i, tensor) in tensors.iter().enumerate() {
            // Tensors of a file have fewer than 2^63 weights, of a model on a disk far fewer.
            let len = tensor.n_elements().saturating_mul(dtype.len_bytes());
            if bytes > 0 && bytes.saturating_add(len) > limit_bytes {
                ends.push(i);
                bytes = 0;
            }
            bytes = bytes.saturating_add(len);
        }
        ends.push(tensors.len());
        Layout { dtype, tensors, ends }
    }

    /// Bytes of all weights together.
    pub(super) fn total_bytes(&self) -> u64 {
        let bytes = self.tensors.iter().map(|t| t.n_elements().saturating_mul(self.dtype.len_bytes()));
        bytes.fold(0, u64::saturating_add)
    }

    fn file_name(&self, file: usize) -> String {
        match self.ends.len() {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", file + 1),
        }
    }

    fn files(&self) -> impl Iterator<Item = (String, &[HfTensor<'t>])> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        let ranges = starts.zip(self.ends.iter().copied());
        ranges.enumerate().map(|(file, (from, to))| (self.file_name(file), &self.tensors[from..to]))
    }

    /// `model.safetensors.index.json`; `None` for a single file, which needs none.
    pub(super) fn index(&self) -> Option<Json> {
        if self.ends.len() == 1 {
            return None;
        }
        let mut map = serde_json::Map::new();
        for (file, tensors) in self.files() {
            map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), file.clone().into())));
        }
        Some(json!({"metadata": {"total_size": self.total_bytes()}, "weight_map": map}))
    }

    /// Writes all files into `folder`; gives their names. `on_bytes` is told how many bytes came since it was last told.
    pub(super) fn write(
        &self,
        folder: &Path,
        source: &MappedSource,
        on_bytes: &mut dyn FnMut(u64) -> Result<(), OutputError>,
    ) -> Result<Vec<String>, ExportError> {
        let mut names = Vec::new();
        let mut buffers = Buffers::default();
        for (name, tensors) in self.files() {
            let path = folder.join(&name);
            let file = File::create(&path).map_err(io_error("write", &path))?;
            let mut out = BufWriter::with_capacity(1 << 20, file);
            out.write_all(&self.header(tensors)?).map_err(io_error("write", &path))?;
            for tensor in tensors {
                self.write_tensor(tensor, source, &mut out, &path, &mut buffers, on_bytes)?;
            }
            let file = out.into_inner().map_err(|error| io_error("write", &path)(error.into_error()))?;
            file.sync_all().map_err(io_error("write", &path))?;
            names.push(name);
        }
        Ok(names)
    }

    fn header(&self, tensors: &[HfTensor<'_>]) -> Result<Vec<u8>, ExportError> {
        let mut fields = serde_json::Map::new();
        // Says that the tensors are laid out as PyTorch has them; transformers asks for it.
        fields.insert("__metadata__".to_owned(), json!({"format": "pt"}));
        let mut at = 0;
        for tensor in tensors {
            let end = at + tensor.n_elements() * self.dtype.len_bytes();
            let field = json!({
                "dtype": self.dtype.in_safetensors(),
                "shape": tensor.shape,
                "data_offsets": [at, end],
            });
            fields.insert(tensor.name.clone(), field);
            at = end;
        }
        let mut json = serde_json::to_vec(&fields).map_err(|error| ExportError::Write(error.into()))?;
        json.resize(json.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.append(&mut json);
        Ok(header)
    }

    fn write_tensor(
        &self,
        tensor: &HfTensor<'_>,
        source: &MappedSource,
        out: &mut impl Write,
        path: &Path,
        buffers: &mut Buffers,
        on_bytes: &mut dyn FnMut(u64) -> Result<(), OutputError>,
    ) -> Result<(), ExportError> {
        let info = &tensor.info;
        let row_len = tensor.row_len();
        let (block_len, block_bytes) = (info.ty.block_len() as u64, info.ty.block_bytes() as u64);
        for row in 0..tensor.n_rows() {
            let first = tensor.source_row(row) * row_len;
            let mut at = 0;
            while at < row_len {
                let len = CHUNK_LEN.min(row_len - at);
                // Rows and chunks are whole blocks; a vector of single values is of a type that has blocks of one.
                let offset = info.file_offset + (first + at) / block_len * block_bytes;
                let extent = Extent { file: tensor.shard as u32, offset, len: len / block_len * block_bytes };
                let n_bytes = len * self.dtype.len_bytes();
                buffers.weights.resize(len as usize, 0.0);
                buffers.bytes.resize(n_bytes as usize, 0);
                let lease = source.lease(extent).map_err(OutputError::from)?;
                decode_row(info.ty, &lease, &mut buffers.weights)?;
                lease.release().map_err(OutputError::from)?;
                if tensor.bias != 0.0 {
                    buffers.weights.iter_mut().for_each(|weight| *weight += tensor.bias);
                }
                if self.dtype == Dtype::Fp16
                    && buffers.weights.iter().any(|w| w.is_finite() && w.abs() > MAX_FP16)
                {
                    return Err(ExportError::Overflow { name: info.name.to_owned() });
                }
                encode_row(self.dtype.tensor_type(), &buffers.weights, &mut buffers.bytes)
                    .map_err(|source| ExportError::Encode { name: info.name.to_owned(), source })?;
                out.write_all(&buffers.bytes).map_err(io_error("write", path))?;
                on_bytes(n_bytes)?;
                at += len;
            }
        }
        Ok(())
    }
}

/// Largest number that binary16 has.
const MAX_FP16: f32 = 65504.0;

#[derive(Default)]
struct Buffers {
    weights: Vec<f32>,
    bytes: Vec<u8>,
}
