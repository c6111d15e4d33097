/* Calls itself as deep as the input says and answers the depth; without a number, until the stack is used up */
#include "../../../examples/sdk/atmo.h"

static volatile uint32_t one = 1;

__attribute__((noinline)) static uint32_t depth(uint32_t until) {
    return until == one ? one : depth(until - one) + one;
}

static void run(bytes input) {
    bytes answer = {0, 0};
    append_number(&answer, depth(number_of(input, 0)));
    return_result(answer);
}
