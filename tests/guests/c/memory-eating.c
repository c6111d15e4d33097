/* Takes and touches as many MiB as the input says and answers "N MiB"; without a number, until it is refused and traps */
#include "../../../examples/sdk/atmo.h"

static void run(bytes input) {
    const uint32_t until = number_of(input, 0);
    uint32_t taken = 0;
    while (until == 0 || taken < until) {
        volatile uint8_t *block = allocate(1 << 20);
        for (size_t i = 0; i < 1 << 20; i += 4096) block[i] = 1;
        taken++;
    }
    bytes answer = {0, 0};
    append_number(&answer, taken);
    append(&answer, text(" MiB"));
    return_result(answer);
}
