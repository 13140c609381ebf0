//! What a machine can do at most: copying, and multiplying matrices.

use std::{fmt, thread, time::Instant};

use probeprune::{
    Result,
    gpu::{Cuda, Gpu},
    prune::BatchShape,
};

use crate::{
    case::{LARGE, LayerCase, LayerShape, Op},
    content::Content,
    cuda::Libraries,
    measure::FULL,
    operations::{Case, source::Source},
    peers::{Peers, Rival, Trouble},
    timer::{Timer, median},
};

/// Rates of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Ceiling {
    /// Bytes per second, read and written.
    pub copy: f64,
    /// Floating-point operations per second.
    pub flops: f64,
    /// What multiplied.
    product: &'static str,
}

impl Ceiling {
    /// Nothing was measured, nor will be.
    pub fn unknown() -> Self {
        Self { copy: 0.0, flops: 0.0, product: "" }
    }

    /// Whether it was.
    pub fn is_known(&self) -> bool {
        self.copy > 0.0
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "100 % is {:.1} GB/s of copying and {:.0} GFLOP/s of {}",
            self.copy / 1e9,
            self.flops / 1e9,
            self.product
        )
    }
}

/// Of the CPU with so many threads, each on memory of its own.
pub fn of_cpu(threads: usize) -> Ceiling {
    const BYTES: usize = 128 << 20;
    const SIZE: usize = 512;
    let copied = together(threads, || {
        let (from, mut to) = (vec![1u8; BYTES], vec![0u8; BYTES]);
        move || to.copy_from_slice(&from)
    });
    let multiplied = together(threads, || {
        let (a, b, mut c) = (vec![0.5f32; SIZE * SIZE], vec![0.25f32; SIZE * SIZE], vec![0f32; SIZE * SIZE]);
        move || {
            let stride = SIZE as isize;
            // SAFETY: three matrices of SIZE × SIZE.
            unsafe {
                gemm::gemm(
                    SIZE,
                    SIZE,
                    SIZE,
                    c.as_mut_ptr(),
                    stride,
                    1,
                    false,
                    a.as_ptr(),
                    stride,
                    1,
                    b.as_ptr(),
                    stride,
                    1,
                    0.0f32,
                    1.0f32,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
        }
    });
    let products = 2.0 * (SIZE as f64).powi(3);
    Ceiling {
        copy: threads as f64 * 2.0 * BYTES as f64 / copied,
        flops: threads as f64 * products / multiplied,
        product: "float32 products of 512³ on every thread",
    }
}

/// Median seconds of what every thread does at the same time as the others.
fn together<F: FnMut()>(threads: usize, make: impl Fn() -> F + Sync) -> f64 {
    let barrier = std::sync::Barrier::new(threads);
    let times: Vec<f64> = thread::scope(|scope| {
        let work = || {
            let mut work = make();
            work();
            barrier.wait();
            let mut seconds = Vec::new();
            for _ in 0..9 {
                let start = Instant::now();
                work();
                seconds.push(start.elapsed().as_secs_f64());
            }
            median(&seconds)
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().expect("it only computes")).collect()
    });
    median(&times)
}

/// Of a GPU: cuBLAS's 8192³, or the project's own where there is no cuBLAS.
///
/// # Errors
/// A device without room.
pub fn of_gpu(gpu: &Gpu<Cuda>) -> Result<Ceiling> {
    const SIZE: usize = 8192;
    let mut timer = Timer::new(gpu, 0)?;
    let libraries = Libraries(gpu);
    let copied = match libraries.prepare(Rival::Copy(FULL.copy)) {
        Ok(mut copy) => median(&timer.time(gpu, 20, |_| (copy.run)())?),
        Err(Trouble::Missing(_)) => f64::NAN,
        Err(Trouble::Failed(error)) => return Err(error),
    };
    let (seconds, product) = match libraries.prepare(Rival::Product([SIZE; 3])) {
        Ok(mut product) => (timer.time(gpu, 15, |_| (product.run)())?, "cuBLAS, bf16, 8192³"),
        Err(Trouble::Missing(_)) => {
            let batch = BatchShape { samples: 1, tokens: SIZE };
            let shape = LayerShape { batch, hidden: SIZE, heads: SIZE / LARGE[0].head_dim, ..LARGE[0] };
            let case = LayerCase { op: Op::Query, shape, pruned: false };
            let mut ready = case.operation().prepare(gpu, Source::Content(&Content::random(), 1))?;
            (timer.time(gpu, 15, |_| drop(ready(gpu, false)))?, "this project's own products, bf16, 8192³")
        }
        Err(Trouble::Failed(error)) => return Err(error),
    };
    let flops = 2.0 * (SIZE as f64).powi(3) / median(&seconds[5..]);
    Ok(Ceiling { copy: 2.0 * FULL.copy as f64 / copied, flops, product })
}
