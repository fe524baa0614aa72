//! Characters of simple fonts: ISO 32000-1, annex D, and names of glyphs as in the Adobe Glyph List.

/// Codes of a font by its base encoding. `None` in the dictionary means the standard one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Standard,
    WinAnsi,
    MacRoman,
}

/// Windows code page 1252, codes 0x80 to 0x9f; the others are those of Latin-1.
const WIN_ANSI: &str = "€•‚ƒ„…†‡ˆ‰Š‹Œ•Ž••‘’“”•–—˜™š›œ•žŸ";
/// Mac OS Roman, codes 0x80 to 0xff.
const MAC_ROMAN: &str = "ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄¤‹›ﬁﬂ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ";
/// Adobe's standard encoding, codes 0xa0 to 0xff; `.` is a code without a character.
const STANDARD: &str =
    ".¡¢£⁄¥ƒ§¤'“«‹›ﬁﬂ.–†‡·.¶•‚„”»…‰.¿.`´ˆ˜¯˘˙¨.˚¸.˝˛ˇ—................Æ.ª....ŁØŒº.....æ...ı..łøœß....";

impl Base {
    pub(super) fn from_name(name: &[u8]) -> Option<Base> {
        match name {
            b"StandardEncoding" => Some(Base::Standard),
            b"WinAnsiEncoding" => Some(Base::WinAnsi),
            b"MacRomanEncoding" => Some(Base::MacRoman),
            _ => None,
        }
    }

    pub(super) fn char(self, code: u8) -> Option<char> {
        let high = |table: &str, first: u8| table.chars().nth(usize::from(code - first));
        match (self, code) {
            (_, 0..0x20 | 0x7f) => None,
            (Base::Standard, b'\'') => Some('’'),
            (Base::Standard, b'`') => Some('‘'),
            (_, 0x20..0x7f) => Some(code as char),
            (Base::Standard, 0xa0..) => high(STANDARD, 0xa0).filter(|char| *char != '.'),
            (Base::Standard, _) => None,
            (Base::WinAnsi, 0x80..0xa0) => high(WIN_ANSI, 0x80),
            (Base::WinAnsi, _) => Some(code as char),
            (Base::MacRoman, _) => high(MAC_ROMAN, 0x80),
        }
    }
}

/// Names of glyphs that fonts of Latin, Greek and mathematical text have, beside single letters.
const NAMES: &[(&str, &str)] = &[
    (
        "space exclam quotedbl numbersign dollar percent ampersand quotesingle parenleft parenright asterisk plus comma hyphen \
         period slash zero one two three four five six seven eight nine colon semicolon less equal greater question at \
         bracketleft backslash bracketright asciicircum underscore grave braceleft bar braceright asciitilde",
        " !\"#$%&'()*+,-./0123456789:;<=>?@[\\]^_`{|}~",
    ),
    (
        "exclamdown cent sterling currency yen brokenbar section dieresis copyright ordfeminine guillemotleft logicalnot \
         registered macron degree plusminus twosuperior threesuperior acute mu paragraph periodcentered cedilla onesuperior \
         ordmasculine guillemotright onequarter onehalf threequarters questiondown multiply divide germandbls",
        "¡¢£¤¥¦§¨©ª«¬®¯°±²³´µ¶·¸¹º»¼½¾¿×÷ß",
    ),
    (
        "Agrave Aacute Acircumflex Atilde Adieresis Aring AE Ccedilla Egrave Eacute Ecircumflex Edieresis Igrave Iacute \
         Icircumflex Idieresis Eth Ntilde Ograve Oacute Ocircumflex Otilde Odieresis Oslash Ugrave Uacute Ucircumflex \
         Udieresis Yacute Thorn agrave aacute acircumflex atilde adieresis aring ae ccedilla egrave eacute ecircumflex \
         edieresis igrave iacute icircumflex idieresis eth ntilde ograve oacute ocircumflex otilde odieresis oslash ugrave \
         uacute ucircumflex udieresis yacute thorn ydieresis",
        "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿ",
    ),
    (
        "Abreve abreve Aogonek aogonek Cacute cacute Ccaron ccaron Dcaron dcaron Dcroat dcroat Ecaron ecaron Eogonek eogonek \
         Gbreve gbreve Idotaccent dotlessi Lslash lslash Nacute nacute Ncaron ncaron Ohungarumlaut ohungarumlaut OE oe \
         Rcaron rcaron Sacute sacute Scaron scaron Scedilla scedilla Tcaron tcaron Uhungarumlaut uhungarumlaut Uring uring \
         Ydieresis Zacute zacute Zcaron zcaron Zdotaccent zdotaccent",
        "ĂăĄąĆćČčĎďĐđĚěĘęĞğİıŁłŃńŇňŐőŒœŘřŚśŠšŞşŤťŰűŮůŸŹźŽžŻż",
    ),
    (
        "quoteleft quoteright quotesinglbase quotedblleft quotedblright quotedblbase guilsinglleft guilsinglright endash \
         emdash bullet ellipsis dagger daggerdbl perthousand trademark florin fraction Euro minus fi fl ff ffi ffl \
         circumflex caron breve dotaccent ring ogonek tilde hungarumlaut",
        "‘’‚“”„‹›–—•…†‡‰™ƒ⁄€−ﬁﬂﬀﬃﬄˆˇ˘˙˚˛˜˝",
    ),
    (
        "Alpha Beta Gamma Delta Epsilon Zeta Eta Theta Iota Kappa Lambda Mu Nu Xi Omicron Pi Rho Sigma Tau Upsilon Phi Chi \
         Psi Omega alpha beta gamma delta epsilon zeta eta theta iota kappa lambda nu xi omicron pi rho sigma1 sigma tau \
         upsilon phi chi psi omega epsilon1 theta1 phi1 omega1",
        "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩαβγδεζηθικλνξοπρςστυφχψωϵϑϕϖ",
    ),
    (
        "infinity partialdiff integral summation product radical approxequal notequal lessequal greaterequal lozenge \
         element notelement intersection union similar equivalence propersubset reflexsubset propersuperset reflexsuperset \
         arrowleft arrowup arrowright arrowdown arrowboth arrowdblright arrowdblleft arrowdblboth universal existential \
         emptyset gradient logicaland logicalor therefore asteriskmath perpendicular angle dotmath prime proportional \
         circleplus circlemultiply nabla turnstileleft aleph",
        "∞∂∫∑∏√≈≠≤≥◊∈∉∩∪∼≡⊂⊆⊃⊇←↑→↓↔⇒⇐⇔∀∃∅∇∧∨∴∗⊥∠⋅′∝⊕⊗∇⊢ℵ",
    ),
];

/// The characters of a glyph of this name; nothing for names that say none.
pub(super) fn glyph(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    // A variant of a glyph, such as a small capital, shows the same character.
    let name = name.split('.').next().filter(|name| !name.is_empty())?;
    let parts: Option<String> = name.split('_').map(one).collect();
    parts
}

fn one(name: &str) -> Option<char> {
    let mut chars = name.chars();
    if let (Some(letter), None) = (chars.next(), chars.next()) {
        return Some(letter).filter(char::is_ascii_alphabetic);
    }
    let found = NAMES.iter().find_map(|(names, chars)| {
        let index = names.split_ascii_whitespace().position(|known| known == name)?;
        chars.chars().nth(index)
    });
    let code = |digits: &str| {
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit()) && (4..=6).contains(&digits.len());
        u32::from_str_radix(digits, 16).ok().filter(|_| is_hex).and_then(char::from_u32)
    };
    found.or_else(|| code(name.strip_prefix("uni")?)).or_else(|| code(name.strip_prefix('u')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_as_long_as_the_codes_they_are_for() {
        assert_eq!(WIN_ANSI.chars().count(), 0x20);
        assert_eq!(MAC_ROMAN.chars().count(), 0x80);
        assert_eq!(STANDARD.chars().count(), 0x60);
        for (names, chars) in NAMES {
            assert_eq!(names.split_ascii_whitespace().count(), chars.chars().count(), "{chars}");
        }
    }

    #[test]
    fn codes_are_the_characters_of_the_standard() {
        let cases = [
            (Base::Standard, 0xaa, "“"),
            (Base::Standard, 0xae, "ﬁ"),
            (Base::Standard, 0xd0, "—"),
            (Base::Standard, 0xe1, "Æ"),
            (Base::Standard, 0xe8, "Ł"),
            (Base::Standard, 0xf5, "ı"),
            (Base::Standard, 0xfb, "ß"),
            (Base::Standard, b'\'', "’"),
            (Base::WinAnsi, 0x80, "€"),
            (Base::WinAnsi, 0x9f, "Ÿ"),
            (Base::WinAnsi, 0xe9, "é"),
            (Base::MacRoman, 0x8e, "é"),
            (Base::MacRoman, 0xca, "\u{a0}"),
            (Base::MacRoman, 0xde, "ﬁ"),
            (Base::MacRoman, 0xff, "ˇ"),
        ];
        for (base, code, text) in cases {
            assert_eq!(base.char(code).map(String::from).as_deref(), Some(text), "{base:?} {code:#x}");
        }
        assert_eq!(Base::Standard.char(0xb0), None);
        assert_eq!(Base::Standard.char(0x80), None);
    }

    #[test]
    fn names_of_glyphs() {
        let cases = [
            ("A", Some("A")),
            ("space", Some(" ")),
            ("a.sc", Some("a")),
            ("f_i", Some("fi")),
            ("uni20AC", Some("€")),
            ("u1F600", Some("😀")),
            ("germandbls", Some("ß")),
            ("omega1", Some("ϖ")),
            ("aleph", Some("ℵ")),
            ("zcaron", Some("ž")),
            (".notdef", None),
            ("g42", None),
            ("uniD800", None),
            ("", None),
        ];
        for (name, text) in cases {
            assert_eq!(glyph(name.as_bytes()).as_deref(), text, "{name}");
        }
    }
}
