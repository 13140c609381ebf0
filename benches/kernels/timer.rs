//! Times of operations on a device, by its own stamps.

use probeprune::{Result, backend::Backend};

/// Runs under way before anything is waited for.
const CHUNK: usize = 64;

/// Takes times.
pub struct Timer<B: Backend> {
    stamps: Vec<[B::Stamp; 2]>,
    /// Written before every run, so that none finds its input in the L2 cache; empty where that is not wanted.
    flush: B::Statistics,
    flush_len: usize,
    done: B::Indices,
}

impl<B: Backend> Timer<B> {
    /// `flush_bytes` of 0 leave caches as they are.
    ///
    /// # Errors
    /// A device without room.
    pub fn new(backend: &B, flush_bytes: usize) -> Result<Self> {
        let flush_len = flush_bytes / 4;
        let pair = || Ok([backend.stamp()?, backend.stamp()?]);
        Ok(Self {
            stamps: (0..CHUNK).map(|_| pair()).collect::<Result<_>>()?,
            flush: backend.statistics(flush_len)?,
            flush_len,
            done: backend.indices(1)?,
        })
    }

    /// Seconds of each of `count` runs; `run` gets the run's number.
    ///
    /// # Errors
    /// A device that failed.
    pub fn time(&mut self, backend: &B, count: usize, mut run: impl FnMut(usize)) -> Result<Vec<f64>> {
        let mut seconds = Vec::with_capacity(count);
        while seconds.len() < count {
            let first = seconds.len();
            let stamps = &mut self.stamps[..CHUNK.min(count - first)];
            for (i, [from, to]) in stamps.iter_mut().enumerate() {
                if self.flush_len > 0 {
                    backend.clear_statistics(&mut self.flush, self.flush_len);
                }
                backend.take_stamp(from);
                run(first + i);
                backend.take_stamp(to);
            }
            self.wait(backend)?;
            for [from, to] in &self.stamps[..CHUNK.min(count - first)] {
                seconds.push(backend.seconds_between(from, to)?);
            }
        }
        Ok(seconds)
    }

    /// Runs all of `runs` in turn, `rounds` times after `warmup` rounds; their seconds, round by round.
    ///
    /// # Errors
    /// A device that failed.
    pub fn interleaved(
        &mut self,
        backend: &B,
        runs: &mut [Box<dyn FnMut() + '_>],
        warmup: usize,
        rounds: usize,
    ) -> Result<Vec<Vec<f64>>> {
        let count = runs.len();
        let all = self.time(backend, count * (warmup + rounds), |i| runs[i % count]())?;
        let of = |which: usize| all.iter().skip(warmup * count + which).step_by(count).copied().collect();
        Ok((0..count).map(of).collect())
    }

    /// Waits for everything issued.
    ///
    /// # Errors
    /// A device that failed.
    pub fn wait(&self, backend: &B) -> Result<()> {
        backend.download_indices(&self.done, 1).map(drop)
    }
}

/// A median with what lies a quarter of the way from either end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub quartiles: [f64; 2],
}

impl Spread {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let [low, median, high] = [1, 2, 3].map(|quarter| sorted[quarter * (sorted.len() - 1) / 4]);
        Self { median, quartiles: [low, high] }
    }

    /// Of the ratios of neighbours.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        Self::of(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
    }
}

/// The median.
pub fn median(values: &[f64]) -> f64 {
    Spread::of(values).median
}
