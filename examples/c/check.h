#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <stdlib.h>

#include "probeprune.h"

/* Ends the program with the library's own message if a call failed. */
#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        probeprune_status status_ = (call);                                                                            \
        if (status_ != PROBEPRUNE_OK) {                                                                                \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, probeprune_status_name(status_),                    \
                    probeprune_last_error());                                                                          \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#endif
