//! RMSNorm of rows in cust's memory, on cust's stream.

use std::error::Error;

use cust::{
    context::Context,
    device::Device,
    memory::{CopyDestination, DeviceBuffer},
    stream::{Stream, StreamFlags},
};
use probeprune::{
    backend::{Backend, Norm, NormKind, NormOperands},
    gpu::{Gpu, GpuDtype},
};
use probeprune_cust::{Views, on_stream};

const ROWS: usize = 2;
const HIDDEN_SIZE: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    cust::init(cust::CudaFlags::empty())?;
    let _context = Context::new(Device::get_device(0)?)?;
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;

    // 2.0 in bfloat16 everywhere.
    let x = DeviceBuffer::from_slice(&[0x4000u16; ROWS * HIDDEN_SIZE])?;
    let mut out = DeviceBuffer::from_slice(&[0u16; ROWS * HIDDEN_SIZE])?;
    let mut sums = DeviceBuffer::from_slice(&[0f32; ROWS])?;

    // SAFETY: cust's context is the device's primary one, and the stream outlives `gpu`.
    let gpu = Gpu::new(unsafe { on_stream(0, &stream) }?, GpuDtype::Bf16);
    let norm = Norm { kind: NormKind::Rms, weight: None, bias: None, eps: 0.0 };
    {
        // SAFETY: the buffers live until the stream has been synchronised.
        let (x, mut out, mut sums) = unsafe {
            (
                gpu.view_activations(&x)?,
                gpu.view_activations_mut(&mut out)?,
                gpu.view_statistics_mut(&mut sums)?,
            )
        };
        gpu.norm(NormOperands {
            x: &x,
            norm: Some(&norm),
            rows: ROWS,
            hidden_size: HIDDEN_SIZE,
            out: &mut out,
            sum_squares: &mut sums,
        });
    }
    stream.synchronize()?;
    let mut bits = [0u16; ROWS * HIDDEN_SIZE];
    out.copy_to(&mut bits)?;
    assert_eq!(bits, [0x3f80; ROWS * HIDDEN_SIZE], "1.0");
    let mut squares = [0f32; ROWS];
    sums.copy_to(&mut squares)?;
    println!("sums of squares: {squares:?}");
    Ok(())
}
