//! Generation: prefill with a selection, decode with it, stop at eos; all at once, or step by step.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Sampling, Session};
use crate::{
    backend::Backend,
    error::{Error, Proceed, Result},
    model::{
        block,
        context::{Context, Mode},
        forward,
        selection::{Probed, Selection},
        timeline::Step,
    },
    prune::{
        BatchShape, Block,
        settings::{Compensation, Settings},
    },
};

/// Options of a generation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens per sample.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Choose MLP channels again after this many tokens (`pp` only).
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

/// The state of a generation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    samples: usize,
    /// Decode steps so far.
    done: usize,
    reprobe_every: Option<usize>,
}

impl<B: Backend> Session<B> {
    /// Generates from `prompts`, which are padded on the left to a common length. `on_token(sample, token)` is called
    /// for every token as it is drawn; see [`Proceed`] for its return value.
    ///
    /// Under `pp` the prompt's kept sets stay for the decode steps, so the cache holds kept heads only; with
    /// `reprobe_every` MLP channels are chosen again (docs/method.md, section 9).
    ///
    /// # Errors
    /// An empty prompt, a prompt and new tokens that exceed the session's capacity, settings out of range, values that
    /// are not finite, or what `on_token` ends with.
    pub fn generate<P: Proceed>(
        &mut self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        mut on_token: impl FnMut(usize, u32) -> P,
    ) -> Result<Generated> {
        options.sampling.check()?;
        check_reprobing(options.reprobe_every, &self.settings)?;
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
        let (length, capacity, new_tokens) =
            (tokens.len() / samples, self.limits.capacity, options.max_new_tokens);
        if length.saturating_add(new_tokens) > capacity {
            return Err(Error::argument(
                "prompt and new tokens",
                format!("at most {capacity} in all, the session's cache"),
                format!("{length} + {new_tokens}"),
                "Shorten the prompt or lower `max_new_tokens`.",
            ));
        }
        self.prefill(&tokens, samples, Some(&mask), options.reprobe_every)?;
        for step in 1.. {
            let drawn = self.draw(&options.sampling, &mut rngs, &active)?;
            let mut next = vec![0u32; samples];
            for sample in (0..samples).filter(|&sample| active[sample] != 0).collect::<Vec<_>>() {
                next[sample] = drawn[sample];
                generated.tokens[sample].push(next[sample]);
                on_token(sample, next[sample]).proceed()?;
                active[sample] = u32::from(!options.eos_token_ids.contains(&next[sample]));
            }
            if step == options.max_new_tokens || active.iter().all(|&active| active == 0) {
                return Ok(generated);
            }
            self.decode(&next, Some(&active))?;
        }
        unreachable!("the loop ends after max_new_tokens steps")
    }

    /// A token for every active sample from the logits of its last slot. Greedy choices are made on the device.
    fn draw(&mut self, sampling: &Sampling, rngs: &mut [ChaCha8Rng], active: &[u32]) -> Result<Vec<u32>> {
        let best = self.next_tokens()?;
        if sampling.temperature == 0.0 {
            return Ok(best);
        }
        let logits = self.next_logits()?;
        let vocabulary = self.model.config.vocab_size;
        let draw = |((logits, rng), &active): ((&[f32], &mut ChaCha8Rng), &u32)| {
            if active == 0 { 0 } else { sampling.draw(logits, rng) }
        };
        Ok(logits.chunks_exact(vocabulary).zip(rngs).zip(active).map(draw).collect())
    }

    /// Runs prompts (samples, S), padded on the left where `mask` (of the same shape) is 0, and keeps their keys and
    /// values. Read the results with [`Session::next_logits`] or [`Session::next_tokens`], then continue with
    /// [`Session::decode`]. With `reprobe_every` MLP channels are chosen again after that many tokens (`pp` only). With
    /// [`Prefill::Dense`](crate::prune::settings::Prefill) the model that was folded runs the prompts.
    ///
    /// # Errors
    /// As [`Session::evaluate`]; a session without a cache or with a cache that the prompt does not fit; padding on the
    /// right.
    pub fn prefill(
        &mut self,
        tokens: &[u32],
        samples: usize,
        mask: Option<&[u32]>,
        reprobe_every: Option<usize>,
    ) -> Result<()> {
        check_reprobing(reprobe_every, &self.settings)?;
        self.load(tokens, samples, mask)?;
        let (length, capacity) = (tokens.len() / samples, self.limits.capacity);
        if length > capacity {
            let help = "Make a session with a larger capacity.";
            let expected = format!("at most {capacity} tokens, the session's cache");
            return Err(Error::argument("prompt", expected, length, help));
        }
        let ones;
        let mask = match mask {
            Some(mask) => mask,
            None => {
                ones = vec![1; tokens.len()];
                &ones
            }
        };
        if let Some(sample) = mask.chunks_exact(length).position(|row| row[length - 1] == 0) {
            let name = format!("mask of sample {sample}");
            let help = "Pad shorter prompts on the left.";
            return Err(Error::argument(name, "a token at the end", "padding", help));
        }
        let cache = self.cache.as_mut().expect("a capacity above 0 has a cache");
        cache.len = 0;
        let slots = mask
            .chunks_exact(length)
            .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(1, capacity - length)));
        self.model.backend.upload_indices(&slots.collect::<Vec<_>>(), &mut cache.mask);
        let mode = if self.settings.prefills_dense() {
            Mode::Prompt { corrects: self.is_probed() }
        } else {
            Mode::Batch { update_history: true }
        };
        self.run(mode, true)?;
        self.keep_cached();
        let last = forward::positions(&self.model.config, samples, length, Some(mask));
        self.next.positions = last.chunks_exact(length).map(|row| row[length - 1] + 1).collect();
        if reprobe_every.is_some() {
            self.clear_recent();
        }
        self.last_logits(length);
        self.update_history(true);
        self.steps = Some(Steps { samples, done: 0, reprobe_every });
        Ok(())
    }

    /// Runs one token per sample after those of [`Session::prefill`] and earlier steps; samples where `active` is 0
    /// are finished, and their tokens count as pads.
    ///
    /// # Errors
    /// No prompts before, another number of samples than theirs, a token that is not in the vocabulary, a full cache; and,
    /// ending the generation, values that are not finite or a device that failed.
    pub fn decode(&mut self, tokens: &[u32], active: Option<&[u32]>) -> Result<()> {
        let Some(Steps { samples, done, reprobe_every }) = self.steps else {
            let help = "Run the prompts first; other batches in between end a generation.";
            return Err(Error::argument("decode", "a generation that has begun", "none", help));
        };
        let (slot, vocabulary) =
            (self.cache.as_ref().map_or(0, |cache| cache.len), self.model.config.vocab_size);
        if tokens.len() != samples || active.is_some_and(|active| active.len() != samples) {
            let got = format!("{} tokens", tokens.len());
            let expected = format!("{samples} tokens, one per sample");
            return Err(Error::argument(
                "decode",
                expected,
                got,
                "Finished samples need one too: any will do.",
            ));
        }
        if let Some(sample) = tokens.iter().position(|&token| token as usize >= vocabulary) {
            let expected = format!("an id below {vocabulary}, the model's vocab_size");
            let help = "The text was tokenised for another model.";
            return Err(Error::argument(format!("token of sample {sample}"), expected, tokens[sample], help));
        }
        if slot == self.limits.capacity {
            let help = "Make a session with a larger capacity.";
            let expected = format!("at most {slot} tokens in all, the session's cache");
            return Err(Error::argument("prompt and new tokens", expected, slot + 1, help));
        }
        // A step that fails half-way cannot be repeated.
        (self.steps, self.next.predicted) = (None, None);
        let backend = &*self.model.backend;
        self.batch.shape = BatchShape { samples, tokens: 1 };
        backend.upload_indices(tokens, &mut self.batch.tokens);
        backend.upload_indices(&self.next.positions, &mut self.batch.positions);
        self.batch.padded = active.is_some_and(|active| active.contains(&0));
        if let Some(active) = active {
            backend.upload_indices(active, &mut self.batch.mask);
        }
        let recent = reprobe_every.map(|every| done % every);
        self.run(Mode::Decode { recent }, true)?;
        self.keep_cached();
        self.next.positions.iter_mut().for_each(|position| *position += 1);
        if let (Some(every), Some(recent)) = (reprobe_every, recent)
            && recent + 1 == every
        {
            self.reprobe(slot + 1 - every, every)?;
        }
        self.last_logits(1);
        self.steps = Some(Steps { samples, done: done + 1, reprobe_every });
        Ok(())
    }

    /// Clears the energies that an earlier generation gathered for re-probing.
    fn clear_recent(&mut self) {
        let entries = self.limits.capacity * self.model.config.intermediate_size;
        for [_, mlp] in &mut self.selections {
            if let Selection::Probed(Probed { recent: Some(recent), .. }) = mlp {
                self.model.backend.clear_statistics(&mut recent.energy.values, entries);
            }
        }
    }

    /// Chooses the MLP channels of every probed layer from the tokens in slots `from .. from+tokens`.
    fn reprobe(&mut self, from: usize, tokens: usize) -> Result<()> {
        let backend = &*self.model.backend;
        let mode = Mode::Decode { recent: None };
        let context =
            Context { model: &*self.model, settings: &self.settings, batch: &self.batch, mode, dense: None };
        let slots: Vec<u32> = (from..from + tokens).map(|slot| slot as u32).collect();
        for (layer, [_, mlp]) in self.selections.iter_mut().enumerate() {
            if let Selection::Probed(Probed { recent: Some(recent), .. }) = mlp {
                backend.upload_indices(&slots, &mut recent.slots);
            }
            block::reprobe(context.block(layer, Block::Mlp), mlp, tokens, &mut self.scratch);
        }
        self.scratch.timeline.mark(backend, Step::Selection);
        self.check_fault()
    }

    /// The latest batch's slots count as cached.
    fn keep_cached(&mut self) {
        if let Some(cache) = &mut self.cache {
            cache.len += self.batch.shape.tokens;
        }
    }
}

fn check_reprobing(every: Option<usize>, settings: &Settings) -> Result<()> {
    if every == Some(0) {
        let help = "Leave it out to keep the prompt's choice.";
        return Err(Error::argument("reprobe_every", "at least 1", 0, help));
    }
    if every.is_some() && settings.compensate != Compensation::None {
        let help = "Compensation is known from the prompt's probe alone.";
        return Err(Error::argument("reprobe_every", "`compensate` none", settings.compensate, help));
    }
    Ok(())
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

    #[test]
    fn prompts_are_padded_on_the_left() {
        let (tokens, mask) = pad_left(&[vec![5, 6, 7], vec![8]]).unwrap();
        assert_eq!((tokens, mask), (vec![5, 6, 7, 0, 0, 8], vec![1, 1, 1, 0, 0, 1]));
        assert!(pad_left(&[vec![1], vec![]]).unwrap_err().to_string().contains("prompt 1"));
    }
}
