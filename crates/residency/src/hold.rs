//! Keeping files mapped and in memory for other programs.

use crate::mapped::MappedSource;
use crate::os;
use std::io;

/// Bytes that are read between two looks at whether to stop.
const STEP_BYTES: usize = 32 << 20;

/// Distance of touched bytes: the smallest page in use.
const PAGE_BYTES: usize = 4096;

/// Files that are kept in memory while this lives.
#[derive(Debug)]
pub struct Held<'a> {
    _source: &'a MappedSource,
    sections: Vec<os::Section>,
    section_name: String,
}

impl Held<'_> {
    /// The name under which other programs open the first file's memory, on systems that have such names; further files
    /// have the name with `.1`, `.2` and so on after it.
    pub fn section_name(&self) -> Option<&str> {
        (!self.sections.is_empty()).then_some(&*self.section_name)
    }
}

impl MappedSource {
    /// Brings all files into memory and keeps them mapped; with `lock` the system may not take the memory for anything
    /// else. On Windows each file is also a named section, `Local\NAME`. Ends early when `is_cancelled` says so.
    ///
    /// # Errors
    /// When a file cannot be read, the limit of locked memory is too low, or the name is taken.
    pub fn hold(&self, name: &str, lock: bool, is_cancelled: &dyn Fn() -> bool) -> io::Result<Held<'_>> {
        let mut sections = Vec::new();
        let section_name = format!(r"Local\{name}");
        for (index, part) in self.mapped_parts().iter().flatten().enumerate() {
            let name = if index == 0 { section_name.clone() } else { format!("{section_name}.{index}") };
            sections.extend(os::share(&part.part().file, &name)?);
        }
        self.expect_whole_reads();
        for part in self.mapped_parts().iter().flatten() {
            let bytes = part.bytes();
            for from in (0..bytes.len()).step_by(STEP_BYTES) {
                if is_cancelled() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                let step = from..bytes.len().min(from + STEP_BYTES);
                if !part.populate(step.clone()) {
                    part.advise_will_need(from, step.len());
                    bytes[step].iter().step_by(PAGE_BYTES).for_each(|byte| _ = std::hint::black_box(*byte));
                }
            }
            if lock {
                part.lock()?;
            }
            part.check_unchanged().map_err(io::Error::other)?;
        }
        Ok(Held { _source: self, sections, section_name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PartedFile;

    #[test]
    fn files_are_held_until_the_end_and_refused_when_cut() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("a"), dir.path().join("b")];
        for path in &paths {
            std::fs::write(path, vec![7; 3 * PAGE_BYTES + 5]).unwrap();
        }
        let open = || MappedSource::new(vec![PartedFile::open(&paths).unwrap()]).unwrap();
        let name = format!("rawrz-test-{}", std::process::id());
        let source = open();
        // So little can be locked by anyone.
        let held = source.hold(&name, true, &|| false).unwrap();
        assert_eq!(held.section_name().is_some(), cfg!(windows));
        assert!(source.hold("other", false, &|| true).is_err());

        #[cfg(unix)]
        {
            let source = open();
            std::fs::File::options().write(true).open(&paths[1]).unwrap().set_len(1).unwrap();
            assert!(source.hold(&name, false, &|| false).is_err());
        }
    }
}
