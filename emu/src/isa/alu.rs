//! Functions of the arithmetic instructions.

pub(crate) use crate::ptx::types::Ty as CmpKind;

/// Functions of 32-bit rows. Narrow types are kept zero-extended in 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alu32 {
    Mov,
    Add,
    Sub,
    MulLo,
    MulHiU,
    MulHiS,
    MadLo,
    MadHiU,
    MadHiS,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    Abs,
    Neg,
    And,
    Or,
    Xor,
    Not,
    Cnot,
    Shl,
    ShrU,
    ShrS,
    /// Three-input logic by truth table.
    Lop3(u8),
    Popc,
    Clz,
    Brev,
    /// Position of the highest bit; whether as a shift amount.
    BfindU(bool),
    BfindS(bool),
    BfeU,
    BfeS,
    Bfi,
    Prmt,
    /// Funnel shifts: left or right, clamped or wrapped amount.
    Shf {
        left: bool,
        wrap: bool,
    },
    SadU,
    SadS,
    Dp4aU,
    Dp4aS,
    /// 16-bit results of the above, signed operands extended first.
    Narrow(Narrow),
}

/// 16-bit integer functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Narrow {
    Add,
    Sub,
    MulLo,
    MadLo,
    MinU,
    MinS,
    MaxU,
    MaxS,
    Neg,
    Not,
    Shl,
    ShrU,
    ShrS,
    /// `mul.wide.u16` and `.s16`: 32-bit result.
    WideU,
    WideS,
    DivU,
    DivS,
    RemU,
    RemS,
    Abs,
}

/// Functions of 64-bit rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alu64 {
    Mov,
    Add,
    Sub,
    MulLo,
    MulHiU,
    MulHiS,
    MadLo,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    Abs,
    Neg,
    And,
    Or,
    Xor,
    Not,
    Brev,
}

/// Shifts of 64-bit rows by 32-bit amounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shift64 {
    Left,
    RightU,
    RightS,
}

/// Floating-point functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Float {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Min,
    Max,
    /// Minimum and maximum that propagate NaN.
    MinNan,
    MaxNan,
    Abs,
    Neg,
    Sqrt,
    Rcp,
    Rsqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
    CopySign,
}

/// Functions of f16 and bf16, single or in pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HalfFn {
    Add,
    Sub,
    Mul,
    Fma,
    FmaRelu,
    Min,
    Max,
    Abs,
    Neg,
    Ex2,
    Tanh,
}

/// Functions of predicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PredFn {
    Mov,
    And,
    Or,
    Xor,
}

/// Comparisons; the `u` forms are true for NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// Rounding of conversions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// None given: exact conversions and integer truncation.
    None,
    /// To nearest even, result in the destination's own type.
    Nearest,
    Zero,
    Down,
    Up,
    /// The `i` forms: to an integral value.
    IntNearest,
    IntZero,
    IntDown,
    IntUp,
}
