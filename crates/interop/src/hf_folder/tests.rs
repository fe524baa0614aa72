use super::*;
use crate::testing::{Files, go_on, names};
use rawrz_gguf::{Gguf, Header, TensorInfo, TensorType, Writer, decode_row};
use serde_json::json;
use std::collections::BTreeMap;
use tempfile::TempDir;

const FP32: Weights = Weights::Safetensors { dtype: Dtype::Fp32, shard_bytes: u64::MAX };

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny").join(format!("{name}.gguf"))
}

fn export_at(model: &Path, folder: &Path, weights: Weights) -> Result<Report, ExportError> {
    export(&Files::open(model).model(), folder, weights, &mut |_, _| go_on())
}

fn json_of(path: &Path) -> Json {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The model, changed: other metadata values and other tensors.
fn changed(
    name: &str,
    metadata: &[(&str, rawrz_gguf::WriteValue<'static>)],
    rename: impl Fn(&str) -> Option<String>,
) -> (TempDir, PathBuf) {
    let original = std::fs::read(tiny(name)).unwrap();
    let gguf = Gguf::from_vec(original.clone()).unwrap();
    let mut header = Header::new();
    for (key, value) in gguf.metadata() {
        match metadata.iter().find(|(changed, _)| *changed == key) {
            Some((_, value)) => header.set(key, value.clone()).unwrap(),
            None => header.set(key, value).unwrap(),
        }
    }
    for (key, value) in metadata.iter().filter(|(key, _)| gguf.get(key).is_none()) {
        header.set(*key, value.clone()).unwrap();
    }
    let kept: Vec<_> = gguf.tensors().filter_map(|tensor| Some((rename(tensor.name)?, tensor))).collect();
    for (name, tensor) in &kept {
        header.add_tensor(name.clone(), tensor.ty, tensor.dims.as_slice()).unwrap();
    }
    let mut writer = Writer::start(Vec::new(), &header).unwrap();
    for (name, tensor) in &kept {
        let data = &original[tensor.file_offset as usize..][..tensor.len_bytes as usize];
        writer.write_tensor(name, data).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, writer.finish().unwrap()).unwrap();
    (dir, path)
}

/// Shape and values of each tensor in a safetensors file of F32, read by the format's description.
fn safetensors(path: &Path) -> BTreeMap<String, (Vec<u64>, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap();
    let header_len = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    assert_eq!((8 + header_len) % 8, 0);
    let header: Json = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let data = &bytes[8 + header_len..];
    let mut end_of_data = 0;
    let mut tensors = BTreeMap::new();
    for (name, field) in header.as_object().unwrap() {
        if name == "__metadata__" {
            assert_eq!(field["format"], "pt");
            continue;
        }
        assert_eq!(field["dtype"], "F32");
        let shape: Vec<u64> = serde_json::from_value(field["shape"].clone()).unwrap();
        let [from, to]: [usize; 2] = serde_json::from_value(field["data_offsets"].clone()).unwrap();
        assert_eq!((to - from) as u64, 4 * shape.iter().product::<u64>(), "{name}");
        end_of_data = end_of_data.max(to);
        let values = data[from..to].as_chunks::<4>().0.iter().map(|raw| f32::from_le_bytes(*raw)).collect();
        tensors.insert(name.clone(), (shape, values));
    }
    assert_eq!(end_of_data, data.len());
    tensors
}

fn values(file: &[u8], tensor: &TensorInfo<'_>) -> Vec<f32> {
    let mut values = vec![0.0; tensor.dims.n_elements() as usize];
    decode_row(tensor.ty, &file[tensor.file_offset as usize..][..tensor.len_bytes as usize], &mut values)
        .unwrap();
    values
}

#[test]
fn every_architecture_becomes_a_folder_with_all_of_its_weights() {
    for name in [
        "llama-linear",
        "llama-types",
        "llama-yarn-biases",
        "qwen2-tied",
        "qwen2-untied-yarn",
        "qwen3-tied",
        "qwen3moe",
        "gemma3-window",
        "gemma3-pattern-softcap",
        "gemma3-global",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("out");
        // A bias that the other format has no place for.
        let (_model_dir, path) = changed(name, &[], |name| (name != "output.bias").then(|| name.to_owned()));
        export_at(&path, &folder, FP32).unwrap_or_else(|error| panic!("{name}: {error}"));
        let file = std::fs::read(path).unwrap();
        let gguf = Gguf::from_vec(file.clone()).unwrap();
        let tensors = safetensors(&folder.join("model.safetensors"));
        let n_weights: u64 = gguf.tensors().map(|tensor| tensor.dims.n_elements()).sum();
        let n_written: usize = tensors.values().map(|(_, values)| values.len()).sum();
        assert_eq!(n_weights, n_written as u64, "{name}");
        let config = json_of(&folder.join("config.json"));
        assert_eq!(config["tie_word_embeddings"], !tensors.contains_key("lm_head.weight"), "{name}");
        let (shape, embedding) = &tensors["model.embed_tokens.weight"];
        assert_eq!(shape, &[272, config["hidden_size"].as_u64().unwrap()], "{name}");
        assert_eq!(embedding, &values(&file, &gguf.tensor("token_embd.weight").unwrap()), "{name}");
    }
}

#[test]
fn heads_of_llama_are_put_back_into_halves() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    export_at(&tiny("llama-yarn-biases"), &folder, FP32).unwrap();
    let file = std::fs::read(tiny("llama-yarn-biases")).unwrap();
    let gguf = Gguf::from_vec(file.clone()).unwrap();
    let tensors = safetensors(&folder.join("model.safetensors"));
    let config = json_of(&folder.join("config.json"));
    let count = |key: &str| config[key].as_u64().unwrap() as usize;
    let (dim, head_dim) = (count("hidden_size"), count("head_dim"));
    for (part, heads) in [("q", count("num_attention_heads")), ("k", count("num_key_value_heads"))] {
        for (suffix, cols) in [("weight", dim), ("bias", 1)] {
            let there = values(&file, &gguf.tensor(&format!("blk.1.attn_{part}.{suffix}")).unwrap());
            let (_, here) = &tensors[&format!("model.layers.1.self_attn.{part}_proj.{suffix}")];
            // As conversion does it: value j of half s of a head becomes its value 2 j + s.
            let mut converted = vec![f32::NAN; here.len()];
            for head in 0..heads {
                for half in 0..2 {
                    for j in 0..head_dim / 2 {
                        let from = (head * head_dim + half * head_dim / 2 + j) * cols;
                        let to = (head * head_dim + 2 * j + half) * cols;
                        converted[to..to + cols].copy_from_slice(&here[from..from + cols]);
                    }
                }
            }
            assert_eq!(converted, there, "{part} {suffix}");
        }
    }
    let (_, v) = &tensors["model.layers.1.self_attn.v_proj.weight"];
    assert_eq!(v, &values(&file, &gguf.tensor("blk.1.attn_v.weight").unwrap()));
    assert_eq!((&config["attention_bias"], &config["mlp_bias"]), (&json!(true), &json!(true)));
    assert_eq!(config["rope_scaling"]["rope_type"], "yarn");
}

#[test]
fn norms_of_gemma_lose_the_one_that_conversion_added() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    export_at(&tiny("gemma3-window"), &folder, FP32).unwrap();
    let file = std::fs::read(tiny("gemma3-window")).unwrap();
    let gguf = Gguf::from_vec(file.clone()).unwrap();
    let tensors = safetensors(&folder.join("model.safetensors"));
    for (hf, name) in [
        ("model.norm", "output_norm"),
        ("model.layers.0.input_layernorm", "blk.0.attn_norm"),
        ("model.layers.0.self_attn.q_norm", "blk.0.attn_q_norm"),
        ("model.layers.0.post_attention_layernorm", "blk.0.post_attention_norm"),
        ("model.layers.0.pre_feedforward_layernorm", "blk.0.ffn_norm"),
        ("model.layers.0.post_feedforward_layernorm", "blk.0.post_ffw_norm"),
    ] {
        let there = values(&file, &gguf.tensor(&format!("{name}.weight")).unwrap());
        let (_, here) = &tensors[&format!("{hf}.weight")];
        assert!(here.iter().zip(&there).all(|(here, there)| *here == there - 1.0), "{hf}");
    }
    let config = json_of(&folder.join("config.json"));
    let kinds = config["layer_types"].as_array().unwrap();
    assert_eq!((kinds[0].as_str(), kinds[5].as_str()), (Some("sliding_attention"), Some("full_attention")));
    assert_eq!(config["sliding_window"], 16);
}

#[test]
fn stacked_experts_are_taken_apart() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    export_at(&tiny("qwen3moe"), &folder, FP32).unwrap();
    let file = std::fs::read(tiny("qwen3moe")).unwrap();
    let gguf = Gguf::from_vec(file.clone()).unwrap();
    let tensors = safetensors(&folder.join("model.safetensors"));
    let config = json_of(&folder.join("config.json"));
    assert_eq!((&config["num_experts"], &config["num_experts_per_tok"]), (&json!(8), &json!(2)));
    for (hf, name) in [("gate_proj", "ffn_gate_exps"), ("down_proj", "ffn_down_exps")] {
        let there = values(&file, &gguf.tensor(&format!("blk.2.{name}.weight")).unwrap());
        let here: Vec<f32> = (0..8)
            .flat_map(|expert| tensors[&format!("model.layers.2.mlp.experts.{expert}.{hf}.weight")].1.clone())
            .collect();
        assert_eq!(here, there, "{hf}");
    }
}

#[test]
fn shards_have_an_index_and_hold_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (one, many) = (dir.path().join("one"), dir.path().join("many"));
    export_at(&tiny("qwen2-tied"), &one, FP32).unwrap();
    let weights = Weights::Safetensors { dtype: Dtype::Fp32, shard_bytes: 20_000 };
    let report = export_at(&tiny("qwen2-tied"), &many, weights).unwrap();
    let whole = safetensors(&one.join("model.safetensors"));
    let index = json_of(&many.join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    // An object keeps the order of its keys only where another crate of the build asks for that.
    let mut names: Vec<_> = map.keys().collect();
    names.sort();
    assert_eq!(names, whole.keys().collect::<Vec<_>>());
    let files: Vec<_> = report.files.iter().filter(|file| file.name.ends_with(".safetensors")).collect();
    assert!(files.len() > 3);
    let mut joined = BTreeMap::new();
    for file in &files {
        assert!(file.name.ends_with(&format!("-of-{:05}.safetensors", files.len())), "{}", file.name);
        let tensors = safetensors(&many.join(&file.name));
        assert!(tensors.keys().all(|name| map[name] == *file.name));
        joined.extend(tensors);
    }
    assert_eq!(joined, whole);
    let bytes: usize = whole.values().map(|(_, values)| values.len() * 4).sum();
    assert_eq!(index["metadata"]["total_size"], bytes);
}

#[test]
fn a_folder_is_made_once_and_remade_when_it_would_differ() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let model = dir.path().join("m.gguf");
    std::fs::copy(tiny("qwen2-tied"), &model).unwrap();
    let first = export_at(&model, &folder, Weights::Linked).unwrap();
    assert!(!first.was_present);
    let of_model = first.files.iter().find(|file| file.name == "model.gguf").unwrap();
    assert_ne!(of_model.kind, Kind::Written);
    let before = std::fs::metadata(folder.join("tokenizer.json")).unwrap().modified().unwrap();
    // Also by a path with a separator at its end.
    let again = export_at(&model, &folder.join(""), Weights::Linked).unwrap();
    assert_eq!((again.was_present, &again.files), (true, &first.files));
    assert_eq!(std::fs::metadata(folder.join("tokenizer.json")).unwrap().modified().unwrap(), before);

    assert!(!export_at(&model, &folder, FP32).unwrap().was_present);
    assert!(!folder.join("model.gguf").exists() && folder.join("model.safetensors").exists());
    std::fs::remove_file(folder.join("config.json")).unwrap();
    assert!(!export_at(&model, &folder, FP32).unwrap().was_present);
    assert!(folder.join("config.json").exists());
    assert_eq!(names(dir.path()), ["m.gguf", "out"]);
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let refused = |folder: &Path| {
        let error = export_at(&tiny("qwen2-tied"), folder, Weights::Linked).unwrap_err();
        assert!(matches!(error, ExportError::NotOurs { .. }), "{error}");
    };
    std::fs::write(&folder, b"a file").unwrap();
    refused(&folder);
    assert!(remove(&folder).is_err());
    std::fs::remove_file(&folder).unwrap();

    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("mine"), b"mine").unwrap();
    refused(&folder);
    assert!(remove(&folder).is_err());
    assert_eq!(names(&folder), ["mine"]);
    std::fs::remove_file(folder.join("mine")).unwrap();

    // An empty folder will do; what is added to ours, or changed in it, is seen.
    export_at(&tiny("qwen2-tied"), &folder, Weights::Linked).unwrap();
    std::fs::write(folder.join("mine"), b"mine").unwrap();
    let error = export_at(&tiny("qwen2-tied"), &folder, FP32).unwrap_err();
    assert!(matches!(&error, ExportError::NotOurs { foreign, .. } if foreign.ends_with("mine")), "{error}");
    std::fs::remove_file(folder.join("mine")).unwrap();
    std::fs::write(folder.join("config.json"), b"{}").unwrap();
    refused(&folder);

    let removal = remove(&folder).unwrap();
    assert_eq!(removal.kept, [folder.join("config.json")]);
    assert_eq!(names(&folder), ["config.json"]);
    assert_eq!(std::fs::read(folder.join("config.json")).unwrap(), b"{}");
    assert!(tiny("qwen2-tied").exists());
    assert!(export_at(&tiny("qwen2-tied"), Path::new("/"), Weights::Linked).is_err());
    #[cfg(unix)]
    {
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        refused(&link);
    }
}

#[test]
fn removing_undoes_exactly_what_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let report = export_at(&tiny("llama-linear"), &folder, Weights::Linked).unwrap();
    let removal = remove(&folder).unwrap();
    assert_eq!(removal.removed.len(), report.files.len());
    assert!(removal.kept.is_empty() && !folder.exists());
    assert!(tiny("llama-linear").exists());
    assert!(remove(&folder).unwrap().removed.is_empty());
    assert_eq!(names(dir.path()).len(), 0, "{:?}", names(dir.path()));
}

#[test]
fn a_run_that_stops_or_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let files = Files::open(&tiny("llama-linear"));
    let mut calls = 0;
    let error = export(&files.model(), &folder, FP32, &mut |done, total| {
        assert!(done <= total);
        calls += 1;
        if calls == 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(error, Err(ExportError::Output(OutputError::Stopped))));
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));

    // What killed runs left is cleared, and a folder of ours that should be replaced survives a failure.
    std::fs::create_dir(dir.path().join(".out.rawrz-new")).unwrap();
    std::fs::write(dir.path().join(".out.rawrz-new/half"), b"half").unwrap();
    let made = export_at(&tiny("llama-linear"), &folder, Weights::Linked).unwrap();
    assert!(export_at(&changed("llama-linear", &[], |_| None).1, &folder, FP32).is_err());
    assert_eq!(names(dir.path()), ["out"]);
    assert!(
        export_at(&tiny("llama-linear"), &folder, Weights::Linked).unwrap()
            == Report { was_present: true, ..made }
    );
}

#[test]
fn what_has_no_word_in_the_other_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |(model_dir, path): (TempDir, PathBuf), expected: &str| {
        let error = export_at(&path, &dir.path().join("out"), FP32).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        drop(model_dir);
        assert!(names(dir.path()).is_empty());
    };
    let keep = |name: &str| Some(name.to_owned());
    refused(changed("llama-head48", &[], keep), "3 heads where the embedding has 32 elements");
    refused(changed("llama-freqs", &[], keep), "not those of Llama 3");
    refused(changed("qwen2-untied-yarn", &[], keep), "output.bias has no place");
    let qwen = "qwen2-tied";
    refused(changed(qwen, &[("general.architecture", "mamba".into())], keep), "architecture \"mamba\"");
    refused(changed(qwen, &[("tokenizer.ggml.model", "t5".into())], keep), "t5");
    refused(changed(qwen, &[("tokenizer.ggml.pre", "viking".into())], keep), "pre-tokenizer \"viking\"");
    refused(changed(qwen, &[("qwen2.embedding_length", 0u32.into())], keep), "embedding_length");
    refused(changed(qwen, &[("qwen2.block_count", u32::MAX.into())], keep), "block_count");
    refused(changed(qwen, &[("qwen2.attention.head_count", "x".into())], keep), "head_count");
    refused(changed(qwen, &[("qwen2.rope.scaling.type", "longrope".into())], keep), "longrope");
    refused(changed(qwen, &[("qwen2.expert_count", 8u32.into())], keep), "mixture of experts");
    refused(changed(qwen, &[("qwen2.feed_forward_length", 100u32.into())], keep), "has the shape");
    refused(changed(qwen, &[("qwen2.block_count", 1u32.into())], keep), "has no place");
    let without = |missing: &'static str| move |name: &str| (name != missing).then(|| name.to_owned());
    refused(changed(qwen, &[], without("output_norm.weight")), "lacks the tensor output_norm.weight");
    refused(changed(qwen, &[], without("blk.0.attn_k.bias")), "lacks the tensor blk.0.attn_k.bias");
    let renamed =
        |name: &str| Some(if name == "blk.0.ffn_up.weight" { "x".to_owned() } else { name.to_owned() });
    refused(changed(qwen, &[], renamed), "blk.0.ffn_up.weight");
}

#[test]
fn weights_that_are_too_large_for_fp16_are_told() {
    // A norm of the model, as the only values that change.
    let (_dir, path) = changed("qwen2-tied", &[], |name| Some(name.to_owned()));
    let mut bytes = std::fs::read(&path).unwrap();
    let norm =
        Gguf::from_vec(bytes.clone()).unwrap().tensor("output_norm.weight").unwrap().file_offset as usize;
    bytes[norm..norm + 4].copy_from_slice(&70_000f32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    let weights = |dtype| Weights::Safetensors { dtype, shard_bytes: u64::MAX };
    let error = export_at(&path, &folder, weights(Dtype::Fp16)).unwrap_err();
    assert!(matches!(&error, ExportError::Overflow { name } if name == "output_norm.weight"), "{error}");
    export_at(&path, &folder, weights(Dtype::Bf16)).unwrap();
}

#[test]
fn shards_and_parts_are_linked_under_names_that_readers_know() {
    let paths = |shards: &[usize]| -> Vec<Vec<PathBuf>> {
        shards.iter().map(|n| (0..*n).map(|i| PathBuf::from(i.to_string())).collect()).collect()
    };
    let names = |shards: &[usize]| linked_names(&paths(shards)).map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(&[1]), ["model.gguf"]);
    assert_eq!(names(&[1, 1]), ["model-00001-of-00002.gguf", "model-00002-of-00002.gguf"]);
    assert_eq!(names(&[2]), ["model.gguf.part0000", "model.gguf.part0001"]);
}

/// A model that is nothing but a vocabulary has no config; nothing half-made stays.
#[test]
fn a_bare_vocabulary_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("out");
    for merges in [&["a b", "a", " b c", "x  y"][..], &[], &["no such"]] {
        let mut header = Header::new();
        header.set("general.architecture", "llama").unwrap();
        header.set("tokenizer.ggml.model", "gpt2").unwrap();
        header.set("tokenizer.ggml.pre", "gpt-2").unwrap();
        header.set("tokenizer.ggml.tokens", &["a", "b", "ab", "", "\u{120}"][..]).unwrap();
        header.set("tokenizer.ggml.merges", merges).unwrap();
        header.add_tensor("x", TensorType::F32, &[0]).unwrap();
        let mut writer = Writer::start(Vec::new(), &header).unwrap();
        writer.write_tensor("x", &[]).unwrap();
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, writer.finish().unwrap()).unwrap();
        assert!(export_at(&path, &folder, Weights::Linked).is_err());
        assert_eq!(names(dir.path()), ["m.gguf"]);
    }
}
