//! A file cut at any byte, or changed at any byte, is refused or read, and never panics.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rawrz_gguf::{Array, Bytes, Error, Gguf, Header, TensorType, Value, WriteValue, Writer};

/// A file with every kind of field.
fn rich() -> Vec<u8> {
    let mut header = Header::new();
    let mut set = |key: &'static str, value: WriteValue<'static>| header.set(key, value).unwrap();
    set("general.alignment", 16u32.into());
    set("u8", 1u8.into());
    set("i8", (-1i8).into());
    set("u16", 2u16.into());
    set("i16", (-2i16).into());
    set("i32", (-3i32).into());
    set("u64", u64::MAX.into());
    set("i64", i64::MIN.into());
    set("f32", 1.5f32.into());
    set("f64", 2.5f64.into());
    set("bool", true.into());
    set("text", "grüße".into());
    set("texts", (&["a", "", "żółw"][..]).into());
    set("f32s", (&[1.0f32, 2.0][..]).into());
    set("bools", (&[true, false][..]).into());
    let nested = vec![
        WriteValue::U16s(&[1, 2, 3]),
        WriteValue::Arrays(vec![WriteValue::Strs(&["x", "yz"]), WriteValue::I64s(&[-1])]),
    ];
    set("nested", nested.into());
    header.add_tensor("a", TensorType::F16, &[4, 3]).unwrap();
    header.add_tensor("b", TensorType::Q8_0, &[32]).unwrap();
    let mut writer = Writer::start(Vec::new(), &header).unwrap();
    writer.write_tensor("a", &[1; 24]).unwrap();
    writer.write_tensor("b", &[2; 34]).unwrap();
    writer.finish().unwrap()
}

/// Reads everything a caller can reach; the sum keeps it from being optimized away.
fn walk(gguf: &Gguf) -> usize {
    fn array(array: &Array<'_>) -> usize {
        let mut sum = array.len() + array.depth() + array.raw_bytes().len();
        sum += array.iter().map(|value| one(&value)).sum::<usize>();
        sum += array.strings().map_or(0, |s| s.map(str::len).sum());
        sum += array.strings().map_or(0, |s| s.spans().map(|s| s.len()).sum());
        sum += array.f32s().map_or(0, |v| v.count()) + array.u32s().map_or(0, |v| v.count());
        sum + array.integers().map_or(0, |v| v.count())
    }
    fn one(value: &Value<'_>) -> usize {
        match value {
            Value::Array(a) => array(a),
            Value::Str(text) => text.len(),
            other => format!("{other:?}").len(),
        }
    }
    let mut sum = gguf.n_keys() + gguf.n_tensors() + gguf.header_len() as usize;
    for (key, value) in gguf.metadata() {
        sum += key.len() + one(&value);
        sum += gguf.get(key).map_or(0, |value| one(&value));
    }
    for tensor in gguf.tensors() {
        sum += tensor.name.len() + gguf.tensor(tensor.name).map_or(0, |t| t.dims.n_dims());
        assert!(tensor.file_offset + tensor.len_bytes <= gguf.file_len());
    }
    sum
}

#[test]
fn a_file_cut_at_any_byte_is_refused() {
    let file = rich();
    let header_len = Gguf::from_vec(file.clone()).unwrap().header_len() as usize;
    let last_byte =
        Gguf::from_vec(file.clone()).unwrap().tensors().map(|t| t.file_offset + t.len_bytes).max().unwrap()
            as usize;
    for cut in 0..last_byte {
        let error = Gguf::from_vec(file[..cut].to_vec()).unwrap_err();
        let expected = match &error {
            Error::Truncated { offset, .. } => *offset <= cut as u64,
            // The counts no longer fit the bytes that are left.
            Error::CountTooLarge { .. } => cut < header_len,
            Error::OutOfFile { end, .. } => cut >= header_len && *end > cut as u64,
            _ => false,
        };
        assert!(expected, "cut at {cut}: {error}");
    }
    // Only the padding after the last tensor may be missing.
    assert!(Gguf::from_vec(file[..last_byte].to_vec()).is_ok());
}

#[test]
fn a_header_cut_at_any_byte_asks_for_more() {
    let file = rich();
    let file_len = file.len() as u64;
    let parse = |cut: usize| Gguf::parse(Arc::new(file[..cut].to_vec()), file_len);
    let header_len = parse(file.len()).unwrap().header_len() as usize;
    for cut in 0..header_len {
        let error = parse(cut).unwrap_err();
        assert!(
            matches!(&error, Error::Truncated { offset, needed_bytes, .. }
                if offset + needed_bytes > cut as u64),
            "cut at {cut}: {error}"
        );
    }
    assert!(parse(header_len).is_ok(), "tensor data is not needed");
}

#[test]
fn a_file_changed_at_any_byte_never_panics() {
    let file = rich();
    for at in 0..file.len() {
        for value in [0x00, 0x01, 0x09, 0x7f, 0x80, 0xff] {
            let mut changed = file.clone();
            changed[at] = value;
            if let Ok(gguf) = Gguf::from_vec(changed) {
                walk(&gguf);
            }
        }
    }
}

/// Bytes that change after some number of looks at them, as a mapped file can.
struct Changing {
    before: Vec<u8>,
    after: Vec<u8>,
    looks_left: AtomicUsize,
}

impl AsRef<[u8]> for Changing {
    fn as_ref(&self) -> &[u8] {
        let left = self
            .looks_left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(1)));
        if left == Ok(0) { &self.after } else { &self.before }
    }
}

#[test]
fn bytes_that_change_underneath_never_panic() {
    let before = rich();
    let len = before.len();
    let mut huge_lengths = before.clone();
    for at in (24..len).step_by(3) {
        huge_lengths[at] = 0xff;
    }
    // Arrays of arrays of arrays .., far deeper than a stack.
    let deep = [9, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0].repeat(len / 12 + 1)[..len].to_vec();
    let shorter = before[..40].to_vec();
    for after in [huge_lengths, deep, shorter, vec![0xff; len], vec![], vec![0; len]] {
        for looks in 1..60 {
            let bytes: Bytes = Arc::new(Changing {
                before: before.clone(),
                after: after.clone(),
                looks_left: AtomicUsize::new(looks),
            });
            let gguf = Gguf::parse(bytes, len as u64).unwrap();
            walk(&gguf);
        }
    }
}
