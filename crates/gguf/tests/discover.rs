//! Finding the files of a model by their names.

use std::fs;
use std::path::{Path, PathBuf};

use rawrz_gguf::{DiscoverError, discover};

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
