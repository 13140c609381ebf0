//! No kernel computes an address by a 32-bit product that can reach 2^31: each such product of the committed PTX is in
//! [`PRODUCTS`] with the most that it can be, given the sizes that the host lets through.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    path::Path,
};

use probeprune::gpu::LARGEST_SIZE;

/// Rows, slots, channels or entries of a vocabulary; a width is also every head times head_dim.
const N: u64 = LARGEST_SIZE as u64;

/// Blocks of a tiled product: tiles of at least 32 rows and 64 columns.
const BLOCKS: u64 = N.div_ceil(32) * N.div_ceil(64);

/// A source file, a part of the line that multiplies, and the most that the line's products can be.
#[rustfmt::skip]
const PRODUCTS: &[(&str, &str, u64)] = &[
    ("accumulate_product.cu", "const int m = blockIdx.y * TILE", N),
    ("adapt_product.cu", "const int m = blockIdx.y * TILE, n = blockIdx.x * TILE", N),
    ("adapt_rows.cu", "(int)p.kept[c / p.block_width] * p.block_width", N),
    ("adapt_substitute.cu", "n = blockIdx.x * TILE", N),
    ("attention.cu", "first = (gridDim.y - 1 - blockIdx.y) * QUERIES", N + 128),
    ("attention_decode.cu", "first_in_window(p, past) / KEYS * KEYS", N + 8 * 16),
    ("attention_decode.cu", "all = shared.matches * p.tokens", 8 * N),
    ("attention_decode.cu", "of % p.tokens", 8 * N),
    ("channel_score.cu", "warp % p.warps", 32),
    ("channel_score.cu", "(int)blockIdx.x * p.span", N),
    ("channel_score.cu", "of_block = blockIdx.x * p.span", N),
    ("channel_score.cu", "energy = sqrtf(energy)", N),
    ("channel_score.cu", "const bool in = begin + lane < end", N),
    ("channel_score.cu", "head += warp_sum(", N),
    ("column_statistic.cu", "blockIdx.x * (THREADS / 32)", N + 8),
    ("cross_entropy.cu", "m = at.m * Tile::M, n = at.n * Tile::N", N),
    ("gated_linear.cu", "n = at.n * COLUMNS", N),
    ("gated_linear_gemv.cu", "first = blockIdx.x * TILE", N),
    ("gather_pruned.cu", "c = blockIdx.x * THREADS + tid", N + 256),
    ("gather_pruned.cu", "pruned = p.channels - p.count * p.block_width", N),
    ("gemm.cuh", "in_group = (unsigned)raster_group * tiles_n", 64 * (N / 64)),
    ("gemm.cuh", "at = blockIdx.x % in_group", BLOCKS),
    ("gemm.cuh", "first + at % size", BLOCKS),
    ("gemm.cuh", "tile * m + r < rows ? tile * m + r : -1", N + 128),
    ("gemm.cuh", "slot = tile * slots + r / samples", N + 128),
    ("gemm.cuh", "r % samples * tokens + slot", N),
    ("gemm.cuh", "block * block_width + (unsigned)j % block_width", N),
    ("gemm.cuh", "tile * slots + i < order.tokens", N + 128),
    ("gemv.cuh", "(index[i] - at[i]) * block_width", N),
    ("history_update.cu", "j = blockIdx.y * THREADS + threadIdx.x", N + 256),
    ("history_update.cu", "(int)p.kept[j / p.block_width] * p.block_width", N),
    ("history_update.cu", "p.at / p.bucket + blockIdx.x * ROWS", N),
    ("history_update.cu", "(first + r + 1) * p.bucket", 2 * N),
    ("history_update.cu", "for (int s = slot + 1; s < next; s++)", 2 * N),
    ("linear.cu", "n = at.n * Tile::N, tid", N),
    ("linear.cu", "m = at.m * Tile::M, n = at.n * Tile::N;", N),
    ("linear_gemv.cu", "first = blockIdx.x * TILE", N),
    ("moments.cu", "(blockIdx.x * COLUMNS + threadIdx.x % COLUMNS) * V", N + 64),
    ("probe_gather.cu", "p.probe_slots[row % p.probe_tokens]", N),
    ("probe_select.cu", "row < p.kept_samples * p.kept_tokens", N),
    ("probe_select.cu", "p.probe_slots[row % p.kept_tokens]", N),
    ("project.cu", "m = at.m * Tile::M, n = at.n * Tile::N", N),
    ("project_gemv.cu", "column = blockIdx.x * SLAB", N),
    ("rope_cache.cu", "for (int piece = threadIdx.x % side", N),
    ("rope_cache.cu", "const int i = piece * WIDTH", N),
    ("rope_cache.cu", "channels = heads * p.head_dim", N),
    ("rope_cache.cu", "t % p.tokens", N),
    ("select.cuh", "(threadIdx.x & ~31) * items", N + 1024),
];

/// One PTX instruction and the line that it was compiled from.
struct Instruction<'a> {
    op: &'a str,
    operands: Vec<&'a str>,
    place: (&'a str, usize),
}

impl<'a> Instruction<'a> {
    /// `text` without a guard and the semicolon.
    fn parse(text: &'a str, place: (&'a str, usize)) -> Option<Self> {
        let text = text.strip_suffix(';')?;
        let text = if text.starts_with('@') { text.split_once(' ')?.1.trim() } else { text };
        let (op, rest) = text.split_once(char::is_whitespace)?;
        let mut depth = 0;
        let operands = rest.split(|c| {
            depth += i32::from("[{(".contains(c)) - i32::from("]})".contains(c));
            c == ',' && depth == 0
        });
        op.starts_with(|c: char| c.is_ascii_lowercase()).then(|| Self {
            op,
            operands: operands.map(str::trim).collect(),
            place,
        })
    }

    fn is(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.op.starts_with(name))
    }

    /// Registers that it writes; none for a store or a comparison.
    fn written(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let none = self.is(&["st.", "red.", "setp.", "bra", "bar.", "cp.", "prefetch"]);
        registers(if none { "" } else { self.operands[0] })
    }

    /// What its result is made from: not the condition of a choice.
    fn sources(&self) -> &[&'a str] {
        let end = if self.op.starts_with("selp.") { 3 } else { self.operands.len() };
        &self.operands[1.min(end)..end]
    }

    /// Whether its result comes from memory: an argument, an index, another thread's value.
    fn loads(&self) -> bool {
        self.is(&["ld.", "atom.", "ldmatrix.", "shfl."])
    }

    /// Registers of addresses in global memory.
    fn addresses(&self) -> impl Iterator<Item = &'a str> {
        let memory = self.is(&["ld.", "st.", "red.", "atom.", "cp.async.", "prefetch"]);
        let elsewhere = self.op.contains(".param") || self.op.contains(".shared.") && !self.is(&["cp."]);
        let used = self.operands.iter().filter(move |text| memory && !elsewhere && text.starts_with('['));
        used.flat_map(|operand| registers(operand))
    }

    /// The two factors, where it multiplies or shifts in fewer than 64 bits.
    fn factors(&self) -> Option<[&'a str; 2]> {
        let narrow = self.op.ends_with("32") || self.op.ends_with("16");
        let multiplies = self.is(&["mul.lo.", "mad.lo.", "mul24.", "mad24.", "shl."]);
        (narrow && multiplies).then(|| [self.operands[1], self.operands[2]])
    }
}

/// The registers in an operand, special ones left out.
fn registers(operand: &str) -> impl Iterator<Item = &str> {
    let words = operand.split(|c: char| !(c.is_ascii_alphanumeric() || "%._".contains(c)));
    words.filter(|word| word.starts_with('%') && word.ends_with(|c: char| c.is_ascii_digit()))
}

/// Lines of the sources (file, line) with a 32-bit product of two run-time values, or of one and a constant where the
/// product becomes a part of an address. A run-time value is made from arguments, memory or the block's place; the thread's
/// place and masked values are small.
fn products(ptx: &str) -> BTreeSet<(String, usize)> {
    let files: HashMap<&str, &str> = ptx
        .lines()
        .filter_map(|line| line.trim().strip_prefix(".file")?.trim().split_once(' '))
        .map(|(number, rest)| (number, rest.split('"').nth(1).unwrap_or_default()))
        .collect();
    ptx.split(".entry").skip(1).flat_map(|kernel| products_of_kernel(kernel, &files)).collect()
}

fn products_of_kernel(kernel: &str, files: &HashMap<&str, &str>) -> BTreeSet<(String, usize)> {
    let mut place = ("", 0);
    let mut instructions = Vec::new();
    for line in kernel.lines().map(|line| line.trim().trim_start_matches('{').trim()) {
        if let Some(location) = line.strip_prefix(".loc") {
            let mut parts = location.split_whitespace();
            let (file, line) = (parts.next().unwrap(), parts.next().unwrap().parse().unwrap());
            // Line 0: of no single line; then the one before is the best there is.
            if line > 0 {
                place = (files[file], line);
            }
        } else {
            instructions.extend(Instruction::parse(line, place));
        }
    }
    let large = run_time_values(&instructions);
    let is_large = |operand: &str| is_large(operand, &large);
    let used = behind_addresses(&instructions);
    let flagged = instructions.iter().filter(|instruction| {
        let Some(factors) = instruction.factors() else { return false };
        match factors.map(is_large) {
            // A shift by a run-time amount is as bad as a product of two.
            [true, true] => true,
            [false, true] if instruction.op.starts_with("shl.") => true,
            [true, _] | [_, true] => instruction.written().any(|register| used.contains(register)),
            _ => false,
        }
    });
    flagged.map(|instruction| (instruction.place.0.to_string(), instruction.place.1)).collect()
}

fn is_large(operand: &str, large: &HashSet<&str>) -> bool {
    operand.starts_with("%ctaid")
        || operand.starts_with("%nctaid")
        || registers(operand).any(|r| large.contains(r))
}

/// Registers that hold run-time values.
fn run_time_values<'a>(instructions: &[Instruction<'a>]) -> HashSet<&'a str> {
    let mut large = HashSet::new();
    loop {
        let before = large.len();
        for instruction in instructions {
            let small = |operand: &&str| operand.parse().is_ok_and(|mask: i64| (0..1 << 16).contains(&mask));
            let masked = instruction.op == "and.b32" && instruction.operands.iter().any(small);
            let from_large = instruction.sources().iter().any(|operand| is_large(operand, &large));
            if instruction.loads() || from_large && !masked {
                large.extend(instruction.written());
            }
        }
        if large.len() == before {
            return large;
        }
    }
}

/// Registers from which addresses are made.
fn behind_addresses<'a>(instructions: &[Instruction<'a>]) -> HashSet<&'a str> {
    let mut writers: HashMap<&str, Vec<&Instruction<'a>>> = HashMap::new();
    for instruction in instructions {
        instruction.written().for_each(|register| writers.entry(register).or_default().push(instruction));
    }
    let mut left: Vec<&str> = instructions.iter().flat_map(Instruction::addresses).collect();
    let mut used = HashSet::new();
    while let Some(register) = left.pop() {
        if used.insert(register) {
            let writers = writers.get(register).into_iter().flatten().filter(|writer| !writer.loads());
            left.extend(writers.flat_map(|writer| writer.sources()).flat_map(|operand| registers(operand)));
        }
    }
    used
}

#[test]
fn products_stay_below_2_to_the_31() {
    let cuda = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(cuda.join("ptx")).unwrap() {
        found.extend(products(&fs::read_to_string(entry.unwrap().path()).unwrap()));
    }
    let mut sources: BTreeMap<&str, String> = BTreeMap::new();
    let mut explained = BTreeSet::new();
    let mut missing = Vec::new();
    for (file, line) in &found {
        let source = sources.entry(file).or_insert_with(|| fs::read_to_string(cuda.join(file)).unwrap());
        let text = source.lines().nth(line - 1).unwrap().trim();
        match PRODUCTS.iter().position(|(of, part, _)| of == file && text.contains(part)) {
            Some(row) => drop(explained.insert(row)),
            None => missing.push(format!("{file}:{line}: {text}")),
        }
    }
    assert!(missing.is_empty(), "products without a bound:\n{}", missing.join("\n"));
    for (row, (file, part, most)) in PRODUCTS.iter().enumerate() {
        assert!(explained.contains(&row), "{file} has no product any more in {part:?}");
        assert!(*most < 1 << 31, "{file}: {part:?} reaches {most}");
    }
}

#[test]
fn planted_products_are_found() {
    let kernel = |body: &str| {
        let head = ".file\t1 \"k.cu\"\n.visible .entry k(\n.param .u64 p\n)\n{\n.loc\t1 1 0\n\
            ld.param.u64 %rd1, [p];\nld.param.u32 %r1, [p+8];\nmov.u32 %r2, %ctaid.x;\nmov.u32 %r3, %tid.x;\n.loc\t1 2 3\n";
        let tail =
            ".loc\t1 0 3\n.loc\t1 3 3\nadd.s64 %rd3, %rd1, %rd2;\n@%p1 ld.global.f32 %f1, [%rd3+4];\n}\n";
        products(&format!("{head}{body}\n{tail}")).into_iter().map(|(_, line)| line).collect::<Vec<_>>()
    };
    for (body, lines) in [
        // Of two run-time values, whatever becomes of it.
        ("mul.lo.s32 %r4, %r1, %r2;\nmul.wide.s32 %rd2, %r4, 4;", &[2][..]),
        ("mad.lo.s32 %r4, %r3, 4, %r1;\nmul.lo.s32 %r5, %r4, %r2;", &[2]),
        ("shl.b32 %r4, %r3, %r1;", &[2]),
        // With a constant, through a choice, a minimum and a loop's variable.
        (
            "shl.b32 %r4, %r2, 7;\nmin.s32 %r5, %r4, %r1;\nselp.b32 %r6, %r5, %r3, %p2;\nmov.u32 %r7, %r6;\n\
             add.s32 %r7, %r7, 1;\ncvt.s64.s32 %rd4, %r7;\nshl.b64 %rd2, %rd4, 2;",
            &[2],
        ),
        ("mad.lo.s32 %r4, %r1, 12, %r3;\nmad.wide.s32 %rd2, %r4, 4, %rd1;", &[2]),
        // In 64 bits, of the thread's place, of a masked value, or for shared memory alone.
        ("mul.wide.s32 %rd4, %r1, %r2;\nshl.b64 %rd2, %rd4, 2;", &[]),
        ("mul.lo.s32 %r4, %r3, 12;\nmul.wide.s32 %rd2, %r4, 4;", &[]),
        ("and.b32 %r4, %r2, 7;\nmul.lo.s32 %r5, %r4, 12;\nmul.wide.s32 %rd2, %r5, 4;", &[]),
        ("shl.b32 %r4, %r2, 7;\nst.shared.u32 [%r4], %r1;\nsetp.lt.s32 %p1, %r3, %r4;", &[]),
    ] {
        assert_eq!(kernel(body), lines, "{body}");
    }
}
