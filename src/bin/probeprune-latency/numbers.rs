//! Lists of numbers on the command line: `1,4,20`, `128-1024*2`, `0-96+32`.

use std::str::FromStr;

/// The syntax of a list, for errors.
const SYNTAX: &str =
    "expected numbers separated by commas, or ranges: 1-4, 0-96+32 (steps of 32), 128-1024*2 (doubling)";
/// More values than this are a typing error.
const MOST: usize = 1000;

/// Numbers in the order given, each once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numbers(pub(crate) Vec<usize>);

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut numbers = Vec::new();
        for part in text.split(',') {
            for number in range(part.trim())? {
                if !numbers.contains(&number) {
                    numbers.push(number);
                }
            }
        }
        Ok(Self(numbers))
    }
}

/// `a`, `a-b`, `a-b+step` or `a-b*factor`.
fn range(text: &str) -> Result<Vec<usize>, String> {
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("{SYNTAX}; got {text:?}"));
    let Some((first, rest)) = text.split_once('-') else { return Ok(vec![number(text)?]) };
    let first = number(first)?;
    let (last, next): (usize, Box<dyn Fn(usize) -> Option<usize>>) = match rest.split_once(['+', '*']) {
        None => (number(rest)?, Box::new(|x| x.checked_add(1))),
        Some((last, by)) => {
            let (last, by) = (number(last)?, number(by)?);
            if rest.contains('*') {
                if by < 2 || first == 0 {
                    return Err(format!(
                        "{text} never ends: expected a factor of at least 2 and a start of at least 1"
                    ));
                }
                (last, Box::new(move |x| x.checked_mul(by)))
            } else if by == 0 {
                return Err(format!("{text} never ends: expected a step of at least 1"));
            } else {
                (last, Box::new(move |x| x.checked_add(by)))
            }
        }
    };
    if last < first {
        return Err(format!("{text} is empty: expected its end at or above its start"));
    }
    let numbers: Vec<usize> =
        std::iter::successors(Some(first), |&x| next(x)).take_while(|&x| x <= last).take(MOST + 1).collect();
    if numbers.len() > MOST {
        return Err(format!(
            "{text} has more than {MOST} values: expected fewer, for instance with +64 or *2 after it"
        ));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<usize> {
        text.parse::<Numbers>().unwrap().0
    }

    #[test]
    fn lists_and_ranges() {
        assert_eq!(numbers("20"), [20]);
        assert_eq!(numbers("1, 4,20"), [1, 4, 20]);
        assert_eq!(numbers("2-5"), [2, 3, 4, 5]);
        assert_eq!(numbers("0-96+32"), [0, 32, 64, 96]);
        assert_eq!(numbers("10-35+10"), [10, 20, 30]);
        assert_eq!(numbers("128-1024*2"), [128, 256, 512, 1024]);
        assert_eq!(numbers("4,1-4,128-600*2"), [4, 1, 2, 3, 128, 256, 512]);
        assert_eq!(numbers("7-7*3"), [7]);
    }

    #[test]
    fn invalid_lists_are_refused() {
        let refused = |text: &str| text.parse::<Numbers>().unwrap_err();
        for text in ["", "1,,2", "a", "-1", "1-", "1-4+", "1.5", "1-2-3", "99999999999999999999999"] {
            assert!(refused(text).starts_with("expected numbers"), "{text}");
        }
        assert!(refused("4-1").contains("is empty"));
        for text in ["1-8*1", "0-8*2", "1-8*0", "1-8+0"] {
            assert!(refused(text).contains("never ends"), "{text}");
        }
        assert!(refused("1-100000").contains("more than 1000 values"));
    }
}
