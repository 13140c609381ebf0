//! The most likely token of each row of logits: all that greedy decoding downloads.

use super::{Driver, Geometry, Gpu, Indices, Kernel, Statistics, args::ArgmaxArgs};

const ARGMAX: Kernel = Kernel { module: "argmax", name: "argmax" };

impl<D: Driver> Gpu<D> {
    pub(super) fn argmax_kernel(&self, x: &Statistics<D>, rows: usize, width: usize, out: &Indices<D>) {
        let (x, out) = (self.floats(x), self.words(out));
        let arguments = ArgmaxArgs { x, out, rows: rows as i32, width: width as i32 };
        self.launch(ARGMAX, Geometry { grid: [rows as u32, 1, 1], threads: 1024, shared: 0 }, &arguments);
    }
}
