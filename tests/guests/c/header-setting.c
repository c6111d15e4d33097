/* Lines "Name: value" become headers of the outgoing message; answers how many there were */
#include "../../../examples/sdk/atmo.h"

static void run(bytes input) {
    bytes line, name, value, answer = {0, 0};
    uint32_t count = 0;
    for (; next_piece(&input, '\n', &line); count++) {
        split(line, ':', &name, &value);
        set_header(trimmed(name), trimmed(value));
    }
    append_number(&answer, count);
    return_result(answer);
}
