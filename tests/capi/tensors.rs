//! Tensors that are not what an operation wants, and tensors that callers get.

use std::{ptr::null_mut, slice};

use crate::{bindings::*, support::*};

/// y = x·Wᵀ of (4, 6) and (5, 6), with whatever `change` does to the call.
fn product(change: impl FnOnce(&mut [DLTensor; 3], &mut probeprune_gemm_sparse_rows_args)) -> i32 {
    let device = device();
    let (x, w) = (floats(vec![1.0; 24], &[4, 6]), floats(vec![0.5; 30], &[5, 6]));
    let out = floats(vec![7.0; 20], &[4, 5]);
    let mut args = defaults(probeprune_gemm_sparse_rows_args_init);
    let mut tensors = [x.tensor, w.tensor, out.tensor];
    change(&mut tensors, &mut args);
    [args.x, args.weight] = [&tensors[0], &tensors[1]];
    args.out = &tensors[2];
    // SAFETY: every tensor's memory is alive, and as large as the shapes that are accepted say.
    let status = unsafe { probeprune_gemm_sparse_rows(device.0, &args, null_mut(), 0, null_mut()) };
    let untouched = out.data.iter().all(|&x| x == 7.0);
    assert_eq!(untouched, status != 0, "outputs are written on success only");
    if status == 0 {
        assert!(out.data.iter().all(|&x| x == 3.0), "{:?}", out.data);
    }
    status
}

#[test]
fn what_is_right_runs() {
    ok(product(|_, _| ()));
    let mut strides = [6i64, 1];
    ok(product(|[x, ..], _| x.strides = strides.as_mut_ptr()));
    // Pinned host memory is host memory.
    ok(product(|[x, ..], _| x.device.device_type = DLDeviceType_kDLCUDAHost));
    let mut shape = [2i64, 2, 6];
    ok(product(|[x, ..], _| (x.ndim, x.shape) = (3, shape.as_mut_ptr())));
}

#[test]
fn wrong_tensors_are_refused() {
    let wrong = |change: &dyn Fn(&mut [DLTensor; 3]), parts: &[&str]| {
        let status = product(|tensors, _| change(tensors));
        refused(status, PROBEPRUNE_INVALID_TENSOR, parts);
    };
    wrong(&|[x, ..]| x.dtype.bits = 64, &["x: dtype", "expected float32, got float64", "Convert"]);
    wrong(&|[x, ..]| x.dtype.lanes = 4, &["x: dtype", "float32x4"]);
    wrong(&|[_, w, _]| w.dtype.code = 0, &["weight: dtype", "float32 or float16 or bfloat16, got int32"]);
    wrong(
        &|[x, ..]| x.device.device_type = DLDeviceType_kDLCUDA,
        &["x: device", "expected the CPU, got cuda:0", "Copy"],
    );
    wrong(&|[.., out]| out.device.device_type = 10, &["out: device", "DLPack device type 10"]);
    let strided = |strides: &'static mut [i64; 2]| {
        let strides = strides.as_mut_ptr();
        move |tensor: &mut DLTensor| tensor.strides = strides
    };
    let by_columns = strided(Box::leak(Box::new([1, 4])));
    wrong(&|[x, ..]| by_columns(x), &["x: strides", "compact row-major, got [1, 4]", "contiguous"]);
    let gaps = strided(Box::leak(Box::new([8, 1])));
    wrong(&|[.., out]| gaps(out), &["out: strides"]);
    wrong(&|[x, ..]| x.ndim = 1, &["x: number of dimensions", "at least 2, got 1"]);
    wrong(&|[x, ..]| x.ndim = -1, &["x: number of dimensions", "-1"]);
    wrong(&|[x, ..]| x.ndim = 900, &["x: number of dimensions", "900"]);
    wrong(&|[_, w, _]| w.ndim = 1, &["weight: number of dimensions", "2, got 1"]);
    let shaped = |shape: [i64; 2]| {
        let shape = Box::leak(Box::new(shape)).as_mut_ptr();
        move |tensor: &mut DLTensor| tensor.shape = shape
    };
    let (negative, empty, huge, narrow) =
        (shaped([4, -6]), shaped([0, 6]), shaped([i64::MAX, 6]), shaped([4, 4]));
    wrong(&|[x, ..]| negative(x), &["x: shape", "[4, -6]"]);
    wrong(&|[x, ..]| empty(x), &["x: shape", "at least one entry"]);
    wrong(&|[x, ..]| huge(x), &["x: shape", "fit memory"]);
    wrong(&|[.., out]| narrow(out), &["out: shape", "(T, kept), 20 entries", "[4, 4]"]);
    wrong(&|[_, w, _]| narrow(w), &["weight: shape", "(N, 6) as x has it"]);
    wrong(&|[x, ..]| x.data = null_mut(), &["x: data", "NULL"]);
    wrong(&|[x, ..]| x.byte_offset = 2, &["x: data + byte_offset", "a multiple of 4"]);
    wrong(&|[x, ..]| x.byte_offset = u64::MAX - 3, &["x: byte_offset"]);
    wrong(&|[x, _, out]| out.data = x.data, &["out: memory", "no overlap with x"]);
    let status = product(|[x, ..], _| x.shape = null_mut());
    refused(status, PROBEPRUNE_INVALID_ARGUMENT, &["x", "NULL"]);
}

#[test]
fn wrong_indices_are_refused_on_the_cpu() {
    let invalid = PROBEPRUNE_INVALID_TENSOR;
    let with = |indices: Vec<i32>| {
        let len = indices.len();
        let kept = ints(indices, &[len]);
        product(|_, args| args.kept = &raw const kept.tensor)
    };
    refused(with(vec![0, 5]), invalid, &["kept: values", "indices below 5, got 5"]);
    refused(with(vec![0, -1]), invalid, &["kept: values"]);
    refused(with(vec![3, 1]), invalid, &["kept: values", "ascending"]);
    refused(with(vec![0, 1, 2, 3, 4, 5]), invalid, &["kept: values"]);
    let status = product(|_, args| args.block_width = 3);
    refused(status, PROBEPRUNE_INVALID_ARGUMENT, &["block_width", "a divisor of 5"]);
    let status = product(|_, args| args.activation = 17);
    refused(status, PROBEPRUNE_INVALID_ARGUMENT, &["activation", "17"]);
}

#[test]
fn managed_tensors_of_others_are_looked_at() {
    let x = floats(vec![1.0; 6], &[2, 3]);
    let mut managed = DLManagedTensorVersioned {
        version: DLPackVersion { major: 1, minor: 3 },
        manager_ctx: null_mut(),
        deleter: None,
        flags: 1,
        dl_tensor: x.tensor,
    };
    let import = |managed: &DLManagedTensorVersioned, writable| {
        let mut out = std::ptr::null();
        // SAFETY: a living tensor and a place for a pointer.
        let status = unsafe { probeprune_tensor_import(managed, writable, &mut out) };
        assert_eq!(out.is_null(), status != 0);
        status
    };
    ok(import(&managed, 0));
    refused(import(&managed, 1), PROBEPRUNE_INVALID_TENSOR, &["flags", "read-only"]);
    managed.version.major = 2;
    refused(import(&managed, 0), PROBEPRUNE_INVALID_TENSOR, &["DLPack version: expected 1.x, got 2.3"]);
}

#[test]
fn exported_tensors_outlive_everything() {
    let model = tiny_llama();
    let session = session(&model, &pruning(0.4), limits(2, 8, 0));
    let tokens = tokens(16, 3);
    let export = |make: &dyn Fn(*mut *mut DLManagedTensorVersioned) -> i32| {
        let mut tensor = null_mut();
        ok(make(&mut tensor));
        Owned::new(probeprune_tensor_free, |out| {
            // SAFETY: a place for a pointer.
            unsafe { *out = tensor };
            0
        })
    };
    // SAFETY: living handles, buffers as large as is said, tensors of the library.
    unsafe {
        ok(probeprune_session_forward(session.0, tokens.as_ptr(), std::ptr::null(), 2, 8, 0));
        let logits = export(&|out| probeprune_session_export_logits(session.0, 2, out));
        let kept = export(&|out| probeprune_session_export_kept(session.0, 5, 1, out));
        let (mut count, mut read) = (0, vec![0.0f32; 4 << 20]);
        ok(probeprune_session_logits(session.0, 2, null_mut(), 0, &mut count));
        refused(
            probeprune_session_logits(session.0, 2, read.as_mut_ptr(), count - 1, &mut 0),
            PROBEPRUNE_TOO_SMALL,
            &["out", &format!("room for {count}")],
        );
        ok(probeprune_session_logits(session.0, 2, read.as_mut_ptr(), read.len(), &mut count));
        drop(session);
        drop(model);
        let tensor = &(*logits.0).dl_tensor;
        let shape = slice::from_raw_parts(tensor.shape, 3);
        assert_eq!(shape[..2], [2, 8]);
        assert_eq!(shape.iter().product::<i64>() as usize, count);
        assert_eq!(slice::from_raw_parts(tensor.data.cast::<f32>(), count), &read[..count]);
        assert_eq!(slice::from_raw_parts(tensor.strides, 3), [8 * shape[2], shape[2], 1]);
        let tensor = &(*kept.0).dl_tensor;
        let indices = slice::from_raw_parts(tensor.data.cast::<i32>(), *tensor.shape as usize);
        assert!(indices.is_sorted_by(|a, b| a < b) && tensor.dtype.code == 0);
        assert_eq!((*kept.0).version.major, 1);
    }
}
