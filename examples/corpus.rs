//! Temporary stand-in for `probeprune corpus`.
use probeprune::corpus::{Corpus, Topic};
use std::io::Write;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let get = |flag: &str| args.iter().position(|a| a == flag).map(|i| args[i + 1].clone()).unwrap();
    let topic = get("--topic");
    let topics = if topic == "all" { Topic::ALL.to_vec() } else { vec![topic.parse().unwrap()] };
    let lines: usize = get("--lines").parse().unwrap();
    let mut out = std::io::stdout().lock();
    let mut n = 0;
    for (i, document) in Corpus::new(&topics, get("--seed").parse().unwrap()).enumerate() {
        if n >= lines {
            break;
        }
        if i > 0 {
            writeln!(out).unwrap();
            n += 1;
        }
        n += document.lines().count();
        out.write_all(document.as_bytes()).unwrap();
    }
}
