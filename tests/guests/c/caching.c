/* Lines "get KEY" and "set KEY TTL VALUE" → the value, "ok", or "! " and why not, joined by newlines */
#include "../../../examples/sdk/atmo.h"

static answer asked(bytes line) {
    bytes verb, key, ttl, value;
    split(line, ' ', &verb, &key);
    if (starts_with(verb, "get")) return cache_get(key);
    split(key, ' ', &key, &value);
    split(value, ' ', &ttl, &value);
    if (!cache_set(key, value, number_of(ttl, 0))) return (answer){1, text("the host failed")};
    return (answer){0, text("ok")};
}

static void run(bytes input) {
    bytes result = {0, 0}, line;
    for (int first = 1; next_piece(&input, '\n', &line); first = 0) {
        const answer found = asked(line);
        if (!first) append(&result, text("\n"));
        if (found.failed) append(&result, text("! "));
        append(&result, found.value);
    }
    return_result(result);
}
