//! The memory ledger: what a run will use, added up and checked before any of it is allocated.

use crate::os;
use std::fmt;
use thiserror::Error;

/// One line of a [`Ledger`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the bytes are for.
    pub what: &'static str,
    /// How many.
    pub bytes: u64,
}

/// What a run will use, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    entries: Vec<Entry>,
}

/// The budget does not hold what the run needs.
#[derive(Clone, Debug, Error)]
#[error("a budget of {budget} is below the floor of {floor}: {ledger}", budget = Size(*budget_bytes), floor = Size(ledger.total_bytes()))]
pub struct BelowFloor {
    /// The budget that was asked for, in bytes.
    pub budget_bytes: u64,
    /// What makes up the floor.
    pub ledger: Ledger,
}

impl Ledger {
    /// Adds a line.
    pub fn add(&mut self, what: &'static str, bytes: u64) {
        self.entries.push(Entry { what, bytes });
    }

    /// The lines, in the order in which they were added.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Bytes of the line named `what`; 0 when there is none.
    pub fn bytes(&self, what: &str) -> u64 {
        self.entries.iter().filter(|e| e.what == what).map(|e| e.bytes).sum()
    }

    /// The sum of all lines, saturating.
    pub fn total_bytes(&self) -> u64 {
        self.entries.iter().fold(0, |sum, e| sum.saturating_add(e.bytes))
    }

    /// Checks the ledger against a budget.
    pub fn check(&self, budget_bytes: u64) -> Result<(), BelowFloor> {
        if self.total_bytes() > budget_bytes {
            return Err(BelowFloor { budget_bytes, ledger: self.clone() });
        }
        Ok(())
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, entry) in self.entries.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{} {}", entry.what, Size(entry.bytes))?;
        }
        Ok(())
    }
}

/// Bytes, shown in the largest binary unit that keeps at least one digit before the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut value = self.0 as f64 / 1024.0;
        if value < 1.0 {
            return write!(f, "{} B", self.0);
        }
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}

/// The budget when the user sets none: the lowest limit of the control groups around this process, and RAM
/// less a reserve of one eighth for everything else, whichever is lower. `None` when the system tells neither.
pub fn default_budget_bytes() -> Option<u64> {
    let ram = os::total_memory().map(|total| total - total / 8);
    [ram, os::memory_limit()].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_the_floor_is_refused_with_what_makes_it_up() {
        let mut ledger = Ledger::default();
        ledger.add("weights", 100 << 20);
        ledger.add("KV cache", 1536);
        assert_eq!(ledger.total_bytes(), (100 << 20) + 1536);
        ledger.check(ledger.total_bytes()).unwrap();
        let error = ledger.check(64 << 20).unwrap_err().to_string();
        assert_eq!(
            error,
            "a budget of 64.0 MiB is below the floor of 100.0 MiB: weights 100.0 MiB, KV cache 1.5 KiB"
        );
    }

    #[test]
    fn sums_saturate() {
        let mut ledger = Ledger::default();
        ledger.add("a", u64::MAX);
        ledger.add("b", 1);
        assert_eq!(ledger.total_bytes(), u64::MAX);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(Size(0).to_string(), "0 B");
        assert_eq!(Size(1024).to_string(), "1.0 KiB");
        assert_eq!(Size(42 << 30).to_string(), "42.0 GiB");
    }

    #[test]
    fn this_machine_has_a_default() {
        if cfg!(any(target_os = "linux", windows, target_vendor = "apple")) {
            assert!(default_budget_bytes().unwrap() > 1 << 20);
        }
    }
}
