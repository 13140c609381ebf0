//! The tile instructions of the processor, and how a process comes to use them.

use std::{
    arch::{
        asm,
        x86_64::{__cpuid, __cpuid_count},
    },
    marker::PhantomData,
    sync::OnceLock,
};

use super::tiles::{ROW_BYTES, TILE_ROWS, Tiles};

/// Why this process may not use the tiles that [`exist`](exists), if so.
pub(super) fn refusal() -> Option<&'static str> {
    if !is_enabled() {
        Some("the operating system leaves AMX off")
    } else if !is_permitted() {
        Some("Linux does not let this process use AMX (arch_prctl ARCH_REQ_XCOMP_PERM)")
    } else {
        None
    }
}

/// Whether the processor has AMX: CPUID's bits of AMX-TILE and AMX-BF16, and of XGETBV for the operating system's answer.
// Newer compilers know that CPUID is safe.
#[allow(unused_unsafe)]
pub(super) fn exists() -> bool {
    // SAFETY: every x86-64 processor has CPUID; leaf 7 is read only where it exists.
    unsafe {
        let has_xgetbv = __cpuid(1).ecx >> 27 & 1 == 1;
        let features = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0).edx } else { 0 };
        has_xgetbv && features >> 24 & 1 == 1 && features >> 22 & 1 == 1
    }
}

/// XCR0's bits of the tiles' configuration and of their data.
fn is_enabled() -> bool {
    let enabled: u32;
    // SAFETY: `exists` has seen CPUID's bit of XGETBV; register 0 always exists.
    unsafe {
        asm!("xgetbv", in("ecx") 0u32, out("eax") enabled, out("edx") _, options(nomem, nostack));
    }
    enabled >> 17 & 0b11 == 0b11
}

/// Asks Linux, which keeps room for the tiles of a thread only in processes that ask.
fn is_permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let result: i64;
    // SAFETY: this call takes two numbers and touches no memory of the process; a system call changes rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

/// This thread's tile registers, configured until this is dropped.
///
/// Each thread has registers of its own, so other threads notice nothing. What other code had in this thread's is lost, and
/// after the drop they are as if never configured: while this lives, the thread runs no other code that uses AMX, not with
/// another `Hardware` either. Libraries that configure tiles at each of their calls, as oneDNN does, are undisturbed, since
/// none of their calls is under way on a thread that runs a task of this library.
///
/// A task holds this rather than a thread: Linux saves tiles in use whenever it switches threads, but not released ones.
pub(super) struct Hardware {
    rows: usize,
    /// The registers are this thread's.
    _not_send: PhantomData<*const ()>,
}

/// LDTILECFG's operand.
#[repr(C, align(64))]
struct Configuration([u8; 64]);

impl Hardware {
    /// Configures this thread's tiles.
    ///
    /// # Panics
    /// Where there are none, or they may not be used.
    pub(super) fn new() -> Self {
        static USABLE: OnceLock<bool> = OnceLock::new();
        assert!(*USABLE.get_or_init(|| exists() && refusal().is_none()), "tiles may be used");
        let mut tiles = Self { rows: 0, _not_send: PhantomData };
        tiles.configure(TILE_ROWS);
        tiles
    }
}

impl Drop for Hardware {
    fn drop(&mut self) {
        // SAFETY: a `Hardware` exists only where AMX does.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// One tile instruction. The compiler keeps nothing in tiles: that they are all marked as changed costs nothing, while what
/// they hold lasts from one instruction to the next.
macro_rules! tile_asm {
    ($instruction:literal, $($operands:tt)*) => {
        asm!(
            $instruction,
            $($operands)*
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

impl Tiles for Hardware {
    #[inline(always)]
    fn configure(&mut self, rows: usize) {
        if rows == self.rows {
            return;
        }
        assert!(rows == TILE_ROWS / 2 || rows == TILE_ROWS, "a whole or a half tile");
        let mut configuration = Configuration([0; 64]);
        configuration.0[0] = 1; // the palette of eight tiles
        for tile in 0..8 {
            configuration.0[16 + 2 * tile] = ROW_BYTES as u8;
            configuration.0[48 + tile] = if tile < 6 { rows as u8 } else { TILE_ROWS as u8 };
        }
        // SAFETY: a `Hardware` exists only where AMX does, and the operand is a valid configuration of its only palette.
        unsafe { tile_asm!("ldtilecfg [{configuration}]", configuration = in(reg) &configuration,) };
        self.rows = rows;
    }

    #[inline(always)]
    fn zero<const D: usize>(&mut self) {
        // SAFETY: a `Hardware` exists only where AMX does, and its tiles are configured.
        unsafe { tile_asm!("tilezero tmm{d}", d = const D,) };
    }

    #[inline(always)]
    unsafe fn load<const D: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: as in `zero`; the caller promises that the rows are readable.
        unsafe {
            tile_asm!("tileloadd tmm{d}, [{from} + {stride}]", d = const D, from = in(reg) from, stride = in(reg) stride,);
        }
    }

    #[inline(always)]
    unsafe fn store<const S: usize>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: as in `zero`; the caller promises that the rows are writable.
        unsafe {
            tile_asm!("tilestored [{to} + {stride}], tmm{s}", s = const S, to = in(reg) to, stride = in(reg) stride,);
        }
    }

    #[inline(always)]
    fn multiply_add<const D: usize, const A: usize, const B: usize>(&mut self) {
        // SAFETY: as in `zero`. `configure` gives the three tiles of a product shapes that fit.
        unsafe { tile_asm!("tdpbf16ps tmm{d}, tmm{a}, tmm{b}", d = const D, a = const A, b = const B,) };
    }
}
