//! The one place that turns a device into a backend's type: models ([`super::loaded`]) and sessions of both backends behind
//! trait objects.

use std::{
    ffi::c_void,
    sync::{Arc, atomic::AtomicBool},
};

use super::{
    dlpack::{self, DLDataType, DLDevice, Exported},
    loaded::{AnyModel, Loaded},
    status::{Failure, Outcome, Status},
    structs::ModelOptions,
};
use crate::{
    backend::Backend,
    checkpoint::Checkpoint,
    config::{LayerShape, ModelConfig},
    cpu::{Cpu, CpuDtype},
    error::Result,
    gpu::{Cuda, Gpu, GpuDtype},
    model::Model,
    prune::{
        BatchShape, Block,
        adapt::Corrections,
        flops::{LayerCounts, Shares},
    },
    session::{GenerateOptions, Generated, Session},
};

/// What the C ABI needs of a backend beyond its operations.
pub(super) trait Place: Backend {
    /// The device of its tensors.
    fn device(&self) -> DLDevice;
    /// Whether a fault broke it.
    fn is_broken(&self) -> bool;
    /// Waits for everything issued.
    fn synchronize(&self) -> Result<()>;
    /// Address of statistics.
    fn address_of(&self, values: &Self::Statistics) -> *mut c_void;
    /// Address of indices.
    fn address_of_indices(&self, values: &Self::Indices) -> *mut c_void;
}

impl Place for Cpu {
    fn device(&self) -> DLDevice {
        DLDevice { device_type: dlpack::CPU, device_id: 0 }
    }

    fn is_broken(&self) -> bool {
        false
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn address_of(&self, values: &Self::Statistics) -> *mut c_void {
        values.as_ptr().cast_mut().cast()
    }

    fn address_of_indices(&self, values: &Self::Indices) -> *mut c_void {
        values.as_ptr().cast_mut().cast()
    }
}

impl Place for Gpu<Cuda> {
    fn device(&self) -> DLDevice {
        DLDevice { device_type: dlpack::CUDA, device_id: self.driver().device().ordinal as i32 }
    }

    fn is_broken(&self) -> bool {
        self.driver().is_broken()
    }

    fn synchronize(&self) -> Result<()> {
        self.issued()?;
        self.driver().synchronize()
    }

    fn address_of(&self, values: &Self::Statistics) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(values.address(self) as usize)
    }

    fn address_of_indices(&self, values: &Self::Indices) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(values.address(self) as usize)
    }
}

/// A session on some device. See [`Session`].
pub(super) trait AnySession: Send {
    fn config(&self) -> &ModelConfig;
    fn is_broken(&self) -> bool;
    fn synchronize(&self) -> Result<()>;
    fn canceller(&self) -> Arc<AtomicBool>;
    fn layer_shape(&self, layer: usize) -> &LayerShape;
    fn layer_counts(&self) -> &[LayerCounts];
    fn adapting(&self) -> Option<bool>;
    fn set_adapting(&mut self, active: bool);
    fn reset_corrections(&mut self) -> Result<()>;
    fn corrections(&self) -> Result<Option<Corrections>>;
    fn probed_share(&self) -> Option<f64>;
    fn excess_error(&self) -> Option<f64>;
    fn shares(&self, shape: BatchShape) -> Shares;
    fn losses(&mut self, batch: Batch<'_>, update_history: bool) -> Result<Vec<f32>>;
    fn evaluate(&mut self, batch: Batch<'_>, update_history: bool) -> Result<f64>;
    fn forward(&mut self, batch: Batch<'_>, update_history: bool) -> Result<()>;
    fn logits_shape(&self, samples: usize) -> [usize; 3];
    fn logits(&mut self, samples: usize) -> Result<Vec<f32>>;
    fn logits_at(&mut self, samples: usize, slots: &[u32]) -> Result<Vec<f32>>;
    fn export_logits(&mut self, samples: usize) -> Result<Exported>;
    fn kept(&self, layer: usize, block: Block) -> Result<Option<Vec<u32>>>;
    fn scores(&self, layer: usize, block: Block) -> Result<Option<Vec<f32>>>;
    fn export_indices(&self, indices: &[u32]) -> Result<Exported>;
    fn pin(&mut self, kept: &[[Option<Vec<u32>>; 2]]) -> Result<()>;
    fn prefill(&mut self, batch: Batch<'_>, reprobe_every: Option<usize>) -> Result<()>;
    fn decode(&mut self, tokens: &[u32], active: Option<&[u32]>) -> Result<()>;
    fn next_logits(&self) -> Result<Vec<f32>>;
    fn next_tokens(&mut self) -> Result<Vec<u32>>;
    fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        on_token: &mut dyn FnMut(usize, u32) -> Result<()>,
    ) -> Result<Generated>;
}

/// Tokens (samples, S) and their mask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a> {
    pub(super) tokens: &'a [u32],
    pub(super) samples: usize,
    pub(super) mask: Option<&'a [u32]>,
}

impl<B: Place> AnySession for Session<B> {
    fn config(&self) -> &ModelConfig {
        &self.model().config
    }

    fn is_broken(&self) -> bool {
        self.model().backend.is_broken()
    }

    fn synchronize(&self) -> Result<()> {
        self.model().backend.synchronize()
    }

    fn canceller(&self) -> Arc<AtomicBool> {
        self.canceller()
    }

    fn layer_shape(&self, layer: usize) -> &LayerShape {
        &self.model().weights.layers[layer].shape
    }

    fn layer_counts(&self) -> &[LayerCounts] {
        self.layer_counts()
    }

    fn adapting(&self) -> Option<bool> {
        self.adapting()
    }

    fn set_adapting(&mut self, active: bool) {
        self.set_adapting(active);
    }

    fn reset_corrections(&mut self) -> Result<()> {
        self.reset_corrections()
    }

    fn corrections(&self) -> Result<Option<Corrections>> {
        self.corrections()
    }

    fn probed_share(&self) -> Option<f64> {
        self.probed_share()
    }

    fn excess_error(&self) -> Option<f64> {
        self.excess_error()
    }

    fn shares(&self, shape: BatchShape) -> Shares {
        self.shares(shape)
    }

    fn losses(&mut self, batch: Batch<'_>, update_history: bool) -> Result<Vec<f32>> {
        self.losses(batch.tokens, batch.samples, batch.mask, update_history)
    }

    fn evaluate(&mut self, batch: Batch<'_>, update_history: bool) -> Result<f64> {
        self.evaluate(batch.tokens, batch.samples, batch.mask, update_history)
    }

    fn forward(&mut self, batch: Batch<'_>, update_history: bool) -> Result<()> {
        self.forward(batch.tokens, batch.samples, batch.mask, update_history)
    }

    fn logits_shape(&self, samples: usize) -> [usize; 3] {
        self.logits_shape(samples)
    }

    fn logits(&mut self, samples: usize) -> Result<Vec<f32>> {
        self.logits(samples)
    }

    fn logits_at(&mut self, samples: usize, slots: &[u32]) -> Result<Vec<f32>> {
        self.logits_at(samples, slots)
    }

    fn export_logits(&mut self, samples: usize) -> Result<Exported> {
        let (logits, shape) = self.device_logits(samples)?;
        let backend = &self.model().backend;
        // The reader may use another stream.
        backend.synchronize()?;
        Ok(Exported {
            data: backend.address_of(&logits),
            memory: Box::new((logits, Arc::clone(backend))),
            device: backend.device(),
            dtype: DLDataType::FLOAT32,
            shape: shape.map(|size| size as i64).to_vec(),
            read_only: false,
        })
    }

    fn kept(&self, layer: usize, block: Block) -> Result<Option<Vec<u32>>> {
        match block {
            Block::Attention => self.kept_heads(layer),
            Block::Mlp => self.kept_channels(layer),
        }
    }

    fn scores(&self, layer: usize, block: Block) -> Result<Option<Vec<f32>>> {
        self.scores(layer, block)
    }

    fn export_indices(&self, indices: &[u32]) -> Result<Exported> {
        let backend = &self.model().backend;
        let mut copy = backend.indices(indices.len())?;
        backend.upload_indices(indices, &mut copy);
        backend.synchronize()?;
        Ok(Exported {
            data: backend.address_of_indices(&copy),
            memory: Box::new((copy, Arc::clone(backend))),
            device: backend.device(),
            // Signed: few frameworks index by unsigned integers, and every index fits.
            dtype: DLDataType::INT32,
            shape: vec![indices.len() as i64],
            read_only: false,
        })
    }

    fn pin(&mut self, kept: &[[Option<Vec<u32>>; 2]]) -> Result<()> {
        self.pin(kept)
    }

    fn prefill(&mut self, batch: Batch<'_>, reprobe_every: Option<usize>) -> Result<()> {
        self.prefill(batch.tokens, batch.samples, batch.mask, reprobe_every)
    }

    fn decode(&mut self, tokens: &[u32], active: Option<&[u32]>) -> Result<()> {
        self.decode(tokens, active)
    }

    fn next_logits(&self) -> Result<Vec<f32>> {
        self.next_logits()
    }

    fn next_tokens(&mut self) -> Result<Vec<u32>> {
        self.next_tokens()
    }

    fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        options: &GenerateOptions,
        on_token: &mut dyn FnMut(usize, u32) -> Result<()>,
    ) -> Result<Generated> {
        self.generate(prompts, options, on_token)
    }
}

/// Loads a model onto the device of the options, its channels in `order`.
///
/// # Safety
/// A stream in the options is as [`Cuda::on_stream`] requires.
pub(super) unsafe fn load(
    config: ModelConfig,
    checkpoint: &Checkpoint,
    options: &ModelOptions,
    order: Option<Vec<Vec<u32>>>,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Outcome<Box<dyn AnyModel>> {
    match options.device_type {
        dlpack::CPU => {
            let cpu = Cpu::new(options.threads as usize)?.with_dtype(cpu_dtype(options.dtype)?);
            let cpu = Arc::new(cpu);
            Ok(Box::new(Loaded::new(Model::of_checkpoint(config, checkpoint, cpu, order, progress)?)))
        }
        dlpack::CUDA => {
            let ordinal = ordinal(options.device_id)?;
            let cuda = match options.use_stream {
                0 => Cuda::new(ordinal)?,
                // SAFETY: the caller promises a stream as `Cuda::on_stream` requires it.
                _ => unsafe { Cuda::on_stream(ordinal, options.stream) }?,
            };
            let gpu = Arc::new(Gpu::new(cuda, gpu_dtype(options.dtype, checkpoint)?));
            Ok(Box::new(Loaded::new(Model::of_checkpoint(config, checkpoint, gpu, order, progress)?)))
        }
        other => Err(no_such_device(other)),
    }
}

fn cpu_dtype(dtype: i32) -> Outcome<CpuDtype> {
    match dtype {
        0 | 3 => Ok(CpuDtype::F32),
        1 => Ok(CpuDtype::Bf16),
        other => {
            let expected = "PROBEPRUNE_DTYPE_AUTO, _F32 or _BF16 on the CPU";
            Err(Failure::argument("dtype", expected, other, "Leave it at 0."))
        }
    }
}

pub(super) fn gpu_dtype(dtype: i32, checkpoint: &Checkpoint) -> Outcome<GpuDtype> {
    match dtype {
        0 => Ok(GpuDtype::for_weights(checkpoint)),
        1 => Ok(GpuDtype::Bf16),
        2 => Ok(GpuDtype::F16),
        other => {
            let expected = "PROBEPRUNE_DTYPE_AUTO, _BF16 or _F16 on a GPU";
            Err(Failure::argument("dtype", expected, other, "Fill the struct with its _init function first."))
        }
    }
}

pub(super) fn ordinal(device_id: i32) -> Outcome<usize> {
    usize::try_from(device_id)
        .map_err(|_| Failure::argument("device_id", "0 or more", device_id, "GPUs are counted from 0."))
}

pub(super) fn no_such_device(device_type: i32) -> Failure {
    let expected = "kDLCPU (1) or kDLCUDA (2)";
    Failure::argument("device_type", expected, device_type, "Other devices have no kernels.")
}

/// The failure, with status `Poisoned` if a fault broke the device.
pub(super) fn poisoned(mut failure: Failure, broken: bool) -> Failure {
    if broken && failure.status != Status::Panic {
        failure.status = Status::Poisoned;
    }
    failure
}
