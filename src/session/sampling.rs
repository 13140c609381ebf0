//! How the next token is drawn.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};

/// How the next token is drawn from the logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most likely token.
    pub temperature: f32,
    /// Only the k most likely tokens; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens whose probabilities reach this sum, in (0, 1\].
    pub top_p: f32,
    /// Sample b of a batch draws from stream b of this seed.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the setting.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let help = "0 is greedy, 1 samples from the model's distribution.";
            return Err(Error::argument("temperature", "a number of at least 0", self.temperature, help));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::argument(
                "top_p",
                "a number above 0 and at most 1",
                self.top_p,
                "1 considers every token.",
            ));
        }
        Ok(())
    }

    /// Draws a token at a temperature above 0. Ties go to the lower id.
    pub(super) fn draw(&self, logits: &[f32], rng: &mut ChaCha8Rng) -> u32 {
        let better = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_unstable_by(better);
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let best = f64::from(logits[order[0] as usize]);
        let weight = |id: u32| ((f64::from(logits[id as usize]) - best) / f64::from(self.temperature)).exp();
        let weights: Vec<f64> = order.iter().map(|&id| weight(id)).collect();
        let total: f64 = weights.iter().sum();
        let mut nucleus = 0.0;
        let kept = weights.iter().take_while(|&&weight| {
            let take = nucleus < f64::from(self.top_p) * total;
            nucleus += weight;
            take
        });
        let kept = kept.count();
        let mut point = rng.random::<f64>() * weights[..kept].iter().sum::<f64>();
        for (&id, weight) in order[..kept].iter().zip(&weights) {
            point -= weight;
            if point < 0.0 {
                return id;
            }
        }
        order[kept - 1]
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn draws(sampling: Sampling, logits: &[f32], n: usize) -> Vec<u32> {
        let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        (0..n).map(|_| sampling.draw(logits, &mut rng)).collect()
    }

    #[test]
    fn top_k_and_top_p_limit_the_choice() {
        let logits = [0.0, 2.0, 1.0, -1.0];
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        let seen = |sampling| {
            let mut ids = draws(sampling, &logits, 2000);
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(seen(base), [0, 1, 2, 3]);
        assert_eq!(seen(Sampling { top_k: 2, ..base }), [1, 2]);
        // Probabilities are .644, .237, .087, .032 in order of rank.
        assert_eq!(seen(Sampling { top_p: 0.6, ..base }), [1]);
        assert_eq!(seen(Sampling { top_p: 0.8, ..base }), [1, 2]);
        assert_eq!(seen(Sampling { top_p: 0.9, ..base }), [0, 1, 2]);
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let sampling = Sampling { temperature: 0.5, ..Sampling::default() };
        let ones = draws(sampling, &[0.0, 0.5], 20_000).iter().filter(|&&id| id == 1).count();
        let expected = 1.0 / (1.0 + (-1.0f64).exp());
        assert!((ones as f64 / 20_000.0 - expected).abs() < 0.02, "{ones}");
        // Only differences count, however large the logits are.
        let far = draws(sampling, &[1e6, 1e6 + 0.5], 20_000).iter().filter(|&&id| id == 1).count();
        assert_eq!(far, ones);
    }
}
