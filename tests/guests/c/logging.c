/* Lines "LEVEL text" (error, warn, info, debug) are logged; answers how many there were */
#include "../../../examples/sdk/atmo.h"

static void run(bytes input) {
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    bytes line, name, message, answer = {0, 0};
    uint32_t count = 0;
    for (; next_piece(&input, '\n', &line); count++) {
        split(line, ' ', &name, &message);
        for (int level = ERROR; level <= DEBUG; level++)
            if (starts_with(name, levels[level - 1])) log_message((enum level)level, message);
    }
    append_number(&answer, count);
    return_result(answer);
}
