//! DEFLATE within a budget.

use crate::DocumentError;
use crate::budget::Budget;
use flate2::{Decompress, FlushDecompress, Status};

/// Unpacked at a time, between two looks at the budget.
pub(crate) const BLOCK_BYTES: usize = 1 << 16;

/// What `input` unpacks to, and whether that is all of it: data that breaks off or is damaged gives what comes before.
/// `has_head` says whether it has the head and the sum of zlib (RFC 1950) around it.
pub(crate) fn inflate(
    input: &[u8],
    has_head: bool,
    budget: &mut Budget,
) -> Result<(Vec<u8>, bool), DocumentError> {
    let mut inflater = Decompress::new(has_head);
    let mut output = Vec::new();
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let (read, written) = (inflater.total_in(), inflater.total_out());
        let status = inflater.decompress(&input[read as usize..], &mut block, FlushDecompress::None);
        let n_new = (inflater.total_out() - written) as usize;
        budget.unpacked(n_new, output.len() + n_new)?;
        output.extend_from_slice(&block[..n_new]);
        let has_moved = n_new > 0 || inflater.total_in() > read;
        match status {
            Ok(Status::StreamEnd) => return Ok((output, true)),
            Ok(Status::Ok | Status::BufError) if has_moved => {}
            _ => return Ok((output, false)),
        }
    }
}
