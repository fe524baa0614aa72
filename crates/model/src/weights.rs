//! Weights: names looked up once and bound to fields, with their shapes checked there and then.

use crate::error::BindError;
use rawrz_gguf::{ShardSet, TensorInfo, TensorType};
use rawrz_residency::{Choice, Extent, PassPlan, Planned};
use std::collections::HashSet;

/// A matrix of weights: `n_rows` rows of `row_len`, as blocks in a file.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub(crate) extent: Extent,
    pub(crate) ty: TensorType,
    pub(crate) row_len: usize,
    pub(crate) n_rows: usize,
    pub(crate) row_bytes: u64,
}

impl Matrix {
    /// The bytes of one row.
    pub(crate) fn row(&self, row: usize) -> Extent {
        self.extent.slice(row as u64 * self.row_bytes, self.row_bytes)
    }
}

/// A vector of weights: a norm or a bias.
#[derive(Clone, Debug)]
pub(crate) struct Vector(pub(crate) Matrix);

/// A matrix and, where the model has one, a bias.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Matrix,
    pub(crate) bias: Option<Vector>,
}

/// Matrices of one shape, one for each expert, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct ExpertMatrices {
    /// The rows of all.
    all: Matrix,
    n_experts: usize,
}

impl ExpertMatrices {
    pub(crate) fn ty(&self) -> TensorType {
        self.all.ty
    }

    pub(crate) fn row_bytes(&self) -> u64 {
        self.all.row_bytes
    }

    /// The bytes of one expert's matrix.
    pub(crate) fn of(&self, expert: usize) -> Extent {
        let len = self.all.extent.len / self.n_experts as u64;
        self.all.extent.slice(expert as u64 * len, len)
    }
}

/// Binds tensors of one model by name and remembers which were bound, so that none is silently left out.
pub(crate) struct Binder<'a> {
    shards: &'a ShardSet,
    architecture: &'static str,
    bound: HashSet<String>,
    plan: PassPlan,
    /// The stage of the pass that is bound now: a layer, or the head after the last.
    stage: u32,
}

impl<'a> Binder<'a> {
    pub(crate) fn new(shards: &'a ShardSet, architecture: &'static str) -> Binder<'a> {
        Binder { shards, architecture, bound: HashSet::new(), plan: PassPlan::default(), stage: 0 }
    }

    /// What is bound from now on belongs to layer `layer`, or to the head when that is the number of layers.
    pub(crate) fn begin_stage(&mut self, layer: usize) {
        self.stage = layer as u32;
    }

    /// Every pass reads `matrix` whole.
    fn plan(&mut self, matrix: &Matrix) {
        let (extent, unit, stage) = (matrix.extent, matrix.row_bytes, self.stage);
        self.plan.reads.push(Planned { extent, unit, stage });
    }

    /// Binds `name` when it is there, checking its shape: `[row_len, n_rows]`, `[row_len]` for a vector, or
    /// `[row_len, n_rows, n_matrices]`, whose rows are counted through all matrices.
    fn find(&mut self, name: &str, shape: &[usize]) -> Result<Option<Matrix>, BindError> {
        let Some((shard, tensor)) = self.shards.tensor(name) else { return Ok(None) };
        let expected: Vec<u64> = shape.iter().map(|n| *n as u64).collect();
        check_shape(&tensor, &expected)?;
        if !holds_weights(tensor.ty) {
            return Err(BindError::TensorType { name: name.to_owned(), ty: tensor.ty });
        }
        self.bound.insert(name.to_owned());
        let (row_len, n_rows) = (shape[0], shape[1..].iter().product());
        Ok(Some(Matrix {
            extent: Extent { file: shard as u32, offset: tensor.file_offset, len: tensor.len_bytes },
            ty: tensor.ty,
            row_len,
            n_rows,
            row_bytes: tensor.len_bytes / n_rows as u64,
        }))
    }

    fn required(&mut self, name: &str, shape: &[usize]) -> Result<Matrix, BindError> {
        self.find(name, shape)?.ok_or_else(|| BindError::MissingTensor { name: name.to_owned() })
    }

    /// A matrix that every pass reads whole.
    pub(crate) fn matrix(&mut self, name: &str, row_len: usize, n_rows: usize) -> Result<Matrix, BindError> {
        let matrix = self.required(name, &[row_len, n_rows])?;
        self.plan(&matrix);
        Ok(matrix)
    }

    /// A vector that every pass reads.
    pub(crate) fn vector(&mut self, name: &str, len: usize) -> Result<Vector, BindError> {
        let vector = self.required(name, &[len])?;
        self.plan(&vector);
        Ok(Vector(vector))
    }

    fn optional_vector(&mut self, name: &str, len: usize) -> Result<Option<Vector>, BindError> {
        let vector = self.find(name, &[len])?;
        vector.iter().for_each(|v| self.plan(v));
        Ok(vector.map(Vector))
    }

    /// `NAME.weight`, with `NAME.bias` where `may_have_bias` says that the architecture knows one.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        row_len: usize,
        n_rows: usize,
        may_have_bias: bool,
    ) -> Result<Linear, BindError> {
        let weight = self.matrix(&format!("{name}.weight"), row_len, n_rows)?;
        let bias = match may_have_bias {
            true => self.optional_vector(&format!("{name}.bias"), n_rows)?,
            false => None,
        };
        Ok(Linear { weight, bias })
    }

    /// A matrix for each expert; [`Binder::choice`] plans what is read of them.
    pub(crate) fn expert_matrices(
        &mut self,
        name: &str,
        row_len: usize,
        n_rows: usize,
        n_experts: usize,
    ) -> Result<ExpertMatrices, BindError> {
        Ok(ExpertMatrices { all: self.required(name, &[row_len, n_rows, n_experts])?, n_experts })
    }

    /// Every token of a pass reads `n_picked` of `alternatives`.
    pub(crate) fn choice(&mut self, alternatives: Vec<Vec<Extent>>, n_picked: usize) {
        self.plan.choices.push(Choice { stage: self.stage, alternatives, n_picked });
    }

    /// The embedding table: read by row, so no part of the plan.
    pub(crate) fn table(&mut self, name: &str, row_len: usize, n_rows: usize) -> Result<Matrix, BindError> {
        self.required(name, &[row_len, n_rows])
    }

    /// The output head: `output.weight`, or the embedding table when the model ties them.
    pub(crate) fn output(&mut self, tied: &Matrix, may_have_bias: bool) -> Result<Linear, BindError> {
        if self.shards.tensor("output.weight").is_some() {
            return self.linear("output", tied.row_len, tied.n_rows, may_have_bias);
        }
        self.plan(tied);
        Ok(Linear { weight: tied.clone(), bias: None })
    }

    /// The place of a small vector that is read once when the model is opened, not in every pass.
    pub(crate) fn constant(&mut self, name: &str, len: usize) -> Result<Option<Vector>, BindError> {
        Ok(self.find(name, &[len])?.map(Vector))
    }

    /// The plan of a pass, in the order in which tensors were bound; refuses tensors that were not.
    pub(crate) fn finish(self) -> Result<PassPlan, BindError> {
        match self.shards.tensors().find(|(_, tensor)| !self.bound.contains(tensor.name)) {
            Some((_, tensor)) => Err(BindError::UnknownTensor {
                name: tensor.name.to_owned(),
                architecture: self.architecture,
            }),
            None => Ok(self.plan),
        }
    }
}

/// A GGUF drops trailing dimensions of 1, or writes them out.
fn check_shape(tensor: &TensorInfo<'_>, expected: &[u64]) -> Result<(), BindError> {
    let found = tensor.dims.as_slice();
    let at = |dims: &[u64], i: usize| dims.get(i).copied().unwrap_or(1);
    if (0..found.len().max(expected.len())).all(|i| at(found, i) == at(expected, i)) {
        return Ok(());
    }
    Err(BindError::Shape { name: tensor.name.to_owned(), expected: expected.to_vec(), found: found.to_vec() })
}

/// Whether a type stands for real numbers: integer tensors hold indices.
fn holds_weights(ty: TensorType) -> bool {
    use TensorType::{F64, I8, I16, I32, I64};
    !matches!(ty, I8 | I16 | I32 | I64 | F64)
}
