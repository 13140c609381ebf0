//! What a PTX module says, names resolved, nothing executed yet.

use super::types::Ty;

/// Index of a virtual register in [`Function::regs`].
pub(crate) type RegId = u32;

/// A parsed module.
#[derive(Debug, Default)]
pub(crate) struct Module {
    /// `.target`, such as `sm_90a`.
    pub target: String,
    /// `.file` number and name.
    pub files: Vec<(u32, String)>,
    /// Module-level variables.
    pub globals: Vec<Var>,
    /// Kernels (`.entry`).
    pub functions: Vec<Function>,
}

/// State space of a variable or of an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

/// A variable.
#[derive(Debug, Clone)]
pub(crate) struct Var {
    pub name: String,
    pub space: Space,
    pub align: usize,
    /// Bytes; `None` for the `extern __shared__ x[]` whose size the launch gives.
    pub size: Option<usize>,
    /// Initial bytes, padded with zeroes.
    pub init: Vec<u8>,
}

/// A kernel parameter.
#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub name: String,
    pub offset: usize,
    pub size: usize,
    pub align: usize,
}

/// A kernel.
#[derive(Debug, Default)]
pub(crate) struct Function {
    pub name: String,
    pub line: u32,
    pub params: Vec<Param>,
    /// Type of each register.
    pub regs: Vec<Ty>,
    /// `.shared` and `.local` variables.
    pub vars: Vec<Var>,
    pub instrs: Vec<Instr>,
    /// Instruction index of each label.
    pub labels: Vec<usize>,
    /// Source positions that instructions refer to.
    pub locs: Vec<Loc>,
    /// `.maxntid` as a number of threads.
    pub max_threads: Option<u64>,
    /// `.reqntid`.
    pub req_threads: Option<[u32; 3]>,
}

/// A source position, with the call it was inlined at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Loc {
    pub file: u32,
    pub line: u32,
    pub column: u32,
    /// Index in [`Function::locs`].
    pub inlined_at: Option<u32>,
}

/// An instruction.
#[derive(Debug)]
pub(crate) struct Instr {
    /// Predicate register and whether it is negated.
    pub guard: Option<(RegId, bool)>,
    /// Opcode with its modifiers, or [`super::lexer::CARVE`].
    pub op: String,
    pub operands: Vec<Operand>,
    /// Line of the PTX file.
    pub line: u32,
    /// Index in [`Function::locs`].
    pub loc: Option<u32>,
}

/// An operand.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    Reg(RegId),
    /// `!p`.
    Not(RegId),
    /// `%tid.x` and the like.
    Special(String),
    Int(i64),
    F32(u32),
    F64(u64),
    /// Address of a variable or parameter, plus bytes.
    Symbol(String, i64),
    /// `[...]`.
    Memory(Box<Operand>, i64),
    /// `[map, {x, y}]`.
    Tensor(Box<Operand>, Vec<Operand>),
    /// `{...}`.
    Vector(Vec<Operand>),
    /// `p|q`; the first may be `_`.
    Pair(Option<RegId>, RegId),
    /// Index in [`Function::labels`].
    Label(u32),
    /// `_`.
    Sink,
}
