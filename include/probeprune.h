/* probeprune: LLaMA and OPT inference with Probe Pruning (ICLR 2025), and the method's operations one by one.
 *
 * Two parts. "Models" runs whole checkpoints: load, calibrate, sessions, generation. "Operations" runs single steps of the
 * method in your memory and on your stream, for engines with their own model.
 *
 * CONVENTIONS
 *
 * Results. Every fallible function returns a probeprune_status; PROBEPRUNE_OK is 0. Outputs are written on success only.
 * probeprune_last_error() names the problem, the expected and the actual value, and a remedy.
 *
 * Structs. Options begin with struct_size. Fill them with their _init function and sizeof, then set fields:
 *
 *     probeprune_settings settings;
 *     probeprune_settings_init(&settings, sizeof settings);
 *     settings.method = PROBEPRUNE_METHOD_PP;
 *
 * A program compiled against an older header keeps working: fields it does not have take their defaults. One compiled
 * against a newer header works as long as all fields unknown to this library are 0. Otherwise, and for structs shorter than
 * in version 1, the result is PROBEPRUNE_INVALID_STRUCT. Reserved fields are 0. Structs filled by a function need
 * struct_size too. Where options may be NULL, NULL means the defaults.
 *
 * Pointers. NULL and misaligned pointers are refused, except where NULL is documented. Arguments are read during the call
 * only, unless stated otherwise. Objects are freed by their _free function, which accepts NULL, in any order: a session keeps
 * its model alive. Never free an object while a call on it runs.
 *
 * Buffers. Functions with (out, capacity, count) write at most `capacity` entries and their number to `count`. With a NULL
 * `out` they only write the required number. If the buffer is too small, they write nothing: PROBEPRUNE_TOO_SMALL.
 *
 * Threads. Models, calibrations, tokenizers and devices may be used by any number of threads at once. A session may be used
 * from any thread, but by one at a time (PROBEPRUNE_BUSY otherwise); only probeprune_session_cancel may be called concurrently.
 * Two sessions on two threads give the same bits as one after the other.
 *
 * Callbacks run on the calling thread, inside the call. They must not call functions on the same session, and must not exit
 * by longjmp or a C++ exception. A panic in a Rust callback gives PROBEPRUNE_PANIC.
 *
 * Panics are defects in this library and never leave it. They give PROBEPRUNE_PANIC, after which the handle of that call can
 * only be freed. The library never terminates the process. (A weight file that is truncated while mapped does, as with every
 * memory map; set read_weights where that can happen.)
 *
 * Text is UTF-8, NUL-terminated unless its length is passed. Sizes are in entries unless stated in bytes.
 *
 * Shapes. B samples, S tokens per sample, T = B S rows (sample by sample), H hidden_size, I intermediate_size, N query
 * heads, K key/value heads, D head_dim, C channels (N D or I), V vocab_size. A subscript p means the probe's. Row-major.
 *
 * VERSIONS. PROBEPRUNE_ABI_VERSION is also the soname's number. It changes when something here is removed or changes its
 * meaning or layout. New functions, new constants and new fields at the end of structs do not change it.
 */
#ifndef PROBEPRUNE_H
#define PROBEPRUNE_H

#include <stddef.h>
#include <stdint.h>

#define PROBEPRUNE_ABI_VERSION 1

/* ---- DLPack 1.x (https://dmlc.github.io/dlpack) -----------------------------------------------------------------
 * The necessary parts, with DLPack's own names and layout. Include dlpack.h before this header to use that instead. */
#ifndef DLPACK_DLPACK_H_
#ifndef PROBEPRUNE_DLPACK
#define PROBEPRUNE_DLPACK

#ifdef __cplusplus
extern "C" {
typedef enum : int32_t {
#else
typedef enum {
#endif
    kDLCPU = 1,
    kDLCUDA = 2,
    kDLCUDAHost = 3,
    kDLCUDAManaged = 13
} DLDeviceType;

typedef struct {
    DLDeviceType device_type;
    int32_t device_id;
} DLDevice;

typedef enum { kDLInt = 0U, kDLUInt = 1U, kDLFloat = 2U, kDLBfloat = 4U } DLDataTypeCode;

typedef struct {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
} DLDataType;

typedef struct {
    void *data;
    DLDevice device;
    int32_t ndim;
    DLDataType dtype;
    int64_t *shape;
    int64_t *strides; /* in entries; NULL: compact row-major */
    uint64_t byte_offset;
} DLTensor;

typedef struct {
    uint32_t major;
    uint32_t minor;
} DLPackVersion;

typedef struct DLManagedTensorVersioned {
    DLPackVersion version;
    void *manager_ctx;
    void (*deleter)(struct DLManagedTensorVersioned *self);
    uint64_t flags; /* bit 0: read-only */
    DLTensor dl_tensor;
} DLManagedTensorVersioned;

#ifdef __cplusplus
}
#endif
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Results ---------------------------------------------------------------------------------------------------- */

typedef int32_t probeprune_status;
enum {
    PROBEPRUNE_OK = 0,
    PROBEPRUNE_INVALID_ARGUMENT = 1, /* an invalid value, pointer or setting */
    PROBEPRUNE_INVALID_STRUCT = 2,   /* too short, or unknown fields that are not 0 */
    PROBEPRUNE_INVALID_TENSOR = 3,   /* dtype, device, strides, shape, alignment, version; overlapping outputs */
    PROBEPRUNE_FILE = 4,             /* missing, damaged, or of the wrong kind */
    PROBEPRUNE_DEVICE = 5,           /* unusable, or failed */
    PROBEPRUNE_OUT_OF_MEMORY = 6,    /* on the device; existing objects still work */
    PROBEPRUNE_NOT_FINITE = 7,       /* NaN or infinity in a model's states; the session stays usable */
    PROBEPRUNE_CANCELLED = 8,        /* on request; the session stays usable */
    PROBEPRUNE_BUSY = 9,             /* the session is in use by another thread, or by the call of this callback */
    PROBEPRUNE_POISONED = 10,        /* a fault broke the GPU for this process: restart the process */
    PROBEPRUNE_PANIC = 11,           /* a defect: the handle can only be freed */
    PROBEPRUNE_TOO_SMALL = 12        /* buffer or workspace */
};

/* Why the last call on this thread failed; "" if it did not. Valid until the next call on this thread. */
const char *probeprune_last_error(void);
/* "PROBEPRUNE_OK", ...; "unknown status" for other numbers. Static. */
const char *probeprune_status_name(probeprune_status status);

/* The library's PROBEPRUNE_ABI_VERSION: compare it with the header's. */
uint32_t probeprune_abi_version(void);
/* Version, and what the CUDA kernels were compiled for. Static. */
const char *probeprune_build_info(void);
/* 1 if there is a GPU that can run the kernels. Every build contains them; this call loads the driver. */
int32_t probeprune_has_cuda(void);

/* ---- Models ----------------------------------------------------------------------------------------------------- */

typedef struct probeprune_model probeprune_model;
typedef struct probeprune_calibration probeprune_calibration;
typedef struct probeprune_session probeprune_session;
typedef struct probeprune_tokenizer probeprune_tokenizer;

/* Called with `done` of `of` units. A result other than 0 ends the work with PROBEPRUNE_CANCELLED. */
typedef int32_t (*probeprune_progress)(void *user, uint64_t done, uint64_t of);
/* Called with every token of every sample as it is drawn. A result other than 0 ends generation. */
typedef int32_t (*probeprune_token)(void *user, uint64_t sample, uint32_t token);

/* On a GPU, of weights and activations: bf16 or f16; auto follows the checkpoint. On the CPU, which keeps the checkpoint's
 * weights, of activations in products: f32, which is auto, or bf16. */
enum {
    PROBEPRUNE_DTYPE_AUTO = 0,
    PROBEPRUNE_DTYPE_BF16 = 1,
    PROBEPRUNE_DTYPE_F16 = 2,
    PROBEPRUNE_DTYPE_F32 = 3
};

typedef struct probeprune_model_options {
    uint32_t struct_size;
    int32_t device_type;  /* kDLCPU (the default) or kDLCUDA */
    int32_t device_id;    /* the GPU's number */
    uint32_t threads;     /* of the CPU, at most 1024; 0: all cores. Results do not depend on it */
    int32_t dtype;        /* PROBEPRUNE_DTYPE_ */
    int32_t read_weights; /* 1: read weight files instead of mapping them */
    int32_t use_stream;   /* 1: work on `stream` instead of an own stream */
    uint32_t reserved;
    void *stream; /* CUstream or cudaStream_t of the primary context, NULL: legacy default; it outlives all sessions */
    probeprune_progress progress; /* layers loaded; may be NULL */
    void *user;
    /* A calibration of the same weights, by which MLP channels are sorted for channel_group. Sorted weights are copies, not
     * mapped. NULL: the checkpoint's order. Sessions report and accept the checkpoint's channel numbers either way. */
    const probeprune_calibration *channel_order;
} probeprune_model_options;
probeprune_status probeprune_model_options_init(probeprune_model_options *options, uint32_t struct_size);

enum { PROBEPRUNE_FAMILY_LLAMA = 0, PROBEPRUNE_FAMILY_OPT = 1 };

typedef struct probeprune_model_info {
    uint32_t struct_size;
    int32_t family; /* PROBEPRUNE_FAMILY_ */
    uint64_t vocab_size;
    uint64_t hidden_size;
    uint64_t intermediate_size;
    uint64_t num_hidden_layers;
    uint64_t num_attention_heads;
    uint64_t num_key_value_heads;
    uint64_t head_dim;
    uint64_t max_position_embeddings;
    uint64_t file_bytes; /* of the weight files */
} probeprune_model_info;
probeprune_status probeprune_model_info_init(probeprune_model_info *info, uint32_t struct_size);

/* Describes a model without loading it. `model`: a Hugging Face folder, "org/name" in the local cache, or
 * "bundled:tiny-llama" / "bundled:tiny-opt". Nothing is downloaded. */
probeprune_status probeprune_model_inspect(const char *model, probeprune_model_info *info);

/* Loads a model. options may be NULL. */
probeprune_status probeprune_model_load(const char *model, const probeprune_model_options *options,
                                        probeprune_model **out);
void probeprune_model_free(probeprune_model *model);
probeprune_status probeprune_model_get_info(const probeprune_model *model, probeprune_model_info *info);
/* Identifies the weights. Valid as long as the model. */
probeprune_status probeprune_model_fingerprint(const probeprune_model *model, const char **out);
/* Tokens that end a generation, from config.json. */
probeprune_status probeprune_model_eos_tokens(const probeprune_model *model, uint32_t *out, size_t capacity,
                                              size_t *count);

/* ---- Settings of the method ------------------------------------------------------------------------------------- */

enum {
    PROBEPRUNE_METHOD_NONE = 0, /* dense: nothing is pruned */
    PROBEPRUNE_METHOD_PP = 1,   /* Probe Pruning */
    PROBEPRUNE_METHOD_FULL_BATCH = 2,
    PROBEPRUNE_METHOD_WANDA_SP = 3, /* needs a calibration */
    PROBEPRUNE_METHOD_FLAP = 4,     /* needs a calibration with flap */
    PROBEPRUNE_METHOD_MAGNITUDE = 5,
    PROBEPRUNE_METHOD_RANDOM = 6,
    PROBEPRUNE_METHOD_FOLD = 7 /* needs a calibration with fold */
};
enum { PROBEPRUNE_METRIC_PPSP = 0, PROBEPRUNE_METRIC_WANDA_SP = 1, PROBEPRUNE_METRIC_FLAP = 2 };
enum {
    PROBEPRUNE_ORDER_TOKENS_SAMPLES = 0,
    PROBEPRUNE_ORDER_SAMPLES_TOKENS = 1,
    PROBEPRUNE_ORDER_TOKENS = 2, /* every sample is in the probe */
    PROBEPRUNE_ORDER_SAMPLES = 3 /* every token is in the probe */
};
/* probe_tokens in place of a share: at most half of a sample's tokens, and of all samples together at most a 20th of the batch's
 * tokens, but at least 2 of each. For small batches, such as one prompt. */
enum { PROBEPRUNE_PROBE_TOKENS_AUTO = -1 };
/* dense_below in place of a number: the batches that pruning would make no faster on this device run dense, by their expected cost. */
#define PROBEPRUNE_DENSE_BELOW_AUTO UINT32_MAX
enum { PROBEPRUNE_HISTORY_F32 = 0, PROBEPRUNE_HISTORY_F16 = 1 };
/* What a fold keeps: what explains most of the rest; or by the score of pp. */
enum { PROBEPRUNE_FOLD_PIVOT = 0, PROBEPRUNE_FOLD_SCORE = 1 };
/* How blocks share what is kept: alike; or, at the same FLOPs, by the losses of single blocks in the history file
 * (`probeprune calibrate --losses`). */
enum { PROBEPRUNE_ALLOCATION_UNIFORM = 0, PROBEPRUNE_ALLOCATION_MEASURED = 1 };
/* Whether a probe of every batch corrects a fold; and what the correction knows of the kept channels: calibration's variances
 * only, or all of their second moments, updated with every probe. */
enum { PROBEPRUNE_ADAPT_NONE = 0, PROBEPRUNE_ADAPT_PROBE = 1 };
enum { PROBEPRUNE_ADAPT_METRIC_DIAGONAL = 0, PROBEPRUNE_ADAPT_METRIC_FULL = 1 };
/* Which model runs the prompts of a fold: the folded one, or the dense one, whose run is the probe too. */
enum { PROBEPRUNE_PREFILL_PRUNED = 0, PROBEPRUNE_PREFILL_DENSE = 1 };
enum {
    PROBEPRUNE_COMPENSATE_NONE = 0,
    PROBEPRUNE_COMPENSATE_PROBE_MEAN = 1, /* pp, and wanda-sp */
    PROBEPRUNE_COMPENSATE_LINEAR = 2      /* pp, with a calibration that has linear maps of this rank */
};
/* skip_layer_count: the paper's layers 0, 1 and 2, as far as they exist. */
#define PROBEPRUNE_DEFAULT_LAYERS UINT64_MAX

typedef struct probeprune_settings {
    uint32_t struct_size;
    int32_t method;             /* PROBEPRUNE_METHOD_; NONE */
    int32_t metric;             /* PROBEPRUNE_METRIC_, of pp; PPSP */
    int32_t probe_order;        /* PROBEPRUNE_ORDER_; TOKENS_SAMPLES */
    double prune_ratio;         /* share of heads and channels over all layers, in [0, 1); 0 is dense to the bit */
    double probe_tokens;        /* in (0, 1]: the probe's share of tokens, or PROBEPRUNE_PROBE_TOKENS_AUTO; 0.5 */
    double probe_samples;       /* in (0, 1]: the probe's share of samples; 0.05 */
    double fixed_probe_weight;  /* in [0, 1], replaces the importance-scaled fusion; -1: off */
    double momentum;            /* in [0, 1], of history; 0.99 */
    int32_t parallel_probe;     /* 1: probe from the previous residual */
    int32_t history_dtype;      /* PROBEPRUNE_HISTORY_ */
    uint32_t history_bucket;    /* slots that share a row of history; 1 */
    uint32_t round_channels;    /* kept channels are a multiple of this; 64 */
    uint32_t flap_attention_factor; /* 4 or 2 */
    int32_t compensate;         /* PROBEPRUNE_COMPENSATE_, of pruned channels; NONE */
    uint32_t compensate_rank;   /* of LINEAR; 0: 32 */
    uint32_t channel_group;     /* keeps MLP channels in groups of 8 or 16, in a model loaded with channel_order;
                                   1 or 0: single channels */
    uint32_t dense_below;       /* batches of fewer tokens, pads included, run dense, or PROBEPRUNE_DENSE_BELOW_AUTO; 0: none */
    int32_t fold_choice;        /* PROBEPRUNE_FOLD_; PIVOT */
    int32_t adapt;              /* PROBEPRUNE_ADAPT_, of fold; NONE */
    int32_t adapt_metric;       /* PROBEPRUNE_ADAPT_METRIC_; DIAGONAL */
    uint64_t seed;              /* of random */
    const uint32_t *skip_layers; /* layers that stay dense */
    uint64_t skip_layer_count;   /* PROBEPRUNE_DEFAULT_LAYERS */
    uint64_t prior_tokens;       /* weight of the calibration mean in compensation, in probe tokens; 40 */
    uint64_t adapt_tokens;       /* tokens of a fold's probe, over all of its samples; 0: probe_tokens of every sample */
    uint64_t adapt_prior_tokens; /* tokens that calibration counts as in a correction; 300 */
    uint64_t adapt_every;        /* the fold is probed every so many batches while it fits them; 4 */
    double adapt_forgetting;     /* in (0, 1], by which earlier tokens lose weight in every update; 1: not at all */
    double adapt_threshold;      /* excess_error above which every batch is probed; 0.16 */
    int32_t allocation;          /* PROBEPRUNE_ALLOCATION_; UNIFORM */
    int32_t prefill;             /* PROBEPRUNE_PREFILL_, of fold; PRUNED */
    uint64_t probe_from;         /* only so many samples of a batch, its first, may be probed; 0: all */
} probeprune_settings;
probeprune_status probeprune_settings_init(probeprune_settings *settings, uint32_t struct_size);

typedef struct probeprune_limits {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t samples;  /* B of the largest batch */
    uint64_t tokens;   /* S of the largest batch or prompt */
    uint64_t capacity; /* tokens of the key/value cache, prompt and new ones; 0: the session does not generate */
} probeprune_limits;
probeprune_status probeprune_limits_init(probeprune_limits *limits, uint32_t struct_size);

typedef struct probeprune_memory {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t weights; /* bytes; on the CPU those of the mapped files */
    uint64_t scratch;
    uint64_t history;
    uint64_t probed; /* other buffers of probed blocks, corrections of a fold among them */
    uint64_t cache;  /* keys and values */
    uint64_t total;
    uint64_t compensation; /* compensation of pruned channels, and its scratch */
} probeprune_memory;
probeprune_status probeprune_memory_init(probeprune_memory *memory, uint32_t struct_size);

/* Memory of a model and one session, before anything is loaded. options and settings may be NULL. */
probeprune_status probeprune_memory_estimate(const char *model, const probeprune_model_options *options,
                                             const probeprune_settings *settings, const probeprune_limits *limits,
                                             probeprune_memory *out);

/* ---- Calibration: initial history, and the energies of the static methods ---------------------------------------- */

typedef struct probeprune_calibrate_options {
    uint32_t struct_size;
    int32_t flap;        /* 1: also the moments of FLAP, in three times the memory */
    uint64_t batch_size; /* samples at a time; 8 */
    probeprune_progress progress; /* samples done, once in each pass; may be NULL */
    void *user;
    uint32_t linear_rank; /* of linear maps for COMPENSATE_LINEAR, in a second pass; 0: none */
    int32_t fold;         /* 1: also the second moments for METHOD_FOLD, 4 GiB at a time, in a temporary file */
} probeprune_calibrate_options;
probeprune_status probeprune_calibrate_options_init(probeprune_calibrate_options *options, uint32_t struct_size);

/* Runs tokens (samples, length) dense, in a model without channel_order. options may be NULL. */
probeprune_status probeprune_calibrate(const probeprune_model *model, const uint32_t *tokens, size_t samples,
                                       size_t length, const probeprune_calibrate_options *options,
                                       probeprune_calibration **out);
/* Writes a history file, which the command line reads too. It is complete or absent. */
probeprune_status probeprune_calibration_save(const probeprune_calibration *calibration, const char *path);
/* Reads a history file of this model. */
probeprune_status probeprune_calibration_load(const probeprune_model *model, const char *path,
                                              probeprune_calibration **out);
/* The same before loading a model, named as in probeprune_model_load, to load it with this channel_order. */
probeprune_status probeprune_calibration_open(const char *model, const char *path, probeprune_calibration **out);
void probeprune_calibration_free(probeprune_calibration *calibration);

/* ---- Folded models ----------------------------------------------------------------------------------------------
 * A fold has fewer heads and channels for good, and last projections that stand for the others too. It is a model like any
 * other, and any number of sessions may share it. With method NONE they run it as it is. With method FOLD and the settings
 * that it was folded with they do the same, or correct it, each for itself, if adapt is PROBE. Other methods are refused. */

/* Folds a model that has all of its heads and channels. settings have method FOLD, and adapt PROBE if there will be
 * corrections, for which the fold keeps the original's weights; calibration has fold. progress may be NULL; it is called after
 * every layer that is folded, with the number of layers up to there. The fold outlives `model` and `calibration`. Its sessions
 * need no calibration, but may begin with the corrections of one: see probeprune_calibration_with_corrections. */
probeprune_status probeprune_model_fold(const probeprune_model *model, const probeprune_settings *settings,
                                        const probeprune_calibration *calibration, probeprune_progress progress,
                                        void *user, probeprune_model **out);
/* Writes a folded model, without corrections, as a new Hugging Face folder, which is complete or absent. config.json and the
 * tokenizer come from the original's folder. needs_code: 1 if transformers needs trust_remote_code to load it; may be NULL.
 * probeprune_model_load does not need that. */
probeprune_status probeprune_model_export(const probeprune_model *model, const char *folder, int32_t *needs_code);

/* ---- Weights for other engines: of any model, folded or not ------------------------------------------------------ */

typedef struct probeprune_layer_shape {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t heads;    /* query heads */
    uint64_t kv_heads; /* key/value heads */
    uint64_t channels; /* MLP channels */
} probeprune_layer_shape;
probeprune_status probeprune_layer_shape_init(probeprune_layer_shape *shape, uint32_t struct_size);
/* What the layer has. probeprune_model_info has the numbers of the original. */
probeprune_status probeprune_model_layer_shape(const probeprune_model *model, uint64_t layer,
                                               probeprune_layer_shape *out);
/* The key/value head of every query head of the layer. In a fold their groups may differ in size. */
probeprune_status probeprune_model_kv_head_of(const probeprune_model *model, uint64_t layer, uint32_t *out,
                                              size_t capacity, size_t *count);
probeprune_status probeprune_model_tensor_count(const probeprune_model *model, size_t *count);
/* A tensor's name, as in the checkpoint ("model.layers.0.self_attn.q_proj.weight"). Valid as long as the model. */
probeprune_status probeprune_model_tensor_name(const probeprune_model *model, size_t index, const char **out);
/* The tensor of this name in host memory, read-only. Matrices (out, in) have the dtype that the model runs in, on the CPU the
 * checkpoint's, and are there the model's own memory, not a copy; vectors are float32. The last projection of a folded block
 * has a bias, whether the original has one or not. A head that is tied to the embedding is not listed. MLP channels are in the
 * order of channel_order. Free it by probeprune_tensor_free, before the model or after it. */
probeprune_status probeprune_model_tensor(const probeprune_model *model, const char *name,
                                          DLManagedTensorVersioned **out);

/* ---- Sessions ---------------------------------------------------------------------------------------------------
 * A session has its own settings, buffers, history and cache; the model's weights are shared. To switch between dense
 * and pruned, keep one session of each kind. */

/* Copies settings (NULL: dense) and calibration (NULL: history starts at 0). */
probeprune_status probeprune_session_create(const probeprune_model *model, const probeprune_settings *settings,
                                            const probeprune_limits *limits,
                                            const probeprune_calibration *calibration, probeprune_session **out);
void probeprune_session_free(probeprune_session *session);
/* From any thread: ends the running call of the session, between two layers or tokens, with PROBEPRUNE_CANCELLED. Without
 * one it ends the next. */
probeprune_status probeprune_session_cancel(const probeprune_session *session);
/* Waits for the device. Late faults are reported here. */
probeprune_status probeprune_session_synchronize(probeprune_session *session);

typedef struct probeprune_layer_counts {
    uint32_t struct_size;
    int32_t probes_attention; /* 1: a probe runs before the block */
    int32_t probes_mlp;
    uint32_t reserved;
    uint64_t heads;       /* kept query heads */
    uint64_t kv_heads;    /* key/value heads computed, at most */
    uint64_t channels;    /* kept MLP channels */
    double head_ratio;    /* share pruned */
    double channel_ratio; /* share pruned */
} probeprune_layer_counts;
probeprune_status probeprune_layer_counts_init(probeprune_layer_counts *counts, uint32_t struct_size);
/* Counts depend on settings (FLAP: on calibration), never on a batch. */
probeprune_status probeprune_session_layer_counts(probeprune_session *session, uint64_t layer,
                                                  probeprune_layer_counts *out);

typedef struct probeprune_corrections {
    uint32_t struct_size;
    int32_t adapting;    /* 1: probes correct the fold */
    double probed_share; /* of the batches so far; NaN: none yet, or not a corrected fold */
    double excess_error; /* of the fold on the latest probe: about 0 where calibration covers the text; NaN: no probe yet */
} probeprune_corrections;
probeprune_status probeprune_corrections_init(probeprune_corrections *corrections, uint32_t struct_size);
probeprune_status probeprune_session_corrections(probeprune_session *session, probeprune_corrections *out);
/* 0: keeps the fold as corrected so far, and probes no further batches; 1: goes on. */
probeprune_status probeprune_session_set_adapting(probeprune_session *session, int32_t active);
/* Forgets all corrections, also those that the session began with, and the numbers of probeprune_corrections. */
probeprune_status probeprune_session_reset_corrections(probeprune_session *session);
/* A copy of a calibration, with the session's corrections. They are saved with it, and sessions of the same fold that are
 * created with it begin with them. */
probeprune_status probeprune_calibration_with_corrections(const probeprune_calibration *calibration,
                                                          probeprune_session *session, probeprune_calibration **out);

typedef struct probeprune_work {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t probe_samples; /* B_p; 0 without a probe */
    uint64_t probe_tokens;  /* S_p */
    double flops_share;     /* projection FLOPs, the probe's included, as a share of the dense model's */
    double probe_flops_share;
} probeprune_work;
probeprune_status probeprune_work_init(probeprune_work *work, uint32_t struct_size);
/* The probe and the work of a batch of this shape. */
probeprune_status probeprune_session_work(probeprune_session *session, size_t samples, size_t length,
                                          probeprune_work *out);

/* Batches: tokens (samples, length), mask of the same shape with 0 for pads, or NULL. With update_history the batch
 * updates history afterwards. */

/* Mean cross-entropy (nats) of next-token predictions, pads excluded. */
probeprune_status probeprune_session_evaluate(probeprune_session *session, const uint32_t *tokens,
                                              const uint32_t *mask, size_t samples, size_t length,
                                              int32_t update_history, double *loss);
/* Cross-entropy (nats) of each token's successor, (samples, length): its negative log-likelihood; 0 without a successor. */
probeprune_status probeprune_session_losses(probeprune_session *session, const uint32_t *tokens,
                                            const uint32_t *mask, size_t samples, size_t length,
                                            int32_t update_history, float *out, size_t capacity, size_t *count);
/* Runs the decoder without the head. */
probeprune_status probeprune_session_forward(probeprune_session *session, const uint32_t *tokens,
                                             const uint32_t *mask, size_t samples, size_t length,
                                             int32_t update_history);
/* Logits (samples, length, V) of the first samples of the last batch, float32. */
probeprune_status probeprune_session_logits(probeprune_session *session, size_t samples, float *out, size_t capacity,
                                            size_t *count);
/* Logits (samples, slot_count, V) at these token slots, which ascend, of the first samples of the last batch; no others are
 * computed. */
probeprune_status probeprune_session_logits_at(probeprune_session *session, size_t samples, const uint32_t *slots,
                                               size_t slot_count, float *out, size_t capacity, size_t *count);
/* All of them as a tensor on the model's device, complete when this returns. Free it by probeprune_tensor_free. */
probeprune_status probeprune_session_export_logits(probeprune_session *session, size_t samples,
                                                   DLManagedTensorVersioned **out);

enum { PROBEPRUNE_BLOCK_ATTENTION = 0, PROBEPRUNE_BLOCK_MLP = 1 };
/* The block's kept heads or channels, ascending; all of them in a dense block; of a fold the original's that it kept. */
probeprune_status probeprune_session_kept(probeprune_session *session, uint64_t layer, int32_t block, uint32_t *out,
                                          size_t capacity, size_t *count);
/* The same as an int32 tensor on the model's device; a copy. */
probeprune_status probeprune_session_export_kept(probeprune_session *session, uint64_t layer, int32_t block,
                                                 DLManagedTensorVersioned **out);
/* The block's scores in its last selection, float32: of heads, or of channels or groups in the order of channel_order. None
 * in a block that is dense, ran dense in the last batch, or is pinned. */
probeprune_status probeprune_session_scores(probeprune_session *session, uint64_t layer, int32_t block, float *out,
                                            size_t capacity, size_t *count);
/* Fixes the kept sets from now on: int32 or uint32 tensors in host memory, kept[2 layer + block], with the layer's number of
 * entries; NULL for dense blocks. `count` is twice the number of layers. */
probeprune_status probeprune_session_pin(probeprune_session *session, const DLTensor *const *kept, size_t count);

/* ---- Generation ------------------------------------------------------------------------------------------------- */

/* Step by step. Runs prompts (samples, length), padded on the left where mask is 0, and stores their keys and values and,
 * with pp, their kept sets. reprobe_every: selects MLP channels again after this number of tokens; 0: never. */
probeprune_status probeprune_session_prefill(probeprune_session *session, const uint32_t *tokens,
                                             const uint32_t *mask, size_t samples, size_t length,
                                             uint64_t reprobe_every);
/* One more token per sample. active (samples): 0 for finished samples, whose token is a pad; NULL: all are active. Another
 * batch in between, or a step that failed or was cancelled while running, ends the generation: start again with prefill. */
probeprune_status probeprune_session_decode(probeprune_session *session, const uint32_t *tokens,
                                            const uint32_t *active, size_t samples);
/* Logits (samples, V) of the next tokens, after prefill or decode. */
probeprune_status probeprune_session_next_logits(probeprune_session *session, float *out, size_t capacity,
                                                 size_t *count);
/* The most likely next token of every sample. */
probeprune_status probeprune_session_next_tokens(probeprune_session *session, uint32_t *out, size_t capacity,
                                                 size_t *count);

typedef struct probeprune_generate_options {
    uint32_t struct_size;
    float temperature; /* 0: the most likely token */
    float top_p;       /* in (0, 1] */
    uint32_t top_k;    /* 0: all */
    uint64_t seed;
    uint64_t max_new_tokens; /* per sample; 64 */
    uint64_t reprobe_every;  /* 0: never */
    const uint32_t *eos_tokens; /* end a sample */
    uint64_t eos_token_count;
    probeprune_token on_token; /* may be NULL */
    void *user;
} probeprune_generate_options;
probeprune_status probeprune_generate_options_init(probeprune_generate_options *options, uint32_t struct_size);

/* All at once. prompts[b] has lengths[b] tokens; out is (samples, max_new_tokens), and counts[b] entries of row b are
 * written. */
probeprune_status probeprune_session_generate(probeprune_session *session, const uint32_t *const *prompts,
                                              const size_t *lengths, size_t samples,
                                              const probeprune_generate_options *options, uint32_t *out,
                                              size_t *counts);

/* ---- Tokenizers ------------------------------------------------------------------------------------------------- */

/* tokenizer.json of a model, named as for probeprune_model_inspect. */
probeprune_status probeprune_tokenizer_load(const char *model, probeprune_tokenizer **out);
void probeprune_tokenizer_free(probeprune_tokenizer *tokenizer);
/* Token ids of `bytes` bytes of UTF-8. */
probeprune_status probeprune_tokenizer_encode(const probeprune_tokenizer *tokenizer, const char *text, size_t bytes,
                                              int32_t add_special_tokens, uint32_t *out, size_t capacity,
                                              size_t *count);
/* UTF-8 without a NUL at its end; capacity and count are bytes. */
probeprune_status probeprune_tokenizer_decode(const probeprune_tokenizer *tokenizer, const uint32_t *tokens,
                                              size_t token_count, int32_t skip_special_tokens, char *out,
                                              size_t capacity, size_t *count);

/* ---- Tensors ---------------------------------------------------------------------------------------------------- */

/* The tensor inside another library's managed tensor, after checks of version, flags and fields. Ownership does not change:
 * out points into it, and you still call its deleter. writable: refuse read-only memory. */
probeprune_status probeprune_tensor_import(const DLManagedTensorVersioned *managed, int32_t writable,
                                           const DLTensor **out);
/* Calls the tensor's deleter. NULL is allowed. */
void probeprune_tensor_free(DLManagedTensorVersioned *managed);

/* ---- Operations -------------------------------------------------------------------------------------------------
 * Single steps of the method, in your tensors, on your stream. For every operation X:
 *
 *     probeprune_X_args_init(&args, sizeof args)                   then set tensors and settings
 *     probeprune_X_workspace_size(device, &args, &bytes)           depends on shapes only
 *     probeprune_X(device, &args, workspace, bytes, stream)
 *
 * Tensors are on the device of `device`, compact row-major (strides may be NULL), every dimension from 1 to 2^31 - 1. Rows
 * (T, .) may also be given as (B, S, .). Kinds:
 *   states   float32 on the CPU; bfloat16 or float16 on a GPU, the same throughout a call
 *   weight   float32, float16 or bfloat16 on the CPU; the states' dtype on a GPU
 *   floats   float32
 *   indices  int32 or uint32
 * No output may overlap another tensor or the workspace. data + byte_offset is aligned to the dtype on the CPU, to 16 bytes
 * on a GPU. Tensors marked "optional" may be NULL.
 *
 * workspace: memory on the device, aligned to 256 bytes, not shared with a concurrent call; NULL is allowed for 0 bytes. Its
 * contents do not matter.
 *
 * On a GPU calls only enqueue: they neither allocate device memory nor wait, and may be captured into a graph (run the
 * operation once before, to load its kernel). stream: CUstream or cudaStream_t of the device's primary context, NULL: legacy
 * default. Tensors must live until the work is done. Indices on the device are not checked: wrong ones break the context.
 * probeprune_synchronize reports late faults. Sizes, rows of a batch and widths of at most 2,000,000 each.
 *
 * On the CPU calls return when the work is done; stream is ignored; indices are checked. Threads and their buffers belong to
 * the device. A call allocates at most lists of the length of its indices, biases, scores or rows of history, and frees them
 * before it returns.
 *
 * The same input gives the same bits, for any number of threads. */

typedef struct probeprune_device probeprune_device;

typedef struct probeprune_device_options {
    uint32_t struct_size;
    int32_t device_type; /* kDLCPU or kDLCUDA */
    int32_t device_id;
    uint32_t threads; /* of the CPU, at most 1024; 0: all cores */
} probeprune_device_options;
probeprune_status probeprune_device_options_init(probeprune_device_options *options, uint32_t struct_size);

/* Starts threads, or loads all kernels onto a GPU. NULL options: the CPU. */
probeprune_status probeprune_device_open(const probeprune_device_options *options, probeprune_device **out);
void probeprune_device_free(probeprune_device *device);
/* Waits for all work on the stream. */
probeprune_status probeprune_synchronize(const probeprune_device *device, void *stream);

enum { PROBEPRUNE_NORM_RMS = 0, PROBEPRUNE_NORM_LAYER = 1, PROBEPRUNE_NORM_COPY = 2 };

/* out = norm(x), and sum_squares = sum of x^2 per row: the residual importance, by which probes are selected. */
typedef struct probeprune_norm_args {
    uint32_t struct_size;
    int32_t kind; /* PROBEPRUNE_NORM_ */
    float eps;    /* 1e-5 */
    uint32_t reserved;
    const DLTensor *x;           /* states (T, H) */
    const DLTensor *weight;      /* floats (H), optional */
    const DLTensor *bias;        /* floats (H), optional */
    const DLTensor *out;         /* written: states (T, H) */
    const DLTensor *sum_squares; /* written: floats (T) */
} probeprune_norm_args;

/* Selects the probe: the tokens and samples with the largest residual norms (paper section 3.1). The lengths of `samples`
 * and `slots` are the numbers to keep. */
typedef struct probeprune_probe_select_args {
    uint32_t struct_size;
    int32_t order;               /* PROBEPRUNE_ORDER_ */
    uint32_t leading_slot_limit; /* probes of at most this many tokens include the first; 10 */
    uint32_t reserved;
    const DLTensor *sum_squares;     /* floats (B, S) */
    const DLTensor *positions;       /* indices (B, S), required for probe_positions */
    const DLTensor *mask;            /* indices (B, S), 0 for pads, optional */
    const DLTensor *samples;         /* written: indices (B_p), ascending */
    const DLTensor *slots;           /* written: indices (S_p), ascending */
    const DLTensor *probe_positions; /* written: indices (B_p, S_p), optional */
    const DLTensor *probe_mask;      /* written: indices (B_p, S_p), optional */
} probeprune_probe_select_args;

/* out = the probe's rows of x. */
typedef struct probeprune_probe_gather_args {
    uint32_t struct_size;
    uint32_t reserved;
    const DLTensor *x;       /* states (B, S, H) */
    const DLTensor *samples; /* indices (B_p), ascending */
    const DLTensor *slots;   /* indices (S_p), ascending */
    const DLTensor *out;     /* written: states (B_p, S_p, H) */
} probeprune_probe_gather_args;

enum {
    PROBEPRUNE_ACTIVATION_NONE = 0,
    PROBEPRUNE_ACTIVATION_SILU = 1,
    PROBEPRUNE_ACTIVATION_RELU = 2,
    PROBEPRUNE_ACTIVATION_GELU = 3,
    PROBEPRUNE_ACTIVATION_GELU_TANH = 4
};

/* out = activation(x W[kept]^T + bias[kept]) scale: the kept rows of a weight. */
typedef struct probeprune_gemm_sparse_rows_args {
    uint32_t struct_size;
    uint32_t block_width; /* rows per index in kept: 1, or D for heads */
    int32_t activation;   /* PROBEPRUNE_ACTIVATION_; NONE */
    float scale;          /* 1 */
    const DLTensor *x;           /* states (T, H) */
    const DLTensor *weight;      /* weight (C, H) */
    const DLTensor *bias;        /* floats (C), optional */
    const DLTensor *kept;        /* indices (n), ascending, optional: all */
    const DLTensor *energy;      /* written: floats (S, n block_width), mean over samples of out^2; optional */
    const DLTensor *energy_mask; /* indices (B, S), optional */
    const DLTensor *out;         /* written: states (T, n block_width) */
} probeprune_gemm_sparse_rows_args;

/* out = activation(x gate[kept]^T) (x up[kept]^T): fused SwiGLU. */
typedef struct probeprune_gemm_sparse_swiglu_args {
    uint32_t struct_size;
    uint32_t block_width;
    int32_t activation; /* of the gate; SILU */
    uint32_t reserved;
    const DLTensor *x;           /* states (T, H) */
    const DLTensor *gate;        /* weight (I, H) */
    const DLTensor *up;          /* weight (I, H) */
    const DLTensor *gate_bias;   /* floats (I), optional */
    const DLTensor *up_bias;     /* floats (I), optional */
    const DLTensor *kept;        /* indices (n), ascending, optional: all */
    const DLTensor *energy;      /* written: floats (S, n block_width), optional */
    const DLTensor *energy_mask; /* indices (B, S), optional */
    const DLTensor *out;         /* written: states (T, n block_width) */
} probeprune_gemm_sparse_swiglu_args;

/* out = residual + a W[:, kept]^T + bias: the kept columns of a weight, on compact intermediate states.
 *
 * On a GPU the weight is stored column by column, strides (1, H), so that a kept column is contiguous; transpose it once at
 * load time. The CPU accepts that too, through a workspace of the weight's size, but is faster with rows. */
typedef struct probeprune_gemm_sparse_columns_args {
    uint32_t struct_size;
    uint32_t block_width;
    const DLTensor *a;        /* states (T, n block_width) */
    const DLTensor *weight;   /* weight (H, C) */
    const DLTensor *kept;     /* indices (n), ascending, optional: all */
    const DLTensor *bias;     /* floats (H), optional */
    const DLTensor *residual; /* states (T, H), optional */
    const DLTensor *out;      /* written: states (T, H) */
} probeprune_gemm_sparse_columns_args;

/* out = mean over samples of a^2; with a mask, the sum over samples without a pad divided by their number + 1e-3. */
typedef struct probeprune_energy_args {
    uint32_t struct_size;
    uint32_t reserved;
    const DLTensor *a;    /* states (B, S, C) */
    const DLTensor *mask; /* indices (B, S), optional */
    const DLTensor *out;  /* written: floats (S, C) */
} probeprune_energy_args;

/* The metric's static part, once per weight: sqrt(sum W^4), sum |W| or sum W^2 of every column. Storage as in
 * probeprune_gemm_sparse_columns. */
typedef struct probeprune_column_statistic_args {
    uint32_t struct_size;
    int32_t metric;         /* PROBEPRUNE_METRIC_ */
    const DLTensor *weight; /* weight (H, C) */
    const DLTensor *out;    /* written: floats (C) */
} probeprune_column_statistic_args;

/* Scores of channels or heads: energies fused with history, summed over the probe's tokens, times the statistic. */
typedef struct probeprune_channel_score_args {
    uint32_t struct_size;
    int32_t metric;             /* PROBEPRUNE_METRIC_ */
    uint32_t head_dim;          /* scores heads of this many channels; 0: channels */
    uint32_t bucket;            /* slots that share a row of history; 1 */
    uint64_t history_slots;     /* later slots count as 0; 0: all that fit into the rows */
    double fixed_probe_weight;  /* in [0, 1], replaces the importance-scaled weight; -1: off */
    const DLTensor *p;         /* floats (S_p, C) */
    const DLTensor *statistic; /* floats (C) */
    const DLTensor *history;   /* floats, or float16 square roots, (rows, C); optional */
    const DLTensor *slots;     /* indices (S_p) of the probe's tokens; with history only */
    const DLTensor *out;       /* written: floats, one per channel, head or group */
    uint32_t channel_group;    /* 8 or 16: scores groups of channels by their L2 norm; 0 or 1: channels */
    uint32_t reserved;
} probeprune_channel_score_args;

/* The indices of the highest scores, one per entry of kept; ties keep the lower index. */
typedef struct probeprune_topk_keep_args {
    uint32_t struct_size;
    uint32_t fault_tag;     /* not 0 */
    const DLTensor *scores; /* floats (C or N) */
    const DLTensor *kept;   /* written: indices (n), ascending */
    const DLTensor *fault;  /* written: indices (1), set to fault_tag if it is 0 and a score is not finite; optional */
} probeprune_topk_keep_args;

/* The key/value heads of kept query heads, ascending, padded with 0xffffffff; and each query head's position among
 * them. */
typedef struct probeprune_keep_kv_heads_args {
    uint32_t struct_size;
    uint32_t gqa_group;         /* query heads per key/value head */
    const DLTensor *heads;      /* indices (n), ascending */
    const DLTensor *kv_heads;   /* written: indices (min(n, K)) */
    const DLTensor *kv_head_of; /* written: indices (n) */
} probeprune_keep_kv_heads_args;

/* Causal softmax attention of kept heads. Query i is at slot keys - S + i. A query without visible keys gives 0. */
typedef struct probeprune_attention_args {
    uint32_t struct_size;
    uint32_t keys;   /* valid keys per sample; 0: all */
    uint32_t window; /* a query sees keys fewer than this many slots back; 0: all */
    float scale;     /* of q k; 0: D^-1/2 */
    const DLTensor *q;          /* states (B, S, heads, D) */
    const DLTensor *k;          /* states (B, capacity, kv heads, D) */
    const DLTensor *v;          /* states (B, capacity, kv heads, D) */
    const DLTensor *kv_head_of; /* indices (heads): the key/value head of each query head */
    const DLTensor *mask;       /* indices (B, capacity): 0 hides a key; optional */
    const DLTensor *slots;      /* indices (keys): slots of a probe's tokens, for window; optional */
    const DLTensor *out;        /* written: states (B, S, heads, D) */
} probeprune_attention_args;

/* history = momentum history + (1 - momentum) p at slots at, at + 1, ... and kept channels; the rest does not change. */
typedef struct probeprune_history_update_args {
    uint32_t struct_size;
    uint32_t block_width;
    uint32_t bucket;
    uint32_t reserved;
    uint64_t history_slots; /* 0: all that fit into the rows */
    uint64_t at;
    double momentum;         /* in [0, 1]; 0.99 */
    const DLTensor *p;       /* floats (S, n block_width) */
    const DLTensor *kept;    /* indices (n), ascending */
    const DLTensor *history; /* read and written: floats, or float16 square roots, (rows, C) */
} probeprune_history_update_args;

probeprune_status probeprune_norm_args_init(probeprune_norm_args *args, uint32_t struct_size);
probeprune_status probeprune_norm_workspace_size(const probeprune_device *device,
    const probeprune_norm_args *args, size_t *bytes);
probeprune_status probeprune_norm(const probeprune_device *device, const probeprune_norm_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

probeprune_status probeprune_probe_select_args_init(probeprune_probe_select_args *args, uint32_t struct_size);
probeprune_status probeprune_probe_select_workspace_size(const probeprune_device *device,
    const probeprune_probe_select_args *args, size_t *bytes);
probeprune_status probeprune_probe_select(const probeprune_device *device, const probeprune_probe_select_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

probeprune_status probeprune_probe_gather_args_init(probeprune_probe_gather_args *args, uint32_t struct_size);
probeprune_status probeprune_probe_gather_workspace_size(const probeprune_device *device,
    const probeprune_probe_gather_args *args, size_t *bytes);
probeprune_status probeprune_probe_gather(const probeprune_device *device, const probeprune_probe_gather_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

probeprune_status probeprune_gemm_sparse_rows_args_init(probeprune_gemm_sparse_rows_args *args, uint32_t struct_size);
probeprune_status probeprune_gemm_sparse_rows_workspace_size(const probeprune_device *device,
    const probeprune_gemm_sparse_rows_args *args, size_t *bytes);
probeprune_status probeprune_gemm_sparse_rows(const probeprune_device *device, const probeprune_gemm_sparse_rows_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

probeprune_status probeprune_gemm_sparse_swiglu_args_init(probeprune_gemm_sparse_swiglu_args *args, uint32_t struct_size);
probeprune_status probeprune_gemm_sparse_swiglu_workspace_size(const probeprune_device *device,
    const probeprune_gemm_sparse_swiglu_args *args, size_t *bytes);
probeprune_status probeprune_gemm_sparse_swiglu(const probeprune_device *device, const probeprune_gemm_sparse_swiglu_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

probeprune_status probeprune_gemm_sparse_columns_args_init(probeprune_gemm_sparse_columns_args *args, uint32_t struct_size);
probeprune_status probeprune_gemm_sparse_columns_workspace_size(const probeprune_device *device,
    const probeprune_gemm_sparse_columns_args *args, size_t *bytes);
probeprune_status probeprune_gemm_sparse_columns(const probeprune_device *device, const probeprune_gemm_sparse_columns_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

probeprune_status probeprune_energy_args_init(probeprune_energy_args *args, uint32_t struct_size);
probeprune_status probeprune_energy_workspace_size(const probeprune_device *device,
    const probeprune_energy_args *args, size_t *bytes);
probeprune_status probeprune_energy(const probeprune_device *device, const probeprune_energy_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

probeprune_status probeprune_column_statistic_args_init(probeprune_column_statistic_args *args, uint32_t struct_size);
probeprune_status probeprune_column_statistic_workspace_size(const probeprune_device *device,
    const probeprune_column_statistic_args *args, size_t *bytes);
probeprune_status probeprune_column_statistic(const probeprune_device *device, const probeprune_column_statistic_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

probeprune_status probeprune_channel_score_args_init(probeprune_channel_score_args *args, uint32_t struct_size);
probeprune_status probeprune_channel_score_workspace_size(const probeprune_device *device,
    const probeprune_channel_score_args *args, size_t *bytes);
probeprune_status probeprune_channel_score(const probeprune_device *device, const probeprune_channel_score_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

probeprune_status probeprune_topk_keep_args_init(probeprune_topk_keep_args *args, uint32_t struct_size);
probeprune_status probeprune_topk_keep_workspace_size(const probeprune_device *device,
    const probeprune_topk_keep_args *args, size_t *bytes);
probeprune_status probeprune_topk_keep(const probeprune_device *device, const probeprune_topk_keep_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

probeprune_status probeprune_keep_kv_heads_args_init(probeprune_keep_kv_heads_args *args, uint32_t struct_size);
probeprune_status probeprune_keep_kv_heads_workspace_size(const probeprune_device *device,
    const probeprune_keep_kv_heads_args *args, size_t *bytes);
probeprune_status probeprune_keep_kv_heads(const probeprune_device *device, const probeprune_keep_kv_heads_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

probeprune_status probeprune_attention_args_init(probeprune_attention_args *args, uint32_t struct_size);
probeprune_status probeprune_attention_workspace_size(const probeprune_device *device,
    const probeprune_attention_args *args, size_t *bytes);
probeprune_status probeprune_attention(const probeprune_device *device, const probeprune_attention_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

probeprune_status probeprune_history_update_args_init(probeprune_history_update_args *args, uint32_t struct_size);
probeprune_status probeprune_history_update_workspace_size(const probeprune_device *device,
    const probeprune_history_update_args *args, size_t *bytes);
probeprune_status probeprune_history_update(const probeprune_device *device, const probeprune_history_update_args *args,
    void *workspace, size_t workspace_bytes, void *stream);

#ifdef __cplusplus
}
#endif

#endif
