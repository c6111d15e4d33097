/* Counts to the number in the input and answers it; without a number, or with 0, it counts for ever */
#include "../../../examples/sdk/atmo.h"

static volatile uint32_t rounds;

static void run(bytes input) {
    const uint32_t until = number_of(input, 0);
    rounds = 0;
    do rounds++;
    while (until == 0 || rounds < until);
    bytes answer = {0, 0};
    append_number(&answer, rounds);
    return_result(answer);
}
