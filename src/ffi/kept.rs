//! A session's kept heads and channels: reading, exporting and pinning them, and their scores.

use super::{
    check::{self, Buffer, Out},
    dlpack::{DLManagedTensorVersioned, DLTensor},
    kernels::host_indices,
    model::block,
    session::{Session, State, index, with_session},
    status::{Failure, Outcome, call},
};
use crate::prune::Block;

/// Kept units of a block; all units that the model has of a dense one.
fn kept(state: &State, layer: u64, number: i32) -> Outcome<Vec<u32>> {
    let block = block(number)?;
    let layer = index(layer, state.session.config().num_hidden_layers)?;
    let shape = state.session.layer_shape(layer);
    let all = match block {
        Block::Attention => shape.heads,
        Block::Mlp => shape.channels,
    };
    let kept = state.session.kept(layer, block)?;
    Ok(kept.unwrap_or_else(|| (0..all as u32).collect()))
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_kept(
    session: *mut Session,
    layer: u64,
    block: i32,
    out: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, `out` to be null or to have room for `capacity`
    // indices, and `count` to be null or writable.
    call(|| unsafe {
        with_session(session, |state| {
            let out = Buffer::new(out, capacity, count, "out")?;
            out.write(&kept(state, layer, block)?)
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_scores(
    session: *mut Session,
    layer: u64,
    block: i32,
    out: *mut f32,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, `out` to be null or to have room for `capacity`
    // scores, and `count` to be null or writable.
    call(|| unsafe {
        with_session(session, |state| {
            let out = Buffer::new(out, capacity, count, "out")?;
            let layer = index(layer, state.session.config().num_hidden_layers)?;
            let scores = state.session.scores(layer, self::block(block)?)?;
            out.write(&scores.unwrap_or_default())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_export_kept(
    session: *mut Session,
    layer: u64,
    block: i32,
    out: *mut *mut DLManagedTensorVersioned,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, and `out` to be null or writable.
    call(|| unsafe {
        with_session(session, |state| {
            let out = Out::new(out, "out")?;
            state.session.export_indices(&kept(state, layer, block)?)?.give(out);
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_pin(
    session: *mut Session,
    kept: *const *const DLTensor,
    count: usize,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, and `kept` to have `count` entries, each null or
    // a valid DLTensor.
    call(|| unsafe {
        with_session(session, |state| {
            let kept = check::array(kept, count, "kept")?;
            let expected = 2 * state.session.config().num_hidden_layers;
            if kept.len() != expected {
                let help = "Heads and channels of every layer; NULL for a dense block.";
                return Err(Failure::argument("kept", format!("{expected} tensors"), kept.len(), help));
            }
            let read = |tensor: &*const DLTensor| match tensor.is_null() {
                true => Ok(None),
                false => host_indices(*tensor, "kept").map(Some),
            };
            let sets = kept.iter().map(read).collect::<Outcome<Vec<_>>>()?;
            let mut sets = sets.into_iter();
            let pairs: Vec<_> = (0..expected / 2).map(|_| [(); 2].map(|()| sets.next().flatten())).collect();
            Ok(state.session.pin(&pairs)?)
        })
    })
}
