/* "unreachable", "divide", "memory" or "call" traps in that way; any other input comes back as it is */
#include "../../../examples/sdk/atmo.h"

static volatile uint32_t zero = 0;

static void run(bytes input) {
    if (starts_with(input, "unreachable")) __builtin_trap();
    if (starts_with(input, "divide")) zero = 1000 / zero;
    if (starts_with(input, "memory")) zero = *(volatile uint32_t *)(0xfffffff0u + zero);
    if (starts_with(input, "call")) ((void (*volatile)(void))(uintptr_t)zero)();
    return_result(input);
}
