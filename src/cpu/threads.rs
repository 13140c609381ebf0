//! A pool of threads that are gone when it is.

use std::{cell::Cell, thread::JoinHandle};

thread_local! {
    /// Whether this thread belongs to a pool.
    static IN_POOL: Cell<bool> = const { Cell::new(false) };
}

/// Waits for threads to end, so that a program may unload this library once it has freed its objects.
pub(super) struct Threads(Vec<JoinHandle<()>>);

impl Drop for Threads {
    fn drop(&mut self) {
        // One of the threads themselves would wait for itself.
        if !IN_POOL.get() {
            self.0.drain(..).for_each(|thread| drop(thread.join()));
        }
    }
}

/// Bytes of addresses that a thread takes at its start: its stack of 2 MiB, and what the system keeps for it, without which it
/// ends the process.
pub(super) const ADDRESSES: u64 = 4 << 20;

/// A pool and its threads, which have begun and end once the pool is gone; 0 starts one per core. The threads come first, so
/// that whoever takes both apart drops the pool before it waits for them.
pub(super) fn pool(threads: usize) -> Result<(Threads, rayon::ThreadPool), rayon::ThreadPoolBuildError> {
    let mut started = Threads(Vec::new());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .spawn_handler(|thread| {
            let builder = std::thread::Builder::new().name(format!("probeprune-{}", thread.index()));
            started.0.push(builder.spawn(|| {
                IN_POOL.set(true);
                thread.run();
            })?);
            Ok(())
        })
        .build()?;
    // None may find at its start that others have taken the memory that it needs.
    pool.broadcast(|_| ());
    Ok((started, pool))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, Ordering},
            mpsc::channel,
        },
        time::Duration,
    };

    use super::*;

    #[test]
    fn threads_are_waited_for() {
        static DONE: AtomicBool = AtomicBool::new(false);
        let (threads, pool) = pool(2).unwrap();
        let (began, has_begun) = channel();
        pool.spawn(move || {
            began.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            DONE.store(true, Ordering::Release);
        });
        has_begun.recv().unwrap();
        drop(pool);
        drop(threads);
        assert!(DONE.load(Ordering::Acquire));
    }
}
