/* Input that starts with "drop" ends without result and without error: nothing is published. Any other comes back */
#include "../../../examples/sdk/atmo.h"

static void run(bytes input) {
    if (!starts_with(input, "drop")) return_result(input);
}
