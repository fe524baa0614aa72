//! Finding the files of a model by their names.

use std::fs;
use std::path::{Path, PathBuf};

use rawrz_gguf::{DiscoverError, Error, Gguf, Header, ShardSet, TensorType, Writer, discover};

/// A folder with these empty files.
fn folder(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in names {
        fs::write(dir.path().join(name), "").unwrap();
    }
    dir
}

/// What `discover` finds from `name`, as file names.
fn found(dir: &Path, name: &str) -> Result<Vec<Vec<String>>, DiscoverError> {
    let text = |path: PathBuf| {
        assert_eq!(path.parent(), Some(dir));
        path.file_name().unwrap().to_str().unwrap().to_owned()
    };
    let shards = discover(&dir.join(name))?;
    Ok(shards.into_iter().map(|parts| parts.into_iter().map(text).collect()).collect())
}

#[test]
fn a_plain_file_is_itself() {
    let dir = folder(&["m.gguf", "m-extra.gguf", "ollama-blob"]);
    assert_eq!(found(dir.path(), "m.gguf").unwrap(), [["m.gguf"]]);
    assert_eq!(found(dir.path(), "ollama-blob").unwrap(), [["ollama-blob"]]);
}

#[test]
fn any_shard_finds_all() {
    let names = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];
    let dir = folder(&[names[0], names[1], names[2], "m-00001-of-00002.gguf"]);
    for name in names {
        assert_eq!(found(dir.path(), name).unwrap(), names.map(|name| [name]));
    }
}

#[test]
fn any_part_finds_all() {
    for names in [
        ["m.gguf.part00", "m.gguf.part01", "m.gguf.part02"],
        ["m.gguf.part1", "m.gguf.part2", "m.gguf.part3"],
        ["m.gguf.part0", "m.gguf.part1", "m.gguf.part2"],
        ["m.gguf.partaa", "m.gguf.partab", "m.gguf.partac"],
        ["m.gguf.part1of3", "m.gguf.part2of3", "m.gguf.part3of3"],
    ] {
        let dir = folder(&[names[0], names[1], names[2], "other.gguf.part00"]);
        for name in names {
            assert_eq!(found(dir.path(), name).unwrap(), [names]);
        }
        // The name that the parts form stands for them too.
        assert_eq!(found(dir.path(), "m.gguf").unwrap(), [names]);
    }
}

#[test]
fn parts_are_ordered_by_number() {
    let names: Vec<String> = (1..=12).map(|i| format!("m.gguf.part{i}")).collect();
    let dir = folder(&names.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(found(dir.path(), "m.gguf.part1").unwrap(), [names]);
    // After az comes ba.
    let letters: Vec<String> = (0..30u8)
        .map(|i| format!("n.part{}{}", char::from(b'a' + i / 26), char::from(b'a' + i % 26)))
        .collect();
    let dir = folder(&letters.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(found(dir.path(), "n").unwrap(), [letters]);
}

#[test]
fn shards_may_be_in_parts() {
    let dir =
        folder(&["m-00001-of-00002.gguf.part00", "m-00001-of-00002.gguf.part01", "m-00002-of-00002.gguf"]);
    let expected = vec![
        vec!["m-00001-of-00002.gguf.part00", "m-00001-of-00002.gguf.part01"],
        vec!["m-00002-of-00002.gguf"],
    ];
    assert_eq!(found(dir.path(), "m-00001-of-00002.gguf.part00").unwrap(), expected);
    assert_eq!(found(dir.path(), "m-00002-of-00002.gguf").unwrap(), expected);
}

#[test]
fn a_whole_file_beside_its_parts() {
    let dir = folder(&["m.gguf", "m.gguf.part00", "m.gguf.part01"]);
    assert_eq!(found(dir.path(), "m.gguf").unwrap(), [["m.gguf"]]);
    assert_eq!(found(dir.path(), "m.gguf.part01").unwrap(), [["m.gguf.part00", "m.gguf.part01"]]);
}

#[test]
fn a_download_in_progress_is_no_part() {
    let dir = folder(&["m.gguf.partial"]);
    assert!(matches!(found(dir.path(), "m.gguf"), Err(DiscoverError::NotFound { .. })));
}

#[test]
fn no_such_file() {
    let dir = folder(&["other.gguf"]);
    for name in ["m.gguf", "m.gguf.part00", "no-folder/m.gguf"] {
        let path = dir.path().join(name);
        assert!(matches!(discover(&path), Err(DiscoverError::NotFound { path: named }) if named == path));
    }
}

#[test]
fn a_folder_is_no_model() {
    let dir = folder(&[]);
    fs::create_dir(dir.path().join("m.gguf")).unwrap();
    assert!(matches!(found(dir.path(), "m.gguf"), Err(DiscoverError::NotAFile { .. })));
}

/// A file where a folder should be; Windows reports that as a missing path.
#[cfg(unix)]
#[test]
fn what_the_system_refuses_is_passed_on() {
    let dir = folder(&["file"]);
    let error = discover(&dir.path().join("file/m.gguf")).unwrap_err();
    assert!(matches!(error, DiscoverError::Io { .. }));
}

#[test]
fn shard_numbers_that_cannot_be() {
    let dir = folder(&["m-00000-of-00002.gguf", "m-00003-of-00002.gguf"]);
    for (name, bad) in [("m-00000-of-00002.gguf", 0), ("m-00003-of-00002.gguf", 3)] {
        assert!(matches!(
            found(dir.path(), name),
            Err(DiscoverError::BadShardNumber { number, count: 2, .. }) if number == bad
        ));
    }
}

#[test]
fn a_missing_shard_is_named() {
    let dir = folder(&["m-00001-of-00003.gguf", "m-00003-of-00003.gguf"]);
    assert!(matches!(
        found(dir.path(), "m-00001-of-00003.gguf"),
        Err(DiscoverError::MissingShard { path }) if path.ends_with("m-00002-of-00003.gguf")
    ));
}

#[test]
fn a_missing_part_is_named() {
    for (names, asked, missing) in [
        (["m.part00", "m.part02"], "m.part00", 1),
        (["m.part2", "m.part3"], "m.part2", 1),
        (["m.partab", "m.partac"], "m.partab", 0),
        (["m.part1of3", "m.part2of3"], "m.part1of3", 3),
    ] {
        let dir = folder(&names);
        assert!(matches!(
            found(dir.path(), asked),
            Err(DiscoverError::MissingPart { number, .. }) if number == missing
        ));
    }
}

#[test]
fn parts_that_clash_are_named() {
    for names in [
        ["m.part01", "m.part1"],
        ["m.part1", "m.part1of1"],
        ["m.part1of2", "m.part1of3"],
        ["m.part00", "m.partaa"],
    ] {
        let dir = folder(&names);
        assert!(matches!(
            found(dir.path(), "m"),
            Err(DiscoverError::AmbiguousPart { first, second })
                if first.ends_with(names[0]) && second.ends_with(names[1])
        ));
    }
}

/// A model cut both ways: shards by tensors, and the first shard by bytes in the middle of its header.
#[test]
fn a_model_in_shards_and_parts_opens_as_one() {
    let dir = folder(&[]);
    for (no, tensor) in ["a.weight", "b.weight"].into_iter().enumerate() {
        let mut header = Header::new();
        header.set("split.no", no as u16).unwrap();
        header.set("split.count", 2u16).unwrap();
        header.set("split.tensors.count", 2i32).unwrap();
        header.add_tensor(tensor, TensorType::F32, &[4, 2]).unwrap();
        let mut writer = Writer::start(Vec::new(), &header).unwrap();
        writer.write_tensor(tensor, &[no as u8; 32]).unwrap();
        let file = writer.finish().unwrap();
        let path = dir.path().join(format!("m-{:05}-of-00002.gguf", no + 1));
        if no == 0 {
            for (i, part) in file.chunks(70).enumerate() {
                fs::write(path.with_extension(format!("gguf.part{i:02}")), part).unwrap();
            }
        } else {
            fs::write(path, file).unwrap();
        }
    }

    let shards = discover(&dir.path().join("m-00002-of-00002.gguf")).unwrap();
    assert_eq!(shards.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1]);
    let first_part = fs::read(&shards[0][0]).unwrap();
    let file_len: u64 = shards[0].iter().map(|part| part.metadata().unwrap().len()).sum();
    assert!(matches!(Gguf::parse(std::sync::Arc::new(first_part), file_len), Err(Error::Truncated { .. })));
    let join = |parts: &Vec<PathBuf>| parts.iter().flat_map(|part| fs::read(part).unwrap()).collect();
    let files: Vec<Vec<u8>> = shards.iter().map(join).collect();
    let set = files.iter().map(|file| Gguf::from_vec(file.clone()).unwrap()).collect();
    let set = ShardSet::new(set).unwrap();
    assert_eq!(set.n_tensors(), 2);
    for (name, shard) in [("a.weight", 0), ("b.weight", 1)] {
        let (found, tensor) = set.tensor(name).unwrap();
        assert_eq!(found, shard);
        assert_eq!(files[shard][tensor.file_offset as usize..][..32], [shard as u8; 32]);
    }
    assert!(set.tensor("c.weight").is_none());
    assert_eq!(
        set.tensors().map(|(i, t)| (i, t.name)).collect::<Vec<_>>(),
        [(0, "a.weight"), (1, "b.weight")]
    );
}
