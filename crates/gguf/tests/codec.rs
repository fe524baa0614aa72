//! What the codec refuses, that it survives any bits, and that encoding and decoding fit together.

use proptest::prelude::*;
use rawrz_gguf::quant::tables::{FP4_VALUES, IQ1_GRID, IQ4_VALUES, SIGNS};
use rawrz_gguf::quant::{EncodeError, can_encode, encode_row};
use rawrz_gguf::{DecodeError, TensorType, decode_row};

#[test]
fn output_that_is_no_whole_number_of_blocks() {
    assert_eq!(
        decode_row(TensorType::Q4_0, &[0; 18], &mut [0.0; 31]),
        Err(DecodeError::RowNotWholeBlocks { ty: TensorType::Q4_0, row_len: 31 })
    );
}

#[test]
fn blocks_of_another_length() {
    for found_bytes in [17, 19, 36] {
        assert_eq!(
            decode_row(TensorType::Q4_0, &vec![0; found_bytes], &mut [0.0; 32]),
            Err(DecodeError::WrongLength {
                ty: TensorType::Q4_0,
                row_len: 32,
                expected_bytes: 18,
                found_bytes
            })
        );
    }
    assert_eq!(decode_row(TensorType::Q4_0, &[], &mut []), Ok(()));
}

#[test]
fn types_without_an_encoder() {
    for &ty in TensorType::ALL.iter().filter(|ty| !can_encode(**ty)) {
        let (weights, mut out) = (vec![0.0; ty.block_len()], vec![0; ty.block_bytes()]);
        assert_eq!(encode_row(ty, &weights, &mut out), Err(EncodeError::Unsupported { ty }));
    }
}

#[test]
fn rows_that_do_not_fit_cannot_be_encoded() {
    let error = encode_row(TensorType::Q8_0, &[0.0; 33], &mut [0; 34]);
    assert!(matches!(error, Err(EncodeError::Row(DecodeError::RowNotWholeBlocks { .. }))));
    let error = encode_row(TensorType::Q8_0, &[0.0; 32], &mut [0; 33]);
    assert!(matches!(error, Err(EncodeError::Row(DecodeError::WrongLength { .. }))));
}

#[test]
fn tables_have_the_shape_of_the_format() {
    assert!(IQ4_VALUES.is_sorted());
    assert!(SIGNS.iter().all(|signs| signs.count_ones().is_multiple_of(2)));
    assert_eq!(FP4_VALUES.iter().map(|&v| i32::from(v)).sum::<i32>(), 0);
    let ternary = |grid: &u64| grid.to_le_bytes().iter().all(|&b| (-1..=1).contains(&(b as i8)));
    assert!(IQ1_GRID.iter().all(ternary));
}

proptest! {
    #[test]
    fn any_block_decodes(id in 0..TensorType::ALL.len(), seed in any::<u64>()) {
        let ty = TensorType::ALL[id];
        let mut state = seed | 1;
        let blocks: Vec<u8> = (0..3 * ty.block_bytes())
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect();
        let mut out = vec![0.0; 3 * ty.block_len()];
        decode_row(ty, &blocks, &mut out).unwrap();
        // Blocks do not depend on each other.
        let mut last = vec![0.0; ty.block_len()];
        decode_row(ty, &blocks[2 * ty.block_bytes()..], &mut last).unwrap();
        let bits = |weights: &[f32]| weights.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&out[2 * ty.block_len()..]), bits(&last));
    }

    #[test]
    fn any_bits_encode(id in 0..TensorType::ALL.len(), bits in prop::collection::vec(any::<u32>(), 256)) {
        let ty = TensorType::ALL[id];
        prop_assume!(can_encode(ty));
        let weights: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        let mut out = vec![0; ty.row_bytes(256).unwrap()];
        encode_row(ty, &weights, &mut out).unwrap();
    }

    /// The error is at most half a step, and for the 4- and 5-bit symmetric types a whole one at the far end.
    #[test]
    fn encoding_loses_at_most_a_step(scale in 1e-3f32..1e3, weights in prop::collection::vec(-1.0f32..1.0, 256)) {
        let weights: Vec<f32> = weights.iter().map(|w| w * scale).collect();
        for (ty, step) in [
            (TensorType::F32, 0.0),
            (TensorType::F16, 0.002),
            (TensorType::BF16, 0.01),
            (TensorType::Q8_0, 1.0 / 127.0),
            (TensorType::Q8_1, 1.0 / 127.0),
            (TensorType::Q8K, 1.0 / 127.0),
            (TensorType::Q5_0, 1.0 / 15.0),
            (TensorType::Q5_1, 2.0 / 30.0),
            (TensorType::Q4_0, 1.0 / 7.0),
            (TensorType::Q4_1, 2.0 / 14.0),
        ] {
            let mut raw = vec![0; ty.row_bytes(256).unwrap()];
            encode_row(ty, &weights, &mut raw).unwrap();
            let mut back = vec![0.0; 256];
            decode_row(ty, &raw, &mut back).unwrap();
            for (w, b) in weights.iter().zip(&back) {
                prop_assert!((w - b).abs() <= step * scale, "{ty}: {w} became {b}");
            }
        }
    }
}
