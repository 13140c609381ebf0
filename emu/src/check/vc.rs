//! Vector clocks.

use std::{collections::BTreeMap, rc::Rc};

/// What one thread (or one barrier) knows to have happened.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Vc {
    /// Latest time known of each slot of this block.
    pub plain: Vec<u32>,
    /// The same, counting only what a `fence.proxy.async` has made visible to asynchronous units.
    pub proxy: Vec<u32>,
    /// Latest times known of slots of other blocks.
    pub foreign: BTreeMap<u32, Rc<Vec<u32>>>,
}

/// Joins a clock into another.
pub(crate) fn join(into: &mut Vec<u32>, other: &[u32]) {
    if into.len() < other.len() {
        into.resize(other.len(), 0);
    }
    into.iter_mut().zip(other).for_each(|(a, b)| *a = (*a).max(*b));
}

/// Raises one entry.
pub(crate) fn raise(clock: &mut Vec<u32>, slot: usize, time: u32) {
    if clock.len() <= slot {
        clock.resize(slot + 1, 0);
    }
    clock[slot] = clock[slot].max(time);
}

impl Vc {
    /// Latest time known of a slot of this block.
    #[inline]
    pub(crate) fn at(&self, slot: usize) -> u32 {
        self.plain.get(slot).copied().unwrap_or(0)
    }

    pub(crate) fn join(&mut self, other: &Vc) {
        join(&mut self.plain, &other.plain);
        join(&mut self.proxy, &other.proxy);
        for (block, times) in &other.foreign {
            self.join_foreign(*block, times);
        }
    }

    pub(crate) fn join_foreign(&mut self, block: u32, times: &Rc<Vec<u32>>) {
        match self.foreign.get_mut(&block) {
            None => {
                self.foreign.insert(block, times.clone());
            }
            Some(mine) if Rc::ptr_eq(mine, times) => {}
            Some(mine) => join(Rc::make_mut(mine), times),
        }
    }
}
