//! A model's weights and the shape of its layers, for other engines.

use std::ffi::c_char;

use super::{
    check::{self, Buffer, Out, OutStruct},
    dlpack::{self, DLDataType, DLDevice, DLManagedTensorVersioned, Exported},
    model::{Model, with_model},
    session::index,
    status::{Failure, call},
    structs::Shape,
};
use crate::checkpoint::{Dtype, Tensor};

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_layer_shape(
    model: *const Model,
    layer: u64,
    out: *mut Shape,
) -> i32 {
    // SAFETY: the header requires `model` to be null or not freed, and `out` to be null or writable for its
    // `struct_size`.
    call(|| unsafe {
        with_model(model, |model| {
            let out = OutStruct::new(out, "shape")?;
            let shape = model.model.layer_shape(index(layer, model.model.config().num_hidden_layers)?);
            out.write(Shape {
                struct_size: 0,
                reserved: 0,
                heads: shape.heads as u64,
                kv_heads: shape.kv_heads as u64,
                channels: shape.channels as u64,
            });
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_kv_head_of(
    model: *const Model,
    layer: u64,
    out: *mut u32,
    capacity: usize,
    count: *mut usize,
) -> i32 {
    // SAFETY: the header requires `model` to be null or not freed, `out` to be null or to have room for `capacity`
    // numbers, and `count` to be null or writable.
    call(|| unsafe {
        with_model(model, |model| {
            let out = Buffer::new(out, capacity, count, "out")?;
            let shape = model.model.layer_shape(index(layer, model.model.config().num_hidden_layers)?);
            out.write(&shape.kv_head_of)
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_tensor_count(model: *const Model, count: *mut usize) -> i32 {
    // SAFETY: the header requires `model` to be null or not freed, and `count` to be null or writable.
    call(|| unsafe {
        with_model(model, |model| {
            Out::new(count, "count")?.write(model.names.len());
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_tensor_name(
    model: *const Model,
    index: usize,
    out: *mut *const c_char,
) -> i32 {
    // SAFETY: the header requires `model` to be null or not freed, and `out` to be null or writable.
    call(|| unsafe {
        with_model(model, |model| {
            let out = Out::new(out, "out")?;
            let name = model.names.get(index).ok_or_else(|| {
                let expected = format!("a number below {}", model.names.len());
                Failure::argument("index", expected, index, "Tensors are counted from 0.")
            })?;
            out.write(name.as_ptr());
            Ok(())
        })
    })
}

/// See include/probeprune.h.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn probeprune_model_tensor(
    model: *const Model,
    name: *const c_char,
    out: *mut *mut DLManagedTensorVersioned,
) -> i32 {
    // SAFETY: the header requires `model` to be null or not freed, `name` to be null or NUL-terminated, and `out` to be null
    // or writable.
    call(|| unsafe {
        with_model(model, |model| {
            let (name, out) = (check::text(name, "name")?, Out::new(out, "out")?);
            let tensor = model.model.tensor(name)?.ok_or_else(|| {
                let help = "probeprune_model_tensor_name lists them.";
                Failure::argument("name", "that of a tensor of this model", format!("{name:?}"), help)
            })?;
            exported(tensor).give(out);
            Ok(())
        })
    })
}

/// A tensor in host memory, which it keeps alive. Mapped files and models that share it must not be written to.
fn exported(tensor: Tensor) -> Exported {
    Exported {
        data: tensor.bytes().as_ptr().cast_mut().cast(),
        device: DLDevice { device_type: dlpack::CPU, device_id: 0 },
        dtype: match tensor.dtype() {
            Dtype::F32 => DLDataType::FLOAT32,
            Dtype::F16 => DLDataType::FLOAT16,
            Dtype::BF16 => DLDataType::BFLOAT16,
        },
        shape: tensor.shape().iter().map(|&size| size as i64).collect(),
        read_only: true,
        memory: Box::new(tensor),
    }
}
