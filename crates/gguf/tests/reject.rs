//! Every way a file can be wrong is refused, with the place and the name.

mod common;

use common::{ARRAY, BOOL, Raw, STR, U8, U32, U64};
use rawrz_gguf::{
    Error, Gguf, MAX_ARRAY_DEPTH, MAX_KEYS, MAX_TENSORS, Name, ShardSet, TensorType, ValueType,
};

fn key(name: &str) -> Name {
    Name::Key(name.into())
}

fn tensor(name: &str) -> Name {
    Name::Tensor(name.into())
}

const F32: u32 = TensorType::F32.id();
const Q4_0: u32 = TensorType::Q4_0.id();
/// Bytes before the first entry: magic, version, two counts.
const FIXED: u64 = 24;

// ---- the fixed fields ----

#[test]
fn more_header_than_file() {
    let bytes = Raw::new(0, 0).0;
    let error = Gguf::parse(std::sync::Arc::new(bytes), 23).unwrap_err();
    assert_eq!(error, Error::HeaderLongerThanFile { header_bytes: 24, file_bytes: 23 });
}

#[test]
fn empty_file() {
    assert_eq!(
        Raw::default().refused(),
        Error::Truncated { offset: 0, what: "the magic", name: Name::Header, needed_bytes: 4, left_bytes: 0 }
    );
}

#[test]
fn bad_magic() {
    let error = Raw(b"GGML".to_vec()).u32(3).refused();
    assert_eq!(error, Error::BadMagic { found: *b"GGML" });
}

#[test]
fn big_endian() {
    for version in [2, 3] {
        let error = Raw::version(u32::swap_bytes(version), 0, 0).refused();
        assert_eq!(error, Error::BigEndian { version });
    }
}

#[test]
fn version_1() {
    assert_eq!(Raw::version(1, 0, 0).refused(), Error::Version1);
}

#[test]
fn versions_never_made() {
    for version in [0, 4, 1000, u32::MAX] {
        assert_eq!(Raw::version(version, 0, 0).refused(), Error::UnsupportedVersion { version });
    }
}

#[test]
fn more_keys_than_bytes() {
    let error = Raw::new(0, 3).bytes(&[0; 14 * 2]).refused();
    assert_eq!(error, Error::CountTooLarge { offset: 16, what: "metadata entries", count: 3, limit: 2 });
}

#[test]
fn more_tensors_than_bytes() {
    let error = Raw::new(u64::MAX, 0).bytes(&[0; 24]).refused();
    assert_eq!(error, Error::CountTooLarge { offset: 8, what: "tensors", count: u64::MAX, limit: 1 });
}

/// The limits hold whatever the file's length, so that a hostile file cannot make the reader take memory.
#[test]
fn counts_beyond_the_limits() {
    let parse = |raw: Raw| Gguf::parse(std::sync::Arc::new(raw.0), u64::MAX).unwrap_err();
    assert_eq!(
        parse(Raw::new(0, MAX_KEYS + 1)),
        Error::CountTooLarge { offset: 16, what: "metadata entries", count: MAX_KEYS + 1, limit: MAX_KEYS }
    );
    assert_eq!(
        parse(Raw::new(MAX_TENSORS + 1, 0)),
        Error::CountTooLarge { offset: 8, what: "tensors", count: MAX_TENSORS + 1, limit: MAX_TENSORS }
    );
}

// ---- metadata ----

#[test]
fn empty_key() {
    assert_eq!(
        Raw::new(0, 1).key("", U8).bytes(&[0; 9]).refused(),
        Error::EmptyKey { offset: FIXED + 8, name: Name::KeyNumber(0) }
    );
}

#[test]
fn key_too_long() {
    let long = "k".repeat(65_536);
    assert_eq!(
        Raw::new(0, 1).key(&long, U8).bytes(&[0]).refused(),
        Error::NameTooLong {
            offset: FIXED,
            name: Name::KeyNumber(0),
            len_bytes: 65_536,
            limit_bytes: 65_535
        }
    );
    let longest = &long[1..];
    assert!(Raw::new(0, 1).key(longest, U8).bytes(&[0]).parse().is_ok());
}

#[test]
fn key_runs_past_the_end() {
    assert_eq!(
        Raw::new(0, 1).u64(100).bytes(b"abcdef").refused(),
        Error::Truncated {
            offset: FIXED + 8,
            what: "the name",
            name: Name::KeyNumber(0),
            needed_bytes: 100,
            left_bytes: 6
        }
    );
}

#[test]
fn key_is_not_utf8() {
    assert_eq!(
        Raw::new(0, 1).text(b"ab\xff").u32(U8).bytes(&[0]).refused(),
        Error::InvalidUtf8 { offset: FIXED + 10, what: "the name", name: Name::KeyNumber(0) }
    );
}

#[test]
fn duplicate_key() {
    let raw = Raw::new(0, 3).key("a", U8).bytes(&[1]).key("b", U8).bytes(&[1]);
    let second = raw.at() + 8;
    assert_eq!(
        raw.key("a", U32).u32(1).refused(),
        Error::DuplicateKey { offset: second, first_offset: FIXED + 8, name: key("a") }
    );
}

#[test]
fn unknown_value_type() {
    for id in [13, 255, u32::MAX] {
        assert_eq!(
            Raw::new(0, 1).key("a", id).u64(0).refused(),
            Error::UnknownValueType { offset: FIXED + 9, name: key("a"), id }
        );
    }
}

#[test]
fn unknown_element_type() {
    assert_eq!(
        Raw::new(0, 1).key("a", ARRAY).array(13, 0).refused(),
        Error::UnknownElementType { offset: FIXED + 13, name: key("a"), id: 13 }
    );
}

#[test]
fn unknown_element_type_of_an_inner_array() {
    let raw = Raw::new(0, 1).key("a", ARRAY).array(ARRAY, 2).array(U8, 0);
    let offset = raw.at();
    assert_eq!(raw.array(99, 0).refused(), Error::UnknownElementType { offset, name: key("a"), id: 99 });
}

#[test]
fn value_runs_past_the_end() {
    assert_eq!(
        Raw::new(0, 1).key("ab", U64).bytes(&[0; 7]).refused(),
        Error::Truncated {
            offset: FIXED + 14,
            what: "the value",
            name: key("ab"),
            needed_bytes: 8,
            left_bytes: 7
        }
    );
}

#[test]
fn text_runs_past_the_end() {
    for len_bytes in [4, u64::MAX] {
        assert_eq!(
            Raw::new(0, 1).key("a", STR).u64(len_bytes).bytes(b"xyz").refused(),
            Error::Truncated {
                offset: FIXED + 21,
                what: "the text",
                name: key("a"),
                needed_bytes: len_bytes,
                left_bytes: 3
            }
        );
    }
}

#[test]
fn text_is_not_utf8() {
    // A lone surrogate, an overlong form, a cut character.
    for bad in [&b"ok\xed\xa0\x80"[..], b"ok\xc0\x80", b"ok\xe2\x82"] {
        assert_eq!(
            Raw::new(0, 1).key("a", STR).text(bad).refused(),
            Error::InvalidUtf8 { offset: FIXED + 13 + 8 + 2, what: "the text", name: key("a") }
        );
    }
}

#[test]
fn text_in_an_array_is_not_utf8() {
    let raw = Raw::new(0, 1).key("a", ARRAY).array(STR, 3).text("fine");
    let offset = raw.at() + 8;
    assert_eq!(
        raw.text(b"\x80").text("fine").refused(),
        Error::InvalidUtf8 { offset, what: "the text", name: key("a") }
    );
}

#[test]
fn text_in_an_array_runs_past_the_end() {
    let raw = Raw::new(0, 1).key("a", ARRAY).array(STR, 2).text("fine");
    let offset = raw.at() + 8;
    assert_eq!(
        raw.u64(1 << 40).refused(),
        Error::Truncated { offset, what: "the text", name: key("a"), needed_bytes: 1 << 40, left_bytes: 0 }
    );
}

#[test]
fn array_runs_past_the_end() {
    assert_eq!(
        Raw::new(0, 1).key("a", ARRAY).array(U32, 3).u64(0).refused(),
        Error::Truncated {
            offset: FIXED + 25,
            what: "the array",
            name: key("a"),
            needed_bytes: 12,
            left_bytes: 8
        }
    );
}

#[test]
fn array_size_overflows() {
    assert_eq!(
        Raw::new(0, 1).key("a", ARRAY).array(U64, u64::MAX / 4).refused(),
        Error::Truncated {
            offset: FIXED + 25,
            what: "the array",
            name: key("a"),
            needed_bytes: u64::MAX,
            left_bytes: 0
        }
    );
}

#[test]
fn array_of_more_texts_than_bytes() {
    assert_eq!(
        Raw::new(0, 1).key("a", ARRAY).array(STR, 1 << 61).u64(0).refused(),
        Error::Truncated {
            offset: FIXED + 25,
            what: "the array",
            name: key("a"),
            needed_bytes: u64::MAX,
            left_bytes: 8
        }
    );
}

#[test]
fn arrays_nest_too_deep() {
    let nested = |depth: usize| {
        let mut raw = Raw::new(0, 1).key("a", ARRAY);
        for _ in 1..depth {
            raw = raw.array(ARRAY, 1);
        }
        raw.array(U8, 0)
    };
    assert!(nested(MAX_ARRAY_DEPTH).parse().is_ok());
    assert_eq!(
        nested(MAX_ARRAY_DEPTH + 1).refused(),
        Error::TooDeep {
            offset: FIXED + 13 + 12 * MAX_ARRAY_DEPTH as u64,
            name: key("a"),
            limit: MAX_ARRAY_DEPTH
        }
    );
    // A bomb: far deeper than any stack.
    assert!(matches!(nested(1_000_000).refused(), Error::TooDeep { .. }));
}

#[test]
fn truth_value_is_neither() {
    assert_eq!(
        Raw::new(0, 1).key("a", BOOL).bytes(&[2]).refused(),
        Error::InvalidBool { offset: FIXED + 13, name: key("a"), value: 2 }
    );
}

#[test]
fn truth_value_in_an_array_is_neither() {
    let raw = Raw::new(0, 1).key("a", ARRAY).array(BOOL, 3);
    assert_eq!(
        raw.bytes(&[0, 1, 255]).refused(),
        Error::InvalidBool { offset: FIXED + 27, name: key("a"), value: 255 }
    );
}

#[test]
fn alignment_of_another_type() {
    let raw = Raw::new(0, 1).key("general.alignment", U64).u64(32);
    assert_eq!(raw.refused(), Error::AlignmentType { offset: FIXED + 8, found: ValueType::U64 });
    let raw = Raw::new(0, 1).key("general.alignment", ARRAY).array(U32, 1).u32(32);
    assert_eq!(raw.refused(), Error::AlignmentType { offset: FIXED + 8, found: ValueType::Array });
}

#[test]
fn alignment_is_no_power_of_two() {
    for alignment in [0, 3, 48, u32::MAX] {
        assert_eq!(
            Raw::new(0, 1).key("general.alignment", U32).u32(alignment).refused(),
            Error::AlignmentNotPowerOfTwo { offset: FIXED + 8, alignment }
        );
    }
}

// ---- the tensor directory ----

#[test]
fn duplicate_tensor() {
    let raw = Raw::new(2, 0).tensor("w", &[8], F32, 0);
    let offset = raw.at();
    assert_eq!(
        raw.tensor("w", &[8], F32, 32).data(64).refused(),
        Error::DuplicateTensor { offset, first_offset: FIXED, name: tensor("w") }
    );
}

#[test]
fn tensor_name_too_long() {
    let long = "n".repeat(65);
    assert_eq!(
        Raw::new(1, 0).tensor(&long, &[8], F32, 0).data(32).refused(),
        Error::NameTooLong { offset: FIXED, name: Name::TensorNumber(0), len_bytes: 65, limit_bytes: 64 }
    );
    let longest = Raw::new(1, 0).tensor(&long[1..], &[8], F32, 0).data(32);
    assert!(longest.parse().is_ok());
}

#[test]
fn tensor_name_is_not_utf8() {
    let raw = Raw::new(1, 0).text(b"\xfe").u32(1).u64(8).u32(F32).u64(0);
    assert_eq!(
        raw.data(32).refused(),
        Error::InvalidUtf8 { offset: FIXED + 8, what: "the name", name: Name::TensorNumber(0) }
    );
}

#[test]
fn too_many_dims() {
    assert_eq!(
        Raw::new(1, 0).tensor("w", &[1; 5], F32, 0).data(32).refused(),
        Error::TooManyDims { offset: FIXED + 9, name: tensor("w"), n_dims: 5 }
    );
    let raw = Raw::new(1, 0).text("w").u32(u32::MAX).bytes(&[0; 64]);
    assert!(matches!(raw.refused(), Error::TooManyDims { n_dims: u32::MAX, .. }));
}

#[test]
fn dims_overflow() {
    // The last hides the excess behind a zero.
    for dims in [vec![1 << 32, 1 << 32], vec![1 << 63], vec![u64::MAX, u64::MAX, 0]] {
        let error = Raw::new(1, 0).tensor("w", &dims, F32, 0).data(32).refused();
        let mut shown = [1; 4];
        shown[..dims.len()].copy_from_slice(&dims);
        assert_eq!(error, Error::TooManyElements { offset: FIXED + 13, name: tensor("w"), dims: shown });
    }
}

#[test]
fn removed_tensor_types() {
    let removed = [
        (4, "q4_2"),
        (5, "q4_3"),
        (31, "q4_0_4_4"),
        (32, "q4_0_4_8"),
        (33, "q4_0_8_8"),
        (36, "iq4_nl_4_4"),
        (37, "iq4_nl_4_8"),
        (38, "iq4_nl_8_8"),
    ];
    for (id, type_name) in removed {
        assert_eq!(
            Raw::new(1, 0).tensor("w", &[256], id, 0).data(256).refused(),
            Error::RemovedTensorType { offset: FIXED + 21, name: tensor("w"), id, type_name }
        );
    }
}

#[test]
fn unknown_tensor_types() {
    for id in [43, 1000, u32::MAX] {
        assert_eq!(
            Raw::new(1, 0).tensor("w", &[256], id, 0).data(256).refused(),
            Error::UnknownTensorType { offset: FIXED + 21, name: tensor("w"), id }
        );
    }
}

#[test]
fn row_is_not_whole_blocks() {
    assert_eq!(
        Raw::new(1, 0).tensor("w", &[48, 32], Q4_0, 0).data(864).refused(),
        Error::RowNotWholeBlocks {
            offset: FIXED + 13,
            name: tensor("w"),
            ty: TensorType::Q4_0,
            row_len: 48,
            block_len: 32
        }
    );
    // A tensor without dimensions is one weight.
    let raw = Raw::new(1, 0).tensor("w", &[], Q4_0, 0).data(864);
    assert!(matches!(raw.refused(), Error::RowNotWholeBlocks { row_len: 1, .. }));
}

#[test]
fn tensor_size_overflows() {
    let f64 = TensorType::F64.id();
    assert_eq!(
        Raw::new(1, 0).tensor("w", &[1 << 61, 2], f64, 0).data(32).refused(),
        Error::ExtentOverflow { offset: FIXED, name: tensor("w") }
    );
}

#[test]
fn tensor_place_overflows() {
    let raw = Raw::new(1, 0).tensor("w", &[8], F32, u64::MAX - 31);
    assert_eq!(raw.data(32).refused(), Error::ExtentOverflow { offset: FIXED, name: tensor("w") });
}

#[test]
fn tensor_end_overflows() {
    let raw = Raw::new(1, 0).tensor("w", &[1 << 60], F32, 3 << 62);
    assert_eq!(raw.data(32).refused(), Error::ExtentOverflow { offset: FIXED, name: tensor("w") });
}

#[test]
fn tensor_is_misaligned() {
    let raw = Raw::new(1, 0).tensor("w", &[8], F32, 16);
    let offset = raw.at() - 8;
    assert_eq!(
        raw.data(64).refused(),
        Error::Misaligned { offset, name: tensor("w"), data_offset: 16, alignment: 32 }
    );
    let raw = Raw::new(1, 1).key("general.alignment", U32).u32(64).tensor("w", &[8], F32, 32);
    assert!(matches!(raw.data(256).refused(), Error::Misaligned { alignment: 64, .. }));
    let raw = Raw::new(1, 1).key("general.alignment", U32).u32(8).tensor("w", &[8], F32, 8);
    assert!(raw.data(256).parse().is_ok());
}

#[test]
fn tensor_runs_past_the_end() {
    let raw = Raw::new(1, 0).tensor("w", &[8], F32, 32).data(63);
    let file_bytes = raw.at();
    assert_eq!(
        raw.clone().refused(),
        Error::OutOfFile { offset: FIXED, name: tensor("w"), end: file_bytes + 1, file_bytes }
    );
    assert!(raw.bytes(&[0]).parse().is_ok());
}

/// The directory is whole but the file ends before the data section starts.
#[test]
fn file_ends_in_the_padding() {
    let raw = Raw::new(1, 0).tensor("w", &[0], F32, 0);
    assert!(matches!(raw.clone().refused(), Error::OutOfFile { .. }));
    assert!(raw.data(0).parse().is_ok());
}

#[test]
fn tensors_overlap() {
    let raw = Raw::new(2, 0).tensor("a", &[16], F32, 0);
    let offset = raw.at();
    let raw = raw.tensor("b", &[8], F32, 32).data(96);
    let data = raw.at() - 96;
    assert_eq!(
        raw.refused(),
        Error::Overlap {
            offset,
            name: tensor("b"),
            start: data + 32,
            other: tensor("a"),
            other_end: data + 64
        }
    );
}

#[test]
fn tensors_overlap_out_of_order() {
    let raw = Raw::new(3, 0).tensor("c", &[8], F32, 64).tensor("a", &[8], F32, 0).tensor("b", &[9], F32, 32);
    assert!(matches!(
        raw.data(256).refused(),
        Error::Overlap { name, other, .. } if name == tensor("c") && other == tensor("b")
    ));
}

#[test]
fn tensors_share_an_extent() {
    let raw = Raw::new(2, 0).tensor("a", &[8], F32, 0).tensor("b", &[8], F32, 0);
    assert!(matches!(raw.data(32).refused(), Error::Overlap { .. }));
}

/// Order and gaps are free, and tensors without weights overlap nothing.
#[test]
fn tensors_out_of_order_are_fine() {
    let gguf = Raw::new(4, 0)
        .tensor("c", &[8], F32, 128)
        .tensor("a", &[8], F32, 0)
        .tensor("none", &[0, 8], F32, 0)
        .tensor("b", &[8], F32, 32)
        .data(160)
        .parse()
        .unwrap();
    let place = |name: &str| gguf.tensor(name).unwrap().file_offset - gguf.data_offset();
    assert_eq!([place("a"), place("b"), place("c")], [0, 32, 128]);
    assert_eq!(gguf.tensor("none").unwrap().len_bytes, 0);
}

/// Found by fuzzing: the row of a tensor without rows is as long as it likes, so nobody may reserve room for it.
#[test]
fn an_empty_tensor_may_have_a_long_row() {
    let gguf = Raw::new(1, 0).tensor("w", &[1 << 50, 0], F32, 0).data(0).parse().unwrap();
    let empty = gguf.tensor("w").unwrap();
    assert_eq!((empty.len_bytes, empty.dims.row_len(), empty.dims.n_rows()), (0, 1 << 50, 0));
}

// ---- typed getters ----

#[test]
fn value_of_another_type() {
    let gguf = Raw::new(0, 1).key("a", STR).text("x").parse().unwrap();
    let wrong =
        |expected| Error::WrongType { offset: FIXED + 13, name: key("a"), expected, found: ValueType::Str };
    assert_eq!(gguf.get_u32("a"), Err(wrong("u32")));
    assert_eq!(gguf.get_u64("a"), Err(wrong("u64")));
    assert_eq!(gguf.get_i32("a"), Err(wrong("i32")));
    assert_eq!(gguf.get_f32("a"), Err(wrong("f32")));
    assert_eq!(gguf.get_bool("a"), Err(wrong("bool")));
    assert_eq!(gguf.get_array("a"), Err(wrong("array")));
    let gguf = Raw::new(0, 1).key("a", U8).bytes(&[1]).parse().unwrap();
    assert!(matches!(gguf.get_str("a"), Err(Error::WrongType { found: ValueType::U8, .. })));
}

#[test]
fn integer_does_not_fit() {
    let gguf = Raw::new(0, 1).key("a", U64).u64(1 << 32).parse().unwrap();
    assert_eq!(gguf.get_u64("a"), Ok(Some(1 << 32)));
    assert_eq!(
        gguf.get_u32("a"),
        Err(Error::OutOfRange { offset: FIXED + 13, name: key("a"), expected: "u32", value: 1 << 32 })
    );
}

// ---- shards ----

fn shard(no: Option<u32>, count: Option<u32>, total: Option<u32>, name: &str) -> Gguf {
    let keys = [("split.no", no), ("split.count", count), ("split.tensors.count", total)];
    let mut raw = Raw::new(1, keys.iter().filter(|key| key.1.is_some()).count() as u64);
    for (key, value) in keys {
        if let Some(value) = value {
            raw = raw.key(key, U32).u32(value);
        }
    }
    raw.tensor(name, &[8], F32, 0).data(32).parse().unwrap()
}

#[test]
fn no_shards() {
    assert_eq!(ShardSet::new(vec![]).unwrap_err(), Error::NoShards);
}

#[test]
fn shard_count_differs() {
    let one_of_two = shard(Some(0), Some(2), Some(2), "a");
    assert_eq!(
        ShardSet::new(vec![one_of_two]).unwrap_err(),
        Error::ShardCount { position: 0, declared: 2, given: 1 }
    );
    let plain = || shard(None, None, None, "a");
    assert!(ShardSet::new(vec![plain()]).is_ok());
    assert!(matches!(
        ShardSet::new(vec![plain(), plain()]).unwrap_err(),
        Error::ShardCount { declared: 1, given: 2, .. }
    ));
}

#[test]
fn shards_out_of_order() {
    let set = [1, 0].map(|no| shard(Some(no), Some(2), Some(2), ["a", "b"][no as usize]));
    assert_eq!(ShardSet::new(set.into()).unwrap_err(), Error::ShardOutOfOrder { position: 0, found: 1 });
    let second_alone = shard(Some(1), None, None, "a");
    assert!(matches!(ShardSet::new(vec![second_alone]).unwrap_err(), Error::ShardOutOfOrder { .. }));
}

#[test]
fn shard_number_missing() {
    let set = vec![shard(Some(0), Some(2), Some(2), "a"), shard(None, Some(2), Some(2), "b")];
    assert_eq!(ShardSet::new(set).unwrap_err(), Error::ShardNumberMissing { position: 1 });
}

#[test]
fn shard_tensor_count_differs() {
    let set = [0, 1].map(|no| shard(Some(no), Some(2), Some(3), ["a", "b"][no as usize]));
    assert_eq!(ShardSet::new(set.into()).unwrap_err(), Error::ShardTensorCount { declared: 3, found: 2 });
}

#[test]
fn tensor_in_two_shards() {
    let set = [0, 1].map(|no| shard(Some(no), Some(2), Some(2), "same"));
    assert!(matches!(
        ShardSet::new(set.into()).unwrap_err(),
        Error::ShardDuplicateTensor { name, first: 0, second: 1, offset }
            if name == tensor("same") && offset > FIXED
    ));
}

#[test]
fn shard_key_of_another_type() {
    let raw = Raw::new(0, 1).key("split.count", STR).text("1");
    assert!(matches!(
        ShardSet::new(vec![raw.parse().unwrap()]).unwrap_err(),
        Error::WrongType { name, .. } if name == key("split.count")
    ));
}

// ---- the messages ----

#[test]
fn hostile_names_are_shown_short_and_escaped() {
    let hostile = format!("\u{1b}[2J\n{}", "é".repeat(500));
    let error = Raw::new(0, 1).key(&hostile, 77).u64(0).refused().to_string();
    assert!(error.contains("\\u{1b}[2J\\n"), "{error}");
    assert!(error.len() < 300, "{error}");
}
