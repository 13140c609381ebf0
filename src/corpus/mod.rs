//! A synthetic language of our own: seeded, unlimited text in ten topics.
//!
//! The bundled models are trained on it, and calibration and held-out text are generated from other seeds, so no
//! one else's text is needed. Each topic has its own words and its own rules (the rule is stated at its variant of
//! [`Topic`]), and so a batch of one topic needs other channels than a batch of another.
//!
//! The same topic and seed give the same bytes on every platform: integers only, from one ChaCha8 stream per topic.
//!
//! ```
//! use probeprune::corpus::{Corpus, Topic};
//! let first = Corpus::new(&[Topic::Sorting], 7).next().unwrap();
//! assert!(first.starts_with("sort ") || first.starts_with("flip "));
//! ```

mod draw;
mod formal;
mod memory;
mod prose;
mod records;

use crate::Error;
use draw::Draw;
use std::{fmt, io, str::FromStr};

/// One kind of text. A document is a few lines without a blank one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Small tales from a grammar; the hero, the place and the thing looked for stay the same within one.
    Stories,
    /// `KAVU:jade MOZI:onyx` pairs, then questions `? MOZI jade`, each answered with the value stored.
    Recall,
    /// `mod 7` and then right sums, differences and products of single digits modulo it.
    Modular,
    /// Lines of balanced brackets of up to four kinds, one space between any two.
    Brackets,
    /// `sort fig date => date fig` (alphabetical) and `flip fig date => date fig` (reversed).
    Sorting,
    /// Two people greet each other, ask, answer and take leave; what was said is repeated rightly.
    Dialogue,
    /// A stock table with bars; the last column is the first number less the second.
    Tables,
    /// Code-like functions in a made-up language; names are declared before use and braces match.
    Code,
    /// Service logs; time never runs backwards and a retry count goes up by one.
    Logs,
    /// Tunes in sol-fa; the beats of every bar sum to four.
    Music,
}

impl Topic {
    /// Every topic, in the order of their numbers.
    pub const ALL: [Topic; 10] = [
        Topic::Stories,
        Topic::Recall,
        Topic::Modular,
        Topic::Brackets,
        Topic::Sorting,
        Topic::Dialogue,
        Topic::Tables,
        Topic::Code,
        Topic::Logs,
        Topic::Music,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Topic::Stories => "stories",
            Topic::Recall => "recall",
            Topic::Modular => "modular",
            Topic::Brackets => "brackets",
            Topic::Sorting => "sorting",
            Topic::Dialogue => "dialogue",
            Topic::Tables => "tables",
            Topic::Code => "code",
            Topic::Logs => "logs",
            Topic::Music => "music",
        }
    }

    fn document(self, draw: &mut Draw) -> String {
        match self {
            Topic::Stories => prose::story(draw),
            Topic::Recall => memory::recall(draw),
            Topic::Modular => formal::modular(draw),
            Topic::Brackets => formal::brackets(draw),
            Topic::Sorting => memory::sorting(draw),
            Topic::Dialogue => prose::dialogue(draw),
            Topic::Tables => records::table(draw),
            Topic::Code => formal::code(draw),
            Topic::Logs => records::log(draw),
            Topic::Music => records::music(draw),
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Topic {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Topic::ALL.into_iter().find(|topic| topic.name() == name).ok_or_else(|| {
            let names = Topic::ALL.map(Topic::name).join(", ");
            Error::argument("topic", format!("one of {names}"), name, "Pass one of these names.")
        })
    }
}

/// An endless stream of documents: each ends with a line break and holds no blank line.
#[derive(Clone, Debug)]
pub struct Corpus {
    topics: Vec<(Topic, Draw)>,
    choose: Draw,
}

impl Corpus {
    /// Documents of these topics, each document's topic drawn at random.
    ///
    /// A topic's own documents come in the same order and with the same bytes whatever the other topics are.
    ///
    /// # Panics
    /// If `topics` is empty.
    pub fn new(topics: &[Topic], seed: u64) -> Self {
        assert!(!topics.is_empty(), "a corpus needs at least one topic");
        Corpus {
            topics: topics.iter().map(|&topic| (topic, Draw::new(seed, 1 + topic as u64))).collect(),
            choose: Draw::new(seed, 0),
        }
    }
}

impl Iterator for Corpus {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let index = self.choose.below(self.topics.len());
        let (topic, draw) = &mut self.topics[index];
        Some(topic.document(draw))
    }
}

/// Whole documents with a blank line between any two, until there are at least `approx_bytes` bytes.
pub fn text(topics: &[Topic], seed: u64, approx_bytes: usize) -> String {
    let mut text = String::with_capacity(approx_bytes + 1024);
    for document in Corpus::new(topics, seed) {
        if text.len() >= approx_bytes {
            break;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&document);
    }
    text
}

/// Writes whole documents with a blank line between any two, until there are at least `lines` lines.
///
/// # Errors
/// The value that `out` returns.
pub fn write_lines(out: &mut impl io::Write, topics: &[Topic], seed: u64, lines: usize) -> io::Result<()> {
    let mut written = 0;
    for document in Corpus::new(topics, seed) {
        if written >= lines {
            break;
        }
        if written > 0 {
            out.write_all(b"\n")?;
            written += 1;
        }
        out.write_all(document.as_bytes())?;
        written += document.lines().count();
    }
    Ok(())
}
