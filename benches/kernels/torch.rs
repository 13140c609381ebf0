//! PyTorch's side of the goals, which tools/peers/goals.py has in the same process and on the same stream.

use std::ffi::{CStr, CString, c_char};

use probeprune::{
    Error, Result,
    gpu::{Cuda, Gpu},
};

use crate::{
    cuda::Libraries,
    peers::{Peer, Peers, Rival, Trouble},
};

/// How tools/peers/goals.py is called. All of it runs on the thread that called in.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Callbacks {
    /// Gets ready what `what` names, for these numbers. Returns a handle; or `MISSING` or `FAILED`. Writes its name or
    /// the reason to `text`.
    prepare: extern "C" fn(
        what: *const c_char,
        numbers: *const i64,
        count: usize,
        text: *mut c_char,
        room: usize,
    ) -> i64,
    /// Issues one run of it; 0 if it could.
    issue: extern "C" fn(handle: i64) -> i32,
    /// It is not needed any longer.
    release: extern "C" fn(handle: i64),
}

const MISSING: i64 = -1;
const FAILED: i64 = -2;

/// PyTorch, and the libraries where they need no PyTorch.
#[derive(Clone, Copy, Debug)]
pub struct Torch<'a> {
    pub libraries: Libraries<'a>,
    pub callbacks: Callbacks,
}

impl<'a> Torch<'a> {
    /// On the stream of `gpu`.
    pub fn new(gpu: &'a Gpu<Cuda>, callbacks: Callbacks) -> Self {
        Self { libraries: Libraries(gpu), callbacks }
    }

    fn ask(&self, what: &str, numbers: &[usize]) -> Result<Peer<'a>, Trouble> {
        const ROOM: usize = 1024;
        let mut text = [0u8; ROOM];
        let question = CString::new(what).expect("it has no NUL");
        let numbers: Vec<i64> = numbers.iter().map(|&number| number as i64).collect();
        let (count, out) = (numbers.len(), text.as_mut_ptr().cast());
        let handle = (self.callbacks.prepare)(question.as_ptr(), numbers.as_ptr(), count, out, ROOM);
        let text = CStr::from_bytes_until_nul(&text)
            .map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned());
        match handle {
            MISSING => Err(Trouble::Missing(text)),
            FAILED => {
                let help = "Its traceback is among what goals.py printed.";
                Err(Error::device("PyTorch", what, "something to run", text, help).into())
            }
            _ => {
                let prepared = Prepared { handle, callbacks: self.callbacks };
                Ok(Peer { name: text, run: Box::new(move || prepared.issue()) })
            }
        }
    }
}

impl Peers for Torch<'_> {
    fn prepare(&self, rival: Rival) -> Result<Peer<'_>, Trouble> {
        match rival {
            Rival::Product(_) | Rival::Copy(_) => self.libraries.prepare(rival),
            Rival::Gated(sizes) => self.ask("gated", &sizes),
            Rival::Layer(shape, past) => {
                let (t, n) = (shape.batch.rows(), shape.heads * shape.head_dim);
                // Both sides multiply as much, or one of them computes something else.
                let flops = 2 * t * shape.hidden * (4 * n + 3 * shape.intermediate);
                let (samples, tokens) = (shape.batch.samples, shape.batch.tokens);
                let sizes = [shape.hidden, shape.intermediate, shape.heads, shape.head_dim];
                self.ask("layer", &[&[samples, tokens, past][..], &sizes, &[flops]].concat())
            }
            Rival::Sparse(shape) => {
                self.ask("sparse", &[shape.batch.rows(), shape.hidden, shape.intermediate])
            }
            Rival::TopK { of, k } => self.ask("topk", &[of, k]),
            Rival::Authors { model, layers, vocab, batch, kept } => {
                let sizes = [model.hidden, model.intermediate, model.heads, model.head_dim, layers, vocab];
                self.ask("authors", &[&[batch.samples, batch.tokens][..], &sizes, &kept].concat())
            }
        }
    }

    fn memory_taken(&self) -> Result<f64> {
        self.libraries.memory_taken()
    }
}

/// A handle of PyTorch's side.
struct Prepared {
    handle: i64,
    callbacks: Callbacks,
}

impl Prepared {
    fn issue(&self) {
        let code = (self.callbacks.issue)(self.handle);
        assert_eq!(code, 0, "PyTorch failed: its traceback is among what goals.py printed");
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        (self.callbacks.release)(self.handle);
    }
}
