//! What a stream holds: ISO 32000-1, 7.4. Each stage of a stream is counted as it unpacks, so none goes further than the
//! budget, whatever is stacked on it.

use super::file::File;
use super::object::{Dict, Object, hex, is_space};
use crate::DocumentError;
use crate::budget::Budget;
use crate::inflate::{BLOCK_BYTES, inflate};
use weezl::{BitOrder, LzwStatus};

/// Filters of one stream. Real ones have two at most.
const MAX_FILTERS: usize = 4;
/// The content of a stream; nothing for pictures, whose filters are not ours.
pub(super) fn decode(
    file: &File<'_>,
    dict: &Dict,
    raw: &[u8],
    budget: &mut Budget,
) -> Result<Option<Vec<u8>>, DocumentError> {
    let filters = list(file, dict, ["Filter", "F"], budget)?;
    let params = list(file, dict, ["DecodeParms", "DP"], budget)?;
    if filters.len() > MAX_FILTERS {
        return Err(DocumentError::TooMany { what: "filters on one stream", limit: MAX_FILTERS });
    }
    let mut data: Option<Vec<u8>> = None;
    for (index, filter) in filters.iter().enumerate() {
        let input = data.as_deref().unwrap_or(raw);
        let params = params.get(index).cloned().and_then(Object::into_dict).unwrap_or_default();
        let output = match filter.name() {
            Some(b"FlateDecode" | b"Fl") => predict(unzip(input, budget)?, &params),
            Some(b"LZWDecode" | b"LZW") => predict(lzw(input, &params, budget)?, &params),
            Some(b"ASCIIHexDecode" | b"AHx") => ascii_hex(input, budget)?,
            Some(b"ASCII85Decode" | b"A85") => ascii_85(input, budget)?,
            Some(b"RunLengthDecode" | b"RL") => run_length(input, budget)?,
            _ => return Ok(None),
        };
        data = Some(output);
    }
    match data {
        Some(data) => Ok(Some(data)),
        None => {
            budget.unpacked(raw.len(), raw.len())?;
            Ok(Some(raw.to_vec()))
        }
    }
}

/// What is one thing or an array of them.
fn list(
    file: &File<'_>,
    dict: &Dict,
    keys: [&str; 2],
    budget: &mut Budget,
) -> Result<Vec<Object>, DocumentError> {
    let Some(value) = keys.iter().find_map(|key| dict.get(key)) else {
        return Ok(Vec::new());
    };
    match file.resolve(value, budget)? {
        Object::Array(elements) => elements.iter().map(|element| file.resolve(element, budget)).collect(),
        Object::Null => Ok(Vec::new()),
        one => Ok(vec![one]),
    }
}

/// What of a zlib stream can be had; some writers leave out its head, its end or its sum.
fn unzip(input: &[u8], budget: &mut Budget) -> Result<Vec<u8>, DocumentError> {
    let (output, _) = inflate(input, true, budget)?;
    match output.is_empty() {
        true => inflate(input, false, budget).map(|(output, _)| output),
        false => Ok(output),
    }
}

fn lzw(input: &[u8], params: &Dict, budget: &mut Budget) -> Result<Vec<u8>, DocumentError> {
    // Codes grow a step before they have to unless the stream says otherwise.
    let mut decoder = match params.get("EarlyChange").and_then(Object::count) {
        Some(0) => weezl::decode::Decoder::new(BitOrder::Msb, 8),
        _ => weezl::decode::Decoder::with_tiff_size_switch(BitOrder::Msb, 8),
    };
    let mut output = Vec::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut rest = input;
    loop {
        let result = decoder.decode_bytes(rest, &mut block);
        rest = &rest[result.consumed_in..];
        budget.unpacked(result.consumed_out, output.len() + result.consumed_out)?;
        output.extend_from_slice(&block[..result.consumed_out]);
        let has_moved = result.consumed_in > 0 || result.consumed_out > 0;
        if !has_moved || !matches!(result.status, Ok(LzwStatus::Ok)) {
            return Ok(output);
        }
    }
}

fn ascii_hex(input: &[u8], budget: &mut Budget) -> Result<Vec<u8>, DocumentError> {
    let digits = input.iter().take_while(|byte| **byte != b'>').filter_map(|byte| hex(*byte));
    let digits: Vec<u8> = digits.collect();
    let output: Vec<u8> =
        digits.chunks(2).map(|pair| pair[0] << 4 | pair.get(1).copied().unwrap_or(0)).collect();
    budget.unpacked(digits.len(), output.len())?;
    Ok(output)
}

fn ascii_85(input: &[u8], budget: &mut Budget) -> Result<Vec<u8>, DocumentError> {
    let mut output = Vec::new();
    let mut group = Vec::with_capacity(5);
    let push = |group: &mut Vec<u8>, output: &mut Vec<u8>| {
        let n_chars = group.len();
        group.resize(5, 84);
        let value =
            group.iter().fold(0u32, |value, digit| value.wrapping_mul(85).wrapping_add(u32::from(*digit)));
        output.extend_from_slice(&value.to_be_bytes()[..n_chars - 1]);
        group.clear();
    };
    for block in input.chunks(BLOCK_BYTES) {
        let before = output.len();
        let mut has_ended = false;
        for byte in block {
            match byte {
                b'z' if group.is_empty() => output.extend_from_slice(&[0; 4]),
                b'!'..=b'u' => {
                    group.push(byte - b'!');
                    if group.len() == 5 {
                        push(&mut group, &mut output);
                    }
                }
                b'~' => has_ended = true,
                _ if is_space(*byte) => {}
                _ => has_ended = true,
            }
            if has_ended {
                break;
            }
        }
        budget.unpacked(output.len() - before, output.len())?;
        if has_ended {
            break;
        }
    }
    if group.len() > 1 {
        push(&mut group, &mut output);
    }
    Ok(output)
}

fn run_length(input: &[u8], budget: &mut Budget) -> Result<Vec<u8>, DocumentError> {
    let mut output = Vec::new();
    let mut rest = input;
    while let [length, tail @ ..] = rest {
        let before = output.len();
        rest = match *length {
            128 => break,
            n @ 0..128 => {
                let n = (usize::from(n) + 1).min(tail.len());
                output.extend_from_slice(&tail[..n]);
                &tail[n..]
            }
            n => {
                let Some((byte, tail)) = tail.split_first() else {
                    break;
                };
                output.resize(before + 257 - usize::from(n), *byte);
                tail
            }
        };
        budget.unpacked(output.len() - before, output.len())?;
    }
    Ok(output)
}

/// Undoes a PNG predictor (RFC 2083, 6), which object streams may have.
fn predict(data: Vec<u8>, params: &Dict) -> Vec<u8> {
    let value = |key, default| params.get(key).and_then(Object::count).unwrap_or(default);
    if value("Predictor", 1) < 10 {
        return data;
    }
    let (colors, bits, columns) = (value("Colors", 1), value("BitsPerComponent", 8), value("Columns", 1));
    let row_bits = colors.saturating_mul(bits).saturating_mul(columns);
    let pixel_bytes = colors.saturating_mul(bits).div_ceil(8).max(1);
    let row_bytes = row_bits.div_ceil(8);
    if row_bytes == 0 || row_bytes > data.len() || pixel_bytes > row_bytes {
        return data;
    }
    let mut output: Vec<u8> = Vec::with_capacity(data.len());
    for row in data.chunks(row_bytes + 1) {
        let Some((kind, row)) = row.split_first() else {
            break;
        };
        let start = output.len();
        for (index, byte) in row.iter().enumerate() {
            let at = |back: usize| start.checked_add(index)?.checked_sub(back).map(|at| output[at]);
            let left = if index >= pixel_bytes { at(pixel_bytes) } else { None }.unwrap_or(0);
            let up = at(row_bytes).unwrap_or(0);
            let corner = if index >= pixel_bytes { at(row_bytes + pixel_bytes) } else { None }.unwrap_or(0);
            let guess = match kind {
                1 => left,
                2 => up,
                3 => ((u16::from(left) + u16::from(up)) / 2) as u8,
                4 => paeth(left, up, corner),
                _ => 0,
            };
            output.push(byte.wrapping_add(guess));
        }
    }
    output
}

fn paeth(left: u8, up: u8, corner: u8) -> u8 {
    let sum = i16::from(left) + i16::from(up) - i16::from(corner);
    let distance = |byte: u8| (sum - i16::from(byte)).abs();
    match (distance(left), distance(up), distance(corner)) {
        (a, b, c) if a <= b && a <= c => left,
        (_, b, c) if b <= c => up,
        _ => corner,
    }
}
