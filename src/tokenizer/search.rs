//! Regular expressions of a tokenizer.json, searched with a limit on their work.
//!
//! The tokenizers crate takes an expression that gives up for one that finds nothing more, and would go on with wrong
//! ids: here that is an error.

use std::sync::OnceLock;

use fancy_regex::{Regex, RegexBuilder, RuntimeError};
use tokenizers::{Offsets, Result, pattern::Pattern};

/// Bytes of a compiled part of an expression: real ones take a tenth.
const MOST_COMPILED: usize = 1 << 20;

/// Steps back in one search, for all but a few searches.
const USUAL_STEPS: usize = 10_000;

/// Steps back in the few others. A run of white space can take one per character.
const MOST_STEPS: usize = 1_000_000;

/// How many others there may be in a short text.
const PATIENCE: usize = 8;

/// An expression, and where it matches in a text.
#[derive(Debug)]
pub(super) struct Search {
    pattern: String,
    usual: Regex,
    /// The same with more steps, made when it is first needed.
    patient: OnceLock<Regex>,
}

impl Search {
    /// # Errors
    /// When the expression is invalid, or too large when compiled.
    pub(super) fn new(pattern: &str) -> Result<Self> {
        let usual = compile(pattern, USUAL_STEPS)?;
        Ok(Self { pattern: pattern.to_string(), usual, patient: OnceLock::new() })
    }

    /// That finds this very text.
    pub(super) fn literal(text: &str) -> Result<Self> {
        Self::new(&fancy_regex::escape(text))
    }

    /// The next match at or after `from`; `patience` is how many more searches may take long.
    fn next(&self, text: &str, from: usize, patience: &mut usize) -> Result<Option<Offsets>> {
        let mut found = self.usual.find_from_pos(text, from);
        if gave_up(&found) && *patience > 0 {
            *patience -= 1;
            let patient = match self.patient.get() {
                Some(patient) => patient,
                None => {
                    let compiled = compile(&self.pattern, MOST_STEPS)?;
                    self.patient.get_or_init(|| compiled)
                }
            };
            found = patient.find_from_pos(text, from);
        }
        if gave_up(&found) {
            return Err(format!("too many steps on this text in the expression {:?}", self.pattern).into());
        }
        Ok(found?.map(|found| (found.start(), found.end())))
    }
}

fn compile(pattern: &str, steps: usize) -> Result<Regex> {
    Ok(RegexBuilder::new(pattern)
        .backtrack_limit(steps)
        .delegate_size_limit(MOST_COMPILED)
        .delegate_dfa_size_limit(MOST_COMPILED)
        .build()?)
}

fn gave_up<T>(found: &fancy_regex::Result<T>) -> bool {
    use RuntimeError::{BacktrackLimitExceeded, StackOverflow};
    matches!(found, Err(fancy_regex::Error::RuntimeError(BacktrackLimitExceeded | StackOverflow)))
}

impl Pattern for &Search {
    fn find_matches(&self, text: &str) -> Result<Vec<(Offsets, bool)>> {
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let (mut pieces, mut given, mut from) = (Vec::new(), 0, 0);
        // A search that takes long for a good reason goes over so much text.
        let mut patience = PATIENCE + text.len() / USUAL_STEPS;
        while from <= text.len() {
            let Some((start, end)) = self.next(text, from, &mut patience)? else { break };
            from = end;
            if start == end {
                from += text[end..].chars().next().map_or(1, char::len_utf8);
                // An empty match right behind a match is none.
                if pieces.last().is_some_and(|(last, matches): &(Offsets, bool)| *matches && last.1 == end) {
                    continue;
                }
            }
            if given != start {
                pieces.push(((given, start), false));
            }
            pieces.push(((start, end), true));
            given = end;
        }
        if given != text.len() {
            pieces.push(((given, text.len()), false));
        }
        Ok(pieces)
    }
}

/// Matches that have been found already.
pub(super) struct Found(pub(super) Vec<(Offsets, bool)>);

impl Pattern for Found {
    fn find_matches(&self, _: &str) -> Result<Vec<(Offsets, bool)>> {
        Ok(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use tokenizers::{pattern::Pattern, utils::SysRegex};

    use super::Search;

    /// Expressions of public models, and some that can match nothing.
    const PATTERNS: [&str; 8] = [
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
        "a*",
        "(?=b)|c",
        "$",
    ];

    #[test]
    fn as_the_crate_finds() {
        let texts =
            ["", "a", "aab", "baac", " héllo  wörld\r\n\n 12345's  ", "日本語 テキスト 🦀", "ab\0cab", "   "];
        for pattern in PATTERNS {
            let (ours, theirs) = (Search::new(pattern).unwrap(), SysRegex::new(pattern).unwrap());
            for text in texts {
                let (ours, theirs) = (&ours, &theirs);
                let expected = theirs.find_matches(text).unwrap();
                assert_eq!(ours.find_matches(text).unwrap(), expected, "{pattern:?} on {text:?}");
            }
        }
    }

    #[test]
    fn long_runs_of_white_space() {
        let text = format!("a{}b{}c", " ".repeat(200_000), "\n \n".repeat(100_000));
        for pattern in &PATTERNS[..2] {
            let search = Search::new(pattern).unwrap();
            let pieces = (&search).find_matches(&text).unwrap();
            assert!((4..=6).contains(&pieces.len()), "{}", pieces.len());
        }
    }

    #[test]
    fn endless_searches_end() {
        let start = Instant::now();
        for pattern in ["(?:(?=a)a|a)*b", "(?:(?=a)a+)+b", "(?:a|a(?!c))*(?=d)"] {
            let search = Search::new(pattern).unwrap();
            let error = (&search).find_matches(&"a".repeat(60)).expect_err(pattern).to_string();
            assert!(error.contains("too many steps"), "{error}");
        }
        for pattern in ["(a{1000}){1000}", "(\\p{L}{100}){100}", "(?=(a{1000}){1000})b"] {
            Search::new(pattern).unwrap_err();
        }
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
