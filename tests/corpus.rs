//! The corpus: the same seed gives the same bytes, and every document obeys its topic's rule.

use probeprune::corpus::{Corpus, Topic, text, write_lines};
use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};
use tokenizers::Tokenizer;

const SEEDS: [u64; 3] = [0, 7, u64::MAX];
const DOCUMENTS: usize = 200;

/// Runs `check` on many documents of `topic`; a failure prints the document.
fn each(topic: Topic, check: impl Fn(&str) -> Option<()>) {
    for seed in SEEDS {
        for document in Corpus::new(&[topic], seed).take(DOCUMENTS) {
            assert!(check(&document).is_some(), "{topic}, seed {seed}:\n{document}");
        }
    }
}

/// `Some` if the condition holds, for `?` inside a check.
fn holds(condition: bool) -> Option<()> {
    condition.then_some(())
}

/// Every one of `text`'s brackets is closed by its own kind.
fn balanced(text: &str, kinds: &[(char, char)]) -> bool {
    let mut open = Vec::new();
    for c in text.chars() {
        if let Some(kind) = kinds.iter().find(|kind| kind.0 == c) {
            open.push(kind.1);
        } else if kinds.iter().any(|kind| kind.1 == c) && open.pop() != Some(c) {
            return false;
        }
    }
    open.is_empty()
}

/// The words of a text, without punctuation.
fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect()
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for topic in Topic::ALL {
        assert_eq!(text(&[topic], 3, 5000), text(&[topic], 3, 5000));
        assert_ne!(text(&[topic], 3, 5000), text(&[topic], 4, 5000), "{topic}");
    }
}

/// If this changes, the bundled models no longer fit the text, and every number measured with it is void.
#[test]
fn the_bytes_are_the_ones_the_models_were_trained_on() {
    let all = text(&Topic::ALL, 1, 200_000);
    assert_eq!(blake3::hash(all.as_bytes()).to_hex()[..16], *"47245188584cf0e9");
}

#[test]
fn a_topic_does_not_depend_on_its_company() {
    let alone: Vec<String> = Corpus::new(&[Topic::Code], 5).take(20).collect();
    let mixed = Corpus::new(&Topic::ALL, 5).filter(|document| document.starts_with("fn "));
    assert_eq!(mixed.take(20).collect::<Vec<_>>(), alone);
}

#[test]
fn a_mixture_has_every_topic() {
    let topics: HashSet<Topic> = [Topic::Music, Topic::Modular].into();
    let first: HashSet<&str> = Corpus::new(&[Topic::Music, Topic::Modular], 1)
        .take(50)
        .map(|document| if document.starts_with("tempo ") { "music" } else { "modular" })
        .collect();
    assert_eq!(first, topics.iter().map(|topic| topic.name()).collect());
}

#[test]
fn documents_are_lines_without_a_blank_one() {
    for topic in Topic::ALL {
        each(topic, |document| {
            holds(document.ends_with('\n') && document.is_ascii())?;
            holds(document.lines().all(|line| !line.trim().is_empty() && line.trim_end() == line))
        });
    }
}

#[test]
fn text_is_whole_documents_and_at_least_as_long_as_asked() {
    for topic in Topic::ALL {
        let got = text(&[topic], 11, 3000);
        assert!((3000..4500).contains(&got.len()), "{topic}: {}", got.len());
        let documents: Vec<String> = Corpus::new(&[topic], 11).take(got.split("\n\n").count()).collect();
        assert_eq!(got, documents.join("\n"));
    }
    assert_eq!(text(&Topic::ALL, 1, 0), "");
}

#[test]
fn lines_are_the_documents_of_the_text() {
    for lines in [1, 40, 1000] {
        let mut got = Vec::new();
        write_lines(&mut got, &Topic::ALL, 12, lines).unwrap();
        let got = String::from_utf8(got).unwrap();
        assert!((lines..lines + 20).contains(&got.lines().count()), "{} of {lines}", got.lines().count());
        assert_eq!(got, text(&Topic::ALL, 12, got.len()));
    }
}

#[test]
fn names_parse_back() {
    for topic in Topic::ALL {
        assert_eq!(topic.name().parse::<Topic>().unwrap(), topic);
        assert_eq!(topic.to_string(), topic.name());
    }
    let message = "poems".parse::<Topic>().unwrap_err().to_string();
    assert!(message.contains("poems") && message.contains("stories, recall"), "{message}");
}

#[test]
fn topics_differ_in_their_words() {
    let seen: Vec<HashMap<String, usize>> = Topic::ALL
        .map(|topic| {
            let mut counts = HashMap::new();
            for word in words(&text(&[topic], 2, 50_000)) {
                *counts.entry(word.to_string()).or_default() += 1;
            }
            counts
        })
        .into();
    for (i, a) in seen.iter().enumerate() {
        for (j, b) in seen.iter().enumerate().filter(|&(j, _)| j != i) {
            let total: usize = a.values().sum();
            let shared: usize = a.iter().filter(|(word, _)| b.contains_key(*word)).map(|(_, n)| n).sum();
            let numbers: usize =
                a.iter().filter(|(word, _)| word.parse::<u32>().is_ok()).map(|(_, n)| n).sum();
            let limit = numbers + total / 4;
            assert!(shared <= limit, "{} and {}: {shared} of {total}", Topic::ALL[i], Topic::ALL[j]);
        }
    }
}

#[test]
fn a_story_keeps_its_hero() {
    each(Topic::Stories, |document| {
        let lines: Vec<&str> = document.lines().collect();
        let [_, hero, _, animal, _, friend, ..] = words(lines[1])[..] else { return None };
        holds(lines.len() == 3 && hero != friend)?;
        holds(words(lines[0]).contains(&hero) && lines[0].contains(animal))?;
        holds(words(lines[2]).contains(&hero))
    });
}

#[test]
fn recall_answers_with_what_was_stored() {
    each(Topic::Recall, |document| {
        let (first, questions) = document.split_once('\n')?;
        let stored: HashMap<&str, &str> =
            first.split(' ').map(|pair| pair.split_once(':')).collect::<Option<_>>()?;
        holds(stored.len() == first.split(' ').count() && stored.len() == questions.lines().count())?;
        questions.lines().try_for_each(|line| {
            let (key, value) = line.strip_prefix("? ")?.split_once(' ')?;
            holds(stored.get(key) == Some(&value))
        })
    });
}

#[test]
fn equations_are_right() {
    each(Topic::Modular, |document| {
        let (first, rest) = document.split_once('\n')?;
        let modulus: i32 = first.strip_prefix("mod ")?.parse().ok()?;
        rest.lines().flat_map(|line| line.split(", ")).try_for_each(|equation| {
            let (left, right) = equation.split_once('=')?;
            let (a, b): (i32, i32) = (left[..1].parse().ok()?, left[2..].parse().ok()?);
            let value = match &left[1..2] {
                "+" => a + b,
                "-" => a - b,
                "*" => a * b,
                _ => return None,
            };
            holds(right.parse() == Ok(value.rem_euclid(modulus)))
        })
    });
}

#[test]
fn brackets_balance() {
    let kinds = [('(', ')'), ('[', ']'), ('{', '}'), ('<', '>')];
    each(Topic::Brackets, |document| {
        document.lines().try_for_each(|line| {
            holds(line.len() > 10 && balanced(line, &kinds))?;
            holds(line.split(' ').all(|bracket| bracket.len() == 1))
        })
    });
}

#[test]
fn lists_are_sorted_or_flipped() {
    each(Topic::Sorting, |document| {
        document.lines().try_for_each(|line| {
            let (command, result) = line.split_once(" => ")?;
            let (command, list) = command.split_once(' ')?;
            let (mut list, result): (Vec<_>, Vec<_>) =
                (list.split(' ').collect(), result.split(' ').collect());
            match command {
                "sort" => list.sort_unstable(),
                "flip" => list.reverse(),
                _ => return None,
            }
            holds(list == result && list.len() > 1)
        })
    });
}

#[test]
fn speakers_repeat_what_they_heard() {
    each(Topic::Dialogue, |document| {
        let turns: Vec<(&str, &str)> =
            document.lines().map(|line| line.split_once(": ")).collect::<Option<_>>()?;
        let speakers: HashSet<&str> = turns.iter().map(|turn| turn.0).collect();
        holds(speakers.len() == 2)?;
        turns.windows(3).filter(|three| three[0].1.starts_with("Wh")).try_for_each(|three| {
            holds(three[0].0 == three[2].0 && three[0].0 != three[1].0)?;
            let word = three[1].1.trim_end_matches('.').split(' ').next_back()?;
            holds(three[2].1.contains(word))
        })
    });
}

#[test]
fn tables_subtract_and_are_in_order() {
    each(Topic::Tables, |document| {
        let mut last = 0;
        holds(document.lines().all(|line| line.split(" | ").count() == 5))?;
        document.lines().skip(2).try_for_each(|line| {
            let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
            let numbers: Vec<i32> = cells[2..].iter().map(|cell| cell.parse().ok()).collect::<Option<_>>()?;
            holds(numbers[2] == numbers[0] - numbers[1] && numbers[2] >= 0 && numbers[0] >= last)?;
            last = numbers[0];
            Some(())
        })
    });
}

#[test]
fn code_declares_before_use() {
    let variables = "count index total value width offset buffer limit result temp flag size";
    each(Topic::Code, |document| {
        holds(balanced(document, &[('(', ')'), ('{', '}'), ('[', ']')]))?;
        let (head, body) = document.split_once('\n')?;
        let mut known: HashSet<&str> = words(head).into_iter().collect();
        body.lines().try_for_each(|line| {
            let (declared, used) = match line.trim().strip_prefix("let mut ") {
                Some(rest) => rest.split_once(" = ").map(|(name, used)| (Some(name), used))?,
                None => (None, line),
            };
            let mut used = words(used).into_iter();
            holds(used.all(|word| known.contains(word) || !variables.split(' ').any(|name| name == word)))?;
            holds(declared.is_none_or(|name| known.insert(name)))
        })
    });
}

#[test]
fn time_runs_forward_and_retries_count_up() {
    each(Topic::Logs, |document| {
        let (mut before, mut retry) = (-1, 0);
        document.lines().try_for_each(|line| {
            let (time, event) = line.split_at_checked(9)?;
            let parts: Vec<i32> =
                time.trim().split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
            let now = parts[0] * 3600 + parts[1] * 60 + parts[2];
            holds(parts.len() == 3 && parts[0] < 24 && parts[1] < 60 && parts[2] < 60 && now > before)?;
            before = now;
            retry = match event.split_once('#') {
                Some((_, attempt)) => {
                    holds(event.starts_with("WARN") && attempt.parse() == Ok(retry + 1))?;
                    retry + 1
                }
                None => 0,
            };
            Some(())
        })
    });
}

#[test]
fn bars_have_four_beats_and_tunes_come_home() {
    each(Topic::Music, |document| {
        let (first, bars) = document.split_once('\n')?;
        let home = first.split(' ').next_back()?;
        let (bars, end) = bars.trim_end().rsplit_once('\n')?;
        holds(end == format!("{home}= //") && bars.starts_with(home))?;
        bars.split('/').filter(|bar| !bar.trim().is_empty()).try_for_each(|bar| {
            let beats = bar.chars().filter_map(|c| ".-~=".find(c)).map(|i| i + 1);
            holds(beats.sum::<usize>() == 4)
        })
    });
}

#[test]
fn the_bundled_tokenizers_read_every_topic_back() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    for name in ["tiny-llama", "tiny-opt"] {
        let tokenizer = Tokenizer::from_file(models.join(name).join("tokenizer.json")).unwrap();
        assert_eq!([0, 1, 2].map(|id| tokenizer.id_to_token(id).unwrap()), ["<pad>", "<s>", "</s>"]);
        for topic in Topic::ALL {
            let text = text(&[topic], 21, 10_000);
            let ids = tokenizer.encode(text.as_str(), true).unwrap().get_ids().to_vec();
            assert_eq!((ids[0], ids.iter().filter(|&&id| id < 3).count()), (1, 1), "{topic}");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), text, "{topic}");
        }
    }
}

#[test]
fn the_bundled_models_are_small() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let folders = fs::read_dir(models).unwrap().map(|folder| folder.unwrap().path());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap());
    let bytes: u64 = files.map(|file| file.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes <= 8_000_000, "{bytes} bytes");
}
