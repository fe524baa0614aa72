//! Helpers of the tests: bytes of files that are wrong in one place, and where real models may lie.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::path::PathBuf;

use rawrz_gguf::{Error, Gguf};

/// Ids of value types, as the specification numbers them.
pub const U8: u32 = 0;
pub const U32: u32 = 4;
pub const BOOL: u32 = 7;
pub const STR: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;

/// Appends raw fields, right or wrong; the real `Writer` cannot write what is wrong.
#[derive(Clone, Default)]
pub struct Raw(pub Vec<u8>);

impl Raw {
    /// Magic, version 3 and counts.
    pub fn new(n_tensors: u64, n_keys: u64) -> Raw {
        Raw::version(3, n_tensors, n_keys)
    }

    pub fn version(version: u32, n_tensors: u64, n_keys: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(version).u64(n_tensors).u64(n_keys)
    }

    pub fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u32(self, v: u32) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    pub fn u64(self, v: u64) -> Raw {
        self.bytes(&v.to_le_bytes())
    }

    pub fn text(self, text: impl AsRef<[u8]>) -> Raw {
        self.u64(text.as_ref().len() as u64).bytes(text.as_ref())
    }

    /// Key and value type; the value follows.
    pub fn key(self, key: &str, value_type: u32) -> Raw {
        self.text(key).u32(value_type)
    }

    /// Element type and length of an array; the elements follow.
    pub fn array(self, element_type: u32, len: u64) -> Raw {
        self.u32(element_type).u64(len)
    }

    /// A directory entry.
    pub fn tensor(self, name: &str, dims: &[u64], ty: u32, data_offset: u64) -> Raw {
        let mut raw = self.text(name).u32(dims.len() as u32);
        for &dim in dims {
            raw = raw.u64(dim);
        }
        raw.u32(ty).u64(data_offset)
    }

    /// Pads to 32 bytes and adds `len_bytes` zeros of data.
    pub fn data(mut self, len_bytes: usize) -> Raw {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + len_bytes, 0);
        self
    }

    /// Position of the next field.
    pub fn at(&self) -> u64 {
        self.0.len() as u64
    }

    pub fn parse(self) -> Result<Gguf, Error> {
        Gguf::from_vec(self.0)
    }

    /// Why the file is refused.
    pub fn refused(self) -> Error {
        self.parse().expect_err("the file must be refused")
    }
}

/// The folder with real models: `RAWRZ_MODELS`, else where `rawrz pull` puts them.
pub fn models_dir() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(dir) = from("RAWRZ_MODELS") {
        return Some(dir.into());
    }
    let data = if cfg!(windows) {
        PathBuf::from(from("LOCALAPPDATA")?)
    } else if let Some(data) = from("XDG_DATA_HOME") {
        data.into()
    } else {
        PathBuf::from(from("HOME")?).join(".local/share")
    };
    Some(data.join("rawrz").join("models"))
}

/// Path of a real model, if this machine has it; says so when it has not.
pub fn model(file_name: &str) -> Option<PathBuf> {
    let path = models_dir().map(|dir| dir.join(file_name));
    let found = path.filter(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: {file_name} is not on this machine (set RAWRZ_MODELS)");
    }
    found
}

pub const SMOLLM2: &str = "smollm2-135m-instruct-q4_1.gguf";
pub const QWEN: &str = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf";
pub const GEMMA: &str = "gemma-3-270m-q4_k_m.gguf";
