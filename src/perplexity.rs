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
    /// Of `tokens` tokens, before the first batch.
    fn none(tokens: usize) -> Self {
        Self { batch_losses: Vec::new(), window_losses: Vec::new(), tokens, seconds: 0.0 }
    }

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
    let mut result = Perplexity::none(windows.len());
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
    mean_shares(windows, options.batch_size, |samples| {
        of_probed(session, session.shares(BatchShape { samples, tokens: options.seq_len }))
    })
}

/// The mean over `windows` windows of what `of_batch` gives for the windows of their batch.
fn mean_shares(windows: usize, batch_size: usize, of_batch: impl Fn(usize) -> Shares) -> Shares {
    let mut sum = Shares { total: 0.0, probe: 0.0 };
    let (whole, rest) = (windows / batch_size, windows % batch_size);
    for (batches, samples) in [(whole, batch_size), (usize::from(rest > 0), rest)] {
        if batches > 0 {
            let Shares { total, probe } = of_batch(samples);
            let weight = (batches * samples) as f64 / windows as f64;
            sum.total += weight * total;
            sum.probe += weight * probe;
        }
    }
    sum
}

/// Batches that were not probed cost the rest only.
fn of_probed<B: Backend>(session: &Session<B>, share: Shares) -> Shares {
    let unprobed = share.probe * (1.0 - session.probed_share().unwrap_or(1.0));
    Shares { total: share.total - unprobed, probe: share.probe - unprobed }
}

/// How windows are cut into prompts and what follows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptOptions {
    /// S: tokens of a window.
    pub seq_len: usize,
    /// B: windows of a batch; the last batch may be smaller, and counts as one.
    pub batch_size: usize,
    /// The first tokens of every window, which are not scored.
    pub prompt_tokens: usize,
}

impl PromptOptions {
    /// Refuses prompts that leave nothing to decode.
    ///
    /// # Errors
    /// [`Error::Argument`] with the range.
    pub fn check(&self) -> Result<()> {
        let most = self.seq_len.saturating_sub(2);
        if (1..=most).contains(&self.prompt_tokens) {
            return Ok(());
        }
        let expected =
            format!("from 1 to {most}, so that tokens of a window of {} are decoded", self.seq_len);
        let help = "Use shorter prompts or a larger `seq_len`.";
        Err(Error::argument("prompt_tokens", expected, self.prompt_tokens, help))
    }
}

/// Seconds of every batch of [`measure_prompts`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptTimes {
    /// Of the prompts, up to the logits of the tokens after them.
    pub prefill: Vec<f64>,
    /// Per token that was decoded, likewise.
    pub decode_per_token: Vec<f64>,
}

/// Measures `session` on what follows the prompts of `windows`, a multiple of `seq_len` tokens: each prompt is prefilled, then
/// the window's other tokens are scored and decoded one by one, so that nothing scored was known to a probe. `on_batch` is
/// called after every batch.
///
/// # Errors
/// Options that leave nothing to decode, as [`Session::prefill`] and [`Session::decode`], and logits that are not finite.
pub fn measure_prompts<B: Backend>(
    session: &mut Session<B>,
    windows: &[u32],
    options: PromptOptions,
    mut on_batch: impl FnMut(),
) -> Result<(Perplexity, PromptTimes)> {
    options.check()?;
    let PromptOptions { seq_len, batch_size, prompt_tokens } = options;
    let mut result = Perplexity::none(windows.len());
    let mut times = PromptTimes::default();
    for batch in windows.chunks(batch_size * seq_len) {
        let samples = batch.len() / seq_len;
        let prompts: Vec<u32> =
            batch.chunks_exact(seq_len).flat_map(|window| &window[..prompt_tokens]).copied().collect();
        let start = Instant::now();
        session.prefill(&prompts, samples, None, None)?;
        let mut logits = session.next_logits()?;
        let prefill = start.elapsed().as_secs_f64();
        let (mut losses, mut decode) = (vec![0.0; samples], 0.0);
        for slot in prompt_tokens..seq_len {
            let tokens: Vec<u32> = batch.iter().skip(slot).step_by(seq_len).copied().collect();
            let rows = logits.chunks_exact(logits.len() / samples);
            for ((loss, row), &token) in losses.iter_mut().zip(rows).zip(&tokens) {
                *loss += cross_entropy(row, token) / (seq_len - prompt_tokens) as f64;
            }
            if slot + 1 < seq_len {
                let start = Instant::now();
                session.decode(&tokens, None)?;
                logits = session.next_logits()?;
                decode += start.elapsed().as_secs_f64();
            }
        }
        let loss = losses.iter().sum::<f64>() / samples as f64;
        if !loss.is_finite() {
            return Err(session.output_fault());
        }
        result.batch_losses.push(loss);
        result.window_losses.extend(losses);
        result.seconds += prefill + decode;
        times.prefill.push(prefill);
        times.decode_per_token.push(decode / (samples * (seq_len - 1 - prompt_tokens)) as f64);
        on_batch();
    }
    Ok((result, times))
}

/// −ln of the probability that logits (V) give to a token.
fn cross_entropy(logits: &[f32], token: u32) -> f64 {
    let best = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - best).exp()).sum();
    best + sum.ln() - f64::from(logits[token as usize])
}

/// Shares of the dense model's projection FLOPs over all prompts and decoded tokens of `windows` windows.
pub fn prompt_shares<B: Backend>(session: &Session<B>, windows: usize, options: PromptOptions) -> Shares {
    let PromptOptions { seq_len, batch_size, prompt_tokens } = options;
    mean_shares(windows, batch_size, |samples| {
        let of_prompt =
            of_probed(session, session.prompt_shares(BatchShape { samples, tokens: prompt_tokens }));
        let of_token = session.shares(BatchShape { samples, tokens: 1 });
        let weight = prompt_tokens as f64 / (seq_len - 1) as f64;
        Shares {
            total: weight * of_prompt.total + (1.0 - weight) * (of_token.total - of_token.probe),
            probe: weight * of_prompt.probe,
        }
    })
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
    fn a_token_is_scored_by_its_probability() {
        let logits = [1.0, 3.0, 2.0].map(|x: f32| x + 500.0);
        let e = std::f64::consts::E;
        assert!((cross_entropy(&logits, 2) - (1.0 / e + e + 1.0).ln()).abs() < 1e-12);
        let options = |prompt_tokens| PromptOptions { seq_len: 8, batch_size: 1, prompt_tokens };
        for prompt_tokens in [0, 7, 8] {
            let error = options(prompt_tokens).check().unwrap_err().to_string();
            assert!(error.starts_with("prompt_tokens: expected from 1 to 6"), "{error}");
        }
        options(6).check().unwrap();
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
