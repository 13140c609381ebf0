//! Rotary positions with the cache write, and attention: prefill and decode.

use super::{Activations, Driver, Gpu, Indices};
use crate::backend::{AttentionShape, Placement};

impl<D: Driver> Gpu<D> {
    pub(super) fn place_qkv_kernel(
        &self,
        _q: &Activations<D>,
        _k: &Activations<D>,
        _v: &Activations<D>,
        _placement: Placement<'_, Self>,
    ) {
        todo!()
    }

    pub(super) fn attention_kernel(
        &self,
        _q: &Activations<D>,
        _k: &Activations<D>,
        _v: &Activations<D>,
        _shape: AttentionShape,
        _kv_slots: &Indices<D>,
        _mask: Option<&Indices<D>>,
        _slots: Option<&Indices<D>>,
        _out: &Activations<D>,
    ) {
        todo!()
    }
}
