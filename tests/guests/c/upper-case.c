/* input → the same with ASCII letters in upper case */
#include "../../../examples/sdk/atmo.h"

static void run(bytes input) {
    for (size_t i = 0; i < input.size; i++)
        if (input.data[i] >= 'a' && input.data[i] <= 'z') input.data[i] -= 'a' - 'A';
    return_result(input);
}
