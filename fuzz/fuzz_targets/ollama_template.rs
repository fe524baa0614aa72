//! Any chat template is turned into one of Ollama's language or refused, and any text is a name or not: nothing ends the
//! process, and no name gets out of its folder.
//!
//! Input: the template, a byte 0xFF, and a name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rawrz_interop::maps::MapName;
use rawrz_interop::ollama::{OllamaName, for_ollama};
use rawrz_text::{ChatTemplate, LocalTime};

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == 0xff);
    let mut part = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (source, name) = (part(), part());
    if let Ok(name) = MapName::parse(&name) {
        assert_eq!(MapName::parse(name.as_str()).unwrap(), name);
        assert!(!name.as_str().contains(['/', '\\', ':']) && !name.as_str().starts_with('.'));
    }
    if let Some(name) = MapName::suggested_by(&name) {
        assert_eq!(MapName::parse(name.as_str()).unwrap(), name);
    }
    if let Ok(name) = OllamaName::parse(&name) {
        assert_eq!(OllamaName::parse(&name.to_string()).unwrap(), name);
    }
    if let Ok(template) = ChatTemplate::new(&source, None, &[("bos_token", Some("<s>"))]) {
        let now = LocalTime { unix_s: 1_780_000_000, utc_offset_s: 0 };
        let _ = for_ollama(&template, Some("<s>"), now);
    }
});
