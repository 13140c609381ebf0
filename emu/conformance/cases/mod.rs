//! What each primitive has to compute, written from the tables of the PTX manual and not from the interpreter: naive,
//! bit by bit and element by element. The emulator's tests and the GPU runner both judge by these.

mod alu;
mod matrix;
mod tensor;
mod warp;
mod wgmma;

/// One kernel of `conformance/*.cu` with its input and the only right output.
pub struct Case {
    pub kernel: &'static str,
    /// PTX module.
    pub module: &'static str,
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    pub input: Vec<u32>,
    /// Tensor map argument, for the kernels that take one.
    pub map: Option<Map>,
    /// Words of output; those that the kernel leaves alone are all ones.
    pub expected: Vec<u32>,
    pub judge: Judge,
}

/// How close the output has to be.
pub enum Judge {
    Bits,
    /// Floats within an absolute tolerance that depends on the index and the expected value.
    Within(fn(usize, f32) -> f32),
}

/// A tensor in a buffer of its own.
pub struct Map {
    pub element_bytes: usize,
    pub size: Vec<u64>,
    pub stride: Vec<u64>,
    pub box_size: Vec<u32>,
    /// Bytes within which chunks are swizzled; 0 for none.
    pub swizzle: u32,
    pub data: Vec<u32>,
    /// The output to judge is the tensor itself.
    pub is_output: bool,
}

impl Case {
    fn new(
        module: &'static str,
        kernel: &'static str,
        threads: u32,
        input: Vec<u32>,
        expected: Vec<u32>,
    ) -> Self {
        Self { kernel, module, threads, shared: 0, input, map: None, expected, judge: Judge::Bits }
    }

    /// The first word that differs from what it has to be: index, expected, got.
    pub fn difference(&self, got: &[u32]) -> Option<(usize, u32, u32)> {
        let close = |i: usize, want: u32, got: u32| match self.judge {
            Judge::Bits => want == got,
            Judge::Within(tolerance) => {
                let (w, g) = (f32::from_bits(want), f32::from_bits(got));
                want == got || (w - g).abs() <= tolerance(i, w) || w.is_nan() && g.is_nan()
            }
        };
        (0..self.expected.len())
            .find(|&i| !close(i, self.expected[i], got[i]))
            .map(|i| (i, self.expected[i], got[i]))
    }
}

/// All cases.
pub fn all() -> Vec<Case> {
    [alu::cases(), warp::cases(), matrix::cases(), tensor::cases(), wgmma::cases()]
        .into_iter()
        .flatten()
        .collect()
}
