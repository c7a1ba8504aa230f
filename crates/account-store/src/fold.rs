//! The ways text is compared: each makes a key, and texts are equal when their keys are.
//!
//! Backends index accounts by these keys, so a look-up folds its question once and compares bytes. Folding
//! widens what matches (`josé` is `jose` to [`windows()`]): a key that finds several accounts never maps.

use std::borrow::Cow;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// A way to compare text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Comparison {
    /// Code point for code point.
    Exact,
    /// By [`casefold`].
    Casefold,
    /// By [`windows()`].
    Windows,
}

impl Comparison {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Exact, Self::Casefold, Self::Windows];

    /// Its name in configuration and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Casefold => "casefold",
            Self::Windows => "windows",
        }
    }

    /// The key of a text: equal texts have equal keys.
    pub fn key(self, text: &str) -> Cow<'_, str> {
        match self {
            Self::Exact => Cow::Borrowed(text),
            Self::Casefold => Cow::Owned(casefold(text)),
            Self::Windows => Cow::Owned(windows(text)),
        }
    }
}

/// The version of the tables behind the keys. A store that keeps keys on disk notes it, and makes the keys
/// again if it differs.
pub fn version() -> String {
    let text = |(major, minor, micro): (u64, u64, u64)| format!("{major}.{minor}.{micro}");
    let std = char::UNICODE_VERSION;
    let normalization = unicode_normalization::UNICODE_VERSION;
    format!(
        "4 {} {} {}",
        text((std.0.into(), std.1.into(), std.2.into())),
        text((normalization.0.into(), normalization.1.into(), normalization.2.into())),
        text(unicode_properties::UNICODE_VERSION),
    )
}

/// For names, UPNs and SPNs: canonical composition and simple case mapping, nothing wider.
pub fn casefold(text: &str) -> String {
    match text.is_ascii() {
        true => text.to_ascii_lowercase(),
        // Case mapping can undo composition (`J` with caron has no composed form, `j` has one), hence twice.
        false => text.nfc().map(simple_fold).nfc().collect(),
    }
}

/// For whether two names look alike: [`casefold`] of the compatibility composition, without characters that
/// are not shown. Full-width and half-width forms, ligatures and superscripts are the letters that they stand
/// for. No look-up goes by it.
pub fn wide(text: &str) -> String {
    match text.is_ascii() {
        true => casefold(text),
        // Folding may leave what composes further.
        false => {
            casefold(&text.nfkc().map(simple_fold).filter(|c| !is_invisible(*c)).nfkc().collect::<String>())
        }
    }
}

/// For `altSecurityIdentities`: what Windows compares with NORM_IGNORECASE, IGNOREKANATYPE, IGNORENONSPACE
/// and IGNOREWIDTH ([MS-RCMP] note <2>), by public Unicode data instead of Microsoft's weight tables.
///
/// Compatibility decomposition, without nonspacing marks, Hiragana as Katakana, simple upper case, without
/// control, unassigned and default-ignorable characters. Equal to the real thing for ASCII; in other scripts
/// it also unifies ligatures and superscripts, which some versions of Windows keep apart.
pub fn windows(text: &str) -> String {
    match text.is_ascii() {
        true => text.chars().filter(|c| !c.is_ascii_control()).map(|c| c.to_ascii_uppercase()).collect(),
        false => text
            .nfkd()
            .filter(|c| !is_dropped(*c))
            .map(|c| simple_upper(katakana(c)))
            .filter(|c| !is_dropped(*c))
            .collect(),
    }
}

fn katakana(c: char) -> char {
    match c {
        '\u{3041}'..='\u{3096}' => char::from_u32(u32::from(c) + 0x60).unwrap_or(c),
        c => c,
    }
}

/// The simple upper-case mapping. The standard library knows the full one; where that has several code
/// points, the simple one is the character itself (`ß`) or its title case, which folds together by
/// [`simple_lower`].
fn simple_upper(c: char) -> char {
    single(c.to_uppercase()).unwrap_or(c)
}

fn simple_lower(c: char) -> char {
    single(c.to_lowercase()).unwrap_or(c)
}

/// Simple case folding, by way of the upper case so that `ς` meets `σ`. The dotless `ı` stays itself, as in
/// Unicode's table: it is another letter than `i`.
fn simple_fold(c: char) -> char {
    match c {
        'ı' => c,
        c => simple_lower(simple_upper(c)),
    }
}

fn single(mut chars: impl Iterator<Item = char>) -> Option<char> {
    chars.next().filter(|_| chars.next().is_none())
}

fn is_dropped(c: char) -> bool {
    use GeneralCategory::{Control, NonspacingMark, Unassigned};
    !c.is_ascii_graphic()
        && (matches!(c.general_category(), NonspacingMark | Control | Unassigned) || is_default_ignorable(c))
}

/// Default_Ignorable_Code_Point of the Unicode Character Database (DerivedCoreProperties.txt): characters
/// that are not shown.
fn is_default_ignorable(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Whether a character leaves no mark on the paper, spaces and controls aside: Default_Ignorable_Code_Point,
/// or the Braille pattern without dots, which is no space to any program and looks like one.
pub fn is_invisible(c: char) -> bool {
    c == '\u{2800}' || is_default_ignorable(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `same` pairs have one key and `different` ones two.
    fn check(fold: fn(&str) -> String, same: &[(&str, &str)], different: &[(&str, &str)]) {
        for (left, right) in same {
            assert_eq!(fold(left), fold(right), "{left:?} {right:?}");
        }
        for (left, right) in different {
            assert_ne!(fold(left), fold(right), "{left:?} {right:?}");
        }
        for text in same.iter().chain(different).flat_map(|(left, right)| [left, right]) {
            assert_eq!(fold(&fold(text)), fold(text), "{text:?} folds once");
        }
    }

    #[test]
    fn casefold_ignores_case_and_composition_only() {
        check(
            casefold,
            &[
                ("Alice@CONTOSO.com", "alice@contoso.COM"),
                ("jos\u{e9}", "JOSE\u{301}"),
                ("ΣΑΣ", "σας"),
                ("J\u{30c}", "\u{1f0}"),
                ("ᾼ", "ᾳ"),
                ("\u{212a}elvin", "kelvin"),
                ("ẞ", "ß"),
            ],
            &[
                ("jos\u{e9}", "jose"),
                ("ß", "ss"),
                ("alıce", "alice"),
                ("Ａ", "A"),
                ("ひ", "ヒ"),
                ("a\u{200d}", "a"),
                ("а", "a"), // Cyrillic
                ("alice", "alice$"),
            ],
        );
        assert_eq!(casefold("Host/Web01.Contoso.example"), "host/web01.contoso.example");
    }

    #[test]
    fn windows_ignores_case_marks_width_and_kana_type() {
        check(
            windows,
            &[
                ("CN=Alice Smith", "cn=ALICE sMITH"),
                ("jos\u{e9}", "JOSE"),
                ("Ａｌｉｃｅ", "alice"),
                ("ｶﾞ", "が"),
                ("ひらがな", "ヒラガナ"),
                ("ﾋﾗｶﾞﾅ", "ひらがな"),
                ("a\u{ad}l\u{200b}ice", "alice"),
                ("a\u{1}b\n", "AB"),
                ("a\u{378}", "a"),
                ("ﬁ", "FI"),
                ("ς", "Σ"),
                ("\u{a0}", " "),
            ],
            &[("ß", "SS"), ("а", "a"), ("a-b", "ab"), ("o'neil", "oneil"), ("a  b", "a b"), ("ア", "イ")],
        );
        assert_eq!(windows("CN=Straße"), "CN=STRAßE");
    }

    #[test]
    fn the_fast_path_for_ascii_is_the_general_one() {
        let ascii: String = (0..0x80u8).map(char::from).collect();
        let general: String = ascii.nfkd().filter(|c| !is_dropped(*c)).map(simple_upper).collect();
        assert_eq!(windows(&ascii), general);
        let general: String = ascii.nfc().map(simple_fold).collect();
        assert_eq!(casefold(&ascii), general);
    }
}
