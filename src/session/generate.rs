//! Generation: prefill with a selection, decode with it, stop at eos.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Session;
use crate::{
    backend::{Backend, Grid},
    error::{Error, Result},
    model::{
        block::{self, Context, Mode},
        forward,
        scratch::Scratch,
        selection::{Probed, Selection},
        timeline::Step,
    },
    prune::settings::Compensation,
};

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
    /// [`Error::Argument`] naming the flag.
    pub fn check(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            let help = "0 is greedy, 1 samples from the model's distribution.";
            return Err(Error::argument("--temperature", "a number of at least 0", self.temperature, help));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::argument(
                "--top-p",
                "a number above 0 and at most 1",
                self.top_p,
                "1 considers every token.",
            ));
        }
        Ok(())
    }

    /// Draws a token at a temperature above 0. Ties go to the lower id.
    fn draw(&self, logits: &[f32], rng: &mut ChaCha8Rng) -> u32 {
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

/// What to generate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerateOptions {
    /// At most so many tokens per sample.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Choose MLP channels anew after so many tokens (`pp` only).
    pub reprobe_every: Option<usize>,
    /// A sample ends with one of these, which is part of its output.
    pub eos_token_ids: Vec<u32>,
}

/// Tokens of every sample, without the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Per sample, up to and including eos.
    pub tokens: Vec<Vec<u32>>,
}

impl<B: Backend> Session<B> {
    /// Generates from `prompts`, which are padded on the left to a common length. `on_token(sample, token)` is called
    /// for every token as it is drawn.
    ///
    /// Under `pp` the prompt's kept sets stay for the decode steps, so the cache holds kept heads only; with
    /// `reprobe_every` MLP channels are chosen anew (spec section 9).
    ///
    /// # Errors
    /// An empty prompt, a prompt and new tokens that exceed the session's capacity, settings out of range, or values
    /// that are not finite.
    pub fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        mut on_token: impl FnMut(usize, u32),
    ) -> Result<Generated> {
        options.sampling.check()?;
        if options.reprobe_every == Some(0) {
            return Err(Error::argument(
                "--reprobe-every",
                "at least 1",
                0,
                "Leave it out to keep the prompt's choice.",
            ));
        }
        if options.reprobe_every.is_some() && self.settings.compensate != Compensation::None {
            let help = "What stands in for pruned channels is known from the prompt's probe alone.";
            return Err(Error::argument(
                "--reprobe-every",
                "--compensate none",
                self.settings.compensate,
                help,
            ));
        }
        if prompts.is_empty() {
            return Err(Error::argument("prompts", "at least one", "none", "Pass a prompt."));
        }
        let (tokens, mask) = pad_left(prompts)?;
        let samples = prompts.len();
        let mut generated = Generated { tokens: vec![Vec::new(); samples] };
        let mut rngs: Vec<ChaCha8Rng> = (0..samples)
            .map(|sample| {
                let mut rng = ChaCha8Rng::seed_from_u64(options.sampling.seed);
                rng.set_stream(sample as u64);
                rng
            })
            .collect();
        let mut active = vec![1u32; samples];
        if options.max_new_tokens == 0 {
            return Ok(generated);
        }
        self.prefill(&tokens, samples, &mask, options)?;
        for step in 1.. {
            let drawn = self.draw(&options.sampling, &mut rngs, &active)?;
            let mut next = vec![0u32; samples];
            for sample in (0..samples).filter(|&sample| active[sample] != 0).collect::<Vec<_>>() {
                next[sample] = drawn[sample];
                generated.tokens[sample].push(next[sample]);
                on_token(sample, next[sample]);
                active[sample] = u32::from(!options.eos_token_ids.contains(&next[sample]));
            }
            if step == options.max_new_tokens || active.iter().all(|&active| active == 0) {
                return Ok(generated);
            }
            self.decode(&next, &active, step - 1, options.reprobe_every)?;
        }
        unreachable!("the loop ends after max_new_tokens steps")
    }

    /// The most likely next token of every sample of the batch that [`Session::forward`] ran last. The first call makes
    /// room for their logits in a session without a cache.
    ///
    /// # Errors
    /// A device that has no room for them or failed; logits that are not finite.
    pub fn next_tokens(&mut self) -> Result<Vec<u32>> {
        let samples = self.batch.grid.samples;
        if !self.has_next_logits {
            let entries = self.limits.samples * self.model.config.vocab_size;
            self.next_logits = self.model.backend.statistics(entries)?;
            self.has_next_logits = true;
        }
        self.last_logits(self.batch.grid.tokens);
        self.most_likely(samples)
    }

    /// The logits (samples, V) that the latest tokens were chosen from.
    ///
    /// # Errors
    /// A device that failed.
    pub fn next_logits(&self) -> Result<Vec<f32>> {
        let entries = self.batch.grid.samples * self.model.config.vocab_size;
        self.model.backend.download_statistics(&self.next_logits, entries)
    }

    /// The most likely token of each of `samples` rows of `next_logits`, chosen on the device.
    fn most_likely(&mut self, samples: usize) -> Result<Vec<u32>> {
        let backend = &*self.model.backend;
        backend.argmax(&self.next_logits, samples, self.model.config.vocab_size, &mut self.next_tokens);
        self.scratch.timeline.mark(backend, Step::Head);
        let best = backend.download_indices(&self.next_tokens, samples)?;
        if best.contains(&u32::MAX) { Err(self.output_fault()) } else { Ok(best) }
    }

    /// A token for every active sample from the logits of its last slot. Greedy choices are made on the device.
    fn draw(&mut self, sampling: &Sampling, rngs: &mut [ChaCha8Rng], active: &[u32]) -> Result<Vec<u32>> {
        let (samples, vocabulary) = (active.len(), self.model.config.vocab_size);
        let best = self.most_likely(samples)?;
        if sampling.temperature == 0.0 {
            return Ok(best);
        }
        let logits = self.model.backend.download_statistics(&self.next_logits, samples * vocabulary)?;
        let draw = |((logits, rng), &active): ((&[f32], &mut ChaCha8Rng), &u32)| {
            if active == 0 { 0 } else { sampling.draw(logits, rng) }
        };
        Ok(logits.chunks_exact(vocabulary).zip(rngs).zip(active).map(draw).collect())
    }

    /// Runs the prompts and leaves the logits of their last tokens in `next_logits`.
    fn prefill(
        &mut self,
        tokens: &[u32],
        samples: usize,
        mask: &[u32],
        options: &GenerateOptions,
    ) -> Result<()> {
        let length = tokens.len() / samples;
        let (capacity, new_tokens) = (self.limits.capacity, options.max_new_tokens);
        if length.saturating_add(new_tokens) > capacity {
            return Err(Error::argument(
                "prompt and new tokens",
                format!("at most {capacity} in all, the session's cache"),
                format!("{length} + {new_tokens}"),
                "Shorten the prompt or lower --max-new-tokens.",
            ));
        }
        self.load(tokens, samples, Some(mask))?;
        let cache = self.cache.as_mut().expect("a capacity above 0 has a cache");
        cache.len = 0;
        let slots = mask
            .chunks_exact(length)
            .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(1, capacity - length)));
        self.model.backend.upload_indices(&slots.collect::<Vec<_>>(), &mut cache.mask);
        self.run(Mode::Batch { update_history: true }, true)?;
        self.keep_cached();
        let last = forward::positions(&self.model.config, samples, length, Some(mask));
        self.next_positions = last.chunks_exact(length).map(|row| row[length - 1] + 1).collect();
        if options.reprobe_every.is_some() {
            self.clear_recent();
        }
        self.last_logits(length);
        self.update_history(true);
        Ok(())
    }

    /// Runs one token per sample; finished samples (`active` 0) are pads. `step` counts from 0.
    fn decode(&mut self, tokens: &[u32], active: &[u32], step: usize, reprobe: Option<usize>) -> Result<()> {
        let samples = tokens.len();
        let backend = &*self.model.backend;
        let slot = self.cache.as_ref().map_or(0, |cache| cache.len);
        self.batch.grid = Grid { samples, tokens: 1 };
        backend.upload_indices(tokens, &mut self.batch.tokens);
        backend.upload_indices(&self.next_positions, &mut self.batch.positions);
        self.next_positions.iter_mut().for_each(|position| *position += 1);
        self.batch.padded = active.contains(&0);
        backend.upload_indices(active, &mut self.batch.mask);
        let recent = reprobe.map(|every| step % every);
        self.run(Mode::Decode { recent }, true)?;
        self.keep_cached();
        if let (Some(every), Some(recent)) = (reprobe, recent)
            && recent + 1 == every
        {
            self.reprobe(slot + 1 - every, every)?;
        }
        self.last_logits(1);
        Ok(())
    }

    /// Forgets what an earlier generation gathered for re-probing.
    fn clear_recent(&mut self) {
        let width = self.model.config.intermediate_size;
        for [_, mlp] in &mut self.selections {
            if let Selection::Probed(Probed { recent: Some(recent), .. }) = mlp {
                self.model.backend.clear_statistics(&mut recent.energy.values, self.limits.capacity * width);
            }
        }
    }

    /// Chooses the MLP channels of every probed layer from the tokens in slots `from .. from+tokens`.
    fn reprobe(&mut self, from: usize, tokens: usize) -> Result<()> {
        let backend = &*self.model.backend;
        let mode = Mode::Decode { recent: None };
        let context = Context { model: &*self.model, settings: &self.settings, batch: &self.batch, mode };
        let slots: Vec<u32> = (from..from + tokens).map(|slot| slot as u32).collect();
        for (layer, [_, mlp]) in self.selections.iter_mut().enumerate() {
            if let Selection::Probed(Probed { recent: Some(recent), .. }) = mlp {
                backend.upload_indices(&slots, &mut recent.slots);
            }
            block::reprobe(&context, layer, mlp, tokens, &mut self.scratch);
        }
        self.scratch.timeline.mark(backend, Step::Selection);
        self.check_fault()
    }

    /// The latest batch's slots count as cached.
    fn keep_cached(&mut self) {
        if let Some(cache) = &mut self.cache {
            cache.len += self.batch.grid.tokens;
        }
    }

    /// Leaves the logits (B, V) at every sample's last of `tokens` slots in `next_logits`.
    fn last_logits(&mut self, tokens: usize) {
        let backend = &*self.model.backend;
        let (grid, width) = (self.batch.grid, self.model.config.hidden_size);
        self.last.grid.samples = grid.samples;
        backend.upload_indices(&[tokens as u32 - 1], &mut self.last.slots);
        let Scratch { current, next, x, embedded, timeline, .. } = &mut self.scratch;
        timeline.mark(backend, None);
        backend.probe_gather(&current.rows, grid, width, &self.last, &mut next.rows);
        let input = forward::head_input(&self.model, next, grid.samples, x, embedded);
        let head = &self.model.weights.lm_head;
        backend.logits(input, grid.samples, head, &mut self.next_logits);
        timeline.mark(backend, Step::Head);
    }
}

/// (B·S tokens, B·S mask) with shorter prompts padded on the left by token 0, which the mask hides.
fn pad_left(prompts: &[Vec<u32>]) -> Result<(Vec<u32>, Vec<u32>)> {
    if let Some(sample) = prompts.iter().position(Vec::is_empty) {
        return Err(Error::argument(
            format!("prompt {sample}"),
            "at least one token",
            "an empty prompt",
            "Write some text; this tokenizer adds no start token by itself.",
        ));
    }
    let length = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let mut tokens = Vec::with_capacity(prompts.len() * length);
    let mut mask = Vec::with_capacity(prompts.len() * length);
    for prompt in prompts {
        let pads = length - prompt.len();
        tokens.extend(std::iter::repeat_n(0, pads).chain(prompt.iter().copied()));
        mask.extend(std::iter::repeat_n(0, pads).chain(std::iter::repeat_n(1, prompt.len())));
    }
    Ok((tokens, mask))
}

#[cfg(test)]
mod tests {
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
    }

    #[test]
    fn prompts_are_padded_on_the_left() {
        let (tokens, mask) = pad_left(&[vec![5, 6, 7], vec![8]]).unwrap();
        assert_eq!((tokens, mask), (vec![5, 6, 7, 0, 0, 8], vec![1, 1, 1, 0, 0, 1]));
        assert!(pad_left(&[vec![1], vec![]]).unwrap_err().to_string().contains("prompt 1"));
    }
}
