//! Byte counts as people type them.

/// Parses `512MiB`, `4GiB`, `1GB`, `1.5GiB` or plain bytes. Units of 1024 end in `iB`, units of 1000 in `B`;
/// letter case and one space before the unit do not matter. A bare `K`, `M`, `G` or `T` means 1024s, as in
/// other tools that limit memory.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_bytes: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000_u64.pow(2),
        "gb" => 1000_u64.pow(3),
        "tb" => 1000_u64.pow(4),
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return Err(format!("`{unit}` is not a unit of size: use 512MiB, 4GiB, 1GB or plain bytes")),
    };
    let wrong = || format!("`{text}` is not a size: use 512MiB, 4GiB, 1GB or plain bytes");
    let too_large = || format!("`{text}` is more than 2^64 bytes");
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && (fraction.is_empty() || fraction.len() > 9)) {
        return Err(wrong());
    }
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    // At most nine digits, so the products below fit 128 bits with room to spare.
    let scale = 10_u128.pow(fraction.len() as u32);
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong())? };
    let bytes = u128::from(whole) * u128::from(unit_bytes) + fraction * u128::from(unit_bytes) / scale;
    u64::try_from(bytes).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("512MiB", 512 << 20),
            ("4GiB", 4 << 30),
            ("1GB", 1_000_000_000),
            ("1gb", 1_000_000_000),
            ("1.5GiB", 3 << 29),
            ("0.1KB", 100),
            ("2 TiB", 2 << 40),
            ("600M", 600 << 20),
            ("7k", 7 << 10),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn rejections() {
        for text in [
            "",
            "MiB",
            "-1",
            "1..5GB",
            ".5GB",
            "1.GB",
            "1.2.3",
            "1PB",
            "1 M B",
            "0x10",
            "1e9",
            "٣MB",
            "18446744073709551616",
            "16777216TiB",
            "1.0000000001GB",
            "NaN",
        ] {
            assert!(parse(text).is_err(), "{text} was taken as {:?}", parse(text));
        }
    }
}
