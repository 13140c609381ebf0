/* A folded model from C: its sessions, its layers, and its weights for another engine.
 *
 *     cc fold.c $(pkg-config --cflags --libs probeprune) -o fold && ./fold [MODEL [FOLDER]]
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

enum { SAMPLES = 24, TOKENS = 16, BATCH = 4, LAYER = 5 };

static int32_t show_layer(void *user, uint64_t done, uint64_t of) {
    (void)user;
    printf("\r%d of %d layers", (int)done, (int)of);
    return 0; /* go on */
}

/* Text (SAMPLES, TOKENS) for want of better: what the model itself says. Text that calibrates has to be like the later input. */
static void write_text(const probeprune_model *model, uint64_t seed, uint32_t *tokens) {
    probeprune_limits limits;
    probeprune_generate_options generating;
    probeprune_session *session = NULL;
    uint32_t first[SAMPLES], next[SAMPLES * (TOKENS - 1)];
    const uint32_t *prompts[SAMPLES];
    size_t lengths[SAMPLES], counts[SAMPLES], i;

    for (i = 0; i < SAMPLES; i++) {
        first[i] = (uint32_t)(100 + i);
        prompts[i] = &first[i];
        lengths[i] = 1;
    }
    CHECK(probeprune_limits_init(&limits, sizeof limits));
    limits.samples = SAMPLES;
    limits.capacity = TOKENS;
    CHECK(probeprune_session_create(model, NULL, &limits, NULL, &session));
    CHECK(probeprune_generate_options_init(&generating, sizeof generating));
    generating.temperature = 1;
    generating.seed = seed;
    generating.max_new_tokens = TOKENS - 1;
    CHECK(probeprune_session_generate(session, prompts, lengths, SAMPLES, &generating, next, counts));
    probeprune_session_free(session);
    for (i = 0; i < SAMPLES; i++) {
        tokens[i * TOKENS] = first[i];
        memcpy(&tokens[i * TOKENS + 1], &next[i * (TOKENS - 1)], (TOKENS - 1) * sizeof *next);
    }
}

/* Mean cross-entropy over all batches of text. */
static double loss_of(probeprune_session *session, const uint32_t *text) {
    double loss, sum = 0;
    size_t at;
    for (at = 0; at < SAMPLES; at += BATCH) {
        CHECK(probeprune_session_evaluate(session, &text[at * TOKENS], NULL, BATCH, TOKENS, 1, &loss));
        sum += loss;
    }
    return sum * BATCH / SAMPLES;
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "bundled:tiny-llama";
    const char *part = "model.layers.5.mlp.down_proj.weight";
    probeprune_model_options options;
    probeprune_calibrate_options calibrating;
    probeprune_settings settings;
    probeprune_limits limits;
    probeprune_corrections corrections;
    probeprune_layer_shape shape;
    probeprune_model *model = NULL, *folded = NULL;
    probeprune_calibration *calibration = NULL;
    probeprune_session *plain = NULL, *corrected = NULL;
    DLManagedTensorVersioned *weight = NULL;
    uint32_t text[SAMPLES * TOKENS];
    double as_it_is;
    size_t count = 0;
    int32_t needs_code = 0;
    int agrees;

    CHECK(probeprune_model_options_init(&options, sizeof options));
    options.threads = 2;
    CHECK(probeprune_model_load(name, &options, &model));
    write_text(model, 1, text);
    CHECK(probeprune_calibrate_options_init(&calibrating, sizeof calibrating));
    calibrating.fold = 1;
    CHECK(probeprune_calibrate(model, text, SAMPLES, TOKENS, &calibrating, &calibration));
    CHECK(probeprune_settings_init(&settings, sizeof settings));
    settings.method = PROBEPRUNE_METHOD_FOLD;
    settings.prune_ratio = 0.4;
    settings.round_channels = 1;
    settings.adapt = PROBEPRUNE_ADAPT_PROBE;
    CHECK(probeprune_model_fold(model, &settings, calibration, show_layer, NULL, &folded));
    write_text(model, 2, text);
    /* The fold keeps what it needs of them. */
    probeprune_calibration_free(calibration);
    probeprune_model_free(model);

    CHECK(probeprune_limits_init(&limits, sizeof limits));
    limits.samples = BATCH;
    limits.tokens = TOKENS;
    CHECK(probeprune_session_create(folded, NULL, &limits, NULL, &plain));
    CHECK(probeprune_session_create(folded, &settings, &limits, NULL, &corrected));
    as_it_is = loss_of(plain, text);
    printf("\nloss %.4f, corrected %.4f; ", as_it_is, loss_of(corrected, text));
    CHECK(probeprune_corrections_init(&corrections, sizeof corrections));
    CHECK(probeprune_session_corrections(corrected, &corrections));
    printf("excess error %.3f, %.0f%% of batches probed\n", corrections.excess_error, 100 * corrections.probed_share);

    CHECK(probeprune_layer_shape_init(&shape, sizeof shape));
    CHECK(probeprune_model_layer_shape(folded, LAYER, &shape));
    CHECK(probeprune_model_tensor_count(folded, &count));
    CHECK(probeprune_model_tensor(folded, part, &weight));
    printf("%d tensors; %s is (%d, %d), %d bits\n", (int)count, part, (int)weight->dl_tensor.shape[0],
           (int)weight->dl_tensor.shape[1], weight->dl_tensor.dtype.bits);
    agrees = weight->dl_tensor.shape[1] == (int64_t)shape.channels && corrections.probed_share == 1;
    probeprune_tensor_free(weight);
    if (argc > 2) {
        CHECK(probeprune_model_export(folded, argv[2], &needs_code));
        printf("%s%s\n", argv[2], needs_code ? ": with trust_remote_code=True" : "");
    }
    probeprune_session_free(plain);
    probeprune_session_free(corrected);
    probeprune_model_free(folded);
    return agrees ? 0 : 1;
}
