//! Writes the seeds of the gguf targets: small files that together have every kind of field.
//!
//! `cargo run --bin gguf_seeds -- corpus/gguf_reader corpus/gguf_round_trip`

use std::error::Error;
use std::path::Path;

use rawrz_gguf::{Header, TensorType, WriteValue, Writer};

fn main() -> Result<(), Box<dyn Error>> {
    for folder in std::env::args().skip(1) {
        let folder = Path::new(&folder);
        std::fs::create_dir_all(folder)?;
        for (name, file) in seeds()? {
            std::fs::write(folder.join(name), file)?;
        }
    }
    Ok(())
}

fn seeds() -> Result<Vec<(String, Vec<u8>)>, Box<dyn Error>> {
    let mut seeds = vec![("empty".to_owned(), write(&Header::new())?)];

    let scalars: [(&str, WriteValue<'_>); 12] = [
        ("u8", 1u8.into()),
        ("i8", (-1i8).into()),
        ("u16", 2u16.into()),
        ("i16", (-2i16).into()),
        ("u32", 3u32.into()),
        ("i32", (-3i32).into()),
        ("u64", 4u64.into()),
        ("i64", (-4i64).into()),
        ("f32", 0.5f32.into()),
        ("f64", 0.25f64.into()),
        ("bool", true.into()),
        ("text", "grüße".into()),
    ];
    for (name, value) in &scalars {
        let mut header = Header::new();
        header.set(*name, value.clone())?;
        seeds.push((format!("scalar-{name}"), write(&header)?));
    }
    let arrays: [(&str, WriteValue<'_>); 9] = [
        ("none", (&[0u8; 0][..]).into()),
        ("u8s", (&[1u8, 2][..]).into()),
        ("u16s", (&[1u16, 2][..]).into()),
        ("i32s", (&[-1i32][..]).into()),
        ("f32s", (&[0.5f32, 1.0][..]).into()),
        ("i64s", (&[i64::MIN][..]).into()),
        ("bools", (&[true, false][..]).into()),
        ("texts", (&["a", "", "żółw"][..]).into()),
        (
            "nested",
            vec![
                WriteValue::U8s(&[1]),
                WriteValue::Arrays(vec![WriteValue::Strs(&["x"]), WriteValue::F64s(&[1.0])]),
            ]
            .into(),
        ),
    ];
    for (name, value) in &arrays {
        let mut header = Header::new();
        header.set(*name, value.clone())?;
        seeds.push((format!("array-{name}"), write(&header)?));
    }

    for ty in TensorType::ALL {
        let mut header = Header::new();
        header.add_tensor("w", *ty, &[ty.block_len() as u64])?;
        seeds.push((format!("tensor-{ty}"), write(&header)?));
    }

    let mut all = Header::new();
    all.set("general.alignment", 8u32)?;
    all.set("general.architecture", "llama")?;
    for (key, value) in scalars.iter().chain(&arrays) {
        all.set(*key, value.clone())?;
    }
    all.add_tensor("token_embd.weight", TensorType::Q8_0, &[32, 3])?;
    all.add_tensor("blk.0.attn_q.weight", TensorType::F16, &[4, 2, 2, 1])?;
    all.add_tensor("scalar", TensorType::I32, &[])?;
    all.add_tensor("none", TensorType::F32, &[0, 5])?;
    seeds.push(("all".to_owned(), write(&all)?));

    let mut shard = Header::new();
    shard.set("split.no", 0u16)?;
    shard.set("split.count", 1u16)?;
    shard.set("split.tensors.count", 0i32)?;
    seeds.push(("shard".to_owned(), write(&shard)?));
    Ok(seeds)
}

/// The file with zeros for data.
fn write(header: &Header<'_>) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = Writer::start(Vec::new(), header)?;
    for (name, len_bytes) in header.tensors() {
        writer.write_tensor(name, &vec![0; len_bytes as usize])?;
    }
    Ok(writer.finish()?)
}
