//! The store, changed by us and by others.

use super::*;
use crate::{About, Digest, FileRecord};
use std::path::Path;

struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
    about: About,
}

const CONTENT: &str = "the weights";

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("ollama/models"), dir.path().join("locks"));
        let about = About {
            architecture: "llama".into(),
            n_parameters: 134_515_008,
            file_type: "Q4_1",
            context_len: Some(8192),
        };
        Fixture { dir, store, about }
    }

    fn file(&self, name: &str, content: &str) -> FileRecord {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        FileRecord::of(&path).unwrap()
    }

    fn link(&self, name: &str, file: &FileRecord) -> Result<Linked, OllamaError> {
        self.link_with(name, file, "{{ .Prompt }}", false)
    }

    fn link_with(
        &self,
        name: &str,
        file: &FileRecord,
        template: &str,
        may_copy: bool,
    ) -> Result<Linked, OllamaError> {
        self.store.link(&LinkRequest {
            name: &OllamaName::parse(name).unwrap(),
            file,
            digest: Digest::of(&std::fs::read(&file.path).unwrap()),
            about: &self.about,
            template: Some(template),
            stops: &["<|im_end|>".to_owned()],
            context_len: 4096,
            may_copy,
        })
    }

    fn unlink(&self, name: &str) -> Result<Unlinked, OllamaError> {
        self.store.unlink(&OllamaName::parse(name).unwrap())
    }

    /// All files and folders of the store, relative to it.
    fn tree(&self) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, out: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                out.push(path.strip_prefix(root).unwrap().display().to_string());
                if path.is_dir() && !path.is_symlink() {
                    walk(&path, root, out);
                }
            }
        }
        let mut out = Vec::new();
        walk(self.store.root(), self.store.root(), &mut out);
        out.sort();
        out
    }

    fn blobs(&self) -> usize {
        self.tree().iter().filter(|path| path.starts_with("blobs/")).count()
    }
}

#[test]
fn a_model_is_linked_listed_and_unlinked() {
    let f = Fixture::new();
    let file = f.file("m.gguf", CONTENT);
    assert!(f.store.list().unwrap().models.is_empty());
    assert_eq!(f.link("m", &file).unwrap(), Linked { how: LinkKind::HardLink, was_there: false });
    assert_eq!(f.link("m", &file).unwrap(), Linked { how: LinkKind::HardLink, was_there: true });
    // Weights, template, params, config.
    assert_eq!(f.blobs(), 4);
    let blob = f.store.blob(Digest::of(CONTENT.as_bytes()));
    assert_eq!(std::fs::read_to_string(blob).unwrap(), CONTENT);

    let listing = f.store.list().unwrap();
    let model = &listing.models[0];
    assert_eq!((model.name.to_string(), &model.trouble), ("m:latest".to_owned(), &None));
    assert_eq!(model.origin.as_ref().unwrap().source, file);

    assert_eq!(f.unlink("m").unwrap(), Unlinked { n_blobs: 4, blobs_kept: false });
    assert_eq!(f.tree(), ["blobs", "manifests"]);
    assert_eq!(std::fs::read_to_string(&file.path).unwrap(), CONTENT);
    assert!(matches!(f.unlink("m"), Err(OllamaError::Unknown { .. })));
}

#[test]
fn models_share_blobs_and_keep_what_others_need() {
    let f = Fixture::new();
    let file = f.file("m.gguf", CONTENT);
    f.link("one", &file).unwrap();
    f.link("two:x", &file).unwrap();
    assert_eq!(f.blobs(), 4);
    assert_eq!(f.unlink("one").unwrap().n_blobs, 0);
    assert_eq!(f.store.list().unwrap().models[0].trouble, None);
    assert_eq!(f.unlink("two:x").unwrap().n_blobs, 4);
}

#[test]
fn files_with_the_same_content_share_a_blob_that_goes_with_the_last() {
    let f = Fixture::new();
    let (one, two) = (f.file("one.gguf", CONTENT), f.file("two.gguf", CONTENT));
    f.link("one", &one).unwrap();
    f.link("two", &two).unwrap();
    assert_eq!(f.unlink("one").unwrap().n_blobs, 0);
    assert_eq!(f.unlink("two").unwrap().n_blobs, 4);
}

#[test]
fn a_link_is_brought_up_to_date() {
    let f = Fixture::new();
    let file = f.file("m.gguf", CONTENT);
    f.link("m", &file).unwrap();
    assert!(!f.link_with("m", &file, "new {{ .Prompt }}", false).unwrap().was_there);
    // An edited source is noticed, and has another digest.
    let edited = f.file("m.gguf", "other weights");
    assert!(f.store.list().unwrap().models[0].trouble.as_ref().unwrap().contains("bytes"));
    assert!(!f.link("m", &edited).unwrap().was_there);
    assert_eq!(f.store.list().unwrap().models[0].trouble, None);
}

#[test]
fn names_of_others_are_left_alone() {
    let f = Fixture::new();
    let (file, other) = (f.file("m.gguf", CONTENT), f.file("other.gguf", "x"));
    f.link("m", &file).unwrap();
    assert!(matches!(f.link("m", &other), Err(OllamaError::Taken { .. })));

    // What Ollama makes of a copy: the same manifest without our notes.
    let manifest = std::fs::read_to_string(f.store.manifest(&OllamaName::parse("m").unwrap())).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    manifest.as_object_mut().unwrap().remove("annotations");
    let copy = f.store.manifest(&OllamaName::parse("copy").unwrap());
    std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
    std::fs::write(&copy, manifest.to_string()).unwrap();
    assert!(matches!(f.link("copy", &file), Err(OllamaError::Taken { .. })));
    assert!(matches!(f.unlink("copy"), Err(OllamaError::NotOurs { .. })));
    // Its blobs stay when ours goes.
    assert_eq!(f.unlink("m").unwrap().n_blobs, 0);
    assert_eq!(f.blobs(), 4);
}

#[test]
fn a_copy_that_ollama_has_is_used_and_kept() {
    let f = Fixture::new();
    let file = f.file("m.gguf", CONTENT);
    let blob = f.store.blob(Digest::of(CONTENT.as_bytes()));
    std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
    std::fs::write(&blob, CONTENT).unwrap();
    assert_eq!(f.link("m", &file).unwrap().how, LinkKind::Present);
    assert_eq!(f.link("m", &file).unwrap(), Linked { how: LinkKind::Present, was_there: true });
    assert_eq!(f.unlink("m").unwrap().n_blobs, 3);
    assert!(blob.is_file());

    std::fs::write(&blob, "cut").unwrap();
    assert!(matches!(f.link("m", &file), Err(OllamaError::DamagedBlob { .. })));
    assert_eq!(f.blobs(), 1, "nothing is left behind: {:?}", f.tree());
}

#[test]
fn a_manifest_that_cannot_be_read_keeps_all_blobs() {
    let f = Fixture::new();
    f.link("m", &f.file("m.gguf", CONTENT)).unwrap();
    let bad = f.store.manifest(&OllamaName::parse("bad").unwrap());
    std::fs::create_dir_all(bad.parent().unwrap()).unwrap();
    std::fs::write(&bad, "{").unwrap();
    assert_eq!(f.store.list().unwrap().unreadable, [bad]);
    assert_eq!(f.unlink("m").unwrap(), Unlinked { n_blobs: 0, blobs_kept: true });
    assert_eq!(f.blobs(), 4);
}

#[test]
fn a_blob_that_went_away_is_told_and_linked_again() {
    let f = Fixture::new();
    let file = f.file("m.gguf", CONTENT);
    f.link("m", &file).unwrap();
    std::fs::remove_file(f.store.blob(Digest::of(CONTENT.as_bytes()))).unwrap();
    assert!(f.store.list().unwrap().models[0].trouble.as_ref().unwrap().contains("missing"));
    assert!(!f.link("m", &file).unwrap().was_there);
    assert_eq!(f.store.list().unwrap().models[0].trouble, None);
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn folders_that_lead_out_of_the_store_are_refused() {
        for inner in
            ["manifests", "manifests/registry.ollama.ai", "manifests/registry.ollama.ai/library/m", "blobs"]
        {
            let f = Fixture::new();
            let file = f.file("m.gguf", CONTENT);
            let outside = f.dir.path().join("outside");
            std::fs::create_dir(&outside).unwrap();
            let folder = f.store.root().join(inner);
            std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
            symlink(&outside, &folder).unwrap();
            let before = f.tree();
            assert!(matches!(f.link("m", &file), Err(OllamaError::Outside { .. })), "{inner}");
            assert_eq!(f.tree(), before);
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        }
    }

    #[test]
    fn the_root_may_be_a_link() {
        let f = Fixture::new();
        let elsewhere = f.dir.path().join("elsewhere");
        std::fs::create_dir_all(&elsewhere).unwrap();
        std::fs::create_dir_all(f.store.root().parent().unwrap()).unwrap();
        symlink(&elsewhere, f.store.root()).unwrap();
        f.link("m", &f.file("m.gguf", CONTENT)).unwrap();
        f.unlink("m").unwrap();
    }

    #[test]
    fn a_link_into_nothing_is_replaced() {
        let f = Fixture::new();
        let file = f.file("m.gguf", CONTENT);
        let blob = f.store.blob(Digest::of(CONTENT.as_bytes()));
        std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
        symlink(f.dir.path().join("gone"), &blob).unwrap();
        assert_eq!(f.link("m", &file).unwrap().how, LinkKind::HardLink);
    }

    #[test]
    fn another_file_system_gets_a_symbolic_link() {
        let Some(elsewhere) = ["/dev/shm", "/run"].iter().find_map(|dir| tempfile::tempdir_in(dir).ok())
        else {
            eprintln!("skipped: no second file system to write to");
            return;
        };
        let f = Fixture::new();
        let path = elsewhere.path().join("m.gguf");
        std::fs::write(&path, CONTENT).unwrap();
        let file = FileRecord::of(&path).unwrap();
        if f.link("m", &file).unwrap().how == LinkKind::HardLink {
            eprintln!("skipped: {} is on the same file system", elsewhere.path().display());
            return;
        }
        assert_eq!(f.link("m", &file).unwrap(), Linked { how: LinkKind::Symlink, was_there: true });
        assert_eq!(f.unlink("m").unwrap().n_blobs, 4);
        assert!(path.is_file());
    }

    #[test]
    fn a_file_that_others_cannot_reach_is_told() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        let (folder, file) = (dir.path().join("folder"), dir.path().join("folder/m.gguf"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&file, CONTENT).unwrap();
        mode(dir.path(), 0o755);
        mode(&folder, 0o755);
        mode(&file, 0o640);
        assert_eq!(hidden_from_others(&file), Some(file.canonicalize().unwrap()));
        mode(&file, 0o644);
        mode(&folder, 0o750);
        assert_eq!(hidden_from_others(&file), Some(folder.canonicalize().unwrap()));
        mode(&folder, 0o755);
        // Folders above that of temporary files are the system's.
        assert!(hidden_from_others(&file).is_none_or(|hidden| !hidden.starts_with(dir.path())));
    }
}
