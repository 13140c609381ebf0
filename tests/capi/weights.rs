//! Weights and shapes of layers, dense and folded: the library's own, to the byte.

use std::{
    ffi::{CStr, CString},
    ptr::{null, null_mut},
    slice,
    sync::Arc,
};

use probeprune::{
    checkpoint::{Dtype, Tensors},
    cpu::Cpu,
    model::fold::Fold,
};

use crate::{
    bindings::*,
    fold::{calibrated, calibrated_in_rust, folding, folding_in_rust, try_fold},
    models::in_rust,
    support::*,
};

type Tensor = Owned<DLManagedTensorVersioned>;

pub(crate) fn tensor(model: &Model, name: &CStr) -> Tensor {
    // SAFETY: a living handle and string.
    Owned::new(probeprune_tensor_free, |out| unsafe { probeprune_model_tensor(model.0, name.as_ptr(), out) })
}

pub(crate) fn names(model: &Model) -> Vec<CString> {
    let mut count = 0;
    // SAFETY: a living handle.
    ok(unsafe { probeprune_model_tensor_count(model.0, &mut count) });
    let name = |index| {
        let mut out = null();
        // SAFETY: a living handle; the string lives as long.
        unsafe {
            ok(probeprune_model_tensor_name(model.0, index, &mut out));
            CStr::from_ptr(out).to_owned()
        }
    };
    (0..count).map(name).collect()
}

/// Shape, dtype code and bits, and bytes of a tensor in host memory.
pub(crate) fn read(tensor: &Tensor) -> (Vec<usize>, (u8, u8), Vec<u8>) {
    // SAFETY: a living tensor of the library, in host memory, compact.
    unsafe {
        let managed = &*tensor.0;
        let DLTensor { device, dtype, shape, ndim, data, byte_offset, .. } = managed.dl_tensor;
        assert_eq!((device.device_type, byte_offset, dtype.lanes), (DLDeviceType_kDLCPU, 0, 1));
        assert_eq!(managed.flags, 1, "read-only");
        let shape: Vec<_> =
            slice::from_raw_parts(shape, ndim as usize).iter().map(|&size| size as usize).collect();
        let bytes = shape.iter().product::<usize>() * usize::from(dtype.bits) / 8;
        (shape, (dtype.code, dtype.bits), slice::from_raw_parts(data.cast::<u8>(), bytes).to_vec())
    }
}

fn are_the_librarys(model: &Model, rust: &probeprune::model::Model<Cpu>) {
    let names = names(model);
    let expected = rust.tensor_names();
    assert_eq!(names.iter().map(|name| name.to_str().unwrap()).collect::<Vec<_>>(), expected);
    for (name, known) in names.iter().zip(&expected) {
        let of_rust = rust.require(known).unwrap();
        let dtype = match of_rust.dtype() {
            Dtype::F32 => (2, 32),
            Dtype::F16 => (2, 16),
            Dtype::BF16 => (4, 16),
        };
        let of_c = read(&tensor(model, name));
        assert_eq!(of_c, (of_rust.shape().to_vec(), dtype, of_rust.bytes().to_vec()), "{known}");
    }
    for (layer, known) in rust.weights.layers.iter().enumerate() {
        let mut shape = defaults(probeprune_layer_shape_init);
        let (mut kv_head_of, mut count) = ([0; 64], 0);
        // SAFETY: a living handle, and buffers as large as is said.
        unsafe {
            ok(probeprune_model_layer_shape(model.0, layer as u64, &mut shape));
            ok(probeprune_model_kv_head_of(model.0, layer as u64, kv_head_of.as_mut_ptr(), 64, &mut count));
        }
        let of_rust = &known.shape;
        let sizes = [of_rust.heads, of_rust.kv_heads, of_rust.channels].map(|size| size as u64);
        assert_eq!([shape.heads, shape.kv_heads, shape.channels], sizes);
        assert_eq!(kv_head_of[..count], of_rust.kv_head_of);
    }
}

#[test]
fn tensors_and_shapes_are_the_librarys() {
    let (model, rust) = (tiny_llama(), in_rust());
    are_the_librarys(&model, &rust);
    let (status, folded) = try_fold(&model, &folding(), &calibrated(&model));
    let folded = Owned::new(probeprune_model_free, |out| {
        // SAFETY: a place for a handle.
        unsafe { *out = folded };
        status
    });
    let fold = Fold::new(&rust, &folding_in_rust(), &calibrated_in_rust(&rust), |_| ()).unwrap();
    assert_ne!(fold.model.weights.layers[5].shape, rust.weights.layers[5].shape);
    are_the_librarys(&folded, &Arc::clone(&fold.model));

    // The model's own memory, which outlives it; a fold shares what it did not change.
    let name = c"model.layers.0.mlp.up_proj.weight";
    let tensors = [&model, &model, &folded].map(|model| tensor(model, name));
    // SAFETY: living tensors.
    let addresses = tensors.each_ref().map(|tensor| unsafe { (*tensor.0).dl_tensor.data.addr() });
    assert_eq!(addresses, [addresses[0]; 3]);
    drop((model, folded));
    let expected = rust.require(name.to_str().unwrap()).unwrap();
    assert_eq!(read(&tensors[2]).2, expected.bytes());
    // Nobody may write there.
    let mut imported = null();
    // SAFETY: a living tensor.
    let status = unsafe { probeprune_tensor_import(tensors[0].0, 1, &mut imported) };
    refused(status, PROBEPRUNE_INVALID_TENSOR, &["flags", "read-only"]);
}

#[test]
fn tensors_and_layers_that_are_not_there_are_refused() {
    let (model, invalid) = (tiny_llama(), PROBEPRUNE_INVALID_ARGUMENT);
    let (mut out, mut name, mut count) = (null_mut(), null(), 0);
    let mut shape = defaults(probeprune_layer_shape_init);
    // SAFETY: a living handle; what is wrong is refused before it is used.
    unsafe {
        let none = c"model.layers.99.mlp.up_proj.weight".as_ptr();
        let status = probeprune_model_tensor(model.0, none, &mut out);
        refused(status, invalid, &["name", "model.layers.99.mlp.up_proj.weight", "tensor_name lists"]);
        refused(probeprune_model_tensor(model.0, null(), &mut out), invalid, &["name", "NULL"]);
        refused(probeprune_model_tensor(null(), none, &mut out), invalid, &["model", "NULL"]);
        refused(probeprune_model_tensor_name(model.0, 1 << 40, &mut name), invalid, &["index", "below"]);
        refused(probeprune_model_tensor_count(model.0, null_mut()), invalid, &["count", "NULL"]);
        refused(probeprune_model_layer_shape(model.0, 10, &mut shape), invalid, &["layer", "below 10"]);
        let kv_head_of = |layer, out, capacity, count: &mut usize| {
            probeprune_model_kv_head_of(model.0, layer, out, capacity, count)
        };
        refused(kv_head_of(10, null_mut(), 0, &mut count), invalid, &["layer", "10"]);
        let mut small = [0];
        refused(kv_head_of(0, small.as_mut_ptr(), 1, &mut count), PROBEPRUNE_TOO_SMALL, &["out", "room"]);
        assert_eq!(count, 0);
        ok(kv_head_of(0, null_mut(), 0, &mut count));
        shape.struct_size = 8;
        let status = probeprune_model_layer_shape(model.0, 0, &mut shape);
        refused(status, PROBEPRUNE_INVALID_STRUCT, &["probeprune_layer_shape", "at least 32"]);
    }
    assert!(count > 1 && out.is_null() && name.is_null());
}
