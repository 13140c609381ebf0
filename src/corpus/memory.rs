//! Recall and sorting: texts whose second half follows from the first.

use super::draw::Draw;

const ONSETS: [char; 8] = ['K', 'M', 'Z', 'V', 'R', 'P', 'X', 'D'];
const VOWELS: [char; 4] = ['A', 'E', 'O', 'U'];
const GEMS: [&str; 16] = [
    "jade", "onyx", "ruby", "opal", "topaz", "pearl", "amber", "coral", "garnet", "quartz", "agate", "beryl",
    "zircon", "lapis", "jet", "sapphire",
];

/// A name of two syllables, such as KAVU.
fn key(draw: &mut Draw) -> String {
    (0..2).flat_map(|_| [draw.pick(&ONSETS), draw.pick(&VOWELS)]).collect()
}

/// Pairs of a key and a gem, then questions for some keys and their answers.
pub(super) fn recall(draw: &mut Draw) -> String {
    let count = draw.range(3, 6);
    let mut pairs: Vec<(String, &str)> = Vec::new();
    while pairs.len() < count {
        let key = key(draw);
        if pairs.iter().all(|(known, _)| *known != key) {
            pairs.push((key, draw.pick(&GEMS)));
        }
    }
    let stored: Vec<String> = pairs.iter().map(|(key, gem)| format!("{key}:{gem}")).collect();
    let asked: Vec<usize> = (0..count).collect();
    let lines: Vec<String> = draw
        .several(&asked, count)
        .into_iter()
        .map(|i| format!("? {} {}\n", pairs[i].0, pairs[i].1))
        .collect();
    format!("{}\n{}", stored.join(" "), lines.concat())
}

const FRUITS: [&str; 24] = [
    "apple",
    "apricot",
    "banana",
    "blueberry",
    "cherry",
    "coconut",
    "date",
    "elderberry",
    "fig",
    "grape",
    "guava",
    "kiwi",
    "lemon",
    "lime",
    "mango",
    "melon",
    "nectarine",
    "orange",
    "papaya",
    "peach",
    "pear",
    "plum",
    "quince",
    "raisin",
];

/// Lists of fruit put into alphabetical order or turned round.
pub(super) fn sorting(draw: &mut Draw) -> String {
    let lines = draw.range(3, 5);
    (0..lines)
        .map(|_| {
            let count = draw.range(2, 5);
            let list = draw.several(&FRUITS, count);
            let mut done = list.clone();
            let word = if draw.one_in(3) {
                done.reverse();
                "flip"
            } else {
                done.sort_unstable();
                "sort"
            };
            format!("{word} {} => {}\n", list.join(" "), done.join(" "))
        })
        .collect()
}
