use super::*;
use crate::output::suffixed;
use crate::testing::{Files, go_on, names};
use rawrz_gguf::{Gguf, Header, TensorType, Writer};
use tempfile::TempDir;

fn split_at(path: &Path, prefix: &Path, limit: ShardLimit) -> Result<Report, ShardsError> {
    let options = SplitOptions { prefix: prefix.to_owned(), limit, remove_source: false };
    split(&Files::open(path).model(), &options, &mut |_, _| go_on())
}

fn merge_at(path: &Path, file: &Path) -> Result<Report, ShardsError> {
    let options = MergeOptions { file: file.to_owned(), remove_source: false };
    merge(&Files::open(path).model(), &options, &mut |_, _| go_on())
}

/// Metadata of a small model; `extra` adds to it. Tensors of 40, 4 and 1000 floats.
fn model_with(extra: impl FnOnce(&mut Header<'_>)) -> Vec<u8> {
    let mut header = Header::new();
    header.set("general.architecture", "llama").unwrap();
    extra(&mut header);
    header.set("tokenizer.ggml.tokens", &["a", "b"][..]).unwrap();
    for (name, len) in [("a", 40), ("b", 4), ("c", 1000)] {
        header.add_tensor(name, TensorType::F32, &[len]).unwrap();
    }
    let mut writer = Writer::start(Vec::new(), &header).unwrap();
    for (i, (name, len)) in header.tensors().enumerate() {
        let data: Vec<u8> = (0..len).map(|at| (at as usize * 7 + i) as u8).collect();
        writer.write_tensor(name, &data).unwrap();
    }
    writer.finish().unwrap()
}

/// A file of these metadata and tensors, which all have no weights.
fn without_weights(header: &Header<'_>) -> Vec<u8> {
    let mut writer = Writer::start(Vec::new(), header).unwrap();
    header.tensors().for_each(|(name, _)| writer.write_tensor(name, &[]).unwrap());
    writer.finish().unwrap()
}

fn placed(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

#[test]
fn splitting_and_merging_gives_the_same_bytes() {
    let models = [
        model_with(|_| {}),
        model_with(|header| header.set("general.alignment", 256u32).unwrap()),
        // What llama-gguf-split leaves when it merges, with something after it.
        model_with(|header| {
            header.set(NO, 0u16).unwrap();
            header.set(TENSORS_COUNT, 3i32).unwrap();
            header.set(COUNT, 0u16).unwrap();
        }),
        // A shard, the only one.
        model_with(|header| header.set(COUNT, 1u16).unwrap()),
    ];
    for (i, bytes) in models.iter().enumerate() {
        for limit in
            [ShardLimit::Tensors(1), ShardLimit::Tensors(2), ShardLimit::Bytes(200), ShardLimit::Bytes(1)]
        {
            let (dir, path) = placed(bytes);
            let report = split_at(&path, &dir.path().join("s"), limit).unwrap();
            assert_eq!(report.restores_bytes, Some(true), "model {i}");
            let merged = dir.path().join("merged.gguf");
            merge_at(&report.files[0].path, &merged).unwrap();
            assert!(std::fs::read(&merged).unwrap() == *bytes, "model {i}, {limit:?}");
        }
    }
}

#[test]
fn shards_are_cut_where_the_limit_says() {
    let (dir, path) = placed(&model_with(|_| {}));
    // The tensors take 160, 32 (16, counted as 32) and 4000 bytes.
    for (limit, expected) in [
        (ShardLimit::Tensors(1), vec![1, 1, 1]),
        (ShardLimit::Tensors(2), vec![2, 1]),
        (ShardLimit::Tensors(3), vec![3]),
        (ShardLimit::Bytes(191), vec![1, 1, 1]),
        (ShardLimit::Bytes(192), vec![2, 1]),
        (ShardLimit::Bytes(4191), vec![2, 1]),
        (ShardLimit::Bytes(4192), vec![3]),
        (ShardLimit::Bytes(1), vec![1, 1, 1]),
    ] {
        let folder = tempfile::tempdir_in(dir.path()).unwrap();
        let report = split_at(&path, &folder.path().join("s"), limit).unwrap();
        let shards = Files::open(&report.files[0].path).shards;
        let n_tensors: Vec<_> = shards.shards().iter().map(Gguf::n_tensors).collect();
        assert_eq!(n_tensors, expected, "{limit:?}");
        for (no, shard) in shards.shards().iter().enumerate() {
            assert_eq!(shard.get_u64(NO).unwrap(), Some(no as u64));
            assert_eq!(shard.get_u64(COUNT).unwrap(), Some(expected.len() as u64));
            assert_eq!(shard.get_u64(TENSORS_COUNT).unwrap(), Some(3));
            assert_eq!(shard.get_str("general.architecture").unwrap().is_some(), no == 0);
        }
    }
}

#[test]
fn shards_can_be_cut_anew() {
    let bytes = model_with(|header| header.set(COUNT, 0u16).unwrap());
    let (dir, path) = placed(&bytes);
    let first = split_at(&path, &dir.path().join("s"), ShardLimit::Tensors(1)).unwrap();
    let second = split_at(&first.files[0].path, &dir.path().join("t"), ShardLimit::Tensors(2)).unwrap();
    assert_eq!((second.files.len(), second.restores_bytes), (2, None));
    let merged = dir.path().join("merged.gguf");
    merge_at(&second.files[1].path, &merged).unwrap();
    assert!(std::fs::read(&merged).unwrap() == bytes);
}

#[test]
fn raw_parts_are_joined_and_split() {
    let bytes = model_with(|_| {});
    let dir = tempfile::tempdir().unwrap();
    for (i, part) in bytes.chunks(1000).enumerate() {
        std::fs::write(dir.path().join(format!("m.gguf.part{i:02}")), part).unwrap();
    }
    let path = dir.path().join("m.gguf.part00");
    let merged = dir.path().join("joined.gguf");
    merge_at(&path, &merged).unwrap();
    assert!(std::fs::read(&merged).unwrap() == bytes);
    let report = split_at(&path, &dir.path().join("s"), ShardLimit::Tensors(1)).unwrap();
    let again = dir.path().join("again.gguf");
    merge_at(&report.files[0].path, &again).unwrap();
    assert!(std::fs::read(&again).unwrap() == bytes);
}

#[test]
fn another_layout_is_told() {
    let mut bytes = model_with(|_| {});
    let gap = bytes.len();
    bytes.extend([0; 32]);
    let (dir, path) = placed(&bytes);
    let report = split_at(&path, &dir.path().join("s"), ShardLimit::Tensors(1)).unwrap();
    assert_eq!(report.restores_bytes, Some(false));
    let merged = dir.path().join("merged.gguf");
    merge_at(&report.files[0].path, &merged).unwrap();
    assert!(std::fs::read(&merged).unwrap() == bytes[..gap]);

    // Padding that is no zeros: after tensor b, which has 16 bytes.
    let mut bytes = model_with(|_| {});
    let b = Gguf::from_vec(bytes.clone()).unwrap().tensor("b").unwrap().file_offset as usize;
    bytes[b + 16] = 1;
    let (dir, path) = placed(&bytes);
    let report = split_at(&path, &dir.path().join("s"), ShardLimit::Tensors(1)).unwrap();
    assert_eq!(report.restores_bytes, Some(false));
}

#[test]
fn what_is_there_and_right_is_kept_and_what_is_wrong_is_not_touched() {
    let (dir, path) = placed(&model_with(|_| {}));
    let prefix = dir.path().join("s");
    let report = split_at(&path, &prefix, ShardLimit::Tensors(1)).unwrap();
    assert!(report.files.iter().all(|file| !file.was_present));
    let again = split_at(&path, &prefix, ShardLimit::Tensors(1)).unwrap();
    assert!(again.files.iter().all(|file| file.was_present));
    assert_eq!(names(dir.path()).len(), 4, "{:?}", names(dir.path()));

    let second = &report.files[1].path;
    let right = std::fs::read(second).unwrap();
    for wrong in [&right[1..], &b""[..], b"something else", &[&right[..], b"x"].concat()] {
        std::fs::write(second, wrong).unwrap();
        let error = split_at(&path, &prefix, ShardLimit::Tensors(1)).unwrap_err();
        assert!(matches!(&error, ShardsError::Output(OutputError::Occupied { path }) if path == second));
        assert_eq!(std::fs::read(second).unwrap(), wrong);
    }
    let mut wrong = right.clone();
    *wrong.last_mut().unwrap() ^= 1;
    std::fs::write(second, &wrong).unwrap();
    assert!(split_at(&path, &prefix, ShardLimit::Tensors(1)).is_err());
    std::fs::remove_file(second).unwrap();
    let third = split_at(&path, &prefix, ShardLimit::Tensors(1)).unwrap();
    let kept: Vec<_> = third.files.iter().map(|file| file.was_present).collect();
    assert_eq!(kept, [true, false, true]);
    assert_eq!(std::fs::read(second).unwrap(), right);
}

#[test]
fn a_part_is_taken_up_as_far_as_it_is_right() {
    let bytes = model_with(|_| {});
    let (dir, path) = placed(&bytes);
    let shards = split_at(&path, &dir.path().join("s"), ShardLimit::Tensors(1)).unwrap();
    let merged = dir.path().join("merged.gguf");
    let part = suffixed(&merged, ".part");
    let mut damaged = bytes.clone();
    damaged[3000] ^= 1;
    let long = [&bytes[..], b"more"].concat();
    for left in [&bytes[..0], &bytes[..1], &bytes[..2000], &bytes, &damaged, &long, b"junk"] {
        std::fs::write(&part, left).unwrap();
        merge_at(&shards.files[0].path, &merged).unwrap();
        assert!(std::fs::read(&merged).unwrap() == bytes);
        assert!(!part.exists());
        std::fs::remove_file(&merged).unwrap();
    }
}

/// Stopped after every number of bytes: what has a final name is right, and the next run ends it.
#[test]
fn a_stopped_run_is_taken_up() {
    let bytes = model_with(|_| {});
    let (dir, path) = placed(&bytes);
    let files = Files::open(&path);
    let prefix = dir.path().join("s");
    let options = SplitOptions { prefix: prefix.clone(), limit: ShardLimit::Tensors(1), remove_source: true };
    let mut calls = 0;
    for limit in 0.. {
        let mut left = limit;
        let result = split(&files.model(), &options, &mut |done, total| {
            assert!(done <= total, "{done} of {total}");
            calls += 1;
            if left == 0 {
                return ControlFlow::Break(());
            }
            left -= 1;
            ControlFlow::Continue(())
        });
        assert!(!names(dir.path()).iter().any(|name| name.ends_with(".lock")));
        match result {
            Err(ShardsError::Output(OutputError::Stopped)) => assert!(path.exists()),
            result => {
                result.unwrap();
                break;
            }
        }
    }
    assert!(calls > 10);
    assert!(!path.exists());
    let first = dir.path().join("s-00001-of-00003.gguf");
    let merged = dir.path().join("merged.gguf");
    let options = MergeOptions { file: merged.clone(), remove_source: true };
    let report = merge(&Files::open(&first).model(), &options, &mut |_, _| go_on()).unwrap();
    assert_eq!(report.removed.len(), 3);
    assert!(std::fs::read(&merged).unwrap() == bytes);
    assert_eq!(names(dir.path()), ["merged.gguf"]);
}

#[test]
fn the_model_itself_is_never_an_output() {
    let bytes = model_with(|_| {});
    let (dir, path) = placed(&bytes);
    let report = split_at(&path, &dir.path().join("s"), ShardLimit::Tensors(1)).unwrap();
    let shards = Files::open(&report.files[0].path);
    let options =
        SplitOptions { prefix: dir.path().join("s"), limit: ShardLimit::Tensors(1), remove_source: true };
    let error = split(&shards.model(), &options, &mut |_, _| go_on()).unwrap_err();
    assert!(matches!(error, ShardsError::Output(OutputError::IsSource { .. })), "{error}");
    #[cfg(unix)]
    {
        let link = dir.path().join("link.gguf");
        std::fs::hard_link(&report.files[2].path, &link).unwrap();
        let options = MergeOptions { file: link, remove_source: true };
        let error = merge(&shards.model(), &options, &mut |_, _| go_on()).unwrap_err();
        assert!(matches!(error, ShardsError::Output(OutputError::IsSource { .. })), "{error}");
    }
    assert!(report.files.iter().all(|file| file.path.exists()));
}

#[test]
fn impossible_jobs_are_refused() {
    let (dir, path) = placed(&model_with(|_| {}));
    let error = merge_at(&path, &dir.path().join("x.gguf")).unwrap_err();
    assert!(matches!(error, ShardsError::AlreadyOne { .. }), "{error}");
    let error = split_at(&path, &dir.path().join("no folder/s"), ShardLimit::Tensors(1)).unwrap_err();
    assert!(matches!(error, ShardsError::Output(OutputError::Io { .. })), "{error}");

    let mut header = Header::new();
    header.set("general.architecture", "llama").unwrap();
    let (_dir, empty) = placed(&without_weights(&header));
    let error = split_at(&empty, &dir.path().join("s"), ShardLimit::Tensors(1)).unwrap_err();
    assert!(matches!(error, ShardsError::NoTensors), "{error}");

    let mut header = Header::new();
    for i in 0..70_000 {
        header.add_tensor(format!("t{i}"), TensorType::F32, &[0]).unwrap();
    }
    let (_dir, many) = placed(&without_weights(&header));
    let error = split_at(&many, &dir.path().join("s"), ShardLimit::Tensors(1)).unwrap_err();
    assert!(matches!(error, ShardsError::TooManyShards { n_shards: 70_000 }), "{error}");

    // A key that the shards need for themselves, and one that only a shard made by hand can have.
    let both = model_with(|header| {
        header.set(COUNT, 0u16).unwrap();
        header.set(format!("{ORIGINAL}{COUNT}"), 0u16).unwrap();
    });
    let (_dir, both) = placed(&both);
    let error = split_at(&both, &dir.path().join("s"), ShardLimit::Tensors(1)).unwrap_err();
    assert!(matches!(error, ShardsError::Header(WriteError::DuplicateKey { .. })), "{error}");
    assert_eq!(names(dir.path()), ["m.gguf"]);
}

#[test]
fn metadata_of_later_shards_is_not_lost_silently() {
    let dir = tempfile::tempdir().unwrap();
    let shard = |no: u16, extra: Option<(&str, &str)>| {
        let mut header = Header::new();
        if no == 0 {
            header.set("general.architecture", "llama").unwrap();
        }
        header.set(NO, no).unwrap();
        header.set(COUNT, 2u16).unwrap();
        if let Some((key, value)) = extra {
            header.set(key, value).unwrap();
        }
        header.add_tensor(format!("t{no}"), TensorType::F32, &[0]).unwrap();
        without_weights(&header)
    };
    let paths = [1, 2].map(|no| dir.path().join(format!("m-0000{no}-of-00002.gguf")));
    std::fs::write(&paths[0], shard(0, None)).unwrap();
    for (extra, is_kept) in [
        (None, true),
        (Some(("general.architecture", "llama")), true),
        (Some(("general.architecture", "qwen2")), false),
        (Some(("general.name", "x")), false),
    ] {
        std::fs::write(&paths[1], shard(1, extra)).unwrap();
        let merged = dir.path().join("merged.gguf");
        let result = merge_at(&paths[0], &merged);
        match result {
            Ok(_) => assert!(is_kept, "{extra:?}"),
            Err(ShardsError::OwnMetadata { shard: 2, .. }) => assert!(!is_kept, "{extra:?}"),
            Err(error) => panic!("{error}"),
        }
        let _ = std::fs::remove_file(&merged);
    }
}

#[test]
fn one_process_at_a_time() {
    let (dir, path) = placed(&model_with(|_| {}));
    let prefix = dir.path().join("s");
    let lock = Lock::take(&prefix).unwrap();
    let error = split_at(&path, &prefix, ShardLimit::Tensors(1)).unwrap_err();
    assert!(matches!(error, ShardsError::Output(OutputError::Busy { .. })), "{error}");
    assert_eq!(names(dir.path()), ["m.gguf", "s.lock"]);
    drop(lock);
    // A lock file of a run that was killed is in nobody's way.
    std::fs::write(suffixed(&prefix, ".lock"), b"").unwrap();
    split_at(&path, &prefix, ShardLimit::Tensors(1)).unwrap();
    assert_eq!(names(dir.path()).len(), 4);
}

#[test]
fn a_disk_that_is_too_small_is_told_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    assert!(ensure_space(dir.path(), 1).is_ok());
    let error = ensure_space(dir.path(), u64::MAX).unwrap_err();
    assert!(matches!(error, OutputError::NoSpace { .. }), "{error}");
}

#[cfg(unix)]
#[test]
fn links_in_the_way_are_not_followed() {
    let (dir, path) = placed(&model_with(|_| {}));
    let victim = dir.path().join("victim");
    std::fs::write(&victim, b"precious").unwrap();
    let prefix = dir.path().join("s");
    for name in ["s-00001-of-00003.gguf", "s-00001-of-00003.gguf.part"] {
        let link = dir.path().join(name);
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let error = split_at(&path, &prefix, ShardLimit::Tensors(1)).unwrap_err();
        assert!(matches!(error, ShardsError::Output(OutputError::Occupied { .. })), "{error}");
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
        std::fs::remove_file(&link).unwrap();
    }
}

/// The shards that llama-gguf-split b11434 makes of a model of this repository, by their SHA-256. How they were made is
/// in `tests/goldens/shards/README.md`.
#[test]
fn shards_are_those_of_llama_cpp() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let golden = std::fs::read_to_string(root.join("tests/goldens/shards/llama-types.sha256")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let model = root.join("tests/goldens/tiny/llama-types.gguf");
    let report = split_at(&model, &dir.path().join("l"), ShardLimit::Tensors(5)).unwrap();
    let sums: Vec<_> = report
        .files
        .iter()
        .map(|file| {
            let digest = crate::Digest::of(&std::fs::read(&file.path).unwrap());
            format!("{digest}  {}", file.path.file_name().unwrap().to_str().unwrap())
        })
        .collect();
    assert_eq!(sums, golden.lines().collect::<Vec<_>>());
    let merged = dir.path().join("merged.gguf");
    merge_at(&report.files[0].path, &merged).unwrap();
    assert!(std::fs::read(&merged).unwrap() == std::fs::read(&model).unwrap());
}
