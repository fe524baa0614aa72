//! What the writer refuses, and that what it writes reads back the same.

mod common;

use std::io::{self, Write};

use proptest::prelude::*;
use rawrz_gguf::{
    Gguf, Header, MAX_ARRAY_DEPTH, TensorType, Value, ValueType, WriteError, WriteValue, Writer,
};

fn one_tensor() -> Header<'static> {
    let mut header = Header::new();
    header.add_tensor("w", TensorType::F32, &[4]).unwrap();
    header
}

fn started(header: &Header<'_>) -> Writer<Vec<u8>> {
    Writer::start(Vec::new(), header).unwrap()
}

// ---- refusals ----

#[test]
fn key_lengths() {
    let mut header = Header::new();
    assert!(matches!(header.set("", 1u8), Err(WriteError::KeyLength { len_bytes: 0 })));
    let long = "k".repeat(65_536);
    assert!(matches!(header.set(long.clone(), 1u8), Err(WriteError::KeyLength { len_bytes: 65_536 })));
    header.set(long[1..].to_owned(), 1u8).unwrap();
}

#[test]
fn key_twice() {
    let mut header = Header::new();
    header.set("a", 1u8).unwrap();
    assert!(matches!(header.set("a", 2u8), Err(WriteError::DuplicateKey { key }) if key == "a"));
}

#[test]
fn too_many_keys() {
    let mut header = Header::new();
    for i in 0..rawrz_gguf::MAX_KEYS {
        header.set(i.to_string(), true).unwrap();
    }
    assert!(matches!(header.set("a", true), Err(WriteError::TooMany { .. })));
}

#[test]
fn element_that_is_no_array() {
    let mut header = Header::new();
    let mixed = vec![WriteValue::U8s(&[1]), WriteValue::from(1u8)];
    assert!(matches!(header.set("a", mixed), Err(WriteError::NotAnArray { key }) if key == "a"));
}

#[test]
fn arrays_too_deep() {
    let nested = |depth| (1..depth).fold(WriteValue::U8s(&[1]), |inner, _| WriteValue::Arrays(vec![inner]));
    let mut header = Header::new();
    header.set("deepest", nested(MAX_ARRAY_DEPTH)).unwrap();
    assert!(matches!(
        header.set("a", nested(MAX_ARRAY_DEPTH + 1)),
        Err(WriteError::TooDeep { key }) if key == "a"
    ));
    // Depth counts through arrays borrowed from a file.
    let gguf = Gguf::from_vec(started(&header).finish().unwrap()).unwrap();
    let array = gguf.get_array("deepest").unwrap().unwrap();
    let mut header = Header::new();
    assert!(matches!(header.set("a", vec![WriteValue::from(array)]), Err(WriteError::TooDeep { .. })));
    header.set("a", array).unwrap();
}

#[test]
fn alignments() {
    let mut header = Header::new();
    for bad in [WriteValue::from(0u32), 24u32.into(), 64u64.into(), "32".into()] {
        assert!(matches!(header.set("general.alignment", bad), Err(WriteError::Alignment)));
    }
    header.set("general.alignment", 256u32).unwrap();
    header.add_tensor("w", TensorType::I8, &[1]).unwrap();
    let mut writer = started(&header);
    writer.write_tensor("w", &[7]).unwrap();
    let file = writer.finish().unwrap();
    assert_eq!(file.len(), 512);
    assert_eq!(file[256], 7);
    assert_eq!(Gguf::from_vec(file).unwrap().alignment(), 256);
}

#[test]
fn tensor_name_llama_cpp_would_refuse() {
    let mut header = Header::new();
    let long = "n".repeat(64);
    assert!(matches!(
        header.add_tensor(long.as_str(), TensorType::F32, &[1]),
        Err(WriteError::NameTooLong { name }) if name == long
    ));
    header.add_tensor(&long[1..], TensorType::F32, &[1]).unwrap();
}

#[test]
fn tensor_twice() {
    let error = one_tensor().add_tensor("w", TensorType::F32, &[4]);
    assert!(matches!(error, Err(WriteError::DuplicateTensor { name }) if name == "w"));
}

#[test]
fn impossible_shapes() {
    let mut header = Header::new();
    for (ty, dims) in [
        (TensorType::F32, &[1, 1, 1, 1, 1][..]),
        (TensorType::F32, &[1 << 32, 1 << 31]),
        (TensorType::F64, &[1 << 62]),
    ] {
        let error = header.add_tensor("w", ty, dims);
        assert!(matches!(error, Err(WriteError::BadShape { .. })), "{dims:?}");
    }
    assert!(matches!(
        header.add_tensor("w", TensorType::Q4K, &[128]),
        Err(WriteError::RowNotWholeBlocks { row_len: 128, .. })
    ));
}

#[test]
fn tensors_too_large_together() {
    let mut header = Header::new();
    for name in ["a", "b", "c"] {
        header.add_tensor(name, TensorType::I8, &[1 << 62]).unwrap();
    }
    assert!(matches!(
        Writer::start(io::sink(), &header),
        Err(WriteError::BadShape { name, .. }) if name == "b"
    ));
}

#[test]
fn data_out_of_order() {
    let mut header = one_tensor();
    header.add_tensor("v", TensorType::F32, &[4]).unwrap();
    let mut writer = started(&header);
    assert!(matches!(
        writer.write_tensor("v", &[0; 16]),
        Err(WriteError::OutOfOrder { expected: Some(expected), found }) if expected == "w" && found == "v"
    ));
    writer.write_tensor("w", &[0; 16]).unwrap();
    writer.write_tensor("v", &[0; 16]).unwrap();
    assert!(matches!(writer.write_tensor("w", &[0; 16]), Err(WriteError::OutOfOrder { expected: None, .. })));
}

#[test]
fn data_before_a_tensor() {
    let error = started(&one_tensor()).write_data(&[1]);
    assert!(matches!(error, Err(WriteError::NoTensor)));
}

#[test]
fn data_too_long() {
    let header = one_tensor();
    let mut writer = started(&header);
    writer.begin_tensor("w").unwrap();
    writer.write_data(&[0; 10]).unwrap();
    assert!(matches!(
        writer.write_data(&[0; 7]),
        Err(WriteError::TooLong { name, excess_bytes: 1 }) if name == "w"
    ));
    // Nothing of it was written, so the tensor can still be completed.
    writer.write_data(&[0; 6]).unwrap();
    assert!(matches!(writer.write_data(&[0]), Err(WriteError::TooLong { .. })));
    assert!(Gguf::from_vec(writer.finish().unwrap()).is_ok());
}

#[test]
fn data_too_short() {
    let mut header = one_tensor();
    header.add_tensor("v", TensorType::F32, &[4]).unwrap();
    let short = |result: Result<(), WriteError>, missing: u64| {
        assert!(matches!(
            result,
            Err(WriteError::TooShort { name, missing_bytes }) if name == "w" && missing_bytes == missing
        ));
    };
    short(started(&header).write_tensor("w", &[0; 15]), 1);
    let mut writer = started(&header);
    writer.begin_tensor("w").unwrap();
    writer.write_data(&[0; 5]).unwrap();
    short(writer.begin_tensor("v"), 11);
    short(writer.finish().map(drop), 11);
    short(started(&header).finish().map(drop), 16);
}

/// Accepts some bytes and then is full.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0 -= bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn output_that_refuses() {
    let header = one_tensor();
    let header_bytes = header.header_len().next_multiple_of(32) as usize;
    assert!(matches!(Writer::start(Full(10), &header), Err(WriteError::Io(_))));
    let mut writer = Writer::start(Full(header_bytes), &header).unwrap();
    assert!(matches!(writer.write_tensor("w", &[0; 16]), Err(WriteError::Io(_))));
}

// ---- round trips ----

#[derive(Debug, Clone)]
enum Owned {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    Str(String),
    U8s(Vec<u8>),
    I8s(Vec<i8>),
    U16s(Vec<u16>),
    I16s(Vec<i16>),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    U64s(Vec<u64>),
    I64s(Vec<i64>),
    F32s(Vec<f32>),
    F64s(Vec<f64>),
    Bools(Vec<bool>),
    Strs(Vec<String>),
    Arrays(Vec<Owned>),
}

impl Owned {
    fn to_write(&self) -> WriteValue<'_> {
        match self {
            Owned::U8(v) => (*v).into(),
            Owned::I8(v) => (*v).into(),
            Owned::U16(v) => (*v).into(),
            Owned::I16(v) => (*v).into(),
            Owned::U32(v) => (*v).into(),
            Owned::I32(v) => (*v).into(),
            Owned::U64(v) => (*v).into(),
            Owned::I64(v) => (*v).into(),
            Owned::F32(v) => (*v).into(),
            Owned::F64(v) => (*v).into(),
            Owned::Bool(v) => (*v).into(),
            Owned::Str(v) => v.into(),
            Owned::U8s(v) => v[..].into(),
            Owned::I8s(v) => v[..].into(),
            Owned::U16s(v) => v[..].into(),
            Owned::I16s(v) => v[..].into(),
            Owned::U32s(v) => v[..].into(),
            Owned::I32s(v) => v[..].into(),
            Owned::U64s(v) => v[..].into(),
            Owned::I64s(v) => v[..].into(),
            Owned::F32s(v) => v[..].into(),
            Owned::F64s(v) => v[..].into(),
            Owned::Bools(v) => v[..].into(),
            Owned::Strs(v) => v[..].into(),
            Owned::Arrays(v) => v.iter().map(Owned::to_write).collect::<Vec<_>>().into(),
        }
    }

    fn of(value: Value<'_>) -> Owned {
        let Value::Array(array) = value else {
            return match value {
                Value::U8(v) => Owned::U8(v),
                Value::I8(v) => Owned::I8(v),
                Value::U16(v) => Owned::U16(v),
                Value::I16(v) => Owned::I16(v),
                Value::U32(v) => Owned::U32(v),
                Value::I32(v) => Owned::I32(v),
                Value::U64(v) => Owned::U64(v),
                Value::I64(v) => Owned::I64(v),
                Value::F32(v) => Owned::F32(v),
                Value::F64(v) => Owned::F64(v),
                Value::Bool(v) => Owned::Bool(v),
                Value::Str(v) => Owned::Str(v.into()),
                Value::Array(_) => unreachable!(),
            };
        };
        macro_rules! collect {
            ($variant:ident) => {
                array
                    .iter()
                    .map(|value| match value {
                        Value::$variant(v) => v.to_owned(),
                        other => panic!("{other:?}"),
                    })
                    .collect()
            };
        }
        match array.element_type() {
            ValueType::U8 => Owned::U8s(array.u8s().unwrap().to_vec()),
            ValueType::I8 => Owned::I8s(collect!(I8)),
            ValueType::U16 => Owned::U16s(collect!(U16)),
            ValueType::I16 => Owned::I16s(collect!(I16)),
            ValueType::U32 => Owned::U32s(array.u32s().unwrap().collect()),
            ValueType::I32 => Owned::I32s(array.i32s().unwrap().collect()),
            ValueType::U64 => Owned::U64s(collect!(U64)),
            ValueType::I64 => Owned::I64s(collect!(I64)),
            ValueType::F32 => Owned::F32s(array.f32s().unwrap().collect()),
            ValueType::F64 => Owned::F64s(collect!(F64)),
            ValueType::Bool => Owned::Bools(array.bools().unwrap().collect()),
            ValueType::Str => Owned::Strs(array.strings().unwrap().map(str::to_owned).collect()),
            ValueType::Array => Owned::Arrays(array.iter().map(Owned::of).collect()),
        }
    }
}

fn arrays() -> impl Strategy<Value = Owned> {
    use prop::collection::vec;
    let flat = prop_oneof![
        vec(any::<u8>(), 0..9).prop_map(Owned::U8s),
        vec(any::<i8>(), 0..9).prop_map(Owned::I8s),
        vec(any::<u16>(), 0..9).prop_map(Owned::U16s),
        vec(any::<i16>(), 0..9).prop_map(Owned::I16s),
        vec(any::<u32>(), 0..9).prop_map(Owned::U32s),
        vec(any::<i32>(), 0..9).prop_map(Owned::I32s),
        vec(any::<u64>(), 0..9).prop_map(Owned::U64s),
        vec(any::<i64>(), 0..9).prop_map(Owned::I64s),
        vec(any::<f32>(), 0..9).prop_map(Owned::F32s),
        vec(any::<f64>(), 0..9).prop_map(Owned::F64s),
        vec(any::<bool>(), 0..9).prop_map(Owned::Bools),
        vec(any::<String>(), 0..9).prop_map(Owned::Strs),
    ];
    flat.prop_recursive(4, 32, 4, |inner| vec(inner, 0..4).prop_map(Owned::Arrays))
}

fn values() -> impl Strategy<Value = Owned> {
    prop_oneof![
        any::<u8>().prop_map(Owned::U8),
        any::<i8>().prop_map(Owned::I8),
        any::<u16>().prop_map(Owned::U16),
        any::<i16>().prop_map(Owned::I16),
        any::<u32>().prop_map(Owned::U32),
        any::<i32>().prop_map(Owned::I32),
        any::<u64>().prop_map(Owned::U64),
        any::<i64>().prop_map(Owned::I64),
        any::<f32>().prop_map(Owned::F32),
        any::<f64>().prop_map(Owned::F64),
        any::<bool>().prop_map(Owned::Bool),
        any::<String>().prop_map(Owned::Str),
        arrays(),
    ]
}

fn tensors() -> impl Strategy<Value = Vec<(String, TensorType, Vec<u64>, u8)>> {
    let shape = (0..TensorType::ALL.len(), 0u64..3, prop::collection::vec(0u64..4, 0..4));
    let tensor = (shape, any::<u8>()).prop_map(|((ty, n_blocks, mut dims), fill)| {
        let ty = TensorType::ALL[ty];
        dims.insert(0, n_blocks * ty.block_len() as u64);
        (ty, dims, fill)
    });
    prop::collection::btree_map("[a-z0-9._]{0,63}", tensor, 0..6).prop_map(|tensors| {
        tensors.into_iter().map(|(name, (ty, dims, fill))| (name, ty, dims, fill)).collect()
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        keys in prop::collection::btree_map("[a-z.\u{e9}]{1,20}", values(), 0..8),
        log2_alignment in prop::option::of(0u32..9),
        tensors in tensors(),
        chunk_bytes in 1usize..50,
    ) {
        let mut header = Header::new();
        if let Some(log2) = log2_alignment {
            header.set("general.alignment", 1u32 << log2).unwrap();
        }
        for (key, value) in &keys {
            header.set(key.as_str(), value.to_write()).unwrap();
        }
        for (name, ty, dims, _) in &tensors {
            header.add_tensor(name, *ty, dims).unwrap();
        }
        let data = |ty: &TensorType, dims: &[u64], fill: u8| {
            let n_blocks = dims.iter().product::<u64>() as usize / ty.block_len();
            vec![fill; n_blocks * ty.block_bytes()]
        };
        let mut writer = Writer::start(Vec::new(), &header).unwrap();
        for (name, ty, dims, fill) in &tensors {
            writer.begin_tensor(name).unwrap();
            for chunk in data(ty, dims, *fill).chunks(chunk_bytes) {
                writer.write_data(chunk).unwrap();
            }
        }
        let file = writer.finish().unwrap();

        let gguf = Gguf::from_vec(file.clone()).unwrap();
        prop_assert_eq!(gguf.header_len(), header.header_len());
        prop_assert_eq!(gguf.n_keys(), keys.len() + usize::from(log2_alignment.is_some()));
        for (key, value) in &keys {
            let read = Owned::of(gguf.get(key).unwrap());
            // By text, so that NaN equals NaN.
            prop_assert_eq!(format!("{read:?}"), format!("{value:?}"));
        }
        let in_order: Vec<&str> = gguf.tensors().map(|tensor| tensor.name).collect();
        let declared: Vec<&str> = tensors.iter().map(|tensor| tensor.0.as_str()).collect();
        prop_assert_eq!(in_order, declared);
        for (name, ty, dims, fill) in &tensors {
            let tensor = gguf.tensor(name).unwrap();
            prop_assert_eq!((tensor.ty, tensor.dims.as_slice()), (*ty, &dims[..]));
            prop_assert!(tensor.file_offset.is_multiple_of(gguf.alignment()));
            let (start, len) = (tensor.file_offset as usize, tensor.len_bytes as usize);
            prop_assert_eq!(&file[start..start + len], &data(ty, dims, *fill)[..]);
        }

        // A copy through the reader is the same file.
        let mut copy = Writer::start(Vec::new(), &Header::copy_of(&gguf).unwrap()).unwrap();
        for tensor in gguf.tensors() {
            let (start, len) = (tensor.file_offset as usize, tensor.len_bytes as usize);
            copy.write_tensor(tensor.name, &file[start..start + len]).unwrap();
        }
        prop_assert_eq!(copy.finish().unwrap(), file);
    }
}
