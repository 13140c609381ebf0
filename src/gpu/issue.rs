//! How launches reach the device: at once, or collected over a forward and replayed as a graph.

use std::{
    cell::RefCell,
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    sync::PoisonError,
};

use super::{Buffer, Driver, Geometry, Gpu, Launch, PerDtype, driver::Kernel};
use crate::error::{Error, Result};

thread_local! {
    /// Launches that this thread collects, and the backend they are for. Another thread's operations on the same
    /// backend are issued at once: each has buffers of its own, so their order does not matter.
    static COLLECTED: RefCell<Option<(u64, Vec<Launch>)>> = const { RefCell::new(None) };
}

/// Graphs of launch sequences that came more than once.
#[derive(Debug)]
pub(super) struct Graphs<D: Driver> {
    /// Hashes of sequences that came once, oldest first. Decode steps, which never repeat, pass through here.
    seen: VecDeque<u64>,
    /// Least recently used first.
    made: VecDeque<(Vec<Launch>, D::Graph)>,
}

impl<D: Driver> Default for Graphs<D> {
    fn default() -> Self {
        Self { seen: VecDeque::new(), made: VecDeque::new() }
    }
}

/// Sequences remembered. A forward has three, because its residual buffers rotate.
const SEEN: usize = 64;
/// Graphs kept: as many as sequences are remembered, so that none of these is captured twice.
const MADE: usize = 64;

impl<D: Driver> Gpu<D> {
    /// The kernel for the compute dtype.
    pub(super) fn of_dtype(&self, kernels: PerDtype) -> Kernel {
        kernels[self.dtype as usize]
    }

    /// Issues or collects a launch. Errors are kept for the next download.
    pub(super) fn launch<A: bytemuck::NoUninit>(&self, kernel: Kernel, geometry: Geometry, arguments: &A) {
        if geometry.grid.contains(&0) {
            return;
        }
        let launch = Launch::new(kernel, geometry, arguments);
        let rest = COLLECTED.with_borrow_mut(|collected| match collected {
            Some((id, launches)) if *id == self.id => {
                launches.push(launch);
                None
            }
            _ => Some(launch),
        });
        if let Some(launch) = rest {
            self.note(self.driver.launch(&launch));
        }
    }

    /// Collects the launches of `operations` and issues them together.
    pub(super) fn collect<R>(&self, operations: impl FnOnce() -> R) -> R {
        /// Ends collecting, also when `operations` panics.
        struct Collecting;
        impl Drop for Collecting {
            fn drop(&mut self) {
                COLLECTED.take();
            }
        }
        if COLLECTED.with_borrow(Option::is_some) {
            return operations();
        }
        COLLECTED.set(Some((self.id, Vec::new())));
        let collecting = Collecting;
        let result = operations();
        let launches = COLLECTED.with_borrow_mut(|collected| {
            collected.as_mut().map_or_else(Vec::new, |(_, launches)| std::mem::take(launches))
        });
        drop(collecting);
        self.note(self.issue(launches));
        result
    }

    /// Issues the launches collected so far, ahead of an operation that is not a launch.
    fn flush(&self) {
        let launches = COLLECTED.with_borrow_mut(|collected| match collected {
            Some((id, launches)) if *id == self.id => std::mem::take(launches),
            _ => Vec::new(),
        });
        for launch in &launches {
            self.note(self.driver.launch(launch));
        }
    }

    fn issue(&self, launches: Vec<Launch>) -> Result<()> {
        if launches.len() < 2 {
            return launches.iter().try_for_each(|launch| self.driver.launch(launch));
        }
        let mut graphs = self.graphs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = graphs.made.iter().position(|(made, _)| *made == launches) {
            let entry = graphs.made.remove(at).expect("its place was just found");
            let done = self.driver.replay(&entry.1);
            graphs.made.push_back(entry);
            return done;
        }
        let mut hasher = DefaultHasher::new();
        launches.hash(&mut hasher);
        let hash = hasher.finish();
        if graphs.seen.contains(&hash)
            && let Some(graph) = self.driver.graph(&launches)?
        {
            let done = self.driver.replay(&graph);
            if graphs.made.len() == MADE {
                graphs.made.pop_front();
            }
            graphs.made.push_back((launches, graph));
            return done;
        }
        if graphs.seen.len() == SEEN {
            graphs.seen.pop_front();
        }
        graphs.seen.push_back(hash);
        drop(graphs);
        launches.iter().try_for_each(|launch| self.driver.launch(launch))
    }

    /// Records an event behind the launches so far, which are issued one by one: a graph has no place for it.
    pub(super) fn record(&self, event: &D::Event) {
        self.flush();
        self.note(self.driver.record(event));
    }

    /// Keeps the first error for the next download.
    fn note(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// The outcome of all work issued since the last download, without waiting for it.
    ///
    /// # Errors
    /// The first launch or copy that could not be issued.
    pub fn issued(&self) -> Result<()> {
        self.take_error().map_or(Ok(()), Err)
    }

    fn take_error(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn upload(&self, buffer: &Buffer<D>, bytes: &[u8], entry_bytes: usize) {
        assert!(bytes.len() <= buffer.len * entry_bytes, "an upload fits its buffer");
        self.flush();
        if !bytes.is_empty() {
            self.note(self.driver.write(self.address(buffer), bytes));
        }
    }

    pub(super) fn clear(&self, buffer: &Buffer<D>, bytes: usize) {
        self.flush();
        if bytes > 0 {
            self.note(self.driver.zero(self.address(buffer), bytes));
        }
    }

    pub(super) fn download(&self, buffer: &Buffer<D>, len: usize, entry_bytes: usize) -> Result<Vec<u8>> {
        assert!(len <= buffer.len, "a download fits its buffer");
        self.flush();
        if let Some(error) = self.take_error() {
            return Err(error);
        }
        let mut bytes = vec![0; len * entry_bytes];
        if !bytes.is_empty() {
            self.driver.read(self.address(buffer), &mut bytes)?;
        }
        Ok(bytes)
    }
}
