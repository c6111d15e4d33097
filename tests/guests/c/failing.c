/* "CODE message" → return_error(CODE, message); without a code: 400 */
#include "../../../examples/sdk/atmo.h"

static void run(bytes input) {
    size_t digits;
    const uint32_t code = number_of(input, &digits);
    if (digits == 0) {
        return_error(400, text("the input has no code"));
        return;
    }
    return_error((int32_t)code, trimmed((bytes){input.data + digits, input.size - digits}));
}
