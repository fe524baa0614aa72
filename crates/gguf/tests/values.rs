//! Reading metadata: every type, the typed getters, and both versions.

mod common;

use common::{ARRAY, Raw, STR, U8};
use rawrz_gguf::{Gguf, Header, Value, ValueType, WriteValue, Writer};

fn file(header: &Header<'_>) -> Gguf {
    let file = Writer::start(Vec::new(), header).unwrap().finish().unwrap();
    Gguf::from_vec(file).unwrap()
}

#[test]
fn integers_of_any_type_that_fit() {
    let mut header = Header::new();
    header.set("u8", 200u8).unwrap();
    header.set("i8", -5i8).unwrap();
    header.set("i64", 7i64).unwrap();
    header.set("u64", u64::MAX).unwrap();
    let gguf = file(&header);
    assert_eq!(gguf.get_u32("u8"), Ok(Some(200)));
    assert_eq!(gguf.get_i32("i8"), Ok(Some(-5)));
    assert_eq!(gguf.get_u64("i64"), Ok(Some(7)));
    assert_eq!(gguf.get_u64("u64"), Ok(Some(u64::MAX)));
    assert!(gguf.get_u32("i8").is_err());
    assert!(gguf.get_i32("u64").is_err());
    assert_eq!(gguf.get_u32("absent"), Ok(None));
    assert_eq!(gguf.get_str("absent"), Ok(None));
}

#[test]
fn floats_bools_and_text() {
    let mut header = Header::new();
    header.set("f32", 0.1f32).unwrap();
    header.set("f64", 0.1f64).unwrap();
    header.set("yes", true).unwrap();
    header.set("text", "żółw").unwrap();
    let gguf = file(&header);
    assert_eq!(gguf.get_f32("f32"), Ok(Some(0.1)));
    assert_eq!(gguf.get_f32("f64"), Ok(Some(0.1)));
    assert_eq!(gguf.get_bool("yes"), Ok(Some(true)));
    assert_eq!(gguf.get_str("text"), Ok(Some("żółw")));
    assert_eq!(gguf.get("f64"), Some(Value::F64(0.1)));
    let keys: Vec<&str> = gguf.metadata().map(|(key, _)| key).collect();
    assert_eq!(keys, ["f32", "f64", "yes", "text"], "in file order");
}

#[test]
fn arrays_are_read_in_place() {
    let mut header = Header::new();
    header.set("i32s", &[3i32, -4][..]).unwrap();
    header.set("texts", &["a", "", "yz"][..]).unwrap();
    let gguf = file(&header);
    let array = gguf.get_array("i32s").unwrap().unwrap();
    assert_eq!((array.element_type(), array.len(), array.is_empty()), (ValueType::I32, 2, false));
    assert_eq!(array.i32s().unwrap().rev().collect::<Vec<_>>(), [-4, 3]);
    assert_eq!(array.integers().unwrap().sum::<i128>(), -1);
    assert!(array.u32s().is_none() && array.strings().is_none() && array.f32s().is_none());
    let texts = gguf.get_array("texts").unwrap().unwrap();
    assert_eq!(texts.strings().unwrap().collect::<Vec<_>>(), ["a", "", "yz"]);
    assert!(texts.integers().is_none());
    // In place: the text lies within the bytes of the file.
    let raw = (**gguf.bytes()).as_ref().as_ptr_range();
    assert!(texts.strings().unwrap().all(|text| raw.contains(&text.as_ptr()) || text.is_empty()));
}

#[test]
fn arrays_of_arrays() {
    let mut header = Header::new();
    let value = vec![
        WriteValue::U8s(&[1, 2]),
        WriteValue::Arrays(vec![WriteValue::Strs(&["deep"])]),
        WriteValue::U8s(&[]),
    ];
    header.set("nested", value).unwrap();
    let gguf = file(&header);
    let outer = gguf.get_array("nested").unwrap().unwrap();
    assert_eq!((outer.element_type(), outer.len(), outer.depth()), (ValueType::Array, 3, 3));
    let inner: Vec<_> = outer.iter().map(|value| value.as_array().unwrap()).collect();
    assert_eq!(inner[0].u8s(), Some(&[1, 2][..]));
    assert!(inner[2].is_empty());
    let deepest = inner[1].iter().next().unwrap().as_array().unwrap();
    assert_eq!(deepest.iter().next().unwrap().as_str(), Some("deep"));
}

#[test]
fn version_2_reads_as_version_3() {
    let gguf = Raw::version(2, 1, 1).key("a", STR).text("x").tensor("w", &[2], 0, 0).data(8).parse().unwrap();
    assert_eq!((gguf.version(), gguf.get_str("a")), (2, Ok(Some("x"))));
    assert_eq!(gguf.tensor("w").unwrap().len_bytes, 8);
}

/// A vocabulary alone: the file may end without the padding that would lead to data.
#[test]
fn a_file_without_tensors_needs_no_data() {
    let gguf = Raw::new(0, 1).key("a", U8).bytes(&[1]).parse().unwrap();
    assert_eq!((gguf.n_tensors(), gguf.header_len(), gguf.data_offset()), (0, 38, 64));
    assert!(gguf.tensor("w").is_none());
}

#[test]
fn an_array_may_be_empty_and_of_any_type() {
    for ty in ValueType::ALL {
        let gguf = Raw::new(0, 1).key("a", ARRAY).array(ty.id(), 0).bytes(&[0; 1]).parse().unwrap();
        let array = gguf.get_array("a").unwrap().unwrap();
        assert_eq!((array.element_type(), array.len(), array.iter().count()), (*ty, 0, 0));
    }
}

/// Names that hash alike must still be told apart; here simply many names, each found and no other.
#[test]
fn every_name_is_found() {
    let names: Vec<String> = (0..3000).map(|i| format!("blk.{}.part_{}.weight", i % 97, i)).collect();
    let mut raw = Raw::new(names.len() as u64, 0);
    for name in &names {
        raw = raw.tensor(name, &[0], 0, 0);
    }
    let gguf = raw.data(0).parse().unwrap();
    for name in &names {
        assert_eq!(gguf.tensor(name).unwrap().name, name);
        assert!(gguf.tensor(&name[1..]).is_none());
        assert!(gguf.tensor(&format!("{name}\0")).is_none());
    }
    assert!(gguf.tensor("").is_none());
}
