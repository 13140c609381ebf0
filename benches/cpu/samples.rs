//! Runs that take turns, and ratios of their times, pair by pair.

use std::time::Instant;

use serde_json::{Value, json};

use crate::quartiles::quartiles;

pub fn median(values: &[f64]) -> f64 {
    quartiles(values)[1]
}

pub fn seconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

/// A name, and what gives the seconds of one run.
pub type Run<'a> = (String, Box<dyn FnMut() -> f64 + 'a>);

pub fn run<'a>(name: impl Into<String>, once: impl FnMut() -> f64 + 'a) -> Run<'a> {
    (name.into(), Box::new(once))
}

/// Seconds of every round by run.
pub struct Samples(Vec<(String, Vec<f64>)>);

impl Samples {
    /// Runs all once uncounted, and then `rounds` times, one after the other in each round.
    pub fn of_turns(rounds: usize, mut runs: Vec<Run<'_>>) -> Self {
        let mut samples: Vec<(String, Vec<f64>)> =
            runs.iter().map(|(name, _)| (name.clone(), Vec::new())).collect();
        for round in 0..=rounds {
            for ((_, once), (_, seconds)) in runs.iter_mut().zip(&mut samples) {
                let new = once();
                if round > 0 {
                    seconds.push(new);
                }
            }
        }
        Self(samples)
    }

    fn of(&self, name: &str) -> &[f64] {
        &self.0.iter().find(|(other, _)| other == name).expect("a run of this name").1
    }

    pub fn median(&self, name: &str) -> f64 {
        median(self.of(name))
    }

    /// Median and quartiles of `scale` × the time of `a` / that of `b`.
    pub fn ratio(&self, a: &str, b: &str, scale: f64) -> Value {
        let ratios: Vec<f64> = self.of(a).iter().zip(self.of(b)).map(|(a, b)| scale * a / b).collect();
        let [low, median, high] = quartiles(&ratios);
        json!({ "median": median, "quartiles": [low, high] })
    }
}
