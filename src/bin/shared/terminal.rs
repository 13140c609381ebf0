//! What a terminal is shown: text from models, files and arguments must not steer it.

use std::borrow::Cow;

/// `text` for a terminal, or as it is for a pipe or a file. Characters that a terminal obeys (all controls but line ends and
/// tabs) and those that turn the direction of text around or end a line unseen are shown escaped.
pub(crate) fn shown(text: &str, on_terminal: bool) -> Cow<'_, str> {
    if !on_terminal || is_safe(text) {
        return text.into();
    }
    let show = |c: char| if is_unsafe(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(show).collect::<String>().into()
}

/// As [`shown`], for a message of one line.
pub(crate) fn shown_line(line: &str, on_terminal: bool) -> Cow<'_, str> {
    let shown = shown(line, on_terminal);
    if on_terminal && shown.contains('\n') { shown.replace('\n', "\\n").into() } else { shown }
}

/// Whether a terminal shows `text` as it is.
pub(crate) fn is_safe(text: &str) -> bool {
    !text.contains(is_unsafe)
}

fn is_unsafe(c: char) -> bool {
    let marks = ['\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{feff}'];
    let bidi = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}');
    c.is_control() && c != '\n' && c != '\t' || bidi || marks.contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal() {
        for (text, expected) in [
            ("plain, é, 漢字\n\ttext", "plain, é, 漢字\n\ttext"),
            ("\u{1b}[2J\u{1b}]0;title\u{7}", "\\u{1b}[2J\\u{1b}]0;title\\u{7}"),
            ("a\rb\u{8}\u{7f}\0", "a\\rb\\u{8}\\u{7f}\\u{0}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}gpj.exe\u{2069}", "\\u{202e}gpj.exe\\u{2069}"),
            ("one\u{2028}two\u{200f}", "one\\u{2028}two\\u{200f}"),
        ] {
            assert_eq!(shown(text, true), expected);
            assert_eq!(shown(text, false), text);
        }
    }

    #[test]
    fn a_message_stays_one_line() {
        assert_eq!(shown_line("a\nerror: b", true), "a\\nerror: b");
        assert_eq!(shown_line("a\nb", false), "a\nb");
    }
}
