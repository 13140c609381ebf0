/* A pruned MLP block inside another engine, in its memory, on its stream, with its tensors: the method's steps one by one. The
 * output is compared with the same block in plain C.
 *
 *     cc mlp_block.c $(pkg-config --cflags --libs probeprune) -lm -o mlp_block && ./mlp_block
 */
#include "engine.h"

enum { B = 3, S = 8, H = 24, I = 64, KEPT = 40, PROBE_SAMPLES = 1, PROBE_TOKENS = 4, T = B * S };

/* The tensors of one MLP block. */
typedef struct {
    engine_tensor hidden, norm_weight, gate, up, down; /* inputs */
    engine_tensor x, sum_squares;
    engine_tensor samples, slots, probe_x, probe_a, p;
    engine_tensor statistic, history, scores, kept, fault;
    engine_tensor a, energies, out;
} block;

static void block_make(block *b, engine_arena *arena) {
    tensor_make(&b->hidden, arena, kDLFloat, B, S, H);
    tensor_make(&b->norm_weight, arena, kDLFloat, H, 0, 0);
    tensor_make(&b->gate, arena, kDLFloat, I, H, 0);
    tensor_make(&b->up, arena, kDLFloat, I, H, 0);
    tensor_make(&b->down, arena, kDLFloat, H, I, 0);
    tensor_make(&b->x, arena, kDLFloat, B, S, H);
    tensor_make(&b->sum_squares, arena, kDLFloat, B, S, 0);
    tensor_make(&b->samples, arena, kDLInt, PROBE_SAMPLES, 0, 0);
    tensor_make(&b->slots, arena, kDLInt, PROBE_TOKENS, 0, 0);
    tensor_make(&b->probe_x, arena, kDLFloat, PROBE_SAMPLES, PROBE_TOKENS, H);
    tensor_make(&b->probe_a, arena, kDLFloat, PROBE_SAMPLES, PROBE_TOKENS, I);
    tensor_make(&b->p, arena, kDLFloat, PROBE_TOKENS, I, 0);
    tensor_make(&b->statistic, arena, kDLFloat, I, 0, 0);
    tensor_make(&b->history, arena, kDLFloat, S, I, 0);
    tensor_make(&b->scores, arena, kDLFloat, I, 0, 0);
    tensor_make(&b->kept, arena, kDLInt, KEPT, 0, 0);
    tensor_make(&b->fault, arena, kDLInt, 1, 0, 0);
    tensor_make(&b->a, arena, kDLFloat, B, S, KEPT);
    tensor_make(&b->energies, arena, kDLFloat, S, KEPT, 0);
    tensor_make(&b->out, arena, kDLFloat, B, S, H);
    tensor_fill(&b->hidden, 1, 1.0f);
    tensor_fill(&b->norm_weight, 2, 1.0f);
    tensor_fill(&b->gate, 3, 0.5f);
    tensor_fill(&b->up, 4, 0.5f);
    tensor_fill(&b->down, 5, 0.5f);
}

/* Runs operation `name` with `args`, a workspace from the arena, on the engine's stream. */
#define RUN(name)                                                                                                      \
    do {                                                                                                               \
        size_t bytes_ = 0;                                                                                             \
        CHECK(probeprune_##name##_workspace_size(device, &args, &bytes_));                                             \
        CHECK(probeprune_##name(device, &args, bytes_ > 0 ? arena_take(arena, bytes_) : NULL, bytes_, stream->handle)); \
    } while (0)
#define INIT(name)                                                                                                     \
    probeprune_##name##_args args;                                                                                     \
    CHECK(probeprune_##name##_args_init(&args, sizeof args))

/* Once per weight, when the model is loaded. */
static void block_prepare(block *b, const probeprune_device *device, engine_arena *arena, engine_stream *stream) {
    INIT(column_statistic);
    args.weight = &b->down.view;
    args.out = &b->statistic.view;
    RUN(column_statistic);
}

static void block_run(block *b, const probeprune_device *device, engine_arena *arena, engine_stream *stream) {
    { /* The norm, with residual importance as a by-product. */
        INIT(norm);
        args.x = &b->hidden.view;
        args.weight = &b->norm_weight.view;
        args.out = &b->x.view;
        args.sum_squares = &b->sum_squares.view;
        RUN(norm);
    }
    { /* 1. The probe: the rows with the largest residual. */
        INIT(probe_select);
        args.sum_squares = &b->sum_squares.view;
        args.samples = &b->samples.view;
        args.slots = &b->slots.view;
        RUN(probe_select);
    }
    {
        INIT(probe_gather);
        args.x = &b->x.view;
        args.samples = &b->samples.view;
        args.slots = &b->slots.view;
        args.out = &b->probe_x.view;
        RUN(probe_gather);
    }
    { /* 2. Its intermediate states on all channels, and their energies. */
        INIT(gemm_sparse_swiglu);
        args.x = &b->probe_x.view;
        args.gate = &b->gate.view;
        args.up = &b->up.view;
        args.energy = &b->p.view;
        args.out = &b->probe_a.view;
        RUN(gemm_sparse_swiglu);
    }
    { /* 3. Fusion with history, scores, the selection. */
        INIT(channel_score);
        args.p = &b->p.view;
        args.statistic = &b->statistic.view;
        args.history = &b->history.view;
        args.slots = &b->slots.view;
        args.out = &b->scores.view;
        RUN(channel_score);
    }
    {
        INIT(topk_keep);
        args.scores = &b->scores.view;
        args.kept = &b->kept.view;
        args.fault = &b->fault.view;
        RUN(topk_keep);
    }
    { /* 4. The whole batch on the kept channels. */
        INIT(gemm_sparse_swiglu);
        args.x = &b->x.view;
        args.gate = &b->gate.view;
        args.up = &b->up.view;
        args.kept = &b->kept.view;
        args.energy = &b->energies.view;
        args.out = &b->a.view;
        RUN(gemm_sparse_swiglu);
    }
    {
        INIT(gemm_sparse_columns);
        args.a = &b->a.view;
        args.weight = &b->down.view;
        args.kept = &b->kept.view;
        args.residual = &b->hidden.view;
        args.out = &b->out.view;
        RUN(gemm_sparse_columns);
    }
    {
        INIT(history_update);
        args.p = &b->energies.view;
        args.kept = &b->kept.view;
        args.history = &b->history.view;
        RUN(history_update);
    }
    CHECK(probeprune_synchronize(device, stream->handle));
}

/* ---- The same in plain C ---------------------------------------------------------------------------------------- */

static double intermediate(const block *b, const double *x, int c) {
    double gate = 0, up = 0;
    int h;
    for (h = 0; h < H; h++) {
        gate += x[h] * floats(&b->gate)[c * H + h];
        up += x[h] * floats(&b->up)[c * H + h];
    }
    return gate / (1 + exp(-gate)) * up;
}

/* Marks the `count` largest of `n` values, ties to the lower index. */
static void largest(const double *values, int n, int count, int *chosen) {
    int i, k;
    memset(chosen, 0, (size_t)n * sizeof *chosen);
    for (k = 0; k < count; k++) {
        int best = -1;
        for (i = 0; i < n; i++)
            if (!chosen[i] && (best < 0 || values[i] > values[best])) best = i;
        chosen[best] = 1;
    }
}

static int compare(const block *b, const float *history_before) {
    static double x[T][H], squares[T], of_token[S], of_sample[B], scores[I];
    int tokens[S], samples[B], kept[I], wrong = 0, t, h, c, s, o, j;
    double worst = 0;
    for (t = 0; t < T; t++) {
        squares[t] = 0;
        for (h = 0; h < H; h++) squares[t] += pow(floats(&b->hidden)[t * H + h], 2);
        for (h = 0; h < H; h++)
            x[t][h] = floats(&b->hidden)[t * H + h] / sqrt(squares[t] / H + 1e-5) * floats(&b->norm_weight)[h];
    }
    for (s = 0; s < S; s++)
        for (of_token[s] = 0, o = 0; o < B; o++) of_token[s] += squares[o * S + s];
    largest(of_token, S, PROBE_TOKENS, tokens);
    if (!tokens[0]) { /* small probes include the first token in place of their lowest slot */
        for (s = 0; !tokens[s]; s++) {
        }
        tokens[s] = 0;
        tokens[0] = 1;
    }
    for (o = 0; o < B; o++)
        for (of_sample[o] = 0, s = 0; s < S; s++) of_sample[o] += tokens[s] ? squares[o * S + s] : 0;
    largest(of_sample, B, PROBE_SAMPLES, samples);
    for (c = 0; c < I; c++) {
        double sum = 0, statistic = 0;
        for (s = 0; s < S; s++) {
            double p = 0, history = history_before[s * I + c];
            if (!tokens[s]) continue;
            for (o = 0; o < B; o++) p += samples[o] ? pow(intermediate(b, x[o * S + s], c), 2) / PROBE_SAMPLES : 0;
            sum += p / (p + history + 1e-6) * p + (1 - p / (p + history + 1e-6)) * history;
        }
        for (h = 0; h < H; h++) statistic += pow(floats(&b->down)[h * I + c], 4);
        scores[c] = sum * sqrt(statistic);
    }
    largest(scores, I, KEPT, kept);
    for (c = 0, j = 0; c < I; c++)
        if (kept[c]) wrong += ints(&b->kept)[j++] != c;
    for (t = 0; t < T; t++)
        for (h = 0; h < H; h++) {
            double sum = floats(&b->hidden)[t * H + h];
            for (c = 0; c < I; c++)
                if (kept[c]) sum += intermediate(b, x[t], c) * floats(&b->down)[h * I + c];
            worst = fmax(worst, fabs(sum - floats(&b->out)[t * H + h]));
        }
    for (s = 0; s < S; s++)
        for (c = 0; c < I; c++) {
            double before = history_before[s * I + c], energy = 0;
            for (o = 0; o < B; o++) energy += pow(intermediate(b, x[o * S + s], c), 2) / B;
            worst = fmax(worst, fabs((kept[c] ? 0.99 * before + 0.01 * energy : before) -
                                     floats(&b->history)[s * I + c]));
        }
    printf("kept channels that differ: %d of %d; largest difference of outputs and history: %.1e\n", wrong, KEPT,
           worst);
    /* float32 sums of up to 64 products of unit size */
    return wrong == 0 && worst < 2e-5 && ints(&b->fault)[0] == 0;
}

int main(void) {
    static block b;
    static float history_before[S * I];
    engine_arena arena;
    engine_stream stream;
    probeprune_device_options options;
    probeprune_device *device = NULL;
    int batch, same = 1;

    if (probeprune_abi_version() != PROBEPRUNE_ABI_VERSION) {
        fprintf(stderr, "libprobeprune is of another ABI than probeprune.h\n");
        return 1;
    }
    CHECK(probeprune_device_options_init(&options, sizeof options));
    options.threads = 2;
    CHECK(probeprune_device_open(&options, &device));
    arena_open(&arena, 1 << 20);
    stream.handle = NULL;
    block_make(&b, &arena);
    block_prepare(&b, device, &arena, &stream);
    for (batch = 0; batch < 3; batch++) { /* history counts from the second one on */
        memcpy(history_before, floats(&b.history), sizeof history_before);
        tensor_fill(&b.hidden, 10 + (uint32_t)batch, 1.0f + (float)batch);
        block_run(&b, device, &arena, &stream);
        same = compare(&b, history_before) && same;
    }
    arena_close(&arena);
    probeprune_device_free(device);
    return same ? 0 : 1;
}
