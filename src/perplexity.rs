//! Perplexity over non-overlapping windows of tokens (docs/method.md, section 8).

use std::time::Instant;

use crate::{
    backend::Backend,
    error::{Error, Result},
    prune::{BatchShape, flops::Shares},
    session::Session,
};

/// How tokens are cut into batches, and how many batches run before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerplexityOptions {
    /// S: tokens of a window.
    pub seq_len: usize,
    /// B: windows of a batch; the last batch may be smaller, and counts as one.
    pub batch_size: usize,
    /// Batches that run first without updating history and without counting: the first ones in order, from the
    /// beginning again if there are fewer. They run again when it counts.
    pub warmup_batches: usize,
}

/// The result of a measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Perplexity {
    /// Mean cross-entropy (nats) of every batch.
    pub batch_losses: Vec<f64>,
    /// The same of every window.
    pub window_losses: Vec<f64>,
    /// Tokens in all windows that counted.
    pub tokens: usize,
    /// Wall-clock time of the batches that counted.
    pub seconds: f64,
}

impl Perplexity {
    /// exp(mean of the batch losses).
    pub fn perplexity(&self) -> f64 {
        (self.batch_losses.iter().sum::<f64>() / self.batch_losses.len() as f64).exp()
    }

    /// Tokens that went through the model per second.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }
}

/// The whole windows at the beginning of `tokens`, of no more than `max_tokens` tokens in all.
///
/// # Errors
/// If there is not one window.
pub fn windows(tokens: &[u32], seq_len: usize, max_tokens: Option<usize>) -> Result<&[u32]> {
    if seq_len < 2 {
        let help = "A window of one token predicts nothing.";
        return Err(Error::argument("seq_len", "at least 2", seq_len, help));
    }
    let available = tokens.len().min(max_tokens.unwrap_or(usize::MAX));
    if available < seq_len {
        return Err(Error::argument(
            "tokens to measure",
            format!("at least one window of {seq_len} (`seq_len`)"),
            format!("{available} of {} tokens", tokens.len()),
            "Pass more text, a smaller `seq_len`, or a larger `max_tokens`.",
        ));
    }
    Ok(&tokens[..available / seq_len * seq_len])
}

/// Measures `session` on `windows`, a multiple of `seq_len` tokens. After every batch that counts, `on_batch` is called
/// with its number and the session, whose logits and kept sets are those of this batch; its time does not count.
///
/// # Errors
/// As [`Session::evaluate`], and from `on_batch`.
pub fn measure<B: Backend>(
    session: &mut Session<B>,
    windows: &[u32],
    options: PerplexityOptions,
    mut on_batch: impl FnMut(usize, &mut Session<B>) -> Result<()>,
) -> Result<Perplexity> {
    let PerplexityOptions { seq_len, batch_size, warmup_batches } = options;
    let batches = || windows.chunks(batch_size * seq_len);
    for batch in batches().cycle().take(warmup_batches) {
        session.evaluate(batch, batch.len() / seq_len, None, false)?;
    }
    let mut result = Perplexity {
        batch_losses: Vec::new(),
        window_losses: Vec::new(),
        tokens: windows.len(),
        seconds: 0.0,
    };
    // The last token of a window has no successor.
    let mean = |losses: &[f32]| {
        let targets = losses.len() / seq_len * (seq_len - 1);
        losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / targets as f64
    };
    for (index, batch) in batches().enumerate() {
        let start = Instant::now();
        let losses = session.losses(batch, batch.len() / seq_len, None, true)?;
        result.seconds += start.elapsed().as_secs_f64();
        result.batch_losses.push(mean(&losses));
        result.window_losses.extend(losses.chunks_exact(seq_len).map(mean));
        on_batch(index, session)?;
    }
    Ok(result)
}

/// Shares of the dense model's projection FLOPs over all batches of `windows` windows.
pub fn shares<B: Backend>(session: &Session<B>, windows: usize, options: PerplexityOptions) -> Shares {
    let mut sum = Shares { total: 0.0, probe: 0.0 };
    let (whole, rest) = (windows / options.batch_size, windows % options.batch_size);
    for (batches, samples) in [(whole, options.batch_size), (usize::from(rest > 0), rest)] {
        if batches > 0 {
            let share = session.shares(BatchShape { samples, tokens: options.seq_len });
            let weight = (batches * samples) as f64 / windows as f64;
            // Batches that were not probed cost the rest only.
            let unprobed = share.probe * (1.0 - session.probed_share().unwrap_or(1.0));
            sum.total += weight * (share.total - unprobed);
            sum.probe += weight * (share.probe - unprobed);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perplexity_is_of_the_mean_loss() {
        let result = Perplexity {
            batch_losses: vec![1.0, 3.0],
            window_losses: vec![1.0, 3.0],
            tokens: 6,
            seconds: 2.0,
        };
        assert_eq!(result.perplexity(), 2f64.exp());
        assert_eq!(result.tokens_per_second(), 3.0);
    }

    #[test]
    fn windows_are_whole_and_limited() {
        let tokens: Vec<u32> = (0..23).collect();
        assert_eq!(windows(&tokens, 5, None).unwrap(), &tokens[..20]);
        assert_eq!(windows(&tokens, 5, Some(14)).unwrap(), &tokens[..10]);
        assert!(windows(&tokens, 5, Some(4)).unwrap_err().to_string().contains("`seq_len`"));
        assert!(windows(&tokens, 24, None).unwrap_err().to_string().contains("23 of 23 tokens"));
        assert!(windows(&tokens, 1, None).is_err());
        assert_eq!(windows(&tokens[..2], 2, None).unwrap(), &tokens[..2]);
    }
}
