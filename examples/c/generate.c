/* A model from C: load, calibrate, a pruned session, and text.
 *
 *     cc generate.c $(pkg-config --cflags --libs probeprune) -o generate && ./generate [MODEL [PROMPT]]
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "check.h"

enum { PROMPT = 64, NEW_TOKENS = 8, WINDOW = 12 };

static int32_t count_tokens(void *user, uint64_t sample, uint32_t token) {
    (void)sample;
    (void)token;
    ++*(int *)user;
    return 0; /* go on */
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "bundled:tiny-llama";
    const char *text = argc > 2 ? argv[2] : "The river runs past the old mill and the village near the hills.";
    probeprune_model_options options;
    probeprune_settings settings;
    probeprune_limits limits;
    probeprune_memory memory;
    probeprune_model_info info;
    probeprune_calibrate_options calibrating;
    probeprune_generate_options generating;
    probeprune_layer_counts counts;
    probeprune_model *model = NULL;
    probeprune_tokenizer *tokenizer = NULL;
    probeprune_calibration *calibration = NULL;
    probeprune_session *session = NULL;
    uint32_t prompt[PROMPT], tokens[NEW_TOKENS], kept[4096];
    const uint32_t *prompts[1];
    size_t lengths[1], generated[1], count = 0;
    char out[1024];
    int seen = 0;

    printf("%s\n", probeprune_build_info());
    CHECK(probeprune_model_info_init(&info, sizeof info));
    CHECK(probeprune_model_inspect(name, &info));
    printf("%s: %d layers, %d heads, %d channels\n", name, (int)info.num_hidden_layers, (int)info.num_attention_heads,
           (int)info.intermediate_size);

    CHECK(probeprune_tokenizer_load(name, &tokenizer));
    CHECK(probeprune_tokenizer_encode(tokenizer, text, strlen(text), 1, prompt, PROMPT, &lengths[0]));

    CHECK(probeprune_settings_init(&settings, sizeof settings));
    settings.method = PROBEPRUNE_METHOD_PP;
    settings.prune_ratio = 0.4;
    CHECK(probeprune_limits_init(&limits, sizeof limits));
    limits.tokens = lengths[0];
    limits.capacity = lengths[0] + NEW_TOKENS;
    CHECK(probeprune_model_options_init(&options, sizeof options));
    options.threads = 2;
    CHECK(probeprune_memory_init(&memory, sizeof memory));
    CHECK(probeprune_memory_estimate(name, &options, &settings, &limits, &memory));
    printf("about %d kB\n", (int)(memory.total / 1000));

    CHECK(probeprune_model_load(name, &options, &model));
    /* Calibration needs text like the later input; here it gets one window of the prompt. */
    if (lengths[0] >= WINDOW) {
        CHECK(probeprune_calibrate_options_init(&calibrating, sizeof calibrating));
        CHECK(probeprune_calibrate(model, prompt, 1, WINDOW, &calibrating, &calibration));
    }
    CHECK(probeprune_session_create(model, &settings, &limits, calibration, &session));

    CHECK(probeprune_generate_options_init(&generating, sizeof generating));
    generating.max_new_tokens = NEW_TOKENS;
    generating.on_token = count_tokens;
    generating.user = &seen;
    prompts[0] = prompt;
    CHECK(probeprune_session_generate(session, prompts, lengths, 1, &generating, tokens, generated));
    CHECK(probeprune_tokenizer_decode(tokenizer, tokens, generated[0], 1, out, sizeof out - 1, &count));
    out[count] = '\0';
    printf("%s|%s\n", text, out);

    CHECK(probeprune_layer_counts_init(&counts, sizeof counts));
    CHECK(probeprune_session_layer_counts(session, info.num_hidden_layers - 1, &counts));
    CHECK(probeprune_session_kept(session, info.num_hidden_layers - 1, PROBEPRUNE_BLOCK_ATTENTION, kept, 4096, &count));
    printf("the last layer keeps %d heads and %d channels\n", (int)count, (int)counts.channels);

    probeprune_session_free(session);
    probeprune_calibration_free(calibration);
    probeprune_model_free(model);
    probeprune_tokenizer_free(tokenizer);
    return seen == (int)generated[0] && count == counts.heads ? 0 : 1;
}
