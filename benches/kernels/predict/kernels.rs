//! What each kernel does, from its arguments: the "Bytes" lines of cuda/*.cu, with what L2 keeps taken off memory traffic.

use bytemuck::Pod;
use probeprune::gpu::Launch;

use super::{
    args::{
        AttentionArgs, ChannelScoreArgs, CheckFiniteArgs, ColumnStatisticArgs, EmbedArgs, EnergyArgs,
        GatedLinearArgs, HistoryUpdateArgs, KeepKvHeadsArgs, LinearArgs, LinearGemvArgs, LogitsArgs,
        NormArgs, ProbeGatherArgs, ProbeSelectArgs, ProjectArgs, ProjectGemvArgs, RopeCacheArgs,
        TopKKeepArgs,
    },
    cost::Work,
    machine::Machine,
};

/// What share of mma.sync's rate a product's loop reaches with tiles of 128, 64 and 32 rows. The first is assumed, from
/// what such kernels (cp.async, ldmatrix, mma.sync) reach on an A100; the others follow from what src/gpu/linear.rs takes
/// them to cost a row.
const PRODUCT: [(u32, f64); 3] = [(128, 0.85), (64, 0.85 * 20.0 / 23.0), (32, 0.85 * 20.0 / 33.0)];

/// The same of attention: FlashAttention-2's 350 TFLOP/s without a mask on an H100 (FlashAttention-3 paper, figure 5).
const ATTENTION: f64 = 350.0 / 622.0;

/// A launch's argument struct; `None` if it has fewer bytes.
fn read<A: Pod>(launch: &Launch) -> Option<A> {
    launch.arguments().get(..size_of::<A>()).map(bytemuck::pod_read_unaligned)
}

/// A product's rows, columns, depth and how many weights it multiplies with.
struct Product {
    sizes: [i32; 3],
    weights: f64,
    /// Row tiles that go through all columns together.
    raster_group: i32,
    /// Bytes of a result.
    out: f64,
    /// Whether a residual is added.
    residual: bool,
}

impl Product {
    fn work(&self, machine: &Machine, launch: &Launch) -> Work {
        let [rows, columns, depth] = self.sizes.map(f64::from);
        let (tile, rate) = product_tile(launch.kernel.name);
        let tile_columns = 128.0 / self.weights;
        let blocks = f64::from(launch.geometry.grid[0]);
        let column_tiles = (columns / tile_columns).ceil();
        let row_tiles = blocks / column_tiles;
        let flops = 2.0 * blocks * f64::from(tile) * 128.0 * depth;
        let weights = self.weights * 2.0 * columns * depth;
        let (x, out) = (2.0 * rows * depth, self.out * rows * columns);
        let residual = if self.residual { 2.0 * rows * columns } else { 0.0 };
        // Weights pass through L2 once for each group of row tiles.
        let passes = (row_tiles / f64::from(self.raster_group.max(1))).ceil().max(1.0);
        let reread = (passes - 1.0) * machine.beyond_l2(weights);
        Work {
            memory: weights + reread + machine.beyond_l2(x) + machine.beyond_l2(out) + residual,
            l2: column_tiles * x + row_tiles * weights + out + residual,
            flops,
            longest: flops / blocks,
            rate,
            ..Work::default()
        }
    }
}

fn product_tile(name: &str) -> (u32, f64) {
    let is = |tile: u32| name.contains(&format!("_{tile}_"));
    PRODUCT.into_iter().find(|&(tile, _)| is(tile)).unwrap_or(PRODUCT[0])
}

/// What a launch does; `None` for a kernel that the model does not know.
pub fn work(machine: &Machine, launch: &Launch) -> Option<Work> {
    let float = |x: i32| f64::from(x);
    let passing = |memory: f64, depth: f64| Work { memory, l2: memory, depth, ..Work::default() };
    Some(match launch.kernel.module {
        "linear" if launch.kernel.name.starts_with("logits") => {
            let LogitsArgs { rows, out_features, in_features, raster_group, .. } = read(launch)?;
            Product {
                sizes: [rows, out_features, in_features],
                weights: 1.0,
                raster_group,
                out: 4.0,
                residual: false,
            }
            .work(machine, launch)
        }
        "linear" => {
            let LinearArgs { rows, out_features, in_features, raster_group, .. } = read(launch)?;
            Product {
                sizes: [rows, out_features, in_features],
                weights: 1.0,
                raster_group,
                out: 2.0,
                residual: false,
            }
            .work(machine, launch)
        }
        "gated_linear" => {
            let GatedLinearArgs { rows, out_features, in_features, raster_group, .. } = read(launch)?;
            Product {
                sizes: [rows, out_features, in_features],
                weights: 2.0,
                raster_group,
                out: 2.0,
                residual: false,
            }
            .work(machine, launch)
        }
        "project" => {
            let ProjectArgs { rows, out_features, in_features, raster_group, residual, rank, .. } =
                read(launch)?;
            let sizes = [rows, out_features, in_features + rank];
            Product { sizes, weights: 1.0, raster_group, out: 2.0, residual: residual != 0 }
                .work(machine, launch)
        }
        "linear_gemv" | "gated_linear_gemv" => {
            let LinearGemvArgs { rows, in_features, out_features, .. } = read(launch)?;
            let gated = launch.kernel.module == "gated_linear_gemv";
            let weights = if gated { 4.0 } else { 2.0 } * float(out_features) * float(in_features);
            let x = 2.0 * float(rows) * float(in_features) * f64::from(launch.geometry.grid[0]);
            // Four stages of four loads of 16 bytes.
            Work { memory: weights, l2: weights + x, depth: 4.0, under_way: 256.0, ..Work::default() }
        }
        "project_gemv" => {
            let ProjectGemvArgs { rows, in_features, out_features, .. } = read(launch)?;
            let weights = 2.0 * float(in_features) * float(out_features);
            let a = (2.0 * float(rows) + 4.0) * float(in_features) * f64::from(launch.geometry.grid[0]);
            // Eight stages of four loads of 8 bytes, of which some wait for the indices.
            Work { memory: weights, l2: weights + a, depth: 5.0, under_way: 128.0, ..Work::default() }
        }
        "attention" => attention(machine, launch)?,
        "attention_decode" => {
            let AttentionArgs { tokens, keys, heads, kv_heads, head_dim, .. } = read(launch)?;
            let samples = f64::from(launch.geometry.grid[1]);
            let cache = samples * float(kv_heads) * 4.0 * float(keys) * float(head_dim);
            let rows = samples * float(tokens * heads * head_dim) * 4.0;
            // A warp has every eighth step of 16 keys, one after another.
            let steps = (float(keys) / (8.0 * 16.0)).ceil();
            Work {
                memory: cache,
                l2: cache + rows,
                depth: 2.0 * steps + 4.0,
                under_way: 256.0,
                ..Work::default()
            }
        }
        "norm" => {
            let NormArgs { rows, hidden_size, .. } = read(launch)?;
            let row = 2.0 * float(rows) * float(hidden_size);
            let moved = machine.beyond_l2(row) * 2.0 + 4.0 * float(rows);
            Work { memory: moved, l2: 2.0 * row + 8.0 * row / 2.0, depth: 3.0, ..Work::default() }
        }
        "embed" => {
            let EmbedArgs { rows, embedding_dim, .. } = read(launch)?;
            passing(4.0 * float(rows) * float(embedding_dim), 2.0)
        }
        "probe_gather" => {
            let ProbeGatherArgs { rows, hidden_size, .. } = read(launch)?;
            let moved = 4.0 * float(rows) * float(hidden_size);
            Work { memory: machine.beyond_l2(moved), l2: moved, ..Work::default() }
        }
        "probe_select" => {
            let ProbeSelectArgs { samples, tokens, .. } = read(launch)?;
            // Two selections of four digits, each with its histogram and prefix sum; then the lists.
            Work { l2: 4.0 * float(samples) * float(tokens), depth: 40.0, ..Work::default() }
        }
        "rope_cache" => {
            let RopeCacheArgs { heads, kv_heads, head_dim, .. } = read(launch)?;
            let rows = f64::from(launch.geometry.grid[0]);
            let cached = if launch.geometry.grid[1] == 3 { 4.0 } else { 0.0 };
            let entries = float(head_dim) * (2.0 * float(heads) + (2.0 + cached) * float(kv_heads));
            passing(2.0 * rows * entries, 2.0)
        }
        "energy" => {
            let EnergyArgs { samples, tokens, channels, .. } = read(launch)?;
            let read = 2.0 * float(samples) * float(tokens) * float(channels);
            let moved = machine.beyond_l2(read) + 4.0 * float(tokens) * float(channels);
            Work {
                memory: moved,
                l2: moved.max(read),
                depth: (float(samples) / 4.0).ceil(),
                ..Work::default()
            }
        }
        "channel_score" => {
            let ChannelScoreArgs { tokens, channels, history_kind, .. } = read(launch)?;
            let entries = float(tokens) * float(channels);
            let history = [0.0, 4.0, 2.0][history_kind.clamp(0, 2) as usize] * entries;
            let memory = history + machine.beyond_l2(4.0 * entries) + 4.0 * float(channels);
            Work { memory, l2: history + 4.0 * entries, depth: 4.0, ..Work::default() }
        }
        "top_k_keep" => {
            let TopKKeepArgs { of, k, .. } = read(launch)?;
            // Four digits, each with its histogram, prefix sum and barriers; then the places.
            let depth = if of <= 256 { 4.0 } else { 20.0 };
            Work { l2: 4.0 * (float(of) + float(k)), depth, ..Work::default() }
        }
        "keep_kv_heads" => {
            let KeepKvHeadsArgs { count, .. } = read(launch)?;
            Work { l2: 8.0 * float(count), depth: 2.0 + (float(count) / 32.0).ceil(), ..Work::default() }
        }
        "check_finite" => {
            let CheckFiniteArgs { count, .. } = read(launch)?;
            Work { l2: 4.0 * count as f64, ..Work::default() }
        }
        "history_update" => {
            let HistoryUpdateArgs { kept_channels, at, end, bucket, half, .. } = read(launch)?;
            let rows = (float(end - at) / float(bucket.max(1))).ceil();
            let entry = if half != 0 { 4.0 } else { 8.0 };
            let energies = 4.0 * float(end - at) * float(kept_channels);
            let memory = machine.beyond_l2(energies) + entry * rows * float(kept_channels);
            Work { memory, l2: energies + memory, depth: 3.0, ..Work::default() }
        }
        "column_statistic" => {
            let ColumnStatisticArgs { channels, out_features, .. } = read(launch)?;
            passing(2.0 * float(channels) * float(out_features), 2.0)
        }
        _ => return None,
    })
}

/// Causal attention of many queries: what a block multiplies ends with its last query.
fn attention(machine: &Machine, launch: &Launch) -> Option<Work> {
    let AttentionArgs { tokens, keys, heads, kv_heads, head_dim, .. } = read(launch)?;
    let (tokens, keys, head_dim) = (f64::from(tokens), f64::from(keys), f64::from(head_dim));
    let queries = if launch.kernel.name.contains("_q128_") { 128.0 } else { 64.0 };
    let samples = f64::from(launch.geometry.grid[2]);
    let (mut flops, mut longest, mut l2) = (0.0, 0.0f64, 0.0);
    for tile in 0..launch.geometry.grid[1] {
        let last = (f64::from(tile + 1) * queries).min(tokens) + keys - tokens;
        let seen = (last / 64.0).ceil() * 64.0;
        let block = 4.0 * queries * seen * head_dim;
        longest = longest.max(block);
        flops += block;
        l2 += 4.0 * head_dim * last;
    }
    let entries = samples * head_dim * (2.0 * tokens * f64::from(heads) + 2.0 * keys * f64::from(kv_heads));
    let each = samples * f64::from(heads);
    let memory = machine.beyond_l2(2.0 * entries);
    let (l2, flops) = (each * l2 + memory, each * flops);
    Some(Work { memory, l2, flops, longest, rate: ATTENTION, ..Work::default() })
}
