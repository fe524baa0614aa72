//! What templates expect of Python: `str`, `json.dumps`, methods of strings, and `strftime`.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};

use super::input::LocalTime;
use crate::json::{float_text, write_string};

/// Deepest nesting of a value that is written.
const MAX_DEPTH: usize = 128;

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, "a value nests too deep to be written")
}

fn is_integer(value: &Value) -> bool {
    value.kind() == ValueKind::Number && value.is_integer()
}

fn float_of(value: &Value) -> Result<f64, Error> {
    f64::try_from(value.clone())
}

/// Layout of `json.dumps`.
struct JsonLayout {
    /// What one level indents by; `None` for a single line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

/// Counts what is written against the fuel, as it is written: values that share parts can show as far more text than
/// they take memory.
struct Out<'s, 'env, 'template> {
    text: String,
    state: &'s State<'env, 'template>,
    n_paid_bytes: usize,
}

impl<'s, 'env, 'template> Out<'s, 'env, 'template> {
    fn new(state: &'s State<'env, 'template>) -> Self {
        Out { text: String::new(), state, n_paid_bytes: 0 }
    }

    /// Called for each value that is written.
    fn pay(&mut self) -> Result<(), Error> {
        let n_new_bytes = self.text.len() - self.n_paid_bytes;
        self.n_paid_bytes = self.text.len();
        self.state.consume_fuel(1 + n_new_bytes as u64 / 64)
    }
}

/// The filter `tojson`, which is `json.dumps` with `ensure_ascii=False` and nothing escaped for HTML.
pub(super) fn tojson(
    state: &State,
    value: &Value,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let indent = match indent {
        Some(value) if !value.is_none() && !value.is_undefined() => Some(match value.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(value)?.min(64)),
        }),
        _ => None,
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "separators must be two strings"));
        }
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let layout = JsonLayout {
        indent,
        item_separator,
        key_separator,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = Out::new(state);
    write_json(&mut out, value, &layout, 0)?;
    Ok(Value::from(out.text))
}

fn json_string(out: &mut String, text: &str, ensure_ascii: bool) {
    let start = out.len();
    // Writing to a string cannot fail.
    let _ = write_string(out, text);
    if ensure_ascii && !out[start..].is_ascii() {
        let written = out.split_off(start);
        for c in written.chars() {
            match c.is_ascii() {
                true => out.push(c),
                false => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
            }
        }
    }
}

fn new_line(out: &mut String, layout: &JsonLayout, depth: usize) {
    if let Some(indent) = &layout.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

fn write_json(
    out: &mut Out<'_, '_, '_>,
    value: &Value,
    layout: &JsonLayout,
    depth: usize,
) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    out.pay()?;
    match value.kind() {
        ValueKind::None => out.text.push_str("null"),
        ValueKind::Bool => out.text.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if is_integer(value) => {
            let _ = write!(out.text, "{value}");
        }
        ValueKind::Number => out.text.push_str(&float_text(float_of(value)?)),
        ValueKind::String => {
            json_string(&mut out.text, value.as_str().unwrap_or_default(), layout.ensure_ascii);
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.text.push('[');
            let mut empty = true;
            for element in value.try_iter()?.checked() {
                if !empty {
                    out.text.push_str(&layout.item_separator);
                }
                empty = false;
                new_line(&mut out.text, layout, depth + 1);
                write_json(out, &element?, layout, depth + 1)?;
            }
            if !empty {
                new_line(&mut out.text, layout, depth);
            }
            out.text.push(']');
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = Vec::new();
            for key in value.try_iter()?.checked() {
                keys.push(key?);
            }
            if layout.sort_keys {
                keys.sort();
            }
            out.text.push('{');
            for (i, key) in keys.iter().enumerate() {
                if i > 0 {
                    out.text.push_str(&layout.item_separator);
                }
                new_line(&mut out.text, layout, depth + 1);
                match key.as_str() {
                    Some(text) => json_string(&mut out.text, text, layout.ensure_ascii),
                    None => {
                        // Only what fits on one level can be a key.
                        let mut text = Out::new(out.state);
                        write_json(&mut text, key, layout, MAX_DEPTH)?;
                        json_string(&mut out.text, &text.text, layout.ensure_ascii);
                    }
                }
                out.text.push_str(&layout.key_separator);
                write_json(out, &value.get_item(key)?, layout, depth + 1)?;
            }
            if !keys.is_empty() {
                new_line(&mut out.text, layout, depth);
            }
            out.text.push('}');
        }
        kind => {
            let what = format!("{kind} cannot be written as JSON");
            return Err(Error::new(ErrorKind::BadSerialization, what));
        }
    }
    Ok(())
}

/// A value as Python's `str` writes it: what `{{ value }}` shows.
pub(super) fn to_str(state: &State, value: &Value) -> Result<String, Error> {
    let mut out = Out::new(state);
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::String => out.text.push_str(value.as_str().unwrap_or_default()),
        _ => write_repr(&mut out, value, 0)?,
    }
    out.pay()?;
    Ok(out.text)
}

fn write_repr(out: &mut Out<'_, '_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(too_deep());
    }
    out.pay()?;
    match value.kind() {
        ValueKind::None => out.text.push_str("None"),
        ValueKind::Bool => out.text.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number if is_integer(value) => {
            let _ = write!(out.text, "{value}");
        }
        ValueKind::Number => {
            let float = float_of(value)?;
            match float.is_finite() {
                true => out.text.push_str(&float_text(float)),
                false => out.text.push_str(&float.to_string().to_lowercase()),
            }
        }
        ValueKind::String => repr_string(&mut out.text, value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.text.push(open);
            let mut n_elements = 0;
            for element in value.try_iter()?.checked() {
                if n_elements > 0 {
                    out.text.push_str(", ");
                }
                n_elements += 1;
                write_repr(out, &element?, depth + 1)?;
            }
            if value.is_tuple() && n_elements == 1 {
                out.text.push(',');
            }
            out.text.push(close);
        }
        ValueKind::Map => {
            out.text.push('{');
            for (i, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                if i > 0 {
                    out.text.push_str(", ");
                }
                write_repr(out, &key, depth + 1)?;
                out.text.push_str(": ");
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.text.push('}');
        }
        ValueKind::Iterable => out.text.push_str("<iterable>"),
        _ => {
            let _ = write!(out.text, "{value}");
        }
    }
    Ok(())
}

fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Plain)
}

/// The test `iterable`: `None` is not, which templates rely on before they ask for a length.
pub(super) fn is_iterable(value: &Value) -> bool {
    let kind = value.kind();
    matches!(kind, ValueKind::String | ValueKind::Undefined)
        || kind != ValueKind::None && value.try_iter().is_ok()
}

/// A key of a `{..}`: anything but containers, which Python cannot hash either.
pub(super) fn map_key(value: &Value) -> Result<Value, Error> {
    match is_container(value) && !value.is_tuple() {
        true => Err(Error::new(ErrorKind::NonKey, format!("{} cannot be a key", value.kind()))),
        false => match value.is_tuple() && value.try_iter()?.any(|element| is_container(&element)) {
            true => Err(Error::new(ErrorKind::NonKey, "a tuple of containers cannot be a key")),
            false => Ok(value.clone()),
        },
    }
}

/// Filters that take text: what else they are given becomes text as in Python, which pays for it.
pub(super) fn add_text_filters(environment: &mut Environment<'static>) {
    let text_filters = [
        ("e", Value::from_function(filters::escape)),
        ("escape", Value::from_function(filters::escape)),
        ("lower", Value::from_function(filters::lower)),
        ("upper", Value::from_function(filters::upper)),
        ("title", Value::from_function(filters::title)),
        ("capitalize", Value::from_function(filters::capitalize)),
        ("replace", Value::from_function(filters::replace)),
        ("trim", Value::from_function(filters::trim)),
        ("split", Value::from_function(filters::split)),
        ("lines", Value::from_function(filters::lines)),
        ("indent", Value::from_function(filters::indent)),
        ("format", Value::from_function(filters::format)),
    ];
    for (name, filter) in text_filters {
        environment.add_filter(
            name,
            move |state: &mut State, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
                let mut args = args.into_values();
                for arg in &mut args {
                    if is_container(arg) && !arg.is_kwargs() {
                        *arg = Value::from(to_str(state, arg)?);
                    }
                }
                filter.call(state, &args)
            },
        );
    }
    let join = Value::from_function(filters::join);
    environment.add_filter(
        "join",
        move |state: &mut State, list: &Value, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
            let mut args = args.into_values();
            // An attribute is looked up in the elements, so they must stay what they are.
            let by_attribute = args.len() > 1 || args.iter().any(Value::is_kwargs);
            let list = match list.kind() {
                ValueKind::Seq | ValueKind::Map | ValueKind::Iterable if !by_attribute => {
                    let mut texts = Vec::new();
                    for element in list.try_iter()?.checked() {
                        let element = element?;
                        texts.push(match is_container(&element) {
                            true => Value::from(to_str(state, &element)?),
                            false => element,
                        });
                    }
                    Value::from(texts)
                }
                _ => list.clone(),
            };
            args.insert(0, list);
            join.call(state, &args)
        },
    );
}

fn repr_string(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            _ if c == quote => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out.push(quote);
}

/// Methods of Python values that templates call. Those of `minijinja-contrib`, and some that it lacks.
pub(super) fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        let third = |found: Option<(&str, &str)>, separator: &str, last: bool| {
            let parts = match (found, last) {
                (Some((before, after)), _) => [before, separator, after],
                (None, false) => [text, "", ""],
                (None, true) => ["", "", text],
            };
            Ok(Value::from(Tuple::from(parts.map(Value::from))))
        };
        match method {
            // Those of `minijinja-contrib` make as much text as asked for; here fuel pays for it first.
            "replace" => {
                let (old, new, count): (&str, &str, Option<i64>) = from_args(args)?;
                let limit = usize::try_from(count.unwrap_or(-1)).unwrap_or(usize::MAX);
                state.consume_fuel(text.len() as u64 / 64)?;
                let n_found = text.matches(old).take(limit).count();
                let n_new_bytes = (n_found as u64).saturating_mul(new.len() as u64);
                state.consume_fuel(n_new_bytes / 64)?;
                return Ok(Value::from(text.replacen(old, new, limit)));
            }
            "join" => {
                let (values,): (&Value,) = from_args(args)?;
                let mut joined = Out::new(state);
                for (i, value) in values.try_iter()?.checked().enumerate() {
                    if i > 0 {
                        joined.text.push_str(text);
                    }
                    joined.text.push_str(&to_str(state, &value?)?);
                    joined.pay()?;
                }
                return Ok(Value::from(joined.text));
            }
            "format" => {
                // A width of many digits would be filled, and each field may show the same argument.
                let wide = text.as_bytes().windows(4).any(|w| w.iter().all(u8::is_ascii_digit));
                if wide {
                    let what = "a format with a number of more than three digits";
                    return Err(Error::new(ErrorKind::InvalidOperation, what));
                }
                let mut n_shown_bytes = 1000;
                for argument in args {
                    n_shown_bytes += to_str(state, argument).map_or(0, |shown| shown.len());
                }
                let n_fields = text.bytes().filter(|byte| *byte == b'{').count();
                let n_bytes = (n_fields as u64).saturating_mul(n_shown_bytes as u64);
                state.consume_fuel(n_bytes / 64)?;
            }
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
            }
            "partition" => {
                let (separator,): (&str,) = from_args(args)?;
                return third(text.split_once(separator), separator, false);
            }
            "rpartition" => {
                let (separator,): (&str,) = from_args(args)?;
                return third(text.rsplit_once(separator), separator, true);
            }
            "rsplit" => {
                let (separator, limit): (&str, Option<i64>) = from_args(args)?;
                if separator.is_empty() {
                    return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
                }
                let n_parts = match limit {
                    Some(limit @ 0..) => (limit as usize).saturating_add(1),
                    _ => usize::MAX,
                };
                let mut parts: Vec<Value> = text.rsplitn(n_parts, separator).map(Value::from).collect();
                parts.reverse();
                return Ok(Value::from(parts));
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// `strftime` in English. Directives that are not known stay as they are.
pub(super) fn strftime(format: &str, time: LocalTime) -> String {
    // Seconds of years up to 9999 only, so that nothing overflows.
    let seconds = (time.unix_s.clamp(-62_135_596_800, 253_402_214_400)) + i64::from(time.utc_offset_s);
    let days = seconds.div_euclid(86_400);
    let second_of_day = seconds.rem_euclid(86_400);
    let (year, month, day) = civil(days);
    let weekday = (days + 4).rem_euclid(7) as usize;
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let day_of_year = days - days_from_civil(year, 1, 1) + 1;
    let month_name = MONTHS[(month - 1) as usize];
    let hour12 = (hour + 11) % 12 + 1;

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let padded = directive != Some('-');
        if !padded {
            directive = chars.next();
        }
        let number = |out: &mut String, value: i64, width: usize| {
            let _ = match padded {
                true => write!(out, "{value:0width$}"),
                false => write!(out, "{value}"),
            };
        };
        match directive {
            Some('Y') => number(&mut out, year, 4),
            Some('y') => number(&mut out, year.rem_euclid(100), 2),
            Some('m') => number(&mut out, month, 2),
            Some('d') => number(&mut out, day, 2),
            Some('e') => {
                let _ = write!(out, "{day:2}");
            }
            Some('H') => number(&mut out, hour, 2),
            Some('I') => number(&mut out, hour12, 2),
            Some('M') => number(&mut out, minute, 2),
            Some('S') => number(&mut out, second, 2),
            Some('f') => out.push_str("000000"),
            Some('j') => number(&mut out, day_of_year, 3),
            Some('w') => number(&mut out, weekday as i64, 1),
            Some('B') => out.push_str(month_name),
            Some('b' | 'h') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(DAYS[weekday]),
            Some('a') => out.push_str(&DAYS[weekday][..3]),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('F') => {
                let _ = write!(out, "{year:04}-{month:02}-{day:02}");
            }
            Some('T' | 'X') => {
                let _ = write!(out, "{hour:02}:{minute:02}:{second:02}");
            }
            Some('R') => {
                let _ = write!(out, "{hour:02}:{minute:02}");
            }
            Some('D' | 'x') => {
                let _ = write!(out, "{month:02}/{day:02}/{:02}", year.rem_euclid(100));
            }
            // `datetime.now()` knows no zone, for which both are empty.
            Some('z' | 'Z') => {}
            Some('%') => out.push('%'),
            Some(other) => {
                out.push('%');
                out.push(other);
            }
            None => out.push('%'),
        }
    }
    out
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years are counted from March, so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_agree() {
        for days in (-800_000..3_000_000).step_by(97) {
            let (year, month, day) = civil(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
    }

    #[test]
    fn time_is_written_as_python_does() {
        // Python: datetime(2024, 2, 29, 17, 5, 9).strftime(..)
        let time = LocalTime { unix_s: 1_709_222_709, utc_offset_s: 3600 };
        let format = "%Y-%m-%d %H:%M:%S|%d %B %Y|%b %-d, %y|%A %a %I:%M %p|%j %w %F %T %%|%Q";
        assert_eq!(
            strftime(format, time),
            "2024-02-29 17:05:09|29 February 2024|Feb 29, 24|Thursday Thu 05:05 PM|060 4 2024-02-29 17:05:09 %|%Q"
        );
        assert_eq!(strftime("%", time), "%");
        let far = LocalTime { unix_s: i64::MAX, utc_offset_s: i32::MIN };
        assert!(strftime("%Y", far).len() >= 4);
    }
}
