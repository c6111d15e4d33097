/* input → "hello, " + input */
#include "../../../examples/sdk/atmo.h"

static void run(bytes input) {
    bytes answer = text("hello, ");
    append(&answer, input);
    return_result(answer);
}
