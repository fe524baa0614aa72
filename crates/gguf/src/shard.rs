//! Several files that form one model: those that `llama-gguf-split` writes, found by `split.*` keys.

use crate::error::{Error, Name};
use crate::gguf::Gguf;
use crate::tensor::TensorInfo;

/// One or more files that form one model; a plain file is a set of one. The first file holds the metadata.
#[derive(Debug)]
pub struct ShardSet {
    shards: Vec<Gguf>,
}

impl ShardSet {
    /// Checks that the files, in order of `split.no`, form one model.
    ///
    /// # Errors
    /// When there is no file, the count differs from `split.count`, a number is missing or out of order, a tensor is in
    /// two files, or the tensors are not as many as `split.tensors.count` says.
    pub fn new(shards: Vec<Gguf>) -> Result<ShardSet, Error> {
        if shards.is_empty() {
            return Err(Error::NoShards);
        }
        for (position, shard) in shards.iter().enumerate() {
            let declared = shard.get_u64("split.count")?.unwrap_or(1);
            // `split.count` 0 marks a file that was split and merged again.
            if declared.max(1) != shards.len() as u64 {
                return Err(Error::ShardCount { position, declared, given: shards.len() });
            }
            match shard.get_u64("split.no")? {
                Some(found) if found != position as u64 => {
                    return Err(Error::ShardOutOfOrder { position, found });
                }
                None if shards.len() > 1 => return Err(Error::ShardNumberMissing { position }),
                _ => {}
            }
        }
        let set = ShardSet { shards };
        set.check_tensors()?;
        Ok(set)
    }

    fn check_tensors(&self) -> Result<(), Error> {
        if self.shards.len() > 1
            && let Some(declared) = self.first().get_u64("split.tensors.count")?
        {
            let found = self.n_tensors() as u64;
            if declared != found {
                return Err(Error::ShardTensorCount { declared, found });
            }
        }
        for (second, shard) in self.shards.iter().enumerate().skip(1) {
            for tensor in shard.tensors() {
                let earlier = &self.shards[..second];
                if let Some(first) = earlier.iter().position(|s| s.tensor(tensor.name).is_some()) {
                    return Err(Error::ShardDuplicateTensor {
                        offset: shard.entry_offset(tensor.name),
                        name: Name::tensor(tensor.name),
                        first,
                        second,
                    });
                }
            }
        }
        Ok(())
    }

    /// The file with the metadata.
    pub fn first(&self) -> &Gguf {
        &self.shards[0]
    }

    /// All files, in order.
    pub fn shards(&self) -> &[Gguf] {
        &self.shards
    }

    /// The tensor of this name and the position of its file.
    pub fn tensor(&self, name: &str) -> Option<(usize, TensorInfo<'_>)> {
        self.shards.iter().enumerate().find_map(|(i, shard)| Some((i, shard.tensor(name)?)))
    }

    /// All tensors, file by file, each with the position of its file.
    pub fn tensors(&self) -> impl Iterator<Item = (usize, TensorInfo<'_>)> {
        self.shards.iter().enumerate().flat_map(|(i, shard)| shard.tensors().map(move |tensor| (i, tensor)))
    }

    /// Number of tensors in all files together.
    pub fn n_tensors(&self) -> usize {
        self.shards.iter().map(Gguf::n_tensors).sum()
    }
}
