//! [cust](https://docs.rs/cust)'s streams and device buffers for probeprune: work runs on cust's stream and in cust's
//! memory, without copies.
//!
//! cust and probeprune must share a context. They do if cust's comes from `Context::new`, which takes the device's
//! primary one. See `examples/norm.rs`.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

use cust::{
    memory::{DeviceCopy, DeviceSlice},
    stream::Stream,
};
use probeprune::{
    Result,
    gpu::{Activations, Cuda, Gpu, Indices, Statistics},
};

/// Device memory of cust, for reading.
#[derive(Debug)]
pub struct View<'a, T> {
    inner: T,
    memory: PhantomData<&'a ()>,
}

impl<T> Deref for View<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

/// Device memory of cust, for reading and writing.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    inner: T,
    memory: PhantomData<&'a mut ()>,
}

impl<T> Deref for ViewMut<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for ViewMut<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// A probeprune device that works on cust's stream: `Gpu::new(on_stream(0, &stream)?, GpuDtype::Bf16)`.
///
/// # Errors
/// As [`Cuda::new`].
///
/// # Safety
/// The stream must be on device `ordinal`, in its primary context, and outlive the result and everything made from it.
pub unsafe fn on_stream(ordinal: usize, stream: &Stream) -> Result<Cuda> {
    // SAFETY: the caller guarantees the stream's device, context and lifetime, as documented above.
    unsafe { Cuda::on_stream(ordinal, stream.as_inner().cast()) }
}

fn address<T: DeviceCopy>(memory: &DeviceSlice<T>) -> u64 {
    memory.as_device_ptr().as_raw()
}

macro_rules! views {
    ($($name:ident, $name_mut:ident: $entry:ty => $to:ident by $borrow:ident;)+) => {
        impl Views for Gpu<Cuda> {
            $(
                unsafe fn $name<'a>(&self, memory: &'a DeviceSlice<$entry>) -> Result<View<'a, $to<Cuda>>> {
                    // SAFETY: the slice is device memory of `len` entries; the caller keeps it alive and unused until the
                    // stream is synchronised, as documented at the trait.
                    let inner = unsafe { self.$borrow(address(memory), memory.len()) }?;
                    Ok(View { inner, memory: PhantomData })
                }

                unsafe fn $name_mut<'a>(
                    &self,
                    memory: &'a mut DeviceSlice<$entry>,
                ) -> Result<ViewMut<'a, $to<Cuda>>> {
                    // SAFETY: as above, and the slice is borrowed mutably.
                    let inner = unsafe { self.$borrow(address(memory), memory.len()) }?;
                    Ok(ViewMut { inner, memory: PhantomData })
                }
            )+
        }

        /// Views of cust's device memory for probeprune's operations.
        ///
        /// # Errors
        /// All of them refuse memory of another device and addresses that are not a multiple of 16.
        ///
        /// # Safety
        /// For all of them: operations run after their call returns, so the memory must live, and must not be used in
        /// another way, until the stream is synchronised after the last operation on the view, even if the view itself is
        /// dropped before.
        #[allow(clippy::missing_safety_doc, reason = "stated once above")]
        pub trait Views {
            $(
                #[doc = concat!("A view of `", stringify!($entry), "` for reading.")]
                unsafe fn $name<'a>(&self, memory: &'a DeviceSlice<$entry>) -> Result<View<'a, $to<Cuda>>>;

                #[doc = concat!("A view of `", stringify!($entry), "` for writing.")]
                unsafe fn $name_mut<'a>(
                    &self,
                    memory: &'a mut DeviceSlice<$entry>,
                ) -> Result<ViewMut<'a, $to<Cuda>>>;
            )+
        }
    };
}

// Activations are bfloat16 or float16, whichever the backend computes in: cust sees their bits.
views! {
    view_activations, view_activations_mut: u16 => Activations by borrow_activations;
    view_statistics, view_statistics_mut: f32 => Statistics by borrow_statistics;
    view_indices, view_indices_mut: u32 => Indices by borrow_indices;
}
