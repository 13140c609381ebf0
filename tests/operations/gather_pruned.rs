//! `gather_pruned`: the pruned blocks, and their columns of a linear map and of the mean.

use probeprune::{
    Result,
    backend::{Backend, GatherPrunedOperands, KeptSet},
};

use super::{
    Case, ElementBytes, Expected, Put, Ready, Traffic,
    near::{Near, Stored},
    outputs,
    product::Kept,
    source::Source,
};

#[derive(Clone, Debug)]
pub struct GatherPrunedCase {
    /// Blocks in all.
    pub of: usize,
    /// Kept ones.
    pub kept: usize,
    pub block_width: usize,
    /// Rows of the linear map.
    pub rank: usize,
}

impl GatherPrunedCase {
    /// Kept blocks, coefficients, mean.
    fn input(&self, source: Source<'_>) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
        let mut stream = source.stream(3);
        let channels = self.of * self.block_width;
        let kept = stream.kept(self.of, self.kept);
        (kept, stream.floats(-1.0..1.0, self.rank * channels), stream.floats(-1.0..1.0, channels))
    }

    /// Entries of the output.
    fn len(&self) -> usize {
        (self.rank + 1) * (self.of - self.kept) * self.block_width
    }
}

impl Case for GatherPrunedCase {
    fn prepare<B: Backend>(&self, backend: &B, source: Source<'_>) -> Result<Ready<B>> {
        let (indices, coefficients, mean) = self.input(source);
        let Self { of, rank, block_width, .. } = *self;
        let (channels, len) = (of * block_width, self.len());
        let kept = backend.put_kept(&Kept { indices, block_width }, channels)?;
        let pruned_len = of - self.kept;
        let indices = backend.put_indices(&vec![7777; pruned_len])?;
        let mut pruned = KeptSet { indices, len: pruned_len, of, block_width };
        let mut out = backend.activations(len)?;
        let coefficients = backend.put_statistics(rank * channels, &coefficients)?;
        let mean = backend.put_statistics(channels, &mean)?;
        Ok(Box::new(move |backend, read| {
            backend.gather_pruned(GatherPrunedOperands {
                kept: &kept,
                coefficients: (rank > 0).then_some((&coefficients, rank)),
                mean: &mean,
                pruned: &mut pruned,
                out: &mut out,
            });
            outputs(read, || {
                Ok(vec![
                    backend.read_indices(&pruned.indices, pruned_len)?,
                    backend.read_activations(&out, len)?,
                ])
            })
        }))
    }

    fn expected(&self, source: Source<'_>, stored: Stored) -> Vec<Expected> {
        let (kept, coefficients, mean) = self.input(source);
        let pruned: Vec<u32> = (0..self.of as u32).filter(|block| !kept.contains(block)).collect();
        let rows = coefficients.chunks_exact((self.of * self.block_width).max(1)).chain([&mean[..]]);
        let columns = || {
            let of = |&block: &u32| (0..self.block_width).map(move |i| block as usize * self.block_width + i);
            pruned.iter().flat_map(of)
        };
        let values = rows.flat_map(|row| columns().map(move |c| Near::from(row[c]).stored(stored))).collect();
        vec![Expected::Indices(pruned), Expected::Floats(values)]
    }

    fn bytes(&self, element: ElementBytes) -> usize {
        4 * self.of + (4 + element.activation) * self.len()
    }

    fn traffic(&self) -> Traffic {
        // The list is read in sectors, and each pruned index that is written is one.
        let list = (4 * self.kept).next_multiple_of(32);
        let read = self.of * self.block_width / 256 * list + 4 * self.len();
        Traffic::new("gather_pruned", read, 32 * (self.of - self.kept) + 2 * self.len())
    }
}
