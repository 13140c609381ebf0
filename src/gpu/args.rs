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
pub struct EmbedArgs {
    pub(crate) table: Elements,
    pub(crate) tokens: Indices,
    pub(crate) position_table: Elements,
    pub(crate) positions: Indices,
    pub(crate) out: ElementsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ProbeGatherArgs {
    pub(crate) x: Elements,
    pub(crate) samples: Indices,
    pub(crate) slots: Indices,
    pub(crate) out: ElementsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) probe_tokens: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct LinearArgs {
    pub(crate) x: Elements,
    pub(crate) weight: Elements,
    pub(crate) up: Elements,
    pub(crate) bias: Floats,
    pub(crate) up_bias: Floats,
    pub(crate) kept: Indices,
    pub(crate) out: ElementsOut,
    pub(crate) mask: Indices,
    pub(crate) energy: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) features: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) block: ::std::os::raw::c_int,
    pub(crate) activation: ::std::os::raw::c_int,
    pub(crate) samples: ::std::os::raw::c_int,
    pub(crate) scale: f32,
    pub(crate) m_tiles: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ProjectArgs {
    pub(crate) a: Elements,
    pub(crate) weight: Elements,
    pub(crate) kept: Indices,
    pub(crate) bias: Floats,
    pub(crate) residual: Elements,
    pub(crate) out: ElementsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) channels: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) block: ::std::os::raw::c_int,
    pub(crate) m_tiles: ::std::os::raw::c_int,
    pub(crate) padding: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct LinearGemvArgs {
    pub(crate) x: Elements,
    pub(crate) weight: Elements,
    pub(crate) up: Elements,
    pub(crate) bias: Floats,
    pub(crate) up_bias: Floats,
    pub(crate) kept: Indices,
    pub(crate) out: ElementsOut,
    pub(crate) logits: FloatsOut,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) features: ::std::os::raw::c_int,
    pub(crate) block: ::std::os::raw::c_int,
    pub(crate) activation: ::std::os::raw::c_int,
    pub(crate) scale: f32,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ProjectGemvArgs {
    pub(crate) a: Elements,
    pub(crate) weight: Elements,
    pub(crate) kept: Indices,
    pub(crate) bias: Floats,
    pub(crate) residual: Elements,
    pub(crate) out: ElementsOut,
    pub(crate) tokens: ::std::os::raw::c_int,
    pub(crate) channels: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) block: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ColumnStatisticArgs {
    pub(crate) weight: Elements,
    pub(crate) out: FloatsOut,
    pub(crate) channels: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) power: ::std::os::raw::c_int,
    pub(crate) root: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct ArgmaxArgs {
    pub(crate) x: Floats,
    pub(crate) out: IndicesOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct CrossEntropyArgs {
    pub(crate) x: Elements,
    pub(crate) weight: Elements,
    pub(crate) targets: Indices,
    pub(crate) partial: FloatsOut,
    pub(crate) target_logits: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) vocab: ::std::os::raw::c_int,
    pub(crate) width: ::std::os::raw::c_int,
    pub(crate) m_tiles: ::std::os::raw::c_int,
}
#[repr(C)]
#[derive(bytemuck :: Pod, bytemuck :: Zeroable, Clone, Copy, Debug, Default)]
pub struct CrossEntropyCombineArgs {
    pub(crate) partial: Floats,
    pub(crate) target_logits: Floats,
    pub(crate) targets: Indices,
    pub(crate) losses: FloatsOut,
    pub(crate) rows: ::std::os::raw::c_int,
    pub(crate) tiles: ::std::os::raw::c_int,
}
