/* A number → so many bytes of "x": for outputs larger than a broker takes */
#include "../../../examples/sdk/atmo.h"

static void run(bytes input) {
    const uint32_t size = number_of(input, 0);
    uint8_t *result = allocate(size);
    __builtin_memset(result, 'x', size);
    return_result((bytes){result, size});
}
