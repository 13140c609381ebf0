//! Generation, step by step or all at once.

use super::{
    check::{self, Buffer, Out},
    model::entries,
    session::{Session, batch, with_session},
    status::{Failure, call},
    structs::GenerateOptions,
};
use crate::{
    error::Error,
    session::{self, Sampling},
};

/// 0 means never.
fn reprobing(every: u64) -> Option<usize> {
    (every > 0).then(|| usize::try_from(every).unwrap_or(usize::MAX))
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_prefill(
    session: *mut Session,
    tokens: *const u32,
    mask: *const u32,
    samples: usize,
    length: usize,
    reprobe_every: u64,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, `tokens` to have samples × length entries, and
    // `mask` as many unless it is null.
    call(|| unsafe {
        with_session(session, |state| {
            let batch = batch(tokens, mask, samples, length)?;
            state.session.prefill(batch, reprobing(reprobe_every))?;
            state.ran = true;
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_decode(
    session: *mut Session,
    tokens: *const u32,
    active: *const u32,
    samples: usize,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, `tokens` to have `samples` entries, and `active`
    // as many unless it is null.
    call(|| unsafe {
        with_session(session, |state| {
            let tokens = check::array(tokens, samples, "tokens")?;
            let active = check::optional_array(active, samples, "active")?;
            Ok(state.session.decode(tokens, active)?)
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_next_logits(
    session: *mut Session,
    out: *mut f32,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, `out` to be null or to have room for `capacity`
    // logits, and `count` to be null or writable.
    call(|| unsafe {
        with_session(session, |state| {
            Buffer::new(out, capacity, count, "out")?.write(&state.session.next_logits()?)
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_next_tokens(
    session: *mut Session,
    out: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, `out` to be null or to have room for `capacity`
    // ids, and `count` to be null or writable.
    call(|| unsafe {
        with_session(session, |state| {
            Buffer::new(out, capacity, count, "out")?.write(&state.session.next_tokens()?)
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_session_generate(
    session: *mut Session,
    prompts: *const *const u32,
    lengths: *const usize,
    samples: usize,
    options: *const GenerateOptions,
    out: *mut u32,
    counts: *mut usize,
) -> i32 {
    // SAFETY: the header requires `session` to be null or not freed, `options` to be null or readable for its
    // `struct_size`, `prompts` and `lengths` to have `samples` entries, each prompt its length, `out` to have room
    // for samples × max_new_tokens ids, and `counts` for `samples` counts. `on_token` may be called with its `user`.
    // Null and misaligned pointers are refused before anything runs, and a sample has at most `max_new_tokens`
    // tokens.
    call(|| unsafe {
        with_session(session, |state| {
            let options = check::versioned(options, "options")?;
            let prompts = check::array(prompts, samples, "prompts")?;
            let lengths = check::array(lengths, samples, "lengths")?;
            let prompts = prompts.iter().zip(lengths);
            let prompts = prompts
                .map(|(&prompt, &length)| Ok(check::array(prompt, length, "prompts")?.to_vec()))
                .collect::<Result<Vec<_>, Failure>>()?;
            let most = usize::try_from(options.max_new_tokens).unwrap_or(usize::MAX);
            entries(samples, most)?;
            Out::new(counts, "counts")?;
            if most > 0 {
                Out::new(out, "out")?;
            }
            let eos = usize::try_from(options.eos_token_count).unwrap_or(usize::MAX);
            let how = session::GenerateOptions {
                max_new_tokens: most,
                sampling: Sampling {
                    temperature: options.temperature,
                    top_k: options.top_k as usize,
                    top_p: options.top_p,
                    seed: options.seed,
                },
                reprobe_every: reprobing(options.reprobe_every),
                eos_token_ids: check::array(options.eos_tokens, eos, "eos_tokens")?.to_vec(),
            };
            let mut on_token = |sample: usize, token: u32| {
                let said = options.on_token.map(|on_token| on_token(options.user, sample as u64, token));
                if said.unwrap_or(0) == 0 { Ok(()) } else { Err(Error::Cancelled) }
            };
            let generated = state.session.generate(&prompts, &how, &mut on_token)?;
            state.ran = true;
            for (sample, tokens) in generated.tokens.iter().enumerate() {
                out.add(sample * most).copy_from_nonoverlapping(tokens.as_ptr(), tokens.len());
                counts.add(sample).write(tokens.len());
            }
            Ok(())
        })
    })
}
