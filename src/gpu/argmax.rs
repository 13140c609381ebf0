//! The most likely token of each row of logits: all that greedy decoding downloads.

use super::{Driver, Geometry, Gpu, Kernel, args::ArgmaxArgs};
use crate::backend::ArgmaxOperands;

const ARGMAX: Kernel = Kernel { module: "argmax", name: "argmax" };

impl<D: Driver> Gpu<D> {
    pub(super) fn argmax_kernel(&self, operands: ArgmaxOperands<'_, Self>) {
        let ArgmaxOperands { x, rows, vocab_size, out } = operands;
        let (x, out) = (self.floats(x), self.words(out));
        let arguments = ArgmaxArgs { x, out, rows: rows as i32, vocab_size: vocab_size as i32 };
        self.launch(ARGMAX, Geometry { grid: [rows as u32, 1, 1], threads: 1024, shared: 0 }, &arguments);
    }
}
