/* Lines "NAME" → the secret, or "! " and why not, joined by newlines; "log NAME" writes it to the log too */
#include "../../../examples/sdk/atmo.h"

static void run(bytes input) {
    bytes result = {0, 0}, line, verb, name;
    for (int first = 1; next_piece(&input, '\n', &line); first = 0) {
        const int logs = split(line, ' ', &verb, &name);
        const answer secret = get_secret(logs ? name : line);
        if (logs) log_message(INFO, secret.value);
        if (!first) append(&result, text("\n"));
        if (secret.failed) append(&result, text("! "));
        append(&result, secret.value);
    }
    return_result(result);
}
