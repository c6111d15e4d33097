/* Greets whoever is named in the message. Build:
 *
 *   pip install ziglang
 *   python -m ziglang cc --target=wasm32-freestanding -nostdlib -Os -s -Wl,--no-entry -Wl,-z,stack-size=16384 \
 *       -o greet.wasm greet.c
 */
#include "atmo.h"

static void run(bytes input) {
    if (input.size == 0) {
        return_error(400, text("whom shall I greet? send a name"));
        return;
    }
    bytes answer = text("hello, ");
    append(&answer, input);
    return_result(answer);
}
