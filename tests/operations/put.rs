//! Buffers with content. Fewer values than entries leave the rest zeroed.

use probeprune::{
    Result,
    backend::{Backend, KeptSet, Linear, WeightUse},
    checkpoint::Tensor,
};

use super::{Output, product::Kept};

/// Uploads and downloads.
pub trait Put: Backend {
    /// # Errors
    /// If the device has no room for it.
    fn put_activations(&self, len: usize, values: &[f32]) -> Result<Self::Activations> {
        let mut out = self.activations(len)?;
        self.upload_activations(values, &mut out);
        Ok(out)
    }

    /// # Errors
    /// If the device has no room for it.
    fn put_statistics(&self, len: usize, values: &[f32]) -> Result<Self::Statistics> {
        let mut out = self.statistics(len)?;
        self.upload_statistics(values, &mut out);
        Ok(out)
    }

    /// # Errors
    /// If the device has no room for it.
    fn put_indices(&self, values: &[u32]) -> Result<Self::Indices> {
        let mut out = self.indices(values.len())?;
        self.upload_indices(values, &mut out);
        Ok(out)
    }

    /// # Errors
    /// If the device has no room for it.
    fn put_kept(&self, kept: &Kept, of: usize) -> Result<KeptSet<Self::Indices>> {
        let Kept { indices, block_width } = kept;
        Ok(KeptSet {
            indices: self.put_indices(indices)?,
            len: indices.len(),
            of: of / block_width,
            block_width: *block_width,
        })
    }

    /// A projection with an optional bias.
    ///
    /// # Errors
    /// If the device has no room for it.
    fn put_linear(&self, weight: &Tensor, bias: Option<&[f32]>, usage: WeightUse) -> Result<Linear<Self>> {
        let [out_features, in_features] = [0, 1].map(|axis| weight.shape()[axis]);
        let bias = bias.map(|bias| self.put_statistics(out_features, bias)).transpose()?;
        Ok(Linear { weight: self.weight(weight, usage)?, bias, out_features, in_features })
    }

    /// # Errors
    /// A device that failed.
    fn read_activations(&self, values: &Self::Activations, len: usize) -> Result<Output> {
        self.download_activations(values, len).map(Output::Floats)
    }

    /// # Errors
    /// A device that failed.
    fn read_statistics(&self, values: &Self::Statistics, len: usize) -> Result<Output> {
        self.download_statistics(values, len).map(Output::Floats)
    }

    /// # Errors
    /// A device that failed.
    fn read_indices(&self, values: &Self::Indices, len: usize) -> Result<Output> {
        self.download_indices(values, len).map(Output::Indices)
    }
}

impl<B: Backend> Put for B {}
