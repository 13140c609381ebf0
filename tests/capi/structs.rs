//! Pointers and structs: null, misaligned, short, long, reserved.

use std::{
    ffi::CStr,
    ptr::{null, null_mut},
};

use crate::{bindings::*, support::*};

#[test]
fn versions_and_names() {
    // SAFETY: these take nothing.
    unsafe {
        assert_eq!(probeprune_abi_version(), PROBEPRUNE_ABI_VERSION);
        let info = CStr::from_ptr(probeprune_build_info()).to_str().unwrap();
        assert!(info.contains(env!("CARGO_PKG_VERSION")) && info.contains("CUDA"), "{info}");
        let name = |status| CStr::from_ptr(probeprune_status_name(status)).to_str().unwrap();
        assert_eq!(name(PROBEPRUNE_OK as i32), "PROBEPRUNE_OK");
        assert_eq!(name(PROBEPRUNE_TOO_SMALL as i32), "PROBEPRUNE_TOO_SMALL");
        assert_eq!(name(PROBEPRUNE_PANIC as i32), "PROBEPRUNE_PANIC");
        assert_eq!([name(-1), name(1000)], ["unknown status"; 2]);
        assert!([0, 1].contains(&probeprune_has_cuda()));
    }
}

#[test]
fn null_is_refused_where_it_is_not_documented() {
    let (model, invalid) = (tiny_llama(), PROBEPRUNE_INVALID_ARGUMENT);
    let session = session(&model, &pruning(0.4), limits(1, 8, 0));
    let (path, device) = (c("bundled:tiny-llama"), device());
    let (mut made, mut count, mut loss) = (null_mut(), 0, 0.0);
    let (limits, tokens) = (limits(1, 8, 0), tokens(8, 0));
    // SAFETY: null is refused before it is used.
    unsafe {
        refused(probeprune_model_load(null(), null(), &mut made), invalid, &["model", "NULL"]);
        refused(probeprune_model_load(path.as_ptr(), null(), null_mut()), invalid, &["out", "NULL"]);
        refused(probeprune_model_inspect(path.as_ptr(), null_mut()), invalid, &["info", "NULL"]);
        refused(probeprune_settings_init(null_mut(), 200), invalid, &["struct", "NULL"]);
        refused(probeprune_session_create(null(), null(), &limits, null(), null_mut()), invalid, &["model"]);
        refused(probeprune_session_create(model.0, null(), null(), null(), null_mut()), invalid, &["limits"]);
        refused(probeprune_session_create(model.0, null(), &limits, null(), null_mut()), invalid, &["out"]);
        refused(probeprune_session_cancel(null()), invalid, &["session"]);
        refused(probeprune_session_synchronize(null_mut()), invalid, &["session"]);
        let evaluate = |tokens, loss| probeprune_session_evaluate(session.0, tokens, null(), 1, 8, 0, loss);
        refused(evaluate(null(), &mut loss), invalid, &["tokens", "NULL"]);
        refused(evaluate(tokens.as_ptr(), null_mut()), invalid, &["loss", "NULL"]);
        refused(probeprune_session_kept(session.0, 3, 0, null_mut(), 0, null_mut()), invalid, &["count"]);
        refused(
            probeprune_session_kept(session.0, 99, 0, null_mut(), 0, &mut count),
            invalid,
            &["layer", "99"],
        );
        refused(
            probeprune_session_kept(session.0, 3, 2, null_mut(), 0, &mut count),
            invalid,
            &["block", "2"],
        );
        refused(
            probeprune_session_logits(session.0, 1, null_mut(), 0, &mut count),
            invalid,
            &["batch that has run"],
        );
        refused(
            probeprune_session_logits_at(session.0, 1, &0, 1, null_mut(), 0, &mut count),
            invalid,
            &["batch that has run"],
        );
        refused(probeprune_tokenizer_load(null(), null_mut()), invalid, &["model"]);
        refused(probeprune_tensor_import(null(), 0, null_mut()), invalid, &["managed"]);
        refused(probeprune_synchronize(null(), null_mut()), invalid, &["device"]);
        refused(probeprune_norm(device.0, null(), null_mut(), 0, null_mut()), invalid, &["args"]);
        refused(probeprune_norm(null(), null(), null_mut(), 0, null_mut()), invalid, &["device"]);
        let norm = defaults(probeprune_norm_args_init);
        refused(probeprune_norm(device.0, &norm, null_mut(), 0, null_mut()), invalid, &["x", "NULL"]);
        refused(probeprune_norm_workspace_size(device.0, &norm, null_mut()), invalid, &["size", "NULL"]);
        // Misaligned, so never read.
        refused(evaluate(tokens.as_ptr().byte_add(1), &mut loss), invalid, &["tokens", "a multiple of 4"]);
        // Freeing nothing is legal.
        probeprune_model_free(null_mut());
        probeprune_session_free(null_mut());
        probeprune_calibration_free(null_mut());
        probeprune_tokenizer_free(null_mut());
        probeprune_device_free(null_mut());
        probeprune_tensor_free(null_mut());
    }
    assert!(made.is_null() && count == 0 && loss == 0.0, "nothing is written without success");
}

#[test]
fn names_and_texts_are_checked() {
    let mut made = null_mut();
    let mut load = |bytes: &CStr| {
        // SAFETY: a string and a place for a handle.
        unsafe { probeprune_model_load(bytes.as_ptr(), null(), &mut made) }
    };
    refused(load(c"\xff"), PROBEPRUNE_INVALID_ARGUMENT, &["model", "UTF-8"]);
    refused(load(c"no/such-model"), PROBEPRUNE_INVALID_ARGUMENT, &["tried", "nothing is downloaded"]);
}

/// A struct of another version: its bytes, with room for more.
#[repr(C, align(8))]
struct Grown<T> {
    value: T,
    tail: [u64; 2],
}

#[test]
fn structs_of_other_versions() {
    let model = tiny_llama();
    let size = size_of::<probeprune_settings>() as u32;
    let mut grown = Grown { value: pruning(0.4), tail: [0; 2] };
    let limits = limits(1, 8, 0);
    let create = |settings: &Grown<probeprune_settings>| {
        let mut made = null_mut();
        // SAFETY: a struct of as many bytes as it says.
        let status =
            unsafe { probeprune_session_create(model.0, &settings.value, &limits, null(), &mut made) };
        // SAFETY: null, or just made.
        unsafe { probeprune_session_free(made) };
        assert_eq!(status != 0, made.is_null());
        status
    };
    grown.value.struct_size = size + 16;
    assert_eq!(create(&grown), 0, "{}: an unknown tail of zeros", said());
    grown.tail[1] = 1;
    let invalid = PROBEPRUNE_INVALID_STRUCT;
    refused(create(&grown), invalid, &["probeprune_settings after byte 192", "newer libprobeprune"]);
    for short in [0, 4, 128] {
        grown.value.struct_size = short;
        refused(create(&grown), invalid, &["struct_size of probeprune_settings", "at least 136", "_init"]);
    }
    // A program from before there were corrections; what it has after its struct is not read.
    grown.value.adapt_prior_tokens = 0;
    grown.value.struct_size = 136;
    assert_eq!(create(&grown), 0, "{}", said());
    grown.value.struct_size = size;
    refused(create(&grown), PROBEPRUNE_INVALID_ARGUMENT, &["adapt_prior_tokens", "at least 1"]);
    grown.value.adapt_prior_tokens = 1;
    let mut made = null_mut();
    let reserved = probeprune_limits { reserved: 7, ..limits };
    // SAFETY: living structs; refused before anything is made.
    let status = unsafe { probeprune_session_create(model.0, &grown.value, &reserved, null(), &mut made) };
    refused(status, invalid, &["reserved fields of probeprune_limits"]);
    grown.value.method = 99;
    refused(create(&grown), PROBEPRUNE_INVALID_ARGUMENT, &["method", "99"]);
    grown.value.method = PROBEPRUNE_METHOD_PP as i32;
    grown.value.prune_ratio = f64::NAN;
    refused(create(&grown), PROBEPRUNE_INVALID_ARGUMENT, &["prune_ratio: expected a number from 0"]);

    // _init writes what it was told there is room for, and no more.
    let mut grown = Grown { value: limits, tail: [u64::MAX; 2] };
    let own = size_of::<probeprune_limits>() as u32;
    // SAFETY: there is room for as many bytes as is said.
    unsafe {
        refused(probeprune_limits_init(&mut grown.value, own - 1), invalid, &["probeprune_limits"]);
        ok(probeprune_limits_init(&mut grown.value, own + 8));
    }
    assert_eq!((grown.value.struct_size, grown.value.samples, grown.tail), (own + 8, 1, [0, u64::MAX]));
}
