/* A folded model from C: its sessions, its layers, and its weights for another engine.
 *
 *     cc fold.c $(pkg-config --cflags --libs probeprune) -o fold && ./fold [MODEL [FOLDER]]
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

enum { SAMPLES = 16, TOKENS = 16, BATCH = 4, FOLDED = 2, MOST_LAYERS = 256 };

static int32_t show_layer(void *user, uint64_t done, uint64_t of) {
    (void)user;
    printf("\r%d of %d layers", (int)done, (int)of);
    return 0; /* go on */
}

/* Text (SAMPLES, TOKENS) for want of better: what the model itself says. Text that calibrates has to be like the later input. */
static void write_text(const probeprune_model *model, uint32_t *tokens) {
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
    generating.max_new_tokens = TOKENS - 1;
    CHECK(probeprune_session_generate(session, prompts, lengths, SAMPLES, &generating, next, counts));
    probeprune_session_free(session);
    for (i = 0; i < SAMPLES; i++) {
        tokens[i * TOKENS] = first[i];
        memcpy(&tokens[i * TOKENS + 1], &next[i * (TOKENS - 1)], (TOKENS - 1) * sizeof *next);
    }
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "bundled:tiny-llama";
    char part[64];
    uint32_t dense[MOST_LAYERS], layers, layer;
    probeprune_model_info info;
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
    const uint32_t *later;
    double as_it_is, with_corrections;
    size_t count = 0;
    int32_t needs_code = 0;
    int agrees;

    CHECK(probeprune_model_options_init(&options, sizeof options));
    options.threads = 2;
    CHECK(probeprune_model_load(name, &options, &model));
    write_text(model, text);
    CHECK(probeprune_calibrate_options_init(&calibrating, sizeof calibrating));
    calibrating.fold = 1;
    CHECK(probeprune_calibrate(model, text, SAMPLES - BATCH, TOKENS, &calibrating, &calibration));
    CHECK(probeprune_settings_init(&settings, sizeof settings));
    settings.method = PROBEPRUNE_METHOD_FOLD;
    /* 40 % of the last two layers. To be quick, the others stay as they are. */
    CHECK(probeprune_model_info_init(&info, sizeof info));
    CHECK(probeprune_model_get_info(model, &info));
    layers = (uint32_t)info.num_hidden_layers;
    if (layers < FOLDED || layers > MOST_LAYERS) return 1;
    for (layer = 0; layer < layers - FOLDED; layer++) dense[layer] = layer;
    settings.skip_layers = dense;
    settings.skip_layer_count = layers - FOLDED;
    settings.prune_ratio = 0.4 * FOLDED / layers;
    settings.round_channels = 1;
    settings.adapt = PROBEPRUNE_ADAPT_PROBE;
    CHECK(probeprune_model_fold(model, &settings, calibration, show_layer, NULL, &folded));
    /* The fold keeps what it needs of them. */
    probeprune_calibration_free(calibration);
    probeprune_model_free(model);

    CHECK(probeprune_limits_init(&limits, sizeof limits));
    limits.samples = BATCH;
    limits.tokens = TOKENS;
    CHECK(probeprune_session_create(folded, NULL, &limits, NULL, &plain));
    CHECK(probeprune_session_create(folded, &settings, &limits, NULL, &corrected));
    later = &text[(SAMPLES - BATCH) * TOKENS];
    CHECK(probeprune_session_evaluate(plain, later, NULL, BATCH, TOKENS, 1, &as_it_is));
    CHECK(probeprune_session_evaluate(corrected, later, NULL, BATCH, TOKENS, 1, &with_corrections));
    printf("\nloss %.4f, corrected %.4f; ", as_it_is, with_corrections);
    CHECK(probeprune_corrections_init(&corrections, sizeof corrections));
    CHECK(probeprune_session_corrections(corrected, &corrections));
    /* It is large here, because so little text calibrated the fold. */
    printf("excess error %.2f, %.0f%% of batches probed\n", corrections.excess_error, 100 * corrections.probed_share);

    CHECK(probeprune_layer_shape_init(&shape, sizeof shape));
    CHECK(probeprune_model_layer_shape(folded, layers - 1, &shape));
    /* By LLaMA's name. */
    snprintf(part, sizeof part, "model.layers.%d.mlp.down_proj.weight", (int)layers - 1);
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
