//! What disks deliver, remembered from one run to the next: a line `DEVICE BYTES_PER_SECOND` for each, in the user's
//! cache folder. Nothing depends on it: what cannot be read or written is measured again.

use etcetera::BaseStrategy;
use std::fs;
use std::path::PathBuf;

/// The disks of this machine that were measured.
pub(crate) struct Disks {
    file: Option<PathBuf>,
}

impl Disks {
    /// Those that this user has measured.
    pub(crate) fn of_user() -> Disks {
        let folder = etcetera::choose_base_strategy().ok().map(|user| user.cache_dir().join("rawrz"));
        Disks { file: folder.map(|folder| folder.join("disks")) }
    }

    fn lines(&self) -> Vec<(u64, f64)> {
        let text = self.file.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let parse = |line: &str| {
            let (device, rate) = line.split_once(' ')?;
            let rate: f64 = rate.parse().ok()?;
            (rate.is_finite() && rate > 0.0).then_some((device.parse().ok()?, rate))
        };
        text.lines().filter_map(parse).collect()
    }

    /// Bytes in a second of `device`, if it was measured.
    pub(crate) fn get(&self, device: u64) -> Option<f64> {
        self.lines().into_iter().find(|(known, _)| *known == device).map(|(_, rate)| rate)
    }

    /// Remembers what `device` delivers.
    pub(crate) fn set(&self, device: u64, bytes_per_s: f64) {
        let Some(file) = &self.file else { return };
        let others = self.lines().into_iter().filter(|(known, _)| *known != device);
        let lines =
            others.chain([(device, bytes_per_s)]).map(|(device, rate)| format!("{device} {rate:.0}\n"));
        if let Some(folder) = file.parent() {
            let _ = fs::create_dir_all(folder);
        }
        // Two at once: one of them is forgotten, and measured again.
        let _ = fs::write(file, lines.collect::<String>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_remembered_and_nonsense_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new folder").join("disks");
        let disks = Disks { file: Some(file.clone()) };
        assert_eq!(disks.get(7), None);
        disks.set(7, 1.5e9);
        disks.set(8, 7e9);
        disks.set(7, 2e9);
        assert_eq!((disks.get(7), disks.get(8)), (Some(2e9), Some(7e9)));
        fs::write(&file, "7 fast\n8 inf\n\u{0}\n9 -1\n10 5\n").unwrap();
        assert_eq!([7, 8, 9, 10].map(|device| disks.get(device)), [None, None, None, Some(5.0)]);
        Disks { file: None }.set(1, 1.0);
    }
}
