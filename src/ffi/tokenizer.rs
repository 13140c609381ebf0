//! Text to token ids and back.

use std::{ffi::c_char, slice};

use super::{
    check::{self, Buffer, Out},
    handle::{self, Handle},
    model::source,
    status::{Failure, call},
};
use crate::{config::ModelConfig, tokenizer};

/// `probeprune_tokenizer`.
pub type Tokenizer = Handle<tokenizer::Tokenizer>;

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_tokenizer_load(model: *const c_char, out: *mut *mut Tokenizer) -> i32 {
    // SAFETY: the header requires `model` to be null or NUL-terminated, and `out` to be null or writable.
    call(|| unsafe {
        let (source, out) = (source(model)?, Out::new(out, "out")?);
        let vocab_size = ModelConfig::load(&source)?.vocab_size;
        check::give(out, Handle::new(tokenizer::Tokenizer::load(&source, vocab_size)?));
        Ok(())
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_tokenizer_free(tokenizer: *mut Tokenizer) {
    // SAFETY: the header requires `tokenizer` to be null, or neither freed before nor in use.
    unsafe { check::take_back(tokenizer) }
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_tokenizer_encode(
    tokenizer: *const Tokenizer,
    text: *const c_char,
    bytes: usize,
    add_special_tokens: i32,
    out: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the header requires `tokenizer` to be null or not freed, and pointers that are not null to lead to
    // `bytes` bytes of text, room for `capacity` ids, and a writable `count`.
    call(|| unsafe {
        handle::with(tokenizer, "tokenizer", |tokenizer| {
            let out = Buffer::new(out, capacity, count, "out")?;
            let text = std::str::from_utf8(check::array(text.cast::<u8>(), bytes, "text")?)
                .map_err(|_| Failure::argument("text", "UTF-8", "other bytes", "Convert the text first."))?;
            out.write(&tokenizer.encode(text, add_special_tokens != 0)?)
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_tokenizer_decode(
    tokenizer: *const Tokenizer,
    tokens: *const u32,
    token_count: usize,
    skip_special_tokens: i32,
    out: *mut c_char,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the header requires `tokenizer` to be null or not freed, and pointers that are not null to lead to
    // `token_count` ids, room for `capacity` bytes, and a writable `count`. The text's bytes are readable as
    // `c_char`, which has their size.
    call(|| unsafe {
        handle::with(tokenizer, "tokenizer", |tokenizer| {
            let out = Buffer::new(out, capacity, count, "out")?;
            let tokens = check::array(tokens, token_count, "tokens")?;
            let text = tokenizer.decode(tokens, skip_special_tokens != 0)?;
            out.write(slice::from_raw_parts(text.as_ptr().cast::<c_char>(), text.len()))
        })
    })
}
