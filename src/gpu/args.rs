//! Made from cuda/args.h by `tools/cuda.sh args`: the kernels' arguments.
#![allow(missing_docs, reason = "documented in cuda/args.h")]
type Elements = u64;
type ElementsOut = u64;
type Floats = u64;
type FloatsOut = u64;
type Indices = u64;
type IndicesOut = u64;

#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct NormArgs {
    pub(crate) x: Elements,
    pub(crate) weight: Floats,
    pub(crate) bias: Floats,
    pub(crate) out: ElementsOut,
    pub(crate) sum_squares: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) kind: ::std::os::raw::c_int,
    pub(crate) eps: f32,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ArgmaxArgs {
    pub(crate) x: Floats,
    pub(crate) out: IndicesOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
}
