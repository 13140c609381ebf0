/* The engine's own parts: an allocator, a stream, tensors. Kept small for reading. */
#ifndef ENGINE_H
#define ENGINE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

/* An arena: allocations are taken from its end and freed all at once. */
typedef struct {
    unsigned char *memory, *aligned;
    size_t size, used;
} engine_arena;

static void arena_open(engine_arena *arena, size_t size) {
    arena->memory = (unsigned char *)malloc(size + 255);
    if (arena->memory == NULL) {
        fprintf(stderr, "no memory for the arena\n");
        exit(1);
    }
    arena->aligned = arena->memory + (256 - (uintptr_t)arena->memory % 256) % 256;
    arena->size = size;
    arena->used = 0;
}

static void *arena_take(engine_arena *arena, size_t bytes) {
    void *taken = arena->aligned + arena->used;
    arena->used += (bytes + 255) / 256 * 256;
    if (arena->used > arena->size) {
        fprintf(stderr, "the arena is full\n");
        exit(1);
    }
    return taken;
}

static void arena_close(engine_arena *arena) { free(arena->memory); }

/* A stream. On a GPU `handle` would be a cudaStream_t; the CPU has none. */
typedef struct {
    void *handle;
} engine_stream;

/* A tensor with its sizes, and its view for probeprune. */
typedef struct {
    DLTensor view;
    int64_t shape[4];
} engine_tensor;

static DLDataType engine_dtype(uint8_t code) {
    DLDataType dtype;
    dtype.code = code;
    dtype.bits = 32;
    dtype.lanes = 1;
    return dtype;
}

/* A tensor of 32-bit entries in the arena; sizes of 0 are absent dimensions. */
static void tensor_make(engine_tensor *tensor, engine_arena *arena, DLDataTypeCode code, int64_t a, int64_t b,
                        int64_t c) {
    const int64_t sizes[3] = {a, b, c};
    size_t entries = 1;
    int i;
    memset(tensor, 0, sizeof *tensor);
    for (i = 0; i < 3 && sizes[i] > 0; i++) {
        tensor->shape[i] = sizes[i];
        entries *= (size_t)sizes[i];
    }
    tensor->view.ndim = i;
    tensor->view.shape = tensor->shape;
    tensor->view.dtype = engine_dtype((uint8_t)code);
    tensor->view.device.device_type = kDLCPU;
    tensor->view.data = arena_take(arena, entries * 4);
    memset(tensor->view.data, 0, entries * 4);
}

static float *floats(const engine_tensor *tensor) { return (float *)tensor->view.data; }
static int32_t *ints(const engine_tensor *tensor) { return (int32_t *)tensor->view.data; }

/* Reproducible numbers between -1 and 1. */
static void tensor_fill(engine_tensor *tensor, uint32_t seed, float scale) {
    size_t i, entries = 1;
    for (i = 0; i < (size_t)tensor->view.ndim; i++) entries *= (size_t)tensor->shape[i];
    for (i = 0; i < entries; i++) {
        seed = seed * 1664525u + 1013904223u;
        floats(tensor)[i] = ((float)(seed >> 8) / 8388608.0f - 1.0f) * scale;
    }
}

#endif
