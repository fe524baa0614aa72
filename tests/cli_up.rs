//! Maps, `up` and `down`, and Ollama's store: what users and scripts see, also when it goes wrong.

mod common;

use common::{Done, model, rawrz};
use std::fs;
use std::path::{Path, PathBuf};

/// A user's data folder and a store of Ollama's, both empty.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Home {
        let home = Home { dir: tempfile::tempdir().unwrap() };
        fs::create_dir_all(home.store()).unwrap();
        home
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("ollama")
    }

    fn run(&self, args: &[&str]) -> Done {
        self.run_with_store(args, &self.store())
    }

    fn run_with_store(&self, args: &[&str], store: &Path) -> Done {
        let mut command = rawrz();
        command.args(args).env("RAWRZ_DATA", self.dir.path().join("data")).env("OLLAMA_MODELS", store);
        command.env("RAWRZ_MODELS", model("smollm2").parent().unwrap());
        // Found nowhere, whatever is installed here.
        command.env("PATH", "");
        command.output().expect("rawrz starts").into()
    }

    /// All that is below a folder, without its locks and what is remembered of files.
    fn tree(&self) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, out: &mut Vec<String>) {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.is_symlink() {
                    walk(&path, root, out);
                } else {
                    out.push(path.strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
        let mut out = Vec::new();
        walk(self.dir.path(), self.dir.path(), &mut out);
        out.retain(|path| !path.ends_with(".lock") && !path.starts_with("data/digests"));
        out.sort();
        out
    }
}

/// A model of a few hundred bytes that opens: it has a vocabulary, and no weights.
fn tiny_model(path: &Path) {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let strings = |list: &[&str]| {
        let all: Vec<u8> = list.iter().flat_map(|text| string(text)).collect();
        [&8u32.to_le_bytes()[..], &(list.len() as u64).to_le_bytes()[..], &all].concat()
    };
    let entries: [(&str, u32, Vec<u8>); 5] = [
        ("general.architecture", 8, string("llama")),
        ("tokenizer.ggml.model", 8, string("gpt2")),
        ("tokenizer.ggml.pre", 8, string("gpt-2")),
        ("tokenizer.ggml.tokens", 9, strings(&["a", "b", "ab"])),
        ("tokenizer.ggml.merges", 9, strings(&["a b"])),
    ];
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    for (key, ty, value) in entries {
        bytes.extend(string(key));
        bytes.extend(ty.to_le_bytes());
        bytes.extend(value);
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn up_and_down_leave_what_was_there() {
    let path = model("smollm2");
    let home = Home::new();
    let before = home.tree();
    let first = home.run(&["up", "smollm2"]).ok();
    assert!(first.contains("smollm2:latest linked"), "{first}");
    let folder = home.dir.path().join("data/hf/smollm2");
    assert!(folder.join("config.json").is_file() && folder.join("tokenizer.json").is_file());
    assert_eq!(fs::metadata(folder.join("model.gguf")).unwrap().len(), fs::metadata(&path).unwrap().len());
    // A second run says that there was nothing to do, and does nothing.
    let made = home.tree();
    let second = home.run(&["up", "smollm2"]).ok();
    assert!(second.contains("nothing changed"), "{second}");
    assert_eq!(home.tree(), made);

    let list: serde_json::Value = home.run(&["maps", "list", "--json"]).json();
    assert_eq!(list[0]["name"], "smollm2");
    assert_eq!(list[0]["files"][0], path.to_str().unwrap());
    let listed: serde_json::Value = home.run(&["ollama", "list", "--json"]).json();
    assert_eq!(listed[0]["name"], "smollm2:latest");
    assert_eq!(listed[0]["trouble"], serde_json::Value::Null);

    let len = fs::metadata(&path).unwrap().len();
    assert!(home.run(&["maps", "remove", "smollm2"]).failed(1).contains("rawrz down smollm2"));
    home.run(&["down", "smollm2"]).ok();
    assert_eq!(home.tree(), before);
    assert_eq!(fs::metadata(&path).unwrap().len(), len);
    assert!(home.run(&["down", "smollm2"]).failed(1).contains("no map"));
}

#[test]
fn shards_are_made_where_asked_and_removed_with_the_rest() {
    let path = model("smollm2");
    let home = Home::new();
    let out = home.dir.path().join("out");
    let before = home.tree();
    let args = ["up", "smollm2", "--out-dir", out.to_str().unwrap(), "--shard-size", "40MiB"];
    home.run(&args).ok();
    assert!(out.join("smollm2/config.json").is_file());
    let first = out.join("smollm2-shards/smollm2-00001-of-00003.gguf");
    let shards = home.run(&["inspect", first.to_str().unwrap(), "--json"]).json();
    assert_eq!(
        shards["n_tensors"],
        home.run(&["inspect", path.to_str().unwrap(), "--json"]).json()["n_tensors"]
    );
    assert!(home.run(&args).ok().contains("nothing changed"));
    // What somebody put there stays.
    fs::write(out.join("smollm2/notes.txt"), "mine").unwrap();
    let done = home.run(&["down", "smollm2"]);
    assert!(done.stderr.contains("notes.txt"), "{done:?}");
    done.ok();
    let mut left = before;
    left.push("out/smollm2/notes.txt".to_owned());
    assert_eq!(home.tree(), left);
}

#[test]
fn a_name_stands_for_its_file_in_every_command() {
    let home = Home::new();
    let path = home.dir.path().join("Tiny Model.gguf");
    tiny_model(&path);
    let text = path.to_str().unwrap();
    home.run(&["maps", "add", "tiny", text]).ok();
    home.run(&["maps", "alias", "small", "tiny"]).ok();
    for name in ["tiny", "TINY", "small"] {
        assert_eq!(home.run(&["inspect", name, "--json"]).json()["files"][0], text);
    }
    // A map that was there before `up` stays after `down`.
    assert!(home.run(&["up", "tiny"]).ok().contains("tiny:latest linked"));
    assert!(home.run(&["down", "small"]).failed(1).contains("alias of tiny"));
    home.run(&["down", "tiny"]).ok();
    assert_eq!(home.run(&["inspect", "tiny", "--json"]).json()["files"][0], text);

    // A change is told, a loss refused.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10);
    fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    let done = home.run(&["inspect", "tiny"]);
    assert!(done.stderr.contains("was written to"), "{done:?}");
    fs::remove_file(&path).unwrap();
    assert!(home.run(&["inspect", "tiny"]).failed(1).contains("which is gone"));
    assert!(home.run(&["maps", "list"]).ok().contains("is gone"));
    home.run(&["maps", "remove", "tiny"]).ok();
    assert_eq!(home.run(&["maps", "list", "--json"]).json(), serde_json::json!([]));
}

#[test]
fn several_at_once_and_twenty_processes_are_all_consistent() {
    let home = Home::new();
    let paths: Vec<_> = (0..20).map(|i| home.dir.path().join(format!("m{i}.gguf"))).collect();
    for path in &paths {
        tiny_model(path);
    }
    let (two, rest) = paths.split_at(2);
    let both = home.run(&["up", two[0].to_str().unwrap(), two[1].to_str().unwrap(), "--json"]).json();
    assert_eq!((&both[0]["name"], &both[1]["name"]), (&"m0".into(), &"m1".into()));
    std::thread::scope(|scope| {
        for path in rest {
            scope.spawn(|| home.run(&["up", path.to_str().unwrap()]).ok());
        }
    });
    let maps = home.run(&["maps", "list", "--json"]).json();
    assert_eq!(maps.as_array().unwrap().len(), 20);
    let listed = home.run(&["ollama", "list", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 20);
    assert!(listed.as_array().unwrap().iter().all(|model| model["trouble"].is_null()), "{listed}");
    // And away again, at once.
    std::thread::scope(|scope| {
        for i in 0..20 {
            let home = &home;
            scope.spawn(move || home.run(&["down", &format!("m{i}")]).ok());
        }
    });
    assert_eq!(home.run(&["maps", "list", "--json"]).json(), serde_json::json!([]));
    let left = home.tree();
    assert!(left.iter().all(|path| path.ends_with(".gguf")), "{left:?}");
}

#[test]
fn hostile_names_are_refused_and_leave_nothing() {
    let home = Home::new();
    let path = home.dir.path().join("m.gguf");
    tiny_model(&path);
    let text = path.to_str().unwrap();
    let before = home.tree();
    for name in ["..", "../../etc/x", "a/b", "a\nb", "", ".hidden", "nul", "a\\b"] {
        assert!(home.run(&["maps", "add", name, text]).failed(1).contains("cannot be a name"), "{name:?}");
        assert!(home.run(&["up", text, "--name", name]).failed(1).contains("cannot be a name"), "{name:?}");
    }
    for name in ["..", "../x", "a/../b", "a\nb", "m:", "m:a/b", ":x", "a/b/c/d"] {
        let error = home.run(&["ollama", "link", name, text]).failed(1);
        assert!(error.contains("cannot be a model's name"), "{name:?}: {error}");
        home.run(&["ollama", "unlink", name]).failed(1);
    }
    assert_eq!(home.tree(), before);
    home.run(&["up", text, text, "--name", "x"]).failed(2);
    home.run(&["up", "no such model"]).failed(1);
    fs::write(&path, "not a model").unwrap();
    home.run(&["up", text]).failed(1);
    assert_eq!(home.tree(), before);
}

#[test]
fn what_is_in_the_way_is_told_and_undone() {
    let home = Home::new();
    let (path, other) = (home.dir.path().join("m.gguf"), home.dir.path().join("other.gguf"));
    tiny_model(&path);
    tiny_model(&other);
    let (text, other) = (path.to_str().unwrap(), other.to_str().unwrap());
    home.run(&["ollama", "link", "m", other]).ok();
    let before = home.tree();
    // The name is taken in the store, so the map goes away again.
    assert!(home.run(&["up", text]).failed(1).contains("in Ollama's store already"));
    assert_eq!(home.tree(), before);
    home.run(&["ollama", "unlink", "m"]).ok();
    home.run(&["maps", "add", "m", other]).ok();
    assert!(home.run(&["up", text]).failed(1).contains("take another name"));
    // A model in several files is not for Ollama.
    fs::rename(text, home.dir.path().join("m.gguf.part0")).unwrap();
    fs::write(home.dir.path().join("m.gguf.part1"), "x").unwrap();
    assert!(home.run(&["ollama", "link", "m2", text]).failed(1).contains("rawrz merge"));
}

#[cfg(unix)]
#[test]
fn a_store_that_leads_elsewhere_is_refused() {
    let home = Home::new();
    let path = home.dir.path().join("m.gguf");
    tiny_model(&path);
    let outside = home.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, home.store().join("manifests")).unwrap();
    let before = home.tree();
    let error = home.run(&["up", path.to_str().unwrap()]).failed(1);
    assert!(error.contains("nothing is written there"), "{error}");
    assert_eq!(home.tree(), before);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

/// Mounts a small memory file system and gives it to `test`, in name spaces of its own so that nothing stays mounted; says
/// so and returns where that is not allowed.
#[cfg(target_os = "linux")]
fn with_mount(options: &str, test: &str) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o {options} none {}", dir.path().display());
    let allowed = std::process::Command::new("unshare").args(["-rm", "sh", "-c", &script]).output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped {test}: mounting in a name space is not allowed here");
        return;
    }
    let (home, data) = (Home::new(), dir.path().join("store"));
    let path = home.dir.path().join("m.gguf");
    tiny_model(&path);
    let before = home.tree();
    // Filled to the last byte, or made read-only, after the folder of the store was made.
    let fill = match test {
        "full" => format!("cat /dev/zero > {}/fill 2>/dev/null; true", dir.path().display()),
        _ => format!("mount -o remount,ro {}", dir.path().display()),
    };
    let script = format!(
        "{script} && mkdir {store} && {fill}; \"$0\" up {model} 2>&1; echo \"code $?\"; find {store} | wc -l",
        store = data.display(),
        model = path.display(),
    );
    let output = std::process::Command::new("unshare")
        .args(["-rm", "sh", "-c", &script, env!("CARGO_BIN_EXE_rawrz")])
        .env("RAWRZ_DATA", home.dir.path().join("data"))
        .env("OLLAMA_MODELS", &data)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("code 1\n1\n"), "the store is as it was: {text}{output:?}");
    assert!(text.contains("nothing of it is left") && text.contains("os error"), "{text}");
    assert_eq!(home.tree(), before);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_nothing() {
    with_mount("size=64k", "full");
}

#[cfg(target_os = "linux")]
#[test]
fn a_read_only_store_leaves_nothing() {
    with_mount("size=64k", "read-only");
}
