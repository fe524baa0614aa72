//! The scalar codec against recordings of `gguf.quants` and llama.cpp (see `golden/record.py`), to the bit.

use rawrz_gguf::quant::{can_encode, encode_row};
use rawrz_gguf::{TensorType, decode_row, removed_name};

/// One record of a golden file: a name and two byte strings.
struct Entry<'a> {
    name: &'a str,
    first: &'a [u8],
    second: &'a [u8],
}

fn entries(mut data: &[u8]) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    while let Some((head, rest)) = data.split_first_chunk::<9>() {
        let size = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap()) as usize;
        let (name, rest) = rest.split_at(head[0].into());
        let (first, rest) = rest.split_at(size(1));
        let (second, rest) = rest.split_at(size(5));
        data = rest;
        let name = std::str::from_utf8(name).unwrap();
        entries.push(Entry { name, first, second });
    }
    assert!(data.is_empty());
    entries
}

fn type_named(name: &str) -> TensorType {
    *TensorType::ALL
        .iter()
        .find(|ty| ty.name().eq_ignore_ascii_case(name))
        .unwrap_or_else(|| panic!("no type {name}"))
}

fn f32s(raw: &[u8]) -> Vec<f32> {
    raw.as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect()
}

fn decode(ty: TensorType, raw: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; raw.len() / ty.block_bytes() * ty.block_len()];
    decode_row(ty, raw, &mut out).unwrap();
    out
}

#[test]
fn decoders_match_the_recordings_bit_for_bit() {
    let entries = entries(include_bytes!("golden/decode.bin"));
    assert_eq!(entries.len(), 30, "24 quantized types, F32, F16, and 4 of ggml");
    for entry in entries {
        let ty = type_named(entry.name);
        let out = decode(ty, entry.first);
        let expected = f32s(entry.second);
        assert_eq!(out.len(), expected.len(), "{ty}");
        for (i, (out, expected)) in out.iter().zip(&expected).enumerate() {
            assert_eq!(out.to_bits(), expected.to_bits(), "{ty} weight {i}: {out} is not {expected}");
        }
    }
}

#[test]
fn types_have_the_names_and_sizes_of_ggml() {
    let mut n_known = 0;
    for line in include_str!("golden/types.txt").lines() {
        let [id, name, block_len, block_bytes] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let id: u32 = id.parse().unwrap();
        let Some(ty) = TensorType::from_id(id) else {
            assert_eq!((name, block_len), ("removed", "0"), "type {id} is unknown");
            assert!(removed_name(id).is_some(), "type {id} is not refused by name");
            continue;
        };
        let found = format!("{} {} {}", ty.name(), ty.block_len(), ty.block_bytes());
        assert_eq!(found, format!("{name} {block_len} {block_bytes}"));
        n_known += 1;
    }
    assert_eq!(n_known, TensorType::ALL.len());
}

/// The generator of `record.py`.
fn splitmix(seed: u64, n_bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut out = Vec::with_capacity(n_bytes + 8);
    while out.len() < n_bytes {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    out.truncate(n_bytes);
    out
}

/// Top bytes of the floating-point scales of a block, from the layouts.
fn scale_tops(ty: TensorType) -> Vec<usize> {
    use rawrz_gguf::quant::layout::*;
    let fields = match ty {
        TensorType::F32 | TensorType::F16 => return vec![ty.block_bytes() - 1],
        TensorType::Q4_0 => vec![q4_0::D],
        TensorType::Q4_1 => vec![q4_1::D, q4_1::M],
        TensorType::Q5_0 => vec![q5_0::D],
        TensorType::Q5_1 => vec![q5_1::D, q5_1::M],
        TensorType::Q8_0 => vec![q8_0::D],
        TensorType::Q8_1 => vec![q8_1::D, q8_1::S],
        TensorType::Q2K => vec![q2_k::D, q2_k::DMIN],
        TensorType::Q3K => vec![q3_k::D],
        TensorType::Q4K => vec![q4_k::D, q4_k::DMIN],
        TensorType::Q5K => vec![q5_k::D, q5_k::DMIN],
        TensorType::Q6K => vec![q6_k::D],
        TensorType::Q8K => vec![q8_k::D],
        TensorType::IQ2XXS => vec![iq2_xxs::D],
        TensorType::IQ2XS => vec![iq2_xs::D],
        TensorType::IQ2S => vec![iq2_s::D],
        TensorType::IQ3XXS => vec![iq3_xxs::D],
        TensorType::IQ3S => vec![iq3_s::D],
        TensorType::IQ1S => vec![iq1_s::D],
        TensorType::IQ1M => vec![iq1_m::SCALES],
        TensorType::IQ4NL => vec![iq4_nl::D],
        TensorType::IQ4XS => vec![iq4_xs::D],
        TensorType::TQ1_0 => vec![tq1_0::D],
        TensorType::TQ2_0 => vec![tq2_0::D],
        TensorType::Q1_0 => vec![q1_0::D],
        TensorType::Q2_0 => vec![q2_0::D],
        _ => vec![],
    };
    fields.iter().map(|field| field.end - 1).collect()
}

#[test]
fn decoders_match_a_hash_over_many_blocks() {
    for (i, line) in include_str!("golden/wide.txt").lines().enumerate() {
        let (name, expected) = line.split_once(' ').unwrap();
        let ty = type_named(name);
        let mut raw = splitmix(3000 + i as u64, 512 * ty.block_bytes());
        for block in raw.chunks_exact_mut(ty.block_bytes()) {
            for top in scale_tops(ty) {
                block[top] &= 0xbf;
            }
        }
        let hash = decode(ty, &raw).iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, weight| {
            (hash ^ u64::from(weight.to_bits())).wrapping_mul(0x0100_0000_01b3)
        });
        assert_eq!(format!("{hash:016x}"), expected, "{ty}");
    }
}

#[test]
fn encoders_match_the_recordings_byte_for_byte() {
    let entries = entries(include_bytes!("golden/encode.bin"));
    let weights = f32s(entries[0].first);
    let mut n_types = 0;
    for entry in &entries[1..] {
        let ty = type_named(entry.name);
        let mut out = vec![0xaa; entry.second.len()];
        encode_row(ty, &weights, &mut out).unwrap();
        let block_bytes = ty.block_bytes();
        for (i, (out, expected)) in out.chunks(block_bytes).zip(entry.second.chunks(block_bytes)).enumerate()
        {
            assert_eq!(out, expected, "{ty} block {i}");
        }
        n_types += 1;
    }
    let known = TensorType::ALL.iter().filter(|ty| can_encode(**ty)).count();
    assert_eq!(n_types, known, "every encoder has a recording");
}

#[test]
fn plain_numbers_decode_by_value() {
    let raw: Vec<u8> = [1.5f64, -1e300, 0.1].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(decode(TensorType::F64, &raw), [1.5, f32::NEG_INFINITY, 0.1]);
    assert_eq!(decode(TensorType::I8, &[0x80, 0x7f]), [-128.0, 127.0]);
    assert_eq!(decode(TensorType::I16, &[0x00, 0x80]), [-32768.0]);
    assert_eq!(decode(TensorType::I32, &[0xff; 4]), [-1.0]);
    assert_eq!(decode(TensorType::I64, &i64::MAX.to_le_bytes()), [9.223_372e18]);
}
